/* The forward pass: one step over a ragged batch.
 *
 *   tokens -> embedding rows [M, d], through a map from narrower tables if there is one -> per layer: norm, q
 * k v, rotate, attention (append + read), output projection, residual, norm, FFN, residual -> wanted rows:
 * last norm -> logits in groups, or the hidden row
 * -> on_row
 *
 * In the last layer rows whose result nobody wants only leave their keys and values: the others move together
 * after that.
 *
 * It reads spec, weights and the variant's per-layer choices, never a family's or a structure's name. Rows
 * are independent but for attention, where a row reads its own sequence only; every product has one order of
 * summation whatever M is; so a row's result depends on its sequence's tokens alone. Nothing is allocated,
 * and nothing can fail once the step has been checked. Thread: engine (the pool's threads inside one call).
 */
#include <math.h>
#include <string.h>

#include "model/internal.h"

#define ROWS_PER_ITEM 8 /* rows of element-wise work that one pool item does */

struct forward {
    struct qn_model *m;
    const struct qn_variant *v;
    const struct qn_step *step;
    const struct qn_spec *spec;
    struct qn_scratch *s;
    struct qn_linear_env env;
    uint32_t rows;     /* of the step, in the last layer from some point on those that are wanted */
    uint32_t n_wanted; /* in scratch.wanted */
    const struct qn_layer *layer;
    const struct qn_attn_weights *aw;
    const struct qn_norm_weights *norm; /* argument of norm_row */
    struct qn_act in;                   /* its result */
    bool few;                           /* q is there for wanted rows only */
    bool pending;                       /* s->y is still to be added to the residual stream */
};

/* --- check --- */
static int check_span(const struct forward *f, uint32_t i, struct qn_err *err) {
    const struct qn_span *sp = &f->step->spans[i];
    struct qn_seq *q = sp->seq;
    if (q->variant != f->v || q->mark == f->m->step_mark) {
        return qn_err_set(err, QN_ERR_INVALID,
                          "span %u: its sequence is of another structure or stands twice", i);
    }
    q->mark = f->m->step_mark;
    if (sp->n == 0 || sp->n > f->m->max_rows - f->rows) {
        return qn_err_set(err, QN_ERR_INVALID, "span %u: a step has 1 to %u rows", i, f->m->max_rows);
    }
    if (sp->drafts >= sp->n || (sp->drafts > 0 && !f->v->info.rollback)) {
        return qn_err_set(err, QN_ERR_INVALID, "span %u: guesses that can't be taken back", i);
    }
    if (q->length > f->spec->context || sp->n > f->spec->context - q->length) {
        return qn_err_set(err, QN_ERR_TOO_LONG, "span %u: longer than the context of %u", i,
                          f->spec->context);
    }
    for (uint32_t t = 0; t < sp->n; t++) {
        if (sp->tokens[t] < 0 || (uint32_t)sp->tokens[t] >= f->spec->vocab) {
            return qn_err_set(err, QN_ERR_INVALID, "span %u: token %d is not in the vocabulary", i,
                              sp->tokens[t]);
        }
    }
    if (!f->v->attention.causal && q->length > 0) {
        return qn_err_set(err, QN_ERR_UNSUPPORTED,
                          "span %u: a structure that is not causal runs the whole sequence in one span", i);
    }
    if (q->cap < q->length + sp->n || !qn_kv_writable(&q->kv, q->length, q->length + sp->n)) {
        return qn_err_set(err, QN_ERR_NO_STATE, "span %u: state is not reserved", i);
    }
    return QN_OK;
}

/* The first row of a span whose result is asked for; all after it are. */
static uint32_t first_wanted(const struct qn_step *step, uint32_t span) {
    const struct qn_span *sp = &step->spans[span];
    if (sp->want == QN_WANT_NONE || !step->on_row) return sp->n;
    return sp->want == QN_WANT_LAST ? sp->n - 1 : 0;
}

