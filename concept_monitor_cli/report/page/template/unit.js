// The page of one unit: what it is at the chosen epoch, its way through the epochs, its images.

const unitPage = { series: -1, row: -1 };

function setAddress(address) {
  // Inside another page (a notebook, a preview) there may be no address to set.
  try { history.replaceState(null, "", address); } catch { /* then without */ }
}

function openUnit(which, row) {
  unitPage.series = which;
  unitPage.row = row;
  const dialog = $("unit");
  showUnit();
  if (!dialog.open) dialog.showModal();
  // The address names the unit, so that it can be shared; it holds numbers only.
  setAddress(`#unit-${which}-${SERIES[which].units[row]}-${state.epoch}`);
}

function closeUnit() {
  unitPage.series = -1;
  if ($("unit").open) $("unit").close();
  setAddress(viewAddress() || location.pathname + location.search);
}

// What is shown as an address: layer, epoch, quantity and what is searched for. Empty where the page would open so.
function viewAddress() {
  const address = `#view-${state.series}-${state.epoch}-${state.metric}-${encodeURIComponent(state.query)}`;
  if (viewAddress.first === undefined) viewAddress.first = address;
  return address === viewAddress.first ? "" : address;
}

function openView() {
  const match = /^#view-(\d+)-(\d+)-([a-z_]+)-([^#]{0,600})$/.exec(location.hash);
  if (!match) return;
  let query = "";
  try { query = decodeURIComponent(match[4]); } catch { return; }
  const [series, epoch] = [Number(match[1]), Number(match[2])];
  if (!SERIES[series] || !DATA.epochs.includes(epoch) || !availableMetrics().some(([name]) => name === match[3])) return;
  $("search").value = query;
  update({ series, epoch, metric: match[3], query });
}

function openFromAddress() {
  openView();
  const match = /^#unit-(\d+)-(\d+)-(\d+)$/.exec(location.hash);
  if (!match) return;
  const [which, unit, epoch] = match.slice(1).map(Number);
  const row = SERIES[which] ? SERIES[which].rowOf(unit) : -1;
  if (row < 0) return;
  update({ series: which, epoch: DATA.epochs.includes(epoch) ? epoch : state.epoch });
  openUnit(which, row);
}

function stepUnit(by) {
  const series = SERIES[unitPage.series];
  openUnit(unitPage.series, (unitPage.row + by + series.size) % series.size);
}

function showUnit() {
  if (unitPage.series < 0) return;
  const { row } = unitPage;
  const series = SERIES[unitPage.series];
  const t = series.at(state.epoch);
  $("unit-layer").textContent = plain(series.layer) + (DETECTORS.length > 1 ? ` · ${plain(series.detector)}` : "");
  $("unit-title").textContent = `Unit ${series.units[row]}`;
  const followed = state.followed.has(`${series.number}/${row}`);
  $("unit-follow").setAttribute("aria-pressed", followed);
  $("unit-follow").textContent = followed ? "Followed" : "Follow";
  const body = $("unit-body");
  const top = body.scrollTop;
  fill(body, unitNow(series, t, row), unitNames(series, row), unitRanges(series, row), unitUses(series, row), unitImages(series, t, row), unitNeighbours(series, t, row), unitCircuit(series, row), series.epochs.length > 1 ? unitLife(series, row) : null);
  body.scrollTop = top;
}

// What the drift of a unit is to be compared with.
function driftFloors(series) {
  const floors = series.raw.lives.floors || {};
  const said = [["unrelated units", floors.drift_floor_random], ["luck", floors.drift_floor_halves]]
    .filter(([, value]) => Number.isFinite(value)).map(([name, value]) => `${name} ${number(value)}`);
  return said.length ? ` (${said.join(", ")})` : "";
}

