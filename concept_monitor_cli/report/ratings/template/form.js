"use strict";
(() => {
const DATA = JSON.parse(document.getElementById("data").textContent);
const $ = (id) => document.getElementById(id);
const total = DATA.questions.length;
const key = `ratings-${DATA.form}`;
let place = 0;
let answers = {};

// A browser may keep nothing for a file: then answers last as long as the page is open.
function remember() {
  try { localStorage.setItem(key, JSON.stringify({ answers, rater: $("rater").value, place })); } catch { /* then not */ }
}

function recall() {
  try {
    const kept = JSON.parse(localStorage.getItem(key));
    if (kept) { answers = kept.answers; place = Math.min(kept.place, total - 1); $("rater").value = kept.rater; }
  } catch { /* nothing is kept */ }
}

function show() {
  const [picture, label] = DATA.questions[place];
  const done = Object.keys(answers).length;
  $("place").textContent = `Question ${place + 1} of ${total} · ${done} answered`;
  $("picture").src = DATA.pictures[picture];
  $("picture").alt = DATA.alts[picture];
  $("label").firstElementChild.textContent = label;
  for (const button of $("scale").children) button.setAttribute("aria-checked", String(answers[place] === Number(button.textContent)));
  $("back").disabled = place === 0;
  $("next").disabled = place === total - 1;
}

function go(to) {
  place = Math.max(0, Math.min(total - 1, to));
  remember();
  show();
}

function answer(value) {
  answers[place] = value;
  remember();
  show();
  if (Object.keys(answers).length === total) $("said").textContent = "All questions are answered: save your answers now.";
  else if (place < total - 1) go(place + 1);
}

function save() {
  const rater = $("rater").value.trim();
  if (!rater) { $("said").textContent = "Please write your name or initials first."; $("rater").focus(); return; }
  const text = JSON.stringify({ form: DATA.form, rater, ratings: answers });
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([text], { type: "application/json" }));
  link.download = `ratings-${rater.replace(/[^\p{L}\p{N}]+/gu, "-")}.json`;
  link.click();
  const left = total - Object.keys(answers).length;
  $("said").textContent = left ? `Saved; ${left} questions are not answered yet.` : "Saved. Thank you!";
}

for (let value = DATA.scale[0]; value <= DATA.scale[1]; value++) {
  const button = document.createElement("button");
  button.type = "button";
  button.textContent = String(value);
  button.setAttribute("role", "radio");
  button.addEventListener("click", () => answer(value));
  $("scale").append(button);
}
$("back").addEventListener("click", () => go(place - 1));
$("next").addEventListener("click", () => go(place + 1));
$("save").addEventListener("click", save);
$("rater").addEventListener("input", remember);
document.addEventListener("keydown", (event) => {
  if (event.target === $("rater") || event.ctrlKey || event.metaKey || event.altKey) return;
  if (event.key >= String(DATA.scale[0]) && event.key <= String(DATA.scale[1]) && event.key.length === 1) answer(Number(event.key));
  else if (event.key === "ArrowLeft") go(place - 1);
  else if (event.key === "ArrowRight") go(place + 1);
});
recall();
show();
document.documentElement.dataset.ready = "";
})();
