// Cards and charts: how much of each layer is interpretable, by category, over the epochs.

const METRICS = [
  ["categories", "Categories", "Interpretable units by the category of their concept; dashed: how many a network with random weights has, and, lower, how many luck gives at most."],
  ["distinct", "Distinct concepts", "Different concepts among the interpretable units; dashed: a network with random weights."],
  ["sure", "Changes", "Units that took another concept in a way that other probing images would not undo; dashed: what luck gives."],
  ["changed", "Relabelled", "Units with another concept than when they were last alive, whatever the reason; dashed: what two halves of the images give by luck."],
  ["dead", "Dead", "Units whose activation is the same on every image."],
  ["effective", "Different units", "Effective number of different units, by their activations; dashed: independent units on as many images."],
  ["held_out", "Held out", "How well labels of one half of the images hold on the other: AUC of their activations, or IoU of detectors by masks; dashed: labels of other units."],
  ["spread", "Spread", "Mean cosine distance between all pairs of live units in concept space; dashed: a random network, and one unit through two halves of the images."],
  ["anchor_distance", "To anchors", "Mean cosine distance of live units to their nearest anchor; dashed: a random network."],
];

// What a number is to be compared with, drawn as dashed lines.
const FLOORS = {
  categories: ["interpretable_random", "interpretable_by_luck"],
  distinct: ["distinct_random"],
  sure: ["sure_by_luck"],
  changed: ["changed_by_luck"],
  effective: ["effective_chance"],
  held_out: ["held_out_chance"],
  spread: ["spread_floor_random", "spread_floor_halves"],
  anchor_distance: ["anchor_distance_floor_random"],
};

const FLOOR_NAMES = {
  interpretable_random: "random weights", interpretable_by_luck: "by luck at most", distinct_random: "random weights",
  sure_by_luck: "by luck", changed_by_luck: "by luck", effective_chance: "independent units", held_out_chance: "chance",
  spread_floor_random: "random network", anchor_distance_floor_random: "random network", spread_floor_halves: "two halves of the images",
};

// What stands beside a number at an epoch: names and values of the floors that are known.
function floorsAt(statistics, metric, t) {
  return (FLOORS[metric] || []).filter((name) => statistics[name][t] !== null).map((name) => [FLOOR_NAMES[name], statistics[name][t]]);
}

// Numbers between 0 and 1 or 2, whose axes are the same for all layers.
const DISTANCES = ["held_out", "spread", "anchor_distance"];

function availableMetrics() {
  return METRICS.filter(([name]) => name === "categories" || SERIES.some((series) =>
    series.statistics[name].some((value) => value !== null && (name !== "dead" || value > 0))));
}

// Round steps for an axis from 0 to `top`; whole ones for counts.
function ticks(top, counts, most = 4) {
  const power = 10 ** Math.floor(Math.log10(top / most));
  const fine = [1, 2, 2.5, 5, 10].map((m) => m * power).find((s) => top / s <= most);
  const step = counts ? Math.max(1, Math.ceil(fine)) : fine;
  const result = [];
  for (let i = 0; i * step <= top * 1.0001; i++) result.push(Number((i * step).toPrecision(8)));
  return result;
}

// -- cards -------------------------------------------------------------------------------------

// Interpretable units over the epochs as a strip of stacked columns.
function strip(series, width, height) {
  const columns = series.epochs.length;
  const top = Math.max(1, ...series.statistics.interpretable);
  const picture = svg("svg", { viewBox: `0 0 ${width} ${height}`, class: "strip", "aria-hidden": "true", preserveAspectRatio: "none" });
  const step = width / columns;
  const gap = columns > 40 ? 0 : Math.min(2, step * 0.2);
  for (let t = 0; t < columns; t++) {
    let y = height;
    CATEGORIES.forEach((category, c) => {
      const value = series.statistics.categories[c][t];
      if (!value) return;
      const h = (value / top) * height;
      y -= h;
      picture.append(svg("rect", { x: t * step, y, width: Math.max(0.5, step - gap), height: h, fill: category.colour }));
    });
  }
  return picture;
}

function buildCards() {
  fill($("cards"), ...shownSeries().map((series) => {
    const card = el("button", { type: "button", class: "card", onclick: () => update({ series: series.number }) },
      el("span", { class: "card-layer", text: plain(series.layer), title: plain(series.layer) }),
      el("span", { class: "card-main" }, el("b", {}), el("span", {})),
      strip(series, 200, 36),
      el("span", { class: "card-more" }));
    card.dataset.series = series.number;
    return card;
  }));
  showCards();
}

