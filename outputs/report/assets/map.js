// The map: two canvases, one for all points, one for what is pointed at; pan and zoom by pointer, wheel, touch and keys.

const PICK_REACH = 12, MANY = 6000, NEAR = 14, ZOOM_STEP = 1.6, PAN_STEP = 80, MOST_NAMES = 70;
const shortened = (text) => text.length > 48 ? `${text.slice(0, 47)}\u2026` : text;

class TokenMap {
  // data: {x, y, names, degree}; label(point) and title(point) give texts; onPick(point) is told what was chosen.
  constructor(data, { label, describe, onPick }) {
    Object.assign(this, { data, label, describe, onPick });
    this.index = new CellIndex(data.x, data.y);
    // A few points far out must not shrink all others to a dot; they are found by zooming out.
    this.bounds = [...inner(data.x), ...inner(data.y)];
    this.hovered = null; this.selected = null; this.linked = []; this.keyboard = false;
    this.under = el("canvas", { "aria-hidden": "true" });
    this.over = el("canvas", { class: "over", tabindex: 0, role: "application",
      "aria-label": "Map of tokens. Arrow keys move it, plus and minus zoom, zero shows all, Enter chooses the token at the centre, Shift and an arrow key goes to the next token that way." });
    this.tip = el("div", { class: "tip", hidden: true });
    const tool = (text, name, act) => el("button", { type: "button", "aria-label": name, title: name, onclick: act }, text);
    this.node = el("div", { class: "map" }, this.under, this.over, this.tip, el("div", { class: "tools" },
      tool("+", "Zoom in", () => this.zoom(ZOOM_STEP)), tool(MINUS, "Zoom out", () => this.zoom(1 / ZOOM_STEP)), tool("\u2302", "Show all", () => this.fit())));
    new ResizeObserver(() => this.resize()).observe(this.node);
    onScheme(() => this.redraw());
    this.listen();
  }

  colourBy(buckets, colours) { this.buckets = buckets; this.colours = colours; this.redraw(); }

  resize() {
    const { clientWidth: width, clientHeight: height } = this.node, ratio = Math.min(window.devicePixelRatio || 1, 2);
    if (!width || !height) return;
    const first = !this.width;
    for (const canvas of [this.under, this.over]) { canvas.width = width * ratio; canvas.height = height * ratio; }
    if (!first && (width !== this.width || height !== this.height)) { this.dx += (width - this.width) / 2; this.dy += (height - this.height) / 2; }
    Object.assign(this, { width, height, ratio });
    if (first) this.fit(); else this.drawNow();
  }

  fit() {
    const margin = 26, [left, right, low, high] = this.bounds;
    this.least = Math.min((this.width - 2 * margin) / (right - left || 1), (this.height - 2 * margin) / (high - low || 1));
    this.scale = this.least;
    this.centre((left + right) / 2, (low + high) / 2);
  }

  centre(x, y) { this.dx = this.width / 2 - x * this.scale; this.dy = this.height / 2 - y * this.scale; this.drawNow(); }

  zoom(factor, px = this.width / 2, py = this.height / 2) {
    const scale = clamp(this.scale * factor, this.least / 8, this.least * 400);
    this.dx = px - (px - this.dx) * scale / this.scale;
    this.dy = py - (py - this.dy) * scale / this.scale;
    this.scale = scale;
    this.redraw();
  }

  pan(dx, dy) { this.dx += dx; this.dy += dy; this.redraw(); }

  // approach: go up to the token, where it was searched; reveal: bring it into view, where a list led to it.
  select(point, linked, { reveal = true, approach = false } = {}) {
    this.selected = point; this.linked = linked;
    if (point !== null && approach && this.width) {
      this.scale = Math.max(this.scale, this.least * NEAR);
      this.centre(this.data.x[point], this.data.y[point]);
      return;
    }
    if (point !== null && reveal && this.width) {
      const [px, py] = this.pixel(point);
      if (px < 40 || py < 40 || px > this.width - 60 || py > this.height - 40) { this.centre(this.data.x[point], this.data.y[point]); return; }
    }
    this.redrawOver();
  }

  pixel(point) { return [this.data.x[point] * this.scale + this.dx, this.data.y[point] * this.scale + this.dy]; }
  at(px, py, reach = PICK_REACH) { return this.index.nearest((px - this.dx) / this.scale, (py - this.dy) / this.scale, reach / this.scale); }

  redraw() { this.dirty = true; this.request(); }
  redrawOver() { this.request(); }
  request() {
    if (this.waiting || !this.width) return;
    this.waiting = true;
    requestAnimationFrame(() => { this.waiting = false; if (this.dirty) this.drawNow(); else this.drawOver(); });
  }

