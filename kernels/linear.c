/* Products for the forward pass: prepares activations and splits output panels over the pool.
 *
 * Data flow: x -> qn_act_quantize (once per activation, shared by all matrices that read it) -> qn_linear per
 * matrix -> y. The split decides only who computes an element, never how. Thread: the pool's caller. */
#include "kernels/act.h"
#include "kernels/kernels.h"
#include "kernels/mem.h"

/* Work below this many weight-times-row steps is not worth waking another thread. */
#define SOLO_WORK (96u * 1024u)
/* Chunks per thread: enough to even out a core that is slower for a while. */
#define CHUNKS_PER_THREAD 4u

bool qn_act_bytes(size_t rows, size_t cols, size_t *out) {
    size_t blocks;
    return cols <= SIZE_MAX - 4096 && qn_size_mul(rows, qn_act_stride(cols), &blocks) &&
           qn_size_mul(blocks, sizeof(struct qn_act_block), out);
}

static void quantize_item(void *arg, size_t item, unsigned thread) {
    const struct qn_act *a = arg;
    (void)thread;
    qn_ops()->quantize_row(a->x + item * a->ldx, a->cols, a->q + item * qn_act_stride(a->cols));
}

void qn_act_quantize(struct qn_pool *pool, struct qn_act *a, void *mem) {
    a->q = mem;
    if ((size_t)a->rows * a->cols < SOLO_WORK / 4) pool = NULL;
    qn_pool_run(pool, a->rows, quantize_item, a);
}

struct split {
    struct qn_linear_args args;
    uint32_t chunk; /* panels per item */
    uint32_t panels;
};

static void linear_item(void *arg, size_t item, unsigned thread) {
    const struct split *s = arg;
    struct qn_linear_args a = s->args;
    (void)thread;
    a.panel_begin = (uint32_t)item * s->chunk;
    a.panel_end = s->panels - a.panel_begin > s->chunk ? a.panel_begin + s->chunk : s->panels;
    qn_ops()->linear[a.w->type](&a);
}

void qn_linear(struct qn_pool *pool, const struct qn_matrix *w, const struct qn_act *a, const float *bias,
               float *y, size_t ldy) {
    struct split s = {.args = {.w = w, .a = a, .bias = bias, .y = y, .ldy = ldy}};
    unsigned threads = pool ? qn_pool_threads(pool) : 1;
    s.panels = w->rows / QN_PANEL + (w->rows % QN_PANEL != 0);
    if (!s.panels || !a->rows) return;
    if ((double)w->bytes * a->rows < SOLO_WORK) threads = 1;
    uint32_t items = threads == 1 ? 1 : threads * CHUNKS_PER_THREAD;
    s.chunk = (s.panels + items - 1) / items;
    qn_pool_run(threads == 1 ? NULL : pool, (s.panels + s.chunk - 1) / s.chunk, linear_item, &s);
}
