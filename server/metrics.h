/* Counters, gauges and histograms of /metrics (Prometheus text format 0.0.4). Any thread may record
 * (atomics); the loop thread writes the page. Names are a contract with dashboards: never removed silently.
 * Labels come from fixed lists only, never from a request's text. */
#ifndef QN_SERVER_METRICS_H
#define QN_SERVER_METRICS_H

#include <stddef.h>
#include <stdint.h>

#include "api/buf.h"
#include "api/error.h"

enum qn_counter {
    QN_C_HTTP_REQUESTS = 0, /* quern_http_requests_total */
    QN_C_CONNECTIONS,       /* quern_http_connections_total */
    QN_C_INFER_GENERATE,    /* quern_requests_total{task=…} */
    QN_C_INFER_SCORE,
    QN_C_INFER_EMBED,
    QN_C_INFER_COMPARE,
    QN_C_PROMPT_TOKENS,    /* quern_prompt_tokens_total: run through the model */
    QN_C_CACHED_TOKENS,    /* quern_cached_tokens_total: taken from the prefix cache */
    QN_C_GENERATED_TOKENS, /* quern_generated_tokens_total */
    QN_C_DRAFTED_TOKENS,   /* quern_drafted_tokens_total: guessed (speculation) */
    QN_C_ACCEPTED_TOKENS,  /* quern_accepted_tokens_total: of them, those that were right */
    QN_C_STEPS,            /* quern_steps_total */
    QN_C_PREEMPTIONS,      /* quern_preemptions_total */
    QN_C_CANCELLED_QUEUED, /* quern_cancelled_total{phase="queued"|"prefill"|"decode"} */
    QN_C_CANCELLED_PREFILL,
    QN_C_CANCELLED_DECODE,
    QN_C_TIMEOUTS,    /* quern_timeouts_total */
    QN_C_CONVERSIONS, /* quern_conversions_total */
    QN_C_COUNT
};
enum qn_histogram {                /* seconds; buckets 1 ms … 600 s */
                    QN_H_TTFT = 0, /* quern_time_to_first_token_seconds */
                    QN_H_ITL,      /* quern_inter_token_seconds */
                    QN_H_QUEUE, /* quern_phase_seconds{phase="queue"|"tokenize"|"convert"|"prefill"|"decode"|"finish"}
                                 */
                    QN_H_TOKENIZE,
                    QN_H_CONVERT,
                    QN_H_PREFILL,
                    QN_H_DECODE,
                    QN_H_FINISH,
                    QN_H_TOTAL, /* quern_request_seconds */
                    QN_H_STEP,  /* quern_step_seconds */
                    QN_H_COUNT
};

/* Kept for each model besides, by its place in the registry: quern_model_…{model="…"}. */
enum qn_model_counter {
    QN_MC_REQUESTS = 0, /* quern_model_requests_total */
    QN_MC_REFUSED,      /* quern_model_refused_total: its queue was full */
    QN_MC_PROMPT_TOKENS,
    QN_MC_CACHED_TOKENS,
    QN_MC_GENERATED_TOKENS,
    QN_MC_COUNT
};
#define QN_METRICS_MODELS 16 /* as many as a registry holds */

struct qn_metrics;
struct qn_metrics *qn_metrics_new(void);
void qn_metrics_free(struct qn_metrics *m);
/* All recorders accept m = NULL (then they do nothing). */
void qn_metrics_add(struct qn_metrics *m, enum qn_counter c, uint64_t n);
void qn_metrics_observe(struct qn_metrics *m, enum qn_histogram h, double seconds);
void qn_metrics_refused(struct qn_metrics *m, enum qn_api_code reason); /* quern_refused_total{reason=…} */
void qn_metrics_response(struct qn_metrics *m, unsigned http_status); /* quern_http_responses_total{code=…} */

void qn_metrics_model_add(struct qn_metrics *m, uint32_t model, enum qn_model_counter c, uint64_t n);

/* Appends all of the above in text format 0.0.4. Loop thread. */
void qn_metrics_write(const struct qn_metrics *m, struct qn_buf *out);
/* The counters of models, whose names are given in the registry's order. */
void qn_metrics_models_write(const struct qn_metrics *m, const char *const *names, uint32_t n,
                             struct qn_buf *out);
/* "# HELP" and "# TYPE" lines of one metric. */
void qn_metrics_head(struct qn_buf *out, const char *name, const char *type, const char *help);
/* A label's value, escaped. */
void qn_metrics_label(struct qn_buf *out, const char *value);

#endif
