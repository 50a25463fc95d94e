/* Inside of model/state: blocks and their memory (pool.c) as kv.c and prefix.c see them. Thread: engine. */
#ifndef QN_MODEL_STATE_POOL_H
#define QN_MODEL_STATE_POOL_H

#include <stdatomic.h>

#include "model/state/kv.h"
#include "model/state/slab.h"

#define QN_KV_CLASSES 32 /* block sizes with a free list; a further one gives memory back at once */

struct qn_kv_class {
    size_t bytes; /* 0: entry unused */
    struct qn_kv_block *free;
};

struct qn_kv_lru { /* cached blocks, least recently used first */
    struct qn_kv_block *head, *tail;
    size_t bytes;
};

struct qn_kv_pool {
    size_t budget;
    size_t total; /* bytes allocated: used + cached + free */
    struct qn_kv_class classes[QN_KV_CLASSES];
    struct qn_slab *slabs;         /* of blocks in huge pages */
    struct qn_kv_block *spare;     /* headers without data */
    struct qn_kv_lru pages, snaps; /* paged blocks and snapshots; the older head is evicted first */
    size_t begun;                  /* bytes of snapshots that are being made */
    struct qn_kv_seq *seqs;
    struct qn_kv_block **buckets; /* [n_buckets], a power of two */
    size_t n_buckets;
    uint64_t hash_seed, last_uid, clock;
    _Atomic size_t used, cached, blocks_used, blocks_cached, hits_tokens, lookups_tokens;
};

/* A block of that size with one reference, owned by s, not published; zeroed unless its last content had the
 * same salt. NULL: over budget (*rc = QN_ERR_NO_STATE) or out of memory (QN_ERR_NOMEM). */
struct qn_kv_block *qn_kv_block_take(struct qn_kv_pool *p, struct qn_kv_seq *s, size_t bytes, int *rc);
/* Attaches n tokens to a held block and counts them as used. QN_OK, QN_ERR_NO_STATE, QN_ERR_NOMEM. */
int qn_kv_block_add_prefix(struct qn_kv_pool *p, struct qn_kv_block *b, const int32_t *tokens, uint32_t n);
/* Frees them again, of a block that is held and not published. */
void qn_kv_block_drop_prefix(struct qn_kv_pool *p, struct qn_kv_block *b);
/* A cached block becomes the most recently used one. */
void qn_kv_block_touch(struct qn_kv_pool *p, struct qn_kv_block *b);
/* Bytes that a block counts for. */
size_t qn_kv_block_size(const struct qn_kv_block *b);
/* One more holder of a used or cached block. */
void qn_kv_block_ref(struct qn_kv_pool *p, struct qn_kv_block *b, struct qn_kv_seq *s);
/* One holder fewer; the last one's block is cached or freed. The caller has settled the owner. */
void qn_kv_block_unref(struct qn_kv_pool *p, struct qn_kv_block *b);
/* Evicts a cached block: out of the table, to its free list. */
void qn_kv_block_evict(struct qn_kv_pool *p, struct qn_kv_block *b);
/* Gives free blocks back to the system until `bytes` more fit, or all (SIZE_MAX). */
void qn_kv_pool_trim(struct qn_kv_pool *p, size_t bytes);

/* A step of the hashes. */
static inline uint64_t qn_kv_mix(uint64_t h) {
    h ^= h >> 32;
    h *= UINT64_C(0xd6e8feb86659fd93);
    h ^= h >> 29;
    h *= UINT64_C(0xa0761d6478bd642f);
    return h ^ (h >> 32);
}

/* prefix.c: the hash table of published blocks. */
uint64_t qn_kv_hash(const struct qn_kv_pool *p, const struct qn_kv_seq *s, uint64_t before,
                    const int32_t *tokens);
struct qn_kv_block *qn_kv_find(const struct qn_kv_pool *p, const struct qn_kv_seq *s, uint64_t hash,
                               uint64_t parent, const int32_t *tokens);
void qn_kv_insert(struct qn_kv_pool *p, struct qn_kv_block *b, uint64_t hash, uint64_t parent);
void qn_kv_unpublish(struct qn_kv_pool *p, struct qn_kv_block *b);

#endif
