/* What the dense kinds of FFN (plain and gated) have in common. Thread: as ffn.h. */
#include "model/ffn/ffn.h"

#include <stdio.h>
#include <string.h>

#define PART 8192 /* elements per item of the pool: half a core's L1 */

int qn_ffn_dense_resolve(const struct qn_ffn_ops *self, const struct qn_spec *spec, uint32_t member,
                         const struct qn_part *ask, struct qn_ffn *out, struct qn_err *err) {
    const struct qn_ffn_member *m = &spec->ffn[member];
    bool native = strcmp(self->name, m->type) == 0;
    memset(out, 0, sizeof *out);
    out->ops = self;
    out->d_model = spec->d_model;
    out->member = member;
    out->dim = m->dim;
    out->act = native ? m->act : self->act;
    struct qn_choice *c = &out->choice;
    qn_part_init(&c->part, self->name);
    qn_part_add(&c->part, "ffn_dim", QN_PARAM_INT, m->dim);
    c->origin = native ? QN_ORIGIN_NATIVE : QN_ORIGIN_CONVERTED;
    c->exactness = native ? QN_EXACT : QN_UNAVAILABLE;
    if (!native) {
        snprintf(c->why, sizeof c->why, "the checkpoint was trained with %.15s and has no weights for %s",
                 m->type, self->name);
        return QN_OK;
    }
    return qn_part_check(ask, &c->part, "ffn", err);
}

uint32_t qn_ffn_dense_widest(const struct qn_spec *spec) {
    uint32_t most = 0;
    for (uint32_t i = 0; i < spec->n_ffn; i++) {
        if (spec->ffn[i].dim > most) most = spec->ffn[i].dim;
        if (spec->ffn[i].shared_dim > most) most = spec->ffn[i].shared_dim;
    }
    return most;
}

size_t qn_ffn_dense_weight_bytes(const struct qn_ffn *f, const struct qn_ffn_weights *w) {
    (void)f;
    return w->dense.gate.bytes + w->dense.up.bytes + w->dense.down.bytes;
}

struct apply {
    qn_ffn_elementwise f;
    float *y;
    const float *b;
    size_t dim, parts; /* of one row */
    enum qn_act_fn act;
};

static void apply_item(void *arg, size_t item, unsigned thread) {
    (void)thread;
    const struct apply *a = arg;
    size_t in_row = item % a->parts * PART;
    size_t at = item / a->parts * a->dim + in_row;
    size_t n = a->dim - in_row < PART ? a->dim - in_row : PART;
    a->f(a->y + at, a->y + at, a->b ? a->b + at : NULL, n, a->act);
}

/* Cuts fall at the same places of every row, so that an element meets the same lanes and tails of a kernel
 * however many rows a step has. */
void qn_ffn_apply(const struct qn_ffn_call *c, qn_ffn_elementwise f, float *y, const float *b) {
    struct apply a = {f, y, b, c->f->dim, (c->f->dim + PART - 1) / PART, c->f->act};
    size_t items = c->rows * a.parts;
    qn_pool_run((size_t)c->rows * c->f->dim > PART ? c->env->pool : NULL, items, apply_item, &a);
}
