/* From what a request asks for to a variant: resolve each part through its registry, refuse with a list of
 * what the model can run, find or make the variant (variants.c). Also the rows of GET /v1/structures. No name
 * of a structure stands here. Thread: any. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "model/internal.h"

#define MAX_OPTIONS 256

const char *qn_exactness_name(enum qn_exactness e) {
    static const char *const names[] = {"exact", "approximate", "untrained", "unavailable"};
    return (unsigned)e < 4 ? names[e] : "unavailable";
}

/* --- the best of the checkpoint's members --- */
/* Lower is better: what was trained, then another form of the member that is asked for by its name, then the
 * least change of another one. */
static int rank(const struct qn_choice *c, bool namesake) {
    if (c->origin == QN_ORIGIN_NATIVE) return -1;
    return (int)c->exactness + (namesake && c->exactness != QN_UNAVAILABLE ? 0 : QN_UNAVAILABLE);
}

/* Keeps the better of two outcomes, and the first error. */
struct best {
    bool found;
    int rank;
    struct qn_err first;
};

static bool better(struct best *b, int rc, const struct qn_err *err, const struct qn_choice *c,
                   bool namesake) {
    if (rc != QN_OK) {
        if (b->first.code == QN_OK) b->first = *err;
        return false;
    }
    int now = rank(c, namesake);
    if (b->found && now >= b->rank) return false;
    b->found = true;
    b->rank = now;
    return true;
}

/* A member that could be asked in other words says more than one that can't give it at all. */
static int outcome(const struct best *b, const struct qn_choice *c, struct qn_err *err) {
    if (b->found && (c->exactness != QN_UNAVAILABLE || b->first.code == QN_OK)) return QN_OK;
    return qn_err_param(err, b->first.code, b->first.param, "%s", b->first.msg);
}

static int best_attention(const struct qn_spec *spec, const struct qn_attention_ops *ops,
                          const struct qn_part *ask, struct qn_attention *out, struct qn_err *err) {
    struct best b = {0};
    for (uint32_t i = 0; i < spec->n_attn; i++) {
        struct qn_attention a = {0};
        struct qn_err e = {0};
        int rc = ops->resolve(spec, i, ask, &a, &e);
        if (better(&b, rc, &e, &a.choice, !strcmp(spec->attn[i].type, ops->name))) *out = a;
    }
    return outcome(&b, &out->choice, err);
}

static int best_ffn(const struct qn_spec *spec, const struct qn_ffn_ops *ops, const struct qn_part *ask,
                    struct qn_ffn *out, struct qn_err *err) {
    struct best b = {0};
    for (uint32_t i = 0; i < spec->n_ffn; i++) {
        struct qn_ffn f = {0};
        struct qn_err e = {0};
        int rc = ops->resolve(ops, spec, i, ask, &f, &e);
        if (better(&b, rc, &e, &f.choice, !strcmp(spec->ffn[i].type, ops->name))) *out = f;
    }
    return outcome(&b, &out->choice, err);
}

/* --- rows of /v1/structures --- */
struct rows {
    struct qn_structure_entry *out;
    size_t max, n;
    bool synthetic; /* no member was trained */
};

static struct qn_structure_entry *next_row(struct rows *r, const char *slot, const struct qn_choice *c) {
    struct qn_structure_entry *e = r->n < r->max ? &r->out[r->n] : NULL;
    r->n++;
    if (!e) return NULL;
    memset(e, 0, sizeof *e);
    e->slot = slot;
    e->part = c->part;
    e->origin = c->origin == QN_ORIGIN_NATIVE && r->synthetic ? QN_ORIGIN_SYNTHETIC : c->origin;
    e->exactness = c->exactness;
    snprintf(e->why, sizeof e->why, "%s", c->why);
    return e;
}

/* The values that parameters have when a request doesn't give them. */
static void add_defaults(struct qn_rules *r, const struct qn_part *bare) {
    for (uint32_t i = 0; bare && i < r->n; i++) {
        const struct qn_param *p = qn_part_find(bare, r->at[i].name);
        if (p) r->at[i].def = *p;
    }
}

