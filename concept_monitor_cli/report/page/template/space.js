// The picture of concept space: units as dots, anchors as stars, followed units with their way.

const space = {
  zoom: 1, panX: 0, panY: 0, hover: -1, pointer: null, from: null, moved: 0, colours: {}, ways: 0,
};

// All layers and epochs share one frame, so that places can be compared.
const FRAME = (() => {
  let [x0, x1, y0, y1] = [Infinity, -Infinity, Infinity, -Infinity];
  const add = (low, high, tall) => {
    if (tall) { y0 = Math.min(y0, low); y1 = Math.max(y1, high); }
    else { x0 = Math.min(x0, low); x1 = Math.max(x1, high); }
  };
  for (const { place } of DATA.series) {
    if (place) { add(place.x.low, place.x.high, false); add(place.y.low, place.y.high, true); }
  }
  if (!Number.isFinite(x0)) return null;
  if (DATA.anchors) {
    DATA.anchors.x.forEach((v) => v !== null && add(v, v, false));
    DATA.anchors.y.forEach((v) => v !== null && add(v, v, true));
  }
  return { x: (x0 + x1) / 2, y: (y0 + y1) / 2, width: x1 - x0 || 1, height: y1 - y0 || 1 };
})();

function spaceSize() {
  const box = $("space-frame").getBoundingClientRect();
  return { width: Math.max(1, Math.round(box.width)), height: Math.max(1, Math.round(box.height)) };
}

function projection({ width, height }) {
  const scale = Math.min((width - 48) / FRAME.width, (height - 48) / FRAME.height) * space.zoom;
  return (x, y) => [
    width / 2 + (x - FRAME.x) * scale + space.panX,
    height / 2 - (y - FRAME.y) * scale + space.panY,
  ];
}

function readColours() {
  const style = getComputedStyle(document.documentElement);
  for (const name of ["ink", "muted", "unit", "anchor", "surface", "line"]) space.colours[name] = style.getPropertyValue(`--${name}`).trim();
}

// Where the units of the current layer stand, between two epochs while they move.
function positions(series, t) {
  const { place, size } = series;
  const project = projection(spaceSize());
  const xs = new Float32Array(size).fill(NaN);
  const ys = new Float32Array(size).fill(NaN);
  const from = space.from && space.from.series === series.number ? space.from : null;
  const share = from ? from.share : 1;
  for (let row = 0; row < size; row++) {
    let x = place.x.at(t * size + row);
    let y = place.y.at(t * size + row);
    if (Number.isNaN(x)) continue;
    if (from) {
      const oldX = place.x.at(from.t * size + row);
      if (!Number.isNaN(oldX)) {
        x = oldX + (x - oldX) * share;
        const oldY = place.y.at(from.t * size + row);
        y = oldY + (y - oldY) * share;
      }
    }
    [xs[row], ys[row]] = project(x, y);
  }
  return { xs, ys };
}

function spaceProblem() {
  const series = current();
  if (!FRAME) return "No positions yet. Run “cmon embed --anchors WORDS”, then “cmon report” again.";
  if (!series.place) {
    const layer = `${plain(series.layer)}${DETECTORS.length > 1 ? ` with ${plain(series.detector)}` : ""}`;
    return `${layer} has no positions. Run “cmon embed” for it, then “cmon report” again.`;
  }
  const t = series.at(state.epoch);
  if (t < 0) return `This layer was not looked at in epoch ${state.epoch}.`;
  for (let row = 0; row < series.size; row++) if (!Number.isNaN(series.place.x.at(t * series.size + row))) return "";
  return `There are no positions for epoch ${state.epoch}. Run “cmon embed” again, then “cmon report”.`;
}

