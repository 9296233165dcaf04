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

// The boxes of an answer for each picture: Map of the picture's place -> [{label, group, pixels, points}]. `shown` are the
// pictures before it. The server tells the boxes when an answer has ended. While it is written, or if it is stopped, they
// are worked out here by the same rule: they are on the latest picture. So are quads, which the server does not tell.
export function boxesByPicture(turn, shown) {
  const { objects } = parseTurn(turn);
  const found = new Map();
  const put = (place, box) => shown[place] && found.set(place, [...(found.get(place) ?? []), box]);
  const last = shown.at(-1);
  const told = turn.boxes?.length === objects.filter(({ kind }) => kind === "box").length ? [...turn.boxes] : null;
  for (const { kind, label, group, bounds, points } of objects) {
    const server = kind === "box" ? told?.shift() : null;
    if (server) {
      put(server.picture - 1, { label, group, pixels: server.pixels });
    } else if (last) {
      const [pixels, corners] = [bounds, points ?? []].map((all) => toPixels(all, last.width, last.height));
      put(shown.length - 1, { label, group, pixels, points: points && corners });
    }
  }
  return found;
}
