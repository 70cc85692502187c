// Keeps what is marked `data-live` as the server has it now, and sends what is marked `data-act` as a POST with
// the page's token. Without this script the page still works: links lead to a page that asks first.
"use strict";

const PERIOD = 2000;
const message = document.getElementById("message");
let asking = false;

function token() {
  return document.querySelector("meta[name=token]").content;
}

function say(text, isProblem) {
  if (!message) return;
  message.textContent = text;
  message.className = isProblem ? "status_msg problem" : "status_msg";
}

function renew(fresh) {
  document.querySelector("meta[name=token]").content = fresh.querySelector("meta[name=token]").content;
  for (const old of document.querySelectorAll("[data-live]")) {
    const next = fresh.getElementById(old.id);
    if (!next || next.innerHTML === old.innerHTML) continue;
    const before = old.querySelectorAll("tbody > tr");
    const after = next.querySelectorAll("tbody > tr");
    if (before.length === 0 || before.length !== after.length) {
      old.innerHTML = next.innerHTML;
      continue;
    }
    // Cell by cell: the focus and a selection stay where they are.
    before.forEach((row, r) => {
      row.className = after[r].className;
      [...row.cells].forEach((cell, c) => {
        const wanted = after[r].cells[c];
        if (wanted && cell.innerHTML !== wanted.innerHTML) cell.innerHTML = wanted.innerHTML;
      });
    });
  }
}

async function look() {
  if (asking || document.hidden || !document.querySelector("[data-live]")) return;
  asking = true;
  try {
    const url = new URL(location.href);
    url.searchParams.delete("message");
    const answer = await fetch(url, { cache: "no-store" });
    if (!answer.ok) throw new Error(`the server answers ${answer.status}`);
    renew(new DOMParser().parseFromString(await answer.text(), "text/html"));
    if (document.body.classList.contains("stale")) {
      document.body.classList.remove("stale");
      if (message) message.className = "hidden";
    }
  } catch (problem) {
    document.body.classList.add("stale");
    say(`What is shown may be old: ${problem.message}`, true);
  } finally {
    asking = false;
  }
}

async function act(link) {
  const fields = new URL(link.href).searchParams;
  fields.set("token", token());
  link.setAttribute("aria-busy", "true");
  try {
    const answer = await fetch("index.html", {
      method: "POST",
      headers: { Accept: "text/plain" },
      body: fields,
    });
    const refused = answer.status === 403 ? "Not done: this page was old. Please try again." : null;
    const text = answer.ok ? await answer.text() : refused || `Not done: the server answers ${answer.status}`;
    say(text, !answer.ok || text.startsWith("ERROR"));
  } catch (problem) {
    say(`Not done: ${problem.message}`, true);
  } finally {
    link.removeAttribute("aria-busy");
  }
  look();
}

document.addEventListener("click", (event) => {
  const link = event.target.closest("a[data-act]");
  if (!link || event.button !== 0) return;
  event.preventDefault();
  if (link.getAttribute("aria-busy") !== "true") act(link);
});
document.addEventListener("visibilitychange", look);
setInterval(look, PERIOD);
