/* Where the int8 form of activations lies. Private to kernels/. */
#ifndef QN_KERNELS_ACT_H
#define QN_KERNELS_ACT_H

#include <stddef.h>

/* Blocks of 32 values in one row. */
static inline size_t qn_act_blocks(size_t cols) {
    return cols / 32 + (cols % 32 != 0);
}

/* Bytes between rows of q. Whole 64-byte lines, and never a multiple of 4096 / 2, so that the rows of one
 * tile do not fall into the same cache sets. */
static inline size_t qn_act_q_stride(size_t cols) {
    size_t lines = cols / 64 + (cols % 64 != 0);
    return 64 * (lines % 32 == 0 ? lines + 1 : lines);
}

#endif
