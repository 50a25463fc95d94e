/* Floats to the blocks of a file: the inverse of quant.c's decoding, with each block's scale taken from its
 * extremes and codes rounded to the nearest for the scale as it is stored. Blocks whose scale a half can't
 * tell from zero become zeros; a value that is no number becomes some code. Thread: any; no state. */
#include <math.h>
#include <string.h>

#include "kernels/quant.h"

/* v, or the nearer end of [low, high]; a NaN is the lower one, so that the cast of the result is defined. */
static float within(float v, float low, float high) {
    return v > low ? v < high ? v : high : low;
}

/* To the nearest code in [0, top]; halves go up. */
static uint8_t code_of(float v, float top) {
    return (uint8_t)within(v + 0.5f, 0, top);
}

/* To the nearest in [-127, 127]; halves go outwards. */
static int8_t signed_code(float v) {
    return (int8_t)within(v + (v < 0 ? -0.5f : 0.5f), -127, 127);
}

/* Of a scale as it is stored. */
static float inverse(float d) {
    return d != 0 ? 1.0f / d : 0;
}

/* Stores a scale; returns what reads will find. */
static float stored(float d, uint16_t *half) {
    *half = qn_f32_to_f16(d);
    return qn_f16_to_f32(*half);
}

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
    float id = inverse(stored(amax / 127.0f, &b.d));
    for (unsigned i = 0; i < 32; i++) b.qs[i] = signed_code(x[i] * id);
    memcpy(dst, &b, sizeof b);
}

/* Q4_0 and Q5_0: the extreme gets the code that reaches farthest, -8 or -16. Returns d. */
static uint16_t symmetric(const float *x, float half, uint8_t code[32]) {
    uint16_t d;
    float id = inverse(stored(extreme(x, 32) / -half, &d));
    for (unsigned i = 0; i < 32; i++) code[i] = code_of(x[i] * id + half, 2 * half - 1);
    return d;
}

/* Q4_1 and Q5_1: from the minimum up. Returns d. */
static uint16_t affine(const float *x, float top, uint8_t code[32], uint16_t *m) {
    float min, max;
    range(x, 32, &min, &max);
    uint16_t d;
    float id = inverse(stored((max - min) / top, &d)), low = stored(min, m);
    for (unsigned i = 0; i < 32; i++) code[i] = code_of((x[i] - low) * id, top);
    return d;
}

static void to_small(enum qn_type t, const float *x, void *dst) {
    union {
        struct qn_block_q4_0 q4_0;
        struct qn_block_q4_1 q4_1;
        struct qn_block_q5_0 q5_0;
        struct qn_block_q5_1 q5_1;
    } b;
    uint8_t code[32];
    if (t == QN_Q4_0) {
        b.q4_0.d = symmetric(x, 8, code);
        put_nibbles(code, b.q4_0.qs, NULL);
    } else if (t == QN_Q4_1) {
        b.q4_1.d = affine(x, 15, code, &b.q4_1.m);
        put_nibbles(code, b.q4_1.qs, NULL);
    } else if (t == QN_Q5_0) {
        b.q5_0.d = symmetric(x, 16, code);
        put_nibbles(code, b.q5_0.qs, b.q5_0.qh);
    } else {
        b.q5_1.d = affine(x, 31, code, &b.q5_1.m);
        put_nibbles(code, b.q5_1.qs, b.q5_1.qh);
    }
    memcpy(dst, &b, qn_type_block_bytes(t));
}

/* Scales and minima of the eight sub-blocks of Q4_K and Q5_K in units of d and dmin, and the 256 codes. */
struct k_parts {
    uint16_t d, dmin;
    uint8_t scale[8], min[8], code[256];
};

static void k_parts(const float *x, float top, struct k_parts *p) {
    float scale[8], low[8], max_scale = 0, max_low = 0;
    for (unsigned s = 0; s < 8; s++) {
        float min, max;
        range(x + 32 * s, 32, &min, &max);
        low[s] = min < 0 ? -min : 0;
        scale[s] = (max + low[s]) / top;
        if (scale[s] < 0) scale[s] = 0;
        max_scale = fmaxf(max_scale, scale[s]);
        max_low = fmaxf(max_low, low[s]);
    }
    float d = stored(max_scale / 63.0f, &p->d), dmin = stored(max_low / 63.0f, &p->dmin);
    for (unsigned s = 0; s < 8; s++) {
        p->scale[s] = code_of(scale[s] * inverse(d), 63);
        p->min[s] = code_of(low[s] * inverse(dmin), 63);
        float id = inverse(d * (float)p->scale[s]), m = dmin * (float)p->min[s];
        for (unsigned i = 32 * s; i < 32 * s + 32; i++) p->code[i] = code_of((x[i] + m) * id, top);
    }
}

/* 16 values of 6 bits in 12 bytes. */
static void put_k_scales(const struct k_parts *p, uint8_t q[12]) {
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

static void to_q4_k(const float *x, void *dst) {
    struct qn_block_q4_k b;
    struct k_parts p;
    k_parts(x, 15, &p);
    b.d = p.d;
    b.dmin = p.dmin;
    put_k_scales(&p, b.scales);
    put_k_nibbles(p.code, b.qs);
    memcpy(dst, &b, sizeof b);
}

static void to_q5_k(const float *x, void *dst) {
    struct qn_block_q5_k b = {0};
    struct k_parts p;
    k_parts(x, 31, &p);
    b.d = p.d;
    b.dmin = p.dmin;
    put_k_scales(&p, b.scales);
    put_k_nibbles(p.code, b.qs);
    for (unsigned s = 0; s < 8; s++) {
        for (unsigned l = 0; l < 32; l++)
            b.qh[l] = (uint8_t)(b.qh[l] | (unsigned)(p.code[32 * s + l] >> 4) << s);
    }
    memcpy(dst, &b, sizeof b);
}

static void to_q6_k(const float *x, void *dst) {
    struct qn_block_q6_k b = {0};
    float scale[16];
    uint8_t code[256];
    for (unsigned s = 0; s < 16; s++) scale[s] = extreme(x + 16 * s, 16) / -32.0f;
    float d = stored(extreme(scale, 16) / -127.0f, &b.d), id = inverse(d);
    for (unsigned s = 0; s < 16; s++) {
        b.scales[s] = signed_code(scale[s] * id);
        float one = inverse(d * (float)b.scales[s]);
        for (unsigned i = 16 * s; i < 16 * s + 16; i++) code[i] = code_of(x[i] * one + 32.0f, 63);
    }
    for (unsigned n = 0; n < 2; n++) {
        const uint8_t *y = code + 128 * n;
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
    for (size_t k = 0; k + l->block <= cols; k += l->block, p += l->file_bytes) {
        if (t == QN_Q8_0)
            to_q8_0(src + k, p);
        else if (t == QN_Q4_K)
            to_q4_k(src + k, p);
        else if (t == QN_Q5_K)
            to_q5_k(src + k, p);
        else if (t == QN_Q6_K)
            to_q6_k(src + k, p);
        else
            to_small(t, src + k, p);
    }
}