/* Checks every span and lists the rows. */
static int plan(struct forward *f, struct qn_err *err) {
    const struct qn_step *step = f->step;
    if (!f->v->attn_weights || !f->v->ffn_weights)
        return qn_err_set(err, QN_ERR_INVALID, "the variant is not prepared");
    if (step->n_spans == 0 || step->n_spans > f->m->max_rows) {
        return qn_err_set(err, QN_ERR_INVALID, "a step has 1 to %u spans", f->m->max_rows);
    }
    f->m->step_mark++;
    for (uint32_t i = 0; i < step->n_spans; i++) {
        int rc = check_span(f, i, err);
        if (rc) return rc;
        const struct qn_span *sp = &step->spans[i];
        struct qn_seq *q = sp->seq;
        f->s->spans[i] = (struct qn_row_span){
            .first = f->rows, .n = sp->n, .fixed = q->kv.fixed ? q->kv.fixed->data : NULL};
        memcpy(q->tokens + q->length, sp->tokens, sp->n * sizeof *sp->tokens); /* not its yet: see commit */
        for (uint32_t t = 0; t < sp->n; t++, f->rows++) {
            f->s->rows[f->rows] = (struct qn_row){
                .blocks = q->kv.data, .pos = q->length + t, .token = sp->tokens[t], .tokens = q->tokens};
            if (t < first_wanted(step, i)) continue;
            f->s->readers[f->n_wanted] = f->s->rows[f->rows];
            f->s->wanted[f->n_wanted++] = f->rows;
        }
    }
    qn_cuts_plan(&f->s->cuts, step, f->s->spans);
    return QN_OK;
}

/* --- work on single rows --- */
typedef void (*row_fn)(struct forward *f, size_t row);
struct row_job {
    struct forward *f;
    row_fn fn;
};

static void row_item(void *arg, size_t item, unsigned thread) {
    (void)thread;
    struct row_job *j = arg;
    size_t end = (item + 1) * ROWS_PER_ITEM;
    if (end > j->f->rows) end = j->f->rows;
    for (size_t r = item * ROWS_PER_ITEM; r < end; r++) j->fn(j->f, r);
}

static void each_row(struct forward *f, row_fn fn) {
    struct row_job j = {f, fn};
    size_t items = (f->rows + ROWS_PER_ITEM - 1) / ROWS_PER_ITEM;
    qn_pool_run(items > 1 ? f->m->pool : NULL, items, row_item, &j);
}

static void normalise(const struct qn_spec *spec, const struct qn_norm_weights *w, float *y, const float *x) {
    if (spec->norm == QN_NORM_RMS) {
        qn_ops()->rmsnorm(y, x, w->g, spec->d_model, spec->norm_eps);
    } else {
        qn_ops()->layernorm(y, x, w->g, w->b, spec->d_model, spec->norm_eps);
    }
}

/* Adds the tables of the tokens before this one. */
static void add_lags(struct forward *f, const struct qn_row *row, float *x, float *work) {
    for (uint32_t i = 1; i <= f->spec->embed_lags && i <= row->pos; i++) {
        qn_matrix_get_row(&f->m->ckpt->lags[i - 1], (uint32_t)row->tokens[row->pos - i], work);
        qn_ops()->add(x, work, qn_spec_table_width(f->spec));
    }
}

/* The embedding, and the cosines and sines of the row's position, in double so that far positions stay exact.
 */
static void embed_row(struct forward *f, size_t r) {
    const struct qn_row *row = &f->s->rows[r];
    size_t d = qn_spec_table_width(f->spec), half = f->spec->rope_dim / 2;
    float *x = (f->spec->d_embed ? f->s->h : f->s->x) + r * d;
    qn_matrix_get_row(&f->m->ckpt->embed, (uint32_t)row->token, x);
    if (f->spec->embed_scale != 1.0f) qn_ops()->scale(x, f->spec->embed_scale, d);
    add_lags(f, row, x, f->s->y + r * d);
    if (f->m->ckpt->pos_embed) qn_ops()->add(x, f->m->ckpt->pos_embed + row->pos * d, d);
    float *cs = f->s->cs + r * 2 * half;
    for (size_t i = 0; i < half; i++) {
        double angle = (double)row->pos * (double)f->m->inv_freq[i];
        cs[i] = (float)cos(angle);
        cs[half + i] = (float)sin(angle);
    }
}

/* Rows of x. Tables narrower than the model go through a map (ALBERT's factorised embedding). */
static void embed(struct forward *f) {
    uint32_t e = f->spec->d_embed, d = f->spec->d_model;
    each_row(f, embed_row);
    if (!e) return;
    struct qn_act in = qn_linear_input(f->s->h, e, f->rows, e);
    qn_linear_apply(&f->env, &f->m->ckpt->embed_map, &in, NULL, f->s->x, d);
}

