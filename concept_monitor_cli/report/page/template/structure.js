// Panels of other commands: how alike epochs are, what images are clustered by, what units do for classes.

const DYNAMICS = DATA.dynamics;
const FACTORS = DATA.factors;
const USES = DATA.uses;

function buildUses() {
  if (!USES || !USES.words.length) return;
  $("uses").hidden = false;
  fill($("uses-words"), ...USES.words.map((text) => el("li", { text: plain(text) })));
}

// What a unit does, beside what it shows; nothing where no command has asked.
function unitUses(series, row) {
  const told = USES && USES.units[series.number] && USES.units[series.number][String(series.units[row])];
  if (!told) return null;
  return el("section", {}, el("h3", { text: "What it does" }), el("ul", { class: "note" }, ...told.map((text) => el("li", { text: plain(text) }))));
}

function unpackedDynamics() {
  return DYNAMICS.layers.map((raw) => ({ layer: raw.layer, epochs: raw.epochs, cka: new Numbers(raw.cka), chance: new Numbers(raw.chance) }));
}

const DYNAMIC_LAYERS = DYNAMICS ? unpackedDynamics() : [];

function buildDynamics() {
  if (!DYNAMICS) return;
  $("dynamics").hidden = false;
  fill($("dynamics-words"), ...DYNAMICS.words.map((text) => el("li", { text: plain(text) })));
  fill($("dynamics-grid"), ...DYNAMIC_LAYERS.map((one) => {
    const figure = el("figure", { class: "chart" },
      el("figcaption", {}, el("b", { text: plain(one.layer) }), el("span", { text: "CKA, epoch by epoch" })),
      el("div", { class: "chart-area" }));
    figure.querySelector("figcaption").append(keepButtons(`${one.layer}: CKA`, () => figure.querySelector("svg"), () => matrixContent(one)));
    figure.mark = drawMatrix(figure.querySelector(".chart-area"), one);
    return figure;
  }), endCurves());
  markDynamics();
}

function markDynamics() {
  for (const figure of $("dynamics-grid").children) if (figure.mark) figure.mark();
}

// Epochs x epochs; the row and the column of the slider's epoch are framed.
function drawMatrix(area, one) {
  const n = one.epochs.length;
  const side = 200, left = 30, bottom = 20;
  const step = side / n;
  const picture = svg("svg", { viewBox: `0 0 ${left + side + 4} ${side + bottom + 4}`, role: "img",
    "aria-label": `${plain(one.layer)}: similarity of ${n} epochs with each other; the first to the last ${number(one.cka.at(n - 1), 2)}` });
  for (let i = 0; i < n; i++) {
    for (let j = 0; j < n; j++) {
      const value = one.cka.at(i * n + j);
      picture.append(svg("rect", { x: left + j * step, y: i * step, width: step + 0.3, height: step + 0.3,
        class: Number.isFinite(value) ? "heat" : "heat none", "fill-opacity": Math.max(0, Math.min(1, value || 0)) }));
    }
  }
  const every = Math.ceil(n / 8);
  one.epochs.forEach((epoch, i) => {
    if (i % every) return;
    picture.append(svg("text", { x: left - 5, y: (i + 0.5) * step + 4, class: "tick", "text-anchor": "end", text: String(epoch) }),
      svg("text", { x: left + (i + 0.5) * step, y: side + 15, class: "tick", "text-anchor": "middle", text: String(epoch) }));
  });
  const row = svg("rect", { x: left, width: side, height: step, class: "cursor" });
  const column = svg("rect", { y: 0, width: step, height: side, class: "cursor" });
  picture.append(row, column);
  const cell = (event) => {
    const box = picture.getBoundingClientRect();
    const scale = (left + side + 4) / box.width;
    const at = (value) => Math.max(0, Math.min(n - 1, Math.floor(value / step)));
    return [at((event.clientY - box.top) * scale), at((event.clientX - box.left) * scale - left)];
  };
  picture.addEventListener("pointermove", (event) => {
    const [i, j] = cell(event);
    showTip(event, [el("p", { class: "tip-title", text: `Epoch ${one.epochs[i]} and ${one.epochs[j]}` }),
      `${number(one.cka.at(i * n + j), 2)} (permuted images ${number(one.chance.at(i * n + j), 2)})`]);
  });
  picture.addEventListener("pointerleave", hideTip);
  picture.addEventListener("click", (event) => update({ epoch: nearestShown(one.epochs[cell(event)[1]]) }));
  fill(area, picture);
  return () => {
    const t = one.epochs.indexOf(state.epoch);
    for (const [mark, name] of [[row, "y"], [column, "x"]]) {
      mark.setAttribute("visibility", t < 0 ? "hidden" : "visible");
      mark.setAttribute(name, (name === "x" ? left : 0) + Math.max(0, t) * step);
    }
  };
}

