/* The arithmetic of quern: packed weight matrices and the table of operations.
 *
 * One table (struct qn_ops) is filled once at start: reference C first, then AVX2, then AVX-512 levels
 * overwrite entries, chosen by kernels/cpu.h. After that it is read-only. kernels/ref/ is the definition;
 * every other version is tested against it (tests/kernels).
 *
 * The rule that everything else stands on: the value of one output element is a fixed sequence of operations
 * that depends on its own inputs only: not on the number of rows M in the call, on the other rows, on how
 * columns are split over threads, nor on the thread count. M = 1 and prefill share that sequence. So lanes of
 * a vector are always different output elements, K is walked in ascending order with one accumulator per
 * element, and every multiply-add is a fused one (fmaf in the reference). Horizontal sums keep 16 partial
 * sums folded in one order, and exp is one polynomial: every operation of the table gives the same bits at
 * every ISA level. How far exp and the activations are from the true functions: tests/kernels/row_test.c.
 *
 * No kernel reads or writes past the extents stated here. Thread: any; kernels keep no state. */
#ifndef QN_KERNELS_H
#define QN_KERNELS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "kernels/cpu.h"
#include "kernels/pool.h"

/* ---- tensor types (values of a checkpoint's storage, layouts of kernels/quant.h) ---- */
enum qn_type {
    QN_F32 = 0,
    QN_F16,
    QN_BF16,
    QN_Q8_0,
    QN_Q4_0,
    QN_Q4_1,
    QN_Q5_0,
    QN_Q5_1,
    QN_Q4_K,
    QN_Q5_K,
    QN_Q6_K,
    QN_TYPE_COUNT
};
const char *qn_type_name(enum qn_type t);     /* "F32", "Q4_K", … */
unsigned qn_type_block(enum qn_type t);       /* elements per block: 1, 32 or 256 */
unsigned qn_type_block_bytes(enum qn_type t); /* bytes per block in a file */
/* Bytes of one file row of cols elements; false when cols is not a multiple of the block or on overflow. */
bool qn_type_row_bytes(enum qn_type t, size_t cols, size_t *out);
/* Dequantises one file row (exact values, as ggml and IEEE define them). src needs no alignment. */
void qn_type_row_to_f32(enum qn_type t, const void *src, float *dst, size_t cols);
/* Rounds cols floats to one file row of any type (quantize.c): scales from each block's extremes, codes to
 * the nearest. Fast: for random weights, and averages in the float types. */
void qn_type_row_from_f32(enum qn_type t, const float *src, void *dst, size_t cols);
/* The same with scales that are searched for (fit.c): what a converter writes. About a hundred times slower;
 * of each block, the squared error (weighted by size in the K types) is at most that of the other's. */
void qn_type_row_fit_f32(enum qn_type t, const float *src, void *dst, size_t cols);

/* ---- packed matrices: W is [rows, cols], used as y = x W^T ---- */
#define QN_PANEL 16 /* output rows that lie side by side, one per 32-bit lane */
/* Rows of a matrix that one item of a pool fills: whole panels, so that items never meet. */
#define QN_ITEM_ROWS (8 * QN_PANEL)

struct qn_matrix {
    enum qn_type type;
    uint32_t rows; /* output width N; padded with zero rows to a multiple of QN_PANEL inside data */
    uint32_t cols; /* input width K */
    size_t bytes;  /* of data */
    uint8_t *data; /* QN_ALIGN aligned; owned by whoever called qn_matrix_alloc, or gave it to qn_matrix_at */
};

/* Bytes of the packed form; false for shapes that overflow or do not fit the type's block. */
bool qn_matrix_bytes(enum qn_type t, size_t rows, size_t cols, size_t *out);
/* Allocates m->data (zeroed) for a shape; false when it can't. qn_matrix_free takes half-built ones too. */
bool qn_matrix_alloc(struct qn_matrix *m, enum qn_type t, size_t rows, size_t cols);
void qn_matrix_free(struct qn_matrix *m);
/* The same over memory of qn_matrix_bytes bytes that stays the caller's: zeroed, or a matrix's packed form.
 */
bool qn_matrix_at(struct qn_matrix *m, enum qn_type t, size_t rows, size_t cols, uint8_t *data);
/* Writes one file row into row r of the packed matrix, values unchanged. Rows may be written in any order and
 * by several threads at once as long as they lie in different panels. */
void qn_matrix_set_row(struct qn_matrix *m, uint32_t r, const void *file_row);
/* Dequantises packed row r into dst[cols]: the same values as qn_type_row_to_f32 of the file row. */
void qn_matrix_get_row(const struct qn_matrix *m, uint32_t r, float *dst);
/* An F16 matrix of an even number of columns becomes a BF16 one in place, its values rounded to nearest
 * (2^-9; on the pool). Others stay as they are, and their products f32 ones. */
