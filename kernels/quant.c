/* Tensor types: the table of layouts, decoding of file blocks, and f16 / bf16 conversion.
 *
 * Data flow: file bytes -> struct qn_codes (integer codes and scales) -> floats here, or packed panels in
 * pack.c. Thread: any; no state. */
#include "kernels/quant.h"

#include <stddef.h>
#include <string.h>

#include "kernels/mem.h"

static const struct qn_layout layouts[QN_TYPE_COUNT] = {
    [QN_F32] = {.name = "F32", .block = 1, .file_bytes = 4, .panel_bytes = 64, .panel_ks = 1},
    [QN_F16] = {.name = "F16", .block = 1, .file_bytes = 2, .panel_bytes = 32, .panel_ks = 1},
    [QN_BF16] = {.name = "BF16", .block = 1, .file_bytes = 2, .panel_bytes = 64, .panel_ks = 2},
    [QN_Q8_0] = {.name = "Q8_0",
                 .block = 32,
                 .file_bytes = sizeof(struct qn_block_q8_0),
                 .panel_bytes = sizeof(struct qn_panel_q8_0),
                 .panel_ks = 32,
                 .offset = 128,
                 .lo = offsetof(struct qn_panel_q8_0, q),
                 .lo_bits = 8},
    [QN_Q4_0] = {.name = "Q4_0",
                 .block = 32,
                 .file_bytes = sizeof(struct qn_block_q4_0),
                 .panel_bytes = sizeof(struct qn_panel_q4_0),
                 .panel_ks = 32,
                 .offset = 8,
                 .lo = offsetof(struct qn_panel_q4_0, lo),
                 .lo_bits = 4},
    [QN_Q4_1] = {.name = "Q4_1",
                 .block = 32,
                 .file_bytes = sizeof(struct qn_block_q4_1),
                 .panel_bytes = sizeof(struct qn_panel_q4_1),
                 .panel_ks = 32,
                 .m = offsetof(struct qn_panel_q4_1, m),
                 .lo = offsetof(struct qn_panel_q4_1, lo),
                 .lo_bits = 4},
    [QN_Q5_0] = {.name = "Q5_0",
                 .block = 32,
                 .file_bytes = sizeof(struct qn_block_q5_0),
                 .panel_bytes = sizeof(struct qn_panel_q5_0),
                 .panel_ks = 32,
                 .offset = 16,
                 .lo = offsetof(struct qn_panel_q5_0, lo),
                 .hi = offsetof(struct qn_panel_q5_0, hi),
                 .lo_bits = 4,
                 .hi_bits = 1},
    [QN_Q5_1] = {.name = "Q5_1",
                 .block = 32,
                 .file_bytes = sizeof(struct qn_block_q5_1),
                 .panel_bytes = sizeof(struct qn_panel_q5_1),
                 .panel_ks = 32,
                 .m = offsetof(struct qn_panel_q5_1, m),
                 .lo = offsetof(struct qn_panel_q5_1, lo),
                 .hi = offsetof(struct qn_panel_q5_1, hi),
                 .lo_bits = 4,
                 .hi_bits = 1},
    [QN_Q4_K] = {.name = "Q4_K",
                 .block = 256,
                 .file_bytes = sizeof(struct qn_block_q4_k),
                 .panel_bytes = sizeof(struct qn_panel_q4_k),
                 .panel_ks = 256,
                 .m = offsetof(struct qn_panel_q4_k, m),
                 .sc = offsetof(struct qn_panel_q4_k, sc),
                 .mn = offsetof(struct qn_panel_q4_k, mn),
                 .lo = offsetof(struct qn_panel_q4_k, lo),
                 .lo_bits = 4},
    [QN_Q5_K] = {.name = "Q5_K",
                 .block = 256,
                 .file_bytes = sizeof(struct qn_block_q5_k),
                 .panel_bytes = sizeof(struct qn_panel_q5_k),
                 .panel_ks = 256,
                 .m = offsetof(struct qn_panel_q5_k, m),
                 .sc = offsetof(struct qn_panel_q5_k, sc),
                 .mn = offsetof(struct qn_panel_q5_k, mn),
                 .lo = offsetof(struct qn_panel_q5_k, lo),
                 .hi = offsetof(struct qn_panel_q5_k, hi),
                 .lo_bits = 4,
                 .hi_bits = 1},
    [QN_Q6_K] = {.name = "Q6_K",
                 .block = 256,
                 .file_bytes = sizeof(struct qn_block_q6_k),
                 .panel_bytes = sizeof(struct qn_panel_q6_k),
                 .panel_ks = 256,
                 .offset = 32,
                 .sc = offsetof(struct qn_panel_q6_k, sc),
                 .lo = offsetof(struct qn_panel_q6_k, lo),
                 .hi = offsetof(struct qn_panel_q6_k, hi),
                 .lo_bits = 4,
                 .hi_bits = 2},
};

const struct qn_layout *qn_type_layout(enum qn_type t) {
    return (unsigned)t < QN_TYPE_COUNT ? &layouts[t] : NULL;
}

