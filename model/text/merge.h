/* Byte-pair merging of one word: repeatedly joins the neighbouring pair of lowest rank (leftmost first) until
 * no pair merges. O(n log n) for n symbols, whatever they are. Private to model/text; one merger per encode
 * call. */
#ifndef QN_MODEL_TEXT_MERGE_H
#define QN_MODEL_TEXT_MERGE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "model/text/table.h"

/* A symbol of the word, linked to its neighbours by index (QN_NO_ID: none). */
struct qn_sym {
    uint32_t id;
    uint32_t prev, next;
    uint32_t rank;   /* of the pair (this, next), QN_NO_ID when it does not merge */
    uint32_t result; /* what that pair becomes */
};

struct qn_merger {
    struct qn_sym *sym; /* sym[0] is always the word's first symbol; follow .next from there */
    size_t n, cap;
    uint64_t *heap; /* rank << 32 | index, smallest on top; entries may be stale */
    size_t heap_n, heap_cap;
};

void qn_merger_free(struct qn_merger *m); /* releases buffers; a zeroed merger is an empty one */
/* Appends a symbol to the word. QN_OK, QN_ERR_NOMEM, or QN_ERR_TOO_LONG past 2^32 - 2 symbols. */
int qn_merger_push(struct qn_merger *m, uint32_t id);
/* Merges the word in place. QN_OK or QN_ERR_NOMEM. */
int qn_merger_run(struct qn_merger *m, const struct qn_pair_map *pairs);

#endif
