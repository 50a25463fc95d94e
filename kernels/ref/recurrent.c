/* Reference kernels of attention with a fixed-size state: products with short and wide matrices, and positive
 * random features under a running maximum (Choromanski et al. 2021; the maximum per feature keeps the
 * denominator at 1 or more without an epsilon). The definitions stand in kernels.h. Thread: any. */
#include <math.h>

#include "kernels/ref/ref.h"

void qn_ref_mix(const struct qn_mix *a) {
    for (size_t r = 0; r < a->rows; r++) {
        float *y = a->y + r * a->ldy;
        for (size_t n = 0; n < a->cols; n++) {
            float acc = a->start == QN_MIX_ZERO ? 0.0f : y[n];
            if (a->start == QN_MIX_SCALE) acc *= a->scale[r];
            for (size_t k = 0; k < a->depth; k++)
                acc = fmaf(a->x[r * a->x_row + k * a->x_k], a->b[k * a->ldb + n], acc);
            y[n] = acc;
        }
    }
}

void qn_ref_dots(float *y, const float *x, const float *b, size_t ldb, size_t rows, size_t n) {
    for (size_t i = 0; i < rows; i++) {
        float part[16] = {0};
        for (size_t k = 0; k < n; k++) part[k % 16] = fmaf(x[k], b[i * ldb + k], part[k % 16]);
        y[i] = qn_fold16(part);
    }
}

float qn_ref_softmax(float *x, size_t n, float scale) {
    float top = -INFINITY, part[16] = {0};
    for (size_t i = 0; i < n; i++) {
        x[i] *= scale;
        top = x[i] > top ? x[i] : top;
    }
    for (size_t i = 0; i < n; i++) {
        x[i] = qn_exp1(x[i] - top);
        part[i % 16] += x[i];
    }
    return qn_fold16(part);
}

void qn_ref_favor_append(const struct qn_favor *a) {
    for (size_t j = 0; j < a->m; j++) {
        float *keys = a->keys + j * QN_KV_BLOCK, l = fmaf(a->f[j], a->scale, -a->minus);
        if (l > a->top[j]) {
            float s = qn_exp1(a->top[j] - l);
            a->top[j] = l;
            a->shrink[j] *= s;
            for (size_t t = 0; t < QN_KV_BLOCK; t++) keys[t] *= s;
        }
        keys[a->slot] = qn_exp1(l - a->top[j]);
    }
}

float qn_ref_favor_read(const struct qn_favor *a) {
    float top = -INFINITY, part[16] = {0}, w[4][QN_KV_BLOCK] = {0};
    for (size_t j = 0; j < a->m; j++) {
        a->f[j] = fmaf(a->f[j], a->scale, a->top[j]);
        top = a->f[j] > top ? a->f[j] : top;
    }
    for (size_t j = 0; j < a->m; j++) {
        float p = qn_exp1(a->f[j] - top);
        a->f[j] = p * a->shrink[j];
        part[j % 16] = fmaf(a->f[j], a->z[j], part[j % 16]);
        for (size_t t = 0; t < QN_KV_BLOCK; t++)
            w[j % 4][t] = fmaf(p, a->keys[j * QN_KV_BLOCK + t], w[j % 4][t]);
    }
    for (size_t t = 0; t < QN_KV_BLOCK; t++) a->weight[t] = (w[0][t] + w[1][t]) + (w[2][t] + w[3][t]);
    return qn_fold16(part) + qn_fold16(a->weight);
}
