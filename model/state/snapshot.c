/* Snapshots: cached copies of fixed states, each with all the tokens that led to it.
 *
 *   begin -> the caller copies the state, layer by layer as the step reaches them -> end: cached
 *   restore: the longest one that begins a sequence -> copied back
 *
 * They stand in the hash table of published blocks under a hash of all their tokens, chained token by token:
 * whoever looks for one walks its own tokens and compares all tokens of what it finds at each length.
 * See kv.h for the rules. Thread: engine. */
#include <string.h>

#include "model/state/pool.h"

#define FIRST_HASH UINT64_C(0x5ea50a5c0f1d2e3b) /* keeps the chains apart from those of paged blocks */

static uint64_t hash_start(const struct qn_kv_seq *s) {
    uint64_t h = qn_kv_mix(s->pool->hash_seed ^ FIRST_HASH);
    return qn_kv_mix(qn_kv_mix(h ^ s->salt) ^ s->domain);
}

static uint64_t hash_next(uint64_t h, int32_t token) {
    return qn_kv_mix(h ^ (uint32_t)token);
}

/* The snapshot of s after tokens[0, n), whose hash is given, or NULL. */
static struct qn_kv_block *lookup(const struct qn_kv_seq *s, uint64_t hash, const int32_t *tokens,
                                  uint32_t n) {
    const struct qn_kv_pool *p = s->pool;
    for (struct qn_kv_block *b = p->buckets[hash & (p->n_buckets - 1)]; b; b = b->hash_next) {
        if (b->hash == hash && b->prefix && b->n_prefix == n && b->salt == s->salt &&
            b->domain == s->domain && b->bytes == s->fixed_bytes &&
            memcmp(b->prefix, tokens, (size_t)n * sizeof *tokens) == 0)
            return b;
    }
    return NULL;
}

/* The longest one in the range that begins tokens, or NULL. */
static struct qn_kv_block *find(const struct qn_kv_seq *s, const int32_t *tokens, struct qn_kv_range r) {
    struct qn_kv_block *best = NULL;
    uint64_t hash = hash_start(s);
    for (uint32_t n = 1; n <= r.most; n++) {
        hash = hash_next(hash, tokens[n - 1]);
        if (n < r.least || n % r.unit != 0) continue;
        struct qn_kv_block *b = lookup(s, hash, tokens, n);
        if (b) best = b;
    }
    return best;
}

/* Whether `more` later copies, each at most QN_SNAPSHOT_TOKENS longer than the one before, leave one of
 * `bytes` after n tokens its place in the snapshots' half of the budget. */
static bool outlives(const struct qn_kv_seq *s, uint32_t n, size_t bytes, uint32_t more) {
    size_t longest = ((size_t)n + (size_t)more * QN_SNAPSHOT_TOKENS) * sizeof(int32_t);
    return more == 0 || (s->pool->budget / 2 - bytes) / more >= s->fixed_bytes + longest;
}

struct qn_kv_block *qn_kv_snapshot_begin(struct qn_kv_seq *s, const int32_t *tokens, uint32_t n,
                                         uint32_t more) {
    struct qn_kv_pool *p = s->pool;
    uint32_t past = n % QN_SNAPSHOT_TOKENS;
    size_t bytes = s->fixed_bytes + (size_t)n * sizeof *tokens, half = p->budget / 2;
    uint64_t hash = hash_start(s);
    int rc;
    if (s->block_bytes && n % QN_KV_BLOCK != 0) return NULL; /* no block ends there: not to be found */
    if (n == 0 || (past > 0 && past < QN_SNAPSHOT_GAP) || bytes > half || p->begun > half - bytes)
        return NULL;
    if (!outlives(s, n, bytes, more)) return NULL;
    for (uint32_t i = 0; i < n; i++) hash = hash_next(hash, tokens[i]);
    struct qn_kv_block *b = lookup(s, hash, tokens, n);
    if (b) {
        qn_kv_block_touch(p, b);
        return NULL;
    }
    while (p->snaps.head && p->snaps.bytes > half - bytes - p->begun) qn_kv_block_evict(p, p->snaps.head);
    b = qn_kv_block_take(p, s, s->fixed_bytes, &rc);
    if (!b) return NULL;
    b->owner = NULL;
    b->hash = hash;
    if (qn_kv_block_add_prefix(p, b, tokens, n)) {
        qn_kv_block_unref(p, b);
        return NULL;
    }
    p->begun += bytes;
    return b;
}

void qn_kv_snapshot_end(struct qn_kv_pool *p, struct qn_kv_block *b) {
    struct qn_kv_seq key = {.pool = p, .fixed_bytes = b->bytes, .salt = b->salt, .domain = b->domain};
    p->begun -= qn_kv_block_size(b);
    /* Two sequences of one step may have reached the same point. */
    if (lookup(&key, b->hash, b->prefix, b->n_prefix)) {
        qn_kv_block_drop_prefix(p, b);
    } else {
        qn_kv_insert(p, b, b->hash, 0);
    }
    qn_kv_block_unref(p, b);
}

uint32_t qn_kv_restore(struct qn_kv_seq *s, const int32_t *tokens, struct qn_kv_range r) {
    struct qn_kv_pool *p = s->pool;
    int rc;
    struct qn_kv_block *b = find(s, tokens, r);
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
