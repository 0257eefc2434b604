"use strict";
(() => {
  const element = (id) => document.getElementById(id);
  const make = (tag, className, text) => {
    const node = document.createElement(tag);
    if (className) node.className = className;
    if (text !== undefined) node.textContent = text;
    return node;
  };

  // ---------------------------------------------------------------- colours
  const theme = element("theme");
  const paint = () => {
    if (theme.value) document.documentElement.dataset.theme = theme.value;
    else delete document.documentElement.dataset.theme;
  };
  try { theme.value = localStorage.getItem("tiny-audio-theme") || ""; } catch { /* none kept */ }
  paint();
  theme.addEventListener("change", () => {
    paint();
    try { localStorage.setItem("tiny-audio-theme", theme.value); } catch { /* none kept */ }
  });

  // ---------------------------------------------------------------- data
  const data = JSON.parse(element("data").textContent);
  const systems = data.systems;
  const two = systems.length === 2;
  const utterances = data.utterances;
  const percent = (rate) => (rate === null ? "–" : `${(100 * rate).toFixed(1)} %`);

  // One word of the alignments: the reference, what each system wrote there, and what that is.
  const columns = (reference, hypotheses) => {
    const words = reference ? reference.split(" ") : [];
    const all = hypotheses.map((one) => {
      const gaps = words.concat("").map(() => []);
      const at = [];
      let next = 0;
      for (const step of one.steps || "") {
        if (step === "i") gaps[at.length].push(one.words[next++]);
        else if (step === "s") at.push(["sub", one.words[next++]]);
        else if (step === "d") at.push(["del", ""]);
        else at.push(["same", words[at.length]]);
      }
      return { gaps, at };
    });
    const found = [];
    for (let place = 0; place <= words.length; place++) {
      const most = Math.max(...all.map((one) => one.gaps[place].length));
      for (let extra = 0; extra < most; extra++) {
        found.push(["", all.map((one) => {
          const word = one.gaps[place][extra];
          return word === undefined ? ["none", ""] : ["ins", word];
        })]);
      }
      if (place < words.length) {
        found.push([words[place], all.map((one) => one.at[place] || ["none", ""])]);
      }
    }
    return found;
  };

  utterances.forEach((one, place) => {
    one.place = place;
    const words = one.reference ? one.reference.split(" ").length : 0;
    one.errors = one.hypotheses.map((hypothesis) =>
      hypothesis.error ? null : [...hypothesis.steps].filter((step) => step !== "=").length);
    one.wer = one.errors.map((errors) => (errors === null || !words ? null : errors / words));
    one.worst = Math.max(...one.errors.map((errors) => (errors === null ? -1 : errors)));
    one.difference = two ? one.errors[1] - one.errors[0] : 0;
    one.text = [one.id, one.speaker, one.reference, one.raw, ...one.hypotheses.flatMap((hypothesis) =>
      [hypothesis.raw, (hypothesis.words || []).join(" "), hypothesis.error])].join("\n").toLowerCase();
  });

  // ---------------------------------------------------------------- filters
  const option = (select, value, text) => {
    const node = make("option", "", text);
    node.value = value;
    select.append(node);
  };
  const rate = (place) => (one) => (one.wer[place] === null
    ? (one.errors[place] ? Infinity : -1) : one.wer[place]);
  const shows = {
    all: ["all", () => true],
    wrong: ["with errors", (one) => one.worst > 0],
    right: ["without errors", (one) => one.worst === 0],
    empty: ["empty hypothesis", (one) => one.reference && one.hypotheses.some((h) => h.steps && !/[=si]/.test(h.steps))],
    cut: ["cut off", (one) => one.hypotheses.some((hypothesis) => hypothesis.cut)],
    failed: ["failed", (one) => one.hypotheses.some((hypothesis) => hypothesis.error)],
  };
  const sorts = {
    errors: ["errors", (one) => one.worst],
    wer: ["WER", rate(0)],
    seconds: ["seconds", (one) => one.seconds],
    id: ["id", (one) => one.id],
    confidence: ["confidence", (one) => one.hypotheses[0].logprob ?? -Infinity],
    place: ["order of the set", (one) => one.place],
  };
  if (two) {
    sorts.wer[0] = `WER, ${systems[0]}`;
    sorts.wer2 = [`WER, ${systems[1]}`, rate(1)];
    sorts.change = ["change, either way", (one) => Math.abs(one.difference)];
    sorts.worse = [`fewer errors in ${systems[0]}`, (one) => one.difference];
    shows.first = [`${systems[0]} better`, (one) => one.difference > 0];
    shows.second = [`${systems[1]} better`, (one) => one.difference < 0];
    shows.differ = ["systems differ", (one) => one.hypotheses[0].raw !== one.hypotheses[1].raw];
  }
  for (const [key, [text, test]] of Object.entries(shows)) {
    if (key === "all" || utterances.some(test)) option(element("show"), key, text);
  }
  for (const [key, [text]] of Object.entries(sorts)) option(element("sort"), key, text);
  if (two) element("sort").value = "change";
  const sets = [...new Set(utterances.map((one) => one.set))];
  option(element("set"), "", "all");
  for (const name of sets) option(element("set"), name, name);
  element("set-label").hidden = sets.length < 2;

  let chosen = null; // a confusion: { system, reference, hypothesis }
  let found = utterances;
  let page = 0;
  const phrase = (words, wanted) => ` ${words} `.includes(` ${wanted} `);
  const happened = (one) => {
    const hypothesis = one.hypotheses[chosen.system];
    if (hypothesis.error) return false;
    if (/ /.test(chosen.reference + chosen.hypothesis)) {
      return phrase(one.reference, chosen.reference) && phrase(columns(one.reference, [hypothesis])
        .map((step) => step[1][0][1]).filter((word) => word).join(" "), chosen.hypothesis);
    }
    return columns(one.reference, [hypothesis]).some(([reference, [[kind, word]]]) =>
      kind !== "same" && reference === chosen.reference && word === chosen.hypothesis);
  };
  const filter = () => {
    const wanted = element("search").value.trim().toLowerCase();
    const test = shows[element("show").value][1];
    const set = element("set").value;
    const least = element("least").value === "" ? null : Number(element("least").value) / 100;
    found = utterances.filter((one) => test(one) && (!set || one.set === set)
      && (!wanted || one.text.includes(wanted))
      && (least === null || one.wer.some((_, place) => rate(place)(one) >= least))
      && (!chosen || happened(one)));
    const value = sorts[element("sort").value][1];
    const sign = Number(element("order").value);
    const keyed = found.map((one) => [value(one), one]);
    keyed.sort(([a, x], [b, y]) => (a < b ? -sign : a > b ? sign : x.place - y.place));
    found = keyed.map(([, one]) => one);
    page = 0;
    draw();
  };

  // ---------------------------------------------------------------- rows
  const heads = [["id", "Utterance", "id"]];
  systems.forEach((name, place) => heads.push(
    ["figure", two ? `WER, ${name}` : "WER", place ? "wer2" : "wer"]));
  heads.push(["figure", "Seconds", "seconds"], ["text", "Reference and hypothesis", null]);
  const audible = utterances.some((one) => one.clip || one.link || one.address);
  if (audible) heads.push(["play", "Audio", null]);
  for (const [className, text, key] of heads) {
    const head = make("th", className);
    head.scope = "col";
    head.setAttribute("role", "columnheader");
    if (key) {
      const button = make("button", "", text);
      button.type = "button";
      button.addEventListener("click", () => {
        const same = element("sort").value === key;
        element("sort").value = key;
        element("order").value = same ? String(-element("order").value) : key === "id" ? "1" : "-1";
        filter();
      });
      head.dataset.key = key;
      head.append(button);
    } else head.textContent = text;
    element("heads").append(head);
  }

  const aligned = (one) => {
    const box = make("div", "aligned");
    box.setAttribute("aria-hidden", "true");
    const label = make("span", "step");
    label.append(make("span", "name", "reference"));
    systems.forEach((name) => label.append(make("span", "name", two ? name : "hypothesis")));
    box.append(label);
    for (const [reference, written] of columns(one.reference, one.hypotheses)) {
      const step = make("span", "step");
      const gone = written.every(([kind]) => kind === "del");
      step.append(make("span", gone ? "del" : "", reference || " "));
      for (const [kind, word] of written) {
        step.append(make("span", kind === "none" ? "" : kind, word || (kind === "del" ? "–" : " ")));
      }
      box.append(step);
    }
    return box;
  };
  const spoken = (one) => {
    const parts = [`Reference: ${one.reference || "nothing"}.`];
    one.hypotheses.forEach((hypothesis, place) => {
      if (hypothesis.error) return;
      const steps = columns(one.reference, [hypothesis]);
      const text = steps.map((step) => step[1][0][1]).filter((word) => word).join(" ");
      parts.push(`${two ? systems[place] : "Hypothesis"}: ${text || "nothing"}.`);
    });
    return parts.join(" ");
  };

  let playing = null;
  const player = (one) => {
    const cell = make("td", "play");
    if (one.address) {
      const link = make("a", "", "Open");
      if (/^https?:/.test(one.address)) link.href = one.address;
      link.rel = "noreferrer noopener";
      link.setAttribute("aria-label", `Open the recording of ${one.id}`);
      cell.append(link);
    } else if (one.clip || one.link) {
      const button = make("button", "", "▶ Play");
      button.type = "button";
      button.setAttribute("aria-label", `Play ${one.id}`);
      button.addEventListener("click", () => {
        const audio = make("audio");
        audio.controls = true;
        audio.setAttribute("aria-label", `Recording of ${one.id}`);
        audio.src = one.clip
          ? `data:${data.media};base64,${element(`clip-${one.place}`).textContent}`
          : one.link + (one.part ? `#t=${one.part.join(",")}` : "");
        audio.addEventListener("error", () => {
          audio.replaceWith(make("span", "note", "cannot be played: was the file moved?"));
        });
        audio.addEventListener("play", () => {
          if (playing && playing !== audio) playing.pause();
          playing = audio;
        });
        cell.previousSibling.append(audio);
        button.disabled = true;
        audio.focus();
        audio.play().catch(() => { /* the error is told above, or the reader presses play */ });
      });
      cell.append(button);
    }
    return cell;
  };

  const row = (one) => {
    const line = make("tr");
    const id = make("th", "id");
    id.scope = "row";
    id.setAttribute("role", "rowheader");
    id.append(one.id);
    const who = [sets.length > 1 ? one.set : "", one.speaker || ""].filter((text) => text).join(" · ");
    if (who) id.append(make("div", "who", who));
    line.append(id);
    one.hypotheses.forEach((hypothesis, place) => {
      const cell = make("td", "figure", hypothesis.error ? "failed" : percent(one.wer[place]));
      cell.dataset.label = two ? systems[place] : "WER";
      if (!hypothesis.error) cell.append(make("div", "who", `${one.errors[place]} wrong`));
      line.append(cell);
    });
    const seconds = make("td", "figure", one.seconds.toFixed(1));
    seconds.dataset.label = "seconds";
    line.append(seconds);
    const text = make("td", "text");
    const failed = one.hypotheses.filter((hypothesis) => hypothesis.error);
    if (failed.length) {
      text.append(make("p", "", failed.map((h) => `${h.error} ${h.message}`.trim()).join("; ")));
    } else {
      text.append(aligned(one), make("p", "sr", spoken(one)));
      const raw = make("details");
      raw.append(make("summary", "", "as written"));
      raw.append(make("p", "", `reference: ${one.raw}`));
      one.hypotheses.forEach((hypothesis, place) => {
        const sure = hypothesis.logprob === null ? ""
          : ` (confidence ${(100 * Math.exp(hypothesis.logprob)).toFixed(0)} %)`;
        const cut = hypothesis.cut ? " (cut off: too long)" : "";
        raw.append(make("p", "", `${two ? systems[place] : "hypothesis"}: ${hypothesis.raw}${sure}${cut}`));
      });
      text.append(raw);
    }
    line.append(text);
    if (audible) line.append(player(one));
    line.setAttribute("role", "row");
    for (const cell of line.querySelectorAll("td")) cell.setAttribute("role", "cell");
    return line;
  };

  const draw = () => {
    const size = Number(element("size").value);
    const pages = Math.max(1, Math.ceil(found.length / size));
    page = Math.min(Math.max(page, 0), pages - 1);
    const start = page * size;
    element("rows").replaceChildren(...found.slice(start, start + size).map(row));
    element("count").textContent = found.length
      ? `${start + 1} to ${Math.min(start + size, found.length)} of ${found.length.toLocaleString("en")} utterances`
      : "No utterance matches: reset the filters.";
    element("page").textContent = `Page ${page + 1} of ${pages}`;
    element("first").disabled = element("previous").disabled = page === 0;
    element("last").disabled = element("next").disabled = page === pages - 1;
    for (const head of element("heads").children) {
      if (!head.dataset.key) continue;
      const on = head.dataset.key === element("sort").value;
      head.setAttribute("aria-sort", !on ? "none"
        : element("order").value === "1" ? "ascending" : "descending");
    }
  };
  const turn = (to) => {
    page = to;
    draw();
    element("list").scrollIntoView();
    element("list").focus({ preventScroll: true });
  };

  // ---------------------------------------------------------------- controls
  const press = () => {
    for (const button of document.querySelectorAll(".pair")) {
      const on = chosen !== null && button.dataset.system === String(chosen.system)
        && button.dataset.reference === chosen.reference && button.dataset.hypothesis === chosen.hypothesis;
      button.setAttribute("aria-pressed", String(on));
    }
    const note = element("chosen");
    note.hidden = chosen === null;
    note.replaceChildren();
    if (chosen === null) return;
    const what = chosen.reference && chosen.hypothesis ? `${chosen.reference} → ${chosen.hypothesis}`
      : chosen.reference ? `${chosen.reference} deleted` : `${chosen.hypothesis} inserted`;
    const clear = make("button", "", "Show all again");
    clear.type = "button";
    clear.addEventListener("click", () => { chosen = null; press(); filter(); });
    note.append(`Only with ${what} (${systems[chosen.system]}) `, clear);
  };
  document.addEventListener("click", (event) => {
    const button = event.target.closest(".pair");
    if (!button) return;
    const { system, reference, hypothesis } = button.dataset;
    const on = button.getAttribute("aria-pressed") === "true";
    chosen = on ? null : { system: Number(system), reference, hypothesis };
    press();
    filter();
    if (!on) turn(0);
  });
  let wait = 0;
  element("search").addEventListener("input", () => {
    clearTimeout(wait);
    wait = setTimeout(filter, 120);
  });
  element("least").addEventListener("input", filter);
  for (const id of ["show", "set", "sort", "order"]) element(id).addEventListener("change", filter);
  element("size").addEventListener("change", () => { page = 0; draw(); });
  element("filters").addEventListener("submit", (event) => event.preventDefault());
  element("clear").addEventListener("click", () => {
    element("filters").reset();
    if (two) element("sort").value = "change";
    chosen = null;
    press();
    filter();
  });
  element("first").addEventListener("click", () => turn(0));
  element("previous").addEventListener("click", () => turn(page - 1));
  element("next").addEventListener("click", () => turn(page + 1));
  element("last").addEventListener("click", () => turn(Infinity));
  for (const id of ["filters", "key", "utterances", "pages"]) element(id).hidden = false;
  press();
  filter();
})();
