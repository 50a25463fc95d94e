/* Floats to the blocks of a file with scales that are searched for, as a converter wants them.
 *
 * For codes that are fixed, the best scale (and minimum) are a weighted least-squares fit; for a scale that
 * is fixed, the best codes are the nearest. So: round with scales around the one that the extremes give, fit,
 * keep what leaves the least weighted squared error once scales are stored as they are in the file and codes
 * are rounded again for those. The block by its extremes (quantize.c) is one of the candidates, so the error
 * never exceeds its. The idea is that of ggml's make_qx_quants and make_qkx2_quants (K-quants, 2023); weights
 * are 1 in blocks of 32, and grow with the values in those of 256. Thread: any; no state. */
#include <math.h>
#include <string.h>

#include "kernels/quantize.h"

#define STEPS     12 /* scales tried to each side, STEP_SIZE of a code's width at the end of the range apart */
#define STEP_SIZE 0.1f

/* Of a value within n that share a scale: the mean size and its own. */
static void weights(const float *x, unsigned n, float *w) {
    float sum = 0;
    for (unsigned i = 0; i < n; i++) sum += x[i] * x[i];
    float mean = sqrtf(sum / (float)n);
    for (unsigned i = 0; i < n; i++) w[i] = mean + fabsf(x[i]);
}

static void ones(unsigned n, float *w) {
    for (unsigned i = 0; i < n; i++) w[i] = 1;
}

/* Weighted squared error of values d * (code - offset) + m. */
static float error_of(const float *x, const float *w, const uint8_t *code, unsigned n, float d, float m,
                      float offset) {
    float sum = 0;
    for (unsigned i = 0; i < n; i++) {
        float off = d * ((float)code[i] - offset) + m - x[i];
        sum += w[i] * off * off;
    }
    return sum;
}

static float extreme(const float *x, unsigned n) {
    float e = 0;
    for (unsigned i = 0; i < n; i++)
        if (fabsf(x[i]) > fabsf(e)) e = x[i];
    return e;
}

/* ---- a scale alone: Q4_0, Q5_0, sub-blocks of Q6_K ---- */

/* The least-squares scale of x rounded to codes by `id`; 0 when all codes are zero. */
static float fit_scale(const float *x, const float *w, unsigned n, float half, float id) {
    float xl = 0, ll = 0;
    for (unsigned i = 0; i < n; i++) {
        float l = (float)qn_code_of(x[i] * id + half, 2 * half - 1) - half;
        xl += w[i] * x[i] * l;
        ll += w[i] * l * l;
    }
    return ll > 0 ? xl / ll : 0;
}

/* Scale number k of the candidates; half codes lie below zero. */
static float scale_at(const float *x, const float *w, unsigned n, float half, int k) {
    float e = extreme(x, n);
    return e != 0 ? fit_scale(x, w, n, half, -(half + STEP_SIZE * (float)k) / e) : 0;
}

static void fit_symmetric(const float *x, float half, struct qn_small_parts *best) {
    float w[32];
    ones(32, w);
    float least = error_of(x, w, best->code, 32, qn_f16_to_f32(best->d), 0, half);
    for (int k = -STEPS; k <= STEPS; k++) {
        struct qn_small_parts p = {.m = 0};
        float d = qn_stored(scale_at(x, w, 32, half, k), &p.d), id = qn_inverse(d);
        for (unsigned i = 0; i < 32; i++) p.code[i] = qn_code_of(x[i] * id + half, 2 * half - 1);
        float error = error_of(x, w, p.code, 32, d, 0, half);
        if (!(error < least)) continue;
        least = error;
        *best = p;
    }
}

/* ---- a scale and a minimum: Q4_1, Q5_1, sub-blocks of Q4_K and Q5_K ---- */

struct line {
    float d, m; /* value = d * code + m */
};

