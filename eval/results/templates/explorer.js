"use strict";
// Sorting, filtering, differences to a reference, provenance and plots over the tables that stand in the page.
// Nothing is loaded; names only ever become text nodes.
(() => {
  const all = (selector, root = document) => [...root.querySelectorAll(selector)];
  const id = (name) => document.getElementById(name);
  const make = (tag, properties = {}, children = []) => {
    const element = Object.assign(document.createElement(tag), properties);
    element.append(...children);
    return element;
  };
  const number = (text) => {
    const found = /^\s*(-?\d+(\.\d+)?)/.exec(text);
    return found ? Number(found[1]) : null;
  };

  // ---------------------------------------------------------------- the tables as they stand in the page
  const tables = all("table.results").map((element, index) => {
    const heads = all("thead th", element);
    const body = element.tBodies[0];
    const rows = all("tr:not(.foot)", body).map((tr, place) => ({
      tr, place, label: tr.cells[0].dataset.label, control: "control" in tr.cells[0].dataset,
      values: all("td", tr).map((td) => number(td.textContent)),
      html: all("td", tr).map((td) => [...td.childNodes]),
    }));
    const section = element.closest(".scroll");
    const title = id(element.getAttribute("aria-labelledby"));
    const notes = [];
    for (let at = title.nextElementSibling; at && at !== section; at = at.nextElementSibling) notes.push(at);
    return { element, index, heads, body, rows, section, title, notes, columns: Number(element.dataset.columns),
      foot: body.querySelector("tr.foot") };
  });
  if (!tables.length) return;
  id("explorer").hidden = false;

  const unpacked = (name) => {
    let data = null;
    return () => {
      if (!data) {
        const bytes = Uint8Array.from(atob(id(name).textContent.trim()), (sign) => sign.charCodeAt(0));
        const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
        data = new Response(stream).json();
      }
      return data;
    };
  };
  const [load, loadLooks] = [unpacked("explorer-data"), unpacked("looks-data")];

  // ---------------------------------------------------------------- sort
  const order = (table, column, direction) => {
    const key = (row) => (column === 0 ? row.label : row.shown ? row.shown[column - 1] : row.values[column - 1]);
    const sorted = [...table.rows].sort((a, b) => {
      if (!direction) return a.place - b.place;
      const [one, other] = [key(a), key(b)];
      if (one === null || other === null) return (one === null) - (other === null);
      const compared = typeof one === "string" ? one.localeCompare(other) : one - other;
      return direction * compared || a.place - b.place;
    });
    table.body.append(...sorted.map((row) => row.tr), ...(table.foot ? [table.foot] : []));
    table.heads.forEach((head, at) => {
      if (at === column && direction) head.setAttribute("aria-sort", direction > 0 ? "ascending" : "descending");
      else head.removeAttribute("aria-sort");
    });
  };
  for (const table of tables) {
    table.heads.forEach((head, column) => {
      const button = make("button", { type: "button" }, [...head.childNodes]);
      head.append(button);
      button.addEventListener("click", () => {
        const lower = column === 0 || head.dataset.kind === "rank";
        const steps = lower ? { none: 1, ascending: -1, descending: 0 } : { none: -1, descending: 1, ascending: 0 };
        order(table, column, steps[head.getAttribute("aria-sort") || "none"]);
      });
    });
  }

  // ---------------------------------------------------------------- filter
  const fits = (text, words) => words.every((word) => text.toLowerCase().includes(word));
  const wordsOf = (name) => id(name).value.toLowerCase().split(/\s+/).filter(Boolean);
  const filter = () => {
    const [rows, columns, protocol] = [wordsOf("find-rows"), wordsOf("find-columns"), id("find-sections").value];
    for (const table of tables) {
      const hidden = table.heads.map((head, at) => at > 0 && at <= table.columns && !fits(head.textContent, columns));
      for (const row of table.rows) row.tr.hidden = !fits(row.label, rows);
      for (const tr of all("tr", table.element)) [...tr.cells].forEach((cell, at) => { cell.hidden = hidden[at]; });
      const empty = table.rows.every((row) => row.tr.hidden) || hidden.slice(1, table.columns + 1).every(Boolean);
      const away = empty || (protocol !== "" && Number(protocol) !== table.index);
      for (const part of [table.section, table.title, ...table.notes]) part.hidden = away;
    }
  };
  for (const table of tables) id("find-sections").append(make("option", { value: table.index }, [table.title.textContent]));
  for (const name of ["find-rows", "find-columns", "find-sections"]) id(name).addEventListener("input", filter);

  // ---------------------------------------------------------------- differences to a reference
  const labels = [...new Set(tables.flatMap((table) => table.rows.map((row) => row.label)))];
  for (const label of labels) id("reference").append(make("option", { value: label }, [label]));
  const level = ([ranked, text], first, second) => {
    const [i, j] = [ranked.indexOf(first), ranked.indexOf(second)].sort((a, b) => a - b);
    if (i < 0) return null;
    const at = i * ranked.length - (i * (i + 1)) / 2 + (j - i - 1);
    const found = atob(text).charCodeAt(at);
    return found === 255 ? null : found / 20;
  };
  const differences = async () => {
    const label = id("reference").value;
    const found = label ? await load() : null;
    for (const table of tables) {
      const base = table.rows.find((row) => row.label === label);
      for (const row of table.rows) {
        row.shown = base && row.values.map((value, at) =>
          at < table.columns && value !== null && base.values[at] !== null ? value - base.values[at] : null);
        all("td", row.tr).forEach((td, at) => {
          td.classList.remove("apart");
          td.removeAttribute("title");
          if (!base || at >= table.columns || row === base) { td.replaceChildren(...row.html[at]); return; }
          const change = row.shown[at];
          if (change === null) { td.replaceChildren("–"); return; }
          const p = level(found.sections[table.index].tests[at], row.place, base.place);
          const text = (change >= 0 ? "+" : "−") + Math.abs(change).toFixed(1);
          const note = p === null ? "no test" : p <= 0 ? "p = 1" : `p ${p >= 12 ? "<" : "≈"} ${(10 ** -p).toPrecision(1)}`;
          td.replaceChildren(text, " ", make("small", {}, [note]));
          td.classList.toggle("apart", p !== null && p * 20 >= 27);
        });
      }
    }
  };
  id("reference").addEventListener("change", differences);

  // ---------------------------------------------------------------- where a cell comes from
  const lines = (values) => make("dl", {}, Object.entries(values)
    .filter(([, value]) => value !== null && value !== undefined && JSON.stringify(value) !== "{}")
    .flatMap(([key, value]) => [make("dt", {}, [key]),
      make("dd", {}, [typeof value === "object" ? JSON.stringify(value) : String(value)])]));
  const detail = async (table, row, column) => {
    const found = await load();
    const cell = found.sections[table.index].cells[row.place][column];
    if (cell === null) return;
    id("detail-title").replaceChildren(`${row.label}, ${table.heads[column + 1].textContent.trim()}, ${table.title.textContent}`);
    const parts = typeof cell === "string" ? [lines({ "published in": cell })] : cell.flatMap((at) => {
      const of = Object.fromEntries(Object.entries(found.records).map(([name, values]) => [name, values[at]]));
      const [checkpoint, data, warnings] = [found.checkpoint[of.checkpoint], found.data[of.data], found.warnings[of.warnings]];
      const { options, ...protocol } = found.protocol[of.protocol];
      const command = `mast eval --checkpoint ${checkpoint.name}=FILE --task ${data.task} ${options} --seeds ${of.seed} --data-root DATA --out OUT`;
      return [make("h4", {}, [`Seed ${of.seed}, run ${of.run}`]), make("pre", {}, [command]),
        lines({ started: of.started, seconds: of.seconds, warnings: warnings.length ? warnings.join("; ") : null }),
        make("h4", {}, ["Checkpoint"]), lines(checkpoint),
        make("h4", {}, ["Protocol"]), lines(protocol),
        make("h4", {}, ["Data"]), lines(data),
        make("h4", {}, ["Computed with"]), lines(found.environment[of.environment])];
    });
    id("detail-body").replaceChildren(...parts);
    id("detail").showModal();
  };
  let last = null;
  for (const table of tables) {
    for (const row of table.rows) {
      all("td", row.tr).forEach((td, column) => {
        if (column >= table.columns || row.values[column] === null) return;
        td.tabIndex = -1;
        td.addEventListener("click", () => { last = td; detail(table, row, column); });
      });
    }
    const first = table.body.querySelector("td[tabindex]");
    if (first) first.tabIndex = 0;
    table.body.addEventListener("focusin", (event) => {
      for (const td of all('td[tabindex="0"]', table.body)) td.tabIndex = -1;
      if (event.target.matches("td")) event.target.tabIndex = 0;
    });
    table.body.addEventListener("keydown", (event) => {
      const td = event.target.closest("td");
      if (!td) return;
      if (event.key === "Enter" || event.key === " ") { event.preventDefault(); td.click(); return; }
      const moves = { ArrowRight: [0, 1], ArrowLeft: [0, -1], ArrowDown: [1, 0], ArrowUp: [-1, 0] };
      if (!(event.key in moves)) return;
      event.preventDefault();
      const [down, right] = moves[event.key];
      const shown = all("tr:not(.foot):not([hidden])", table.body);
      let [y, x] = [shown.indexOf(td.parentElement), td.cellIndex];
      for (;;) {
        y += down; x += right;
        const next = shown[y] && shown[y].cells[x];
        if (!next || next.matches("th")) return;
        if (!next.hidden && next.hasAttribute("tabindex")) { next.focus(); return; }
      }
    });
  }
  id("detail").addEventListener("close", () => { if (last) last.focus(); });

  // ---------------------------------------------------------------- plots
  const svg = (tag, attributes, children = []) => {
    const element = document.createElementNS("http://www.w3.org/2000/svg", tag);
    for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
    element.append(...children);
    return element;
  };
  const columns = tables.flatMap((table) => table.heads.slice(1, table.columns + 1).map((head, at) => ({
    table, at, name: `${table.title.textContent}: ${head.textContent.trim()}`,
    controls: new Set(table.rows.filter((row) => row.control).map((row) => row.label)),
    points: new Map(table.rows.filter((row) => row.values[at] !== null).map((row) => [row.label, row.values[at]])) })));
  const ticks = (low, high) => {
    const step = 10 ** Math.floor(Math.log10((high - low) / 2));
    const by = [1, 2, 5, 10].map((k) => k * step).find((k) => (high - low) / k <= 6);
    const found = [];
    for (let at = Math.ceil(low / by) * by; at <= high + 1e-9; at += by) found.push(Number(at.toFixed(6)));
    return found;
  };
  const LETTER = 7; // width of a letter in a plot, in its units
  const short = (label, most) => (label.length <= most ? label : `${label.slice(0, most - 1)}…`);
  const middle = (label, most) => (label.length <= most ? label : `${label.slice(0, most / 2 - 1)}…${label.slice(-most / 2)}`);
  // Heights of names beside lines, from the top: moved apart, and back up where they would leave the plot.
  const apart = (heights, gap, bottom) => {
    const found = [];
    for (const y of heights) found.push(Math.max(y, found.length ? found[found.length - 1] + gap : y));
    for (let at = found.length - 1; at >= 0; at--) found[at] = Math.min(found[at], bottom - gap * (found.length - 1 - at));
    return found;
  };
  // Places for names beside points, left or right of them and away from one another; null where there is no room.
  const beside = (points, width) => {
    const taken = points.map(([x, y]) => [x - 5, x + 5, y - 5, y + 5]);
    return points.map(([x, y, label], place) => {
      for (const up of [0, -13, 13, -26, 26]) {
        for (const left of [x + 8, x - 8 - LETTER * label.length]) {
          const box = [left, left + LETTER * label.length, y + up - 6, y + up + 6];
          const free = taken.every((other, at) => at === place || box[1] < other[0] || box[0] > other[1] || box[3] < other[2] || box[2] > other[3]);
          if (box[0] > 50 && box[1] < width && free) { taken.push(box); return [left, y + up + 4]; }
        }
      }
      return null;
    });
  };
  const scatter = () => {
    const [x, y] = [columns[id("plot-x").value], columns[id("plot-y").value]];
    const shared = [...x.points.keys()].filter((label) => y.points.has(label));
    const [xs, ys] = [shared.map((label) => x.points.get(label)), shared.map((label) => y.points.get(label))];
    if (!shared.length) { id("scatter").replaceChildren("No checkpoint has both."); return; }
    const range = (values) => {
      const [low, high] = [Math.min(...values), Math.max(...values)];
      const pad = (high - low || 1) * 0.08;
      return [low - pad, high + pad];
    };
    const [[x0, x1], [y0, y1]] = [range(xs), range(ys)];
    const [px, py] = [(v) => 50 + (430 * (v - x0)) / (x1 - x0), (v) => 270 - (250 * (v - y0)) / (y1 - y0)];
    const names = shared.map((label) => short(label, 32));
    const places = beside(shared.map((_, at) => [px(xs[at]), py(ys[at]), names[at]]), 598);
    const dot = (label) => (x.controls.has(label) ? "control" : "dot");
    id("scatter").replaceChildren(svg("svg", { viewBox: "0 0 600 310", role: "img", "aria-label": `${y.name} against ${x.name}` }, [
      ...ticks(x0, x1).flatMap((v) => [svg("line", { x1: px(v), x2: px(v), y1: 20, y2: 270, class: "rule" }),
        svg("text", { x: px(v), y: 286, "text-anchor": "middle" }, [String(v)])]),
      ...ticks(y0, y1).flatMap((v) => [svg("line", { x1: 50, x2: 480, y1: py(v), y2: py(v), class: "rule" }),
        svg("text", { x: 44, y: py(v) + 4, "text-anchor": "end" }, [String(v)])]),
      svg("text", { x: 265, y: 304, "text-anchor": "middle" }, [`${middle(x.name, 74)}, percent`]),
      svg("text", { x: 50, y: 13 }, [`${middle(y.name, 74)}, percent`]),
      ...shared.flatMap((label, at) => [
        svg("circle", { cx: px(xs[at]), cy: py(ys[at]), r: 4, class: dot(label) }, [svg("title", {}, [`${label}: ${xs[at]}, ${ys[at]}`])]),
        ...(places[at] ? [svg("text", { x: places[at][0], y: places[at][1] }, [names[at]])] : [])]),
    ]));
  };
  // ---------------------------------------------------------------- label efficiency
  const HUES = ["#2f7ed8", "#e0702d", "#1f9e77", "#b052c0", "#c9a227", "#d6455d"];
  const look = (place, control) => (control ? ["#8a93a3", "2 3"] : [HUES[place % HUES.length], place < HUES.length ? "none" : "6 3"]);
  // A line's name at the right of a plot, after a piece of the line: its colour alone would not tell it from others.
  const key = (x, y, place, label, control) => {
    const [hue, dash] = look(place, control);
    return [svg("line", { x1: x + 6, x2: x + 24, y1: y, y2: y, stroke: hue, "stroke-dasharray": dash, "stroke-width": 3 }, [svg("title", {}, [label])]),
      svg("text", { x: x + 28, y: y + 4 }, [short(label, 26)])];
  };
  const efficiency = async () => {
    const found = (await load()).sections.flatMap((section) => section.curves || []).filter((each) => each.sizes.length > 1);
    if (!found.length) return;
    id("efficiency").hidden = false;
    found.forEach((each, at) => id("plot-curve").append(make("option", { value: at }, [each.name])));
    const draw = () => {
      const each = found[id("plot-curve").value];
      const words = wordsOf("find-lines");
      const end = (line) => { const there = line.points.filter(Boolean); return there.length ? there[there.length - 1][0] : -1; };
      const lines = each.lines.filter((line) => fits(line.label, words) && end(line) >= 0)
        .sort((a, b) => end(b) - end(a)).slice(0, 12);
      const xs = each.labels.map((count) => Math.log10(Math.max(1, count)));
      const top = Math.max(1, ...lines.flatMap((line) => line.points.filter(Boolean).map((point) => point[2])));
      const [x0, x1] = [Math.min(...xs), Math.max(...xs)];
      const [px, py] = [(v) => 40 + (350 * (v - x0)) / (x1 - x0 || 1), (v) => 270 - (250 * v) / top];
      const named = apart(lines.map((line) => py(end(line))), 13, 300);
      id("curve").replaceChildren(lines.length ? svg("svg", { viewBox: "0 0 600 322", role: "img", "aria-label": each.name }, [
        ...ticks(0, top).flatMap((v) => [svg("line", { x1: 40, x2: 390, y1: py(v), y2: py(v), class: "rule" }),
          svg("text", { x: 34, y: py(v) + 4, "text-anchor": "end" }, [String(v)])]),
        ...each.sizes.flatMap((size, at) => [svg("text", { x: px(xs[at]), y: 288, "text-anchor": "middle" }, [size]),
          svg("text", { x: px(xs[at]), y: 303, "text-anchor": "middle" }, [Math.round(each.labels[at]).toLocaleString("en")])]),
        ...lines.flatMap((line, place) => {
          const [hue, dash] = look(place, line.control);
          const beside = 4 * (place - (lines.length - 1) / 2);
          const there = line.points.map((point, at) => point && [px(xs[at]) + beside, ...point]).filter(Boolean);
          return [svg("polyline", { points: there.map(([at, v]) => `${at},${py(v)}`).join(" "), fill: "none", stroke: hue, "stroke-dasharray": dash, "stroke-width": 2 }),
            ...there.flatMap(([at, v, low, high]) => [
              svg("line", { x1: at, x2: at, y1: py(low), y2: py(high), stroke: hue, "stroke-opacity": 0.5, "stroke-width": 2 }),
              svg("circle", { cx: at, cy: py(v), r: 3.5, fill: hue }, [svg("title", {}, [`${line.label}: ${v} [${low}, ${high}]`])])]),
            ...key(390, named[place], place, line.label, line.control)];
        }),
        svg("text", { x: 40, y: 13 }, ["percent"]),
        svg("text", { x: 215, y: 317, "text-anchor": "middle" }, ["labels a class, or share; images in all"]),
      ]) : "No checkpoint fits.");
    };
    for (const name of ["plot-curve", "find-lines"]) id(name).addEventListener("input", draw);
    draw();
  };
  if (id("efficiency")) efficiency();
  const ranked = tables.filter((table) => table.heads.some((head) => head.dataset.kind === "rank"));
  const ranks = () => {
    const table = ranked[id("plot-ranks").value];
    const at = table.heads.findIndex((head) => head.dataset.kind === "rank") - 1;
    const rows = table.rows.map((row) => ({ label: row.label,
      found: /([\d.]+) \[([\d.]+), ([\d.]+)\]/.exec(row.html[at].map((node) => node.textContent).join("")) }))
      .filter((row) => row.found).map((row) => ({ label: row.label, rank: row.found.slice(1).map(Number) }))
      .sort((a, b) => a.rank[0] - b.rank[0]);
    const most = Math.max(1, ...rows.map((row) => row.rank[2]));
    const px = (v) => 200 + (380 * (v - 1)) / Math.max(1, most - 1);
    const height = 46 + 20 * rows.length;
    id("ranks").replaceChildren(rows.length ? svg("svg", { viewBox: `0 0 600 ${height}`, role: "img", "aria-label": `Ranks, ${table.title.textContent}` }, [
      ...ticks(1, Math.max(2, most)).filter((v) => v <= most).flatMap((v) => [svg("line", { x1: px(v), x2: px(v), y1: 4, y2: height - 38, class: "rule" }),
        svg("text", { x: px(v), y: height - 22, "text-anchor": "middle" }, [String(v)])]),
      svg("text", { x: 390, y: height - 5, "text-anchor": "middle" }, ["mean rank over tasks, 1 is the best; line: what the tests leave it"]),
      ...rows.flatMap((row, place) => { const y = 14 + 20 * place; return [
        svg("text", { x: 190, y: y + 4, "text-anchor": "end" }, [short(row.label, 29)]),
        svg("line", { x1: px(row.rank[1]), x2: px(row.rank[2]), y1: y, y2: y, class: "range" }),
        svg("circle", { cx: px(row.rank[0]), cy: y, r: 4, class: "dot" })]; }),
    ]) : "No row has a rank.");
  };
  if (columns.length > 1) {
    id("plots").hidden = false;
    columns.forEach((column, at) => {
      for (const name of ["plot-x", "plot-y"]) id(name).append(make("option", { value: at }, [column.name]));
    });
    const linear = columns.findIndex((column) => column.name.startsWith("linear"));
    id("plot-x").value = Math.max(0, linear);
    id("plot-y").value = linear === columns.length - 1 ? 0 : Math.max(0, linear) + 1;
    for (const name of ["plot-x", "plot-y"]) id(name).addEventListener("change", scatter);
    scatter();
    ranked.forEach((table, at) => id("plot-ranks").append(make("option", { value: at }, [table.title.textContent])));
    id("plot-ranks").addEventListener("change", ranks);
    if (ranked.length) ranks();
    else {
      const tools = id("plot-ranks").closest(".tools");
      for (const part of [tools.previousElementSibling, tools, id("ranks")]) part.hidden = true;
    }
  }

  // ---------------------------------------------------------------- closer looks, drawn when they are first opened
  const options = (name, labels, chosen = 0) => {
    id(name).replaceChildren(...labels.map((label, at) => make("option", { value: at }, [label])));
    id(name).value = Math.min(chosen, labels.length - 1);
  };
  const onInput = (names, act) => { for (const name of names) id(name).addEventListener("input", act); };
  const signed = (value) => (value < 0 ? "−" : "+") + Math.abs(value).toFixed(1);
  const GREY = "#8a93a3";

  const training = ({ training: found }) => {
    const names = [...new Set(Object.values(found).flatMap(Object.keys))].filter((name) => name !== "epoch");
    const first = ["loss", "invariance", "variance", "covariance", "knn"];
    names.sort((a, b) => (first.indexOf(a) + 1 || 99) - (first.indexOf(b) + 1 || 99));
    options("training-name", names.map((name) => name.replaceAll("_", " ")));
    const draw = () => {
      const [name, words] = [names[id("training-name").value], wordsOf("training-words")];
      const lines = Object.entries(found).filter(([label, history]) => history[name] && fits(label, words)).slice(0, 12)
        .map(([label, history], number) => ({ label, number, points: history.epoch.map((x, at) => [x, history[name][at]]).filter(([, y]) => y !== null) }))
        .filter((line) => line.points.length);
      if (!lines.length) { id("training").replaceChildren("No checkpoint fits."); return; }
      const [xs, ys] = [0, 1].map((at) => lines.flatMap((line) => line.points.map((point) => point[at])));
      const [x0, x1, y0, y1] = [Math.min(...xs), Math.max(...xs), Math.min(...ys), Math.max(...ys)];
      const pad = (y1 - y0 || Math.abs(y1) || 1) * 0.06;
      const px = (v) => 60 + (350 * (v - x0)) / (x1 - x0 || 1);
      const py = (v) => 270 - (250 * (v - y0 + pad)) / (y1 - y0 + 2 * pad);
      lines.sort((a, b) => b.points.at(-1)[1] - a.points.at(-1)[1]);
      const ends = apart(lines.map((line) => py(line.points.at(-1)[1])), 13, 285);
      id("training").replaceChildren(svg("svg", { viewBox: "0 0 600 315", role: "img", "aria-label": `${name} over epochs` }, [
        ...ticks(y0 - pad, y1 + pad).flatMap((v) => [svg("line", { x1: 60, x2: 410, y1: py(v), y2: py(v), class: "rule" }),
          svg("text", { x: 54, y: py(v) + 4, "text-anchor": "end" }, [String(v)])]),
        ...ticks(x0, x1 === x0 ? x0 + 1 : x1).filter(Number.isInteger).map((v) => svg("text", { x: px(v), y: 288, "text-anchor": "middle" }, [String(v)])),
        svg("text", { x: 235, y: 306, "text-anchor": "middle" }, ["epoch"]),
        ...lines.flatMap((line, place) => {
          const [hue, dash] = look(line.number);
          return [svg("polyline", { points: line.points.map(([x, y]) => `${px(x)},${py(y)}`).join(" "), fill: "none", stroke: hue, "stroke-dasharray": dash, "stroke-width": 2 }),
            ...line.points.map(([x, y]) => svg("circle", { cx: px(x), cy: py(y), r: 2.5, fill: hue }, [svg("title", {}, [`${line.label}, epoch ${x}: ${y}`])])),
            ...key(410, ends[place], line.number, line.label)];
        }),
      ]));
    };
    onInput(["training-name", "training-words"], draw);
    draw();
  };

  const masks = ({ masks: found }) => {
    options("masks-run", found.map((run) => run.name));
    const draw = () => {
      const run = found[id("masks-run").value];
      const [count, cell] = [run.augmentations.length, Math.min(30, 240 / run.augmentations.length)];
      const width = (v) => Math.max(0, 120 * v);
      const top = 74;
      const height = top + cell * count + 22;
      id("masks").replaceChildren(svg("svg", { viewBox: `0 0 600 ${height}`, role: "img", "aria-label": `Masks of ${run.name}` }, [
        svg("text", { x: 100, y: top - 10 }, ["open"]),
        ...run.augmentations.flatMap((name, row) => {
          const y = top + cell * row;
          return [svg("text", { x: 92, y: y + cell / 2 + 4, "text-anchor": "end" }, [name]),
            svg("rect", { x: 100, y: y + 3, width: 120, height: cell - 6, class: "empty" }),
            svg("rect", { x: 100, y: y + 3, width: width(run.open[row]), height: cell - 6, class: "dot" },
              [svg("title", {}, [`${name}: ${run.open[row]}, ${run.kept[row]} of ${run.dimensions} dimensions are kept`])]),
            svg("text", { x: 226, y: y + cell / 2 + 4 }, [run.open[row].toFixed(2)])];
        }),
        ...run.augmentations.map((name, at) => svg("text", { transform: `translate(${300 + cell * at + cell / 2 + 4} ${top - 8}) rotate(-60)` }, [name])),
        ...run.correlation.flatMap((values, row) => values.flatMap((value, column) => {
          const [x, y] = [300 + cell * column, top + cell * row];
          if (value === null) return [svg("rect", { x, y, width: cell - 1, height: cell - 1, class: "empty" })];
          const told = value.toFixed(2).replace("0.", ".");
          return [svg("rect", { x, y, width: cell - 1, height: cell - 1, fill: value < 0 ? "#2f7ed8" : "#e0702d", "fill-opacity": Math.abs(value) * 0.8 },
            [svg("title", {}, [`${run.augmentations[row]} and ${run.augmentations[column]}: ${value}`])]),
            ...(cell >= 26 ? [svg("text", { x: x + cell / 2, y: y + cell / 2 + 4, "text-anchor": "middle", style: "font-size: 10px" }, [told])] : [])];
        })),
        svg("text", { x: 300, y: height - 6 }, ["correlation of closed parts"]),
      ]));
    };
    onInput(["masks-run"], draw);
    draw();
  };

  const profile = async ({ profile: found }) => {
    const { sections } = await load();
    options("profile-section", found.map((each) => tables[each.section].title.textContent));
    const rowsOf = (each) => tables[each.section].rows;
    const fill = () => {
      const names = rowsOf(found[id("profile-section").value]).map((row) => row.label);
      const control = rowsOf(found[id("profile-section").value]).findIndex((row) => row.control);
      options("profile-row", names, control === 0 ? 1 : 0);
      options("profile-base", names, control < 0 ? 1 : control);
      draw();
    };
    const draw = () => {
      const each = found[id("profile-section").value];
      const [row, base] = ["profile-row", "profile-base"].map((name) => rowsOf(each)[id(name).value]);
      const span = (of, at) => (/\[(-?[\d.]+), (-?[\d.]+)\]/.exec(of.html[at].map((node) => node.textContent).join(" ")) || []).slice(1).map(Number);
      const ends = each.columns.flatMap(([at, , , chance]) => [chance, row.values[at], base.values[at], ...span(row, at)]).filter((v) => v !== null);
      const [x0, x1] = [Math.max(0, Math.min(...ends) - 3), Math.min(100, Math.max(...ends) + 3)];
      const px = (v) => 170 + (310 * (v - x0)) / (x1 - x0 || 1);
      const several = new Set(each.columns.map((column) => column[2])).size > 1;
      const height = 26 * each.columns.length + 40;
      id("profile").replaceChildren(svg("svg", { viewBox: `0 0 600 ${height}`, role: "img", "aria-label": `${row.label} against ${base.label}` }, [
        ...ticks(x0, x1).flatMap((v) => [svg("line", { x1: px(v), x2: px(v), y1: 6, y2: height - 34, class: "rule" }),
          svg("text", { x: px(v), y: height - 20, "text-anchor": "middle" }, [String(v)])]),
        svg("text", { x: px(x0), y: height - 4 }, ["percent"]),
        ...each.columns.flatMap(([at, factor, dataset, chance], place) => {
          const y = 20 + 26 * place;
          const [one, other, [low, high]] = [row.values[at], base.values[at], span(row, at)];
          const parts = [svg("text", { x: 160, y: y + 4, "text-anchor": "end" }, [several ? `${factor}, ${dataset}` : factor]),
            svg("line", { x1: px(chance), x2: px(chance), y1: y - 7, y2: y + 7, stroke: GREY, "stroke-width": 2 })];
          if (low !== undefined) parts.push(svg("line", { x1: px(low), x2: px(high), y1: y, y2: y, class: "range" }));
          if (other !== null) parts.push(svg("circle", { cx: px(other), cy: y, r: 4.5, class: "hollow" }, [svg("title", {}, [`${base.label}: ${other}`])]));
          if (one !== null) parts.push(svg("circle", { cx: px(one), cy: y, r: 4, class: "dot" }, [svg("title", {}, [`${row.label}: ${one}`])]));
          if (one !== null && other !== null && row !== base) {
            const p = level(sections[each.section].tests[at], row.place, base.place);
            const told = p === null ? "" : p <= 0 ? ", p = 1" : `, p ${p >= 12 ? "<" : "≈"} ${(10 ** -p).toPrecision(1)}`;
            parts.push(svg("text", { x: 490, y: y + 4, ...(p !== null && p * 20 >= 27 ? { "font-weight": 700 } : {}) }, [signed(one - other) + told]));
          }
          return parts;
        }),
      ]));
    };
    onInput(["profile-section"], fill);
    onInput(["profile-row", "profile-base"], draw);
    fill();
  };

  const errors = ({ errors: found }) => {
    options("errors-group", found.map((group) => group.name));
    const interval = ([value, low, high], tell) => value === null ? "–" : low === null ? tell(value) : `${tell(value)} [${tell(low)}, ${tell(high)}]`;
    const plain = (value) => value.toFixed(1);
    const picture = (group, at, image) => {
      const detector = group.detectors[at];
      const place = group.images.indexOf(image);
      const [w, h] = [image.width, image.height];
      const boxes = group.boxes[at][place];
      const wrong = {};
      for (const box of boxes) if (box[6] !== "hit") wrong[box[6]] = (wrong[box[6]] || 0) + 1;
      const told = `${image.name}, ${detector.label}: ${Object.entries(wrong).map(([kind, count]) => `${count} ${kind}`).join(", ") || "no wrong detection"}`;
      const rect = ([x0, y0, x1, y1], rest) => svg("rect", { x: x0, y: y0, width: Math.max(0, x1 - x0), height: Math.max(0, y1 - y0), fill: "none", "stroke-width": 1.5, ...rest });
      return make("figure", {}, [svg("svg", { viewBox: `0 0 ${w} ${h}`, role: "img", "aria-label": told, class: "photo" }, [
        svg("image", { href: `data:image/jpeg;base64,${image.jpeg}`, width: w, height: h }),
        ...image.truth.map((box) => rect(box, { stroke: "#ffffff", "stroke-dasharray": "4 3" })),
        ...boxes.flatMap(([x0, y0, x1, y1, name, score, kind], rank) => {
          const text = `${name} ${score}${kind === "hit" ? "" : `, ${kind}`}`;
          const box = rect([x0 * w, y0 * h, x1 * w, y1 * h], { stroke: kind === "hit" ? "#2f7ed8" : "#e0702d" });
          box.append(svg("title", {}, [text]));
          const right = x0 * w > 0.6 * w;  // so that words stay inside
          return [box, ...(rank < 4 ? [svg("text", { x: right ? Math.min(x1 * w, w) : x0 * w + 2, y: Math.max(9, y0 * h + 9),
            "text-anchor": right ? "end" : "start", class: "tag" }, [text])] : [])];
        }),
      ]), make("figcaption", {}, [told])]);
    };
    const draw = () => {
      const group = found[id("errors-group").value];
      const one = Number(id("errors-one").value);
      const other = Number(id("errors-other").value) - 1;
      const paired = other >= 0 && other !== one;
      const [i, j] = [Math.min(one, other), Math.max(one, other)];
      const heads = ["error", "count", "costs", "share", ...(paired ? [`costs ${group.detectors[other].label}`, "difference"] : [])];
      const rows = group.types.map((type, at) => {
        const [value, low, high, share, count] = group.detectors[one].values[at];
        const cells = [count === null ? "" : String(count), interval([value, low, high], plain), share === null ? "" : `${plain(share)} %`];
        if (paired) {
          const [change, from, to] = group.pairs[`${i} ${j}`][at];
          const difference = one < other || change === null ? [change, from, to] : [-change, to === null ? null : -to, from === null ? null : -from];
          cells.push(interval(group.detectors[other].values[at], plain), interval(difference, signed));
        }
        const name = type === "ap" ? "average precision" : type.replaceAll("_", " ");
        return make("tr", {}, [make("th", { scope: "row" }, [name]), ...cells.map((text) => make("td", {}, [text]))]);
      });
      id("errors-types").replaceChildren(
        make("thead", {}, [make("tr", {}, heads.map((head) => make("th", { scope: "col" }, [head])))]), make("tbody", {}, rows));
      const wrong = (image) => group.boxes[one][group.images.indexOf(image)].filter((box) => box[6] !== "hit").length;
      const images = [...group.images].sort((a, b) => wrong(b) - wrong(a));
      id("errors-images").replaceChildren(...images.flatMap((image) => [picture(group, one, image), ...(paired ? [picture(group, other, image)] : [])]));
    };
    const fill = () => {
      const labels = found[id("errors-group").value].detectors.map((detector) => detector.label);
      options("errors-one", labels);
      options("errors-other", ["none", ...labels]);
      draw();
    };
    onInput(["errors-group"], fill);
    onInput(["errors-one", "errors-other"], draw);
    fill();
  };

  if (id("looks")) {
    id("looks").hidden = false;
    const draw = { training, masks, profile, errors };
    for (const part of all("details[data-look]")) {
      part.addEventListener("toggle", async () => { await draw[part.dataset.look](await loadLooks()); }, { once: true });
    }
  }
})();
