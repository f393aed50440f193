/* Times commands in turns, from posix_spawn to the end of the process:
 *
 *     gcc -O2 -o turns benches/process/turns.c
 *     ./turns ROUNDS INPUT COMMAND [ARGUMENT]... [-- COMMAND [ARGUMENT]...]...
 *
 * In each round every command runs once, in an order that is turned by one from round to round, with INPUT as standard input and
 * /dev/null as standard output. Prints for each the median in microseconds, the fastest tenth, and the median over the rounds of its time
 * divided by the first command's: a machine that is busy with other things slows both. A shell between would take as long as what is measured. */
#define _GNU_SOURCE
#include <fcntl.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>

enum { MOST = 32, WARMUPS = 10 };

extern char **environ;

static double now(void) {
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return time.tv_sec * 1e6 + time.tv_nsec / 1e3;
}

static int ascending(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static double run(char **command, const char *input) {
    posix_spawn_file_actions_t files;
    posix_spawn_file_actions_init(&files);
    posix_spawn_file_actions_addopen(&files, 0, input, O_RDONLY, 0);
    posix_spawn_file_actions_addopen(&files, 1, "/dev/null", O_WRONLY, 0);
    pid_t process;
    int status;
    double start = now();
    if (posix_spawn(&process, command[0], &files, NULL, command, environ) != 0 || waitpid(process, &status, 0) != process) {
        fprintf(stderr, "%s can't be run\n", command[0]);
        exit(1);
    }
    double end = now();
    posix_spawn_file_actions_destroy(&files);
    if (status != 0) {
        fprintf(stderr, "%s ended with status %#x\n", command[0], status);
        exit(1);
    }
    return end - start;
}

int main(int count, char **args) {
    char **commands[MOST];
    double *times[MOST];
    int rounds = count > 3 ? atoi(args[1]) : 0, n = 0;
    if (rounds <= 0) {
        fprintf(stderr, "usage: turns ROUNDS INPUT COMMAND [ARGUMENT]... [-- COMMAND [ARGUMENT]...]...\n");
        return 2;
    }
    for (int at = 3; at < count && n < MOST; at++) {
        commands[n] = args + at;
        times[n++] = malloc(rounds * sizeof(double));
        while (at < count && strcmp(args[at], "--") != 0) at++;
        if (at < count) args[at] = NULL;
    }
    for (int round = -WARMUPS; round < rounds; round++) {
        for (int turn = 0; turn < n; turn++) {
            int which = (turn + round + WARMUPS) % n;
            double time = run(commands[which], args[2]);
            if (round >= 0) times[which][round] = time;
        }
    }
    double *sorted = malloc(rounds * sizeof(double)), *ratios = malloc(rounds * sizeof(double));
    for (int which = 0; which < n; which++) {
        memcpy(sorted, times[which], rounds * sizeof(double));
        for (int round = 0; round < rounds; round++) ratios[round] = times[which][round] / times[0][round];
        qsort(sorted, rounds, sizeof(double), ascending);
        qsort(ratios, rounds, sizeof(double), ascending);
        printf("%9.1f us  fastest tenth below %9.1f us  ratio %6.3f  %s\n", sorted[rounds / 2], sorted[rounds / 10], ratios[rounds / 2], commands[which][0]);
    }
    return 0;
}