function drawSpace() {
  const canvas = $("space-canvas");
  const problem = spaceProblem();
  $("space-empty").hidden = !problem;
  $("space-empty").textContent = problem;
  canvas.hidden = Boolean(problem);
  document.querySelector(".space-tools").hidden = Boolean(problem);
  $("space-keep").hidden = Boolean(problem);
  $("space-frame").classList.toggle("without", Boolean(problem));
  if (problem) return;
  const series = current();
  const t = series.at(state.epoch);
  const { width, height } = spaceSize();
  const ratio = Math.min(3, devicePixelRatio || 1);
  if (canvas.width !== Math.round(width * ratio) || canvas.height !== Math.round(height * ratio)) {
    canvas.width = Math.round(width * ratio);
    canvas.height = Math.round(height * ratio);
  }
  const draw = canvas.getContext("2d");
  draw.setTransform(ratio, 0, 0, ratio, 0, 0);
  draw.clearRect(0, 0, width, height);
  const { xs, ys } = positions(series, t);
  space.shown = { xs, ys };
  const search = searching();
  const found = new Set();
  const radius = Math.min(5, (series.size > 1500 ? 2.4 : series.size > 400 ? 3 : 3.8) * Math.sqrt(Math.min(space.zoom, 4)));
  // Grey ones first, so that they cover nothing; then by colour, which spares the canvas its work.
  const groups = new Map();
  for (let row = 0; row < series.size; row++) {
    if (Number.isNaN(xs[row])) continue;
    const hit = !search || search.unit(series, t, row);
    if (search && hit) found.add(row);
    const sure = series.flag(t, row, INTERPRETABLE);
    const colour = sure ? colourOf(series.label(t, row)) : space.colours.unit;
    const key = `${hit ? 1 : 0}${sure ? 1 : 0}${colour}`;
    if (!groups.has(key)) groups.set(key, { hit, sure, colour, rows: [] });
    groups.get(key).rows.push(row);
  }
  for (const key of [...groups.keys()].sort()) {
    const { hit, sure, colour, rows } = groups.get(key);
    draw.globalAlpha = hit ? (sure ? 0.85 : 0.7) : 0.14;
    draw.fillStyle = colour;
    draw.beginPath();
    for (const row of rows) {
      draw.moveTo(xs[row] + radius, ys[row]);
      draw.arc(xs[row], ys[row], sure ? radius : radius * 0.75, 0, 2 * Math.PI);
    }
    draw.fill();
  }
  draw.globalAlpha = 1;
  draw.strokeStyle = space.colours.ink;
  draw.lineWidth = 1.5;
  if (found.size <= 400) {
    for (const row of found) {
      draw.beginPath();
      draw.arc(xs[row], ys[row], radius + 2.5, 0, 2 * Math.PI);
      draw.stroke();
    }
  }
  const taken = [];
  drawFollowed(draw, series, t, taken, { width, height });
  drawAnchors(draw, taken, { width, height });
  drawClusters(draw, series, t, taken, { width, height });
  if (space.hover >= 0 && !Number.isNaN(xs[space.hover])) {
    draw.lineWidth = 2;
    draw.strokeStyle = space.colours.ink;
    draw.beginPath();
    draw.arc(xs[space.hover], ys[space.hover], radius + 3, 0, 2 * Math.PI);
    draw.stroke();
  }
  const s = series.statistics;
  const several = clusters(series, t, { width, height });
  canvas.setAttribute("aria-label", `${plain(series.layer)} at epoch ${state.epoch}: ${count(s.units[t], "unit")}, `
    + `${whole.format(s.interpretable[t])} interpretable, among ${count(DATA.anchors.name.length, "anchor")}. `
    + (several.length ? `Concepts of several units: ${several.map(({ label, rows }) => `${labelText(label)} ${rows.length}`).join(", ")}. ` : "")
    + "The same units are in the table below.");
}

function star(draw, x, y, radius) {
  draw.beginPath();
  for (let i = 0; i < 10; i++) {
    const angle = (Math.PI * i) / 5 - Math.PI / 2;
    const r = i % 2 ? radius * 0.45 : radius;
    draw.lineTo(x + r * Math.cos(angle), y + r * Math.sin(angle));
  }
  draw.closePath();
}

// Writes beside a point, on the first side where it covers no earlier label; without room, not at all.
function writeBeside(draw, text, x, y, colour, taken, { width, height }, needed) {
  const w = draw.measureText(text).width + 4;
  const h = 16;
  const places = [[x + 8, y - h / 2], [x - 8 - w, y - h / 2], [x - w / 2, y - h - 8], [x - w / 2, y + 8],
    [x + 8, y - h - 2], [x + 8, y + 2], [x - 8 - w, y - h - 2], [x - 8 - w, y + 2]];
  const free = places.find(([a, b]) => a >= 2 && b >= 2 && a + w <= width - 2 && b + h <= height - 2
    && !taken.some(([c, d, e, f]) => a < c + e && a + w > c && b < d + f && b + h > d)) || (needed ? places[0] : null);
  if (!free) return;
  taken.push([free[0], free[1], w, h]);
  draw.lineWidth = 3.5;
  draw.lineJoin = "round";
  draw.strokeStyle = space.colours.surface;
  draw.strokeText(text, free[0] + 2, free[1] + h / 2);
  draw.fillStyle = colour;
  draw.fillText(text, free[0] + 2, free[1] + h / 2);
}

function short(text, most = 28) { return text.length > most ? `${text.slice(0, most - 1)}…` : text; }

