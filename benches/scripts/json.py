import json
data=[{"id":i,"name":"item%d"%i,"tags":["a","b","c%d"%(i%7)],"price":i*1.25,"nested":{"x":i,"y":[i,i+1]}} for i in range(400)]
c=0
for r in range(40):
    s=json.dumps(data); d=json.loads(s); c+=len(d)+len(s)
print(c)
