// CRC-32 by a table, a byte at a time.
#include "kernel.h"
static u32 table[256];
static u8 bytes[65536];

EXPORT u64 run(i32 times) {
    for (u32 i = 0; i < 256; i++) {
        u32 c = i;
        for (i32 bit = 0; bit < 8; bit++) c = c & 1 ? c >> 1 ^ 0xedb88320 : c >> 1;
        table[i] = c;
    }
    for (u32 i = 0; i < sizeof bytes; i++) bytes[i] = i * i >> 3;
    u32 crc = ~0u;
    for (i32 t = 0; t < times; t++)
        for (u32 i = 0; i < sizeof bytes; i++) crc = table[(crc ^ bytes[i]) & 255] ^ crc >> 8;
    return ~crc;
}
