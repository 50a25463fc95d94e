/* Replies as a client reads them; see received.h. Data flow: bytes -> tree -> structs that borrow the tree's
 * strings. A reader notes the first thing that is not as it should be, and goes on with zeros. Thread: any.
 */
#include "api/received.h"

#include <jansson.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "api/jload.h"

#define MAX_VALUES  (1u << 22)
#define MAX_OUTPUTS 4096u

struct block {
    struct block *next;
};

struct qn_api_memory_of {
    struct qn_jdoc doc;
    struct block *blocks;
};

struct reader {
    struct qn_api_memory_of *own;
    const char *bad; /* the member that is missing or wrong */
    bool nomem;
};

/* n zeroed things that live as long as the reply. NULL: memory is short. */
static void *take(struct reader *r, size_t n, size_t size) {
    size_t head = (sizeof(struct block) + 15) & ~(size_t)15;
    struct block *b = n <= MAX_VALUES ? calloc(1, head + n * size) : NULL;
    if (!b) {
        r->nomem = true;
        return NULL;
    }
    b->next = r->own->blocks;
    r->own->blocks = b;
    return (char *)b + head;
}

static const json_t *member(struct reader *r, const json_t *o, const char *key, json_type type) {
    const json_t *v = json_object_get(o, key);
    if (v && json_typeof(v) == type) return v;
    if (!r->bad) r->bad = key;
    return NULL;
}

/* A number; not a number for null. */
static double number(struct reader *r, const json_t *o, const char *key) {
    const json_t *v = json_object_get(o, key);
    if (json_is_number(v)) return json_number_value(v);
    if (!json_is_null(v) && !r->bad) r->bad = key;
    return (double)NAN;
}

/* A number where the writer of replies writes null for a negative one. */
static double optional(struct reader *r, const json_t *o, const char *key) {
    double v = number(r, o, key);
    return v >= 0 ? v : -1;
}

static uint64_t count(struct reader *r, const json_t *o, const char *key) {
    double v = number(r, o, key);
    if (v >= 0 && v < 18446744073709549568.0) return (uint64_t)v;
    if (!r->bad) r->bad = key;
    return 0;
}

static uint32_t small_count(struct reader *r, const json_t *o, const char *key, uint32_t most) {
    uint64_t v = count(r, o, key);
    if (v <= most) return (uint32_t)v;
    if (!r->bad) r->bad = key;
    return 0;
}

/* A string, "" for null. */
static const char *string(struct reader *r, const json_t *o, const char *key, size_t *n) {
    const json_t *v = json_object_get(o, key);
    if (!json_is_string(v)) {
        if (!json_is_null(v) && !r->bad) r->bad = key;
        if (n) *n = 0;
        return "";
    }
    if (n) *n = json_string_length(v);
    return json_string_value(v);
}

/* ---- parts of replies ---- */

/* Names are shown on terminals, which obey control characters. */
static bool printable(const char *s) {
    while (*s >= ' ' && *s <= '~') s++;
    return !*s;
}

static const char *name_of(struct reader *r, const json_t *o, const char *key) {
    const char *s = string(r, o, key, NULL);
    if (printable(s)) return s;
    if (!r->bad) r->bad = key;
    return "";
}

static void copy(struct reader *r, char to[24], const char *from, const char *key) {
    size_t n = strlen(from);
    if (n < 24 && printable(from))
        memcpy(to, from, n + 1);
    else if (!r->bad)
        r->bad = key;
}

static void part(struct reader *r, const json_t *o, const char *key, struct qn_api_part *out) {
    json_t *p = json_object_get(o, key), *v;
    const char *name;
    memset(out, 0, sizeof *out);
    copy(r, out->type, string(r, p, "type", NULL), key);
    json_object_foreach(p, name, v) {
        uint32_t i = out->n_params;
        if (!strcmp(name, "type") || json_is_null(v)) continue;
        if (i == QN_API_PARTS) return; /* for show: those of today fit */
        out->params[i].kind = json_is_boolean(v)   ? QN_API_BOOL
                              : json_is_string(v)  ? QN_API_TEXT
                              : json_is_integer(v) ? QN_API_INT
                                                   : QN_API_NUMBER;
        out->params[i].value = json_is_boolean(v) ? (double)json_is_true(v) : json_number_value(v);
        copy(r, out->params[i].name, name, key);
        if (json_is_string(v)) copy(r, out->params[i].text, json_string_value(v), key);
        out->n_params++;
    }
}

