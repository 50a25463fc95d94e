/* The walk over a quern checkpoint's tensors: see quern_weights.h. */
#include "model/load/quern_weights.h"

#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/mem.h"
#include "model/ffn/ffn.h"
#include "model/load/quern_config.h"
#include "model/load/mapfile.h"
#include "model/load/panels.h"
#include "model/load/report.h"
#include "model/load/weights.h"

#define NAME 192

/* What a tensor has become; zero until some block needs it. */
struct packed {
    struct qn_matrix m;
    float *v;
};

struct loader {
    const struct qn_tensor_dir *dir;
    const struct qn_load_options *opt;
    struct qn_checkpoint *c;
    struct qn_err *err;
    bool checking;
    struct qn_report report;
    struct packed *packed; /* [dir->n] */
    size_t bytes, done;    /* of used tensors, and packed so far */
    int rc;
};

/* Where a block's tensors are: "model.layers.3" or "model.shared". */
struct place {
    struct loader *l;
    char block[QN_QUERN_BLOCK_NAME];
};

static bool go_on(const struct loader *l) {
    return l->rc == QN_OK && !qn_report_full(&l->report);
}

/* ---- lookup ---- */

struct name {
    char text[NAME];
};

__attribute__((format(printf, 1, 2))) static struct name name(const char *fmt, ...) {
    struct name n;
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(n.text, sizeof n.text - sizeof ".weight", fmt, ap);
    va_end(ap);
    memcpy(n.text + strlen(n.text), ".weight", sizeof ".weight");
    return n;
}

/* The tensor of that name, or of the other one (NULL: there is no other). */
static struct qn_tensor *find(const struct loader *l, const struct name *own, const struct name *other) {
    struct qn_tensor *t = qn_tensor_dir_find(l->dir, own->text);
    return t || !other ? t : qn_tensor_dir_find(l->dir, other->text);
}

/* Checks and marks it; n_dims dimensions. */
static void check(struct loader *l, const struct name *own, struct qn_tensor *t, const uint64_t *dims,
                  uint32_t n_dims) {
    char shown[QN_TENSOR_NAME_MAX + 1];
    if (!l->checking) return;
    if (!t) {
        qn_report_add(&l->report, true, "'%s' is missing", own->text);
        return;
    }
    t->used = true;
    snprintf(shown, sizeof shown, "%.*s", (int)t->name.n, t->name.p);
    qn_report_check(&l->report, shown, t, dims, n_dims);
}

/* ---- packing ---- */

static void no_memory(struct loader *l) {
    l->rc = qn_err_set(l->err, QN_ERR_NOMEM, "out of memory for the weights");
}

static void progress(struct loader *l, size_t bytes) {
    l->done += bytes;
    if (l->opt->progress)
        l->opt->progress(l->opt->progress_ctx, "repack", (double)l->done / (double)(l->bytes ? l->bytes : 1));
}

struct pack {
    struct qn_matrix *m;
    const uint8_t *rows;
    size_t row_bytes;
};

static void pack_rows(void *arg, size_t item, unsigned thread) {
    const struct pack *p = arg;
    (void)thread;
    uint32_t begin = (uint32_t)item * QN_ITEM_ROWS;
    uint32_t end = p->m->rows - begin > QN_ITEM_ROWS ? begin + QN_ITEM_ROWS : p->m->rows;
    for (uint32_t r = begin; r < end; r++) qn_matrix_set_row(p->m, r, p->rows + r * p->row_bytes);
}

