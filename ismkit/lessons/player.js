// The player of `plot.animate`: canvases instead of the picture, which stays wherever scripts do not run.
(name, given) => {
  const PATH = 100; // positions of the slider along paths; frames that stand alone have one each
  const SECONDS = given.moments ? 0.8 * given.moments.length : 6;
  const last = given.moments ? given.moments.length - 1 : PATH;
  const still = matchMedia("(prefers-reduced-motion: reduce)");
  const panels = given.panels.map((panel) => {
    const bytes = Uint8Array.from(atob(panel.points), (letter) => letter.charCodeAt(0));
    return { ...panel, points: new Int16Array(bytes.buffer) };
  });

  const make = (tag, attributes, ...children) => {
    const made = document.createElement(tag);
    for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
    made.append(...children);
    return made;
  };

  /** The frame before a position, and how far the points are on the way to the next one. */
  const locate = (panel, position) => {
    if (given.moments) return [Math.round(position), 0];
    const exact = (position / PATH) * (panel.frames - 1);
    const frame = Math.min(Math.floor(exact), panel.frames - 2);
    return [frame, exact - frame];
  };

  const paint = (canvas, panel, position, ink) => {
    const side = Math.max(1, Math.round(canvas.clientWidth * (window.devicePixelRatio || 1)));
    canvas.width = canvas.height = side; // which clears it
    const context = canvas.getContext("2d");
    const scale = side / (2 * given.reach);
    const across = (x) => side / 2 + scale * x;
    const down = (y) => side / 2 - scale * y;
    const disc = (x, y, radius) => {
      context.beginPath();
      context.arc(across(x), down(y), radius, 0, 2 * Math.PI);
      context.fill();
    };
    const at = (frame, k) => {
      const first = 2 * (frame * given.count + k);
      return [panel.points[first] * given.unit, panel.points[first + 1] * given.unit];
    };
    context.fillStyle = ink;
    context.globalAlpha = 0.12;
    for (const [x, y] of given.marks) disc(x, y, 0.25 * scale);
    const [frame, part] = locate(panel, position);
    for (let k = 0; k < given.count; k += 1) {
      const colour = given.colours[given.labels[k]];
      context.fillStyle = context.strokeStyle = colour === "#000000" ? ink : colour;
      let [x, y] = at(frame, k);
      if (part > 0) {
        const [nextX, nextY] = at(frame + 1, k);
        x += part * (nextX - x);
        y += part * (nextY - y);
      }
      if (given.trails) {
        context.globalAlpha = 0.3;
        context.lineWidth = side / 300;
        context.beginPath();
        for (let past = 0; past <= frame; past += 1) {
          const [pastX, pastY] = at(past, k);
          context.lineTo(across(pastX), down(pastY));
        }
        context.lineTo(across(x), down(y));
        context.stroke();
      }
      context.globalAlpha = 0.85;
      disc(x, y, side / (given.count > 300 ? 160 : 90));
    }
  };

  /**
   * Show a player again where its looks change: by themes of the book and of JupyterLab, by the wish for no motion, by
   * pixels of another size once the page is enlarged. A cell that is run again leaves its player behind, which this must
   * not keep in memory.
   */
  const watch = (held) => {
    const left = new AbortController();
    const themes = new MutationObserver(() => again());
    const again = () => {
      const show = held.deref();
      if (show) return show();
      left.abort();
      themes.disconnect();
    };
    for (const part of [document.documentElement, document.body]) themes.observe(part, { attributes: true });
    still.addEventListener("change", again, { signal: left.signal });
    window.addEventListener("resize", again, { signal: left.signal });
  };

  const start = (root) => {
    root.dataset.ready = "";
    root.dataset.lmSuppressShortcuts = "true"; // JupyterLab's shortcuts are not for the slider
    root.addEventListener("keydown", (event) => event.stopPropagation()); // with which it would focus a cell instead
    const canvases = panels.map(() => make("canvas", { role: "img", style: "display:block;width:100%;aspect-ratio:1" }));
    const button = make("button", { type: "button", style: "min-width:5em" });
    const slider = make("input", { type: "range", min: 0, max: last, step: 1, style: "flex:1;min-width:8em" });
    const output = make("output", { "aria-live": "off", style: "min-width:7em" }); // the slider says it
    slider.setAttribute("aria-label", given.moments ? "frame" : "time");
    let position = last; // complete, as the picture was
    let before = null; // the time of the frame drawn last, while it plays

    const moment = () => (given.moments ? given.moments[Math.round(position)] : `t = ${(position / PATH).toFixed(2)}`);
    const draw = () => {
      const ink = getComputedStyle(root).color;
      panels.forEach((panel, i) => {
        paint(canvases[i], panel, position, ink);
        canvases[i].setAttribute("aria-label", `${panel.title}, ${moment()}: ${given.alt}`);
      });
    };
    const show = () => {
      slider.value = position;
      output.textContent = moment();
      slider.setAttribute("aria-valuetext", moment());
      button.textContent = still.matches ? "Next" : before === null ? "Play" : "Pause";
      draw();
    };
    const stop = () => {
      before = null;
      show();
    };
    const tick = (now) => {
      if (before === null || !root.isConnected) return;
      if (still.matches) return stop();
      position = Math.min(last, position + ((now - before) / 1000) * ((last + 1) / SECONDS));
      before = now;
      if (position >= last) stop();
      else {
        show();
        requestAnimationFrame(tick);
      }
    };
    button.addEventListener("click", () => {
      if (before !== null) return stop();
      if (position >= last) position = 0;
      else if (still.matches) position = Math.min(last, position + (given.moments ? 1 : PATH / 8)); // a jump at a time
      if (still.matches) return show();
      before = performance.now();
      show();
      requestAnimationFrame(tick);
    });
    slider.addEventListener("input", () => {
      position = Number(slider.value);
      stop();
    });

    const figures = panels.map((panel, i) =>
      make(
        "figure",
        { style: "margin:0;border:1px solid rgb(128 128 128/50%)" },
        make("figcaption", { style: "text-align:center;font-size:90%;color:inherit" }, panel.title),
        canvases[i],
      ),
    );
    const line = "display:flex;flex-wrap:wrap;gap:0.5em;align-items:center;";
    // Panels of one size, however many stand in a row.
    const columns = "grid-template-columns:repeat(auto-fit,minmax(150px,1fr))";
    const grid = `display:grid;${columns};gap:0.5em;max-width:${340 * panels.length}px`;
    root.setAttribute("role", "group");
    root.setAttribute("aria-label", `Animation: ${given.alt}`);
    root.replaceChildren(
      make("div", { style: grid }, ...figures),
      make("div", { style: `${line}max-width:680px;margin:0.5em 0` }, button, slider, output),
    );
    show();
    new ResizeObserver(draw).observe(root);
    root.showAgain = show; // lives as long as the element
    watch(new WeakRef(show));
  };

  for (const root of document.querySelectorAll(`[data-animation="${name}"]:not([data-ready])`)) start(root);
}
