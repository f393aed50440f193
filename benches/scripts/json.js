let data=[];for(let i=0;i<400;i++)data.push({id:i,name:"item"+i,tags:["a","b","c"+i%7],price:i*1.25,nested:{x:i,y:[i,i+1]}});
let c=0;for(let r=0;r<60;r++){let s=JSON.stringify(data);let d=JSON.parse(s);c+=d.length+s.length}
console.log(c);
