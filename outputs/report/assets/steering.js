// Dose and response: one row of charts a method, one chart a measure.

const RESPONSES = [
  ["self_rank_mean", "Own rank", "mean over tokens", {}],
  ["self_top10_share", "Own best 10", "share of tokens among them", { yZero: true, format: percent }],
  ["kin_z_mean", "Kin z", "standard deviations of the row", {}],
  ["overlap_at_k", "Overlap with unsteered", "share of the k best keys", { yRange: [0, 1.03] }],
  ["spearman", "Rank correlation with unsteered", "Spearman, sampled rows", {}],
  ["category_precision_at_k", "Category precision", "share of the k best keys", { yRange: [0, 1.03] }],
];

const IN_MODEL = [
  ["category_mass", "Attention on the category", "share of the query\u2019s attention", { yZero: true, format: percent }],
  ["identical_mass", "Attention on the same token", "share of the query\u2019s attention", { yZero: true, format: percent }],
  ["bos_mass", "Attention on BOS", "share of the query\u2019s attention", { yZero: true, format: percent }],
  ["loss_delta", "Change of the next-token loss", "nats", {}],
];

const METHODS = [
  { title: "Negative eigenvalues", methods: ["eigen", "control"], x: "alpha", neutral: 1, xName: "alpha", seriesBy: "method",
    names: { eigen: "negative eigenvalues \u00d7 alpha", control: "same dose on random eigenvalues" },
    how: "alpha = 1 is the head as it is; at 0 its negative eigenvalues are gone, below 0 they are turned round. The control changes randomly chosen eigenvalues by the same total amount: what both lines do is damage, what only the first does is the cause. A band spans the control\u2019s draws." },
  { title: "Largest singular values", methods: ["singular"], x: "scale", neutral: 1, xName: "factor on them", seriesBy: "rank", names: {}, seriesName: (value) => `${value} largest`, how: "The largest singular values of W\u2032 times a factor; 1 is the head as it is." },
  { title: "Gradient", methods: ["gradient"], x: "step", neutral: 0, xName: "step relative to the weights", seriesBy: "method", names: { gradient: "gradient of the self score" }, how: "W_Q and W_K moved along the gradient of the bilinear self score; 0 is the head as it is." },
];

drawings.set("steering", steeringSection);

async function steeringSection(section, runs) {
  const run = runs[section.run], rows = rowsOf(section.table);
  const blocks = METHODS.map((method) => methodBlock(method, rows, RESPONSES)).filter(Boolean);
  const others = [...new Set(rows.map((row) => row.method))].filter((name) => name !== "unsteered" && !METHODS.some((one) => one.methods.includes(name)));
  return el("section", { class: "card" },
    el("h2", null, "Steering", subtitle(run, section.head || "Doses")),
    el("p", { class: "how" }, el("strong", null, "How to read. "), "Each chart is one measure over the whole vocabulary; along the horizontal axis the head is changed more and more. Points are measured, lines only join them."),
    blocks.length ? blocks : el("p", { class: "empty" }, "This run has no dose that a chart can show; the numbers are below."),
    others.length ? el("p", { class: "note" }, `Methods without a chart: ${others.join(", ")}.`) : null,
    section.in_model ? inModelBlock(section.in_model) : null,
    section.heatmap ? await heatmapBlock(section.heatmap) : null,
    numbersBehind("All numbers of every dose", section.table),
    el("p", { class: "note" }, el("strong", null, "Exact: "), "ranks, shares and overlap over all tokens. ", el("strong", null, "Sampled: "), "the rank correlation, over the rows named in the run\u2019s samples; category precision, over tokens whose category is known."));
}

function inModelBlock(table) {
  const blocks = METHODS.map((method) => methodBlock({ ...method, title: `In the model: ${method.title.toLowerCase()}`, how: "The steered scores written into the head while the model reads prompts of category words." }, rowsOf(table), IN_MODEL)).filter(Boolean);
  return blocks.length ? el("div", null, blocks, numbersBehind("All numbers in the model", table)) : null;
}

function methodBlock({ title, methods, x, neutral, xName, seriesBy, names, seriesName, how }, rows, responses) {
  const given = rows.filter((row) => methods.includes(row.method) && isNumber(row[x]));
  if (!given.length) return null;
  const keys = [...new Set(given.map((row) => row[seriesBy]))];
  // The unsteered head belongs to every line, at the dose that changes nothing.
  const base = rows.find((row) => row.method === "unsteered");
  const lacking = keys.filter((key) => base && !given.some((row) => row[seriesBy] === key && row[x] === neutral));
  const own = [...given, ...lacking.map((key) => ({ ...base, [x]: neutral, [seriesBy]: key }))];
  if (seriesBy === "method") keys.sort((a, b) => methods.indexOf(a) - methods.indexOf(b)); else keys.sort((a, b) => a - b);
  const label = (key) => names[key] ?? (seriesName ? seriesName(key) : String(key));
  const charts = responses.filter(([column]) => own.some((row) => isNumber(row[column]))).map(([column, name, unit, options]) => {
    const series = keys.map((key, kind) => ({ name: keys.length > 1 ? label(key) : "", kind, ...averaged(own.filter((row) => row[seriesBy] === key), x, column) }));
    return lineChart({ title: name, unit, xName, series, ...options });
  });
  return el("div", null, el("h3", { class: "method" }, title), el("p", { class: "note" }, how), keysOf(keys.map(label)), el("div", { class: "figures" }, charts));
}

// Rows of one dose are averaged (draws of a control, restarts); their range is the band.
function averaged(rows, x, column) {
  const byDose = new Map();
  for (const row of rows) if (isNumber(row[column])) byDose.set(row[x], [...(byDose.get(row[x]) || []), row[column]]);
  const doses = [...byDose].sort((a, b) => a[0] - b[0]);
  const many = doses.some(([, values]) => values.length > 1);
  return {
    points: doses.map(([dose, values]) => [dose, values.reduce((sum, value) => sum + value, 0) / values.length, values.length > 1 ? `mean of ${values.length}` : null]),
    band: many ? doses.map(([dose, values]) => [dose, ...extent(values)]) : null,
  };
}

// Scores between the words of a group, one small picture a condition, all on one scale.
async function heatmapBlock(heatmap) {
  const { conditions, words, scores } = await readAll(heatmap), names = words.map(tokenLabel), count = words.length;
  const limit = Math.max(...(extent(scores) || [1]).map(Math.abs)), scale = colourScale("signed", -limit, limit);
  const readline = el("p", { class: "chart readline", "aria-live": "polite" });
  const labels = count <= 24, cell = clamp(Math.floor(250 / count), labels ? 13 : 4, 18);
  const blocks = conditions.map((condition, place) => {
    const values = words.map((_, query) => scores.subarray((place * count + query) * count, (place * count + query + 1) * count));
    return matrixView({ title: condition, rowNames: names, columnNames: names, values, scale, cell, labels, readline,
      describe: (row, column, value) => `${condition}: ${isolated(row)} to ${isolated(column)} ${figure(value)} nats` });
  });
  return el("div", null, el("h3", { class: "method" }, "Words of a group", el("small", null, "query words down, key words across")),
    el("p", { class: "note" }, "Point at a cell, or move with the arrow keys in a picture, to read its two words and their score."),
    el("div", { class: "pictures" }, blocks), readline, scaleLegend(scale, figure, "nats"));
}
