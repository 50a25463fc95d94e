/* A weight block as a list of its tensors, for everything that treats them alike: averages over layers, and
 * bytes that count what several blocks refer to once. Pure but for the sums' own list. Thread: any. */
#ifndef QN_MODEL_BLOCKS_H
#define QN_MODEL_BLOCKS_H

#include "model/load/checkpoint.h"

/* One tensor of a block: a matrix, or a vector. */
struct qn_block_item {
    struct qn_matrix *m; /* NULL: a vector */
    float **v;           /* [n] */
    size_t n;            /* floats of the vector; 0 when it is absent */
    /* What one token reads of it: read of every `of` equal parts. */
    uint32_t read, of;
    bool drawn; /* a random draw and not a trained weight: has no mean */
};

#define QN_ATTN_ITEMS 15
/* Tensors of a block of the checkpoint's member, absent ones included, in an order that is the same for all
 * blocks of the member. out NULL: only counts. projections: also E and F, or directions; else they count as
 * absent. */
size_t qn_attn_items(const struct qn_spec *spec, uint32_t member, bool projections, struct qn_attn_weights *w,
                     struct qn_block_item *out);
size_t qn_ffn_items(const struct qn_spec *spec, struct qn_ffn_weights *w, struct qn_block_item *out);

/* Where an item's values are (NULL: absent), and how many bytes they take. */
const void *qn_block_data(const struct qn_block_item *item);
size_t qn_block_bytes(const struct qn_block_item *item);

/* A sum over tensors in which each counts once, however often it is added. Zero to begin with. */
struct qn_distinct {
    struct qn_distinct_entry {
        const void *data;
        size_t bytes, active; /* active: of them, what one token reads */
    } * entries;
    size_t n, cap;
    bool failed; /* no memory for the list */
};
void qn_distinct_add(struct qn_distinct *d, const void *data, size_t bytes, size_t active);
/* The block's items, each with its own share for a token. */
void qn_distinct_attn(struct qn_distinct *d, const struct qn_spec *spec, uint32_t member, bool projections,
                      const struct qn_attn_weights *w);
/* With the FFN's matrices all active; experts are the caller's to correct. */
void qn_distinct_ffn(struct qn_distinct *d, const struct qn_spec *spec, const struct qn_ffn_weights *w);
/* Adds up and frees the list. */
void qn_distinct_finish(struct qn_distinct *d, size_t *bytes, size_t *active);

#endif
