// Fill the blocks of a page: each names the module that draws it. A block without one keeps its sentence.
for (const block of document.querySelectorAll("[data-explore]")) {
  const { start } = await import(`./${block.dataset.explore}.js`);
  start(block);
}
