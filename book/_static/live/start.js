// Shows the button of every live model on a page, and loads the rest of the code when one is pressed.
//
// It is a classic script, which browsers run in a page that was opened as a file too. Modules and workers they refuse
// there, so that is where the reader has to be told what to do.
(() => {
  const here = document.currentScript.src;
  const AS_A_FILE =
    "This browser lets no page that was opened as a file load a model. In the folder of the book run " +
    "“python3 -m http.server 8000”, then open http://localhost:8000 here.";

  const say = (root, text) => (root.querySelector("[role=status]").textContent = text);

  async function load(root) {
    const button = root.querySelector("button.live-load");
    button.disabled = true;
    try {
      const { start } = await import(new URL("element.js", here));
      await start(root);
    } catch (error) {
      button.disabled = false;
      say(root, location.protocol === "file:" ? AS_A_FILE : `The model could not be loaded: ${error.message}`);
    }
  }

  for (const root of document.querySelectorAll(".live")) {
    const button = root.querySelector("button.live-load");
    button.hidden = false;
    button.addEventListener("click", () => load(root));
  }
})();
