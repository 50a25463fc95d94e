/* Replies that describe models: GET /v1/models, /v1/models/{id}, /v1/structures. Data flow: facts -> bytes.
 * Thread: any. */
#include "api/models.h"

#include <string.h>

#include "api/infer_write.h"

static void add_str(struct qn_buf *b, const char *key, const char *v) {
    qn_buf_str(b, key);
    if (v && v[0])
        qn_buf_json_str(b, v, strlen(v));
    else
        qn_buf_str(b, "null");
}

static void add_uint(struct qn_buf *b, const char *key, uint64_t v) {
    qn_buf_str(b, key);
    qn_buf_json_uint(b, v);
}

void qn_api_model_write(struct qn_buf *b, const struct qn_api_model *m) {
    const struct {
        const char *key;
        uint64_t v;
    } numbers[] = {
        {",\"parameters\":", m->params_total},
        {",\"parameters_active\":", m->params_active},
        {",\"layers\":", m->layers},
        {",\"d_model\":", m->d_model},
        {",\"heads\":", m->heads},
        {",\"kv_heads\":", m->kv_heads},
        {",\"head_dim\":", m->head_dim},
        {",\"ffn_dim\":", m->ffn_dim},
        {",\"vocabulary\":", m->vocab},
        {",\"context\":", m->context},
        {",\"file_bytes\":", m->file_bytes},
        {",\"weights_bytes\":", m->weights_bytes},
        {",\"state_bytes_per_token\":", m->state_bytes_per_token},
    };
    add_str(b, "{\"id\":", m->id);
    qn_buf_str(b, ",\"object\":\"model\",\"created\":");
    qn_buf_json_int(b, m->created);
    qn_buf_str(b, ",\"owned_by\":\"quern\"");
    add_str(b, ",\"family\":", m->family);
    add_str(b, ",\"format\":", m->format);
    for (size_t i = 0; i < sizeof numbers / sizeof numbers[0]; i++) add_uint(b, numbers[i].key, numbers[i].v);
    add_str(b, ",\"kv_type\":", m->kv_type);
    qn_buf_str(b, ",\"structure\":");
    qn_api_structure_write(b, &m->native);
    qn_buf_str(b, ",\"file_bytes_by_type\":{");
    for (size_t i = 0; i < sizeof m->by_type / sizeof m->by_type[0] && m->by_type[i].name; i++) {
        if (i) qn_buf_str(b, ",");
        qn_buf_json_str(b, m->by_type[i].name, strlen(m->by_type[i].name));
        add_uint(b, ":", m->by_type[i].bytes);
    }
    add_uint(
        b, "},\"embedding\":{\"pooling\":\"mean\",\"of\":\"last hidden state\",\"dimensions\":", m->d_model);
    qn_buf_str(b, ",\"normalized\":false");
    add_uint(b, "},\"state_budget_bytes\":", m->state_budget);
    add_str(b, ",\"chat_template\":", m->chat_template);
    qn_buf_str(b, ",\"structures\":{");
    for (uint32_t i = 0; i < m->n_kinds; i++) {
        const struct qn_api_kind_row *k = &m->kinds[i];
        bool first = i == 0 || strcmp(m->kinds[i - 1].slot, k->slot) != 0;
        if (first) qn_buf_printf(b, "%s\"%s\":{", i ? "}," : "", k->slot);
        if (!first) qn_buf_str(b, ",");
        qn_buf_json_str(b, k->type, strlen(k->type));
        add_str(b, ":", k->exactness);
    }
    qn_buf_str(b, m->n_kinds ? "}}}" : "}}");
}

void qn_api_models_write(struct qn_buf *b, const struct qn_api_model *m, size_t n) {
    qn_buf_str(b, "{\"object\":\"list\",\"data\":[");
    for (size_t i = 0; i < n; i++) {
        if (i) qn_buf_str(b, ",");
        qn_api_model_write(b, &m[i]);
    }
    qn_buf_str(b, "]}");
}

/* State of one sequence by its length, tokens: how it grows, also past this model's context. */
static void write_state_bytes(struct qn_buf *b, const struct qn_api_structure_entry *e) {
    static const uint64_t lengths[] = {1024, 4096, 16384};
    qn_buf_str(b, ",\"state_bytes\":");
    if (strcmp(e->slot, "attention") != 0) {
        qn_buf_str(b, "null");
        return;
    }
    for (size_t i = 0; i < sizeof lengths / sizeof *lengths; i++) {
        add_uint(b, i ? ",{\"tokens\":" : "[{\"tokens\":", lengths[i]);
        add_uint(b, ",\"bytes\":", e->state_fixed_bytes + lengths[i] * e->state_bytes_per_token);
        qn_buf_str(b, "}");
    }
    qn_buf_str(b, "]");
}

