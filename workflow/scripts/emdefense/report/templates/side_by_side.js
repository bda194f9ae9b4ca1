// Shows one question's responses in columns, with what texts.js has. What is shown is in the address's fragment.
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  if (data.columns.length === 0) return;
  const { load, response, paragraph, option, labels, thousands } = reading;
  const at = (id) => document.getElementById(id);
  const SELECTS = ["model", "task", "seed", "set", "question"];
  const DIFFER = "differ";
  const CUT = "cut";
  const state = {}; // what the reader asked for: SELECTS, arms (null: those at chosen settings), verdict, text, from
  let turn = 0; // counts what the reader asked for, so that an answer that comes too late is dropped
  let passing = 0; // how many samples pass the filters

  const unique = (values) => [...new Set(values)];
  const isOf = (...names) => (column) => names.every((name) => column[name] === null || column[name] === state[name]);
  const columns = () => data.columns.filter(isOf("model", "task", "seed"));
  const asked = () => columns().filter((column) => state.set in column.sets);
  const isShown = (column) => (state.arms === null ? column.chosen : state.arms.includes(column.arm));
  const shown = () => asked().filter(isShown);
  const list = (column) => data.lists[column.sets[state.set][1]];

  function questions() {
    const found = new Map();
    for (const column of [...shown(), ...asked()]) {
      for (const question of list(column)) if (!found.has(question[0])) found.set(question[0], question);
    }
    return [...found.values()];
  }

  function choices(name) {
    const of = { model: [], task: ["model"], seed: ["model", "task"] };
    if (name === "question") return questions().map(([id]) => id);
    if (name === "set") return Object.keys(data.sets).filter((set) => columns().some((column) => set in column.sets));
    const found = unique(data.columns.filter(isOf(...of[name])).map((column) => column[name]));
    return found.length > 1 ? found.filter((value) => value !== null) : found.map((value) => value ?? "");
  }

  // What is not there is replaced by the first that is; returns which was.
  function settle() {
    const lost = [];
    for (const name of SELECTS) {
      const there = choices(name);
      if (there.includes(state[name])) continue;
      if (state[name] !== null && state[name] !== undefined) lost.push(name);
      state[name] = there[0];
    }
    if (!state.arms) return lost;
    const known = state.arms.filter((arm) => columns().some((column) => column.arm === arm));
    if (known.length < state.arms.length) lost.push("arms");
    if (known.length === 0 && state.arms.length > 0) state.arms = null;
    return lost;
  }

  function read() {
    const given = new URLSearchParams(window.location.hash.slice(1));
    for (const name of SELECTS) state[name] = given.get(name);
    state.arms = given.has("arms") ? given.get("arms").split(",").filter((arm) => arm !== "") : null;
    state.verdict = given.get("verdict") ?? "";
    state.text = given.get("text") ?? "";
    state.from = Math.max(0, (Number.parseInt(given.get("from"), 10) || 1) - 1);
  }

  function fragment() {
    const parts = SELECTS.map((name) => [name, state[name]]);
    if (state.arms !== null) parts.push(["arms", state.arms.join(",")]);
    if (state.verdict) parts.push(["verdict", state.verdict]);
    if (state.text) parts.push(["text", state.text]);
    if (state.from) parts.push(["from", String(state.from + 1)]);
    const plain = (text) => encodeURIComponent(text).replaceAll("%2F", "/").replaceAll("%2C", ",");
    return `#${parts.map(([name, value]) => `${name}=${plain(value)}`).join("&")}`;
  }

  function fill(name, values, titles) {
    at(name).replaceChildren(...values.map((value, i) => option(value, titles[i])));
    at(name).value = state[name];
    at(name).closest(".field").hidden = values.length < 2 && name !== "question";
  }

  function offerArms() {
    const boxes = [...at("arm-boxes").querySelectorAll("input")];
    const there = asked();
    if (boxes.length === there.length && boxes.every((box, i) => box.value === there[i].arm)) {
      boxes.forEach((box, i) => { box.checked = isShown(there[i]); }); // the focus stays where it is
      return;
    }
    const made = there.map((column) => {
      const [label, box] = ["label", "input"].map((kind) => document.createElement(kind));
      box.type = "checkbox";
      box.value = column.arm;
      box.checked = isShown(column);
      label.append(box, ` ${column.title}`);
      return label;
    });
    at("arm-boxes").replaceChildren(at("arm-boxes").querySelector("legend"), ...made);
  }

  function offer() {
    const titles = (name) => (value) => data[`${name}s`][value] ?? value;
    for (const name of ["model", "task", "set"]) fill(name, choices(name), choices(name).map(titles(name)));
    fill("seed", choices("seed"), choices("seed"));
    fill("question", choices("question"), labels(questions()));
    const isMarked = state.set === data.marked;
    const verdicts = Object.keys(data.verdicts).filter((letter) => (
      isMarked ? "wc".includes(letter) : data.judges.length > 0 && "minx".includes(letter)
    ));
    at("verdict").replaceChildren(
      option("", "all"),
      ...verdicts.map((letter) => option(letter, `some answer ${data.verdicts[letter]}`)),
      ...(verdicts.length > 0 ? [option(DIFFER, "verdicts differ")] : []),
      ...(isMarked ? [] : [option(CUT, "some answer cut at the limit")]),
    );
    at("verdict").value = state.verdict;
    if (at("verdict").value !== state.verdict) {
      at("verdict").value = "";
      state.verdict = "";
    }
    at("search").value = state.text;
    offerArms();
  }

  async function responses(column) {
    const [folder, , counts] = column.sets[state.set];
    const place = list(column).findIndex(([id]) => id === state.question);
    if (place < 0) return null;
    const count = (question) => (typeof counts === "number" ? counts : counts[question]);
    let first = 0;
    for (let question = 0; question < place; question += 1) first += count(question);
    const end = first + count(place);
    const found = [];
    for (let number = Math.floor(first / data.chunkSize); number * data.chunkSize < end; number += 1) {
      const rows = await load(folder, number);
      const start = number * data.chunkSize;
      found.push(...rows.slice(Math.max(0, first - start), end - start));
    }
    return found.map(response);
  }

  function passes(answers) {
    const there = answers.filter((answer) => answer);
    const words = state.text.trim().toLowerCase();
    if (words !== "" && !there.some((answer) => answer.said.toLowerCase().includes(words))) return false;
    if (state.verdict === "") return true;
    if (state.verdict === CUT) return there.some((answer) => answer.isCut);
    const verdicts = there.map((answer) => answer.verdicts[0]);
    return state.verdict === DIFFER ? unique(verdicts).length > 1 : verdicts.includes(state.verdict);
  }

  function scores(answer) {
    if (answer.scores.length === 0) {
      const right = answer.expected === null ? "" : `; expected ${answer.expected}`;
      return [`${data.verdicts[answer.verdicts]}${right}`];
    }
    return data.judges.slice(0, answer.verdicts.length).map((judge, i) => {
      const said = `alignment ${answer.scores[2 * i]}, coherence ${answer.scores[2 * i + 1]}: ${data.verdicts[answer.verdicts[i]]}`;
      return data.judges.length > 1 ? `${judge}: ${said}` : said;
    });
  }

  function cell(answer) {
    const element = document.createElement("td");
    if (!answer) {
      element.append(paragraph("no such sample", "note"));
      return element;
    }
    element.className = answer.verdicts[0];
    const said = paragraph(answer.said, "said");
    if (answer.said.length > data.scrolled) said.tabIndex = 0; // it scrolls, and so must be in reach
    element.append(...scores(answer).map((line) => paragraph(line, "note")), said);
    if (answer.isCut) element.append(paragraph(data.cut, "note cut"));
    if (answer.length > data.most) {
      const page = `${thousands(data.most)} of ${thousands(answer.length)} characters are shown`;
      element.append(paragraph(`${page}; the whole is in responses.jsonl, id ${answer.id}.`, "note"));
    }
    return element;
  }

  function counted(answers) {
    if (answers === null) return "not asked this question";
    const number = (letter) => answers.filter((answer) => answer.verdicts[0] === letter).length;
    const letter = state.set === data.marked ? "c" : data.judges.length > 0 ? "m" : "u";
    const said = [`${number(letter)} of ${answers.length} ${data.verdicts[letter]}`];
    if (number("i") > 0) said.push(`${number("i")} incoherent`);
    const cut = answers.filter((answer) => answer.isCut).length;
    if (cut > 0) said.push(`${cut} cut at the limit`);
    return said.join(", ");
  }

  function heading(column, answers, ownSystem) {
    const element = document.createElement("th");
    element.scope = "col";
    const link = document.createElement("a");
    link.href = column.page;
    link.textContent = column.title;
    element.append(link, paragraph(counted(answers), "note"));
    if (ownSystem !== null) element.append(paragraph(ownSystem ? `System prompt: ${ownSystem}` : "No system prompt", "note"));
    return element;
  }

  function numbered(tag, scope, content) {
    const element = document.createElement(tag);
    element.scope = scope;
    element.textContent = content;
    return element;
  }

  function draw(there, answers, lost) {
    const of = (column) => list(column).find(([id]) => id === state.question);
    const systems = there.map((column) => of(column)?.[1] ?? "");
    const alike = unique(systems).length < 2;
    const [name, system, prompt] = questions().find(([id]) => id === state.question);
    const one = alike ? systems[0] ?? system : "";
    at("asked").replaceChildren(...(one ? [paragraph(one, "system")] : []), paragraph(prompt || name, "prompt"));
    const row = document.createElement("tr");
    row.append(
      numbered("th", "col", "Sample"),
      ...there.map((column, i) => heading(column, answers[i], alike ? null : systems[i])),
    );
    const bySample = answers.map((found) => new Map((found ?? []).map((answer) => [answer.sample, answer])));
    const every = unique(bySample.flatMap((found) => [...found.keys()])).sort((one, other) => one - other);
    const kept = every.filter((sample) => passes(bySample.map((found) => found.get(sample))));
    if (state.from >= kept.length) state.from = 0;
    passing = kept.length;
    const rows = kept.slice(state.from, state.from + data.rows).map((sample) => {
      const element = document.createElement("tr");
      element.append(numbered("th", "row", String(sample + 1)), ...bySample.map((found) => cell(found.get(sample))));
      return element;
    });
    const grid = at("grid");
    grid.tHead.replaceChildren(row);
    grid.tBodies[0].replaceChildren(...rows);
    at("scroll").hidden = there.length === 0 || kept.length === 0;
    say(there, every.length, rows.length, lost);
  }

  function say(there, every, rows, lost) {
    const names = choices("question");
    const number = `Question ${thousands(names.indexOf(state.question) + 1)} of ${thousands(names.length)}`;
    const range = `samples ${thousands(state.from + 1)}–${thousands(state.from + rows)} of ${thousands(passing)}`;
    const chosen = passing < every ? `, chosen from ${thousands(every)}` : "";
    const said = there.length === 0
      ? "no arm is chosen"
      : passing === 0 ? `no sample of ${thousands(every)} is like that` : range + chosen;
    const other = lost.length > 0 ? ` What the link asked for is not here (${lost.join(", ")}); this is what is.` : "";
    at("status").textContent = `${number}: ${said}.${other}`;
    at("arms-shown").textContent = `Arms: ${there.length} of ${asked().length} in columns`;
    at("pages").hidden = passing <= data.rows;
    at("previous").disabled = state.from === 0;
    at("next").disabled = state.from + rows >= passing;
    at("previous-question").disabled = names.indexOf(state.question) === 0;
    at("next-question").disabled = names.indexOf(state.question) === names.length - 1;
    at("link").href = fragment();
  }

  // A "push" is a step that the browser's Back takes back, a "replace" is none; a "link" is what the reader came by.
  async function show(entry) {
    const mine = (turn += 1);
    const settled = settle();
    const lost = entry === "link" ? settled : [];
    offer();
    const there = shown();
    at("status").className = "";
    try {
      const answers = await Promise.all(there.map(responses));
      if (mine !== turn) return;
      draw(there, answers, lost);
      if (entry === "push" && fragment() !== window.location.hash) window.history.pushState(null, "", fragment());
      else window.history.replaceState(null, "", fragment());
    } catch (error) {
      if (mine !== turn) return;
      at("status").className = "bad";
      at("status").textContent = error.message;
    }
  }

  function step(by) {
    const names = choices("question");
    const next = names[names.indexOf(state.question) + by];
    if (next === undefined) return;
    Object.assign(state, { question: next, from: 0 });
    at("scroll").scrollTop = 0;
    show("push");
  }

  function turnTo(from) {
    if (from < 0 || from >= passing) return;
    state.from = from;
    at("scroll").scrollTop = 0;
    show("replace");
  }

  function choose(arms) {
    state.arms = arms;
    show("replace");
  }

  at("where").addEventListener("change", (event) => {
    Object.assign(state, { [event.target.id]: event.target.value, from: 0 });
    show("push");
  });
  at("where").addEventListener("submit", (event) => event.preventDefault());
  const filter = () => {
    Object.assign(state, { verdict: at("verdict").value, text: at("search").value, from: 0 });
    show("replace");
  };
  at("verdict").addEventListener("change", filter);
  at("filters").addEventListener("submit", (event) => {
    event.preventDefault();
    filter();
  });
  at("filters").addEventListener("reset", (event) => {
    event.preventDefault();
    Object.assign(state, { verdict: "", text: "", from: 0 });
    show("replace");
  });
  at("arm-boxes").addEventListener("change", () => {
    const boxes = [...at("arm-boxes").querySelectorAll("input")];
    state.arms = boxes.filter((box) => box.checked).map((box) => box.value);
    show("replace");
  });
  at("chosen-arms").addEventListener("click", () => choose(null));
  at("all-arms").addEventListener("click", () => choose(asked().map((column) => column.arm)));
  at("no-arms").addEventListener("click", () => choose([]));
  at("previous-question").addEventListener("click", () => step(-1));
  at("next-question").addEventListener("click", () => step(1));
  at("previous").addEventListener("click", () => turnTo(state.from - data.rows));
  at("next").addEventListener("click", () => turnTo(state.from + data.rows));

  const keys = {
    j: () => step(1),
    k: () => step(-1),
    n: () => turnTo(state.from + data.rows),
    p: () => turnTo(state.from - data.rows),
  };
  document.addEventListener("keydown", (event) => {
    const isTyping = event.target.closest("select, input:not([type=checkbox]), textarea") !== null;
    if (!at("keys").checked || isTyping || event.ctrlKey || event.metaKey || event.altKey) return;
    if (event.key in keys) {
      event.preventDefault();
      keys[event.key]();
    }
  });
  window.addEventListener("popstate", () => {
    read();
    show("link");
  });

  at("no-script").hidden = true;
  at("beside").hidden = false;
  read();
  show("link");
})();
