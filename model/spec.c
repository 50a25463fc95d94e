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
    {"layers", offsetof(struct qn_spec, layers), 1, 1024},
    {"d_model", offsetof(struct qn_spec, d_model), 8, 65536},
    {"heads", offsetof(struct qn_spec, heads), 1, 1024},
    {"kv_heads", offsetof(struct qn_spec, kv_heads), 1, 1024},
    {"head_dim", offsetof(struct qn_spec, head_dim), 8, 512},
    {"ffn_dim", offsetof(struct qn_spec, ffn_dim), 8, 1048576},
    {"vocab", offsetof(struct qn_spec, vocab), 2, 2097152},
    {"context", offsetof(struct qn_spec, context), 1, 16777216},
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

int qn_spec_check(const struct qn_spec *s, struct qn_err *err) {
    for (size_t i = 0; i < sizeof ranges / sizeof *ranges; i++) {
        uint32_t v = *(const uint32_t *)(const void *)((const char *)s + ranges[i].offset);
        if (v < ranges[i].min || v > ranges[i].max)
            return qn_err_param(err, QN_ERR_UNSUPPORTED, ranges[i].name,
                                "hyper-parameter %s is %" PRIu32 ", outside %" PRIu32 " to %" PRIu32,
                                ranges[i].name, v, ranges[i].min, ranges[i].max);
    }
    if (s->heads % s->kv_heads != 0)
        return qn_err_param(err, QN_ERR_UNSUPPORTED, "kv_heads",
                            "hyper-parameter kv_heads (%" PRIu32 ") does not divide heads (%" PRIu32 ")",
                            s->kv_heads, s->heads);
    if (s->head_dim % 8 != 0)
        return qn_err_param(err, QN_ERR_UNSUPPORTED, "head_dim",
                            "hyper-parameter head_dim (%" PRIu32 ") is not a multiple of 8", s->head_dim);
    if (s->window > 16777216) return refuse(err, "window", "is above 16777216");
    if ((unsigned)s->norm > QN_NORM_LAYER) return refuse(err, "norm", "is unknown");
    if (!(s->norm_eps > 0 && s->norm_eps < 1)) return refuse(err, "norm_eps", "is not between 0 and 1");
    if ((unsigned)s->pos > QN_POS_LEARNED) return refuse(err, "pos", "is unknown");
    if (s->ffn[0] == 0) return refuse(err, "ffn", "is empty");
    if ((unsigned)s->act >= QN_ACT_COUNT) return refuse(err, "act", "is unknown");
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
