/* Work memory of one step: sized at open, one allocation, so that the forward pass allocates nothing.
 * Two passes over the same list of pieces: the first adds up, the second hands out. Thread: engine. */
#include <string.h>

#include "kernels/mem.h"
#include "model/internal.h"

struct carve {
    uint8_t *base; /* NULL while adding up */
    size_t at;
    bool bad;
};

static void *piece(struct carve *c, size_t bytes) {
    void *p = c->base ? c->base + c->at : NULL;
    size_t padded;
    if (!qn_size_align(bytes, QN_ALIGN, &padded) || !qn_size_add(c->at, padded, &c->at)) c->bad = true;
    return p;
}

/* rows x cols elements of `size` bytes. */
static void *grid(struct carve *c, size_t rows, size_t cols, size_t size) {
    size_t n = 0;
    if (!qn_size_mul(rows, cols, &n) || !qn_size_mul(n, size, &n)) c->bad = true;
    return piece(c, n);
}

static size_t max2(size_t a, size_t b) {
    return a > b ? a : b;
}

/* Floats that the hungriest kind of FFN that a request may choose on this checkpoint needs; SIZE_MAX:
 * overflow. */
static size_t ffn_floats(const struct qn_spec *spec, size_t rows) {
    static const struct qn_part any = {0};
    size_t most = 0;
    for (size_t i = 0; qn_ffn_registry[i]; i++) {
        const struct qn_ffn_ops *ops = qn_ffn_registry[i];
        bool runs = false;
        for (uint32_t j = 0; j < spec->n_ffn; j++) {
            struct qn_ffn f;
            if (ops->resolve(ops, spec, j, &any, &f, NULL) == QN_OK && f.choice.exactness != QN_UNAVAILABLE)
                runs = true;
        }
        if (runs) most = max2(most, ops->scratch_floats(spec, rows));
    }
    return most;
}

/* Floats per thread that the hungriest kind of attention needs. */
static size_t attention_floats(const struct qn_spec *spec, unsigned threads) {
    size_t most = 0;
    for (size_t i = 0; qn_attention_registry[i]; i++) {
        const struct qn_attention_ops *ops = qn_attention_registry[i];
        if (ops->work_floats) most = max2(most, ops->work_floats(spec, threads));
    }
    return most;
}

static void carve_all(struct carve *c, struct qn_scratch *s, const struct qn_spec *spec, uint32_t rows,
                      unsigned threads) {
    size_t inner = (size_t)spec->heads * spec->head_dim;
    size_t wide = max2(max2(spec->d_model, inner), qn_ffn_dense_widest(spec));
    size_t act = 0, gemm = 0, f = sizeof(float);
    if (!qn_act_bytes(max2(rows, QN_LOGIT_ROWS), wide, &act)) c->bad = true;
    if (!qn_gemm_work_bytes(threads, wide, &gemm)) c->bad = true;
    s->x = grid(c, rows, spec->d_model, f);
    s->h = grid(c, max2(rows, QN_LOGIT_ROWS), max2(spec->d_model, inner), f);
    s->y = grid(c, rows, spec->d_model, f);
    s->q = grid(c, rows, inner, f);
    s->k = grid(c, rows, inner, f);
    s->v = grid(c, rows, inner, f);
    s->ffn = grid(c, ffn_floats(spec, rows), 1, f);
    s->attention_floats = attention_floats(spec, threads);
    s->attention = grid(c, threads, s->attention_floats, f);
    s->cs = grid(c, rows, spec->rope_dim, f);
    s->logits = grid(c, QN_LOGIT_ROWS, spec->vocab, f);
    s->act = piece(c, act);
    s->mid = piece(c, act);
    s->gemm = piece(c, gemm);
    s->rows = grid(c, rows, 1, sizeof *s->rows);
    s->wanted = grid(c, rows, 1, sizeof *s->wanted);
    s->readers = grid(c, rows, 1, sizeof *s->readers);
    s->spans = grid(c, rows, 1, sizeof *s->spans);
    s->cuts.spans = grid(c, rows, 1, sizeof *s->cuts.spans);
    s->cuts.keep = grid(c, rows, 1, sizeof(struct qn_kv_block *));
    s->cuts.done = grid(c, rows, 1, sizeof *s->cuts.done);
}

int qn_scratch_init(struct qn_scratch *s, const struct qn_spec *spec, uint32_t rows, unsigned threads,
                    struct qn_err *err) {
    struct carve c = {0};
    memset(s, 0, sizeof *s);
    carve_all(&c, s, spec, rows, threads);
    if (c.bad) return qn_err_set(err, QN_ERR_UNSUPPORTED, "work memory for a step overflows");
    s->bytes = c.at;
    s->memory = qn_mem_alloc(c.at);
    if (!s->memory) {
        return qn_err_set(err, QN_ERR_NOMEM, "out of memory: %zu bytes of work memory for steps of %u tokens",
                          c.at, rows);
    }
    c = (struct carve){.base = s->memory};
    carve_all(&c, s, spec, rows, threads);
    return QN_OK;
}

void qn_scratch_free(struct qn_scratch *s) {
    qn_mem_free(s->memory);
    memset(s, 0, sizeof *s);
}
