/* How well a model predicts a text: exp of the mean negative log-likelihood over windows of a fixed length.
 *
 *   tokens -[windows of ctx, the first token of each replaced by BOS where the checkpoint wants one]->
 *     state of the first half -> logits of the second -> -log p(next token), summed in double
 *
 * Each window begins with an empty state and only its second half is scored, so that every prediction has
 * context: what llama.cpp's llama-perplexity does, so figures compare. What is left at the end of the text is
 * dropped. Thread: main; the steps run on the model's pool. */
#ifndef QN_SERVER_PERPLEXITY_H
#define QN_SERVER_PERPLEXITY_H

#include "model/model.h"

#define QN_PERPLEXITY_CTX_MIN 4

struct qn_perplexity {
    uint32_t windows; /* that were run */
    uint64_t scored;  /* predictions */
    double nll, nll2; /* sums of -log p (nats) and of its square */
};

struct qn_perplexity_options {
    uint32_t ctx;         /* [QN_PERPLEXITY_CTX_MIN, the model's context] */
    uint32_t windows;     /* at most so many; 0: all */
    uint32_t batch;       /* windows at a time, >= 1 */
    uint32_t step_tokens; /* as the model was opened with, >= batch */
    void (*progress)(void *ctx, const struct qn_perplexity *so_far, uint32_t windows); /* may be NULL */
    void *progress_ctx;
};

/* v is prepared and causal. QN_ERR_INVALID when the text holds no whole window, or for a ctx that can't be;
 * QN_ERR_UNSUPPORTED when a logit is not a number; QN_ERR_NO_STATE, QN_ERR_NOMEM. */
int qn_perplexity_run(struct qn_variant *v, const int32_t *tokens, size_t n,
                      const struct qn_perplexity_options *opt, struct qn_perplexity *out, struct qn_err *err);

/* exp(mean), and its standard error (of the mean, carried through exp); 0 for fewer than two predictions. */
double qn_perplexity_value(const struct qn_perplexity *p);
double qn_perplexity_error(const struct qn_perplexity *p);

#endif
