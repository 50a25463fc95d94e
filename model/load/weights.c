/* Packing: checked tensors into matrices and vectors of quern's own memory. */
#include "model/load/weights.h"

#include <stdlib.h>
#include <string.h>

#include "kernels/mem.h"
#include "model/load/mapfile.h"
#include "model/load/panels.h"
#include "model/load/want.h"

/* Which row of the file is row r of ours: heads of `block` rows, `stride` apart, beginning at `offset`;
 * inside a head the first `rot` rows are in adjacent-pair order and come back to rotate-half order. */
struct row_map {
    uint64_t offset, block, stride, rot;
};

static const struct row_map plain_rows = {0, 1, 1, 0};

static uint64_t map_row(const struct row_map *m, uint64_t r) {
    uint64_t in = r % m->block, half = m->rot / 2;
    if (in < m->rot) in = in < half ? 2 * in : 2 * (in - half) + 1;
    return m->offset + r / m->block * m->stride + in;
}

struct loader {
    const struct qn_weights_source *src;
    const struct qn_load_options *opt;
    struct qn_checkpoint *c;
    struct qn_found found;
    size_t matrices, done; /* for progress */
    struct qn_err *err;
};

/* ---- matrices ---- */

struct pack {
    struct qn_matrix *dst;
    const struct qn_tensor *src;
    struct row_map map;
    size_t row_bytes; /* of one row of dst in file form */
    uint8_t *scratch; /* [threads, QN_PANEL, row_bytes] when the source is transposed */
};

static void pack_rows(void *arg, size_t item, unsigned thread) {
    const struct pack *p = arg;
    (void)thread;
    uint32_t begin = (uint32_t)item * QN_ITEM_ROWS;
    uint32_t end = p->dst->rows - begin > QN_ITEM_ROWS ? begin + QN_ITEM_ROWS : p->dst->rows;
    for (uint32_t r = begin; r < end; r++)
        qn_matrix_set_row(p->dst, r, p->src->data + map_row(&p->map, r) * p->row_bytes);
}

/* Source [in, out]: column `map_row(r)` is our row r. A panel of columns is gathered in one walk over the
 * source. */
static void pack_columns(void *arg, size_t item, unsigned thread) {
    const struct pack *p = arg;
    size_t elem = qn_type_block_bytes(p->src->type), out = (size_t)p->src->dims[1];
    uint8_t *rows = p->scratch + (size_t)thread * QN_PANEL * p->row_bytes;
    uint32_t begin = (uint32_t)item * QN_ITEM_ROWS;
    uint32_t end = p->dst->rows - begin > QN_ITEM_ROWS ? begin + QN_ITEM_ROWS : p->dst->rows;
    for (uint32_t r = begin; r < end; r += QN_PANEL) {
        uint32_t n = end - r < QN_PANEL ? end - r : QN_PANEL;
        for (uint32_t k = 0; k < p->dst->cols; k++)
            for (uint32_t j = 0; j < n; j++)
                memcpy(rows + j * p->row_bytes + k * elem,
                       p->src->data + (k * out + map_row(&p->map, r + j)) * elem, elem);
        for (uint32_t j = 0; j < n; j++) qn_matrix_set_row(p->dst, r + j, rows + j * p->row_bytes);
    }
}

static int no_memory(struct loader *l) {
    return qn_err_set(l->err, QN_ERR_NOMEM, "out of memory for the weights");
}

static void packed(struct loader *l) {
    l->done++;
    if (l->opt->progress)
        l->opt->progress(l->opt->progress_ctx, "repack", (double)l->done / (double)l->matrices);
}

static int pack_matrix(struct loader *l, struct qn_matrix *dst, const struct qn_tensor *t, enum qn_slot slot,
                       size_t rows, const struct row_map *map) {
    bool transposed = qn_want_transposed(l->src, slot);
    size_t cols = (size_t)t->dims[transposed ? 0 : 1], bytes;
    struct pack p = {.dst = dst, .src = t, .map = *map};
    struct qn_panels_key key = {t, rows, cols, {map->offset, map->block, map->stride, map->rot, transposed}};
    if (qn_panels_take(l->c->panels, &key, dst)) {
        l->c->weights_bytes += dst->bytes;
        packed(l);
        return QN_OK;
    }
    if (!qn_type_row_bytes(t->type, cols, &p.row_bytes) ||
        !qn_checkpoint_matrix(l->c, dst, t->type, rows, cols))
        return no_memory(l);
    if (transposed) {
        unsigned threads = l->opt->pool ? qn_pool_threads(l->opt->pool) : 1;
        if (!qn_size_mul(p.row_bytes, QN_PANEL, &bytes) || !(p.scratch = qn_mem_alloc_array(threads, bytes)))
            return no_memory(l);
    }
    size_t items = (rows + QN_ITEM_ROWS - 1) / QN_ITEM_ROWS;
    qn_pool_run(l->opt->pool, items, transposed ? pack_columns : pack_rows, &p);
    qn_mem_free(p.scratch);
    qn_mapfile_release(t->data, t->bytes);
    packed(l);
    return qn_panels_add(l->c->panels, &key, dst) ? QN_OK : no_memory(l);
}