function drawAnchors(draw, taken, size) {
  const project = projection(size);
  const points = DATA.anchors.name.map((name, i) => [name, ...project(DATA.anchors.x[i], DATA.anchors.y[i])]);
  for (const [, x, y] of points) {
    star(draw, x, y, 8);
    draw.fillStyle = space.colours.anchor;
    draw.strokeStyle = space.colours.surface;
    draw.lineWidth = 1.5;
    draw.fill();
    draw.stroke();
    taken.push([x - 7, y - 7, 14, 14]);
  }
  draw.font = "600 12px system-ui, sans-serif";
  draw.textBaseline = "middle";
  for (const [name, x, y] of points) writeBeside(draw, short(plain(name)), x, y, space.colours.anchor, taken, size, false);
}

function drawFollowed(draw, series, t, taken, size) {
  const project = projection(size);
  draw.font = "600 12px system-ui, sans-serif";
  draw.textBaseline = "middle";
  for (const [key, colour] of state.followed) {
    const [which, row] = key.split("/").map(Number);
    if (which !== series.number) continue;
    const way = [];
    for (let i = 0; i < t; i++) {
      const x = series.place.x.at(i * series.size + row);
      if (!Number.isNaN(x)) way.push(project(x, series.place.y.at(i * series.size + row)));
    }
    const here = [space.shown.xs[row], space.shown.ys[row]];
    draw.strokeStyle = colour;
    draw.fillStyle = colour;
    draw.lineWidth = 2;
    // Steps fade with their age: of a long training the last ones are what can be followed.
    const points = [...way, here].filter(([x]) => !Number.isNaN(x));
    for (let i = 0; i < points.length - 1; i++) {
      draw.globalAlpha = Math.max(0.06, 0.8 * 0.25 ** ((points.length - 2 - i) / 10));
      draw.beginPath();
      draw.moveTo(...points[i]);
      draw.lineTo(...points[i + 1]);
      draw.stroke();
      draw.beginPath();
      draw.arc(...points[i], 2.5, 0, 2 * Math.PI);
      draw.fill();
    }
    draw.globalAlpha = 1;
    if (Number.isNaN(here[0])) continue;
    draw.beginPath();
    draw.arc(here[0], here[1], 7, 0, 2 * Math.PI);
    draw.fillStyle = space.colours.surface;
    draw.fill();
    draw.beginPath();
    draw.arc(here[0], here[1], 5, 0, 2 * Math.PI);
    draw.fillStyle = colour;
    draw.fill();
    taken.push([here[0] - 7, here[1] - 7, 14, 14]);
    const label = series.label(t, row);
    writeBeside(draw, short(`${series.units[row]}: ${labelText(label)}`), ...here, space.colours.ink, taken, size, true);
  }
}

const CLUSTERS = { most: 14, least: 3, tile: 34 };

// Interpretable units by concept, the commonest concepts first: where a concept has several units, they lie together.
function clusters(series, t, { width, height }) {
  const { xs, ys } = space.shown;
  const groups = new Map();
  for (let row = 0; row < series.size; row++) {
    if (!(xs[row] >= 0 && xs[row] <= width && ys[row] >= 0 && ys[row] <= height) || !series.flag(t, row, INTERPRETABLE)) continue;
    const label = series.label(t, row);
    if (!groups.has(label)) groups.set(label, []);
    groups.get(label).push(row);
  }
  const middle = (values) => values.sort((a, b) => a - b)[Math.floor(values.length / 2)];
  return [...groups].filter(([, rows]) => rows.length >= CLUSTERS.least)
    .sort((a, b) => b[1].length - a[1].length || a[0] - b[0]).slice(0, CLUSTERS.most)
    .map(([label, rows]) => ({ label, rows, x: middle(rows.map((row) => xs[row])), y: middle(rows.map((row) => ys[row])) }));
}

// The name of each cluster, and the favourite photo of its surest unit: what is where. Nothing covers anything.
function drawClusters(draw, series, t, taken, size) {
  if (space.from || searching()) return;
  draw.font = "11.5px system-ui, sans-serif";
  draw.textBaseline = "middle";
  const side = CLUSTERS.tile;
  for (const { label, rows, x, y } of clusters(series, t, size)) {
    const sure = rows.map((row) => [row, series.images(t, row)[0]]).filter(([, image]) => image !== undefined)
      .sort((a, b) => (series.certainty(t, b[0]) || -1e9) - (series.certainty(t, a[0]) || -1e9))[0];
    const [left, top] = [x - side / 2, y - side - 8];
    const free = left >= 2 && top >= 2 && left + side <= size.width - 2
      && !taken.some(([a, b, w, h]) => left < a + w && left + side > a && top < b + h && top + side > b);
    if (sure && free) {
      taken.push([left, top, side, side]);
      drawThumbnail(draw, sure[1], left, top, side, colourOf(label));
    }
    writeBeside(draw, `${short(labelText(label), 22)} ${rows.length}`, x, y, space.colours.ink, taken, size, false);
  }
}

