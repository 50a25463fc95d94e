/* A checkpoint in memory as a source: families that GGUF has, with its names and its order of rows; what is
 * fused or stacked there is put together again. See source.h.
 *
 * The checkpoint has one layout for all families (checkpoint.h), so only what GGUF wants otherwise is done
 * here: q and k of llama's descendants in adjacent-pair order, q, k and v of GPT-2's in one matrix, experts
 * stacked. */
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "model/load/names.h"
#include "model/save/source.h"
#include "model/synthetic.h"

struct builder {
    struct qn_save_source *s;
    const struct qn_checkpoint *c;
    const struct qn_family *f;
    struct qn_err *err;
    int rc;
};

static void no_memory(struct builder *b) {
    b->rc = qn_err_set(b->err, QN_ERR_NOMEM, "out of memory for the tensor list");
}

/* ---- tensors ---- */

/* The next tensor, named after its slot; NULL after a failure. */
static struct qn_save_tensor *add(struct builder *b, enum qn_slot slot, uint32_t layer, const char *suffix) {
    const char *pattern = b->f->gguf_names->name[slot], *hole = strstr(pattern, "%u");
    struct qn_save_tensor *t = b->rc == QN_OK ? qn_save_add(b->s) : NULL;
    if (!t) {
        if (b->rc == QN_OK) no_memory(b);
        return NULL;
    }
    if (hole)
        snprintf(t->name, sizeof t->name, "%.*s%" PRIu32 "%s%s", (int)(hole - pattern), pattern, layer,
                 hole + 2, suffix);
    else
        snprintf(t->name, sizeof t->name, "%s%s", pattern, suffix);
    t->type = QN_F32;
    return t;
}

static void vector(struct builder *b, enum qn_slot slot, uint32_t layer, const char *suffix, const float *v,
                   size_t n) {
    struct qn_save_tensor *t = v ? add(b, slot, layer, suffix) : NULL;
    if (!t) return;
    t->n_dims = 1;
    t->dims[0] = t->cols = n;
    t->rows = 1;
    t->v = v;
}

/* n matrices of `rows` rows in all, one after the other; experts: the outer dimension, 0 for a matrix. */
static struct qn_save_tensor *matrices(struct builder *b, enum qn_slot slot, uint32_t layer,
                                       const struct qn_matrix *const *m, uint32_t n) {
    struct qn_save_tensor *t = add(b, slot, layer, ".weight");
    const struct qn_matrix **parts = qn_mem_alloc_array(n, sizeof(struct qn_matrix *));
    if (!qn_mem_keep(&b->s->owned, parts)) {
        if (b->rc == QN_OK) no_memory(b);
        return NULL;
    }
    if (!t) return NULL;
    for (uint32_t i = 0; i < n; i++) {
        parts[i] = m[i];
        t->rows += m[i]->rows;
    }
    t->parts = parts;
    t->n_parts = n;
    t->n_dims = 2;
    t->dims[0] = t->rows;
    t->dims[1] = t->cols = m[0]->cols;
    return t;
}

static struct qn_save_tensor *matrix(struct builder *b, enum qn_slot slot, uint32_t layer,
                                     const struct qn_matrix *m) {
    return m->data ? matrices(b, slot, layer, &m, 1) : NULL;
}

static void norm(struct builder *b, enum qn_slot slot, uint32_t layer, const struct qn_norm_weights *w) {
    vector(b, slot, layer, ".weight", w->g, b->c->spec.d_model);
    vector(b, slot, layer, ".bias", w->b, b->c->spec.d_model);
}

/* ---- attention ---- */

/* n floats of the source's own; NULL after a failure. */
static float *floats(struct builder *b, size_t n) {
    float *v = qn_mem_alloc_array(n, sizeof *v);
    if (qn_mem_keep(&b->s->owned, v)) return v;
    no_memory(b);
    return NULL;
}

/* A projection whose heads' rows may come in pairs, and its bias likewise. */
static void projection(struct builder *b, enum qn_slot slot, uint32_t layer, const struct qn_matrix *m,
                       const float *bias, bool paired) {
    const struct qn_spec *s = &b->c->spec;
    struct qn_save_tensor *t = matrix(b, slot, layer, m);
    if (!t) return;
    if (paired) {
        t->block = s->head_dim;
        t->rot = s->rope_dim;
    }
    float *v = bias && paired ? floats(b, m->rows) : NULL;
    for (uint32_t i = 0; v && i < m->rows; i++) {
        uint32_t in = i % s->head_dim, half = s->rope_dim / 2;
        v[i] = bias[in < s->rope_dim ? i - in + in / 2 + (in % 2) * half : i];
    }
    vector(b, slot, layer, ".bias", v ? v : bias, m->rows);
}

