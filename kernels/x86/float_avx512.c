/* F32 and F16 products with AVX-512: lanes are output rows, one accumulator per element, k ascending.
 * Tiles of up to 4 panels x 6 rows keep 24 accumulators in flight. Thread: any. */
#include "kernels/quant.h"
#include "kernels/x86/avx512.h"

#define INLINE static inline __attribute__((always_inline))
#if defined(__clang__)
#define UNROLL _Pragma("unroll")
#else
#define UNROLL _Pragma("GCC unroll 8")
#endif
#define PANELS 4
#define ROWS   6

INLINE __m512 load_weights(enum qn_type t, const uint8_t *p) {
    if (t == QN_F32) return _mm512_loadu_ps((const float *)(const void *)p);
    return _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)(const void *)p));
}

/* P panels from p on times R rows from m on. */
INLINE void tile(enum qn_type t, unsigned P, unsigned R, const struct qn_linear_args *args, uint32_t p,
                 uint32_t m) {
    const size_t step = t == QN_F32 ? 64 : 32, cols = args->w->cols, ldx = args->a->ldx;
    const uint8_t *w = args->w->data + p * cols * step;
    const float *x = args->a->x + m * ldx;
    __m512 acc[PANELS][ROWS];
    __mmask16 lanes[PANELS];
    UNROLL for (unsigned i = 0; i < P; i++) {
        size_t n0 = (size_t)(p + i) * QN_PANEL;
        lanes[i] = qn_tail16(args->w->rows - n0);
        __m512 start = args->bias ? _mm512_maskz_loadu_ps(lanes[i], args->bias + n0) : _mm512_setzero_ps();
        UNROLL for (unsigned r = 0; r < R; r++) acc[i][r] = start;
    }
    for (size_t k = 0; k < cols; k++) {
        __m512 v[PANELS];
        UNROLL for (unsigned i = 0; i < P; i++) v[i] = load_weights(t, w + (i * cols + k) * step);
        UNROLL for (unsigned r = 0; r < R; r++) {
            __m512 b = _mm512_set1_ps(x[r * ldx + k]);
            UNROLL for (unsigned i = 0; i < P; i++) acc[i][r] = _mm512_fmadd_ps(v[i], b, acc[i][r]);
        }
    }
    UNROLL for (unsigned i = 0; i < P; i++) {
        float *y = args->y + m * args->ldy + (size_t)(p + i) * QN_PANEL;
        UNROLL for (unsigned r = 0; r < R; r++) _mm512_mask_storeu_ps(y + r * args->ldy, lanes[i], acc[i][r]);
    }
}

INLINE void rows_of(enum qn_type t, unsigned P, const struct qn_linear_args *args, uint32_t p) {
    uint32_t rows = args->a->rows, m = 0;
    for (; rows - m >= ROWS; m += ROWS) tile(t, P, ROWS, args, p, m);
    for (; rows - m >= 2; m += 2) tile(t, P, 2, args, p, m);
    if (rows - m) tile(t, P, 1, args, p, m);
}

INLINE void range(enum qn_type t, const struct qn_linear_args *args) {
    uint32_t p = args->panel_begin;
    for (; args->panel_end - p >= PANELS; p += PANELS) rows_of(t, PANELS, args, p);
    for (; p < args->panel_end; p++) rows_of(t, 1, args, p);
}

void qn_avx512_linear_f32(const struct qn_linear_args *args) {
    range(QN_F32, args);
}

void qn_avx512_linear_f16(const struct qn_linear_args *args) {
    range(QN_F16, args);
}
