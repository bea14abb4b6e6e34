// One slide as large as the window. Without this script, and in a narrow window, the slides stand below each other.
const slides = [...document.querySelectorAll("section")];
const body = document.body;
let at = 0;
// The other one of two windows, of which each shows what the other turns to.
let other = window.name === "speaker" ? window.opener : null;
// Over the slide, one of its figures or a panel of one, as large as it goes; which one, or -1.
const lens = document.createElement("div");
lens.className = "lens";
let part = -1;
// What a screen reader is told of a slide that is turned to.
const said = document.createElement("p");
said.className = "said";
said.setAttribute("role", "status");
body.append(said);
const live = () => body.classList.contains("live");

function tell() {
  other?.postMessage({ slide: at, part }, "*");
}

function show(next, remember = true) {
  enlarge(-1);
  at = Math.max(0, Math.min(slides.length - 1, next));
  slides.forEach((slide, i) => {
    slide.classList.toggle("current", i === at);
  });
  if (remember) history.replaceState(null, "", `#${at + 1}`);
  document.title = `${at + 1} / ${slides.length} ${slides[at].querySelector("h1, h2").textContent}`;
  if (remember) said.textContent = document.title;
}

// The parts of the slide's figures, in the order of reading: each a picture and a box of it, in shares.
function parts() {
  const images = [...slides[at].querySelectorAll("figure img")];
  return images.flatMap((image) => JSON.parse(image.dataset.panels).map((box) => [image, box]));
}

function enlarge(next) {
  const found = parts();
  part = next in found ? next : -1;
  lens.remove();
  if (part < 0) return;
  const [image, [left, top, width, height]] = found[part];
  const { naturalWidth, naturalHeight } = image;
  const scale = Math.min(1256 / (width * naturalWidth), 696 / (height * naturalHeight));
  const [across, down] = [scale * naturalWidth, scale * naturalHeight];
  const box = document.createElement("div");
  const copy = image.cloneNode();
  copy.removeAttribute("data-panels");
  Object.assign(box.style, { width: `${width * across}px`, height: `${height * down}px` });
  Object.assign(copy.style, { width: `${across}px`, height: `${down}px` });
  Object.assign(copy.style, { left: `${-left * across}px`, top: `${-top * down}px` });
  box.append(copy);
  lens.replaceChildren(box);
  slides[at].append(lens);
}

// The part of a figure under the pointer.
function pointed(event) {
  return parts().findIndex(([image, [left, top, width, height]]) => {
    if (event.target !== image) return false;
    const frame = image.getBoundingClientRect();
    const scale = Math.min(frame.width / image.naturalWidth, frame.height / image.naturalHeight);
    const x = (event.clientX - frame.x - frame.width / 2) / (scale * image.naturalWidth) + 0.5;
    const y = (event.clientY - frame.y - frame.height / 2) / (scale * image.naturalHeight) + 0.5;
    return left <= x && x < left + width && top <= y && y < top + height;
  });
}

function fit() {
  const wide = innerWidth >= 700; // on a phone, and where a reader has enlarged the page, text keeps its size
  if (wide !== live()) {
    body.classList.toggle("live", wide);
    if (!wide) slides[at].scrollIntoView();
  }
  const notes = body.classList.contains("speaker") ? 200 : 0;
  const scale = Math.min(innerWidth / 1280, innerHeight / (720 + notes));
  body.style.setProperty("--scale", scale);
  body.style.setProperty("--top", `${innerHeight / 2 - (notes * scale) / 2}px`);
}

const keys = {
  ArrowRight: () => show(at + 1), ArrowDown: () => show(at + 1), PageDown: () => show(at + 1), " ": () => show(at + 1),
  ArrowLeft: () => show(at - 1), ArrowUp: () => show(at - 1), PageUp: () => show(at - 1),
  Home: () => show(0), End: () => show(slides.length - 1),
  n: () => { body.classList.toggle("speaker"); fit(); },
  z: () => enlarge(part + 1), Escape: () => enlarge(-1),
  p: () => { if (window.name !== "speaker") other = open(location.href, "speaker", "popup,width=1280,height=960"); },
  f: () => (document.fullscreenElement ? document.exitFullscreen() : document.documentElement.requestFullscreen()),
};

slides.forEach((slide, i) => {
  const number = document.createElement("div");
  number.className = "number";
  number.textContent = `${i + 1} / ${slides.length}`;
  slide.append(number);
});
addEventListener("keydown", (event) => {
  if (!live() || event.ctrlKey || event.metaKey || event.altKey || !keys[event.key]) return;
  event.preventDefault();
  keys[event.key]();
  tell();
});
addEventListener("click", (event) => {
  if (!live() || event.target.closest("a") || String(getSelection())) return;
  const chosen = pointed(event);
  if (part >= 0 || chosen >= 0) enlarge(part < 0 ? chosen : -1);
  else show(at + (event.clientX < innerWidth / 3 ? -1 : 1));
  tell();
});
const asked = () => Math.trunc(Number(location.hash.slice(1))) - 1 || 0; // by the address: #3 is the third slide
addEventListener("hashchange", () => {
  show(asked(), false);
  tell();
});
addEventListener("message", (event) => {
  if (!Number.isInteger(event.data?.slide)) return;
  other ??= event.source; // of the window with the notes, which this one no longer knows when it is loaded again
  if (event.source !== other) return;
  show(event.data.slide);
  enlarge(event.data.part);
});
addEventListener("resize", fit);
body.classList.toggle("speaker", window.name === "speaker");
fit();
show(asked(), false);