/* ---- vectors ---- */

/* *dst = n elements of t through the map, plus `add`; t NULL leaves *dst NULL. */
static int load_vector(struct loader *l, float **dst, const struct qn_tensor *t, size_t n,
                       const struct row_map *map, float add) {
    if (!t) return QN_OK;
    float *v = qn_checkpoint_vector(l->c, n);
    if (!v) return no_memory(l);
    size_t elem = qn_type_block_bytes(t->type);
    for (size_t i = 0; i < n; i++) {
        qn_type_row_to_f32(t->type, t->data + map_row(map, i) * elem, &v[i], 1);
        v[i] += add;
    }
    *dst = v;
    return QN_OK;
}

static int load_norm(struct loader *l, struct qn_norm_weights *w, enum qn_slot slot, uint32_t layer) {
    float add = !l->src->gguf && l->src->family->hf_norm_minus_one ? 1.0f : 0.0f;
    size_t n = l->c->spec.d_model;
    int rc = load_vector(l, &w->g, qn_found_get(&l->found, slot, layer, false), n, &plain_rows, add);
    if (rc != QN_OK) return rc;
    return load_vector(l, &w->b, qn_found_get(&l->found, slot, layer, true), n, &plain_rows, 0);
}

/* ---- blocks ---- */

static int load_linear(struct loader *l, struct qn_matrix *w, float **bias, enum qn_slot slot, uint32_t layer,
                       size_t rows) {
    const struct qn_tensor *t = qn_found_get(&l->found, slot, layer, false);
    if (!t) return QN_OK;
    int rc = pack_matrix(l, w, t, slot, rows, &plain_rows);
    if (rc != QN_OK || !bias) return rc;
    return load_vector(l, bias, qn_found_get(&l->found, slot, layer, true), rows, &plain_rows, 0);
}

/* Where part 0 (q), 1 (k) or 2 (v) lies, and how its rows are ordered. */
static struct row_map qkv_map(const struct loader *l, unsigned part) {
    const struct qn_spec *s = &l->c->spec;
    struct row_map m = {0, s->head_dim, s->head_dim, 0};
    if (l->src->gguf && l->src->family->gguf_permuted && part < 2) m.rot = s->rope_dim;
    if (l->src->qkv == QN_QKV_FUSED) {
        uint64_t dq = (uint64_t)s->heads * s->head_dim, dk = (uint64_t)s->attn[0].kv_heads * s->head_dim;
        m.offset = part == 0 ? 0 : part == 1 ? dq : dq + dk;
    } else if (l->src->qkv == QN_QKV_FUSED_PER_HEAD) {
        m.offset = (uint64_t)part * s->head_dim;
        m.stride = 3 * (uint64_t)s->head_dim;
    }
    return m;
}

static int load_qkv(struct loader *l, struct qn_attn_weights *a, uint32_t layer) {
    const struct qn_spec *s = &l->c->spec;
    struct qn_matrix *dst[3] = {&a->q, &a->k, &a->v};
    float **bias[3] = {&a->bq, &a->bk, &a->bv};
    for (unsigned part = 0; part < 3; part++) {
        enum qn_slot slot =
            l->src->qkv == QN_QKV_SEPARATE ? (enum qn_slot)(QN_SLOT_Q + (int)part) : QN_SLOT_QKV;
        size_t rows = (size_t)(part == 0 ? s->heads : s->attn[0].kv_heads) * s->head_dim;
        struct row_map map = qkv_map(l, part);
        int rc = pack_matrix(l, dst[part], qn_found_get(&l->found, slot, layer, false), slot, rows, &map);
        if (rc == QN_OK)
            rc = load_vector(l, bias[part], qn_found_get(&l->found, slot, layer, true), rows, &map, 0);
        if (rc != QN_OK) return rc;
    }
    return QN_OK;
}

