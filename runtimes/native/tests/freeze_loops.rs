//! Programs that are frozen in loops in loops: what was interrupted goes on where it must, with the operands that it must have.

mod common;

use common::freeze::{Program, wakes_everywhere};

/// Loops in loops in a function `$nest` that takes a number and gives one, frozen everywhere, and once more soon after. `$p` calls the host
/// with what depends on all that was computed so far, and `$more` makes of a condition one that does not hold for ever.
fn nests(function: &str) {
    let text = format!(
        r#"(module (import "host" "pause" (func $pause (param i32) (result i32)))
            (global $left (mut i32) (i32.const 30)) (global $sum (mut i64) (i64.const 1)) (tag $e (param i32)) (tag $other)
            (func $note (param i64)
                (global.set $sum (i64.rotl (i64.mul (i64.add (global.get $sum) (local.get 0)) (i64.const 0x9e3779b97f4a7c15)) (i64.const 23))))
            (func $p (result i32)
                (global.set $left (i32.sub (global.get $left) (i32.const 1)))
                (call $note (i64.extend_i32_u (call $pause (i32.wrap_i64 (global.get $sum)))))
                (i32.wrap_i64 (i64.shr_u (global.get $sum) (i64.const 40))))
            (func $more (param i32) (result i32)
                (i32.and (i32.ne (i32.const 0) (local.get 0)) (i32.gt_s (global.get $left) (i32.const 0))))
            (func $throws (param i32)
                (if (i32.and (local.get 0) (i32.const 1)) (then (throw $e (local.get 0))))
                (if (i32.and (local.get 0) (i32.const 2)) (then (throw $other))))
            (func $nest (param $n i32) (result i32) (local $i i32) (local $l i64) (local $d f64) (local $v v128) {function})
            (func (export "main") (result i64)
                (loop (call $note (i64.extend_i32_s (call $nest (call $p)))) (br_if 0 (i32.gt_s (global.get $left) (i32.const 0))))
                (global.get $sum)))"#
    );
    wakes_everywhere(&text, 30);
    let program = Program::new(&text);
    let expected = program.run();
    for first in (0..expected.trace.len()).step_by(5) {
        let mut image = program.freeze(first, &[]);
        for at in [first + 1, first + 2, first + 6].into_iter().filter(|at| *at < expected.trace.len()) {
            image = program.freeze_again(&image, at);
            assert_eq!(program.wake(&image), expected, "frozen at {first} and again up to {at}");
        }
    }
}

#[test]
fn three_loops_go_on_in_the_middle() {
    nests(
        r#"(loop $a
            (local.set $n (i32.add (local.get $n) (call $p)))
            (loop $b
                (local.set $l (i64.add (local.get $l) (i64.extend_i32_s (local.get $n))))
                (loop $c
                    (local.set $n (i32.xor (i32.rotl (local.get $n) (i32.const 3)) (call $p)))
                    (br_if $c (call $more (i32.and (local.get $n) (i32.const 1))))
                    (br_if $a (call $more (i32.and (local.get $n) (i32.const 4)))))
                (local.set $n (i32.add (call $p) (i32.wrap_i64 (local.get $l))))
                (br_if $b (call $more (i32.and (local.get $n) (i32.const 3)))))
            (call $note (local.get $l))
            (br_if $a (call $more (i32.and (local.get $n) (i32.const 5)))))
        (i32.mul (local.get $n) (i32.const 7))"#,
    );
}

#[test]
fn operands_between_loops_are_those_of_the_interrupted_iteration() {
    nests(
        r#"(loop $a (result i32)
            (i32.add (call $p) (local.get $n)) (f64.convert_i32_s (local.get $n))
            (i32x4.splat (local.get $n)) (i16x8.add (i16x8.splat (local.get $i)))
            (loop $b (result i32)
                (i32.sub (call $p) (i32.const 5)) (local.set $n (i32.add (local.get $n) (i32.const 3)))
                (i64.extend_i32_s (local.get $n))
                (loop $c
                    (i32.mul (call $p) (local.get $n))
                    (local.set $i (i32.add (local.get $i) (i32.const 1)))
                    (local.set $n (i32.xor (local.get $n)))
                    (br_if $c (call $more (i32.and (local.get $n) (i32.const 3))))
                    (br_if $a (call $more (i32.and (local.get $n) (i32.const 12)))))
                (call $note)
                (br_if $b (call $more (i32.and (local.get $n) (i32.const 1)))))
            (local.set $n (i32.rotl (local.get $n)))
            (local.set $v (i32x4.mul (i32x4.splat (i32.const 0x10001))))
            (call $note (i64.xor (i64.reinterpret_f64) (i64x2.extract_lane 1 (local.get $v))))
            (br_if $a (call $more (i32.and (call $p) (i32.const 1)))))
        (i32.add (local.get $n))"#,
    );
}

