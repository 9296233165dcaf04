// How a turn looks. All words of the model and of the user are put in as text.

import { boxesByPicture, parseTurn, pictures } from "./conversation.js";
import { colour, overlay } from "./boxes.js";
import { say } from "./words.js";

export function element(tag, className, text = "") {
  const made = document.createElement(tag);
  if (className) made.className = className;
  made.textContent = text;
  return made;
}

export function button(name, act) {
  const made = element("button", "", say(name));
  made.type = "button";
  made.dataset.action = name;
  made.addEventListener("click", act);
  return made;
}

export function pictureName(number, picture) {
  return picture.name ? say("pictureNamed", { n: number, name: picture.name }) : say("pictureNumber", { n: number });
}

// The article of turn number `index`. `acts` does what its buttons say: retry, edit, copyText, copyPicture, savePicture.
// Returns {element, update()}; update shows what the turn has become.
export function turnView(turns, index, acts) {
  const turn = turns[index];
  const article = element("article", turn.role);
  article.append(element("h2", "", turn.role === "user" ? say("you") : (turn.model || "Qwen-VL")));
  const update = turn.role === "user" ? question(article, turns, index, acts) : answer(article, turns, index, acts);
  for (const event of ["pointerover", "focusin"]) article.addEventListener(event, (e) => light(article, e.target, true));
  for (const event of ["pointerout", "focusout"]) article.addEventListener(event, (e) => light(article, e.target, false));
  update();
  return { element: article, update };
}

function question(article, turns, index, acts) {
  const turn = turns[index];
  const before = pictures(turns, index).length;
  if (turn.pictures.length) {
    const row = element("div", "pictures");
    turn.pictures.forEach((picture, place) => {
      const figure = element("figure");
      const image = element("img");
      image.src = picture.source;
      image.alt = picture.name;
      figure.append(image, element("figcaption", "", `Picture ${before + place + 1}:`));
      row.append(figure);
    });
    article.append(row);
  }
  if (turn.text) article.append(element("div", "words", turn.text));
  const actions = element("div", "actions");
  article.append(actions);
  return () => {
    actions.replaceChildren(button("edit", () => acts.edit(index)));
    if (index === turns.length - 1) actions.append(button("retry", () => acts.retry(index)));
  };
}

function answer(article, turns, index, acts) {
  const turn = turns[index];
  const shown = pictures(turns, index);
  const words = element("div", "words");
  const drawings = element("div", "drawings");
  const remark = element("span", "hint remark");
  const actions = element("div", "actions");
  const views = new Map(); // of pictures with boxes
  article.append(words, drawings, actions);

  function draw() {
    for (const [place, boxes] of boxesByPicture(turn, shown)) {
      if (!views.has(place)) views.set(place, drawing(shown[place], place + 1, acts));
      const view = views.get(place);
      drawings.append(view.element);
      view.show(boxes);
    }
  }

  return () => {
    article.classList.toggle("failed", Boolean(turn.problem));
    words.classList.toggle("writing", Boolean(turn.writing));
    words.replaceChildren(...parseTurn(turn).pieces.map(piece));
    draw();
    remark.textContent = remarks(turn);
    if (turn.writing) return;
    const buttons = [button("copyAnswer", () => acts.copyText(turn.text)), button("retry", () => acts.retry(index))];
    actions.replaceChildren(...buttons, remark);
  };
}

function piece({ text, group }) {
  if (group === undefined) return document.createTextNode(text);
  const phrase = element("mark", "", text);
  if (group !== null) {
    phrase.dataset.group = group;
    phrase.style.setProperty("--box", colour(group));
    phrase.tabIndex = 0;
  }
  return phrase;
}

function drawing(picture, number, acts) {
  const figure = element("figure");
  const over = overlay(picture.source, pictureName(number, picture));
  const caption = element("figcaption");
  const actions = element("span", "actions");
  caption.append(`Picture ${number}: `, element("b", "phrase"), actions);
  figure.append(over.element, caption);
  return {
    element: figure,
    show(boxes) {
      over.show(boxes, say("boxesOn", { n: number, boxes: boxes.map(boxInWords).join("; ") }));
      actions.replaceChildren(
        button("copyPicture", () => acts.copyPicture(picture, boxes)),
        button("savePicture", () => acts.savePicture(picture, boxes)),
      );
    },
  };
}

function boxInWords({ label, group, pixels: [left, top, right, bottom] }) {
  return say("boxAt", { name: label || say("unnamed", { n: group + 1 }), left, top, right, bottom });
}

function remarks(turn) {
  const said = [];
  if (turn.problem) said.push(say("brokenOff"), ...(turn.problem[0] === "gone" ? [] : [say(...turn.problem)]));
  else if (turn.finish === "length") said.push(say("cut"));
  else if (turn.finish === "stopped") said.push(say("stopped"));
  if (turn.tokens != null) said.push(say("took", { tokens: turn.tokens, seconds: turn.seconds }));
  return said.join(" ");
}

// Lights up a phrase and its boxes together, and names the phrase below the picture.
function light(article, target, on) {
  const group = target.closest("[data-group]")?.dataset.group;
  if (group === undefined) return;
  let phrase = "";
  for (const part of article.querySelectorAll(`[data-group="${group}"]`)) {
    part.classList.toggle("lit", on);
    phrase ||= part.querySelector("title")?.textContent ?? "";
  }
  article.classList.toggle("lighting", on);
  for (const place of article.querySelectorAll("figure:has(.lit) .phrase, .phrase:not(:empty)")) {
    place.textContent = on ? phrase : "";
  }
}
