/* Snapshots: cached copies of fixed states, each with all the tokens that led to it.
 *
 *   begin -> the caller copies the state, layer by layer as the step reaches them -> end: cached
 *   restore: the longest one that begins a sequence -> copied back
 *
 * They stand in the hash table of published blocks under the chained hash of their tokens, 16 at a time,
 * rounded down: whoever looks for one walks its own tokens 16 at a time and compares all tokens of what it
 * finds. See kv.h for the rules. Thread: engine. */
#include <string.h>

#include "model/state/pool.h"

#define FIRST_HASH UINT64_C(0x5ea50a5c0f1d2e3b) /* keeps the chains apart from those of paged blocks */

static bool is_snapshot(const struct qn_kv_block *b, const struct qn_kv_seq *s, uint64_t hash) {
    return b->prefix && b->hash == hash && b->salt == s->salt && b->domain == s->domain &&
           b->bytes == s->fixed_bytes;
}

/* The longest one in the range that begins tokens, or NULL; *end_hash: that of tokens[0, most) rounded down.
 */
static struct qn_kv_block *find(const struct qn_kv_seq *s, const int32_t *tokens, struct qn_kv_range r,
                                uint64_t *end_hash) {
    const struct qn_kv_pool *p = s->pool;
    struct qn_kv_block *best = NULL;
    uint64_t hash = FIRST_HASH;
    for (uint32_t at = 0;; at += QN_KV_BLOCK) {
        struct qn_kv_block *b = at + QN_KV_BLOCK > r.least ? p->buckets[hash & (p->n_buckets - 1)] : NULL;
        for (; b; b = b->hash_next) {
            if (!is_snapshot(b, s, hash)) continue;
            uint32_t n = b->n_prefix;
            if (n < r.least || n > r.most || n % r.unit != 0 || (best && n <= best->n_prefix)) continue;
            if (memcmp(b->prefix, tokens, (size_t)n * sizeof *tokens) == 0) best = b;
        }
        if (r.most - at < QN_KV_BLOCK) break;
        hash = qn_kv_hash(p, s, hash, tokens + at);
    }
    *end_hash = hash;
    return best;
}

/* Evicts snapshots, the least recently used first, until `bytes` more keep to their half of the budget. */
static void bound(struct qn_kv_pool *p, size_t bytes) {
    while (p->snaps.head && p->snaps.bytes > p->budget / 2 - bytes) qn_kv_block_evict(p, p->snaps.head);
}

struct qn_kv_block *qn_kv_snapshot_begin(struct qn_kv_seq *s, const int32_t *tokens, uint32_t n) {
    struct qn_kv_pool *p = s->pool;
    uint32_t past = n % QN_SNAPSHOT_TOKENS;
    size_t bytes = s->fixed_bytes + (size_t)n * sizeof *tokens;
    uint64_t hash;
    int rc;
    if (s->block_bytes && n % QN_KV_BLOCK != 0) return NULL; /* no block ends there: not to be found */
    if (n == 0 || (past > 0 && past < QN_SNAPSHOT_GAP) || bytes > p->budget / 2) return NULL;
    struct qn_kv_block *b = find(s, tokens, (struct qn_kv_range){n, n, 1}, &hash);
    if (b) {
        qn_kv_block_touch(p, b);
        return NULL;
    }
    bound(p, bytes);
    b = qn_kv_block_take(p, s, s->fixed_bytes, &rc);
    if (!b) return NULL;
    b->owner = NULL;
    b->hash = hash;
    if (qn_kv_block_add_prefix(p, b, tokens, n)) {
        qn_kv_block_unref(p, b);
        return NULL;
    }
    return b;
}

void qn_kv_snapshot_end(struct qn_kv_pool *p, struct qn_kv_block *b, bool keep) {
    struct qn_kv_seq key = {.pool = p, .fixed_bytes = b->bytes, .salt = b->salt, .domain = b->domain};
    uint64_t hash;
    /* Two sequences of one step may have reached the same point. */
    if (!keep || find(&key, b->prefix, (struct qn_kv_range){b->n_prefix, b->n_prefix, 1}, &hash)) {
        qn_kv_block_drop_prefix(p, b);
    } else {
        bound(p, qn_kv_block_size(b));
        qn_kv_insert(p, b, b->hash, 0);
    }
    qn_kv_block_unref(p, b);
}

uint32_t qn_kv_restore(struct qn_kv_seq *s, const int32_t *tokens, struct qn_kv_range r) {
    struct qn_kv_pool *p = s->pool;
    uint64_t hash;
    int rc;
    if (r.most < r.least) return 0;
    struct qn_kv_block *b = find(s, tokens, r, &hash);
    if (!b) return 0;
    uint32_t n = b->n_prefix;
    qn_kv_block_ref(p, b, s); /* what is used is not evicted */
    if (!s->fixed) s->fixed = qn_kv_block_take(p, s, s->fixed_bytes, &rc);
    if (!s->fixed) {
        qn_kv_unpublish(p, b);
        qn_kv_block_drop_prefix(p, b);
        b->sealed = 0;
        s->fixed = b;
        return n;
    }
    memcpy(s->fixed->data, b->data, b->bytes);
    qn_kv_block_unref(p, b);
    return n;
}
