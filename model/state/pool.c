/* Blocks of state and their memory: budget, free lists by size, the LRU lists of cached blocks and snapshots.
 * See kv.h for the rules. Thread: engine. */
#include "model/state/pool.h"

#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

#include "kernels/mem.h"

#define MIN_BUCKETS 64
#define MAX_BUCKETS ((size_t)1 << 20)

struct qn_kv_pool *qn_kv_pool_new(size_t budget, size_t min_block_bytes) {
    struct qn_kv_pool *p = calloc(1, sizeof *p);
    if (!p) return NULL;
    p->budget = budget;
    size_t blocks = budget / (min_block_bytes ? min_block_bytes : 1);
    p->n_buckets = MIN_BUCKETS;
    while (p->n_buckets < blocks && p->n_buckets < MAX_BUCKETS) p->n_buckets *= 2;
    p->buckets = calloc(p->n_buckets, sizeof(struct qn_kv_block *));
    if (!p->buckets) {
        free(p);
        return NULL;
    }
    /* The seed keeps outsiders from aiming at a bucket; results never depend on it. */
    if (getrandom(&p->hash_seed, sizeof p->hash_seed, GRND_NONBLOCK) != (ssize_t)sizeof p->hash_seed) {
        p->hash_seed = (uint64_t)(uintptr_t)p * UINT64_C(0x9e3779b97f4a7c15);
    }
    return p;
}

void qn_kv_pool_free(struct qn_kv_pool *p) {
    if (!p) return;
    qn_kv_drop(p);
    while (p->spare) {
        struct qn_kv_block *b = p->spare;
        p->spare = b->next;
        free(b);
    }
    free(p->buckets);
    free(p);
}

struct qn_state_stats qn_kv_stats(const struct qn_kv_pool *p) {
    return (struct qn_state_stats){
        .budget = p->budget,
        .used = atomic_load(&p->used),
        .cached = atomic_load(&p->cached),
        .blocks_used = atomic_load(&p->blocks_used),
        .blocks_cached = atomic_load(&p->blocks_cached),
        .hits_tokens = atomic_load(&p->hits_tokens),
        .lookups_tokens = atomic_load(&p->lookups_tokens),
    };
}

/* The cached block that goes first, or NULL. */
static struct qn_kv_block *oldest(const struct qn_kv_pool *p) {
    struct qn_kv_block *a = p->pages.head, *b = p->snaps.head;
    if (!a || !b) return a ? a : b;
    return a->cached_at < b->cached_at ? a : b;
}

void qn_kv_drop(struct qn_kv_pool *p) {
    struct qn_kv_block *b;
    while ((b = oldest(p))) qn_kv_block_evict(p, b);
    qn_kv_pool_trim(p, SIZE_MAX);
}

/* --- memory --- */
static void release_data(struct qn_kv_pool *p, struct qn_kv_block *b) {
    if (b->in_slab) {
        qn_slab_give(&p->slabs, b->data, b->bytes);
    } else {
        explicit_bzero(b->data, b->bytes);
        qn_mem_free(b->data);
    }
    p->total -= b->bytes;
    b->data = NULL;
    b->bytes = 0;
    b->next = p->spare;
    p->spare = b;
}

void qn_kv_pool_trim(struct qn_kv_pool *p, size_t bytes) {
    for (size_t i = 0; i < QN_KV_CLASSES; i++) {
        struct qn_kv_class *c = &p->classes[i];
        while (c->free && (bytes > p->budget || p->total > p->budget - bytes)) {
            struct qn_kv_block *b = c->free;
            c->free = b->next;
            release_data(p, b);
        }
        if (!c->free) c->bytes = 0;
    }
}

static void free_block(struct qn_kv_pool *p, struct qn_kv_block *b) {
    struct qn_kv_class *slot = NULL;
    b->generation++;
    b->owner = NULL;
    b->sealed = 0;
    for (size_t i = 0; i < QN_KV_CLASSES; i++) {
        struct qn_kv_class *c = &p->classes[i];
        if (c->bytes == b->bytes) {
            slot = c;
            break;
        }
        if (c->bytes == 0 && !slot) slot = c;
    }
    if (!slot) {
        release_data(p, b);
        return;
    }
    slot->bytes = b->bytes;
    b->next = slot->free;
    slot->free = b;
}

static struct qn_kv_block *pop_free(struct qn_kv_pool *p, size_t bytes) {
    for (size_t i = 0; i < QN_KV_CLASSES; i++) {
        struct qn_kv_class *c = &p->classes[i];
        if (c->bytes != bytes || !c->free) continue;
        struct qn_kv_block *b = c->free;
        c->free = b->next;
        return b;
    }
    return NULL;
}

static struct qn_kv_block *new_block(struct qn_kv_pool *p, size_t bytes) {
    struct qn_kv_block *b = p->spare;
    if (b) {
        p->spare = b->next;
    } else {
        b = calloc(1, sizeof *b);
        if (!b) return NULL;
    }
    b->data = p->budget >= QN_SLAB_BYTES ? qn_slab_take(&p->slabs, bytes) : NULL;
    b->in_slab = b->data != NULL;
    if (!b->data) b->data = qn_mem_alloc(bytes);
    if (!b->data) {
        b->next = p->spare;
        p->spare = b;
        return NULL;
    }
    b->bytes = bytes;
    p->total += bytes;
    return b;
}

/* A free block of that size: from its list, from the budget's rest, or from what other sizes and the cache
 * hold. */
