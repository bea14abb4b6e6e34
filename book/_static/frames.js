// Stored frames of a figure: a slider for each control that they were drawn for. The pictures follow in the page, the
// first one's foremost, each with a variant for dark pages.
//
// It is a classic script, which browsers run in a page that was opened as a file too.
(() => {
  const make = (tag, attributes, ...children) => {
    const made = document.createElement(tag);
    for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
    made.append(...children);
    return made;
  };

  let figures = 0;

  function start(root) {
    const { controls, first } = JSON.parse(root.dataset.frames);
    const prefix = `frames-${(figures += 1)}`;
    const around = root.closest(".cell_output");
    const sheets = ["only-light", "only-dark"].map((variant) => {
      const [foremost, ...others] = around.querySelectorAll(`a.${variant}`);
      return [...others.slice(0, first), foremost, ...others.slice(first)];
    });
    const at = controls.map((control) => control.first);
    const show = () => {
      const shown = at.reduce((index, position, k) => index * controls[k].values.length + position, 0);
      for (const sheet of sheets) sheet.forEach((picture, k) => picture.classList.toggle("frame-left-out", k !== shown));
    };
    const rows = controls.map(({ label, values }, k) => {
      const id = `${prefix}-${k}`;
      const slider = make("input", { type: "range", id, min: 0, max: values.length - 1, step: 1, value: at[k] });
      const output = make("output", { for: id, "aria-live": "off" }); // the slider says its value itself
      const say = () => {
        output.textContent = values[at[k]];
        slider.setAttribute("aria-valuetext", values[at[k]]);
      };
      slider.addEventListener("input", () => {
        at[k] = Number(slider.value);
        say();
        show();
      });
      say();
      return make("div", {}, make("label", { for: id }, label), slider, output);
    });
    root.replaceChildren(...rows);
    around.classList.add("scrubbed");
    show();
  }

  document.querySelectorAll(".frames:not(.ready)").forEach((root) => {
    root.classList.add("ready");
    start(root);
  });
})();
