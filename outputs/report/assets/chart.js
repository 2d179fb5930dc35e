// Line charts: axes with round ticks, lines told apart by colour, dash and marker, a cursor by pointer or arrow keys.

const DASHES = ["", "7 4", "2 3", "9 3 2 3", "5 2", "1 4"];
const MARKERS = ["circle", "square", "diamond", "up", "down", "cross"];

function niceTicks(low, high, count) {
  const rough = (high - low) / count, power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 2.5, 5, 10].map((base) => base * power).find((size) => size >= rough);
  const first = Math.ceil(low / step - 1e-9), last = Math.floor(high / step + 1e-9);
  return Array.from({ length: clamp(last - first + 1, 0, 99) }, (_, place) => (first + place) * step);
}

const logTicks = (low, high) => {
  const ticks = [];
  for (let power = Math.floor(Math.log10(low)); power <= Math.ceil(Math.log10(high)); power++) ticks.push(10 ** power);
  return ticks.filter((tick) => tick >= low * .999 && tick <= high * 1.001);
};
const tickText = (value) => {
  const size = Math.abs(value);
  if (size >= 1e9) return `${+(value / 1e9).toPrecision(3)}G`.replace("-", MINUS);
  if (size >= 1e6) return `${+(value / 1e6).toPrecision(3)}M`.replace("-", MINUS);
  if (size >= 1e4) return `${+(value / 1e3).toPrecision(3)}k`.replace("-", MINUS);
  return String(+value.toPrecision(3)).replace("-", MINUS);
};

function marker(shape, x, y, colour) {
  const size = 4;
  if (shape === "circle") return svg("circle", { cx: x, cy: y, r: size - .5, fill: colour });
  const paths = {
    square: `M${x - 3} ${y - 3}h6v6h-6z`, diamond: `M${x} ${y - size}l${size} ${size}l-${size} ${size}l-${size} -${size}z`,
    up: `M${x} ${y - size}l${size} 7h-8z`, down: `M${x} ${y + size}l${size} -7h-8z`, cross: `M${x - 3} ${y - 3}l6 6m-6 0l6 -6`,
  };
  return svg("path", { d: paths[shape], fill: shape === "cross" ? "none" : colour, stroke: colour, "stroke-width": shape === "cross" ? 2 : 0 });
}

const kindOf = (place) => ({ colour: KIND_COLOURS[place % 6], dash: DASHES[place % 6], marker: MARKERS[place % 6] });

function keysOf(names) {
  return el("div", { class: "keys" }, names.map((name, place) => {
    const kind = kindOf(place);
    return el("span", null, svg("svg", { viewBox: "0 0 30 12", "aria-hidden": "true" },
      svg("line", { x1: 0, x2: 30, y1: 6, y2: 6, stroke: kind.colour, "stroke-width": 2, "stroke-dasharray": kind.dash || null }),
      marker(kind.marker, 15, 6, kind.colour)), name);
  }));
}

// Points in runs: nothing is drawn over a step in x that is wider than `gap`, where nothing was measured.
function runsOf(points, gap) {
  const runs = [];
  points.forEach((point, place) => {
    if (place && point[0] - points[place - 1][0] <= gap) runs[runs.length - 1].push(point); else runs.push([point]);
  });
  return runs;
}

