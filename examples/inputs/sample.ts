/** A small order book: types, enums, generics, classes, decorator-free, with parts that only exist for the type checker. */
import type { Reader } from "./reader";

export enum Side {
  Buy = 1,
  Sell = -1,
}

const enum Flag {
  None = 0,
  Urgent = 1 << 0,
  Hidden = 1 << 1,
}

type Price = number & { readonly brand: unique symbol };
type Listener<E extends keyof Events> = (event: Events[E]) => void;

interface Order {
  readonly id: string;
  side: Side;
  price: Price;
  amount?: number;
  flags: Flag;
}

interface Events {
  added: Order;
  filled: { order: Order; by: Order; amount: number };
}

abstract class Emitter {
  private listeners: { [E in keyof Events]?: Listener<E>[] } = {};

  on<E extends keyof Events>(name: E, listener: Listener<E>): this {
    ((this.listeners[name] ??= []) as Listener<E>[]).push(listener);
    return this;
  }

  protected emit<E extends keyof Events>(name: E, event: Events[E]): void {
    for (const listener of (this.listeners[name] ?? []) as Listener<E>[]) listener(event);
  }
}

export class Book<T extends Order = Order> extends Emitter {
  static readonly empty = new Book();
  #orders = new Map<string, T>();

  constructor(public readonly name: string = "book", private now: () => number = Date.now) {
    super();
  }

  add(order: T): T | undefined {
    const before = this.#orders.get(order.id);
    this.#orders.set(order.id, order);
    this.emit("added", order);
    return before;
  }

  best(side: Side): T | null {
    let found: T | null = null;
    for (const order of this.#orders.values()) {
      if (order.side === side && (found?.price ?? -Infinity) * side < order.price * side) found = order;
    }
    return found satisfies Order | null;
  }

  get age(): string {
    return `${this.name}: ${(this.now() / 1000).toFixed(0)} s, ${this.#orders.size!} orders`;
  }
}

export function group<K extends PropertyKey, V>(values: Iterable<V>, key: (value: V) => K): Record<K, V[]> {
  const groups = {} as Record<K, V[]>;
  for (const value of values) (groups[key(value)] ??= []).push(value);
  return groups;
}

export const urgent = (order: Order): boolean => (order.flags & Flag.Urgent) !== Flag.None;
export async function load(from: Reader, book = Book.empty): Promise<number> {
  let count = 0;
  for await (const order of from) void book.add(<Order>order), count++;
  return count;
}
