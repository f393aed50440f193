// A table of words with open addressing, filled and asked.
#include "kernel.h"
#define SLOTS 16384
static u8 words[SLOTS / 2][16];
static u32 slots[SLOTS], counts[SLOTS];

static u32 hash(const u8 *word) {
    u32 h = 2166136261u;
    for (; *word; word++) h = (h ^ *word) * 16777619u;
    return h;
}

static i32 equal(const u8 *a, const u8 *b) {
    while (*a && *a == *b) a++, b++;
    return *a == *b;
}

static u32 place(const u8 *word) {
    u32 at = hash(word) % SLOTS;
    while (slots[at] && !equal(words[slots[at] - 1], word)) at = (at + 1) % SLOTS;
    return at;
}

EXPORT u64 run(i32 times) {
    u32 seed = 11;
    for (u32 i = 0; i < SLOTS / 2; i++) {
        u32 length = 3 + xorshift(&seed) % 12;
        for (u32 j = 0; j < length; j++) words[i][j] = 'a' + xorshift(&seed) % 26;
        words[i][length] = 0;
    }
    __builtin_memset(slots, 0, sizeof slots);
    __builtin_memset(counts, 0, sizeof counts);
    for (i32 t = 0; t < times; t++)
        for (u32 i = 0; i < SLOTS / 2; i++) {
            u32 at = place(words[i]);
            slots[at] = i + 1;
            counts[at] += t;
        }
    u64 sum = 0;
    for (u32 i = 0; i < SLOTS; i++) sum = mix(sum, counts[i]);
    return sum;
}
