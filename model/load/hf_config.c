/* Hyper-parameters from config.json. Absent keys get the defaults of the family's configuration class. */
#include "model/load/hf_config.h"

#include <inttypes.h>
#include <string.h>

#include "model/load/json.h"

static int need_u32(const json_t *c, const char *key, uint32_t *out, struct qn_err *err) {
    if (!qn_json_has(c, key))
        return qn_err_param(err, QN_ERR_FORMAT, key, "config.json: '%s' is missing", key);
    return qn_json_u32(c, key, out, err);
}

static int unsupported(struct qn_err *err, const char *key, const char *why) {
    return qn_err_param(err, QN_ERR_UNSUPPORTED, key, "config.json: %s", why);
}

static int find_family(const json_t *c, const struct qn_family **family, struct qn_err *err) {
    const char *type = NULL;
    char shown[64];
    int rc = qn_json_str(c, "model_type", &type, err);
    if (rc != QN_OK) return rc;
    if (!type) return qn_err_param(err, QN_ERR_FORMAT, "model_type", "config.json: 'model_type' is missing");
    *family = qn_family_by_hf_type(type);
    if (!*family)
        return qn_err_param(err, QN_ERR_UNSUPPORTED, "model_type",
                            "config.json: model type '%s' is not supported (llama, mistral, mixtral, qwen2, "
                            "qwen2_moe, qwen3, "
                            "qwen3_moe, olmoe, gemma, gpt2, gpt_bigcode are)",
                            qn_str_show((struct qn_str){type, strlen(type)}, shown));
    return QN_OK;
}

/* Features that change the arithmetic and that no flag of the table expresses. */
static int refuse_variants(const json_t *c, struct qn_err *err) {
    static const struct {
        const char *key;
        bool normal;
    } flags[] = {{"scale_attn_by_inverse_layer_idx", false},
                 {"scale_attn_weights", true},
                 {"mlp_bias", false},
                 {"add_cross_attention", false},
                 {"is_encoder_decoder", false}};
    if (qn_json_has(c, "quantization_config"))
        return unsupported(err, "quantization_config", "quantised safetensors are not supported");
    for (size_t i = 0; i < sizeof flags / sizeof *flags; i++) {
        bool v = flags[i].normal;
        int rc = qn_json_bool(c, flags[i].key, &v, err);
        if (rc != QN_OK) return rc;
        if (v != flags[i].normal)
            return qn_err_param(err, QN_ERR_UNSUPPORTED, flags[i].key,
                                "config.json: '%s': %s is not supported", flags[i].key, v ? "true" : "false");
    }
    return QN_OK;
}

static int read_shape(const json_t *c, struct qn_hf_model *m, struct qn_err *err) {
    const struct qn_config_keys *k = m->family->hf_keys;
    struct qn_spec *s = &m->spec;
    bool multi_query = m->family->one_kv_head;
    int rc;
    if ((rc = need_u32(c, "vocab_size", &s->vocab, err)) < 0) return rc;
    if ((rc = need_u32(c, k->d_model, &s->d_model, err)) < 0) return rc;
    if ((rc = need_u32(c, k->layers, &s->layers, err)) < 0) return rc;
    if ((rc = need_u32(c, k->heads, &s->heads, err)) < 0) return rc;
    if ((rc = need_u32(c, k->context, &s->context, err)) < 0) return rc;
    if (s->heads == 0 || s->heads > s->d_model)
        return unsupported(err, k->heads, "the head count is 0 or absurd");
    /* GPT-2's own default; a llama-like config always has the key. */
    if (s->d_model <= UINT32_MAX / 4) s->ffn[0].dim = m->family->gated ? 0 : 4 * s->d_model;
    rc = m->family->gated ? need_u32(c, k->ffn, &s->ffn[0].dim, err)
                          : qn_json_u32(c, k->ffn, &s->ffn[0].dim, err);
    if (rc < 0) return rc;
    s->attn[0].kv_heads = s->heads;
    if (k->kv_heads && (rc = qn_json_u32(c, k->kv_heads, &s->attn[0].kv_heads, err)) < 0) return rc;
    if (m->family->one_kv_head) {
        if ((rc = qn_json_bool(c, "multi_query", &multi_query, err)) < 0) return rc;
        if (multi_query) s->attn[0].kv_heads = 1;
        if (!multi_query) m->qkv = QN_QKV_FUSED_PER_HEAD;
    }
    s->head_dim = m->family->hf_head_dim ? m->family->hf_head_dim : s->d_model / s->heads;
    if ((rc = qn_json_u32(c, "head_dim", &s->head_dim, err)) < 0) return rc;
    s->norm_eps = m->family->hf_eps;
    return qn_json_f32(c, k->eps, &s->norm_eps, err);
}

