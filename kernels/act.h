/* Where the 16-bit form of activations lies: struct qn_act of kernels.h. Private to kernels/. */
#ifndef QN_KERNELS_ACT_H
#define QN_KERNELS_ACT_H

#include <stddef.h>
#include <stdint.h>

#define QN_ACT_BLOCK 64 /* bytes of one block: hi[32], lo[32] */
#define QN_ACT_LO    32 /* where its low plane begins */

/* Blocks of 32 values in one row. */
static inline size_t qn_act_blocks(size_t cols) {
    return cols / 32 + (cols % 32 != 0);
}

/* Bytes between rows of q. One 64-byte line per block, and never a multiple of 4096 / 2, so that the rows of
 * one tile do not fall into the same cache sets. */
static inline size_t qn_act_q_stride(size_t cols) {
    size_t lines = qn_act_blocks(cols);
    return QN_ACT_BLOCK * (lines % 32 == 0 ? lines + 1 : lines);
}

/* Value k of a block, and its split. */
static inline int qn_act_join(const int8_t *block, unsigned k) {
    return 256 * block[k] + block[QN_ACT_LO + k];
}
static inline void qn_act_split(int8_t *block, unsigned k, int v) {
    int hi = (v + 128) >> 8; /* rounds down, as every compiler for this machine does */
    block[k] = (int8_t)hi;
    block[QN_ACT_LO + k] = (int8_t)(v - 256 * hi);
}

#endif
