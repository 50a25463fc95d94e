/* N-gram lookup by hash chains, as LZ77 compressors find matches, and the length of guesses. See draft.h. */
#include "server/draft.h"

#include <stdlib.h>
#include <string.h>

#include "kernels/mem.h"

#define FIRST_LENGTH 4u
#define LONGEST_REST 32u

void qn_draft_init(struct qn_draft_index *d, uint32_t ngram) {
    *d = (struct qn_draft_index){.ngram = ngram};
}

void qn_draft_free(struct qn_draft_index *d) {
    free(d->link);
    qn_draft_init(d, d->ngram);
}

/* Of the n-gram that ends at a place. */
static uint32_t slot_of(const struct qn_draft_index *d, const int32_t *tokens, uint32_t place) {
    uint64_t h = 0;
    for (uint32_t i = place - d->ngram; i < place; i++)
        h = (h ^ (uint64_t)(uint32_t)tokens[i]) * 0x9E3779B97F4A7C15u;
    return (uint32_t)(h >> 32) & d->mask;
}

static void add_places(struct qn_draft_index *d, const int32_t *tokens, uint32_t from, uint32_t to) {
    for (uint32_t p = from < d->ngram ? d->ngram : from; p <= to; p++) {
        uint32_t slot = slot_of(d, tokens, p);
        d->link[p] = d->head[slot];
        d->head[slot] = p;
    }
}

/* Room for n tokens; what is known moves into a table twice as large. */
static bool make_room(struct qn_draft_index *d, const int32_t *tokens, uint32_t n) {
    uint32_t cap = d->cap ? d->cap : 256;
    size_t words, bytes;
    if (n <= d->cap) return true;
    while (cap < n && cap <= UINT32_MAX / 4) cap *= 2;
    if (cap < n || !qn_size_add((size_t)cap * 3, 1, &words) || !qn_size_mul(words, sizeof *d->link, &bytes))
        return false;
    uint32_t *p = malloc(bytes);
    if (!p) return false;
    free(d->link);
    d->link = p;
    d->head = p + cap + 1;
    d->cap = cap;
    d->mask = 2 * cap - 1;
    memset(d->head, 0, 2 * (size_t)cap * sizeof *d->head);
    add_places(d, tokens, 0, d->n);
    return true;
}

bool qn_draft_learn(struct qn_draft_index *d, const int32_t *tokens, uint32_t n) {
    if (n <= d->n) return true;
    if (!make_room(d, tokens, n)) return false;
    add_places(d, tokens, d->n + 1, n);
    d->n = n;
    return true;
}

/* Equal tokens before both places, at most QN_DRAFT_CONTEXT. */
static uint32_t common(const int32_t *tokens, uint32_t place, uint32_t end) {
    uint32_t k = 0;
    while (k < QN_DRAFT_CONTEXT && k < place && tokens[place - 1 - k] == tokens[end - 1 - k]) k++;
    return k;
}

uint32_t qn_draft_guess(const struct qn_draft_index *d, const int32_t *tokens, uint32_t most, int32_t *out) {
    uint32_t n = d->n, best = 0, length = d->ngram - 1;
    if (n < d->ngram || !d->link) return 0;
    uint32_t p = d->link[n];
    for (uint32_t i = 0; p && i < QN_DRAFT_PLACES && length < QN_DRAFT_CONTEXT; i++, p = d->link[p]) {
        uint32_t k = common(tokens, p, n);
        if (k <= length) continue;
        length = k;
        best = p;
    }
    if (!best) return 0;
    for (uint32_t i = 0; i < most; i++) out[i] = i < n - best ? tokens[best + i] : out[i - (n - best)];
    return most;
}

/* ---- pace ---- */
static uint32_t at_most(uint32_t a, uint32_t b) {
    return a < b ? a : b;
}

void qn_draft_pace_init(struct qn_draft_pace *p, uint32_t most) {
    *p = (struct qn_draft_pace){.most = most, .length = at_most(FIRST_LENGTH, most)};
}

void qn_draft_pace_ran(struct qn_draft_pace *p, uint32_t n, uint32_t right) {
    p->length = at_most(right == n ? (p->length > n ? p->length : 2 * n) : right + 1, p->most);
    p->misses = right ? 0 : p->misses + 1;
    p->rest = p->misses < 2 ? 0 : p->misses > 6 ? LONGEST_REST : at_most(1u << (p->misses - 1), LONGEST_REST);
}

void qn_draft_pace_rested(struct qn_draft_pace *p) {
    if (p->rest) p->rest--;
}
