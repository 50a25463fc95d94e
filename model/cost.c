/* What a structure costs by formula: bytes of weights and state, floating-point operations of a range of
 * positions. Pure functions of spec, weights' shapes and resolved parts; measured figures are the server's.
 * Element-wise work (norms, activations, rotations, softmax's exponentials) is left out: it is below one per
 * cent. Thread: any. */
#include <math.h>
#include <string.h>

#include "kernels/mem.h"
#include "model/internal.h"

struct qn_state_size qn_state_size_of(const struct qn_spec *spec, const struct qn_attention *a,
                                      enum qn_kv_type type) {
    struct qn_state_size one = a->ops->state(a, type);
    return (struct qn_state_size){.block_bytes = one.block_bytes * spec->layers,
                                  .fixed_bytes = one.fixed_bytes * spec->layers};
}

/* What every structure of the model uses besides its blocks: tables, of which a token reads one row each, and
 * the output matrix, which a tied table is as well. */
static void add_tables(const struct qn_checkpoint *c, struct qn_half_sizes *sum) {
    const struct qn_spec *spec = &c->spec;
    struct qn_distinct d = {0};
    struct qn_half_sizes own = {0};
    size_t norm = spec->d_model * sizeof(float), row = qn_spec_table_width(spec) * sizeof(float);
    qn_distinct_add(&d, c->embed.data, c->embed.bytes,
                    spec->tied ? c->embed.bytes : c->embed.bytes / spec->vocab);
    qn_distinct_add(&d, c->output.data, c->output.bytes, c->output.bytes);
    for (uint32_t i = 0; i < spec->embed_lags; i++)
        qn_distinct_add(&d, c->lags[i].data, c->lags[i].bytes, c->lags[i].bytes / spec->vocab);
    qn_distinct_add(&d, c->embed_map.data, c->embed_map.bytes, c->embed_map.bytes);
    qn_distinct_add(&d, c->output_map.data, c->output_map.bytes, c->output_map.bytes);
    qn_distinct_add(&d, c->pos_embed, spec->context * row, row);
    qn_distinct_add(&d, c->rope_factors, spec->rope_dim / 2 * sizeof(float), 0);
    qn_distinct_add(&d, c->out_norm.g, norm, norm);
    qn_distinct_add(&d, c->out_norm.b, norm, norm);
    bool failed = d.failed;
    qn_distinct_finish(&d, &own.bytes, &own.active);
    sum->bytes += own.bytes;
    sum->active += own.active;
    if (failed) sum->made[0] = SIZE_MAX;
}

/* Of the bytes of experts that one choice leaves unread, the share that `rows` rows leave unread, when they
 * choose evenly: an expert is met by none of n choices with probability miss^n, and a block that serves
 * several layers is chosen from once in each of them. Blocks are taken to weigh the same. */
static double left_unread(const struct qn_spec *spec, const struct qn_sharing *s,
                          const struct qn_ffn_member *mix, uint32_t rows) {
    double miss = mix->experts ? 1 - (double)mix->used / mix->experts : 0, last = 0, sum = 0;
    uint32_t blocks = 0, run = 0, before = 0;
    for (uint32_t i = 0; i < spec->layers; i++) {
        run++;
        if (i + 1 < spec->layers &&
            qn_sharing_block(s, spec, true, i + 1) == qn_sharing_block(s, spec, true, i))
            continue;
        if (run != before) last = pow(miss, (double)rows * run - 1);
        sum += last;
        blocks++;
        before = run;
        run = 0;
    }
    return sum / blocks; /* a model has layers */
}

int qn_structure_sizes(const struct qn_model *m, const struct qn_resolved *r, struct qn_structure *s,
                       size_t *idle_ffn, size_t made[QN_HALVES][QN_MAKES], struct qn_err *err) {
    struct qn_half_sizes sum = {0}, half;
    add_tables(m->ckpt, &sum);
    for (int h = QN_HALF_ATTENTION; h < QN_HALVES; h++) {
        int rc = qn_half_sizes(m, r, (enum qn_half)h, &half, err);
        if (rc) return rc;
        sum.bytes += half.bytes;
        sum.active += half.active;
        memcpy(made[h], half.made, sizeof half.made);
        *idle_ffn = half.bytes - half.active; /* the FFN is the last */
    }
    s->weights_bytes = sum.bytes;
    /* what the last layer chose may be what others of the same block chose */
    double met = 1 - left_unread(&m->ckpt->spec, &r->sharing, &r->ffn.mix, 1);
    s->weights_active_bytes = sum.active + (size_t)((double)*idle_ffn * met + 0.5);
    struct qn_state_size size = qn_state_size_of(&m->ckpt->spec, &r->attention, m->kv_type);
    s->state_bytes_per_token = size.block_bytes / QN_KV_BLOCK;
    s->state_fixed_bytes = size.fixed_bytes;
    if (sum.made[0] == SIZE_MAX) return qn_err_set(err, QN_ERR_NOMEM, "out of memory for a structure");
    return QN_OK;
}

size_t qn_variant_state_bytes(const struct qn_variant *v, uint32_t tokens) {
    size_t blocks = tokens / QN_KV_BLOCK + (tokens % QN_KV_BLOCK != 0), bytes = 0;
    if (!qn_size_mul(blocks, v->block_bytes, &bytes) || !qn_size_add(bytes, v->fixed_bytes, &bytes))
        return SIZE_MAX;
    return bytes;
}

struct qn_step_weights qn_variant_step_weights(const struct qn_variant *v, uint32_t rows) {
    const struct qn_checkpoint *c = v->model->ckpt;
    const struct qn_ffn_member *mix = &v->ffn.mix;
    double head = (double)(c->output.data ? &c->output : &c->embed)->bytes + (double)c->output_map.bytes;
    double more = left_unread(&c->spec, &v->sharing, mix, 1) - left_unread(&c->spec, &v->sharing, mix, rows);
    double body = (double)v->info.weights_active_bytes - head + (double)v->idle_ffn_bytes * more;
    return (struct qn_step_weights){.body = body > 0 ? body : 0, .head = head};
}

/* Weights that `rows` rows in steps of at most `chunk` read, in all. */
static double weights_read(const struct qn_variant *v, uint32_t rows, uint32_t chunk, uint32_t logit_rows) {
    uint32_t whole = rows / chunk, rest = rows % chunk, logit_steps = (logit_rows + chunk - 1) / chunk;
    struct qn_step_weights w = qn_variant_step_weights(v, chunk);
    double bytes = whole * w.body + logit_steps * w.head;
    return rest ? bytes + qn_variant_step_weights(v, rest).body : bytes;
}

struct qn_cost qn_variant_cost(const struct qn_variant *v, uint32_t begin, uint32_t end, uint32_t logit_rows,
                               uint32_t rows_per_step) {
    const struct qn_checkpoint *c = v->model->ckpt;
    const struct qn_spec *s = &c->spec;
    struct qn_cost cost = {0, 0};
    if (end <= begin) return cost;
    uint32_t rows = end - begin, chunk = rows_per_step ? rows_per_step : rows;
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
    const struct qn_matrix *out = c->output.data ? &c->output : &c->embed;
    macs += (double)rows * s->d_embed * s->d_model + (double)logit_rows * s->vocab * out->cols;
    if (c->output_map.data) macs += (double)logit_rows * s->d_embed * s->d_model;
    cost.flops += 2 * macs;
    cost.bytes += weights_read(v, rows, chunk, logit_rows);
    return cost;
}
