// Colours that every kind of colour vision tells apart: Okabe and Ito for kinds, cividis for amounts, blue to orange
// through the page's own middle for amounts with a zero.

const KIND_COLOURS = ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9"];
const CIVIDIS = [[0, 34, 78], [18, 53, 112], [59, 73, 108], [87, 93, 109], [112, 113, 115], [138, 134, 120], [165, 156, 116], [195, 179, 105], [254, 232, 56]];
const COLD = [33, 102, 172], WARM = [200, 92, 10];

const scheme = window.matchMedia("(prefers-color-scheme: dark)");
const onScheme = (draw) => scheme.addEventListener("change", draw);
const variable = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

const mix = (from, to, share) => from.map((value, place) => Math.round(value + (to[place] - value) * share));
const css = (rgb) => `rgb(${rgb[0]} ${rgb[1]} ${rgb[2]})`;
const hexToRgb = (hex) => [1, 3, 5].map((place) => parseInt(hex.slice(place, place + 2), 16));
const rgbOf = (colour) => colour.startsWith("#") ? hexToRgb(colour) : colour.match(/[\d.]+/g).map(Number);
const clamp = (value, low, high) => Math.min(high, Math.max(low, value));

function cividis(share) {
  const place = clamp(share, 0, 1) * (CIVIDIS.length - 1), below = Math.min(Math.floor(place), CIVIDIS.length - 2);
  return mix(CIVIDIS[below], CIVIDIS[below + 1], place - below);
}

const diverging = (share) => mix(hexToRgb(variable("--middle")), share < 0 ? COLD : WARM, Math.min(Math.abs(share), 1));

// A scale from values to colours. `kind` is "amount" (cividis) or "signed" (blue, middle, orange around 0; `root`: by the square root).
function colourScale(kind, low, high, { logarithmic = false, root = false } = {}) {
  const place = (value) => logarithmic ? Math.log(Math.max(value, low)) : value;
  const limit = Math.max(Math.abs(low), Math.abs(high)) || 1, from = place(low), span = place(high) - from || 1;
  const at = kind === "signed" ? (value) => diverging(root ? Math.sign(value) * Math.sqrt(Math.abs(value) / limit) : value / limit) : (value) => cividis((place(value) - from) / span);
  const ends = kind === "signed" ? [-limit, limit] : [low, high];
  return { of: (value) => css(at(value)), share: (share) => css(kind === "signed" ? diverging(2 * share - 1) : cividis(share)), ends };
}

// The legend of a scale: a strip with its two ends.
function scaleLegend(scale, format, unit) {
  const strip = el("canvas", { width: 150, height: 1, "aria-hidden": "true" });
  const draw = () => {
    const context = strip.getContext("2d");
    for (let x = 0; x < 150; x++) { context.fillStyle = scale.share(x / 149); context.fillRect(x, 0, 1, 1); }
  };
  draw();
  onScheme(draw);
  return el("div", { class: "scale" }, format(scale.ends[0]), strip, format(scale.ends[1]), unit ? el("span", null, unit) : null);
}
