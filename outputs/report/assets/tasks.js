// Which tasks rest on which heads: heads by tasks, an effect beside its control, and curves over repeated prefixes.

drawings.set("tasks", tasksSection);

const taskHead = (row) => `L${row.layer}H${row.head}`;

// A bar by the shares of its track; set by properties, for the page's policy takes no style attributes.
function barAt(kind, left, width) {
  const node = el("i", { class: kind });
  node.style.left = `${(100 * left).toFixed(2)}%`;
  node.style.width = `${(100 * width).toFixed(2)}%`;
  return node;
}

// Bars from zero with their intervals; the control's is drawn lighter.
function effectBars(row) {
  const bars = [["prompts", row.effect, row.effect_low, row.effect_high], ["controls", row.control_effect, null, null], ["difference", row.specific, row.specific_low, row.specific_high]];
  const numbers = bars.flatMap(([, ...values]) => values).filter(isNumber);
  const low = Math.min(0, ...numbers), high = Math.max(0, ...numbers), span = high - low || 1;
  const at = (value) => (value - low) / span;
  return el("div", { class: "effects" }, bars.map(([name, value, from, to]) => el("div", { class: "effect" },
    el("span", null, name),
    el("span", { class: "track" },
      barAt(`bar ${name}`, at(Math.min(0, value)), Math.abs(value) / span),
      isNumber(from) ? barAt("reach", at(from), (to - from) / span) : null),
    el("b", null, `${value > 0 ? "+" : ""}${figure(value)}`), el("small", null, isNumber(from) ? `${figure(from)} to ${figure(to)}` : ""))));
}

function prefixTable(rows) {
  if (!rows.length) return null;
  return el("table", { class: "numbers" },
    el("thead", null, el("tr", null, ["tokens of the prefix", "attention", "95%", "in controls", "centred logit", "95%"].map((name) => el("th", { scope: "col" }, name)))),
    el("tbody", null, rows.map((row) => el("tr", null,
      el("td", null, String(row.length)),
      el("td", null, el("span", { class: "track" }, barAt("bar prompts", 0, row.attention)), ` ${figure(row.attention)}`),
      el("td", null, isNumber(row.attention_low) ? `${figure(row.attention_low)} to ${figure(row.attention_high)}` : ""),
      el("td", null, figure(row.control_attention)), el("td", null, figure(row.dla_centred)),
      el("td", null, isNumber(row.dla_low) ? `${figure(row.dla_low)} to ${figure(row.dla_high)}` : "")))));
}

async function tasksSection(section, runs) {
  const run = runs[section.run], tasks = rowsOf(section.tasks), rows = rowsOf(section.table);
  const prefix = rowsOf(section.prefix), corrupted = rowsOf(section.corrupted);
  const order = (row) => row.layer * 10000 + row.head;
  const heads = [...new Map([...rows].sort((a, b) => order(a) - order(b)).map((row) => [taskHead(row), row])).keys()];
  const across = new Map(heads.map((name, at) => [name, at])), down = new Map(tasks.map((row, at) => [row.task, at]));
  const values = tasks.map(() => new Float64Array(heads.length).fill(NaN)), byPlace = new Map();
  for (const row of rows) {
    const y = down.get(row.task), x = across.get(taskHead(row));
    byPlace.set(`${row.task} ${taskHead(row)}`, row);
    if (isNumber(row.specific)) values[y][x] = row.specific;
  }
  const all = values.flatMap((row) => Array.from(row).filter(isNumber).map(Math.abs)), limit = Math.max(...all, 0) || 1;
  const scale = colourScale("signed", -limit, limit, { root: true });
  const names = tasks.map((row) => `${row.task}${row.solved ? "" : " (unsolved)"}`);
  const describe = (rowName, columnName, value, [, y]) => {
    const task = tasks[y], row = byPlace.get(`${task.task} ${columnName}`);
    if (!row || !row.exact) return `${columnName} on ${task.task}: not measured, estimated ${row ? figure(row.effect_linear) : ""}`;
    return `${columnName} ablated: loss of ${task.task} ${figure(row.effect)}, of its controls ${figure(row.control_effect)}, difference ${figure(row.specific)}${isNumber(row.specific_low) ? ` (${figure(row.specific_low)} to ${figure(row.specific_high)})` : ""}${row.serves ? "; serves it" : task.solved ? "" : "; not solved"}`;
  };
  const below = el("div"), taskId = freshId("task"), headId = freshId("head");
  const served = rows.filter((row) => row.serves).sort((a, b) => b.specific - a.specific);
  const start = served[0] || rows.find((row) => row.exact) || rows[0];
  const taskSelect = el("select", { id: taskId, onchange: () => draw() }, tasks.map((row, at) => el("option", { value: row.task }, names[at])));
  const headSelect = el("select", { id: headId, onchange: () => draw() }, heads.map((name) => el("option", { value: name }, name)));
  const draw = () => {
    const row = byPlace.get(`${taskSelect.value} ${headSelect.value}`), own = prefix.filter((one) => taskHead(one) === headSelect.value);
    const broken = corrupted.filter((one) => taskHead(one) === headSelect.value);
    below.replaceChildren(el("h3", null, `${headSelect.value} on ${taskSelect.value}`),
      row && row.exact ? effectBars(row) : el("p", { class: "empty" }, `Not measured; one backward pass estimates ${row ? figure(row.effect_linear) : "nothing"} nats.`),
      own.length ? el("div", null, el("h3", null, `${headSelect.value} by the length of a repeated prefix`), prefixTable(own)) : "",
      ...broken.map((one) => el("p", { class: "note" }, `${one.source === "text" ? "Natural text" : "Random tokens"}, ${whole(one.n)} prefixes of two tokens or more corrupted to one: attention ${figure(one.before)} before, ${figure(one.after)} after${isNumber(one.difference_low) ? ` (difference ${figure(one.difference_low)} to ${figure(one.difference_high)})` : ""}.`)));
  };
  taskSelect.value = start.task;
  headSelect.value = taskHead(start);
  draw();
  return el("section", { class: "card" },
    el("h2", null, "Tasks", subtitle(run, `${tasks.length} tasks`, `${heads.length} heads`)),
    el("p", { class: "how" }, el("strong", null, "How to read. "), "Each cell: how much more a task\u2019s prompts lose than their matched controls when what the head hands on is replaced. Orange: the task rests on the head. Solved tasks first; an unsolved one labels no head. Empty: not measured."),
    matrixView({ title: "Tasks and heads", rowNames: names, columnNames: heads, values, scale, describe }),
    scaleLegend(scale, figure, "effect on prompts less effect on controls, nats, square-root colour scale"),
    el("div", { class: "bar" }, el("div", { class: "field" }, el("label", { for: taskId }, "Task"), taskSelect), el("div", { class: "field" }, el("label", { for: headId }, "Head"), headSelect)),
    below,
    numbersBehind("All tasks", section.tasks), numbersBehind("All heads on all tasks", section.table));
}
