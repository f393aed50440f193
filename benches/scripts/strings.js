let t="";for(let i=0;i<3000;i++)t+="word"+(i%123)+" ";let c=0;
for(let r=0;r<20;r++){let w=t.split(" ");c+=w.map(x=>x.toUpperCase()).join("-").length;c+=t.replace(/word(\d+)/g,(m,d)=>d+"!").length;c+=t.indexOf("word122 ");}
console.log(c);
