/* Hyper-parameters from GGUF keys "{arch}.…". */
#include "model/load/gguf_spec.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

struct keys {
    const struct qn_gguf *g;
    const char *arch;
    struct qn_err *err;
    char key[96]; /* the key last asked for */
};

static const char *key_of(struct keys *k, const char *suffix) {
    snprintf(k->key, sizeof k->key, "%s.%s", k->arch, suffix);
    return k->key;
}

static int missing(struct keys *k) {
    return qn_err_param(k->err, QN_ERR_FORMAT, k->key, "metadata key '%s' is missing", k->key);
}

/* An integer that fits 32 bits; absent leaves *out. */
static int opt_u32(struct keys *k, const char *suffix, uint32_t *out) {
    uint64_t v;
    int rc = qn_gguf_u64(k->g, key_of(k, suffix), &v, k->err);
    if (rc < 0) return rc;
    if (rc == QN_GGUF_ABSENT) return QN_GGUF_ABSENT;
    if (v > UINT32_MAX)
        return qn_err_param(k->err, QN_ERR_UNSUPPORTED, k->key,
                            "metadata key '%s' is %" PRIu64 ", out of range", k->key, v);
    *out = (uint32_t)v;
    return QN_OK;
}

static int need_u32(struct keys *k, const char *suffix, uint32_t *out) {
    int rc = opt_u32(k, suffix, out);
    return rc == QN_GGUF_ABSENT ? missing(k) : rc;
}

static int opt_f32(struct keys *k, const char *suffix, float *out) {
    return qn_gguf_f32(k->g, key_of(k, suffix), out, k->err);
}

static int read_shape(struct keys *k, struct qn_spec *s) {
    int rc;
    uint32_t value_dim;
    if ((rc = need_u32(k, "block_count", &s->layers)) < 0) return rc;
    if ((rc = need_u32(k, "embedding_length", &s->d_model)) < 0) return rc;
    if ((rc = need_u32(k, "feed_forward_length", &s->ffn[0].dim)) < 0) return rc;
    if ((rc = need_u32(k, "context_length", &s->context)) < 0) return rc;
    if ((rc = need_u32(k, "attention.head_count", &s->heads)) < 0) return rc;
    s->attn[0].kv_heads = s->heads;
    if ((rc = opt_u32(k, "attention.head_count_kv", &s->attn[0].kv_heads)) < 0) return rc;
    if (s->heads == 0) return qn_err_param(k->err, QN_ERR_UNSUPPORTED, "heads", "hyper-parameter heads is 0");
    s->head_dim = s->d_model / s->heads;
    if ((rc = opt_u32(k, "attention.key_length", &s->head_dim)) < 0) return rc;
    value_dim = s->head_dim;
    if ((rc = opt_u32(k, "attention.value_length", &value_dim)) < 0) return rc;
    if (value_dim != s->head_dim)
        return qn_err_param(k->err, QN_ERR_UNSUPPORTED, "head_dim",
                            "keys and values of different width (%" PRIu32 " and %" PRIu32
                            ") are not supported",
                            s->head_dim, value_dim);
    if ((rc = opt_u32(k, "attention.sliding_window", &s->window)) < 0) return rc;
    if (s->window >= s->context) s->window = 0;
    return QN_OK;
}

