/* Counters and histograms as arrays of atomics; the page is written from tables of names.
 * Thread: any may record; the loop thread writes. */
#include "server/metrics.h"

#include <stdatomic.h>
#include <stdlib.h>

#define N_BUCKETS 18
static const double bounds[N_BUCKETS] = {0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5,
                                         1,     2.5,    5,     10,   30,    60,   120, 300,  600};
static const char *const bound_names[N_BUCKETS] = {"0.001", "0.0025", "0.005", "0.01",  "0.025", "0.05",
                                                   "0.1",   "0.25",   "0.5",   "1.0",   "2.5",   "5.0",
                                                   "10.0",  "30.0",   "60.0",  "120.0", "300.0", "600.0"};

struct histogram {
    atomic_uint_fast64_t count[N_BUCKETS + 1]; /* not cumulative; last: above all bounds */
    atomic_uint_fast64_t sum_ns;
};

struct qn_metrics {
    atomic_uint_fast64_t counters[QN_C_COUNT];
    atomic_uint_fast64_t models[QN_METRICS_MODELS][QN_MC_COUNT];
    atomic_uint_fast64_t refused[QN_API_CODE_COUNT];
    atomic_uint_fast64_t responses[600]; /* by HTTP status */
    struct histogram histograms[QN_H_COUNT];
};

/* Rows of one metric stand together: HELP and TYPE come with the first. */
static const struct {
    const char *name, *help, *label; /* help NULL: same metric as the row above */
} counter_rows[QN_C_COUNT] = {
    [QN_C_HTTP_REQUESTS] = {"quern_http_requests_total", "HTTP requests whose head was read.", ""},
    [QN_C_CONNECTIONS] = {"quern_http_connections_total", "Accepted connections.", ""},
    [QN_C_INFER_GENERATE] = {"quern_requests_total", "Inference requests by task.", "{task=\"generate\"}"},
    [QN_C_INFER_SCORE] = {"quern_requests_total", NULL, "{task=\"score\"}"},
    [QN_C_INFER_EMBED] = {"quern_requests_total", NULL, "{task=\"embed\"}"},
    [QN_C_INFER_COMPARE] = {"quern_requests_total", NULL, "{task=\"compare\"}"},
    [QN_C_PROMPT_TOKENS] = {"quern_prompt_tokens_total", "Prompt tokens run through a model.", ""},
    [QN_C_CACHED_TOKENS] = {"quern_cached_tokens_total", "Prompt tokens taken from the prefix cache.", ""},
    [QN_C_GENERATED_TOKENS] = {"quern_generated_tokens_total", "Generated tokens.", ""},
    [QN_C_DRAFTED_TOKENS] = {"quern_drafted_tokens_total", "Tokens that were guessed (speculation).", ""},
    [QN_C_ACCEPTED_TOKENS] = {"quern_accepted_tokens_total", "Guessed tokens that were right.", ""},
    [QN_C_STEPS] = {"quern_steps_total", "Steps of the engine.", ""},
    [QN_C_PREEMPTIONS] = {"quern_preemptions_total", "Sequences that gave up their state to older ones.", ""},
    [QN_C_CANCELLED_QUEUED] = {"quern_cancelled_total", "Requests whose client left, by phase.",
                               "{phase=\"queued\"}"},
    [QN_C_CANCELLED_PREFILL] = {"quern_cancelled_total", NULL, "{phase=\"prefill\"}"},
    [QN_C_CANCELLED_DECODE] = {"quern_cancelled_total", NULL, "{phase=\"decode\"}"},
    [QN_C_TIMEOUTS] = {"quern_timeouts_total", "Requests that ran into their deadline.", ""},
    [QN_C_CONVERSIONS] = {"quern_conversions_total", "Weight conversions made for a structure.", ""},
};
static const struct {
    const char *name, *help, *label;
} histogram_rows[QN_H_COUNT] = {
    [QN_H_TTFT] = {"quern_time_to_first_token_seconds", "From a complete request to its first token.", ""},
    [QN_H_ITL] = {"quern_inter_token_seconds", "Between two tokens of an output.", ""},
    [QN_H_QUEUE] = {"quern_phase_seconds", "Time of a request by phase.", "phase=\"queue\","},
    [QN_H_TOKENIZE] = {"quern_phase_seconds", NULL, "phase=\"tokenize\","},
    [QN_H_CONVERT] = {"quern_phase_seconds", NULL, "phase=\"convert\","},
    [QN_H_PREFILL] = {"quern_phase_seconds", NULL, "phase=\"prefill\","},
    [QN_H_DECODE] = {"quern_phase_seconds", NULL, "phase=\"decode\","},
    [QN_H_FINISH] = {"quern_phase_seconds", NULL, "phase=\"finish\","},
    [QN_H_TOTAL] = {"quern_request_seconds", "Whole time of an inference request.", ""},
    [QN_H_STEP] = {"quern_step_seconds", "Time of one step of the engine.", ""},
};

struct qn_metrics *qn_metrics_new(void) {
    return calloc(1, sizeof(struct qn_metrics));
}

void qn_metrics_free(struct qn_metrics *m) {
    free(m);
}

static void bump(atomic_uint_fast64_t *c, uint64_t n) {
    atomic_fetch_add_explicit(c, n, memory_order_relaxed);
}

static uint64_t value(const atomic_uint_fast64_t *c) {
    return atomic_load_explicit(c, memory_order_relaxed);
}

void qn_metrics_add(struct qn_metrics *m, enum qn_counter c, uint64_t n) {
    if (m && (unsigned)c < QN_C_COUNT) bump(&m->counters[c], n);
}

