// Distance between two texts by dynamic programming.
#include "kernel.h"
#define N 600
static u8 a[N], b[N];
static u32 row[N + 1];

static u32 least(u32 a, u32 b) { return a < b ? a : b; }

EXPORT u64 run(i32 times) {
    u32 seed = 17, sum = 0;
    for (i32 t = 0; t < times; t++) {
        for (i32 i = 0; i < N; i++) a[i] = xorshift(&seed) & 3, b[i] = xorshift(&seed) & 3;
        for (u32 j = 0; j <= N; j++) row[j] = j;
        for (u32 i = 1; i <= N; i++) {
            u32 diagonal = row[0];
            row[0] = i;
            for (u32 j = 1; j <= N; j++) {
                u32 above = row[j];
                row[j] = least(least(row[j - 1], above) + 1, diagonal + (a[i - 1] != b[j - 1]));
                diagonal = above;
            }
        }
        sum += row[N];
    }
    return sum;
}
