/* POST /v1/infer: request bytes -> struct, and measurements -> reply bytes. Pure: no I/O, no model knowledge;
 * server/job.c translates between these structs and model/.
 *
 * One table of fields (api/infer_fields.c) drives the parser, the ranges, "did you mean", /openapi.json and
 * the options of `quern run`. Thread: any. */
#ifndef QN_API_INFER_H
#define QN_API_INFER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "api/buf.h"
#include "api/error.h"

#define QN_API_PARTS       8
#define QN_API_MAX_STOP    16
#define QN_API_MAX_REGEX   8192  /* bytes */
#define QN_API_MAX_SCHEMA  65536 /* bytes of its compact JSON text */
#define QN_API_MAX_OUTPUTS 64    /* sequences x n of one request */
#define QN_API_MAX_INPUTS  2048  /* sequences of one request that generates nothing */

enum qn_api_kind { QN_API_INT = 0, QN_API_BOOL, QN_API_NUMBER, QN_API_TEXT };
/* {"type": …, name: value, …} or a bare string; mirrors model/model.h's struct qn_part. */
struct qn_api_part {
    char type[24]; /* "" = not given */
    uint32_t n_params;
    struct {
        char name[24];
        enum qn_api_kind kind;
        double value;
        char text[24]; /* QN_API_TEXT */
    } params[QN_API_PARTS];
};

enum qn_api_task { QN_TASK_GENERATE = 0, QN_TASK_SCORE, QN_TASK_EMBED };

#define QN_API_MAX_DRAFT 15
#define QN_API_MAX_NGRAM 8
/* "off", "prompt", or {"type":"prompt","max_draft":8,"ngram":3}. */
struct qn_api_speculative {
    bool prompt;        /* guess from the sequence's own tokens */
    uint32_t max_draft; /* [1, QN_API_MAX_DRAFT] guesses of one step */
    uint32_t ngram;     /* [1, QN_API_MAX_NGRAM] tokens that must have occurred before */
};

struct qn_api_text { /* owned, NUL-terminated; n bytes */
    char *p;
    size_t n;
};
struct qn_api_ids { /* owned; n ids, each >= 0 */
    int32_t *p;
    size_t n;
};

struct qn_api_seq { /* one input sequence: text or ids */
    bool is_ids;
    char *text;   /* owned, UTF-8 as the client sent it, NUL-terminated; n = bytes */
    int32_t *ids; /* owned; n = count; each >= 0 */
    size_t n;
    bool rendered; /* the text came out of a chat template: nothing is put before it */
};

/* What the text of every output must be: anything, a text that a regular expression matches as a whole, any
 * JSON object, or a JSON value that a schema describes. */
enum qn_api_constrain { QN_CONSTRAIN_NONE = 0, QN_CONSTRAIN_REGEX, QN_CONSTRAIN_JSON, QN_CONSTRAIN_SCHEMA };
struct qn_api_constraint {
    enum qn_api_constrain kind;
    char *text; /* owned, NUL-terminated: the expression, or the JSON text of the schema; NULL otherwise */
    size_t n;
    const char *param; /* constant: the field that errors name; NULL: regex or json_schema */
};

struct qn_api_infer {
    char model[65]; /* "" = first loaded */
    struct qn_api_part attention, ffn, sharing;
    bool convert;
    bool batch; /* `sequence` was an array of sequences */
    uint32_t n_seqs;
    struct qn_api_seq *seqs; /* owned */
    enum qn_api_task task;
    bool max_tokens_given;
    uint32_t max_tokens; /* default 64 */
    uint32_t n;          /* continuations of each sequence, default 1 */
    float temperature, top_p, min_p, repetition_penalty, presence_penalty, frequency_penalty;
    uint32_t top_k;
    bool seed_given;
    uint64_t seed;
    uint32_t n_stop;
    char *stop[QN_API_MAX_STOP]; /* owned */
    size_t stop_len[QN_API_MAX_STOP];
    bool logprobs_given;
    uint32_t logprobs;    /* alternatives per token, [0, 20] */
    bool prompt_logprobs; /* generate: of the prompt's tokens as well (never in a request of its own) */
    bool ignore_eos;      /* keep going past end-of-generation tokens (benchmarks) */
    struct qn_api_speculative speculative;
    struct qn_api_constraint constraint;
    bool stream, cache;  /* cache: may use the prefix cache, default true */
    uint32_t timeout_ms; /* 0 = the server's default */
};