void qn_matrix_f16_to_bf16(struct qn_pool *pool, struct qn_matrix *m);
/* dst row i = src row index[i], bit for bit (repeats and permutations of heads). dst is allocated here with
 * src's type; false when memory is short. */
bool qn_matrix_gather(struct qn_matrix *dst, const struct qn_matrix *src, const uint32_t *index, size_t n);

/* ---- activations prepared for a product ---- */
enum qn_act_fn {
    QN_ACT_RELU = 0,
    QN_ACT_GELU_ERF,
    QN_ACT_GELU_TANH,
    QN_ACT_SILU,
    QN_ACT_SIGMOID,
    QN_ACT_IDENTITY,
    QN_ACT_COUNT
};

/* M rows of K floats and, when needed, their integer form (kernels/act.h): per block of 32 values a scale and
 * 32 integers of 15 bits, in steps of 16, of which two share their low byte: what byte dot products multiply,
 * three for two groups of 4-bit weights, four for wider ones. 8 bits would not do: products with rounded
 * activations must not change which token leads. Memory is the caller's (forward's scratch). */
struct qn_act_block;
struct qn_act {
    const float *x;         /* [rows, ldx] */
    size_t ldx;             /* floats between rows */
    uint32_t rows;          /* M */
    uint32_t cols;          /* K */
    struct qn_act_block *q; /* [rows, qn_act_stride(cols) of kernels/act.h]; valid after qn_act_quantize */
};
/* True when products with this weight type read the integer form (all Q types). */
bool qn_type_wants_int(enum qn_type t);
/* Bytes of the integer form of rows x cols; false on overflow. */
bool qn_act_bytes(size_t rows, size_t cols, size_t *out);
/* Makes mem (QN_ALIGN aligned, qn_act_bytes long) a's q and fills it from a->x. */
void qn_act_quantize(struct qn_pool *pool, struct qn_act *a, void *mem);

/* Makes mem a's q without filling it; fills rows [begin, end) of it from a->x, on this thread. */
void qn_act_place(struct qn_act *a, void *mem);
void qn_act_fill(const struct qn_act *a, uint32_t begin, uint32_t end);

/* y[m, n] = bias[n] + sum_k x[m,k] W[n,k] for m < a->rows, n < w->rows; bias may be NULL; y rows are ldy
 * floats apart. Quantised W need a->q (qn_act_quantize first). The pool splits panels of output columns. */
void qn_linear(struct qn_pool *pool, const struct qn_matrix *w, const struct qn_act *a, const float *bias,
               float *y, size_t ldy);
/* The same for several matrices with one input, in one loop of the pool. */
struct qn_product {
    const struct qn_matrix *w;
    const float *bias; /* or NULL */
    float *y;
    size_t ldy;
};
void qn_linear_all(struct qn_pool *pool, const struct qn_product *p, size_t n, const struct qn_act *a);

/* The hidden layer of a feed-forward network, f(a Wup^T + b) or f(a Wgate^T + b) * (a Wup^T + b), in one loop
 * of the pool: who has computed some columns applies f while they are in its cache. */
struct qn_hidden {
    const struct qn_matrix *gate, *up; /* of one shape; gate NULL: none */
    const float *b_gate, *b_up;        /* or NULL */
    float *g, *u;                      /* [rows, up->rows] each; u is not touched without a gate */
    enum qn_act_fn act;
};
/* out, over g: with q (qn_act_place) it gets the integer form and what is in g means nothing; else g is the
 * layer, [rows, up->rows]. Bits are those of the products, f and qn_act_quantize one after the other. */
void qn_linear_hidden(struct qn_pool *pool, const struct qn_hidden *h, const struct qn_act *a,
                      const struct qn_act *out);

/* Says which products, or whose hidden layer, with few rows come after the next loop of the pool: threads
 * that wait bring the first weights that they will read into their caches. */
void qn_linear_ahead(struct qn_pool *pool, const struct qn_matrix *const *w, size_t n, uint32_t rows);
void qn_linear_hidden_ahead(struct qn_pool *pool, const struct qn_matrix *gate, const struct qn_matrix *up,
                            uint32_t rows);

/* The same product through OpenBLAS (kernels/gemm.c): W is dequantised in panels of a fixed size, whatever
 * the thread count. work: qn_gemm_work_bytes(pool threads, cols) bytes. Not bit-equal to qn_linear: for
 * embed, bidirectional encoders and load-time algebra only; its results never enter the prefix cache. */
bool qn_gemm_work_bytes(unsigned threads, size_t cols, size_t *out);
void qn_gemm_linear(struct qn_pool *pool, const struct qn_matrix *w, const struct qn_act *a,
                    const float *bias, float *y, size_t ldy, void *work);

