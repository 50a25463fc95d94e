/* A sequence's table of blocks and its fixed state: reserve, copy on write, share, match, publish, account.
 * See kv.h for the rules. Thread: engine. */
#include "model/state/kv.h"

#include <stdlib.h>
#include <string.h>

#include "kernels/mem.h"
#include "model/state/pool.h"

static uint32_t blocks_for(const struct qn_kv_seq *s, uint32_t tokens) {
    return s->block_bytes ? tokens / QN_KV_BLOCK + (tokens % QN_KV_BLOCK != 0) : 0;
}

void qn_kv_seq_init(struct qn_kv_seq *s, struct qn_kv_pool *p, size_t block_bytes, size_t fixed_bytes,
                    uint64_t salt, uint64_t domain) {
    memset(s, 0, sizeof *s);
    s->pool = p;
    s->block_bytes = block_bytes;
    s->fixed_bytes = fixed_bytes;
    s->salt = salt;
    s->domain = domain;
    s->next = p->seqs;
    if (s->next) s->next->prev = s;
    p->seqs = s;
}

void qn_kv_seq_done(struct qn_kv_seq *s) {
    qn_kv_truncate(s, 0);
    if (s->prev) {
        s->prev->next = s->next;
    } else {
        s->pool->seqs = s->next;
    }
    if (s->next) s->next->prev = s->prev;
    free(s->entries);
    free(s->data);
    memset(s, 0, sizeof *s);
}

/* --- the table --- */
static bool grow(struct qn_kv_seq *s, uint32_t n) {
    if (n <= s->cap) return true;
    uint32_t cap = s->cap ? s->cap : 8;
    while (cap < n) cap = cap > UINT32_MAX / 2 ? n : cap * 2;
    size_t bytes;
    if (!qn_size_mul(cap, sizeof *s->entries, &bytes)) return false;
    struct qn_kv_entry *entries = realloc(s->entries, bytes);
    if (!entries) return false;
    s->entries = entries;
    uint8_t **data = realloc(s->data, cap * sizeof *data);
    if (!data) return false;
    s->data = data;
    s->cap = cap;
    return true;
}

static size_t held(const struct qn_kv_seq *s) {
    return s->n * s->block_bytes + (s->fixed ? s->fixed_bytes : 0);
}

static void note_peak(struct qn_kv_seq *s) {
    if (held(s) < s->peak) return;
    s->peak = held(s);
    s->peak_shared = s->shared * s->block_bytes;
}

static void set_entry(struct qn_kv_seq *s, uint32_t i, struct qn_kv_block *b) {
    s->entries[i] = (struct qn_kv_entry){.block = b, .generation = b->generation};
    s->data[i] = b->data;
}

/* Makes another holder of b the one that counts it. Holders have a block at the same place of their tables,
 * since a block stands for fixed positions. */
static void pass_on(struct qn_kv_seq *from, uint32_t i) {
    struct qn_kv_block *b = from->entries[i].block;
    for (struct qn_kv_seq *s = from->pool->seqs; s; s = s->next) {
        if (s == from || i >= s->n || s->entries[i].block != b) continue;
        b->owner = s;
        s->shared--;
        return;
    }
}

/* Gives up the block of entry i; the entry itself is the caller's to overwrite or cut off. */
static void leave(struct qn_kv_seq *s, uint32_t i) {
    struct qn_kv_block *b = s->entries[i].block;
    if (b->owner != s) {
        s->shared--;
    } else if (b->refs > 1) {
        pass_on(s, i);
    }
    qn_kv_block_unref(s->pool, b);
}

static bool slot_writable(const struct qn_kv_seq *s, uint32_t i, uint32_t slot) {
    const struct qn_kv_entry *e = &s->entries[i];
    const struct qn_kv_block *b = e->block;
    if (b->generation != e->generation || b->published) return false;
    return b->refs == 1 || (b->owner == s && slot >= b->sealed);
}

/* The open block must be replaced by a copy before slot length % 16 can be written. A published one that
 * nobody else holds only has to leave the cache. */
static bool must_copy(const struct qn_kv_seq *s, uint32_t length) {
    uint32_t i = length / QN_KV_BLOCK;
    return i < s->n && s->entries[i].block->refs > 1 && !slot_writable(s, i, length % QN_KV_BLOCK);
}

