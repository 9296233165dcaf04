// Boxes in the text of an answer: `<ref>the cat</ref><box>(100,200),(499,799)</box>`, on a grid of 0 to 999.
// The rules are those of mindformers_qwenvl/text/tags.py and grounding/parse.py; a test holds them together.

const GRID = 1000;
const KINDS = { "<img>": "img", "<ref>": "ref", "<box>": "box", "<quad>": "quad" };
const START = /<(?:img|ref|box|quad)>/g;
const NUMBER = /^[+-]?\p{Nd}{1,9}$/u;
// White space as Python sees it.
const SPACE = "[\\t-\\r\\x1c-\\x20\\x85\\xa0\\u1680\\u2000-\\u200a\\u2028\\u2029\\u202f\\u205f\\u3000]";
const ENDS = new RegExp(`^${SPACE}+|${SPACE}+$`, "g");

function strip(text) {
  return text.replace(ENDS, "");
}

// [{kind, content, start, stop}]; content is null where a tag is not closed.
function tagPairs(text) {
  const starts = [...text.matchAll(START)];
  const pairs = [];
  for (let next = 0; next < starts.length; ) {
    const start = starts[next].index;
    const tag = starts[next][0];
    const kind = KINDS[tag];
    const inside = start + tag.length;
    const limit = next + 1 < starts.length && kind !== "img" ? starts[next + 1].index : text.length;
    const end = text.slice(inside, limit).indexOf(`</${kind}>`);
    if (end < 0) {
      pairs.push({ kind, content: null, start, stop: next + 1 < starts.length ? starts[next + 1].index : text.length });
      next += 1;
    } else {
      const stop = inside + end + tag.length + 1;
      pairs.push({ kind, content: text.slice(inside, inside + end), start, stop });
      while (next < starts.length && starts[next].index < stop) next += 1;
    }
  }
  return pairs;
}

// The numbers of `(1,2),(3,4)`, wherever its brackets are; null if one of them is not whole.
function numbers(content) {
  const parts = content.replace(/[()]/g, "").split(",").map(strip);
  return parts.every((part) => NUMBER.test(part)) ? parts.map(Number) : null;
}

function clip(number) {
  return Math.min(Math.max(number, 0), GRID - 1);
}

function bounds(given) {
  const inside = given.map(clip);
  const xs = inside.filter((_, place) => place % 2 === 0);
  const ys = inside.filter((_, place) => place % 2 === 1);
  return [Math.min(...xs), Math.min(...ys), Math.max(...xs), Math.max(...ys)];
}

// x1, y1, x2, y2, ... in a picture of width x height pixels, rounded down.
export function toPixels(numbers, width, height) {
  return numbers.map((number, place) => Math.trunc((number / GRID) * (place % 2 ? height : width)));
}

// An answer as {objects, pieces}.
// objects: [{kind, label, group, bounds, points}], boxes and quads in order; points are those of a quad. Those that share
// a <ref> have one group, counted from 0.
// pieces: what to show, in order: {text}, or {text, group} for a phrase; group is null for one that has no box.
// Of an answer that does not go on to its end (`cut`: it is being written, or was stopped) what may be the beginning of a
// tag or of a box is left out.
export function parse(text, cut = false) {
  const objects = [];
  const pieces = [];
  let phrase = null; // the piece of the <ref> that the next box belongs to
  let label = null;
  let continues = false;
  let groups = 0;
  let position = 0;
  for (const { kind, content, start, stop } of tagPairs(text)) {
    const between = text.slice(position, start);
    position = stop;
    if (strip(between)) [label, continues, phrase] = [null, false, null];
    if (between) pieces.push({ text: between });
    const open = content === null;
    if (open && cut && stop === text.length) {
      if (kind === "ref") pieces.push({ text: text.slice(start + 5).replace(/<\/?[a-z]*$/, ""), group: null });
      return { objects, pieces };
    }
    if (open || kind === "img") {
      [label, continues, phrase] = [null, false, null];
      pieces.push({ text: text.slice(start, stop) });
      continue;
    }
    if (kind === "ref") {
      label = strip(content);
      continues = false;
      phrase = { text: content, group: null };
      pieces.push(phrase);
      continue;
    }
    const found = numbers(content);
    if (found?.length !== (kind === "box" ? 4 : 8)) {
      pieces.push({ text: text.slice(start, stop) }); // not a box: shown as it was written
      continue;
    }
    if (!continues) {
      if (phrase) phrase.group = groups;
      else pieces.push({ text: `□ ${groups + 1}`, group: groups });
      groups += 1;
    }
    const points = kind === "quad" ? found.map(clip) : null;
    objects.push({ kind, label, group: groups - 1, bounds: bounds(found), points });
    continues = label !== null;
  }
  const rest = text.slice(position);
  const shown = cut ? rest.replace(/<\/?[a-z]{0,4}$/, "") : rest;
  if (shown) pieces.push({ text: shown });
  return { objects, pieces };
}
