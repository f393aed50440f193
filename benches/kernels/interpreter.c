// A machine with a few instructions, interpreted: a switch in a loop.
#include "kernel.h"
enum { PUSH, ADD, SUB, MUL, DUP, SWAP, LOAD, STORE, JUMP_IF, LESS, AND, HALT };
static const i32 program[] = {
    PUSH, 0, STORE, 0, PUSH, 1, STORE, 1,
    // 8: the loop.
    LOAD, 0, LOAD, 1, ADD, DUP, PUSH, 3, MUL, PUSH, 65535, AND, STORE, 1, PUSH, 7, SWAP, SUB, PUSH, 1, AND, LOAD, 0, ADD, PUSH, 1, ADD, DUP,
    STORE, 0, LOAD, 2, LESS, JUMP_IF, 8, LOAD, 1, HALT,
};

static i32 interpret(const i32 *code, i32 limit) {
    i32 stack[16], *top = stack, variables[3] = {0, 0, limit};
    const i32 *at = code;
    for (;;) {
        switch (*at++) {
        case PUSH: *top++ = *at++; break;
        case ADD: top--, top[-1] += *top; break;
        case SUB: top--, top[-1] -= *top; break;
        case MUL: top--, top[-1] *= *top; break;
        case DUP: *top = top[-1], top++; break;
        case SWAP: {
            i32 swap = top[-1];
            top[-1] = top[-2];
            top[-2] = swap;
            break;
        }
        case LOAD: *top++ = variables[*at++]; break;
        case STORE: variables[*at++] = *--top; break;
        case JUMP_IF: at = *--top ? code + *at : at + 1; break;
        case LESS: top--, top[-1] = top[-1] < *top; break;
        case AND: top--, top[-1] &= *top; break;
        default: return *--top;
        }
    }
}

EXPORT u64 run(i32 limit) { return interpret(program, limit); }
