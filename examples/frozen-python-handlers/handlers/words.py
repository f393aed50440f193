import re

WORD = re.compile(r"[A-Za-z']+")


def handle(event):
    words = WORD.findall(event.get("text", ""))
    return {"words": len(words), "longest": max(words, key=len, default=None)}