static void structure(struct reader *r, const json_t *o, struct qn_api_structure *out) {
    const json_t *s = member(r, o, "structure", JSON_OBJECT);
    part(r, s, "attention", &out->attention);
    part(r, s, "ffn", &out->ffn);
    part(r, s, "sharing", &out->sharing);
    out->origin = name_of(r, s, "origin");
    out->exactness = name_of(r, s, "exactness");
}

static void timings(struct reader *r, const json_t *o, const char *key, struct qn_api_timings *t) {
    const json_t *v = member(r, o, key, JSON_OBJECT);
    *t = (struct qn_api_timings){.queue = number(r, v, "queue_ms"),
                                 .tokenize = number(r, v, "tokenize_ms"),
                                 .convert = number(r, v, "convert_ms"),
                                 .prefill = number(r, v, "prefill_ms"),
                                 .decode = number(r, v, "decode_ms"),
                                 .finish = number(r, v, "finish_ms"),
                                 .total = number(r, v, "total_ms"),
                                 .ttft = optional(r, v, "ttft_ms"),
                                 .compute = number(r, v, "compute_ms"),
                                 .prefill_tps = optional(r, v, "prefill_tokens_per_second"),
                                 .decode_tps = optional(r, v, "decode_tokens_per_second"),
                                 .mean_batch = number(r, v, "mean_batch")};
}

static void memory(struct reader *r, const json_t *o, struct qn_api_memory *m) {
    const json_t *v = member(r, o, "memory", JSON_OBJECT);
    *m = (struct qn_api_memory){.weights = count(r, v, "weights_bytes"),
                                .weights_active = count(r, v, "weights_active_bytes"),
                                .state = count(r, v, "state_bytes"),
                                .state_shared = count(r, v, "state_shared_bytes"),
                                .state_per_token = count(r, v, "state_bytes_per_token"),
                                .scratch = count(r, v, "scratch_bytes"),
                                .rss = count(r, v, "process_rss_bytes")};
}

static void cost(struct reader *r, const json_t *o, struct qn_api_cost *c) {
    const json_t *v = member(r, o, "cost", JSON_OBJECT);
    *c = (struct qn_api_cost){.flops = number(r, v, "analytic_flops"),
                              .bytes = number(r, v, "analytic_bytes"),
                              .gflops = optional(r, v, "achieved_gflops"),
                              .gbytes = optional(r, v, "achieved_gbytes_per_second")};
}

static void score(struct reader *r, const json_t *v, struct qn_api_output *out) {
    struct qn_api_score *s = v ? take(r, 1, sizeof *s) : NULL;
    if (!s) return;
    *s = (struct qn_api_score){.tokens = count(r, v, "tokens"),
                               .bytes = count(r, v, "bytes"),
                               .log_prob = number(r, v, "log_prob"),
                               .bits_per_byte = number(r, v, "bits_per_byte")};
    out->score = s;
}

static void embedding(struct reader *r, const json_t *v, struct qn_api_output *out) {
    size_t n = json_array_size(v);
    float *values = v ? take(r, n ? n : 1, sizeof *values) : NULL;
    if (!values) return;
    for (size_t i = 0; i < n; i++) values[i] = (float)json_number_value(json_array_get(v, i));
    out->embedding = values;
    out->n_embedding = n;
}

/* The outputs of a reply or of a comparison's result: at least one. Their tokens are only counted. */
static const struct qn_api_output *outputs(struct reader *r, const json_t *o, uint32_t *n) {
    const json_t *list = member(r, o, "outputs", JSON_ARRAY);
    size_t many = json_array_size(list);
    struct qn_api_output *out = many && many <= MAX_OUTPUTS ? take(r, many, sizeof *out) : NULL;
    *n = out ? (uint32_t)many : 0;
    if (!out && !r->bad) r->bad = "outputs";
    for (uint32_t i = 0; i < *n; i++) {
        const json_t *v = json_array_get(list, i);
        out[i].index = i;
        out[i].text = string(r, v, "text", &out[i].text_len);
        out[i].n_tokens = json_array_size(member(r, v, "tokens", JSON_ARRAY));
        out[i].finish_reason = string(r, v, "finish_reason", NULL);
        score(r, json_object_get(v, "score"), &out[i]);
        embedding(r, json_object_get(v, "embedding"), &out[i]);
    }
    return out;
}

/* ---- whole replies ---- */

