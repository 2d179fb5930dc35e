// Points of the map: sorted into cells for hit-testing, and into buckets of one colour for drawing.

// The range of nearly all values: what lies within three times the spread of the middle 98%.
function inner(values) {
  const sorted = Float32Array.from(values).sort(), at = (share) => sorted[Math.round(share * (sorted.length - 1))];
  if (!sorted.length) return [0, 1];
  const slack = at(.99) - at(.01);
  return [Math.max(sorted[0], at(.01) - slack), Math.min(sorted[sorted.length - 1], at(.99) + slack)];
}

class CellIndex {
  constructor(x, y, side = 160) {
    this.x = x; this.y = y; this.side = side;
    [this.left, this.right] = extent(x) || [0, 1];
    [this.low, this.high] = extent(y) || [0, 1];
    this.size = Math.max(this.right - this.left, this.high - this.low, 1e-9) / side;
    const starts = new Uint32Array(side * side + 1), cellOf = new Uint32Array(x.length);
    for (let point = 0; point < x.length; point++) {
      cellOf[point] = this.cell(this.column(x[point]), this.row(y[point]));
      starts[cellOf[point] + 1]++;
    }
    for (let cell = 0; cell < side * side; cell++) starts[cell + 1] += starts[cell];
    const next = starts.slice(), order = new Uint32Array(x.length);
    for (let point = 0; point < x.length; point++) order[next[cellOf[point]]++] = point;
    this.starts = starts; this.order = order;
  }
  column(x) { return clamp(Math.floor((x - this.left) / this.size), 0, this.side - 1); }
  row(y) { return clamp(Math.floor((y - this.low) / this.size), 0, this.side - 1); }
  cell(column, row) { return row * this.side + column; }

  // Calls `visit` with every point of the cells that a rectangle touches.
  within(left, low, right, high, visit) {
    for (let row = this.row(low); row <= this.row(high); row++) {
      for (let cell = this.cell(this.column(left), row), last = this.cell(this.column(right), row); cell <= last; cell++) {
        for (let place = this.starts[cell]; place < this.starts[cell + 1]; place++) visit(this.order[place]);
      }
    }
  }

  // The point nearest to a place, at most `reach` away; null if there is none.
  nearest(x, y, reach, accept = () => true) {
    let best = null, least = reach * reach;
    this.within(x - reach, y - reach, x + reach, y + reach, (point) => {
      const away = (this.x[point] - x) ** 2 + (this.y[point] - y) ** 2;
      if ((away < least || (away === least && best !== null && point < best)) && accept(point)) { best = point; least = away; }
    });
    return best;
  }
}

// Points grouped by bucket: their places in one array, so that a colour is drawn in one pass over contiguous numbers.
class Buckets {
  constructor(bucketOf, x, y, count) {
    this.starts = new Uint32Array(count + 1);
    for (const bucket of bucketOf) this.starts[bucket + 1]++;
    for (let bucket = 0; bucket < count; bucket++) this.starts[bucket + 1] += this.starts[bucket];
    const next = this.starts.slice();
    this.x = new Float32Array(x.length); this.y = new Float32Array(x.length);
    for (let point = 0; point < x.length; point++) {
      const place = next[bucketOf[point]]++;
      this.x[place] = x[point]; this.y[place] = y[point];
    }
    this.count = count;
  }

  // Draws every bucket with its colour; a point is at pixel (x * scale + dx, y * scale + dy) of the image.
  draw(context, colours, view) {
    if (view.round) this.drawDiscs(context, colours, view); else this.drawSquares(context, colours, view);
  }

  // Many small points: written straight into the pixels, several times faster than one call a point.
  drawSquares(context, colours, { scale, dx, dy, width, height, size }) {
    if (!this.image || this.image.width !== width || this.image.height !== height) this.image = context.createImageData(width, height);
    const pixels = new Uint32Array(this.image.data.buffer), side = Math.max(Math.round(size), 1), half = side / 2;
    pixels.fill(0);
    for (let bucket = 0; bucket < this.count; bucket++) {
      const [red, green, blue] = rgbOf(colours[bucket]), colour = (255 << 24 | blue << 16 | green << 8 | red) >>> 0;
      for (let place = this.starts[bucket]; place < this.starts[bucket + 1]; place++) {
        const left = Math.round(this.x[place] * scale + dx - half), top = Math.round(this.y[place] * scale + dy - half);
        if (left < 0 || top < 0 || left + side > width || top + side > height) continue;
        for (let row = top * width + left, end = row + side * width; row < end; row += width) {
          for (let pixel = row; pixel < row + side; pixel++) pixels[pixel] = colour;
        }
      }
    }
    context.putImageData(this.image, 0, 0);
  }

  drawDiscs(context, colours, { scale, dx, dy, width, height, size }) {
    const half = size / 2;
    context.clearRect(0, 0, width, height);
    for (let bucket = 0; bucket < this.count; bucket++) {
      context.fillStyle = colours[bucket];
      context.beginPath();
      for (let place = this.starts[bucket]; place < this.starts[bucket + 1]; place++) {
        const px = this.x[place] * scale + dx, py = this.y[place] * scale + dy;
        if (px < -half || py < -half || px > width + half || py > height + half) continue;
        context.moveTo(px + half, py);
        context.arc(px, py, half, 0, 2 * Math.PI);
      }
      context.fill();
    }
  }
}
