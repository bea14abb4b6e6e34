// One slide as large as the window. Without this script the slides stand below each other.
const slides = [...document.querySelectorAll("section")];
const body = document.body;
let at = 0;
// The other one of two windows, of which each shows what the other turns to.
let other = window.name === "speaker" ? window.opener : null;

function show(next, remember = true, tell = true) {
  at = Math.max(0, Math.min(slides.length - 1, next));
  slides.forEach((slide, i) => {
    slide.classList.toggle("current", i === at);
  });
  if (remember) history.replaceState(null, "", `#${at + 1}`);
  if (tell) other?.postMessage({ slide: at }, "*");
  document.title = `${at + 1} / ${slides.length} ${slides[at].querySelector("h1, h2").textContent}`;
}

function fit() {
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
  p: () => { other = open(location.href, "speaker", "popup,width=1280,height=960"); },
  f: () => (document.fullscreenElement ? document.exitFullscreen() : document.documentElement.requestFullscreen()),
};

slides.forEach((slide, i) => {
  const number = document.createElement("div");
  number.className = "number";
  number.textContent = `${i + 1} / ${slides.length}`;
  slide.append(number);
});
addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || !keys[event.key]) return;
  event.preventDefault();
  keys[event.key]();
});
addEventListener("click", (event) => {
  if (!event.target.closest("a") && !String(getSelection())) show(at + (event.clientX < innerWidth / 3 ? -1 : 1));
});
addEventListener("hashchange", () => show(Number(location.hash.slice(1)) - 1 || 0, false));
addEventListener("message", (event) => {
  if (event.source === other && Number.isInteger(event.data?.slide)) show(event.data.slide, true, false);
});
addEventListener("resize", fit);
body.classList.add("live");
body.classList.toggle("speaker", window.name === "speaker");
fit();
show(Number(location.hash.slice(1)) - 1 || 0, false);
