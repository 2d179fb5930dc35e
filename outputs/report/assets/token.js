// One token's panel: what it attends to, who attends to it, and where it stands among its own keys.

const SHOWN_READERS = 50;

// Who attends to whom, turned round: for each key the queries that have it among their kept keys, and at which place.
class Readers {
  constructor(keyIds, size, kept) {
    this.kept = kept;
    this.starts = new Uint32Array(size + 1);
    for (const key of keyIds) this.starts[key + 1]++;
    for (let key = 0; key < size; key++) this.starts[key + 1] += this.starts[key];
    const next = this.starts.slice();
    this.places = new Uint32Array(keyIds.length);
    for (let place = 0; place < keyIds.length; place++) this.places[next[keyIds[place]]++] = place;
  }

  // Other tokens that keep `key`, best score first; equal scores by lower id.
  of(key, scores) {
    const found = [];
    for (const place of this.places.subarray(this.starts[key], this.starts[key + 1])) {
      const token = Math.floor(place / this.kept);
      if (token !== key) found.push({ token, score: scores[place], rank: place % this.kept + 1 });
    }
    return found.sort((a, b) => b.score - a.score || a.token - b.token);
  }
}

function neighbourList({ title, note, placeName, rows, texts, self, swatch, onPick, kind, low, high }) {
  const span = high - low || 1;
  const body = rows.map(({ token, score, rank }) => {
    const amount = el("span");
    amount.style.width = `${Math.max(100 * (score - low) / span, 0)}%`;
    return el("tr", { class: token === self ? "self" : null, "data-token": token },
      el("td", { class: "place" }, rank),
      el("td", null, el("button", { type: "button", onclick: () => onPick(token), title: `token ${token}` }, swatch(token), tokenNode(texts[token])), token === self ? el("small", { class: "hint" }, " itself") : null),
      el("td", { class: "number" }, score.toFixed(2).replace("-", MINUS)),
      el("td", { class: "amount" }, amount));
  });
  return el("section", { "data-list": kind }, el("h3", null, title, el("small", null, note)),
    rows.length ? el("table", { class: "list" },
      el("thead", null, el("tr", null, el("th", { class: "place", scope: "col" }, placeName), el("th", { scope: "col" }, "token"), el("th", { scope: "col", class: "number" }, "score"), el("td", { class: "amount" }))),
      el("tbody", null, body)) : el("p", { class: "empty" }, "None."));
}

function tokenPanel(data, token, { map, onPick, swatch }) {
  const { texts, kept, key_ids: keyIds, scores, readers } = data;
  const attended = Array.from({ length: kept }, (_, place) => ({ token: keyIds[token * kept + place], score: scores[token * kept + place], rank: place + 1 }));
  const all = readers.of(token, scores), shown = all.slice(0, SHOWN_READERS);
  const facts = [
    ["own rank", `${whole(data.self_rank[token])} of ${whole(data.size)} keys`],
    ["own score", `${figure(data.self_score[token])}${data.unit ? ` ${data.unit}` : ""} (${figure(data.self_z[token])} sd from its row's mean)`],
  ];
  if (map) {
    const point = map.pointOf(token);
    if (point === null) facts.push(["community", "not on the map"]);
    else {
      const size = map.sizes[map.community[point]];
      facts.push(["community", [size > 1 ? swatch(token) : null, size > 1 ? ` ${map.community[point]}, ${whole(size)} tokens` : "none: isolated or alone"]]);
      if (map.stability && isNumber(map.stability[point])) facts.push(["stability", figure(map.stability[point])]);
      facts.push(["edges", whole(map.degree[point])]);
    }
  }
  const scale = [...attended, ...shown].map((row) => row.score), [least, high] = extent([...scale, 0]);
  const lists = { texts, self: token, swatch, onPick, low: Math.min(least, 0), high };
  return [
    el("div", { class: "name" }, tokenNode(texts[token]), el("small", null, `token ${token}${data.isSpecial.has(token) ? ", special" : ""}`)),
    el("dl", { class: "facts" }, facts.map(([name, value]) => [el("dt", null, name), el("dd", null, value)])),
    el("div", { class: "neighbours" },
      neighbourList({ ...lists, kind: "attended", title: "Attends to", note: `best ${kept} of ${whole(data.size)} keys`, placeName: "#", rows: attended }),
      neighbourList({ ...lists, kind: "readers", title: "Attended by", note: all.length > shown.length ? `best ${shown.length} of ${whole(all.length)} that have it in their best ${kept}` : `${whole(all.length)} that have it in their best ${kept}`, placeName: "at", rows: shown })),
  ];
}
