import re
t=" ".join("word%d"%(i%123) for i in range(3000)); c=0
for r in range(30):
    w=t.split(" "); c+=len("-".join(x.upper() for x in w)); c+=len(re.sub(r"word(\d+)",lambda m:m.group(1)+"!",t)); c+=t.find("word122 "); c+=sum(1 for ch in t if ch=="w")
print(c)
