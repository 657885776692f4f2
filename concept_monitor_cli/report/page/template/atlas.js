// The activation atlas: a map of tiles to point at, and what is known of the cell that is pointed at.

const ATLAS = DATA.atlas;

// The cell that is shown; it stays while the epoch changes, where that epoch has it.
const atlasAt = { x: -1, y: -1 };

function buildAtlas() {
  if (!ATLAS) return;
  $("atlas").hidden = false;
  const of = ATLAS.classes.length ? `: ${ATLAS.classes.map(plain).join(" against ")}` : "";
  fill($("atlas-name"), el("b", { text: plain(ATLAS.layer) + of }), el("span", { id: "atlas-epoch" }));
  const map = $("atlas-map");
  map.addEventListener("keydown", (event) => {
    const way = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, 1], ArrowDown: [0, -1] }[event.key];
    if (!way) return;
    event.preventDefault();
    event.stopPropagation(); // elsewhere arrows change the epoch
    const next = atlasNeighbour(atlasMoment().cells, way);
    if (next) pointAt(next, true);
  });
  markAtlas();
}

// The epoch that is nearest to the slider's.
function atlasMoment() {
  return ATLAS.epochs.reduce((best, each) => (Math.abs(each.epoch - state.epoch) < Math.abs(best.epoch - state.epoch) ? each : best));
}

// The nearest cell that way; what lies aside counts double.
function atlasNeighbour(cells, [right, up]) {
  let best = null, least = Infinity;
  for (const cell of cells) {
    const along = (cell.x - atlasAt.x) * right + (cell.y - atlasAt.y) * up;
    const aside = Math.abs(right ? cell.y - atlasAt.y : cell.x - atlasAt.x);
    if (along > 0 && along + 2 * aside < least) { best = cell; least = along + 2 * aside; }
  }
  return best;
}

const byLuck = (value, floor) => `${number(value, 2)}${floor === null ? "" : ` (by luck ${number(floor, 2)})`}`;
const atlasTitle = (cell) => plain(cell.concept || cell.class || "no concept");

function markAtlas() {
  if (!ATLAS) return;
  const one = atlasMoment();
  $("atlas-epoch").textContent = `epoch ${one.epoch}`;
  $("atlas-numbers").textContent = [
    count(one.cells.length, "cell"),
    one.coherence === null ? null : `samples of a cell are alike ${byLuck(one.coherence, one.coherenceFloor)}`,
    one.nearest === null ? null : `pictures nearest to their own cell ${byLuck(one.nearest, one.nearestFloor)}`,
    one.purity === null ? null : `neighbours of the same epoch ${byLuck(one.purity, one.purityFloor)}`,
  ].filter(Boolean).join(" · ");
  const most = Math.log1p(Math.max(...one.cells.map((cell) => cell.count)));
  const share = 100 / ATLAS.side;
  fill($("atlas-map"), ...one.cells.map((cell) => {
    const side = share * 0.96 * Math.max(0.45, Math.sqrt(Math.log1p(cell.count) / most));
    const tile = el("button", { type: "button", class: "tile", tabindex: "-1", "aria-label": `${atlasTitle(cell)}, ${count(cell.count, "sample")}`,
      onpointerenter: () => pointAt(cell), onfocus: () => pointAt(cell), onclick: () => pointAt(cell) },
    cell.tile ? el("img", { src: cell.tile, alt: "" }) : null);
    tile.style.left = `${(cell.x + 0.5) * share - side / 2}%`;
    tile.style.bottom = `${(cell.y + 0.5) * share - side / 2}%`;
    tile.style.width = tile.style.height = `${side}%`;
    return tile;
  }));
  const largest = one.cells.reduce((best, cell) => (cell.count > best.count ? cell : best));
  pointAt(one.cells.find((cell) => cell.x === atlasAt.x && cell.y === atlasAt.y) || largest);
}

function pointAt(cell, move = false) {
  Object.assign(atlasAt, { x: cell.x, y: cell.y });
  const one = atlasMoment();
  [...$("atlas-map").children].forEach((tile, i) => {
    const here = one.cells[i].x === cell.x && one.cells[i].y === cell.y;
    tile.setAttribute("tabindex", here ? "0" : "-1");
    tile.classList.toggle("here", here);
    if (here && move) tile.focus();
  });
  const place = DATA.images.names.indexOf(cell.photo);
  fill($("atlas-here"), el("h3", { text: atlasTitle(cell) }),
    el("div", { class: "big-thumbs" },
      cell.tile ? el("figure", {}, el("img", { class: "thumb", src: cell.tile, alt: `picture made of this cell: ${atlasTitle(cell)}` }), el("figcaption", { class: "muted", text: "made" })) : null,
      place < 0 ? null : el("figure", {}, thumbnail(place, 84), el("figcaption", { class: "muted", text: "photo" }))),
    el("dl", { class: "life-facts" }, ...[
      ["Samples", String(cell.count)],
      ["Concept", cell.concept ? `${plain(cell.concept)}: ${byLuck(cell.correlation, cell.correlationFloor)}` : null],
      ["Says most for", cell.class ? `${plain(cell.class)}: ${byLuck(cell.share, cell.shareFloor)} of its samples` : null],
      ["1 − cosine to the epoch before", cell.drift === null ? null : `${number(cell.drift, 2)}${one.driftFloor === null ? "" : ` (to other cells ${number(one.driftFloor, 2)})`}`],
    ].filter(([, text]) => text).map(([name, text]) => el("div", {}, el("dt", { text: name }), el("dd", {}, el("bdi", { text }))))));
}
