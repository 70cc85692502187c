// The tail of a log: stays at its end while the reader is there, and shows more of it on request.
import { here, makeElement } from "./page.js";

const SIZES = [["1 KB", 1024], ["16 KB", 16384], ["128 KB", 131072], ["1 MB", 1048576]];
/** This close to the end, in pixels, counts as being there. */
const NEAR = 40;

/** Changes the page; whoever was at its end is at its end afterwards. */
export function scrolled(element, change) {
  const page = document.scrollingElement;
  const follows = element.id === "tail" && page.scrollHeight - page.scrollTop - page.clientHeight < NEAR;
  change();
  if (follows) page.scrollTop = page.scrollHeight;
}

export function enableTail() {
  const log = document.getElementById("tail");
  const form = log && document.querySelector("form");
  if (!form) return;
  const limit = Number(here().searchParams.get("limit")) || SIZES[0][1];
  const select = makeElement("select", { id: "limit" });
  select.setAttribute("aria-label", "How much of the log's end is shown");
  for (const [label, bytes] of SIZES) {
    select.append(makeElement("option", { textContent: `Last ${label}`, value: bytes, selected: bytes === limit }));
  }
  select.addEventListener("change", () => {
    const url = here();
    url.searchParams.set("limit", select.value);
    location.replace(url);
  });
  form.append(select, makeElement("a", { className: "button", href: "./", textContent: "All processes" }));
  document.scrollingElement.scrollTop = document.scrollingElement.scrollHeight;
}
