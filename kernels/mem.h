/* Memory helpers: checked size arithmetic and aligned allocation.
 *
 * Every size that depends on outside bytes (a file, a request) is computed with qn_size_mul / qn_size_add /
 * qn_size_align; loaders contain no raw '*' or '+' on sizes. Nothing here aborts: callers get false or NULL.
 * Thread: any. */
#ifndef QN_KERNELS_MEM_H
#define QN_KERNELS_MEM_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define QN_ALIGN 64 /* cache line and AVX-512 register, bytes */

/* *out = a * b; false (and *out untouched) on overflow. */
static inline bool qn_size_mul(size_t a, size_t b, size_t *out) {
    return !__builtin_mul_overflow(a, b, out);
}

/* *out = a + b; false on overflow. */
static inline bool qn_size_add(size_t a, size_t b, size_t *out) {
    return !__builtin_add_overflow(a, b, out);
}

/* *out = n rounded up to a multiple of align (a power of two); false on overflow. */
static inline bool qn_size_align(size_t n, size_t align, size_t *out) {
    size_t t;
    if (__builtin_add_overflow(n, align - 1, &t)) return false;
    *out = t & ~(align - 1);
    return true;
}

/* 64-byte aligned, zeroed memory of n bytes (n = 0 gives a valid pointer); NULL when there is none.
 * Freed with qn_mem_free only. Pages of a large piece become resident when they are touched. */
void *qn_mem_alloc(size_t n) __attribute__((malloc, warn_unused_result));
/* The same for count * size bytes, checked. */
void *qn_mem_alloc_array(size_t count, size_t size) __attribute__((malloc, warn_unused_result));
/* Frees what qn_mem_alloc gave; NULL is fine. */
void qn_mem_free(void *p);

/* Allocations that are freed together. Zero to begin with. */
struct qn_mem_list {
    void **p; /* [n] */
    size_t n, cap;
};
/* Writes p down. False when p is NULL, or when there is no memory for the list: p is freed then. */
bool qn_mem_keep(struct qn_mem_list *list, void *p);
/* Frees all of them, and the list. */
void qn_mem_free_all(struct qn_mem_list *list);

/* One range of pages that pieces are cut from and that is freed as a whole: for weights, which are read end
 * to end in every step, so that they lie in huge pages where the kernel has some. Zero to begin with. */
struct qn_arena {
    uint8_t *base;
    size_t size, used;
};
/* Reserves n bytes; they become resident when they are touched. False when there is no room. */
bool qn_arena_open(struct qn_arena *a, size_t n);
/* QN_ALIGN aligned, zeroed; NULL when less than n bytes are left. */
void *qn_arena_take(struct qn_arena *a, size_t n);
void qn_arena_close(struct qn_arena *a);

#endif