function unitNow(series, t, row) {
  const part = el("section", {}, el("h3", { text: `Epoch ${state.epoch}` }));
  if (t < 0 || !series.flag(t, row, PRESENT)) {
    part.append(el("p", { class: "hint", text: "This unit was not looked at in this epoch." }));
    return part;
  }
  if (!series.flag(t, row, LIVE)) {
    part.append(el("p", { class: "hint", text: "Dead: its activation is the same on every image, so it has no concept." }));
    return part;
  }
  const p = series.p(t, row);
  part.append(el("p", { class: "hint", text: (series.flag(t, row, INTERPRETABLE)
    ? "Interpretable: its best concept fits better than chance allows" : "Not interpretable: chance gives a concept that fits as well")
    + (Number.isFinite(p) ? ` (p = ${pValue(p, series.floor(t))}).` : ".") }));
  const shown = [];
  for (let rank = 0; rank < series.ranks; rank++) {
    const label = series.label(t, row, rank);
    if (label >= 0) shown.push([label, series.score(t, row, rank), rank]);
  }
  // From the best score down to 0, or to the last score where that is below.
  const best = shown.length ? shown[0][1] : 1;
  const low = Math.min(0, ...shown.map(([, score]) => score));
  part.append(el("ol", { class: "ranks" }, ...shown.map(([label, score, rank]) => {
    const bar = el("span", { class: "bar-fill" });
    bar.style.width = `${Math.max(1, (100 * (score - low)) / (best - low || 1))}%`;
    bar.style.background = colourOf(label);
    return el("li", {}, dot(label, rank === 0 && series.flag(t, row, INTERPRETABLE)),
      el("bdi", { class: "concept-name", text: labelText(label) }), el("span", { class: "muted category", text: plain(categoryOf(label)) }),
      el("span", { class: "bar-track", "aria-hidden": "true" }, bar), el("span", { class: "figure", text: number(score) }));
  })));
  const place = series.place;
  if (place && place.anchor[t * series.size + row]) {
    const i = t * series.size + row;
    part.append(el("p", { class: "hint", text: `Nearest anchor: ${plain(DATA.anchors.name[place.anchor[i] - 1])}, at cosine distance ${number(place.distance.at(i))}.` }));
  }
  return part;
}

// What the other detectors of the run call the same unit of the same layer at the same epoch.
function unitNames(series, row) {
  const unit = series.units[row];
  const others = SERIES.filter((other) => other !== series && other.layer === series.layer && other.rowOf(unit) >= 0);
  if (!others.length) return null;
  const items = [series, ...others].map((each) => {
    const own = each.rowOf(unit);
    const name = el("span", { class: "muted", text: plain(each.detector) });
    return el("li", {}, each === series ? name
      : el("button", { type: "button", class: "link", onclick: () => openUnit(each.number, own) }, name),
    conceptOf(each, each.at(state.epoch), own));
  });
  return el("section", {}, el("h3", { text: "Its names by all detectors" }), el("ul", { class: "names" }, ...items),
    el("p", { class: "hint", text: "A filled dot: more than chance." }));
}

function unitImages(series, t, row) {
  const part = el("section", {}, el("h3", { text: "Images that excite it most" }));
  const places = t < 0 ? [] : series.images(t, row);
  const made = madePicture(series, state.epoch, row);
  if (places.length || made) {
    part.append(el("div", { class: "big-thumbs" },
      made ? el("figure", {}, madeThumbnail(made, series, state.epoch, row, 84), el("figcaption", { class: "muted", text: "made" })) : null,
      ...places.map((place) =>
      el("figure", {}, thumbnail(place, 84), el("figcaption", { class: "muted", title: plain(DATA.images.names[place]) }, el("bdi", { text: plain(DATA.images.names[place]) }))))));
  }
  if (made) {
    part.append(el("p", { class: "hint", text: `The framed picture was made by climbing the unit’s activation: it excites it ${number(made[1], 1)} times as far above its `
      + `mean as its best photo (pictures of other units ${number(made[2], 1)}). Strong is not meaningful: photos explain better.` }));
  }
  if (!places.length) {
    const dead = t >= 0 && series.flag(t, row, PRESENT) && !series.flag(t, row, LIVE);
    part.append(el("p", { class: "hint", text: DATA.images.missing || (dead ? "A dead unit has none."
      : "The images of this unit are left out to keep the page small, or were not recorded at this epoch. “cmon report --units "
        + `${series.units[row]}” brings them in.`) }));
  }
  return part;
}

