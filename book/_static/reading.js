// What the theme's pages lack for readers with a keyboard or a screen reader, and what folded parts of a page need.
document.addEventListener("DOMContentLoaded", () => {
  const all = (css) => document.querySelectorAll(css);

  // The sidebar is a landmark, and what unfolds a branch of it has a name.
  const sidebar = document.getElementById("pst-primary-sidebar");
  if (sidebar) {
    sidebar.setAttribute("role", "navigation");
    sidebar.setAttribute("aria-label", "Book");
  }
  for (const summary of all("li.has-children > details > summary")) {
    const link = summary.closest("li").querySelector("a");
    summary.setAttribute("aria-label", `Pages of ${link.textContent.trim()}`);
  }

  // A screen reader names the search button, and what unfolds the code of a cell, by their visible texts.
  for (const named of all("button.search-button-field, details.hide > summary")) named.removeAttribute("aria-label");

  // Code, exercises and tables that are folded: a button for all of them, below the title.
  const folded = [...all("article details.folded, article details.hide")];
  if (folded.length) {
    const button = document.createElement("button");
    const open = () => folded.some((part) => !part.open); // what a click does
    const name = () => (button.textContent = open() ? "Unfold everything" : "Fold code and exercises");
    button.type = "button";
    button.className = "unfold";
    button.addEventListener("click", () => {
      const wanted = open();
      for (const part of folded) part.open = wanted;
    });
    for (const part of folded) part.addEventListener("toggle", name);
    name();
    document.querySelector("article h1").after(button);
  }

  // Of what a cell printed, sentences wrap: two spaces in a row are the sign of columns. Those above and below a table
  // wrap too, unless the text has colours, as errors do.
  const sentences = (lines) => {
    const part = document.createElement("samp");
    part.className = "prose";
    part.textContent = lines.join("");
    return part;
  };
  for (const text of all("div.output pre")) {
    const lines = text.textContent.match(/[^\n]*\n|[^\n]+/g) ?? []; // older Safari has no lookbehind
    const columns = lines.map((line) => /\S {2}/.test(line));
    let [first, end] = [columns.indexOf(true), columns.lastIndexOf(true) + 1];
    if (!end) text.classList.add("prose");
    if (!end || text.querySelector("[class]")) continue;
    while (first && lines[first - 1].startsWith(" ")) first -= 1; // a line of the table's head
    text.replaceChildren(sentences(lines.slice(0, first)), lines.slice(first, end).join(""), sentences(lines.slice(end)));
  }

  // A box of outputs that continues below what is shown looks like it.
  for (const box of all(".cell_output > div.output")) {
    const mark = () => box.classList.toggle("continues", box.scrollHeight > box.clientHeight + box.scrollTop + 4);
    box.addEventListener("scroll", mark);
    new ResizeObserver(mark).observe(box);
  }

  // Long names in tables, and those of tests, break where a reader would break them.
  for (const name of all("#guarantees code .pre, article td code .pre")) {
    const parts = name.textContent.match(/[^/_:]*[/_:]|[^/_:]+/g) ?? [];
    name.replaceChildren(...parts.flatMap((part) => [part, document.createElement("wbr")]));
  }

  // A link opens what it leads into: not every browser does.
  const reveal = () => {
    let name = location.hash.slice(1);
    try {
      name = decodeURIComponent(name);
    } catch {} // a % that begins no character: the name is taken as it is
    const target = document.getElementById(name);
    const around = target?.closest("details");
    for (let part = around; part; part = part.parentElement.closest("details")) part.open = true;
    if (around) target.scrollIntoView();
  };
  window.addEventListener("hashchange", reveal);
  reveal();

  // Browsers refuse a page that was opened as a file the files of its live models: it says what to do.
  if (location.protocol === "file:") {
    const book = new URL(document.documentElement.dataset.content_root, location.href).href;
    const page = location.href.slice(book.length);
    for (const place of all(".live .live-hint")) {
      const [command, link] = [document.createElement("code"), document.createElement("a")];
      command.textContent = "python3 -m http.server 8000";
      link.href = link.textContent = `http://localhost:8000/${page}`;
      const lack = "The model does not run in a page that was opened as a file. In the folder of the book run ";
      place.replaceChildren(lack, command, ", then open ", link, ". The rest of the book needs no server.");
    }
  }

  // Paper shows everything, on white; afterwards the page is as it was.
  const { dataset } = document.documentElement;
  let [opened, theme] = [[], null];
  window.addEventListener("beforeprint", () => {
    opened = [...all("article details:not([open])")];
    for (const part of opened) part.open = true;
    ({ theme } = dataset);
    dataset.theme = "light";
  });
  window.addEventListener("afterprint", () => {
    for (const part of opened) part.open = false;
    dataset.theme = theme;
  });
});
