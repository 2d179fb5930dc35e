// What dictionaries of features say of heads: whose ten features are of one kind, and the ten of the chosen head.

drawings.set("features", featuresSection);

const FEATURE_VIEWS = [["logit", "what they add to logits"], ["source", "what they fire on"], ["encoder", "what they read"]];

function tokenList(texts, places) {
  return el("td", { class: "texts" }, places.length ? places.flatMap((place, number) => [number ? " " : "", tokenNode(texts[place])]) : DASH);
}

function featureTable(head, texts) {
  const heading = (text, more) => el("th", { scope: "col", class: more || null }, text);
  return el("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": `Features of ${head.name}` }, el("table", null,
    el("thead", null, el("tr", null, heading("feature", "number"), heading("share of decoder", "number"), heading("density", "number"), heading("fires on", "texts"), heading("comes from", "texts"), heading("mostly", "texts"), heading("promotes", "texts"), heading("suppresses", "texts"), heading("copies", "number"))),
    el("tbody", null, head.features.map((one) => el("tr", null,
      el("td", { class: "number" }, whole(one.feature)), el("td", { class: "number" }, figure(one.share, 2)), el("td", { class: "number" }, percent(one.density)),
      tokenList(texts, one.fires), tokenList(texts, one.from),
      el("td", { class: "texts" }, one.relation ? [one.relation.name, el("small", null, ` ${percent(one.relation.share)}, by chance ${percent(one.relation.chance)}`)] : DASH),
      tokenList(texts, one.promotes), tokenList(texts, one.suppresses),
      el("td", { class: "number" }, isNumber(one.copies_source) ? percent(one.copies_source) : DASH))))));
}

function viewList(head) {
  return el("table", { class: "list" }, el("thead", null, el("tr", null, el("th", { scope: "col" }, "likeness by"), el("th", { scope: "col", class: "number" }, "mean cosine"), el("th", { scope: "col", class: "number" }, "null, 99%"), el("th", { scope: "col", class: "number" }, "z"))),
    el("tbody", null, FEATURE_VIEWS.map(([view, label]) => el("tr", null, el("td", null, label), el("td", { class: "number" }, figure(head[`${view}_similarity`])), el("td", { class: "number" }, figure(head[`${view}_null_high`])), el("td", { class: "number" }, figure(head[`${view}_z`]))))));
}

async function featuresSection(section, runs) {
  const run = runs[section.run], { texts } = await readAll({ texts: section.texts });
  const heads = rowsOf(section.table).map((row, number) => ({ ...row, name: `L${row.layer}H${row.head}`, features: section.heads[number] }));
  const byName = new Map(heads.map((head) => [head.name, head]));
  const readout = el("dl", { class: "readout", "aria-live": "polite" }), below = el("div");
  let chosen = null;
  const show = (name) => {
    const head = byName.get(name ?? chosen);
    const entries = [["logit_z", "logits, z"], ["source_z", "sources, z"], ["encoder_z", "encoders, z"], ["top10_share", "share of decoder"], ["top10_entropy", "entropy, nats"], ["top10_density", "density"]];
    readout.replaceChildren(el("div", null, el("dt", null, name && name !== chosen ? "head pointed at" : "chosen head"), el("dd", null, head.name, el("small", null, head.monosemantic_candidate ? "candidate" : null))),
      ...entries.filter(([column]) => isNumber(head[column])).map(([column, label]) => el("div", null, el("dt", { title: section.table.columns[column].description || null }, label), el("dd", null, figure(head[column])))));
    grid.same(name);
  };
  const choose = (name) => {
    chosen = name;
    grid.choose(name);
    select.value = name;
    show(null);
    const head = byName.get(name);
    below.replaceChildren(el("h3", null, `Features of ${name}`, el("small", null, "the ten of the largest share in its slice of the decoder")), featureTable(head, texts), el("h3", null, "Are they of one kind?"), viewList(head));
  };
  const grid = headGrid({ title: "Monosemanticity", unit: "views over the null, layers down, heads across", scale: colourScale("amount", 0, 3), format: whole,
    caption: "In how many of three views the head\u2019s ten features are more alike than 99% of random tens of equal density; a candidate passes two.",
    cells: heads.map((head) => ({ name: head.name, layer: head.layer, head: head.head, value: head.views_passed })), onShow: show, onChoose: choose });
  const id = freshId("head"), candidates = heads.filter((head) => head.monosemantic_candidate);
  const select = el("select", { id, onchange: () => choose(select.value) }, heads.map((head) => el("option", { value: head.name }, head.monosemantic_candidate ? `${head.name} (candidate)` : head.name)));
  const card = el("section", { class: "card" },
    el("h2", null, "Features of heads", subtitle(run, `${heads.length} heads`, `${candidates.length} candidates`)),
    el("p", { class: "how" }, el("strong", null, "How to read. "), "A feature belongs to the heads whose slices of its decoder are long. It fires on the tokens of its strongest firings, and comes from those that most of its direct attribution is from. Ten features that are alike make a head a candidate to do one thing; they prove nothing of what it does besides."),
    el("div", { class: "bar" }, el("div", { class: "field" }, el("label", { for: id }, "Chosen head"), select)),
    el("div", { class: "grids" }, grid.node), readout, below,
    numbersBehind("All heads", section.table), numbersBehind("All dictionaries", section.dictionaries));
  choose((candidates[0] || heads[0]).name);
  return card;
}
