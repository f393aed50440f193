// Fourier transform of 2^12 complex numbers, in place; roots of unity by a recurrence.
#include "kernel.h"
#define BITS 12
#define N (1 << BITS)
static f64 re[N], im[N];

static void transform(f64 sign) {
    for (u32 i = 0, j = 0; i < N; i++) {
        if (i < j) {
            f64 swap = re[i];
            re[i] = re[j], re[j] = swap;
            swap = im[i];
            im[i] = im[j], im[j] = swap;
        }
        u32 bit = N >> 1;
        for (; j & bit; bit >>= 1) j ^= bit;
        j |= bit;
    }
    // Half angles from the cosine of a straight one on.
    f64 cosine = -1, sine = 0;
    for (u32 half = 1; half < N; half *= 2) {
        f64 wr = 1, wi = 0;
        for (u32 k = 0; k < half; k++) {
            for (u32 i = k; i < N; i += 2 * half) {
                f64 tr = wr * re[i + half] - wi * im[i + half], ti = wr * im[i + half] + wi * re[i + half];
                re[i + half] = re[i] - tr, im[i + half] = im[i] - ti;
                re[i] += tr, im[i] += ti;
            }
            f64 next = wr * cosine - wi * sine * sign;
            wi = wr * sine * sign + wi * cosine;
            wr = next;
        }
        sine = __builtin_sqrt((1 - cosine) / 2);
        cosine = __builtin_sqrt((1 + cosine) / 2);
    }
}

EXPORT u64 run(i32 times) {
    u32 seed = 3;
    for (i32 i = 0; i < N; i++) re[i] = xorshift(&seed) % 100, im[i] = 0;
    for (i32 t = 0; t < times; t++) {
        transform(1);
        transform(-1);
        for (i32 i = 0; i < N; i++) re[i] /= N, im[i] /= N;
    }
    u64 sum = 0;
    for (i32 i = 0; i < N; i++) sum = mix_f64(sum, re[i]);
    return sum;
}
