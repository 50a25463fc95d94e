/* POST /v1/compare. Data flow: body -> tree -> fields, those of an inference through its table -> the rules
 * of the whole; and back: results and borrowed texts -> bytes. Thread: any. */
#include "api/compare.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "api/infer_set.h"
#include "api/infer_write.h"
#include "api/jget.h"
#include "api/jload.h"

#define AT(member) offsetof(struct qn_api_compare, member)

static const struct qn_api_field fields[] = {
    QN_FIELD_AS_INFER("model"),
    {"sequence", QN_FIELD_ONE, 1, 2147483647, false, QN_FOR_ALL, NULL,
     "One sequence: text or an array of token ids.", AT(run.seqs), 0},
    {"structures", QN_FIELD_STRUCTURES, 1, QN_COMPARE_STRUCTURES, false, QN_FOR_ALL, NULL,
     "What to run, in any order; each is an object with attention, ffn, sharing and convert as in an "
     "inference.",
     AT(structures), 0},
    {"baseline", QN_FIELD_U32, 0, QN_COMPARE_STRUCTURES - 1, false, QN_FOR_ALL, "0",
     "Index of the structure that the others are held against.", AT(baseline), 0},
    {"repeats", QN_FIELD_U32, 1, QN_COMPARE_REPEATS, false, QN_FOR_ALL, "5",
     "Measured runs of each structure, after one that is not counted.", AT(repeats), 0},
    {"task", QN_FIELD_TASK, 0, QN_TASK_SCORE, false, QN_FOR_ALL, "\"generate\"",
     "Continue the sequence greedily, or score it.", AT(run.task), 0},
    QN_FIELD_AS_INFER("max_tokens"),
    QN_FIELD_AS_INFER("ignore_eos"),
    QN_FIELD_AS_INFER("convert"),
    {"stream", QN_FIELD_BOOL, 0, 0, false, QN_FOR_ALL, "false",
     "Send an event for every finished run, then the whole reply.", AT(run.stream), 0},
    QN_FIELD_AS_INFER("timeout_ms"),
};
/* Its rows set members of struct qn_api_infer, which is where each structure is read into. */
static const struct qn_api_field structure_fields[] = {
    QN_FIELD_AS_INFER("attention"),
    QN_FIELD_AS_INFER("ffn"),
    QN_FIELD_AS_INFER("sharing"),
    QN_FIELD_AS_INFER("convert"),
};

const struct qn_api_table qn_api_compare_table = {
    "CompareRequest", fields, sizeof fields / sizeof *fields, {"sequence", "structures"}, {NULL}};
const struct qn_api_table qn_api_compare_structure_table = {
    "CompareStructure", structure_fields, sizeof structure_fields / sizeof *structure_fields, {NULL}, {NULL}};

/* ---- request ---- */
void qn_api_compare_init(struct qn_api_compare *r) {
    memset(r, 0, sizeof *r);
    qn_api_infer_init(&r->run);
    r->repeats = 5;
}

void qn_api_compare_free(struct qn_api_compare *r) {
    if (!r) return;
    qn_api_infer_free(&r->run);
    free(r->structures);
    memset(r, 0, sizeof *r);
}

/* Errors of a structure's part name it by its place: structures[2].attention. */
static int at_structure(size_t i, struct qn_api_err *err) {
    struct qn_api_err inner = *err;
    char param[sizeof err->param];
    snprintf(param, sizeof param, "structures[%zu]%s%.40s", i, inner.param[0] ? "." : "", inner.param);
    *err = (struct qn_api_err){.code = QN_API_OK};
    return qn_api_fail(err, inner.code, param, "%s", inner.msg); /* which drops a character that was cut */
}

static int set_structure(json_t *v, struct qn_api_compare_structure *out, struct qn_api_err *err) {
    struct qn_api_infer part;
    char show[QN_JSHOW];
    if (!json_is_object(v))
        return qn_api_fail(err, QN_API_INVALID, "",
                           "a structure must be an object such as {\"attention\":\"mqa\"}, got %s",
                           qn_jshow(v, show));
    qn_api_infer_init(&part);
    if (qn_api_table_read(&qn_api_compare_structure_table, v, &part, NULL, err)) return -1;
    *out = (struct qn_api_compare_structure){part.attention, part.ffn, part.sharing, part.convert};
    return 0;
}

