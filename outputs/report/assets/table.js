// A section that is a plain table: whatever a job shows that this page has no drawing for.

async function tableSection(section, runs) {
  const run = runs[section.run], columns = Object.entries(section.table.columns);
  const title = section.title || section.kind, all = section.of ?? section.table.rows;
  const { node, fillRows } = tableBox(title, section.table);
  fillRows();
  return el("section", { class: "card" },
    el("h2", null, title, subtitle(run, section.head || `${whole(all)} rows`)),
    section.how ? el("p", { class: "how" }, el("strong", null, "How to read. "), section.how) : null,
    node, cutNote(section.table.rows, all),
    el("dl", { class: "columns" }, columns.filter(([, column]) => column.description).map(([name, column]) =>
      el("div", null, el("dt", null, el("code", null, name)), el("dd", null, column.description, column.unit ? ` (${column.unit})` : null)))));
}
