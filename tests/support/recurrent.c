/* One layer's attention without a model around it: see recurrent.h. */
#include "tests/support/recurrent.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "kernels/mem.h"

double qn_att_normal(struct rng *rng) {
    double u = ((double)rng_u32(rng) + 0.5) * 0x1p-32, w = ((double)rng_u32(rng) + 0.5) * 0x1p-32;
    return sqrt(-2 * log(u)) * cos(6.283185307179586 * w);
}

static float *normals(struct rng *rng, size_t n, double std) {
    float *x = qn_mem_alloc_array(n, sizeof *x);
    assert_non_null(x);
    for (size_t i = 0; i < n; i++) x[i] = (float)(std * qn_att_normal(rng));
    return x;
}

static void weights(struct qn_att *t, struct rng *rng) {
    const struct qn_attn_member *m = &t->spec.attn[0];
    struct qn_attn_weights *w = &t->src;
    if (m->features) {
        w->proj_heads = m->kv_heads;
        w->features = normals(rng, (size_t)m->kv_heads * m->features * t->spec.head_dim, 1);
    }
    if (m->slots) {
        size_t n = (size_t)m->kv_heads * m->slots * t->spec.context;
        w->proj_heads = m->kv_heads;
        w->e = normals(rng, n, 1.0 / sqrt((double)m->slots));
        w->f = normals(rng, n, 1.0 / sqrt((double)m->slots));
    }
}

void qn_att_open(struct qn_att *t, struct rng *rng, const struct qn_attn_member *m,
                 const struct qn_att_shape *shape, const struct qn_part *ask, unsigned threads) {
    memset(t, 0, sizeof *t);
    t->spec.heads = shape->heads;
    t->spec.head_dim = shape->head_dim;
    t->spec.context = shape->context;
    t->spec.d_model = shape->heads * shape->head_dim;
    t->spec.n_attn = t->spec.attn_blocks = 1;
    t->spec.attn[0] = *m;
    weights(t, rng);
    const struct qn_attention_ops *ops = qn_attention_find(&t->spec, ask ? ask->type : "");
    assert_non_null(ops);
    static const struct qn_part none = {0};
    struct qn_err err = {0};
    assert_int_equal(ops->resolve(&t->spec, 0, ask ? ask : &none, &t->a, &err), QN_OK);
    assert_int_not_equal(t->a.choice.exactness, QN_UNAVAILABLE);
    assert_int_equal(qn_matrix_alloc(&t->src.k, QN_F32, m->kv_heads * shape->head_dim, t->spec.d_model),
                     true);
    assert_int_equal(qn_matrix_alloc(&t->src.v, QN_F32, m->kv_heads * shape->head_dim, t->spec.d_model),
                     true);
    t->w = t->src;
    if (t->a.made) {
        memset(&t->w, 0, sizeof t->w);
        assert_int_equal(ops->convert(&t->a, 0, &t->src, &t->w, &err), QN_OK);
    }
    t->pool = qn_pool_new(threads);
    t->work_floats = ops->work_floats ? ops->work_floats(&t->spec, threads) : 0;
    t->work = qn_mem_alloc_array(threads * t->work_floats, sizeof *t->work);
    assert_true(t->pool && t->work);
}

void qn_att_close(struct qn_att *t) {
    if (t->a.made) t->a.ops->release(&t->w);
    qn_matrix_free(&t->src.k);
    qn_matrix_free(&t->src.v);
    qn_mem_free(t->src.features);
    qn_mem_free(t->src.e);
    if (t->src.f != t->src.e) qn_mem_free(t->src.f);
    qn_mem_free(t->work);
    qn_pool_free(&t->pool);
}

static struct qn_att_seq *seq_empty(struct qn_att *t, uint32_t n) {
    struct qn_att_seq *s = calloc(1, sizeof *s);
    assert_non_null(s);
    s->n = n;
    struct qn_state_size size = t->a.ops->state(&t->a, QN_KV_F32);
    s->fixed_bytes = size.fixed_bytes;
    s->fixed = qn_mem_alloc(size.fixed_bytes);
    s->n_blocks = size.block_bytes ? (n + QN_KV_BLOCK - 1) / QN_KV_BLOCK : 0;
    s->blocks = calloc(s->n_blocks + 1, sizeof *s->blocks);
    assert_true(s->fixed && s->blocks);
    for (uint32_t i = 0; i < s->n_blocks; i++) {
        s->blocks[i] = qn_mem_alloc(size.block_bytes);
        assert_non_null(s->blocks[i]);
    }
    s->out = qn_mem_alloc_array((size_t)n * t->a.heads * t->a.head_dim, sizeof *s->out);
    assert_non_null(s->out);
    return s;
}

