// The turns of a conversation, and what the server is sent of them.
//
// A turn is {role: "user", text, pictures: [{source, name}]} or
// {role: "assistant", text, boxes, model, finish, problem, tokens, seconds, writing}, where boxes is what the server parsed,
// [{label, picture, pixels}], or null until it has, and finish is OpenAI's reason, "stopped" or null.

import { parse, toPixels } from "./tags.js";

// The pictures of the turns before number `until`, in the order of their numbers.
export function pictures(turns, until = turns.length) {
  return turns.slice(0, until).flatMap((turn) => turn.pictures ?? []);
}

// Messages in OpenAI's form. Questions that got no answer are one with the next. With `keepBoxes`, answers have the boxes
// that the server parsed.
export function messages(turns, system, keepBoxes = false) {
  const said = system ? [{ role: "system", content: system }] : [];
  for (const turn of turns) {
    if (turn.role === "assistant") {
      const boxes = keepBoxes && turn.boxes?.length ? { boxes: turn.boxes } : {};
      if (turn.text) said.push({ role: "assistant", content: turn.text, ...boxes });
      continue;
    }
    const parts = turn.pictures.map(({ source }) => ({ type: "image_url", image_url: { url: source } }));
    if (turn.text) parts.push({ type: "text", text: turn.text });
    if (said.at(-1)?.role === "user") said.at(-1).content.push(...parts);
    else said.push({ role: "user", content: parts });
  }
  return said;
}

// The conversation as a text to read.
export function asText(turns, you) {
  let number = 0;
  return turns.map((turn) => {
    const named = (turn.pictures ?? []).map(({ name }) => `Picture ${(number += 1)}: ${name}\n`).join("");
    return `${turn.role === "user" ? you : (turn.model ?? "Qwen-VL")}:\n${named}${turn.text}`;
  }).join("\n\n");
}

export function parseTurn(turn) {
  return parse(turn.text, turn.finish !== "stop");
}

// The boxes of an answer for each picture that has some: Map of the picture's place -> [{label, group, pixels}].
// `size(place)` is the width and height of a picture in pixels: of use while the server has not yet parsed the answer,
// or never will, because it was stopped. Boxes are then on the last picture, as they are by the server's rule.
export function boxesByPicture(turn, count, size) {
  const { objects } = parseTurn(turn);
  const found = new Map();
  const put = (picture, box) => found.set(picture, [...(found.get(picture) ?? []), box]);
  if (turn.boxes) {
    const same = turn.boxes.length === objects.length;
    turn.boxes.forEach(({ label, picture, pixels }, place) => {
      put(picture, { label, pixels, group: same ? objects[place].group : place });
    });
  } else if (count && size(count - 1)) {
    for (const { label, group, bounds } of objects) {
      put(count - 1, { label, group, pixels: toPixels(bounds, ...size(count - 1)) });
    }
  }
  return found;
}