/* Takes in what the last sub-layer adds, and makes the next one's input of it. */
static void norm_row(struct forward *f, size_t r) {
    size_t d = f->spec->d_model;
    if (f->pending) qn_ops()->add(f->s->x + r * d, f->s->y + r * d, d);
    normalise(f->spec, f->norm, f->s->h + r * d, f->s->x + r * d);
    if (f->in.q) qn_act_fill(&f->in, (uint32_t)r, (uint32_t)r + 1);
}

/* f->in = norm(x) of every row, in integers too where they are read. */
static void norm_rows(struct forward *f, const struct qn_norm_weights *w, bool integers) {
    f->norm = w;
    f->in = qn_linear_input(f->s->h, f->spec->d_model, f->rows, f->spec->d_model);
    if (integers) qn_act_place(&f->in, f->env.act_mem);
    each_row(f, norm_row);
    f->pending = false;
}

/* RMSNorm of q or k: over each head, or over all heads at once. */
static void heads_norm(const struct forward *f, float *x, uint32_t heads, const float *g) {
    size_t dh = f->spec->head_dim, n = f->spec->qk_norm_whole ? heads * dh : dh;
    for (size_t at = 0; g && at < heads * dh; at += n)
        qn_ops()->rmsnorm(x + at, x + at, g, n, f->spec->norm_eps);
}

static void rotate_heads(const struct forward *f, float *x, uint32_t heads, const float *norm, size_t row) {
    const struct qn_attention *a = f->layer->attention;
    size_t rot = f->spec->rope_dim;
    if (f->spec->qk_norm || f->spec->qk_norm_whole) heads_norm(f, x, heads, norm);
    if (a->rope) qn_ops()->rope(x, heads, a->head_dim, rot, f->s->cs + row * rot);
}

static void rotate_row(struct forward *f, size_t r) {
    const struct qn_attention *a = f->layer->attention;
    rotate_heads(f, f->s->k + r * a->kv_heads * a->head_dim, a->kv_heads, f->aw->k_norm, r);
    size_t width = (size_t)a->heads * a->head_dim;
    if (!f->few) rotate_heads(f, f->s->q + r * width, a->heads, f->aw->q_norm, r);
    if (f->few && r < f->n_wanted)
        rotate_heads(f, f->s->q + r * width, a->heads, f->aw->q_norm, f->s->wanted[r]);
}

/* --- layers --- */
/* In one go, or pass by pass where copies of this layer's fixed state are due in between. */
static void run_attention(struct forward *f, struct qn_attention_call *call) {
    const struct qn_attention *a = call->a;
    const struct qn_cuts *c = &f->s->cuts;
    size_t fixed = c->n_passes > 0 ? a->ops->state(a, call->type).fixed_bytes : 0;
    if (fixed == 0) {
        a->ops->run(call);
        return;
    }
    for (uint32_t i = 0; i < c->n_passes; i++) {
        uint32_t first = i > 0 ? c->end[i - 1] : 0;
        call->spans = c->spans + first;
        call->n_spans = c->end[i] - first;
        a->ops->run(call);
        qn_cuts_copy(c, i, call->fixed_offset, fixed);
    }
}

static const struct qn_matrix *output_matrix(const struct qn_checkpoint *c) {
    return c->output.data ? &c->output : &c->embed;
}

/* The pool is told one loop ahead which weights come. */
static void ahead_of_ffn(const struct forward *f) {
    const struct qn_ffn_matrices *w = &f->v->ffn_weights[f->layer->ffn_block].dense;
    if (w->up.data) qn_linear_before_hidden(&f->env, w->gate.data ? &w->gate : NULL, &w->up, f->rows);
}

/* What comes after an FFN: the next layer's attention, or the output matrix. */
static void set_after(struct forward *f) {
    const struct qn_checkpoint *c = f->m->ckpt;
    const struct qn_layer *next = f->layer + 1;
    f->env.n_after = 0;
    if (next < f->v->layers + f->spec->layers) {
        const struct qn_attn_weights *w = &f->v->attn_weights[next->attn_block];
        f->env.after[f->env.n_after++] = &w->k;
        f->env.after[f->env.n_after++] = &w->v;
        f->env.after[f->env.n_after++] = &w->q;
    } else if (!c->output_map.data) {
        f->env.after[f->env.n_after++] = output_matrix(c);
    }
}

