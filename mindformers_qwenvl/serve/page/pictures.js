// Pictures that were dropped, pasted or chosen, as `data:` addresses: what is shown and what is sent are the same bytes.

import { pictureAt } from "./server.js";

const SENT_AS_THEY_ARE = ["image/png", "image/jpeg", "image/webp", "image/bmp", "image/gif"];
const LARGEST = 4 * 2 ** 20; // bytes; the network sees 448x448 pixels, so larger files are made smaller
const LONGEST_SIDE = 2048; // pixels, of those

// {source, name, width, height} of a file. Throws if the browser cannot read it.
export async function read(file) {
  const upright = await createImageBitmap(file);
  if (SENT_AS_THEY_ARE.includes(file.type) && file.size <= LARGEST && !(await isTurned(file))) {
    return { source: await address(file), name: file.name ?? "", width: upright.width, height: upright.height };
  }
  const { width, height, blob } = await smaller(upright, file);
  return { source: await address(blob), name: file.name ?? "", width, height };
}

// The same of the picture at an http(s) address, which the server fetches.
export async function readAddress(text, key) {
  const picture = await read(await pictureAt(text, key));
  return { ...picture, name: decodeURIComponent(new URL(text).pathname.split("/").pop() ?? "") };
}

// Whether the file says that it is to be shown turned or mirrored (EXIF): the network would see it as it is stored.
async function isTurned(file) {
  const buffer = await file.arrayBuffer();
  const signs = new TextDecoder("latin1").decode(buffer); // one for each byte
  const bytes = new DataView(buffer);
  for (const { 1: order, index, 0: all } of signs.matchAll(/(?:Exif\0\0|eXIf|EXIF[^]{4})(II\*\0|MM\0\*)/g)) {
    const start = index + all.length - 4;
    const little = order[0] === "I";
    try {
      const table = start + bytes.getUint32(start + 4, little);
      for (let entry = 0; entry < bytes.getUint16(table, little); entry += 1) {
        const field = table + 2 + 12 * entry;
        if (bytes.getUint16(field, little) === 0x0112 && bytes.getUint16(field + 8, little) !== 1) return true;
      }
    } catch (error) {
      if (!(error instanceof RangeError)) throw error; // not what it seemed to be
    }
  }
  return false;
}

function canvas(width, height) {
  const made = document.createElement("canvas");
  made.width = Math.max(1, Math.round(width));
  made.height = Math.max(1, Math.round(height));
  return made;
}

function smaller(bitmap, file) {
  const scale = Math.min(1, file.size > LARGEST ? LONGEST_SIDE / Math.max(bitmap.width, bitmap.height) : 1);
  const made = canvas(bitmap.width * scale, bitmap.height * scale);
  const context = made.getContext("2d");
  context.imageSmoothingQuality = "high";
  context.drawImage(bitmap, 0, 0, made.width, made.height);
  const type = file.type === "image/jpeg" ? file.type : "image/png";
  return new Promise((done, failed) => {
    const { width, height } = made;
    made.toBlob((blob) => (blob ? done({ width, height, blob }) : failed(new Error(type))), type, 0.95);
  });
}

function address(blob) {
  return new Promise((done, failed) => {
    const reader = new FileReader();
    reader.onload = () => done(reader.result);
    reader.onerror = () => failed(reader.error);
    reader.readAsDataURL(blob);
  });
}
