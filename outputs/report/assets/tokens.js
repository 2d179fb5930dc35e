// A head's tokens: search, the map where there is one, and the chosen token's neighbours.

drawings.set("tokens", tokensSection);

async function tokensSection(section, runs) {
  const data = await readAll(section), run = runs[section.run];
  const mapRun = data.map ? runs.find((one) => one.name === data.map.run) : null;
  data.readers = new Readers(data.key_ids, data.size, data.kept);
  data.isSpecial = new Set(data.special);
  data.unit = run.spec.scores === "bilinear" ? "" : "nats";
  const map = data.map ? await preparedMap(data.map, data.texts) : null;
  const panel = el("div", { class: "panel", tabindex: 0, role: "region", "aria-label": "The chosen token" },
    el("p", { class: "empty" }, map ? "Search a token or click one on the map." : "Search a token to see its neighbours."));
  const swatch = (token) => {
    const point = map ? map.pointOf(token) : null;
    if (point === null) return null;
    const dot = el("i", { class: "swatch", "aria-hidden": "true" });
    dot.style.background = map.kindColour(point);
    return dot;
  };
  const said = el("p", { class: "visually-hidden", "aria-live": "polite" });
  let view = null;
  function choose(token, { reveal = true, approach = false } = {}) {
    const focused = panel.contains(document.activeElement);
    panel.replaceChildren(...tokenPanel(data, token, { map, onPick: choose, swatch }));
    panel.scrollTop = 0;
    // The button that had the focus is gone; who moves by keyboard goes on from the panel.
    if (focused) panel.focus({ preventScroll: true });
    panel.dataset.token = token;
    said.textContent = `${tokenLabel(data.texts[token])}, own rank ${whole(data.self_rank[token])}`;
    if (!view) return;
    const linked = new Set(Array.from(data.key_ids.subarray(token * data.kept, (token + 1) * data.kept)).map(map.pointOf));
    linked.delete(null);
    linked.delete(map.pointOf(token));
    view.select(map.pointOf(token), [...linked], { reveal, approach });
  }
  const search = searchBox(data.texts, { onPick: (token) => choose(token, { approach: true }), name: `Search the tokens of ${data.head}` });
  const bar = el("div", { class: "bar" }, search);
  let left = null;
  if (map) {
    view = new TokenMap(map, {
      label: (point) => tokenLabel(data.texts[map.token_ids[point]]),
      describe: (point) => [tokenNode(data.texts[map.token_ids[point]]), el("small", null, `own rank ${whole(data.self_rank[map.token_ids[point]])}${map.isAlone(point) ? "" : `, community ${map.community[point]}`}`)],
      onPick: (point) => choose(map.token_ids[point]),
    });
    const legend = el("div", { class: "legend", "aria-live": "polite" });
    bar.append(colourChoice(data, map, view, legend));
    left = el("div", null, view.node, legend, el("p", { class: "hint" }, "Drag to pan; the wheel zooms once the map is clicked (or with ", el("kbd", null, "Ctrl"), "). Keys: arrows, ", el("kbd", null, "+"), " ", el("kbd", null, MINUS), " ", el("kbd", null, "0"), ", ", el("kbd", null, "Enter"), " takes the token at the cross, ", el("kbd", null, "Shift"), "+arrow goes to the next token."));
  }
  const card = el("section", { class: "card" },
    el("h2", null, map ? "Map of the vocabulary" : "Tokens", subtitle(run, data.head, mapRun ? `map: ${mapSettings(mapRun)}` : null)),
    el("p", { class: "how" }, ...howToRead(data, map)),
    tiles(summaryOf(data, map)), bar,
    el("div", { class: map ? "explorer" : "explorer mapless" }, left, panel), said,
    el("p", { class: "note" }, el("strong", null, "Exact: "), `scores (pre-softmax${data.unit ? ", in nats" : ", bilinear form"}), their order and the own rank, over all ${whole(data.size)} keys. `,
      el("strong", null, "Cut: "), `the run keeps the best ${data.stored} keys of each token, this page the best ${data.kept}; \u201cattended by\u201d is counted within those. `,
      map ? [el("strong", null, "Approximate: "), "places on the map: communities near each other are linked, but distances have no unit and far apart proves nothing; within a community the tokens with the most edges stand in the middle, and nothing else is meant. Communities depend on the resolution and the seed; stability says which memberships are solid. "] : null,
      el("strong", null, "Token states: "), `\u201c${run.spec.states}\u201d, each token on its own without the text around it. A middle dot is a space; \\x.. and \\u.. stand for bytes and characters that cannot be shown.`));
  if (isNumber(data.start)) choose(data.start, { reveal: false });
  card.dataset.which = mapRun ? mapRun.name : run.name;
  return card;
}

