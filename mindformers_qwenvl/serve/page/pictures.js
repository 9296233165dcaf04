// Pictures that were dropped, pasted or chosen, as `data:` addresses: what is shown and what is sent are the same bytes.

import { pictureAt } from "./server.js";

const SENT_AS_THEY_ARE = ["image/png", "image/jpeg", "image/webp", "image/bmp", "image/gif"];
const LARGEST = 4 * 2 ** 20; // bytes; the network sees 448x448 pixels, so larger files are made smaller
const LONGEST_SIDE = 2048; // pixels, of those

// {source, name, width, height} of a file. Throws if the browser cannot read it.
export async function read(file) {
  const upright = await createImageBitmap(file);
  if (SENT_AS_THEY_ARE.includes(file.type) && file.size <= LARGEST && !(await isTurned(file, upright))) {
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

// Whether the file says that it is to be shown turned or mirrored. The network would see it as it is stored.
async function isTurned(file, upright) {
  if (file.type === "image/bmp" || file.type === "image/gif") return false;
  const stored = await createImageBitmap(file, { imageOrientation: "none" });
  if (stored.width !== upright.width || stored.height !== upright.height) return true;
  const [one, other] = [stored, upright].map((bitmap) => sample(bitmap));
  return one.some((value, place) => Math.abs(value - other[place]) > 2);
}

function sample(bitmap) {
  const context = canvas(256, 256).getContext("2d", { willReadFrequently: true });
  context.drawImage(bitmap, 0, 0, 256, 256);
  return context.getImageData(0, 0, 256, 256).data;
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
