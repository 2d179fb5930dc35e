// Score less self score, by how alike two tokens are.

function noteOf(row) {
  const notes = [];
  if (isNumber(row.p25)) notes.push(`quartiles ${figure(row.p25)} to ${figure(row.p75)}`);
  if (row.self_pairs) notes.push(`${whole(row.self_pairs)} of ${whole(row.count)} pairs are a token with itself`);
  return notes.length ? notes.join("; ") : null;
}

drawings.set("similarity", similaritySection);

async function similaritySection(section, runs) {
  const run = runs[section.run], rows = rowsOf(section.table);
  const card = el("section", { class: "card" },
    el("h2", null, "Similarity curve", subtitle(run, section.head || "Pairs")),
    el("p", { class: "how" }, el("strong", null, "How to read. "), "Horizontally: cosine similarity of the normalised states of two tokens. Vertically: how much the head prefers that key to the query token itself, score less self score. Above 0, the other token wins; a head that prefers alike but not same rises towards the right."));
  const filled = rows.filter((row) => row.count > 0 && isNumber(row.cosine_low) && isNumber(row.cosine_high));
  const gap = 1.5 * Math.min(...filled.map((row) => row.cosine_high - row.cosine_low), Infinity);
  const middle = (row) => (row.cosine_low + row.cosine_high) / 2;
  const range = extent(filled.flatMap((row) => [row.cosine_low, row.cosine_high])) || [-1, 1];
  const pairs = filled.reduce((sum, row) => sum + row.count, 0);
  const selves = filled.reduce((sum, row) => sum + (row.self_pairs || 0), 0), error = Math.max(...filled.map((row) => row.quartile_error).filter(isNumber), -1);
  card.append(el("div", { class: "figures" },
    lineChart({ title: "Score less self score", unit: "nats", xName: "cosine similarity", xRange: range, rule: 0, gap, width: 560, height: 270,
      series: [{ name: "mean", kind: 0, points: filled.map((row) => [middle(row), row.mean, noteOf(row)]), band: isNumber(filled[0]?.p25) ? filled.map((row) => [middle(row), row.p25, row.p75]) : null }] }),
    lineChart({ title: "Pairs in each bin", unit: `log scale, ${whole(pairs)} in all`, xName: "cosine similarity", xRange: range, yLog: true, gap, width: 560, height: 270, format: whole, series: [{ name: "", kind: 2, points: filled.map((row) => [middle(row), row.count]) }] })),
    numbersBehind("All bins", section.table),
    el("p", { class: "note" }, "Line: mean of a bin; band: its quartiles; no line where bins are empty. Bins with few pairs (right chart) are rough. ", selves ? `The ${whole(selves)} pairs of a token with itself, whose difference is 0, are in the last bin. ` : null, el("strong", null, "Exact: "), "count, mean and standard deviation over all pairs of the run. ", el("strong", null, "Approximate: "), error >= 0 ? `quartiles, to within ${figure(error)} nats.` : "quartiles, within the resolution of the run."));
  return card;
}
