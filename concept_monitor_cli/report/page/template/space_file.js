// The picture of concept space as a file.

// The picture as it is zoomed now: units, the ways of followed ones, anchors.
function spacePicture() {
  const series = current();
  const t = series.at(state.epoch);
  const size = spaceSize();
  const project = projection(size);
  const { xs, ys } = positions(series, t);
  const picture = svg("svg", { viewBox: `0 0 ${size.width} ${size.height}` });
  const inside = (x, y) => x >= 0 && y >= 0 && x <= size.width && y <= size.height;
  const rows = Array.from(xs.keys()).filter((row) => inside(xs[row], ys[row]))
    .sort((a, b) => series.flag(t, a, INTERPRETABLE) - series.flag(t, b, INTERPRETABLE));
  for (const row of rows) {
    const sure = series.flag(t, row, INTERPRETABLE);
    picture.append(svg("circle", { cx: xs[row].toFixed(1), cy: ys[row].toFixed(1), r: sure ? 3 : 2.2, "fill-opacity": 0.8,
      fill: sure ? colourOf(series.label(t, row)) : space.colours.unit }));
  }
  const word = (text, x, y, fill) => svg("text", { x: x + 9, y: y + 4, fill, text, "font-size": 12, "font-weight": 600, "font-family": "sans-serif" });
  for (const [key, colour] of state.followed) {
    const [which, row] = key.split("/").map(Number);
    if (which !== series.number || Number.isNaN(xs[row])) continue;
    const way = [];
    for (let i = 0; i <= t; i++) {
      const x = series.place.x.at(i * series.size + row);
      if (!Number.isNaN(x)) way.push(project(x, series.place.y.at(i * series.size + row)));
    }
    picture.append(svg("path", { d: way.map(([x, y], i) => `${i ? "L" : "M"}${x.toFixed(1)},${y.toFixed(1)}`).join(""), fill: "none", stroke: colour, "stroke-width": 2 }),
      svg("circle", { cx: xs[row], cy: ys[row], r: 5, fill: colour }),
      word(`${series.units[row]}: ${labelText(series.label(t, row))}`, xs[row], ys[row], space.colours.ink));
  }
  DATA.anchors.name.forEach((name, i) => {
    const [x, y] = project(DATA.anchors.x[i], DATA.anchors.y[i]);
    if (!inside(x, y)) return;
    const corners = Array.from({ length: 10 }, (_, k) => {
      const [angle, r] = [(Math.PI * k) / 5 - Math.PI / 2, k % 2 ? 3.6 : 8];
      return `${(x + r * Math.cos(angle)).toFixed(1)},${(y + r * Math.sin(angle)).toFixed(1)}`;
    });
    picture.append(svg("polygon", { points: corners.join(" "), fill: space.colours.anchor }), word(plain(name), x, y, space.colours.anchor));
  });
  return picture;
}

function spaceContent() {
  const series = current();
  const t = series.at(state.epoch);
  const s = series.statistics;
  return {
    title: `${plain(series.layer)}: concept space, epoch ${state.epoch}`,
    name: fileName(series.layer, series.detector, "space", `epoch ${state.epoch}`),
    caption: t < 0 ? "" : `Every dot is a unit, at the weighted mean of its concepts, in the colour of its concept's category; grey ones are not interpretable. `
      + `${whole.format(s.interpretable[t])} of ${count(s.units[t], "unit")} interpretable. Stars are anchor words.`,
    header: ["unit", "x", "y", "concept", "category", "interpretable", "score", "nearest_anchor", "anchor_distance"],
    rows: () => Array.from({ length: series.size }, (_, row) => [row, t * series.size + row])
      .filter(([, place]) => !Number.isNaN(series.place.x.at(place)))
      .map(([row, place]) => {
        const [label, anchor] = [series.label(t, row), series.place.anchor[place]];
        return [series.units[row], series.place.x.at(place), series.place.y.at(place), label < 0 ? "" : LABELS[label], categoryOf(label),
          series.flag(t, row, INTERPRETABLE), series.score(t, row), anchor ? DATA.anchors.name[anchor - 1] : "", series.place.distance.at(place)];
      }),
  };
}
