// Keeps what is marked `data-live` as the server has it now. Without these scripts the pages still work: links
// lead to a page that asks first.
import { enableActions } from "./act.js";
import { enableList, refreshList } from "./list.js";
import { enableTail, scrolled } from "./tail.js";
import { here, host, makeElement, say } from "./page.js";

const PERIOD = 2000;
/** Of the time between two looks, a look takes no larger part than one in this many. */
const SHARE = 20;

const stamp = makeElement("p", { id: "live", textContent: "Live" });
let asking = null;
let timer = 0;
let failing = false;

/** Takes over a fresh page, row by row and cell by cell: the focus and a selection stay where they are. */
function renew(fresh) {
  document.querySelector("meta[name=token]").content = fresh.querySelector("meta[name=token]").content;
  for (const old of document.querySelectorAll("[data-live]")) {
    const next = fresh.getElementById(old.id);
    if (!next || next.innerHTML === old.innerHTML) continue;
    const body = old.querySelector("tbody");
    const nextBody = next.querySelector("tbody");
    if (body && nextBody) renewRows(body, nextBody);
    else scrolled(old, () => { old.innerHTML = next.innerHTML; });
  }
}

function renewRows(body, nextBody) {
  const rows = new Map([...body.rows].map((row) => [row.dataset.name, row]));
  let place = body.firstElementChild;
  for (const wanted of [...nextBody.rows]) {
    const row = rows.get(wanted.dataset.name);
    rows.delete(wanted.dataset.name);
    if (!row) {
      body.insertBefore(document.adoptNode(wanted), place);
      continue;
    }
    if (row === place) place = place.nextElementSibling;
    else body.insertBefore(row, place);
    row.className = wanted.className;
    row.dataset.state = wanted.dataset.state;
    [...row.cells].forEach((cell, at) => renewCell(cell, wanted.cells[at]));
  }
  for (const gone of rows.values()) gone.remove();
}

function renewCell(cell, wanted) {
  if (!wanted || cell.innerHTML === wanted.innerHTML) return;
  const focused = cell.contains(document.activeElement) ? document.activeElement.name : null;
  cell.innerHTML = wanted.innerHTML;
  if (focused === null) return;
  // Start takes the place of Stop: whoever was there goes on from there.
  const links = [...cell.querySelectorAll("a:not(.hidden)")];
  (links.find((link) => link.name === focused) || links[0])?.focus();
}

async function fetchPage() {
  const url = here();
  url.searchParams.delete("message");
  try {
    const answer = await fetch(url, { cache: "no-store" });
    if (!answer.ok) throw new Error(`the server answers ${answer.status}`);
    renew(new DOMParser().parseFromString(await answer.text(), "text/html"));
    refreshList();
    if (failing) say("");
    failing = false;
    stamp.textContent = "Live";
  } catch (problem) {
    stamp.textContent = "Not live";
    // Said once, so that it does not hide what came of an action meanwhile.
    if (!failing) say(`What is shown may be old: ${problem.message}`, true);
    failing = true;
  }
  document.body.classList.toggle("stale", failing);
}

/** Looks now, and again after a while. Who asks while a look is under way gets that one. */
export function look() {
  if (asking) return asking;
  clearTimeout(timer);
  const begun = performance.now();
  asking = fetchPage().finally(() => {
    asking = null;
    const pause = Math.max(PERIOD, SHARE * (performance.now() - begun));
    if (!document.hidden) timer = setTimeout(look, pause);
  });
  return asking;
}

if (document.querySelector("[data-live]")) {
  document.body.classList.add("scripted");
  host()?.after(stamp);
  enableActions(look);
  enableList();
  enableTail();
  document.addEventListener("visibilitychange", () => document.hidden || look());
  timer = setTimeout(look, PERIOD);
}
