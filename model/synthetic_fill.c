/* Random weights of a synthetic model. Two passes over the same list of tensors: the first counts parameters,
 * bytes and the longest row, the second allocates and fills. Every row is filled from a stream of its own,
 * keyed by (seed, tensor, row), so that threads may take rows as they come. Scales are those of usual
 * initialisations: normed inputs give outputs of about unit size, and what is added to the residual stream
 * is divided by sqrt(2 * layers), so that logits are finite and varied. Thread: one loader, and the pool. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/cpu.h"
#include "kernels/mem.h"
#include "model/ffn/ffn.h"
#include "model/load/weights.h"
#include "model/random.h"
#include "model/synthetic.h"

#define ITEM_VALUES 8192 /* of a vector */

struct builder {
    const struct qn_synthetic *s;
    const struct qn_load_options *opt;
    struct qn_checkpoint *c;
    struct qn_err *err;
    bool counting;
    uint64_t tensor; /* number of the next one */
    size_t bytes;    /* of all tensors in memory */
    size_t row_room; /* of the longest row, as floats and in file form */
    uint8_t *rows;   /* [threads, row_room] */
    size_t filled;
    int rc;
};

/* ---- numbers ---- */

static uint64_t stream(uint64_t seed, uint64_t tensor, uint64_t row) {
    uint64_t s = seed;
    s = qn_random_next(&s) ^ tensor;
    s = qn_random_next(&s) ^ row;
    return qn_random_next(&s);
}

/* n values of mean `mean` and standard deviation `sd`, uniformly distributed. */
static void uniform(uint64_t s, float *dst, size_t n, double mean, double sd) {
    float step = (float)(sd * 1.7320508075688772 * 0x1p-31), m = (float)mean;
    for (size_t i = 0; i < n; i += 2) {
        uint64_t z = qn_random_next(&s);
        dst[i] = m + step * (float)(int32_t)(z >> 32);
        if (i + 1 < n) dst[i + 1] = m + step * (float)(int32_t)(uint32_t)z;
    }
}

/* The same, normally distributed (Box and Muller). */
static void gauss(uint64_t s, float *dst, size_t n, double sd) {
    for (size_t i = 0; i < n; i += 2) {
        uint64_t z = qn_random_next(&s);
        double u = ((double)(z >> 32) + 1) * 0x1p-32,
               angle = (double)(uint32_t)z * 0x1p-31 * 3.14159265358979323846;
        double r = sd * sqrt(-2 * log(u));
        dst[i] = (float)(r * cos(angle));
        if (i + 1 < n) dst[i + 1] = (float)(r * sin(angle));
    }
}

/* ---- tensors ---- */

static void add_bytes(struct builder *b, size_t bytes, size_t row) {
    if (!qn_size_add(b->bytes, bytes, &b->bytes))
        b->rc = qn_err_set(b->err, QN_ERR_UNSUPPORTED, "synthetic model: its size overflows");
    if (row > b->row_room) b->row_room = row;
}

static void progress(struct builder *b, size_t bytes) {
    b->filled += bytes;
    if (b->opt->progress)
        b->opt->progress(b->opt->progress_ctx, "repack",
                         (double)b->filled / (double)(b->bytes ? b->bytes : 1));
}

struct fill {
    const struct builder *b;
    struct qn_matrix *m;
    uint64_t tensor;
    double sd;
};

static void fill_rows(void *arg, size_t item, unsigned thread) {
    const struct fill *f = arg;
    struct qn_matrix *m = f->m;
    float *row = (float *)(void *)(f->b->rows + thread * f->b->row_room);
    uint8_t *file = (uint8_t *)(row + m->cols);
    uint32_t begin = (uint32_t)item * QN_ITEM_ROWS;
    uint32_t end = m->rows - begin > QN_ITEM_ROWS ? begin + QN_ITEM_ROWS : m->rows;
    for (uint32_t r = begin; r < end; r++) {
        uniform(stream(f->b->s->seed, f->tensor, r), row, m->cols, 0, f->sd);
        qn_type_row_from_f32(m->type, row, file, m->cols);
        qn_matrix_set_row(m, r, file);
    }
}

/* Bytes of a matrix in memory, and of one row in both forms; false when it can't be. */
static bool matrix_size(enum qn_type t, size_t rows, size_t cols, size_t *file, size_t *bytes, size_t *room) {
    return qn_type_row_bytes(t, cols, file) && qn_matrix_bytes(t, rows, cols, bytes) &&
           qn_size_mul(cols, sizeof(float), room) && qn_size_add(*room, *file, room) &&
           qn_size_align(*room, QN_ALIGN, room);
}

