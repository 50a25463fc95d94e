/* Speculation from the prompt: what follows now may be what followed the same tokens before (n-gram lookup in
 * the sequence's own tokens, prompt and output).
 *
 *   tokens -> [index of n-grams, grows with the sequence] -> guess: the tokens after the best earlier place
 *   guesses and how many were right -> [pace] -> how many to guess next
 *
 * A guess costs a row of a step, and is right or wrong by comparison with what the sampler picks: what is
 * guessed, and how much, never shows in an output. Source: Yang et al. 2023, "Inference with Reference"
 * (arXiv 2304.04487); Saxena 2023, "Prompt Lookup Decoding".
 *
 * Pure: no clock, no model. Thread: engine. */
#ifndef QN_SERVER_DRAFT_H
#define QN_SERVER_DRAFT_H

#include <stdbool.h>
#include <stdint.h>

#define QN_DRAFT_MOST    15u /* guesses of one step, at most */
#define QN_DRAFT_NGRAM   8u  /* longest n-gram that a request may ask for */
#define QN_DRAFT_CONTEXT 16u /* tokens before a place that are compared; of equal places the latest wins */
#define QN_DRAFT_PLACES  64u /* earlier places that are looked at: bounds the work of one guess */

/* Places by the hash of the n-gram that ends there, each linked to the one before. */
struct qn_draft_index {
    uint32_t ngram;        /* tokens that have to match at least, 1 .. QN_DRAFT_NGRAM */
    uint32_t n;            /* tokens that it knows */
    uint32_t *link, *head; /* owned, one allocation: [cap + 1], [mask + 1]; a place is the number of tokens
                              before it, 0 = none */
    uint32_t cap, mask;
};
void qn_draft_init(struct qn_draft_index *d, uint32_t ngram);
void qn_draft_free(struct qn_draft_index *d);
/* Adds tokens[d->n, n); those before must be the ones that it knows. Constant work per token (amortised).
 * false: memory is short, nothing was added. */
bool qn_draft_learn(struct qn_draft_index *d, const int32_t *tokens, uint32_t n);
/* Guesses what follows tokens[0, d->n): of the earlier places after the same last n-gram the one with most
 * equal tokens before it, then the latest. Where the guess runs into the end of what is known it goes on with
 * itself. out: room for `most`. Returns the number of guesses: most, or 0. */
uint32_t qn_draft_guess(const struct qn_draft_index *d, const int32_t *tokens, uint32_t most, int32_t *out);

/* How many to guess: twice as many after a run that was all right, one more than were right after another;
 * and after runs with nothing right a rest, which doubles. */
struct qn_draft_pace {
    uint32_t most;   /* as the request says */
    uint32_t length; /* of the next run */
    uint32_t misses; /* runs in a row with nothing right */
    uint32_t rest;   /* tokens to generate before the next run */
};
void qn_draft_pace_init(struct qn_draft_pace *p, uint32_t most);
/* A run of n >= 1 guesses was checked, the first `right` of them were. */
void qn_draft_pace_ran(struct qn_draft_pace *p, uint32_t n, uint32_t right);
/* One token was generated without guesses. */
void qn_draft_pace_rested(struct qn_draft_pace *p);

#endif
