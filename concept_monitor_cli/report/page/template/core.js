// What the other parts share: the data, the state of the page, and small helpers.
// Nothing that comes from a run is ever parsed as HTML: text goes in by textContent alone.

const DATA = JSON.parse(document.getElementById("cmon-data").textContent);
const NONE = 65535;
const STEPS = 65534;

// -- unpacking ---------------------------------------------------------------------------------

function bytes(text) {
  if (Uint8Array.fromBase64) return Uint8Array.fromBase64(text);
  const raw = atob(text);
  const result = new Uint8Array(raw.length);
  for (let i = 0; i < raw.length; i++) result[i] = raw.charCodeAt(i);
  return result;
}

function integers(packed) {
  const raw = bytes(packed.data);
  if (packed.kind === "u8") return raw;
  const Kind = packed.kind === "u16" ? Uint16Array : Uint32Array;
  return new Kind(raw.buffer, raw.byteOffset, raw.length / Kind.BYTES_PER_ELEMENT);
}

// Numbers stay packed; each is worked out when asked for. NaN where there is none.
class Numbers {
  constructor(packed) {
    this.steps = integers(packed);
    this.low = packed.low;
    this.scale = (packed.high - packed.low) / STEPS;
    this.log = Boolean(packed.log);
  }

  at(i) {
    const step = this.steps[i];
    if (step === NONE || step === undefined) return NaN;
    const value = this.low + step * this.scale;
    return this.log ? Math.exp(value) : value;
  }
}

const PRESENT = 1;
const LIVE = 2;
const INTERPRETABLE = 4;

// One layer as one detector sees it. Its arrays are unpacked when first looked at.
class Series {
  constructor(raw, number) {
    this.raw = raw;
    this.number = number;
    this.layer = raw.layer;
    this.detector = raw.detector;
    this.epochs = raw.epochs;
    this.size = raw.size;
    this.ranks = raw.ranks;
    this.statistics = raw.statistics;
    this.cache = {};
  }

  once(name, make) {
    if (!(name in this.cache)) this.cache[name] = make();
    return this.cache[name];
  }

  get units() { return this.once("units", () => integers(this.raw.units)); }
  get concepts() { return this.once("concepts", () => integers(this.raw.concept)); }
  get scores() { return this.once("scores", () => new Numbers(this.raw.score)); }
  get ps() { return this.once("ps", () => new Numbers(this.raw.p)); }
  get effects() { return this.once("effects", () => new Numbers(this.raw.effect)); }
  get flags() { return this.once("flags", () => integers(this.raw.flags)); }

  get place() {
    return this.once("place", () => this.raw.place && {
      x: new Numbers(this.raw.place.x),
      y: new Numbers(this.raw.place.y),
      anchor: integers(this.raw.place.anchor),
      distance: new Numbers(this.raw.place.distance),
    });
  }

  get lives() {
    return this.once("lives", () => {
      const lives = {};
      for (const [name, packed] of Object.entries(this.raw.lives)) {
        if (name === "floors") continue;
        lives[name] = "low" in packed ? new Numbers(packed) : integers(packed);
      }
      return lives;
    });
  }

  get pictures() {
    return this.once("pictures", () => {
      const images = this.raw.images;
      if (!images) return null;
      const rowOf = new Map();
      integers(images.rows).forEach((unit, row) => rowOf.set(unit, row));
      return { rowOf, per: images.per, places: integers(images.places) };
    });
  }

  // The place of an epoch, -1 where this layer was not looked at.
  at(epoch) {
    if (!this.epochPlaces) this.epochPlaces = new Map(this.epochs.map((value, i) => [value, i]));
    return this.epochPlaces.has(epoch) ? this.epochPlaces.get(epoch) : -1;
  }

  rowOf(unit) {
    if (!this.rows) {
      this.rows = new Map();
      this.units.forEach((value, row) => this.rows.set(value, row));
    }
    return this.rows.has(unit) ? this.rows.get(unit) : -1;
  }

  label(t, row, rank = 0) {
    return this.concepts[(rank * this.epochs.length + t) * this.size + row] - 1;
  }

  score(t, row, rank = 0) {
    return this.scores.at((rank * this.epochs.length + t) * this.size + row);
  }

  p(t, row) { return this.ps.at(t * this.size + row); }
  effect(t, row) { return this.effects.at(t * this.size + row); }

  // The smallest p-value that the draws of the null distribution allow; 0 where it is not known.
  floor(t) {
    const made = (this.raw.calibration || {})[this.epochs[t]];
    return made && made.draws ? 1 / (made.draws + 1) : 0;
  }

  // What ranks units: the effect; where a detector gives none, the score.
  certainty(t, row) {
    if (this.ranked === undefined) this.ranked = Array.from({ length: this.epochs.length * this.size }, (_, i) => this.effects.at(i)).some(Number.isFinite);
    return this.ranked ? this.effect(t, row) : this.score(t, row);
  }

  flag(t, row, bit) { return (this.flags[t * this.size + row] & bit) !== 0; }