#[test]
fn loops_with_parameters_go_on_with_those_of_their_next_iteration() {
    nests(
        r#"(local.get $n) (f64.const 0.5)
        (loop $a (param i32 f64) (result i32)
            (local.set $d (f64.add (f64.const 1.25))) (local.tee $n (i32.add (call $p)))
            (i64.extend_i32_s (local.get $n)) (local.get $n)
            (loop $b (param i64 i32) (result i64)
                (local.set $i (i32.add (call $p))) (local.set $l)
                (v128.const i32x4 1 2 3 4) (local.get $l) (i32x4.splat (local.get $i))
                (loop $c (param i64 v128) (result i64)
                    (local.set $v (i32x4.add (i32x4.splat (call $p))))
                    (local.set $l (i64.add (i64x2.extract_lane 0 (local.get $v))))
                    (br_if $b (local.get $l) (local.get $i) (call $more (i32.and (i32.wrap_i64 (local.get $l)) (i32.const 1)))) (drop) (drop)
                    (br_if $c (i64.const 9) (local.get $v) (call $more (i32.and (i32.wrap_i64 (local.get $l)) (i32.const 6)))) (drop) (drop)
                    (br_if $a (local.get $i) (local.get $d) (call $more (i32.and (i32.wrap_i64 (local.get $l)) (i32.const 8)))) (drop) (drop)
                    (local.get $l))
                (local.set $l)
                (call $note (i64x2.extract_lane 1 (i32x4.add (local.get $v))))
                (br_if $b (local.get $l) (call $p) (call $more (i32.and (local.get $i) (i32.const 1)))) (drop))
            (call $note)
            (br_if $a (local.get $d) (call $more (i32.and (local.get $i) (i32.const 2))))
            (call $note (i64.reinterpret_f64)))"#,
    );
}

#[test]
fn operands_below_conditions_around_a_loop_are_the_same_in_both_parts_and_behind() {
    nests(
        r#"(loop $a (result i32)
            (call $p) (i64.extend_i32_s (local.get $n))
            (block $out (param i64) (result i64)
                (i32.add (local.get $n) (i32.const 17)) (f64.const 2.5)
                (if (param i32 f64) (result f64) (i32.and (call $p) (i32.const 1))
                    (then
                        (local.set $d) (local.set $n) (i64.extend_i32_u (local.get $n))
                        (br_if $out (i64.const 77) (call $more (i32.eqz (i32.and (local.get $n) (i32.const 7))))) (drop)
                        (loop $b
                            (local.set $n (i32.add (local.get $n) (call $p)))
                            (br_if $b (call $more (i32.and (local.get $n) (i32.const 3))))
                            (br_if $a (call $more (i32.and (local.get $n) (i32.const 8)))))
                        (call $note) (local.get $d))
                    (else
                        (local.set $d) (local.set $n (i32.sub (local.get $n)))
                        (i32x4.splat (local.get $n))
                        (loop $c
                            (local.set $n (i32.mul (call $p) (i32.const 5)))
                            (br_if $c (call $more (i32.and (local.get $n) (i32.const 2)))))
                        (f64.convert_i32_u (i8x16.extract_lane_u 3))))
                (local.set $d)
                (call $note (i64.reinterpret_f64 (local.get $d)))
                (if (i32.and (local.get $n) (i32.const 1)) (then
                    (loop $e
                        (local.set $n (i32.sub (call $p) (local.get $n)))
                        (if (call $more (i32.and (local.get $n) (i32.const 1))) (then (br $e)))
                        (br_if $a (call $more (i32.and (local.get $n) (i32.const 4))))))))
            (call $note) (local.set $n (i32.add (local.get $n)))
            (br_if $a (call $more (i32.and (call $p) (i32.const 3))))
            (local.get $n))"#,
    );
}

#[test]
fn branches_out_of_several_loops_go_to_the_right_ones() {
    nests(
        r#"(loop $a (result i32)
            (i32.add (local.get $n) (call $p))
            (block $x
                (loop $b
                    (f64.convert_i32_s (local.get $n))
                    (block $y
                        (loop $c
                            (i64.extend_i32_s (local.get $n))
                            (loop $d
                                (local.set $n (i32.add (local.get $n) (call $p)))
                                (if (i32.le_s (global.get $left) (i32.const 0)) (then (br $x)))
                                (br_table $d $c $b $a $x $y $d $c $a (i32.rem_u (local.get $n) (i32.const 11))))
                            (unreachable)))
                    (local.set $n (i32.trunc_sat_f64_s)) (local.set $n (i32.add (local.get $n) (call $p)))
                    (br_if $b (call $more (i32.and (local.get $n) (i32.const 1))))))
            (local.set $n (i32.xor (local.get $n)))
            (br_if $a (call $more (i32.and (local.get $n) (i32.const 1))))
            (local.get $n))"#,
    );
}

#[test]
fn exceptions_lead_to_loops_that_were_interrupted() {
    nests(
        r#"(loop $a (result i32)
            (i32.add (local.get $n) (call $p))
            (block $caught (result i32)
                (i64.extend_i32_s (local.get $n))
                (try_table (catch $e $caught) (catch_all $a)
                    (f64.convert_i32_s (local.get $n))
                    (loop $b
                        (local.set $n (i32.add (local.get $n) (call $p)))
                        (i32.const 5)
                        (try_table (catch_all $b)
                            (if (call $more (i32.and (local.get $n) (i32.const 8))) (then (call $throws (local.get $n)))))
                        (local.set $n (i32.mul (local.get $n)))
                        (if (call $more (i32.and (local.get $n) (i32.const 6))) (then (call $throws (local.get $n))))
                        (br_if $b (call $more (i32.and (local.get $n) (i32.const 48)))))
                    (call $note (i64.reinterpret_f64)))
                (call $note)
                (call $p))
            (local.set $n (i32.rotl (local.get $n) (i32.const 5))) (local.set $n (i32.add (local.get $n)))
            (br_if $a (call $more (i32.and (local.get $n) (i32.const 3))))
            (i32.add (local.get $n)))"#,
    );
}
