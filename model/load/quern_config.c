/* Hyper-parameters and members of a quern checkpoint. Keys of a member that are not known here are refused:
 * they would change its arithmetic. */
#include "model/load/quern_config.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "model/attention/attention.h"
#include "model/ffn/ffn.h"
#include "model/load/json.h"
#include "model/load/tensors.h"
#include "model/sharing.h"

#define MEMBER_NAME 16

bool qn_quern_is(const json_t *config) {
    const json_t *type = json_object_get(config, "model_type");
    return json_is_string(type) && strcmp(json_string_value(type), QN_QUERN_MODEL_TYPE) == 0;
}

/* "config.json: attention 'mqa' has no heads", or "config.json: 'attention' has no members" without a name.
 */
static int fault(struct qn_err *err, int code, const char *key, const char *name, const char *why) {
    char shown[64];
    qn_str_show((struct qn_str){name, strlen(name)}, shown);
    if (!shown[0]) return qn_err_param(err, code, key, "config.json: '%s' %s", key, why);
    return qn_err_param(err, code, key, "config.json: %s '%s' %s", key, shown, why);
}

static int need_u32(const json_t *c, const char *key, uint32_t *out, struct qn_err *err) {
    if (!qn_json_has(c, key)) return fault(err, QN_ERR_FORMAT, key, "", "is missing");
    return qn_json_u32(c, key, out, err);
}

/* Every key of o must be in the list (NULL-terminated). */
static int only_keys(const json_t *o, const char *slot, const char *name, const char *const *known,
                     struct qn_err *err) {
    const char *key;
    json_t *v;
    char shown[64], why[120];
    json_object_foreach((json_t *)(uintptr_t)o, key, v) {
        size_t i = 0;
        while (known[i] && strcmp(known[i], key) != 0) i++;
        if (known[i]) continue;
        snprintf(why, sizeof why, "has an unknown key '%s'",
                 qn_str_show((struct qn_str){key, strlen(key)}, shown));
        return fault(err, QN_ERR_UNSUPPORTED, slot, name, why);
    }
    return QN_OK;
}

/* ---- the body ---- */

/* Keys of other families that would change the arithmetic. */
static int refuse_variants(const json_t *c, struct qn_err *err) {
    static const char *const keys[] = {"sliding_window", "rope_scaling", "rope_parameters",
                                       "partial_rotary_factor", "quantization_config"};
    for (size_t i = 0; i < sizeof keys / sizeof *keys; i++)
        if (qn_json_has(c, keys[i])) return fault(err, QN_ERR_UNSUPPORTED, keys[i], "", "is not supported");
    return QN_OK;
}

static int read_body(const json_t *c, struct qn_spec *s, struct qn_err *err) {
    int rc;
    if ((rc = need_u32(c, "vocab_size", &s->vocab, err)) < 0) return rc;
    if ((rc = need_u32(c, "hidden_size", &s->d_model, err)) < 0) return rc;
    if ((rc = need_u32(c, "num_hidden_layers", &s->layers, err)) < 0) return rc;
    if ((rc = need_u32(c, "num_attention_heads", &s->heads, err)) < 0) return rc;
    if ((rc = need_u32(c, "max_position_embeddings", &s->context, err)) < 0) return rc;
    if (s->heads == 0 || s->heads > QN_HEADS_MAX)
        return fault(err, QN_ERR_UNSUPPORTED, "num_attention_heads", "", "is not 1 to 1024");
    if (s->layers == 0 || s->layers > QN_LAYERS_MAX)
        return fault(err, QN_ERR_UNSUPPORTED, "num_hidden_layers", "", "is not 1 to 1024");
    s->head_dim = s->d_model / s->heads;
    if ((rc = qn_json_u32(c, "head_dim", &s->head_dim, err)) < 0) return rc;
    if ((rc = qn_json_u32(c, "embedding_lags", &s->embed_lags, err)) < 0) return rc;
    if ((rc = qn_json_u32(c, "embedding_size", &s->d_embed, err)) < 0) return rc;
    if (qn_json_has(c, "embedding_size") && s->d_embed == 0)
        return fault(err, QN_ERR_UNSUPPORTED, "embedding_size", "", "is 0");
    s->norm_eps = 1e-5f;
    if ((rc = qn_json_f32(c, "rms_norm_eps", &s->norm_eps, err)) < 0) return rc;
    s->rope_base = 10000.0f;
    if ((rc = qn_json_f32(c, "rope_theta", &s->rope_base, err)) < 0) return rc;
    s->tied = true;
    if ((rc = qn_json_bool(c, "tie_word_embeddings", &s->tied, err)) < 0) return rc;
    snprintf(s->family, sizeof s->family, "quern");
    s->norm = QN_NORM_RMS;
    s->pos = QN_POS_ROPE;
    s->rope_dim = s->head_dim;
    s->embed_scale = 1;
    return QN_OK;
}

