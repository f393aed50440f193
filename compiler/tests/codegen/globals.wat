;; Immutable globals with a known value are constants; others are loaded from the context, imported ones by way of it.
(module
  (import "m" "g" (global $imported i32))
  (global $constant i64 (i64.mul (i64.const 6) (i64.const 7)))
  (global $copy i32 (global.get $imported))
  (global $mutable (mut v128) (v128.const i64x2 1 2))
  (func (result i64) global.get $constant)
  ;; check: iconst.i64 42
  (func (result i32) global.get $copy)
  ;; check: load.i32 notrap aligned readonly can_move little region0 v0+48
  (func (result i32) global.get $imported)
  ;; check: load.i64 notrap aligned readonly can_move little region0 v0+80
  ;; check: load.i32 notrap aligned readonly can_move little region1
  (func (param v128) (global.set $mutable (i32x4.add (local.get 0) (local.get 0))))
  ;; check: iadd
  ;; check: bitcast.i8x16 little
  ;; check: store notrap aligned little region0 v5, v0+64
)
