/* The tensor directory: growth, sorting, lookup by bisection. */
#include "model/load/tensors.h"

#include <stdlib.h>
#include <string.h>

#include "kernels/mem.h"

int qn_str_compare(struct qn_str a, struct qn_str b) {
    size_t n = a.n < b.n ? a.n : b.n;
    int c = n ? memcmp(a.p, b.p, n) : 0;
    if (c) return c < 0 ? -1 : 1;
    return a.n < b.n ? -1 : a.n > b.n;
}

bool qn_str_is(struct qn_str a, const char *b) {
    return qn_str_compare(a, (struct qn_str){b, strlen(b)}) == 0;
}

const char *qn_str_show(struct qn_str s, char out[64]) {
    size_t n = s.n < 60 ? s.n : 60;
    for (size_t i = 0; i < n; i++) out[i] = s.p[i] >= 32 && s.p[i] < 127 ? s.p[i] : '?';
    if (s.n > n) {
        memcpy(out + n, "...", 4);
    } else {
        out[n] = 0;
    }
    return out;
}

int qn_tensor_dir_add(struct qn_tensor_dir *d, const struct qn_tensor *t, struct qn_err *err) {
    if (d->n == d->cap) {
        size_t cap = d->cap ? d->cap : 32, bytes;
        if (!qn_size_mul(cap, 2, &cap) || !qn_size_mul(cap, sizeof *d->t, &bytes)) cap = 0;
        struct qn_tensor *grown = cap ? realloc(d->t, bytes) : NULL;
        if (!grown) {
            free(t->owned);
            return qn_err_set(err, QN_ERR_NOMEM, "out of memory for the tensor directory");
        }
        d->t = grown;
        d->cap = cap;
    }
    d->t[d->n++] = *t;
    return QN_OK;
}

static int by_name(const void *a, const void *b) {
    return qn_str_compare(((const struct qn_tensor *)a)->name, ((const struct qn_tensor *)b)->name);
}

int qn_tensor_dir_index(struct qn_tensor_dir *d, struct qn_err *err) {
    if (d->n) qsort(d->t, d->n, sizeof *d->t, by_name);
    for (size_t i = 1; i < d->n; i++) {
        if (by_name(&d->t[i - 1], &d->t[i]) == 0) {
            char s[64];
            return qn_err_set(err, QN_ERR_FORMAT, "tensor '%s' occurs twice", qn_str_show(d->t[i].name, s));
        }
    }
    return QN_OK;
}

struct qn_tensor *qn_tensor_dir_find(const struct qn_tensor_dir *d, const char *name) {
    struct qn_tensor key = {.name = {name, strlen(name)}};
    return d->n ? bsearch(&key, d->t, d->n, sizeof *d->t, by_name) : NULL;
}

void qn_tensor_dir_free(struct qn_tensor_dir *d) {
    for (size_t i = 0; i < d->n; i++) free(d->t[i].owned);
    free(d->t);
    *d = (struct qn_tensor_dir){0};
}