/* A matrix [rows, cols] under its own name, or under the one that several members share. */
static void matrix(struct loader *l, struct qn_matrix *dst, struct name own, const struct name *other,
                   uint64_t rows, uint64_t cols) {
    const uint64_t dims[2] = {rows, cols};
    struct qn_tensor *t = find(l, &own, other);
    check(l, &own, t, dims, 2);
    if (l->checking || l->rc != QN_OK || !t) return;
    struct packed *p = &l->packed[t - l->dir->t];
    const struct qn_panels_key key = {.tensor = t, .rows = (size_t)rows, .cols = (size_t)cols};
    if (!p->m.data && qn_panels_take(l->c->panels, &key, &p->m)) l->c->weights_bytes += p->m.bytes;
    if (!p->m.data) {
        struct pack job = {.m = &p->m, .rows = t->data};
        if (!qn_type_row_bytes(t->type, (size_t)cols, &job.row_bytes) ||
            !qn_checkpoint_matrix(l->c, &p->m, t->type, (size_t)rows, (size_t)cols)) {
            no_memory(l);
            return;
        }
        qn_pool_run(l->opt->pool, (size_t)((rows + QN_ITEM_ROWS - 1) / QN_ITEM_ROWS), pack_rows, &job);
        qn_mapfile_release(t->data, t->bytes);
        progress(l, t->bytes);
        if (!qn_panels_add(l->c->panels, &key, &p->m)) no_memory(l);
    }
    *dst = p->m;
}

/* v[h][col][row] = t[h][row][col]: for heads = 1 of one or two dimensions less. */
static float *transposed(struct loader *l, const struct qn_tensor *t, size_t heads, size_t rows,
                         size_t cols) {
    struct packed *p = &l->packed[t - l->dir->t];
    if (p->v || l->rc != QN_OK) return p->v;
    size_t each = 0, n = 0, row_bytes = 0;
    float *line = qn_mem_alloc_array(cols, sizeof *line), *v = NULL;
    if (qn_size_mul(rows, cols, &each) && qn_size_mul(heads, each, &n) &&
        qn_type_row_bytes(t->type, cols, &row_bytes) && line)
        v = qn_checkpoint_vector(l->c, n);
    for (size_t r = 0; v && r < heads * rows; r++) {
        float *to = v + r / rows * each + r % rows;
        qn_type_row_to_f32(t->type, t->data + r * row_bytes, line, cols);
        for (size_t c = 0; c < cols; c++) to[c * rows] = line[c];
    }
    qn_mem_free(line);
    if (!v) no_memory(l);
    p->v = v;
    progress(l, t->bytes);
    return v;
}

static void vector(struct loader *l, float **dst, struct name own, const struct name *other, uint64_t n) {
    struct qn_tensor *t = find(l, &own, other);
    check(l, &own, t, &n, 1);
    if (!l->checking && l->rc == QN_OK && t) *dst = transposed(l, t, 1, 1, (size_t)n);
}

/* A matrix over positions or a head's width: [rows, cols], or [kv_heads, rows, cols] with one for each KV
 * head; it comes out as [heads][cols][rows]. *heads: 0, or what must be met. NULL when absent or checking. */
static float *projection(struct loader *l, const struct name *own, struct qn_tensor *t, uint64_t kv_heads,
                         const uint64_t shape[2], uint32_t *heads) {
    const uint64_t dims[3] = {kv_heads, shape[0], shape[1]};
    bool each = t && t->n_dims == 3;
    uint32_t have = each ? (uint32_t)kv_heads : 1;
    check(l, own, t, each ? dims : dims + 1, each ? 3 : 2);
    if (l->checking && t && *heads != 0 && *heads != have)
        qn_report_add(&l->report, true, "'%s' has another number of heads than the projection beside it",
                      own->text);
    *heads = have;
    if (l->checking || l->rc != QN_OK || !t) return NULL;
    return transposed(l, t, have, (size_t)shape[0], (size_t)shape[1]);
}

/* ---- blocks ---- */

/* E and F of a block, of the whole model, or F = E. */
static void slot_projections(const struct place *at, const struct qn_attn_member *m,
                             struct qn_attn_weights *w) {
    struct loader *l = at->l;
    const uint64_t shape[2] = {m->slots, l->c->spec.context};
    struct name own_e = name("%s.attn.%s.e", at->block, m->type), all_e = name("model.%s.e", m->type);
    struct name own_f = name("%s.attn.%s.f", at->block, m->type), all_f = name("model.%s.f", m->type);
    struct qn_tensor *e = find(l, &own_e, &all_e), *f = find(l, &own_f, &all_f);
    w->e = projection(l, &own_e, e, m->kv_heads, shape, &w->proj_heads);
    w->f = f ? projection(l, &own_f, f, m->kv_heads, shape, &w->proj_heads) : w->e;
}

