/* A vocabulary as a tree of the bytes of its tokens, for asking which tokens an automaton can read.
 *
 * Nodes stand in the order of a walk, and each knows where its subtree ends: one that can't be read is
 * skipped as a whole. It also knows which bytes stand below it and how long the longest way down is, so that
 * subtrees which can be read whatever they hold (the inside of a string) are taken as a whole. Internal to
 * model/constrain/; constrain.h declares how one is made. Thread: any; constant once it is made. */
#ifndef QN_MODEL_CONSTRAIN_LEXICON_H
#define QN_MODEL_CONSTRAIN_LEXICON_H

#include <stdatomic.h>

#include "model/constrain/constrain.h"

#define QN_TOKEN_BYTES 256u /* longer tokens are never allowed */

struct qn_lex_node {
    uint64_t below[2]; /* ASCII bytes of its descendants */
    uint32_t end;      /* the node after its subtree */
    uint32_t first, own,
        last;               /* ids[first .. own) are its own tokens, ids[first .. last) all of the subtree */
    uint16_t depth, height; /* bytes to here; most bytes from here down */
    uint8_t byte;
    bool high; /* a descendant is not ASCII */
};
struct qn_lexicon {
    atomic_int refs;
    uint32_t n_tokens, words;  /* words: of a mask */
    struct qn_lex_node *nodes; /* 0 is the root */
    uint32_t n_nodes, n_ids, longest;
    uint32_t *ids;  /* tokens in the order of their bytes */
    uint32_t *ends; /* tokens that end a text */
    uint32_t n_ends;
    uint32_t *offsets; /* [n_tokens + 1]: each token's bytes in `bytes` */
    char *bytes;
};

#endif
