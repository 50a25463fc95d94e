/* The two hash tables of a vocabulary: token text -> id, and (left symbol, right symbol) -> merge. Both are
 * open addressing with linear probing, filled once and then only read. The hash is seeded at random per
 * table, since the keys come from a file: nothing but speed depends on the seed. Private to model/text. */
#ifndef QN_MODEL_TEXT_TABLE_H
#define QN_MODEL_TEXT_TABLE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "model/text/tokenizer.h"

#define QN_NO_ID UINT32_MAX

/* Text -> id. keys[id] are borrowed and must outlive the table; a text that is put twice keeps its first id.
 */
struct qn_text_table {
    const struct qn_str *keys;
    uint32_t *slot; /* id, QN_NO_ID when empty */
    size_t mask;    /* slots - 1 */
    uint64_t seed;
};

/* Room for count ids; false when memory is short. */
bool qn_text_table_init(struct qn_text_table *t, const struct qn_str *keys, size_t count);
void qn_text_table_free(struct qn_text_table *t);
void qn_text_table_put(struct qn_text_table *t, uint32_t id);
/* The id of n bytes at p, QN_NO_ID when it is not there (or the table was never filled). */
uint32_t qn_text_table_get(const struct qn_text_table *t, const void *p, size_t n);
size_t qn_text_table_bytes(const struct qn_text_table *t);

struct qn_pair {
    uint32_t left, right; /* symbols; left = QN_NO_ID marks an empty slot */
    uint32_t rank;        /* lower merges first */
    uint32_t result;      /* the symbol that both become */
};

struct qn_pair_map {
    struct qn_pair *slot;
    size_t mask, used;
    uint64_t seed;
};

/* Room for at least count pairs without growing; false when memory is short. */
bool qn_pair_map_init(struct qn_pair_map *m, size_t count);
void qn_pair_map_free(struct qn_pair_map *m);
/* Adds a pair, growing as needed; one that is there keeps its first rank. False when memory is short. */
bool qn_pair_map_put(struct qn_pair_map *m, const struct qn_pair *pair);
/* NULL when the pair does not merge. */
const struct qn_pair *qn_pair_map_get(const struct qn_pair_map *m, uint32_t left, uint32_t right);
size_t qn_pair_map_bytes(const struct qn_pair_map *m);

#endif
