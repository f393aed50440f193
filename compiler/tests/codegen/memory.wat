;; Accesses that end within the guard are not compared with anything; others are, without a branch; beyond 4 GiB all trap.
(module
  (memory 1)
  (func (param i32) (result i32) (i32.load offset=33554428 (local.get 0)))
  ;; check: function u0:0
  ;; check: load.i64 notrap aligned readonly can_move little region1 v0+32
  ;; check: load.i32 user2 little region0 v5+0x01ff_fffc
  (func (param i32) (result i32) (i32.load offset=33554429 (local.get 0)))
  ;; check: function u0:1
  ;; check: iconst.i64 0x01ff_fffd
  ;; check: iconst.i64 0xfdff_ffff
  ;; check: icmp ugt
  ;; check: select_spectre_guard
  ;; check: load.i32 user2
  (func (param i32) (result i64) (i64.load offset=4294967289 (local.get 0)))
  ;; check: function u0:2
  ;; check: trap user2
  (func (param i32) (result i64) (i64.load offset=4294967288 (local.get 0)))
  ;; check: function u0:3
  ;; check: iconst.i64 0
  ;; check: icmp ugt
  ;; check: load.i64 user2
)
