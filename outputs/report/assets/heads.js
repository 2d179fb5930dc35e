// All heads of a scan: one grid a measure, the numbers of the head pointed at, and the spectrum of the chosen one.

const GRIDS = [
  { column: "semantic_category_score_mean", title: "Semantic Category Score", unit: "nats, log colour scale", kind: "amount", logarithmic: true, format: (value) => figure(value),
    caption: "Lower (dark) = on prompts of category words the head attends to earlier words of the query\u2019s category. Measured with the head\u2019s real attention pattern." },
  { column: "suppression_index_mean", title: "Suppression index", unit: "standard deviations", kind: "signed", format: (value) => figure(value),
    caption: "Above 0 (orange) = the head prefers a token\u2019s look-alikes to the token itself; below 0 (blue) = the token itself. Mean over the vocabulary." },
  { column: "self_rank_mean", title: "Own rank", unit: "mean over tokens", kind: "amount", format: whole,
    caption: "Place of a token among its own keys. High (yellow) = tokens stand far down their own list, whether or not the head is semantic." },
];

const READOUT = [
  ["semantic_category_score_mean", "semantic score", figure, (row) => isNumber(row.semantic_category_score_std) ? `\u00b1 ${figure(row.semantic_category_score_std, 2)}` : ""],
  ["suppression_index_mean", "suppression index", figure, (row) => isNumber(row.suppression_index_low) ? `${figure(row.suppression_index_low)} to ${figure(row.suppression_index_high)}` : ""],
  ["self_rank_mean", "mean own rank", whole, (row) => isNumber(row.self_rank_median) ? `median ${whole(row.self_rank_median)}` : ""],
  ["kin_z_mean", "kin z", figure],
  ["self_z_mean", "self z", figure],
  ["self_top10_share", "among own best 10", percent],
  ["negative_self_energy_null_z", "negative energy z", figure],
  ["fidelity", "fidelity of states", figure],
  ["previous_token_score", "to the token before", percent],
  ["duplicate_token_score", "to the same token earlier", percent],
  ["induction_score", "to the token after that", percent],
  ["bos_share", "to BOS", percent],
];

drawings.set("heads", headsSection);

async function headsSection(section, runs) {
  const run = runs[section.run], rows = rowsOf(section.table).map((row) => ({ ...row, name: `L${row.layer}H${row.head}` }));
  const byName = new Map(rows.map((row) => [row.name, row]));
  const spectrum = section.spectrum ? await readAll(section.spectrum) : null;
  const readout = el("dl", { class: "readout", "aria-live": "polite" }), below = el("div"), grids = [];
  let chosen = null;
  const show = (name) => {
    const row = byName.get(name ?? chosen);
    readout.replaceChildren(el("div", null, el("dt", null, name && name !== chosen ? "head pointed at" : "chosen head"), el("dd", null, row.name, row.label ? el("small", null, row.label.replaceAll("_", " ")) : null)),
      ...READOUT.filter(([column]) => column in row && isNumber(row[column])).map(([column, label, format, more]) =>
        el("div", null, el("dt", { title: section.table.columns[column].description || null }, label), el("dd", null, format(row[column]), more && more(row) ? el("small", null, more(row)) : null))));
    for (const grid of grids) grid.same(name);
  };
  const choose = (name) => {
    chosen = name;
    for (const grid of grids) grid.choose(name);
    if (select) select.value = name;
    show(null);
    if (spectrum) drawSpectrum(below, byName.get(name), spectrum);
  };
  for (const grid of GRIDS) {
    const values = extent(rows.map((row) => row[grid.column]));
    if (!values) continue;
    grids.push(headGrid({ ...grid, scale: scaleOf(grid, values), onShow: show, onChoose: choose, cells: rows.map((row) => ({ name: row.name, layer: row.layer, head: row.head, value: row[grid.column] })) }));
  }
  const id = freshId("head");
  const select = el("select", { id, onchange: () => choose(select.value) }, rows.map((row) => el("option", { value: row.name }, row.label ? `${row.name} (${row.label.replaceAll("_", " ")})` : row.name)));
  const missing = GRIDS.filter((grid) => !extent(rows.map((row) => row[grid.column]))).map((grid) => grid.title);
  const card = el("section", { class: "card" },
    el("h2", null, "Heads", subtitle(run, `${rows.length} heads`, "layers down, heads across")),
    el("p", { class: "how" }, el("strong", null, "How to read. "), `A head that suppresses itself semantically is ${missing.length && missing[0] === GRIDS[0].title ? "" : "dark in the semantic score and "}orange in the suppression index. `, "Point at a cell, or move with the arrow keys, for its numbers; click or press Enter to choose a head."),
    el("div", { class: "bar" }, el("div", { class: "field" }, el("label", { for: id }, "Chosen head"), select)),
    el("div", { class: "grids" }, grids.map((grid) => grid.node)), readout,
    missing.length ? el("p", { class: "note" }, `Not in this run: ${missing.join(", ")}.`) : null,
    spectrum ? below : null, labelled(rows, choose),
    numbersBehind("All numbers of all heads", section.table),
    el("p", { class: "note" }, el("strong", null, "Exact: "), "ranks and scores, given each head\u2019s float32 queries and keys; eigenvalues from the 2H \u00d7 2H problem. ", el("strong", null, "Approximate by definition: "), `token states \u201c${run.spec.states}\u201d leave out context, a rough picture at deep layers. `, el("strong", null, "Sampled: "), "the interval of the suppression index (bootstrap over tokens), the random heads of the null, and what is measured on prompts: semantic score, fidelity, attention to single places."));
  choose(startHead(rows));
  return card;
}