static void attention_block(const struct place *at, const struct qn_attn_member *m,
                            struct qn_attn_weights *w) {
    struct loader *l = at->l;
    const struct qn_spec *s = &l->c->spec;
    uint64_t d = s->d_model, q = (uint64_t)s->heads * s->head_dim, kv = (uint64_t)m->kv_heads * s->head_dim;
    struct {
        const char *what;
        struct qn_matrix *dst;
        uint64_t rows, cols;
    } parts[] = {
        {"q_proj", &w->q, q, d}, {"k_proj", &w->k, kv, d}, {"v_proj", &w->v, kv, d}, {"o_proj", &w->o, d, q}};
    struct name shared = name("%s.attn.norm", at->block);
    vector(l, &w->norm.g, name("%s.attn.%s.norm", at->block, m->type), &shared, d);
    for (size_t i = 0; i < sizeof parts / sizeof *parts; i++) {
        shared = name("%s.attn.%s", at->block, parts[i].what);
        matrix(l, parts[i].dst, name("%s.attn.%s.%s", at->block, m->type, parts[i].what), &shared,
               parts[i].rows, parts[i].cols);
    }
    if (m->slots > 0) slot_projections(at, m, w);
    if (m->features > 0) {
        const uint64_t shape[2] = {m->features, s->head_dim};
        struct name own = name("%s.attn.%s.features", at->block, m->type);
        struct name all = name("model.%s.features", m->type);
        w->features = projection(l, &own, find(l, &own, &all), m->kv_heads, shape, &w->proj_heads);
    }
}

static void network(struct loader *l, const char *at, const char *type, uint64_t dim,
                    struct qn_ffn_matrices *w) {
    const struct qn_ffn_ops *ops = qn_ffn_find(&l->c->spec, type);
    uint64_t d = l->c->spec.d_model;
    if (ops && ops->gated) matrix(l, &w->gate, name("%s.gate_proj", at), NULL, dim, d);
    matrix(l, &w->up, name("%s.up_proj", at), NULL, dim, d);
    matrix(l, &w->down, name("%s.down_proj", at), NULL, d, dim);
}

/* What a mixture may have besides router and experts: a bias of the choice, a shared expert, its gate. */
static void routing(struct loader *l, const char *prefix, const struct qn_ffn_member *m,
                    struct qn_ffn_weights *w) {
    char shared[NAME];
    struct name bias = name("%s.route_bias", prefix);
    if (m->gating == QN_GATING_SIGMOID && find(l, &bias, NULL))
        vector(l, &w->route_bias, bias, NULL, m->experts);
    if (m->shared_dim == 0) return;
    snprintf(shared, sizeof shared, "%s.shared_expert", prefix);
    network(l, shared, m->expert, m->shared_dim, &w->dense);
    if (m->shared_gate) vector(l, &w->shared_gate, name("%s.shared_gate", prefix), NULL, l->c->spec.d_model);
}

static void ffn_block(const struct place *at, const struct qn_ffn_member *m, struct qn_ffn_weights *w) {
    struct loader *l = at->l;
    uint64_t d = l->c->spec.d_model;
    char prefix[NAME / 2], expert[NAME / 2 + 32];
    struct name shared = name("%s.ffn.norm", at->block);
    struct qn_ffn_matrices checked = {0};
    snprintf(prefix, sizeof prefix, "%s.ffn.%s", at->block, m->type);
    vector(l, &w->norm.g, name("%s.norm", prefix), &shared, d);
    if (m->experts == 0) {
        network(l, prefix, m->type, m->dim, &w->dense);
        return;
    }
    matrix(l, &w->router, name("%s.router", prefix), NULL, m->experts, d);
    routing(l, prefix, m, w);
    if (!l->checking && l->rc == QN_OK) {
        w->experts = qn_checkpoint_experts(l->c, m->experts);
        if (!w->experts) {
            no_memory(l);
            return;
        }
        w->n_experts = m->experts;
    }
    for (uint32_t i = 0; i < m->experts && go_on(l); i++) {
        snprintf(expert, sizeof expert, "%s.experts.%" PRIu32, prefix, i);
        network(l, expert, m->expert, m->dim, l->checking ? &checked : &w->experts[i]);
    }
}

