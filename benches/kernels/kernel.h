// What the kernels have in common: freestanding C, one exported function `run` that takes how often and gives a checksum.
#pragma once

typedef unsigned char u8;
typedef unsigned int u32;
typedef unsigned long long u64;
typedef int i32;
typedef long long i64;
typedef double f64;

#define EXPORT __attribute__((visibility("default"), export_name("run")))

/// The next number of a generator (Marsaglia, 2003).
static inline u32 xorshift(u32 *state) {
    u32 x = *state;
    x ^= x << 13;
    x ^= x >> 17;
    x ^= x << 5;
    return *state = x;
}

/// Adds bits to a checksum (FNV-1a, a word at a time).
static inline u64 mix(u64 sum, u64 bits) { return (sum ^ bits) * 0x100000001b3ull; }

/// Adds a number to a checksum.
static inline u64 mix_f64(u64 sum, f64 value) {
    union {
        f64 value;
        u64 bits;
    } u = {value};
    return mix(sum, u.bits);
}
