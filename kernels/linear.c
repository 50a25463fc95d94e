/* Products for the forward pass: prepares activations and splits output panels over the pool.
 *
 * Data flow: x -> qn_act_quantize (once per activation, shared by all matrices that read it) -> products of
 * matrices side by side -> y; or -> qn_linear_hidden -> the integer form that the next product reads. The
 * split decides only who computes an element, never how. Thread: the pool's caller; qn_act_fill: any. */
#include "kernels/act.h"
#include "kernels/kernels.h"
#include "kernels/mem.h"

/* Work below this many weight-times-row steps is not worth waking another thread. */
#define SOLO_WORK (96u * 1024u)
/* Items per thread, where there are so many panels: the last ones even out who is done when. An item is at
 * most MAX_CHUNK panels or pairs of them. */
#define ITEMS_PER_THREAD 16u
#define MAX_CHUNK        8u
/* Columns of a hidden layer that are worked on together: a block of the integer form, or as many as keep both
 * products in half a core's L1. */
#define HIDDEN_COLS 32u
#define HIDDEN_TILE 2048u

/* What a thread brings into its L2 before a loop; more rows than these keep the cores busier than memory. */
#define AHEAD_BYTES (48u * 1024u)
#define AHEAD_ROWS  8u

bool qn_act_bytes(size_t rows, size_t cols, size_t *out) {
    size_t blocks;
    return cols <= SIZE_MAX - 4096 && qn_size_mul(rows, qn_act_stride(cols), &blocks) &&
           qn_size_mul(blocks, sizeof(struct qn_act_block), out);
}

void qn_act_place(struct qn_act *a, void *mem) {
    a->q = mem;
}

void qn_act_fill(const struct qn_act *a, uint32_t begin, uint32_t end) {
    for (size_t r = begin; r < end; r++)
        qn_ops()->quantize_row(a->x + r * a->ldx, a->cols, a->q + r * qn_act_stride(a->cols));
}

static void quantize_item(void *arg, size_t item, unsigned thread) {
    (void)thread;
    qn_act_fill(arg, (uint32_t)item, (uint32_t)item + 1);
}

void qn_act_quantize(struct qn_pool *pool, struct qn_act *a, void *mem) {
    qn_act_place(a, mem);
    if ((size_t)a->rows * a->cols < SOLO_WORK / 4) pool = NULL;
    qn_pool_run(pool, a->rows, quantize_item, a);
}

/* --- items: runs of units, which are panels or blocks of columns --- */
static uint32_t units_of(uint32_t cols, uint32_t unit) {
    return cols / unit + (cols % unit != 0);
}

/* Units per item; *pool becomes NULL where more threads would not help. */
static uint32_t chunk_of(struct qn_pool **pool, uint32_t units, double work) {
    if (!*pool || work < SOLO_WORK) {
        *pool = NULL;
        return units;
    }
    uint32_t chunk = units / (qn_pool_threads(*pool) * ITEMS_PER_THREAD);
    return chunk < 1 ? 1 : chunk > MAX_CHUNK ? MAX_CHUNK : chunk;
}

/* --- products side by side --- */
struct split {
    const struct qn_product *p;
    const struct qn_act *a;
    uint32_t n, chunk, panels;
};

static void linear_item(void *arg, size_t item, unsigned thread) {
    const struct split *s = arg;
    uint32_t begin = (uint32_t)item * s->chunk, first = 0;
    uint32_t end = s->panels - begin > s->chunk ? begin + s->chunk : s->panels;
    (void)thread;
    for (uint32_t i = 0; i < s->n && first < end; i++) {
        const struct qn_product *p = &s->p[i];
        uint32_t past = first + units_of(p->w->rows, QN_PANEL);
        if (past > begin) {
            struct qn_linear_args a = {.w = p->w, .a = s->a, .bias = p->bias, .y = p->y, .ldy = p->ldy};
            a.panel_begin = (begin > first ? begin : first) - first;
            a.panel_end = (end < past ? end : past) - first;
            qn_ops()->linear[p->w->type](&a);
        }
        first = past;
    }
}

void qn_linear_all(struct qn_pool *pool, const struct qn_product *p, size_t n, const struct qn_act *a) {
    struct split s = {.p = p, .a = a, .n = (uint32_t)n};
    double work = 0;
    for (size_t i = 0; i < n; i++) {
        s.panels += units_of(p[i].w->rows, QN_PANEL);
        work += (double)p[i].w->bytes * a->rows;
    }
    if (!s.panels || !a->rows) return;
    s.chunk = chunk_of(&pool, s.panels, work);
    qn_pool_run(pool, units_of(s.panels, s.chunk), linear_item, &s);
}

void qn_linear(struct qn_pool *pool, const struct qn_matrix *w, const struct qn_act *a, const float *bias,
               float *y, size_t ldy) {
    const struct qn_product p = {.w = w, .bias = bias, .y = y, .ldy = ldy};
    qn_linear_all(pool, &p, 1, a);
}

/* --- hidden layers --- */
struct hidden {
    const struct qn_hidden *h;
    const struct qn_act *a, *out;
    uint32_t chunk; /* blocks of HIDDEN_COLS per item */
    uint32_t cols;  /* of a tile */
};

/* Columns [n, n + cols) of one matrix for all rows; y: column 0. */
static void hidden_product(const struct hidden *t, const struct qn_matrix *w, const float *bias, float *y,
                           size_t ldy, uint32_t n, uint32_t cols) {
    struct qn_linear_args a = {.w = w, .a = t->a, .bias = bias, .y = y, .ldy = ldy};
    a.panel_begin = n / QN_PANEL;
    a.panel_end = units_of(n + cols, QN_PANEL);
    qn_ops()->linear[w->type](&a);
}

