/* Byte-pair merging; see merge.h.
 *
 * The order is the published one: lowest rank first, then leftmost. Short words look for it by walking the
 * list; long ones keep a binary heap of candidates. A candidate is stale once its symbol's pair has changed;
 * since each symbol stores its current pair's rank, "stale" is one comparison and needs no second look-up. */
#include "model/text/merge.h"

#include <stdlib.h>
#include <string.h>

#include "kernels/mem.h"
#include "model/err.h"

enum { SHORT_WORD = 24 }; /* symbols; below this the quadratic walk is faster than the heap */

void qn_merger_free(struct qn_merger *m) {
    free(m->sym);
    free(m->heap);
    memset(m, 0, sizeof *m);
}

/* Grows *p (of elements of size) to hold at least need of them; false when memory is short. */
static bool reserve(void **p, size_t *cap, size_t need, size_t size) {
    if (need <= *cap) return true;
    size_t want, bytes;
    if (!qn_size_mul(*cap, 2, &want)) return false;
    if (want < need) want = need;
    if (want < 64) want = 64;
    if (!qn_size_mul(want, size, &bytes)) return false;
    void *q = realloc(*p, bytes);
    if (!q) return false;
    *p = q;
    *cap = want;
    return true;
}

int qn_merger_push(struct qn_merger *m, uint32_t id) {
    if (m->n >= QN_NO_ID - 1) return QN_ERR_TOO_LONG;
    if (m->n == m->cap) {
        void *p = m->sym;
        if (!reserve(&p, &m->cap, m->n + 1, sizeof *m->sym)) return QN_ERR_NOMEM;
        m->sym = p;
    }
    const uint32_t at = (uint32_t)m->n++;
    m->sym[at] = (struct qn_sym){id, at > 0 ? at - 1 : QN_NO_ID, QN_NO_ID, QN_NO_ID, 0};
    if (at > 0) m->sym[at - 1].next = at;
    return QN_OK;
}

/* Looks the pair (at, its next) up again. */
static void refresh(struct qn_merger *m, const struct qn_pair_map *pairs, uint32_t at) {
    struct qn_sym *s = &m->sym[at];
    const struct qn_pair *p = s->next == QN_NO_ID ? NULL : qn_pair_map_get(pairs, s->id, m->sym[s->next].id);
    s->rank = p ? p->rank : QN_NO_ID;
    s->result = p ? p->result : 0;
}

/* Joins at with its next one; the two pairs it takes part in are looked up anew. */
static void join(struct qn_merger *m, const struct qn_pair_map *pairs, uint32_t at) {
    struct qn_sym *s = &m->sym[at];
    struct qn_sym *gone = &m->sym[s->next];
    s->id = s->result;
    s->next = gone->next;
    gone->rank = QN_NO_ID;
    if (s->next != QN_NO_ID) m->sym[s->next].prev = at;
    refresh(m, pairs, at);
    if (s->prev != QN_NO_ID) refresh(m, pairs, s->prev);
}

static void run_short(struct qn_merger *m, const struct qn_pair_map *pairs) {
    for (;;) {
        uint32_t best = QN_NO_ID, rank = QN_NO_ID;
        for (uint32_t i = 0; i != QN_NO_ID; i = m->sym[i].next) {
            if (m->sym[i].rank >= rank) continue;
            rank = m->sym[i].rank;
            best = i;
        }
        if (best == QN_NO_ID) return;
        join(m, pairs, best);
    }
}

static void sift_down(uint64_t *h, size_t n, size_t i) {
    const uint64_t v = h[i];
    for (;;) {
        size_t c = 2 * i + 1;
        if (c >= n) break;
        if (c + 1 < n && h[c + 1] < h[c]) c++;
        if (h[c] >= v) break;
        h[i] = h[c];
        i = c;
    }
    h[i] = v;
}

static int heap_push(struct qn_merger *m, uint32_t at) {
    const uint32_t rank = m->sym[at].rank;
    if (rank == QN_NO_ID) return QN_OK;
    if (m->heap_n == m->heap_cap) {
        void *p = m->heap;
        if (!reserve(&p, &m->heap_cap, m->heap_n + 1, sizeof *m->heap)) return QN_ERR_NOMEM;
        m->heap = p;
    }
    const uint64_t v = (uint64_t)rank << 32 | at;
    size_t i = m->heap_n++;
    while (i > 0 && m->heap[(i - 1) / 2] > v) {
        m->heap[i] = m->heap[(i - 1) / 2];
        i = (i - 1) / 2;
    }
    m->heap[i] = v;
    return QN_OK;
}

static uint64_t heap_pop(struct qn_merger *m) {
    const uint64_t top = m->heap[0];
    m->heap[0] = m->heap[--m->heap_n];
    if (m->heap_n > 0) sift_down(m->heap, m->heap_n, 0);
    return top;
}

static int heap_fill(struct qn_merger *m) {
    void *p = m->heap;
    if (!reserve(&p, &m->heap_cap, m->n, sizeof *m->heap)) return QN_ERR_NOMEM;
    m->heap = p;
    m->heap_n = 0;
    for (uint32_t i = 0; i < m->n; i++)
        if (m->sym[i].rank != QN_NO_ID) m->heap[m->heap_n++] = (uint64_t)m->sym[i].rank << 32 | i;
    for (size_t i = m->heap_n / 2; i-- > 0;) sift_down(m->heap, m->heap_n, i);
    return QN_OK;
}

static int run_long(struct qn_merger *m, const struct qn_pair_map *pairs) {
    int rc = heap_fill(m);
    while (rc == QN_OK && m->heap_n > 0) {
        const uint64_t top = heap_pop(m);
        const uint32_t at = (uint32_t)top;
        if (m->sym[at].rank != (uint32_t)(top >> 32)) continue;
        join(m, pairs, at);
        rc = heap_push(m, at);
        if (rc == QN_OK && m->sym[at].prev != QN_NO_ID) rc = heap_push(m, m->sym[at].prev);
    }
    return rc;
}

int qn_merger_run(struct qn_merger *m, const struct qn_pair_map *pairs) {
    if (m->n < 2) return QN_OK;
    for (uint32_t i = 0; i + 1 < m->n; i++) refresh(m, pairs, i);
    if (m->n > SHORT_WORD) return run_long(m, pairs);
    run_short(m, pairs);
    return QN_OK;
}
