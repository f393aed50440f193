class P{constructor(x,y){this.x=x;this.y=y} add(o){return new P(this.x+o.x,this.y+o.y)} get len(){return Math.sqrt(this.x*this.x+this.y*this.y)}}
class Q extends P{add(o){let p=super.add(o);return new Q(p.x%1000,p.y%1000)}}
let q=new Q(1,2),s=0;for(let i=0;i<200000;i++){q=q.add({x:i%7,y:i%11});s+=q.len}
console.log(Math.round(s));
