/* The wanted tensors of a family and spec: presence, names, shapes, types; one report of everything wrong.
 *
 * Experts of a mixture lie in the file in one of three ways (enum qn_expert_layout); which one, their names
 * tell. qn_found_expert hides the difference. */
#include "model/load/want.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/mem.h"
#include "model/load/report.h"

struct collect {
    const struct qn_weights_source *src;
    const struct qn_spec *spec;
    const struct qn_name_table *names;
    const char *prefix; /* the name table's, or "" when the file lacks it */
    enum qn_expert_layout layout;
    struct qn_report report;
};

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

static enum qn_presence expert_presence(enum qn_slot slot, const struct qn_spec *s,
                                        enum qn_expert_layout layout) {
    const struct qn_ffn_member *m = &s->ffn[0];
    switch (slot) {
    case QN_SLOT_ROUTER:
        return when(layout != QN_EXPERTS_NONE);
    case QN_SLOT_SHARED_SCALE:
        return when(m->shared_gate);
    case QN_SLOT_SHARED_GATE:
    case QN_SLOT_SHARED_UP:
    case QN_SLOT_SHARED_DOWN:
        return when(m->shared_dim > 0);
    case QN_SLOT_GATE_EXPS:
    case QN_SLOT_UP_EXPS:
        return when(layout == QN_EXPERTS_STACKED);
    case QN_SLOT_DOWN_EXPS:
        return when(layout == QN_EXPERTS_STACKED || layout == QN_EXPERTS_MERGED);
    case QN_SLOT_GATE_UP_EXPS:
        return when(layout == QN_EXPERTS_MERGED);
    default: /* one expert's: collect_experts */
        return when(layout == QN_EXPERTS_EACH);
    }
}

static enum qn_presence weight_presence(const struct collect *c, enum qn_slot slot) {
    const struct qn_spec *s = c->spec;
    bool fused = c->src->qkv != QN_QKV_SEPARATE, moe = c->layout != QN_EXPERTS_NONE;
    if (slot >= QN_SLOT_ROUTER) return expert_presence(slot, s, c->layout);
    switch (slot) {
    case QN_SLOT_POS:
        return when(s->pos == QN_POS_LEARNED);
    case QN_SLOT_OUTPUT:
        return when(!s->tied);
    case QN_SLOT_ROPE_FACTORS:
        return c->src->gguf && s->pos == QN_POS_ROPE ? QN_OPTIONAL : QN_NEVER;
    case QN_SLOT_Q:
    case QN_SLOT_K:
    case QN_SLOT_V:
        return when(!fused);
    case QN_SLOT_QKV:
        return when(fused);
    case QN_SLOT_Q_NORM:
    case QN_SLOT_K_NORM:
        return when(s->qk_norm || s->qk_norm_whole);
    case QN_SLOT_GATE:
        return when(c->src->family->gated && !moe);
    case QN_SLOT_UP:
    case QN_SLOT_DOWN:
        return when(!moe);
    default:
        return QN_REQUIRED;
    }
}

static enum qn_presence presence(const struct collect *c, enum qn_slot slot, bool bias) {
    const struct qn_family *family = c->src->family;
    enum qn_presence weight = weight_presence(c, slot);
    if (!bias || weight == QN_NEVER) return weight;
    if (is_norm(slot)) return when(c->spec->norm == QN_NORM_LAYER);
    switch (slot) {
    case QN_SLOT_Q:
    case QN_SLOT_K:
    case QN_SLOT_V:
    case QN_SLOT_QKV:
        return family->qkv_bias;
    case QN_SLOT_O:
        return family->o_bias;
    case QN_SLOT_UP:
    case QN_SLOT_DOWN:
        return family->ffn_bias;
    default:
        return QN_NEVER;
    }
}

bool qn_want_transposed(const struct qn_weights_source *src, enum qn_slot slot) {
    return !src->gguf && src->family->hf_conv1d && slot >= QN_SLOT_Q && !is_norm(slot);
}