/* What lies before the first block and behind the last. */
static void tables(struct loader *l) {
    struct qn_checkpoint *c = l->c;
    const struct qn_spec *s = &c->spec;
    uint32_t e = qn_spec_table_width(s);
    matrix(l, &c->embed, name("model.embed_tokens"), NULL, s->vocab, e);
    if (s->d_embed) matrix(l, &c->embed_map, name("model.embed_map"), NULL, s->d_model, e);
    if (s->d_embed && s->tied) matrix(l, &c->output_map, name("model.output_map"), NULL, e, s->d_model);
    if (!s->tied) matrix(l, &c->output, name("lm_head"), NULL, s->vocab, s->d_model);
    for (uint32_t i = 0; i < s->embed_lags; i++)
        matrix(l, &c->lags[i], name("model.embed_lags.%" PRIu32, i + 1), NULL, s->vocab, e);
    vector(l, &c->out_norm.g, name("model.norm"), NULL, s->d_model);
}

static void walk(struct loader *l) {
    struct qn_checkpoint *c = l->c;
    const struct qn_spec *s = &c->spec;
    tables(l);
    for (uint32_t b = 0; b < s->attn_blocks && go_on(l); b++) {
        struct place at = {.l = l};
        qn_quern_block_name(s, b, at.block);
        for (uint32_t i = 0; i < s->n_attn; i++) {
            struct qn_attn_weights checked = {0};
            attention_block(&at, &s->attn[i],
                            l->checking ? &checked : &c->attn[(size_t)i * s->attn_blocks + b]);
        }
        for (uint32_t i = 0; i < s->n_ffn; i++) {
            struct qn_ffn_weights checked = {0};
            ffn_block(&at, &s->ffn[i], l->checking ? &checked : &c->ffn[(size_t)i * s->ffn_blocks + b]);
        }
    }
}

/* ---- all of it ---- */

/* Counts what is used; what nobody asked for is a part of the model that would be left out. A copy of a tied
 * table changes nothing. */
static void count(struct loader *l) {
    struct qn_checkpoint *c = l->c;
    char shown[64];
    for (size_t i = 0; i < l->dir->n; i++) {
        const struct qn_tensor *t = &l->dir->t[i];
        if (!t->used) {
            if (!(c->spec.tied && qn_str_is(t->name, "lm_head.weight")))
                qn_report_add(&l->report, true, "'%s' is not part of such a model",
                              qn_str_show(t->name, shown));
            continue;
        }
        uint64_t n = 1;
        for (uint32_t j = 0; j < t->n_dims; j++) n *= t->dims[j];
        c->params += n;
        l->bytes += t->bytes;
        if (t->type < QN_TYPE_COUNT) c->bytes_by_type[t->type] += t->bytes;
    }
}

static void pack_all(struct loader *l) {
    const struct qn_spec *s = &l->c->spec;
    l->c->attn = calloc((size_t)s->n_attn * s->attn_blocks, sizeof *l->c->attn);
    l->c->ffn = calloc((size_t)s->n_ffn * s->ffn_blocks, sizeof *l->c->ffn);
    l->packed = calloc(l->dir->n > 0 ? l->dir->n : 1, sizeof *l->packed);
    if (l->c->attn && l->c->ffn && l->packed)
        walk(l);
    else
        no_memory(l);
    free(l->packed);
}

int qn_quern_weights(const struct qn_tensor_dir *dir, const struct qn_load_options *opt,
                     struct qn_checkpoint *c, struct qn_err *err) {
    struct loader l = {.dir = dir, .opt = opt, .c = c, .err = err, .checking = true};
    if (opt->progress) opt->progress(opt->progress_ctx, "check", 0);
    walk(&l);
    count(&l);
    l.rc = qn_report_result(&l.report, c->spec.family, err);
    if (l.rc != QN_OK || opt->spec_only) return l.rc;
    if (opt->progress) opt->progress(opt->progress_ctx, "check", 1);
    l.checking = false;
    qn_checkpoint_expect(c, qn_weights_room(c));
    pack_all(&l);
    return l.rc;
}
