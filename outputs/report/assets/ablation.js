// What a head's behaviour rests on: every ablated component against every head downstream.

const COMPONENT_ORDER = ["none", "embed", "pos_embed", "attn", "mlp", "mlp_residual", "head"];

// A matrix on a canvas. One cell is under the cursor, by pointer or arrow keys, and read out below.
function matrixView({ title, rowNames, columnNames, values, scale, describe, cell = null, labels = true, readline = null }) {
  const left = labels ? 110 : 0, top = labels ? 58 : 0;
  const size = cell || clamp(Math.floor(1070 / columnNames.length), 5, 48), high = cell || clamp(Math.floor(1000 / rowNames.length), 5, 22);
  const width = left + size * columnNames.length + 2, height = top + high * rowNames.length + 2;
  const canvas = el("canvas", { tabindex: 0, role: "img", "aria-label": `${title}: ${rowNames.length} rows, ${columnNames.length} columns. Arrow keys read the cells.` });
  const line = readline || el("p", { class: "readline", "aria-live": "polite" });
  let cursor = null;
  const draw = () => {
    const ratio = Math.min(window.devicePixelRatio || 1, 2), context = canvas.getContext("2d");
    canvas.width = width * ratio; canvas.height = height * ratio;
    canvas.style.width = `${width}px`; canvas.style.height = `${height}px`;
    context.setTransform(ratio, 0, 0, ratio, 0, 0);
    const gap = Math.min(size, high) > 8 ? 1 : 0;
    values.forEach((row, y) => row.forEach((value, x) => {
      if (!isNumber(value)) return;
      context.fillStyle = scale.of(value);
      context.fillRect(left + x * size, top + y * high, size - gap, high - gap);
    }));
    context.fillStyle = variable("--soft");
    context.font = `11px ${variable("--sans")}`;
    context.textBaseline = "middle";
    if (labels) {
      const every = (length, room) => Math.ceil(length * 13 / room);
      const rowStep = every(rowNames.length, high * rowNames.length), columnStep = every(columnNames.length, size * columnNames.length);
      context.textAlign = "right";
      rowNames.forEach((name, y) => { if (y % rowStep === 0) context.fillText(name, left - 6, top + (y + .5) * high, left - 8); });
      context.textAlign = "left";
      columnNames.forEach((name, x) => {
        if (x % columnStep) return;
        context.save(); context.translate(left + (x + .5) * size, top - 6); context.rotate(-Math.PI / 2); context.fillText(name, 0, 0, top - 8); context.restore();
      });
    }
    if (cursor) {
      context.strokeStyle = variable("--mark"); context.lineWidth = 2;
      context.strokeRect(left + cursor[0] * size - 1, top + cursor[1] * high - 1, size + 2 - gap, high + 2 - gap);
    }
  };
  const show = (at) => {
    cursor = at;
    line.textContent = at ? describe(rowNames[at[1]], columnNames[at[0]], values[at[1]][at[0]], at) : "";
    draw();
  };
  canvas.addEventListener("pointermove", (event) => {
    const box = canvas.getBoundingClientRect(), x = Math.floor((event.clientX - box.left - left) / size), y = Math.floor((event.clientY - box.top - top) / high);
    const inside = x >= 0 && y >= 0 && x < columnNames.length && y < rowNames.length;
    if (!inside) { if (cursor) show(null); } else if (!cursor || cursor[0] !== x || cursor[1] !== y) show([x, y]);
  });
  canvas.addEventListener("pointerleave", () => { if (document.activeElement !== canvas) show(null); });
  canvas.addEventListener("focus", () => { if (!cursor) show([0, 0]); });
  canvas.addEventListener("blur", () => show(null));
  canvas.addEventListener("keydown", (event) => {
    const move = { ArrowRight: [1, 0], ArrowLeft: [-1, 0], ArrowDown: [0, 1], ArrowUp: [0, -1] }[event.key];
    if (!move || !cursor) return;
    event.preventDefault();
    show([clamp(cursor[0] + move[0], 0, columnNames.length - 1), clamp(cursor[1] + move[1], 0, rowNames.length - 1)]);
  });
  draw();
  onScheme(draw);
  return el("figure", { class: "chart" }, el("h3", null, title), el("div", { class: "matrix" }, canvas), readline ? null : line);
}

