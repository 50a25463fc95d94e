/* Constraints and cursors: see constrain.h. A walk over the lexicon runs the automaton beside it, a state for
 * each byte on the way down; the mask that comes of it stays with the state where the walk began. */
#include "model/constrain/constrain.h"

#include <stdlib.h>
#include <string.h>

#include "model/constrain/automaton.h"
#include "model/constrain/lexicon.h"

/* Counted in places of the automaton; a million take about 20 ms. */
#define PREPARE_WORK UINT64_C(1500000)
#define CREDIT_MOST  UINT64_C(3000000)
#define CREDIT_TOKEN UINT64_C(300000)
#define FORGET_BYTES ((size_t)8 << 20)

struct qn_constraint {
    atomic_int refs;
    struct qn_lexicon *lexicon; /* one reference */
    struct qn_program program;
    struct qn_auto automaton;
    uint32_t *path;       /* [longest + 1]: states on the way down */
    uint64_t *start_mask; /* of a text whose first blank is dropped; owned */
};

/* ---- constraint ---- */

void qn_constraint_ref(struct qn_constraint *c) {
    atomic_fetch_add_explicit(&c->refs, 1, memory_order_relaxed);
}

void qn_constraint_unref(struct qn_constraint *c) {
    if (!c || atomic_fetch_sub_explicit(&c->refs, 1, memory_order_acq_rel) != 1) return;
    qn_auto_free(&c->automaton);
    qn_program_free(&c->program);
    qn_lexicon_unref(c->lexicon);
    free(c->start_mask);
    free(c->path);
    free(c);
}

/* The first mask is made here: what is too ambiguous to be walked at all is refused at once. */
static int try_first(struct qn_constraint *c, struct qn_err *err) {
    struct qn_cursor cur;
    const uint64_t *mask;
    qn_cursor_init(&cur, false);
    cur.credit = PREPARE_WORK - CREDIT_TOKEN;
    int rc = qn_cursor_mask(c, &cur, &(struct qn_cursor_at){NULL, 0}, &mask);
    uint32_t s = rc ? 0 : c->automaton.start;
    if (!rc && !c->automaton.states[s].n)
        return qn_err_set(err, QN_ERR_INVALID, "only the empty text satisfies it");
    if (!rc) return QN_OK;
    return qn_err_set(err, rc, "%s",
                      rc == QN_ERR_NOMEM     ? "out of memory"
                      : rc == QN_ERR_INVALID ? "no token of the model can begin such a text"
                                             : "it takes more work to prepare than is allowed");
}

int qn_constraint_new(struct qn_lexicon *l, const char *text, size_t n, bool grammar,
                      struct qn_constraint **out, struct qn_err *err) {
    struct qn_constraint *c = calloc(1, sizeof *c);
    *out = NULL;
    if (!c) return qn_err_set(err, QN_ERR_NOMEM, "out of memory");
    atomic_init(&c->refs, 1);
    atomic_fetch_add_explicit(&l->refs, 1, memory_order_relaxed);
    c->lexicon = l;
    c->path = malloc((l->longest + (size_t)1) * sizeof *c->path);
    int rc = c->path ? qn_program_make(text, n, grammar, &c->program, err) : QN_ERR_NOMEM;
    if (!rc) rc = qn_auto_init(&c->automaton, &c->program);
    if (rc == QN_ERR_NOMEM) qn_err_set(err, rc, "out of memory");
    if (!rc) rc = try_first(c, err);
    if (rc) {
        qn_constraint_unref(c);
        return rc;
    }
    *out = c;
    return QN_OK;
}

/* ---- cursor ---- */

void qn_cursor_init(struct qn_cursor *cur, bool strips) {
    *cur = (struct qn_cursor){.strips = strips, .at_start = true, .age = UINT32_MAX, .credit = CREDIT_MOST};
}

static int failure(const struct qn_auto *a) {
    return a->failed ? a->failed : QN_ERR_INVALID;
}

