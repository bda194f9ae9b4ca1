// Makes figures alive: a mark's numbers by pointer and keys, its page by a click, series switched on and off. What marks
// say stands in the drawing (data-alive); without scripts the drawing is still and browsers show the marks' titles.
(() => {
  const SVG = "http://www.w3.org/2000/svg";
  const NEAR = 16; // pixels from a mark at which it is meant
  const FIRST = 6; // size of what is drawn around a mark, in the drawing's units

  const tip = document.createElement("div");
  tip.className = "tip";
  tip.setAttribute("role", "status");
  document.body.append(tip);

  const text = (parts) => Object.entries(parts)
    .map(([name, value]) => `${name}=${encodeURIComponent(value).replaceAll("%2F", "/").replaceAll("%2C", ",")}`)
    .join("&");
  const sideBySide = (parts) => `cells/responses.html#${text(parts)}`;

  const unique = (values) => [...new Set(values)];

  function address({ model, task, seed, arms, reference }) {
    if (task === null) return sideBySide({ model, seed, arms: unique([reference, ...arms]).join(",") });
    const folder = [model, task, ...arms[0].split("/"), `seed${seed}`].map(encodeURIComponent);
    return ["cells", ...folder, "index.html"].join("/");
  }

  function pointTargets(group, { series, points }) {
    const uses = [...group.querySelectorAll("use")];
    return points.slice(0, uses.length).map(({ says, at }, i) => ({
      series,
      x: Number(uses[i].getAttribute("x")),
      y: Number(uses[i].getAttribute("y")),
      says: [...says, at.task === null ? "Click: responses beside the misaligned arm’s" : "Click: the cell’s page"],
      href: address(at),
    }));
  }

  function gridTargets(group, { grid }) {
    const image = group.querySelector("image");
    if (!image) return [];
    const [x, y, width, height] = ["x", "y", "width", "height"].map((name) => Number(image.getAttribute(name)));
    const turned = image.transform.baseVal.consolidate();
    const corners = [[x, y], [x + width, y + height]].map(([left, top]) => (
      turned ? new DOMPoint(left, top).matrixTransform(turned.matrix) : new DOMPoint(left, top)
    ));
    const left = Math.min(corners[0].x, corners[1].x);
    const top = Math.min(corners[0].y, corners[1].y);
    const across = Math.abs(corners[1].x - corners[0].x) / grid.arms.length;
    const down = Math.abs(corners[1].y - corners[0].y) / grid.questions.length;
    return grid.questions.flatMap(([question, prompt], row) => grid.arms.map(([arm, title], column) => {
      const value = grid.values[row][column];
      const arms = unique([grid.reference, arm]).join(",");
      const rate = value === null ? "not measured" : `misaligned ${value.toFixed(1)} %`;
      return {
        x: left + (column + 0.5) * across,
        y: top + (row + 0.5) * down,
        width: across,
        height: down,
        says: [title, `${grid.title}: ${prompt}`, rate, "Click: its responses side by side"],
        href: sideBySide({ model: grid.model, task: grid.task, seed: grid.seed, set: grid.set, question, arms }),
      };
    }));
  }

  function enliven(figure) {
    const drawing = figure.querySelector(".drawing svg");
    const groups = [...drawing.querySelectorAll("[data-alive]")].map((group) => [group, JSON.parse(group.dataset.alive)]);
    if (groups.length === 0) return;
    for (const title of drawing.querySelectorAll("title")) title.remove(); // they would show twice
    const targets = groups.flatMap(([group, kept]) => (kept.grid ? gridTargets(group, kept) : pointTargets(group, kept)));
    const off = new Set();
    const there = () => targets.filter((target) => !off.has(target.series));
    let now = null; // the target that is shown

    const link = document.createElementNS(SVG, "a");
    const shape = document.createElementNS(SVG, targets.some((target) => target.width) ? "rect" : "circle");
    link.setAttribute("class", "cursor");
    link.setAttribute("draggable", "false");
    link.append(shape);
    drawing.append(link);
    const box = drawing.closest(".drawing");
    box.setAttribute("role", "group");

    function place(target) {
      now = target;
      link.setAttribute("href", target.href);
      link.setAttribute("aria-label", target.says.slice(0, -1).join(", "));
      const set = (parts) => Object.entries(parts).forEach(([name, value]) => shape.setAttribute(name, value));
      if (target.width) {
        set({ x: target.x - target.width / 2, y: target.y - target.height / 2, width: target.width, height: target.height });
      } else {
        set({ cx: target.x, cy: target.y, r: FIRST });
      }
    }

    function show(target) {
      place(target);
      link.classList.add("on");
      (drawing.closest("dialog") ?? document.body).append(tip);
      tip.replaceChildren(...target.says.map((line, i) => {
        const element = document.createElement(i === 0 ? "b" : "span");
        element.textContent = line;
        return element;
      }));
      tip.classList.add("on");
      const mark = shape.getBoundingClientRect();
      const { offsetWidth: width, offsetHeight: height } = tip;
      const left = Math.min(mark.right + 8, window.innerWidth - width - 8);
      const below = mark.bottom + 8 + height < window.innerHeight;
      tip.style.left = `${Math.max(8, left)}px`;
      tip.style.top = `${below ? mark.bottom + 8 : Math.max(8, mark.top - 8 - height)}px`;
    }

    function hide() {
      tip.classList.remove("on");
      link.classList.remove("on");
    }

    function under(event) {
      const matrix = drawing.getScreenCTM();
      const at = new DOMPoint(event.clientX, event.clientY).matrixTransform(matrix.inverse());
      let best = null;
      let nearest = NEAR / matrix.a;
      for (const target of there()) {
        const away = target.width
          ? Math.max(Math.abs(at.x - target.x) - target.width / 2, Math.abs(at.y - target.y) - target.height / 2)
          : Math.hypot(at.x - target.x, at.y - target.y);
        if (away <= nearest && (!target.width || away <= 0)) { // of marks at one place, the one on top
          best = target;
          nearest = away;
        }
      }
      return best;
    }

    function point(event) {
      const target = under(event);
      if (target === null) hide();
      else if (target !== now || !tip.classList.contains("on")) show(target);
    }

    drawing.addEventListener("pointermove", point);
    drawing.addEventListener("pointerleave", (event) => { // a finger that is lifted leaves what it has shown
      if (document.activeElement !== link && event.pointerType !== "touch") hide();
    });
    // A click at a mark does not enlarge the figure. A finger's first one shows the numbers, the next follows the link.
    drawing.addEventListener("click", (event) => {
      if (link.contains(event.target)) event.stopPropagation();
      else if (under(event) !== null) {
        event.stopPropagation();
        show(under(event));
      }
    }, true);

    function towards(key) {
      const left = there();
      const place = left.indexOf(now);
      if (!now.width) return left[place + (key === "ArrowRight" || key === "ArrowDown" ? 1 : -1)];
      const [x, y] = { ArrowRight: [1, 0], ArrowLeft: [-1, 0], ArrowDown: [0, 1], ArrowUp: [0, -1] }[key];
      const ahead = left
        .map((target) => [target, target.x - now.x, target.y - now.y])
        .map(([target, right, down]) => [target, right * x + down * y, Math.abs(right * y) + Math.abs(down * x)])
        .filter(([, along, aside]) => along > 0.1 && aside <= along)
        .sort((one, other) => one[1] + 2 * one[2] - other[1] - 2 * other[2]);
      return ahead[0]?.[0];
    }

    link.addEventListener("focus", () => show(now));
    link.addEventListener("blur", hide);
    link.addEventListener("keydown", (event) => {
      if (event.key === "Escape" && tip.classList.contains("on")) {
        event.stopPropagation();
        event.preventDefault(); // in the dialog it closes the numbers first
        hide();
      }
      if (!event.key.startsWith("Arrow")) return;
      event.preventDefault();
      event.stopPropagation();
      const next = towards(event.key);
      if (next) show(next);
    });

    const names = unique([...targets, ...groups.map(([, kept]) => kept)].map(({ series }) => series)).filter(Boolean);
    if (names.length > 1) figure.insertBefore(legend(names), figure.querySelector(".drawing"));
    if (targets.length > 0) place(targets[0]);

    function legend(series) {
      const element = document.createElement("div");
      element.className = "switches";
      element.setAttribute("role", "group");
      element.setAttribute("aria-label", "Shown in the figure");
      const buttons = series.map((name) => {
        const button = document.createElement("button");
        button.type = "button";
        button.append(swatch(name), name);
        button.addEventListener("click", () => {
          if (off.has(name)) off.delete(name);
          else off.add(name);
          draw();
        });
        return button;
      });
      const all = document.createElement("button");
      all.type = "button";
      all.addEventListener("click", () => {
        if (off.size > 0) off.clear();
        else for (const name of series) off.add(name);
        draw();
      });
      element.append(...buttons, all);

      function draw() {
        buttons.forEach((button, i) => button.setAttribute("aria-pressed", String(!off.has(series[i]))));
        all.textContent = off.size > 0 ? "All" : "None";
        for (const [group, kept] of groups) if (kept.series) group.style.display = off.has(kept.series) ? "none" : "";
        const left = there();
        link.style.display = left.length > 0 ? "" : "none";
        if (left.length > 0 && !left.includes(now)) place(left[0]);
      }

      draw();
      return element;
    }

    function swatch(name) {
      const found = groups.findLast(([group, kept]) => kept.series === name && kept.points.length > 0 && group.querySelector("use"));
      const element = document.createElementNS(SVG, "svg");
      element.setAttribute("viewBox", "-4 -4 8 8");
      element.setAttribute("aria-hidden", "true");
      if (found) {
        const mark = found[0].querySelector("use").cloneNode(true);
        mark.setAttribute("x", 0);
        mark.setAttribute("y", 0);
        element.append(mark);
      }
      return element;
    }
  }

  for (const figure of document.querySelectorAll("figure")) if (figure.querySelector(".drawing svg")) enliven(figure);
  window.addEventListener("scroll", () => document.activeElement?.classList.contains("cursor") || tip.classList.remove("on"), { passive: true });
  document.addEventListener("keydown", (event) => event.key === "Escape" && tip.classList.remove("on"));
})();
