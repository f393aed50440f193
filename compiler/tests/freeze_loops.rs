//! Which loops around a site are in its resume function, and how often.

mod common;

use common::{calls, compiler, module};
use preheat_compiler::Site;
use preheat_image::{CpuLevel, Digest};

#[test]
fn a_loop_around_the_site_comes_again_as_a_whole_and_what_follows_it_once() {
    let wasm = module(
        r#"(func (param i32) (result i32)
            (loop $l (call $f (i32.const 1)) (call $f (i32.const 2)) (br_if $l (local.get 0)))
            (call $f (i32.const 3)) (call $g))"#,
    );
    let compiler = compiler(CpuLevel::V3, false);
    let base = compiler.compile(&wasm, Digest::ZERO).unwrap();
    let (calls, _) = calls(&wasm);
    let clif = compiler.resume_clif(&wasm, &base, calls[0]).unwrap();
    let count = |constant: &str| clif.lines().filter(|line| line.ends_with(&format!("iconst.i32 {constant}"))).count();
    // The first call is the wake frame's, then that of the loop; the second call is in both.
    assert_eq!((count("1"), count("2"), count("3")), (1, 2, 1), "{clif}");
    // On entry, and at the header of the loop.
    assert_eq!(clif.matches("atomic_load").count(), 2);
    assert!(compiler.resume_clif(&wasm, &base, Site { function: calls[0].function, offset: 1 }).is_err());
}

/// How often each of `constants` is in the CLIF of the resume function of call number `site` of a function.
fn constants_behind(function: &str, site: usize, constants: &[u32]) -> Vec<usize> {
    let wasm = module(function);
    let compiler = compiler(CpuLevel::V3, false);
    let base = compiler.compile(&wasm, Digest::ZERO).unwrap();
    let clif = compiler.resume_clif(&wasm, &base, calls(&wasm).0[site]).unwrap();
    let count = |constant: &u32| clif.lines().filter(|line| line.ends_with(&format!("iconst.i32 {constant}"))).count();
    constants.iter().map(count).collect()
}

#[test]
fn of_loops_in_loops_around_the_site_the_outermost_comes_again_and_each_only_once() {
    let nest = |c: &str, b: &str, a: &str| {
        let text = format!(
            r#"(func (param i32)
                (loop $a (call $f (i32.const 101))
                    (loop $b (call $f (i32.const 102))
                        (loop $c (call $f (i32.const 103)) (call $f (i32.const 104)) {c})
                        (call $f (i32.const 105)) {b})
                    (call $f (i32.const 106)) {a})
                (call $f (i32.const 107)))"#
        );
        constants_behind(&text, 2, &[101, 102, 103, 104, 105, 106, 107])
    };
    let [a, b, c] = ["(br_if $a (local.get 0))", "(br_if $b (local.get 0))", "(br_if $c (local.get 0))"];
    // The rests of all three iterations, then the outermost as a whole, of which only the call at the site was in no rest.
    let once = [1, 1, 1, 2, 2, 2, 1];
    assert_eq!(nest(c, b, a), once);
    assert_eq!(nest("", b, a), once);
    assert_eq!(nest(c, "", a), once);
    assert_eq!(nest("", "", a), once);
    // Whoever goes back to it.
    assert_eq!(nest(a, "", ""), once);
    assert_eq!(nest("(br_table $a $b $c (local.get 0))", "", ""), [1, 1, 1, 2, 0, 0, 0]);
    // Where nothing goes back to the outer ones they do not come again.
    assert_eq!(nest(c, b, ""), [0, 1, 1, 2, 2, 1, 1]);
    assert_eq!(nest(c, "", ""), [0, 0, 1, 2, 1, 1, 1]);
    assert_eq!(nest("", "", ""), [0, 0, 0, 1, 1, 1, 1]);
}

