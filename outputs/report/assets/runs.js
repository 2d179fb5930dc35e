// Where the figures come from.

// What a card is about: its run by name, so that two cards of one kind can be told apart.
function subtitle(run, what, ...more) {
  const form = run.spec.scores === "bilinear" ? "bilinear" : null;
  return el("small", null, [`${what} of `, el("bdi", null, run.model), ...[form, ...more, run.name].filter(Boolean).map((text) => `, ${text}`)]);
}

// Settings of a map that change what it shows.
function mapSettings(run) {
  const { neighbours, symmetrise, quality, resolution } = run.spec;
  const parts = [isNumber(neighbours) ? `${neighbours} neighbours` : null, symmetrise, quality && isNumber(resolution) ? `${quality} at resolution ${resolution}` : quality];
  return [...parts, run.name].filter(Boolean).join(", ");
}

function runsSection(runs) {
  const settings = (spec) => Object.entries(spec).map(([name, value]) => `${name} ${Array.isArray(value) ? (value.length > 6 ? `${value.length} values` : value.join(", ")) : typeof value === "object" && value !== null ? JSON.stringify(value) : value}`).join("; ");
  return el("section", { class: "card" }, el("h2", null, "Runs"),
    el("p", { class: "how" }, "The Parquet tables of these runs hold every number in full; this page holds what its figures need."),
    el("div", { class: "runs" }, el("table", null,
      el("thead", null, el("tr", null, ["run", "model", "settings", "finished", "code"].map((name) => el("th", { scope: "col" }, name)))),
      el("tbody", null, runs.map((run) => el("tr", null,
        el("td", null, el("code", null, run.name), el("br"), el("small", null, `${whole(run.rows)} rows, ${figure(run.bytes / 1e6)} MB`)),
        el("td", null, el("bdi", null, run.model), el("br"), el("small", null, "weights ", el("code", null, run.weights_sha256.slice(0, 12)))),
        el("td", null, el("bdi", null, settings(run.spec))),
        el("td", null, (run.finished || DASH).replace("T", " ").replace("+00:00", " UTC")),
        el("td", null, run.commit ? el("code", null, run.commit.slice(0, 12)) : run.version || DASH)))))),
    el("p", { class: "note" }, "Colours: kinds after Okabe and Ito, amounts in cividis, signed amounts from blue through neutral to orange; all are told apart with every common kind of colour vision. This page holds its data and loads nothing."));
}
