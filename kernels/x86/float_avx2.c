/* F32 and F16 products with AVX2, and the fill of the AVX2 level. Lanes are output rows, k ascending,
 * one accumulator per element. Thread: any. */
#include "kernels/quant.h"
#include "kernels/x86/avx2.h"
#include "kernels/x86/x86.h"

#define INLINE static inline __attribute__((always_inline))
#if defined(__clang__)
#define UNROLL _Pragma("unroll")
#else
#define UNROLL _Pragma("GCC unroll 8")
#endif
#define HALVES 4 /* 2 panels */
#define ROWS   2

INLINE __m256 load_weights(enum qn_type t, const uint8_t *p) {
    if (t == QN_F32) return _mm256_loadu_ps((const float *)(const void *)p);
    return _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)(const void *)p));
}

/* H halves of panels from panel p on (2 per panel) times R rows from m on. */
INLINE void tile(enum qn_type t, unsigned H, unsigned R, const struct qn_linear_args *args, uint32_t p,
                 uint32_t m) {
    const size_t step = t == QN_F32 ? 64 : 32, cols = args->w->cols, ldx = args->a->ldx;
    const uint8_t *w = args->w->data + p * cols * step;
    const float *x = args->a->x + m * ldx;
    __m256 acc[HALVES][ROWS];
    __m256i lanes[HALVES];
    UNROLL for (unsigned i = 0; i < H; i++) {
        ptrdiff_t n0 = (ptrdiff_t)p * QN_PANEL + 8 * (ptrdiff_t)i;
        lanes[i] = qn_tail8((ptrdiff_t)args->w->rows - n0);
        __m256 start = args->bias ? _mm256_maskload_ps(args->bias + n0, lanes[i]) : _mm256_setzero_ps();
        UNROLL for (unsigned r = 0; r < R; r++) acc[i][r] = start;
    }
    for (size_t k = 0; k < cols; k++) {
        __m256 v[HALVES];
        UNROLL for (unsigned i = 0; i < H; i++) v[i] =
            load_weights(t, w + (i / 2 * cols + k) * step + (size_t)(i % 2) * step / 2);
        UNROLL for (unsigned r = 0; r < R; r++) {
            __m256 b = _mm256_set1_ps(x[r * ldx + k]);
            UNROLL for (unsigned i = 0; i < H; i++) acc[i][r] = _mm256_fmadd_ps(v[i], b, acc[i][r]);
        }
    }
    UNROLL for (unsigned i = 0; i < H; i++) {
        float *y = args->y + m * args->ldy + (size_t)p * QN_PANEL + (size_t)8 * i;
        UNROLL for (unsigned r = 0; r < R; r++) _mm256_maskstore_ps(y + r * args->ldy, lanes[i], acc[i][r]);
    }
}

INLINE void rows_of(enum qn_type t, unsigned H, const struct qn_linear_args *args, uint32_t p) {
    uint32_t rows = args->a->rows, m = 0;
    for (; rows - m >= ROWS; m += ROWS) tile(t, H, ROWS, args, p, m);
    if (rows - m) tile(t, H, 1, args, p, m);
}

INLINE void range(enum qn_type t, const struct qn_linear_args *args) {
    uint32_t p = args->panel_begin;
    for (; args->panel_end - p >= HALVES / 2; p += HALVES / 2) rows_of(t, HALVES, args, p);
    for (; p < args->panel_end; p++) rows_of(t, 2, args, p);
}

void qn_avx2_linear_f32(const struct qn_linear_args *args) {
    range(QN_F32, args);
}

void qn_avx2_linear_f16(const struct qn_linear_args *args) {
    range(QN_F16, args);
}

void qn_avx2_fill(struct qn_ops *ops) {
    ops->isa = QN_ISA_AVX2;
    qn_avx2_fill_quant(ops);
    ops->linear[QN_F32] = qn_avx2_linear_f32;
    ops->linear[QN_F16] = qn_avx2_linear_f16;
    ops->linear[QN_BF16] = qn_avx2_linear_bf16;
    ops->quantize_row = qn_avx2_quantize_row;
    ops->attend = qn_avx2_attend;
    ops->attend_join = qn_avx2_attend_join;
    ops->kv_write = qn_avx2_kv_write;
    ops->mix = qn_avx2_mix;
    ops->dots = qn_avx2_dots;
    ops->softmax = qn_avx2_softmax;
    ops->favor_append = qn_avx2_favor_append;
    ops->favor_read = qn_avx2_favor_read;
    ops->rmsnorm = qn_avx2_rmsnorm;
    ops->layernorm = qn_avx2_layernorm;
    ops->rope = qn_avx2_rope;
    ops->activate = qn_avx2_activate;
    ops->gated = qn_avx2_gated;
    ops->add = qn_avx2_add;
    ops->scale = qn_avx2_scale;
    ops->logsumexp = qn_avx2_logsumexp;
}
