/* What the dense kinds of FFN (plain and gated) have in common. Thread: as ffn.h. */
#include "model/ffn/ffn.h"

#include <stdio.h>
#include <string.h>

void qn_ffn_part_activation(struct qn_part *part, enum qn_act_fn act) {
    if (act == QN_ACT_GELU_ERF) qn_part_add_text(part, "activation", "erf");
    if (act == QN_ACT_GELU_TANH) qn_part_add_text(part, "activation", "tanh");
}

void qn_ffn_unavailable(struct qn_ffn *out, const char *member_type) {
    struct qn_choice *c = &out->choice;
    c->origin = QN_ORIGIN_CONVERTED;
    c->exactness = QN_UNAVAILABLE;
    snprintf(c->why, sizeof c->why, "the checkpoint was trained with %.15s and has no weights for %s",
             member_type, out->ops->name);
}

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
    qn_part_init(&out->choice.part, self->name);
    qn_part_add(&out->choice.part, "ffn_dim", QN_PARAM_INT, m->dim);
    if (!native) {
        qn_ffn_unavailable(out, m->type);
        return QN_OK;
    }
    out->choice.origin = QN_ORIGIN_NATIVE;
    out->choice.exactness = QN_EXACT;
    qn_ffn_part_activation(&out->choice.part, m->act);
    return qn_part_check(ask, &out->choice.part, "ffn", err);
}

uint32_t qn_ffn_dense_widest(const struct qn_spec *spec) {
    uint32_t most = 0;
    for (uint32_t i = 0; i < spec->n_ffn; i++) {
        if (spec->ffn[i].dim > most) most = spec->ffn[i].dim;
        if (spec->ffn[i].shared_dim > most) most = spec->ffn[i].shared_dim;
    }
    return most;
}

size_t qn_ffn_matrices_bytes(const struct qn_ffn_matrices *m) {
    return m->gate.bytes + m->up.bytes + m->down.bytes;
}

size_t qn_ffn_dense_weight_bytes(const struct qn_ffn *f, const struct qn_ffn_weights *w) {
    (void)f;
    return qn_ffn_matrices_bytes(&w->dense);
}

void qn_ffn_dense_run(const struct qn_ffn_call *c) {
    struct qn_ffn_net net = {
        .env = c->env,
        .w = &c->w->dense,
        .b_gate = c->w->b_gate,
        .b_up = c->w->b_up,
        .b_down = c->w->b_down,
        .d_model = c->f->d_model,
        .dim = c->f->dim,
        .act = c->f->act,
        .in = c->in,
        .y = c->y,
        .work = c->work,
    };
    c->f->ops->net(&net);
}

void qn_ffn_dense_net(const struct qn_ffn_net *n, bool gated) {
    const struct qn_hidden h = {
        .gate = gated ? &n->w->gate : NULL,
        .up = &n->w->up,
        .b_gate = n->b_gate,
        .b_up = n->b_up,
        .g = n->work,
        .u = gated ? n->work + (size_t)n->in.rows * n->dim : NULL,
        .act = n->act,
    };
    const struct qn_matrix *const down[] = {&n->w->down};
    qn_linear_before(n->env, down, 1, n->in.rows);
    struct qn_act in = n->in, mid = qn_linear_mid(n->env, &h, &in, n->w->down.type);
    qn_linear_before(n->env, n->env->after, n->env->n_after, n->in.rows);
    qn_linear_apply(n->env, &n->w->down, &mid, n->b_down, n->y, n->d_model);
}
