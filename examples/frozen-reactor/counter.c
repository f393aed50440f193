// A module whose exports are called one by one. Its table of primes is made by `_initialize`, and is there when an instance wakes.
#include <stdint.h>

enum { LIMIT = 100000 };

static uint8_t composite[LIMIT];
static int32_t primes[LIMIT / 8], count;

__attribute__((constructor)) static void sieve(void) {
    for (int32_t n = 2; n < LIMIT; n++) {
        if (composite[n]) continue;
        primes[count++] = n;
        for (int32_t m = 2 * n; m < LIMIT; m += n) composite[m] = 1;
    }
}

__attribute__((export_name("prime"))) int32_t prime(int32_t index) {
    return index >= 0 && index < count ? primes[index] : -1;
}

__attribute__((export_name("count"))) int32_t primes_below(int32_t limit) {
    int32_t below = 0;
    while (below < count && primes[below] < limit) below++;
    return below;
}
