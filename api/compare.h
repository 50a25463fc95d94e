/* POST /v1/compare: request bytes -> struct, and results -> reply bytes. Pure: no I/O, no model knowledge.
 *
 * The fields that a comparison shares with an inference go through the table of api/infer_fields.c, so they
 * have the same types, ranges and messages. Thread: any. */
#ifndef QN_API_COMPARE_H
#define QN_API_COMPARE_H

#include "api/infer.h"

#define QN_COMPARE_STRUCTURES 32u
#define QN_COMPARE_REPEATS    50u
/* Tokens that all runs of one comparison process at most, warm-up and fidelity included. */
#define QN_COMPARE_TOKENS (1u << 18)

struct qn_api_compare_structure {
    struct qn_api_part attention, ffn, sharing;
    bool convert;
};

struct qn_api_compare {
    struct qn_api_infer run; /* first: rows of the inference's table apply. model, sequence, task, max_tokens,
                                ignore_eos, stream, timeout_ms; convert: for all structures */
    struct qn_api_compare_structure *structures; /* owned, [n_structures] */
    uint32_t n_structures;
    uint32_t baseline; /* index */
    uint32_t repeats;  /* measured runs of each structure */
};

/* Defaults; everything else expects a struct that went through this or through parse. */
void qn_api_compare_init(struct qn_api_compare *r);
/* 0, or -1 with *err naming the field. Free with qn_api_compare_free (half-built is fine). */
int qn_api_compare_parse(const char *body, size_t len, const struct qn_api_limits *lim,
                         struct qn_api_compare *out, struct qn_api_err *err);
/* The rules of the whole. 0, or -1 with *err. */
int qn_api_compare_check(const struct qn_api_compare *r, struct qn_api_err *err);
void qn_api_compare_free(struct qn_api_compare *r);

/* ---- reply ---- */
struct qn_api_fidelity { /* against the baseline, both teacher-forced on the baseline's tokens */
    uint64_t positions;
    double mean_kl, top1_agreement, bits_per_byte_delta; /* not a number: null */
};
struct qn_api_compared { /* one structure */
    struct qn_api_structure structure;
    const struct qn_api_output *outputs; /* [n_outputs] */
    uint32_t n_outputs;
    struct qn_api_timings warmup, median, spread; /* spread: interquartile range */
    const struct qn_api_timings *samples;         /* [n_samples] */
    uint32_t n_samples;
    struct qn_api_memory memory;
    struct qn_api_cost cost;                /* of one run */
    const struct qn_api_fidelity *fidelity; /* NULL = null */
};
struct qn_api_comparison {
    const char *id;
    int64_t created;
    const char *model, *task;
    uint32_t baseline, repeats;
    const struct qn_api_compared *results; /* [n_results] */
    uint32_t n_results;
    uint64_t prompt_tokens, completion_tokens;                /* of all runs */
    double tokenize, warmup, samples, fidelity, other, total; /* milliseconds; the others add up to total */
};
void qn_api_compare_write(struct qn_buf *out, const struct qn_api_comparison *r);

/* Value of the Server-Timing header: "tokenize;dur=…, warmup;dur=…, …, total;dur=…". */
void qn_api_compare_timing(struct qn_buf *out, const struct qn_api_comparison *r);

/* One finished run, as a stream tells it: {"structure","sample","of","warmup","timings"}. */
struct qn_api_sample {
    uint32_t structure, sample, of;
    bool warmup;
    const struct qn_api_timings *timings;
};
void qn_api_sample_write(struct qn_buf *out, const struct qn_api_sample *s);

#endif
