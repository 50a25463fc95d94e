/* Range checks of a checkpoint's hyper-parameters and the RoPE frequencies that follow from them. */
#include "model/spec.h"

#include <inttypes.h>
#include <math.h>
#include <stddef.h>

static const struct range {
    const char *name;
    size_t offset;
    uint32_t min, max;
} ranges[] = {
    {"layers", offsetof(struct qn_spec, layers), 1, QN_LAYERS_MAX},
    {"d_model", offsetof(struct qn_spec, d_model), 8, 65536},
    {"heads", offsetof(struct qn_spec, heads), 1, QN_HEADS_MAX},
    {"head_dim", offsetof(struct qn_spec, head_dim), 8, 512},
    {"vocab", offsetof(struct qn_spec, vocab), 2, 2097152},
    {"context", offsetof(struct qn_spec, context), 1, 16777216},
    {"embed_lags", offsetof(struct qn_spec, embed_lags), 0, QN_LAGS_MAX},
    {"n_attn", offsetof(struct qn_spec, n_attn), 1, QN_MEMBERS},
    {"n_ffn", offsetof(struct qn_spec, n_ffn), 1, QN_MEMBERS},
    {"n_share", offsetof(struct qn_spec, n_share), 1, QN_MEMBERS},
    {"attn_blocks", offsetof(struct qn_spec, attn_blocks), 1, QN_BLOCKS_MAX},
    {"ffn_blocks", offsetof(struct qn_spec, ffn_blocks), 1, QN_BLOCKS_MAX},
};

static int refuse(struct qn_err *err, const char *name, const char *why) {
    return qn_err_param(err, QN_ERR_UNSUPPORTED, name, "hyper-parameter %s %s", name, why);
}

static int check_rope(const struct qn_spec *s, struct qn_err *err) {
    if (s->pos != QN_POS_ROPE)
        return s->rope_dim == 0 ? QN_OK : refuse(err, "rope_dim", "is set without RoPE");
    if (s->rope_dim < 2 || s->rope_dim % 2 != 0 || s->rope_dim > s->head_dim)
        return refuse(err, "rope_dim", "is not even and within 2 to head_dim");
    if (!(s->rope_base > 1.0f && isfinite(s->rope_base))) return refuse(err, "rope_base", "is not above 1");
    if ((unsigned)s->rope_scaling > QN_ROPE_LLAMA3) return refuse(err, "rope_scaling", "is unknown");
    if (s->rope_scaling == QN_ROPE_NONE) return QN_OK;
    if (!(s->rope_factor >= 1.0f && isfinite(s->rope_factor)))
        return refuse(err, "rope_factor", "is not at least 1");
    if (s->rope_scaling == QN_ROPE_LINEAR) return QN_OK;
    if (!(s->rope_low_freq > 0 && isfinite(s->rope_low_freq)))
        return refuse(err, "rope_low_freq", "is not above 0");
    if (!(s->rope_high_freq > s->rope_low_freq && isfinite(s->rope_high_freq)))
        return refuse(err, "rope_high_freq", "is not above rope_low_freq");
    if (s->rope_original_context == 0) return refuse(err, "rope_original_context", "is 0");
    return QN_OK;
}

static int out_of_range(struct qn_err *err, const char *name, uint32_t v, uint32_t min, uint32_t max) {
    return qn_err_param(err, QN_ERR_UNSUPPORTED, name,
                        "hyper-parameter %s is %" PRIu32 ", outside %" PRIu32 " to %" PRIu32, name, v, min,
                        max);
}

static int check_attn(const struct qn_spec *s, const struct qn_attn_member *a, struct qn_err *err) {
    if (a->kv_heads < 1 || a->kv_heads > QN_HEADS_MAX)
        return out_of_range(err, "kv_heads", a->kv_heads, 1, QN_HEADS_MAX);
    if (s->heads % a->kv_heads != 0)
        return qn_err_param(err, QN_ERR_UNSUPPORTED, "kv_heads",
                            "hyper-parameter kv_heads (%" PRIu32 ") does not divide heads (%" PRIu32 ")",
                            a->kv_heads, s->heads);
    if (a->type[0] == 0) return refuse(err, "attention", "is empty");
    if (a->slots > QN_SLOTS_MAX) return out_of_range(err, "slots", a->slots, 0, QN_SLOTS_MAX);
    if (a->features > QN_FEATURES_MAX) return out_of_range(err, "features", a->features, 0, QN_FEATURES_MAX);
    return QN_OK;
}

enum qn_gating qn_gating_find(const char *letter) {
    if (letter[0] < 'A' || letter[0] > 'D' || letter[1]) return QN_GATING_NONE;
    return (enum qn_gating)(QN_GATING_TOPK_SOFTMAX + (letter[0] - 'A'));
}

/* The group limit of sigmoid gating. */
static int check_groups(const struct qn_ffn_member *f, struct qn_err *err) {
    if (f->groups == 0 && f->top_groups == 0) return QN_OK;
    if (f->gating != QN_GATING_SIGMOID) return refuse(err, "groups", "is set without sigmoid gating");
    if (f->groups == 0 || f->experts % f->groups != 0)
        return refuse(err, "groups", "does not divide the number of experts");
    if (f->top_groups < 1 || f->top_groups > f->groups)
        return out_of_range(err, "top_groups", f->top_groups, 1, f->groups);
    if (f->used > f->experts / f->groups * f->top_groups)
        return refuse(err, "experts_per_token", "is more than the open groups hold");
    return QN_OK;
}