static void matrix(struct builder *b, struct qn_matrix *m, enum qn_type t, size_t rows, size_t cols,
                   double sd) {
    size_t file = 0, bytes = 0, room = 0;
    uint64_t tensor = b->tensor++;
    if (b->rc != QN_OK) return;
    if (!matrix_size(t, rows, cols, &file, &bytes, &room)) {
        b->rc =
            qn_err_set(b->err, QN_ERR_UNSUPPORTED,
                       "synthetic model: a %s matrix of %zu x %zu is too large, or its rows are not whole "
                       "blocks of %u",
                       qn_type_name(t), rows, cols, qn_type_block(t));
        return;
    }
    if (b->counting) {
        add_bytes(b, bytes, room);
        b->c->params += (uint64_t)rows * cols;
        b->c->bytes_by_type[t] += rows * file;
        return;
    }
    if (!qn_checkpoint_matrix(b->c, m, t, rows, cols)) {
        b->rc = qn_err_set(b->err, QN_ERR_NOMEM, "out of memory for the weights");
        return;
    }
    struct fill f = {b, m, tensor, sd};
    qn_pool_run(b->opt->pool, (rows + QN_ITEM_ROWS - 1) / QN_ITEM_ROWS, fill_rows, &f);
    progress(b, bytes);
}

struct spread {
    float *v;
    size_t n;
    uint64_t seed, tensor;
    double mean, sd;
    bool normal;
};

static void fill_values(void *arg, size_t item, unsigned thread) {
    (void)thread;
    const struct spread *f = arg;
    size_t begin = item * ITEM_VALUES, n = f->n - begin < ITEM_VALUES ? f->n - begin : ITEM_VALUES;
    uint64_t s = stream(f->seed, f->tensor, item);
    if (f->normal)
        gauss(s, f->v + begin, n, f->sd);
    else
        uniform(s, f->v + begin, n, f->mean, f->sd);
}

/* f->n values into memory of the checkpoint; NULL while counting and on failure. */
static float *values(struct builder *b, struct spread f) {
    size_t bytes = 0;
    f.seed = b->s->seed;
    f.tensor = b->tensor++;
    if (b->rc != QN_OK) return NULL;
    if (b->counting) {
        if (!qn_size_mul(f.n, sizeof(float), &bytes)) bytes = SIZE_MAX;
        add_bytes(b, bytes, 0);
        b->c->params += f.n;
        b->c->bytes_by_type[QN_F32] += bytes;
        return NULL;
    }
    f.v = qn_checkpoint_vector(b->c, f.n);
    if (!f.v) {
        b->rc = qn_err_set(b->err, QN_ERR_NOMEM, "out of memory for the weights");
        return NULL;
    }
    qn_pool_run(b->opt->pool, (f.n + ITEM_VALUES - 1) / ITEM_VALUES, fill_values, &f);
    progress(b, f.n * sizeof(float));
    return f.v;
}

static void norm(struct builder *b, struct qn_norm_weights *w) {
    const struct qn_spec *s = &b->s->spec;
    w->g = values(b, (struct spread){.n = s->d_model, .mean = 1, .sd = 0.1});
    if (s->norm == QN_NORM_LAYER) w->b = values(b, (struct spread){.n = s->d_model, .sd = 0.05});
}

/* ---- blocks ---- */

/* Of a matrix whose input is normed: outputs of about unit size. */
static double gain(size_t cols) {
    return 1 / sqrt((double)cols);
}

/* Of a matrix whose output is added to the residual stream. */
static double residual(const struct builder *b, size_t cols) {
    return gain(cols) / sqrt(2.0 * b->s->spec.layers);
}