/* Least squares of x over codes rounded from `min` up by `id`; m at most 0 where `below`. */
static struct line fit_line(const float *x, const float *w, unsigned n, float top, struct line from,
                            bool below) {
    float sw = 0, sx = 0, sl = 0, sll = 0, sxl = 0;
    for (unsigned i = 0; i < n; i++) {
        float l = (float)qn_code_of((x[i] - from.m) * from.d, top);
        sw += w[i];
        sx += w[i] * x[i];
        sl += w[i] * l;
        sll += w[i] * l * l;
        sxl += w[i] * x[i] * l;
    }
    float det = sw * sll - sl * sl;
    if (!(det > 0)) return (struct line){0, 0};
    struct line f = {(sw * sxl - sx * sl) / det, (sll * sx - sl * sxl) / det};
    if (below && f.m > 0) f = (struct line){sxl / sll, 0};
    return f;
}

/* Line number k of the candidates; d is 0 when there is none. */
static struct line line_at(const float *x, const float *w, unsigned n, float top, int k, bool below) {
    float min = x[0], max = x[0];
    for (unsigned i = 1; i < n; i++) {
        min = x[i] < min ? x[i] : min;
        max = x[i] > max ? x[i] : max;
    }
    if (below && min > 0) min = 0;
    if (!(max > min)) return (struct line){0, min};
    return fit_line(x, w, n, top, (struct line){(top + STEP_SIZE * (float)k) / (max - min), min}, below);
}

static void fit_affine(const float *x, float top, struct qn_small_parts *best) {
    float w[32];
    ones(32, w);
    float least = error_of(x, w, best->code, 32, qn_f16_to_f32(best->d), qn_f16_to_f32(best->m), 0);
    for (int k = -STEPS; k <= STEPS; k++) {
        struct qn_small_parts p;
        struct line f = line_at(x, w, 32, top, k, false);
        float d = qn_stored(f.d, &p.d), m = qn_stored(f.m, &p.m), id = qn_inverse(d);
        for (unsigned i = 0; i < 32; i++) p.code[i] = qn_code_of((x[i] - m) * id, top);
        float error = error_of(x, w, p.code, 32, d, m, 0);
        if (!(error < least)) continue;
        least = error;
        *best = p;
    }
}

/* ---- Q4_K and Q5_K ---- */

/* The best line of one sub-block, before its parts are rounded to 6 bits. */
static struct line sub_line(const float *x, const float *w, float top) {
    struct line best = {0, 0};
    float least = INFINITY;
    uint8_t code[32];
    for (int k = -STEPS; k <= STEPS; k++) {
        struct line f = line_at(x, w, 32, top, k, true);
        float id = qn_inverse(f.d);
        for (unsigned i = 0; i < 32; i++) code[i] = qn_code_of((x[i] - f.m) * id, top);
        float error = error_of(x, w, code, 32, f.d, f.m, 0);
        if (!(error < least)) continue;
        least = error;
        best = f;
    }
    return best;
}

static float k_error(const float *x, const float *w, const struct qn_k_parts *p) {
    float d = qn_f16_to_f32(p->d), dmin = qn_f16_to_f32(p->dmin), sum = 0;
    for (unsigned s = 0; s < 8; s++)
        sum += error_of(x + 32 * s, w + 32 * s, p->code + 32 * s, 32, d * (float)p->scale[s],
                        -dmin * (float)p->min[s], 0);
    return sum;
}

static void fit_k(enum qn_type t, const float *x, struct qn_k_parts *best) {
    float w[256], top = t == QN_Q4_K ? 15 : 31, max_scale = 0, max_low = 0;
    struct line f[8];
    struct qn_k_parts p;
    for (unsigned s = 0; s < 8; s++) {
        weights(x + 32 * s, 32, w + 32 * s);
        f[s] = sub_line(x + 32 * s, w + 32 * s, top);
        max_scale = fmaxf(max_scale, f[s].d);
        max_low = fmaxf(max_low, -f[s].m);
    }
    float d = qn_stored(max_scale / 63.0f, &p.d), dmin = qn_stored(max_low / 63.0f, &p.dmin);
    for (unsigned s = 0; s < 8; s++) {
        p.scale[s] = qn_code_of(f[s].d * qn_inverse(d), 63);
        p.min[s] = qn_code_of(-f[s].m * qn_inverse(dmin), 63);
        float id = qn_inverse(d * (float)p.scale[s]), m = dmin * (float)p.min[s];
        for (unsigned i = 32 * s; i < 32 * s + 32; i++) p.code[i] = qn_code_of((x[i] + m) * id, top);
    }
    if (k_error(x, w, &p) < k_error(x, w, best)) *best = p;
}