function howToRead(data, map) {
  const reading = [el("strong", null, "How to read. "), "Choose a token: the panel lists the keys it attends to most, the tokens that attend to it, and the place of the token itself among its keys. "];
  if (map) reading.push("On the map a point is a token, and a colour a community: tokens that attend to each other, named after the best linked ones. Colours recur.");
  else reading.push(`The map appears when a communities run of this run is part of the report: submit communities.`);
  return reading;
}

function summaryOf(data, map) {
  const ranks = Array.from(data.self_rank).sort((a, b) => a - b), count = ranks.length;
  const share = (limit) => ranks.filter((rank) => rank <= limit).length / count;
  const median = count % 2 ? ranks[(count - 1) / 2] : (ranks[count / 2 - 1] + ranks[count / 2]) / 2;
  const entries = [
    ["tokens", whole(count)],
    ["median own rank", whole(median), `of ${whole(count)}`],
    ["their own best key", percent(share(1)), "of tokens"],
    ["among their own best 10", percent(share(10)), "of tokens"],
  ];
  if (map) {
    const grouped = Array.from(map.sizes).filter((size) => size > 1);
    entries.push(["communities", whole(grouped.length), "of two or more"], ["alone", whole(map.sizes.length - grouped.length), map.sizes.length - grouped.length === 1 ? "token" : "tokens"]);
    if (map.agreement && isNumber(map.agreement.ari)) entries.push(["agreement of restarts", figure(map.agreement.ari), `ARI, ${map.agreement.restarts} restarts`]);
  }
  return entries;
}

async function preparedMap(reference, texts) {
  const map = await readAll(reference);
  map.y = map.y.map((value) => -value);
  map.names = map.names.map((name) => ({ x: name.x, y: -name.y, texts: name.tokens.map((token) => isolated(tokenLabel(texts[token].trim() || texts[token]))) }));
  const pointAt = new Int32Array(texts.length).fill(map.token_ids.length);
  map.token_ids.forEach((token, point) => { pointAt[token] = point; });
  map.pointOf = (token) => pointAt[token] < map.token_ids.length ? pointAt[token] : null;
  map.isAlone = (point) => map.sizes[map.community[point]] < 2;
  const kind = (point) => map.colours[map.community[point]];
  map.kindColour = (point) => kind(point) ? KIND_COLOURS[kind(point) - 1] : variable("--grey");
  map.kind = kind;
  return map;
}

// What the map's colours mean: a list to choose from, and its legend.
function colourChoice(data, map, view, legend) {
  const points = Array.from(map.token_ids.keys()), steps = 24;
  const byAmount = (valueOf, scale, format, unit) => () => {
    const [low, high] = scale.ends, place = scale.logarithmic ? Math.log : (value) => value;
    const from = place(low), span = place(high) - from || 1;
    const bucketOf = Uint8Array.from(points, (point) => isNumber(valueOf(point)) ? 1 + clamp(Math.floor((place(valueOf(point)) - from) / span * steps), 0, steps - 1) : 0);
    view.colourBy(new Buckets(bucketOf, map.x, map.y, steps + 1), () => [variable("--grey"), ...Array.from({ length: steps }, (_, step) => scale.share((step + .5) / steps))]);
    legend.replaceChildren(scaleLegend(scale, format, unit));
  };
  const choices = {
    community: ["community", () => {
      const bucketOf = Uint8Array.from(points, map.kind);
      view.colourBy(new Buckets(bucketOf, map.x, map.y, KIND_COLOURS.length + 1), () => [variable("--grey"), ...KIND_COLOURS]);
      const dot = (colour) => { const node = el("i", { class: "swatch" }); node.style.background = colour; return node; };
      legend.replaceChildren(el("span", { class: "keys" }, KIND_COLOURS.map(dot), " communities (colours recur)"), el("span", { class: "keys" }, dot("var(--grey)"), " alone"), el("span", { class: "keys" }, "ring and lines: the chosen token and its attended keys"));
    }],
    rank: ["own rank (log scale)", byAmount((point) => data.self_rank[map.token_ids[point]], Object.assign(colourScale("amount", 1, data.size), { logarithmic: true }), whole, "place of the token among its own keys; 1 = its best")],
  };
  if (map.stability && extent(map.stability)) choices.stability = ["stability", byAmount((point) => map.stability[point], colourScale("amount", 0, 1), (value) => value.toFixed(1), "1 = the same community in every restart; grey = unknown")];
  const id = freshId("colour");
  const select = el("select", { id, onchange: () => choices[select.value][1]() }, Object.entries(choices).map(([value, [name]]) => el("option", { value }, name)));
  choices.community[1]();
  return el("div", { class: "field" }, el("label", { for: id }, "Colour by"), select);
}
