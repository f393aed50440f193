// Products of vectors in single precision, four lanes at a time with SIMD.
#include "kernel.h"
#include <wasm_simd128.h>
#define N 64
static float rows[N][N] __attribute__((aligned(16))), columns[N][N] __attribute__((aligned(16)));

EXPORT u64 run(i32 times) {
    u32 seed = 13;
    for (i32 i = 0; i < N; i++)
        for (i32 j = 0; j < N; j++) rows[i][j] = xorshift(&seed) % 17, columns[i][j] = xorshift(&seed) % 19;
    u64 sum = 0;
    for (i32 t = 0; t < times; t++)
        for (i32 i = 0; i < N; i++)
            for (i32 j = 0; j < N; j++) {
                v128_t lanes = wasm_f32x4_splat(0);
                for (i32 k = 0; k < N; k += 4)
                    lanes = wasm_f32x4_add(lanes, wasm_f32x4_mul(wasm_v128_load(&rows[i][k]), wasm_v128_load(&columns[j][k])));
                float total = wasm_f32x4_extract_lane(lanes, 0) + wasm_f32x4_extract_lane(lanes, 1) + wasm_f32x4_extract_lane(lanes, 2) +
                              wasm_f32x4_extract_lane(lanes, 3);
                sum += (u32)total;
            }
    return sum;
}