static void infer(struct reader *r, const json_t *o, struct qn_api_reply *out) {
    const json_t *usage = member(r, o, "usage", JSON_OBJECT);
    out->id = string(r, o, "id", NULL);
    out->model = string(r, o, "model", NULL);
    structure(r, o, &out->structure);
    out->outputs = outputs(r, o, &out->n_outputs);
    out->prompt_tokens = count(r, usage, "prompt_tokens");
    out->completion_tokens = count(r, usage, "completion_tokens");
    out->cached_tokens = count(r, usage, "cached_tokens");
    timings(r, o, "timings", &out->timings);
    memory(r, o, &out->memory);
    cost(r, o, &out->cost);
}

static void fidelity(struct reader *r, const json_t *o, struct qn_api_compared *out) {
    const json_t *v = json_object_get(o, "fidelity");
    struct qn_api_fidelity *f = json_is_object(v) ? take(r, 1, sizeof *f) : NULL;
    if (!json_is_null(v) && !json_is_object(v) && !r->bad) r->bad = "fidelity";
    if (!f) return;
    *f = (struct qn_api_fidelity){.positions = count(r, v, "positions"),
                                  .mean_kl = number(r, v, "mean_kl"),
                                  .top1_agreement = number(r, v, "top1_agreement"),
                                  .bits_per_byte_delta = number(r, v, "bits_per_byte_delta")};
    out->fidelity = f;
}

static void compared(struct reader *r, const json_t *v, struct qn_api_compared *out) {
    structure(r, v, &out->structure);
    out->outputs = outputs(r, v, &out->n_outputs);
    timings(r, member(r, v, "warmup", JSON_OBJECT), "timings", &out->warmup);
    timings(r, v, "median", &out->median);
    timings(r, v, "spread", &out->spread);
    memory(r, v, &out->memory);
    cost(r, v, &out->cost);
    fidelity(r, v, out);
}

static void comparison(struct reader *r, const json_t *o, struct qn_api_comparison *out) {
    const json_t *list = member(r, o, "results", JSON_ARRAY);
    size_t n = json_array_size(list);
    struct qn_api_compared *results = n && n <= QN_COMPARE_STRUCTURES ? take(r, n, sizeof *results) : NULL;
    if (!results && !r->bad) r->bad = "results";
    out->id = string(r, o, "id", NULL);
    out->model = string(r, o, "model", NULL);
    out->task = string(r, o, "task", NULL);
    out->repeats = small_count(r, o, "repeats", QN_COMPARE_REPEATS);
    out->results = results;
    out->n_results = results ? (uint32_t)n : 0;
    out->baseline = small_count(r, o, "baseline", out->n_results ? out->n_results - 1 : 0);
    for (uint32_t i = 0; i < out->n_results; i++) compared(r, json_array_get(list, i), &results[i]);
}

static void sample(struct reader *r, const json_t *o, struct qn_api_sample *out) {
    out->structure = small_count(r, o, "structure", QN_COMPARE_STRUCTURES);
    out->sample = small_count(r, o, "sample", QN_COMPARE_REPEATS);
    out->of = small_count(r, o, "of", QN_COMPARE_REPEATS);
    out->warmup = json_is_true(json_object_get(o, "warmup"));
}

static void dispatch(struct reader *r, const json_t *o, struct qn_api_received *out) {
    const json_t *object = json_object_get(o, "object"), *error = json_object_get(o, "error");
    const char *kind = json_is_string(object) ? json_string_value(object) : "";
    if (error) {
        out->kind = QN_GOT_ERROR;
        out->text = string(r, error, "message", &out->text_len);
    } else if (!strcmp(kind, "inference")) {
        out->kind = QN_GOT_REPLY;
        infer(r, o, &out->reply);
    } else if (!strcmp(kind, "comparison")) {
        out->kind = QN_GOT_COMPARISON;
        comparison(r, o, &out->comparison);
    } else if (json_object_get(o, "sample")) {
        out->kind = QN_GOT_SAMPLE;
        sample(r, o, &out->sample);
    } else if (json_object_get(o, "token")) {
        out->kind = QN_GOT_TOKEN;
        out->index = small_count(r, o, "index", MAX_OUTPUTS);
        out->text = string(r, o, "text", &out->text_len);
    }
}

