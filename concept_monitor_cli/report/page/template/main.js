// Fills the page and connects its parts.

const run = DATA.run;

function nameOf(part) { return part && part.name ? plain(part.name) : "?"; }

function headLine() {
  const model = run.model ? `${nameOf(run.model)}${run.model.library ? ` (${plain(run.model.library)})` : ""}` : "a network";
  const epochs = DATA.epochs.length === 1 ? `Epoch ${DATA.epochs[0]}`
    : `${count(DATA.epochs.length, "epoch")}, ${DATA.epochs[0]} to ${DATA.epochs[DATA.epochs.length - 1]},`;
  const probe = run.probe ? ` Probed with ${count(run.probe.images ?? 0, "image")} of ${nameOf(run.probe)}` : "";
  const concepts = run.concepts ? `, named with ${count(run.concepts.count ?? 0, "concept")} of ${nameOf(run.concepts)}` : "";
  const encoder = run.encoder ? ` through ${nameOf(run.encoder)}` : "";
  const caption = DATA.caption ? ` ${plain(DATA.caption)}.` : "";
  return `${epochs} of ${model}.${probe}${probe ? `${concepts}${encoder}.` : ""}${caption}`;
}

// -- what the run says -------------------------------------------------------------------------

// Where on this page the evidence is.
const EVIDENCE = { statistics: "charts", changes: "units", units: "space", self_similarity: "units" };

function buildFindings() {
  const found = DATA.findings || [];
  $("findings").hidden = !found.length && !BESIDE;
  $("findings-hint").textContent = "Written by rules from the tables of this run. First what luck explains least; every statement that was tried counts against the others, so that a run of noise says “nothing beyond chance”. Then what speaks against trusting it.";
  fill($("findings-list"), ...found.map((finding) => {
    const table = plain(finding.evidence).split(/[/.]/)[1] || "";
    const place = EVIDENCE[table] || "about";
    const link = el("a", { href: `#${place}`, text: "evidence", title: plain(finding.evidence), onclick: (event) => {
      event.preventDefault();
      const series = SERIES.find((each) => each.layer === finding.layer && (!finding.detector || each.detector === finding.detector));
      if (series) update({ series: series.number });
      $(place).scrollIntoView({ behavior: calm.matches ? "auto" : "smooth" });
    } });
    return el("li", { class: finding.caution ? "caution" : "" },
      finding.caution ? el("span", { class: "eyebrow", text: "Beware" }) : null,
      el("bdi", { text: `${plain(finding.sentence)}.` }), " ", link,
      finding.command ? el("code", { class: "command", text: plain(finding.command) }) : null);
  }));
}

// What sets this run apart from the one beside it.
function buildBeside() {
  $("beside").hidden = !BESIDE;
  if (!BESIDE) return;
  $("beside-title").textContent = `Beside ${plain(BESIDE.title)}`;
  $("beside-hint").textContent = `A is ${plain(DATA.title)}, B is ${plain(BESIDE.title)}; both at their last epochs. Map, units and images of this page are those of A.`;
  fill($("beside-list"), ...BESIDE.findings.map((text) => el("li", {}, el("bdi", { text: `${plain(text)}.` }))));
}

// -- the bar -----------------------------------------------------------------------------------

function buildBar() {
  const detector = current().detector;
  fill($("layer"), ...shownSeries().map((series) => el("option", { value: String(series.number), text: plain(series.layer) })));
  $("layer").value = String(state.series);
  fill($("detector"), ...DETECTORS.map((name) => el("option", { value: name, text: plain(name) })));
  $("detector").value = detector;
  $("detector-field").hidden = DETECTORS.length < 2;
}

function showEpoch() {
  const place = DATA.epochs.indexOf(state.epoch);
  const slider = $("epoch");
  slider.max = String(DATA.epochs.length - 1);
  slider.value = String(place);
  const t = current().at(state.epoch);
  const checkpoint = t < 0 ? "" : plain(current().raw.checkpoints[t]);
  fill($("epoch-name"), el("b", { text: String(state.epoch) }), el("bdi", { class: "muted", text: checkpoint, title: checkpoint }));
  slider.setAttribute("aria-valuetext", `epoch ${state.epoch}`);
  slider.style.setProperty("--share", `${DATA.epochs.length > 1 ? (100 * place) / (DATA.epochs.length - 1) : 0}%`);
}

