// How fast points of the plane escape, in double precision.
#include "kernel.h"

EXPORT u64 run(i32 size) {
    u64 sum = 0;
    for (i32 row = 0; row < size; row++)
        for (i32 column = 0; column < size; column++) {
            f64 cx = 2.0 * column / size - 1.5, cy = 2.0 * row / size - 1.0, x = 0, y = 0;
            i32 step = 0;
            for (; step < 50 && x * x + y * y < 4.0; step++) {
                f64 next = x * x - y * y + cx;
                y = 2 * x * y + cy;
                x = next;
            }
            sum = mix(sum, step);
        }
    return sum;
}
