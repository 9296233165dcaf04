// The page: pictures in, streamed answers and boxes out. No library, no build, no outside address.

import { composer } from "./composer.js";
import { asText, messages, parseTurn, pictures } from "./conversation.js";
import { copyPicture, copyText, save, savePicture } from "./export.js";
import { keep, kept, session } from "./memory.js";
import { drop, notice, showNotices, speak } from "./notices.js";
import { ask, Gone, models, ready, Refused } from "./server.js";
import { element, turnView } from "./view.js";
import { otherLanguage, say, showWords } from "./words.js";

const $ = (id) => document.getElementById(id);
const SAMPLING = ["temperature", "top_p", "max_tokens", "seed"];
const SETTINGS = ["system", ...SAMPLING];
const EXAMPLES = ["exampleDescribe", "exampleBox", "exampleCompare"];

let turns = [];
let views = []; // of the turns
let editing = null; // the place of the question that is being edited
let running = null; // the AbortController of the answer that is being written
let wanted = null; // the model to choose once the server says that it has it

const input = composer({
  send,
  before: () => pictures(turns, editing ?? turns.length).length,
  key: () => $("key").value,
  notice: (name, values) => notice("input", "bad", name, values),
  problem: (error, text) => {
    if (error instanceof Refused || error instanceof Gone) tell(error);
    else notice("input", "bad", "unreadable", { name: text });
  },
});

// ---------------------------------------------------------------- asking

async function send() {
  if (running) return;
  if (!$("settings-form").checkValidity()) {
    notice("input", "bad", "badSetting");
    $("settings").showModal();
    $("settings-form").reportValidity();
    return;
  }
  const attached = await input.pictures();
  if (running || (!input.text() && !attached.length)) return;
  if (editing !== null) turns.length = editing;
  drop("undo"); // it would take this question away
  turns.push({ role: "user", text: input.text(), pictures: attached });
  setEditing(null);
  input.set("", []);
  showAll(true);
  store();
  answer();
}

async function answer() {
  const body = { model: $("model").value || undefined, messages: messages(turns, $("system").value.trim()) };
  body.parse_boxes = true;
  for (const name of SAMPLING) {
    if ($(name).value !== "") body[name] = Number($(name).value);
  }
  const turn = { role: "assistant", text: "", boxes: null, model: body.model, finish: null, writing: true };
  turns.push(turn);
  addView();
  const control = (running = new AbortController());
  const began = performance.now();
  let drawing = 0;
  const update = () => {
    drawing = 0;
    updateView(turn);
  };
  busy(true);
  speak(say("writing"));
  try {
    if (!body.model) {
      await findModels();
      turn.model = body.model = $("model").value;
    }
    const result = await ask(body, $("key").value, control.signal, (piece) => {
      turn.text += piece;
      drawing ||= requestAnimationFrame(update);
    });
    Object.assign(turn, result, { seconds: ((performance.now() - began) / 1000).toFixed(1) });
    drop("server");
  } catch (error) {
    if (error.name === "AbortError") turn.finish = "stopped";
    else turn.problem = tell(error);
  }
  cancelAnimationFrame(drawing);
  turn.writing = false;
  running = null;
  busy(false);
  if (turns.at(-1) !== turn) return; // cleared in the meantime
  if (turn.text || turn.finish === "stop" || turn.finish === "length") {
    updateView(turn);
    speak(say("answered", { text: parseTurn(turn).pieces.map((piece) => piece.text).join("") }));
  } else {
    turns.pop(); // nothing was said: the question can be asked again
    showAll();
  }
  store();
}

function retry(index) {
  if (running) return;
  const before = [...turns];
  drop("undo");
  turns.length = turns[index].role === "assistant" ? index : index + 1;
  if (before.length > turns.length + 1) notice("undo", "good", "removed", {}, ["undo", () => restore(before)]);
  setEditing(null);
  showAll();
  answer();
}

function edit(index) {
  if (running) return;
  setEditing(index);
  input.set(turns[index].text, turns[index].pictures);
}

function setEditing(index) {
  editing = index;
  $("editing").hidden = index === null;
}

function stopEditing() {
  setEditing(null);
  input.set("", []);
}

function clear() {
  if (!turns.length) return;
  const before = [...turns];
  stop();
  turns = [];
  notice("undo", "good", "cleared", {}, ["undo", () => restore(before)]);
  setEditing(null);
  input.set("", []);
  showAll();
  store();
}

function restore(before) {
  stop();
  turns = before.filter((turn) => turn.role === "user" || turn.text);
  showAll();
  store();
}

function stop() {
  running?.abort();
}

// ---------------------------------------------------------------- what is shown

const acts = {
  retry,
  edit,
  copyText: (text) => copied(copyText(text)),
  copyPicture: (picture, boxes) => copied(copyPicture(picture, boxes)),
  savePicture: (picture, boxes) => savePicture(picture, boxes).catch(tell),
};

function showAll(toEnd = false) {
  views = turns.map((_, index) => turnView(turns, index, acts));
  $("conversation").replaceChildren(...views.map((view) => view.element));
  if (!turns.length) $("conversation").append(empty());
  input.show();
  busy(Boolean(running));
  if (toEnd) scrollToEnd();
}