static void fused(struct builder *b, uint32_t layer, const struct qn_attn_weights *a) {
    const struct qn_matrix *m[] = {&a->q, &a->k, &a->v};
    const float *bias[] = {a->bq, a->bk, a->bv};
    struct qn_save_tensor *t = matrices(b, QN_SLOT_QKV, layer, m, 3);
    if (!t || !a->bq) return;
    size_t rows = (size_t)t->rows, at = 0;
    float *v = floats(b, rows);
    for (int i = 0; v && i < 3; at += m[i++]->rows) memcpy(v + at, bias[i], m[i]->rows * sizeof *v);
    vector(b, QN_SLOT_QKV, layer, ".bias", v, rows);
}

static void attention(struct builder *b, uint32_t i, const struct qn_attn_weights *a) {
    const struct qn_spec *s = &b->c->spec;
    norm(b, QN_SLOT_ATTN_NORM, i, &a->norm);
    if (b->f->gguf_qkv == QN_QKV_FUSED) {
        fused(b, i, a);
    } else {
        projection(b, QN_SLOT_Q, i, &a->q, a->bq, b->f->gguf_permuted);
        projection(b, QN_SLOT_K, i, &a->k, a->bk, b->f->gguf_permuted);
        projection(b, QN_SLOT_V, i, &a->v, a->bv, false);
    }
    projection(b, QN_SLOT_O, i, &a->o, a->bo, false);
    vector(b, QN_SLOT_Q_NORM, i, ".weight", a->q_norm, s->qk_norm_whole ? a->q.rows : s->head_dim);
    vector(b, QN_SLOT_K_NORM, i, ".weight", a->k_norm, s->qk_norm_whole ? a->k.rows : s->head_dim);
}

/* ---- feed-forward networks ---- */

/* Gate (0), up (1) or down (2) of all experts as one tensor [experts, out, in]. */
static void experts(struct builder *b, uint32_t layer, const struct qn_ffn_weights *f, unsigned which) {
    const struct qn_matrix **m = qn_mem_alloc_array(f->n_experts, sizeof(struct qn_matrix *));
    if (!m) {
        no_memory(b);
        return;
    }
    for (uint32_t e = 0; e < f->n_experts; e++) {
        const struct qn_ffn_matrices *x = &f->experts[e];
        m[e] = which == 0 ? &x->gate : which == 1 ? &x->up : &x->down;
    }
    struct qn_save_tensor *t =
        matrices(b, (enum qn_slot)(QN_SLOT_GATE_EXPS + (int)which), layer, m, f->n_experts);
    if (t) {
        t->n_dims = 3;
        t->dims[2] = t->dims[1];
        t->dims[1] = m[0]->rows;
        t->dims[0] = f->n_experts;
    }
    qn_mem_free(m);
}

static void ffn(struct builder *b, uint32_t i, const struct qn_ffn_weights *f) {
    const struct qn_spec *s = &b->c->spec;
    norm(b, QN_SLOT_FFN_NORM, i, &f->norm);
    if (f->n_experts == 0) {
        projection(b, QN_SLOT_GATE, i, &f->dense.gate, NULL, false);
        projection(b, QN_SLOT_UP, i, &f->dense.up, f->b_up, false);
        projection(b, QN_SLOT_DOWN, i, &f->dense.down, f->b_down, false);
        return;
    }
    matrix(b, QN_SLOT_ROUTER, i, &f->router);
    for (unsigned which = 0; which < 3; which++) experts(b, i, f, which);
    vector(b, QN_SLOT_SHARED_SCALE, i, ".weight", f->shared_gate, s->d_model);
    matrix(b, QN_SLOT_SHARED_GATE, i, &f->dense.gate);
    matrix(b, QN_SLOT_SHARED_UP, i, &f->dense.up);
    matrix(b, QN_SLOT_SHARED_DOWN, i, &f->dense.down);
}

/* ---- the model's own ---- */