function showCards() {
  for (const card of $("cards").children) {
    const series = SERIES[card.dataset.series];
    const t = series.at(state.epoch);
    card.setAttribute("aria-pressed", series.number === state.series);
    const [big, small] = card.querySelector(".card-main").children;
    const more = card.querySelector(".card-more");
    if (t < 0) {
      big.textContent = "–";
      small.textContent = `not looked at in epoch ${state.epoch}`;
      more.textContent = "";
      continue;
    }
    const s = series.statistics;
    big.textContent = whole.format(s.interpretable[t]);
    small.textContent = `of ${whole.format(s.units[t])} · ${percent(s.interpretable[t], s.units[t])}`;
    const chance = floorsAt(s, "categories", t).map(([name, value]) => `${name} ${whole.format(value)}`);
    more.textContent = [
      ...chance,
      count(s.distinct[t], "concept"),
      s.sure[t] !== null ? `${count(s.sure[t], "change")} (by luck ${whole.format(s.sure_by_luck[t])})`
        : s.changed[t] === null ? null : `${whole.format(s.changed[t])} relabelled${s.changed_by_luck[t] === null ? "" : ` (by luck ${whole.format(s.changed_by_luck[t])})`}`,
      s.dead[t] ? `${whole.format(s.dead[t])} dead` : null,
      s.effective[t] === null ? null : `as different as ${whole.format(Math.round(s.effective[t]))} units${s.effective_chance[t] === null ? "" : ` (independent: ${whole.format(Math.round(s.effective_chance[t]))})`}`,
      otherCard(series),
      s.held_out[t] === null ? null : `held out: ${plain(s.held_out_word[t])}, ${number(s.held_out[t])} (chance ${number(s.held_out_chance[t])})`,
    ].filter(Boolean).join(" · ");
  }
  $("overview-hint").textContent = `Units whose best concept fits better than chance allows, at epoch ${state.epoch}; `
    + "the columns show every epoch.";
}

// The same layer of the other run, at the same epoch or its last.
function otherCard(series) {
  const other = BESIDE && BESIDE.series[series.number];
  if (!other) return null;
  const at = other.at(state.epoch);
  const t = at < 0 ? other.epochs.length - 1 : at;
  return `${plain(other.of)}: ${whole.format(other.statistics.interpretable[t])} of ${whole.format(other.statistics.units[t])}${at < 0 ? ` at epoch ${other.epochs[t]}` : ""}`;
}

function buildLegend() {
  fill($("legend"), ...CATEGORIES.map((category) => {
    const swatch = el("span", { class: "swatch", "aria-hidden": "true" });
    swatch.style.background = category.colour;
    return el("li", {}, swatch, el("span", { text: plain(category.name) }));
  }));
}

// -- charts ------------------------------------------------------------------------------------

const CHART = { height: 190, left: 40, right: 10, top: 12, bottom: 26 };

function buildCharts() {
  const metric = METRICS.find(([name]) => name === state.metric);
  $("metric-hint").textContent = metric[2];
  const all = shownSeries();
  const line = state.metric !== "categories";
  // Counts have an axis of their own in each layer: layers differ in size. Distances share one.
  const shared = DISTANCES.includes(state.metric)
    ? Math.max(...all.flatMap((series) => [state.metric, ...(FLOORS[state.metric] || [])].flatMap((name) => series.statistics[name].map((v) => v ?? 0)))) : null;
  const other = (series) => (BESIDE && BESIDE.series[series.number]) || null;
  // Two runs of a layer have one axis.
  const highest = (series) => Math.max(...[series, other(series)].filter(Boolean).flatMap((one) =>
    [one.statistics[line ? state.metric : "interpretable"], ...(FLOORS[state.metric] || []).map((name) => one.statistics[name])].flat().map((v) => v ?? 0)));
  const pairs = all.flatMap((series) => [series, other(series)].filter(Boolean).map((one) => [one, shared ?? (other(series) ? highest(series) : null)]));
  $("chart-grid").classList.toggle("pairs", Boolean(BESIDE));
  fill($("chart-grid"), ...pairs.map(([series, shared]) => {
    const values = line ? series.statistics[state.metric] : series.statistics.interpretable;
    const figure = el("figure", { class: "chart" },
      el("figcaption", {}, el("b", { text: plain(series.layer) }), el("span", { text: series.of ? `${plain(series.of)} · ${count(series.size, "unit")}` : count(series.size, "unit") })));
    if (!series.of) figure.dataset.series = series.number;
    if (values.every((value) => value === null)) {
      figure.append(el("p", { class: "empty small", text: "not known for this layer" }));
      return figure;
    }
    figure.append(el("div", { class: "chart-area" }), el("p", { class: "caption" }));
    figure.querySelector("figcaption").append(keepButtons(chartTitle(series), () => figure.querySelector("svg"), () => chartContent(series, values, line)));
    figure.draw = () => drawChart(figure, series, values, line, shared);
    return figure;
  }));
  drawCharts();
}