/* Moves the wanted ones of rows of `cols` floats to the front. */
static void gather(const struct forward *f, float *x, size_t cols) {
    for (size_t i = 0; i < f->n_wanted; i++)
        memmove(x + i * cols, x + f->s->wanted[i] * cols, cols * sizeof *x);
}

/* q, k and v of all rows; where few rows are wanted of a layer and it may be so, q of those alone. */
static void project(struct forward *f) {
    struct qn_scratch *s = f->s;
    const struct qn_attention *a = f->layer->attention;
    const struct qn_attn_weights *w = f->aw;
    uint32_t d = f->spec->d_model, inner = a->heads * a->head_dim, kv = a->kv_heads * a->head_dim;
    const struct qn_product p[] = {
        {&w->k, w->bk, s->k, kv}, {&w->v, w->bv, s->v, kv}, {&w->q, w->bq, s->q, inner}};
    const struct qn_matrix *const o[] = {&w->o};
    norm_rows(f, &w->norm, qn_linear_wants_int(&f->env, w->q.type));
    qn_linear_before(&f->env, o, 1, f->rows);
    qn_linear_apply_all(&f->env, p, f->few ? 2 : 3, &f->in);
    if (!f->few || f->n_wanted == 0) return;
    gather(f, s->h, d);
    struct qn_act in = qn_linear_input(s->h, d, f->n_wanted, d);
    qn_linear_apply_all(&f->env, p + 2, 1, &in);
}

static void attention_layer(struct forward *f) {
    struct qn_scratch *s = f->s;
    const struct qn_attention *a = f->layer->attention;
    const struct qn_attn_weights *w = f->aw;
    uint32_t d = f->spec->d_model, inner = a->heads * a->head_dim;
    bool trims = f->layer + 1 == f->v->layers + f->spec->layers && f->n_wanted < f->rows;
    f->few = trims && a->causal && a->ops->reads_some;
    project(f);
    each_row(f, rotate_row);
    struct qn_attention_call call = {
        .a = a,
        .w = w,
        .pool = f->m->pool,
        .rows = s->rows,
        .n_rows = f->rows,
        .spans = s->spans,
        .n_spans = f->step->n_spans,
        .state_offset = f->layer->state_offset,
        .fixed_offset = f->layer->fixed_offset,
        .work = s->attention,
        .work_floats = s->attention_floats,
        .type = f->m->kv_type,
        .q = s->q,
        .k = s->k,
        .v = s->v,
        .out = s->h,
        .readers = f->few ? s->readers : NULL,
        .n_readers = f->n_wanted,
    };
    run_attention(f, &call);
    if (trims) {
        if (!f->few) gather(f, s->h, inner);
        gather(f, s->x, d);
        f->rows = f->n_wanted;
    }
    if (f->rows == 0) return;
    struct qn_act read = qn_linear_input(s->h, inner, f->rows, inner);
    ahead_of_ffn(f);
    qn_linear_apply(&f->env, &w->o, &read, w->bo, s->y, d);
    f->pending = true;
}

static void ffn_layer(struct forward *f) {
    const struct qn_ffn_weights *w = &f->v->ffn_weights[f->layer->ffn_block];
    enum qn_type first = w->dense.up.data ? w->dense.up.type : w->experts[0].up.type;
    norm_rows(f, &w->norm, qn_linear_wants_int(&f->env, first));
    struct qn_ffn_call call = {
        .f = f->layer->ffn,
        .w = w,
        .env = &f->env,
        .in = f->in,
        .y = f->s->y,
        .work = f->s->ffn,
    };
    set_after(f);
    call.f->ops->run(&call);
    f->pending = true;
}

/* --- results --- */
static void add_row(struct forward *f, size_t r) {
    size_t d = f->spec->d_model;
    qn_ops()->add(f->s->x + r * d, f->s->y + r * d, d);
}

/* Rows that wait for their logits: normalised in scratch.h, in order. */
struct group {
    uint32_t n;
    struct {
        uint32_t span, pos;
    } of[QN_LOGIT_ROWS];
};

