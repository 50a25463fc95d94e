/* Added tokens ("<|im_start|>" and the like), which are found in the raw text before anything else looks at
 * it: leftmost match first, and the longest of those that start there. A trie, walked only from bytes that
 * can start an added token; the walk is bounded by the longest one. Private to model/text; read-only once
 * built. */
#ifndef QN_MODEL_TEXT_ADDED_H
#define QN_MODEL_TEXT_ADDED_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "model/text/table.h"

struct qn_added {
    struct qn_pair_map edges; /* (node, byte) -> child node */
    uint32_t *node_id;        /* the token that ends at a node, QN_NO_ID when none */
    size_t n_nodes, cap;
    bool first[256]; /* bytes that start an added token */
};

struct qn_added_match {
    uint32_t id;
    size_t start, end; /* byte offsets, white space taken by LSTRIP / RSTRIP included */
};

bool qn_added_init(struct qn_added *a); /* false when memory is short */
void qn_added_free(struct qn_added *a);
/* Adds a token's text (an empty one is ignored; one that is there keeps its first id). */
bool qn_added_put(struct qn_added *a, struct qn_str text, uint32_t id);
/* The first match in [from, n) of s; attrs are the tokens' enum qn_tok_attr bits. False when there is none.
 */
bool qn_added_find(const struct qn_added *a, const uint8_t *attrs, struct qn_str s, size_t from,
                   struct qn_added_match *m);
size_t qn_added_bytes(const struct qn_added *a);

#endif
