# What all handlers have in common. It is frozen twice: once for all, with these imports, before it has a handler; and over that once for each
# handler, which is then defined.
import base64
import bisect
import calendar
import collections
import csv
import datetime
import fractions
import functools
import gc
import hashlib
import html
import itertools
import json
import math
import os
import random
import re
import string
import sys
import textwrap
import urllib.parse
import uuid

LIMIT = 1 << 20

gc.disable()  # a collection writes to all objects, which would be in each handler's layer
source = os.read(0, LIMIT)  # here the base is frozen; all of `--base-input` is there when it wakes
if not 0 < len(source) < LIMIT:
    sys.exit(f"a handler has between 1 and {LIMIT - 1} bytes, not {len(source)}")
handler = {"__name__": "handler"}
exec(compile(source, "handler.py", "exec"), handler)
handle = handler["handle"]
gc.enable()

text = sys.stdin.read()  # here the handler's image is frozen, and here each call wakes

random.seed()  # `random` was seeded when it was imported: now it draws anew, for this call
try:
    answer, code = handle(json.loads(text)), 0
except (ValueError, AttributeError) as error:
    answer, code = {"error": str(error)}, 1
json.dump(answer, sys.stdout)
sys.stdout.write("\n")
sys.stdout.flush()
os._exit(code)  # without taking down the interpreter, which would touch its whole heap
