/* Floats to the blocks of a file: the inverse of quant.c's decoding, with each block's scale taken from its
 * extremes and codes rounded to the nearest for the scale as it is stored. Blocks whose scale a half can't
 * tell from zero become zeros; a value that is no number becomes some code. Thread: any; no state. */
#include <math.h>
#include <string.h>

#include "kernels/quantize.h"

/* The element with the largest magnitude, with its sign. */
static float extreme(const float *x, unsigned n) {
    float e = 0;
    for (unsigned i = 0; i < n; i++)
        if (fabsf(x[i]) > fabsf(e)) e = x[i];
    return e;
}

static void range(const float *x, unsigned n, float *min, float *max) {
    *min = *max = x[0];
    for (unsigned i = 1; i < n; i++) {
        *min = x[i] < *min ? x[i] : *min;
        *max = x[i] > *max ? x[i] : *max;
    }
}

/* 32 codes of 4 or 5 bits as ggml keeps them; qh NULL with 4 bits. */
static void put_nibbles(const uint8_t *code, uint8_t *qs, uint8_t *qh) {
    for (unsigned j = 0; j < 16; j++)
        qs[j] = (uint8_t)((code[j] & 15u) | (unsigned)(code[j + 16] & 15u) << 4);
    for (unsigned j = 0; qh && j < 4; j++) {
        unsigned h = 0;
        for (unsigned b = 0; b < 8; b++) h |= (code[8 * j + b] >> 4 & 1u) << b;
        qh[j] = (uint8_t)h;
    }
}

static void to_q8_0(const float *x, void *dst) {
    struct qn_block_q8_0 b;
    float amax = 0;
    for (unsigned i = 0; i < 32; i++) amax = fmaxf(amax, fabsf(x[i]));
    float id = qn_inverse(qn_stored(amax / 127.0f, &b.d));
    for (unsigned i = 0; i < 32; i++) b.qs[i] = qn_signed_code(x[i] * id, -127, 127);
    memcpy(dst, &b, sizeof b);
}

/* Q4_0 and Q5_0: the extreme gets the code that reaches farthest, -8 or -16. */
static void symmetric(const float *x, float half, struct qn_small_parts *p) {
    float id = qn_inverse(qn_stored(extreme(x, 32) / -half, &p->d));
    p->m = 0;
    for (unsigned i = 0; i < 32; i++) p->code[i] = qn_code_of(x[i] * id + half, 2 * half - 1);
}

/* Q4_1 and Q5_1: from the minimum up. */
static void affine(const float *x, float top, struct qn_small_parts *p) {
    float min, max;
    range(x, 32, &min, &max);
    float id = qn_inverse(qn_stored((max - min) / top, &p->d)), low = qn_stored(min, &p->m);
    for (unsigned i = 0; i < 32; i++) p->code[i] = qn_code_of((x[i] - low) * id, top);
}

void qn_small_parts(enum qn_type t, const float x[32], struct qn_small_parts *p) {
    if (t == QN_Q4_0)
        symmetric(x, 8, p);
    else if (t == QN_Q4_1)
        affine(x, 15, p);
    else if (t == QN_Q5_0)
        symmetric(x, 16, p);
    else
        affine(x, 31, p);
}

void qn_small_put(enum qn_type t, const struct qn_small_parts *p, void *dst) {
    union {
        struct qn_block_q4_0 q4_0;
        struct qn_block_q4_1 q4_1;
        struct qn_block_q5_0 q5_0;
        struct qn_block_q5_1 q5_1;
    } b;
    if (t == QN_Q4_0) {
        b.q4_0.d = p->d;
        put_nibbles(p->code, b.q4_0.qs, NULL);
    } else if (t == QN_Q4_1) {
        b.q4_1.d = p->d;
        b.q4_1.m = p->m;
        put_nibbles(p->code, b.q4_1.qs, NULL);
    } else if (t == QN_Q5_0) {
        b.q5_0.d = p->d;
        put_nibbles(p->code, b.q5_0.qs, b.q5_0.qh);
    } else {
        b.q5_1.d = p->d;
        b.q5_1.m = p->m;
        put_nibbles(p->code, b.q5_1.qs, b.q5_1.qh);
    }
    memcpy(dst, &b, qn_type_block_bytes(t));
}

void qn_k_parts(enum qn_type t, const float x[256], struct qn_k_parts *p) {
    float scale[8], low[8], max_scale = 0, max_low = 0, top = t == QN_Q4_K ? 15 : 31;
    for (unsigned s = 0; s < 8; s++) {
        float min, max;
        range(x + 32 * s, 32, &min, &max);
        low[s] = min < 0 ? -min : 0;
        scale[s] = (max + low[s]) / top;
        if (scale[s] < 0) scale[s] = 0;
        max_scale = fmaxf(max_scale, scale[s]);
        max_low = fmaxf(max_low, low[s]);
    }
    float d = qn_stored(max_scale / 63.0f, &p->d), dmin = qn_stored(max_low / 63.0f, &p->dmin);
    for (unsigned s = 0; s < 8; s++) {
        p->scale[s] = qn_code_of(scale[s] * qn_inverse(d), 63);
        p->min[s] = qn_code_of(low[s] * qn_inverse(dmin), 63);
        float id = qn_inverse(d * (float)p->scale[s]), m = dmin * (float)p->min[s];
        for (unsigned i = 32 * s; i < 32 * s + 32; i++) p->code[i] = qn_code_of((x[i] + m) * id, top);
    }
}