/* ---- members ---- */

/* An object of objects, or an array of names, with 1 to QN_MEMBERS entries. */
static int count_members(const json_t *list, bool array, const char *slot, uint32_t *n, struct qn_err *err) {
    size_t k = array ? json_array_size(list) : json_object_size(list);
    if (array ? !json_is_array(list) : !json_is_object(list))
        return fault(err, QN_ERR_FORMAT, slot, "", array ? "is not an array" : "is not an object");
    if (k < 1 || k > QN_MEMBERS)
        return fault(err, QN_ERR_UNSUPPORTED, slot, "", "does not have 1 to 8 members");
    *n = (uint32_t)k;
    return QN_OK;
}

static int set_name(char dst[MEMBER_NAME], const char *slot, const char *name, struct qn_err *err) {
    if (strlen(name) >= MEMBER_NAME || !name[0])
        return fault(err, QN_ERR_UNSUPPORTED, slot, name, "is not a known structure");
    snprintf(dst, MEMBER_NAME, "%s", name);
    return QN_OK;
}

static int read_attention(const json_t *o, const char *name, struct qn_spec *s, struct qn_attn_member *m,
                          struct qn_err *err) {
    static const char *const known[] = {"kv_heads", "rope", "k", "features", "kernel", NULL};
    const char *kernel = "favor+";
    bool rope = true;
    int rc;
    if (!json_is_object(o)) return fault(err, QN_ERR_FORMAT, "attention", name, "is not an object");
    if ((rc = only_keys(o, "attention", name, known, err)) < 0) return rc;
    m->kv_heads = s->heads;
    if ((rc = qn_json_u32(o, "kv_heads", &m->kv_heads, err)) < 0) return rc;
    if ((rc = qn_json_u32(o, "k", &m->slots, err)) < 0) return rc;
    if ((rc = qn_json_u32(o, "features", &m->features, err)) < 0) return rc;
    if ((rc = qn_json_bool(o, "rope", &rope, err)) < 0) return rc;
    if ((rc = qn_json_str(o, "kernel", &kernel, err)) < 0) return rc;
    m->no_rope = !rope;
    m->relu = strcmp(kernel, "relu") == 0;
    if (!m->relu && strcmp(kernel, "favor+") != 0)
        return fault(err, QN_ERR_UNSUPPORTED, "attention", name,
                     "has a 'kernel' that is neither favor+ nor relu");
    return set_name(m->type, "attention", name, err);
}

static int activation(const json_t *o, const char *name, const struct qn_ffn_ops *ops, enum qn_act_fn *act,
                      struct qn_err *err) {
    static const struct {
        const char *name;
        enum qn_act_fn act;
    } acts[] = {{"gelu", QN_ACT_GELU_ERF},   {"gelu_pytorch_tanh", QN_ACT_GELU_TANH},
                {"silu", QN_ACT_SILU},       {"relu", QN_ACT_RELU},
                {"sigmoid", QN_ACT_SIGMOID}, {"identity", QN_ACT_IDENTITY}};
    bool gelu = ops->act == QN_ACT_GELU_ERF || ops->act == QN_ACT_GELU_TANH;
    const char *word = NULL;
    int rc = qn_json_str(o, "activation", &word, err);
    if (rc < 0) return rc;
    /* "gelu" alone is the exact form, as everywhere in config.json. */
    *act = gelu ? QN_ACT_GELU_ERF : ops->act;
    for (size_t i = 0; word && i < sizeof acts / sizeof *acts; i++) {
        bool fits = acts[i].act == ops->act ||
                    (gelu && acts[i].act <= QN_ACT_GELU_TANH && acts[i].act >= QN_ACT_GELU_ERF);
        if (strcmp(word, acts[i].name) != 0 || !fits) continue;
        *act = acts[i].act;
        return QN_OK;
    }
    return word ? fault(err, QN_ERR_UNSUPPORTED, "ffn", name, "has an 'activation' that does not go with it")
                : QN_OK;
}

