// Score less self score, by how alike two tokens are.

const firstOf = (columns, names) => names.find((name) => name in columns);

async function similaritySection(section, runs) {
  const run = runs[section.run], columns = section.table.columns, rows = rowsOf(section.table);
  const low = firstOf(columns, ["cosine_low", "bin_low", "low", "cosine_from", "left"]), high = firstOf(columns, ["cosine_high", "bin_high", "high", "cosine_to", "right"]);
  const card = el("section", { class: "card" },
    el("h2", null, "Similarity curve", el("small", null, `${section.head || ""} of ${run.model}`)),
    el("p", { class: "how" }, el("strong", null, "How to read. "), "Horizontally: cosine similarity of the normalised states of two tokens. Vertically: how much the head prefers that key to the query token itself, score less self score. Above 0, the other token wins; a head that prefers alike but not same rises towards the right."));
  if (!low || !high) { card.append(el("p", { class: "empty" }, "The table has no bin edges that this page knows; its numbers are below."), numbersBehind("All bins", section.table)); return card; }
  const filled = rows.filter((row) => row.count > 0 && isNumber(row[low]) && isNumber(row[high]));
  const middle = (row) => (row[low] + row[high]) / 2;
  const range = extent(filled.flatMap((row) => [row[low], row[high]])) || [-1, 1];
  const pairs = filled.reduce((sum, row) => sum + row.count, 0);
  card.append(el("div", { class: "figures" },
    lineChart({ title: "Score less self score", unit: "nats", xName: "cosine similarity", xRange: range, rule: 0, width: 560, height: 270,
      series: [{ name: "mean", kind: 0, points: filled.map((row) => [middle(row), row.mean, isNumber(row.p25) ? `quartiles ${figure(row.p25)} to ${figure(row.p75)}` : null]), band: isNumber(filled[0]?.p25) ? filled.map((row) => [middle(row), row.p25, row.p75]) : null }] }),
    lineChart({ title: "Pairs in each bin", unit: `log scale, ${whole(pairs)} in all`, xName: "cosine similarity", xRange: range, yLog: true, width: 560, height: 270, format: whole, series: [{ name: "", kind: 2, points: filled.map((row) => [middle(row), row.count]) }] })),
    numbersBehind("All bins", section.table),
    el("p", { class: "note" }, "Line: mean of a bin; band: its quartiles. Bins with few pairs (right chart) are rough. ", el("strong", null, "Exact: "), "count, mean and standard deviation over all pairs of the run. ", el("strong", null, "Approximate: "), "quartiles, within the resolution that the run states."));
  return card;
}