const char *qn_type_name(enum qn_type t) {
    return (unsigned)t < QN_TYPE_COUNT ? layouts[t].name : "?";
}

unsigned qn_type_block(enum qn_type t) {
    return (unsigned)t < QN_TYPE_COUNT ? layouts[t].block : 1;
}

unsigned qn_type_block_bytes(enum qn_type t) {
    return (unsigned)t < QN_TYPE_COUNT ? layouts[t].file_bytes : 0;
}

bool qn_type_wants_int(enum qn_type t) {
    return (unsigned)t < QN_TYPE_COUNT && layouts[t].lo_bits != 0;
}

bool qn_type_row_bytes(enum qn_type t, size_t cols, size_t *out) {
    const struct qn_layout *l = qn_type_layout(t);
    if (!l || cols % l->block) return false;
    return qn_size_mul(cols / l->block, l->file_bytes, out);
}

/* ---- half precision ---- */

uint16_t qn_f32_to_f16(float f) {
    uint32_t u;
    memcpy(&u, &f, sizeof u);
    uint32_t sign = (u >> 16) & 0x8000u, a = u & 0x7fffffffu;
    if (a > 0x7f800000u) return (uint16_t)(sign | 0x7e00u | ((a >> 13) & 0x3ffu)); /* NaN, made quiet */
    if (a >= 0x47800000u) return (uint16_t)(sign | 0x7c00u);                       /* 2^16 and more */
    if (a < 0x33000000u) return (uint16_t)sign;                                    /* below half of 2^-24 */
    uint32_t shift = 13, m;
    if (a < 0x38800000u) { /* subnormal result: the implicit bit becomes explicit and moves right */
        shift = 126 - (a >> 23);
        m = (a & 0x7fffffu) | 0x800000u;
    } else {
        m = a - 0x38000000u;
    }
    uint32_t half = m >> shift, rest = m & ((1u << shift) - 1), mid = 1u << (shift - 1);
    if (rest > mid || (rest == mid && (half & 1))) half++; /* may carry into the exponent, up to infinity */
    return (uint16_t)(sign | half);
}

float qn_f16_to_f32(uint16_t h) {
    uint32_t sign = (uint32_t)(h & 0x8000u) << 16, e = (h >> 10) & 31u, m = h & 0x3ffu, u;
    if (e == 31) {
        u = sign | 0x7f800000u | (m << 13) | (m ? 0x400000u : 0);
    } else if (e) {
        u = sign | ((e + 112) << 23) | (m << 13);
    } else {
        float v = (float)m * 0x1p-24f; /* zero and subnormals: exact */
        memcpy(&u, &v, sizeof u);
        u |= sign;
    }
    float f;
    memcpy(&f, &u, sizeof f);
    return f;
}

uint16_t qn_f32_to_bf16(float f) {
    uint32_t u;
    memcpy(&u, &f, sizeof u);
    if ((u & 0x7fffffffu) > 0x7f800000u) return (uint16_t)((u >> 16) | 0x40u);
    return (uint16_t)((u + 0x7fffu + ((u >> 16) & 1)) >> 16);
}

/* ---- blocks of files ---- */

/* 32 nibbles as ggml keeps them: low nibbles are elements 0..15, high nibbles 16..31. */
static void nibbles(const uint8_t *qs, uint8_t *code) {
    for (unsigned j = 0; j < 16; j++) {
        code[j] = qs[j] & 15u;
        code[j + 16] = qs[j] >> 4;
    }
}

static void fifth_bits(const uint8_t *qh, uint8_t *code) {
    for (unsigned j = 0; j < 32; j++) {
        unsigned h = qh[j >> 3];
        code[j] = (uint8_t)(code[j] | (((h >> (j & 7)) & 1u) << 4));
    }
}

/* The 6-bit scales and minima of K-quants, packed 16 into 12 bytes. */
static void k_scales(const uint8_t *q, struct qn_codes *c) {
    for (unsigned j = 0; j < 4; j++) {
        c->scale[j] = q[j] & 63u;
        c->min[j] = q[j + 4] & 63u;
        c->scale[j + 4] = (uint8_t)((q[j + 8] & 15u) | ((unsigned)(q[j] >> 6) << 4));
        c->min[j + 4] = (uint8_t)((unsigned)(q[j + 8] >> 4) | ((unsigned)(q[j + 4] >> 6) << 4));
    }
}

/* 256 nibbles of Q4_K and Q5_K: 32 bytes hold two sub-blocks, low nibbles first. */
static void k_nibbles(const uint8_t *qs, uint8_t *code) {
    for (unsigned s = 0; s < 4; s++) {
        for (unsigned l = 0; l < 32; l++) {
            code[64 * s + l] = qs[32 * s + l] & 15u;
            code[64 * s + 32 + l] = qs[32 * s + l] >> 4;
        }
    }
}

