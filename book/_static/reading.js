// What the theme's pages lack for readers with a keyboard or a screen reader.
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
});
