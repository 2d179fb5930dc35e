// Where heads look whatever is there: a class for each, its kernel small and large, and what content adds.

const POSITION_CLASSES = ["previous", "detokenisation", "duplicate", "positional", "contextual", "sink", "none"];

const POSITION_ERRORS = [
  ["tv_position", "kernel alone"], ["tv_fixed", "kernel and content, one query for all"], ["tv_factorised", "kernel and content, own query"],
  ["tv_denominator", "with a constant denominator"], ["tv_content", "content alone"], ["tv_uniform", "all keys alike"],
];

drawings.set("positions", positionsSection);

const classColour = (name) => name === "none" ? variable("--grey") : KIND_COLOURS[POSITION_CLASSES.indexOf(name) % KIND_COLOURS.length];

// A kernel: share by offset + 1 on a logarithmic axis, from 0 to its own highest point, with the band of both halves.
function kernelPlot(head, offsets, { width, height, axes }) {
  const left = axes ? 46 : 1, right = axes ? 10 : 1, top = axes ? 8 : 2, bottom = axes ? 38 : 2;
  const known = offsets.map((offset, place) => [offset, head.share[place], head.low[place], head.high[place]]).filter(([, share]) => isNumber(share));
  const highest = Math.max(...known.map(([, share, , high]) => Math.max(share, high))) || 1, last = Math.log(offsets[offsets.length - 1] + 1) || 1;
  const px = (offset) => left + Math.log(offset + 1) / last * (width - left - right);
  const py = (share) => top + (1 - share / highest) * (height - top - bottom);
  const label = `Kernel of ${head.name}: ${head.class}, width ${figure(head.width)}, error ${figure(head.tv_position)}`;
  const plot = svg("svg", { viewBox: `0 0 ${width} ${height}`, role: "img", tabindex: axes ? 0 : null, "aria-label": axes ? `${label}. Arrow keys read the values.` : label });
  plot.append(svg("line", { class: "axis", x1: left, x2: width - right, y1: py(0), y2: py(0) }));
  if (axes) {
    for (const tick of niceTicks(0, highest, 4)) plot.append(svg("line", { class: tick === 0 ? "zero" : "axis", x1: left, x2: width - right, y1: py(tick), y2: py(tick) }), svg("text", { x: left - 7, y: py(tick) + 4, "text-anchor": "end" }, tickText(tick)));
    for (const tick of [0, 1, 3, 10, 30, 100, 300, 1000, 3000, 10000].filter((offset) => offset <= offsets[offsets.length - 1])) plot.append(svg("line", { class: "axis", x1: px(tick), x2: px(tick), y1: height - bottom, y2: height - bottom + 4 }), svg("text", { x: px(tick), y: height - bottom + 16, "text-anchor": "middle" }, tick));
    plot.append(svg("text", { x: (left + width - right) / 2, y: height - 4, "text-anchor": "middle" }, "offset behind the query, log scale"));
  }
  const colour = classColour(head.class);
  if (known.length > 1) {
    const upper = known.map(([offset, , , high]) => `${px(offset)} ${py(high)}`), lower = known.map(([offset, , low]) => `${px(offset)} ${py(low)}`).reverse();
    plot.append(svg("path", { class: "band", d: `M${[...upper, ...lower].join("L")}Z`, fill: colour }));
    plot.append(svg("path", { class: "line", d: `M${known.map(([offset, share]) => `${px(offset)} ${py(share)}`).join("L")}`, stroke: colour }));
  } else if (known.length) plot.append(svg("circle", { cx: px(known[0][0]), cy: py(known[0][1]), r: 3, fill: colour }));
  return { plot, known, px, top, foot: height - bottom };
}

function largeKernel(head, offsets, whose) {
  const width = 560, { plot, known, px, top, foot } = kernelPlot(head, offsets, { width, height: 270, axes: true });
  const readline = el("p", { class: "readline", "aria-live": "polite" });
  const bandNote = ([, , low, high]) => high > low ? `halves ${figure(low)} to ${figure(high)}` : null;
  addCursor(plot, readline, { shown: [{ name: "share", points: known.map((point) => [point[0], point[1], bandNote(point)]) }], xName: "offset", format: figure, px, top, foot, width });
  return el("figure", { class: "chart" }, el("h3", null, `Kernel of ${head.name}`, el("small", null, whose)), plot, readline);
}

function errorList(head) {
  return el("table", { class: "list" }, el("thead", null, el("tr", null, el("th", { scope: "col" }, "against real attention"), el("th", { scope: "col", class: "number" }, "median"), el("th", { scope: "col", class: "number" }, "90%"))),
    el("tbody", null, POSITION_ERRORS.filter(([column]) => column in head).map(([column, label]) => el("tr", null, el("td", null, label), el("td", { class: "number" }, figure(head[column])), el("td", { class: "number" }, figure(head[`${column}_p90`]))))));
}

function factorList(title, entries) {
  return el("div", null, el("h3", null, title), entries.length ? el("table", { class: "list" }, el("tbody", null, entries.map(([text, value]) => el("tr", null, el("td", null, tokenNode(text)), el("td", { class: "number" }, figure(value)))))) : el("p", { class: "empty" }, "None."));
}

