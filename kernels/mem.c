/* Aligned, zeroed allocation for weights, state and scratch, and lists of what was allocated. */
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
