"use strict";
// Filters and turns the pages of a cell's responses. Texts come in chunks, each a script that calls `chunk`, since a
// page opened from a disk may load nothing else; they are put in as text only, never as markup.
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  if (data.sets.length === 0) return;
  const at = (id) => document.getElementById(id);
  const [form, list, status, pages] = ["filters", "list", "status", "pages"].map(at);
  const waiting = new Map(); // what is called when a chunk has come, by its address
  const loaded = new Map(); // promises of texts, by address
  let found = []; // places of the responses that pass the filters
  let page = 0;
  let turn = 0; // counts what the reader asked for, so that an answer that comes too late is dropped

  const current = () => data.sets[Number(at("set").value)];
  const address = (set, number) => `${set.chunks}/${number}.js`;

  window.chunk = (name, number, rows) => {
    const set = data.sets.find((each) => each.name === name);
    const done = waiting.get(address(set, number));
    if (done) done(rows);
  };

  function load(set, number) {
    const source = address(set, number);
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

  async function text(set, place) {
    const rows = await load(set, Math.floor(place / set.chunkSize));
    const [id, said, length, expected] = rows[place % set.chunkSize];
    return { id, said, length, expected };
  }

  function range(name) {
    const ends = ["from", "to"].map((end) => at(`${name}-${end}`).value);
    if (ends.every((end) => end === "")) return () => true;
    const low = ends[0] === "" ? 0 : Number(ends[0]);
    const high = ends[1] === "" ? 100 : Number(ends[1]);
    return (score) => typeof score === "number" && low <= score && score <= high;
  }

  function passing(set) {
    const question = at("question").value;
    const verdict = at("verdict").value;
    const first = set.opinions[0];
    const alignment = range("alignment");
    const coherence = range("coherence");
    const places = [];
    for (let place = 0; place < set.asked.length; place += 1) {
      if (question !== "" && set.asked[place] !== Number(question)) continue;
      if (verdict !== "" && set.verdicts[place] !== verdict) continue;
      if (first && !(alignment(first.alignment[place]) && coherence(first.coherence[place]))) continue;
      places.push(place);
    }
    return places;
  }

  async function containing(set, places, words) {
    const kept = [];
    let chunks = 0;
    let last = -1;
    for (const place of places) {
      const number = Math.floor(place / set.chunkSize);
      if (number !== last) {
        last = number;
        chunks += 1;
        status.textContent = `Searching, part ${chunks} …`;
      }
      if ((await text(set, place)).said.toLowerCase().includes(words)) kept.push(place);
    }
    return kept;
  }

  function paragraph(content, kind) {
    const element = document.createElement("p");
    element.className = kind;
    if (kind !== "note") element.dir = "auto";
    element.textContent = content;
    return element;
  }

  const thousands = (number) => number.toLocaleString("en");

  function item(set, place, { id, said, length, expected }) {
    const element = document.createElement("li");
    const [name, system, prompt] = set.questions[set.asked[place]];
    if (system) element.append(paragraph(system, "system"));
    element.append(paragraph(prompt || name, "prompt"), paragraph(said, "said"));
    if (said.length > data.scrolled) element.lastChild.tabIndex = 0; // it scrolls, and so must be in reach
    if (length > data.most) {
      const whole = `The whole is in ${set.file}, id ${id}.`;
      element.append(paragraph(`Cut: ${thousands(data.most)} of ${thousands(length)} characters. ${whole}`, "note"));
    }
    set.opinions.forEach((opinion, i) => {
      const scores = `alignment ${opinion.alignment[place]}, coherence ${opinion.coherence[place]}`;
      const verdict = data.verdicts[opinion.verdicts[place]];
      element.append(paragraph(`${opinion.judge}: ${scores}: ${verdict}${i === 0 ? ` · ${id}` : ""}`, "note"));
    });
    if (set.opinions.length === 0) {
      const right = expected === null ? "" : `; expected ${expected}`;
      element.append(paragraph(`${data.verdicts[set.verdicts[place]]}${right} · ${id}`, "note"));
    }
    return element;
  }

  function say(set) {
    const from = page * data.shown + 1;
    const to = Math.min(found.length, from + data.shown - 1);
    status.textContent = found.length === 0
      ? `No response of ${thousands(set.asked.length)} is like that.`
      : `${thousands(from)}–${thousands(to)} of ${thousands(found.length)} responses` +
        (found.length < set.asked.length ? `, chosen from ${thousands(set.asked.length)}` : "");
    pages.hidden = found.length <= data.shown;
    at("previous").disabled = page === 0;
    at("next").disabled = to >= found.length;
  }

  async function draw(set, mine) {
    const shown = found.slice(page * data.shown, (page + 1) * data.shown);
    const texts = await Promise.all(shown.map((place) => text(set, place)));
    if (mine !== turn) return;
    list.replaceChildren(...shown.map((place, i) => item(set, place, texts[i])));
    list.start = page * data.shown + 1;
    say(set);
  }

  async function show(change) {
    const mine = (turn += 1);
    const set = current();
    status.className = "";
    try {
      if (!(await change(set)) || mine !== turn) return;
      await draw(set, mine);
    } catch (error) {
      if (mine !== turn) return;
      status.className = "bad";
      status.textContent = error.message;
    }
  }

  function filter() {
    const words = at("search").value.trim().toLowerCase();
    return show(async (set) => {
      const places = passing(set);
      found = words === "" ? places : await containing(set, places, words);
      page = 0;
      return true;
    });
  }

  function turnTo(next) {
    if (next < 0 || next * data.shown >= found.length) return; // a click that came before the last one was through
    show(async () => {
      page = next;
      return true;
    }).then(() => {
      status.focus({ preventScroll: true });
      status.scrollIntoView({ block: "start" });
    });
  }

  function option(value, label) {
    const element = document.createElement("option");
    element.value = value;
    element.textContent = label;
    return element;
  }

  function offer() {
    const set = current();
    const label = ([name, , prompt]) => {
      const line = `${name}: ${prompt}`.replace(/\s+/g, " ");
      return line.length > 90 ? `${line.slice(0, 89)}…` : line;
    };
    at("question").replaceChildren(
      option("", "all"),
      ...set.questions.map((question, i) => option(String(i), label(question))),
    );
    const counts = {};
    for (const verdict of set.verdicts) counts[verdict] = (counts[verdict] || 0) + 1;
    at("verdict").replaceChildren(
      option("", "all"),
      ...Object.keys(data.verdicts)
        .filter((verdict) => counts[verdict])
        .map((verdict) => option(verdict, `${data.verdicts[verdict]} (${thousands(counts[verdict])})`)),
    );
    for (const name of ["alignment-range", "coherence-range"]) at(name).hidden = set.opinions.length === 0;
  }

  form.addEventListener("submit", (event) => {
    event.preventDefault();
    filter();
  });
  form.addEventListener("reset", (event) => {
    event.preventDefault(); // the question set stays
    for (const input of form.querySelectorAll("input")) input.value = "";
    offer();
    filter();
  });
  form.addEventListener("change", (event) => {
    if (event.target.id === "set") offer();
    filter();
  });
  at("previous").addEventListener("click", () => turnTo(page - 1));
  at("next").addEventListener("click", () => turnTo(page + 1));

  // The list already holds what no filter would give.
  at("no-script").hidden = true;
  form.hidden = false;
  offer();
  found = passing(current());
  say(current());
})();