struct shape {
    uint64_t dims[3];
    uint32_t n;
};

static struct shape vector(uint64_t n) {
    return (struct shape){{n, 0, 0}, 1};
}

static struct shape matrix(uint64_t rows, uint64_t cols) {
    return (struct shape){{rows, cols, 0}, 2};
}

static struct shape stack(const struct qn_ffn_member *m, uint64_t rows, uint64_t cols) {
    return (struct shape){{m->experts, rows, cols}, 3};
}

static struct shape ffn_shape(const struct qn_spec *s, enum qn_slot slot) {
    const struct qn_ffn_member *m = &s->ffn[0];
    uint64_t d = s->d_model, dim = m->dim;
    switch (slot) {
    case QN_SLOT_GATE:
    case QN_SLOT_UP:
    case QN_SLOT_EXPERT_GATE:
    case QN_SLOT_EXPERT_UP:
        return matrix(dim, d);
    case QN_SLOT_DOWN:
    case QN_SLOT_EXPERT_DOWN:
        return matrix(d, dim);
    case QN_SLOT_ROUTER:
        return matrix(m->experts, d);
    case QN_SLOT_SHARED_GATE:
    case QN_SLOT_SHARED_UP:
        return matrix(m->shared_dim, d);
    case QN_SLOT_SHARED_DOWN:
        return matrix(d, m->shared_dim);
    case QN_SLOT_GATE_EXPS:
    case QN_SLOT_UP_EXPS:
        return stack(m, dim, d);
    case QN_SLOT_DOWN_EXPS:
        return stack(m, d, dim);
    case QN_SLOT_GATE_UP_EXPS:
        return stack(m, 2 * dim, d);
    default: /* norms, QN_SLOT_SHARED_SCALE */
        return vector(d);
    }
}

/* Matrices as [out, in]. All fit: the spec's ranges keep the products below 2^32. */
static struct shape shape_of(const struct qn_spec *s, enum qn_slot slot) {
    uint64_t d = s->d_model, dq = (uint64_t)s->heads * s->head_dim,
             dk = (uint64_t)s->attn[0].kv_heads * s->head_dim;
    switch (slot) {
    case QN_SLOT_EMBED:
    case QN_SLOT_OUTPUT:
        return matrix(s->vocab, d);
    case QN_SLOT_POS:
        return matrix(s->context, d);
    case QN_SLOT_ROPE_FACTORS:
        return vector(s->rope_dim / 2);
    case QN_SLOT_Q:
        return matrix(dq, d);
    case QN_SLOT_K:
    case QN_SLOT_V:
        return matrix(dk, d);
    case QN_SLOT_QKV:
        return matrix(dq + dk + dk, d);
    case QN_SLOT_O:
        return matrix(d, dq);
    case QN_SLOT_Q_NORM:
        return vector(s->qk_norm_whole ? dq : s->head_dim);
    case QN_SLOT_K_NORM:
        return vector(s->qk_norm_whole ? dk : s->head_dim);
    default:
        return ffn_shape(s, slot);
    }
}

/* ---- lookup and check ---- */

/* The slot's name with its holes filled; false when the table has none. */
static bool name_of(const struct collect *c, enum qn_slot slot, const uint32_t numbers[2], const char *suffix,
                    char name[160]) {
    const char *p = c->names->name[slot];
    size_t holes = 0;
    if (!p) return false;
    size_t at = (size_t)snprintf(name, 160, "%s", p[0] == '/' ? "" : c->prefix);
    for (p += p[0] == '/'; *p && at < 128; p++) {
        if (*p == '$') {
            suffix = "";
        } else if (*p == '%') {
            at += (size_t)snprintf(name + at, 160 - at, "%" PRIu32, numbers[holes++ > 0]);
            p++; /* the u */
        } else {
            name[at++] = *p;
        }
    }
    snprintf(name + at, 160 - at, "%s", suffix);
    return true;
}

