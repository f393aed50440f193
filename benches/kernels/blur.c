// A picture blurred, 16 points at a time with SIMD.
#include "kernel.h"
#include <wasm_simd128.h>
#define W 512
#define H 256
static u8 from[H][W], to[H][W];

EXPORT u64 run(i32 times) {
    u32 seed = 9;
    for (i32 y = 0; y < H; y++)
        for (i32 x = 0; x < W; x++) from[y][x] = xorshift(&seed);
    for (i32 t = 0; t < times; t++) {
        for (i32 y = 1; y < H - 1; y++)
            for (i32 x = 16; x < W - 16; x += 16) {
                v128_t row = wasm_u8x16_avgr(wasm_v128_load(&from[y][x - 1]), wasm_v128_load(&from[y][x + 1]));
                v128_t column = wasm_u8x16_avgr(wasm_v128_load(&from[y - 1][x]), wasm_v128_load(&from[y + 1][x]));
                wasm_v128_store(&to[y][x], wasm_u8x16_avgr(wasm_u8x16_avgr(row, column), wasm_v128_load(&from[y][x])));
            }
        for (i32 y = 1; y < H - 1; y++)
            for (i32 x = 16; x < W - 16; x += 16)
                wasm_v128_store(&from[y][x], wasm_u8x16_add_sat(wasm_v128_load(&to[y][x]), wasm_u8x16_splat(t & 1)));
    }
    u64 sum = 0;
    for (i32 y = 0; y < H; y++) sum = mix(sum, from[y][y]);
    return sum;
}
