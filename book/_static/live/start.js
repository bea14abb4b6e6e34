// Shows the button of every live model on a page, and loads the rest of the code when one is pressed.
//
// It is a classic script, which browsers run in a page that was opened as a file too. Modules and workers they refuse
// there; reading.js tells the reader what to do.
(() => {
  const here = document.currentScript.src;
  const AS_A_FILE = "This browser lets no page that was opened as a file load a model.";

  const say = (root, text) => (root.querySelector("[role=status]").textContent = text);

  async function load(root) {
    const button = root.querySelector("button.live-load");
    if (button.ariaDisabled === "true") return;
    button.ariaDisabled = "true"; // a button that is disabled would lose the focus
    try {
      const { start } = await import(new URL("element.js", here));
      await start(root);
    } catch (error) {
      button.ariaDisabled = null;
      say(root, location.protocol === "file:" ? AS_A_FILE : `The model could not be loaded: ${error.message}`);
    }
  }

  for (const root of document.querySelectorAll(".live")) {
    const button = root.querySelector("button.live-load");
    button.hidden = false;
    button.addEventListener("click", () => load(root));
  }
})();