/* ---- Q6_K ---- */

static float q6_error(const float *x, const float *w, const struct qn_q6_parts *p) {
    float d = qn_f16_to_f32(p->d), sum = 0;
    for (unsigned s = 0; s < 16; s++)
        sum += error_of(x + 16 * s, w + 16 * s, p->code + 16 * s, 16, d * (float)p->scale[s], 0, 32);
    return sum;
}

/* The best scale of one sub-block, before it is rounded to 8 bits. */
static float sub_scale(const float *x, const float *w) {
    float best = 0, least = INFINITY;
    uint8_t code[16];
    for (int k = -STEPS; k <= STEPS; k++) {
        float d = scale_at(x, w, 16, 32, k), id = qn_inverse(d);
        for (unsigned i = 0; i < 16; i++) code[i] = qn_code_of(x[i] * id + 32, 63);
        float error = error_of(x, w, code, 16, d, 0, 32);
        if (!(error < least)) continue;
        least = error;
        best = d;
    }
    return best;
}

static void fit_q6(const float *x, struct qn_q6_parts *best) {
    float w[256], scale[16];
    struct qn_q6_parts p;
    for (unsigned s = 0; s < 16; s++) {
        weights(x + 16 * s, 16, w + 16 * s);
        scale[s] = sub_scale(x + 16 * s, w + 16 * s);
    }
    /* The largest gets -128, the code that reaches farthest. */
    float d = qn_stored(extreme(scale, 16) / -128.0f, &p.d), id = qn_inverse(d);
    for (unsigned s = 0; s < 16; s++) {
        p.scale[s] = qn_signed_code(scale[s] * id, -128, 127);
        float one = qn_inverse(d * (float)p.scale[s]);
        for (unsigned i = 16 * s; i < 16 * s + 16; i++) p.code[i] = qn_code_of(x[i] * one + 32, 63);
    }
    if (q6_error(x, w, &p) < q6_error(x, w, best)) *best = p;
}

/* ---- rows ---- */

static void block(enum qn_type t, const float *x, void *dst) {
    struct qn_small_parts p;
    qn_small_parts(t, x, &p);
    if (t == QN_Q4_0 || t == QN_Q5_0)
        fit_symmetric(x, t == QN_Q4_0 ? 8 : 16, &p);
    else
        fit_affine(x, t == QN_Q4_1 ? 15 : 31, &p);
    qn_small_put(t, &p, dst);
}

static void super_block(enum qn_type t, const float *x, void *dst) {
    if (t == QN_Q6_K) {
        struct qn_q6_parts p;
        qn_q6_parts(x, &p);
        fit_q6(x, &p);
        qn_q6_put(&p, dst);
        return;
    }
    struct qn_k_parts p;
    qn_k_parts(t, x, &p);
    fit_k(t, x, &p);
    qn_k_put(t, &p, dst);
}

void qn_type_row_fit_f32(enum qn_type t, const float *src, void *dst, size_t cols) {
    const struct qn_layout *l = qn_type_layout(t);
    uint8_t *p = dst;
    if (!l || !l->lo_bits || t == QN_Q8_0) { /* eight bits leave nothing to search for */
        qn_type_row_from_f32(t, src, dst, cols);
        return;
    }
    for (size_t k = 0; k + l->block <= cols; k += l->block, p += l->file_bytes)
        (l->block == 256 ? super_block : block)(t, src + k, p);
}