  // Since which epoch the unit has its concept without a break (epochs at which it is dead are passed over).
  since(t, row) {
    const label = this.label(t, row);
    if (label < 0) return -1;
    let since = t;
    for (let i = t - 1; i >= 0; i--) {
      const before = this.label(i, row);
      if (before < 0) continue;
      if (before !== label) break;
      since = i;
    }
    return since;
  }

  changes(t, row) {
    let before = -1;
    let count = 0;
    for (let i = 0; i <= t; i++) {
      const label = this.label(i, row);
      if (label < 0) continue;
      if (before >= 0 && before !== label) count++;
      before = label;
    }
    return count;
  }

  // Places of the unit's top images in the sheets.
  images(t, row) {
    const pictures = this.pictures;
    if (!pictures || !pictures.rowOf.has(row)) return [];
    const start = (pictures.rowOf.get(row) * this.epochs.length + t) * pictures.per;
    return Array.from(pictures.places.subarray(start, start + pictures.per)).filter((p) => p > 0).map((p) => p - 1);
  }
}

const SERIES = DATA.series.map((raw, i) => new Series(raw, i));
// Another run, of which the page has the numbers per layer and epoch; by the number of the own series.
const BESIDE = DATA.beside && {
  title: DATA.beside.title,
  findings: DATA.beside.findings,
  series: DATA.beside.series.map((raw) => raw && {
    ...raw, of: DATA.beside.title, at: (epoch) => raw.epochs.indexOf(epoch),
  }),
};
const CATEGORIES = DATA.categories;
const LABELS = DATA.labels.name;
const LABEL_CATEGORY = DATA.labels.category;
const DETECTORS = [...new Set(SERIES.map((series) => series.detector))];

// -- state -------------------------------------------------------------------------------------

const state = {
  series: 0,
  epoch: DATA.epochs[DATA.epochs.length - 1],
  query: "",
  category: -1,
  onlyInterpretable: false,
  allLayers: false,
  metric: "categories",
  kind: "units",
  followed: new Map(), // "series/row" -> colour
  dark: false,
};

const listeners = [];
let pending = null;

function listen(names, act) { listeners.push({ names, act }); }

// Many changes within a frame are drawn once.
function update(changes) {
  Object.assign(state, changes);
  if (pending === null) {
    pending = new Set();
    requestAnimationFrame(flush);
  }
  for (const name of Object.keys(changes)) pending.add(name);
}

function flush() {
  if (pending === null) return;
  const changed = pending;
  pending = null;
  for (const { names, act } of listeners) {
    if (changed.has("everything") || names.some((name) => changed.has(name))) act(changed);
  }
}

function current() { return SERIES[state.series]; }
function shownSeries() { return SERIES.filter((series) => series.detector === current().detector); }

// What the search field asks for: 12, windmill  or, exactly,  "crane, bird".  null where nothing is asked.
function searching() {
  const query = state.query.trim().toLowerCase();
  if (!query) return null;
  const exact = query.length > 2 && query.startsWith('"') && query.endsWith('"');
  const parts = exact ? [query.slice(1, -1)] : query.split(",").map((part) => part.trim()).filter(Boolean);
  const numbers = new Set(exact ? [] : parts.filter((part) => /^\d+$/.test(part)).map(Number));
  const words = exact ? parts : parts.filter((part) => !/^\d+$/.test(part));
  const labels = new Set();
  if (words.length) {
    LABELS.forEach((name, i) => {
      const lower = name.toLowerCase();
      if (words.some((word) => (exact ? lower === word : lower.includes(word)))) labels.add(i);
    });
  }
  return {
    unit: (series, t, row) => numbers.has(series.units[row]) || labels.has(series.label(t, row)),
    label: (label) => labels.has(label),
  };
}

// -- elements ----------------------------------------------------------------------------------

const $ = (id) => document.getElementById(id);

function el(name, properties = {}, ...children) {
  const element = document.createElement(name);
  for (const [key, value] of Object.entries(properties)) {
    if (value === undefined || value === null || value === false) continue;
    if (key === "class") element.className = value;
    else if (key === "text") element.textContent = value;
    else if (key.startsWith("on")) element.addEventListener(key.slice(2), value);
    else element.setAttribute(key, value === true ? "" : value);
  }
  element.append(...children.filter((child) => child !== null && child !== undefined));
  return element;
}

function svg(name, attributes = {}, ...children) {
  const element = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const [key, value] of Object.entries(attributes)) {
    if (key === "text") element.textContent = value;
    else element.setAttribute(key, value);
  }
  element.append(...children);
  return element;
}

function fill(element, ...children) { element.replaceChildren(...children.filter(Boolean)); }

function segments(element, choices, get, choose) {
  const buttons = choices.map(([value, text]) =>
    el("button", { type: "button", text, onclick: () => choose(value) }));
  fill(element, ...buttons);
  const show = () => buttons.forEach((button, i) => button.setAttribute("aria-pressed", choices[i][0] === get()));
  show();
  return show;
}

