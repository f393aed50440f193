;; options: v1
;; What the CPU level lacks is called in the text.
(module
  (func (param v128 v128) (result v128) (i8x16.swizzle (local.get 0) (local.get 1)))
  ;; check: function u0:0
  ;; check: uadd_sat
  ;; check: call fn0
  (func (param v128 v128) (result v128) (i8x16.shuffle 0 17 2 19 4 21 6 23 8 25 10 27 12 29 14 31 (local.get 0) (local.get 1)))
  ;; check: function u0:1
  ;; check: call fn0
  ;; check: call fn0
  ;; check: bor
  (func (param f64) (result f64) (f64.ceil (local.get 0)))
  (func (param v128) (result v128) (f32x4.nearest (local.get 0)))
  (func (param v128 v128 v128) (result v128) (f32x4.relaxed_madd (local.get 0) (local.get 1) (local.get 2)))
  ;; check: fmul
  ;; check: fadd
)