let playing = 0;

function play(wanted) {
  clearInterval(playing);
  playing = 0;
  const next = () => {
    const place = DATA.epochs.indexOf(state.epoch);
    if (place + 1 >= DATA.epochs.length) play(false);
    else update({ epoch: DATA.epochs[place + 1] });
  };
  if (wanted) {
    if (state.epoch === DATA.epochs[DATA.epochs.length - 1]) update({ epoch: DATA.epochs[0] });
    playing = setInterval(next, 900);
  }
  $("play").textContent = playing ? "❚❚" : "▶";
  $("play").setAttribute("aria-label", playing ? "Stop" : "Play the epochs");
}

function stepEpoch(by) {
  const place = Math.max(0, Math.min(DATA.epochs.length - 1, DATA.epochs.indexOf(state.epoch) + by));
  update({ epoch: DATA.epochs[place] });
}

function startBar() {
  $("layer").addEventListener("change", () => update({ series: Number($("layer").value) }));
  $("detector").addEventListener("change", () => {
    const same = SERIES.find((series) => series.detector === $("detector").value && series.layer === current().layer);
    update({ series: (same || SERIES.find((series) => series.detector === $("detector").value)).number });
  });
  $("epoch").addEventListener("input", () => { play(false); update({ epoch: DATA.epochs[Number($("epoch").value)] }); });
  $("epoch-field").hidden = DATA.epochs.length < 2;
  $("play").addEventListener("click", () => play(!playing));
  play(false);
  $("search").addEventListener("input", () => update({ query: $("search").value }));
  $("search").addEventListener("keydown", (event) => {
    if (event.key !== "Enter") return;
    // Else the same stroke would press the button that the opened page puts the focus on.
    event.preventDefault();
    const first = $("found").querySelector("button");
    if (first) first.click();
  });
  // Suggestions for the field; of a very long vocabulary the field works without.
  if (LABELS.length <= 3000) fill($("concept-names"), ...[...new Set(LABELS)].map((name) => el("option", { value: plain(name) })));
  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || event.target.closest("input, select, textarea, .scroll")) return;
    if (event.key === "/" && !$("unit").open) { event.preventDefault(); $("search").focus(); }
    else if (event.key === "ArrowLeft") stepEpoch(-1);
    else if (event.key === "ArrowRight") stepEpoch(1);
    else if (event.key === "PageUp" && $("unit").open) { event.preventDefault(); stepUnit(-1); }
    else if (event.key === "PageDown" && $("unit").open) { event.preventDefault(); stepUnit(1); }
  });
}

// -- light and dark ----------------------------------------------------------------------------

const darkness = matchMedia("(prefers-color-scheme: dark)");

function remembered() {
  // Pages opened from a disk may have no storage at all.
  try { return localStorage.getItem("cmon-theme"); } catch { return null; }
}

function setTheme(theme) {
  document.documentElement.dataset.theme = theme;
  $("theme").textContent = theme === "dark" ? "Light" : "Dark";
  readColours();
  update({ dark: theme === "dark" });
}

function startTheme() {
  setTheme(remembered() || (darkness.matches ? "dark" : "light"));
  darkness.addEventListener("change", () => remembered() || setTheme(darkness.matches ? "dark" : "light"));
  $("theme").addEventListener("click", () => {
    const theme = document.documentElement.dataset.theme === "dark" ? "light" : "dark";
    try { localStorage.setItem("cmon-theme", theme); } catch { /* not remembered, then */ }
    setTheme(theme);
  });
}

// -- the run -----------------------------------------------------------------------------------

function factList(title, pairs) {
  const known = pairs.filter(([, value]) => value !== undefined && value !== null && value !== "");
  if (!known.length) return null;
  return el("section", { class: "fact" }, el("h3", { text: title }),
    el("dl", {}, ...known.flatMap(([name, value]) => [el("dt", { text: plain(name) }), el("dd", {}, value instanceof Node ? value : el("bdi", { text: short(plain(value), 600) }))])));
}

