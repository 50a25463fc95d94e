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
/* Rows from which on the next panels are asked for: with fewer memory is the limit. */
#define AHEAD_ROWS 4
#define AHEAD_KS   32

INLINE __m512 load_weights(enum qn_type t, const uint8_t *p) {
    if (t == QN_F32) return _mm512_loadu_ps((const float *)(const void *)p);
    return _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)(const void *)p));
}

/* What tiles of these panels share out: see kernels/x86/linear512.h; a tile asks every AHEAD_KS of K. */
INLINE struct qn_ahead ahead_of(enum qn_type t, unsigned P, const struct qn_linear_args *args, uint32_t p,
                                uint32_t tiles) {
    const size_t step = t == QN_F32 ? 64 : 32, panel = args->w->cols * step;
    const size_t all = args->w->rows / QN_PANEL + (args->w->rows % QN_PANEL != 0);
    struct qn_ahead h = {.step = (AHEAD_KS * P * step / tiles + 63) / 64 * 64};
    if (args->a->rows < AHEAD_ROWS || p + P >= all) return h;
    h.at = (uintptr_t)args->w->data + (p + P) * panel;
    h.end = h.at + (all - p - P < P ? all - p - P : P) * panel;
    return h;
}

/* P panels from p on times R rows from m on. */
INLINE void tile(enum qn_type t, unsigned P, unsigned R, const struct qn_linear_args *args, uint32_t p,
                 uint32_t m, struct qn_ahead *next) {
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
    for (size_t k = 0, end = 0; k < cols;) {
        qn_ask_ahead(next);
        for (end = cols - k < AHEAD_KS ? cols : k + AHEAD_KS; k < end; k++) {
            __m512 v[PANELS];
            UNROLL for (unsigned i = 0; i < P; i++) v[i] = load_weights(t, w + (i * cols + k) * step);
            UNROLL for (unsigned r = 0; r < R; r++) {
                __m512 b = _mm512_set1_ps(x[r * ldx + k]);
                UNROLL for (unsigned i = 0; i < P; i++) acc[i][r] = _mm512_fmadd_ps(v[i], b, acc[i][r]);
            }
        }
    }
    UNROLL for (unsigned i = 0; i < P; i++) {
        float *y = args->y + m * args->ldy + (size_t)(p + i) * QN_PANEL;
        UNROLL for (unsigned r = 0; r < R; r++) _mm512_mask_storeu_ps(y + r * args->ldy, lanes[i], acc[i][r]);
    }
}

/* Tiles as even as can be: 16 rows are 6, 5 and 5. */
INLINE void rows_of(enum qn_type t, unsigned P, const struct qn_linear_args *args, uint32_t p) {
    const uint32_t rows = args->a->rows;
    uint32_t tiles = rows / ROWS + (rows % ROWS != 0);
    struct qn_ahead next = ahead_of(t, P, args, p, tiles);
    for (uint32_t m = 0, n; m < rows; m += n, tiles--) {
        n = (rows - m + tiles - 1) / tiles;
        switch (n) {
        case 6:
            tile(t, P, 6, args, p, m, &next);
            break;
        case 5:
            tile(t, P, 5, args, p, m, &next);
            break;
        case 4:
            tile(t, P, 4, args, p, m, &next);
            break;
        case 3:
            tile(t, P, 3, args, p, m, &next);
            break;
        case 2:
            tile(t, P, 2, args, p, m, &next);
            break;
        default:
            tile(t, P, 1, args, p, m, &next);
            break;
        }
    }
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
