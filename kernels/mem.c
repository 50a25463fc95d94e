/* Aligned, zeroed allocation for weights, state and scratch, lists of what was allocated, and arenas. */
#include "kernels/mem.h"

#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#define HUGE_PAGE ((size_t)2 << 20)

/* calloc rather than an aligned allocation and memset: what is large comes from the kernel, which gives zeros
 * page by page when they are touched, so that memory which is never used is never resident. What calloc gave
 * is kept in the word before the aligned part. */
void *qn_mem_alloc(size_t n) {
    size_t room;
    if (!qn_size_align(n ? n : 1, QN_ALIGN, &n) || !qn_size_add(n, QN_ALIGN + sizeof(void *), &room))
        return NULL;
    uint8_t *base = calloc(1, room);
    if (!base) return NULL;
    uint8_t *p = base + sizeof base;
    p += -(uintptr_t)p & (QN_ALIGN - 1);
    memcpy(p - sizeof base, &base, sizeof base);
    return p;
}

void *qn_mem_alloc_array(size_t count, size_t size) {
    size_t n;
    return qn_size_mul(count, size, &n) ? qn_mem_alloc(n) : NULL;
}

void qn_mem_free(void *p) {
    void *base;
    if (!p) return;
    memcpy(&base, (uint8_t *)p - sizeof base, sizeof base);
    free(base);
}

bool qn_mem_keep(struct qn_mem_list *list, void *p) {
    if (!p) return false;
    if (list->n == list->cap) {
        size_t cap = list->cap ? list->cap : 32, bytes = 0;
        void **grown = NULL;
        if (qn_size_mul(cap, 2, &cap) && qn_size_mul(cap, sizeof *grown, &bytes))
            grown = realloc(list->p, bytes);
        if (!grown) {
            qn_mem_free(p);
            return false;
        }
        list->p = grown;
        list->cap = cap;
    }
    list->p[list->n++] = p;
    return true;
}

void qn_mem_free_all(struct qn_mem_list *list) {
    for (size_t i = 0; i < list->n; i++) qn_mem_free(list->p[i]);
    free(list->p);
    *list = (struct qn_mem_list){0};
}

bool qn_arena_open(struct qn_arena *a, size_t n) {
    size_t size, room;
    *a = (struct qn_arena){0};
    if (!qn_size_align(n ? n : 1, HUGE_PAGE, &size) || !qn_size_add(size, HUGE_PAGE, &room)) return false;
    uint8_t *p = mmap(NULL, room, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (p == MAP_FAILED) return false;
    size_t skip = -(uintptr_t)p & (HUGE_PAGE - 1);
    if (skip) munmap(p, skip);
    munmap(p + skip + size, HUGE_PAGE - skip);
    a->base = p + skip;
    a->size = size;
#ifdef MADV_HUGEPAGE
    (void)madvise(a->base, a->size, MADV_HUGEPAGE); /* a kernel without them gives small pages */
#endif
    return true;
}

void *qn_arena_take(struct qn_arena *a, size_t n) {
    size_t rounded;
    if (!qn_size_align(n ? n : 1, QN_ALIGN, &rounded) || rounded > a->size - a->used) return NULL;
    void *p = a->base + a->used;
    a->used += rounded;
    return p;
}

void qn_arena_close(struct qn_arena *a) {
    if (a->base) munmap(a->base, a->size);
    *a = (struct qn_arena){0};
}