static void attention_block(struct builder *b, struct qn_attn_weights *w) {
    const struct qn_spec *s = &b->s->spec;
    const struct qn_attn_member *m = &s->attn[0];
    size_t d = s->d_model, q = (size_t)s->heads * s->head_dim, kv = (size_t)m->kv_heads * s->head_dim;
    norm(b, &w->norm);
    matrix(b, &w->q, b->s->type, q, d, gain(d));
    matrix(b, &w->k, b->s->type, kv, d, gain(d));
    matrix(b, &w->v, b->s->type, kv, d, gain(d));
    matrix(b, &w->o, b->s->type, d, q, residual(b, q));
    if (m->slots > 0) {
        size_t n = 0;
        double sd = 1 / sqrt(s->context < 256 ? s->context : 256.0);
        if (!qn_size_mul(s->context, m->slots, &n) || !qn_size_mul(n, b->s->proj_heads, &n)) n = SIZE_MAX;
        w->proj_heads = b->s->proj_heads;
        w->e = values(b, (struct spread){.n = n, .sd = sd});
        w->f = values(b, (struct spread){.n = n, .sd = sd});
    }
    if (m->features > 0) {
        w->proj_heads = b->s->proj_heads;
        w->features = values(b, (struct spread){.n = (size_t)m->features * s->head_dim * b->s->proj_heads,
                                                .sd = 1,
                                                .normal = true});
    }
}

static void network(struct builder *b, struct qn_ffn_matrices *w, const char *type, size_t dim) {
    const struct qn_ffn_ops *ops = qn_ffn_find(&b->s->spec, type);
    size_t d = b->s->spec.d_model;
    if (ops && ops->gated) matrix(b, &w->gate, b->s->type, dim, d, gain(d));
    matrix(b, &w->up, b->s->type, dim, d, gain(d));
    matrix(b, &w->down, b->s->type, d, dim, residual(b, dim));
}

static void ffn_block(struct builder *b, struct qn_ffn_weights *w) {
    const struct qn_spec *s = &b->s->spec;
    const struct qn_ffn_member *m = &s->ffn[0];
    norm(b, &w->norm);
    if (m->experts == 0) {
        network(b, &w->dense, m->type, m->dim);
        return;
    }
    if (m->shared_dim > 0) network(b, &w->dense, m->expert, m->shared_dim);
    if (m->shared_gate) w->shared_gate = values(b, (struct spread){.n = s->d_model, .sd = gain(s->d_model)});
    matrix(b, &w->router, QN_F32, m->experts, s->d_model, gain(s->d_model));
    if (m->gating == QN_GATING_SIGMOID)
        w->route_bias = values(b, (struct spread){.n = m->experts, .sd = 0.1});
    struct qn_ffn_matrices counted = {0};
    if (!b->counting && b->rc == QN_OK) {
        w->experts = qn_checkpoint_experts(b->c, m->experts);
        if (!w->experts) b->rc = qn_err_set(b->err, QN_ERR_NOMEM, "out of memory for the experts");
        w->n_experts = w->experts ? m->experts : 0;
    }
    for (uint32_t i = 0; i < m->experts && b->rc == QN_OK; i++)
        network(b, b->counting ? &counted : &w->experts[i], m->expert, m->dim);
}

static void walk(struct builder *b) {
    const struct qn_spec *s = &b->s->spec;
    struct qn_checkpoint *c = b->c;
    struct qn_attn_weights attn = {0};
    struct qn_ffn_weights ffn = {0};
    size_t e = qn_spec_table_width(s);
    b->tensor = 0;
    /* A tied table is the output matrix as well: a larger one would answer each token with itself. */
    matrix(b, &c->embed, b->s->type, s->vocab, e, s->tied ? gain(e) : 1);
    if (s->d_embed) matrix(b, &c->embed_map, b->s->type, s->d_model, e, gain(e));
    if (s->d_embed && s->tied) matrix(b, &c->output_map, b->s->type, e, s->d_model, gain(s->d_model));
    if (!s->tied) matrix(b, &c->output, b->s->type, s->vocab, s->d_model, 2 * gain(s->d_model));
    for (uint32_t i = 0; i < s->embed_lags; i++) matrix(b, &c->lags[i], b->s->type, s->vocab, e, gain(e));
    if (s->pos == QN_POS_LEARNED)
        c->pos_embed = values(b, (struct spread){.n = (size_t)s->context * e, .sd = gain(e)});
    norm(b, &c->out_norm);
    for (uint32_t i = 0; i < s->attn_blocks; i++) attention_block(b, b->counting ? &attn : &c->attn[i]);
    for (uint32_t i = 0; i < s->ffn_blocks; i++) ffn_block(b, b->counting ? &ffn : &c->ffn[i]);
}

/* ---- tokenizer ---- */

