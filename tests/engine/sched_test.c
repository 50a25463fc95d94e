/* Properties of the scheduler over random worlds, on a fake engine that only counts: tokens, blocks, keys,
 * groups. Each seed is one world with its own limits; all of it is printed on failure by its seed.
 *
 *   budget      rows <= step_tokens, spans within todo, prefill <= one chunk while anything decodes but for a
 *               whole sequence at the end, which is never cut
 *   state       what is held never exceeds the pool; who holds none gives none up
 *   progress    the oldest sequence of a pool is never preempted; every job finishes within a bound
 *   waiting     a prefilling sequence gets a chunk within as many steps of its group as there are others
 *   fairness    two busy groups and two busy keys are served alike, up to a constant */
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "server/sched.h"

#define JOBS   40
#define BLOCK  16u
#define GROUPS 4
#define WHOLES 3 /* the group whose sequences run whole and keep no state */
#define KEYS   3
#define POOLS  2

static uint64_t rng_state, seed_now;
static uint32_t rnd(uint32_t n) {
    rng_state = rng_state * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)(rng_state >> 33) % n;
}

#define CHECK(c)                                                                                             \
    do {                                                                                                     \
        if (!(c)) fail_msg("seed %llu: %s", (unsigned long long)seed_now, #c);                               \
    } while (0)

enum where { NOT_YET, WAITING, RUNNING, FINISHED };
struct fake { /* one sequence */
    enum where where;
    uint64_t order, served_at;
    uint32_t group, pool, key, arrives, cancels, group_steps; /* steps of its group since its last chunk */
    uint32_t prompt, max, made, state, blocks;
    bool paused, spare;
};

struct world {
    struct qn_sched_limits lim;
    struct fake f[JOBS];
    uint32_t running[JOBS], n_running;
    uint32_t pool_blocks[POOLS], used[POOLS];
    uint64_t served[KEYS], step, order, preemptions, guessed;
    int64_t deficits[GROUPS];
    uint32_t cursor, reserve, n_jobs;
};

static uint32_t blocks_of(uint32_t tokens) {
    return (tokens + BLOCK - 1) / BLOCK;
}

static uint32_t blocks_at(const struct fake *f, uint32_t tokens) {
    return f->group == WHOLES ? 0 : blocks_of(tokens);
}

static uint32_t known(const struct fake *f) {
    return f->prompt + f->made;
}

static void make_world(struct world *w, uint64_t seed) {
    memset(w, 0, sizeof *w);
    seed_now = rng_state = seed;
    for (int i = 0; i < 4; i++) rnd(2);
    w->lim.max_running = 1 + rnd(12);
    w->lim.step_tokens = w->lim.max_running + rnd(64);
    w->lim.prefill_chunk = 1 + rnd(32);
    w->reserve = rnd(20);
    w->n_jobs = 1 + rnd(JOBS);
    for (uint32_t p = 0; p < POOLS; p++) w->pool_blocks[p] = 14 + rnd(30);
    for (uint32_t i = 0; i < w->n_jobs; i++) {
        struct fake *f = &w->f[i];
        f->prompt = 1 + rnd(rnd(2) ? 10 : 120);
        f->max = 1 + rnd(rnd(2) ? 10 : 80); /* at most 200 tokens: 13 blocks, less than any pool */
        f->group = rnd(GROUPS);
        if (f->group == WHOLES) {
            f->max = 1; /* nothing is decoded */
            if (f->prompt > w->lim.step_tokens) f->prompt = w->lim.step_tokens;
        }
        f->pool = f->group % POOLS; /* a group is one model's */
        f->key = rnd(KEYS);
        f->arrives = rnd(100);
        f->cancels = rnd(5) ? UINT32_MAX : f->arrives + rnd(100);
    }
}

static void leave(struct world *w, uint32_t at) {
    struct fake *f = &w->f[w->running[at]];
    w->used[f->pool] -= f->blocks;
    f->blocks = 0;
    f->state = 0;
    memmove(&w->running[at], &w->running[at + 1], (--w->n_running - at) * sizeof *w->running);
}

static void arrive_and_cancel(struct world *w) {
    for (uint32_t i = 0; i < w->n_jobs; i++) {
        struct fake *f = &w->f[i];
        if (f->where == NOT_YET && w->step >= f->arrives) {
            f->where = WAITING;
            f->order = ++w->order;
        }
        if (f->where != RUNNING && f->where != WAITING) continue;
        f->paused = w->step < 300 && rnd(20) == 0 ? !f->paused : w->step < 300 && f->paused;
        f->spare = w->step < 300 && rnd(20) == 0 ? !f->spare : w->step < 300 && f->spare;
        if (w->step < f->cancels) continue;
        for (uint32_t k = 0; k < w->n_running; k++)
            if (w->running[k] == i) leave(w, k);
        f->where = FINISHED;
    }
}

static void admit(struct world *w) {
    struct qn_sched_pool pools[POOLS] = {{0}};
    for (;;) {
        struct qn_sched_key keys[KEYS] = {{0}};
        uint32_t head[KEYS];
        for (uint32_t i = 0; i < POOLS; i++) pools[i].running = 0;
        for (uint32_t i = 0; i < w->n_running; i++) pools[w->f[w->running[i]].pool].running++;
        for (uint32_t i = 0; i < w->n_jobs; i++) {
            const struct fake *f = &w->f[i];
            struct qn_sched_key *k = &keys[f->key];
            uint32_t todo = known(f) - f->state;
            k->served = w->served[f->key];
            if (f->where == RUNNING && !f->made)
                k->backlog += todo < w->lim.prefill_chunk ? todo : w->lim.prefill_chunk;
            if (f->where != WAITING || f->paused || (k->waiting && k->head_order < f->order)) continue;
            k->waiting = true;
            k->head_order = f->order;
            k->head_pool = f->pool;
            head[f->key] = i;
        }
        uint32_t k = qn_sched_pick(&w->lim, keys, KEYS, pools);
        if (k == QN_SCHED_NONE) return;
        CHECK(keys[k].waiting && pools[keys[k].head_pool].running < w->lim.max_running);
        struct fake *f = &w->f[head[k]];
        uint32_t left = f->max - f->made,
                 need = blocks_at(f, known(f) + (left < w->reserve ? left : w->reserve));
        if (w->used[f->pool] + need > w->pool_blocks[f->pool]) {
            pools[f->pool].blocked = true;
            continue;
        }
        w->used[f->pool] += f->blocks = need;
        if (!f->made) w->served[k] += f->prompt;
        f->where = RUNNING;
        f->served_at = 0;
        f->group_steps = 0;
        w->running[w->n_running++] = head[k];
    }
}

static void check_plan(const struct world *w, const struct qn_sched_step *s) {
    uint32_t rows = 0, prefill = 0, last_whole = 0;
    bool decoding = false, seen[JOBS] = {false};
    for (uint32_t i = 0; i < s->n_seqs; i++) {
        bool gone = false;
        for (uint32_t k = 0; k < s->n_preempt; k++) gone = gone || s->preempt[k] == i;
        decoding = decoding || (s->seqs[i].decode && !s->seqs[i].paused && !gone);
    }
    for (uint32_t i = 0; i < s->n_spans; i++) {
        const struct qn_sched_seq *q = &s->seqs[s->spans[i].seq];
        CHECK(!seen[s->spans[i].seq]);
        seen[s->spans[i].seq] = true;
        CHECK(q->group == s->group && !q->paused);
        CHECK(s->spans[i].n >= 1 && s->spans[i].n <= (q->decode ? 1 + q->draft : q->todo));
        if (s->spans[i].n > 1 && q->decode) CHECK(s->rows <= QN_SCHED_DRAFT_ROWS);
        rows += s->spans[i].n;
        if (!q->decode) prefill += s->spans[i].n;
        if (q->whole) CHECK(s->spans[i].n == q->todo);
        last_whole = q->whole ? s->spans[i].n : 0;
    }
    CHECK(rows == s->rows && rows <= w->lim.step_tokens);
    if (decoding)
        CHECK(last_whole ? prefill - last_whole < w->lim.prefill_chunk : prefill <= w->lim.prefill_chunk);
    for (uint32_t k = 0; k < s->n_preempt; k++) {
        const struct qn_sched_seq *v = &s->seqs[s->preempt[k]];
        bool oldest = true;
        CHECK(!seen[s->preempt[k]] && !v->whole);
        for (uint32_t i = 0; i < s->n_seqs; i++)
            oldest = oldest && (s->seqs[i].pool != v->pool || s->seqs[i].order >= v->order);
        CHECK(!oldest || v->paused || v->spare);
        for (uint32_t i = 0; i < s->n_seqs && !v->spare; i++) { /* spare work of the pool has gone before */
            const struct qn_sched_seq *q = &s->seqs[i];
            bool gone = q->pool != v->pool || q->whole || seen[i];
            for (uint32_t j = 0; j < k; j++) gone = gone || s->preempt[j] == i;
            CHECK(gone || !q->spare);
        }
    }
}

static void run_spans(struct world *w, const struct qn_sched_step *s, const uint32_t *ids) {
    for (uint32_t i = 0; i < s->n_spans; i++) {
        struct fake *f = &w->f[ids[s->spans[i].seq]];
        uint32_t need = blocks_at(f, f->state + s->spans[i].n);
        if (need > f->blocks) {
            w->used[f->pool] += need - f->blocks;
            f->blocks = need;
        }
        CHECK(w->used[f->pool] <= w->pool_blocks[f->pool]);
        bool guessed = s->spans[i].n > 1 && s->seqs[s->spans[i].seq].decode;
        uint32_t right = guessed && rnd(4) == 0 ? rnd(s->spans[i].n) : 0;
        if (s->seqs[s->spans[i].seq]
                .decode) { /* a token and the guesses that were right; the others go back */
            w->guessed += s->spans[i].n - 1;
            f->made += right;
            w->served[f->key] += 2 * right;
            f->state += 1 + right;
        } else {
            f->state += s->spans[i].n;
        }
        if (!s->seqs[s->spans[i].seq].decode) {
            f->served_at = w->step + 1;
            f->group_steps = 0;
        }
        if (f->state < known(f)) continue;
        f->made++;
        w->served[f->key] += 2;
        if (f->made >= f->max) f->where = FINISHED;
    }
    for (uint32_t k = 0; k < w->n_running;) {
        if (w->f[w->running[k]].where == FINISHED)
            leave(w, k);
        else
            k++;
    }
}

static void step(struct world *w) {
    struct qn_sched_seq seqs[JOBS];
    struct qn_sched_span spans[JOBS];
    struct qn_sched_pool pools[POOLS];
    uint32_t work[JOBS], preempt[JOBS], ids[JOBS];
    uint32_t n = w->n_running;
    for (uint32_t i = 0; i < n; i++) {
        const struct fake *f = &w->f[ids[i] = w->running[i]];
        uint32_t todo = known(f) - f->state;
        bool decode = todo == 1 && f->made;
        uint32_t left = f->max - f->made, draft = decode && rnd(3) == 0 ? rnd(left < 16 ? left : 16) : 0;
        uint32_t have = blocks_of(f->state + 1) > f->blocks ? blocks_of(f->state + 1) : f->blocks;
        uint32_t want = blocks_of(f->state + 1 + draft);
        seqs[i] = (struct qn_sched_seq){.order = f->order,
                                        .served_at = f->served_at,
                                        .group = f->group,
                                        .pool = f->pool,
                                        .todo = todo,
                                        .decode = decode,
                                        .paused = f->paused,
                                        .spare = f->spare && !decode,
                                        .whole = f->group == WHOLES,
                                        .grow = decode && blocks_of(f->state + 1) > f->blocks,
                                        .draft = draft,
                                        .draft_grow = want > have ? want - have : 0,
                                        .held = f->blocks};
    }
    for (uint32_t p = 0; p < POOLS; p++)
        pools[p] = (struct qn_sched_pool){.free = w->pool_blocks[p] - w->used[p]};
    struct qn_sched_step s = {.lim = w->lim,
                              .seqs = seqs,
                              .n_seqs = n,
                              .pools = pools,
                              .deficits = w->deficits,
                              .n_groups = GROUPS,
                              .cursor = w->cursor,
                              .work = work,
                              .spans = spans,
                              .preempt = preempt};
    qn_sched_step(&s);
    w->cursor = s.cursor;
    if (s.group == QN_SCHED_NONE) {
        for (uint32_t i = 0; i < n; i++) CHECK(seqs[i].paused || !seqs[i].todo);
        return;
    }
    check_plan(w, &s);
    for (uint32_t i = 0; i < n; i++) {
        struct fake *f = &w->f[ids[i]];
        if (f->group == s.group && !f->paused && !seqs[i].decode) f->group_steps++;
        CHECK(f->paused || f->group_steps <= JOBS * 2);
    }
    w->preemptions += s.n_preempt;
    for (uint32_t k = 0; k < s.n_preempt; k++) {
        uint32_t id = ids[preempt[k]], at = 0;
        while (w->running[at] != id) at++;
        leave(w, at);
        w->f[id].where = WAITING;
    }
    run_spans(w, &s, ids);
}

static void random_worlds(void **state) {
    uint64_t preemptions = 0, guessed = 0;
    (void)state;
    for (uint64_t seed = 1; seed <= 5000; seed++) {
        struct world w;
        uint32_t left = 1;
        make_world(&w, seed);
        for (w.step = 0; left && w.step < 60000; w.step++) {
            arrive_and_cancel(&w);
            admit(&w);
            step(&w);
            left = 0;
            for (uint32_t i = 0; i < w.n_jobs; i++) left += w.f[i].where != FINISHED;
        }
        CHECK(!left);
        for (uint32_t p = 0; p < POOLS; p++) CHECK(!w.used[p]);
        preemptions += w.preemptions;
        guessed += w.guessed;
    }
    assert_true(guessed > 10000);
    assert_true(preemptions > 1000); /* or the worlds are too easy */
}

/* Two groups with endless work, one of chunks and one of single rows: their charges differ by at most a
 * quantum and two steps. */
static void group_fairness(void **state) {
    (void)state;
    for (uint64_t seed = 1; seed <= 200; seed++) {
        struct qn_sched_seq seqs[6];
        struct qn_sched_span spans[6];
        struct qn_sched_pool pools[1] = {{.free = 1000}};
        uint32_t work[6], preempt[6], cursor = 0;
        int64_t deficits[2] = {0, 0}, charged[2] = {0, 0};
        seed_now = rng_state = seed;
        struct qn_sched_limits lim = {
            .step_tokens = 8 + rnd(100), .prefill_chunk = 1 + rnd(64), .max_running = 6};
        uint32_t n = 2 + rnd(5);
        for (uint32_t i = 0; i < n; i++) {
            bool decode = rnd(2);
            seqs[i] = (struct qn_sched_seq){
                .order = i + 1, .group = i < 2 ? i : rnd(2), .todo = decode ? 1 : 1u << 20, .decode = decode};
        }
        for (uint32_t t = 0; t < 2000; t++) {
            struct qn_sched_step s = {.lim = lim,
                                      .seqs = seqs,
                                      .n_seqs = n,
                                      .pools = pools,
                                      .deficits = deficits,
                                      .n_groups = 2,
                                      .cursor = cursor,
                                      .work = work,
                                      .spans = spans,
                                      .preempt = preempt};
            qn_sched_step(&s);
            cursor = s.cursor;
            charged[s.group] += s.rows > QN_SCHED_STEP_FLOOR ? s.rows : QN_SCHED_STEP_FLOOR;
            int64_t gap = charged[0] - charged[1], most = lim.step_tokens > 8 ? lim.step_tokens : 8;
            CHECK((gap < 0 ? -gap : gap) <= lim.prefill_chunk + 2 * most);
        }
    }
}

/* Two keys with endless queues: what they are served differs by at most two largest requests. */
static void key_fairness(void **state) {
    (void)state;
    for (uint64_t seed = 1; seed <= 200; seed++) {
        struct qn_sched_limits lim = {.step_tokens = 1000, .prefill_chunk = 100, .max_running = 1};
        struct qn_sched_pool pool = {.free = 1000};
        struct qn_sched_key keys[2] = {{.waiting = true, .head_order = 1},
                                       {.waiting = true, .head_order = 2}};
        uint64_t order = 2, most = 0;
        seed_now = rng_state = seed;
        for (uint32_t t = 0; t < 1000; t++) {
            uint32_t k = qn_sched_pick(&lim, keys, 2, &pool), cost = 1 + rnd(k ? 5 : 500);
            CHECK(k < 2);
            keys[k].served += cost;
            keys[k].head_order = ++order;
            if (cost > most) most = cost;
            uint64_t a = keys[0].served, b = keys[1].served;
            CHECK((a > b ? a - b : b - a) <= 2 * most);
        }
    }
}

static void pick_rules(void **state) {
    struct qn_sched_limits lim = {.step_tokens = 64, .prefill_chunk = 16, .max_running = 2};
    struct qn_sched_pool pools[2] = {{.free = 100, .running = 2}, {.free = 100, .running = 2}};
    struct qn_sched_key k[3] = {{.served = 5, .waiting = true, .head_order = 1, .head_pool = 0},
                                {.served = 3, .waiting = true, .head_order = 9, .head_pool = 1},
                                {.served = 3, .waiting = true, .head_order = 8, .head_pool = 0}};
    (void)state;
    assert_int_equal(qn_sched_pick(&lim, k, 3, pools), QN_SCHED_NONE);
    pools[1].running = 0; /* places are a pool's own */
    assert_int_equal(qn_sched_pick(&lim, k, 3, pools), 1);
    pools[0].running = 1;
    assert_int_equal(qn_sched_pick(&lim, k, 3, pools), 2); /* least served, then first come */
    pools[0].blocked = true;
    assert_int_equal(qn_sched_pick(&lim, k, 3, pools), 1);
    k[1].backlog = 64; /* enough of its prompts are under way */
    assert_int_equal(qn_sched_pick(&lim, k, 3, pools), QN_SCHED_NONE);
    pools[0].blocked = false;
    k[2].waiting = false;
    assert_int_equal(qn_sched_pick(&lim, k, 3, pools), 0);
}

/* Guesses: in turns, by age, up to a small step; none beside a prompt; memory only when it is free. */
static void guesses_take_what_is_left(void **state) {
    struct qn_sched_seq seqs[4] = {
        {.order = 1, .todo = 1, .decode = true, .draft = 9},
        {.order = 2, .todo = 1, .decode = true},
        {.order = 3, .todo = 1, .decode = true, .draft = 15, .draft_grow = 5},
        {.order = 4, .todo = 1, .decode = true, .draft = 2},
    };
    struct qn_sched_span spans[4];
    struct qn_sched_pool pools[1] = {{.free = 5}};
    uint32_t work[4], preempt[4];
    int64_t deficits[1] = {0};
    struct qn_sched_step s = {.lim = {.step_tokens = 64, .prefill_chunk = 16, .max_running = 4},
                              .seqs = seqs,
                              .n_seqs = 4,
                              .pools = pools,
                              .deficits = deficits,
                              .n_groups = 1,
                              .work = work,
                              .spans = spans,
                              .preempt = preempt};
    (void)state;
    qn_sched_step(&s);
    assert_int_equal(s.rows, QN_SCHED_DRAFT_ROWS);
    assert_int_equal(spans[0].n, 6);
    assert_int_equal(spans[1].n, 1);
    assert_int_equal(spans[2].n, 6);
    assert_int_equal(spans[3].n, 3);
    assert_int_equal(pools[0].free, 0);
    pools[0].free = 4;
    s.cursor = 0;
    qn_sched_step(&s); /* not enough for the third one's guesses, and nobody is preempted for them */
    assert_int_equal(s.n_preempt, 0);
    assert_int_equal(spans[2].n, 1);
    assert_int_equal(spans[0].n, 10);
    assert_int_equal(pools[0].free, 4);
    s.lim.step_tokens = 6;
    qn_sched_step(&s);
    assert_int_equal(s.rows, 6);
    assert_int_equal(spans[0].n, 2);
    s.lim.step_tokens = 64;
    seqs[1] = (struct qn_sched_seq){.order = 2, .todo = 100};
    qn_sched_step(&s);
    assert_int_equal(s.rows, 3 + 16);
    assert_int_equal(spans[0].n, 1);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(pick_rules), cmocka_unit_test(guesses_take_what_is_left),
        cmocka_unit_test(random_worlds), cmocka_unit_test(group_fairness), cmocka_unit_test(key_fairness)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
