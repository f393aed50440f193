// Sorting by a comparison that is called through a pointer.
#include "kernel.h"
#define N 20000
static u32 items[N];
typedef i32 (*Compare)(u32, u32);

static i32 ascending(u32 a, u32 b) { return a < b ? -1 : a > b; }
static i32 by_low_byte(u32 a, u32 b) { return ascending(a << 24 | a >> 8, b << 24 | b >> 8); }
// Not known to the compiler.
static volatile Compare compares[2] = {ascending, by_low_byte};

static void sort(u32 *from, u32 *to, Compare compare) {
    while (from < to) {
        u32 pivot = from[(to - from) / 2], *i = from, *j = to;
        while (i <= j) {
            while (compare(*i, pivot) < 0) i++;
            while (compare(*j, pivot) > 0) j--;
            if (i <= j) {
                u32 swap = *i;
                *i++ = *j;
                *j-- = swap;
            }
        }
        sort(from, j, compare);
        from = i;
    }
}

EXPORT u64 run(i32 times) {
    u64 sum = 0;
    u32 seed = 7;
    for (i32 t = 0; t < times; t++) {
        for (i32 i = 0; i < N; i++) items[i] = xorshift(&seed);
        sort(items, items + N - 1, compares[t % 2]);
        for (i32 i = 0; i < N; i += 100) sum = mix(sum, items[i]);
    }
    return sum;
}
