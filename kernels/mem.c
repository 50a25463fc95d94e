/* Aligned, zeroed allocation for weights, state and scratch. */
#include "kernels/mem.h"

#include <stdlib.h>
#include <string.h>

void *qn_mem_alloc(size_t n) {
    size_t rounded;
    void *p = NULL;
    if (!qn_size_align(n ? n : 1, QN_ALIGN, &rounded)) return NULL;
    if (posix_memalign(&p, QN_ALIGN, rounded)) return NULL;
    memset(p, 0, rounded);
    return p;
}

void *qn_mem_alloc_array(size_t count, size_t size) {
    size_t n;
    return qn_size_mul(count, size, &n) ? qn_mem_alloc(n) : NULL;
}

void qn_mem_free(void *p) {
    free(p);
}