static void flush(struct forward *f, struct group *g) {
    if (g->n == 0) return;
    const struct qn_checkpoint *c = f->m->ckpt;
    const struct qn_matrix *out = output_matrix(c);
    uint32_t d = f->spec->d_model, e = f->spec->d_embed;
    struct qn_act in = qn_linear_input(f->s->h, d, g->n, d);
    if (c->output_map.data) { /* back to the width of the table; the sub-layers' rows are free by now */
        qn_linear_apply(&f->env, &c->output_map, &in, NULL, f->s->y, e);
        in = qn_linear_input(f->s->y, e, g->n, e);
    }
    qn_linear_apply(&f->env, out, &in, NULL, f->s->logits, f->spec->vocab);
    if (qn_checkpoint_lost(c)) g->n = 0; /* none of these is to be believed */
    for (uint32_t i = 0; i < g->n; i++) {
        float *row = f->s->logits + (size_t)i * f->spec->vocab;
        f->step->on_row(f->step->ctx, g->of[i].span, g->of[i].pos, row);
    }
    g->n = 0;
}

/* Row r of the step, which lies at place i by now. */
static void emit_row(struct forward *f, struct group *g, uint32_t span, uint32_t r, uint32_t i) {
    size_t d = f->spec->d_model;
    bool hidden = f->step->spans[span].want == QN_WANT_HIDDEN;
    if (hidden) flush(f, g); /* keeps the order, and frees scratch.h */
    float *h = f->s->h + g->n * d;
    normalise(f->spec, &f->m->ckpt->out_norm, h, f->s->x + i * d);
    if (hidden) {
        f->step->on_row(f->step->ctx, span, f->s->rows[r].pos, h);
        return;
    }
    g->of[g->n].span = span;
    g->of[g->n].pos = f->s->rows[r].pos;
    if (++g->n == QN_LOGIT_ROWS) flush(f, g);
}

static void emit(struct forward *f) {
    struct group g = {0};
    each_row(f, add_row); /* what the last layer adds */
    for (uint32_t i = 0, place = 0; i < f->step->n_spans; i++) {
        const struct qn_row_span *sp = &f->s->spans[i];
        for (uint32_t t = first_wanted(f->step, i); t < sp->n; t++)
            emit_row(f, &g, i, sp->first + t, place++);
    }
    flush(f, &g);
}

/* The state now holds the step's tokens. */
static void commit(struct forward *f) {
    for (uint32_t i = 0; i < f->step->n_spans; i++) {
        const struct qn_span *sp = &f->step->spans[i];
        struct qn_seq *q = sp->seq;
        uint32_t end = q->length + sp->n - sp->drafts;
        qn_kv_set_tokens(&q->kv, q->length, sp->tokens, sp->n);
        q->length += sp->n;
        if (f->step->math != QN_MATH_PACKED) q->publish = false;
        if (q->publish) qn_kv_publish(&q->kv, q->settled, end);
        q->settled = end;
    }
    qn_cuts_finish(&f->s->cuts, f->m->kv);
}

/* Mapped weights (--mmap) may go away under a step, and then read as zeros. */
static int check_weights(const struct qn_model *m, struct qn_err *err) {
    if (!qn_checkpoint_lost(m->ckpt)) return QN_OK;
    return qn_err_set(err, QN_ERR_LOST,
                      "model %s can't answer any more: the file that its weights are mapped from was cut or "
                      "overwritten",
                      m->info.id);
}

int qn_step_run(const struct qn_step *step, struct qn_err *err) {
    struct qn_model *m = step->variant->model;
    struct forward f = {
        .m = m,
        .v = step->variant,
        .step = step,
        .spec = &m->ckpt->spec,
        .s = &m->scratch,
        .env = {.pool = m->pool,
                .math = step->math,
                .act_mem = m->scratch.act,
                .mid_mem = m->scratch.mid,
                .gemm_work = m->scratch.gemm},
    };
    int rc = check_weights(m, err);
    if (rc == QN_OK) rc = plan(&f, err);
    if (rc) return rc;
    embed(&f);
    for (uint32_t i = 0; i < f.spec->layers; i++) {
        f.layer = &f.v->layers[i];
        f.aw = &f.v->attn_weights[f.layer->attn_block];
        attention_layer(&f);
        if (f.rows > 0) ffn_layer(&f);
    }
    rc = check_weights(m, err);
    if (rc) return rc;
    commit(&f);
    emit(&f);
    return check_weights(m, err);
}
