/* One step: a ragged batch of prefill chunks and decode tokens of many sequences that run the same variant.
 *
 * A span's rows are the next tokens of its sequence; its state must have been reserved for them. What a row's
 * logits are depends on the sequence's tokens alone, bit for bit: not on the other spans, on where the span
 * is cut, or on the thread count (with QN_MATH_PACKED). Thread: engine. */
#ifndef QN_MODEL_BATCH_H
#define QN_MODEL_BATCH_H

#include "model/model.h"

enum qn_math {
    QN_MATH_PACKED = 0, /* generate, score, compare: quern's own kernels, one arithmetic for every M */
    QN_MATH_BLAS        /* embed: OpenBLAS; such sequences are created with use_cache = false */
};
enum qn_want {
    QN_WANT_NONE = 0, /* state only */
    QN_WANT_LAST,     /* logits of the span's last row */
    QN_WANT_ALL,      /* logits of every row */
    QN_WANT_HIDDEN    /* every row's final hidden state (after the last norm), no logits */
};

struct qn_span {
    struct qn_seq *seq;
    const int32_t *tokens; /* [n], each in [0, vocab) */
    uint32_t n;            /* >= 1 */
    enum qn_want want;
    bool snapshot;   /* the last chunk of a prompt: a copy of a fixed-size state before the last row is worth
                        keeping. Who repeats the prompt has only that row to run, for its logits */
    uint32_t drafts; /* < n: so many of the last tokens are guesses. They enter the prefix cache when a later
                        step goes on from them; qn_seq_rewind takes back those that were wrong. For structures
                        that can roll back */
};

struct qn_step {
    struct qn_variant *variant; /* prepared */
    const struct qn_span *spans;
    uint32_t n_spans;
    enum qn_math math;
    /* Called on the engine thread for each wanted row, in order of spans and rows. v: [vocab] logits or
     * [d_model] hidden; valid during the call only, and the callee may overwrite it. pos: the row's absolute
     * position. */
    void (*on_row)(void *ctx, uint32_t span, uint32_t pos, float *v);
    void *ctx;
};

/* QN_ERR_LOST: the weights are gone (qn_model_lost), and what the step computed is not to be believed. Else:
 * runs the step; total rows <= max_step_tokens. QN_OK or a programming error's code; on failure the
 * sequences' lengths are unchanged. Full blocks enter the prefix cache at the end of a successful step. So do
 * copies of fixed-size states, at every multiple of 256 tokens that a span passes (where the span is cut has
 * no say) and where a span asks for one; for those alone the state pool may allocate, and without memory
 * there is no copy. A structure that is not causal runs a sequence in one span: QN_ERR_UNSUPPORTED for a
 * second one. */
int qn_step_run(const struct qn_step *step, struct qn_err *err);

#endif