/* The state after a token's bytes; QN_AUTO_DEAD, QN_AUTO_FAIL. */
static uint32_t read_token(struct qn_constraint *c, const struct qn_cursor *cur, int32_t token) {
    const struct qn_lexicon *l = c->lexicon;
    uint32_t s = cur->state;
    if (token < 0 || (uint32_t)token >= l->n_tokens) return QN_AUTO_DEAD;
    uint32_t at = l->offsets[token], end = l->offsets[token + 1];
    if (cur->at_start && cur->strips && at < end && l->bytes[at] == ' ') at++;
    for (; at < end && s != QN_AUTO_DEAD && s != QN_AUTO_FAIL; at++)
        s = qn_auto_step(&c->automaton, s, (uint8_t)l->bytes[at]);
    return s;
}

static void take_token(struct qn_constraint *c, struct qn_cursor *cur, int32_t token) {
    const struct qn_lexicon *l = c->lexicon;
    cur->state = read_token(c, cur, token);
    if (cur->state == QN_AUTO_DEAD || cur->state == QN_AUTO_FAIL) return;
    if (l->offsets[token + 1] > l->offsets[token]) cur->at_start = false;
    cur->n++;
}

static void forget(struct qn_constraint *c) {
    qn_auto_forget(&c->automaton);
    free(c->start_mask);
    c->start_mask = NULL;
}

/* Each token of the output is worth some work, once. */
static void earn(struct qn_cursor *cur, uint32_t n) {
    if (n < cur->paid) return;
    uint64_t more = (n - cur->paid + UINT64_C(1)) * CREDIT_TOKEN;
    cur->credit = cur->credit + more < CREDIT_MOST ? cur->credit + more : CREDIT_MOST;
    cur->paid = n + 1;
}

/* Brings the cursor to its place, over again when the automaton has forgotten its states. */
static int seek(struct qn_constraint *c, struct qn_cursor *cur, const struct qn_cursor_at *at) {
    struct qn_auto *a = &c->automaton;
    if (a->bytes > FORGET_BYTES) forget(c);
    earn(cur, at->n);
    a->failed = 0;
    a->limit = a->work + cur->credit;
    if (cur->age != a->age || cur->n > at->n) {
        cur->state = qn_auto_start(a);
        cur->age = a->age;
        cur->n = 0;
        cur->at_start = true;
        if (cur->state == QN_AUTO_FAIL) cur->age = UINT32_MAX;
        if (cur->state == QN_AUTO_FAIL) return failure(a);
    }
    while (cur->n < at->n) {
        struct qn_cursor was = *cur;
        take_token(c, cur, at->tokens[cur->n]);
        if (cur->state != QN_AUTO_DEAD && cur->state != QN_AUTO_FAIL) continue;
        int rc = cur->state == QN_AUTO_DEAD ? QN_ERR_INVALID : failure(a);
        *cur = was;
        return rc;
    }
    return QN_OK;
}

/* Work is paid for by the output that causes it. */
static void settle(struct qn_constraint *c, struct qn_cursor *cur, uint64_t before) {
    uint64_t spent = c->automaton.work - before;
    cur->credit = spent < cur->credit ? cur->credit - spent : 0;
}

/* ---- masks ---- */

static void allow(const struct qn_lexicon *l, uint32_t first, uint32_t last, uint64_t *mask) {
    for (uint32_t i = first; i < last; i++) mask[l->ids[i] >> 6] |= UINT64_C(1) << (l->ids[i] & 63);
}

/* Can everything below the node be read from here, whatever it is? */
static bool whole(const struct qn_auto *a, const struct qn_auto_state *s, const struct qn_lex_node *node) {
    if (s->run < node->height || node->high || !s->run) return false;
    const struct qn_ascii *set = &a->p->sets[s->set];
    return !(node->below[0] & ~set->at[0]) && !(node->below[1] & ~set->at[1]);
}

/* blank: the first blank of the text is dropped, so it is read as nothing. */
static int walk(struct qn_constraint *c, uint32_t from, bool blank, uint64_t *mask) {
    const struct qn_lexicon *l = c->lexicon;
    struct qn_auto *a = &c->automaton;
    c->path[0] = from;
    if (!blank && whole(a, &a->states[from], &l->nodes[0])) {
        allow(l, 0, l->n_ids, mask);
        return QN_OK;
    }
    for (uint32_t i = 1; i < l->n_nodes;) {
        const struct qn_lex_node *node = &l->nodes[i];
        bool dropped = blank && node->depth == 1 && node->byte == ' ';
        uint32_t s = dropped ? from : qn_auto_step(a, c->path[node->depth - 1], node->byte);
        if (s == QN_AUTO_FAIL) return failure(a);
        if (s == QN_AUTO_DEAD) {
            i = node->end;
        } else if (whole(a, &a->states[s], node)) {
            allow(l, node->first, node->last, mask);
            i = node->end;
        } else {
            allow(l, node->first, node->own, mask);
            c->path[node->depth] = s;
            i++;
        }
    }
    return QN_OK;
}

