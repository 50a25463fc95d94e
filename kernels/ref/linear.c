/* Reference products: y = x W^T + bias over packed panels.
 *
 * This is the definition of the arithmetic. acc starts at the bias (or 0). F32 and F16: for each k ascending
 * acc = fma(w, x, acc). BF16: x is rounded to bfloat16, and for each even k ascending acc = fma(w, x, acc) of
 * k + 1, then of k, where what is smaller than the least normal number is a zero, before and after: what the
 * instruction for pairs (vdpbf16ps) does, and a product of two bfloat16 is exact. Quantised types: for each
 * 32 values of K ascending, with the exact integer dot product I of codes (less their offset) and integer
 * activations, activation scale s and sum S:
 *
 *   Q8_0 Q4_0 Q5_0   acc = fma(d * s, I, acc)
 *   Q4_1 Q5_1        acc = fma(d * s, I, acc), then acc = fma(m, s * S, acc)
 *   Q4_K Q5_K        acc = fma((d * sc) * s, I, acc), then acc = fma(-(dmin * mn), s * S, acc)
 *   Q6_K             acc = fma((d * sc0) * s, I0, acc), then acc = fma((d * sc1) * s, I1, acc): its two
 *                    halves of 16 (sc0 * I0 + sc1 * I1 could pass 2^31)
 *
 * I is rounded once, to float; S is exact there. Thread: any. */
#include <float.h>
#include <math.h>

#include "kernels/act.h"
#include "kernels/quant.h"
#include "kernels/ref/ref.h"

/* Codes times activations of a block, offsets left in, fit int32 with room: kernels may sum in any order. */
static_assert(255ll * (QN_ACT_MAX + 256 * 8 + 2048) * 32 < INT32_MAX, "I is exact in 32 bits");
static_assert(32 * (QN_ACT_MAX + 8) <= 1 << 24, "S is exact in a float");

static float weight_at(enum qn_type t, const uint8_t *block, unsigned lane) {
    if (t == QN_F32) {
        float f;
        memcpy(&f, block + 4 * lane, sizeof f);
        return f;
    }
    uint16_t h;
    memcpy(&h, block + 2 * lane, sizeof h);
    return qn_f16_to_f32(h);
}

/* Rows of a panel that exist. */
static unsigned lanes_of(const struct qn_matrix *w, uint32_t panel) {
    uint32_t left = w->rows - panel * QN_PANEL;
    return left < QN_PANEL ? left : QN_PANEL;
}

void qn_ref_linear_float(const struct qn_linear_args *args) {
    const struct qn_matrix *w = args->w;
    const struct qn_layout *l = qn_type_layout(w->type);
    for (uint32_t p = args->panel_begin; p < args->panel_end; p++) {
        const uint8_t *panel = w->data + (size_t)p * w->cols * l->panel_bytes;
        unsigned lanes = lanes_of(w, p);
        for (uint32_t m = 0; m < args->a->rows; m++) {
            const float *x = args->a->x + m * args->a->ldx;
            float *y = args->y + m * args->ldy + (size_t)p * QN_PANEL;
            for (unsigned r = 0; r < lanes; r++) {
                float acc = args->bias ? args->bias[(size_t)p * QN_PANEL + r] : 0.0f;
                for (size_t k = 0; k < w->cols; k++) {
                    acc = fmaf(weight_at(w->type, panel + k * l->panel_bytes, r), x[k], acc);
                }
                y[r] = acc;
            }
        }
    }
}

static float flush(float x) {
    return fabsf(x) < FLT_MIN ? copysignf(0.0f, x) : x;
}

/* Element k of a lane of BF16 pairs, which end in a zero; as it enters a product. */
static float pair_at(const uint8_t *panel, unsigned lane, size_t k) {
    uint16_t h;
    memcpy(&h, panel + k / 2 * (4 * QN_PANEL) + 4 * lane + 2 * (k % 2), sizeof h);
    return flush(qn_bf16_to_f32(h));
}

void qn_ref_linear_bf16(const struct qn_linear_args *args) {
    const struct qn_matrix *w = args->w;
    for (uint32_t p = args->panel_begin; p < args->panel_end; p++) {
        const uint8_t *panel = w->data + p * qn_matrix_blocks(w) * 4 * QN_PANEL;
        for (uint32_t m = 0; m < args->a->rows; m++) {
            const float *x = args->a->x + m * args->a->ldx;
            for (unsigned r = 0; r < lanes_of(w, p); r++) {
                size_t n = (size_t)p * QN_PANEL + r;
                float acc = flush(args->bias ? args->bias[n] : 0.0f);
                for (size_t k = 0; k < w->cols; k += 2) {
                    float odd = k + 1 < w->cols ? qn_bf16_round(x[k + 1]) : 0.0f;
                    acc = flush(fmaf(pair_at(panel, r, k + 1), odd, acc));
                    acc = flush(fmaf(pair_at(panel, r, k), qn_bf16_round(x[k]), acc));
                }
                args->y[m * args->ldy + n] = acc;
            }
        }
    }
}

