#!/usr/bin/env python3
"""Prints a JSON array of orders: the same for the same number, on any machine. orders-large.json is `make-orders.py 700`."""

import json
import sys

NAMES = ["Ada", "Bea \"Bee\"", "Chloë", "Dmitri", "Eve\\Adam", "Frank\tO'Hara", "Grace", "Zoë", "İpek", "Łukasz", "Ωmega", "山田"]
ITEMS = ["tea", "coffee", "bread", "a longer description of an item, with commas, {braces} and [brackets]"]

state = 1


def draw(below):
    # Knuth's 64-bit generator: Python's own may change between versions.
    global state
    state = (state * 6364136223846793005 + 1442695040888963407) % 2**64
    return (state >> 33) % below


def order():
    made = {"customer": NAMES[draw(len(NAMES))] + (f" {draw(40)}" if draw(2) else "")}
    made["item"] = ITEMS[draw(3) if draw(9) else 3]
    if draw(10):
        made["price"] = draw(100_000) - (5_000 if draw(10) == 0 else 0)
    if draw(3):
        made["count"] = draw(50)
    return made


orders = [json.dumps(order(), ensure_ascii=draw(2) == 0, separators=(",", ":")) for _ in range(int(sys.argv[1]))]
print("[" + ",\n".join(orders) + "]")
