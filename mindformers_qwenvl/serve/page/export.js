// Taking things along: to the clipboard and as files.

import { pictureWithBoxes } from "./boxes.js";

export async function copyText(text) {
  if (navigator.clipboard) return navigator.clipboard.writeText(text);
  // Without https, other machines' pages have no clipboard but this old one.
  const field = document.createElement("textarea");
  field.value = text;
  const place = document.querySelector("dialog[open]") ?? document.body;
  const before = document.activeElement;
  place.append(field);
  field.select();
  const done = document.execCommand("copy");
  field.remove();
  before?.focus();
  if (!done) throw new Error("copy");
}

export async function copyPicture(picture, boxes) {
  // The promise is given as it is: a browser may let nothing be copied that comes later than the click.
  const blob = pictureWithBoxes(picture.source, boxes);
  await navigator.clipboard.write([new ClipboardItem({ "image/png": blob })]);
}

export async function savePicture(picture, boxes) {
  const stem = picture.name.replace(/\.[^.]*$/, "") || "picture";
  save(await pictureWithBoxes(picture.source, boxes), `${stem}_boxes.png`);
}

export function save(blob, name) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(blob);
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
}
