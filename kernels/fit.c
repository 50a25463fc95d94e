/* Floats to the blocks of a file with scales that are searched for, as a converter wants them.
 *
 * For codes that are fixed, the best scale (and minimum) are a weighted least-squares fit; for a scale that
 * is fixed, the best codes are the nearest. So: round with scales around the one that the extremes give, fit
 * each, go on from the best; then store scales as the file has them and round once more. Where the block by
 * its extremes (quantize.c) leaves a smaller weighted squared error, that one is taken. Weights are a value's
 * own size and its group's mean: large values matter more, but not as their squares. The idea is that of
 * ggml's make_qx_quants and make_qkx2_quants (K-quants, 2023). Sums run in LANES partial sums. Thread: any;
 * no state. */
#include <math.h>
#include <string.h>

#include "kernels/quantize.h"

#define STEPS     12 /* scales tried to each side, STEP_SIZE of a code apart at the end of the range */
#define STEP_SIZE 0.1f
#define LANES     8 /* divides every group */
#define GROUP     32

/* n values that share a scale, with their weights. */
struct group {
    const float *x;
    unsigned n;
    float w[GROUP], wx[GROUP];
    float sw, sx, sxx; /* sums of w, w x, w x^2 */
};

static float add_lanes(const float a[LANES]) {
    return ((a[0] + a[4]) + (a[2] + a[6])) + ((a[1] + a[5]) + (a[3] + a[7]));
}

static void weigh(struct group *g, const float *x, unsigned n) {
    float a[LANES] = {0}, w[LANES] = {0}, wx[LANES] = {0}, wxx[LANES] = {0};
    g->x = x;
    g->n = n;
    for (unsigned i = 0; i < n; i += LANES)
        for (unsigned l = 0; l < LANES; l++) a[l] += x[i + l] * x[i + l];
    float mean = sqrtf(add_lanes(a) / (float)n);
    for (unsigned i = 0; i < n; i += LANES) {
        for (unsigned l = 0; l < LANES; l++) {
            g->w[i + l] = mean + fabsf(x[i + l]);
            g->wx[i + l] = g->w[i + l] * x[i + l];
            w[l] += g->w[i + l];
            wx[l] += g->wx[i + l];
            wxx[l] += g->wx[i + l] * x[i + l];
        }
    }
    g->sw = add_lanes(w);
    g->sx = add_lanes(wx);
    g->sxx = add_lanes(wxx);
}

/* Weighted squared error of values d * (code - offset) + m. */
static float error_of(const struct group *g, const uint8_t *code, float d, float m, float offset) {
    float sum[LANES] = {0};
    for (unsigned i = 0; i < g->n; i += LANES) {
        for (unsigned l = 0; l < LANES; l++) {
            float off = d * ((float)code[i + l] - offset) + m - g->x[i + l];
            sum[l] += g->w[i + l] * off * off;
        }
    }
    return add_lanes(sum);
}

static float extreme(const float *x, unsigned n) {
    float e = 0;
    for (unsigned i = 0; i < n; i++)
        if (fabsf(x[i]) > fabsf(e)) e = x[i];
    return e;
}

/* ---- a scale and, unless it is 0, a minimum ---- */

struct line {
    float d, m; /* value = d * code + m, codes from -offset on */
    float error;
};

/* Sums over the nearest codes to (x - m) * id, less offset. */
struct code_sums {
    float l, ll, xl; /* of w l, w l^2, w x l */
};

static struct code_sums sums_of(const struct group *g, float id, float m, float top, float offset) {
    float a[LANES] = {0}, b[LANES] = {0}, c[LANES] = {0}, add = offset + 0.5f - m * id;
    for (unsigned i = 0; i < g->n; i += LANES) {
        for (unsigned l = 0; l < LANES; l++) {
            float v = g->x[i + l] * id + add;
            v = v > 0 ? v : 0; /* also what is no number */
            v = v < top ? v : top;
            float code = (float)(int32_t)v - offset;
            a[l] += g->w[i + l] * code;
            b[l] += g->w[i + l] * code * code;
            c[l] += g->wx[i + l] * code;
        }
    }
    return (struct code_sums){add_lanes(a), add_lanes(b), add_lanes(c)};
}

/* Codes from -offset to top - offset, no minimum. */
static struct line fit_scale(const struct group *g, float id, float top, float offset) {
    struct code_sums s = sums_of(g, id, 0, top, offset);
    if (!(s.ll > 0)) return (struct line){.error = INFINITY};
    float d = s.xl / s.ll;
    return (struct line){d, 0, g->sxx - d * s.xl};
}

/* Codes from 0 to top. below: the minimum is at most 0. */
static struct line fit_line(const struct group *g, float id, float m, float top, bool below) {
    struct code_sums s = sums_of(g, id, m, top, 0);
    float det = g->sw * s.ll - s.l * s.l;
    if (!(det > 0)) return (struct line){.error = INFINITY};
    struct line f = {.d = (g->sw * s.xl - g->sx * s.l) / det, .m = (s.ll * g->sx - s.l * s.xl) / det};
    if (below && f.m > 0) f = (struct line){.d = s.xl / s.ll};
    f.error = g->sxx - f.m * g->sx - f.d * s.xl;
    return f;
}