/* GPT-2's spelling of a byte, as UTF-8; returns its length. */
static size_t spell_byte(unsigned byte, unsigned *shifted, char out[2]) {
    bool printable = (byte >= 33 && byte <= 126) || (byte >= 161 && byte <= 172) || byte >= 174;
    unsigned code = printable ? byte : 256 + (*shifted)++;
    if (code < 128) {
        out[0] = (char)code;
        return 1;
    }
    out[0] = (char)(0xc0 | code >> 6);
    out[1] = (char)(0x80 | (code & 63));
    return 2;
}

/* Bytes are tokens 0 to 255, 256 begins a sequence, and the rest spell their number, so that generated text
 * shows them. */
static int make_tokenizer(struct builder *b) {
    uint32_t n = b->s->spec.vocab;
    struct qn_str *tokens = qn_mem_alloc_array(n, sizeof *tokens);
    uint8_t *attrs = qn_mem_alloc_array(n, 1);
    char *text = qn_mem_alloc_array(n, 16), *at = text;
    unsigned shifted = 0;
    int rc = QN_ERR_NOMEM;
    if (tokens && attrs && text) {
        for (uint32_t i = 0; i < n; i++, at += 16) {
            size_t len = i < 256    ? spell_byte(i, &shifted, at)
                         : i == 256 ? (size_t)snprintf(at, 16, "<|bos|>")
                                    : (size_t)snprintf(at, 16, "<%u>", i);
            tokens[i] = (struct qn_str){at, len};
        }
        attrs[256] = QN_ATTR_SPECIAL | QN_ATTR_ADDED;
        struct qn_vocab_desc d = {.kind = QN_TOK_BPE,
                                  .pretok = QN_PRETOK_GPT2,
                                  .n_tokens = n,
                                  .tokens = tokens,
                                  .attrs = attrs,
                                  .bos = 256,
                                  .eos = -1,
                                  .unk = -1,
                                  .pad = -1,
                                  .add_bos = true};
        rc = qn_tokenizer_new(&d, &b->c->tokenizer, b->err);
        if (rc == QN_OK && b->opt->on_vocab) rc = b->opt->on_vocab(b->opt->vocab_ctx, &d, b->err);
    } else {
        qn_err_set(b->err, rc, "out of memory for the vocabulary");
    }
    qn_mem_free(tokens);
    qn_mem_free(attrs);
    qn_mem_free(text);
    return rc;
}

/* ---- all of it ---- */

static int allocate(struct builder *b) {
    const struct qn_spec *s = &b->s->spec;
    size_t memory = qn_cpu_memory_bytes();
    if (memory > 0 && b->bytes > memory)
        return qn_err_set(b->err, QN_ERR_NOMEM, "synthetic model: its weights take %zu bytes, memory has %zu",
                          b->bytes, memory);
    unsigned threads = b->opt->pool ? qn_pool_threads(b->opt->pool) : 1;
    b->c->attn = calloc(s->attn_blocks, sizeof *b->c->attn);
    b->c->ffn = calloc(s->ffn_blocks, sizeof *b->c->ffn);
    b->rows = qn_mem_alloc_array(threads, b->row_room);
    if (b->c->attn && b->c->ffn && b->rows) return QN_OK;
    return qn_err_set(b->err, QN_ERR_NOMEM, "out of memory for the weights");
}

int qn_synthetic_fill(const struct qn_synthetic *s, const struct qn_load_options *opt,
                      struct qn_checkpoint *c, struct qn_err *err) {
    struct builder b = {.s = s, .opt = opt, .c = c, .err = err, .counting = true};
    uint64_t start = qn_now_ns();
    c->spec = s->spec;
    c->synthetic = true;
    snprintf(c->name, sizeof c->name, "%s", s->name);
    snprintf(c->format, sizeof c->format, "synthetic");
    walk(&b);
    for (int t = 0; t < QN_TYPE_COUNT; t++) c->file_bytes += c->bytes_by_type[t];
    if (b.rc == QN_OK && !opt->spec_only) {
        qn_checkpoint_expect(c, qn_weights_room(c));
        b.rc = allocate(&b);
        b.counting = false;
        if (b.rc == QN_OK) walk(&b);
        qn_mem_free(b.rows);
    }
    c->ms_pack = (double)(qn_now_ns() - start) * 1e-6;
    if (b.rc != QN_OK || s->spec.vocab < 257) return b.rc;
    b.rc = make_tokenizer(&b);
    c->ms_tokenizer = (double)(qn_now_ns() - start) * 1e-6 - c->ms_pack;
    return b.rc;
}
