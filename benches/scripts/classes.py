class P:
    __slots__=("x","y")
    def __init__(self,x,y): self.x=x; self.y=y
    def add(self,o): return P((self.x+o.x)%1000,(self.y+o.y)%1000)
    @property
    def norm(self): return self.x*self.x+self.y*self.y
class Q(P):
    def add(self,o):
        p=super().add(o); return Q(p.x,p.y)
q=Q(1,2); s=0
for i in range(120000):
    q=q.add(P(i%7,i%11)); s+=q.norm
print(s)
