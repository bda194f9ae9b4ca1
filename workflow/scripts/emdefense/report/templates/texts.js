"use strict";
// What pages with responses share. Texts come in files, each a script that calls `chunk`, since a page opened from a
// disk may load nothing else; they are put in as text only, never as markup.
const reading = (() => {
  const waiting = new Map(); // what is called when a file has come, by its address
  const loaded = new Map(); // promises of rows, by address

  window.chunk = (name, number, rows) => {
    const done = waiting.get(document.currentScript.getAttribute("src"));
    if (done) done(rows);
  };

  function load(folder, number) {
    const source = `${folder}/${number}.js`;
    if (!loaded.has(source)) {
      loaded.set(source, new Promise((resolve, reject) => {
        const script = document.createElement("script");
        waiting.set(source, resolve);
        script.src = source;
        script.onload = () => script.remove();
        script.onerror = () => {
          loaded.delete(source);
          reject(new Error(`${source} could not be loaded; it belongs beside this page.`));
        };
        document.head.append(script);
      }));
    }
    return loaded.get(source);
  }

  const response = ([id, said, length, expected, sample, isCut, verdicts, scores]) => (
    { id, said, length, expected, sample, isCut: isCut === 1, verdicts, scores }
  );

  function paragraph(content, kind) {
    const element = document.createElement("p");
    element.className = kind;
    if (kind !== "note") element.dir = "auto";
    element.textContent = content;
    return element;
  }

  function option(value, label) {
    const element = document.createElement("option");
    element.value = value;
    element.textContent = label;
    return element;
  }

  // A question is known by its text; by its id as well where another has the same.
  function labels(questions) {
    const lines = questions.map(([name, , prompt]) => {
      const line = (prompt || name).replace(/\s+/g, " ");
      return line.length > 90 ? `${line.slice(0, 89)}…` : line;
    });
    return lines.map((line, i) => (
      lines.some((other, j) => j !== i && other === line) ? `${line} (${questions[i][0]})` : line
    ));
  }

  const thousands = (number) => number.toLocaleString("en");

  return { load, response, paragraph, option, labels, thousands };
})();
