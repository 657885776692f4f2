// The table of units and the table of concepts. Only the rows in sight exist.

class LongTable {
  constructor(holder, columns, { height, label, sort, descending, open }) {
    this.holder = holder;
    this.columns = columns;
    this.height = height;
    this.sort = sort;
    this.descending = descending;
    this.open = open;
    this.rows = [];
    this.body = el("tbody");
    this.heads = columns.map((column) => {
      const th = el("th", { scope: "col", class: column.class });
      if (column.value) {
        th.append(el("button", { type: "button", text: column.title, title: column.hint, onclick: () => this.sortBy(column.name) }));
      } else th.textContent = column.title;
      return th;
    });
    this.table = el("table", { "aria-label": label, class: "long" }, el("thead", {}, el("tr", {}, ...this.heads)), this.body);
    this.onScroll = () => this.show();
  }

  mount() {
    fill(this.holder, this.table);
    this.holder.onscroll = this.onScroll;
    this.order();
  }

  set(rows) {
    this.rows = rows;
    this.order();
  }

  sortBy(name) {
    const column = this.columns.find((each) => each.name === name);
    this.descending = this.sort === name ? !this.descending : Boolean(column.descending);
    this.sort = name;
    this.holder.scrollTop = 0;
    this.order();
  }

  order() {
    const column = this.columns.find((each) => each.name === this.sort);
    const keys = new Map(this.rows.map((row) => [row, column.value(row)]));
    const sign = this.descending ? -1 : 1;
    const none = (value) => value === null || value === undefined || Number.isNaN(value);
    // What has no value comes last either way; equal rows keep their order.
    this.rows.sort((a, b) => {
      const [x, y] = [keys.get(a), keys.get(b)];
      if (none(x) || none(y)) return none(x) - none(y);
      return x < y ? -sign : x > y ? sign : 0;
    });
    this.columns.forEach((each, i) => {
      if (!each.value) return;
      if (each.name === this.sort) this.heads[i].setAttribute("aria-sort", this.descending ? "descending" : "ascending");
      else this.heads[i].removeAttribute("aria-sort");
    });
    this.table.setAttribute("aria-rowcount", this.rows.length + 1);
    this.show(true);
  }

  show(anew = false, most = 0) {
    const view = this.holder.clientHeight || 500;
    const first = most ? 0 : Math.max(0, Math.floor(this.holder.scrollTop / this.height) - 6);
    const last = most ? Math.min(most, this.rows.length) : Math.min(this.rows.length, first + Math.ceil(view / this.height) + 14);
    if (!anew && first === this.first && last === this.last) return;
    [this.first, this.last] = [first, last];
    const space_ = (rows) => {
      const cell = el("td");
      cell.style.height = `${rows * this.height}px`;
      return el("tr", { class: "spacer", "aria-hidden": "true" }, cell);
    };
    const shown = this.rows.slice(first, last).map((row, i) => {
      const tr = el("tr", { "aria-rowindex": first + i + 2 }, ...this.columns.map((column) => el("td", { class: column.class }, column.cell(row))));
      tr.style.height = `${this.height}px`;
      tr.addEventListener("click", (event) => event.target.closest("button") || this.open(row));
      return tr;
    });
    fill(this.body, first ? space_(first) : null, ...shown, !most && last < this.rows.length ? space_(this.rows.length - last) : null);
  }
}

const words = (text) => document.createTextNode(text);