function drawCharts() {
  for (const figure of $("chart-grid").children) if (figure.draw) figure.draw();
}

function drawChart(figure, series, values, line, shared) {
  const area = figure.querySelector(".chart-area");
  const width = Math.max(220, area.clientWidth || 300);
  const { height, left, right, top, bottom } = CHART;
  const inner = { width: width - left - right, height: height - top - bottom };
  const counts = !DISTANCES.includes(state.metric);
  const floors = (FLOORS[state.metric] || []).map((name) => series.statistics[name]);
  const most = shared || Math.max(counts ? 1 : 1e-9, ...[values, ...floors].flat().map((value) => value ?? 0));
  const marks = ticks(most, counts);
  const highest = Math.max(most, marks[marks.length - 1]) * 1.04;
  const n = series.epochs.length;
  const step = inner.width / n;
  const x = (t) => left + (t + 0.5) * step;
  const y = (value) => top + inner.height * (1 - value / highest);
  const picture = svg("svg", { width, height, viewBox: `0 0 ${width} ${height}`, role: "img" });
  for (const mark of marks) {
    picture.append(svg("line", { x1: left, x2: width - right, y1: y(mark), y2: y(mark), class: "grid" }),
      svg("text", { x: left - 6, y: y(mark) + 4, class: "tick", "text-anchor": "end", text: String(mark) }));
  }
  const now = svg("rect", { y: top - 4, width: step, height: inner.height + 4, class: "now", rx: 3 });
  picture.append(now);
  const every = Math.ceil(n / Math.max(2, Math.floor(inner.width / 34)));
  series.epochs.forEach((epoch, t) => {
    if (t % every === 0) {
      picture.append(svg("text", { x: x(t), y: height - 8, class: "tick", "text-anchor": "middle", text: String(epoch) }));
    }
  });
  if (line) {
    const known = values.map((value, t) => (value === null ? null : [x(t), y(value)]));
    let path = "";
    known.forEach((point, t) => { if (point) path += `${t && known[t - 1] ? "L" : "M"}${point[0].toFixed(1)},${point[1].toFixed(1)}`; });
    picture.append(svg("path", { d: path, class: "line" }));
    if (n <= 60) known.forEach((point) => point && picture.append(svg("circle", { cx: point[0], cy: point[1], r: 3, class: "point" })));
  } else {
    const gap = n > 60 ? 0 : Math.min(6, step * 0.24);
    for (let t = 0; t < n; t++) {
      let base = 0;
      CATEGORIES.forEach((category, c) => {
        const value = series.statistics.categories[c][t];
        if (!value) return;
        picture.append(svg("rect", {
          x: left + t * step + gap / 2, width: Math.max(0.6, step - gap), y: y(base + value),
          height: Math.max(0.4, y(base) - y(base + value) - 0.6), fill: category.colour,
        }));
        base += value;
      });
    }
  }
  for (const floor of floors) {
    let path = "";
    floor.forEach((value, t) => { if (value !== null) path += `${t && floor[t - 1] !== null ? "L" : "M"}${x(t).toFixed(1)},${y(value).toFixed(1)}`; });
    if (n === 1 && floor[0] !== null) path = `M${left},${y(floor[0]).toFixed(1)}L${width - right},${y(floor[0]).toFixed(1)}`;
    if (path) picture.append(svg("path", { d: path, class: "line", "stroke-dasharray": "4 4", opacity: 0.6 }));
  }
  const last = values.length - 1;
  picture.setAttribute("aria-label", `${plain(series.layer)}${series.of ? ` of ${plain(series.of)}` : ""}, ${METRICS.find(([name]) => name === state.metric)[1]}: `
    + `${values[0] ?? "unknown"} at epoch ${series.epochs[0]}, ${values[last] ?? "unknown"} at epoch ${series.epochs[last]}`);
  const column = (event) => {
    const box = picture.getBoundingClientRect();
    return Math.max(0, Math.min(n - 1, Math.floor((((event.clientX - box.left) / box.width) * width - left) / step)));
  };
  picture.addEventListener("pointermove", (event) => showTip(event, chartTip(series, column(event), line, values)));
  picture.addEventListener("pointerleave", hideTip);
  picture.addEventListener("click", (event) => update({ epoch: nearestShown(series.epochs[column(event)]) }));
  figure.mark = () => {
    const t = series.at(state.epoch);
    now.setAttribute("visibility", t < 0 ? "hidden" : "visible");
    now.setAttribute("x", left + Math.max(0, t) * step);
    figure.querySelector(".caption").textContent = chartCaption(series, values, line);
  };
  figure.mark();
  fill(area, picture);
}