// What the unit says at ranges of its activation at the chosen epoch, and, in a strip, at every epoch.
function unitRanges(series, row) {
  const byEpoch = DATA.ranges ? DATA.ranges.units[series.number] : null;
  if (!byEpoch) return null;
  const unit = series.units[row];
  const at = (epoch) => (byEpoch[epoch] || {})[unit] || [];
  const name = (text) => (text < 0 ? "no formula" : DATA.ranges.texts[text][0]);
  const mark = (text, sure) => {
    const element = el("span", { class: sure ? "dot" : "dot ring", "aria-hidden": "true" });
    element.style.setProperty("--colour", text < 0 ? "var(--faint)" : DATA.ranges.texts[text][2]);
    return element;
  };
  const digits = (value) => (value === null ? "–" : String(Number(value.toPrecision(3))).replace("-", "\u2212"));
  const percent = (share) => (share === null ? "–" : `${Math.round(100 * share)} %`);
  const now = at(state.epoch);
  const epochs = series.epochs.filter((epoch) => at(epoch).length);
  if (!now.length && !epochs.length) return null;
  const items = now.map(([low, high, weight, text, iou, coverage, p, sure, own]) => {
    const bar = el("span", { class: "bar-fill" });
    bar.style.width = `${100 * (coverage || 0)}%`;
    bar.style.background = text < 0 ? "var(--faint)" : DATA.ranges.texts[text][2];
    return el("li", {},
      el("span", { class: "muted range-values", text: `${digits(low)} to ${digits(high)}`, title: `mean of the range: ${digits(weight)} standard deviations from that of all values` }),
      el("span", { class: "range-name" }, mark(text, sure), el("bdi", { class: sure ? "concept-name" : "concept-name muted", text: name(text) }),
        own ? el("span", { class: "badge", text: "specialised", title: "no unit of the untrained networks says it at that range" }) : null),
      el("span", { class: "bar-track", "aria-hidden": "true" }, bar),
      el("span", { class: "figure", text: percent(coverage), title: `IoU ${number(iou)}, p = ${p === null ? "–" : Number(p.toPrecision(2))}` }));
  });
  const strip = epochs.length < 2 ? null : el("ol", { class: "range-epochs" }, ...epochs.map((epoch) =>
    el("li", {}, el("button", { type: "button", class: "link epoch-link", text: String(epoch), "aria-label": `Epoch ${epoch}`, "aria-current": epoch === state.epoch ? "true" : null, onclick: () => update({ epoch }) }),
      ...at(epoch).map(([low, high, , text, , coverage, , sure]) => el("span", { class: "range-cell", title: `${digits(low)} to ${digits(high)}: ${name(text)}, ${percent(coverage)}` }, mark(text, sure), el("bdi", { text: name(text) }))))));
  return el("section", {}, el("h3", { text: "What it says at ranges of its activation" }),
    el("p", { class: "hint", text: "The highest values first. The bar is the coverage: the share of the range’s pixels in its formula. A filled dot: more than chance." }),
    now.length ? el("ol", { class: "ranges" }, ...items) : el("p", { class: "hint", text: `Nothing is known of its ranges at epoch ${state.epoch}.` }),
    strip);
}

const NEIGHBOURS = 6;

// The units that stand nearest to it on the map of this epoch, in the same layer.
function unitNeighbours(series, t, row) {
  const { place, size } = series;
  if (!place || t < 0) return null;
  const at = (other) => [place.x.at(t * size + other), place.y.at(t * size + other)];
  const [x, y] = at(row);
  if (Number.isNaN(x)) return null;
  const others = [];
  for (let other = 0; other < size; other++) {
    const [a, b] = at(other);
    if (other !== row && !Number.isNaN(a)) others.push([(a - x) ** 2 + (b - y) ** 2, other]);
  }
  if (!others.length) return null;
  others.sort((a, b) => a[0] - b[0] || a[1] - b[1]);
  return el("section", {}, el("h3", { text: "Nearest on the map" }),
    el("ol", { class: "unit-list" }, ...others.slice(0, NEIGHBOURS).map(([, other]) => el("li", {}, unitButton(series, t, other)))));
}

// The strongest edges into the unit and out of it, with the images of the units at their ends.
function unitCircuit(series, row) {
  const found = DATA.circuits;
  const own = found ? found.layers.indexOf(series.layer) : -1;
  const edges = (side) => (own < 0 ? [] : ((found[side][own] || {})[series.units[row]] || []));
  const [feeds, fed] = [edges("feeds"), edges("fed")];
  if (!feeds.length && !fed.length) return null;
  const side = (title, list, arrow) => el("div", {}, el("p", { class: "muted", text: title }),
    el("ol", { class: "edges" }, ...list.map(([layer, unit, effect, sure]) => {
      const which = SERIES.findIndex((one) => one.layer === found.layers[layer] && one.detector === series.detector);
      const other = which < 0 ? -1 : SERIES[which].rowOf(unit);
      const t = other < 0 ? -1 : SERIES[which].at(found.epoch);
      const name = el("button", { type: "button", class: "link", text: `${plain(found.layers[layer])} ${unit}`, onclick: () => openUnit(which, other) });
      name.disabled = other < 0;
      return el("li", { class: effect > 0 ? "excites" : "inhibits" },
        el("span", { class: "figure", text: `${arrow} ${effect > 0 ? "+" : "\u2212"}${number(Math.abs(effect))}${sure ? "" : "*"}`, title: effect > 0 ? "excites" : "inhibits" }),
        name, t < 0 ? null : conceptOf(SERIES[which], t, other),
        el("span", { class: "thumbs" }, ...(t < 0 ? [] : SERIES[which].images(t, other).slice(0, 3).map((place) => thumbnail(place, 34)))));
    })));
  return el("section", {}, el("h3", { text: `Circuit at epoch ${found.epoch}` }),
    el("p", { class: "hint", text: "What its mean would miss without each unit before it, and what units after it would miss without it. * no more than random weights give." }),
    el("div", { class: "circuit" }, feeds.length ? side("fed by", feeds, "\u2192") : null, fed.length ? side("feeds", fed, "\u2190") : null));
}