struct qn_api_limits {
    uint32_t max_outputs, max_tokens, max_depth, max_elements;
    uint32_t max_inputs; /* given: most sequences, in place of max_outputs */
};

/* Parses and validates a body. depth and element bounds are checked over the raw bytes before a tree is
 * built. 0, or -1 with *err naming the field. Free with qn_api_infer_free (half-built is fine). */
int qn_api_infer_parse(const char *body, size_t len, const struct qn_api_limits *lim,
                       struct qn_api_infer *out, struct qn_api_err *err);
void qn_api_infer_free(struct qn_api_infer *r);

/* ---- reply ---- */
struct qn_api_logprob {
    int32_t id;
    float logprob;
    const char *text;
    size_t text_len;
};
struct qn_api_token { /* one generated (or scored) token */
    struct qn_api_logprob chosen;
    uint32_t n_top;
    const struct qn_api_logprob *top;
};
struct qn_api_speculation {            /* what guessing came to */
    bool asked;                        /* else it is not written */
    uint64_t drafted, accepted, steps; /* guesses, those of them that were right; steps that had any */
    const char *reason;                /* why there could be none, or NULL */
};
struct qn_api_timings { /* milliseconds */
    double queue, tokenize, convert, prefill, decode, finish, total, ttft /* < 0 = null */, compute;
    double prefill_tps, decode_tps; /* tokens per second; < 0 = null */
    uint64_t steps;
    double mean_batch;
    struct qn_api_speculation speculation;
};
struct qn_api_memory {
    uint64_t weights, weights_active, state, state_shared, state_per_token, scratch, rss;
};
struct qn_api_cost {
    double flops, bytes, gflops, gbytes; /* last two: achieved, per second; < 0 = null */
};
struct qn_api_score {
    uint64_t tokens, bytes;
    double log_prob, bits_per_byte;
};
/* How far what ran is from the model's native structure on the same tokens. */
struct qn_api_divergence {
    uint64_t positions; /* 0 = not measured: null */
    double mean_kl, top1_agreement;
};
struct qn_api_output {
    uint32_t index;
    const char *text;
    size_t text_len;
    const int32_t *tokens;
    size_t n_tokens;
    const char *finish_reason; /* "stop" "length" "timeout" "cancelled" "error" */
    const struct qn_api_token *logprobs;
    size_t n_logprobs;                /* NULL = null */
    const struct qn_api_score *score; /* score task, else NULL */
    const float *embedding;
    size_t n_embedding; /* embed task, else NULL */
    struct qn_api_timings timings;
    struct qn_api_memory memory;
    uint64_t prompt_tokens, completion_tokens, cached_tokens;
    struct qn_api_divergence divergence;
    const uint32_t *offsets; /* of logprobs: characters of the text before each; NULL where nobody asks */
};
struct qn_api_structure {
    struct qn_api_part attention, ffn, sharing;
    const char *origin, *exactness;
};
struct qn_api_reply {
    const char *id;
    int64_t created;
    const char *model;
    struct qn_api_structure structure;
    struct qn_api_divergence divergence; /* over the positions of all outputs */
    const struct qn_api_output *outputs;
    uint32_t n_outputs;
    uint64_t prompt_tokens, completion_tokens, cached_tokens;
    struct qn_api_timings timings;
    struct qn_api_memory memory;
    struct qn_api_cost cost;
};
/* The whole reply object (design: {"id","object":"inference",…}); with more than one output each outputs[i]
 * also carries its own timings, memory and divergence. */
void qn_api_infer_write(struct qn_buf *out, const struct qn_api_reply *r);
/* Value of the Server-Timing header: "queue;dur=0.1, tokenize;dur=…, …, total;dur=…". */
void qn_api_server_timing(struct qn_buf *out, const struct qn_api_timings *t);

/* One streamed token: `data: {"index","token","text","logprob"}\n\n`; lp NULL = "logprob":null; with
 * alternatives "top" is added. */
struct qn_api_stream_token {
    uint32_t index;
    int32_t token;
    const char *text;
    size_t text_len;
    const struct qn_api_token *lp;
};
void qn_api_sse_token(struct qn_buf *out, const struct qn_api_stream_token *t);
void qn_api_sse_data(struct qn_buf *out, const char *json, size_t n); /* data: <json>\n\n */
void qn_api_sse_done(struct qn_buf *out);                             /* data: [DONE]\n\n */
void qn_api_sse_ping(struct qn_buf *out);                             /* : ping\n\n */

#endif
