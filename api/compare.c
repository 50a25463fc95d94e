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

static const struct qn_api_compare_field fields[] = {
    {"model", NULL, NULL},
    {"sequence", "{'$ref':'#/components/schemas/Sequence'}", "One sequence: text or an array of token ids."},
    {"structures",
     "{'type':'array','minItems':1,'maxItems':32,'items':{'$ref':'#/components/schemas/CompareStructure'}}",
     "What to run, in any order; each is named as in an inference."},
    {"baseline", "{'type':['integer','null'],'minimum':0,'maximum':31,'default':0}",
     "Index of the structure that the others are held against."},
    {"repeats", "{'type':['integer','null'],'minimum':1,'maximum':50,'default':5}",
     "Measured runs of each structure, after one that is not counted."},
    {"task", "{'type':['string','null'],'enum':['generate','score',null],'default':'generate'}",
     "Continue the sequence greedily, or score it."},
    {"max_tokens", NULL, NULL},
    {"ignore_eos", NULL, NULL},
    {"convert", NULL, NULL},
    {"stream", "{'type':['boolean','null'],'default':false}",
     "Send an event for every finished run, then the whole reply."},
    {"timeout_ms", NULL, NULL},
};
#define N_FIELDS (sizeof fields / sizeof fields[0])

const struct qn_api_compare_field *qn_api_compare_fields(size_t *n) {
    *n = N_FIELDS;
    return fields;
}

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
    static const char *const names[] = {"attention", "ffn", "sharing", "convert"};
    struct qn_api_infer part;
    const char *key;
    json_t *item;
    char show[QN_JSHOW];
    if (!json_is_object(v))
        return qn_api_fail(err, QN_API_INVALID, "",
                           "a structure must be an object such as {\"attention\":\"mqa\"}, got %s",
                           qn_jshow(v, show));
    qn_api_infer_init(&part);
    json_object_foreach(v, key, item) {
        size_t i = 0;
        while (i < sizeof names / sizeof *names && strcmp(key, names[i]) != 0) i++;
        if (i == sizeof names / sizeof *names) return qn_junknown(key, names, i, err);
        if (qn_api_infer_set_json(&part, qn_api_infer_field(key), item, NULL, err)) return -1;
    }
    *out = (struct qn_api_compare_structure){part.attention, part.ffn, part.sharing, part.convert};
    return 0;
}

static int set_structures(const json_t *v, struct qn_api_compare *r, struct qn_api_err *err) {
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

static int set_count(const json_t *v, const char *name, uint64_t min, uint64_t max, uint32_t *out,
                     struct qn_api_err *err) {
    uint64_t value;
    if (json_is_null(v)) return 0;
    if (qn_jget_uint(v, name, min, max, &value, err)) return -1;
    *out = (uint32_t)value;
    return 0;
}

static int set_field(const char *key, json_t *v, const struct qn_api_limits *lim, struct qn_api_compare *r,
                     struct qn_api_err *err) {
    const char *names[N_FIELDS];
    size_t i = 0;
    for (size_t k = 0; k < N_FIELDS; k++) names[k] = fields[k].name;
    while (i < N_FIELDS && strcmp(key, names[i]) != 0) i++;
    if (i == N_FIELDS) return qn_junknown(key, names, N_FIELDS, err);
    if (!strcmp(key, "structures")) return set_structures(v, r, err);
    if (!strcmp(key, "baseline")) return set_count(v, key, 0, QN_COMPARE_STRUCTURES - 1, &r->baseline, err);
    if (!strcmp(key, "repeats")) return set_count(v, key, 1, QN_COMPARE_REPEATS, &r->repeats, err);
    return qn_api_infer_set_json(&r->run, qn_api_infer_field(key), v, lim, err);
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
    struct qn_jbounds bounds = {lim ? lim->max_depth : 0, lim ? lim->max_elements : 0};
    struct qn_jdoc doc;
    const char *key;
    json_t *v;
    qn_api_compare_init(out);
    int rc = qn_jdoc_open(&doc, body, len, &bounds, err);
    if (rc == 0) {
        json_object_foreach(doc.root, key, v) {
            rc = set_field(key, v, lim, out, err);
            if (rc) break;
        }
    }
    if (rc == 0) rc = qn_api_compare_check(out, err);
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