static struct qn_kv_block *obtain(struct qn_kv_pool *p, size_t bytes, int *rc) {
    *rc = QN_ERR_NO_STATE;
    if (bytes > p->budget || atomic_load(&p->used) > p->budget - bytes) return NULL;
    for (;;) {
        struct qn_kv_block *b = pop_free(p, bytes);
        if (b) return b;
        qn_kv_pool_trim(p, bytes);
        if (p->total <= p->budget - bytes) break;
        b = oldest(p);
        if (!b) return NULL;
        qn_kv_block_evict(p, b);
    }
    struct qn_kv_block *b = new_block(p, bytes);
    if (!b) *rc = QN_ERR_NOMEM;
    return b;
}

/* --- tokens of snapshots --- */
size_t qn_kv_block_size(const struct qn_kv_block *b) {
    return b->bytes + (size_t)b->n_prefix * sizeof *b->prefix;
}

int qn_kv_block_add_prefix(struct qn_kv_pool *p, struct qn_kv_block *b, const int32_t *tokens, uint32_t n) {
    size_t bytes = (size_t)n * sizeof *tokens;
    if (bytes > p->budget || atomic_load(&p->used) > p->budget - bytes) return QN_ERR_NO_STATE;
    for (;;) {
        qn_kv_pool_trim(p, bytes);
        if (p->total <= p->budget - bytes) break;
        struct qn_kv_block *old = oldest(p);
        if (!old) return QN_ERR_NO_STATE;
        qn_kv_block_evict(p, old);
    }
    b->prefix = malloc(bytes ? bytes : 1);
    if (!b->prefix) return QN_ERR_NOMEM;
    memcpy(b->prefix, tokens, bytes);
    b->n_prefix = n;
    p->total += bytes;
    atomic_fetch_add(&p->used, bytes);
    return QN_OK;
}

/* Returns the bytes that the pool has less. */
static size_t free_prefix(struct qn_kv_pool *p, struct qn_kv_block *b) {
    size_t bytes = (size_t)b->n_prefix * sizeof *b->prefix;
    if (!b->prefix) return 0;
    explicit_bzero(b->prefix, bytes);
    free(b->prefix);
    b->prefix = NULL;
    b->n_prefix = 0;
    p->total -= bytes;
    return bytes;
}

void qn_kv_block_drop_prefix(struct qn_kv_pool *p, struct qn_kv_block *b) {
    atomic_fetch_sub(&p->used, free_prefix(p, b));
}

/* --- references --- */
static void count_used(struct qn_kv_pool *p, const struct qn_kv_block *b) {
    atomic_fetch_add(&p->used, qn_kv_block_size(b));
    atomic_fetch_add(&p->blocks_used, 1);
}

static struct qn_kv_lru *list_of(struct qn_kv_pool *p, const struct qn_kv_block *b) {
    return b->prefix ? &p->snaps : &p->pages;
}

static void lru_remove(struct qn_kv_pool *p, struct qn_kv_block *b) {
    struct qn_kv_lru *l = list_of(p, b);
    *(b->prev ? &b->prev->next : &l->head) = b->next;
    *(b->next ? &b->next->prev : &l->tail) = b->prev;
    b->prev = b->next = NULL;
    l->bytes -= qn_kv_block_size(b);
    atomic_fetch_sub(&p->cached, qn_kv_block_size(b));
    atomic_fetch_sub(&p->blocks_cached, 1);
}

static void lru_append(struct qn_kv_pool *p, struct qn_kv_block *b) {
    struct qn_kv_lru *l = list_of(p, b);
    b->cached_at = ++p->clock;
    b->next = NULL;
    b->prev = l->tail;
    *(l->tail ? &l->tail->next : &l->head) = b;
    l->tail = b;
    l->bytes += qn_kv_block_size(b);
    atomic_fetch_add(&p->cached, qn_kv_block_size(b));
    atomic_fetch_add(&p->blocks_cached, 1);
}

struct qn_kv_block *qn_kv_block_take(struct qn_kv_pool *p, struct qn_kv_seq *s, size_t bytes, int *rc) {
    struct qn_kv_block *b = obtain(p, bytes, rc);
    if (!b) return NULL;
    if (b->salt != s->salt) memset(b->data, 0, b->bytes);
    b->salt = s->salt;
    b->domain = s->domain;
    b->refs = 1;
    b->owner = s;
    b->sealed = 0;
    b->published = false;
    b->prev = b->next = NULL;
    count_used(p, b);
    *rc = QN_OK;
    return b;
}

void qn_kv_block_ref(struct qn_kv_pool *p, struct qn_kv_block *b, struct qn_kv_seq *s) {
    if (b->refs++ > 0) return;
    lru_remove(p, b);
    b->owner = s;
    count_used(p, b);
}

void qn_kv_block_unref(struct qn_kv_pool *p, struct qn_kv_block *b) {
    if (--b->refs > 0) return;
    atomic_fetch_sub(&p->used, qn_kv_block_size(b));
    atomic_fetch_sub(&p->blocks_used, 1);
    b->owner = NULL;
    if (b->published) {
        lru_append(p, b);
    } else {
        free_block(p, b);
    }
}

void qn_kv_block_touch(struct qn_kv_pool *p, struct qn_kv_block *b) {
    lru_remove(p, b);
    lru_append(p, b);
}

void qn_kv_block_evict(struct qn_kv_pool *p, struct qn_kv_block *b) {
    lru_remove(p, b);
    qn_kv_unpublish(p, b);
    free_prefix(p, b);
    free_block(p, b);
}
