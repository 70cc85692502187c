// Sends what is marked `data-act` as a POST with the page's token, and says what came of it.
import { here, host, makeElement, say } from "./page.js";

async function send(link) {
  const fields = new URL(link.href).searchParams;
  fields.set("token", document.querySelector("meta[name=token]").content);
  const answer = await fetch(new URL("index.html", here()), {
    method: "POST",
    headers: { Accept: "text/plain" },
    body: fields,
  });
  if (answer.ok) return answer.text();
  throw new Error(
    answer.status === 403 ? "this page was old; please try again" : `the server answers ${answer.status}`,
  );
}

async function act(link, look) {
  link.setAttribute("aria-busy", "true");
  try {
    // What is under way shows: a start takes as long as the process needs to count as started.
    const sent = send(link);
    setTimeout(look, 300);
    const text = await sent;
    say(text, /^(ERROR|unexpected|No such)/.test(text));
  } catch (problem) {
    say(`Not done: ${problem.message}`, true);
  } finally {
    link.removeAttribute("aria-busy");
  }
  // The first may have been under way before.
  await look();
  await look();
}

/** Asks before something is done to everything. */
function confirmed(link) {
  const count = document.querySelectorAll("#processes tbody > tr").length;
  const label = link.textContent;
  const dialog = makeElement(
    "dialog",
    {},
    makeElement("p", { textContent: `${label}: ${count} processes on ${host().dataset.name}?` }),
    makeElement(
      "form",
      { method: "dialog" },
      makeElement("button", { className: "button", value: "", textContent: "Cancel", autofocus: true }),
      makeElement("button", { className: "button strong", value: "yes", textContent: label }),
    ),
  );
  document.body.append(dialog);
  dialog.showModal();
  return new Promise((resolve) => {
    dialog.addEventListener("close", () => {
      resolve(dialog.returnValue === "yes");
      dialog.remove();
    });
  });
}

/** `look` brings the page up to date. */
export function enableActions(look) {
  document.addEventListener("click", async (event) => {
    const link = event.target.closest("a[data-act]");
    if (!link || event.button !== 0) return;
    event.preventDefault();
    if (link.getAttribute("aria-busy") === "true") return;
    if (link.dataset.act !== "all" || (await confirmed(link))) act(link, look);
  });
  document.addEventListener("keydown", (event) => {
    // These links are announced as buttons, and a button goes by the space bar too.
    if (event.key !== " " || !event.target.matches?.("a[data-act]")) return;
    event.preventDefault();
    event.target.click();
  });
}