/* 32 codes of one lane, less the type's offset. */
static void lane_codes(const struct qn_layout *l, const uint8_t *block, unsigned sub, unsigned lane, int *w) {
    const uint8_t *lo = block + l->lo + (size_t)sub * (l->lo_bits == 8 ? 512 : 256) + 4 * lane;
    const uint8_t *hi = block + l->hi + (size_t)sub * 64 * l->hi_bits + 4 * lane;
    for (unsigned k = 0; k < 32; k++) {
        unsigned chunk = k / 4, i = k % 4, v;
        if (l->lo_bits == 8) {
            v = lo[64 * chunk + i];
        } else {
            v = (unsigned)(lo[64 * (chunk / 2) + i] >> (4 * (chunk % 2))) & 15u;
        }
        if (l->hi_bits == 1) v |= ((unsigned)(hi[i] >> chunk) & 1u) << 4;
        if (l->hi_bits == 2) v |= ((unsigned)(hi[64 * (chunk / 4) + i] >> (2 * (chunk % 4))) & 3u) << 4;
        w[k] = (int)v - l->offset;
    }
}

/* Scales of one lane and sub-block; d1 is the one of the second half (Q6_K only). */
struct lane_scale {
    float d, d1, m;
};

static struct lane_scale lane_scales(enum qn_type t, const uint8_t *block, unsigned sub, unsigned lane) {
    const struct qn_layout *l = qn_type_layout(t);
    struct lane_scale s = {0};
    uint16_t h;
    memcpy(&h, block + 2 * lane, sizeof h);
    s.d = qn_f16_to_f32(h);
    if (l->m) {
        memcpy(&h, block + l->m + 2 * lane, sizeof h);
        s.m = qn_f16_to_f32(h);
    }
    if (l->mn) {
        s.d = s.d * (float)block[l->sc + QN_PANEL * sub + lane];
        s.m = -(s.m * (float)block[l->mn + QN_PANEL * sub + lane]);
    } else if (l->sc) {
        s.d1 = s.d * (float)(int8_t)block[l->sc + QN_PANEL * (2 * sub + 1) + lane];
        s.d = s.d * (float)(int8_t)block[l->sc + QN_PANEL * (2 * sub) + lane];
    }
    return s;
}

/* The 32-value step of one lane for every row of x; acc[m] is a column of y. */
static void quant_step(const struct qn_linear_args *args, const struct lane_scale *s, const int *w, size_t b,
                       float *y) {
    const struct qn_act *a = args->a;
    size_t stride = qn_act_stride(a->cols);
    bool has_min = qn_type_layout(args->w->type)->m != 0, halves = args->w->type == QN_Q6_K;
    for (uint32_t m = 0; m < a->rows; m++) {
        const struct qn_act_block *q = a->q + m * stride + b;
        int i0 = 0, i1 = 0;
        for (unsigned k = 0; k < 16; k++) {
            i0 += w[k] * qn_act_join(q, k);
            i1 += w[k + 16] * qn_act_join(q, k + 16);
        }
        float acc = fmaf(s->d * q->scale, (float)(halves ? i0 : i0 + i1), y[m * args->ldy]);
        if (halves) acc = fmaf(s->d1 * q->scale, (float)i1, acc);
        if (has_min) acc = fmaf(s->m, q->scaled_sum, acc);
        y[m * args->ldy] = acc;
    }
}

void qn_ref_linear_quant(const struct qn_linear_args *args) {
    const struct qn_matrix *w = args->w;
    const struct qn_layout *l = qn_type_layout(w->type);
    size_t blocks = qn_matrix_blocks(w);
    for (uint32_t p = args->panel_begin; p < args->panel_end; p++) {
        unsigned lanes = lanes_of(w, p);
        for (unsigned r = 0; r < lanes; r++) {
            size_t n = (size_t)p * QN_PANEL + r;
            const uint8_t *block = w->data + (size_t)p * blocks * l->panel_bytes;
            for (uint32_t m = 0; m < args->a->rows; m++)
                args->y[m * args->ldy + n] = args->bias ? args->bias[n] : 0;
            for (size_t b = 0; b < blocks; b++, block += l->panel_bytes) {
                for (unsigned sub = 0; sub < l->block / 32u; sub++) {
                    int codes[32];
                    struct lane_scale s = lane_scales(w->type, block, sub, r);
                    lane_codes(l, block, sub, r, codes);
                    quant_step(args, &s, codes, b * (l->block / 32u) + sub, args->y + n);
                }
            }
        }
    }
}
