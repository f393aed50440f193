// Dense product of matrices in double precision.
#include "kernel.h"
#define N 96
static f64 a[N][N], b[N][N], c[N][N];

EXPORT u64 run(i32 times) {
    u32 seed = 1;
    for (i32 i = 0; i < N; i++)
        for (i32 j = 0; j < N; j++) {
            a[i][j] = xorshift(&seed) % 1000 / 1000.0;
            b[i][j] = xorshift(&seed) % 1000 / 1000.0;
            c[i][j] = 0;
        }
    for (i32 t = 0; t < times; t++)
        for (i32 i = 0; i < N; i++)
            for (i32 k = 0; k < N; k++)
                for (i32 j = 0; j < N; j++) c[i][j] += 1.5 * a[i][k] * b[k][j];
    u64 sum = 0;
    for (i32 i = 0; i < N; i++)
        for (i32 j = 0; j < N; j++) sum = mix_f64(sum, c[i][j]);
    return sum;
}
