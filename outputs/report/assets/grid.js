// A grid of heads: layers down, heads across, one colour each. Pointer and arrow keys read it; Enter or a click chooses.

function headGrid({ title, unit, caption, cells, scale, format, onShow, onChoose }) {
  const layers = [...new Set(cells.map((cell) => cell.layer))].sort((a, b) => a - b);
  const heads = [...new Set(cells.map((cell) => cell.head))].sort((a, b) => a - b);
  const spots = new Map();
  const body = layers.map((layer) => el("tr", { role: "row" },
    el("th", { scope: "row", role: "rowheader" }, `L${layer}`),
    heads.map((head) => {
      const cell = cells.find((one) => one.layer === layer && one.head === head);
      if (!cell) return el("td", { role: "presentation" });
      const known = isNumber(cell.value);
      const spot = el("span", { role: "gridcell", tabindex: -1, class: known ? null : "none", "data-head": cell.name,
        "aria-label": `${cell.name}: ${known ? format(cell.value) : "not measured"}` });
      spots.set(cell.name, { spot, cell });
      return el("td", { role: "presentation" }, spot);
    })));
  const table = el("table", { role: "grid", "aria-label": `${title}, layers down, heads across` },
    el("thead", { role: "rowgroup" }, el("tr", { role: "row" }, el("td", { role: "presentation" }), heads.map((head) => el("th", { scope: "col", role: "columnheader" }, `H${head}`)))),
    el("tbody", { role: "rowgroup" }, body));
  const paint = () => {
    for (const { spot, cell } of spots.values()) spot.style.backgroundColor = isNumber(cell.value) ? scale.of(cell.value) : "";
  };
  paint();
  onScheme(paint);

  const nameAt = (event) => event.target.dataset ? event.target.dataset.head : undefined;
  let current = null;
  const rove = (name) => {
    if (current) spots.get(current).spot.tabIndex = -1;
    current = name;
    spots.get(name).spot.tabIndex = 0;
  };
  rove(cells[0].name);
  table.addEventListener("pointerover", (event) => { const name = nameAt(event); if (name) onShow(name); });
  table.addEventListener("pointerleave", () => onShow(null));
  table.addEventListener("focusin", (event) => { const name = nameAt(event); if (name) { rove(name); onShow(name); } });
  table.addEventListener("focusout", () => onShow(null));
  table.addEventListener("click", (event) => { const name = nameAt(event); if (name) onChoose(name); });
  table.addEventListener("keydown", (event) => {
    if (event.key === "Enter" || event.key === " ") { event.preventDefault(); onChoose(current); return; }
    const move = { ArrowRight: [0, 1], ArrowLeft: [0, -1], ArrowDown: [1, 0], ArrowUp: [-1, 0], Home: [0, -99], End: [0, 99] }[event.key];
    if (!move) return;
    event.preventDefault();
    const { cell } = spots.get(current);
    const row = clamp(layers.indexOf(cell.layer) + move[0], 0, layers.length - 1);
    // Past a head that was not scanned, the nearest one of its row takes the focus.
    const wanted = clamp(heads.indexOf(cell.head) + move[1], 0, heads.length - 1);
    const inRow = cells.filter((one) => one.layer === layers[row]);
    const away = (one) => Math.abs(heads.indexOf(one.head) - wanted);
    spots.get(inRow.reduce((best, one) => away(one) < away(best) ? one : best).name).spot.focus();
  });

  const mark = (kind) => (name) => {
    for (const { spot } of spots.values()) spot.classList.remove(kind);
    if (name && spots.has(name)) spots.get(name).spot.classList.add(kind);
  };
  const choose = mark("chosen");
  return {
    node: el("div", { class: "grid" }, el("h3", null, title, unit ? el("small", null, unit) : null), table, scaleLegend(scale, format), el("p", { class: "note" }, caption)),
    same: mark("same"),
    choose: (name) => { choose(name); if (spots.has(name)) rove(name); },
  };
}