static void from_q6_k(const struct qn_block_q6_k *b, struct qn_codes *c) {
    for (unsigned n = 0; n < 2; n++) {
        const uint8_t *ql = b->ql + 64 * n, *qh = b->qh + 32 * n;
        uint8_t *y = c->code + 128 * n;
        for (unsigned l = 0; l < 32; l++) {
            y[l] = (uint8_t)((ql[l] & 15u) | ((qh[l] & 3u) << 4));
            y[l + 32] = (uint8_t)((ql[l + 32] & 15u) | (((qh[l] >> 2) & 3u) << 4));
            y[l + 64] = (uint8_t)((ql[l] >> 4) | (((qh[l] >> 4) & 3u) << 4));
            y[l + 96] = (uint8_t)((ql[l + 32] >> 4) | ((qh[l] >> 6) << 4));
        }
    }
    memcpy(c->scale, b->scales, 16);
    c->d = b->d;
}

static void from_q5_k(const struct qn_block_q5_k *b, struct qn_codes *c) {
    k_nibbles(b->qs, c->code);
    for (unsigned s = 0; s < 8; s++) {
        for (unsigned l = 0; l < 32; l++) {
            c->code[32 * s + l] = (uint8_t)(c->code[32 * s + l] | ((((unsigned)b->qh[l] >> s) & 1u) << 4));
        }
    }
    k_scales(b->scales, c);
    c->d = b->d;
    c->m = b->dmin;
}

void qn_codes_from_file(enum qn_type t, const void *src, struct qn_codes *c) {
    union {
        struct qn_block_q8_0 q8_0;
        struct qn_block_q4_0 q4_0;
        struct qn_block_q4_1 q4_1;
        struct qn_block_q5_0 q5_0;
        struct qn_block_q5_1 q5_1;
        struct qn_block_q4_k q4_k;
        struct qn_block_q5_k q5_k;
        struct qn_block_q6_k q6_k;
    } b;
    memcpy(&b, src, qn_type_block_bytes(t)); /* src may lie anywhere in a mapped file */
    switch (t) {
    case QN_Q8_0:
        c->d = b.q8_0.d;
        for (unsigned j = 0; j < 32; j++) c->code[j] = (uint8_t)(b.q8_0.qs[j] + 128);
        break;
    case QN_Q4_0:
        c->d = b.q4_0.d;
        nibbles(b.q4_0.qs, c->code);
        break;
    case QN_Q4_1:
        c->d = b.q4_1.d;
        c->m = b.q4_1.m;
        nibbles(b.q4_1.qs, c->code);
        break;
    case QN_Q5_0:
        c->d = b.q5_0.d;
        nibbles(b.q5_0.qs, c->code);
        fifth_bits(b.q5_0.qh, c->code);
        break;
    case QN_Q5_1:
        c->d = b.q5_1.d;
        c->m = b.q5_1.m;
        nibbles(b.q5_1.qs, c->code);
        fifth_bits(b.q5_1.qh, c->code);
        break;
    case QN_Q4_K:
        c->d = b.q4_k.d;
        c->m = b.q4_k.dmin;
        k_nibbles(b.q4_k.qs, c->code);
        k_scales(b.q4_k.scales, c);
        break;
    case QN_Q5_K:
        from_q5_k(&b.q5_k, c);
        break;
    case QN_Q6_K:
        from_q6_k(&b.q6_k, c);
        break;
    default:
        break;
    }
}

void qn_codes_to_f32(enum qn_type t, const struct qn_codes *c, float *dst) {
    const struct qn_layout *l = qn_type_layout(t);
    float d = qn_f16_to_f32(c->d), m = l->m ? qn_f16_to_f32(c->m) : 0;
    for (unsigned s = 0; s < l->block; s += 16) {
        unsigned sub = t == QN_Q6_K ? s / 16 : s / 32;
        float ds = d, ms = m;
        if (t == QN_Q6_K) {
            ds = d * (float)(int8_t)c->scale[sub];
        } else if (l->sc) {
            ds = d * (float)c->scale[sub];
            ms = -(m * (float)c->min[sub]);
        }
        for (unsigned k = s; k < s + 16; k++) {
            float v = ds * (float)(c->code[k] - l->offset);
            dst[k] = l->m ? v + ms : v;
        }
    }
}

void qn_type_row_to_f32(enum qn_type t, const void *src, float *dst, size_t cols) {
    const struct qn_layout *l = qn_type_layout(t);
    const uint8_t *p = src;
    if (!l) return;
    if (t == QN_F32) {
        memcpy(dst, src, cols * sizeof *dst);
        return;
    }
    if (!l->lo_bits) {
        for (size_t k = 0; k < cols; k++) {
            uint16_t h;
            memcpy(&h, p + 2 * k, sizeof h);
            dst[k] = t == QN_F16 ? qn_f16_to_f32(h) : qn_bf16_to_f32(h);
        }
        return;
    }
    struct qn_codes c = {0};
    for (size_t k = 0; k + l->block <= cols; k += l->block, p += l->file_bytes) {
        qn_codes_from_file(t, p, &c);
        qn_codes_to_f32(t, &c, dst + k);
    }
}
