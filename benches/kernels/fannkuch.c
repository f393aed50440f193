// Permutations and reversals of prefixes of small arrays.
#include "kernel.h"

EXPORT u64 run(i32 n) {
    i32 perm[16], perm1[16], count[16], max_flips = 0, checksum = 0, r = n, nperm = 0;
    for (i32 i = 0; i < n; i++) perm1[i] = i;
    for (;;) {
        for (; r != 1; r--) count[r - 1] = r;
        for (i32 i = 0; i < n; i++) perm[i] = perm1[i];
        i32 flips = 0, k;
        while ((k = perm[0]) != 0) {
            for (i32 i = 0, j = k; i < j; i++, j--) {
                i32 swap = perm[i];
                perm[i] = perm[j];
                perm[j] = swap;
            }
            flips++;
        }
        if (flips > max_flips) max_flips = flips;
        checksum += nperm % 2 == 0 ? flips : -flips;
        for (;;) {
            if (r == n) return mix(mix(0, max_flips), checksum);
            i32 first = perm1[0];
            for (i32 i = 0; i < r; i++) perm1[i] = perm1[i + 1];
            perm1[r] = first;
            if (--count[r] > 0) break;
            r++;
        }
        nperm++;
    }
}
