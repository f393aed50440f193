function qs(a,l,h){if(l<h){let p=a[h],i=l;for(let j=l;j<h;j++)if(a[j]<p){let t=a[i];a[i++]=a[j];a[j]=t}let t=a[i];a[i]=a[h];a[h]=t;qs(a,l,i-1);qs(a,i+1,h)}}
let x=12345;function rnd(){x=(x*1103515245+12345)&0x7fffffff;return x}
let c=0;for(let r=0;r<6;r++){let a=[];for(let i=0;i<20000;i++)a.push(rnd()%100000);qs(a,0,a.length-1);c+=a[500];let b=a.map(v=>(v*7919)%100003);b.sort((p,q)=>p-q);c+=b[77]}
console.log(c);