/* Columns from n on. For the integer form the tile lies in one piece, where its columns would begin if all
 * tiles lay one after the other. */
static void hidden_tile(const struct hidden *t, uint32_t n, uint32_t cols) {
    const struct qn_hidden *h = t->h;
    size_t rows = t->a->rows, dim = h->up->rows, ld = t->out->q ? cols : dim;
    size_t at = t->out->q ? n * rows : n; /* of the tile; its kernels count columns from 0 */
    float *g = h->g + at, *u = h->gate ? h->u + at : NULL;
    if (h->gate) hidden_product(t, h->gate, h->b_gate, g - n, ld, n, cols);
    hidden_product(t, h->up, h->b_up, (h->gate ? u : g) - n, ld, n, cols);
    size_t runs = ld == cols ? 1 : rows, each = ld == cols ? rows * cols : cols;
    for (size_t r = 0; r < runs; r++, g += ld) {
        if (h->gate) {
            qn_ops()->gated(g, g, u + r * ld, each, h->act);
        } else {
            qn_ops()->activate(g, g, each, h->act);
        }
    }
    if (!t->out->q) return;
    struct qn_act_block *q = t->out->q + n / HIDDEN_COLS;
    for (size_t r = 0; r < rows; r++, q += qn_act_stride(dim))
        qn_ops()->quantize_row(h->g + at + r * cols, cols, q);
}

static void hidden_item(void *arg, size_t item, unsigned thread) {
    const struct hidden *t = arg;
    uint32_t dim = t->h->up->rows, n = (uint32_t)item * t->chunk * HIDDEN_COLS;
    uint32_t end = dim - n > t->chunk * HIDDEN_COLS ? n + t->chunk * HIDDEN_COLS : dim;
    (void)thread;
    for (; n < end; n += t->cols) hidden_tile(t, n, end - n < t->cols ? end - n : t->cols);
}

void qn_linear_hidden(struct qn_pool *pool, const struct qn_hidden *h, const struct qn_act *a,
                      const struct qn_act *out) {
    struct hidden t = {.h = h, .a = a, .out = out};
    uint32_t units = units_of(h->up->rows, HIDDEN_COLS);
    if (!units || !a->rows) return;
    t.chunk = chunk_of(&pool, units, (double)(h->up->bytes + (h->gate ? h->gate->bytes : 0)) * a->rows);
    t.cols = HIDDEN_TILE / a->rows / HIDDEN_COLS * HIDDEN_COLS;
    if (t.cols < HIDDEN_COLS) t.cols = HIDDEN_COLS;
    qn_pool_run(pool, units_of(units, t.chunk), hidden_item, &t);
}

/* --- what comes next --- */
/* Bytes of panels [panel, panel + n), none past the end. */
static size_t panel_bytes(const struct qn_matrix *w, uint32_t panel, uint32_t n, const uint8_t **from) {
    uint32_t all = units_of(w->rows, QN_PANEL), left = all - panel;
    *from = w->data + w->bytes / all * panel;
    return w->bytes / all * (n < left ? n : left);
}

static void tell(struct qn_pool *pool, unsigned thread, unsigned slot, const struct qn_matrix *w,
                 uint32_t panel, uint32_t n) {
    const uint8_t *from = NULL;
    size_t bytes = w ? panel_bytes(w, panel, n, &from) : 0;
    qn_pool_ahead(pool, thread, slot, from, bytes < AHEAD_BYTES ? bytes : AHEAD_BYTES);
}

void qn_linear_ahead(struct qn_pool *pool, const struct qn_matrix *const *w, size_t n, uint32_t rows) {
    uint32_t panels = 0;
    double work = 0;
    for (size_t i = 0; i < n; i++) {
        panels += units_of(w[i]->rows, QN_PANEL);
        work += (double)w[i]->bytes * rows;
    }
    struct qn_pool *shared = pool;
    uint32_t chunk = chunk_of(&shared, panels, work);
    if (!shared || !panels || rows > AHEAD_ROWS) return;
    uint32_t items = units_of(panels, chunk);
    for (unsigned t = 0; t < qn_pool_threads(pool); t++) {
        uint32_t panel = (uint32_t)qn_pool_first(pool, items, t) * chunk;
        size_t i = 0;
        for (; i < n && panel >= units_of(w[i]->rows, QN_PANEL); i++) panel -= units_of(w[i]->rows, QN_PANEL);
        tell(pool, t, 0, i < n ? w[i] : NULL, panel, UINT32_MAX);
        tell(pool, t, 1, NULL, 0, 0);
    }
}

void qn_linear_hidden_ahead(struct qn_pool *pool, const struct qn_matrix *gate, const struct qn_matrix *up,
                            uint32_t rows) {
    struct qn_pool *shared = pool;
    uint32_t units = units_of(up->rows, HIDDEN_COLS);
    uint32_t chunk = chunk_of(&shared, units, (double)(up->bytes + (gate ? gate->bytes : 0)) * rows);
    if (!shared || !units || rows > AHEAD_ROWS) return;
    uint32_t items = units_of(units, chunk), each = HIDDEN_COLS / QN_PANEL;
    for (unsigned t = 0; t < qn_pool_threads(pool); t++) {
        uint32_t panel = (uint32_t)qn_pool_first(pool, items, t) * chunk * each;
        tell(pool, t, 0, gate ? gate : up, panel, chunk * each);
        tell(pool, t, 1, gate ? up : NULL, panel, chunk * each);
    }
}