size_t qn_kv_need(const struct qn_kv_seq *s, uint32_t length, uint32_t to) {
    if (to <= length) return 0;
    uint32_t n = blocks_for(s, to);
    size_t fresh = n > s->n ? n - s->n : 0;
    return (fresh + (must_copy(s, length) ? 1 : 0)) * s->block_bytes + (s->fixed ? 0 : s->fixed_bytes);
}

/* The fixed state of an empty sequence. */
static int take_fixed(struct qn_kv_seq *s) {
    int rc;
    s->fixed = qn_kv_block_take(s->pool, s, s->fixed_bytes, &rc);
    if (s->fixed) memset(s->fixed->data, 0, s->fixed->bytes);
    return rc;
}

static void give_fixed(struct qn_kv_seq *s) {
    if (s->fixed) qn_kv_block_unref(s->pool, s->fixed);
    s->fixed = NULL;
}

static int copy_open(struct qn_kv_seq *s, uint32_t i) {
    int rc;
    struct qn_kv_block *from = s->entries[i].block;
    struct qn_kv_block *b = qn_kv_block_take(s->pool, s, s->block_bytes, &rc);
    if (!b) return rc;
    memcpy(b->data, from->data, b->bytes);
    memcpy(b->tokens, from->tokens, sizeof b->tokens);
    leave(s, i);
    set_entry(s, i, b);
    return QN_OK;
}

/* Blocks for slots [length, to), and a copy of the open one where it must be. All or nothing. */
static int reserve_blocks(struct qn_kv_seq *s, uint32_t length, uint32_t to) {
    uint32_t n = blocks_for(s, to), before = s->n, open = length / QN_KV_BLOCK;
    if (!grow(s, n)) return QN_ERR_NOMEM;
    int rc = QN_OK;
    while (s->n < n) {
        struct qn_kv_block *b = qn_kv_block_take(s->pool, s, s->block_bytes, &rc);
        if (!b) break;
        set_entry(s, s->n++, b);
    }
    if (rc == QN_OK && must_copy(s, length)) rc = copy_open(s, open);
    if (rc != QN_OK) {
        while (s->n > before) leave(s, --s->n);
        return rc;
    }
    struct qn_kv_block *b = s->entries[open].block;
    if (b->published) {
        qn_kv_unpublish(s->pool, b);
        b->sealed = 0;
        s->entries[open].uid = 0;
    }
    return QN_OK;
}

int qn_kv_reserve(struct qn_kv_seq *s, uint32_t length, uint32_t to) {
    if (to <= length) return QN_OK;
    size_t need = qn_kv_need(s, length, to), used = atomic_load(&s->pool->used);
    if (need > 0 && (need > s->pool->budget || used > s->pool->budget - need)) return QN_ERR_NO_STATE;
    bool first = s->fixed_bytes && !s->fixed;
    int rc = first ? take_fixed(s) : QN_OK;
    if (rc == QN_OK && s->block_bytes) rc = reserve_blocks(s, length, to);
    if (rc != QN_OK && first) give_fixed(s);
    if (rc == QN_OK) note_peak(s);
    return rc;
}

bool qn_kv_writable(const struct qn_kv_seq *s, uint32_t length, uint32_t to) {
    uint32_t n = blocks_for(s, to);
    if (n > s->n || (s->fixed_bytes && !s->fixed)) return false;
    for (uint32_t i = 0; i < n && i < length / QN_KV_BLOCK; i++) {
        if (s->entries[i].generation != s->entries[i].block->generation) return false;
    }
    for (uint32_t i = length / QN_KV_BLOCK; i < n; i++) {
        uint32_t first = i * QN_KV_BLOCK;
        if (!slot_writable(s, i, length > first ? length - first : 0)) return false;
    }
    return true;
}

void qn_kv_set_tokens(struct qn_kv_seq *s, uint32_t length, const int32_t *tokens, uint32_t n) {
    for (uint32_t t = 0; s->block_bytes && t < n; t++) {
        uint32_t p = length + t;
        s->entries[p / QN_KV_BLOCK].block->tokens[p % QN_KV_BLOCK] = tokens[t];
    }
}

void qn_kv_truncate(struct qn_kv_seq *s, uint32_t length) {
    uint32_t n = blocks_for(s, length);
    if (length == 0) give_fixed(s);
    /* From the end: of equally recent cached blocks the deepest go first, since nothing is found behind a
     * gap. */
    while (s->n > n) leave(s, --s->n);
    if (length % QN_KV_BLOCK != 0 && s->n > 0) s->entries[s->n - 1].uid = 0;
}