/* A vector that is stored as a matrix of one row will do. */
static void drop_outer_one(struct qn_tensor *t, uint32_t n_want) {
    if (n_want != 1 || t->n_dims != 2 || t->dims[0] != 1) return;
    t->dims[0] = t->dims[1];
    t->n_dims = 1;
}

static void check(struct collect *c, const char *name, enum qn_slot slot, struct qn_tensor *t, bool bias) {
    struct shape want = shape_of(c->spec, slot);
    if (bias) want.n = 1;
    if (slot == QN_SLOT_SHARED_SCALE) drop_outer_one(t, want.n);
    if (want.n == 2 && qn_want_transposed(c->src, slot)) want = matrix(want.dims[1], want.dims[0]);
    if (want.n == 3 && t->n_dims == 3 && memcmp(t->dims, want.dims, sizeof want.dims) == 0) {
        struct qn_tensor one = *t; /* the shape is right; now the type, as of a matrix */
        one.n_dims = 2;
        memmove(one.dims, one.dims + 1, 2 * sizeof *one.dims);
        qn_report_check(&c->report, name, &one, want.dims + 1, 2);
    } else if (qn_report_check(&c->report, name, t, want.dims, want.n) && slot == QN_SLOT_ROUTER &&
               qn_type_wants_int(t->type)) {
        qn_report_add(&c->report, false, "'%s' has type %s, but must be F32, F16 or BF16", name,
                      t->type_name);
    }
}

/* The tensor, checked; NULL when it is not there. */
static struct qn_tensor *look_up(struct collect *c, enum qn_slot slot, const uint32_t numbers[2], bool bias) {
    char name[160];
    enum qn_presence p = presence(c, slot, bias);
    if (p == QN_NEVER) return NULL;
    bool named = name_of(c, slot, numbers, bias ? ".bias" : ".weight", name);
    struct qn_tensor *t = named ? qn_tensor_dir_find(c->src->dir, name) : NULL;
    if (!t) {
        if (p == QN_REQUIRED) qn_report_add(&c->report, true, "'%s' is missing", named ? name : "?");
        return NULL;
    }
    check(c, name, slot, t, bias);
    t->used = true;
    return t;
}

static void collect_one(struct collect *c, struct qn_found *found, enum qn_slot slot, uint32_t layer,
                        bool bias) {
    uint32_t numbers[2] = {layer, 0};
    size_t row = is_layer_slot(slot) ? (size_t)layer + 1 : 0;
    found->t[(row * QN_SLOT_COUNT + slot) * 2 + bias] = look_up(c, slot, numbers, bias);
}

/* ---- experts ---- */

static bool has(const struct collect *c, enum qn_slot slot) {
    static const uint32_t first[2] = {0, 0};
    char name[160];
    return name_of(c, slot, first, ".weight", name) && qn_tensor_dir_find(c->src->dir, name);
}

/* Tells how experts lie by the names of the first layer's, and takes the names that go with it. */
static void find_layout(struct collect *c) {
    const struct qn_name_table *merged = c->src->family->hf_merged_names;
    if (c->spec->ffn[0].experts == 0) return;
    struct collect other = *c;
    if (!c->src->gguf && merged) other.names = merged;
    if (has(&other, QN_SLOT_GATE_UP_EXPS)) {
        c->names = other.names;
        c->layout = QN_EXPERTS_MERGED;
    } else {
        c->layout = c->src->gguf && !has(c, QN_SLOT_EXPERT_GATE) ? QN_EXPERTS_STACKED : QN_EXPERTS_EACH;
    }
}