/* How experts are weighed follows from the architecture; newer files also say it. */
static int read_gating(struct keys *k, const struct qn_family *f, struct qn_ffn_member *m) {
    uint32_t func = 1; /* softmax */
    bool renorm = f->gating == QN_GATING_SOFTMAX_RENORM;
    float scale = 1.0f;
    int rc;
    if ((rc = opt_u32(k, "expert_gating_func", &func)) < 0) return rc;
    if (func != 1 && func != 3)
        return qn_err_param(k->err, QN_ERR_UNSUPPORTED, k->key,
                            "metadata key '%s' is %" PRIu32 "; only softmax routing is supported", k->key,
                            func);
    if ((rc = qn_gguf_bool(k->g, key_of(k, "expert_weights_norm"), &renorm, k->err)) < 0) return rc;
    if ((rc = opt_f32(k, "expert_weights_scale", &scale)) < 0) return rc;
    if (scale != 1.0f && scale != 0.0f)
        return qn_err_param(k->err, QN_ERR_UNSUPPORTED, k->key, "metadata key '%s' is not supported", k->key);
    m->gating = renorm ? QN_GATING_SOFTMAX_RENORM : QN_GATING_SOFTMAX;
    if (func == 3) m->gating = QN_GATING_TOPK_SOFTMAX;
    return QN_OK;
}

/* After read_shape: widths that a file doesn't tell follow from the dense one. */
static int read_experts(struct keys *k, const struct qn_family *f, struct qn_ffn_member *m) {
    int rc;
    uint32_t dense = m->dim;
    if ((rc = need_u32(k, "expert_count", &m->experts)) < 0) return rc;
    if ((rc = need_u32(k, "expert_used_count", &m->used)) < 0) return rc;
    if (f->shared_expert && m->used > 0) m->dim = dense / m->used;
    if ((rc = opt_u32(k, "expert_feed_forward_length", &m->dim)) < 0) return rc;
    if (f->shared_expert) {
        m->shared_gate = true;
        m->shared_dim = dense;
        if ((rc = opt_u32(k, "expert_shared_feed_forward_length", &m->shared_dim)) < 0) return rc;
        if (m->shared_dim < 8)
            return qn_err_param(k->err, QN_ERR_UNSUPPORTED, "shared_dim",
                                "hyper-parameter shared_dim is %" PRIu32 ", below 8", m->shared_dim);
    }
    return read_gating(k, f, m);
}

static int read_scaling(struct keys *k, struct qn_spec *s) {
    struct qn_str type = {"none", 4};
    char shown[64];
    float old_linear = 0;
    int rc = qn_gguf_str(k->g, key_of(k, "rope.scaling.type"), &type, k->err);
    if (rc < 0) return rc;
    /* Files older than rope.scaling.type say linear scaling with this key alone. */
    if (rc == QN_GGUF_ABSENT && (rc = opt_f32(k, "rope.scale_linear", &old_linear)) < 0) return rc;
    if (old_linear > 1.0f) {
        s->rope_scaling = QN_ROPE_LINEAR;
        s->rope_factor = old_linear;
    } else if (qn_str_is(type, "linear")) {
        s->rope_scaling = QN_ROPE_LINEAR;
        rc = opt_f32(k, "rope.scaling.factor", &s->rope_factor);
        if (rc != QN_OK) return rc == QN_GGUF_ABSENT ? missing(k) : rc;
    } else if (!qn_str_is(type, "none")) {
        return qn_err_param(k->err, QN_ERR_UNSUPPORTED, "rope.scaling.type",
                            "RoPE scaling '%s' is not supported", qn_str_show(type, shown));
    }
    return QN_OK;
}

static int read_rope(struct keys *k, const struct qn_family *f, struct qn_spec *s) {
    int rc;
    if (f->pos != QN_POS_ROPE) return QN_OK;
    s->rope_dim = s->head_dim;
    s->rope_base = 10000.0f;
    if ((rc = opt_u32(k, "rope.dimension_count", &s->rope_dim)) < 0) return rc;
    if ((rc = opt_f32(k, "rope.freq_base", &s->rope_base)) < 0) return rc;
    return read_scaling(k, s);
}

