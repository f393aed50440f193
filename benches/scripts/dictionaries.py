from collections import defaultdict, Counter
d={}; dd=defaultdict(list); s=set(); c=0
for i in range(250000):
    k="k%d"%(i%2000); d[k]=d.get(k,0)+1; dd[i%500].append(i)
    if i%5==0: s.add(i%4096)
    if i%777 in s: c+=1
print(len(d),c,sum(map(len,dd.values())),Counter("".join(d))["k"])