/* ---- attention over paged KV blocks ---- */
#define QN_KV_BLOCK 16 /* tokens per block */
/* Tokens that softmax takes together: its running maximum moves once for so many, at absolute multiples. */
#define QN_ATTEND_GROUP 64
/* How keys and values are stored. Q8: 8-bit codes with one f32 scale for each token, KV head and half
 * (largest magnitude / 127, after a rotation: kernels/ref/attend.c), written once. */
enum qn_kv_type { QN_KV_F32 = 0, QN_KV_F16, QN_KV_BF16, QN_KV_Q8, QN_KV_TYPE_COUNT };
const char *qn_kv_type_name(enum qn_kv_type t); /* "f32", "f16", "bf16", "q8" */
/* Bytes of one element, scales aside. */
static inline size_t qn_kv_elem_bytes(enum qn_kv_type t) {
    return t == QN_KV_F32 ? 4 : t == QN_KV_Q8 ? 1 : 2;
}
/* Bytes of K (and as many of V) of one KV head in one block, a multiple of QN_ALIGN. */
static inline size_t qn_kv_half_bytes(enum qn_kv_type t, size_t head_dim) {
    return QN_KV_BLOCK * (head_dim * qn_kv_elem_bytes(t) + (t == QN_KV_Q8 ? sizeof(float) : 0));
}

/* Query rows of one sequence at positions pos, pos + 1, … (each with the `group` query heads that read one KV
 * head) against its tokens [begin, end). The row at position p sees those with t <= p and, with a window,
 * t + window > p; at least one of them. What lies where unseen tokens do may be anything.
 *
 * In a block of 16 tokens, K of one head is [head_dim][16 tokens] (transposed: lanes are tokens) and V [16
 * tokens][head_dim]. Q8: K is [head_dim / 2][16 tokens][2], V [8][head_dim][2 tokens], either followed by the
 * tokens' scales [16]. A row's bits do not depend on the rows beside it. */
struct qn_attend {
    const float *q; /* head h of row r at q + r * q_row + h * ldq */
    size_t ldq, q_row;
    float *out; /* head h of row r at out + r * out_row + h * ldo */
    size_t ldo, out_row;
    const uint8_t *const *blocks; /* base address of each block of the sequence, in order */
    size_t k_offset, v_offset;    /* bytes from a block's base to this layer's and head's K and V */
    enum qn_kv_type type;
    uint32_t group, head_dim; /* head_dim: multiple of 8, at most 512 */
    uint32_t rows, pos;
    uint32_t begin, end, window; /* window: tokens that a row sees, itself included; 0 = all */
    float scale;                 /* usually head_dim^-1/2 */
    bool part; /* these are not all tokens that the rows see: leave sums as they are, with the maximum of the
                  scores and the sum of the weights behind each head: ldo >= head_dim + 2 */
};
/* What the parts of a row's tokens, joined in order (attend_join), come to: sum [group][head_dim + 2] -> out
 * [group, ldo]. One part gives the bits that attend gives without `part`. */
void qn_attend_finish(const float *sum, uint32_t group, uint32_t head_dim, float *out, size_t ldo);
/* Writes k,v of one token and one KV head (each head_dim floats) into slot t % 16 of a block. */
struct qn_kv_write {
    const float *k, *v;
    uint8_t *block;
    size_t k_offset, v_offset;
    enum qn_kv_type type;
    uint32_t head_dim, slot;
};

/* ---- attention with a fixed-size state ---- */
enum qn_mix_start {
    QN_MIX_ZERO = 0, /* accumulators start at 0 */
    QN_MIX_ADD,      /* at y */
    QN_MIX_SCALE     /* at y * scale[row] */
};
/* y[r][n] = start + sum over k of x[r][k] * b[k][n], k ascending, one fused accumulator per element: the same
 * bits for a row whatever the number of rows. No alignment is needed; y overlaps nothing else. */
struct qn_mix {
    const float *x; /* x[r][k] lies at r * x_row + k * x_k */
    size_t x_row, x_k;
    const float *b; /* [depth, ldb] */
    size_t ldb;
    float *y; /* [rows, ldy] */
    size_t ldy;
    const float *scale; /* [rows], QN_MIX_SCALE only */
    size_t rows, depth, cols;
    enum qn_mix_start start;
};

/* Positive random features of one block of QN_KV_BLOCK tokens and one KV head, relative to a running maximum
 * per feature: keys[j][s] = exp(log feature j of token s - top[j]). */