static void attention_row(const struct qn_model *m, const struct qn_attention *a,
                          const struct qn_rules *rules, struct rows *r) {
    struct qn_structure_entry *e = next_row(r, "attention", &a->choice);
    if (!e) return;
    struct qn_state_size size = qn_state_size_of(&m->ckpt->spec, a, m->kv_type);
    e->causal = a->causal;
    e->rollback = a->ops->rollback && a->causal; /* the others keep nothing to go on from */
    e->state_bytes_per_token = size.block_bytes / QN_KV_BLOCK;
    e->state_fixed_bytes = size.fixed_bytes;
    if (a->choice.exactness != QN_UNAVAILABLE) e->rules = *rules;
}

/* What the kind offers, and each of that without causality where it can be had. */
static void attention_rows(const struct qn_model *m, const struct qn_attention_ops *ops, struct rows *r) {
    const struct qn_spec *spec = &m->ckpt->spec;
    struct qn_part options[MAX_OPTIONS], any = {0};
    struct qn_attention bare = {0};
    struct qn_rules rules = {.n = 0};
    bool has_bare = best_attention(spec, ops, &any, &bare, NULL) == QN_OK;
    if (ops->rules) ops->rules(spec, &rules);
    uint32_t own = rules.n;
    size_t n = ops->options(spec, options, MAX_OPTIONS);
    for (size_t i = 0; i < n && i < MAX_OPTIONS; i++) {
        struct qn_attention a = {0}, whole = {0};
        struct qn_part open = options[i];
        if (best_attention(spec, ops, &options[i], &a, NULL) != QN_OK) continue;
        qn_part_add(&open, "causal", QN_PARAM_BOOL, false);
        bool both = a.causal && best_attention(spec, ops, &open, &whole, NULL) == QN_OK &&
                    whole.choice.exactness != QN_UNAVAILABLE;
        rules.n = own;
        if (both) qn_rule_bool(&rules, "causal");
        add_defaults(&rules, has_bare ? &bare.choice.part : NULL);
        attention_row(m, &a, &rules, r);
        if (both) attention_row(m, &whole, &rules, r);
    }
}

size_t qn_model_structures(const struct qn_model *m, struct qn_structure_entry *out, size_t max) {
    const struct qn_spec *spec = &m->ckpt->spec;
    static const struct qn_part any = {0};
    struct rows r = {out, max, 0, m->ckpt->synthetic};
    for (size_t i = 0; qn_attention_registry[i]; i++) attention_rows(m, qn_attention_registry[i], &r);
    for (size_t i = 0; qn_ffn_registry[i]; i++) {
        struct qn_ffn f = {0};
        const struct qn_ffn_ops *ops = qn_ffn_registry[i];
        if (best_ffn(spec, ops, &any, &f, NULL) != QN_OK) continue;
        struct qn_structure_entry *e = next_row(&r, "ffn", &f.choice);
        if (!e || !ops->rules || f.choice.exactness == QN_UNAVAILABLE) continue;
        ops->rules(spec, &f, &e->rules);
        add_defaults(&e->rules, &f.choice.part);
    }
    for (size_t i = 0; qn_sharing_registry[i]; i++) {
        struct qn_sharing s = {0};
        const struct qn_sharing_ops *ops = qn_sharing_registry[i];
        if (qn_sharing_resolve(ops, spec, &any, &s, NULL) != QN_OK) continue;
        struct qn_structure_entry *e = next_row(&r, "sharing", &s.choice);
        if (!e || !ops->rules) continue;
        ops->rules(spec, &e->rules);
        add_defaults(&e->rules, &s.choice.part);
    }
    return r.n;
}

/* --- refusals --- */
#define MORE ", \xE2\x80\xA6" /* there are others */

/* Appends an entry to the list when it fits whole, with room left to say that there are more. */
static bool list_entry(const struct qn_structure_entry *e, char *out, size_t size) {
    char part[QN_PART_TEXT];
    size_t at = strlen(out), room = size - at;
    const char *how = e->origin != QN_ORIGIN_CONVERTED ? "native" : qn_exactness_name(e->exactness);
    int k =
        snprintf(out + at, room, "%s%s %s", at ? ", " : "", qn_part_print(&e->part, part, sizeof part), how);
    if (k >= 0 && (size_t)k + sizeof MORE <= room) return true;
    snprintf(out + at, room, "%s", MORE);
    return false;
}

/* "gqa(heads=9,kv_heads=3,…) native, mha(…) exact, …" of one slot: the trained ones first, then what
 * predicts, as far as there is room. */
