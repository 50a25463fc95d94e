/* Averages of weight blocks: see mean.h. Sums run over the sources in order, in double for vectors and in
 * float rows for matrices. */
#include "model/mean.h"

#include <string.h>

#include "kernels/mem.h"

static int no_memory(struct qn_err *err) {
    return qn_err_set(err, QN_ERR_NOMEM, "out of memory for averaged weights");
}

static void add_bytes(struct qn_mean *mean, size_t bytes) {
    if (!qn_size_add(mean->bytes, bytes, &mean->bytes)) mean->bytes = SIZE_MAX;
}

/* ---- one tensor ---- */

/* Item i of every source. */
struct sources {
    struct qn_block_item *const *items; /* [n] lists */
    size_t n, i;
};

static const struct qn_block_item *item_of(const struct sources *s, size_t source) {
    return &s->items[source][s->i];
}

static bool all_the_same(const struct sources *s) {
    for (size_t j = 1; j < s->n; j++)
        if (qn_block_data(item_of(s, j)) != qn_block_data(item_of(s, 0))) return false;
    return true;
}

static enum qn_type mean_type(const struct sources *s) {
    enum qn_type t = item_of(s, 0)->m->type;
    for (size_t j = 1; j < s->n; j++)
        if (item_of(s, j)->m->type != t) return QN_F32;
    return t == QN_F16 || t == QN_BF16 ? t : QN_F32;
}

struct average {
    const struct sources *s;
    struct qn_matrix *dst;
    uint8_t *rows; /* [threads, room]: a sum, a row and its file form */
    size_t room;
};

static void average_rows(void *arg, size_t item, unsigned thread) {
    const struct average *a = arg;
    size_t cols = a->dst->cols;
    float *sum = (float *)(void *)(a->rows + thread * a->room), *row = sum + cols;
    uint32_t begin = (uint32_t)item * QN_ITEM_ROWS;
    uint32_t end = a->dst->rows - begin > QN_ITEM_ROWS ? begin + QN_ITEM_ROWS : a->dst->rows;
    for (uint32_t r = begin; r < end; r++) {
        memset(sum, 0, cols * sizeof *sum);
        for (size_t j = 0; j < a->s->n; j++) {
            qn_matrix_get_row(item_of(a->s, j)->m, r, row);
            for (size_t c = 0; c < cols; c++) sum[c] += row[c];
        }
        for (size_t c = 0; c < cols; c++) sum[c] /= (float)a->s->n;
        qn_type_row_from_f32(a->dst->type, sum, row, cols);
        qn_matrix_set_row(a->dst, r, row);
    }
}

static int mean_matrix(struct qn_mean *mean, const struct sources *s, struct qn_matrix *dst,
                       struct qn_err *err) {
    const struct qn_matrix first = *item_of(s, 0)->m;
    enum qn_type t = mean_type(s);
    size_t bytes = 0, room = 0;
    if (!qn_matrix_bytes(t, first.rows, first.cols, &bytes) ||
        !qn_size_mul(first.cols, 2 * sizeof(float), &room) || !qn_size_align(room, QN_ALIGN, &room))
        return no_memory(err);
    add_bytes(mean, bytes);
    if (mean->counting) {
        dst->type = t;
        dst->bytes = bytes;
        dst->data =
            first.data + 1; /* tensors are told apart by it, and the source may be in use beside its mean */
        return QN_OK;
    }
    struct qn_matrix m;
    if (!qn_matrix_alloc(&m, t, first.rows, first.cols) || !qn_mem_keep(&mean->owned, m.data))
        return no_memory(err);
    struct average a = {.s = s, .dst = &m, .room = room};
    a.rows = qn_mem_alloc_array(mean->pool ? qn_pool_threads(mean->pool) : 1, room);
    if (!a.rows) return no_memory(err);
    qn_pool_run(mean->pool, (first.rows + QN_ITEM_ROWS - 1) / QN_ITEM_ROWS, average_rows, &a);
    qn_mem_free(a.rows);
    *dst = m;
    return QN_OK;
}

static int mean_vector(struct qn_mean *mean, const struct sources *s, struct qn_block_item *dst,
                       struct qn_err *err) {
    size_t n = item_of(s, 0)->n;
    add_bytes(mean, n * sizeof(float));
    if (mean->counting) {
        *dst->v = (float *)(void *)((uint8_t *)*dst->v + 1); /* as above; nobody reads through it */
        return QN_OK;
    }
    float *v = qn_mem_alloc_array(n, sizeof *v);
    if (!qn_mem_keep(&mean->owned, v)) return no_memory(err);
    for (size_t i = 0; i < n; i++) {
        double sum = 0;
        for (size_t j = 0; j < s->n; j++) sum += (double)(*item_of(s, j)->v)[i];
        v[i] = (float)(sum / (double)s->n);
    }
    *dst->v = v;
    return QN_OK;
}

