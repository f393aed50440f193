use preheat_compiler::*;
use preheat_image::native::*;
use preheat_image::*;
use std::time::Instant;
fn main() {
    let args: Vec<String> = std::env::args().collect();
    let wasm = std::fs::read(&args[1]).unwrap();
    let rounds: usize = args[2].parse().unwrap();
    let make = |capture| {
        Compiler::new(CompileOptions { capture, threads: std::num::NonZero::new(1), ..CompileOptions::new(CpuLevel::V3) }).unwrap()
    };
    let (mut ratios, mut sizes) = (Vec::new(), (0, 0));
    let mut objects = (Vec::new(), Vec::new());
    for _ in 0..rounds {
        let t = Instant::now();
        let a = make(false).compile(&wasm, Digest::ZERO).unwrap();
        let normal = t.elapsed();
        let t = Instant::now();
        let b = make(true).compile(&wasm, Digest::ZERO).unwrap();
        let capture = t.elapsed();
        println!("normal {normal:?} capture {capture:?} ratio {:.2}", capture.as_secs_f64() / normal.as_secs_f64());
        ratios.push(capture.as_secs_f64() / normal.as_secs_f64());
        sizes = (NativeCode::parse(&a).unwrap().text.size, NativeCode::parse(&b).unwrap().text.size);
        objects = (a, b);
    }
    ratios.sort_by(f64::total_cmp);
    let code = NativeCode::parse(&objects.1).unwrap();
    let frames: Vec<u32> = code.sites.iter().map(|s| s.count.get()).collect();
    println!(
        "text {} -> {} ({:.2}), file {} -> {} ({:.2}), time ratio {:.2}; {} sites, {} values",
        sizes.0,
        sizes.1,
        sizes.1 as f64 / sizes.0 as f64,
        objects.0.len(),
        objects.1.len(),
        objects.1.len() as f64 / objects.0.len() as f64,
        ratios[ratios.len() / 2],
        frames.len(),
        frames.iter().sum::<u32>()
    );
    // resume objects
    let all: Vec<Site> = code.sites.iter().map(|s| Site { function: s.function.get(), offset: s.site.get() }).collect();
    // the largest functions
    let mut ranges: Vec<_> = NativeCode::parse(&objects.0).unwrap().ranges.to_vec();
    ranges.sort_by_key(|r| std::cmp::Reverse(r.size.get()));
    for range in ranges.iter().take(3) {
        let f = range.index.get();
        let own: Vec<Site> = all.iter().copied().filter(|s| s.function == f).collect();
        if own.is_empty() {
            continue;
        }
        for at in [0, own.len() / 2, own.len() - 1] {
            let t = Instant::now();
            let r = make(false).resume(&wasm, &objects.0, &own[at..=at], Digest::ZERO).unwrap();
            let took = t.elapsed();
            let t = Instant::now();
            let rc = make(true).resume(&wasm, &objects.1, &own[at..=at], Digest::ZERO).unwrap();
            println!(
                "{} ({} bytes of code, wasm {}): site {at} of {}: {took:?}, text {}; capture {:?} text {}",
                code.name(f).unwrap_or("?"),
                range.size,
                range.body_size,
                own.len(),
                NativeCode::parse(&r).unwrap().text.size,
                t.elapsed(),
                NativeCode::parse(&rc).unwrap().text.size
            );
        }
    }
    let eval = (0..code.functions.len() as u32).find(|f| code.name(*f) == Some("_PyEval_EvalFrameDefault"));
    let mut ten: Vec<Site> = (0..9).map(|i| all[i * all.len() / 9]).collect();
    if let Some(f) = eval {
        let own: Vec<Site> = all.iter().copied().filter(|s| s.function == f).collect();
        ten.push(own[own.len() / 2]);
    }
    let t = Instant::now();
    let r = make(false).resume(&wasm, &objects.0, &ten, Digest::ZERO).unwrap();
    println!("ten sites: {:?}, {} bytes of text, file {}", t.elapsed(), NativeCode::parse(&r).unwrap().text.size, r.len());
    let t = Instant::now();
    let _ = make(false).resume(&wasm, &objects.0, &[], Digest::ZERO).unwrap();
    println!("no site: {:?}", t.elapsed());
}
