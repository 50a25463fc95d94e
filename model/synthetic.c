/* Descriptions of synthetic models: keys and values -> spec. Which shape of weights a structure's name stands
 * for is not known here: candidates are tried until the kind itself calls one native. Thread: one loader. */
#include "model/synthetic.h"

#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "model/attention/attention.h"
#include "model/ffn/ffn.h"
#include "model/sharing.h"

#define WORD 24

/* What the description says; 0 and "" where it says nothing. */
struct ask {
    uint32_t hidden, layers, heads, kv_heads, head_dim, vocab, n, k, features, experts, experts_per_token,
        embedding, ffn_dim, shared_dim, groups, route_groups, top_groups, lags, window, tied, per_head, rope,
        shared_gate;
    uint64_t seed;
    double rope_base, route_scale;
    char attention[WORD], ffn[WORD], expert[WORD], gating[WORD], sharing[WORD], norm[WORD], pos[WORD],
        kernel[WORD], type[WORD], name[WORD];
};

enum kind { UINT, SEED, FLAG, REAL, TEXT };
#define FIELD(key, kind, min, max)                                                                           \
    { #key, offsetof(struct ask, key), kind, min, max }
static const struct key {
    const char *name;
    size_t at;
    enum kind kind;
    uint32_t min, max;
} keys[] = {
    FIELD(hidden, UINT, 8, 65536),
    FIELD(layers, UINT, 1, QN_LAYERS_MAX),
    FIELD(heads, UINT, 1, QN_HEADS_MAX),
    FIELD(kv_heads, UINT, 1, QN_HEADS_MAX),
    FIELD(head_dim, UINT, 8, 512),
    FIELD(embedding, UINT, 8, 65536),
    FIELD(vocab, UINT, 2, 2097152),
    FIELD(n, UINT, 1, 16777216),
    FIELD(k, UINT, 1, QN_SLOTS_MAX),
    FIELD(features, UINT, 1, QN_FEATURES_MAX),
    FIELD(experts, UINT, 1, QN_EXPERTS_MAX),
    FIELD(experts_per_token, UINT, 1, QN_EXPERTS_MAX),
    FIELD(ffn_dim, UINT, 8, QN_FFN_DIM_MAX),
    FIELD(shared_dim, UINT, 8, QN_FFN_DIM_MAX),
    FIELD(groups, UINT, 1, QN_LAYERS_MAX),
    FIELD(route_groups, UINT, 1, QN_EXPERTS_MAX),
    FIELD(top_groups, UINT, 1, QN_EXPERTS_MAX),
    FIELD(lags, UINT, 0, QN_LAGS_MAX),
    FIELD(window, UINT, 1, 16777216),
    FIELD(tied, FLAG, 0, 1),
    FIELD(per_head, FLAG, 0, 1),
    FIELD(rope, FLAG, 0, 1),
    FIELD(shared_gate, FLAG, 0, 1),
    FIELD(seed, SEED, 0, 0),
    FIELD(rope_base, REAL, 1, 0),
    FIELD(route_scale, REAL, 0, 0),
    FIELD(attention, TEXT, 0, 0),
    FIELD(ffn, TEXT, 0, 0),
    FIELD(expert, TEXT, 0, 0),
    FIELD(gating, TEXT, 0, 0),
    FIELD(sharing, TEXT, 0, 0),
    FIELD(norm, TEXT, 0, 0),
    FIELD(pos, TEXT, 0, 0),
    FIELD(kernel, TEXT, 0, 0),
    FIELD(type, TEXT, 0, 0),
    FIELD(name, TEXT, 0, 0),
};
#define N_KEYS (sizeof keys / sizeof *keys)

__attribute__((format(printf, 2, 3))) static int bad(struct qn_err *err, const char *fmt, ...) {
    char text[400];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(text, sizeof text, fmt, ap);
    va_end(ap);
    return qn_err_param(err, QN_ERR_INVALID, "model", "synthetic model: %s", text);
}

/* ---- keys ---- */

/* Edits that turn a into b, at most 31 characters of each. */
static unsigned distance(const char *a, const char *b) {
    unsigned row[33];
    size_t la = strnlen(a, 32), lb = strnlen(b, 32);
    for (unsigned j = 0; j <= lb; j++) row[j] = j;
    for (size_t i = 1; i <= la; i++) {
        unsigned diagonal = row[0];
        row[0] = (unsigned)i;
        for (size_t j = 1; j <= lb; j++) {
            unsigned best = diagonal + (a[i - 1] != b[j - 1]);
            diagonal = row[j];
            if (row[j] + 1 < best) best = row[j] + 1;
            if (row[j - 1] + 1 < best) best = row[j - 1] + 1;
            row[j] = best;
        }
    }
    return row[lb];
}

static int unknown_key(const char *key, struct qn_err *err) {
    const char *nearest = keys[0].name;
    for (size_t i = 1; i < N_KEYS; i++)
        if (distance(key, keys[i].name) < distance(key, nearest)) nearest = keys[i].name;
    return bad(err, "there is no key \"%s\" (nearest: \"%s\")", key, nearest);
}

static bool whole_number(const char *text, uint64_t max, uint64_t *out) {
    uint64_t v = 0;
    if (!text[0] || strlen(text) > 20) return false;
    for (const char *p = text; *p; p++) {
        if (*p < '0' || *p > '9' || v > (max - (uint64_t)(*p - '0')) / 10) return false;
        v = v * 10 + (uint64_t)(*p - '0');
    }
    *out = v;
    return true;
}

static int set_word(char *dst, const struct key *k, const char *value, struct qn_err *err) {
    size_t n = strlen(value);
    if (n == 0 || n >= WORD ||
        strspn(value, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
                      "0123456789_.+-") != n)
        return bad(err, "\"%s\" is not a word of 1 to %d letters, digits or _.+-", k->name, WORD - 1);
    memcpy(dst, value, n + 1);
    return QN_OK;
}

static int set_value(struct ask *a, const struct key *k, const char *value, struct qn_err *err) {
    void *at = (char *)a + k->at;
    uint64_t v = 0;
    char *end;
    if (k->kind == TEXT) return set_word(at, k, value, err);
    if (k->kind == REAL) {
        double r = strtod(value, &end);
        if (end == value || *end || !(r > (double)k->min && r < 1e12))
            return bad(err, "\"%s\" must be a number above %" PRIu32, k->name, k->min);
        memcpy(at, &r, sizeof r);
        return QN_OK;
    }
    if (k->kind == FLAG) {
        if (strcmp(value, "true") != 0 && strcmp(value, "false") != 0)
            return bad(err, "\"%s\" must be true or false", k->name);
        v = value[0] == 't';
    } else if (!whole_number(value, k->kind == SEED ? UINT64_MAX : k->max, &v) ||
               (k->kind == UINT && v < k->min)) {
        return bad(err, "\"%s\" must be an integer from %" PRIu32 " to %" PRIu64 ", not \"%.40s\"", k->name,
                   k->min, k->kind == SEED ? UINT64_MAX : (uint64_t)k->max, value);
    }
    if (k->kind == SEED) {
        a->seed = v;
        return QN_OK;
    }
    uint32_t u = (uint32_t)v;
    memcpy(at, &u, sizeof u);
    return QN_OK;
}

/* One "key=value"; `seen` marks keys that have been set. */
static int read_pair(struct ask *a, char *pair, bool *seen, struct qn_err *err) {
    char *value = strchr(pair, '=');
    if (!value) return bad(err, "\"%.60s\" is not key=value", pair);
    *value++ = 0;
    for (size_t i = 0; i < N_KEYS; i++) {
        if (strcmp(pair, keys[i].name) != 0) continue;
        if (seen[i]) return bad(err, "\"%s\" is given twice", pair);
        seen[i] = true;
        return set_value(a, &keys[i], value, err);
    }
    pair[strnlen(pair, 40)] = 0;
    return unknown_key(pair, err);
}

static int read_pairs(struct ask *a, const char *text, struct qn_err *err) {
    char pair[128];
    bool seen[N_KEYS] = {false};
    while (*text) {
        size_t n = strcspn(text, ",");
        if (n >= sizeof pair) return bad(err, "\"%.40s…\" is too long", text);
        memcpy(pair, text, n);
        pair[n] = 0;
        int rc = read_pair(a, pair, seen, err);
        if (rc != QN_OK) return rc;
        text += n;
        if (*text == ',') text++;
    }
    return QN_OK;
}

/* ---- shapes ---- */

static uint32_t either(uint32_t given, uint32_t otherwise) {
    return given ? given : otherwise;
}

/* 0 for a, 1 for b, -1 for anything else; "" is a. */
static int one_of(const char *word, const char *a, const char *b) {
    if (!word[0] || strcmp(word, a) == 0) return 0;
    return strcmp(word, b) == 0 ? 1 : -1;
}

static int set_body(const struct ask *a, struct qn_synthetic *out, struct qn_err *err) {
    struct qn_spec *s = &out->spec;
    int norm = one_of(a->norm, "rms", "layer"), pos = one_of(a->pos, "rope", "learned");
    if (norm < 0) return bad(err, "\"norm\" must be rms or layer");
    if (pos < 0) return bad(err, "\"pos\" must be rope or learned");
    if (a->embedding > a->hidden) return bad(err, "\"embedding\" must be at most \"hidden\"");
    snprintf(s->family, sizeof s->family, "synthetic");
    s->layers = a->layers;
    s->d_model = a->hidden;
    s->d_embed = a->embedding;
    s->heads = either(a->heads, a->hidden < 128 ? 1 : a->hidden / 64);
    s->head_dim = either(a->head_dim, s->d_model / s->heads);
    s->vocab = a->vocab;
    s->context = a->n;
    s->window = a->window;
    s->norm = norm ? QN_NORM_LAYER : QN_NORM_RMS;
    s->norm_eps = 1e-5f;
    s->pos = pos ? QN_POS_LEARNED : QN_POS_ROPE;
    s->rope_dim = pos ? 0 : s->head_dim;
    s->rope_base = (float)a->rope_base;
    s->tied = a->tied;
    s->embed_scale = 1;
    s->embed_lags = a->lags;
    for (int t = 0; t < QN_TYPE_COUNT; t++) {
        out->type = (enum qn_type)t;
        if (strcasecmp(a->type, qn_type_name(out->type)) == 0) return QN_OK;
    }
    return bad(err,
               "\"type\" %s is not known (f32, f16, bf16, q8_0, q4_0, q4_1, q5_0, q5_1, q4_k, q5_k, q6_k)",
               a->type);
}

/* "mha, gqa, …" */
#define LIST_NAMES(registry, text)                                                                           \
    do {                                                                                                     \
        size_t at_ = 0;                                                                                      \
        for (size_t i_ = 0; (registry)[i_] && at_ < sizeof(text); i_++)                                      \
            at_ += (size_t)snprintf((text) + at_, sizeof(text) - at_, "%s%s", i_ ? ", " : "",                \
                                    (registry)[i_]->name);                                                   \
    } while (0)

/* Whether the kind takes the spec's only attention member for its own. */
static bool is_native_attention(const struct qn_attention_ops *ops, const struct qn_spec *s) {
    static const struct qn_part any = {0};
    struct qn_attention a;
    return ops->resolve(s, 0, &any, &a, NULL) == QN_OK && a.choice.origin == QN_ORIGIN_NATIVE &&
           a.choice.exactness == QN_EXACT && strcmp(a.choice.part.type, ops->name) == 0;
}

/* The smallest divisor of heads that is at least a quarter of them, and not 1 if that can be. */
static uint32_t quarter(uint32_t heads) {
    uint32_t g = heads > 8 ? (heads + 3) / 4 : heads > 1 ? 2 : 1;
    while (heads % g != 0) g++;
    return g;
}

static int set_attention(const struct ask *a, struct qn_synthetic *out, struct qn_err *err) {
    struct qn_spec *s = &out->spec;
    struct qn_attn_member *m = &s->attn[0];
    const struct qn_attention_ops *ops = qn_attention_find(s, a->attention);
    uint32_t counts[] = {s->heads, quarter(s->heads), 1};
    const uint32_t shapes[][2] = {{0, 0}, {a->k, 0}, {0, a->features}};
    char names[200];
    if (!ops) {
        LIST_NAMES(qn_attention_registry, names);
        return bad(err, "attention \"%s\" is not known (%s)", a->attention, names);
    }
    if (a->kv_heads) counts[0] = counts[1] = counts[2] = a->kv_heads;
    if (s->heads % counts[0] != 0)
        return bad(err, "\"kv_heads\" (%" PRIu32 ") does not divide the %" PRIu32 " heads", counts[0],
                   s->heads);
    snprintf(m->type, sizeof m->type, "%s", ops->name);
    s->n_attn = 1;
    m->no_rope = !a->rope;
    m->relu = strcmp(a->kernel, "relu") == 0;
    if (one_of(a->kernel, "favor+", "relu") < 0) return bad(err, "\"kernel\" must be favor+ or relu");
    for (size_t i = 0; i < 9; i++) {
        m->slots = shapes[i / 3][0];
        m->features = shapes[i / 3][1];
        m->kv_heads = counts[i % 3];
        out->proj_heads = a->per_head ? m->kv_heads : 1;
        if (is_native_attention(ops, s)) return QN_OK;
    }
    return bad(err, "attention \"%s\" does not fit %" PRIu32 " heads and %" PRIu32 " KV heads", ops->name,
               s->heads, m->kv_heads);
}

static bool is_native_ffn(const struct qn_ffn_ops *ops, const struct qn_spec *s, char *why) {
    static const struct qn_part any = {0};
    struct qn_ffn f;
    struct qn_err err = {0};
    int rc = ops->resolve(ops, s, 0, &any, &f, &err);
    snprintf(why, QN_WHY_MAX, "%.*s", QN_WHY_MAX - 1, rc == QN_OK ? f.choice.why : err.msg);
    return rc == QN_OK && f.choice.origin == QN_ORIGIN_NATIVE && f.choice.exactness == QN_EXACT;
}

/* Shazeer's rule: two matrices of 4 d or three of 8/3 d, in whole blocks of the weight type. */
static uint32_t usual_dim(const struct qn_synthetic *out, const struct qn_ffn_ops *ops, uint32_t parts) {
    uint64_t step = qn_type_block(out->type) > 32 ? qn_type_block(out->type) : 32;
    uint64_t dim = (uint64_t)out->spec.d_model * (ops->gated ? 8 : 12) / 3 / parts;
    return (uint32_t)((dim + step - 1) / step * step);
}

/* Experts, and how a row chooses among them. */
static int set_mixture(const struct ask *a, const struct qn_synthetic *out, const struct qn_ffn_ops *expert,
                       struct qn_ffn_member *m, struct qn_err *err) {
    if (a->experts_per_token > a->experts)
        return bad(err, "\"experts_per_token\" (%" PRIu32 ") is above the %" PRIu32 " experts",
                   a->experts_per_token, a->experts);
    m->act = expert->act;
    m->experts = a->experts;
    m->used = either(a->experts_per_token, a->experts < 2 ? a->experts : 2);
    m->dim = either(a->ffn_dim, usual_dim(out, expert, m->used));
    m->gating = qn_gating_find(a->gating);
    if (m->gating == QN_GATING_NONE) return bad(err, "\"gating\" must be A, B, C or D");
    if (m->gating == QN_GATING_SIGMOID) {
        m->groups = a->route_groups;
        m->top_groups = a->top_groups;
        m->route_scale = (float)a->route_scale;
    }
    m->shared_dim = a->shared_dim;
    m->shared_gate = a->shared_gate && a->shared_dim > 0;
    snprintf(m->expert, sizeof m->expert, "%s", expert->name);
    return QN_OK;
}

static int set_ffn(const struct ask *a, struct qn_synthetic *out, struct qn_err *err) {
    struct qn_spec *s = &out->spec;
    struct qn_ffn_member *m = &s->ffn[0];
    const struct qn_ffn_ops *ops = qn_ffn_find(s, a->ffn), *expert = qn_ffn_find(s, a->expert);
    char why[QN_WHY_MAX], names[200];
    if (!ops || !expert) {
        LIST_NAMES(qn_ffn_registry, names);
        return bad(err, "%s \"%s\" is not known (%s)", ops ? "expert" : "ffn", ops ? a->expert : a->ffn,
                   names);
    }
    s->n_ffn = 1;
    *m = (struct qn_ffn_member){.act = ops->act, .dim = either(a->ffn_dim, usual_dim(out, ops, 1))};
    snprintf(m->type, sizeof m->type, "%s", ops->name);
    /* A kind that is not a plain FFN says so to a member without experts. */
    m->experts = 0;
    if (is_native_ffn(ops, s, why)) return QN_OK;
    int rc = set_mixture(a, out, expert, m, err);
    if (rc != QN_OK) return rc;
    if (is_native_ffn(ops, s, why)) return QN_OK;
    return bad(err, "ffn \"%s\" does not fit: %s", ops->name, why);
}

static int set_sharing(const struct ask *a, struct qn_spec *s, struct qn_err *err) {
    struct qn_share_member *m = &s->share[0];
    struct qn_part ask, part;
    uint32_t blocks[2] = {0, 0};
    const struct qn_sharing_ops *ops = qn_sharing_find(s, a->sharing);
    char names[200];
    if (!ops) {
        LIST_NAMES(qn_sharing_registry, names);
        return bad(err, "sharing \"%s\" is not known (%s)", a->sharing, names);
    }
    qn_part_init(&ask, ops->name);
    qn_part_init(&part, ops->name);
    if (a->groups) qn_part_add(&ask, "count", QN_PARAM_INT, a->groups);
    int rc = ops->shape(s, &ask, &part, blocks, err);
    if (rc != QN_OK) return rc;
    *m = (struct qn_share_member){.attn_blocks = blocks[0], .ffn_blocks = blocks[1]};
    snprintf(m->type, sizeof m->type, "%s", ops->name);
    s->n_share = 1;
    s->attn_blocks = blocks[0];
    s->ffn_blocks = blocks[1];
    return QN_OK;
}

bool qn_synthetic_is(const char *path) {
    return strncmp(path, QN_SYNTHETIC_PREFIX, strlen(QN_SYNTHETIC_PREFIX)) == 0;
}

int qn_synthetic_parse(const char *path, struct qn_synthetic *out, struct qn_err *err) {
    struct ask a = {
        .hidden = 256,
        .layers = 4,
        .vocab = 32000,
        .n = 1024,
        .k = 64,
        .features = 128,
        .experts = 8,
        .tied = 1,
        .rope = 1,
        .seed = 1,
        .rope_base = 10000,
        .attention = "mha",
        .ffn = "swiglu",
        .expert = "swiglu",
        .gating = "B",
        .sharing = "none",
        .type = "q8_0",
        .name = "synthetic",
    };
    memset(out, 0, sizeof *out);
    int rc = read_pairs(&a, path + strlen(QN_SYNTHETIC_PREFIX), err);
    if (rc == QN_OK) rc = set_body(&a, out, err);
    if (rc == QN_OK) rc = set_sharing(&a, &out->spec, err);
    if (rc == QN_OK) rc = set_attention(&a, out, err);
    if (rc == QN_OK) rc = set_ffn(&a, out, err);
    if (rc != QN_OK) return rc;
    out->seed = a.seed;
    snprintf(out->name, sizeof out->name, "%s", a.name);
    return qn_spec_check(&out->spec, err);
}

int qn_synthetic_load(const char *path, const struct qn_load_options *opt, struct qn_checkpoint *c,
                      struct qn_err *err) {
    struct qn_synthetic s;
    int rc = qn_synthetic_parse(path, &s, err);
    return rc == QN_OK ? qn_synthetic_fill(&s, opt, c, err) : rc;
}
