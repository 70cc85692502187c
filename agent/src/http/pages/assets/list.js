// How many processes are in which state, and a filter by state and by name. What is chosen stands behind the `#` of
// the address, so that it can be kept as a bookmark and outlives a reload.
import { host, makeElement } from "./page.js";

const PROBLEMS = ["fatal", "backoff", "unknown"];
/** Problems first, then what moves, then what rests. */
const ORDER = [...PROBLEMS, "starting", "stopping", "running", "exited", "stopped"];

const chips = makeElement("div", { id: "states" });
const search = makeElement("input", { id: "search", type: "search", placeholder: "Filter by name" });
const none = makeElement("p", { id: "none", textContent: "No process matches.", hidden: true });
let chosen = new URLSearchParams(location.hash.slice(1));

function rows() {
  return document.querySelectorAll("#processes tbody > tr");
}

function choose(key, value) {
  if (value) chosen.set(key, value);
  else chosen.delete(key);
  const hash = chosen.toString();
  history.replaceState(null, "", hash ? `#${hash}` : location.pathname + location.search);
  refreshList();
}

function chip(state, count) {
  const isOn = (chosen.get("state") || "") === state;
  let button = chips.querySelector(`[data-state="${state}"]`);
  if (!button) {
    button = makeElement("button", { type: "button", className: "chip" });
    button.dataset.state = state;
    button.addEventListener("click", () => {
      choose("state", button.getAttribute("aria-pressed") === "true" ? "" : state);
    });
  }
  const text = `${count} ${state || "all"}`;
  if (button.textContent !== text) button.textContent = text;
  button.setAttribute("aria-pressed", String(isOn));
  return button;
}

/** Counts and filters anew; to be called when rows have changed. */
export function refreshList() {
  if (!chips.isConnected) return;
  const [state, words] = [chosen.get("state"), (chosen.get("name") || "").toLowerCase().split(/\s+/)];
  const counts = new Map();
  let shown = 0;
  for (const row of rows()) {
    counts.set(row.dataset.state, (counts.get(row.dataset.state) || 0) + 1);
    const name = row.dataset.name.toLowerCase();
    row.hidden = Boolean(state && row.dataset.state !== state) || !words.every((word) => name.includes(word));
    if (!row.hidden) shown += 1;
  }
  const all = [...counts.values()].reduce((sum, count) => sum + count, 0);
  // A state that is chosen stays, or it could not be unchosen.
  const wanted = ["", ...ORDER.filter((one) => counts.has(one) || one === state)];
  const buttons = wanted.map((one) => chip(one, one ? counts.get(one) || 0 : all));
  const same = buttons.length === chips.children.length && buttons.every((one, at) => chips.children[at] === one);
  if (!same) chips.replaceChildren(...buttons);
  none.hidden = shown > 0 || all === 0;
  const problems = PROBLEMS.reduce((sum, one) => sum + (counts.get(one) || 0), 0);
  document.title = `${problems ? `(${problems}) ` : ""}${host().dataset.name} - Supervisor Status`;
}

export function enableList() {
  const processes = document.getElementById("processes");
  if (!processes) return;
  chips.setAttribute("role", "group");
  chips.setAttribute("aria-label", "Filter by state");
  search.setAttribute("aria-label", "Filter by name");
  search.setAttribute("aria-keyshortcuts", "/");
  search.value = chosen.get("name") || "";
  search.addEventListener("input", () => choose("name", search.value.trim()));
  // Enter in a field would send the form around it.
  search.addEventListener("keydown", (event) => event.key === "Enter" && event.preventDefault());
  processes.before(makeElement("div", { id: "filter" }, chips, search));
  processes.after(none);
  document.addEventListener("keydown", (event) => {
    if (event.key !== "/" || event.ctrlKey || event.metaKey || event.target.matches?.("input")) return;
    event.preventDefault();
    search.focus();
  });
  window.addEventListener("hashchange", () => {
    chosen = new URLSearchParams(location.hash.slice(1));
    search.value = chosen.get("name") || "";
    refreshList();
  });
  refreshList();
}
