;; An indirect call through an own table compares type and tag of the entry at once; through an imported table it compares process-wide
;; numbers of types.
(module
  (type $t (func (param i32)))
  (import "m" "t" (table $imported 1 funcref))
  (table $own 10 10 funcref)
  (table $grows 10 funcref)
  (func (param i32) (call_indirect $own (type $t) (i32.const 1) (local.get 0)))
  ;; check: function u0:0
  ;; check: iconst.i64 10
  ;; check: icmp uge
  ;; check: select_spectre_guard
  ;; check: load.i64 user3
  ;; check: ireduce.i32
  ;; check: iconst.i32 1
  ;; check: icmp eq
  ;; check: cold:
  ;; check: , user4
  ;; check: , user5
  ;; check: icmp ne
  ;; check: , user5
  (func (param i32) (call_indirect $imported (type $t) (i32.const 1) (local.get 0)))
  ;; check: function u0:1
  ;; check: load.i64 user3
  ;; check: band
  ;; check: load.i32 notrap aligned little
  ;; check: icmp ne
  ;; check: trapnz
  (func (param i32) (result funcref) (table.get $grows (local.get 0)))
  ;; check: function u0:2
  ;; check: load.i64 notrap aligned little
  ;; check: icmp uge
  ;; check: cold:
  ;; check: call fn0(v0
)
