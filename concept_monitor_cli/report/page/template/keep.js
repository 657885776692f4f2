// Every chart can be kept, as a picture that stands alone and as the numbers in it.

// What a picture looks like without this page's styles.
const PAINT = ["fill", "fill-opacity", "stroke", "stroke-width", "stroke-dasharray", "stroke-linejoin", "opacity",
  "font-family", "font-size", "font-weight", "text-anchor", "visibility"];
const CAPTION = { size: 11, line: 15, letters: 0.165 };

// Offers a file to save; nothing leaves the page.
function offer(name, type, text) {
  const address = URL.createObjectURL(new Blob([text], { type: `${type};charset=utf-8` }));
  const link = el("a", { href: address, download: name });
  document.body.append(link);
  link.click();
  link.remove();
  setTimeout(() => URL.revokeObjectURL(address), 60_000);
}

// Rows of text and numbers as CSV (RFC 4180); an empty field where nothing is known.
function csv(header, rows) {
  const field = (value) => {
    if (value === null || value === undefined || Number.isNaN(value)) return "";
    const text = String(value);
    return /[",\r\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
  };
  return [header, ...rows].map((row) => `${row.map(field).join(",")}\r\n`).join("");
}

// Words in lines of about so many letters.
function wrapped(text, most) {
  const lines = [""];
  for (const word of text.split(" ")) {
    const last = lines[lines.length - 1];
    if (last && last.length + word.length + 1 > most) lines.push(word);
    else lines[lines.length - 1] = last ? `${last} ${word}` : word;
  }
  return lines;
}

// A chart of the page as a file of its own: colours and letters written into it, its title above, its caption below.
function standalone(picture, title, caption) {
  const copy = picture.cloneNode(true);
  const originals = picture.querySelectorAll("*");
  copy.querySelectorAll("*").forEach((element, i) => {
    const style = getComputedStyle(originals[i]);
    for (const name of PAINT) {
      const value = style.getPropertyValue(name);
      if (value) element.setAttribute(name, value);
    }
    element.removeAttribute("class");
    element.removeAttribute("style");
  });
  const page = getComputedStyle(document.body);
  const [left, top, width, height] = picture.getAttribute("viewBox").split(" ").map(Number);
  const lines = wrapped(caption, Math.floor(width * CAPTION.letters));
  const above = 24;
  const below = 10 + lines.length * CAPTION.line;
  const whole = { x: left, y: top - above, width, height: height + above + below };
  const letters = { x: left + 4, "font-family": page.fontFamily, "font-size": CAPTION.size, fill: page.color };
  const result = svg("svg", { xmlns: "http://www.w3.org/2000/svg", width: whole.width, height: whole.height, viewBox: Object.values(whole).join(" ") },
    svg("title", { text: title }), svg("desc", { text: caption }),
    svg("rect", { ...whole, fill: page.backgroundColor }),
    svg("text", { ...letters, y: top - 9, "font-size": 13, "font-weight": 600, text: title }),
    ...copy.childNodes,
    ...lines.map((text, i) => svg("text", { ...letters, y: top + height + 14 + i * CAPTION.line, text })));
  return new XMLSerializer().serializeToString(result);
}

function fileName(...parts) {
  return parts.map((part) => String(part).toLowerCase().replace(/[^a-z0-9]+/g, "-").replace(/^-|-$/g, "").slice(0, 40)).filter(Boolean).join("-");
}

// Buttons that keep a chart, called `what`. `about` gives its title, caption, header and rows when they are pressed,
// since these follow the epoch; `picture` gives the element that is drawn.
function keepButtons(what, picture, about) {
  const button = (text, act) => el("button", { type: "button", class: "keep", text, onclick: act,
    "aria-label": `Save ${plain(what)} as ${text}`, title: `Save as ${text}` });
  return el("span", { class: "keeps" },
    button("SVG", () => { const { title, caption, name } = about(); offer(`${name}.svg`, "image/svg+xml", standalone(picture(), title, caption)); }),
    button("CSV", () => { const { name, header, rows } = about(); offer(`${name}.csv`, "text/csv", csv(header, rows())); }));
}
