;; options: uninterruptible
;; not: atomic_load
(module (func $f (loop br 0)) (func (call $f)))
