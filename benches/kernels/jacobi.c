// Five-point stencil on a square, back and forth.
#include "kernel.h"
#define N 128
static f64 a[N][N], b[N][N];

static void step(f64 from[N][N], f64 to[N][N]) {
    for (i32 i = 1; i < N - 1; i++)
        for (i32 j = 1; j < N - 1; j++)
            to[i][j] = 0.2 * (from[i][j] + from[i][j - 1] + from[i][j + 1] + from[i + 1][j] + from[i - 1][j]);
}

EXPORT u64 run(i32 times) {
    for (i32 i = 0; i < N; i++)
        for (i32 j = 0; j < N; j++) a[i][j] = b[i][j] = (f64)i * (j + 2) / N;
    for (i32 t = 0; t < times; t++) {
        step(a, b);
        step(b, a);
    }
    u64 sum = 0;
    for (i32 i = 0; i < N; i++) sum = mix_f64(sum, a[i][N / 2]);
    return sum;
}