static struct line best_scale(const struct group *g, float half) {
    struct line best = {.error = INFINITY};
    float e = extreme(g->x, g->n), top = 2 * half - 1;
    if (e == 0) return best;
    for (int k = -STEPS; k <= STEPS; k++) {
        struct line f = fit_scale(g, -(half + STEP_SIZE * (float)k) / e, top, half);
        if (f.error < best.error) best = f;
    }
    /* Once more from there: rounding by the fitted scale moves codes. */
    struct line f = fit_scale(g, qn_inverse(best.d), top, half);
    return f.error < best.error ? f : best;
}

static struct line best_line(const struct group *g, float top, bool below) {
    struct line best = {.error = INFINITY};
    float min = g->x[0], max = g->x[0];
    for (unsigned i = 1; i < g->n; i++) {
        min = g->x[i] < min ? g->x[i] : min;
        max = g->x[i] > max ? g->x[i] : max;
    }
    if (below && min > 0) min = 0;
    if (!(max > min)) return (struct line){.m = min};
    for (int k = -STEPS; k <= STEPS; k++) {
        struct line f = fit_line(g, (top + STEP_SIZE * (float)k) / (max - min), min, top, below);
        if (f.error < best.error) best = f;
    }
    for (int again = 0; again < 3; again++) {
        struct line f = fit_line(g, qn_inverse(best.d), best.m, top, below);
        if (!(f.error < best.error)) break;
        best = f;
    }
    return best;
}

/* ---- blocks of 32 ---- */

static void fit_small(enum qn_type t, const float *x, struct qn_small_parts *best) {
    bool symmetric = t == QN_Q4_0 || t == QN_Q5_0;
    float top = t == QN_Q4_0 || t == QN_Q4_1 ? 15 : 31, half = symmetric ? (top + 1) / 2 : 0;
    struct group g;
    struct qn_small_parts p;
    weigh(&g, x, 32);
    struct line f = symmetric ? best_scale(&g, half) : best_line(&g, top, false);
    float d = qn_stored(f.d, &p.d), m = qn_stored(f.m, &p.m), id = qn_inverse(d);
    for (unsigned i = 0; i < 32; i++) p.code[i] = qn_code_of((x[i] - m) * id + half, top);
    if (error_of(&g, p.code, d, m, half) <
        error_of(&g, best->code, qn_f16_to_f32(best->d), symmetric ? 0 : qn_f16_to_f32(best->m), half))
        *best = p;
}

/* ---- Q4_K and Q5_K ---- */

static float k_error(const struct group g[8], const struct qn_k_parts *p) {
    float d = qn_f16_to_f32(p->d), dmin = qn_f16_to_f32(p->dmin), sum = 0;
    for (unsigned s = 0; s < 8; s++)
        sum += error_of(&g[s], p->code + 32 * s, d * (float)p->scale[s], -dmin * (float)p->min[s], 0);
    return sum;
}

static void fit_k(enum qn_type t, const float *x, struct qn_k_parts *best) {
    float top = t == QN_Q4_K ? 15 : 31, max_scale = 0, max_low = 0;
    struct group g[8];
    struct line f[8];
    struct qn_k_parts p;
    for (unsigned s = 0; s < 8; s++) {
        weigh(&g[s], x + 32 * s, 32);
        f[s] = best_line(&g[s], top, true);
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
    if (k_error(g, &p) < k_error(g, best)) *best = p;
}

/* ---- Q6_K ---- */

static float q6_error(const struct group g[16], const struct qn_q6_parts *p) {
    float d = qn_f16_to_f32(p->d), sum = 0;
    for (unsigned s = 0; s < 16; s++) sum += error_of(&g[s], p->code + 16 * s, d * (float)p->scale[s], 0, 32);
    return sum;
}

static void fit_q6(const float *x, struct qn_q6_parts *best) {
    float scale[16];
    struct group g[16];
    struct qn_q6_parts p;
    for (unsigned s = 0; s < 16; s++) {
        weigh(&g[s], x + 16 * s, 16);
        scale[s] = best_scale(&g[s], 32).d;
    }
    /* The largest gets -128, the code that reaches farthest. */
    float d = qn_stored(extreme(scale, 16) / -128.0f, &p.d), id = qn_inverse(d);
    for (unsigned s = 0; s < 16; s++) {
        p.scale[s] = qn_signed_code(scale[s] * id, -128, 127);
        float one = qn_inverse(d * (float)p.scale[s]);
        for (unsigned i = 16 * s; i < 16 * s + 16; i++) p.code[i] = qn_code_of(x[i] * one + 32, 63);
    }
    if (q6_error(g, &p) < q6_error(g, best)) *best = p;
}

/* ---- rows ---- */

static void small_block(enum qn_type t, const float *x, void *dst) {
    struct qn_small_parts p;
    qn_small_parts(t, x, &p);
    fit_small(t, x, &p);
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
        (l->block == 256 ? super_block : small_block)(t, src + k, p);
}
