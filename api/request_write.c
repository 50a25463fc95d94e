/* A request as a client sends it. Data flow: struct of a table -> JSON of the fields that are not at their
 * default, through the same rows that read it. Thread: any. */
#include "api/request_write.h"

#include <string.h>

#include "api/infer_write.h"

static void write_str(struct qn_buf *b, const char *s) {
    qn_buf_json_str(b, s, strlen(s));
}

static void write_seq(struct qn_buf *b, const struct qn_api_seq *s) {
    if (s->is_ids)
        qn_api_ids_write(b, s->ids, s->n);
    else
        qn_buf_json_str(b, s->text, s->n);
}

static void write_sequence(struct qn_buf *b, const struct qn_api_infer *r) {
    if (!r->batch && r->n_seqs == 1) {
        write_seq(b, &r->seqs[0]);
        return;
    }
    qn_buf_str(b, "[");
    for (uint32_t i = 0; i < r->n_seqs; i++) {
        if (i) qn_buf_str(b, ",");
        write_seq(b, &r->seqs[i]);
    }
    qn_buf_str(b, "]");
}

static void write_stop(struct qn_buf *b, const struct qn_api_infer *r) {
    for (uint32_t i = 0; i < r->n_stop; i++) {
        qn_buf_str(b, i ? "," : "[");
        qn_buf_json_str(b, r->stop[i], r->stop_len[i]);
    }
    qn_buf_str(b, r->n_stop ? "]" : "[]");
}

static void write_speculative(struct qn_buf *b, const struct qn_api_speculative *s) {
    qn_buf_printf(b, "{\"type\":\"%s\",\"max_draft\":%u,\"ngram\":%u}", s->prompt ? "prompt" : "off",
                  s->max_draft, s->ngram);
}

static void write_structures(struct qn_buf *b, const struct qn_api_compare *r) {
    qn_buf_str(b, "[");
    for (uint32_t i = 0; i < r->n_structures; i++) {
        const struct qn_api_compare_structure *s = &r->structures[i];
        struct qn_api_infer one, none;
        qn_api_infer_init(&one);
        qn_api_infer_init(&none);
        one.attention = s->attention;
        one.ffn = s->ffn;
        one.sharing = s->sharing;
        one.convert = s->convert;
        if (i) qn_buf_str(b, ",");
        qn_api_request_write(b, &qn_api_compare_structure_table, &one, &none);
    }
    qn_buf_str(b, "]");
}

static void write_constraint(struct qn_buf *b, const struct qn_api_constraint *c) {
    if (c->kind == QN_CONSTRAIN_REGEX)
        write_str(b, c->text);
    else
        qn_buf_str(b, c->kind == QN_CONSTRAIN_SCHEMA ? c->text : "true"); /* a schema is kept as JSON */
}

static void write_value(struct qn_buf *b, const struct qn_api_field *f, const void *from) {
    const char *at = (const char *)from + f->offset;
    bool yes;
    uint32_t u32;
    uint64_t u64;
    float x;
    switch (f->type) {
    case QN_FIELD_MODEL:
        write_str(b, at);
        return;
    case QN_FIELD_PART:
        qn_api_part_write(b, (const struct qn_api_part *)(const void *)at);
        return;
    case QN_FIELD_BOOL:
        memcpy(&yes, at, sizeof yes);
        qn_buf_str(b, yes ? "true" : "false");
        return;
    case QN_FIELD_U32:
        memcpy(&u32, at, sizeof u32);
        qn_buf_json_uint(b, u32);
        return;
    case QN_FIELD_U64:
        memcpy(&u64, at, sizeof u64);
        qn_buf_json_uint(b, u64);
        return;
    case QN_FIELD_FLOAT:
        memcpy(&x, at, sizeof x);
        qn_buf_json_float(b, x);
        return;
    case QN_FIELD_TASK:
        write_str(b, qn_api_task_name(((const struct qn_api_infer *)from)->task));
        return;
    case QN_FIELD_SEQUENCE:
    case QN_FIELD_ONE:
        write_sequence(b, from);
        return;
    case QN_FIELD_STOP:
        write_stop(b, from);
        return;
    case QN_FIELD_SPECULATIVE:
        write_speculative(b, &((const struct qn_api_infer *)from)->speculative);
        return;
    case QN_FIELD_REGEX:
    case QN_FIELD_SCHEMA:
        write_constraint(b, &((const struct qn_api_infer *)from)->constraint);
        return;
    case QN_FIELD_STRUCTURES:
        write_structures(b, from);
        return;
    default: /* of bodies that no client of ours sends */
        break;
    }
    b->failed = true;
}

static size_t size_of(const struct qn_api_field *f) {
    switch (f->type) {
    case QN_FIELD_BOOL:
        return sizeof(bool);
    case QN_FIELD_U64:
        return sizeof(uint64_t);
    default:
        return sizeof(uint32_t); /* also of a float */
    }
}

/* Whether the field says anything that the default does not. */
static bool is_given(const struct qn_api_field *f, const void *from, const void *defaults) {
    const char *at = (const char *)from + f->offset, *def = (const char *)defaults + f->offset;
    const struct qn_api_infer *r = from;
    bool given = false;
    if (f->given) memcpy(&given, (const char *)from + f->given, sizeof given);
    switch (f->type) {
    case QN_FIELD_MODEL:
    case QN_FIELD_PART: /* whose first member is its name */
        return at[0] != '\0';
    case QN_FIELD_TASK:
        return r->task != QN_TASK_GENERATE;
    case QN_FIELD_SEQUENCE:
    case QN_FIELD_ONE:
        return r->n_seqs > 0;
    case QN_FIELD_STOP:
        return r->n_stop > 0;
    case QN_FIELD_SPECULATIVE:
        return r->speculative.prompt;
    case QN_FIELD_REGEX: /* both rows are of the one constraint */
        return r->constraint.kind == QN_CONSTRAIN_REGEX;
    case QN_FIELD_SCHEMA:
        return r->constraint.kind == QN_CONSTRAIN_JSON || r->constraint.kind == QN_CONSTRAIN_SCHEMA;
    case QN_FIELD_STRUCTURES:
        return true;
    default:
        return given || memcmp(at, def, size_of(f)) != 0;
    }
}

void qn_api_request_write(struct qn_buf *b, const struct qn_api_table *t, const void *from,
                          const void *defaults) {
    const char *before = "{";
    for (size_t i = 0; i < t->n; i++) {
        const struct qn_api_field *f = qn_api_table_row(t, i);
        if (!is_given(f, from, defaults)) continue;
        qn_buf_str(b, before);
        write_str(b, f->name);
        qn_buf_str(b, ":");
        write_value(b, f, from);
        before = ",";
    }
    qn_buf_str(b, before[0] == '{' ? "{}" : "}");
}
