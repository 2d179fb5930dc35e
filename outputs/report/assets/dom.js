// Elements. Text goes in as text nodes only: nothing here or elsewhere in the page parses markup.

const SVG = "http://www.w3.org/2000/svg";

function fill(element, attributes, children) {
  for (const [name, value] of Object.entries(attributes || {})) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else element.setAttribute(name, value === true ? "" : String(value));
  }
  for (const child of children.flat(Infinity)) {
    if (child !== null && child !== undefined) element.append(child instanceof Node ? child : document.createTextNode(String(child)));
  }
  return element;
}

const el = (tag, attributes, ...children) => fill(document.createElement(tag), attributes, children);
const svg = (tag, attributes, ...children) => fill(document.createElementNS(SVG, tag), attributes, children);

// What shows a space of a token; a middle dot of the token's own shows as an escape.
const SPACE = "\u00b7", ESCAPED_SPACE = "\\u00b7";

// A token's text as it is, isolated from the direction of what stands around it, its spaces made visible.
function tokenNode(text) {
  const node = el("bdi", { class: "token", dir: "ltr" });
  if (text === "") return fill(node, { class: "token empty-token" }, ["(empty)"]);
  for (const piece of text.replaceAll(SPACE, ESCAPED_SPACE).split(/( |\\x[0-9a-f]{2}|\\u[0-9a-f]{4}|\\[nrt])/)) {
    if (piece === " ") node.append(el("span", { class: "space" }, " "));
    else if (/^\\./.test(piece)) node.append(el("span", { class: "escape" }, piece));
    else if (piece) node.append(piece);
  }
  return node;
}

// The same where only characters can be shown.
const tokenLabel = (text) => text === "" ? "(empty)" : text.replaceAll(SPACE, ESCAPED_SPACE).replaceAll(" ", SPACE);

// The same among other names: its direction touches none of them.
const isolated = (text) => `\u2068${text}\u2069`;

const MINUS = "\u2212", DASH = "\u2013";
const whole = (value) => isNumber(value) ? Math.round(value).toLocaleString("en-US").replace("-", MINUS) : DASH;

// A number to `digits` significant digits, at least `digits - 1` of them after the point below 10.
function figure(value, digits = 3) {
  if (!isNumber(value)) return DASH;
  const size = Math.abs(value);
  if (size !== 0 && (size < 1e-3 || size >= 1e7)) return value.toExponential(digits - 1).replace("e+", "e").replaceAll("-", MINUS);
  const places = size === 0 ? 0 : Math.max(0, digits - 1 - Math.floor(Math.log10(size)));
  return value.toLocaleString("en-US", { minimumFractionDigits: places, maximumFractionDigits: places }).replace("-", MINUS);
}
function percent(share) {
  if (!isNumber(share)) return DASH;
  if (share > 0 && share < 1e-4) return "< 0.01%";
  return `${(100 * share).toFixed(share > 0 && share < .01 ? 2 : 1)}%`.replace("-", MINUS);
}

let serial = 0;
const freshId = (stem) => `${stem}-${serial++}`;

function tiles(entries) {
  return el("dl", { class: "tiles" }, entries.map(([name, value, note]) =>
    el("div", { class: "tile" }, el("dt", null, name), el("dd", null, value, note ? el("small", null, note) : null))));
}

const MOST_ROWS = 2000;

// The rows of a table in a box of its own; what a column means is said where its name is pointed at.
function tableBox(title, table) {
  const names = Object.keys(table.columns);
  const body = el("tbody");
  const node = el("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": title },
    el("table", null, el("thead", null, el("tr", null, names.map((name) =>
      el("th", { scope: "col", title: table.columns[name].description || null }, name)))), body));
  const fillRows = () => {
    if (body.childElementCount) return;
    for (const row of rowsOf(table).slice(0, MOST_ROWS)) {
      body.append(el("tr", null, names.map((name) =>
        el("td", null, isNumber(row[name]) ? (Number.isInteger(row[name]) ? String(row[name]) : figure(row[name], 4)) : row[name] ?? DASH))));
    }
  };
  return { node, fillRows };
}

const cutNote = (shown, all) => all > shown ? el("p", { class: "note" }, `The first ${whole(shown)} of ${whole(all)} rows; the run\u2019s Parquet table has all.`) : null;

// A table to open: the numbers behind a figure.
function numbersBehind(title, table) {
  const { node, fillRows } = tableBox(title, table);
  const box = el("details", null, el("summary", null, title), node, cutNote(MOST_ROWS, table.rows));
  box.addEventListener("toggle", fillRows);
  return box;
}
