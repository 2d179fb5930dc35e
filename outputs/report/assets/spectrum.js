// A head's spectrum: the eigenvalues of the symmetric part of W', and where its negative part stands against random heads.

function spectrumChart(values, name) {
  const width = 640, height = 270, left = 54, right = 8, top = 8, bottom = 36;
  const limit = Math.max(...values.map(Math.abs)) || 1, low = -limit * 1.06, high = limit * 1.06;
  const px = (place) => left + (place + .5) / values.length * (width - left - right);
  const py = (value) => top + (high - value) / (high - low) * (height - top - bottom);
  const plot = svg("svg", { viewBox: `0 0 ${width} ${height}`, role: "img", tabindex: 0, "aria-label": `Eigenvalues of ${name}, in descending order. Arrow keys read the values.` });
  for (const tick of niceTicks(low, high, 5).filter((one) => Math.abs(one) <= limit * 1.06)) {
    plot.append(svg("line", { class: tick === 0 ? "zero" : "axis", x1: left, x2: width - right, y1: py(tick), y2: py(tick) }), svg("text", { x: left - 7, y: py(tick) + 4, "text-anchor": "end" }, tickText(tick)));
  }
  const thick = Math.max((width - left - right) / values.length * .72, .8);
  values.forEach((value, place) => plot.append(svg("line", { x1: px(place), x2: px(place), y1: py(0), y2: py(value), stroke: value < 0 ? KIND_COLOURS[0] : KIND_COLOURS[1], "stroke-width": thick })));
  for (const tick of [0, values.length / 4, values.length / 2, values.length * 3 / 4, values.length - 1].map(Math.round)) plot.append(svg("text", { x: px(tick), y: height - bottom + 16, "text-anchor": "middle" }, tick + 1));
  plot.append(svg("text", { x: (left + width - right) / 2, y: height - 4, "text-anchor": "middle" }, "place in descending order"));
  const readline = el("p", { class: "readline", "aria-live": "polite" });
  addCursor(plot, readline, { shown: [{ name: "eigenvalue", points: values.map((value, place) => [place + 1, value]) }], xName: "place", format: figure, px: (place) => px(place - 1), top, foot: height - bottom, width });
  // Rounding leaves eigenvalues that are zero a little above or below it.
  const zero = 1e-5 * limit, positive = values.filter((value) => value > zero).length, negative = values.filter((value) => value < -zero).length;
  const rest = values.length - positive - negative;
  return el("figure", { class: "chart" }, el("h3", null, "Eigenvalues of W_sym", el("small", null, `${positive} above 0 (orange), ${negative} below 0 (blue)${rest ? `, ${rest} zero` : ""}`)), plot, readline);
}

const NULL_MEASURES = [
  ["positive_self_energy", "positive self energy"],
  ["negative_self_energy", "negative self energy"],
  ["n_negative_top_h", "negatives among the H largest by magnitude"],
];

// One line a measure: the head's own value against the mean and two standard deviations of random heads.
function nullChart(row) {
  const measures = NULL_MEASURES.filter(([key]) => isNumber(row[key]) && isNumber(row[`${key}_null_mean`]));
  if (!measures.length) return el("figure", { class: "chart" }, el("h3", null, "Against random heads"), el("p", { class: "empty" }, "This run has no null for the head."));
  const width = 400, left = 8, right = 8, step = 82, height = measures.length * step;
  const plot = svg("svg", { viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": "The head's own values against random heads with the same singular values" });
  measures.forEach(([key, label], place) => {
    const own = row[key], mean = row[`${key}_null_mean`], std = row[`${key}_null_std`] || 0, z = row[`${key}_null_z`];
    const [low, high] = extent([own, mean - 2 * std, mean + 2 * std]), pad = (high - low || Math.abs(own) || 1) * .12;
    const px = (value) => left + (value - low + pad) / (high - low + 2 * pad) * (width - left - right), y = place * step + 40;
    plot.append(
      svg("text", { x: left, y: y - 24 }, label),
      svg("text", { x: width - right, y: y - 24, "text-anchor": "end" }, isNumber(z) ? `z ${figure(z)}` : "z undefined"),
      svg("line", { class: "axis", x1: left, x2: width - right, y1: y, y2: y }),
      svg("rect", { x: px(mean - 2 * std), y: y - 6, width: Math.max(px(mean + 2 * std) - px(mean - 2 * std), 3), height: 12, rx: 2, fill: variable("--grey") }),
      svg("line", { x1: px(mean), x2: px(mean), y1: y - 9, y2: y + 9, stroke: variable("--soft"), "stroke-width": 1.5 }),
      svg("circle", { cx: px(own), cy: y, r: 5.5, fill: KIND_COLOURS[1] }));
    const ownAt = clamp(px(own), 34, width - 34), meanAt = clamp(px(mean), 70, width - 70);
    const apart = Math.abs(ownAt - meanAt) > 110;
    plot.append(svg("text", { class: "own", x: apart ? ownAt : left, y: y + 22, "text-anchor": apart ? "middle" : "start" }, figure(own)),
      svg("text", { x: apart ? meanAt : width - right, y: y + 22, "text-anchor": apart ? "middle" : "end" }, `random ${figure(mean)} \u00b1 ${figure(std, 2)}`));
  });
  return el("figure", { class: "chart" }, el("h3", null, "Against random heads", el("small", null, "32 with the same singular values")), plot,
    el("p", { class: "note" }, "Orange point: this head. Grey: mean \u00b1 2 standard deviations of the random heads, which differ little among themselves: look at the ratio beside the z."));
}
