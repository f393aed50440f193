// Shortest paths between all pairs (Floyd and Warshall), in integers.
#include "kernel.h"
#define N 96
static i32 path[N][N];

EXPORT u64 run(i32 times) {
    u64 sum = 0;
    for (i32 t = 0; t < times; t++) {
        for (i32 i = 0; i < N; i++)
            for (i32 j = 0; j < N; j++) path[i][j] = (i + j + t) % 13 == 0 || (i + j) % 7 == 0 ? 999 : i * j % 7 + 1;
        for (i32 k = 0; k < N; k++)
            for (i32 i = 0; i < N; i++)
                for (i32 j = 0; j < N; j++) {
                    i32 by_way = path[i][k] + path[k][j];
                    if (by_way < path[i][j]) path[i][j] = by_way;
                }
        for (i32 i = 0; i < N; i++) sum = mix(sum, path[i][(i * 5) % N]);
    }
    return sum;
}
