// Primes by the sieve of Eratosthenes, a byte each.
#include "kernel.h"
#define N 200000
static u8 composite[N];

EXPORT u64 run(i32 times) {
    u32 primes = 0;
    for (i32 t = 0; t < times; t++) {
        __builtin_memset(composite, 0, N);
        for (i32 i = 2; i < N; i++) {
            if (composite[i]) continue;
            primes++;
            for (i32 j = i + i; j < N; j += i) composite[j] = 1;
        }
    }
    return primes;
}
