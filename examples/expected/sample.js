export var Side = /* @__PURE__ */ ((Side2) => {
  Side2[Side2["Buy"] = 1] = "Buy";
  Side2[Side2["Sell"] = -1] = "Sell";
  return Side2;
})(Side || {});
var Flag = /* @__PURE__ */ ((Flag2) => {
  Flag2[Flag2["None"] = 0] = "None";
  Flag2[Flag2["Urgent"] = 1] = "Urgent";
  Flag2[Flag2["Hidden"] = 2] = "Hidden";
  return Flag2;
})(Flag || {});
class Emitter {
  listeners = {};
  on(name, listener) {
    (this.listeners[name] ??= []).push(listener);
    return this;
  }
  emit(name, event) {
    for (const listener of this.listeners[name] ?? []) listener(event);
  }
}
export class Book extends Emitter {
  constructor(name = "book", now = Date.now) {
    super();
    this.name = name;
    this.now = now;
  }
  static empty = new Book();
  #orders = /* @__PURE__ */ new Map();
  add(order) {
    const before = this.#orders.get(order.id);
    this.#orders.set(order.id, order);
    this.emit("added", order);
    return before;
  }
  best(side) {
    let found = null;
    for (const order of this.#orders.values()) {
      if (order.side === side && (found?.price ?? -Infinity) * side < order.price * side) found = order;
    }
    return found;
  }
  get age() {
    return `${this.name}: ${(this.now() / 1e3).toFixed(0)} s, ${this.#orders.size} orders`;
  }
}
export function group(values, key) {
  const groups = {};
  for (const value of values) (groups[key(value)] ??= []).push(value);
  return groups;
}
export const urgent = (order) => (order.flags & 1 /* Urgent */) !== 0 /* None */;
export async function load(from, book = Book.empty) {
  let count = 0;
  for await (const order of from) void book.add(order), count++;
  return count;
}