/* 16 values of 6 bits in 12 bytes. */
static void put_k_scales(const struct qn_k_parts *p, uint8_t q[12]) {
    for (unsigned j = 0; j < 4; j++) {
        q[j] = (uint8_t)(p->scale[j] | (unsigned)(p->scale[j + 4] >> 4) << 6);
        q[j + 4] = (uint8_t)(p->min[j] | (unsigned)(p->min[j + 4] >> 4) << 6);
        q[j + 8] = (uint8_t)((p->scale[j + 4] & 15u) | (unsigned)(p->min[j + 4] & 15u) << 4);
    }
}

static void put_k_nibbles(const uint8_t *code, uint8_t *qs) {
    for (unsigned s = 0; s < 4; s++) {
        for (unsigned l = 0; l < 32; l++)
            qs[32 * s + l] =
                (uint8_t)((code[64 * s + l] & 15u) | (unsigned)(code[64 * s + 32 + l] & 15u) << 4);
    }
}

void qn_k_put(enum qn_type t, const struct qn_k_parts *p, void *dst) {
    if (t == QN_Q4_K) {
        struct qn_block_q4_k b = {.d = p->d, .dmin = p->dmin};
        put_k_scales(p, b.scales);
        put_k_nibbles(p->code, b.qs);
        memcpy(dst, &b, sizeof b);
        return;
    }
    struct qn_block_q5_k b = {.d = p->d, .dmin = p->dmin};
    put_k_scales(p, b.scales);
    put_k_nibbles(p->code, b.qs);
    for (unsigned s = 0; s < 8; s++) {
        for (unsigned l = 0; l < 32; l++)
            b.qh[l] = (uint8_t)(b.qh[l] | (unsigned)(p->code[32 * s + l] >> 4) << s);
    }
    memcpy(dst, &b, sizeof b);
}

void qn_q6_parts(const float x[256], struct qn_q6_parts *p) {
    float scale[16];
    for (unsigned s = 0; s < 16; s++) scale[s] = extreme(x + 16 * s, 16) / -32.0f;
    float d = qn_stored(extreme(scale, 16) / -127.0f, &p->d), id = qn_inverse(d);
    for (unsigned s = 0; s < 16; s++) {
        p->scale[s] = qn_signed_code(scale[s] * id, -127, 127);
        float one = qn_inverse(d * (float)p->scale[s]);
        for (unsigned i = 16 * s; i < 16 * s + 16; i++) p->code[i] = qn_code_of(x[i] * one + 32.0f, 63);
    }
}

void qn_q6_put(const struct qn_q6_parts *p, void *dst) {
    struct qn_block_q6_k b = {.d = p->d};
    memcpy(b.scales, p->scale, sizeof b.scales);
    for (unsigned n = 0; n < 2; n++) {
        const uint8_t *y = p->code + 128 * n;
        uint8_t *ql = b.ql + 64 * n, *qh = b.qh + 32 * n;
        for (unsigned l = 0; l < 32; l++) {
            ql[l] = (uint8_t)((y[l] & 15u) | (unsigned)(y[l + 64] & 15u) << 4);
            ql[l + 32] = (uint8_t)((y[l + 32] & 15u) | (unsigned)(y[l + 96] & 15u) << 4);
            qh[l] = (uint8_t)(y[l] >> 4 | (unsigned)(y[l + 32] >> 4) << 2 | (unsigned)(y[l + 64] >> 4) << 4 |
                              (unsigned)(y[l + 96] >> 4) << 6);
        }
    }
    memcpy(dst, &b, sizeof b);
}

/* One block by its extremes. */
static void block(enum qn_type t, const float *x, void *dst) {
    union {
        struct qn_small_parts small;
        struct qn_k_parts k;
        struct qn_q6_parts q6;
    } p;
    if (t == QN_Q8_0) {
        to_q8_0(x, dst);
    } else if (t == QN_Q6_K) {
        qn_q6_parts(x, &p.q6);
        qn_q6_put(&p.q6, dst);
    } else if (t == QN_Q4_K || t == QN_Q5_K) {
        qn_k_parts(t, x, &p.k);
        qn_k_put(t, &p.k, dst);
    } else {
        qn_small_parts(t, x, &p.small);
        qn_small_put(t, &p.small, dst);
    }
}

static void floats(enum qn_type t, const float *src, uint8_t *dst, size_t cols) {
    if (t == QN_F32) {
        memcpy(dst, src, cols * sizeof *src);
        return;
    }
    for (size_t k = 0; k < cols; k++) {
        uint16_t h = t == QN_F16 ? qn_f32_to_f16(src[k]) : qn_f32_to_bf16(src[k]);
        memcpy(dst + 2 * k, &h, sizeof h);
    }
}

void qn_type_row_from_f32(enum qn_type t, const float *src, void *dst, size_t cols) {
    const struct qn_layout *l = qn_type_layout(t);
    uint8_t *p = dst;
    if (!l) return;
    if (!l->lo_bits) {
        floats(t, src, p, cols);
        return;
    }
    for (size_t k = 0; k + l->block <= cols; k += l->block, p += l->file_bytes) block(t, src + k, p);
}
