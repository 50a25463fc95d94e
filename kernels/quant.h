/* Storage of weights: the block layouts of files, the panel layouts that the kernels read, and the table that
 * describes both. Private to kernels/.
 *
 * A packed matrix is a sequence of panels of QN_PANEL output rows. A panel is a sequence of packed blocks in
 * ascending K; one packed block holds one file block of each of its 16 rows (F32 and F16: one K of 16 rows;
 * BF16: two, side by side in each row's 32-bit lane, the last of an odd number being beside a zero). Codes
 * are unsigned and lie so that one 64-byte load is 16 rows x 4 consecutive k (byte r*4 + i = row r, k =
 * 4*chunk + i): the operand of a four-way byte dot product whose 32-bit lanes are the rows. 8-bit codes:
 * q[chunk][64], chunk 0..7 of a sub-block of 32 k. 4 low bits:  lo[j][64]: chunk 2j in the low nibbles, chunk
 * 2j+1 in the high nibbles. 5th bit:     hi[64]: bit c of a byte belongs to chunk c. bits 4, 5:   hi[g][64]:
 * the 2-bit field f (bits 2f, 2f+1) of a byte belongs to chunk 4g + f. K-quants keep d and dmin as f16 and
 * their 6-bit scales widened to bytes, 16 rows side by side. */
#ifndef QN_KERNELS_QUANT_H
#define QN_KERNELS_QUANT_H

#include <assert.h>
#include <stdint.h>

#include "kernels/kernels.h"

/* ---- blocks as they lie in files (ggml); d, m, dmin are f16 bits ---- */
struct qn_block_q8_0 {
    uint16_t d;
    int8_t qs[32];
};
struct qn_block_q4_0 {
    uint16_t d;
    uint8_t qs[16];
};
struct qn_block_q4_1 {
    uint16_t d, m;
    uint8_t qs[16];
};
struct qn_block_q5_0 {
    uint16_t d;
    uint8_t qh[4], qs[16];
};
struct qn_block_q5_1 {
    uint16_t d, m;
    uint8_t qh[4], qs[16];
};
struct qn_block_q4_k {
    uint16_t d, dmin;
    uint8_t scales[12], qs[128];
};
struct qn_block_q5_k {
    uint16_t d, dmin;
    uint8_t scales[12], qh[32], qs[128];
};
struct qn_block_q6_k {
    uint8_t ql[128], qh[64];
    int8_t scales[16];
    uint16_t d;
};
static_assert(sizeof(struct qn_block_q8_0) == 34, "Q8_0 file block");
static_assert(sizeof(struct qn_block_q4_0) == 18, "Q4_0 file block");
static_assert(sizeof(struct qn_block_q4_1) == 20, "Q4_1 file block");
static_assert(sizeof(struct qn_block_q5_0) == 22, "Q5_0 file block");
static_assert(sizeof(struct qn_block_q5_1) == 24, "Q5_1 file block");
static_assert(sizeof(struct qn_block_q4_k) == 144, "Q4_K file block");
static_assert(sizeof(struct qn_block_q5_k) == 176, "Q5_K file block");
static_assert(sizeof(struct qn_block_q6_k) == 210, "Q6_K file block");

/* ---- packed blocks: the same values for 16 rows ---- */
struct qn_panel_q8_0 {
    uint16_t d[QN_PANEL];
    uint8_t q[8][64]; /* value + 128 */
};
struct qn_panel_q4_0 {
    uint16_t d[QN_PANEL];
    uint8_t lo[4][64]; /* value + 8 */
};
struct qn_panel_q4_1 {
    uint16_t d[QN_PANEL], m[QN_PANEL];
    uint8_t lo[4][64];
};
struct qn_panel_q5_0 {
    uint16_t d[QN_PANEL];
    uint8_t lo[4][64], hi[64]; /* value + 16 */
};
struct qn_panel_q5_1 {
    uint16_t d[QN_PANEL], m[QN_PANEL];
    uint8_t lo[4][64], hi[64];
};
struct qn_panel_q4_k {
    uint16_t d[QN_PANEL], m[QN_PANEL];
    uint8_t sc[8][QN_PANEL], mn[8][QN_PANEL];
    uint8_t lo[8][4][64];
};
struct qn_panel_q5_k {
    uint16_t d[QN_PANEL], m[QN_PANEL];
    uint8_t sc[8][QN_PANEL], mn[8][QN_PANEL];
    uint8_t lo[8][4][64], hi[8][64];
};
struct qn_panel_q6_k {
    uint16_t d[QN_PANEL];
    int8_t sc[16][QN_PANEL];
    uint8_t lo[8][4][64], hi[8][2][64]; /* value + 32 */
};
static_assert(sizeof(struct qn_panel_q8_0) == 16 * 34, "Q8_0 packed block");
static_assert(sizeof(struct qn_panel_q4_0) == 16 * 18, "Q4_0 packed block");
static_assert(sizeof(struct qn_panel_q4_1) == 16 * 20, "Q4_1 packed block");
static_assert(sizeof(struct qn_panel_q5_0) == 16 * 22, "Q5_0 packed block");
static_assert(sizeof(struct qn_panel_q5_1) == 16 * 24, "Q5_1 packed block");
static_assert(sizeof(struct qn_panel_q4_k) == 16 * 148, "Q4_K packed block");
static_assert(sizeof(struct qn_panel_q5_k) == 16 * 180, "Q5_K packed block");
static_assert(sizeof(struct qn_panel_q6_k) == 16 * 210, "Q6_K packed block");

/* One row of a type table: where the parts of a packed block are. Offsets in bytes; 0 = the type has none
 * (only d, at offset 0 of every quantised block, really is at 0). */
struct qn_layout {
    const char *name;
    uint16_t block;       /* elements of K per block: 1, 32 or 256 */
    uint16_t file_bytes;  /* of one block in a file */
    uint16_t panel_bytes; /* of one packed block */
    uint16_t panel_ks;    /* K in one packed block: `block`, but for BF16's pairs */
    int16_t offset;       /* code - offset = value's integer factor; 0 for types with a minimum */
    uint16_t m, sc, mn;   /* minimum (f16), sub-block scales and minima (bytes) */
    uint16_t lo, hi;      /* low bits and high bits */
    uint8_t lo_bits;      /* 8 or 4; 0 for float types */
    uint8_t hi_bits;      /* 0, 1 or 2 */
};

/* The row of a type; NULL for a value outside the enum. */
const struct qn_layout *qn_type_layout(enum qn_type t);

/* One block of one row, taken apart. */
struct qn_codes {
    uint8_t code[256];
    uint16_t d, m;     /* f16 bits */
    uint8_t scale[16]; /* Q4_K, Q5_K: 8 of 6 bits; Q6_K: 16 int8 bit patterns */
    uint8_t min[8];
};
void qn_codes_from_file(enum qn_type t, const void *src, struct qn_codes *c);
/* dst[block elements] = the exact values. */
void qn_codes_to_f32(enum qn_type t, const struct qn_codes *c, float *dst);

/* Number of packed blocks along K. */
static inline size_t qn_matrix_blocks(const struct qn_matrix *w) {
    unsigned ks = qn_type_layout(w->type)->panel_ks;
    return w->cols / ks + (w->cols % ks != 0);
}

#endif
