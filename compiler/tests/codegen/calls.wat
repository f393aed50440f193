;; Calls within the module are direct, imports are called through the context, and tail calls stay tail calls.
(module
  (type $t (func (result i32)))
  (import "m" "f" (func $imported (param i64) (result i32 f64)))
  (table 1 funcref)
  (func $own (type $t) (return_call $last))
  ;; check: function u0:1
  ;; check: return_call fn0(v0)
  (func $last (type $t) (return_call_indirect (type $t) (i32.const 0)))
  ;; check: return_call_indirect
  (func (result i32) (drop (call $imported (i64.const 3))))
  ;; check: function u0:3
  ;; check: load.i64 notrap aligned readonly can_move little region0 v0+64
  ;; check: load.i64 notrap aligned readonly can_move little region0 v0+72
  ;; check: call_indirect
  (func (result i32) (memory.copy (i32.const 1) (i32.const 2) (i32.const 3)) (memory.grow (i32.const 1)))
  (memory 1)
  ;; check: function u0:4
  ;; check: u1:1
  ;; check: u1:0
)
