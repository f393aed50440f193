// Decomposition of a matrix into a lower and an upper triangle, in place.
#include "kernel.h"
#define N 96
static f64 a[N][N];

EXPORT u64 run(i32 times) {
    u64 sum = 0;
    for (i32 t = 0; t < times; t++) {
        for (i32 i = 0; i < N; i++)
            for (i32 j = 0; j < N; j++) a[i][j] = (i == j ? N : 0) + (f64)((i * 7 + j * 3 + t) % 11) / 11;
        for (i32 i = 0; i < N; i++) {
            for (i32 j = 0; j < i; j++) {
                for (i32 k = 0; k < j; k++) a[i][j] -= a[i][k] * a[k][j];
                a[i][j] /= a[j][j];
            }
            for (i32 j = i; j < N; j++)
                for (i32 k = 0; k < i; k++) a[i][j] -= a[i][k] * a[k][j];
        }
        sum = mix_f64(sum, a[N - 1][N - 1]);
    }
    return sum;
}
