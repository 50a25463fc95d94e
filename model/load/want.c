/* The wanted tensors of a family and spec: presence, names, shapes, types; one report of everything wrong. */
#include "model/load/want.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "model/load/report.h"

/* ---- what is wanted ---- */

static bool is_layer_slot(enum qn_slot slot) {
    return slot >= QN_SLOT_ATTN_NORM;
}

static bool is_norm(enum qn_slot slot) {
    return slot == QN_SLOT_OUT_NORM || slot == QN_SLOT_ATTN_NORM || slot == QN_SLOT_FFN_NORM;
}

static enum qn_presence when(bool needed) {
    return needed ? QN_REQUIRED : QN_NEVER;
}

static enum qn_presence weight_presence(const struct qn_weights_source *src, const struct qn_spec *s,
                                        enum qn_slot slot) {
    bool fused = src->qkv != QN_QKV_SEPARATE;
    switch (slot) {
    case QN_SLOT_POS:
        return when(s->pos == QN_POS_LEARNED);
    case QN_SLOT_OUTPUT:
        return when(!s->tied);
    case QN_SLOT_ROPE_FACTORS:
        return src->gguf && s->pos == QN_POS_ROPE ? QN_OPTIONAL : QN_NEVER;
    case QN_SLOT_Q:
    case QN_SLOT_K:
    case QN_SLOT_V:
        return when(!fused);
    case QN_SLOT_QKV:
        return when(fused);
    case QN_SLOT_Q_NORM:
    case QN_SLOT_K_NORM:
        return when(s->qk_norm);
    case QN_SLOT_GATE:
        return when(src->family->gated);
    default:
        return QN_REQUIRED;
    }
}

static enum qn_presence presence(const struct qn_weights_source *src, const struct qn_spec *s,
                                 enum qn_slot slot, bool bias) {
    enum qn_presence weight = weight_presence(src, s, slot);
    if (!bias || weight == QN_NEVER) return weight;
    if (is_norm(slot)) return when(s->norm == QN_NORM_LAYER);
    switch (slot) {
    case QN_SLOT_Q:
    case QN_SLOT_K:
    case QN_SLOT_V:
    case QN_SLOT_QKV:
        return src->family->qkv_bias;
    case QN_SLOT_O:
        return src->family->o_bias;
    case QN_SLOT_UP:
    case QN_SLOT_DOWN:
        return src->family->ffn_bias;
    default:
        return QN_NEVER;
    }
}

bool qn_want_transposed(const struct qn_weights_source *src, enum qn_slot slot) {
    return !src->gguf && src->family->hf_conv1d && slot >= QN_SLOT_Q && !is_norm(slot);
}

/* Shape as [out, in]; cols 0: a vector. All fit: the spec's ranges keep the products below 2^32. */
static void shape_of(const struct qn_spec *s, enum qn_slot slot, bool bias, uint64_t *rows, uint64_t *cols) {
    uint64_t d = s->d_model, dq = (uint64_t)s->heads * s->head_dim,
             dk = (uint64_t)s->attn[0].kv_heads * s->head_dim;
    *cols = d;
    switch (slot) {
    case QN_SLOT_EMBED:
    case QN_SLOT_OUTPUT:
        *rows = s->vocab;
        break;
    case QN_SLOT_POS:
        *rows = s->context;
        break;
    case QN_SLOT_ROPE_FACTORS:
        *rows = s->rope_dim / 2, *cols = 0;
        break;
    case QN_SLOT_Q:
        *rows = dq;
        break;
    case QN_SLOT_K:
    case QN_SLOT_V:
        *rows = dk;
        break;
    case QN_SLOT_QKV:
        *rows = dq + dk + dk;
        break;
    case QN_SLOT_O:
        *rows = d, *cols = dq;
        break;
    case QN_SLOT_Q_NORM:
    case QN_SLOT_K_NORM:
        *rows = s->head_dim, *cols = 0;
        break;
    case QN_SLOT_GATE:
    case QN_SLOT_UP:
        *rows = s->ffn[0].dim;
        break;
    case QN_SLOT_DOWN:
        *rows = d, *cols = s->ffn[0].dim;
        break;
    default:
        *rows = d, *cols = 0;
        break;
    }
    if (bias) *cols = 0;
}

/* ---- lookup and check ---- */

struct collect {
    const struct qn_weights_source *src;
    const struct qn_spec *spec;
    const char *prefix; /* the name table's, or "" when the file lacks it */
    struct qn_report report;
};