int qn_api_compare_set_structures(struct qn_api_compare *r, const json_t *v, struct qn_api_err *err) {
    size_t n = json_array_size(v);
    char show[QN_JSHOW];
    if (!json_is_array(v))
        return qn_api_fail(err, QN_API_INVALID, "structures",
                           "\"structures\" must be an array of structures, got %s", qn_jshow(v, show));
    if (n < 1 || n > QN_COMPARE_STRUCTURES)
        return qn_api_fail(err, QN_API_INVALID, "structures",
                           "\"structures\" must hold 1 to %u structures, got %zu", QN_COMPARE_STRUCTURES, n);
    r->structures = calloc(n, sizeof *r->structures);
    if (!r->structures) return qn_api_fail(err, QN_API_OUT_OF_MEMORY, "", "out of memory");
    r->n_structures = (uint32_t)n;
    for (size_t i = 0; i < n; i++)
        if (set_structure(json_array_get(v, i), &r->structures[i], err)) return at_structure(i, err);
    return 0;
}

int qn_api_compare_check(const struct qn_api_compare *r, struct qn_api_err *err) {
    if (!r->run.n_seqs)
        return qn_api_fail(err, QN_API_INVALID, "sequence", "\"sequence\" is required: text or token ids");
    if (r->run.batch || r->run.n_seqs > 1)
        return qn_api_fail(err, QN_API_INVALID, "sequence",
                           "a comparison takes one sequence: text or token ids, not a batch");
    if (!r->n_structures)
        return qn_api_fail(err, QN_API_INVALID, "structures",
                           "\"structures\" is required: an array such as "
                           "[{\"attention\":\"gqa\"},{\"attention\":\"mqa\"}]");
    if (r->run.task == QN_TASK_EMBED)
        return qn_api_fail(err, QN_API_INVALID, "task",
                           "\"task\" must be \"generate\" or \"score\" in a comparison");
    if (r->baseline >= r->n_structures)
        return qn_api_fail(err, QN_API_INVALID, "baseline", "\"baseline\" must be in [0, %u], got %u",
                           r->n_structures - 1, r->baseline);
    struct qn_api_infer whole = r->run;
    whole.stream = false; /* which every comparison may be */
    return qn_api_infer_check(&whole, NULL, err);
}

int qn_api_compare_parse(const char *body, size_t len, const struct qn_api_limits *lim,
                         struct qn_api_compare *out, struct qn_api_err *err) {
    struct qn_jbounds bounds = {.max_depth = lim ? lim->max_depth : 0,
                                .max_elements = lim ? lim->max_elements : 0};
    struct qn_jdoc doc;
    qn_api_compare_init(out);
    int rc = qn_jdoc_open(&doc, body, len, &bounds, err);
    if (rc == 0) rc = qn_api_table_read(&qn_api_compare_table, doc.root, out, lim, err);
    if (rc == 0) rc = qn_api_compare_check(out, err);
    if (rc == 0) qn_api_infer_bound(&out->run, lim);
    qn_jdoc_close(&doc);
    return rc;
}

/* ---- reply ---- */
static void add_str(struct qn_buf *b, const char *key, const char *v) {
    qn_buf_str(b, key);
    qn_buf_json_str(b, v, strlen(v));
}

static void add_uint(struct qn_buf *b, const char *key, uint64_t v) {
    qn_buf_str(b, key);
    qn_buf_json_uint(b, v);
}

static void add_num(struct qn_buf *b, const char *key, double v, unsigned digits) {
    qn_buf_str(b, key);
    qn_buf_json_num(b, v, digits);
}

static void add_timings(struct qn_buf *b, const char *key, const struct qn_api_timings *t) {
    qn_buf_str(b, key);
    qn_api_timings_write(b, t);
}

