;; Calls in a try_table have a landing pad for each clause around them, inner ones first, up to one that takes all. Others are plain calls.
(module
  (tag $value (param i32 v128)) (tag $other)
  (func $callee (result i64) (i64.const 1))
  (func (result i64 i32 v128)
    (call $callee)
    (block $caught (result i32 v128)
      (try_table (catch $value $caught)
        (block $all
          (try_table (catch $other $all) (drop (call $callee)) (try_table (catch_all 1) (drop (call $callee)))))
        (throw $value (i32.const 7) (v128.const i64x2 1 2)))
      (unreachable)))
  ;; check: function u0:1
  ;; check: = call fn0(v0)
  ;; check: (ret0), [ context v0, tag1: block6(exn0), tag0: block3(exn0) ]
  ;; check: (ret0), [ context v0, default: block9(exn0) ]
  ;; check: , [ context v0, tag0: block3(exn0) ]
  ;; check: trap user14
  (func (param exnref) (throw_ref (local.get 0)))
  ;; check: function u0:2
  ;; check: icmp eq v1
  ;; check: , user6
)
