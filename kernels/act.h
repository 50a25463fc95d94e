/* The integer form of activations (struct qn_act of kernels.h), one cache line per block of 32 values.
 *
 * A product of bytes takes one instruction per 64 multiply-adds, and 8 bits of activation are not enough. Two
 * bytes each would take two. Here two values share a low byte, and 4-bit weights, which lie two to a byte,
 * meet it as they lie. Values k and k + 4 (k / 4 even) with the low byte l and high bytes h, g are
 *
 *     v[k] = 256 h + l,    v[k + 4] = 256 g + 16 l
 *
 * so that, with codes w and u in the low and high half of a byte p = w + 16 u,
 *
 *     w v[k] + u v[k + 4] = 256 (w h + u g) + p l.
 *
 * l's low half makes v[k + 4] as near to its value as a multiple of 16 can be, l's high half makes v[k] so:
 * what 16 l carries beyond a byte is taken back by g. So every value is met to within 8 of QN_ACT_MAX.
 * Private to kernels/. */
#ifndef QN_KERNELS_ACT_H
#define QN_KERNELS_ACT_H

#include <assert.h>
#include <stddef.h>
#include <stdint.h>

struct qn_act_block {
    int8_t high[32];
    int8_t low[16];   /* [j][i]: of values 8 j + i and 8 j + 4 + i */
    float scale;      /* of v: amax / QN_ACT_MAX; NaN where a value is not finite */
    float scaled_sum; /* scale * sum */
    int32_t sum;      /* of all v */
    int32_t first;    /* of the first 16 */
};
static_assert(sizeof(struct qn_act_block) == 64, "one cache line");

#define QN_ACT_STEPS 1904 /* multiples of 16 up to amax: 119 * 16, which leaves room for 16 l in g */
#define QN_ACT_MAX   (16 * QN_ACT_STEPS) /* |v[k + 4]|; |v[k]| may be 8 more */

/* Blocks of 32 values in one row. */
static inline size_t qn_act_blocks(size_t cols) {
    return cols / 32 + (cols % 32 != 0);
}

/* Blocks between rows: never a multiple of 2048 bytes apart, so that the rows of one tile do not fall into
 * the same cache sets. */
static inline size_t qn_act_stride(size_t cols) {
    size_t blocks = qn_act_blocks(cols);
    return blocks % 32 == 0 ? blocks + 1 : blocks;
}

/* Value k of a block. */
static inline int qn_act_join(const struct qn_act_block *b, unsigned k) {
    return 256 * b->high[k] + (k & 4u ? 16 : 1) * b->low[k / 8 * 4 + k % 4];
}

/* Makes values k and k + 4 (k / 4 even) 16 n + low and 16 m, where low is m's residue of 16 in [-8, 7]. */
static inline void qn_act_split(struct qn_act_block *b, unsigned k, int n, int m) {
    int low = ((m + 8) & 15) - 8, v = 16 * n + low, byte = ((v + 128) & 255) - 128;
    b->low[k / 8 * 4 + k % 4] = (int8_t)byte;
    b->high[k] = (int8_t)((v - byte) / 256);
    b->high[k + 4] = (int8_t)((m - byte) / 16);
}

#endif
