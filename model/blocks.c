/* Weight blocks as lists: see blocks.h. */
#include "model/blocks.h"

#include <stdlib.h>

#include "kernels/mem.h"

/* ---- items ---- */

struct list {
    struct qn_block_item *out;
    size_t n;
};

static void add(struct list *l, struct qn_block_item item) {
    if (item.of == 0) item.read = item.of = 1;
    if (l->out) l->out[l->n] = item;
    l->n++;
}

static void matrix(struct list *l, struct qn_matrix *m) {
    add(l, (struct qn_block_item){.m = m});
}

static void vector(struct list *l, float **v, size_t n) {
    add(l, (struct qn_block_item){.v = v, .n = *v ? n : 0});
}

size_t qn_attn_items(const struct qn_spec *s, uint32_t member, bool projections, struct qn_attn_weights *w,
                     struct qn_block_item *out) {
    static float *absent; /* stays NULL */
    float **e = projections ? &w->e : &absent, **features = projections ? &w->features : &absent;
    float **f = projections && w->f != w->e ? &w->f : &absent; /* with F = E there is one tensor */
    const struct qn_attn_member *m = &s->attn[member];
    struct list l = {.out = out};
    size_t columns = (size_t)s->context * m->slots * w->proj_heads;
    matrix(&l, &w->q);
    matrix(&l, &w->k);
    matrix(&l, &w->v);
    matrix(&l, &w->o);
    vector(&l, &w->norm.g, s->d_model);
    vector(&l, &w->norm.b, s->d_model);
    vector(&l, &w->bq, w->q.rows);
    vector(&l, &w->bk, w->k.rows);
    vector(&l, &w->bv, w->v.rows);
    vector(&l, &w->bo, s->d_model);
    vector(&l, &w->q_norm, s->qk_norm_whole ? w->q.rows : s->head_dim);
    vector(&l, &w->k_norm, s->qk_norm_whole ? w->k.rows : s->head_dim);
    /* A token reads its own column of E and F. */
    add(&l, (struct qn_block_item){.v = e, .n = *e ? columns : 0, .read = 1, .of = s->context});
    add(&l, (struct qn_block_item){.v = f, .n = *f ? columns : 0, .read = 1, .of = s->context});
    add(&l, (struct qn_block_item){.v = features,
                                   .n = *features ? (size_t)m->features * s->head_dim * w->proj_heads : 0,
                                   .drawn = true});
    return l.n;
}

static void network(struct list *l, struct qn_ffn_matrices *w) {
    matrix(l, &w->gate);
    matrix(l, &w->up);
    matrix(l, &w->down);
}

size_t qn_ffn_items(const struct qn_spec *s, struct qn_ffn_weights *w, struct qn_block_item *out) {
    struct list l = {.out = out};
    const struct qn_ffn_matrices *one = w->dense.up.data || w->n_experts == 0 ? &w->dense : &w->experts[0];
    network(&l, &w->dense);
    matrix(&l, &w->router);
    for (uint32_t i = 0; i < w->n_experts; i++) network(&l, &w->experts[i]);
    vector(&l, &w->norm.g, s->d_model);
    vector(&l, &w->norm.b, s->d_model);
    vector(&l, &w->b_gate, one->up.rows);
    vector(&l, &w->b_up, one->up.rows);
    vector(&l, &w->b_down, s->d_model);
    vector(&l, &w->route_bias, w->n_experts);
    vector(&l, &w->shared_gate, s->d_model);
    return l.n;
}

const void *qn_block_data(const struct qn_block_item *item) {
    return item->m ? (const void *)item->m->data : *item->v;
}

size_t qn_block_bytes(const struct qn_block_item *item) {
    return item->m ? item->m->bytes : item->n * sizeof(float);
}

/* ---- sums ---- */

void qn_distinct_add(struct qn_distinct *d, const void *data, size_t bytes, size_t active) {
    if (!data || d->failed) return;
    if (d->n == d->cap) {
        size_t cap = d->cap ? d->cap : 128, size = 0;
        struct qn_distinct_entry *grown = NULL;
        if (qn_size_mul(cap, 2, &cap) && qn_size_mul(cap, sizeof *grown, &size))
            grown = realloc(d->entries, size);
        if (!grown) {
            d->failed = true;
            return;
        }
        d->entries = grown;
        d->cap = cap;
    }
    d->entries[d->n++] = (struct qn_distinct_entry){data, bytes, active};
}

static void add_items(struct qn_distinct *d, const struct qn_block_item *items, size_t n) {
    for (size_t i = 0; i < n; i++) {
        size_t bytes = qn_block_bytes(&items[i]);
        qn_distinct_add(d, qn_block_data(&items[i]), bytes, bytes / items[i].of * items[i].read);
    }
}

void qn_distinct_attn(struct qn_distinct *d, const struct qn_spec *spec, uint32_t member, bool projections,
                      const struct qn_attn_weights *w) {
    struct qn_block_item items[QN_ATTN_ITEMS];
    struct qn_attn_weights copy = *w;
    add_items(d, items, qn_attn_items(spec, member, projections, &copy, items));
}

void qn_distinct_ffn(struct qn_distinct *d, const struct qn_spec *spec, const struct qn_ffn_weights *w) {
    struct qn_ffn_weights copy = *w;
    struct qn_block_item *items = qn_mem_alloc_array(qn_ffn_items(spec, &copy, NULL), sizeof *items);
    if (items)
        add_items(d, items, qn_ffn_items(spec, &copy, items));
    else
        d->failed = true;
    qn_mem_free(items);
}

static int by_data(const void *a, const void *b) {
    const struct qn_distinct_entry *x = a, *y = b;
    if (x->data != y->data) return x->data < y->data ? -1 : 1;
    return 0;
}

void qn_distinct_finish(struct qn_distinct *d, size_t *bytes, size_t *active) {
    *bytes = *active = 0;
    if (d->n) qsort(d->entries, d->n, sizeof *d->entries, by_data);
    for (size_t i = 0; i < d->n; i++) {
        if (i > 0 && d->entries[i].data == d->entries[i - 1].data) continue;
        *bytes += d->entries[i].bytes;
        *active += d->entries[i].active;
    }
    free(d->entries);
    *d = (struct qn_distinct){.failed = d->failed};
}
