// Packed blocks back to arrays. Every block is deflated little-endian bytes in base64, in a script element of its own.

// What draws the sections of a kind; each stands beside its drawing.
const drawings = new Map();

const KINDS = { u1: Uint8Array, u2: Uint16Array, u4: Uint32Array, i4: Int32Array, f4: Float32Array, f8: Float64Array };
const unpacked = new Map();

function unpack(name) {
  if (!unpacked.has(name)) unpacked.set(name, inflate(document.getElementById(name)));
  return unpacked.get(name);
}

async function inflate(element) {
  const binary = atob(element.textContent);
  const packed = new Uint8Array(binary.length);
  for (let place = 0; place < binary.length; place++) packed[place] = binary.charCodeAt(place);
  element.remove();
  const stream = new Blob([packed]).stream().pipeThrough(new DecompressionStream("deflate"));
  return new Response(stream).arrayBuffer();
}

async function readJson(name) {
  return JSON.parse(new TextDecoder().decode(await unpack(name)));
}

// The array or list of texts that a reference of the index stands for; null for no reference.
async function read(reference) {
  if (!reference) return null;
  if (reference.kind === "json") return readJson(reference.block);
  return new KINDS[reference.kind](await unpack(reference.block));
}

// All references of an object at once; other values are kept.
async function readAll(object) {
  const isReference = (value) => value && typeof value === "object" && typeof value.block === "string";
  const entries = Object.entries(object).map(async ([key, value]) => [key, isReference(value) ? await read(value) : value]);
  return Object.fromEntries(await Promise.all(entries));
}

// Rows of a small table, as objects.
function rowsOf(table) {
  const columns = Object.entries(table.columns);
  return Array.from({ length: table.rows }, (_, place) =>
    Object.fromEntries(columns.map(([name, column]) => [name, column.values[place]])));
}

const isNumber = (value) => typeof value === "number" && Number.isFinite(value);
const extent = (values) => {
  let low = Infinity, high = -Infinity;
  for (const value of values) if (isNumber(value)) { low = Math.min(low, value); high = Math.max(high, value); }
  return low <= high ? [low, high] : null;
};
