/* Matrices to other types: see exact.h.
 *
 *   checkpoint -[all places that refer to a matrix, sorted by its memory]-> each distinct one is unpacked
 * once, row by row on the pool -> every place that referred to it refers to the new one */
#include "model/exact.h"

#include <stdlib.h>

#include "model/blocks.h"
#include "model/load/panels.h"

struct places {
    struct qn_matrix **m; /* [n] */
    size_t n, cap;
};

static bool add(struct places *p, struct qn_matrix *m) {
    if (!m->data || m->type == QN_F32) return true;
    if (p->n == p->cap) {
        size_t cap = p->cap ? p->cap : 64, bytes = 0;
        struct qn_matrix **grown = NULL;
        if (qn_size_mul(cap, 2, &cap) && qn_size_mul(cap, sizeof(struct qn_matrix *), &bytes))
            grown = realloc(p->m, bytes);
        if (!grown) return false;
        p->m = grown;
        p->cap = cap;
    }
    p->m[p->n++] = m;
    return true;
}

static bool add_items(struct places *p, const struct qn_block_item *items, size_t n) {
    for (size_t i = 0; i < n; i++)
        if (items[i].m && !add(p, items[i].m)) return false;
    return true;
}

static bool add_ffn(struct places *p, const struct qn_spec *s, struct qn_ffn_weights *w) {
    size_t n = qn_ffn_items(s, w, NULL);
    struct qn_block_item *items = qn_mem_alloc_array(n, sizeof *items);
    bool ok = items && qn_ffn_items(s, w, items) == n && add_items(p, items, n);
    qn_mem_free(items);
    return ok;
}

static bool add_all(struct places *p, struct qn_checkpoint *c) {
    const struct qn_spec *s = &c->spec;
    bool ok = add(p, &c->embed) && add(p, &c->embed_map) && add(p, &c->output_map) && add(p, &c->output);
    for (uint32_t i = 0; i < s->embed_lags && ok; i++) ok = add(p, &c->lags[i]);
    for (size_t i = 0; i < (size_t)s->n_attn * s->attn_blocks && ok; i++) {
        struct qn_block_item items[QN_ATTN_ITEMS];
        uint32_t member = (uint32_t)(i / s->attn_blocks);
        ok = add_items(p, items, qn_attn_items(s, member, false, &c->attn[i], items));
    }
    for (size_t i = 0; i < (size_t)s->n_ffn * s->ffn_blocks && ok; i++) ok = add_ffn(p, s, &c->ffn[i]);
    return ok;
}

static int by_data(const void *a, const void *b) {
    const uint8_t *x = (*(struct qn_matrix *const *)a)->data, *y = (*(struct qn_matrix *const *)b)->data;
    return x < y ? -1 : x > y;
}

struct unpack {
    struct qn_matrix *dst;
    const struct qn_matrix *src;
    float *rows; /* [threads, cols] */
};

static void unpack_rows(void *arg, size_t item, unsigned thread) {
    const struct unpack *u = arg;
    float *row = u->rows + (size_t)thread * u->src->cols;
    uint32_t begin = (uint32_t)item * QN_ITEM_ROWS;
    uint32_t end = u->src->rows - begin > QN_ITEM_ROWS ? begin + QN_ITEM_ROWS : u->src->rows;
    for (uint32_t r = begin; r < end; r++) {
        qn_matrix_get_row(u->src, r, row);
        qn_matrix_set_row(u->dst, r, row);
    }
}

static bool unpack(struct qn_checkpoint *c, struct qn_pool *pool, const struct qn_matrix *src,
                   struct qn_matrix *dst) {
    size_t row = 0;
    if (!qn_size_mul(src->cols, sizeof(float), &row)) return false;
    struct unpack u = {dst, src, qn_mem_alloc_array(pool ? qn_pool_threads(pool) : 1, row)};
    bool ok = u.rows && qn_checkpoint_matrix(c, dst, QN_F32, src->rows, src->cols);
    if (ok) qn_pool_run(pool, (src->rows + QN_ITEM_ROWS - 1) / QN_ITEM_ROWS, unpack_rows, &u);
    qn_mem_free(u.rows);
    return ok;
}

/* dst replaces what lay at `data` at all its places, from place i on; returns the place after them. */
static size_t replace(struct places *p, size_t i, const uint8_t *data, const struct qn_matrix *dst) {
    for (; i < p->n && p->m[i]->data == data; i++) *p->m[i] = *dst;
    return i;
}

/* Each distinct matrix once. */
static bool all_to_f32(struct qn_checkpoint *c, struct qn_pool *pool, struct places *p) {
    if (p->n > 0) qsort(p->m, p->n, sizeof(struct qn_matrix *), by_data);
    for (size_t i = 0; i < p->n;) {
        struct qn_matrix src = *p->m[i], dst = {0};
        if (!unpack(c, pool, &src, &dst)) return false;
        i = replace(p, i, src.data, &dst);
    }
    return true;
}

static int no_memory(struct qn_err *err) {
    return qn_err_set(err, QN_ERR_NOMEM, "out of memory for the weights in another type");
}

static size_t ffn_blocks(const struct qn_checkpoint *c) {
    return (size_t)c->spec.n_ffn * c->spec.ffn_blocks;
}

int qn_checkpoint_routers(struct qn_checkpoint *c, struct qn_pool *pool, struct qn_err *err) {
    struct places p = {0};
    bool ok = true;
    for (size_t i = 0; i < ffn_blocks(c) && ok; i++)
        if (c->ffn[i].router.type == QN_BF16) ok = add(&p, &c->ffn[i].router);
    if (ok) ok = all_to_f32(c, pool, &p);
    free(p.m);
    return ok ? QN_OK : no_memory(err);
}

static bool is_router(const struct qn_checkpoint *c, const struct qn_matrix *m) {
    for (size_t i = 0; i < ffn_blocks(c); i++)
        if (m == &c->ffn[i].router) return true;
    return false;
}

int qn_checkpoint_f16_as_bf16(struct qn_checkpoint *c, struct qn_pool *pool, struct qn_err *err) {
    struct places p = {0};
    if (c->panels && qn_panels_mapped(c->panels))
        return qn_err_set(err, QN_ERR_UNSUPPORTED,
                          "weights that are mapped stay as they are: no f16-as-bf16 with mmap");
    bool ok = add_all(&p, c);
    if (p.n > 0) qsort(p.m, p.n, sizeof(struct qn_matrix *), by_data);
    for (size_t i = 0; i < p.n && ok;) {
        struct qn_matrix m = *p.m[i];
        const uint8_t *data = m.data;
        if (!is_router(c, p.m[i])) qn_matrix_f16_to_bf16(pool, &m);
        i = replace(&p, i, data, &m);
    }
    free(p.m);
    return ok ? QN_OK : no_memory(err);
}

int qn_checkpoint_exact(struct qn_checkpoint *c, struct qn_pool *pool, struct qn_err *err) {
    struct places p = {0};
    bool ok = add_all(&p, c);
    if (ok) ok = all_to_f32(c, pool, &p);
    free(p.m);
    return ok ? QN_OK : no_memory(err);
}