#[test]
fn a_loop_to_which_only_what_comes_again_goes_back_comes_again() {
    // The branch to the outer loop is before the site, so that it is not in the rest but in the whole inner loop.
    let text = r#"(func (param i32)
        (loop $a (call $f (i32.const 101))
            (loop $b (br_if $a (local.get 0)) (call $f (i32.const 102)) (call $f (i32.const 103)) (br_if $b (local.get 0)))
            (call $f (i32.const 104))))"#;
    assert_eq!(constants_behind(text, 1, &[101, 102, 103, 104]), [1, 1, 2, 2]);
    // Nothing goes back to the inner one.
    assert_eq!(constants_behind(&text.replace("(br_if $b (local.get 0))", ""), 1, &[101, 102, 103, 104]), [0, 0, 1, 1]);
}

#[test]
fn a_loop_to_which_only_what_is_not_reached_goes_back_does_not_come_again() {
    // A label that only something before the site branches to.
    let label = r#"(func (param i32)
        (loop $a (call $f (i32.const 101))
            (block $out
                (block $other
                    (loop $b (br_if $other (local.get 0)) (call $f (i32.const 102)) (call $f (i32.const 103)) (br_if $b (local.get 0)) (br $out)))
                (br $a))
            (call $f (i32.const 104))))"#;
    assert_eq!(constants_behind(label, 1, &[101, 102, 103, 104]), [1, 1, 2, 2]);
    assert_eq!(constants_behind(&label.replace("br_if $b", "br_if $out"), 1, &[101, 102, 103, 104]), [0, 0, 1, 1]);
    // The other part of a condition.
    let condition = r#"(func (param i32)
        (loop $a (call $f (i32.const 101))
            (loop $b
                (if (local.get 0) (then (call $f (i32.const 102))) (else (br $a)))
                (call $f (i32.const 103)) (return))))"#;
    assert_eq!(constants_behind(condition, 1, &[101, 102, 103]), [0, 0, 1]);
    let reached = condition.replace("(return)", "(br_if $b (local.get 0))");
    assert_eq!(constants_behind(&reached, 1, &[101, 102, 103]), [1, 1, 2]);
    // Behind a block that nothing leaves.
    let unreachable = r#"(func (param i32)
        (loop $a (call $f (i32.const 101))
            (block $x (loop $b (call $f (i32.const 102)) (call $f (i32.const 103)) (br $b)))
            (br $a)))"#;
    assert_eq!(constants_behind(unreachable, 1, &[101, 102, 103]), [0, 1, 2]);
    assert_eq!(constants_behind(&unreachable.replace("(br $b)", "(br_if $x (local.get 0)) (br $b)"), 1, &[101, 102, 103]), [1, 1, 2]);
}

#[test]
fn a_site_that_no_ordinary_way_leads_to_can_be_resumed() {
    // Validation takes what is behind a block for reachable.
    for inner in [
        "(loop $b SITE)",
        "(i64.const 3) (block (loop $b SITE) (br_if $a (local.get 0))) (drop)",
        "(i64.const 3) (if (local.get 0) (then (f32.const 1) (loop $b SITE) (drop)) (else (call $f (i32.const 5)))) (drop)",
        "(i64.const 3) (if (local.get 0) (then (call $f (i32.const 5))) (else (loop $b SITE))) (drop)",
        "(i64.const 3) (block $c (i32.const 4) (try_table (catch_all $c) (loop $b SITE)) (drop)) (drop)",
        "(f64.const 3) (loop $c (param f64) (i32.const 4) (block (loop $b SITE)) (drop) (br_if $c (local.get 0)) (drop))",
    ] {
        let inner = inner.replace("SITE", "(call $f (i32.const 1)) (br_if $b (local.get 0)) (br_if $a (local.get 0))");
        let wasm = module(&format!("(func (param i32) (loop $a (block (unreachable)) {inner} (br_if $a (local.get 0))))"));
        wasmparser::validate(&wasm).unwrap_or_else(|error| panic!("{inner}: {error}"));
        let (calls, _) = calls(&wasm);
        for capture in [false, true] {
            let base = compiler(CpuLevel::V3, capture).compile(&wasm, Digest::ZERO).unwrap();
            for call in &calls {
                compiler(CpuLevel::V3, capture)
                    .resume(&wasm, &base, &[*call], Digest::ZERO)
                    .unwrap_or_else(|error| panic!("{inner}: {error}"));
            }
        }
    }
}
