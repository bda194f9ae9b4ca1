"use strict";
// Filters the list of cells, chooses a model's tables, and shows a figure large. Without it the page is
// whole, only still.
(() => {
  const models = document.getElementById("model-filter");

  function filterTables() {
    const wanted = document.getElementById("table-model").value;
    for (const artefact of document.querySelectorAll(".artefact[data-model]")) {
      artefact.hidden = wanted !== "" && artefact.dataset.model !== wanted;
    }
    // A fold that all of its tables and figures have gone from says so.
    for (const fold of document.querySelectorAll("details.fold")) {
      fold.querySelector(".nothing-of-model")?.remove();
      const artefacts = [...fold.querySelectorAll(".artefact")];
      if (artefacts.length && artefacts.every((artefact) => artefact.hidden)) {
        fold.insertAdjacentHTML("beforeend", '<p class="note nothing-of-model">Nothing of this model.</p>');
      }
    }
  }

  if (models) {
    models.hidden = false;
    models.addEventListener("change", filterTables);
    models.addEventListener("submit", (event) => event.preventDefault());
    filterTables(); // a reload keeps what was chosen
  }

  const table = document.getElementById("cell-table");
  const form = document.getElementById("cell-filter");

  function filterCells() {
    const wanted = ["model", "task", "arm"].map((name) => [name, document.getElementById(`cell-${name}`).value]);
    let shown = 0;
    for (const row of table.tBodies[0].rows) {
      row.hidden = !wanted.every(([name, value]) => value === "" || row.dataset[name] === value);
      if (!row.hidden) shown += 1;
    }
    document.getElementById("cell-count").textContent = `${shown} of ${table.tBodies[0].rows.length} cells`;
  }

  if (table) {
    form.hidden = false;
    form.addEventListener("change", filterCells);
    form.addEventListener("submit", (event) => event.preventDefault());
    form.addEventListener("reset", (event) => {
      event.preventDefault();
      for (const select of form.querySelectorAll("select")) select.value = "";
      filterCells();
    });
    filterCells();
  }

  // A figure moves into the dialog and back again: a copy would have the same ids a second time.
  const dialog = document.getElementById("zoom");
  const view = document.getElementById("zoom-view");
  const STEP = 1.25;
  const MOST = 16;
  let figure = null; // the drawing, and where it belongs
  let scale = 1;

  function fit() {
    const { width, height } = figure.drawing.viewBox.baseVal;
    const room = [view.clientWidth - 24, view.clientHeight - 24];
    return { width: Math.min(room[0], (room[1] * width) / height), ratio: height / width };
  }

  function zoom(factor, x = view.clientWidth / 2, y = view.clientHeight / 2) {
    const before = scale;
    scale = Math.min(MOST, Math.max(1, scale * factor));
    const { width } = fit();
    const [left, top] = [view.scrollLeft + x, view.scrollTop + y];
    figure.drawing.style.width = `${width * scale}px`;
    view.scrollTo(left * (scale / before) - x, top * (scale / before) - y);
    document.getElementById("zoom-scale").textContent = `${Math.round(100 * scale)} %`;
  }

  function open(element) {
    const drawing = element.querySelector(".drawing svg"); // its legend has drawings, too
    const home = drawing.parentElement;
    home.style.minHeight = `${home.offsetHeight}px`;
    home.style.minWidth = `${home.offsetWidth}px`;
    figure = { drawing, home };
    document.getElementById("zoom-caption").textContent = element.querySelector("figcaption").textContent;
    dialog.showModal();
    view.replaceChildren(drawing);
    scale = 1;
    zoom(1);
    view.focus();
  }

  for (const button of document.querySelectorAll("button.enlarge")) {
    const element = button.closest("figure");
    button.hidden = false;
    button.addEventListener("click", () => open(element));
    element.querySelector(".drawing").addEventListener("click", () => open(element));
    element.querySelector(".drawing").classList.add("zoomable");
  }

  dialog.addEventListener("close", () => {
    figure.drawing.style.width = "";
    figure.home.append(figure.drawing);
    figure.home.style.minHeight = "";
    figure.home.style.minWidth = "";
  });
  document.getElementById("zoom-in").addEventListener("click", () => zoom(STEP));
  document.getElementById("zoom-out").addEventListener("click", () => zoom(1 / STEP));
  document.getElementById("zoom-fit").addEventListener("click", () => zoom(1 / scale));
  document.getElementById("zoom-close").addEventListener("click", () => dialog.close());
  dialog.addEventListener("keydown", (event) => {
    const factors = { "+": STEP, "=": STEP, "-": 1 / STEP, "0": 1 / scale };
    if (!(event.key in factors) || event.ctrlKey || event.metaKey) return;
    event.preventDefault();
    zoom(factors[event.key]);
  });
  view.addEventListener("wheel", (event) => {
    event.preventDefault();
    const box = view.getBoundingClientRect();
    zoom(Math.exp(-event.deltaY / 500), event.clientX - box.left, event.clientY - box.top);
  }, { passive: false });
  view.addEventListener("pointermove", (event) => {
    if (event.buttons === 1) view.scrollBy(-event.movementX, -event.movementY);
  });
  window.addEventListener("resize", () => dialog.open && zoom(1));
})();