/* How the router's logits become weights; what only gating D has is refused beside another one, which would
 * leave it out. */
static int read_gating(const json_t *o, const char *name, struct qn_ffn_member *m, struct qn_err *err) {
    static const char *const of_d[] = {"route_scale", "groups", "top_groups"};
    const char *gating = "B";
    char why[80];
    int rc = qn_json_str(o, "gating", &gating, err);
    if (rc < 0) return rc;
    m->gating = qn_gating_find(gating);
    if (m->gating == QN_GATING_NONE)
        return fault(err, QN_ERR_UNSUPPORTED, "ffn", name, "has a 'gating' that is not A, B, C or D");
    for (size_t i = 0; i < sizeof of_d / sizeof *of_d && m->gating != QN_GATING_SIGMOID; i++) {
        if (!qn_json_has(o, of_d[i])) continue;
        snprintf(why, sizeof why, "has '%s', which goes with gating D alone", of_d[i]);
        return fault(err, QN_ERR_UNSUPPORTED, "ffn", name, why);
    }
    if ((rc = qn_json_u32(o, "groups", &m->groups, err)) < 0) return rc;
    if ((rc = qn_json_u32(o, "top_groups", &m->top_groups, err)) < 0) return rc;
    if (!qn_json_has(o, "route_scale")) return QN_OK;
    if ((rc = qn_json_f32(o, "route_scale", &m->route_scale, err)) < 0) return rc;
    /* 0 stands for 1 inside, so that no other family has to say it */
    return m->route_scale > 0
               ? QN_OK
               : fault(err, QN_ERR_UNSUPPORTED, "ffn", name, "has a 'route_scale' not above 0");
}

static int read_shared_expert(const json_t *o, const char *name, struct qn_ffn_member *m,
                              struct qn_err *err) {
    int rc = qn_json_u32(o, "shared_intermediate_size", &m->shared_dim, err);
    if (rc == QN_OK) rc = qn_json_bool(o, "shared_gate", &m->shared_gate, err);
    if (rc == QN_OK && m->shared_gate && m->shared_dim == 0)
        rc = fault(err, QN_ERR_FORMAT, "ffn", name, "has a 'shared_gate' without 'shared_intermediate_size'");
    return rc;
}

static int read_experts(const json_t *o, const char *name, struct qn_spec *s, struct qn_ffn_member *m,
                        struct qn_err *err) {
    const char *expert = NULL;
    int rc;
    if ((rc = need_u32(o, "num_experts_per_tok", &m->used, err)) < 0) return rc;
    if ((rc = qn_json_str(o, "expert", &expert, err)) < 0) return rc;
    if ((rc = read_gating(o, name, m, err)) < 0) return rc;
    if ((rc = read_shared_expert(o, name, m, err)) < 0) return rc;
    if (!expert) return fault(err, QN_ERR_FORMAT, "ffn", name, "lacks 'expert'");
    const struct qn_ffn_ops *ops = expert[0] ? qn_ffn_find(s, expert) : NULL;
    if (!ops)
        return fault(err, QN_ERR_UNSUPPORTED, "ffn", name, "has an 'expert' that is not a known structure");
    if ((rc = set_name(m->expert, "ffn", expert, err)) < 0) return rc;
    return activation(o, name, ops, &m->act, err);
}

static int read_ffn(const json_t *o, const char *name, struct qn_spec *s, struct qn_ffn_member *m,
                    struct qn_err *err) {
    static const char *const dense[] = {"intermediate_size", "activation", NULL};
    static const char *const mixture[] = {"intermediate_size",
                                          "activation",
                                          "expert",
                                          "num_experts",
                                          "num_experts_per_tok",
                                          "gating",
                                          "groups",
                                          "top_groups",
                                          "route_scale",
                                          "shared_intermediate_size",
                                          "shared_gate",
                                          NULL};
    int rc;
    if (!json_is_object(o)) return fault(err, QN_ERR_FORMAT, "ffn", name, "is not an object");
    bool mixed = qn_json_has(o, "num_experts");
    if ((rc = only_keys(o, "ffn", name, mixed ? mixture : dense, err)) < 0) return rc;
    if ((rc = need_u32(o, "intermediate_size", &m->dim, err)) < 0) return rc;
    if ((rc = qn_json_u32(o, "num_experts", &m->experts, err)) < 0) return rc;
    if ((rc = set_name(m->type, "ffn", name, err)) < 0) return rc;
    if (mixed && m->experts == 0) return fault(err, QN_ERR_FORMAT, "ffn", name, "has 0 experts");
    if (mixed) return read_experts(o, name, s, m, err);
    const struct qn_ffn_ops *ops = qn_ffn_find(s, name);
    return ops ? activation(o, name, ops, &m->act, err) : QN_OK;
}