// A chart. series: [{name, kind: place in the palette, points: [[x, y]], band: [[x, low, high]]}]; a point may carry a note.
function lineChart({ title, unit, xName, series, yLog = false, yZero = false, yRange = null, xRange = null, format = figure, rule = null, gap = Infinity, width = 400, height = 230 }) {
  const left = 46, right = 10, top = 8, bottom = 38;
  const points = series.flatMap((one) => one.points.filter(([x, y]) => isNumber(x) && isNumber(y) && (!yLog || y > 0)));
  const heading = el("h3", null, title, unit ? el("small", null, unit) : null);
  if (!points.length) return el("figure", { class: "chart" }, heading, el("p", { class: "empty" }, "No values in this run."));
  const bands = series.flatMap((one) => (one.band || []).flatMap(([, low, high]) => [low, high])).filter(isNumber);
  let [xLow, xHigh] = xRange || extent(points.map(([x]) => x));
  // What differs by rounding only is one value: ticks between its two ends could not be told apart.
  const alike = (low, high) => high - low <= 1e-9 * Math.max(Math.abs(low), Math.abs(high));
  if (alike(xLow, xHigh)) { xLow -= .5; xHigh += .5; }
  let [yLow, yHigh] = yRange || extent([...points.map(([, y]) => y), ...bands, ...(yZero ? [0] : []), ...(rule === null ? [] : [rule])]);
  if (alike(yLow, yHigh) && !yLog) [yLow, yHigh] = yLow === 0 && yZero ? [0, 1] : [yLow - .5, yHigh + .5];
  const yTicks = yLog ? logTicks(yLow, yHigh) : niceTicks(yLow, yHigh, 4);
  if (yLog) { if (yTicks.length < 2) { yLow = 10 ** Math.floor(Math.log10(yLow)); yHigh = 10 ** Math.ceil(Math.log10(yHigh) + 1e-9); if (yLow === yHigh) yHigh *= 10; yTicks.splice(0, yTicks.length, ...logTicks(yLow, yHigh)); } }
  else if (!yRange) { const pad = (yHigh - yLow || 1) * .06; yHigh += pad; if (!(yZero && yLow === 0)) yLow -= pad; }
  const toY = yLog ? (y) => Math.log(y) : (y) => y, span = toY(yHigh) - toY(yLow) || 1, across = xHigh - xLow || 1;
  const px = (x) => left + (x - xLow) / across * (width - left - right);
  const py = (y) => top + (1 - (toY(y) - toY(yLow)) / span) * (height - top - bottom);
  const plot = svg("svg", { viewBox: `0 0 ${width} ${height}`, role: "img", tabindex: 0, "aria-label": `${title}, by ${xName}. Arrow keys read the values.` });
  for (const tick of yTicks) {
    plot.append(svg("line", { class: tick === 0 ? "zero" : "axis", x1: left, x2: width - right, y1: py(tick), y2: py(tick) }),
      svg("text", { x: left - 7, y: py(tick) + 4, "text-anchor": "end" }, tickText(tick)));
  }
  for (const tick of niceTicks(xLow, xHigh, 6)) {
    plot.append(svg("line", { class: "axis", x1: px(tick), x2: px(tick), y1: height - bottom, y2: height - bottom + 4 }),
      svg("text", { x: px(tick), y: height - bottom + 16, "text-anchor": "middle" }, tickText(tick)));
  }
  plot.append(svg("text", { x: (left + width - right) / 2, y: height - 4, "text-anchor": "middle" }, xName));
  const shown = series.map((one, place) => ({ ...one, look: kindOf(one.kind ?? place),
    points: one.points.filter(([x, y]) => isNumber(x) && isNumber(y) && (!yLog || y > 0)).sort((a, b) => a[0] - b[0]) }));
  for (const one of shown) {
    for (const part of runsOf(one.band || [], gap)) {
      const upper = part.map(([x, , high]) => `${px(x)} ${py(high)}`), lower = part.map(([x, low]) => `${px(x)} ${py(low)}`).reverse();
      if (part.length > 1) plot.append(svg("path", { class: "band", d: `M${[...upper, ...lower].join("L")}Z`, fill: one.look.colour }));
    }
    for (const part of runsOf(one.points, gap)) {
      if (part.length > 1) plot.append(svg("path", { class: "line", d: `M${part.map(([x, y]) => `${px(x)} ${py(y)}`).join("L")}`, stroke: one.look.colour, "stroke-dasharray": shown.length > 1 ? one.look.dash || null : null }));
      else if (one.points.length > 40) plot.append(marker(one.look.marker, px(part[0][0]), py(part[0][1]), one.look.colour));
    }
    if (one.points.length <= 40) for (const [x, y] of one.points) plot.append(marker(one.look.marker, px(x), py(y), one.look.colour));
  }
  const readline = el("p", { class: "readline", "aria-live": "polite" });
  addCursor(plot, readline, { shown, xName, format, px, top, foot: height - bottom, width });
  return el("figure", { class: "chart" }, heading, plot, readline);
}

function addCursor(plot, readline, { shown, xName, format, px, top, foot, width }) {
  const places = [...new Set(shown.flatMap((one) => one.points.map(([x]) => x)))].sort((a, b) => a - b);
  const line = svg("line", { class: "cursor", y1: top, y2: foot, visibility: "hidden" });
  plot.append(line);
  let at = null;
  const show = (place) => {
    at = place;
    if (place === null) { line.setAttribute("visibility", "hidden"); readline.replaceChildren(); return; }
    const x = places[place];
    for (const end of ["x1", "x2"]) line.setAttribute(end, px(x));
    line.setAttribute("visibility", "visible");
    const values = shown.flatMap((one) => one.points.filter((point) => point[0] === x).map((point) => [one.name, point[1], point[2]]));
    readline.replaceChildren(`${xName} ${figure(x)}: `, ...values.flatMap(([name, y, note], order) =>
      [order ? ", " : "", name ? `${name} ` : "", el("b", null, format(y)), note ? ` (${note})` : ""]));
  };
  const nearest = (event) => {
    const box = plot.getBoundingClientRect(), x = (event.clientX - box.left) / box.width * width;
    let best = 0;
    for (let place = 1; place < places.length; place++) if (Math.abs(px(places[place]) - x) < Math.abs(px(places[best]) - x)) best = place;
    show(best);
  };
  plot.addEventListener("pointermove", nearest);
  plot.addEventListener("pointerleave", () => { if (document.activeElement !== plot) show(null); });
  plot.addEventListener("focus", () => { if (at === null) show(0); });
  plot.addEventListener("blur", () => show(null));
  plot.addEventListener("keydown", (event) => {
    const step = { ArrowRight: 1, ArrowLeft: -1, Home: -Infinity, End: Infinity }[event.key];
    if (step === undefined) return;
    event.preventDefault();
    show(clamp((at ?? 0) + step, 0, places.length - 1));
  });
}