/* ---- mixtures of experts ---- */

static int load_experts(struct loader *l, struct qn_ffn_weights *f, uint32_t layer) {
    const struct qn_ffn_member *m = &l->c->spec.ffn[0];
    f->experts = qn_checkpoint_experts(l->c, m->experts);
    if (!f->experts) return no_memory(l);
    f->n_experts = m->experts;
    for (uint32_t e = 0; e < m->experts; e++) {
        struct qn_matrix *dst[3] = {&f->experts[e].gate, &f->experts[e].up, &f->experts[e].down};
        for (unsigned which = 0; which < 3; which++) {
            struct qn_tensor t = qn_found_expert(&l->found, layer, e, which);
            int rc = pack_matrix(l, dst[which], &t, QN_SLOT_EXPERT_GATE, (size_t)t.dims[0], &plain_rows);
            if (rc != QN_OK) return rc;
        }
    }
    return QN_OK;
}

static int load_mixture(struct loader *l, struct qn_ffn_weights *f, uint32_t layer) {
    const struct qn_spec *s = &l->c->spec;
    const struct qn_ffn_member *m = &s->ffn[0];
    struct row_map plain = plain_rows;
    int rc;
    if ((rc = load_linear(l, &f->router, NULL, QN_SLOT_ROUTER, layer, m->experts)) < 0) return rc;
    if ((rc = load_experts(l, f, layer)) < 0) return rc;
    if ((rc = load_linear(l, &f->dense.gate, NULL, QN_SLOT_SHARED_GATE, layer, m->shared_dim)) < 0) return rc;
    if ((rc = load_linear(l, &f->dense.up, NULL, QN_SLOT_SHARED_UP, layer, m->shared_dim)) < 0) return rc;
    if ((rc = load_linear(l, &f->dense.down, NULL, QN_SLOT_SHARED_DOWN, layer, s->d_model)) < 0) return rc;
    return load_vector(l, &f->shared_gate, qn_found_get(&l->found, QN_SLOT_SHARED_SCALE, layer, false),
                       s->d_model, &plain, 0);
}

static int load_layer(struct loader *l, uint32_t i) {
    const struct qn_spec *s = &l->c->spec;
    struct qn_attn_weights *a = &l->c->attn[i];
    struct qn_ffn_weights *f = &l->c->ffn[i];
    struct row_map plain = plain_rows;
    int rc;
    if ((rc = load_norm(l, &a->norm, QN_SLOT_ATTN_NORM, i)) < 0) return rc;
    if ((rc = load_qkv(l, a, i)) < 0) return rc;
    if ((rc = load_linear(l, &a->o, &a->bo, QN_SLOT_O, i, s->d_model)) < 0) return rc;
    size_t q_heads = s->qk_norm_whole ? s->heads : 1, k_heads = s->qk_norm_whole ? s->attn[0].kv_heads : 1;
    rc = load_vector(l, &a->q_norm, qn_found_get(&l->found, QN_SLOT_Q_NORM, i, false), q_heads * s->head_dim,
                     &plain, 0);
    if (rc < 0) return rc;
    rc = load_vector(l, &a->k_norm, qn_found_get(&l->found, QN_SLOT_K_NORM, i, false), k_heads * s->head_dim,
                     &plain, 0);
    if (rc < 0) return rc;
    if ((rc = load_norm(l, &f->norm, QN_SLOT_FFN_NORM, i)) < 0) return rc;
    if (s->ffn[0].experts) return load_mixture(l, f, i);
    if ((rc = load_linear(l, &f->dense.gate, NULL, QN_SLOT_GATE, i, s->ffn[0].dim)) < 0) return rc;
    if ((rc = load_linear(l, &f->dense.up, &f->b_up, QN_SLOT_UP, i, s->ffn[0].dim)) < 0) return rc;
    return load_linear(l, &f->dense.down, &f->b_down, QN_SLOT_DOWN, i, s->d_model);
}

/* Learned positions: [context, d_model] as f32, row by row from whatever type the file has. */
static int load_positions(struct loader *l) {
    const struct qn_tensor *t = qn_found_get(&l->found, QN_SLOT_POS, 0, false);
    size_t rows = l->c->spec.context, cols = l->c->spec.d_model, n, row_bytes;
    if (!t) return QN_OK;
    if (!qn_size_mul(rows, cols, &n) || !qn_type_row_bytes(t->type, cols, &row_bytes) ||
        !(l->c->pos_embed = qn_checkpoint_vector(l->c, n)))
        return no_memory(l);
    for (size_t r = 0; r < rows; r++)
        qn_type_row_to_f32(t->type, t->data + r * row_bytes, l->c->pos_embed + r * cols, cols);
    return QN_OK;
}

