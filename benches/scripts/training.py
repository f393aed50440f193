import json, re, random
random.seed(7)
class Node:
    def __init__(self,v): self.v=v; self.l=None; self.r=None
    def ins(self,v):
        n=self
        while True:
            if v<n.v:
                if n.l is None: n.l=Node(v); return
                n=n.l
            else:
                if n.r is None: n.r=Node(v); return
                n=n.r
    def walk(self):
        if self.l: yield from self.l.walk()
        yield self.v
        if self.r: yield from self.r.walk()
t=Node(500)
for i in range(3000): t.ins(random.randrange(1000))
total=sum(t.walk())
words=[m.group(0) for m in re.finditer(r"[a-z]+", "lorem ipsum dolor sit amet consectetur "*300)]
cnt={}
for w in words: cnt[w]=cnt.get(w,0)+1
rows=[{"n":i,"w":words[i%len(words)],"ok":i%3==0,"f":i/7} for i in range(300)]
blob=json.dumps(rows)
for _ in range(10): back=json.loads(blob)
back.sort(key=lambda r:(r["w"],-r["n"]))
def fib(n): return n if n<2 else fib(n-1)+fib(n-2)
s=set(); acc=[]
for i in range(20000):
    s.add(i%313)
    if i*7%313 in s: acc.append(str(i))
out=",".join(acc).replace("1","x").split("x")
try:
    for i in range(2000):
        try:
            if i%10==0: raise ValueError(i)
        except ValueError as e: total+=e.args[0]
finally: pass
print(total,len(back),fib(18),len(out),"%s %5.2f"%(cnt["sit"],1.5))