/* Layers without experts between the others, and clipped activations. */
static int refuse_mixed(const json_t *c, struct qn_err *err) {
    uint32_t step = 1;
    const json_t *dense = json_object_get(c, "mlp_only_layers");
    int rc = qn_json_u32(c, "decoder_sparse_step", &step, err);
    if (rc != QN_OK) return rc;
    if (step != 1)
        return unsupported(err, "decoder_sparse_step",
                           "layers with and without experts in one model are not supported "
                           "('decoder_sparse_step' must be 1)");
    if (dense && !json_is_null(dense) && (!json_is_array(dense) || json_array_size(dense) > 0))
        return unsupported(err, "mlp_only_layers",
                           "layers with and without experts in one model are not supported "
                           "('mlp_only_layers' must be empty)");
    if (qn_json_has(c, "clip_qkv"))
        return unsupported(err, "clip_qkv", "clipped queries, keys and values are not supported");
    return QN_OK;
}

/* Mixtures of experts; num_local_experts and num_experts are two spellings of one thing. */
static int read_experts(const json_t *c, struct qn_hf_model *m, struct qn_err *err) {
    struct qn_ffn_member *f = &m->spec.ffn[0];
    bool norm = !m->family->hf_renorm_key && m->family->gating == QN_GATING_SOFTMAX_RENORM;
    const char *count = qn_json_has(c, "num_local_experts") ? "num_local_experts" : "num_experts";
    int rc = refuse_mixed(c, err);
    if (rc == QN_OK) rc = need_u32(c, count, &f->experts, err);
    if (rc == QN_OK) rc = need_u32(c, "num_experts_per_tok", &f->used, err);
    if (rc == QN_OK && m->family->hf_renorm_key) rc = qn_json_bool(c, "norm_topk_prob", &norm, err);
    if (rc != QN_OK) return rc;
    if (f->experts == 0) return unsupported(err, count, "a mixture without experts");
    f->gating = norm ? QN_GATING_SOFTMAX_RENORM : QN_GATING_SOFTMAX;
    if (!m->family->shared_expert) return QN_OK;
    f->shared_gate = true;
    if ((rc = need_u32(c, "shared_expert_intermediate_size", &f->shared_dim, err)) < 0) return rc;
    return f->shared_dim >= 8 ? QN_OK
                              : unsupported(err, "shared_expert_intermediate_size",
                                            "'shared_expert_intermediate_size' is below 8");
}

static int read_act(const json_t *c, struct qn_hf_model *m, struct qn_err *err) {
    static const struct {
        const char *name;
        enum qn_act_fn act;
    } acts[] = {{"silu", QN_ACT_SILU},
                {"swish", QN_ACT_SILU},
                {"gelu", QN_ACT_GELU_ERF},
                {"gelu_new", QN_ACT_GELU_TANH},
                {"gelu_fast", QN_ACT_GELU_TANH},
                {"gelu_pytorch_tanh", QN_ACT_GELU_TANH},
                {"relu", QN_ACT_RELU}};
    const char *name = NULL;
    char shown[64];
    int rc = qn_json_str(c, m->family->hf_keys->act, &name, err);
    if (rc != QN_OK) return rc;
    if (!name || m->family->act_fixed) return qn_family_set_ffn(m->family, m->family->act, &m->spec, err);
    for (size_t i = 0; i < sizeof acts / sizeof *acts; i++)
        if (strcmp(acts[i].name, name) == 0) return qn_family_set_ffn(m->family, acts[i].act, &m->spec, err);
    return qn_err_param(err, QN_ERR_UNSUPPORTED, m->family->hf_keys->act,
                        "config.json: activation '%s' is not supported",
                        qn_str_show((struct qn_str){name, strlen(name)}, shown));
}

static int read_scaling(const json_t *p, struct qn_spec *s, struct qn_err *err) {
    const char *type = "default";
    char shown[64];
    int rc;
    if ((rc = qn_json_str(p, "type", &type, err)) < 0) return rc;
    if ((rc = qn_json_str(p, "rope_type", &type, err)) < 0) return rc;
    if (strcmp(type, "default") == 0) return QN_OK;
    if (strcmp(type, "linear") == 0) {
        s->rope_scaling = QN_ROPE_LINEAR;
    } else if (strcmp(type, "llama3") == 0) {
        s->rope_scaling = QN_ROPE_LLAMA3;
    } else {
        return qn_err_param(err, QN_ERR_UNSUPPORTED, "rope_scaling",
                            "config.json: RoPE scaling '%s' is not supported",
                            qn_str_show((struct qn_str){type, strlen(type)}, shown));
    }
    if (!qn_json_has(p, "factor"))
        return qn_err_param(err, QN_ERR_FORMAT, "factor", "config.json: RoPE scaling without 'factor'");
    if ((rc = qn_json_f32(p, "factor", &s->rope_factor, err)) < 0) return rc;
    if (s->rope_scaling != QN_ROPE_LLAMA3) return QN_OK;
    if ((rc = qn_json_f32(p, "low_freq_factor", &s->rope_low_freq, err)) < 0) return rc;
    if ((rc = qn_json_f32(p, "high_freq_factor", &s->rope_high_freq, err)) < 0) return rc;
    s->rope_original_context = s->context;
    return qn_json_u32(p, "original_max_position_embeddings", &s->rope_original_context, err);
}

