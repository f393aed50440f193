// Calls and nothing else.
#include "kernel.h"

static __attribute__((noinline)) i32 fib(i32 n) { return n < 2 ? n : fib(n - 1) + fib(n - 2); }

EXPORT u64 run(i32 n) { return fib(n); }
