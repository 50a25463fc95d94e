/* Where the spans of a step are cut so that copies of fixed-size states can be taken: at multiples of
 * QN_SNAPSHOT_TOKENS and before the last token of a prompt.
 *
 * All rows of a step go through one layer, then through the next; the state of a layer at a boundary inside a
 * span exists only while that layer runs. So its attention runs the spans' first parts, the copies take the
 * layer's piece of the state, and the next parts follow. A row's value does not depend on where its span is
 * cut. Thread: engine. */
#include <string.h>

#include "model/internal.h"

/* Where the next copy is due after `pos` tokens. */
static uint32_t next_stop(const struct qn_span *sp, uint32_t pos) {
    uint32_t stop = pos - pos % QN_SNAPSHOT_TOKENS + QN_SNAPSHOT_TOKENS, last = sp->seq->length + sp->n - 1;
    return sp->snapshot && pos < last && last < stop ? last : stop;
}

/* Copies that are due after the one at `to` in this step. */
static uint32_t due_after(const struct qn_span *sp, uint32_t to) {
    uint32_t end = sp->seq->length + sp->n, past = (end - 1) % QN_SNAPSHOT_TOKENS;
    bool last = sp->snapshot && to < end - 1 && past >= QN_SNAPSHOT_GAP;
    return end / QN_SNAPSHOT_TOKENS - to / QN_SNAPSHOT_TOKENS + (last ? 1 : 0);
}

/* Rows of the span's next part, from row `at` on; *keep: the copy to be taken after it, or NULL. */
static uint32_t next_part(const struct qn_span *sp, uint32_t at, struct qn_kv_block **keep) {
    struct qn_seq *q = sp->seq;
    uint32_t pos = q->length + at, end = q->length + sp->n;
    *keep = NULL;
    if (!q->publish) return end - pos;
    for (uint32_t to = next_stop(sp, pos); to <= end; to = next_stop(sp, to)) {
        *keep = qn_kv_snapshot_begin(&q->kv, q->tokens, to, due_after(sp, to));
        if (*keep) return to - pos;
    }
    return end - pos;
}

/* The last token of a prompt is a span by itself: the state before it is there already. */
static void copy_before(const struct qn_span *sp) {
    struct qn_seq *q = sp->seq;
    if (!sp->snapshot || sp->n != 1 || !q->publish) return;
    struct qn_kv_block *b = qn_kv_snapshot_begin(&q->kv, q->tokens, q->length, 0);
    if (!b) return;
    memcpy(b->data, q->kv.fixed->data, b->bytes);
    qn_kv_snapshot_end(q->kv.pool, b);
}

void qn_cuts_plan(struct qn_cuts *c, const struct qn_step *step, const struct qn_row_span *rows) {
    bool any = false;
    c->n_passes = 0;
    if (step->math != QN_MATH_PACKED || step->variant->fixed_bytes == 0) return;
    for (uint32_t i = 0; i < step->n_spans; i++) copy_before(&step->spans[i]);
    memset(c->done, 0, step->n_spans * sizeof *c->done);
    for (uint32_t n = 0, first = UINT32_MAX; n != first; c->end[c->n_passes++] = n) {
        first = n;
        for (uint32_t i = 0; i < step->n_spans; i++) {
            uint32_t at = c->done[i];
            if (at == rows[i].n) continue;
            uint32_t part = next_part(&step->spans[i], at, &c->keep[n]);
            any = any || c->keep[n];
            c->spans[n++] = (struct qn_row_span){rows[i].first + at, part, rows[i].fixed};
            c->done[i] += part;
        }
    }
    c->n_passes = any ? c->n_passes - 1 : 0;
}

void qn_cuts_copy(const struct qn_cuts *c, uint32_t pass, size_t offset, size_t bytes) {
    for (uint32_t i = pass > 0 ? c->end[pass - 1] : 0; i < c->end[pass]; i++) {
        if (c->keep[i]) memcpy(c->keep[i]->data + offset, c->spans[i].fixed + offset, bytes);
    }
}

void qn_cuts_finish(struct qn_cuts *c, struct qn_kv_pool *pool) {
    uint32_t n = c->n_passes > 0 ? c->end[c->n_passes - 1] : 0;
    for (uint32_t i = 0; i < n; i++) {
        if (c->keep[i]) qn_kv_snapshot_end(pool, c->keep[i]);
    }
}