void qn_metrics_model_add(struct qn_metrics *m, uint32_t model, enum qn_model_counter c, uint64_t n) {
    if (m && model < QN_METRICS_MODELS && (unsigned)c < QN_MC_COUNT) bump(&m->models[model][c], n);
}

void qn_metrics_observe(struct qn_metrics *m, enum qn_histogram h, double seconds) {
    if (!m || (unsigned)h >= QN_H_COUNT) return;
    if (!(seconds > 0)) seconds = 0; /* also NaN */
    if (seconds > 1e9) seconds = 1e9;
    unsigned i = 0;
    while (i < N_BUCKETS && seconds > bounds[i]) i++;
    bump(&m->histograms[h].sum_ns, (uint64_t)(seconds * 1e9));
    bump(&m->histograms[h].count[i], 1);
}

void qn_metrics_refused(struct qn_metrics *m, enum qn_api_code reason) {
    if (m && (unsigned)reason < QN_API_CODE_COUNT) bump(&m->refused[reason], 1);
}

void qn_metrics_response(struct qn_metrics *m, unsigned status) {
    if (m && status < 600) bump(&m->responses[status], 1);
}

void qn_metrics_head(struct qn_buf *out, const char *name, const char *type, const char *help) {
    qn_buf_printf(out, "# HELP %s %s\n# TYPE %s %s\n", name, help, name, type);
}

void qn_metrics_label(struct qn_buf *out, const char *s) {
    for (; *s; s++) {
        if (*s == '"' || *s == '\\') qn_buf_add(out, "\\", 1);
        if (*s == '\n')
            qn_buf_str(out, "\\n");
        else
            qn_buf_add(out, s, 1);
    }
}

static void write_histogram(const struct qn_metrics *m, unsigned h, struct qn_buf *out) {
    const char *name = histogram_rows[h].name, *label = histogram_rows[h].label;
    uint64_t total = 0;
    for (unsigned i = 0; i < N_BUCKETS; i++) {
        total += value(&m->histograms[h].count[i]);
        qn_buf_printf(out, "%s_bucket{%sle=\"%s\"} %llu\n", name, label, bound_names[i],
                      (unsigned long long)total);
    }
    total += value(&m->histograms[h].count[N_BUCKETS]);
    qn_buf_printf(out, "%s_bucket{%sle=\"+Inf\"} %llu\n", name, label, (unsigned long long)total);
    char braces[64] = "";
    if (*label) { /* the same label without its comma */
        size_t n = 0;
        braces[n++] = '{';
        for (const char *s = label; s[1] && n < sizeof braces - 2; s++) braces[n++] = *s;
        braces[n++] = '}';
        braces[n] = '\0';
    }
    qn_buf_printf(out, "%s_sum%s %.9f\n", name, braces, (double)value(&m->histograms[h].sum_ns) * 1e-9);
    qn_buf_printf(out, "%s_count%s %llu\n", name, braces, (unsigned long long)total);
}

void qn_metrics_write(const struct qn_metrics *m, struct qn_buf *out) {
    for (unsigned c = 0; c < QN_C_COUNT; c++) {
        if (counter_rows[c].help) qn_metrics_head(out, counter_rows[c].name, "counter", counter_rows[c].help);
        qn_buf_printf(out, "%s%s %llu\n", counter_rows[c].name, counter_rows[c].label,
                      (unsigned long long)value(&m->counters[c]));
    }
    qn_metrics_head(out, "quern_refused_total", "counter", "Requests refused without being run, by reason.");
    for (unsigned i = 0; i < QN_API_CODE_COUNT; i++) {
        uint64_t n = value(&m->refused[i]);
        if (n || i == QN_API_QUEUE_FULL)
            qn_buf_printf(out, "quern_refused_total{reason=\"%s\"} %llu\n",
                          qn_api_code_name((enum qn_api_code)i), (unsigned long long)n);
    }
    qn_metrics_head(out, "quern_http_responses_total", "counter",
                    "HTTP replies by status; 499 stands for a client that left.");
    for (unsigned i = 0; i < 600; i++) {
        uint64_t n = value(&m->responses[i]);
        if (n || i == 200)
            qn_buf_printf(out, "quern_http_responses_total{code=\"%u\"} %llu\n", i, (unsigned long long)n);
    }
    for (unsigned h = 0; h < QN_H_COUNT; h++) {
        if (histogram_rows[h].help)
            qn_metrics_head(out, histogram_rows[h].name, "histogram", histogram_rows[h].help);
        write_histogram(m, h, out);
    }
}

void qn_metrics_models_write(const struct qn_metrics *m, const char *const *names, uint32_t n,
                             struct qn_buf *out) {
    static const struct {
        const char *name, *help;
    } rows[QN_MC_COUNT] = {
        [QN_MC_REQUESTS] = {"quern_model_requests_total", "Inference requests that a model's queue took."},
        [QN_MC_REFUSED] = {"quern_model_refused_total", "Requests refused because a model's queue was full."},
        [QN_MC_PROMPT_TOKENS] = {"quern_model_prompt_tokens_total", "Prompt tokens run through a model."},
        [QN_MC_CACHED_TOKENS] = {"quern_model_cached_tokens_total",
                                 "Prompt tokens taken from a model's prefix cache."},
        [QN_MC_GENERATED_TOKENS] = {"quern_model_generated_tokens_total", "Tokens that a model generated."},
    };
    for (unsigned c = 0; c < QN_MC_COUNT; c++) {
        qn_metrics_head(out, rows[c].name, "counter", rows[c].help);
        for (uint32_t i = 0; i < n && i < QN_METRICS_MODELS; i++) {
            qn_buf_printf(out, "%s{model=\"", rows[c].name);
            qn_metrics_label(out, names[i]);
            qn_buf_printf(out, "\"} %llu\n", (unsigned long long)value(&m->models[i][c]));
        }
    }
}
