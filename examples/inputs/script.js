// Works on data of its own making and prints what came of it: always the same.

class Random {
  #state;
  constructor(seed) {
    this.#state = seed >>> 0;
  }
  next(below) {
    this.#state = (Math.imul(this.#state, 1664525) + 1013904223) >>> 0;
    return Math.floor(this.#state * 2 ** -32 * below);
  }
}

function* orders(count, random) {
  const names = ["Ada", "Bea", "Chloë", "Dmitri", "Zoë"];
  for (let i = 0; i < count; i++) {
    yield { id: i, customer: names[random.next(names.length)], price: random.next(1000), count: 1 + random.next(9) };
  }
}

function fnv1a(text) {
  let hash = 0x811c9dc5;
  for (const c of text) hash = Math.imul(hash ^ c.codePointAt(0), 0x01000193) >>> 0;
  return hash.toString(16).padStart(8, "0");
}

const all = [...orders(500, new Random(42))];
const totals = new Map();
for (const { customer, price, count } of all) totals.set(customer, (totals.get(customer) ?? 0) + price * count);

const sorted = [...totals].sort(([a], [b]) => (a < b ? -1 : 1));
const text = JSON.stringify(all);
const back = JSON.parse(text, (key, value) => (key === "price" ? BigInt(value) ** 5n : value));
const sum = back.reduce((total, { price }) => total + price, 0n);
const words = "the quick brown fox jumps over the lazy dog".replace(/\b(\w)(\w*)/g, (_, a, b) => a.toUpperCase() + b);

for (const [name, total] of sorted) console.log(`${name.padEnd(8, ".")}${String(total).padStart(10)}`);
console.log(JSON.stringify({ orders: all.length, hash: fnv1a(text), sum: sum.toString(), words }));
