/* What the text of an output must look like, as a mask over the vocabulary before each token.
 *
 *   text of an expression or a grammar -> program (program.c) -> automaton over bytes (automaton.c)
 *   vocabulary -> tree of its tokens' bytes (lexicon.c)
 *   both, for one state of the automaton -> the tokens that may come next, kept with that state (here)
 *
 * A lexicon belongs to a vocabulary and is shared by all its constraints; a constraint belongs to a text and
 * is shared by all outputs that ask for it; a cursor is one output's place. A cursor depends on the output's
 * tokens only: it can be made anew from them at any time.
 *
 * The end of a text is allowed exactly where the text so far is complete. Tokens without text of their own
 * are never allowed. Bounded: preparing a text by counted work, the memory of a constraint, and the work
 * that an output may cause per token on average.
 *
 * Thread: making and freeing on any; masks and cursors of one constraint on one thread at a time. */
#ifndef QN_MODEL_CONSTRAIN_CONSTRAIN_H
#define QN_MODEL_CONSTRAIN_CONSTRAIN_H

#include "model/model.h"

struct qn_lexicon;
struct qn_constraint;

/* ---- vocabulary ---- */
struct qn_lexicon_source {
    uint32_t n; /* tokens */
    const void *ctx;
    struct qn_str_ref (*piece)(const void *ctx, int32_t id); /* text of a token; none: never allowed */
    bool (*ends)(const void *ctx, int32_t id);               /* does it end a text? */
};
/* One reference. QN_OK, QN_ERR_NOMEM, QN_ERR_INVALID (more text than offsets can count). */
int qn_lexicon_new(const struct qn_lexicon_source *src, struct qn_lexicon **out, struct qn_err *err);
void qn_lexicon_unref(struct qn_lexicon *l); /* NULL is fine */

/* ---- constraint ---- */
/* text: an expression that matches whole texts, or with `grammar` rules as in regex.h, one a line. One
 * reference, and one of the constraint's own on l. QN_OK; QN_ERR_INVALID (what is wrong with it);
 * QN_ERR_TOO_LONG (it would take more memory or work than is allowed); QN_ERR_NOMEM. */
int qn_constraint_new(struct qn_lexicon *l, const char *text, size_t n, bool grammar,
                      struct qn_constraint **out, struct qn_err *err);
void qn_constraint_ref(struct qn_constraint *c);
void qn_constraint_unref(struct qn_constraint *c); /* NULL is fine */

/* ---- one output ---- */
struct qn_cursor {
    uint32_t state, age, n; /* after n tokens; age: of the automaton's states */
    bool strips;            /* the first blank of the text is dropped (SentencePiece) */
    bool at_start;          /* no byte of text was there yet */
    uint64_t credit;        /* of work */
    uint32_t paid;          /* places whose share of work is in the credit */
};
void qn_cursor_init(struct qn_cursor *cur, bool strips);
/* The tokens below read: the output's so far, [n]. Of those that the cursor has seen, none may change; fewer
 * than it has seen are walked again. Results: QN_OK, QN_ERR_INVALID (the tokens are not of such a text, or
 * no token can follow), QN_ERR_TOO_LONG (more work than is allowed), QN_ERR_NOMEM. */
struct qn_cursor_at {
    const int32_t *tokens;
    uint32_t n;
};
/* *mask: bit id % 64 of word id / 64 is set for the tokens that may follow; valid until the next call. */
int qn_cursor_mask(struct qn_constraint *c, struct qn_cursor *cur, const struct qn_cursor_at *at,
                   const uint64_t **mask);
/* May this one follow? The same answer as its bit, without making the mask. */
int qn_cursor_allows(struct qn_constraint *c, struct qn_cursor *cur, const struct qn_cursor_at *at,
                     int32_t token, bool *yes);
/* Is the text complete, and can nothing but its end follow? */
int qn_cursor_done(struct qn_constraint *c, struct qn_cursor *cur, const struct qn_cursor_at *at, bool *yes);
/* How many of the n tokens behind *at may follow, one after the other (a guess is worth no more). */
uint32_t qn_cursor_prefix(struct qn_constraint *c, const struct qn_cursor *cur, const struct qn_cursor_at *at,
                          uint32_t n);

#endif