function unitLife(series, row) {
  const lives = series.lives;
  const facts = [];
  // Stored one higher, with 0 for "never".
  const epoch = (name) => lives[name][row] - 1;
  if (epoch("born") >= 0) facts.push(["Interpretable from", `epoch ${epoch("born")}`]);
  else facts.push(["Interpretable", "never"]);
  if (epoch("died") >= 0) facts.push(["No longer from", `epoch ${epoch("died")}`]);
  if (epoch("stable_from") >= 0) facts.push(["Final concept, unbroken", `from epoch ${epoch("stable_from")}`]);
  facts.push(["Changes of concept", String(epoch("changes"))]);
  if (lives.confident && lives.confident[row]) facts.push(["… that are no luck", String(lives.confident[row] - 1)]);
  if (lives.drift && Number.isFinite(lives.drift.at(row))) facts.push(["Drift", `${number(lives.drift.at(row))}${driftFloors(series)}`]);
  const most = Math.max(...series.epochs.map((_, t) => series.score(t, row) || 0), 1e-9);
  let before = -1;
  const items = series.epochs.map((value, t) => {
    const live = series.flag(t, row, LIVE);
    const label = live ? series.label(t, row) : -1;
    const events = [];
    if (live && before >= 0 && label !== before) events.push("new concept");
    if (value === epoch("born")) events.push("first interpretable");
    if (value === epoch("died")) events.push("no longer interpretable");
    if (!live && series.flag(t, row, PRESENT) && t > 0 && series.flag(t - 1, row, LIVE)) events.push("dies");
    if (live) before = label;
    const bar = el("span", { class: "bar-fill" });
    bar.style.width = `${live ? Math.max(1, (100 * Math.max(0, series.score(t, row))) / most) : 0}%`;
    bar.style.background = colourOf(label);
    return el("li", { class: events.length ? "event" : null },
      el("button", { type: "button", class: "link epoch-link", text: String(value), "aria-label": `Epoch ${value}`, "aria-current": value === state.epoch ? "true" : null, onclick: () => update({ epoch: value }) }),
      el("span", { class: "life-what" }, conceptOf(series, t, row), events.length ? el("span", { class: "badge", text: events.join(", ") }) : null),
      el("span", { class: "bar-track", "aria-hidden": "true" }, bar),
      el("span", { class: "thumbs" }, madePicture(series, value, row) ? madeThumbnail(madePicture(series, value, row), series, value, row, 34) : null,
        ...series.images(t, row).slice(0, 3).map((place) => thumbnail(place, 34))));
  });
  return el("section", {}, el("h3", { text: "Through the epochs" }),
    el("dl", { class: "life-facts" }, ...facts.map(([name, value]) => el("div", {}, el("dt", { text: name }), el("dd", { text: value })))),
    el("ol", { class: "life" }, ...items));
}

function startUnit() {
  const dialog = $("unit");
  $("unit-previous").addEventListener("click", () => stepUnit(-1));
  $("unit-next").addEventListener("click", () => stepUnit(1));
  $("unit-close").addEventListener("click", closeUnit);
  $("unit-follow").addEventListener("click", () => {
    const key = `${unitPage.series}/${unitPage.row}`;
    follow(unitPage.series, unitPage.row, !state.followed.has(key));
  });
  dialog.addEventListener("close", closeUnit);
  dialog.addEventListener("click", (event) => { if (event.target === dialog) closeUnit(); });
  addEventListener("hashchange", openFromAddress);
}
