/* Handlers that answer at once: health, metrics, descriptions of models. Thread: loop. */
#include "server/handlers.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "api/models.h"
#include "server/metrics_page.h"
#include "server/translate.h"

void qn_handle_livez(struct qn_request *r) {
    qn_reply_text(r, 200, "ok\n");
}

void qn_handle_readyz(struct qn_request *r) {
    static const char *const why[] = {"loading\n", "ok\n", "draining\n", "draining\n", "draining\n"};
    enum qn_server_state s = r->srv->state;
    const struct qn_registry *g = &r->srv->models;
    uint32_t alive = s == QN_SERVER_READY ? qn_registry_alive(g) : 0;
    if (s == QN_SERVER_READY && alive < g->n)
        qn_reply_text(r, alive ? 200 : 503,
                      alive ? "ok, but for a model whose mapped file was cut or overwritten\n"
                            : "no model is available: mapped files were cut or overwritten\n");
    else
        qn_reply_text(r, s == QN_SERVER_READY ? 200 : 503, why[s]);
    if (r->status != 200) r->retry_after = 1;
}

void qn_handle_metrics(struct qn_request *r) {
    qn_metrics_page(r->srv, &r->reply);
    qn_reply_json(r);
    if (r->status == 200) r->type = "text/plain; version=0.0.4; charset=utf-8";
}

void qn_handle_openapi(struct qn_request *r) {
    qn_buf_add(&r->reply, r->srv->openapi.p, r->srv->openapi.n);
    qn_reply_json(r);
}

static void describe_native(struct qn_model *m, struct qn_api_model *out) {
    struct qn_variant *v = qn_native_variant(m);
    if (!v) return;
    const struct qn_structure *s = qn_variant_structure(v);
    qn_structure_to_api(s, &out->native);
    out->state_bytes_per_token = s->state_bytes_per_token;
    qn_variant_unref(v);
}

/* The row of a kind; NULL when there is none yet. */
static struct qn_api_kind_row *kind_row(struct qn_api_model *m, const struct qn_structure_entry *e) {
    for (uint32_t i = 0; i < m->n_kinds; i++)
        if (!strcmp(m->kinds[i].slot, e->slot) && !strcmp(m->kinds[i].type, e->part.type))
            return &m->kinds[i];
    return NULL;
}

/* Names of what a model can run at all, and how exact each is at best: one name may have several entries. */
static void describe_kinds(const struct qn_model *m, struct qn_api_model *out) {
    const size_t most = sizeof out->kinds / sizeof *out->kinds;
    size_t n = qn_model_structures(m, NULL, 0);
    struct qn_structure_entry *e = calloc(n ? n : 1, sizeof *e);
    if (!e) return; /* the rest of the description stands without it */
    qn_model_structures(m, e, n);
    enum qn_exactness best[sizeof out->kinds / sizeof *out->kinds] = {0};
    for (size_t i = 0; i < n && e[i].slot; i++) {
        struct qn_api_kind_row *k = kind_row(out, &e[i]);
        if (e[i].exactness == QN_UNAVAILABLE || (!k && out->n_kinds == most)) continue;
        if (k && e[i].exactness >= best[k - out->kinds]) continue;
        if (!k) k = &out->kinds[out->n_kinds++];
        best[k - out->kinds] = e[i].exactness;
        k->slot = e[i].slot;
        k->exactness = qn_exactness_name(e[i].exactness);
        snprintf(k->type, sizeof k->type, "%s", e[i].part.type);
    }
    free(e);
}

static void describe(struct qn_model *m, struct qn_api_model *out) {
    const struct qn_model_info *i = qn_model_info(m);
    memset(out, 0, sizeof *out);
    out->native.origin = "native";
    out->native.exactness = "exact";
    out->id = i->id;
    out->family = i->family;
    out->format = i->format;
    out->kv_type = i->kv_type;
    out->created = i->opened_at;
    out->params_total = i->params_total;
    out->params_active = i->params_active;
    out->layers = i->layers;
    out->d_model = i->d_model;
    out->heads = i->heads;
    out->kv_heads = i->kv_heads;
    out->head_dim = i->head_dim;
    out->ffn_dim = i->ffn_dim;
    out->vocab = i->vocab;
    out->context = i->context;
    out->file_bytes = i->file_bytes;
    out->weights_bytes = i->weights_bytes;
    for (size_t k = 0; k < QN_TYPE_SLOTS; k++) {
        out->by_type[k].name = i->by_type[k].name;
        out->by_type[k].bytes = i->by_type[k].bytes;
    }
    out->state_budget = qn_model_state(m).budget;
    out->chat_template = i->chat_template;
    describe_native(m, out);
    describe_kinds(m, out);
}