function matrixContent(one) {
  const n = one.epochs.length;
  return {
    title: `${plain(one.layer)}: CKA, epoch by epoch`,
    name: fileName(one.layer, "cka"),
    caption: `How alike the layer is at two epochs (debiased CKA; 1: the same space, 0: chance). Epoch ${one.epochs[0]} to ${one.epochs[n - 1]}: `
      + `${number(one.cka.at(n - 1), 2)} (permuted images ${number(one.chance.at(n - 1), 2)}).`,
    header: ["epoch_a", "epoch_b", "cka", "chance"],
    rows: () => one.epochs.flatMap((a, i) => one.epochs.map((b, j) => [a, b, one.cka.at(i * n + j), one.chance.at(i * n + j)])),
  };
}

// An epoch of the slider.
function nearestShown(epoch) {
  return DATA.epochs.reduce((best, each) => (Math.abs(each - epoch) < Math.abs(best - epoch) ? each : best), DATA.epochs[0]);
}

// Lines over epochs in one frame: `lines` are { name, colour, points: [[epoch, value], ...] }.
function lineChart(title, note, lines, top) {
  const epochs = [...new Set(lines.flatMap((line) => line.points.map(([epoch]) => epoch)))].sort((a, b) => a - b);
  const width = 300, height = 200, left = 34, bottom = 22, inner = { width: width - left - 8, height: height - bottom - 8 };
  const low = epochs[0], span = Math.max(1, epochs[epochs.length - 1] - low);
  const x = (epoch) => left + (inner.width * (epoch - low)) / span;
  const y = (value) => 8 + inner.height * (1 - Math.max(0, value) / top);
  const picture = svg("svg", { viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": `${plain(title)}: ${lines.map((line) => plain(line.name)).join(", ")}` });
  for (const mark of ticks(top, false)) {
    picture.append(svg("line", { x1: left, x2: width - 8, y1: y(mark), y2: y(mark), class: "grid" }),
      svg("text", { x: left - 5, y: y(mark) + 4, class: "tick", "text-anchor": "end", text: String(mark) }));
  }
  const every = Math.ceil(epochs.length / 8);
  epochs.forEach((epoch, i) => { if (i % every === 0) picture.append(svg("text", { x: x(epoch), y: height - 6, class: "tick", "text-anchor": "middle", text: String(epoch) })); });
  const now = svg("line", { y1: 8, y2: 8 + inner.height, class: "cursor" });
  picture.append(now);
  for (const line of lines) {
    const known = line.points.filter(([, value]) => Number.isFinite(value));
    const stroke = line.colour || "var(--unit)";
    const path = svg("path", { d: known.map(([epoch, value], i) => `${i ? "L" : "M"}${x(epoch).toFixed(1)},${y(value).toFixed(1)}`).join(""), class: "line" });
    path.style.stroke = stroke;
    if (!line.colour) path.style.strokeWidth = "1";
    picture.append(path);
    for (const [epoch, value] of known) {
      const point = svg("circle", { cx: x(epoch), cy: y(value), r: line.colour ? 3 : 1.5, class: "point" });
      point.style.fill = stroke;
      point.addEventListener("pointermove", (event) => showTip(event, [el("p", { class: "tip-title", text: plain(line.name) }), `epoch ${epoch}: ${number(value)}`]));
      point.addEventListener("pointerleave", hideTip);
      picture.append(point);
    }
  }
  const figure = el("figure", { class: "chart" }, el("figcaption", {}, el("b", { text: plain(title) }), el("span", { text: note })),
    el("div", { class: "chart-area" }, picture), el("ul", { class: "legend" }, ...lines.filter((line) => line.colour).map((line) => {
      const swatch = el("span", { class: "swatch", "aria-hidden": "true" });
      swatch.style.background = line.colour;
      return el("li", {}, swatch, el("span", { text: plain(line.name) }));
    })));
  figure.querySelector("figcaption").append(keepButtons(`${title}: ${note}`, () => picture, () => ({
    title: `${plain(title)}: ${note}`,
    name: fileName(title, note),
    caption: `${lines.map((line) => plain(line.name)).join(", ")}; epoch ${low} to ${low + span}.`,
    header: ["line", "epoch", "value"],
    rows: () => lines.flatMap((line) => line.points.map(([epoch, value]) => [line.name, epoch, value])),
  })));
  figure.mark = () => {
    now.setAttribute("visibility", state.epoch < low || state.epoch > low + span ? "hidden" : "visible");
    now.setAttribute("x1", x(state.epoch));
    now.setAttribute("x2", x(state.epoch));
  };
  return figure;
}

const lineColour = (i) => DATA.trackColours[i % DATA.trackColours.length];

function endCurves() {
  return lineChart("To the last epoch", "CKA; 0 is chance", DYNAMIC_LAYERS.map((one, i) => ({
    name: one.layer, colour: lineColour(i),
    points: one.epochs.map((epoch, t) => [epoch, one.cka.at(t * one.epochs.length + one.epochs.length - 1)]),
  })), 1);
}

// -- factors -----------------------------------------------------------------------------------

function factorName(k) {
  const card = FACTORS.cards[k];
  return `${k}: ${card.concept || card.classes.slice(0, 2).join(", ") || "factor"}`;
}

function buildFactors() {
  if (!FACTORS) return;
  $("factors").hidden = false;
  fill($("factor-cards"), ...FACTORS.cards.map((card, k) => el("article", { class: "card factor" },
    el("span", { class: "card-layer", text: `Factor ${k}`, title: `Factor ${k}` }),
    card.classes.length ? el("span", { text: plain(card.classes.join(", ")) }) : null,
    card.superclasses.length ? el("span", { class: "muted", text: plain(card.superclasses.join("; ")) }) : null,
    card.images.length ? el("span", { class: "thumbs" }, ...card.images.map((place) => thumbnail(place, 36))) : null,
    el("span", { class: "card-more", text: [
      card.concept ? `concept ${plain(card.concept)}` : null,
      card.purity === null ? null : `purity ${number(card.purity, 2)} (chance ${number(card.chance, 2)})`,
      card.stability === null ? null : `found again ${number(card.stability, 2)}`,
    ].filter(Boolean).join(" · ") }))));
  buildStrengths();
}

function buildStrengths() {
  const shares = Object.fromEntries(FACTORS.layers.map((layer) => [layer, new Numbers(FACTORS.share[layer])]));
  const at = (layer, t, k) => shares[layer].at(t * FACTORS.members + k);
  const moves = FACTORS.cards.map((_, k) => FACTORS.layers.reduce((sum, layer) => {
    const values = FACTORS.epochs.map((_, t) => at(layer, t, k)).filter(Number.isFinite);
    return sum + (values.length ? Math.max(...values) - Math.min(...values) : 0);
  }, 0));
  const moving = moves.map((value, k) => [value, k]).sort((a, b) => b[0] - a[0] || a[1] - b[1]).slice(0, DATA.trackColours.length).map(([, k]) => k);
  const top = Math.max(1e-6, ...FACTORS.layers.flatMap((layer) => FACTORS.cards.flatMap((_, k) => FACTORS.epochs.map((_, t) => at(layer, t, k) || 0))));
  const order = FACTORS.cards.map((_, k) => k).sort((a, b) => moving.includes(a) - moving.includes(b));
  fill($("factor-grid"), ...FACTORS.layers.map((layer) => lineChart(layer, "share of the strength", order.map((k) => ({
    name: factorName(k), colour: moving.includes(k) ? lineColour(moving.indexOf(k)) : null,
    points: FACTORS.epochs.map((epoch, t) => [epoch, at(layer, t, k)]),
  })), top)));
  markFactors();
}

function markFactors() {
  for (const figure of $("factor-grid").children) if (figure.mark) figure.mark();
}
