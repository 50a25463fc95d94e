/* Reads golden fixtures and runs models over them (see golden.h). Data flow: whole file -> bounded cursor ->
 * pointers into it; ids -> steps of one sequence -> rows copied out. Thread: the test's. */
#include "tests/support/golden.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/cpu.h"
#include "kernels/kernels.h"

/* Walks a file's bytes; every item is a multiple of four bytes, so pointers into it are aligned. */
struct cursor {
    uint8_t *p;
    size_t left;
    bool bad;
};

static void *take(struct cursor *c, size_t count) {
    if (count > c->left / 4) {
        c->bad = true;
        return NULL;
    }
    void *at = c->p;
    c->p += count * 4;
    c->left -= count * 4;
    return at;
}

static uint32_t take_u32(struct cursor *c) {
    const void *at = take(c, 1);
    uint32_t v = 0;
    if (at) memcpy(&v, at, 4);
    return v;
}

static float take_f32(struct cursor *c) {
    const void *at = take(c, 1);
    float v = 0;
    if (at) memcpy(&v, at, 4);
    return v;
}

/* The whole file, behind an eight-byte magic. */
static uint8_t *read_file(const char *path, const char *magic, struct cursor *c) {
    memset(c, 0, sizeof *c);
    FILE *f = fopen(path, "rb");
    if (!f) return NULL;
    long size = fseek(f, 0, SEEK_END) == 0 ? ftell(f) : -1;
    uint8_t *bytes = size >= 8 ? malloc((size_t)size) : NULL;
    rewind(f);
    if (bytes && (fread(bytes, 1, (size_t)size, f) != (size_t)size || memcmp(bytes, magic, 8) != 0)) {
        free(bytes);
        bytes = NULL;
    }
    fclose(f);
    if (bytes) *c = (struct cursor){bytes + 8, (size_t)size - 8, false};
    return bytes;
}

bool qn_golden_read(const char *path, struct qn_golden *g) {
    struct cursor c;
    memset(g, 0, sizeof *g);
    g->bytes = read_file(path, "QNGOLD01", &c);
    if (!g->bytes) return false;
    g->n = take_u32(&c);
    g->vocab = take_u32(&c);
    g->d = take_u32(&c);
    g->ids = take(&c, g->n);
    g->logits = take(&c, (size_t)g->n * g->vocab);
    g->hidden = take(&c, g->d);
    if (!c.bad && c.left == 0 && g->n > 0) return true;
    qn_golden_free(g);
    return false;
}

void qn_golden_free(struct qn_golden *g) {
    free(g->bytes);
    memset(g, 0, sizeof *g);
}

static void read_prompt(struct cursor *c, struct qn_real_prompt *p, uint32_t top) {
    p->text_len = take_u32(c);
    p->text = take(c, ((size_t)p->text_len + 3) / 4);
    p->n_ids = take_u32(c);
    p->ids = take(c, p->n_ids);
    p->n_more = take_u32(c);
    p->more = take(c, p->n_more);
    p->margins = take(c, p->n_more);
    uint32_t n = take_u32(c);
    if (c->bad || n > c->left / 4) {
        c->bad = true;
        return;
    }
    p->positions = calloc(n ? n : 1, sizeof *p->positions);
    if (!p->positions) c->bad = true;
    for (uint32_t i = 0; i < n && !c->bad; i++) {
        struct qn_real_position *at = &p->positions[i];
        at->lse = take_f32(c);
        at->margin = take_f32(c);
        at->ids = take(c, top);
        at->logits = take(c, top);
        p->n_positions++;
    }
}

bool qn_real_read(const char *path, struct qn_real *r) {
    struct cursor c;
    memset(r, 0, sizeof *r);
    r->bytes = read_file(path, "QNREAL01", &c);
    if (!r->bytes) return false;
    uint32_t n = take_u32(&c);
    r->top = take_u32(&c);
    r->prompts = n <= 1000 ? calloc(n ? n : 1, sizeof *r->prompts) : NULL;
    if (!r->prompts) c.bad = true;
    for (; r->n < n && !c.bad; r->n++) read_prompt(&c, &r->prompts[r->n], r->top);
    if (!c.bad && c.left == 0 && n > 0) return true;
    qn_real_free(r);
    return false;
}

