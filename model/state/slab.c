/* Slots of equal size in pieces of QN_SLAB_BYTES; see slab.h.
 *
 * A piece keeps one bit per slot. Slots are whole pages, so that one can be given back alone; a piece without
 * used slots is unmapped. Thread: engine. */
#include "model/state/slab.h"

#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "kernels/mem.h"

#define PAGE  ((size_t)4 << 10)
#define SLOTS (QN_SLAB_BYTES / QN_SLAB_SLOT_MIN)

struct qn_slab {
    struct qn_arena arena;
    size_t slot, n, used; /* bytes of a slot; slots */
    uint64_t taken[SLOTS / 64];
    struct qn_slab *next;
};

static size_t slot_bytes(size_t n) {
    return (n + PAGE - 1) / PAGE * PAGE;
}

static struct qn_slab *add(struct qn_slab **slabs, size_t slot) {
    struct qn_slab *s = calloc(1, sizeof *s);
    if (!s) return NULL;
    if (!qn_arena_open(&s->arena, QN_SLAB_BYTES)) {
        free(s);
        return NULL;
    }
    s->slot = slot;
    s->n = QN_SLAB_BYTES / slot;
    s->next = *slabs;
    *slabs = s;
    return s;
}

void *qn_slab_take(struct qn_slab **slabs, size_t n) {
    if (n < QN_SLAB_SLOT_MIN || n > QN_SLAB_BYTES) return NULL;
    size_t slot = slot_bytes(n);
    struct qn_slab *s = *slabs;
    while (s && (s->slot != slot || s->used == s->n)) s = s->next;
    if (!s) s = add(slabs, slot);
    if (!s) return NULL;
    size_t i = 0;
    while (s->taken[i / 64] >> (i % 64) & 1) i++; /* one is free */
    s->taken[i / 64] |= UINT64_C(1) << (i % 64);
    s->used++;
    return s->arena.base + i * slot;
}

void qn_slab_give(struct qn_slab **slabs, void *p, size_t n) {
    uint8_t *at = p;
    while (*slabs && (at < (*slabs)->arena.base || at >= (*slabs)->arena.base + QN_SLAB_BYTES))
        slabs = &(*slabs)->next;
    struct qn_slab *s = *slabs;
    if (!s) return;
    size_t i = (size_t)(at - s->arena.base) / s->slot;
    explicit_bzero(at, n);
    s->taken[i / 64] &= ~(UINT64_C(1) << (i % 64));
    if (--s->used > 0) {
        (void)madvise(at, s->slot, MADV_DONTNEED); /* zeros stay where it can't be done */
        return;
    }
    *slabs = s->next;
    qn_arena_close(&s->arena);
    free(s);
}
