"""Reads a JSON array of orders from standard input and writes what it found as JSON: always the same for the same input."""

import hashlib
import json
import re
import sys
from collections import Counter, defaultdict

text = sys.stdin.buffer.read()
orders = json.loads(text)

totals = defaultdict(int)
items = Counter()
for order in orders:
    totals[order["customer"]] += order.get("price", 0) * order.get("count", 1)
    items[order.get("item", "")] += 1

digest = hashlib.sha256()
for name, total in sorted(totals.items()):
    digest.update(f"{name}={total}\n".encode())

report = {
    "orders": len(orders),
    "items": dict(sorted(items.items())),
    "words": sorted({word.lower() for order in orders for word in re.findall(r"\w+", order["customer"])}),
    "totals": dict(sorted(totals.items())),
    "input": {name: hashlib.new(name, text).hexdigest() for name in ("md5", "sha1", "sha256", "blake2b", "sha3_256")},
    "digest": digest.hexdigest(),
}
json.dump(report, sys.stdout, ensure_ascii=False, indent=2)
print()