void qn_real_free(struct qn_real *r) {
    for (uint32_t i = 0; i < r->n; i++) free(r->prompts[i].positions);
    free(r->prompts);
    free(r->bytes);
    memset(r, 0, sizeof *r);
}

bool qn_bench_open(struct qn_bench *b, const char *path, const struct qn_bench_options *opt) {
    memset(b, 0, sizeof *b);
    qn_kernels_init(qn_cpu_isa());
    b->pool = qn_pool_new(opt->threads);
    if (!b->pool) return qn_err_set(&b->err, QN_ERR_NOMEM, "no pool of %u threads", opt->threads) == 0;
    struct qn_open_options open = {.pool = b->pool,
                                   .state_type = opt->state,
                                   .state_bytes = (size_t)64 << 20,
                                   .max_step_tokens = opt->max_step_tokens,
                                   .exact = opt->exact};
    if (qn_model_open(path, &open, &b->model, &b->err) != QN_OK) return false;
    struct qn_structure_request want = {0};
    if (opt->attention) snprintf(want.attention.type, sizeof want.attention.type, "%s", opt->attention);
    if (qn_variant_resolve(b->model, &want, &b->variant, &b->err) != QN_OK) return false;
    double ms = 0;
    return qn_variant_prepare(b->variant, &ms, &b->err) == QN_OK;
}

void qn_bench_close(struct qn_bench *b) {
    if (b->variant) qn_variant_unref(b->variant);
    qn_model_close(&b->model);
    qn_pool_free(&b->pool);
    b->variant = NULL;
}

struct collect {
    const struct qn_bench_run *run;
    uint32_t next; /* position whose row must come next */
    bool bad;
};

static void on_row(void *ctx, uint32_t span, uint32_t pos, float *v) {
    struct collect *c = ctx;
    if (span != 0 || pos != c->next || pos >= c->run->n) {
        c->bad = true;
        return;
    }
    memcpy(c->run->out + (size_t)pos * c->run->width, v, c->run->width * sizeof *v);
    c->next++;
}

/* All chunks of one sequence, in order. */
static bool run_chunks(struct qn_bench *b, struct qn_seq *seq, const struct qn_bench_run *run) {
    struct collect c = {.run = run};
    for (uint32_t at = 0, i = 0; at < run->n; i++) {
        uint32_t n = run->chunks[i % run->n_chunks];
        if (n > run->n - at) n = run->n - at;
        int rc = qn_seq_reserve(seq, at + n);
        if (rc != QN_OK) return qn_err_set(&b->err, rc, "no state for %u tokens", at + n) == 0;
        struct qn_span span = {.seq = seq, .tokens = run->ids + at, .n = n, .want = run->want};
        struct qn_step step = {.variant = b->variant,
                               .spans = &span,
                               .n_spans = 1,
                               .math = run->math,
                               .on_row = on_row,
                               .ctx = &c};
        if (qn_step_run(&step, &b->err) != QN_OK) return false;
        at += n;
    }
    if (c.bad || c.next != run->n)
        return qn_err_set(&b->err, QN_ERR_INVALID, "rows came out of order: %u of %u", c.next, run->n) == 0;
    return true;
}

bool qn_bench_run(struct qn_bench *b, const struct qn_bench_run *run) {
    struct qn_seq *seq = NULL;
    if (qn_seq_new(b->variant, 0, false, &seq, &b->err) != QN_OK) return false;
    bool ok = run_chunks(b, seq, run);
    qn_seq_free(&seq);
    return ok;
}

double qn_distance(const float *a, const float *b, size_t n) {
    double diff = 0, top = 0;
    for (size_t i = 0; i < n; i++) {
        if (!isfinite(a[i]) || !isfinite(b[i])) return INFINITY;
        diff = fmax(diff, fabs((double)a[i] - (double)b[i]));
        top = fmax(top, fabs((double)b[i]));
    }
    return top > 0 ? diff / top : diff;
}
