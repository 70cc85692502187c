// What every script of the pages needs: where it is, and how something is said.
const message = document.getElementById("message");
/** Good news leaves by itself after this long, in milliseconds; a problem stays. */
const SHOWN = 8000;
let timer = 0;

/** The page's address. Without a password: an address that has one can't be fetched from. */
export function here() {
  return new URL(location.pathname + location.search, location.origin);
}

/** The heading that names the host. */
export function host() {
  return document.getElementById("host");
}

export function makeElement(tag, properties, ...children) {
  const element = Object.assign(document.createElement(tag), properties);
  element.append(...children);
  return element;
}

/** Shows a line, or nothing any more where it is empty. */
export function say(text, isProblem = false) {
  if (!message) return;
  clearTimeout(timer);
  message.textContent = text;
  message.className = text === "" ? "hidden" : isProblem ? "status_msg problem" : "status_msg";
  if (text !== "" && !isProblem) timer = setTimeout(say, SHOWN, "");
}
