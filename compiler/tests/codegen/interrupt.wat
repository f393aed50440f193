;; A loop looks at the interrupt page in its header, a function that calls on entry, a leaf not at all.
(module
  (func $leaf (param i32) (result i32) local.get 0)
  ;; check: function u0:0
  ;; check: return v1
  (func (loop br 0))
  ;; check: function u0:1
  ;; check: block2:
  ;; check: iconst.i64 -4096
  ;; check: atomic_load.i64 user11 aligned little
  ;; check: jump block2
  (func (result i32) (call $leaf (i32.const 1)))
  ;; check: function u0:2
  ;; check: block0(v0: i64):
  ;; check: atomic_load.i64 user11 aligned little
  ;; check: call fn0
)
