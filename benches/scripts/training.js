// What the compiler learns from: a bit of everything, and none of what is measured.
let words = "lorem ipsum dolor sit amet consectetur adipiscing elit".split(" ");
class Node {
    constructor(value) { this.value = value; this.left = null; this.right = null }
    insert(value) {
        let node = this;
        for (;;) {
            let side = value < node.value ? "left" : "right";
            if (node[side] === null) { node[side] = new Node(value); return }
            node = node[side];
        }
    }
    *walk() { if (this.left) yield* this.left.walk(); yield this.value; if (this.right) yield* this.right.walk() }
}
let seed = 7, random = n => (seed = (seed * 16807) % 2147483647) % n;
let tree = new Node(500), total = 0;
for (let i = 0; i < 3000; i++) tree.insert(random(1000));
for (let value of tree.walk()) total += value;
let counts = {}, seen = new Map(), set = new Set();
for (let i = 0; i < 20000; i++) {
    let word = words[random(words.length)] + i % 89;
    counts[word] = (counts[word] || 0) + 1;
    seen.set(word, i);
    set.add(i % 313);
    if (set.has(i * 7 % 911)) total += 1;
}
let rows = []; for (let i = 0; i < 300; i++) rows.push({ n: i, w: words[i % 8], ok: i % 3 == 0, f: i / 7, l: [i, -i] });
let text = JSON.stringify(rows), back; for (let i = 0; i < 10; i++) back = JSON.parse(text);
back.sort((a, b) => a.w < b.w ? -1 : a.w > b.w ? 1 : b.n - a.n);
let fib = n => n < 2 ? n : fib(n - 1) + fib(n - 2);
let parts = text.split(",").filter(part => /[aeiou]+\w*"/.test(part)).map(part => part.trim().slice(1).toUpperCase()).join("+");
let typed = new Float64Array(500); for (let r = 0; r < 40; r++) for (let i = 0; i < 500; i++) typed[i] = Math.sqrt(typed[i] + i * r);
let caught = 0; for (let i = 0; i < 2000; i++) try { if (i % 10 == 0) throw new Error("" + i); caught += i } catch (error) { caught -= error.message.length }
let closures = []; for (let i = 0; i < 200; i++) closures.push(x => x + i); for (let r = 0; r < 50; r++) for (let f of closures) total = f(total) % 1000003;
let { n, ...others } = back[0]; let [first, ...rest] = back;
console.log(total, back.length, fib(18), parts.length, Object.keys(counts).sort().length, typed[77] | 0, caught, rest.length, `${seen.size}-${n}`);
