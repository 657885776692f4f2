"use strict";
(() => {
const DATA = JSON.parse(document.getElementById("data").textContent);
const $ = (id) => document.getElementById(id);
const columns = DATA.columns.length;
const total = DATA.rows.length * columns;
let epoch = DATA.epochs.length - 1;
let chosen = 0;          // the class
let layer = "attribution";
let place = -1;          // under the pointer or the focus
let held = -1;

// -- small things -----------------------------------------------------------------------------

function make(tag, text, kind) {
  const found = document.createElement(tag);
  if (text !== undefined && text !== null) found.textContent = text;
  if (kind) found.className = kind;
  return found;
}

function number(value) {
  if (value === null) return "–";
  const size = Math.abs(value);
  if (size === 0) return "0";
  if (size >= 1000 || size < 0.001) return value.toExponential(1);
  return value.toPrecision(size < 0.01 ? 2 : 3).replace("-", "−");
}

const signed = (value) => (value !== null && value > 0 ? "+" : "") + number(value);
const percent = (value) => (value === null ? "–" : `${(100 * value).toFixed(value < 0.1 ? 1 : 0)}\u00a0%`);
const sign = (value) => (value > 0 ? "for" : value < 0 ? "against" : "");

function picture(which, alt) {
  const found = make("img");
  found.src = DATA.pictures[which];
  found.alt = alt;
  return found;
}

const moment = () => DATA.epochs[epoch];
// Pictures of places and groups, where `--grid` made some.
const grid = () => moment().grid;
const known = (unit) => moment().units[unit];
const called = (unit) => { const [concept] = known(unit); return concept ? `unit ${unit}, ${concept}` : `unit ${unit}, no concept`; };

function thumbs(unit, tag = "figure") {
  const row = make(tag === "figure" ? "div" : "span", null, "thumbs");
  const [, photo, made] = known(unit);
  for (const [which, what] of [[made, "picture"], [photo, "best photo"]]) {
    if (which < 0) continue;
    const figure = make(tag);
    figure.append(picture(which, `${what} of unit ${unit}`));
    figure.append(make(tag === "figure" ? "figcaption" : "span", what));
    row.append(figure);
  }
  return row;
}

// The largest value over all epochs, so that epochs can be compared.
const mostActive = Math.max(...DATA.epochs.flatMap((each) => each.at.flat().map((one) => one[2] ?? 0)), 1e-30);
const largest = (of) => Math.max(...DATA.epochs.flatMap((each) => of(each).map((value) => Math.abs(value ?? 0))), 1e-30);

// -- the image --------------------------------------------------------------------------------

function overlay() {
  if (layer === "none" || layer === "grid") return Array(total).fill("transparent");
  if (layer === "attribution") {
    const values = moment().classes[chosen].places.map((each) => each[0]);
    const most = largest((each) => each.classes[chosen].places.map((one) => one[0]));
    return values.map((value) => `rgb(${value > 0 ? "235 25 45" : "25 95 235"} / ${(0.7 * Math.abs(value) / most).toFixed(3)})`);
  }
  const group = Number(layer.slice(6));
  const most = largest((each) => each.where[group]);
  return moment().where[group].map((value) => `rgb(120 40 200 / ${(0.8 * value / most).toFixed(3)})`);
}

function paint() {
  const colours = overlay();
  $("photo").classList.toggle("grey", layer !== "none" && layer !== "grid");
  [...$("places").children].forEach((button, number) => {
    button.style.backgroundColor = colours[number];
    button.style.backgroundImage = layer === "grid" ? `url(${DATA.pictures[grid().places[number][0]]})` : "";
    button.classList.toggle("on", number === place);
    button.classList.toggle("held", number === held);
    button.setAttribute("aria-pressed", String(number === held));
    button.setAttribute("aria-label", summary(number));
  });
  $("legend").textContent = layer === "grid" ? "Made, no photos: what excites the layer as each place does."
    : layer === "none" ? "" : layer === "attribution"
    ? `Red: speaks for ${DATA.classes[chosen]}; blue: against it. One scale for all epochs.`
    : `Purple: how much of group ${layer.slice(6)} is there. One scale for all epochs.`;
}

const shown = () => (held >= 0 ? held : place >= 0 ? place : strongestPlace());

function strongestPlace() {
  const values = moment().classes[chosen].places.map((each) => Math.abs(each[0]));
  return values.indexOf(Math.max(...values));
}

const named = (number) => `row ${Math.floor(number / columns) + 1}, column ${number % columns + 1}`;

function summary(number) {
  const [unit] = moment().at[number][0];
  return `${named(number)}: ${called(unit)}; ${signed(moment().classes[chosen].places[number][0])} for ${DATA.classes[chosen]}`;
}

function here() {
  const spot = shown();
  $("here-title").textContent = `Here: ${named(spot)}`;
  $("here-hint").textContent = held >= 0 ? "Held. Click it again, or Escape, to let go."
    : place >= 0 ? "Click or Enter holds this place."
    : "The place that says most. Point at another, or move with the arrow keys; click or Enter holds it.";
  const box = $("here");
  box.replaceChildren();
  if (grid()) box.append(gridHere(spot));
  for (const [unit, value, best, typical, says] of moment().at[spot]) {
    const row = make("div", null, "unit");
    row.append(thumbs(unit));
    const text = make("div");
    const [concept] = known(unit);
    const head = make("h3", `Unit ${unit} · `);
    head.append(make("bdi", concept || "no concept"));
    text.append(head);
    if (best !== null) {
      // As long as the strongest unit of any place, at any epoch.
      const bar = make("div", null, "bar");
      bar.setAttribute("aria-hidden", "true");
      const full = make("i"), mark = make("b");
      full.style.width = `${Math.max(0, best / mostActive) * 100}%`;
      mark.style.left = `${Math.max(0, typical / mostActive) * 100}%`;
      bar.append(full, mark);
      text.append(bar);
    }
    text.append(make("p", best === null ? `activation ${number(value)}; no probing image excites it`
      : `activation ${number(value)}: ${number(best)} times what its best photo gives in the mean; a usual photo ${number(typical)}`, "small"));
    const line = make("p", null, "small");
    says.forEach((each, k) => {
      if (k) line.append(", ");
      line.append(`${DATA.classes[k]} `, make("span", signed(each), sign(each)));
    });
    text.append(line);
    row.append(text);
    box.append(row);
  }
  const table = make("table");
  table.append(make("caption", "What this place says of each class, all units together"));
  table.append(head(["class", "attribution", "by luck", "share", "by luck", "untrained"]));
  const body = make("tbody");
  moment().classes.forEach((each, k) => {
    const [value, floor, share, luck, fresh] = each.places[spot];
    const row = cells([DATA.classes[k], signed(value), number(floor), percent(share), percent(luck), percent(fresh)]);
    row.children[1].className = sign(value);
    row.classList.toggle("now", k === chosen);
    body.append(row);
  });
  table.append(body);
  box.append(table);
}

function gridHere(spot) {
  const [which, own, other] = grid().places[spot];
  const row = make("div", null, "unit");
  const figures = make("div", null, "thumbs"), figure = make("figure");
  figure.append(picture(which, `made of all that the layer says at ${named(spot)}`), make("figcaption", "made"));
  figures.append(figure);
  const text = make("div"), luck = grid().floor;
  text.append(make("h3", "All units together"), make("p", `This picture excites the layer as the place does: cosine ${number(own)}`
    + ` (pictures of other places ${number(other)}${luck === null ? "" : `; of places whose units are dealt out anew ${number(luck)}`}).`, "small"));
  row.append(figures, text);
  return row;
}

function head(names) {
  const found = make("thead"), row = make("tr");
  for (const name of names) { const cell = make("th", name); cell.scope = "col"; row.append(cell); }
  found.append(row);
  return found;
}

function cells(texts) {
  const row = make("tr");
  texts.forEach((text, column) => {
    const cell = make(column ? "td" : "th", text, column ? "" : "word");
    if (!column) cell.scope = "row";
    row.append(cell);
  });
  return row;
}

// -- what the network says ----------------------------------------------------------------------

function answers() {
  const now = moment();
  $("said").textContent = `The network says ${now.predicted} at epoch ${now.epoch}.`;
  const table = $("answers");
  table.tHead.replaceChildren(head(["class", "logit", "probability"]).firstElementChild);
  table.tBodies[0].replaceChildren(...DATA.classes.map((name, k) => {
    const row = cells([name, number(now.logits[k]), percent(now.probabilities[k])]);
    row.classList.toggle("now", k === chosen);
    return row;
  }));
}

function groups() {
  const now = moment(), says = now.classes[chosen];
  $("groups-hint").textContent = `Units that are active together in this image, found at the last epoch (non-negative factors of ${DATA.on}s). `
    + "Press one to see where it is. Beside each share: what luck gives the group of the same rank.";
  const box = $("groups");
  const before = document.activeElement && box.contains(document.activeElement) ? [...box.children].indexOf(document.activeElement) : -1;
  box.replaceChildren();
  DATA.groups.forEach((each, g) => {
    const button = make("button");
    button.type = "button";
    button.setAttribute("aria-pressed", String(layer === `group:${g}`));
    const [value, floor, share, luck, fresh] = says.groups[g];
    const title = make("span", `Group ${g}`, "title");
    if (each.concept) title.append(" · ", make("bdi", each.concept[0]));
    button.append(title);
    const row = make("span", null, "thumbs");
    if (grid()) row.append(picture(grid().groups[g][0], "picture made of the group"));
    for (const which of each.photos) row.append(picture(which, ""));
    button.append(row);
    const line = make("span");
    line.append(make("b", signed(value), sign(value)), ` for ${DATA.classes[chosen]} (by luck ${number(floor)})`);
    button.append(line);
    const more = [
      `${percent(share)} of all parts (luck ${percent(luck)}, untrained ${percent(fresh)})`,
      `explains ${percent(now.explained[g][0])} of the ${DATA.on} (luck ${percent(now.explained[g][1])})`,
      "units " + each.units.map(([unit]) => { const [concept] = known(unit); return concept ? `${unit} ${concept}` : unit; }).join(", "),
    ];
    if (each.concept) more.push(`${each.concept[0]}: correlation ${number(each.concept[1])} (luck ${number(each.concept[2])})`);
    for (const text of more) button.append(make("span", text, "small"));
    button.addEventListener("click", () => { layer = layer === `group:${g}` ? "attribution" : `group:${g}`; $("layer").value = layer; show(); });
    box.append(button);
  });
  const rest = make("div", null, "residual"), last = says.groups[DATA.groups.length];
  rest.append(make("h3", "What no group has"));
  rest.append(make("p", `${signed(last[0])} for ${DATA.classes[chosen]} (by luck ${number(last[1])})`));
  rest.append(make("p", `${percent(now.left[0])} of the ${DATA.on} is left (luck ${percent(now.left[1])})`, "small"));
  box.append(rest);
  if (before >= 0 && box.children[before].focus) box.children[before].focus();
}

function units() {
  const now = moment(), says = now.classes[chosen];
  $("units-hint").textContent = `The units with the largest attributions to ${DATA.classes[chosen]}, summed over places. By luck: the part of the same rank where the class reads other units; `
    + "untrained: its share in networks with random weights.";
  const table = $("units");
  table.tHead.replaceChildren(head(["unit", "looks for", "concept", "attribution", "by luck", "share", "by luck", "untrained"]).firstElementChild);
  const body = table.tBodies[0];
  body.replaceChildren();
  for (const [unit, value, floor, share, luck, fresh] of says.units) {
    const [concept, photo, made] = known(unit);
    const row = cells([String(unit), "", concept || "no concept", signed(value), number(floor), percent(share), percent(luck), percent(fresh)]);
    row.children[1].append(thumbsInline(made, photo, unit));
    row.children[2].className = "word";
    row.children[3].className = sign(value);
    body.append(row);
  }
  body.append(cells(["all others", "", "", signed(says.others), "", "", "", ""]));
}

function thumbsInline(made, photo, unit) {
  const found = make("span", null, "thumbs");
  if (made >= 0) found.append(picture(made, `picture of unit ${unit}`));
  found.append(picture(photo, `best photo of unit ${unit}`));
  return found;
}

function sums() {
  const says = moment().classes[chosen];
  let text = `All units, all places, and all groups with what no group has, each sum to ${signed(says.total)} for ${DATA.classes[chosen]}`
    + ` (where the class reads other units: ±${number(says.floor)}).`;
  if (says.elsewhere) text += ` What the layer says beside its places, in class tokens, is ${signed(says.elsewhere)}.`;
  text += says.error === null ? " Without this layer's output the logit is the same."
    : ` Together that is ${percent(says.error)} away from how much the logit changes when the layer puts out 0`
      + (DATA.path ? `; gradients are means over ${DATA.path} points on the way there.` : says.error > 0.01 ? "; with --path 32 it comes nearer." : ".");
  $("sum").textContent = text;
}

function show() {
  $("epoch-name").textContent = String(moment().epoch);
  $("epoch").setAttribute("aria-valuetext", `epoch ${moment().epoch}`);
  paint();
  here();
  answers();
  groups();
  units();
  sums();
}

// -- what a person does -------------------------------------------------------------------------

function hold(number) {
  held = held === number ? -1 : number;
  paint();
  here();
}

function reach(number) {
  const buttons = $("places").children;
  for (const button of buttons) button.tabIndex = -1;
  buttons[number].tabIndex = 0;
  buttons[number].focus();
}

function start() {
  $("name").textContent = DATA.image;
  $("about").textContent = `Layer ${DATA.layer}, ${DATA.map.join(" × ")} places. Units at a place are those of the largest ${DATA.by}.`;
  $("caption").textContent = DATA.caption;
  $("photo").src = DATA.photo;
  $("photo").alt = `The image as the network sees it: ${DATA.image}`;
  const slider = $("epoch");
  slider.max = String(DATA.epochs.length - 1);
  slider.value = String(epoch);
  $("epoch-field").hidden = DATA.epochs.length === 1;
  slider.addEventListener("input", () => { epoch = Number(slider.value); show(); });
  DATA.classes.forEach((name, k) => $("class").append(new Option(name, String(k))));
  $("class").addEventListener("change", (event) => { chosen = Number(event.target.value); show(); });
  $("layer").append(new Option("what it says for the class", "attribution"));
  DATA.groups.forEach((_, g) => $("layer").append(new Option(`group ${g}`, `group:${g}`)));
  if (grid()) $("layer").append(new Option("what the layer sees there", "grid"));
  $("layer").append(new Option("nothing", "none"));
  $("layer").addEventListener("change", (event) => { layer = event.target.value; show(); });
  const places = $("places");
  places.style.gridTemplateRows = DATA.rows.map(([a, b]) => `${b - a}fr`).join(" ");
  places.style.gridTemplateColumns = DATA.columns.map(([a, b]) => `${b - a}fr`).join(" ");
  for (let number = 0; number < total; number++) {
    const button = make("button");
    button.type = "button";
    button.tabIndex = number ? -1 : 0;
    const look = () => { place = number; paint(); here(); };
    button.addEventListener("mouseenter", look);
    button.addEventListener("focus", look);
    button.addEventListener("click", () => { place = number; hold(number); });
    places.append(button);
  }
  places.addEventListener("mouseleave", () => { place = -1; paint(); here(); });
  places.addEventListener("focusout", (event) => { if (!places.contains(event.relatedTarget)) { place = -1; paint(); here(); } });
  places.addEventListener("keydown", (event) => {
    const step = { ArrowLeft: -1, ArrowRight: 1, ArrowUp: -columns, ArrowDown: columns }[event.key];
    const now = [...places.children].indexOf(document.activeElement);
    if (event.key === "Escape") { if (held >= 0) hold(held); return; }
    if (step === undefined || now < 0) return;
    event.preventDefault();
    const next = now + step;
    const leaves = next < 0 || next >= total || (Math.abs(step) === 1 && Math.floor(next / columns) !== Math.floor(now / columns));
    if (!leaves) reach(next);
  });
  show();
  document.documentElement.dataset.ready = "";
}
start();
})();
