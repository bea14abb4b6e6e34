// Filters the table of claims by notebook, verdict, whose statement it is, and text. The address keeps the choice, such as
// ledger.html?verdict=not+resolved. Without JavaScript the page has the complete table.
{
  // Accents count for nothing, as in the search of the book.
  const plain = (text) => text.toLowerCase().normalize("NFKD").replace(/\p{M}/gu, "");
  const table = document.querySelector("#all-claims table");
  const heads = [...table.querySelectorAll("thead th")].map((head) => head.textContent.trim());
  table.classList.add("cards"); // on a phone: each cell after the name of its column
  const rows = [...table.querySelectorAll("tbody tr")].map((row) => {
    [...row.cells].forEach((cell, k) => (cell.dataset.head = heads[k]));
    const cells = [...row.cells].map((cell) => cell.textContent.trim());
    const [claim, whose, verdict] = ["claim", "whose", "verdict"].map((head) => cells[heads.indexOf(head)]);
    return { row, notebook: claim.slice(1, 3), verdict, whose, text: plain(cells.join(" ")) };
  });

  const form = document.createElement("form");
  form.className = "claims-filter";
  form.setAttribute("role", "search");
  form.setAttribute("aria-label", "Filter the claims");
  const labelled = (name, control) => {
    const label = document.createElement("label");
    control.name = name;
    label.append(`${name} `, control);
    form.append(label);
    return control;
  };
  for (const name of ["notebook", "verdict", "whose"]) {
    const select = labelled(name, document.createElement("select"));
    select.append(new Option("all", ""));
    for (const value of new Set(rows.map((row) => row[name]))) select.append(new Option(value, value));
  }
  const text = labelled("text", document.createElement("input"));
  text.type = "search";
  text.placeholder = "words in any order";
  const reset = document.createElement("button");
  reset.type = "reset";
  reset.textContent = "Show all";
  const count = document.createElement("output");
  form.append(reset, count);

  const show = () => {
    const wanted = Object.fromEntries([...new FormData(form)].map(([name, value]) => [name, value.trim()]));
    const words = plain(wanted.text).split(/\s+/).filter(Boolean);
    let shown = 0;
    for (const entry of rows) {
      const fits = ["notebook", "verdict", "whose"].every((name) => !wanted[name] || entry[name] === wanted[name]);
      entry.row.hidden = !(fits && words.every((word) => entry.text.includes(word)));
      shown += !entry.row.hidden;
    }
    count.textContent = `${shown} of ${rows.length} claims`;
    const query = new URLSearchParams(Object.entries(wanted).filter(([, value]) => value)).toString();
    history.replaceState(null, "", `${location.pathname}${query && `?${query}`}${location.hash}`);
  };
  for (const [name, value] of new URLSearchParams(location.search)) {
    const control = form.elements.namedItem(name);
    if (control) control.value = value;
    if (control && control.value !== value) control.value = ""; // no such choice
  }
  form.addEventListener("input", show);
  form.addEventListener("reset", () => setTimeout(show));
  form.addEventListener("submit", (event) => event.preventDefault());
  table.before(form);
  show();
}