function shortDigest(digest) { return digest ? el("code", { text: String(digest).slice(0, 16), title: String(digest) }) : null; }

function fact(value) {
  if (value === null || value === undefined || value === "") return null;
  if (typeof value !== "object") return String(value);
  if (Array.isArray(value)) return value.length ? value.map(fact).join(", ") : null;
  return Object.entries(value).map(([name, inner]) => [name, fact(inner)]).filter(([, inner]) => inner !== null).map(([name, inner]) => `${name} ${inner}`).join(", ");
}

function buildAbout() {
  const notes = [...DATA.remarks, ...DATA.leftOut];
  if (DATA.images.missing) notes.push(DATA.images.missing);
  fill($("remarks"), notes.length ? el("ul", { class: "note" }, ...notes.map((text) => el("li", { text: plain(text) }))) : null);
  const checkpoints = Array.isArray(run.checkpoints) ? run.checkpoints : [];
  const skipped = run.probe && Array.isArray(run.probe.skipped) ? run.probe.skipped : [];
  const detectors = Object.entries((run.settings && run.settings.detectors) || {});
  fill($("facts"),
    factList("Network", [["architecture", run.model && run.model.name], ["library", run.model && run.model.library], ["fits as well", run.model && fact(run.model.alternatives)],
      ["input", run.settings && fact(run.settings.input)], ["pooling", run.settings && run.settings.pooling], ["precision", run.settings && run.settings.precision]]),
    factList("Probing set", [["name", run.probe && run.probe.name], ["from", run.probe && run.probe.spec], ["images", run.probe && fact(run.probe.images)],
      ["content", run.probe && shortDigest(run.probe.digest)], ["left out", skipped.length ? skipped.map((item) => (item.image ? `${item.image} (${item.reason})` : fact(item))).join(", ") : null]]),
    factList("Words", [["concepts", run.concepts && `${run.concepts.name}, ${run.concepts.count}`], ["content", run.concepts && shortDigest(run.concepts.digest)],
      ["encoder", run.encoder && run.encoder.name], ["content of the encoder", run.encoder && shortDigest(run.encoder.digest)], ["templates", run.encoder && fact(run.encoder.templates)]]),
    factList("Detectors", detectors.map(([name, settings]) => [name, fact(settings)])),
    factList("Software", [["cmon", run.cmon], ...Object.entries(run.versions || {}), ["run made", run.created], ["page made", `${DATA.made}, cmon ${DATA.cmon}`]]),
    calibrationTable(),
    notices(),
    checkpointTable(checkpoints),
    el("details", { class: "fact whole" }, el("summary", { text: "Everything in run.json" }), el("pre", { tabindex: "0", text: JSON.stringify(run, null, 2) })));
}

function notices() {
  const notes = [...new Set([...(run.notices || []), ...SERIES.flatMap((series) => series.raw.notes || [])])];
  if (!notes.length) return null;
  return el("section", { class: "fact whole" }, el("h3", { text: "What was assumed" }), el("ul", { class: "notes" }, ...once(notes).map((text) => el("li", { text: short(plain(text), 600) }))));
}

// What an earlier note said is not said again: many layers have the same to say of what it means.
function once(notes) {
  const told = new Set();
  return notes.map((note) => note.split(". ").filter((part) => !told.has(part) && told.add(part)).join(". ")).filter(Boolean);
}

function calibrationTable() {
  const known = SERIES.map((series) => [series, (series.raw.calibration || {})[String(series.epochs[series.epochs.length - 1])]]).filter(([, c]) => c && Object.keys(c).length);
  if (!known.length) return null;
  return factList("What counts as interpretable (last epoch)", known.map(([series, c]) => [series.layer + (DETECTORS.length > 1 ? `, ${series.detector}` : ""), fact(c)]));
}

