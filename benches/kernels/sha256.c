// SHA-256 compression (FIPS 180-4) over blocks; constants by the rule of the standard: fractions of cube roots of primes.
#include "kernel.h"
static u32 k[64];
static u8 message[4096];

static f64 cube_root(f64 of) {
    f64 x = of;
    for (i32 i = 0; i < 60; i++) x = (2 * x + of / (x * x)) / 3;
    return x;
}

static void constants(void) {
    i32 found = 0;
    for (i32 n = 2; found < 64; n++) {
        i32 prime = 1;
        for (i32 d = 2; d * d <= n; d++)
            if (n % d == 0) prime = 0;
        if (prime) {
            f64 root = cube_root(n);
            k[found++] = (u32)((root - (i32)root) * 4294967296.0);
        }
    }
}

static inline u32 rotr(u32 x, i32 by) { return x >> by | x << (32 - by); }

static void compress(u32 h[8], const u8 *block) {
    u32 w[64];
    for (i32 i = 0; i < 16; i++) w[i] = (u32)block[4 * i] << 24 | block[4 * i + 1] << 16 | block[4 * i + 2] << 8 | block[4 * i + 3];
    for (i32 i = 16; i < 64; i++) {
        u32 s0 = rotr(w[i - 15], 7) ^ rotr(w[i - 15], 18) ^ w[i - 15] >> 3;
        u32 s1 = rotr(w[i - 2], 17) ^ rotr(w[i - 2], 19) ^ w[i - 2] >> 10;
        w[i] = w[i - 16] + s0 + w[i - 7] + s1;
    }
    u32 a = h[0], b = h[1], c = h[2], d = h[3], e = h[4], f = h[5], g = h[6], z = h[7];
    for (i32 i = 0; i < 64; i++) {
        u32 t1 = z + (rotr(e, 6) ^ rotr(e, 11) ^ rotr(e, 25)) + ((e & f) ^ (~e & g)) + k[i] + w[i];
        u32 t2 = (rotr(a, 2) ^ rotr(a, 13) ^ rotr(a, 22)) + ((a & b) ^ (a & c) ^ (b & c));
        z = g, g = f, f = e, e = d + t1, d = c, c = b, b = a, a = t1 + t2;
    }
    h[0] += a, h[1] += b, h[2] += c, h[3] += d, h[4] += e, h[5] += f, h[6] += g, h[7] += z;
}

EXPORT u64 run(i32 times) {
    constants();
    for (u32 i = 0; i < sizeof message; i++) message[i] = i * 31;
    u32 h[8] = {0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a, 0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19};
    for (i32 t = 0; t < times; t++)
        for (u32 at = 0; at < sizeof message; at += 64) compress(h, message + at);
    u64 sum = 0;
    for (i32 i = 0; i < 8; i++) sum = mix(sum, h[i]);
    return sum;
}