/* Layers may differ in what they have: a bias, an F of its own, a projection for every head. Such tensors
 * have no mean. */
static bool same_form(const struct sources *s) {
    const struct qn_block_item *first = item_of(s, 0);
    for (size_t j = 1; j < s->n; j++) {
        const struct qn_block_item *other = item_of(s, j);
        if (!qn_block_data(other) != !qn_block_data(first) || other->n != first->n) return false;
    }
    return true;
}

/* dst: items of the new block, which holds the first source's tensors so far. */
static int mean_items(struct qn_mean *mean, struct qn_block_item *const *lists, size_t n,
                      struct qn_block_item *dst, size_t n_items, struct qn_err *err) {
    int rc = QN_OK;
    for (size_t i = 0; i < n_items && rc == QN_OK; i++) {
        struct sources s = {lists, n, i};
        if (!same_form(&s))
            return qn_err_param(err, QN_ERR_INVALID, "sharing",
                                "the weights of the layers differ in form: they have no mean to share");
        if (!qn_block_data(&dst[i]) || dst[i].drawn || all_the_same(&s)) continue;
        rc = dst[i].m ? mean_matrix(mean, &s, dst[i].m, err) : mean_vector(mean, &s, &dst[i], err);
    }
    return rc;
}

/* ---- one block ---- */

/* Room for n + 1 lists of n_items items. */
static struct qn_block_item **new_lists(size_t n, size_t n_items) {
    size_t count = 0;
    if (!qn_size_mul(n + 1, n_items, &count)) return NULL;
    struct qn_block_item **lists = qn_mem_alloc_array(n + 1, sizeof(struct qn_block_item *));
    struct qn_block_item *all = qn_mem_alloc_array(count, sizeof *all);
    if (!lists || !all) {
        qn_mem_free(lists);
        qn_mem_free(all);
        return NULL;
    }
    for (size_t j = 0; j <= n; j++) lists[j] = all + j * n_items;
    return lists;
}

static void free_lists(struct qn_block_item **lists) {
    qn_mem_free(lists[0]);
    qn_mem_free(lists);
}

int qn_mean_attn(struct qn_mean *mean, uint32_t member, const struct qn_attn_weights *const *src, size_t n,
                 struct qn_attn_weights *dst, struct qn_err *err) {
    *dst = *src[0];
    bool projections = mean->projections;
    size_t n_items = qn_attn_items(mean->spec, member, projections, dst, NULL);
    struct qn_block_item **lists = new_lists(n, n_items);
    if (!lists) return no_memory(err);
    /* Items point into the blocks; those of sources are read only. */
    for (size_t j = 0; j < n; j++)
        qn_attn_items(mean->spec, member, projections, (struct qn_attn_weights *)(uintptr_t)src[j], lists[j]);
    qn_attn_items(mean->spec, member, projections, dst, lists[n]);
    int rc = mean_items(mean, lists, n, lists[n], n_items, err);
    free_lists(lists);
    /* Key-value sharing stays what it is. */
    if (src[0]->f == src[0]->e) dst->f = dst->e;
    return rc;
}

int qn_mean_ffn(struct qn_mean *mean, const struct qn_ffn_weights *const *src, size_t n,
                struct qn_ffn_weights *dst, struct qn_err *err) {
    *dst = *src[0];
    if (dst->n_experts > 0) {
        dst->experts = qn_mem_alloc_array(dst->n_experts, sizeof *dst->experts);
        if (!qn_mem_keep(&mean->owned, dst->experts)) return no_memory(err);
        memcpy(dst->experts, src[0]->experts, dst->n_experts * sizeof *dst->experts);
    }
    size_t n_items = qn_ffn_items(mean->spec, dst, NULL);
    struct qn_block_item **lists = new_lists(n, n_items);
    if (!lists) return no_memory(err);
    for (size_t j = 0; j < n; j++)
        qn_ffn_items(mean->spec, (struct qn_ffn_weights *)(uintptr_t)src[j], lists[j]);
    qn_ffn_items(mean->spec, dst, lists[n]);
    int rc = mean_items(mean, lists, n, lists[n], n_items, err);
    free_lists(lists);
    return rc;
}

void qn_mean_free(struct qn_mean *mean) {
    qn_mem_free_all(&mean->owned);
}
