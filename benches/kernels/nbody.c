// Planets that attract each other, in double precision with square roots.
#include "kernel.h"
#define N 5
typedef struct {
    f64 x, y, z, vx, vy, vz, mass;
} Body;
static Body bodies[N];

static void advance(f64 dt) {
    for (i32 i = 0; i < N; i++) {
        Body *a = &bodies[i];
        for (i32 j = i + 1; j < N; j++) {
            Body *b = &bodies[j];
            f64 dx = a->x - b->x, dy = a->y - b->y, dz = a->z - b->z;
            f64 square = dx * dx + dy * dy + dz * dz + 0.01;
            f64 force = dt / (square * __builtin_sqrt(square));
            a->vx -= dx * b->mass * force;
            a->vy -= dy * b->mass * force;
            a->vz -= dz * b->mass * force;
            b->vx += dx * a->mass * force;
            b->vy += dy * a->mass * force;
            b->vz += dz * a->mass * force;
        }
    }
    for (i32 i = 0; i < N; i++) {
        Body *a = &bodies[i];
        a->x += dt * a->vx;
        a->y += dt * a->vy;
        a->z += dt * a->vz;
    }
}

EXPORT u64 run(i32 times) {
    for (i32 i = 0; i < N; i++) bodies[i] = (Body){i * 3.5, i * 1.25 - 2, 0.5 * i, 0.01 * i, 0.3 - 0.1 * i, 0.02, 1.0 / (1 + i)};
    for (i32 t = 0; t < times; t++) advance(0.001);
    u64 sum = 0;
    for (i32 i = 0; i < N; i++) sum = mix_f64(sum, bodies[i].x + bodies[i].y + bodies[i].z);
    return sum;
}
