// Boxes over a picture: in the page (SVG) and in a PNG to take along (canvas).

// Each is dark enough for white letters: a contrast of at least 4.5 to 1.
const COLOURS = ["#c2185b", "#1565c0", "#2e7d32", "#b34700", "#7b1fa2", "#00707a", "#b71c1c", "#6d5a00"];
const SVG = "http://www.w3.org/2000/svg";
const LETTERS = '600 SIZEpx system-ui, "Noto Sans CJK SC", "PingFang SC", "Microsoft YaHei", sans-serif';

export function colour(group) {
  return COLOURS[group % COLOURS.length];
}

const pen = document.createElement("canvas").getContext("2d");

function letters(size) {
  return LETTERS.replace("SIZE", size);
}

function cut(text, room, size) {
  pen.font = letters(size);
  if (pen.measureText(text).width <= room) return text;
  const signs = [...text];
  while (signs.length > 1 && pen.measureText(`${signs.join("")}…`).width > room) signs.pop();
  return `${signs.join("")}…`;
}

// Where the labels stand: [{text, group, x, y, width, height}]. A label is above its box, in it or below it, within the
// picture, where it covers as little as possible of the labels before it. Boxes of one phrase have one label.
function plates(boxes, width, height, size) {
  const placed = [];
  const high = Math.min(Math.round(size * 1.45), height);
  const named = new Set();
  for (const { label, group, pixels: [left, top, , bottom] } of boxes) {
    if (!label || named.has(group)) continue;
    named.add(group);
    const text = cut(label, width - size * 0.7, size);
    pen.font = letters(size);
    const wide = Math.min(pen.measureText(text).width + size * 0.7, width);
    const x = Math.max(0, Math.min(left, width - wide));
    const places = [top - high, top, bottom, bottom - high, top + high].filter((y) => y >= 0 && y + high <= height);
    const covered = (y) => placed.reduce((sum, other) => sum
      + Math.max(0, Math.min(x + wide, other.x + other.width) - Math.max(x, other.x))
      * Math.max(0, Math.min(y + high, other.y + other.height) - Math.max(y, other.y)), 0);
    const y = places.reduce((best, place) => (covered(place) < covered(best) ? place : best), places[0] ?? 0);
    placed.push({ text, group, x, y, width: wide, height: high });
  }
  return placed;
}

function svg(name, values) {
  const made = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(values)) made.setAttribute(key, value);
  return made;
}

function frame(box, values) {
  if (box.points) return svg("polygon", { points: box.points.join(" "), ...values });
  const [left, top, right, bottom] = box.pixels;
  return svg("rect", { x: left, y: top, width: Math.max(right - left, 1), height: Math.max(bottom - top, 1), ...values });
}

// Shows a picture with boxes over it. Returns {element, show(boxes, spoken)}: boxes are [{label, group, pixels: [x1, y1,
// x2, y2], points: [x1, y1, ..., x4, y4] of a quad}], and spoken says in words what is seen.
export function overlay(source, name) {
  let boxes = [];
  const element = document.createElement("div");
  element.className = "drawn";
  const image = document.createElement("img");
  image.src = source;
  image.alt = name;
  const layer = svg("svg", { role: "img" });
  element.append(image, layer);

  function lay() {
    const { naturalWidth: width, naturalHeight: height, clientWidth: shown } = image;
    if (!width || !shown) return;
    const scale = width / shown; // pixels of the picture for one of the screen
    const size = 13 * scale;
    layer.setAttribute("viewBox", `0 0 ${width} ${height}`);
    layer.replaceChildren();
    for (const box of boxes) {
      const part = svg("g", { "data-group": box.group, class: "box" });
      const about = svg("title", {});
      about.textContent = box.label || `□ ${box.group + 1}`;
      // A light line below the coloured one: seen on dark pictures and on bright ones.
      part.append(about, frame(box, { class: "halo" }), frame(box, { class: "frame", stroke: colour(box.group) }));
      layer.append(part);
    }
    for (const { text, group, x, y, width: wide, height: high } of plates(boxes, width, height, size)) {
      const part = svg("g", { "data-group": group, class: "plate" });
      const label = svg("text", { x: x + size * 0.35, y: y + high / 2, "font-size": size });
      label.textContent = text;
      part.append(svg("rect", { x, y, width: wide, height: high, rx: 2 * scale, fill: colour(group) }), label);
      layer.append(part);
    }
  }

  image.addEventListener("load", lay);
  new ResizeObserver(lay).observe(image);
  return {
    element,
    show(given, spoken) {
      boxes = given;
      layer.setAttribute("aria-label", spoken);
      lay();
    },
  };
}

function path({ pixels: [left, top, right, bottom], points }) {
  const made = new Path2D();
  const corners = points ?? [left, top, right, top, right, bottom, left, bottom];
  for (let place = 0; place < corners.length; place += 2) made.lineTo(corners[place], corners[place + 1]);
  made.closePath();
  return made;
}

// The picture with its boxes, as a PNG of the picture's own size.
export async function pictureWithBoxes(source, boxes) {
  const image = new Image();
  image.src = source;
  await image.decode();
  const canvas = document.createElement("canvas");
  const width = (canvas.width = image.naturalWidth);
  const height = (canvas.height = image.naturalHeight);
  const context = canvas.getContext("2d");
  context.drawImage(image, 0, 0);
  const size = Math.max(11, Math.round(Math.min(width, height) / 30));
  const line = Math.max(2, Math.round(Math.min(width, height) / 200));
  for (const box of boxes) {
    const outline = path(box);
    for (const [stroke, wide] of [["rgb(255 255 255 / 70%)", line * 2], [colour(box.group), line]]) {
      context.strokeStyle = stroke;
      context.lineWidth = wide;
      context.stroke(outline);
    }
  }
  context.textBaseline = "middle";
  for (const plate of plates(boxes, width, height, size)) {
    context.fillStyle = colour(plate.group);
    context.fillRect(plate.x, plate.y, plate.width, plate.height);
    context.fillStyle = "#fff";
    context.font = letters(size);
    context.fillText(plate.text, plate.x + size * 0.35, plate.y + plate.height / 2);
  }
  return new Promise((done, failed) => {
    canvas.toBlob((blob) => (blob ? done(blob) : failed(new Error("PNG"))), "image/png");
  });
}