/* The vocabulary is what the embedding table holds; the shape check of weights.c rests on it. */
static int read_vocab(struct keys *k, const struct qn_family *f, struct qn_spec *s) {
    char name[96];
    uint32_t said;
    snprintf(name, sizeof name, "%s.weight", f->gguf_names->name[QN_SLOT_EMBED]);
    const struct qn_tensor *t = qn_tensor_dir_find(&k->g->dir, name);
    if (!t || t->n_dims != 2 || t->dims[0] > UINT32_MAX)
        return qn_err_set(k->err, QN_ERR_FORMAT, "tensor '%s' is missing or not a matrix", name);
    s->vocab = said = (uint32_t)t->dims[0];
    int rc = opt_u32(k, "vocab_size", &said);
    if (rc < 0) return rc;
    if (said != s->vocab)
        return qn_err_param(k->err, QN_ERR_FORMAT, k->key,
                            "metadata key '%s' is %" PRIu32 ", but '%s' has %" PRIu32 " rows", k->key, said,
                            name, s->vocab);
    snprintf(name, sizeof name, "%s.weight", f->gguf_names->name[QN_SLOT_OUTPUT]);
    s->tied = qn_tensor_dir_find(&k->g->dir, name) == NULL;
    return QN_OK;
}

static int read_eps(struct keys *k, const struct qn_family *f, struct qn_spec *s) {
    int rc = opt_f32(
        k, f->norm == QN_NORM_RMS ? "attention.layer_norm_rms_epsilon" : "attention.layer_norm_epsilon",
        &s->norm_eps);
    return rc == QN_GGUF_ABSENT ? missing(k) : rc;
}

/* "{arch}.expert_count" tells Mixtral from Llama. */
static int has_experts(const struct qn_gguf *g, struct qn_str arch, bool *moe, struct qn_err *err) {
    char key[96];
    uint64_t n = 0;
    snprintf(key, sizeof key, "%.*s.expert_count", (int)(arch.n < 64 ? arch.n : 64), arch.p);
    int rc = qn_gguf_u64(g, key, &n, err);
    *moe = n > 0;
    return rc;
}

/* *family is NULL unless QN_OK. */
static int find_family(const struct qn_gguf *g, const struct qn_family **family, struct qn_err *err) {
    struct qn_str arch;
    char shown[64];
    *family = NULL;
    int rc = qn_gguf_str(g, "general.architecture", &arch, err);
    if (rc == QN_GGUF_ABSENT)
        return qn_err_param(err, QN_ERR_FORMAT, "general.architecture",
                            "metadata key 'general.architecture' is missing");
    if (rc < 0) return rc;
    bool moe;
    rc = has_experts(g, arch, &moe, err);
    if (rc < 0) return rc;
    *family = qn_family_by_gguf_arch(arch, moe);
    const char *but = moe ? " with experts" : qn_family_by_gguf_arch(arch, true) ? " without experts" : "";
    if (!*family)
        return qn_err_param(err, QN_ERR_UNSUPPORTED, "general.architecture",
                            "architecture '%s' is not supported%s (llama, qwen2, qwen3, gemma, gpt2, "
                            "starcoder are, and with experts llama, qwen2moe, qwen3moe, olmoe)",
                            qn_str_show(arch, shown), but);
    return QN_OK;
}

int qn_gguf_spec(const struct qn_gguf *g, struct qn_spec *spec, const struct qn_family **family,
                 struct qn_err *err) {
    *spec = (struct qn_spec){0};
    int rc = find_family(g, family, err);
    const struct qn_family *f = *family;
    if (!f) return rc;
    struct keys k = {.g = g, .arch = f->gguf_arch, .err = err};
    if ((rc = read_shape(&k, spec)) < 0) return rc;
    if (f->moe && (rc = read_experts(&k, f, &spec->ffn[0])) < 0) return rc;
    if ((rc = read_eps(&k, f, spec)) < 0) return rc;
    if ((rc = read_rope(&k, f, spec)) < 0) return rc;
    if ((rc = read_vocab(&k, f, spec)) < 0) return rc;
    qn_family_fill(f, spec);
    if ((rc = qn_family_set_ffn(f, f->act, spec, err)) < 0) return rc;
    return qn_spec_check(spec, err);
}
