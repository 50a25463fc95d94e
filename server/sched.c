/* Admission order and step plans; see sched.h for the rules. Pure functions, engine thread. */
#include "server/sched.h"

uint32_t qn_sched_pick(const struct qn_sched_limits *lim, const struct qn_sched_key *keys, uint32_t n_keys,
                       const struct qn_sched_pool *pools) {
    uint32_t best = QN_SCHED_NONE;
    for (uint32_t i = 0; i < n_keys; i++) {
        const struct qn_sched_key *k = &keys[i];
        if (!k->waiting || pools[k->head_pool].blocked || k->backlog >= lim->step_tokens) continue;
        if (pools[k->head_pool].running >= lim->max_running) continue;
        if (best == QN_SCHED_NONE || k->served < keys[best].served ||
            (k->served == keys[best].served && k->head_order < keys[best].head_order))
            best = i;
    }
    return best;
}

static bool runnable(const struct qn_sched_seq *q) {
    return q->todo && !q->paused;
}

/* Deficit round robin: the group at the cursor keeps its turn while it has credit; then the next one with
 * work gets a quantum. Credit may be overdrawn by one step, which its next rounds pay back. */
static uint32_t pick_group(struct qn_sched_step *s) {
    bool any = false;
    uint32_t *has = s->work;
    if (s->n_groups == 0) return QN_SCHED_NONE;
    for (uint32_t g = 0; g < s->n_groups; g++) has[g] = 0;
    for (uint32_t i = 0; i < s->n_seqs; i++)
        if (runnable(&s->seqs[i])) has[s->seqs[i].group] = 1, any = true;
    for (uint32_t g = 0; g < s->n_groups; g++)
        if (!has[g] && s->deficits[g] > 0) s->deficits[g] = 0;
    if (!any) return QN_SCHED_NONE;
    if (s->cursor >= s->n_groups) s->cursor = 0;
    for (;;) {
        if (has[s->cursor] && s->deficits[s->cursor] > 0) return s->cursor;
        s->cursor = (s->cursor + 1) % s->n_groups;
        if (has[s->cursor]) s->deficits[s->cursor] += s->lim.prefill_chunk;
    }
}

static bool preempted(const struct qn_sched_step *s, uint32_t i) {
    for (uint32_t k = 0; k < s->n_preempt; k++)
        if (s->preempt[k] == i) return true;
    return false;
}

/* Runs whole and keeps nothing behind: it has no memory to give, and nobody waits for it to finish. */
static bool stateless(const struct qn_sched_seq *q) {
    return q->whole && q->held == 0;
}

/* How readily a sequence gives up its memory, whenever it came: spare work has given its answer already, a
 * paused sequence makes no progress anyway. */
static int ease(const struct qn_sched_seq *q) {
    return q->spare ? 2 : q->paused;
}

/* Who gives up memory so that sequence i can grow: who does so with ease, then the newest that is younger
 * than i, then i itself unless it is the oldest in the pool that holds any. Nothing may be counted as held
 * where all of it is shared: that comes free once its other holders are gone. */
static uint32_t victim_for(const struct qn_sched_step *s, uint32_t i) {
    uint32_t best = QN_SCHED_NONE;
    bool oldest = true;
    for (uint32_t k = 0; k < s->n_seqs; k++) {
        const struct qn_sched_seq *q = &s->seqs[k], *b = best == QN_SCHED_NONE ? NULL : &s->seqs[best];
        if (q->pool != s->seqs[i].pool || stateless(q) || preempted(s, k)) continue;
        if (q->order < s->seqs[i].order) oldest = false;
        if (k == i || (!ease(q) && q->order < s->seqs[i].order)) continue;
        if (!b || ease(q) > ease(b) || (ease(q) == ease(b) && q->order > b->order)) best = k;
    }
    return best != QN_SCHED_NONE || oldest ? best : i;
}

/* Makes room for the growth of sequence i; false when it was preempted itself. */
static bool make_room(struct qn_sched_step *s, uint32_t i) {
    struct qn_sched_pool *p = &s->pools[s->seqs[i].pool];
    while (s->seqs[i].grow > p->free) {
        uint32_t v = victim_for(s, i);
        if (v == QN_SCHED_NONE) break; /* the oldest, alone: what `held` did not count (shared) is free now */
        s->preempt[s->n_preempt++] = v;
        p->free += s->seqs[v].held;
        if (v == i) return false;
    }
    p->free -= s->seqs[i].grow < p->free ? s->seqs[i].grow : p->free;
    return true;
}