struct qn_favor {
    float *f;       /* [m] in: w_j . x unscaled; read leaves the state's weights there */
    float *top;     /* [m] the running maximum of log features, over all tokens so far */
    float *shrink;  /* [m] exp(top when the block was opened - top) */
    float *keys;    /* [m, QN_KV_BLOCK] */
    const float *z; /* [m] read: sums of the features of the tokens before the block */
    float *weight;  /* [QN_KV_BLOCK] read: of the block's tokens */
    size_t m, slot; /* append: the token's place in the block */
    float scale;    /* of f */
    float minus;    /* append: subtracted from every log feature (half the squared norm) */
};

/* ---- element-wise and row operations ---- */
/* Arguments of one product over a range of panels; kernels/linear.c fills it and splits the range. */
struct qn_linear_args {
    const struct qn_matrix *w;
    const struct qn_act *a;
    const float *bias; /* [w->rows] or NULL */
    float *y;
    size_t ldy;
    uint32_t panel_begin, panel_end; /* panels of QN_PANEL output columns */
};

struct qn_ops {
    enum qn_isa isa;
    void (*linear[QN_TYPE_COUNT])(const struct qn_linear_args *args);
    /* One row's integer form (struct qn_act), a block per 32 values; past cols the last block's are zero. */
    void (*quantize_row)(const float *x, size_t cols, struct qn_act_block *q);
    void (*attend)(const struct qn_attend *args);
    /* Adds a part of a row's tokens to what the parts before came to; sum and part are [group][head_dim + 2].
     * For the first one sum may hold anything, and may be the part itself. */
    void (*attend_join)(float *sum, const float *part, bool first, uint32_t group, uint32_t head_dim);
    void (*kv_write)(const struct qn_kv_write *args);
    void (*mix)(const struct qn_mix *args);
    /* y[i] = sum over k of x[k] * b[i][k] for i < rows: 16 partial sums, element k in lane k mod 16, folded.
     */
    void (*dots)(float *y, const float *x, const float *b, size_t ldb, size_t rows, size_t n);
    /* x = exp(x * scale - max(x * scale)); returns the sum of the result. */
    float (*softmax)(float *x, size_t n, float scale);
    /* l = fma(f, scale, -minus); where it exceeds top, top becomes l, and shrink and the feature's keys are
     * multiplied by exp(old - new); keys[.][slot] = exp(l - top). */
    void (*favor_append)(const struct qn_favor *args);
    /* a = fma(f, scale, top), p = exp(a - max a); f = p * shrink; weight[s] = sum of p_j * keys[j][s], j in 4
     * partial sums (j mod 4; 0 and 1, 2 and 3 are added first). Returns sum(f * z) + sum(weight). */
    float (*favor_read)(const struct qn_favor *args);
    /* y = x / sqrt(mean(x^2)+eps) * g; y may be x. */
    void (*rmsnorm)(float *y, const float *x, const float *g, size_t n, float eps);
    /* y = (x-mean)/sqrt(var+eps)*g + b, biased variance; b may be NULL; y may be x. */
    void (*layernorm)(float *y, const float *x, const float *g, const float *b, size_t n, float eps);
    /* Rotates pairs (i, i+rot/2) of each of `heads` rows of head_dim floats; cs = cos[rot/2] then sin[rot/2].
     */
    void (*rope)(float *x, size_t heads, size_t head_dim, size_t rot, const float *cs);
    /* y = f(x), and y = f(gate) * up (y may be gate). */
    void (*activate)(float *y, const float *x, size_t n, enum qn_act_fn f);
    void (*gated)(float *y, const float *gate, const float *up, size_t n, enum qn_act_fn f);
    void (*add)(float *y, const float *x, size_t n); /* y += x */
    void (*scale)(float *y, float s, size_t n);      /* y *= s */
    /* log(sum(exp(x))) with the maximum taken out, and the index of the first maximum. */
    float (*logsumexp)(const float *x, size_t n, size_t *argmax);
};

/* The table in force (filled by qn_kernels_init; reference C before that). */
const struct qn_ops *qn_ops(void);
/* Fills the table for a level at most `max` (QN_ISA_COUNT - 1 for all that the CPU has). Call once at start;
 * tests call it again to change level. Also tells OpenBLAS to use one thread per call. */
void qn_kernels_init(enum qn_isa max);
/* qn_kernels_init at the highest level, unless a level was chosen before: what opening a model does. */
void qn_kernels_ensure(void);
/* Fills a table of its own: for tests and benchmarks that compare levels. */
void qn_ops_fill(struct qn_ops *ops, enum qn_isa max);

uint16_t qn_f32_to_f16(float f); /* round to nearest even */
float qn_f16_to_f32(uint16_t h);
uint16_t qn_f32_to_bf16(float f); /* round to nearest even */
static inline float qn_bf16_to_f32(uint16_t h) {
    union {
        uint32_t u;
        float f;
    } v = {(uint32_t)h << 16};
    return v.f;
}

#endif