static int read_members(const json_t *c, struct qn_spec *s, struct qn_err *err) {
    json_t *list = json_object_get(c, "attention"), *v;
    const char *name;
    size_t i = 0;
    int rc = count_members(list, false, "attention", &s->n_attn, err);
    if (rc < 0) return rc;
    json_object_foreach(list, name, v) {
        if ((rc = read_attention(v, name, s, &s->attn[i++], err)) < 0) return rc;
    }
    list = json_object_get(c, "ffn");
    if ((rc = count_members(list, false, "ffn", &s->n_ffn, err)) < 0) return rc;
    i = 0;
    json_object_foreach(list, name, v) {
        if ((rc = read_ffn(v, name, s, &s->ffn[i++], err)) < 0) return rc;
    }
    return QN_OK;
}

/* Ways of sharing: one block for each layer ("layers.N"), one for all ("shared"), or both, in that order. */
static int read_sharing(const json_t *c, struct qn_spec *s, struct qn_err *err) {
    const json_t *list = json_object_get(c, "sharing");
    bool seen[2] = {false, false};
    size_t i;
    json_t *v;
    int rc = count_members(list, true, "sharing", &s->n_share, err);
    if (rc < 0) return rc;
    json_array_foreach(list, i, v) {
        const char *name = json_is_string(v) ? json_string_value(v) : "";
        bool all = strcmp(name, "all") == 0;
        if ((!all && strcmp(name, "none") != 0) || seen[all])
            return fault(err, QN_ERR_UNSUPPORTED, "sharing", name, "is not none or all, each at most once");
        seen[all] = true;
        uint32_t n = all ? 1 : s->layers;
        s->share[i] = (struct qn_share_member){.attn_blocks = n, .ffn_blocks = n};
        if ((rc = set_name(s->share[i].type, "sharing", name, err)) < 0) return rc;
    }
    s->attn_blocks = s->ffn_blocks = (seen[0] ? s->layers : 0) + (seen[1] ? 1 : 0);
    for (i = 0; i < s->n_share; i++) {
        bool all = strcmp(s->share[i].type, "all") == 0;
        s->share[i].attn_first = s->share[i].ffn_first = all && seen[0] ? s->layers : 0;
    }
    return QN_OK;
}

void qn_quern_block_name(const struct qn_spec *s, uint32_t b, char out[QN_QUERN_BLOCK_NAME]) {
    for (uint32_t i = 0; i < s->n_share; i++) {
        if (strcmp(s->share[i].type, "all") != 0 || s->share[i].attn_first != b) continue;
        snprintf(out, QN_QUERN_BLOCK_NAME, "model.shared");
        return;
    }
    snprintf(out, QN_QUERN_BLOCK_NAME, "model.layers.%" PRIu32, b);
}

/* Each member must be what a kind of the registries calls its own, under its name. */
static int check_members(const struct qn_spec *s, struct qn_err *err) {
    static const struct qn_part any = {0};
    for (uint32_t i = 0; i < s->n_attn; i++) {
        const struct qn_attention_ops *ops = qn_attention_find(s, s->attn[i].type);
        struct qn_attention a;
        if (!ops)
            return fault(err, QN_ERR_UNSUPPORTED, "attention", s->attn[i].type, "is not a known structure");
        if (ops->resolve(s, i, &any, &a, NULL) != QN_OK || a.choice.origin != QN_ORIGIN_NATIVE ||
            a.choice.exactness != QN_EXACT || strcmp(a.choice.part.type, s->attn[i].type) != 0)
            return fault(err, QN_ERR_UNSUPPORTED, "attention", s->attn[i].type,
                         "has numbers that are not those of such a structure");
    }
    for (uint32_t i = 0; i < s->n_ffn; i++) {
        const struct qn_ffn_ops *ops = qn_ffn_find(s, s->ffn[i].type);
        struct qn_ffn f;
        if (!ops) return fault(err, QN_ERR_UNSUPPORTED, "ffn", s->ffn[i].type, "is not a known structure");
        /* A kind without a network of its own is a mixture: it has experts, and nothing else has. */
        if ((ops->net == NULL) != (s->ffn[i].experts > 0))
            return fault(err, QN_ERR_UNSUPPORTED, "ffn", s->ffn[i].type,
                         ops->net ? "is not a mixture, but has 'num_experts'" : "lacks 'num_experts'");
        if (ops->resolve(ops, s, i, &any, &f, NULL) != QN_OK || f.choice.origin != QN_ORIGIN_NATIVE ||
            f.choice.exactness != QN_EXACT)
            return fault(err, QN_ERR_UNSUPPORTED, "ffn", s->ffn[i].type,
                         "has numbers that are not those of such a structure");
    }
    return QN_OK;
}

