/* What a structure costs by formula: bytes of weights and state, floating-point operations of a range of
 * positions. Pure functions of spec, weights' shapes and resolved parts; measured figures are the server's.
 * Element-wise work (norms, activations, rotations, softmax's exponentials) is left out: it is below one per
 * cent. Thread: any. */
#include <string.h>

#include "model/internal.h"

struct qn_state_size qn_state_size_of(const struct qn_spec *spec, const struct qn_attention *a,
                                      enum qn_kv_type type) {
    struct qn_state_size one = a->ops->state(a, type);
    return (struct qn_state_size){.block_bytes = one.block_bytes * spec->layers,
                                  .fixed_bytes = one.fixed_bytes * spec->layers};
}

/* Bytes of FFN weights that one token leaves unread (a mixture's other experts), all layers. */
static size_t idle_ffn(const struct qn_model *m, const struct qn_ffn *f) {
    size_t idle = 0;
    for (uint32_t i = 0; i < m->ckpt->spec.ffn_blocks; i++) {
        const struct qn_ffn_weights *w = &qn_checkpoint_ffn(m->ckpt, f->member)[i];
        size_t all = w->dense.gate.bytes + w->dense.up.bytes + w->dense.down.bytes,
               read = f->ops->row_weight_bytes(f, w);
        idle += all > read ? all - read : 0;
    }
    return idle;
}

void qn_structure_sizes(const struct qn_model *m, const struct qn_attention *a, const struct qn_ffn *f,
                        struct qn_structure *s) {
    const struct qn_checkpoint *c = m->ckpt;
    size_t replaced = 0, made = 0;
    if (a->choice.origin == QN_ORIGIN_CONVERTED) made = qn_conversion_bytes(m, a, &replaced);
    s->weights_bytes = c->weights_bytes - replaced + made;
    /* One token reads all but the tables, of which it reads one row; a tied table is the output matrix as
     * well. */
    size_t idle = idle_ffn(m, f);
    if (!c->spec.tied) idle += c->embed.bytes - c->embed.bytes / c->spec.vocab;
    if (c->pos_embed) idle += (size_t)(c->spec.context - 1) * c->spec.d_model * sizeof(float);
    s->weights_active_bytes = s->weights_bytes > idle ? s->weights_bytes - idle : 0;
    struct qn_state_size size = qn_state_size_of(&c->spec, a, m->kv_type);
    s->state_bytes_per_token = size.block_bytes / QN_KV_BLOCK;
    s->state_fixed_bytes = size.fixed_bytes;
}

struct qn_cost qn_variant_cost(const struct qn_variant *v, uint32_t begin, uint32_t end, uint32_t logit_rows,
                               uint32_t rows_per_step) {
    const struct qn_checkpoint *c = v->model->ckpt;
    const struct qn_spec *s = &c->spec;
    struct qn_cost cost = {0, 0};
    if (end <= begin) return cost;
    uint32_t rows = end - begin, chunk = rows_per_step ? rows_per_step : rows;
    uint32_t steps = (rows + chunk - 1) / chunk, logit_steps = (logit_rows + chunk - 1) / chunk;
    double macs = 0;
    for (uint32_t i = 0; i < s->layers; i++) {
        const struct qn_layer *l = &v->layers[i];
        const struct qn_attention *a = l->attention;
        double q = (double)a->heads * a->head_dim, kv = (double)a->kv_heads * a->head_dim;
        macs += rows * (s->d_model * (2 * q + 2 * kv) + l->ffn->ops->row_macs(l->ffn));
        struct qn_attention_cost ac = a->ops->cost(a, v->model->kv_type, begin, end, chunk);
        cost.flops += ac.flops;
        cost.bytes += ac.state_bytes;
    }
    macs += (double)logit_rows * s->vocab * s->d_model;
    const struct qn_matrix *out = c->output.data ? &c->output : &c->embed;
    double body = (double)v->info.weights_active_bytes - (double)out->bytes;
    cost.flops += 2 * macs;
    cost.bytes += steps * (body > 0 ? body : 0) + logit_steps * (double)out->bytes;
    return cost;
}