/* --- sharing --- */
static void adopt(struct qn_kv_seq *s, struct qn_kv_block *b) {
    qn_kv_block_ref(s->pool, b, s);
    if (b->owner != s) s->shared++;
    set_entry(s, s->n++, b);
}

static uint32_t match_blocks(struct qn_kv_seq *s, const int32_t *tokens, uint32_t n) {
    struct qn_kv_pool *p = s->pool;
    uint32_t most = (n - 1) / QN_KV_BLOCK;
    uint64_t hash = 0, parent = 0;
    while (s->n < most) {
        const int32_t *t = tokens + (size_t)s->n * QN_KV_BLOCK;
        hash = qn_kv_hash(p, s, hash, t);
        struct qn_kv_block *b = qn_kv_find(p, s, hash, parent, t);
        if (!b || !grow(s, s->n + 1)) break;
        adopt(s, b);
        parent = b->uid;
        s->entries[s->n - 1].uid = b->uid;
        s->entries[s->n - 1].hash = hash;
    }
    return s->n * QN_KV_BLOCK;
}

uint32_t qn_kv_match(struct qn_kv_seq *s, const int32_t *tokens, uint32_t n) {
    if (s->n > 0 || s->fixed || n == 0) return 0;
    uint32_t got = n - 1;
    atomic_fetch_add(&s->pool->lookups_tokens, n);
    if (s->block_bytes || !s->fixed_bytes) got = s->block_bytes ? match_blocks(s, tokens, n) : 0;
    if (s->fixed_bytes) {
        struct qn_kv_range r = {.least = 1, .most = got, .unit = s->block_bytes ? QN_KV_BLOCK : 1};
        got = qn_kv_restore(s, tokens, r);
        qn_kv_truncate(s, got); /* blocks that no snapshot goes with */
    }
    note_peak(s);
    atomic_fetch_add(&s->pool->hits_tokens, got);
    return got;
}

void qn_kv_publish(struct qn_kv_seq *s, uint32_t from, uint32_t to) {
    struct qn_kv_pool *p = s->pool;
    for (uint32_t i = from / QN_KV_BLOCK; s->block_bytes && i < to / QN_KV_BLOCK; i++) {
        struct qn_kv_entry *e = &s->entries[i];
        uint64_t parent = i > 0 ? e[-1].uid : 0, before = i > 0 ? e[-1].hash : 0;
        if (i > 0 && parent == 0) return; /* the chain is broken: nothing behind can be found */
        e->hash = qn_kv_hash(p, s, before, e->block->tokens);
        struct qn_kv_block *twin = qn_kv_find(p, s, e->hash, parent, e->block->tokens);
        if (!twin) {
            qn_kv_insert(p, e->block, e->hash, parent);
            twin = e->block;
        }
        e->uid = twin->uid;
    }
}

int qn_kv_fork(struct qn_kv_seq *dst, struct qn_kv_seq *src, uint32_t length) {
    uint32_t n = blocks_for(src, length), slot = length % QN_KV_BLOCK;
    if (!grow(dst, n)) return QN_ERR_NOMEM;
    if (src->fixed && length > 0) {
        int rc;
        dst->fixed = qn_kv_block_take(dst->pool, dst, dst->fixed_bytes, &rc);
        if (!dst->fixed) return rc;
        memcpy(dst->fixed->data, src->fixed->data, src->fixed->bytes);
    }
    for (uint32_t i = 0; i < n; i++) {
        struct qn_kv_block *b = src->entries[i].block;
        uint32_t used = i + 1 < n || slot == 0 ? QN_KV_BLOCK : slot;
        adopt(dst, b);
        if (b->sealed < used) b->sealed = used;
        dst->entries[i].uid = used == QN_KV_BLOCK ? src->entries[i].uid : 0;
        dst->entries[i].hash = src->entries[i].hash;
    }
    note_peak(dst);
    return QN_OK;
}

struct qn_seq_bytes qn_kv_bytes(const struct qn_kv_seq *s) {
    return (struct qn_seq_bytes){
        .held = held(s),
        .shared = s->shared * s->block_bytes,
        .peak = s->peak,
        .peak_shared = s->peak_shared,
    };
}