struct qn_att_seq *qn_att_seq_new(struct qn_att *t, struct rng *rng, uint32_t n, double std) {
    struct qn_att_seq *s = seq_empty(t, n);
    s->q = normals(rng, (size_t)n * t->a.heads * t->a.head_dim, std);
    s->k = normals(rng, (size_t)n * t->a.kv_heads * t->a.head_dim, std);
    s->v = normals(rng, (size_t)n * t->a.kv_heads * t->a.head_dim, 1);
    return s;
}

static float *copied(const float *x, size_t n) {
    float *y = qn_mem_alloc_array(n, sizeof *y);
    assert_non_null(y);
    memcpy(y, x, n * sizeof *y);
    return y;
}

struct qn_att_seq *qn_att_seq_copy(struct qn_att *t, const struct qn_att_seq *from) {
    struct qn_att_seq *s = seq_empty(t, from->n);
    s->q = copied(from->q, (size_t)s->n * t->a.heads * t->a.head_dim);
    s->k = copied(from->k, (size_t)s->n * t->a.kv_heads * t->a.head_dim);
    s->v = copied(from->v, (size_t)s->n * t->a.kv_heads * t->a.head_dim);
    return s;
}

void qn_att_seq_free(struct qn_att_seq *s) {
    for (uint32_t i = 0; i < s->n_blocks; i++) qn_mem_free(s->blocks[i]);
    free(s->blocks);
    qn_mem_free(s->fixed);
    qn_mem_free(s->q);
    qn_mem_free(s->k);
    qn_mem_free(s->v);
    qn_mem_free(s->out);
    free(s);
}

void qn_att_step(struct qn_att *t, struct qn_att_seq *const *s, const uint32_t *n, uint32_t count) {
    uint32_t rows = 0;
    size_t wide = (size_t)t->a.heads * t->a.head_dim, kv = (size_t)t->a.kv_heads * t->a.head_dim;
    for (uint32_t i = 0; i < count; i++) rows += n[i];
    struct qn_row *row = calloc(rows, sizeof *row);
    struct qn_row_span *span = calloc(count, sizeof *span);
    float *q = calloc(rows, wide * sizeof *q), *k = calloc(rows, kv * sizeof *k),
          *v = calloc(rows, kv * sizeof *v), *out = calloc(rows, wide * sizeof *out);
    assert_true(row && span && q && k && v && out);
    uint32_t at = 0;
    for (uint32_t i = 0; i < count; i++) {
        span[i] = (struct qn_row_span){.first = at, .n = n[i], .fixed = s[i]->fixed};
        assert_true(s[i]->done + n[i] <= s[i]->n);
        memcpy(q + at * wide, s[i]->q + s[i]->done * wide, n[i] * wide * sizeof *q);
        memcpy(k + at * kv, s[i]->k + s[i]->done * kv, n[i] * kv * sizeof *k);
        memcpy(v + at * kv, s[i]->v + s[i]->done * kv, n[i] * kv * sizeof *v);
        for (uint32_t r = 0; r < n[i]; r++)
            row[at + r] = (struct qn_row){.blocks = s[i]->blocks, .pos = s[i]->done + r};
        at += n[i];
    }
    struct qn_attention_call call = {.a = &t->a,
                                     .w = &t->w,
                                     .pool = t->pool,
                                     .rows = row,
                                     .n_rows = rows,
                                     .spans = span,
                                     .n_spans = count,
                                     .work = t->work,
                                     .work_floats = t->work_floats,
                                     .type = QN_KV_F32,
                                     .q = q,
                                     .k = k,
                                     .v = v,
                                     .out = out};
    t->a.ops->run(&call);
    for (uint32_t i = 0; i < count; i++) {
        memcpy(s[i]->out + s[i]->done * wide, out + span[i].first * wide, n[i] * wide * sizeof *out);
        s[i]->done += n[i];
    }
    free(row);
    free(span);
    free(q);
    free(k);
    free(v);
    free(out);
}

void qn_att_chunks(struct qn_att *t, struct qn_att_seq *s, uint32_t chunk) {
    while (s->done < s->n) {
        uint32_t n = s->n - s->done < chunk ? s->n - s->done : chunk;
        qn_att_step(t, &s, &n, 1);
    }
}

double qn_att_error(const float *a, const double *b, size_t n) {
    double diff = 0, top = 0;
    for (size_t i = 0; i < n; i++) {
        diff = fmax(diff, fabs((double)a[i] - b[i]));
        top = fmax(top, fabs(b[i]));
        if (!isfinite(a[i])) return INFINITY;
    }
    return diff / top;
}