static void name_of(const struct collect *c, enum qn_slot slot, uint32_t layer, bool bias, char name[160]) {
    const struct qn_name_table *names = c->src->gguf ? c->src->family->gguf_names : c->src->family->hf_names;
    const char *pattern = names->name[slot] ? names->name[slot] : "?";
    const char *hole = strstr(pattern, "%u");
    const char *prefix = pattern[0] == '/' ? "" : c->prefix;
    const char *suffix = bias ? ".bias" : ".weight";
    if (pattern[0] == '/') pattern++;
    if (hole)
        snprintf(name, 160, "%s%.*s%" PRIu32 "%s%s", prefix, (int)(hole - pattern), pattern, layer, hole + 2,
                 suffix);
    else
        snprintf(name, 160, "%s%s%s", prefix, pattern, suffix);
}

static void collect_one(struct collect *c, struct qn_found *found, enum qn_slot slot, uint32_t layer,
                        bool bias) {
    char name[160];
    uint64_t want[2];
    enum qn_presence p = presence(c->src, c->spec, slot, bias);
    if (p == QN_NEVER) return;
    name_of(c, slot, layer, bias, name);
    struct qn_tensor *t = qn_tensor_dir_find(c->src->dir, name);
    if (!t) {
        if (p == QN_REQUIRED) qn_report_add(&c->report, true, "'%s' is missing", name);
        return;
    }
    shape_of(c->spec, slot, bias, &want[0], &want[1]);
    uint32_t n_want = want[1] ? 2 : 1;
    if (n_want == 2 && qn_want_transposed(c->src, slot)) {
        uint64_t rows = want[0];
        want[0] = want[1];
        want[1] = rows;
    }
    qn_report_check(&c->report, name, t, want, n_want);
    t->used = true;
    size_t row = is_layer_slot(slot) ? (size_t)layer + 1 : 0;
    found->t[(row * QN_SLOT_COUNT + slot) * 2 + bias] = t;
}

/* Tensors that change nothing: masks and tables that old exports saved, a copy of a tied embedding. */
static bool is_ballast(const struct collect *c, struct qn_str name) {
    static const char *const endings[] = {".attn.bias", ".attn.masked_bias", ".rotary_emb.inv_freq",
                                          ".attn_rot_embd.weight"};
    for (size_t i = 0; i < sizeof endings / sizeof *endings; i++) {
        size_t n = strlen(endings[i]);
        if (name.n > n && memcmp(name.p + name.n - n, endings[i], n) == 0) return true;
    }
    return c->spec->tied && !c->src->gguf && qn_str_is(name, "lm_head.weight");
}

/* A tensor nobody asked for is a part of the model that quern would leave out: refuse rather than answer
 * wrong. */
static void report_unused(struct collect *c) {
    char shown[64];
    for (size_t i = 0; i < c->src->dir->n; i++) {
        const struct qn_tensor *t = &c->src->dir->t[i];
        if (!t->used && !is_ballast(c, t->name))
            qn_report_add(&c->report, true, "'%s' is not part of such a model", qn_str_show(t->name, shown));
    }
}

static const char *find_prefix(const struct qn_weights_source *src) {
    const struct qn_name_table *names = src->gguf ? src->family->gguf_names : src->family->hf_names;
    char name[160];
    snprintf(name, sizeof name, "%s.weight", names->name[QN_SLOT_EMBED]);
    return qn_tensor_dir_find(src->dir, name) ? "" : names->prefix;
}

struct qn_tensor *qn_found_get(const struct qn_found *f, enum qn_slot slot, uint32_t layer, bool bias) {
    size_t row = is_layer_slot(slot) ? (size_t)layer + 1 : 0;
    return f->t[(row * QN_SLOT_COUNT + slot) * 2 + bias];
}

int qn_want_collect(const struct qn_weights_source *src, const struct qn_spec *spec, struct qn_found *found,
                    struct qn_err *err) {
    struct collect c = {.src = src, .spec = spec, .prefix = find_prefix(src)};
    size_t rows = (size_t)spec->layers + 1; /* <= 1025 by qn_spec_check */
    found->layers = spec->layers;
    found->t = calloc(rows * QN_SLOT_COUNT * 2, sizeof(struct qn_tensor *));
    if (!found->t) return qn_err_set(err, QN_ERR_NOMEM, "out of memory for the tensor list");
    for (int slot = 0; slot < QN_SLOT_COUNT; slot++) {
        uint32_t n = is_layer_slot((enum qn_slot)slot) ? spec->layers : 1;
        for (uint32_t layer = 0; layer < n; layer++) {
            collect_one(&c, found, (enum qn_slot)slot, layer, false);
            collect_one(&c, found, (enum qn_slot)slot, layer, true);
        }
    }
    report_unused(&c);
    return qn_report_result(&c.report, src->family->name, err);
}
