// Reads a JSON array of orders from standard input and writes their totals by customer, sorted by name, to standard output:
//   [{"customer":"Ada","item":"tea","price":250,"count":2}, …]  →  {"Ada":500, …, "total":…}
// Exit status 2 when the input is not such an array.
//
// AssemblyScript. Text stays in UTF-8 bytes from one end to the other: its strings are UTF-16, and would sort otherwise.

// @ts-ignore: decorator
@external("wasi_snapshot_preview1", "fd_write")
declare function fd_write(fd: u32, vectors: usize, count: u32, written: usize): u32;

const QUOTE: u8 = 0x22;
const BACKSLASH: u8 = 0x5c;

function code(c: string): u8 {
  return <u8>c.charCodeAt(0);
}

function fail(what: string): void {
  process.stderr.write("json: " + what + "\n");
  process.exit(2);
}

/** Bytes that grow. */
class Buffer {
  bytes: Uint8Array = new Uint8Array(1024);
  length: i32 = 0;

  private reserve(more: i32): void {
    if (this.length + more <= this.bytes.length) return;
    const larger = new Uint8Array(max(this.bytes.length * 2, this.length + more));
    larger.set(this.bytes);
    this.bytes = larger;
  }

  put(c: u8): void {
    this.reserve(1);
    unchecked((this.bytes[this.length++] = c));
  }

  text(what: string): void {
    for (let i = 0; i < what.length; i++) this.put(<u8>what.charCodeAt(i));
  }

  utf8(c: u32): void {
    if (c < 0x80) this.put(<u8>c);
    else if (c < 0x800) {
      this.put(<u8>(0xc0 | (c >> 6)));
      this.put(<u8>(0x80 | (c & 63)));
    } else {
      this.put(<u8>(0xe0 | (c >> 12)));
      this.put(<u8>(0x80 | ((c >> 6) & 63)));
      this.put(<u8>(0x80 | (c & 63)));
    }
  }

  taken(): Uint8Array {
    return this.bytes.slice(0, this.length);
  }
}

function compare(a: Uint8Array, b: Uint8Array): i32 {
  const common = min(a.length, b.length);
  const order = memory.compare(a.dataStart, b.dataStart, common);
  return order ? order : a.length - b.length;
}

class Customer {
  total: i64 = 0;
  constructor(public name: Uint8Array) {}
}

class Input {
  at: i32 = 0;
  constructor(private bytes: Uint8Array) {}

  private space(): void {
    while (this.at < this.bytes.length) {
      const c = this.bytes[this.at];
      if (c != 0x20 && c != 0x0a && c != 0x09 && c != 0x0d) break;
      this.at++;
    }
  }

  private starts(c: u8): bool {
    this.space();
    return this.at < this.bytes.length && this.bytes[this.at] == c;
  }

  take(c: string): bool {
    if (!this.starts(code(c))) return false;
    this.at++;
    return true;
  }

  expect(c: string): void {
    if (!this.take(c)) fail("expected `" + c + "`");
  }

  ended(): bool {
    this.space();
    return this.at == this.bytes.length;
  }

  private next(what: string): u8 {
    if (this.at == this.bytes.length) fail(what);
    return this.bytes[this.at++];
  }

  private escape(to: Buffer): void {
    const c = this.next("unfinished escape");
    if (c == code("n")) to.put(0x0a);
    else if (c == code("t")) to.put(0x09);
    else if (c == code("r")) to.put(0x0d);
    else if (c == code("b")) to.put(0x08);
    else if (c == code("f")) to.put(0x0c);
    else if (c == code("u")) {
      let value: u32 = 0;
      for (let i = 0; i < 4; i++) {
        const digit = <u32>this.next("unfinished escape");
        const letter = digit | 0x20;
        if (digit - 0x30 < 10) value = (value << 4) | (digit - 0x30);
        else if (letter - 0x61 < 6) value = (value << 4) | (letter - 0x61 + 10);
        else fail("bad escape");
      }
      to.utf8(value);
    } else to.put(c);
  }

  string(): Uint8Array {
    this.expect('"');
    const to = new Buffer();
    for (let c = this.next("unfinished string"); c != QUOTE; c = this.next("unfinished string")) {
      if (c == BACKSLASH) this.escape(to);
      else to.put(c);
    }
    return to.taken();
  }

  number(): i64 {
    const negative = this.take("-");
    const start = this.at;
    let value: i64 = 0;
    while (this.at < this.bytes.length && this.bytes[this.at] - 0x30 < 10) {
      value = value * 10 + <i64>(this.bytes[this.at++] - 0x30);
    }
    if (this.at == start) fail("expected a number");
    return negative ? -value : value;
  }

  skip(): void {
    if (this.starts(QUOTE)) this.string();
    else this.number();
  }
}

function order(input: Input, customers: Map<string, Customer>): void {
  let name: Uint8Array | null = null;
  let price: i64 = 0;
  let pieces: i64 = 1;
  input.expect("{");
  do {
    const key = String.UTF8.decode(input.string().buffer);
    input.expect(":");
    if (key == "customer") name = input.string();
    else if (key == "price") price = input.number();
    else if (key == "count") pieces = input.number();
    else input.skip();
  } while (input.take(","));
  input.expect("}");
  if (!name) {
    fail("an order without customer");
    return;
  }
  const key = String.UTF8.decode(name.buffer);
  if (!customers.has(key)) customers.set(key, new Customer(name));
  customers.get(key).total += price * pieces;
}

function readAll(): Uint8Array {
  let room = new ArrayBuffer(1 << 16);
  let size = 0;
  for (let n = process.stdin.read(room, size); n > 0; n = process.stdin.read(room, size)) {
    size += n;
    if (size < room.byteLength) continue;
    const larger = new ArrayBuffer(room.byteLength * 2);
    memory.copy(changetype<usize>(larger), changetype<usize>(room), size);
    room = larger;
  }
  return Uint8Array.wrap(room, 0, size);
}

// The shim's own `write` takes it for granted that everything is written at once.
function writeAll(output: Buffer): void {
  const vector = memory.data(3 * sizeof<usize>());
  for (let from: u32 = 0; from < <u32>output.length; ) {
    store<usize>(vector, output.bytes.dataStart + from);
    store<usize>(vector, <u32>output.length - from, sizeof<usize>());
    if (fd_write(1, vector, 1, vector + 2 * sizeof<usize>())) fail("the output could not be written");
    from += <u32>load<usize>(vector, 2 * sizeof<usize>());
  }
}

function quote(output: Buffer, text: Uint8Array): void {
  output.put(QUOTE);
  for (let i = 0; i < text.length; i++) {
    const c = text[i];
    if (c == QUOTE || c == BACKSLASH) output.put(BACKSLASH);
    if (c < 32) output.text("\\u00" + (c < 16 ? "0" : "1") + (c & 15).toString(16));
    else output.put(c);
  }
  output.put(QUOTE);
}

function main(): void {
  const input = new Input(readAll());
  const customers = new Map<string, Customer>();
  input.expect("[");
  if (!input.take("]")) {
    do order(input, customers);
    while (input.take(","));
    input.expect("]");
  }
  if (!input.ended()) fail("something follows the array");

  const sorted = customers.values().sort((a, b) => compare(a.name, b.name));
  const output = new Buffer();
  let total: i64 = 0;
  output.text("{");
  for (let i = 0; i < sorted.length; i++) {
    quote(output, sorted[i].name);
    output.text(":" + sorted[i].total.toString() + ",");
    total += sorted[i].total;
  }
  output.text('"total":' + total.toString() + "}\n");
  writeAll(output);
}

main();