// -- text --------------------------------------------------------------------------------------

const whole = new Intl.NumberFormat("en");
const count = (n, one, many = `${one}s`) => `${whole.format(n)} ${n === 1 ? one : many}`;
const percent = (a, b) => (b ? `${Math.round((100 * a) / b)} %` : "–");

function number(value, digits = 3) {
  if (!Number.isFinite(value)) return "–";
  return value.toFixed(Math.abs(value) >= 100 ? 1 : digits).replace("-", "−");
}

function pValue(value, floor = 0) {
  if (!Number.isFinite(value)) return "–";
  // Packed numbers are rounded.
  if (floor && value <= floor * 1.001) return `< ${Number(floor.toPrecision(1))}`;
  if (value >= 0.001) return value.toFixed(3);
  // A power of ten is easier to read than 0.000125.
  const [first, power] = value.toExponential(1).split("e");
  const raised = { "-": "⁻", 0: "⁰", 1: "¹", 2: "²", 3: "³", 4: "⁴", 5: "⁵", 6: "⁶", 7: "⁷", 8: "⁸", 9: "⁹" };
  return `${first}·10${power.replace(/./g, (c) => raised[c] || c)}`;
}

// Names keep their control characters visible, and a name cannot turn the text around it.
function plain(text) {
  return String(text).replace(/[\u0000-\u001f\u007f\u200e\u200f\u202a-\u202e\u2066-\u2069]/g, (c) =>
    (c < " " ? String.fromCharCode(0x2400 + c.charCodeAt(0)) : "\ufffd"));
}

function labelText(label) { return label < 0 ? "" : plain(LABELS[label]); }
function colourOf(label) { return label < 0 ? "var(--faint)" : CATEGORIES[LABEL_CATEGORY[label]].colour; }
function categoryOf(label) { return label < 0 ? "" : CATEGORIES[LABEL_CATEGORY[label]].name; }

// A dot in the category's colour: full for an interpretable unit, a ring for another.
function dot(label, sure) {
  const element = el("span", { class: sure ? "dot" : "dot ring", "aria-hidden": "true" });
  element.style.setProperty("--colour", colourOf(label));
  return element;
}

function conceptOf(series, t, row) {
  if (t < 0 || !series.flag(t, row, PRESENT)) return el("span", { class: "concept muted", text: "not recorded" });
  if (!series.flag(t, row, LIVE)) return el("span", { class: "concept muted", text: "dead" });
  const label = series.label(t, row);
  return el("span", { class: "concept" }, dot(label, series.flag(t, row, INTERPRETABLE)),
    el("bdi", { class: "concept-name", text: labelText(label), title: labelText(label) }));
}

// -- pictures ----------------------------------------------------------------------------------

const sheets = [];

function sheetImage(number) {
  if (!sheets[number]) {
    const image = new Image();
    image.src = JSON.parse($(`cmon-sheet-${number}`).textContent);
    sheets[number] = { image, ready: image.decode ? image.decode() : Promise.resolve() };
  }
  return sheets[number];
}

function thumbnail(place, side, name = plain(DATA.images.names[place])) {
  const { size, columns, perSheet } = DATA.images;
  const canvas = el("canvas", { class: "thumb", width: size, height: size, role: "img", "aria-label": name, title: name });
  canvas.style.width = canvas.style.height = `${side}px`;
  const sheet = sheetImage(Math.floor(place / perSheet));
  const inside = place % perSheet;
  sheet.ready.then(() => canvas.getContext("2d").drawImage(
    sheet.image, (inside % columns) * size, Math.floor(inside / columns) * size, size, size, 0, 0, size, size,
  )).catch(() => canvas.classList.add("broken"));
  return canvas;
}

// The picture that “cmon picture” made of a unit: its place in the sheets, how strongly it excites the unit (1: as its
// best photo), and how strongly pictures of other units do; null where none was made.
function madePicture(series, epoch, row) {
  const own = DATA.pictures && DATA.pictures[series.number];
  return (own && own[epoch] && own[epoch][series.units[row]]) || null;
}

function madeThumbnail(made, series, epoch, row, side) {
  const picture = thumbnail(made[0], side, `picture made of unit ${series.units[row]} at epoch ${epoch}`);
  picture.classList.add("made");
  return picture;
}

// -- a tip beside the pointer ------------------------------------------------------------------

function showTip(event, lines) {
  const tip = $("tip");
  fill(tip, ...lines.map((line) => (typeof line === "string" ? el("p", { text: line }) : line)));
  tip.hidden = false;
  const box = tip.getBoundingClientRect();
  const x = Math.min(event.clientX + 14, innerWidth - box.width - 8);
  const y = event.clientY + 18 + box.height > innerHeight ? event.clientY - box.height - 12 : event.clientY + 18;
  tip.style.left = `${Math.max(8, x)}px`;
  tip.style.top = `${Math.max(8, y)}px`;
}

function hideTip() { $("tip").hidden = true; }

const calm = matchMedia("(prefers-reduced-motion: reduce)");
