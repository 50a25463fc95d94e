/* From a row of logits to one token. Pure: no state, no allocation; randomness is keyed by (seed, choice,
 * position), so a result never depends on the batch or on how often the sampler ran before. Thread: any. */
#ifndef QN_MODEL_SAMPLE_H
#define QN_MODEL_SAMPLE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define QN_TOP_LOGPROBS 20

struct qn_sampling {
    float temperature;        /* 0 = greedy; [0, 100] */
    uint32_t top_k;           /* 0 = off */
    float top_p;              /* (0, 1]; 1 = off */
    float min_p;              /* [0, 1]; 0 = off */
    float repetition_penalty; /* 1 = off; divides positive and multiplies negative logits of seen tokens */
    float presence_penalty, frequency_penalty; /* 0 = off; over generated tokens */
    uint64_t seed;
    uint32_t top_logprobs; /* [0, QN_TOP_LOGPROBS] */
    bool logprobs;         /* fill logprob (costs a pass over the vocabulary) */
};

struct qn_token_logprob {
    int32_t id;
    float logprob;
};
struct qn_sampled {
    int32_t id;
    float logprob; /* natural log of the untempered, unpenalised distribution; 0 unless asked */
    uint32_t n_top;
    struct qn_token_logprob top[QN_TOP_LOGPROBS]; /* most likely first; ties: lowest id */
};

/* Work memory the sampler needs for a vocabulary, bytes. */
size_t qn_sample_work_bytes(uint32_t vocab);
/* logits [vocab] may be overwritten. history: prompt + generated tokens (repetition penalty looks at all of
 * it), of which the last n_generated were generated. Ties go to the lowest id. */
struct qn_sample_input {
    float *logits;
    uint32_t vocab;
    const int32_t *history;
    uint32_t n_history, n_generated;
    uint32_t choice;   /* index of this continuation within its prompt */
    uint32_t position; /* absolute position of the new token */
    void *work;
    const uint64_t *mask; /* tokens that may be given: bit id % 64 of word id / 64, one at least; NULL: all */
};
void qn_sample(const struct qn_sampling *p, const struct qn_sample_input *in, struct qn_sampled *out);

/* The first of the largest logits; a NaN counts as -inf, infinities as the largest finite values. n > 0. */
uint32_t qn_argmax(const float *logits, uint32_t n);

/* Log-probability of `id` and the top alternatives, for score and echo; logits are not changed. */
void qn_logprob_of(const float *logits, uint32_t vocab, int32_t id, uint32_t n_top, struct qn_sampled *out);

#endif
