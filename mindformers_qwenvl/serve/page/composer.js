// The question that is being written, its pictures, and the ways they come in.

import { read, readAddress } from "./pictures.js";
import { element, pictureName } from "./view.js";
import { say } from "./words.js";

const $ = (id) => document.getElementById(id);

// `page` gives: send(), stop() -> whether there was something to stop, before() -> the number of pictures in earlier turns,
// key(), notice(name, values), problem(error).
export function composer(page) {
  let attached = [];
  let reading = Promise.resolve();
  let pending = 0; // pictures that are being read

  function show() {
    const first = page.before() + 1;
    $("attached").replaceChildren(...attached.map((picture, place) => {
      const figure = element("figure");
      const image = element("img");
      image.src = picture.source;
      image.alt = pictureName(first + place, picture);
      const remove = element("button", "", "×");
      remove.type = "button";
      remove.setAttribute("aria-label", say("remove", { n: first + place }));
      remove.addEventListener("click", () => {
        attached = attached.filter((other) => other !== picture);
        show();
        $("question").focus();
      });
      figure.append(image, remove, element("figcaption", "", `Picture ${first + place}:`));
      return figure;
    }));
    if (pending) $("attached").append(element("p", "hint pending", say("reading")));
  }

  // Makes the field as high as its text.
  function fit() {
    const field = $("question");
    field.style.height = "auto";
    field.style.height = `${field.scrollHeight + 2}px`;
  }

  // Adds the picture that `job` reads, after those that are being read already: they keep their order.
  function add(job, failed) {
    pending += 1;
    show();
    reading = reading.then(job).then((picture) => attached.push(picture), failed).finally(() => {
      pending -= 1;
      show();
    });
  }

  function files(list) {
    for (const file of list) {
      add(() => read(file), () => page.notice("unreadable", { name: file.name || say("unnamedFile") }));
    }
    return reading;
  }

  function address(text) {
    add(() => readAddress(text, page.key()), (error) => page.problem(error, text));
  }

  $("files").addEventListener("click", () => $("file").click());
  $("file").addEventListener("change", async () => {
    await files([...$("file").files]);
    $("file").value = "";
    $("question").focus();
  });
  $("ask").addEventListener("submit", (event) => {
    event.preventDefault();
    page.send();
  });
  $("question").addEventListener("input", fit);
  $("question").addEventListener("keydown", (event) => {
    // Enter may end a word of an input method (229: Safari's sign of it). On a touch screen it starts a new line: there is
    // no Shift to do it with.
    if (event.key !== "Enter" || event.shiftKey || event.isComposing || event.keyCode === 229) return;
    if (matchMedia("(pointer: coarse)").matches) return;
    event.preventDefault();
    page.send();
  });
  listenForPictures(files, address);
  listenForAddress(address);

  return {
    show,
    pictures: () => reading.then(() => attached),
    text: () => $("question").value.trim(),
    set(text, pictures) {
      $("question").value = text;
      attached = [...pictures];
      show();
      fit();
      $("question").focus();
    },
  };
}

function listenForPictures(files, address) {
  document.addEventListener("paste", (event) => {
    const pasted = [...event.clipboardData.files];
    if (!pasted.length) return;
    event.preventDefault();
    files(pasted);
  });
  const brings = (event) => event.dataTransfer.types.some((type) => type === "Files" || type === "text/uri-list");
  const over = (on) => document.documentElement.classList.toggle("dropping", on);
  for (const name of ["dragenter", "dragover"]) {
    document.addEventListener(name, (event) => {
      if (!brings(event)) return;
      event.preventDefault();
      over(true);
    });
  }
  document.addEventListener("dragleave", (event) => event.relatedTarget || over(false));
  document.addEventListener("drop", (event) => {
    over(false);
    if (!brings(event)) return;
    event.preventDefault();
    const dropped = [...event.dataTransfer.files];
    const addresses = event.dataTransfer.getData("text/uri-list").split(/\r?\n/).filter((line) => /^https?:/i.test(line));
    if (dropped.length) files(dropped);
    else addresses.forEach(address);
  });
}

function listenForAddress(address) {
  const problem = (shown) => {
    $("address-problem").hidden = !shown;
    $("address-problem").textContent = shown ? say("badAddress") : "";
  };
  $("address-button").addEventListener("click", () => {
    $("address").value = "";
    problem(false);
    $("address-dialog").showModal();
  });
  $("address-cancel").addEventListener("click", () => $("address-dialog").close());
  $("address-form").addEventListener("submit", (event) => {
    const given = $("address").value.trim();
    if (/^https?:\/\/./i.test(given) && URL.canParse(given)) {
      address(given);
      return;
    }
    event.preventDefault();
    problem(true);
    $("address").focus();
  });
  $("address-dialog").addEventListener("close", () => $("question").focus());
}