// What is to be seen in a chart, in words: at the epoch of the slider, and from the first epoch to the last.
function chartCaption(series, values, line) {
  const t = series.at(state.epoch);
  const { epochs, statistics } = series;
  const said = (value) => (value === null ? "not known" : Number.isInteger(value) ? whole.format(value) : number(value));
  const last = epochs.length - 1;
  const course = last ? `Epoch ${epochs[0]} to ${epochs[last]}: ${said(values[0])} to ${said(values[last])}. ` : "";
  if (t < 0) return `${course}Not looked at in epoch ${state.epoch}.`;
  const floors = floorsAt(statistics, state.metric, t).map(([name, value]) => `${name} ${said(value)}`);
  if (!line) {
    const parts = CATEGORIES.map((category, c) => [statistics.categories[c][t], plain(category.name)]).filter(([value]) => value);
    return `${course}Epoch ${epochs[t]}: ${said(values[t])} of ${count(statistics.units[t], "unit")} interpretable`
      + `${parts.length ? ` (${parts.map(([value, name]) => `${whole.format(value)} ${name}`).join(", ")})` : ""}${floors.length ? `; ${floors.join(", ")}` : ""}.`;
  }
  return `${course}Epoch ${epochs[t]}: ${said(values[t])}${floors.length ? ` (${floors.join(", ")})` : ""}.`;
}

function chartTitle(series) {
  const [, name] = METRICS.find(([metric]) => metric === state.metric);
  return `${plain(series.layer)}${series.of ? ` of ${plain(series.of)}` : ""}: ${name.toLowerCase()}`;
}

// A chart as it is kept.
function chartContent(series, values, line) {
  const [, , about] = METRICS.find(([metric]) => metric === state.metric);
  const floors = FLOORS[state.metric] || [];
  const { epochs, statistics } = series;
  return {
    title: chartTitle(series),
    name: fileName(series.of || "", series.layer, series.detector, state.metric),
    caption: `${about} ${chartCaption(series, values, line)}`,
    header: line ? ["epoch", state.metric, ...floors] : ["epoch", "units", "interpretable", ...CATEGORIES.map((category) => category.name), ...floors],
    rows: () => epochs.map((epoch, t) => (line ? [epoch, values[t], ...floors.map((floor) => statistics[floor][t])]
      : [epoch, statistics.units[t], values[t], ...CATEGORIES.map((_, c) => statistics.categories[c][t]), ...floors.map((floor) => statistics[floor][t])])),
  };
}

function markCharts() {
  for (const figure of $("chart-grid").children) if (figure.mark) figure.mark();
}

function chartTip(series, t, line, values) {
  const lines = [el("p", { class: "tip-title", text: `Epoch ${series.epochs[t]}` })];
  if (line) {
    const value = values[t];
    return [...lines, value === null ? "not known" : Number.isInteger(value) ? whole.format(value) : number(value)];
  }
  CATEGORIES.forEach((category, c) => {
    const value = series.statistics.categories[c][t];
    if (!value) return;
    const swatch = el("span", { class: "swatch" });
    swatch.style.background = category.colour;
    lines.splice(1, 0, el("p", { class: "tip-row" }, swatch, el("span", { text: plain(category.name) }), el("b", { text: whole.format(value) })));
  });
  lines.push(el("p", { class: "tip-row total" }, el("span", { text: "interpretable" }), el("b", { text: whole.format(values[t]) })),
    ...floorsAt(series.statistics, "categories", t).map(([name, value]) => el("p", { class: "tip-row" }, el("span", { text: name }), el("b", { text: whole.format(value) }))));
  return lines;
}