// A few heads far off would leave all others one colour; a logarithm keeps them apart, down to a thousandth of the largest.
function scaleOf(grid, [low, high]) {
  const logarithmic = Boolean(grid.logarithmic) && high > 0;
  return colourScale(grid.kind, logarithmic ? Math.max(low, high / 1000) : low, high, { logarithmic });
}

// The head that a reader looks for first: the most suppressing one among those that prefer kin.
function startHead(rows) {
  const fit = rows.filter((row) => isNumber(row.suppression_index_mean) && !(row.kin_z_mean <= 0));
  return (fit.length ? fit : rows).reduce((best, row) => (row.suppression_index_mean ?? -Infinity) > (best.suppression_index_mean ?? -Infinity) ? row : best).name;
}

function labelled(rows, choose) {
  const found = rows.filter((row) => row.label && !["none", "other", "unlabelled"].includes(row.label));
  if (!found.length || found.length > rows.length / 2) return null;
  return el("p", { class: "note" }, "Labelled heads: ", found.flatMap((row, place) => [place ? ", " : "", el("button", { type: "button", onclick: () => choose(row.name) }, el("strong", null, row.name)), ` ${row.label.replaceAll("_", " ")}`]), ".");
}

function drawSpectrum(below, row, spectrum) {
  const place = spectrum.layer.findIndex((layer, one) => layer === row.layer && spectrum.head[one] === row.head);
  if (place < 0) { below.replaceChildren(el("p", { class: "empty" }, `This run has no spectrum of ${row.name}.`)); return; }
  const values = Array.from(spectrum.eigenvalue.subarray(spectrum.start[place], spectrum.start[place + 1]));
  const draw = () => below.replaceChildren(el("div", { class: "two" }, el("div", null, spectrumChart(values, row.name), el("p", { class: "note" }, `W_sym is the symmetric part of ${row.name}\u2019s W\u2032 = W_Q W_K\u1d40 with LayerNorm weights, of rank 2H. About half of any head\u2019s eigenvalues are negative, so their number proves nothing; what does is how much of the tokens lies on them, at the right. Norms: symmetric ${figure(row.sym_norm)}, skew ${figure(row.skew_norm)}.`)), nullChart(row)));
  draw();
  if (!below.dataset.listens) { below.dataset.listens = "1"; onScheme(() => below.redraw()); }
  below.redraw = draw;
}
