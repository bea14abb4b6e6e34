// Fill the blocks of a page: each names the module that draws it. Where one fails, its sentence stays, and the others work.
// book/bundle.py puts this after the modules.
for (const block of document.querySelectorAll("[data-explore]")) {
  try {
    modules[`${block.dataset.explore}.js`].start(block);
  } catch (error) {
    console.error(error);
  }
}
