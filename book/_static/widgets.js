// What the widget manager, which starts once the page is loaded, needs in this book.
document.addEventListener("DOMContentLoaded", () => {
  // It hands its labels to the queue of MathJax 2; with the book's MathJax 3 they stay plain text.
  if (window.MathJax) MathJax.Hub = { Queue: () => {} };

  // It drops the alt text of figures: put it back from the saved state as they appear.
  const alt = new Map();
  for (const script of document.querySelectorAll('script[type="application/vnd.jupyter.widget-state+json"]')) {
    for (const { state } of Object.values(JSON.parse(script.textContent).state)) {
      for (const { data, metadata } of state.outputs ?? []) {
        const png = data?.["image/png"];
        if (png) alt.set(png.replace(/\s/g, ""), metadata?.["image/png"]?.alt ?? "");
      }
    }
  }
  if (!alt.size) return;
  new MutationObserver(() => {
    for (const image of document.querySelectorAll(".widget-subarea img:not([alt])")) {
      image.alt = alt.get(image.src.replace(/^data:image\/png;base64,|\s/g, "")) ?? "";
    }
  }).observe(document.body, { childList: true, subtree: true });
});