function unitColumns() {
  const several = state.allLayers;
  const has = (name) => shownSeries().some((series) => name in series.raw.lives);
  return [
    {
      name: "unit", title: "Unit", class: "narrow", value: (r) => r.series.number * 1e7 + r.series.units[r.row],
      cell: (r) => el("button", { type: "button", class: "link", text: String(r.series.units[r.row]), onclick: () => openUnit(r.series.number, r.row) }),
    },
    several && { name: "layer", title: "Layer", class: "layer", cell: (r) => words(plain(r.series.layer)) },
    { name: "concept", title: "Concept", class: "wide", value: (r) => (r.series.label(r.t, r.row) < 0 ? null : r.series.label(r.t, r.row)), cell: (r) => conceptOf(r.series, r.t, r.row) },
    { name: "category", title: "Category", class: "extra", value: (r) => (r.series.label(r.t, r.row) < 0 ? null : LABEL_CATEGORY[r.series.label(r.t, r.row)]), cell: (r) => words(categoryOf(r.series.label(r.t, r.row))) },
    { name: "score", title: "Score", class: "number", descending: true, value: (r) => r.series.score(r.t, r.row), cell: (r) => words(number(r.series.score(r.t, r.row))) },
    { name: "effect", title: "Effect", class: "number extra", descending: true, hint: "Evidence for its concept above chance, in standard deviations of chance; it ranks the units", value: (r) => r.series.certainty(r.t, r.row), cell: (r) => words(number(r.series.effect(r.t, r.row))) },
    { name: "p", title: "p", class: "number extra", hint: "How often chance gives a concept that fits as well", value: (r) => r.series.p(r.t, r.row), cell: (r) => words(pValue(r.series.p(r.t, r.row), r.series.floor(r.t))) },
    DATA.epochs.length > 1 && {
      name: "since", title: "Since", class: "number extra", hint: "Epoch since which it has had this concept",
      value: (r) => { const i = r.series.since(r.t, r.row); return i < 0 ? null : r.series.epochs[i]; },
      cell: (r) => { const i = r.series.since(r.t, r.row); return words(i < 0 ? "–" : String(r.series.epochs[i])); },
    },
    DATA.epochs.length > 1 && { name: "changes", title: "Relabelled", class: "number extra", descending: true, hint: "Changes of label up to this epoch, by luck too", value: (r) => r.series.changes(r.t, r.row), cell: (r) => words(String(r.series.changes(r.t, r.row))) },
    has("confident") && {
      name: "confident", title: "Sure", class: "number extra", descending: true, hint: "Changes that drawing the probing images again would not undo, over all epochs",
      value: (r) => ((r.series.lives.confident || [])[r.row] || 0) - 1, cell: (r) => { const v = (r.series.lives.confident || [])[r.row]; return words(v ? String(v - 1) : "–"); },
    },
    has("drift") && {
      name: "drift", title: "Drift", class: "number extra", descending: true, hint: "Distance from its first to its last place in concept space; the unit's page has what unrelated units and luck give",
      value: (r) => (r.series.lives.drift ? r.series.lives.drift.at(r.row) : NaN), cell: (r) => words(r.series.lives.drift ? number(r.series.lives.drift.at(r.row)) : "–"),
    },
    DATA.images.sheets > 0 && {
      name: "images", title: "Top images", class: "pictures",
      cell: (r) => el("span", { class: "thumbs" }, ...r.series.images(r.t, r.row).slice(0, 4).map((place) => thumbnail(place, 34))),
    },
  ].filter(Boolean);
}

// How many interpretable units have a label, at every epoch.
function labelCounts(series) {
  return series.once("labelCounts", () => {
    const counts = new Map();
    for (let t = 0; t < series.epochs.length; t++) {
      for (let row = 0; row < series.size; row++) {
        if (!series.flag(t, row, INTERPRETABLE)) continue;
        const label = series.label(t, row);
        if (!counts.has(label)) counts.set(label, new Uint16Array(series.epochs.length));
        counts.get(label)[t]++;
      }
    }
    return counts;
  });
}

function tinyBars(values, now, colour) {
  const width = Math.min(160, Math.max(24, values.length * 8));
  const picture = svg("svg", { width, height: 24, viewBox: `0 0 ${width} 24`, "aria-hidden": "true", class: "tiny" });
  const top = Math.max(1, ...values);
  const step = width / values.length;
  values.forEach((value, t) => {
    const h = Math.max(value ? 1.5 : 0.5, (value / top) * 22);
    picture.append(svg("rect", { x: t * step, y: 24 - h, width: Math.max(0.8, step - (step > 3 ? 1.5 : 0)), height: h, fill: colour, opacity: t === now ? 1 : 0.45 }));
  });
  return picture;
}