static int make_mask(struct qn_constraint *c, uint32_t state, bool blank, uint64_t **out) {
    const struct qn_lexicon *l = c->lexicon;
    uint64_t any = 0, *mask = calloc(l->words ? l->words : 1, sizeof *mask);
    if (!mask) return QN_ERR_NOMEM;
    int rc = walk(c, state, blank, mask);
    bool accepts = c->automaton.states[state].accepts;
    for (uint32_t i = 0; !rc && accepts && i < l->n_ends; i++)
        mask[l->ends[i] >> 6] |= UINT64_C(1) << (l->ends[i] & 63);
    for (uint32_t i = 0; i < l->words; i++) any |= mask[i];
    if (!rc && !any) rc = QN_ERR_INVALID;
    if (rc) {
        free(mask);
        return rc;
    }
    c->automaton.bytes += l->words * sizeof *mask;
    *out = mask;
    return QN_OK;
}

int qn_cursor_mask(struct qn_constraint *c, struct qn_cursor *cur, const struct qn_cursor_at *at,
                   const uint64_t **mask) {
    struct qn_auto *a = &c->automaton;
    uint64_t before = a->work;
    int rc = seek(c, cur, at);
    if (!rc) {
        bool blank = cur->at_start && cur->strips;
        uint64_t *have = blank ? c->start_mask : a->states[cur->state].mask;
        if (!have) rc = make_mask(c, cur->state, blank, &have);
        if (!rc) *(blank ? &c->start_mask : &a->states[cur->state].mask) = have;
        *mask = have;
    }
    settle(c, cur, before);
    return rc;
}

int qn_cursor_allows(struct qn_constraint *c, struct qn_cursor *cur, const struct qn_cursor_at *at,
                     int32_t token, bool *yes) {
    const struct qn_lexicon *l = c->lexicon;
    struct qn_auto *a = &c->automaton;
    uint64_t before = a->work;
    int rc = seek(c, cur, at);
    *yes = false;
    if (!rc && token >= 0 && (uint32_t)token < l->n_tokens) {
        uint32_t n = l->offsets[token + 1] - l->offsets[token];
        bool is_end = false;
        for (uint32_t i = 0; i < l->n_ends; i++) is_end = is_end || l->ends[i] == (uint32_t)token;
        uint32_t s = is_end || !n || n > QN_TOKEN_BYTES ? QN_AUTO_DEAD : read_token(c, cur, token);
        *yes = is_end ? a->states[cur->state].accepts : s != QN_AUTO_DEAD;
        if (s == QN_AUTO_FAIL) rc = failure(a);
    }
    settle(c, cur, before);
    return rc;
}

int qn_cursor_done(struct qn_constraint *c, struct qn_cursor *cur, const struct qn_cursor_at *at, bool *yes) {
    uint64_t before = c->automaton.work;
    int rc = seek(c, cur, at);
    *yes = !rc && c->automaton.states[cur->state].accepts && !c->automaton.states[cur->state].n;
    settle(c, cur, before);
    return rc;
}

uint32_t qn_cursor_prefix(struct qn_constraint *c, const struct qn_cursor *cur, const struct qn_cursor_at *at,
                          uint32_t n) {
    struct qn_cursor try = *cur;
    uint32_t i = 0;
    /* A guess costs its output nothing, which must not fail for it: but it is not worth much work. */
    if (try.credit > CREDIT_TOKEN) try.credit = CREDIT_TOKEN;
    try.paid = UINT32_MAX;
    for (bool yes = true; i < n && yes; i += yes) {
        struct qn_cursor_at to = {at->tokens, at->n + i};
        if (qn_cursor_allows(c, &try, &to, at->tokens[at->n + i], &yes)) return i;
    }
    return i;
}