static int pack_all(struct loader *l) {
    struct qn_checkpoint *c = l->c;
    const struct qn_spec *s = &c->spec;
    struct row_map plain = plain_rows;
    int rc;
    size_t ffn = s->ffn[0].experts       ? 3 * ((size_t)s->ffn[0].experts + (s->ffn[0].shared_dim > 0)) + 1
                 : l->src->family->gated ? 3
                                         : 2;
    l->matrices = s->layers * (4 + ffn) + (s->tied ? 1 : 2);
    c->attn = calloc(s->layers, sizeof *c->attn);
    c->ffn = calloc(s->layers, sizeof *c->ffn);
    if (!c->attn || !c->ffn) return no_memory(l);
    if ((rc = load_linear(l, &c->embed, NULL, QN_SLOT_EMBED, 0, s->vocab)) < 0) return rc;
    if ((rc = load_linear(l, &c->output, NULL, QN_SLOT_OUTPUT, 0, s->vocab)) < 0) return rc;
    if ((rc = load_positions(l)) < 0) return rc;
    if ((rc = load_norm(l, &c->out_norm, QN_SLOT_OUT_NORM, 0)) < 0) return rc;
    rc = load_vector(l, &c->rope_factors, qn_found_get(&l->found, QN_SLOT_ROPE_FACTORS, 0, false),
                     s->rope_dim / 2, &plain, 0);
    for (uint32_t i = 0; i < s->layers && rc == QN_OK; i++) rc = load_layer(l, i);
    return rc;
}

/* A factor of 0, less, or not a number would divide frequencies into nonsense: the one value check there is.
 */
static int check_rope_factors(struct loader *l) {
    const struct qn_tensor *t = qn_found_get(&l->found, QN_SLOT_ROPE_FACTORS, 0, false);
    if (!t) return QN_OK;
    size_t elem = qn_type_block_bytes(t->type);
    for (uint32_t i = 0; i < l->c->spec.rope_dim / 2; i++) {
        float f;
        qn_type_row_to_f32(t->type, t->data + i * elem, &f, 1);
        if (!(f > 0))
            return qn_err_set(l->err, QN_ERR_FORMAT, "a factor of 'rope_freqs.weight' is not above 0");
    }
    return QN_OK;
}

static void count(struct qn_checkpoint *c, const struct qn_tensor_dir *dir) {
    for (size_t i = 0; i < dir->n; i++) {
        const struct qn_tensor *t = &dir->t[i];
        if (!t->used) continue;
        uint64_t n = 1;
        for (uint32_t j = 0; j < t->n_dims; j++) n *= t->dims[j];
        c->params += n;
        c->bytes_by_type[t->type] += t->bytes;
    }
}

size_t qn_weights_room(const struct qn_checkpoint *c) {
    size_t sum = (size_t)1 << 20, panel, rows;
    for (int t = 0; t < QN_TYPE_COUNT; t++) {
        enum qn_type type = (enum qn_type)t;
        /* Two blocks of a panel: BF16 is packed in pairs. */
        rows = c->bytes_by_type[t] / qn_type_block_bytes(type) / (2 * QN_PANEL) + 1;
        if (!qn_matrix_bytes(type, QN_PANEL, (size_t)2 * qn_type_block(type), &panel) ||
            !qn_size_mul(rows, panel, &panel) || !qn_size_add(panel, panel / 16, &panel) ||
            !qn_size_add(sum, panel, &sum))
            return 0;
    }
    return sum;
}

int qn_weights_load(const struct qn_weights_source *src, const struct qn_load_options *opt,
                    struct qn_checkpoint *c, struct qn_err *err) {
    struct loader l = {.src = src, .opt = opt, .c = c, .err = err};
    if (opt->progress) opt->progress(opt->progress_ctx, "check", 0);
    int rc = qn_want_collect(src, &c->spec, &l.found, err);
    if (rc == QN_OK) rc = check_rope_factors(&l);
    if (opt->progress && rc == QN_OK) opt->progress(opt->progress_ctx, "check", 1);
    if (rc == QN_OK) count(c, src->dir);
    if (rc == QN_OK && !opt->spec_only) {
        qn_checkpoint_expect(c, qn_weights_room(c));
        rc = pack_all(&l);
    }
    qn_found_free(&l.found);
    return rc;
}