static int check_ffn(const struct qn_ffn_member *f, struct qn_err *err) {
    if (f->dim < 8 || f->dim > QN_FFN_DIM_MAX) return out_of_range(err, "ffn_dim", f->dim, 8, QN_FFN_DIM_MAX);
    if (f->type[0] == 0) return refuse(err, "ffn", "is empty");
    if ((unsigned)f->act >= QN_ACT_COUNT) return refuse(err, "act", "is unknown");
    if (f->shared_dim != 0 && (f->shared_dim < 8 || f->shared_dim > QN_FFN_DIM_MAX))
        return out_of_range(err, "shared_dim", f->shared_dim, 8, QN_FFN_DIM_MAX);
    if (f->experts > QN_EXPERTS_MAX) return out_of_range(err, "experts", f->experts, 0, QN_EXPERTS_MAX);
    if (f->experts == 0) return QN_OK;
    if (f->used < 1 || f->used > f->experts)
        return out_of_range(err, "experts_per_token", f->used, 1, f->experts);
    if (f->expert[0] == 0) return refuse(err, "expert", "is empty");
    if (f->gating == QN_GATING_NONE || f->gating > QN_GATING_SIGMOID)
        return refuse(err, "gating", "is unknown");
    if (!(f->route_scale >= 0 && isfinite(f->route_scale)))
        return refuse(err, "route_scale", "is not at least 0");
    return check_groups(f, err);
}

static int check_share(const struct qn_spec *s, const struct qn_share_member *m, struct qn_err *err) {
    if (m->type[0] == 0) return refuse(err, "sharing", "is empty");
    bool inside = m->attn_blocks >= 1 && m->attn_blocks <= s->layers && m->ffn_blocks >= 1 &&
                  m->ffn_blocks <= s->layers && m->attn_first <= s->attn_blocks - m->attn_blocks &&
                  m->ffn_first <= s->ffn_blocks - m->ffn_blocks && m->attn_blocks <= s->attn_blocks &&
                  m->ffn_blocks <= s->ffn_blocks;
    return inside ? QN_OK : refuse(err, "sharing", "refers to blocks that are not there");
}

static int check_members(const struct qn_spec *s, struct qn_err *err) {
    int rc = QN_OK;
    for (uint32_t i = 0; i < s->n_attn && rc == QN_OK; i++) rc = check_attn(s, &s->attn[i], err);
    for (uint32_t i = 0; i < s->n_ffn && rc == QN_OK; i++) rc = check_ffn(&s->ffn[i], err);
    for (uint32_t i = 0; i < s->n_share && rc == QN_OK; i++) rc = check_share(s, &s->share[i], err);
    return rc;
}

const char *qn_softmax_name(uint32_t heads, uint32_t kv_heads) {
    if (kv_heads == heads) return "mha";
    return kv_heads == 1 ? "mqa" : "gqa";
}

int qn_spec_check(const struct qn_spec *s, struct qn_err *err) {
    for (size_t i = 0; i < sizeof ranges / sizeof *ranges; i++) {
        uint32_t v = *(const uint32_t *)(const void *)((const char *)s + ranges[i].offset);
        if (v < ranges[i].min || v > ranges[i].max)
            return out_of_range(err, ranges[i].name, v, ranges[i].min, ranges[i].max);
    }
    int rc = check_members(s, err);
    if (rc) return rc;
    if (s->head_dim % 8 != 0)
        return qn_err_param(err, QN_ERR_UNSUPPORTED, "head_dim",
                            "hyper-parameter head_dim (%" PRIu32 ") is not a multiple of 8", s->head_dim);
    if (s->d_embed != 0 && (s->d_embed < 8 || s->d_embed > s->d_model))
        return out_of_range(err, "d_embed", s->d_embed, 8, s->d_model);
    if (s->window > 16777216) return refuse(err, "window", "is above 16777216");
    if ((unsigned)s->norm > QN_NORM_LAYER) return refuse(err, "norm", "is unknown");
    if (!(s->norm_eps > 0 && s->norm_eps < 1)) return refuse(err, "norm_eps", "is not between 0 and 1");
    if ((unsigned)s->pos > QN_POS_LEARNED) return refuse(err, "pos", "is unknown");
    if (!(s->embed_scale > 0 && isfinite(s->embed_scale)))
        return refuse(err, "embed_scale", "is not above 0");
    return check_rope(s, err);
}

/* Llama 3.1's rule: long wavelengths are stretched by the factor, short ones kept, blended in between. */
static double llama3_scale(const struct qn_spec *s, double freq) {
    double original = s->rope_original_context;
    double wavelength = 2.0 * 3.14159265358979323846 / freq;
    if (wavelength < original / (double)s->rope_high_freq) return freq;
    if (wavelength > original / (double)s->rope_low_freq) return freq / (double)s->rope_factor;
    double smooth = (original / wavelength - (double)s->rope_low_freq) /
                    ((double)s->rope_high_freq - (double)s->rope_low_freq);
    return (1.0 - smooth) * freq / (double)s->rope_factor + smooth * freq;
}

void qn_spec_rope_freqs(const struct qn_spec *s, const float *freq_factors, float *inv_freq) {
    for (uint32_t i = 0; i < s->rope_dim / 2; i++) {
        double f = pow((double)s->rope_base, -2.0 * (double)i / (double)s->rope_dim);
        if (s->rope_scaling == QN_ROPE_LINEAR) f /= (double)s->rope_factor;
        if (s->rope_scaling == QN_ROPE_LLAMA3) f = llama3_scale(s, f);
        if (freq_factors) f /= (double)freq_factors[i];
        inv_freq[i] = (float)f;
    }
}