// Colours that are names, as a scale that a grid takes.
function classGrid(heads, onShow, onChoose) {
  const present = POSITION_CLASSES.filter((name) => heads.some((head) => head.class === name));
  const strip = (share) => classColour(present[Math.min(Math.floor(share * present.length), present.length - 1)]);
  const scale = { of: (value) => classColour(POSITION_CLASSES[value]), share: (share) => { const name = strip(share); return name.startsWith("#") ? css(hexToRgb(name)) : name; }, ends: [0, present.length - 1] };
  const count = (name) => heads.filter((head) => head.class === name).length;
  const grid = headGrid({ title: "Classes", unit: "layers down, heads across", caption: "The first class that holds; none where no bound is met.", scale, format: (value) => POSITION_CLASSES[value] ?? "",
    cells: heads.map((head) => ({ name: head.name, layer: head.layer, head: head.head, value: POSITION_CLASSES.indexOf(head.class) })), onShow, onChoose });
  // Named kinds have no strip from one end to the other.
  grid.node.querySelector(".scale").replaceWith(el("div", { class: "keys" }, present.map((name) => el("span", null, svg("svg", { viewBox: "0 0 12 12", "aria-hidden": "true" }, svg("rect", { width: 12, height: 12, rx: 2, fill: classColour(name) })), `${name} ${whole(count(name))}`))));
  return grid;
}

async function positionsSection(section, runs) {
  const run = runs[section.run], data = await readAll({ kernels: section.kernels, texts: section.texts, ends: section.ends, ln_f: section.ln_f });
  const offsets = section.offsets, each = section.each;
  const ends = (number, end) => Array.from({ length: each }, (_, place) => (number * 2 + end) * each + place).filter((at) => isNumber(data.ln_f[at])).map((at) => [data.texts[data.ends[at]], data.ln_f[at]]);
  const heads = rowsOf(section.table).map((row, number) => {
    const part = (which) => data.kernels.subarray((number * 3 + which) * offsets.length, (number * 3 + which + 1) * offsets.length);
    return { ...row, number, name: `L${row.layer}H${row.head}`, share: part(0), low: part(1), high: part(2) };
  });
  const byName = new Map(heads.map((head) => [head.name, head]));
  const whose = section.destination === null ? "mean query" : ["query ", tokenNode(section.destination)];
  const readout = el("dl", { class: "readout", "aria-live": "polite" }), below = el("div"), small = el("div", { class: "multiples" });
  let chosen = null;
  const show = (name) => {
    const head = byName.get(name ?? chosen);
    const entries = [["width", "width"], ["decay_length", "decay length"], ["previous_share", "to the one before"], ["equal_share", "to equal tokens"], ["bos_share", "real share of BOS"], ["content_share", "content share"], ["reliability", "reliability"], ["tv_position", "error, kernel alone"], ["tv_fixed", "error, one query"], ["tv_uniform", "error, all alike"]];
    readout.replaceChildren(el("div", null, el("dt", null, name && name !== chosen ? "head pointed at" : "chosen head"), el("dd", null, head.name, el("small", null, head.class))),
      ...entries.filter(([column]) => isNumber(head[column])).map(([column, label]) => el("div", null, el("dt", { title: section.table.columns[column].description || null }, label), el("dd", null, figure(head[column])))));
    grid.same(name);
  };
  const draw = () => {
    const head = byName.get(chosen);
    below.replaceChildren(el("div", { class: "figures" }, largeKernel(head, offsets, whose), el("div", null, errorList(head))),
      el("div", { class: "figures" }, factorList("Content favours", ends(head.number, 0)), factorList("Content turns away from", ends(head.number, 1))),
      el("p", { class: "note" }, "ln f, in nats: what a key\u2019s content adds to its score, averaged over where the kernel looks."));
  };
  const choose = (name) => {
    chosen = name;
    grid.choose(name);
    if (select) select.value = name;
    for (const figureNode of small.children) figureNode.classList.toggle("chosen", figureNode.dataset.head === name);
    show(null);
    draw();
  };
  const grid = classGrid(heads, show, choose), id = freshId("head");
  const select = el("select", { id, onchange: () => choose(select.value) }, heads.map((head) => el("option", { value: head.name }, `${head.name} (${head.class})`)));
  const drawSmall = () => small.replaceChildren(...heads.map((head) => el("button", { type: "button", class: head.name === chosen ? "chosen" : null, "data-head": head.name, onclick: () => choose(head.name) },
    el("span", null, el("b", null, head.name), ` ${head.class}`), kernelPlot(head, offsets, { width: 120, height: 46, axes: false }).plot,
    el("small", null, `TV ${figure(head.tv_position, 2)} | ${figure(head.tv_fixed, 2)} | ${figure(head.tv_factorised, 2)}`))));
  const card = el("section", { class: "card" },
    el("h2", null, "Where heads look", subtitle(run, `${heads.length} heads`, whose)),
    el("p", { class: "how" }, el("strong", null, "How to read. "), "A kernel is where a head looks if every key were the average one: its share by how far a key stands behind the query, BOS left out. Errors are total variation (half the summed difference) from the head\u2019s real attention on text that no mean was taken from; a kernel whose error is near that of all keys alike says nothing."),
    el("div", { class: "bar" }, el("div", { class: "field" }, el("label", { for: id }, "Chosen head"), select)),
    el("div", { class: "grids" }, grid.node), readout, below,
    el("h3", null, "All kernels", el("small", null, `offsets 0 to ${whole(offsets[offsets.length - 1])} on a log axis, each to its own highest share; band: the two halves that means are from`)), small,
    el("p", { class: "note" }, "TV: median error of the kernel alone | of kernel and content of one query for all | of those of the own query."),
    numbersBehind("All heads", section.table));
  choose(heads[0].name);
  drawSmall();
  onScheme(() => { drawSmall(); draw(); });
  return card;
}