function addView() {
  const view = turnView(turns, turns.length - 1, acts);
  views.at(-1)?.update(); // the question is no longer the last turn
  views.push(view);
  keepInSight(() => $("conversation").append(view.element));
}

function updateView(turn) {
  const view = views[turns.indexOf(turn)];
  if (view) keepInSight(view.update);
}

function empty() {
  const place = element("div", "empty");
  place.append(element("h2", "", say("emptyTitle")), element("p", "", say("empty")));
  const row = element("div", "examples");
  for (const name of EXAMPLES) {
    const example = element("button", "", say(name));
    example.type = "button";
    example.addEventListener("click", async () => input.set(say(name), await input.pictures()));
    row.append(example);
  }
  place.append(row);
  return place;
}

// Does something that makes the page longer. Who reads its end goes on reading its end; who has scrolled up stays there.
function keepInSight(act) {
  const page = document.documentElement;
  const atEnd = page.scrollHeight - page.clientHeight - page.scrollTop < 80;
  act();
  if (atEnd) scrollToEnd();
}

function scrollToEnd() {
  window.scrollTo({ top: document.documentElement.scrollHeight, behavior: "instant" });
}

function busy(on) {
  const focused = [$("send"), $("stop")].includes(document.activeElement);
  $("send").hidden = on;
  $("stop").hidden = !on;
  if (focused && !matchMedia("(pointer: coarse)").matches) $("question").focus(); // a telephone would open its keyboard
  $("conversation").setAttribute("aria-busy", String(on));
  for (const made of document.querySelectorAll("[data-action=retry], [data-action=edit]")) made.disabled = on;
}

// Tells of an error. Returns what was said: [name, values].
function tell(error) {
  if (error instanceof Gone) {
    notice("server", "bad", error.reason);
    waitForServer(error.reason);
    return ["gone"];
  }
  if (error instanceof Refused && error.status === 401) {
    notice("server", "bad", "needsKey", {}, ["settings", () => openSettings("key")]);
    return ["needsKey"];
  }
  const said = [error instanceof Refused ? "refused" : "failed", { reason: error.message }];
  notice("server", "bad", ...said);
  return said;
}

async function copied(copying) {
  try {
    await copying;
    notice("copy", "good", "copied");
  } catch {
    notice("copy", "bad", "noCopy");
  }
}

function openSettings(field) {
  $("settings").showModal();
  $(field).focus();
}

// ---------------------------------------------------------------- the server

async function findModels() {
  const names = await models($("key").value);
  const chosen = $("model").value || wanted;
  $("model").replaceChildren(...names.map((name) => new Option(name, name, false, name === chosen)));
  $("model").disabled = names.length < 2;
}

let waiting = false;

async function waitForServer(told) {
  if (waiting) return;
  waiting = true;
  for (let pause = 500; ; pause = Math.min(pause * 1.5, 10_000)) {
    await new Promise((done) => setTimeout(done, pause));
    try {
      await ready();
      await findModels();
      break;
    } catch (error) {
      if (error instanceof Gone) {
        if (error.reason !== told) notice("server", "bad", error.reason);
        told = error.reason;
        continue;
      }
      waiting = false;
      tell(error);
      return;
    }
  }
  waiting = false;
  const last = turns.length - 1;
  const unanswered = last >= 0 && !running && (turns[last].role === "user" || turns[last].problem);
  notice("server", "good", "back", {}, unanswered ? ["retry", () => retry(turns.length - 1)] : null);
}

// ---------------------------------------------------------------- start

async function store() {
  const settings = Object.fromEntries([...SETTINGS, "model"].map((name) => [name, $(name).value]));
  const done = await keep({ turns: turns.filter((turn) => !turn.writing), settings });
  if (!done) notice("memory", "bad", "notKept");
}

function listen() {
  document.addEventListener("keydown", (event) => {
    if (event.key !== "Escape" || document.querySelector("dialog[open]")) return;
    if (running) stop();
    else if (editing !== null) stopEditing();
  });
  $("stop").addEventListener("click", stop);
  $("no-edit").addEventListener("click", stopEditing);
  $("clear").addEventListener("click", clear);
  $("copy").addEventListener("click", () => copied(copyText(asText(turns, say("you")))));
  $("download").addEventListener("click", () => {
    const content = { model: $("model").value, messages: messages(turns, $("system").value.trim(), true) };
    save(new Blob([JSON.stringify(content, null, 2)], { type: "application/json" }), "conversation.json");
  });
  $("settings-button").addEventListener("click", () => openSettings("system"));
  $("settings").addEventListener("close", () => {
    session.set("key", $("key").value);
    drop("input");
    store();
    findModels().then(() => drop("server"), tell);
    $("question").focus();
  });
  $("model").addEventListener("change", store);
  $("language").addEventListener("click", () => {
    otherLanguage();
    showNotices();
    showAll();
  });
}

async function start() {
  showWords();
  listen();
  $("key").value = session.get("key") ?? "";
  const before = await kept();
  turns = before?.turns ?? [];
  wanted = before?.settings?.model;
  for (const name of SETTINGS) $(name).value = before?.settings?.[name] ?? "";
  showAll(true);
  $("question").focus();
  await findModels().then(ready).catch(tell);
}

start();