// A photo on the canvas, framed in the colour of its category; drawn anew once its sheet is read.
function drawThumbnail(draw, place, left, top, side, colour) {
  const { size, columns, perSheet } = DATA.images;
  const sheet = sheetImage(Math.floor(place / perSheet));
  if (!sheet.image.complete) {
    if (!sheet.awaited) sheet.awaited = sheet.ready.then(drawSpace).catch(() => {});
    return;
  }
  if (!sheet.image.naturalWidth) return;
  const inside = place % perSheet;
  draw.drawImage(sheet.image, (inside % columns) * size, Math.floor(inside / columns) * size, size, size, left, top, side, side);
  draw.lineWidth = 2;
  draw.strokeStyle = colour;
  draw.strokeRect(left, top, side, side);
}

// A short glide from one epoch to the next shows which unit went where.
function glide(series, before) {
  if (calm.matches || before < 0 || series.size > 6000) { space.from = null; drawSpace(); return; }
  const start = performance.now();
  const run = ++space.ways;
  space.from = { series: series.number, t: before, share: 0 };
  const frame = (time) => {
    if (run !== space.ways || !space.from) return;
    const share = Math.min(1, Math.max(0, (time - start) / 260));
    space.from.share = share * share * (3 - 2 * share);
    if (share === 1) space.from = null;
    drawSpace();
    if (share < 1) requestAnimationFrame(frame);
  };
  frame(start);
}

function nearestUnit(event, reach) {
  if (!space.shown || $("space-canvas").hidden) return -1;
  const box = $("space-canvas").getBoundingClientRect();
  const [px, py] = [event.clientX - box.left, event.clientY - box.top];
  let best = -1;
  let least = reach * reach;
  const { xs, ys } = space.shown;
  for (let row = 0; row < xs.length; row++) {
    const d = (xs[row] - px) ** 2 + (ys[row] - py) ** 2;
    if (d <= least) { least = d; best = row; }
  }
  return best;
}

function spaceTip(series, t, row) {
  const lines = [el("p", { class: "tip-title", text: `Unit ${series.units[row]}` }), conceptOf(series, t, row)];
  const place = t * series.size + row;
  const anchor = series.place.anchor[place];
  lines.push(`score ${number(series.score(t, row))}`);
  if (anchor) lines.push(`nearest anchor: ${short(plain(DATA.anchors.name[anchor - 1]))} (${number(series.place.distance.at(place))})`);
  return lines;
}

function zoomBy(factor, x, y) {
  const { width, height } = spaceSize();
  const zoom = Math.min(40, Math.max(1, space.zoom * factor));
  const [cx, cy] = [(x ?? width / 2) - width / 2, (y ?? height / 2) - height / 2];
  const real = zoom / space.zoom;
  space.panX = cx - (cx - space.panX) * real;
  space.panY = cy - (cy - space.panY) * real;
  space.zoom = zoom;
  if (zoom === 1) space.panX = space.panY = 0;
  // Zoomed in, one finger moves the picture; else it scrolls the page.
  $("space-canvas").classList.toggle("zoomed", zoom > 1);
  drawSpace();
}