const headNumber = (layer, head) => layer * 10000 + head;

drawings.set("ablation", ablationSection);

async function ablationSection(section, runs) {
  const run = runs[section.run], rows = rowsOf(section.table).filter((row) => row.kind !== "none");
  const targets = new Map(), components = new Map();
  for (const row of rows) {
    targets.set(headNumber(row.target_layer, row.target_head), `L${row.target_layer}H${row.target_head}`);
    components.set(row.component, row);
  }
  const columns = [...targets].sort((a, b) => a[0] - b[0]).map(([, name]) => name);
  const order = (row) => [COMPONENT_ORDER.indexOf(row.kind), row.layer ?? 0, row.head ?? 0];
  const names = [...components.values()].sort((a, b) => { const [x, y] = [order(a), order(b)]; return x[0] - y[0] || x[1] - y[1] || x[2] - y[2]; }).map((row) => row.component);
  const block = (title, chosen) => {
    const place = new Map(chosen.map((name, at) => [name, at])), across = new Map(columns.map((name, at) => [name, at]));
    const values = chosen.map(() => new Float64Array(columns.length).fill(NaN)), extra = new Map();
    for (const row of rows) {
      const y = place.get(row.component), x = across.get(`L${row.target_layer}H${row.target_head}`);
      if (y === undefined || !isNumber(row.delta)) continue;
      values[y][x] = row.delta;
      extra.set(y * columns.length + x, row);
    }
    const limit = Math.max(...values.map((row) => Math.max(...Array.from(row).filter(isNumber).map(Math.abs), 0))) || 1;
    const scale = colourScale("signed", -limit, limit, { root: true });
    const describe = (rowName, columnName, value, [x, y]) => {
      const row = extra.get(y * columns.length + x);
      if (!row) return `${rowName} does not reach ${columnName}`;
      return `${rowName} ablated: score of ${columnName} ${value < 0 ? "falls" : "rises"} by ${figure(Math.abs(value))}${isNumber(row.delta_low) ? ` (change ${figure(row.delta_low)} to ${figure(row.delta_high)})` : ""} to ${figure(row.score_mean)} nats${isNumber(row.loss_delta) ? `, loss ${value === 0 ? "" : row.loss_delta < 0 ? MINUS : "+"}${figure(Math.abs(row.loss_delta))}` : ""}`;
    };
    return el("div", null, matrixView({ title, rowNames: chosen, columnNames: columns, values, scale, describe }), scaleLegend(scale, figure, "change of the score, nats, square-root colour scale"));
  };
  const heads = names.filter((name) => components.get(name).kind === "head"), blocks = names.filter((name) => components.get(name).kind !== "head");
  return el("section", { class: "card" },
    el("h2", null, "Ablation", subtitle(run, `${names.length} components`, `${columns.length} heads`)),
    el("p", { class: "how" }, el("strong", null, "How to read. "), "Down: the component whose output was replaced. Across: the head whose Semantic Category Score was then measured. Orange: the score rises, so the head rests on the component; blue: it falls; empty: the component does not reach the head."),
    names.length ? el("div", { class: "figures wide" }, blocks.length ? block("Embeddings and blocks", blocks) : null, heads.length ? block("Heads on heads", heads) : null) : el("p", { class: "empty" }, "No component of this run reaches a head."),
    numbersBehind("All numbers of every component and head", section.table),
    el("p", { class: "note" }, el("strong", null, "Sampled: "), "scores are means over the run\u2019s prompts. Each matrix has its own colour scale, by the square root of the change, so that one large change does not hide all others."));
}