int qn_quern_config(const json_t *c, struct qn_spec *spec, struct qn_err *err) {
    *spec = (struct qn_spec){0};
    int rc = refuse_variants(c, err);
    if (rc == QN_OK) rc = read_body(c, spec, err);
    if (rc == QN_OK) rc = read_members(c, spec, err);
    if (rc == QN_OK) rc = read_sharing(c, spec, err);
    if (rc == QN_OK) rc = qn_spec_check(spec, err);
    return rc == QN_OK ? check_members(spec, err) : rc;
}

/* ---- held-out figures ---- */

static int read_row(const json_t *o, const struct qn_spec *s, struct qn_held_out *row, struct qn_err *err) {
    const char *a = "", *f = "", *sh = "";
    bool there[3] = {false, false, false};
    int rc;
    if (!json_is_object(o))
        return fault(err, QN_ERR_FORMAT, "held_out", "", "has a row that is not an object");
    if ((rc = qn_json_str(o, "attention", &a, err)) < 0) return rc;
    if ((rc = qn_json_str(o, "ffn", &f, err)) < 0) return rc;
    if ((rc = qn_json_str(o, "sharing", &sh, err)) < 0) return rc;
    for (uint32_t i = 0; i < s->n_attn; i++) there[0] = there[0] || strcmp(s->attn[i].type, a) == 0;
    for (uint32_t i = 0; i < s->n_ffn; i++) there[1] = there[1] || strcmp(s->ffn[i].type, f) == 0;
    for (uint32_t i = 0; i < s->n_share; i++) there[2] = there[2] || strcmp(s->share[i].type, sh) == 0;
    if (!there[0] || !there[1] || !there[2])
        return fault(err, QN_ERR_FORMAT, "held_out", "", "has a row that names no member");
    row->nats_per_byte = json_number_value(json_object_get(o, "nats_per_byte"));
    row->bits_per_byte = json_number_value(json_object_get(o, "bits_per_byte"));
    /* The comparison is false for NaN too. */
    if (!(row->nats_per_byte > 0 && row->nats_per_byte < 1000 && row->bits_per_byte > 0 &&
          row->bits_per_byte < 1000))
        return fault(err, QN_ERR_FORMAT, "held_out", "", "has a row whose figures are not above 0");
    snprintf(row->attention, sizeof row->attention, "%s", a);
    snprintf(row->ffn, sizeof row->ffn, "%s", f);
    snprintf(row->sharing, sizeof row->sharing, "%s", sh);
    return QN_OK;
}

int qn_quern_held_out(const json_t *config, struct qn_checkpoint *c, struct qn_err *err) {
    const json_t *list = json_object_get(config, "held_out");
    size_t i, n = json_array_size(list);
    json_t *v;
    if (!list || json_is_null(list) || (json_is_array(list) && n == 0)) return QN_OK;
    if (!json_is_array(list) || n > QN_HELD_OUT_MAX)
        return fault(err, QN_ERR_FORMAT, "held_out", "", "is not an array of at most 512 rows");
    c->held_out = calloc(n, sizeof *c->held_out);
    if (!c->held_out) return qn_err_set(err, QN_ERR_NOMEM, "out of memory for the held-out figures");
    json_array_foreach(list, i, v) {
        int rc = read_row(v, &c->spec, &c->held_out[i], err);
        if (rc < 0) return rc;
        c->n_held_out = (uint32_t)i + 1;
    }
    return QN_OK;
}
