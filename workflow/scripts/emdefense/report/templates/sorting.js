"use strict";
// Makes every table sort by a click on a heading: upwards, downwards, and as it was. Rows are sorted among those that
// stand between the same two lines, such as the arms of one task. Numbers sort by themselves, whatever stands beside
// them, and what was not measured stands last.
(() => {
  const NUMBER = /[-+−]?\d[\d,]*(?:\.\d+)?(?:e[-+]?\d+)?/;

  function text(cell) {
    const copy = cell.cloneNode(true);
    for (const beside of copy.querySelectorAll("sup, .paper, .note, .flag")) beside.remove();
    return copy.textContent.trim();
  }

  function key(cell) {
    const said = cell.dataset.value ?? text(cell);
    if (said === "" || said === "–") return null;
    const numeric = cell.classList.contains("number") || cell.dataset.value !== undefined;
    const found = numeric ? said.match(NUMBER) : null;
    if (!found) return said;
    const value = Number(found[0].replaceAll(",", "").replace("−", "-"));
    return said.startsWith("<") ? value - Math.abs(value) / 1e6 : value;
  }

  function compare(one, other) {
    if (typeof one === "number" && typeof other === "number") return one - other;
    return String(one).localeCompare(String(other), "en", { numeric: true });
  }

  // A cell that spans rows is each of theirs.
  function grid(body) {
    const rows = [...body.rows].map((row) => ({ row, cells: [] }));
    rows.forEach(({ row, cells }, n) => {
      let column = 0;
      for (const cell of row.cells) {
        while (cells[column]) column += 1;
        for (let down = 0; down < cell.rowSpan && n + down < rows.length; down += 1) {
          for (let across = 0; across < cell.colSpan; across += 1) rows[n + down].cells[column + across] = cell;
        }
      }
    });
    return rows;
  }

  // Rows that come to stand together under one cell share it again; elsewhere it is repeated.
  function lay(body, rows, spanning) {
    let above = [];
    let spans = [];
    for (const { row, cells } of rows) {
      const placed = cells.map((cell, column) => {
        if (!spanning.has(cell)) return cell;
        if (above[column] === cell) {
          spans[column].rowSpan += 1;
          return null;
        }
        const own = cell.cloneNode(true);
        own.rowSpan = 1;
        spans[column] = own;
        return own;
      });
      above = cells;
      row.replaceChildren(...placed.filter((cell, column) => cell && placed.indexOf(cell) === column));
      body.append(row);
    }
  }

  function sortable(table) {
    const headings = [...table.tHead.rows[table.tHead.rows.length - 1].cells];
    const bodies = [...table.tBodies].map((body) => ({ body, rows: grid(body) }));
    if (!bodies.some(({ rows }) => rows.length > 1)) return;
    const spanning = new Set(bodies.flatMap(({ rows }) => rows.flatMap(({ cells }) => cells)).filter((cell) => cell.rowSpan > 1));

    function sort(heading, column) {
      const next = { ascending: "descending", descending: null }[heading.getAttribute("aria-sort")];
      const order = next === undefined ? "ascending" : next;
      for (const other of headings) other.removeAttribute("aria-sort");
      if (order) heading.setAttribute("aria-sort", order);
      for (const { body, rows } of bodies) {
        const sorted = order ? rows.map((row) => [key(row.cells[column]), row]) : [];
        sorted.sort(([one], [other]) => {
          if (one === null || other === null) return (one === null) - (other === null);
          return order === "descending" ? compare(other, one) : compare(one, other);
        });
        lay(body, order ? sorted.map(([, row]) => row) : rows, spanning);
      }
    }

    headings.forEach((heading, column) => {
      if (!heading.textContent.trim()) return;
      const button = document.createElement("button");
      button.type = "button";
      button.append(...heading.childNodes);
      button.addEventListener("click", () => sort(heading, column));
      heading.append(button);
    });
  }

  for (const table of document.querySelectorAll("main table")) if (table.tHead && table.tBodies.length) sortable(table);
})();
