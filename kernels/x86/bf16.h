/* BF16 products, for the files that include this with a vector of LANES output rows: the arithmetic of
 * qn_ref_linear_bf16 bit for bit. The including file gives, before:
 *
 *   vec, pairs                a vector of f32; one of pairs of bfloat16, a pair in each lane
 *   LANES, VECTORS, ROWS      lanes of a vector; a tile is up to VECTORS vectors of columns times ROWS rows
 *   weights(p), same(u32)     pairs from memory; one pair in every lane
 *   dot(acc, w, x)            acc + w.odd * x.odd, then + w.even * x.even, each rounded once, tiny as zero
 *   start(p, n), store(p, v, n)   n lanes (more than LANES: all) of floats
 *   round_row(x, dst, n)      n floats to bfloat16, nearest even, tiny as zero
 *
 * Data flow: rows of x are rounded into a buffer that stays in L1, a chunk of K at a time; a chunk's weights
 * meet all of the buffer's rows before the next one's; sums wait in y meanwhile. Private to kernels/x86.
 * Thread: any. */
#ifndef QN_KERNELS_X86_BF16_H
#define QN_KERNELS_X86_BF16_H

#include <string.h>

#include "kernels/quant.h"

#define INLINE static inline __attribute__((always_inline))
#if defined(__clang__)
#define UNROLL _Pragma("unroll")
#else
#define UNROLL _Pragma("GCC unroll 8")
#endif

#define KEPT      6144u                  /* rounded values in the buffer: 12 KiB */
#define KEPT_ROWS 48u                    /* of x, at most */
#define PAIR_ROW  ((size_t)QN_PANEL * 4) /* bytes of a panel's pairs of one k */

/* One chunk: columns [k, k + ks) of rows [m, m + rows) of x. */
struct chunk {
    const struct qn_linear_args *args;
    const uint16_t *x; /* [rows, ks], ks even */
    uint32_t m, rows, k, ks;
};

/* Columns that there are from n on. */
INLINE size_t columns_from(const struct qn_matrix *w, size_t n) {
    return w->rows > n ? w->rows - n : 0;
}

/* V vectors of columns from vector v on times R of the chunk's rows from r on. */
INLINE void tile(unsigned V, unsigned R, const struct chunk *c, uint32_t v, uint32_t r) {
    const struct qn_linear_args *a = c->args;
    const size_t panel_bytes = qn_matrix_blocks(a->w) * PAIR_ROW, n0 = (size_t)v * LANES;
    const uint16_t *x = c->x + (size_t)r * c->ks;
    float *y = a->y + (c->m + r) * a->ldy + n0;
    const uint8_t *w[VECTORS];
    vec acc[VECTORS][ROWS];
    UNROLL for (unsigned i = 0; i < V; i++) {
        size_t n = n0 + (size_t)i * LANES;
        w[i] = a->w->data + n / QN_PANEL * panel_bytes + n % QN_PANEL * 4 + c->k / 2 * PAIR_ROW;
        UNROLL for (unsigned j = 0; j < R; j++) {
            const float *from = c->k ? y + j * a->ldy + (size_t)i * LANES : a->bias ? a->bias + n : NULL;
            acc[i][j] = start(from, columns_from(a->w, n));
        }
    }
    for (uint32_t k = 0; k < c->ks; k += 2) {
        pairs p[VECTORS];
        UNROLL for (unsigned i = 0; i < V; i++) p[i] = weights(w[i] + k / 2 * PAIR_ROW);
        UNROLL for (unsigned j = 0; j < R; j++) {
            uint32_t two;
            memcpy(&two, x + (size_t)j * c->ks + k, sizeof two);
            pairs b = same(two);
            UNROLL for (unsigned i = 0; i < V; i++) acc[i][j] = dot(acc[i][j], p[i], b);
        }
    }
    UNROLL for (unsigned i = 0; i < V; i++) {
        UNROLL for (unsigned j = 0; j < R; j++)
            store(y + j * a->ldy + (size_t)i * LANES, acc[i][j], columns_from(a->w, n0 + (size_t)i * LANES));
    }
}

INLINE void tiles(unsigned V, const struct chunk *c, uint32_t v) {
    uint32_t r = 0;
    for (; c->rows - r >= ROWS; r += ROWS) tile(V, ROWS, c, v, r);
    for (; c->rows - r >= 2; r += 2) tile(V, 2, c, v, r);
    if (c->rows - r) tile(V, 1, c, v, r);
}

static void round_chunk(const struct chunk *c, uint16_t *dst) {
    const struct qn_act *a = c->args->a;
    uint32_t n = a->cols - c->k < c->ks ? a->cols - c->k : c->ks;
    for (uint32_t r = 0; r < c->rows; r++, dst += c->ks) {
        round_row(a->x + (size_t)(c->m + r) * a->ldx + c->k, dst, n);
        if (n < c->ks) dst[n] = 0;
    }
}

/* Not inlined: the floating-point mode that the caller may have set holds for all of it. */
static __attribute__((noinline)) void bf16_range(const struct qn_linear_args *args) {
    uint16_t x[KEPT];
    const uint32_t rows = args->a->rows, per = QN_PANEL / LANES, cols = args->w->cols + args->w->cols % 2;
    if (rows == 0) return;
    const uint32_t most = rows < KEPT_ROWS ? rows : KEPT_ROWS, step = KEPT / most / 32 * 32;
    struct chunk c = {.args = args, .x = x};
    for (c.k = 0; c.k < cols; c.k += c.ks) {
        c.ks = cols - c.k < step ? cols - c.k : step;
        for (c.m = 0; c.m < rows; c.m += c.rows) {
            c.rows = rows - c.m < most ? rows - c.m : most;
            round_chunk(&c, x);
            uint32_t v = args->panel_begin * per, end = args->panel_end * per;
            for (; end - v >= VECTORS; v += VECTORS) tiles(VECTORS, &c, v);
            for (; v < end; v++) tiles(1, &c, v);
        }
    }
}

#endif