static bool goes_before(const struct qn_sched_seq *a, const struct qn_sched_seq *b, bool by_wait) {
    if (by_wait && a->served_at != b->served_at) return a->served_at < b->served_at;
    return a->order < b->order;
}

/* Indices of the group's runnable sequences of one kind into work[], in order. Insertion sort: snapshots come
 * nearly sorted, since the engine appends what it admits. */
static uint32_t collect(struct qn_sched_step *s, bool decode) {
    uint32_t n = 0;
    for (uint32_t i = 0; i < s->n_seqs; i++) {
        const struct qn_sched_seq *q = &s->seqs[i];
        if (q->group != s->group || !runnable(q) || q->decode != decode || preempted(s, i)) continue;
        uint32_t k = n++;
        for (; k && goes_before(q, &s->seqs[s->work[k - 1]], !decode); k--) s->work[k] = s->work[k - 1];
        s->work[k] = i;
    }
    return n;
}

static void add_span(struct qn_sched_step *s, uint32_t i, uint32_t n) {
    s->spans[s->n_spans].seq = i;
    s->spans[s->n_spans++].n = n;
    s->rows += n;
}

static void plan_decode(struct qn_sched_step *s) {
    uint32_t n = collect(s, true);
    for (uint32_t k = 0; k < n && s->rows < s->lim.step_tokens; k++) {
        uint32_t i = s->work[k];
        if (!preempted(s, i) && make_room(s, i)) add_span(s, i, 1);
    }
}

static void plan_prefill(struct qn_sched_step *s) {
    bool decoding = false; /* in any group: all of them wait for this step */
    for (uint32_t i = 0; i < s->n_seqs && !decoding; i++)
        decoding = s->seqs[i].decode && runnable(&s->seqs[i]) && !preempted(s, i);
    uint32_t n = collect(s, false), left = s->lim.step_tokens - s->rows;
    uint32_t most = n > 1 || decoding ? s->lim.prefill_chunk : left;
    if (decoding && left > s->lim.prefill_chunk) left = s->lim.prefill_chunk;
    for (uint32_t k = 0; k < n && left; k++) {
        const struct qn_sched_seq *q = &s->seqs[s->work[k]];
        uint32_t rows = q->todo;
        if (q->whole && rows > s->lim.step_tokens - s->rows) break; /* goes first in a later step */
        if (!q->whole && rows > most) rows = most;
        if (!q->whole && rows > left) rows = left;
        add_span(s, s->work[k], rows);
        left -= rows < left ? rows : left;
    }
    /* Nobody waits for a token: what is left of the budget goes to them in the same order. */
    for (uint32_t k = s->n_spans - (n < s->n_spans ? n : s->n_spans); !decoding && left && k < s->n_spans;
         k++) {
        uint32_t rows = s->seqs[s->spans[k].seq].todo - s->spans[k].n;
        if (rows > left) rows = left;
        s->spans[k].n += rows;
        s->rows += rows;
        left -= rows;
    }
}

/* One guess each in turns, by age, while there is room. */
static void plan_drafts(struct qn_sched_step *s) {
    uint32_t most = s->lim.step_tokens < QN_SCHED_DRAFT_ROWS ? s->lim.step_tokens : QN_SCHED_DRAFT_ROWS;
    bool any = true;
    for (uint32_t turn = 1; any && s->rows < most; turn++) {
        any = false;
        for (uint32_t k = 0; k < s->n_spans && s->rows < most; k++) {
            const struct qn_sched_seq *q = &s->seqs[s->spans[k].seq];
            struct qn_sched_pool *p = &s->pools[q->pool];
            if (!q->decode || q->draft < turn || s->spans[k].n < turn) continue;
            if (turn == 1 && q->draft_grow > p->free) continue;
            if (turn == 1) p->free -= q->draft_grow;
            s->spans[k].n++;
            s->rows++;
            any = true;
        }
    }
}

void qn_sched_step(struct qn_sched_step *s) {
    s->n_spans = s->rows = s->n_preempt = 0;
    s->group = pick_group(s);
    if (s->group == QN_SCHED_NONE) return;
    plan_decode(s);
    plan_prefill(s);
    plan_drafts(s);
    uint32_t cost = s->rows > QN_SCHED_STEP_FLOOR ? s->rows : QN_SCHED_STEP_FLOOR;
    s->deficits[s->group] -= cost;
}