function conceptColumns() {
  const several = DATA.epochs.length > 1;
  return [
    { name: "concept", title: "Concept", class: "wide", value: (r) => r.label, cell: (r) => el("button", { type: "button", class: "link concept", onclick: () => findConcept(r.label) }, dot(r.label, true), el("bdi", { class: "concept-name", text: labelText(r.label), title: labelText(r.label) })) },
    { name: "category", title: "Category", class: "extra", value: (r) => LABEL_CATEGORY[r.label], cell: (r) => words(categoryOf(r.label)) },
    { name: "units", title: "Units", class: "number", descending: true, hint: "Interpretable units with this concept at this epoch", value: (r) => r.values[r.t], cell: (r) => words(whole.format(r.values[r.t])) },
    several && { name: "first", title: "First", class: "number extra", hint: "First epoch at which a unit has it", value: (r) => r.series.epochs[r.values.findIndex((v) => v > 0)], cell: (r) => words(String(r.series.epochs[r.values.findIndex((v) => v > 0)])) },
    several && { name: "most", title: "Most", class: "number extra", descending: true, hint: "Most units at any epoch", value: (r) => Math.max(...r.values), cell: (r) => words(whole.format(Math.max(...r.values))) },
    several && { name: "over", title: "Over the epochs", class: "bars", cell: (r) => tinyBars(Array.from(r.values), r.t, colourOf(r.label)) },
  ].filter(Boolean);
}

function findConcept(label) {
  const query = `"${LABELS[label]}"`;
  $("search").value = query;
  update({ query, kind: "units" });
}

let longTable = null;

function buildTable() {
  const units = state.kind === "units";
  const sort = longTable && longTable.kind === state.kind ? longTable : { sort: units ? "effect" : "units", descending: true };
  longTable = new LongTable($("table"), units ? unitColumns() : conceptColumns(), {
    height: units && DATA.images.sheets > 0 ? 46 : 38,
    label: units ? "Units" : "Concepts",
    sort: sort.sort,
    descending: sort.descending,
    open: (r) => (units ? openUnit(r.series.number, r.row) : findConcept(r.label)),
  });
  longTable.kind = state.kind;
  if (!longTable.columns.some((column) => column.name === longTable.sort && column.value)) longTable.sort = units ? "effect" : "units";
  $("only-field").hidden = !units;
  $("all-layers-field").hidden = !units || shownSeries().length < 2;
  longTable.mount();
  fillTable();
}

function fillTable() {
  const search = searching();
  const rows = [];
  let of = 0;
  if (state.kind === "units") {
    for (const series of state.allLayers ? shownSeries() : [current()]) {
      const t = series.at(state.epoch);
      if (t < 0) continue;
      for (let row = 0; row < series.size; row++) {
        if (!series.flag(t, row, PRESENT)) continue;
        of++;
        if (state.onlyInterpretable && !series.flag(t, row, INTERPRETABLE)) continue;
        const label = series.label(t, row);
        if (state.category >= 0 && (label < 0 || LABEL_CATEGORY[label] !== state.category)) continue;
        if (search && !search.unit(series, t, row)) continue;
        rows.push({ series, t, row });
      }
    }
    $("table-count").textContent = `${whole.format(rows.length)} of ${count(of, "unit")}, epoch ${state.epoch}`;
  } else {
    const series = current();
    const t = series.at(state.epoch);
    if (t >= 0) {
      for (const [label, values] of labelCounts(series)) {
        of++;
        if (state.category >= 0 && LABEL_CATEGORY[label] !== state.category) continue;
        if (search && !search.label(label)) continue;
        rows.push({ series, t, label, values });
      }
    }
    $("table-count").textContent = `${whole.format(rows.length)} of ${count(of, "concept")} of interpretable units at any epoch`;
  }
  longTable.set(rows);
}