function startSpace() {
  const canvas = $("space-canvas");
  const fingers = new Map();
  const apart = () => { const [a, b] = [...fingers.values()]; return Math.hypot(a[0] - b[0], a[1] - b[1]); };
  let wide = 0;
  canvas.addEventListener("pointerdown", (event) => {
    fingers.set(event.pointerId, [event.clientX, event.clientY]);
    space.moved = 0;
    if (fingers.size === 2) wide = apart();
    if (space.zoom > 1 || fingers.size === 2) canvas.setPointerCapture(event.pointerId);
  });
  canvas.addEventListener("pointermove", (event) => {
    const before = fingers.get(event.pointerId);
    if (before) {
      const [dx, dy] = [event.clientX - before[0], event.clientY - before[1]];
      space.moved += Math.abs(dx) + Math.abs(dy);
      fingers.set(event.pointerId, [event.clientX, event.clientY]);
      if (fingers.size === 2) {
        const box = canvas.getBoundingClientRect();
        const [a, b] = [...fingers.values()];
        const now = apart();
        zoomBy(now / wide, (a[0] + b[0]) / 2 - box.left, (a[1] + b[1]) / 2 - box.top);
        wide = now;
        return;
      }
      if (space.zoom > 1) {
        space.panX += dx;
        space.panY += dy;
        drawSpace();
        return;
      }
    }
    const row = nearestUnit(event, 14);
    if (row !== space.hover) { space.hover = row; drawSpace(); }
    canvas.classList.toggle("over", row >= 0);
    space.pointer = event;
    if (row >= 0) showTip(event, spaceTip(current(), current().at(state.epoch), row));
    else hideTip();
  });
  const lift = (event) => fingers.delete(event.pointerId);
  canvas.addEventListener("pointerup", lift);
  canvas.addEventListener("pointercancel", lift);
  canvas.addEventListener("pointerleave", (event) => {
    lift(event);
    hideTip();
    if (space.hover >= 0) { space.hover = -1; drawSpace(); }
  });
  canvas.addEventListener("click", (event) => {
    if (space.moved > 8) return;
    const row = nearestUnit(event, 16);
    if (row >= 0) openUnit(state.series, row);
  });
  canvas.addEventListener("wheel", (event) => {
    // The plain wheel scrolls the page, as everywhere else.
    if (!event.ctrlKey && !event.metaKey) return;
    event.preventDefault();
    const box = canvas.getBoundingClientRect();
    zoomBy(Math.exp(-event.deltaY / 300), event.clientX - box.left, event.clientY - box.top);
  }, { passive: false });
  if (FRAME) $("space-keep").append(keepButtons("concept space", spacePicture, spaceContent));
  $("zoom-in").addEventListener("click", () => zoomBy(1.6));
  $("zoom-out").addEventListener("click", () => zoomBy(1 / 1.6));
  $("zoom-reset").addEventListener("click", () => zoomBy(1e-9));
}

// -- lists beside the picture ------------------------------------------------------------------

const MOST_LISTED = 12;

function unitButton(series, t, row, colour) {
  const mark = el("span", { class: "line-mark", "aria-hidden": "true" });
  if (colour) mark.style.background = colour;
  return el("button", { type: "button", class: "unit-link", onclick: () => openUnit(series.number, row) },
    colour ? mark : null, el("b", { text: String(series.units[row]) }), conceptOf(series, t, row));
}

function showFound() {
  const series = current();
  const t = series.at(state.epoch);
  const search = searching();
  if (!search || t < 0) {
    fill($("found"));
    $("found-hint").textContent = "Write a concept or a unit’s number into “Find”: 12, striped.";
    return;
  }
  const rows = [];
  for (let row = 0; row < series.size; row++) if (search.unit(series, t, row)) rows.push(row);
  rows.sort((a, b) => (series.certainty(t, b) || -1e9) - (series.certainty(t, a) || -1e9));
  const more = rows.length - MOST_LISTED;
  $("found-hint").textContent = rows.length
    ? `${count(rows.length, "unit")} in ${plain(series.layer)} at epoch ${state.epoch}` : `None in ${plain(series.layer)} at epoch ${state.epoch}.`;
  fill($("found"), ...rows.slice(0, MOST_LISTED).map((row) => el("li", {}, unitButton(series, t, row))),
    more > 0 ? el("li", { class: "hint", text: `and ${whole.format(more)} more, in the table below` }) : null);
}

function showFollowed() {
  const series = current();
  const t = series.at(state.epoch);
  const items = [];
  for (const [key, colour] of state.followed) {
    const [which, row] = key.split("/").map(Number);
    if (which !== series.number) continue;
    items.push(el("li", {}, unitButton(series, t, row, colour),
      el("button", { type: "button", class: "round small", "aria-label": `Stop following unit ${series.units[row]}`, text: "×", onclick: () => follow(which, row, false) })));
  }
  $("followed-hint").textContent = items.length ? "" : "Open a unit and choose “Follow” to see its way through the epochs.";
  fill($("followed"), ...items);
}

function follow(which, row, wanted) {
  const followed = new Map(state.followed);
  const key = `${which}/${row}`;
  if (wanted) {
    const used = new Set(followed.values());
    followed.set(key, DATA.followedColours.find((colour) => !used.has(colour)) || DATA.followedColours[followed.size % DATA.followedColours.length]);
  } else followed.delete(key);
  update({ followed });
}

// The unit under the pointer stays the one that is told of while the epochs go by.
function followHover(changed) {
  const t = current().at(state.epoch);
  if (space.hover < 0 || $("tip").hidden || changed.has("series") || changed.has("everything") || t < 0) {
    if (space.hover >= 0) hideTip();
    space.hover = -1;
    return;
  }
  showTip(space.pointer, spaceTip(current(), t, space.hover));
}