static int collect_experts(struct collect *c, struct qn_found *found, struct qn_err *err) {
    size_t n;
    if (c->layout != QN_EXPERTS_EACH) return QN_OK;
    found->experts = c->spec->ffn[0].experts;
    if (!qn_size_mul(c->spec->layers, found->experts, &n) || !qn_size_mul(n, 3, &n) ||
        !(found->expert = calloc(n, sizeof(struct qn_tensor *))))
        return qn_err_set(err, QN_ERR_NOMEM, "out of memory for the tensor list");
    for (size_t i = 0; i < n && !qn_report_full(&c->report); i++) {
        uint32_t numbers[2] = {(uint32_t)(i / 3 / found->experts), (uint32_t)(i / 3 % found->experts)};
        found->expert[i] = look_up(c, (enum qn_slot)(QN_SLOT_EXPERT_GATE + (int)(i % 3)), numbers, false);
    }
    return QN_OK;
}

/* Expert `expert` of a stack: `rows` rows from `first` on. */
static struct qn_tensor slice(const struct qn_tensor *t, uint32_t expert, uint64_t first, uint64_t rows) {
    struct qn_tensor one = *t;
    size_t row_bytes = t->bytes / (size_t)(t->dims[0] * t->dims[1]);
    one.n_dims = 2;
    one.dims[0] = rows;
    one.dims[1] = t->dims[2];
    one.bytes = (size_t)rows * row_bytes;
    one.data = t->data + (size_t)(expert * t->dims[1] + first) * row_bytes;
    return one;
}

struct qn_tensor qn_found_expert(const struct qn_found *f, uint32_t layer, uint32_t expert, unsigned which) {
    if (f->layout == QN_EXPERTS_EACH) return *f->expert[((size_t)layer * f->experts + expert) * 3 + which];
    bool merged = f->layout == QN_EXPERTS_MERGED && which < 2;
    enum qn_slot slot = merged ? QN_SLOT_GATE_UP_EXPS : (enum qn_slot)(QN_SLOT_GATE_EXPS + (int)which);
    const struct qn_tensor *t = qn_found_get(f, slot, layer, false);
    uint64_t rows = merged ? t->dims[1] / 2 : t->dims[1];
    return slice(t, expert, merged && which == 1 ? rows : 0, rows);
}

/* ---- the rest of the file ---- */

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

static const char *find_prefix(const struct qn_weights_source *src, const struct qn_name_table *names) {
    char name[160];
    snprintf(name, sizeof name, "%s.weight", names->name[QN_SLOT_EMBED]);
    return qn_tensor_dir_find(src->dir, name) ? "" : names->prefix;
}

struct qn_tensor *qn_found_get(const struct qn_found *f, enum qn_slot slot, uint32_t layer, bool bias) {
    size_t row = is_layer_slot(slot) ? (size_t)layer + 1 : 0;
    return f->t[(row * QN_SLOT_COUNT + slot) * 2 + bias];
}

void qn_found_free(struct qn_found *f) {
    free(f->t);
    free(f->expert);
    *f = (struct qn_found){0};
}

int qn_want_collect(const struct qn_weights_source *src, const struct qn_spec *spec, struct qn_found *found,
                    struct qn_err *err) {
    struct collect c = {.src = src, .spec = spec};
    size_t rows = (size_t)spec->layers + 1; /* <= 1025 by qn_spec_check */
    c.names = src->gguf ? src->family->gguf_names : src->family->hf_names;
    c.prefix = find_prefix(src, c.names);
    find_layout(&c);
    *found = (struct qn_found){.layers = spec->layers, .layout = c.layout};
    found->t = calloc(rows * QN_SLOT_COUNT * 2, sizeof(struct qn_tensor *));
    if (!found->t) return qn_err_set(err, QN_ERR_NOMEM, "out of memory for the tensor list");
    for (int slot = 0; slot < QN_SLOT_EXPERT_GATE; slot++) {
        uint32_t n = is_layer_slot((enum qn_slot)slot) ? spec->layers : 1;
        for (uint32_t layer = 0; layer < n; layer++) {
            collect_one(&c, found, (enum qn_slot)slot, layer, false);
            collect_one(&c, found, (enum qn_slot)slot, layer, true);
        }
    }
    int rc = collect_experts(&c, found, err);
    if (rc != QN_OK) return rc;
    report_unused(&c);
    return qn_report_result(&c.report, src->family->name, err);
}
