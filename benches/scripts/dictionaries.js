let m=new Map(),o={},s=new Set();let c=0;
for(let i=0;i<300000;i++){let k="k"+(i%2000);m.set(k,(m.get(k)||0)+1);o[k]=(o[k]|0)+i%3;if(i%5==0)s.add(i%4096);if(s.has(i%777))c++}
console.log(m.size,c,o.k77);
