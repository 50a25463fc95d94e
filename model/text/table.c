/* Hash tables of a vocabulary; see table.h. */
#include "model/text/table.h"

#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <time.h>

#include "kernels/mem.h"

/* An unpredictable number: a crafted vocabulary must not be able to choose its collisions. */
static uint64_t random_seed(void) {
    uint64_t seed;
    if (getrandom(&seed, sizeof seed, GRND_NONBLOCK) == (ssize_t)sizeof seed) return seed;
    struct timespec now = {0, 0};
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_nsec * 0x9E3779B97F4A7C15u ^ (uint64_t)now.tv_sec;
}

static uint64_t mix(uint64_t a, uint64_t b) {
    const unsigned __int128 p = (unsigned __int128)a * b;
    return (uint64_t)p ^ (uint64_t)(p >> 64);
}

static uint64_t hash_bytes(uint64_t seed, const uint8_t *p, size_t n) {
    uint64_t h = seed ^ ((uint64_t)n * 0x9E3779B97F4A7C15u);
    while (n > 0) {
        uint64_t w = 0;
        const size_t k = n < 8 ? n : 8;
        memcpy(&w, p, k);
        h = mix(h ^ w ^ 0x2D358DCCAA6C78A5u, seed | 0x8000000000000001u);
        p += k;
        n -= k;
    }
    return mix(h ^ 0x8BB84B93962EACC9u, 0x4B33A62ED433D4A3u);
}

static uint64_t hash_pair(uint64_t seed, uint32_t left, uint32_t right) {
    const uint64_t v = (uint64_t)left << 32 | right;
    return mix(v ^ seed, 0x9E3779B97F4A7C15u ^ (seed << 1 | 1));
}

/* Smallest power of two that keeps count entries at or below 2/3 full; false on overflow. */
static bool slots_for(size_t count, size_t *slots) {
    size_t want, n = 16;
    if (!qn_size_mul(count, 3, &want)) return false;
    want = want / 2 + 1;
    while (n < want)
        if (!qn_size_mul(n, 2, &n)) return false;
    *slots = n;
    return true;
}

bool qn_text_table_init(struct qn_text_table *t, const struct qn_str *keys, size_t count) {
    size_t slots, bytes;
    memset(t, 0, sizeof *t);
    if (!slots_for(count, &slots) || !qn_size_mul(slots, sizeof *t->slot, &bytes)) return false;
    t->slot = malloc(bytes);
    if (!t->slot) return false;
    memset(t->slot, 0xFF, bytes);
    t->keys = keys;
    t->mask = slots - 1;
    t->seed = random_seed();
    return true;
}

void qn_text_table_free(struct qn_text_table *t) {
    free(t->slot);
    memset(t, 0, sizeof *t);
}

/* The slot that holds the text, or the empty one where it belongs. */
static size_t text_slot(const struct qn_text_table *t, const void *p, size_t n) {
    size_t at = (size_t)hash_bytes(t->seed, p, n) & t->mask;
    for (;;) {
        const uint32_t id = t->slot[at];
        if (id == QN_NO_ID) return at;
        if (t->keys[id].n == n && (n == 0 || memcmp(t->keys[id].p, p, n) == 0)) return at;
        at = (at + 1) & t->mask;
    }
}

void qn_text_table_put(struct qn_text_table *t, uint32_t id) {
    const size_t at = text_slot(t, t->keys[id].p, t->keys[id].n);
    if (t->slot[at] == QN_NO_ID) t->slot[at] = id;
}

uint32_t qn_text_table_get(const struct qn_text_table *t, const void *p, size_t n) {
    if (!t->slot) return QN_NO_ID;
    return t->slot[text_slot(t, p, n)];
}

size_t qn_text_table_bytes(const struct qn_text_table *t) {
    return t->slot ? (t->mask + 1) * sizeof *t->slot : 0;
}

bool qn_pair_map_init(struct qn_pair_map *m, size_t count) {
    size_t slots, bytes;
    memset(m, 0, sizeof *m);
    if (!slots_for(count, &slots) || !qn_size_mul(slots, sizeof *m->slot, &bytes)) return false;
    m->slot = malloc(bytes);
    if (!m->slot) return false;
    memset(m->slot, 0xFF, bytes);
    m->mask = slots - 1;
    m->seed = random_seed();
    return true;
}

void qn_pair_map_free(struct qn_pair_map *m) {
    free(m->slot);
    memset(m, 0, sizeof *m);
}

static struct qn_pair *pair_slot(const struct qn_pair_map *m, uint32_t left, uint32_t right) {
    size_t at = (size_t)hash_pair(m->seed, left, right) & m->mask;
    for (;;) {
        struct qn_pair *p = &m->slot[at];
        if (p->left == QN_NO_ID || (p->left == left && p->right == right)) return p;
        at = (at + 1) & m->mask;
    }
}

static bool pair_map_grow(struct qn_pair_map *m) {
    struct qn_pair_map bigger;
    if (!qn_pair_map_init(&bigger, m->mask + 1)) return false;
    for (size_t i = 0; i <= m->mask; i++) {
        const struct qn_pair *p = &m->slot[i];
        if (p->left != QN_NO_ID) *pair_slot(&bigger, p->left, p->right) = *p;
    }
    bigger.used = m->used;
    free(m->slot);
    *m = bigger;
    return true;
}

bool qn_pair_map_put(struct qn_pair_map *m, const struct qn_pair *pair) {
    if (m->used >= (m->mask + 1) / 3 * 2 && !pair_map_grow(m)) return false;
    struct qn_pair *p = pair_slot(m, pair->left, pair->right);
    if (p->left == QN_NO_ID) {
        *p = *pair;
        m->used++;
    }
    return true;
}

const struct qn_pair *qn_pair_map_get(const struct qn_pair_map *m, uint32_t left, uint32_t right) {
    const struct qn_pair *p = pair_slot(m, left, right);
    return p->left == QN_NO_ID ? NULL : p;
}

size_t qn_pair_map_bytes(const struct qn_pair_map *m) {
    return m->slot ? (m->mask + 1) * sizeof *m->slot : 0;
}
