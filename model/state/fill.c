/* A sequence of a given length without the work of running it, for benchmarks of decoding at depth.
 *
 *   seed -> a few tokens -[qn_step_run]-> state as it really is (and finite) -> the blocks behind it, with
 * random values of the state's type, cut from one table -> length
 *
 * The cost of a step does not depend on what the state contains, only on its length; a fixed-size state's not
 * even on that. As many tokens are run as bring a fixed-size state's open block to where n tokens would have
 * it. Thread: engine (the pool's threads inside one call). */
#include <string.h>

#include "kernels/mem.h"
#include "model/internal.h"
#include "model/random.h"

#define TABLE_ELEMS 65536 /* random values that blocks are cut from: larger than a line, smaller than L2 */
#define RUN_TOKENS  16u   /* at least so many are run */

struct fill {
    struct qn_seq *seq;
    uint8_t *table; /* [TABLE_ELEMS] of the state's type */
    size_t table_bytes;
    uint32_t first; /* block that item 0 fills */
    uint64_t seed;
};

/* The number of a counter: any item can be drawn alone. */
static uint64_t draw(uint64_t seed, uint64_t i) {
    return qn_random_mix(seed + (i + 1) * QN_RANDOM_STEP);
}

/* Value i of the table in the state's type. Q8: four codes that are, where a scale stands, one near 1/64. */
static void put_value(uint8_t *table, enum qn_kv_type type, uint32_t i, float x, uint64_t bits) {
    if (type == QN_KV_F32) {
        memcpy(table + 4 * (size_t)i, &x, sizeof x);
    } else if (type == QN_KV_Q8) {
        uint32_t codes = ((uint32_t)bits & 0xffffffu) | 0x3c000000u;
        memcpy(table + (i & ~3u), &codes, sizeof codes);
    } else {
        uint16_t h = type == QN_KV_F16 ? qn_f32_to_f16(x) : qn_f32_to_bf16(x);
        memcpy(table + 2 * (size_t)i, &h, sizeof h);
    }
}

/* Values of mean 0 and variance 1: uniform in [-sqrt 3, sqrt 3). */
static bool make_table(struct fill *f, enum qn_kv_type type) {
    f->table_bytes = TABLE_ELEMS * qn_kv_elem_bytes(type);
    f->table = qn_mem_alloc(f->table_bytes);
    if (!f->table) return false;
    for (uint32_t i = 0; i < TABLE_ELEMS; i++) {
        uint64_t bits = draw(f->seed, i);
        put_value(f->table, type, i, ((float)(bits >> 40) * 0x1p-23f - 1.0f) * 1.7320508f, bits);
    }
    return true;
}

static void fill_item(void *arg, size_t item, unsigned thread) {
    (void)thread;
    struct fill *f = arg;
    uint8_t *to = f->seq->kv.data[f->first + item];
    size_t from = (size_t)(draw(~f->seed, item) % (f->table_bytes / QN_ALIGN)) * QN_ALIGN;
    for (size_t left = f->seq->kv.block_bytes; left > 0; from = 0) {
        size_t n = f->table_bytes - from < left ? f->table_bytes - from : left;
        memcpy(to, f->table + from, n);
        to += n;
        left -= n;
    }
}

static int32_t token_at(const struct qn_seq *s, uint64_t seed, uint32_t pos) {
    return (int32_t)(draw(seed + 1, pos) % s->variant->model->ckpt->spec.vocab);
}

/* Runs tokens [0, n), n < 32. */
static int run_tokens(struct qn_seq *s, uint32_t n, uint64_t seed, struct qn_err *err) {
    int32_t tokens[2 * RUN_TOKENS];
    for (uint32_t i = 0; i < n; i++) tokens[i] = token_at(s, seed, i);
    uint32_t most = s->variant->model->max_rows;
    for (uint32_t at = 0; at < n;) {
        struct qn_span span = {.seq = s, .tokens = tokens + at, .n = n - at < most ? n - at : most};
        struct qn_step step = {.variant = s->variant, .spans = &span, .n_spans = 1};
        int rc = qn_step_run(&step, err);
        if (rc) return rc;
        at += span.n;
    }
    return QN_OK;
}

/* Blocks from the one that token `from` stands in to the last, and the tokens that they are of. */
static int fill_blocks(struct qn_seq *s, uint32_t from, uint32_t n, uint64_t seed, struct qn_err *err) {
    struct qn_model *m = s->variant->model;
    struct fill f = {.seq = s, .seed = seed, .first = from / QN_KV_BLOCK};
    if (!make_table(&f, m->kv_type)) return qn_err_set(err, QN_ERR_NOMEM, "out of memory for random state");
    qn_pool_run(m->pool, s->kv.n - f.first, fill_item, &f);
    qn_mem_free(f.table);
    for (uint32_t pos = from; pos < n; pos++) {
        int32_t token = token_at(s, seed, pos);
        qn_kv_set_tokens(&s->kv, pos, &token, 1);
    }
    return QN_OK;
}

int qn_seq_fill(struct qn_seq *s, uint32_t n, uint64_t seed, struct qn_err *err) {
    const struct qn_variant *v = s->variant;
    if (s->length > 0) return qn_err_set(err, QN_ERR_INVALID, "only an empty sequence can be filled");
    if (!v->info.causal)
        return qn_err_set(err, QN_ERR_UNSUPPORTED, "a structure that is not causal keeps no state");
    s->publish = s->use_cache = false;
    int rc = qn_seq_reserve(s, n);
    if (rc) return qn_err_set(err, rc, "no state for %u tokens", n);
    uint32_t run = n < 2 * RUN_TOKENS ? n : RUN_TOKENS + n % RUN_TOKENS;
    rc = run_tokens(s, run, seed, err);
    if (rc == QN_OK && run < n && v->block_bytes > 0) rc = fill_blocks(s, run, n, seed, err);
    if (rc == QN_OK) s->length = s->settled = n;
    if (rc) qn_seq_reset(s);
    return rc;
}