static void write_default(struct qn_buf *b, const struct qn_api_rule *r) {
    qn_buf_str(b, ",\"default\":");
    if (!r->has_default)
        qn_buf_str(b, "null");
    else if (r->kind == QN_API_TEXT)
        qn_buf_json_str(b, r->text, strlen(r->text));
    else if (r->kind == QN_API_BOOL)
        qn_buf_str(b, r->value > 0 ? "true" : "false");
    else
        qn_buf_json_num(b, r->value, 0);
}

static void write_rule(struct qn_buf *b, const struct qn_api_rule *r) {
    static const char *const types[] = {"integer", "boolean", "number", "string"};
    add_str(b, "{\"name\":", r->name);
    add_str(b, ",\"type\":", types[r->kind]);
    if (r->kind == QN_API_INT || r->kind == QN_API_NUMBER) {
        qn_buf_str(b, ",\"minimum\":");
        qn_buf_json_num(b, r->min, 0);
        qn_buf_str(b, ",\"maximum\":");
        qn_buf_json_num(b, r->max, 0);
    }
    for (size_t i = 0; r->words && r->words[i]; i++) add_str(b, i ? "," : ",\"values\":[", r->words[i]);
    if (r->words) qn_buf_str(b, "]");
    write_default(b, r);
    qn_buf_str(b, "}");
}

static void write_entry(struct qn_buf *b, const struct qn_api_structure_entry *e) {
    add_str(b, "{\"slot\":", e->slot);
    qn_buf_str(b, ",\"structure\":");
    qn_api_part_write(b, &e->part);
    add_str(b, ",\"origin\":", e->origin);
    add_str(b, ",\"exactness\":", e->exactness);
    add_str(b, ",\"why\":", e->why);
    qn_buf_str(b, e->causal ? ",\"causal\":true" : ",\"causal\":false");
    qn_buf_str(b, e->rollback ? ",\"rollback\":true" : ",\"rollback\":false");
    add_uint(b, ",\"state_bytes_per_token\":", e->state_bytes_per_token);
    add_uint(b, ",\"state_fixed_bytes\":", e->state_fixed_bytes);
    write_state_bytes(b, e);
    qn_buf_str(b, ",\"parameters\":[");
    for (uint32_t i = 0; i < e->n_rules; i++) {
        if (i) qn_buf_str(b, ",");
        write_rule(b, &e->rules[i]);
    }
    qn_buf_str(b, "]}");
}

static void write_held_out(struct qn_buf *b, const struct qn_api_structures *m) {
    qn_buf_str(b, "],\"held_out\":[");
    for (size_t i = 0; i < m->n_held_out; i++) {
        const struct qn_api_held_out *h = &m->held_out[i];
        add_str(b, i ? ",{\"attention\":" : "{\"attention\":", h->attention);
        add_str(b, ",\"ffn\":", h->ffn);
        add_str(b, ",\"sharing\":", h->sharing);
        qn_buf_str(b, ",\"nats_per_byte\":");
        qn_buf_json_num(b, h->nats_per_byte, 6);
        qn_buf_str(b, ",\"bits_per_byte\":");
        qn_buf_json_num(b, h->bits_per_byte, 6);
        qn_buf_str(b, "}");
    }
    qn_buf_str(b, "]");
}

void qn_api_structures_write(struct qn_buf *b, const struct qn_api_structures *m, size_t n) {
    qn_buf_str(b, "{\"object\":\"list\",\"data\":[");
    for (size_t i = 0; i < n; i++) {
        if (i) qn_buf_str(b, ",");
        add_str(b, "{\"model\":", m[i].model);
        add_uint(b, ",\"context\":", m[i].context);
        qn_buf_str(b, ",\"structures\":[");
        for (size_t j = 0; j < m[i].n; j++) {
            if (j) qn_buf_str(b, ",");
            write_entry(b, &m[i].entries[j]);
        }
        write_held_out(b, &m[i]);
        qn_buf_str(b, "}");
    }
    qn_buf_str(b, "]}");
}