static int verdict(const struct reader *r, struct qn_api_err *err) {
    if (r->nomem) return qn_api_fail(err, QN_API_OUT_OF_MEMORY, "", "out of memory");
    if (!r->bad) return 0;
    return qn_api_fail(err, QN_API_INVALID, r->bad, "\"%s\" is missing in it, or not what it should be",
                       r->bad);
}

static const struct qn_jbounds bounds = {.max_depth = 16, .max_elements = MAX_VALUES, .reply = true};

int qn_api_receive(const char *json, size_t n, struct qn_api_received *out, struct qn_api_err *err) {
    memset(out, 0, sizeof *out);
    struct reader r = {.own = calloc(1, sizeof *r.own)};
    out->own = r.own;
    if (!r.own) return qn_api_fail(err, QN_API_OUT_OF_MEMORY, "", "out of memory");
    if (qn_jdoc_open(&r.own->doc, json, n, &bounds, err)) return -1;
    dispatch(&r, r.own->doc.root, out);
    return verdict(&r, err);
}

void qn_api_received_free(struct qn_api_received *r) {
    if (!r || !r->own) return;
    while (r->own->blocks) {
        struct block *b = r->own->blocks;
        r->own->blocks = b->next;
        free(b);
    }
    qn_jdoc_close(&r->own->doc);
    free(r->own);
    memset(r, 0, sizeof *r);
}

/* ---- what a model can run ---- */

/* The constant of that name: rows outlive the tree. */
static const char *constant(struct reader *r, const json_t *o, const char *key) {
    static const char *const names[] = {"attention", "ffn",   "sharing",   "native",      "converted",
                                        "synthetic", "exact", "untrained", "approximate", "unavailable"};
    const char *s = string(r, o, key, NULL);
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++)
        if (!strcmp(names[i], s)) return names[i];
    return "";
}

static const json_t *model_entry(struct reader *r, const json_t *root, const char *model) {
    const json_t *data = member(r, root, "data", JSON_ARRAY);
    for (size_t i = 0; i < json_array_size(data); i++) {
        const json_t *m = json_array_get(data, i);
        if (!model[0] || !strcmp(string(r, m, "model", NULL), model)) return m;
    }
    return NULL;
}

static int entries(struct reader *r, const json_t *m, struct qn_api_runs *out, struct qn_api_err *err) {
    const json_t *list = member(r, m, "structures", JSON_ARRAY);
    size_t n = json_array_size(list), id_n;
    const char *id = string(r, m, "model", &id_n);
    if (id_n >= sizeof out->model) return qn_api_fail(err, QN_API_INVALID, "model", "its name is too long");
    memcpy(out->model, id, id_n + 1);
    out->rows = n <= MAX_OUTPUTS ? calloc(n ? n : 1, sizeof *out->rows) : NULL;
    if (!out->rows) return qn_api_fail(err, QN_API_OUT_OF_MEMORY, "", "out of memory");
    out->n = n;
    for (size_t i = 0; i < n; i++) {
        const json_t *v = json_array_get(list, i);
        struct qn_api_structure_entry *e = &out->rows[i];
        e->slot = constant(r, v, "slot");
        e->origin = constant(r, v, "origin");
        e->exactness = constant(r, v, "exactness");
        part(r, v, "structure", &e->part);
        e->causal = json_is_true(json_object_get(v, "causal"));
    }
    return verdict(r, err);
}

int qn_api_receive_structures(const char *json, size_t n, struct qn_api_runs *out, struct qn_api_err *err) {
    struct qn_jdoc doc;
    struct reader r = {.bad = NULL};
    int rc = qn_jdoc_open(&doc, json, n, &bounds, err);
    if (rc == 0) {
        const json_t *m = model_entry(&r, doc.root, out->model);
        rc = m ? entries(&r, m, out, err)
               : qn_api_fail(err, QN_API_MODEL_NOT_FOUND, "model", "the server has no model '%.64s'",
                             out->model);
    }
    qn_jdoc_close(&doc);
    if (rc) {
        free(out->rows);
        out->rows = NULL;
        out->n = 0;
    }
    return rc;
}

int qn_api_receive_native(const char *json, size_t n, struct qn_api_structure *own, struct qn_api_err *err) {
    struct qn_jdoc doc;
    struct reader r = {.bad = NULL};
    int rc = qn_jdoc_open(&doc, json, n, &bounds, err);
    if (rc == 0) {
        structure(&r, doc.root, own);
        own->origin = own->exactness = "";
        rc = verdict(&r, err);
    }
    qn_jdoc_close(&doc);
    return rc;
}