/* By how much llama3's scaling divides each frequency: what GGUF keeps instead of its parameters. */
static void rope_factors(struct builder *b) {
    struct qn_spec plain = b->c->spec;
    size_t n = plain.rope_dim / 2;
    if (plain.rope_scaling != QN_ROPE_LLAMA3 || n == 0) return;
    float *v = floats(b, n), *scaled = floats(b, n);
    if (!v || !scaled) return;
    qn_spec_rope_freqs(&plain, NULL, scaled);
    plain.rope_scaling = QN_ROPE_NONE;
    qn_spec_rope_freqs(&plain, NULL, v);
    for (size_t i = 0; i < n; i++) v[i] /= scaled[i];
    vector(b, QN_SLOT_ROPE_FACTORS, 0, ".weight", v, n);
}

static void positions(struct builder *b) {
    const struct qn_spec *s = &b->c->spec;
    struct qn_save_tensor *t = b->c->pos_embed ? add(b, QN_SLOT_POS, 0, ".weight") : NULL;
    if (!t) return;
    t->n_dims = 2;
    t->dims[0] = t->rows = s->context;
    t->dims[1] = t->cols = s->d_model;
    t->v = b->c->pos_embed;
}

static void tensors(struct builder *b) {
    const struct qn_checkpoint *c = b->c;
    matrix(b, QN_SLOT_EMBED, 0, &c->embed);
    positions(b);
    rope_factors(b);
    for (uint32_t i = 0; i < c->spec.layers; i++) {
        attention(b, i, &c->attn[i]);
        ffn(b, i, &c->ffn[i]);
    }
    norm(b, QN_SLOT_OUT_NORM, 0, &c->out_norm);
    matrix(b, QN_SLOT_OUTPUT, 0, &c->output);
}

/* ---- metadata ---- */

static const char *key_of(const struct builder *b, char key[96], const char *suffix) {
    snprintf(key, 96, "%s.%s", b->f->gguf_arch, suffix);
    return key;
}

static void put(struct builder *b, const char *suffix, uint32_t v) {
    char key[96];
    qn_gguf_put_u32(&b->s->meta, key_of(b, key, suffix), v);
}

static void put_real(struct builder *b, const char *suffix, float v) {
    char key[96];
    qn_gguf_put_f32(&b->s->meta, key_of(b, key, suffix), v);
}

static struct qn_str text(const char *s) {
    return (struct qn_str){s, strlen(s)};
}

static void put_rope(struct builder *b) {
    const struct qn_spec *s = &b->c->spec;
    char key[96];
    if (s->pos != QN_POS_ROPE) return;
    put(b, "rope.dimension_count", s->rope_dim);
    put_real(b, "rope.freq_base", s->rope_base);
    if (s->rope_scaling != QN_ROPE_LINEAR) return;
    qn_gguf_put_str(&b->s->meta, key_of(b, key, "rope.scaling.type"), text("linear"));
    put_real(b, "rope.scaling.factor", s->rope_factor);
}

static void put_experts(struct builder *b) {
    const struct qn_ffn_member *m = &b->c->spec.ffn[0];
    char key[96];
    if (m->experts == 0) return;
    put(b, "expert_count", m->experts);
    put(b, "expert_used_count", m->used);
    put(b, "expert_feed_forward_length", m->dim);
    if (m->shared_dim) put(b, "expert_shared_feed_forward_length", m->shared_dim);
    if (m->gating != b->f->gating)
        qn_gguf_put_bool(&b->s->meta, key_of(b, key, "expert_weights_norm"),
                         m->gating == QN_GATING_SOFTMAX_RENORM);
}

static void metadata(struct builder *b) {
    const struct qn_spec *s = &b->c->spec;
    struct qn_gguf_writer *w = &b->s->meta;
    qn_gguf_put_str(w, "general.architecture", text(b->f->gguf_arch));
    qn_gguf_put_str(w, "general.type", text("model"));
    qn_gguf_put_str(w, "general.name", text(b->c->name));
    put(b, "vocab_size", s->vocab);
    put(b, "context_length", s->context);
    put(b, "embedding_length", s->d_model);
    put(b, "block_count", s->layers);
    put(b, "feed_forward_length", s->ffn[0].dim);
    put(b, "attention.head_count", s->heads);
    put(b, "attention.head_count_kv", s->attn[0].kv_heads);
    if (s->head_dim * s->heads != s->d_model) {
        put(b, "attention.key_length", s->head_dim);
        put(b, "attention.value_length", s->head_dim);
    }
    if (s->window) put(b, "attention.sliding_window", s->window);
    put_real(b, s->norm == QN_NORM_RMS ? "attention.layer_norm_rms_epsilon" : "attention.layer_norm_epsilon",
             s->norm_eps);
    put_rope(b);
    put_experts(b);
}

