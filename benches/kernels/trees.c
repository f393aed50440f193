// Binary trees made, walked and forgotten: recursion, and a memory that is a stack.
#include "kernel.h"
typedef struct Node {
    struct Node *left, *right;
    i32 value;
} Node;
static Node nodes[1 << 15];
static u32 used;

static Node *make(i32 depth) {
    Node *node = &nodes[used++];
    node->value = depth;
    node->left = depth ? make(depth - 1) : 0;
    node->right = depth ? make(depth - 1) : 0;
    return node;
}

static i32 walk(const Node *node) { return node ? node->value + walk(node->left) - walk(node->right) + 1 : 0; }

EXPORT u64 run(i32 times) {
    u64 sum = 0;
    for (i32 t = 0; t < times; t++) {
        used = 0;
        sum = mix(sum, walk(make(12 - t % 3)));
    }
    return sum;
}