function checkpointTable(checkpoints) {
  if (!checkpoints.length) return null;
  const row = (c) => el("tr", {}, el("td", { class: "number", text: String(c.epoch) }), el("td", {}, el("bdi", { text: plain(c.name) })),
    el("td", { text: plain(c.status) + (c.error ? `: ${plain(c.error)}` : "") }), el("td", {}, shortDigest(c.weights)));
  return el("details", { class: "fact whole", open: checkpoints.length <= 12 }, el("summary", { text: count(checkpoints.length, "checkpoint") }),
    el("div", { class: "scroll-x" }, el("table", { class: "plain" }, el("thead", {}, el("tr", {}, ...["Epoch", "File", "Status", "Weights"].map((text) => el("th", { scope: "col", text })))),
      el("tbody", {}, ...checkpoints.map(row)))));
}

// -- start -------------------------------------------------------------------------------------

function start() {
  const title = plain(DATA.title);
  document.title = `${title} – Concept Monitor`;
  $("title").textContent = title;
  $("lead").textContent = headLine();
  $("foot").textContent = "← → epochs · / find · Ctrl and wheel to zoom · the address is that of what is shown. This file is complete: it asks no network for anything.";
  fill($("category"), el("option", { value: "-1", text: "all" }), ...CATEGORIES.map((c, i) => el("option", { value: String(i), text: plain(c.name) })));
  $("category").addEventListener("change", () => update({ category: Number($("category").value) }));
  $("only-interpretable").addEventListener("change", (event) => update({ onlyInterpretable: event.target.checked }));
  $("all-layers").addEventListener("change", (event) => update({ allLayers: event.target.checked }));
  // The page opens on the last layer, which is nearest to what the network is for.
  state.series = shownSeries()[shownSeries().length - 1].number;
  for (const unit of DATA.tracked) {
    for (const series of SERIES) {
      const row = series.rowOf(unit);
      if (row >= 0) state.followed.set(`${series.number}/${row}`, DATA.followedColours[DATA.tracked.indexOf(unit) % DATA.followedColours.length]);
    }
  }
  startTheme();
  startBar();
  startSpace();
  startUnit();
  buildFindings();
  buildBeside();
  buildLegend();
  buildAbout();
  const showMetric = segments($("metrics"), availableMetrics().map(([name, text]) => [name, text]), () => state.metric, (metric) => update({ metric }));
  const showKind = segments($("table-kind"), [["units", "By unit"], ["concepts", "By concept"]], () => state.kind, (kind) => update({ kind }));

  let detector = null;
  let shown = { series: -1, epoch: -1 };
  listen(["series"], () => {
    if (current().detector !== detector) {
      detector = current().detector;
      buildBar();
      buildCards();
      buildCharts();
      if (longTable) buildTable();
    }
    $("layer").value = String(state.series);
  });
  buildDynamics();
  buildFactors();
  buildAtlas();
  buildUses();
  listen(["series", "epoch"], () => { showCards(); showEpoch(); markCharts(); markDynamics(); markFactors(); markAtlas(); });
  listen(["series", "epoch", "query", "followed", "dark"], (changed) => {
    followHover(changed);
    const before = shown;
    shown = { series: state.series, epoch: state.epoch };
    if (before.series === state.series && before.epoch !== state.epoch && current().place && current().at(state.epoch) >= 0) {
      glide(current(), current().at(before.epoch));
    } else if (!space.from || changed.has("series")) { space.from = null; drawSpace(); }
    showFound();
    showFollowed();
  });
  listen(["metric"], () => { showMetric(); buildCharts(); });
  listen(["kind", "allLayers"], () => { showKind(); buildTable(); });
  listen(["series", "epoch", "query", "category", "onlyInterpretable"], () => { if (longTable) fillTable(); });
  listen(["series", "epoch", "followed"], showUnit);
  listen(["series", "epoch", "metric", "query"], () => {
    const address = viewAddress();
    if (!$("unit").open && (address || location.hash.startsWith("#view-"))) setAddress(address || location.pathname + location.search);
  });
  viewAddress();
  update({ everything: true });
  openView();
  flush();
  openFromAddress();

  let width = innerWidth;
  addEventListener("resize", () => requestAnimationFrame(() => {
    drawSpace();
    if (innerWidth !== width) drawCharts();
    width = innerWidth;
    longTable.show(true);
  }));
  // Paper does not scroll.
  addEventListener("beforeprint", () => longTable.show(true, 200));
  addEventListener("afterprint", () => longTable.show(true));
  document.documentElement.dataset.ready = "true";
}

start();
