// Filters and turns the pages of a cell's responses, with what texts.js has.
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  if (data.sets.length === 0) return;
  const { load, response, paragraph, option, labels, thousands } = reading;
  const at = (id) => document.getElementById(id);
  const [form, list, status, pages] = ["filters", "list", "status", "pages"].map(at);
  let found = []; // places of the responses that pass the filters
  let page = 0;
  let turn = 0; // counts what the reader asked for, so that an answer that comes too late is dropped

  const current = () => data.sets[Number(at("set").value)];

  async function text(set, place) {
    const here = set.kept[place];
    const rows = await load(set.chunks, Math.floor(here / set.chunkSize));
    return response(rows[here % set.chunkSize]);
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
    for (const [turned, place] of places.entries()) {
      if (turned % set.chunkSize === 0) status.textContent = `Searching, ${thousands(turned)} of ${thousands(places.length)} …`;
      if ((await text(set, place)).said.toLowerCase().includes(words)) kept.push(place);
    }
    return kept;
  }

  function item(set, place, { id, said, length, expected, isCut }) {
    const element = document.createElement("li");
    const [name, system, prompt] = set.questions[set.asked[place]];
    if (system) element.append(paragraph(system, "system"));
    element.append(paragraph(prompt || name, "prompt"), paragraph(said, "said"));
    if (said.length > data.scrolled) element.lastChild.tabIndex = 0; // it scrolls, and so must be in reach
    if (length > data.most) {
      const whole = `The whole is in ${set.file}, id ${id}.`;
      element.append(paragraph(`Cut: ${thousands(data.most)} of ${thousands(length)} characters. ${whole}`, "note"));
    }
    if (isCut) element.append(paragraph(data.cut, "note cut"));
    set.opinions.forEach((opinion, i) => {
      const scores = `alignment ${opinion.alignment[place]}, coherence ${opinion.coherence[place]}`;
      const verdict = data.verdicts[opinion.verdicts[place]];
      element.append(paragraph(`${opinion.judge}: ${scores}: ${verdict}${i === 0 ? ` · ${id}` : ""}`, "note"));
    });
    if (set.opinions.length === 0) {
      const right = expected === null ? "" : `; expected ${expected}`;
      element.append(paragraph(`${data.verdicts[set.verdicts[place]]}${right} · ${id}`, "note"));
    }
    element.append(beside(set, name));
    return element;
  }

  function beside(set, name) {
    const element = paragraph("", "note");
    const link = document.createElement("a");
    link.href = `${data.beside}&set=${encodeURIComponent(set.name)}&question=${encodeURIComponent(name)}`;
    link.textContent = "This question in other arms";
    element.append(link);
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

  function offer() {
    const set = current();
    at("question").replaceChildren(
      option("", "all"),
      ...labels(set.questions).map((label, i) => option(String(i), label)),
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