static void list_slot(const struct qn_model *m, const char *slot, char *out, size_t size) {
    out[0] = 0;
    size_t n = qn_model_structures(m, NULL, 0);
    struct qn_structure_entry *rows = calloc(n ? n : 1, sizeof *rows);
    if (!rows) return;
    n = qn_model_structures(m, rows, n);
    bool room = true;
    for (int native = 1; native >= 0; native--) {
        for (size_t i = 0; i < n && room; i++) {
            const struct qn_structure_entry *e = &rows[i];
            bool other = strcmp(e->slot, slot) != 0 || e->exactness == QN_UNAVAILABLE;
            if (other || (e->origin != QN_ORIGIN_CONVERTED) != native) continue;
            bool ahead = strcmp(slot, "attention") == 0 && !e->causal;
            if (native || !ahead) room = list_entry(e, out, size);
        }
    }
    free(rows);
}

static int refuse(const struct qn_model *m, const char *slot, const char *what, const char *why,
                  struct qn_err *err) {
    char list[600];
    list_slot(m, slot, list, sizeof list);
    return qn_err_param(err, QN_ERR_INVALID, slot, "%s \"%.23s\" %s; this model can run: %s", slot, what, why,
                        list);
}

/* Whether a resolved part may run, given the request's consent to conversions. */
static int admit(const struct qn_model *m, const char *slot, const struct qn_choice *c, bool convert,
                 struct qn_err *err) {
    char why[QN_WHY_MAX + 96];
    if (c->exactness == QN_UNAVAILABLE) {
        snprintf(why, sizeof why, "is not available: %s", c->why);
        return refuse(m, slot, c->part.type, why, err);
    }
    if (c->exactness == QN_EXACT || convert) return QN_OK;
    snprintf(why, sizeof why, "is an %s conversion (%s): set \"convert\": true to run it",
             qn_exactness_name(c->exactness), c->why);
    return refuse(m, slot, c->part.type, why, err);
}

static int resolve_attention(const struct qn_model *m, const struct qn_structure_request *req,
                             struct qn_resolved *r, struct qn_err *err) {
    const struct qn_spec *spec = &m->ckpt->spec;
    const struct qn_attention_ops *ops = qn_attention_find(spec, req->attention.type);
    if (!ops) return refuse(m, "attention", req->attention.type, "is not known", err);
    int rc = best_attention(spec, ops, &req->attention, &r->attention, err);
    if (rc) return rc;
    const struct qn_choice *c = &r->attention.choice;
    if (req->causal && !r->attention.causal && c->exactness != QN_UNAVAILABLE)
        return qn_err_param(err, QN_ERR_INVALID, "attention",
                            "attention \"%.23s\" with \"causal\": false looks at later tokens: it can only "
                            "embed; to generate or score ask for a causal one",
                            c->part.type);
    return admit(m, "attention", c, req->convert, err);
}

static int resolve_ffn(const struct qn_model *m, const struct qn_structure_request *req,
                       struct qn_resolved *r, struct qn_err *err) {
    const struct qn_spec *spec = &m->ckpt->spec;
    const struct qn_ffn_ops *ops = qn_ffn_find(spec, req->ffn.type);
    if (!ops) return refuse(m, "ffn", req->ffn.type, "is not known", err);
    int rc = best_ffn(spec, ops, &req->ffn, &r->ffn, err);
    return rc ? rc : admit(m, "ffn", &r->ffn.choice, req->convert, err);
}

static int resolve_sharing(const struct qn_model *m, const struct qn_structure_request *req,
                           struct qn_resolved *r, struct qn_err *err) {
    const struct qn_spec *spec = &m->ckpt->spec;
    const struct qn_sharing_ops *ops = qn_sharing_find(spec, req->sharing.type);
    if (!ops) return refuse(m, "sharing", req->sharing.type, "is not known", err);
    int rc = qn_sharing_resolve(ops, spec, &req->sharing, &r->sharing, err);
    return rc ? rc : admit(m, "sharing", &r->sharing.choice, req->convert, err);
}

int qn_variant_resolve(struct qn_model *m, const struct qn_structure_request *req, struct qn_variant **out,
                       struct qn_err *err) {
    struct qn_resolved r = {0};
    *out = NULL;
    int rc = resolve_attention(m, req, &r, err);
    if (rc == QN_OK) rc = resolve_ffn(m, req, &r, err);
    if (rc == QN_OK) rc = resolve_sharing(m, req, &r, err);
    return rc ? rc : qn_variant_of(m, &r, out, err);
}
