// Published figures beside what this model shows, one row each.

const VERDICT_MARKS = { "reproduced": "\u2713", "differs": "\u2717", "not comparable": DASH };

drawings.set("reproduction", reproductionSection);

async function reproductionSection(section, runs) {
  const run = runs[section.run], rows = rowsOf(section.table);
  const counts = Object.keys(VERDICT_MARKS).map((verdict) => [verdict, whole(rows.filter((row) => row.verdict === verdict).length)]);
  const names = ["verdict", "figure", "as", "published", "measured", "tolerance", "what, why, note"];
  const body = rows.map((row) => el("tr", { class: `verdict-${row.verdict.replace(" ", "-")}` },
    el("td", null, `${VERDICT_MARKS[row.verdict] || ""}\u00a0${row.verdict}`), el("th", { scope: "row" }, row.figure), el("td", null, row.variant.replace(/^as /, "")),
    el("td", null, row.published_text), el("td", null, row.measured_text || DASH), el("td", null, row.tolerance),
    el("td", null, row.what, el("small", null, ` ${row.why}.`, row.note ? ` ${row.note}.` : null, ` Source: ${row.source}.`))));
  return el("section", { class: "card" },
    el("h2", null, "Published figures", subtitle(run, "L1H5")),
    el("p", { class: "how" }, el("strong", null, "How to read. "), "One row a published figure of GPT-2 small\u2019s L1H5, by this project\u2019s definitions (defined) and with the authors\u2019 slips and forms (published). A figure is reproduced if the measured number lies within the tolerance. Where this model is not GPT-2 small, many are not comparable, and none must be reproduced."),
    tiles(counts),
    el("div", { class: "scroll reproduction", tabindex: 0, role: "region", "aria-label": "Published figures" },
      el("table", null, el("thead", null, el("tr", null, names.map((name) => el("th", { scope: "col" }, name)))), el("tbody", null, body))),
    numbersBehind("All columns", section.table));
}
