// Notices above the conversation: one for each subject, the newest. What is said is kept by its name, so that it changes
// its language with the page.

import { button, element } from "./view.js";
import { say } from "./words.js";

const shown = new Map(); // subject -> {kind, name, values, action}
const timers = new Map();

// kind: "bad" or "good"; good ones go away by themselves unless there is something to press. action: [name, function].
export function notice(subject, kind, name, values = {}, action = null) {
  clearTimeout(timers.get(subject));
  shown.set(subject, { kind, name, values, action });
  if (kind === "good" && !action) timers.set(subject, setTimeout(() => drop(subject), 5000));
  showNotices();
}

export function drop(subject) {
  if (shown.delete(subject)) showNotices();
}

export function showNotices() {
  document.getElementById("notices").replaceChildren(...[...shown].map(([subject, { kind, name, values, action }]) => {
    const line = element("div", `notice ${kind}`);
    line.dataset.notice = name;
    line.append(element("span", "", say(name, values)));
    if (action) {
      line.append(button(action[0], () => {
        drop(subject);
        action[1]();
      }));
    }
    const close = button("close", () => drop(subject));
    close.textContent = "×";
    close.setAttribute("aria-label", say("close"));
    line.append(close);
    return line;
  }));
}

// Says something to a screen reader alone.
export function speak(text) {
  document.getElementById("spoken").textContent = text;
}
