// What neurons of the first MLP read in a bag of tokens: the chosen one's tokens up and down, its latents, its fit.

drawings.set("neurons", neuronsSection);

const NEURON_FITS = [["group", "heads of the group"], ["common", "the same with common medians"], ["pre", "with the token itself"]];

function neuronEnd(title, texts, ids, values, latents) {
  const named = latents.some((latent) => latent >= 0);
  return el("div", null, el("h3", null, title), el("table", { class: "list" },
    el("thead", null, el("tr", null, el("th", { scope: "col" }, "token"), el("th", { scope: "col", class: "number" }, "contribution"), named ? el("th", { scope: "col", class: "number" }, "latent") : null)),
    el("tbody", null, ids.map((id, at) => el("tr", null, el("td", null, tokenNode(texts[id])), el("td", { class: "number" }, figure(values[at])),
      named ? el("td", { class: "number" }, latents[at] < 0 ? DASH : whole(latents[at])) : null)))));
}

function neuronFit(row) {
  const cell = (value) => el("td", { class: "number" }, figure(value));
  return el("table", { class: "list" },
    el("thead", null, el("tr", null, ["predicted from", "r", "unexplained", "r, shuffled text", "unexplained, shuffled"].map((name, at) => el("th", { scope: "col", class: at ? "number" : null }, name)))),
    el("tbody", null,
      NEURON_FITS.map(([name, label]) => el("tr", null, el("td", null, label), cell(row[`r_${name}`]), cell(row[`fvu_${name}`]), cell(row[`r_${name}_shuffled`]), cell(row[`fvu_${name}_shuffled`]))),
      el("tr", null, el("td", null, "random groups of as many heads"), cell(row.r_group_null), cell(row.fvu_group_null), el("td"), el("td"))));
}

async function neuronsSection(section, runs) {
  const run = runs[section.run], { texts, ends, values, latents } = await readAll({ texts: section.texts, ends: section.ends, values: section.values, latents: section.latents });
  const rows = rowsOf(section.table), each = section.each, below = el("div"), id = freshId("neuron");
  const shown = new Map(rows.map((row, at) => [row.neuron, at]));
  const part = (all, at, end) => Array.from(all.slice((2 * at + end) * each, (2 * at + end + 1) * each));
  const end = (title, at, which) => neuronEnd(title, texts, part(ends, at, which), part(values, at, which), part(latents, at, which));
  const choose = (neuron) => {
    const at = shown.get(neuron), row = rows[at], opposite = row.opposite_id;
    select.value = neuron;
    const entries = [["contextuality", "variance between texts"], ["contextuality_shuffled", "the same, shuffled"], ["agreement", "agreement of signs"], ["naive_bayes_r", "r with the log ratio"], ["n_latents", "latents"], ["n_latents_null", "latents, random tokens"], ["latent_stability", "their stability"]];
    below.replaceChildren(
      el("dl", { class: "readout" }, entries.filter(([column]) => isNumber(row[column])).map(([column, label]) => el("div", null, el("dt", { title: section.table.columns[column].description || null }, label), el("dd", null, figure(row[column]))))),
      el("div", { class: "grids" }, end("Highest contributions", at, 0), end("Lowest contributions", at, 1)),
      el("h3", null, "How far the bag predicts it on held-out text"), neuronFit(row),
      isNumber(opposite) ? el("p", { class: "note" }, `Its output is most opposite to that of neuron ${whole(opposite)} (cosine ${figure(row.opposite_cosine)}). `,
        shown.has(opposite) ? el("button", { type: "button", onclick: () => choose(opposite) }, `Show neuron ${whole(opposite)}`) : null) : "");
  };
  const select = el("select", { id, onchange: () => choose(Number(select.value)) }, rows.map((row) => el("option", { value: row.neuron }, `${whole(row.neuron)}${isNumber(row.n_latents) ? ` (${whole(row.n_latents)} latents)` : ""}`)));
  const card = el("section", { class: "card" },
    el("h2", null, "Neurons of the first MLP", subtitle(run, `${whole(rows.length)} of ${whole(section.of)} neurons`, `group ${section.group.join(", ")}`)),
    el("p", { class: "how" }, el("strong", null, "How to read. "), "A contribution is what a token anywhere in the text adds to the neuron\u2019s pre-activation through the group of heads, taken for a bag of tokens. r and the unexplained share of variance say how good that picture is on text that it was not made from; random groups and shuffled text are its nulls. Neurons with the largest share of variance between texts come first."),
    el("div", { class: "bar" }, el("div", { class: "field" }, el("label", { for: id }, "Chosen neuron"), select)),
    below, numbersBehind("All shown neurons", section.table));
  choose(rows[0].neuron);
  return card;
}
