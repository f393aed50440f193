x=12345
def rnd():
    global x
    x=(x*1103515245+12345)&0x7fffffff
    return x
def qs(a):
    if len(a)<2: return a
    p=a[len(a)//2]
    return qs([v for v in a if v<p])+[v for v in a if v==p]+qs([v for v in a if v>p])
c=0
for r in range(5):
    a=[rnd()%100000 for _ in range(15000)]; b=qs(a); c+=b[500]; e=sorted(a,key=lambda v:(v*7919)%100003); c+=e[77]
print(c)