void qn_handle_models(struct qn_request *r) {
    const struct qn_registry *g = &r->srv->models;
    struct qn_api_model *list = calloc(g->n ? g->n : 1, sizeof *list);
    if (!list) {
        qn_reply_fail(r, QN_API_OUT_OF_MEMORY, "no memory for the reply");
        return;
    }
    for (uint32_t i = 0; i < g->n; i++) describe(g->models[i], &list[i]);
    qn_api_models_write(&r->reply, list, g->n);
    free(list);
    qn_reply_json(r);
}

void qn_handle_model(struct qn_request *r) {
    struct qn_model *m = qn_registry_find(&r->srv->models, r->arg);
    if (!m) {
        struct qn_api_err err = {.code = QN_API_OK};
        qn_api_fail(&err, QN_API_MODEL_NOT_FOUND, "model", "no model '%.64s'; GET /v1/models lists them",
                    r->arg);
        qn_reply_error(r, &err);
        return;
    }
    struct qn_api_model one;
    describe(m, &one);
    qn_api_model_write(&r->reply, &one);
    qn_reply_json(r);
}

/* One model's structures on both sides of the wall. */
struct rows {
    struct qn_structure_entry *from; /* [n] */
    struct qn_api_structure_entry *to;
    size_t n;
    struct qn_held_out *measured; /* [n_measured] */
    struct qn_api_held_out *shown;
    size_t n_measured;
};

static void free_rows(struct rows *r) {
    free(r->from);
    free(r->to);
    free(r->measured);
    free(r->shown);
}

static void show_rule(const struct qn_param_rule *r, struct qn_api_rule *a) {
    *a = (struct qn_api_rule){.name = r->name,
                              .kind = (enum qn_api_kind)r->kind,
                              .min = r->min,
                              .max = r->max,
                              .words = r->words,
                              .has_default = r->def.name[0] != 0,
                              .value = r->def.value,
                              .text = r->def.text};
}

static void show_entry(const struct qn_structure_entry *e, struct qn_api_structure_entry *a) {
    a->slot = e->slot;
    qn_part_to_api(&e->part, &a->part);
    a->origin = qn_origin_name(e->origin);
    a->exactness = qn_exactness_name(e->exactness);
    a->why = e->why;
    bool attention = strcmp(e->slot, "attention") == 0; /* the other slots see one token at a time */
    a->causal = !attention || e->causal;
    a->rollback = !attention || e->rollback;
    a->state_bytes_per_token = e->state_bytes_per_token;
    a->state_fixed_bytes = e->state_fixed_bytes;
    for (; a->n_rules < e->rules.n && a->n_rules < QN_API_PARTS; a->n_rules++)
        show_rule(&e->rules.at[a->n_rules], &a->rules[a->n_rules]);
}

/* false: memory is short; *r is freed by the caller all the same. */
static bool list_structures(const struct qn_model *m, struct rows *r, struct qn_api_structures *out) {
    size_t n = qn_model_structures(m, NULL, 0), k = qn_model_held_out(m, NULL, 0);
    r->from = calloc(n ? n : 1, sizeof *r->from);
    r->to = calloc(n ? n : 1, sizeof *r->to);
    r->measured = calloc(k ? k : 1, sizeof *r->measured);
    r->shown = calloc(k ? k : 1, sizeof *r->shown);
    if (!r->from || !r->to || !r->measured || !r->shown) return false;
    qn_model_structures(m, r->from, n);
    qn_model_held_out(m, r->measured, k);
    for (; r->n < n && r->from[r->n].slot; r->n++) show_entry(&r->from[r->n], &r->to[r->n]);
    for (; r->n_measured < k; r->n_measured++) {
        const struct qn_held_out *h = &r->measured[r->n_measured];
        r->shown[r->n_measured] =
            (struct qn_api_held_out){h->attention, h->ffn, h->sharing, h->nats_per_byte, h->bits_per_byte};
    }
    *out = (struct qn_api_structures){.model = qn_model_info(m)->id,
                                      .context = qn_model_info(m)->context,
                                      .entries = r->to,
                                      .n = r->n,
                                      .held_out = r->shown,
                                      .n_held_out = r->n_measured};
    return true;
}

void qn_handle_structures(struct qn_request *r) {
    const struct qn_registry *g = &r->srv->models;
    struct rows rows[QN_MAX_MODELS] = {{0}};
    struct qn_api_structures list[QN_MAX_MODELS];
    bool ok = true;
    for (uint32_t i = 0; i < g->n; i++) ok = ok && list_structures(g->models[i], &rows[i], &list[i]);
    if (ok) {
        qn_api_structures_write(&r->reply, list, g->n);
        qn_reply_json(r);
    } else {
        qn_reply_fail(r, QN_API_OUT_OF_MEMORY, "no memory for the reply");
    }
    for (uint32_t i = 0; i < g->n; i++) free_rows(&rows[i]);
}
