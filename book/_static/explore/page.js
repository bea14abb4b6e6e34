// Fill the blocks of a page: each names the module that draws it. Where one fails, its sentence stays, and the others work.
for (const block of document.querySelectorAll("[data-explore]")) {
  import(`./${block.dataset.explore}.js`).then(({ start }) => start(block));
}