static void write_fidelity(struct qn_buf *b, const struct qn_api_fidelity *f) {
    qn_buf_str(b, ",\"fidelity\":");
    if (!f) {
        qn_buf_str(b, "null");
        return;
    }
    add_num(b, "{\"mean_kl\":", f->mean_kl, 9);
    add_num(b, ",\"top1_agreement\":", f->top1_agreement, 6);
    add_num(b, ",\"bits_per_byte_delta\":", f->bits_per_byte_delta, 6);
    add_uint(b, ",\"positions\":", f->positions);
    qn_buf_str(b, "}");
}

static void write_result(struct qn_buf *b, const struct qn_api_compared *r) {
    qn_buf_str(b, "{\"structure\":");
    qn_api_structure_write(b, &r->structure);
    qn_buf_str(b, ",\"outputs\":[");
    for (uint32_t i = 0; i < r->n_outputs; i++) {
        if (i) qn_buf_str(b, ",");
        qn_api_output_write(b, &r->outputs[i], false);
    }
    add_timings(b, "],\"warmup\":{\"timings\":", &r->warmup);
    qn_buf_str(b, "},\"samples\":[");
    for (uint32_t i = 0; i < r->n_samples; i++) {
        add_timings(b, i ? ",{\"timings\":" : "{\"timings\":", &r->samples[i]);
        qn_buf_str(b, "}");
    }
    add_timings(b, "],\"median\":", &r->median);
    add_timings(b, ",\"spread\":", &r->spread);
    qn_buf_str(b, ",\"memory\":");
    qn_api_memory_write(b, &r->memory);
    qn_buf_str(b, ",\"cost\":");
    qn_api_cost_write(b, &r->cost);
    write_fidelity(b, r->fidelity);
    qn_buf_str(b, "}");
}

void qn_api_compare_write(struct qn_buf *b, const struct qn_api_comparison *r) {
    add_str(b, "{\"id\":", r->id);
    qn_buf_str(b, ",\"object\":\"comparison\",\"created\":");
    qn_buf_json_int(b, r->created);
    add_str(b, ",\"model\":", r->model);
    add_str(b, ",\"task\":", r->task);
    add_uint(b, ",\"baseline\":", r->baseline);
    add_uint(b, ",\"repeats\":", r->repeats);
    qn_buf_str(b, ",\"results\":[");
    for (uint32_t i = 0; i < r->n_results; i++) {
        if (i) qn_buf_str(b, ",");
        write_result(b, &r->results[i]);
    }
    qn_buf_str(b, "],\"usage\":");
    qn_api_usage_write(b, r->prompt_tokens, r->completion_tokens, 0);
    add_num(b, ",\"timings\":{\"tokenize_ms\":", r->tokenize, 3);
    add_num(b, ",\"warmup_ms\":", r->warmup, 3);
    add_num(b, ",\"samples_ms\":", r->samples, 3);
    add_num(b, ",\"fidelity_ms\":", r->fidelity, 3);
    add_num(b, ",\"other_ms\":", r->other, 3);
    add_num(b, ",\"total_ms\":", r->total, 3);
    qn_buf_str(b, "}}");
}

void qn_api_compare_timing(struct qn_buf *b, const struct qn_api_comparison *r) {
    add_num(b, "tokenize;dur=", r->tokenize, 3);
    add_num(b, ", warmup;dur=", r->warmup, 3);
    add_num(b, ", samples;dur=", r->samples, 3);
    add_num(b, ", fidelity;dur=", r->fidelity, 3);
    add_num(b, ", other;dur=", r->other, 3);
    add_num(b, ", total;dur=", r->total, 3);
}

void qn_api_sample_write(struct qn_buf *b, const struct qn_api_sample *s) {
    add_uint(b, "{\"structure\":", s->structure);
    add_uint(b, ",\"sample\":", s->sample);
    add_uint(b, ",\"of\":", s->of);
    qn_buf_str(b, s->warmup ? ",\"warmup\":true" : ",\"warmup\":false");
    add_timings(b, ",\"timings\":", s->timings);
    qn_buf_str(b, "}");
}