/* Newer files keep theta and scaling in rope_parameters, older ones in rope_theta and rope_scaling. */
static int read_rope(const json_t *c, struct qn_hf_model *m, struct qn_err *err) {
    struct qn_spec *s = &m->spec;
    float partial = 1.0f;
    if (m->family->pos != QN_POS_ROPE) return QN_OK;
    const json_t *p = json_object_get(c, "rope_parameters");
    if (!p || json_is_null(p)) p = json_object_get(c, "rope_scaling");
    if (json_is_null(p)) p = NULL;
    if (p && !json_is_object(p))
        return qn_err_param(err, QN_ERR_FORMAT, "rope_scaling", "config.json: RoPE scaling is not an object");
    s->rope_base = 10000.0f;
    int rc = qn_json_f32(c, "rope_theta", &s->rope_base, err);
    if (rc == QN_OK) rc = qn_json_f32(p, "rope_theta", &s->rope_base, err);
    if (rc == QN_OK) rc = qn_json_f32(c, "partial_rotary_factor", &partial, err);
    if (rc == QN_OK) rc = qn_json_f32(p, "partial_rotary_factor", &partial, err);
    if (rc != QN_OK) return rc;
    if (partial != 1.0f) return unsupported(err, "partial_rotary_factor", "partial RoPE is not supported");
    s->rope_dim = s->head_dim;
    return p ? read_scaling(p, s, err) : QN_OK;
}

/* layer_types of newer files: one kind for all layers, else no single window describes the model. */
static int uniform_layers(const json_t *c, bool *listed, bool *sliding, struct qn_err *err) {
    const json_t *list = json_object_get(c, "layer_types");
    size_t i;
    json_t *v;
    *listed = false;
    if (!list || json_is_null(list)) return QN_OK;
    if (!json_is_array(list)) return unsupported(err, "layer_types", "'layer_types' is not an array");
    json_array_foreach(list, i, v) {
        const char *kind = json_is_string(v) ? json_string_value(v) : "";
        bool slides = strcmp(kind, "sliding_attention") == 0;
        if (!slides && strcmp(kind, "full_attention") != 0)
            return unsupported(err, "layer_types", "a layer type other than full and sliding attention");
        if (i > 0 && slides != *sliding)
            return unsupported(err, "layer_types", "mixed full and sliding layers are not supported");
        *sliding = slides;
        *listed = true;
    }
    return QN_OK;
}

static int read_window(const json_t *c, struct qn_hf_model *m, struct qn_err *err) {
    struct qn_spec *s = &m->spec;
    uint32_t window = 0, from = 0;
    bool use = !m->family->hf_window_opt_in, listed, sliding = false;
    int rc = qn_json_u32(c, "sliding_window", &window, err);
    if (rc == QN_OK) rc = qn_json_bool(c, "use_sliding_window", &use, err);
    if (rc == QN_OK) rc = qn_json_u32(c, "max_window_layers", &from, err);
    if (rc == QN_OK) rc = uniform_layers(c, &listed, &sliding, err);
    if (rc != QN_OK) return rc;
    if (!use || window == 0 || window >= s->context) return QN_OK;
    if (listed) {
        s->window = sliding ? window : 0;
        return QN_OK;
    }
    /* Layers before max_window_layers see everything. */
    if (from >= s->layers) return QN_OK;
    if (from > 0)
        return unsupported(err, "max_window_layers", "mixed full and sliding layers are not supported");
    s->window = window;
    return QN_OK;
}

int qn_hf_config(const json_t *c, const struct qn_tensor_dir *dir, struct qn_hf_model *m,
                 struct qn_err *err) {
    *m = (struct qn_hf_model){0};
    int rc = find_family(c, &m->family, err);
    if (rc != QN_OK) return rc;
    m->qkv = m->family->hf_qkv;
    if ((rc = refuse_variants(c, err)) < 0) return rc;
    if ((rc = read_shape(c, m, err)) < 0) return rc;
    if (m->family->moe && (rc = read_experts(c, m, err)) < 0) return rc;
    if ((rc = read_act(c, m, err)) < 0) return rc;
    if ((rc = read_rope(c, m, err)) < 0) return rc;
    if ((rc = read_window(c, m, err)) < 0) return rc;
    m->spec.tied = dir && !qn_tensor_dir_find(dir, "lm_head.weight");
    if ((rc = qn_json_bool(c, "tie_word_embeddings", &m->spec.tied, err)) < 0) return rc;
    qn_family_fill(m->family, &m->spec);
    return qn_spec_check(&m->spec, err);
}
