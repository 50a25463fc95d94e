/* The prefix cache's table: published blocks by a chained, seeded hash of all tokens up to their end. The
 * hash only finds; equality of parent, tokens, salt and domain decides, and since the parent is a published
 * block that was itself found so, equality holds for the whole prefix. Thread: engine. */
#include <string.h>

#include "model/state/pool.h"

uint64_t qn_kv_hash(const struct qn_kv_pool *p, const struct qn_kv_seq *s, uint64_t before,
                    const int32_t *tokens) {
    uint64_t h = qn_kv_mix(p->hash_seed ^ before);
    h = qn_kv_mix(h ^ s->salt);
    h = qn_kv_mix(h ^ s->domain);
    for (size_t i = 0; i < QN_KV_BLOCK; i++) h = qn_kv_mix(h ^ (uint32_t)tokens[i] ^ ((uint64_t)i << 32));
    return h;
}

struct qn_kv_block *qn_kv_find(const struct qn_kv_pool *p, const struct qn_kv_seq *s, uint64_t hash,
                               uint64_t parent, const int32_t *tokens) {
    for (struct qn_kv_block *b = p->buckets[hash & (p->n_buckets - 1)]; b; b = b->hash_next) {
        if (b->hash == hash && b->parent == parent && b->salt == s->salt && b->domain == s->domain &&
            b->bytes == s->block_bytes && !b->prefix && memcmp(b->tokens, tokens, sizeof b->tokens) == 0) {
            return b;
        }
    }
    return NULL;
}

void qn_kv_insert(struct qn_kv_pool *p, struct qn_kv_block *b, uint64_t hash, uint64_t parent) {
    struct qn_kv_block **bucket = &p->buckets[hash & (p->n_buckets - 1)];
    b->hash = hash;
    b->parent = parent;
    b->uid = ++p->last_uid;
    b->sealed = QN_KV_BLOCK;
    b->published = true;
    b->hash_next = *bucket;
    *bucket = b;
}

void qn_kv_unpublish(struct qn_kv_pool *p, struct qn_kv_block *b) {
    struct qn_kv_block **at = &p->buckets[b->hash & (p->n_buckets - 1)];
    while (*at && *at != b) at = &(*at)->hash_next;
    if (*at) *at = b->hash_next;
    b->hash_next = NULL;
    b->published = false;
    b->uid = 0;
}
