// Short and long copies and fills in one memory.
#include "kernel.h"
static u8 a[1 << 16], b[1 << 16];

EXPORT u64 run(i32 times) {
    u32 seed = 5;
    for (u32 i = 0; i < sizeof a; i++) a[i] = i;
    for (i32 t = 0; t < times; t++) {
        u32 length = t % 64 ? 1 + xorshift(&seed) % 64 : 16384, from = xorshift(&seed) % 32768, to = xorshift(&seed) % 32768;
        __builtin_memcpy(b + to, a + from, length);
        __builtin_memset(a + to, t, length / 2);
    }
    u64 sum = 0;
    for (u32 i = 0; i < sizeof b; i += 64) sum = mix(sum, b[i]);
    return sum;
}