  drawNow() {
    if (!this.width || !this.buckets) return;
    this.dirty = false;
    const context = this.under.getContext("2d"), zoom = this.scale / this.least;
    const crowd = this.data.x.length > 8000 ? 1.7 : this.data.x.length > 1500 ? 2.6 : 4;
    this.size = clamp(crowd * Math.sqrt(zoom), 1.5, 11);
    const { ratio } = this;
    this.buckets.draw(context, this.colours(), { scale: this.scale * ratio, dx: this.dx * ratio, dy: this.dy * ratio, width: this.under.width, height: this.under.height, size: this.size * ratio, round: zoom > 4 });
    this.drawOver();
  }

  drawOver() {
    const context = this.over.getContext("2d");
    context.setTransform(this.ratio, 0, 0, this.ratio, 0, 0);
    context.clearRect(0, 0, this.width, this.height);
    context.direction = "ltr";
    context.lineJoin = "round";
    const ink = variable("--mark"), look = { ink, halo: variable("--halo"), font: `12px ${variable("--sans")}` };
    const taken = [];
    if (this.selected !== null) this.drawLinks(context, look, taken);
    this.drawNames(context, look, taken);
    if (this.hovered !== null && this.hovered !== this.selected) this.ring(context, this.hovered, 6, ink, 1.5);
    if (this.keyboard && document.activeElement === this.over) {
      const x = this.width / 2, y = this.height / 2;
      context.strokeStyle = ink; context.lineWidth = 1;
      context.beginPath(); context.moveTo(x - 9, y); context.lineTo(x + 9, y); context.moveTo(x, y - 9); context.lineTo(x, y + 9); context.stroke();
    }
  }

  drawLinks(context, look, taken) {
    const [sx, sy] = this.pixel(this.selected);
    context.strokeStyle = look.ink;
    context.lineWidth = 1;
    context.globalAlpha = .45;
    context.beginPath();
    for (const point of this.linked) { const [px, py] = this.pixel(point); context.moveTo(sx, sy); context.lineTo(px, py); }
    context.stroke();
    context.globalAlpha = 1;
    for (const point of this.linked) {
      // From afar, rings around neighbours that lie close would be one blot.
      const [px, py] = this.pixel(point), apart = Math.hypot(px - sx, py - sy) > 16 || this.scale > this.least * 4;
      if (apart) this.ring(context, point, this.size / 2 + 1.5, look.ink, 1.25);
    }
    this.ring(context, this.selected, Math.max(6, this.size / 2 + 3), look.ink, 2.5);
    this.text(context, this.label(this.selected), sx, sy - 15, look, taken, 600, true);
  }

  ring(context, point, radius, colour, width) {
    const [px, py] = this.pixel(point);
    context.strokeStyle = colour; context.lineWidth = width;
    context.beginPath(); context.arc(px, py, radius, 0, 2 * Math.PI); context.stroke();
  }

  // Names of communities from afar, of tokens from near; the larger and the better linked first, none over another.
  drawNames(context, look, taken) {
    if (this.scale > this.least * 3) {
      const visible = [], edge = (px, shift) => (px - shift) / this.scale;
      this.index.within(edge(0, this.dx), edge(0, this.dy), edge(this.width, this.dx), edge(this.height, this.dy), (point) => visible.push(point));
      if (visible.length <= MANY) {
        const first = new Set(this.linked);
        visible.sort((a, b) => first.has(b) - first.has(a) || this.data.degree[b] - this.data.degree[a] || a - b);
        for (const point of visible.slice(0, 250)) {
          const [px, py] = this.pixel(point);
          this.text(context, this.label(point), px, py - 9, look, taken, 400);
        }
        return;
      }
    }
    this.drawCommunityNames(context, look, taken);
  }

  // One token for as many communities as find room; then up to three where they still fit.
  drawCommunityNames(context, look, taken) {
    const written = [];
    for (const name of this.data.names) {
      const px = name.x * this.scale + this.dx, py = name.y * this.scale + this.dy;
      if (px < 0 || py < 0 || px > this.width || py > this.height) continue;
      const box = this.room(context, name.texts[0], px, py, look, taken, 500);
      if (!box) continue;
      taken.push(box);
      written.push({ name, px, py, box });
      if (written.length === MOST_NAMES) break;
    }
    for (const { name, px, py, box } of written) {
      taken.splice(taken.indexOf(box), 1);
      [3, 1].some((count) => this.text(context, name.texts.slice(0, count).join(", "), px, py, look, taken, 500));
    }
  }

  // The box that a text would fill, or null where it would leave the map or lie over what is there.
  room(context, text, x, y, look, taken, weight, always = false) {
    context.font = `${weight} ${look.font}`;
    context.textAlign = "center"; context.textBaseline = "middle";
    const half = context.measureText(shortened(text)).width / 2 + 3;
    const box = [x - half, y - 9, x + half, y + 9];
    if (always) return box;
    if (box[0] < 2 || box[2] > this.width - 2 || box[1] < 2 || box[3] > this.height - 2 || (box[2] > this.width - 52 && box[1] < 120)) return null;
    return taken.some((one) => box[0] < one[2] && box[2] > one[0] && box[1] < one[3] && box[3] > one[1]) ? null : box;
  }