/* ---- which family ---- */

__attribute__((format(printf, 2, 3))) static int cannot(struct qn_err *err, const char *fmt, ...) {
    char why[400];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(why, sizeof why, fmt, ap);
    va_end(ap);
    return qn_err_set(err, QN_ERR_UNSUPPORTED, "GGUF can't hold this model: %s", why);
}

/* What has no place in GGUF, whatever the family. */
static int check_spec(const struct qn_spec *s, struct qn_err *err) {
    if (s->n_attn + s->n_ffn + s->n_share != 3) return cannot(err, "it holds several structures");
    if (s->attn[0].slots || s->attn[0].features || s->attn[0].no_rope)
        return cannot(err, "its attention is %s%s", s->attn[0].type,
                      s->attn[0].no_rope ? " without RoPE" : "");
    if (s->attn_blocks != s->layers || s->ffn_blocks != s->layers)
        return cannot(err, "its layers share weights");
    if (s->d_embed || s->embed_lags)
        return cannot(err, "its embedding has %s",
                      s->d_embed ? "a width of its own" : "preceding tokens' tables");
    if (s->ffn[0].gating == QN_GATING_SIGMOID) return cannot(err, "its router uses sigmoids");
    return QN_OK;
}

static const struct qn_family *family_named(const char *name) {
    const struct qn_family *f = NULL;
    for (unsigned i = 0; (f = qn_family_at(i)) && strcmp(f->name, name) != 0;) i++;
    return f;
}

/* A description names no family: it is a Llama or a Mixtral, if it can be one. */
static int find_family(struct builder *b) {
    const struct qn_spec *s = &b->c->spec;
    const struct qn_ffn_member *m = &s->ffn[0];
    int rc = check_spec(s, b->err);
    if (rc != QN_OK) return rc;
    const char *ffn_type = m->experts ? m->expert : m->type;
    b->f = family_named(b->c->synthetic ? (m->experts ? "mixtral" : "llama") : s->family);
    if (!b->f) return cannot(b->err, "its family (%s) has no architecture there", s->family);
    if (b->c->synthetic &&
        (s->norm != QN_NORM_RMS || s->pos != QN_POS_ROPE || strcmp(ffn_type, "swiglu") != 0 ||
         m->shared_dim || (m->experts && m->gating == QN_GATING_SOFTMAX)))
        return cannot(b->err,
                      "only norm=rms, pos=rope, ffn=swiglu or experts of it with gating A or B and no "
                      "shared one make a Llama");
    if (m->act != b->f->act)
        return cannot(b->err, "the architecture '%s' has another activation than its %s", b->f->gguf_arch,
                      ffn_type);
    return QN_OK;
}

static int take_vocab(void *ctx, const struct qn_vocab_desc *d, struct qn_err *err) {
    return qn_save_vocab(ctx, d, err);
}

int qn_save_from_checkpoint(const char *path, const struct qn_load_options *opt, struct qn_save_source *s,
                            struct qn_err *err) {
    struct builder b = {.s = s, .err = err};
    struct qn_load_options load = *opt;
    load.on_vocab = take_vocab;
    load.vocab_ctx = &s->meta;
    int rc = qn_checkpoint_load(path, &load, &s->ckpt, err);
    if (rc != QN_OK) return rc;
    b.c = s->ckpt;
    if ((rc = find_family(&b)) != QN_OK) return rc;
    metadata(&b);
    if (!b.c->tokenizer) qn_gguf_put_str(&s->meta, "tokenizer.ggml.model", text("none"));
    if (b.c->chat_text) qn_gguf_put_str(&s->meta, "tokenizer.chat_template", text(b.c->chat_text));
    tensors(&b);
    const struct qn_spec *spec = &b.c->spec;
    s->layers = spec->layers;
    s->heads = spec->heads;
    s->kv_heads = spec->attn[0].kv_heads;
    s->experts = spec->ffn[0].experts;
    s->fast = b.c->synthetic;
    snprintf(s->arch, sizeof s->arch, "%s", b.f->gguf_arch);
    return b.rc;
}
