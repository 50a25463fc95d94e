/* Reference row operations: norms, RoPE, activations, sums, log-sum-exp, integer form of activations.
 * Horizontal sums follow qn_fold16, so vector versions give the same bits. Thread: any. */
#include <math.h>

#include "kernels/act.h"
#include "kernels/ref/ref.h"

/* Bits of |x|: as integers they order like the magnitudes, with infinity and NaN on top. */
static uint32_t magnitude(float x) {
    uint32_t u;
    memcpy(&u, &x, sizeof u);
    return u & 0x7fffffffu;
}

/* One block of n <= 32 values. A block that is not finite gets scale NaN, so that a broken activation stays
 * visible in every product; one too small for a finite QN_ACT_STEPS / amax counts as zero. */
static void quantize_block(const float *x, size_t n, struct qn_act_block *q) {
    float v[32] = {0}, amax, inv = 0;
    uint32_t top = 0;
    for (size_t k = 0; k < n; k++) top = magnitude(x[k]) > top ? magnitude(x[k]) : top;
    memcpy(&amax, &top, sizeof amax);
    memset(q, 0, sizeof *q);
    if (top >= 0x7f800000u) {
        q->scale = NAN;
    } else if (amax >= 1e-30f) {
        q->scale = amax / (float)QN_ACT_MAX;
        inv = (float)QN_ACT_STEPS / amax;
        memcpy(v, x, n * sizeof *v);
    }
    for (unsigned k = 0; k < 32; k += k % 8 == 3 ? 5 : 1) { /* adding QN_EXP_MAGIC rounds to nearest even */
        int m = (int)((v[k + 4] * inv + QN_EXP_MAGIC) - QN_EXP_MAGIC);
        float low = (float)(((m + 8) & 15) - 8);
        int h = (int)((fmaf(v[k], inv, low * -0.0625f) + QN_EXP_MAGIC) - QN_EXP_MAGIC);
        qn_act_split(q, k, h, m);
    }
    for (unsigned k = 0; k < 32; k++) {
        q->sum += qn_act_join(q, k);
        if (k < 16) q->first = q->sum;
    }
    q->scaled_sum = q->scale * (float)q->sum;
}

void qn_ref_quantize_row(const float *x, size_t cols, struct qn_act_block *q) {
    for (size_t b = 0; 32 * b < cols; b++) {
        size_t n = cols - 32 * b;
        quantize_block(x + 32 * b, n < 32 ? n : 32, q + b);
    }
}

static float sum_squares(const float *x, size_t n, float mean) {
    float lane[16] = {0};
    for (size_t k = 0; k < n; k++) {
        float v = x[k] - mean;
        lane[k % 16] = fmaf(v, v, lane[k % 16]);
    }
    return qn_fold16(lane);
}

void qn_ref_rmsnorm(float *y, const float *x, const float *g, size_t n, float eps) {
    float inv = 1.0f / sqrtf(sum_squares(x, n, 0.0f) / (float)n + eps);
    for (size_t k = 0; k < n; k++) y[k] = (x[k] * inv) * g[k];
}

void qn_ref_layernorm(float *y, const float *x, const float *g, const float *b, size_t n, float eps) {
    float lane[16] = {0};
    for (size_t k = 0; k < n; k++) lane[k % 16] += x[k];
    float mean = qn_fold16(lane) / (float)n;
    float inv = 1.0f / sqrtf(sum_squares(x, n, mean) / (float)n + eps);
    for (size_t k = 0; k < n; k++) {
        float v = (x[k] - mean) * inv;
        y[k] = b ? fmaf(v, g[k], b[k]) : v * g[k];
    }
}

void qn_ref_rope(float *x, size_t heads, size_t head_dim, size_t rot, const float *cs) {
    size_t half = rot / 2;
    for (size_t h = 0; h < heads; h++) {
        float *a = x + h * head_dim, *b = a + half;
        for (size_t i = 0; i < half; i++) {
            float u = a[i], v = b[i], c = cs[i], s = cs[half + i];
            a[i] = fmaf(u, c, -(v * s));
            b[i] = fmaf(v, c, u * s);
        }
    }
}

void qn_ref_activate(float *y, const float *x, size_t n, enum qn_act_fn f) {
    for (size_t k = 0; k < n; k++) y[k] = qn_act1(x[k], f);
}

void qn_ref_gated(float *y, const float *gate, const float *up, size_t n, enum qn_act_fn f) {
    for (size_t k = 0; k < n; k++) y[k] = qn_act1(gate[k], f) * up[k];
}

void qn_ref_add(float *y, const float *x, size_t n) {
    for (size_t k = 0; k < n; k++) y[k] += x[k];
}

void qn_ref_scale(float *y, float s, size_t n) {
    for (size_t k = 0; k < n; k++) y[k] *= s;
}

float qn_ref_logsumexp(const float *x, size_t n, size_t *argmax) {
    float top = -INFINITY, lane[16] = {0};
    size_t at = 0;
    for (size_t k = 0; k < n; k++) {
        if (x[k] > top) {
            top = x[k];
            at = k;
        }
    }
    if (argmax) *argmax = at;
    for (size_t k = 0; k < n; k++) lane[k % 16] += qn_exp1(x[k] - top);
    return top + logf(qn_fold16(lane));
}