  text(context, text, x, y, look, taken, weight, always = false) {
    const box = this.room(context, text, x, y, look, taken, weight, always);
    if (!box) return false;
    taken.push(box);
    context.strokeStyle = look.halo; context.lineWidth = 5; context.strokeText(shortened(text), x, y);
    context.fillStyle = look.ink; context.fillText(shortened(text), x, y);
    return true;
  }

  hover(point, px, py) {
    if (point === this.hovered) return;
    this.hovered = point;
    this.tip.hidden = point === null;
    if (point !== null) {
      this.tip.replaceChildren(...this.describe(point));
      this.tip.style.left = `${px + (px > this.width - 220 ? -12 - this.tip.offsetWidth : 14)}px`;
      this.tip.style.top = `${py + (py > this.height - 80 ? -12 - this.tip.offsetHeight : 12)}px`;
    }
    this.redrawOver();
  }

  listen() {
    const held = new Map();
    let moved = 0;
    const place = (event) => { const box = this.over.getBoundingClientRect(); return [event.clientX - box.left, event.clientY - box.top]; };
    this.over.addEventListener("pointerdown", (event) => {
      if (event.button > 0) return;
      this.keyboard = false;
      this.over.setPointerCapture(event.pointerId);
      held.set(event.pointerId, place(event));
      if (held.size === 1) moved = 0;
    });
    this.over.addEventListener("pointermove", (event) => {
      const [px, py] = place(event), before = held.get(event.pointerId);
      if (!before) { this.hover(this.at(px, py), px, py); return; }
      held.set(event.pointerId, [px, py]);
      if (held.size === 2) {
        const other = [...held].find(([id]) => id !== event.pointerId)[1], apart = ([x, y]) => Math.hypot(x - other[0], y - other[1]);
        this.zoom(apart([px, py]) / Math.max(apart(before), 1), other[0], other[1]);
        moved = 99;
        return;
      }
      moved += Math.hypot(px - before[0], py - before[1]);
      if (moved > 4) { this.over.classList.add("dragging"); this.hover(null); this.pan(px - before[0], py - before[1]); }
    });
    const release = (event) => {
      if (!held.delete(event.pointerId)) return;
      this.over.classList.remove("dragging");
      const [px, py] = place(event);
      if (event.type === "pointerup" && moved <= 4) { const point = this.at(px, py); if (point !== null) this.onPick(point); }
    };
    this.over.addEventListener("pointerup", release);
    this.over.addEventListener("pointercancel", release);
    this.over.addEventListener("pointerleave", () => this.hover(null));
    // The wheel scrolls the page until the map has the focus, so that nobody is caught in it.
    this.over.addEventListener("wheel", (event) => {
      if (!event.ctrlKey && !event.metaKey && document.activeElement !== this.over) return;
      event.preventDefault();
      this.zoom(Math.exp(-clamp(event.deltaY * (event.deltaMode ? 20 : 1), -240, 240) * .0022), ...place(event));
    }, { passive: false });
    this.over.addEventListener("keydown", (event) => this.key(event));
    this.over.addEventListener("focus", () => { this.keyboard = this.over.matches(":focus-visible"); this.redrawOver(); });
    this.over.addEventListener("blur", () => this.redrawOver());
  }

  key(event) {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const way = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[event.key];
    this.keyboard = true;
    if (way && event.shiftKey) this.step(way);
    else if (way) this.pan(-way[0] * PAN_STEP, -way[1] * PAN_STEP);
    else if (event.key === "+" || event.key === "=") this.zoom(ZOOM_STEP);
    else if (event.key === "-") this.zoom(1 / ZOOM_STEP);
    else if (event.key === "0") this.fit();
    else if (event.key === "Enter") { const point = this.at(this.width / 2, this.height / 2, Math.max(this.width, this.height)); if (point !== null) this.onPick(point); }
    else return;
    event.preventDefault();
  }

  // To the nearest token within 45 degrees of a direction, from the selected one or from the centre.
  step([wayX, wayY]) {
    const from = this.selected === null ? [(this.width / 2 - this.dx) / this.scale, (this.height / 2 - this.dy) / this.scale] : [this.data.x[this.selected], this.data.y[this.selected]];
    for (let reach = 12 / this.scale; reach < 4 * this.width / this.least; reach *= 2) {
      const point = this.index.nearest(...from, reach, (one) => {
        const along = (this.data.x[one] - from[0]) * wayX + (this.data.y[one] - from[1]) * wayY;
        const aside = Math.abs((this.data.x[one] - from[0]) * wayY + (this.data.y[one] - from[1]) * wayX);
        return one !== this.selected && along > 0 && aside <= along;
      });
      if (point !== null) { this.onPick(point); return; }
    }
  }
}
