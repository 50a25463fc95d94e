/* One sequence's life in the engine: queue, admission with its one reservation, fork of further choices,
 * preemption, end. Engine thread. */
#include <stdlib.h>
#include <string.h>

#include "server/engine_impl.h"

void qn_run_mark(struct qn_run *r, uint64_t now, enum qn_run_phase next) {
    if (now > r->mark_ns) {
        r->ns[r->phase] += now - r->mark_ns;
        r->mark_ns = now;
    }
    r->phase = next;
}

uint32_t qn_run_todo(const struct qn_run *r) {
    if (r->fid.on) return qn_fidelity_todo(r);
    uint32_t have = r->seq ? qn_seq_length(r->seq) : 0;
    uint32_t want = r->cap ? r->n_hist : r->target;
    return want > have ? want - have : 0;
}

/* ---- queue of a key ---- */
/* Its reader is slow. Fidelity gives the reader nothing yet, so it goes on. */
static bool held_up(const struct qn_run *r) {
    return r->job->paused_ns && !r->fid.on;
}

/* Is r the one of its key that is admitted next from its pool? */
static bool leads_pool(const struct qn_run *r) {
    const struct qn_run *p = r->prev;
    while (p && (p->pool != r->pool || held_up(p))) p = p->prev;
    return !p;
}

/* In order of arrival: what was preempted goes back to its place. */
static void enqueue(struct qn_engine *e, struct qn_run *r) {
    struct qn_key_queue *k = r->key;
    struct qn_run *after = k->tail;
    while (after && after->order > r->order) after = after->prev;
    r->prev = after;
    r->next = after ? after->next : k->head;
    *(r->next ? &r->next->prev : &k->tail) = r;
    *(after ? &after->next : &k->head) = r;
    r->state = QN_RUN_QUEUED;
    /* A new head may be smaller than the one whose reservation failed. */
    if (leads_pool(r)) e->pool_tried[r->pool] = 0;
}

static void dequeue(struct qn_engine *e, struct qn_run *r) {
    struct qn_key_queue *k = r->key;
    if (leads_pool(r)) e->pool_tried[r->pool] = 0;
    *(r->next ? &r->next->prev : &k->tail) = r->prev;
    *(r->prev ? &r->prev->next : &k->head) = r->next;
    r->prev = r->next = NULL;
}

/* Counters of idle keys matter only while they are above the least served active one: below it, a key that
 * comes back is lifted to it anyway. So the others can be forgotten. */
static void prune_keys(struct qn_engine *e, uint64_t least) {
    for (struct qn_key_queue **p = &e->keys; *p;) {
        struct qn_key_queue *k = *p;
        if (k->users || k->served > least) {
            p = &k->next;
            continue;
        }
        *p = k->next;
        e->n_keys--;
        free(k);
    }
}

/* The queue of a salt at a model; NULL when memory is short. A key that was idle starts at the least served
 * active key's counter: idle time is not saved up. Each model has its own, so that who waits for one model is
 * not behind those who wait for another. */
static struct qn_key_queue *find_key(struct qn_engine *e, uint64_t salt, uint32_t pool) {
    uint64_t least = UINT64_MAX;
    struct qn_key_queue *k;
    for (k = e->keys; k; k = k->next)
        if (k->users && k->served < least) least = k->served;
    for (k = e->keys; k; k = k->next)
        if (k->salt == salt && k->pool == pool) break;
    if (!k) {
        prune_keys(e, least);
        if (e->n_keys == e->cap_keys) {
            uint32_t cap = e->cap_keys ? e->cap_keys * 2 : 16;
            struct qn_sched_key *p = realloc(e->key_snap, cap * sizeof *p);
            if (!p) return NULL;
            e->key_snap = p;
            e->cap_keys = cap;
        }
        if (!(k = calloc(1, sizeof *k))) return NULL;
        k->salt = salt;
        k->pool = pool;
        k->next = e->keys;
        e->keys = k;
        e->n_keys++;
    }
    if (!k->users && least != UINT64_MAX && k->served < least) k->served = least;
    return k;
}

/* ---- new jobs ---- */
uint32_t qn_engine_pool_of(const struct qn_engine *e, const struct qn_model *m) {
    for (uint32_t i = 0; i < e->opt.models->n; i++)
        if (e->opt.models->models[i] == m) return i;
    return 0;
}

/* Length to reserve at admission: all that is known, and a share of what may come. */
static uint32_t reserve_length(const struct qn_engine *e, const struct qn_run *r) {
    uint32_t left = r->cap - r->out->n_tokens,
             ahead = left < e->opt.reserve_tokens ? left : e->opt.reserve_tokens;
    return r->cap ? r->n_hist + ahead : r->target;
}

static bool init_run(struct qn_engine *e, struct qn_job_run *js, struct qn_run *r) {
    struct qn_job *j = js->job;
    struct qn_output *o = r->out;
    const struct qn_model_info *info = qn_model_info(j->model);
    uint32_t room = info->context > o->n_prompt ? info->context - o->n_prompt : 0;
    bool generate = j->req.task == QN_TASK_GENERATE;
    r->job = js;
    r->order = ++e->next_order;
    r->pool = js->pool;
    r->mark_ns = j->t_received_ns;
    r->cap = !generate ? 0 : j->req.max_tokens < room ? j->req.max_tokens : room;
    /* The last token's row would score a token that is not there. */
    r->target = j->req.task == QN_TASK_SCORE ? o->n_prompt - 1 : o->n_prompt;
    r->cap_hist = o->n_prompt + (r->cap < 64 ? r->cap : 64);
    r->hist = calloc(r->cap_hist ? r->cap_hist : 1, sizeof *r->hist);
    if (!r->hist) return false;
    memcpy(r->hist, o->prompt, o->n_prompt * sizeof *r->hist);
    r->n_hist = o->n_prompt;
    if (j->req.task == QN_TASK_EMBED) {
        o->hidden_sum = calloc(info->d_model, sizeof *o->hidden_sum);
        o->embedding = calloc(info->d_model, sizeof *o->embedding);
        if (!o->hidden_sum || !o->embedding) return false;
    }
    qn_text_out_init(&r->text, (const char *const *)j->req.stop, j->req.stop_len, j->req.n_stop,
                     generate && qn_job_starts_text(j, o));
    qn_cursor_init(&r->cursor, generate && qn_job_starts_text(j, o));
    return true;
}

/* Holds nothing but a sequence of known tokens against the baseline. */
static bool only_fidelity(struct qn_run *r) {
    return r->job->job->fidelity_only && qn_fidelity_begin(r);
}

/* Does its longest form fit an empty pool at all? If it did not, it would be preempted for ever. */
static bool fits(const struct qn_run *r, const struct qn_seq *probe) {
    uint32_t longest = r->cap ? r->n_hist + r->cap : r->target;
    return qn_seq_need(probe, longest) <= qn_model_state(r->job->job->model).budget;
}

bool qn_engine_enqueue(struct qn_engine *e, struct qn_job_run *js) {
    struct qn_job *j = js->job;
    struct qn_seq *probe = NULL;
    struct qn_err err = {0};
    struct qn_key_queue *key = find_key(e, j->salt, js->pool);
    enum qn_api_code code = key ? QN_API_OK : QN_API_OUT_OF_MEMORY;
    if (key && qn_seq_new(j->variant, j->salt, false, &probe, &err)) code = QN_API_OUT_OF_MEMORY;
    for (uint32_t i = 0; i < js->n_runs && !code; i++) {
        if (!init_run(e, js, &js->runs[i]))
            code = QN_API_OUT_OF_MEMORY;
        else if (!only_fidelity(&js->runs[i]) && !fits(&js->runs[i], probe))
            code = QN_API_TOO_LARGE_WORK;
    }
    qn_seq_free(&probe);
    if (code) {
        qn_job_fail(e, js, code,
                    code == QN_API_OUT_OF_MEMORY ? "out of memory"
                                                 : "the sequence can never fit the state budget");
        return false;
    }
    for (uint32_t i = 0; i < js->n_runs; i++) {
        struct qn_run *r = &js->runs[i];
        r->key = key;
        key->users++;
        if (r->out->choice && r->cap)
            r->state = QN_RUN_HELD;
        else
            enqueue(e, r);
    }
    return true;
}

void qn_engine_uncount(struct qn_engine *e, struct qn_job_run *js, uint64_t tokens) {
    if (tokens > js->queued_tokens) tokens = js->queued_tokens;
    js->queued_tokens -= tokens;
    struct qn_model_queue *q = &e->queues[js->pool];
    pthread_mutex_lock(&e->lock);
    q->stats.queued_tokens -= tokens;
    if (js->counted) {
        js->counted = false;
        q->stats.queued--;
        q->left_ns[q->n_left++ % QN_DRAIN_RING] = e->now_ns;
    }
    pthread_mutex_unlock(&e->lock);
}

/* ---- admission ---- */
static uint32_t join_group(struct qn_engine *e, const struct qn_run *r) {
    enum qn_math math = r->job->job->req.task == QN_TASK_EMBED ? QN_MATH_BLAS : QN_MATH_PACKED;
    struct qn_variant *v = qn_run_variant(r);
    uint32_t g = 0;
    while (g < e->n_groups && (e->groups[g].variant != v || e->groups[g].math != math)) g++;
    if (g == e->n_groups) {
        e->groups[g] = (struct qn_group){.variant = v, .math = math};
        e->deficits[g] = 0;
        e->n_groups++;
    }
    e->groups[g].users++;
    return g;
}

static void leave_group(struct qn_engine *e, uint32_t g) {
    if (--e->groups[g].users) return;
    e->n_groups--;
    memmove(&e->groups[g], &e->groups[g + 1], (e->n_groups - g) * sizeof *e->groups);
    memmove(&e->deficits[g], &e->deficits[g + 1], (e->n_groups - g) * sizeof *e->deficits);
    for (uint32_t i = 0; i < e->n_running; i++)
        if (e->running[i]->group > g) e->running[i]->group--;
    if (e->cursor > g) e->cursor--;
}

void qn_run_regroup(struct qn_engine *e, struct qn_run *r) {
    if (e->groups[r->group].variant == qn_run_variant(r)) return;
    leave_group(e, r->group);
    r->group = join_group(e, r);
}

/* waited: its prompt tokens that the queue still counts. */
static void start_running(struct qn_engine *e, struct qn_run *r, uint64_t waited) {
    r->state = QN_RUN_RUNNING;
    r->group = join_group(e, r);
    e->running[e->n_running++] = r;
    e->pool_running[r->pool]++;
    qn_engine_uncount(e, r->job, waited);
}

static void stop_running(struct qn_engine *e, struct qn_run *r) {
    uint32_t i = 0;
    while (e->running[i] != r) i++;
    e->n_running--;
    e->pool_running[r->pool]--;
    memmove(&e->running[i], &e->running[i + 1], (e->n_running - i) * sizeof(struct qn_run *));
    leave_group(e, r->group);
}

/* The one reservation: room for all that is known and for min(rest, reserve_tokens) more. */
static int reserve(struct qn_engine *e, struct qn_run *r) {
    uint32_t length = reserve_length(e, r);
    int rc = qn_seq_reserve(r->seq, length);
    if (rc == QN_OK) r->reserved = length;
    return rc;
}

int qn_run_prepare(struct qn_engine *e, struct qn_run *r, struct qn_variant *v, struct qn_err *err) {
    double ms = 0;
    uint64_t start = qn_now_ns();
    int rc = qn_variant_prepare(v, &ms, err);
    if (ms <= 0) return rc;
    e->now_ns = qn_now_ns();
    qn_metrics_add(e->opt.metrics, QN_C_CONVERSIONS, 1);
    if (r->fid.on) return rc;
    qn_run_mark(r, start, QN_PHASE_CONVERT);
    qn_run_mark(r, e->now_ns, QN_PHASE_QUEUE);
    return rc;
}

static int take_state(struct qn_engine *e, struct qn_run *r, struct qn_err *err) {
    struct qn_job *j = r->job->job;
    bool embed = j->req.task == QN_TASK_EMBED;
    if (r->fid.on) return qn_fidelity_take_state(e, r, err);
    int rc = qn_run_prepare(e, r, j->variant, err);
    if (rc) return rc;
    if (!r->seq) rc = qn_seq_new(j->variant, j->salt, j->req.cache && !embed, &r->seq, err);
    if (rc) return rc;
    /* score, embed and a scored prompt want every row's value, and a cached row has none */
    uint32_t cached = 0;
    if (j->req.task == QN_TASK_GENERATE && j->req.cache && !qn_run_scores_prompt(r))
        cached = qn_seq_match(r->seq, r->hist, r->n_hist);
    rc = reserve(e, r);
    if (rc) {
        qn_seq_reset(r->seq);
        return rc;
    }
    if (!r->admitted) {
        r->out->cached_tokens = cached;
        r->key->served += (uint64_t)(r->n_hist - cached) * QN_SCHED_PROMPT_WEIGHT;
        qn_metrics_add(e->opt.metrics, QN_C_CACHED_TOKENS, cached);
        qn_metrics_model_add(e->opt.metrics, r->pool, QN_MC_CACHED_TOKENS, cached);
    }
    return QN_OK;
}

static void admitted(struct qn_engine *e, struct qn_run *r) {
    uint64_t waited = r->admitted || r->out->choice ? 0 : r->out->n_prompt;
    r->admitted = true;
    r->served_at = 0;
    if (!r->fid.on) qn_run_mark(r, e->now_ns, r->out->n_tokens ? QN_PHASE_DECODE : QN_PHASE_PREFILL);
    start_running(e, r, waited);
}

/* No room although nothing of the model runs that could make some: with the cache dropped it must fit, or it
 * never will.
 */
static int last_resort(struct qn_engine *e, struct qn_run *r, struct qn_err *err) {
    if (e->pool_running[r->pool]) return QN_ERR_NO_STATE;
    qn_model_drop_cache(r->job->job->model);
    int rc = take_state(e, r, err);
    return rc == QN_ERR_NO_STATE ? QN_ERR_NOMEM : rc;
}

static void admit_head(struct qn_engine *e, struct qn_run *r) {
    struct qn_err err = {0};
    struct qn_state_stats st = qn_model_state(r->job->job->model);
    int rc = take_state(e, r, &err);
    if (rc == QN_ERR_NO_STATE) rc = last_resort(e, r, &err);
    if (rc == QN_ERR_NO_STATE) {
        e->pool_tried[r->pool] = st.budget - st.used + 1;
        return;
    }
    if (rc) {
        enum qn_api_code code = rc == QN_ERR_NOMEM      ? QN_API_OUT_OF_MEMORY
                                : rc == QN_ERR_TOO_LONG ? QN_API_TOO_LARGE_WORK
                                                        : QN_API_INTERNAL;
        qn_job_fail(e, r->job, code, err.msg[0] ? err.msg : "out of memory");
        return;
    }
    dequeue(e, r);
    admitted(e, r);
    if (!qn_run_todo(r)) qn_run_end(e, r, QN_FINISH_COMPLETE); /* one token to score: nothing to run */
}

/* A slow reader waits without holding up others; who waits for memory holds up its own pool, no other one. */
static struct qn_run *head_of(const struct qn_key_queue *k, const struct qn_sched_pool *pools) {
    struct qn_run *r = k->head;
    while (r && (held_up(r) || pools[r->pool].blocked)) r = r->next;
    return r;
}

/* The next sequence to admit, or NULL. A model whose places are all taken takes none. */
static struct qn_run *pick(struct qn_engine *e) {
    struct qn_sched_pool pools[QN_MAX_MODELS];
    uint32_t n = 0, open = 0;
    for (uint32_t i = 0; i < e->opt.models->n; i++) {
        struct qn_state_stats st = qn_model_state(e->opt.models->models[i]);
        pools[i].free = st.budget - st.used;
        pools[i].running = e->pool_running[i];
        pools[i].blocked = e->pool_tried[i] && pools[i].free < e->pool_tried[i];
        open += !pools[i].blocked;
    }
    if (!open) return NULL;
    for (struct qn_key_queue *k = e->keys; k && n < e->cap_keys; k = k->next, n++) {
        struct qn_run *h = head_of(k, pools);
        struct qn_sched_key *s = &e->key_snap[n];
        *s = (struct qn_sched_key){.served = k->served, .waiting = h != NULL};
        if (h) s->head_order = h->order, s->head_pool = h->pool;
        for (uint32_t i = 0; h && i < e->n_running; i++) {
            const struct qn_run *r = e->running[i];
            uint32_t todo = r->key == k && !r->out->n_tokens ? qn_run_todo(r) : 0;
            s->backlog += todo < e->lim.prefill_chunk ? todo : e->lim.prefill_chunk;
        }
    }
    uint32_t best = qn_sched_pick(&e->lim, e->key_snap, n, pools);
    struct qn_key_queue *k = e->keys;
    for (uint32_t i = 0; i < best && k; i++) k = k->next;
    return best == QN_SCHED_NONE || !k ? NULL : head_of(k, pools);
}

bool qn_run_measured(const struct qn_run *r) {
    return r->fid.on && !r->job->job->fidelity_only;
}

/* Who of its pool gives way to a waiting sequence: where it needs state, the newest measurement of an answer
 * that is there, else the newest running sequence of a slow reader; where it needs a place, only the latter.
 * A measurement takes no place but the one that its answer had. */
static struct qn_run *first_to_go(const struct qn_engine *e, uint32_t pool, bool place) {
    struct qn_run *best = NULL;
    bool best_spare = false;
    for (uint32_t i = 0; i < e->n_running; i++) {
        struct qn_run *r = e->running[i];
        bool spare = qn_run_measured(r) && !place;
        if (!(spare || held_up(r)) || r->pool != pool) continue;
        if (best && (spare != best_spare ? best_spare : r->order < best->order)) continue;
        best = r;
        best_spare = spare;
    }
    return best;
}

/* A measurement ends without a figure. What is paused makes no progress; it is run again when its reader has
 * caught up. */
static bool give_place(struct qn_engine *e) {
    static const struct qn_sched_pool open[QN_MAX_MODELS] = {{0}};
    for (const struct qn_key_queue *k = e->keys; k; k = k->next) {
        const struct qn_run *h = head_of(k, open);
        bool full = e->pool_running[k->pool] >= e->lim.max_running;
        if (!h || (!full && !e->pool_tried[h->pool])) continue;
        struct qn_run *r = first_to_go(e, h->pool, full);
        if (!r) continue;
        uint32_t pool = r->pool; /* a measurement's end may be its job's, and with it r's */
        qn_engine_preempt(e, r);
        e->pool_tried[pool] = 0;
        return true;
    }
    return false;
}

void qn_engine_admit(struct qn_engine *e) {
    struct qn_run *r;
    do {
        while ((r = pick(e))) admit_head(e, r);
    } while (give_place(e));
}

/* ---- further choices ---- */
bool qn_run_leads(const struct qn_run *r) {
    const struct qn_run *next = r + 1;
    return !r->out->choice && next < r->job->runs + r->job->n_runs && next->out->choice &&
           next->state == QN_RUN_HELD;
}

/* A fork starts where its leader stands; its time so far is the leader's. */
static bool fork_one(struct qn_engine *e, struct qn_run *r, struct qn_run *leader) {
    struct qn_err err = {0};
    if (e->pool_running[r->pool] >= e->lim.max_running || !r->sampled_ok) return false;
    if (qn_seq_fork(leader->seq, &r->seq, &err)) return false;
    if (reserve(e, r)) {
        qn_seq_free(&r->seq);
        return false;
    }
    r->out->cached_tokens = r->out->n_prompt;
    memcpy(r->ns, leader->ns, sizeof r->ns);
    r->mark_ns = leader->mark_ns;
    r->phase = leader->phase;
    r->admitted = true;
    start_running(e, r, 0);
    return true;
}

void qn_engine_fork(struct qn_engine *e, struct qn_run *leader) {
    for (struct qn_run *r = leader + 1; r < leader->job->runs + leader->job->n_runs && r->out->choice; r++) {
        if (r->state != QN_RUN_HELD) continue;
        if (fork_one(e, r, leader)) continue;
        r->sampled_ok = false; /* it will run the prompt itself, most of it from the cache */
        enqueue(e, r);
    }
    /* A fork that still shares the open block makes the leader copy it: its reservation is looked at again.
     */
    leader->reserved = qn_seq_length(leader->seq);
}

/* ---- preemption and end ---- */
void qn_engine_preempt(struct qn_engine *e, struct qn_run *r) {
    if (qn_run_measured(r)) { /* its answer does not wait for state to come free again */
        r->out->fidelity = (struct qn_fidelity){0};
        qn_run_end(e, r, r->out->finish);
        return;
    }
    stop_running(e, r);
    r->reserved = 0;
    if (r->fid.on) {
        qn_fidelity_reset(e, r);
    } else {
        qn_seq_reset(r->seq);
        qn_run_mark(r, e->now_ns, QN_PHASE_QUEUE);
    }
    enqueue(e, r);
    qn_metrics_add(e->opt.metrics, QN_C_PREEMPTIONS, 1);
}

/* The output itself is over, well or not: its text, its state. */
static void end_output(struct qn_engine *e, struct qn_run *r, enum qn_finish finish) {
    if (finish != QN_FINISH_ERROR) qn_run_flush_text(e, r);
    r->out->finish = finish;
    if (r->seq) r->out->bytes = qn_seq_bytes(r->seq);
    qn_seq_free(&r->seq);
    qn_draft_end(r);
    r->job->last = r;
    qn_run_mark(r, e->now_ns, QN_PHASE_FIDELITY);
}

static bool ended_well(enum qn_finish f) {
    return f == QN_FINISH_STOP || f == QN_FINISH_LENGTH || f == QN_FINISH_COMPLETE;
}

/* An output that is there is measured at once, in the place that it just had, or not at all: neither its
 * reader nor who waits behind it is to wait for that. Who needs the state meanwhile takes it from here first.
 */
static bool measure(struct qn_engine *e, struct qn_run *r) {
    struct qn_err err = {0};
    if (e->pool_running[r->pool] >= e->lim.max_running || !qn_fidelity_begin(r)) return false;
    int rc = take_state(e, r, &err);
    if (rc == QN_ERR_NO_STATE) rc = last_resort(e, r, &err);
    if (rc) {
        qn_fidelity_free(e, r);
        return false;
    }
    r->order = ++e->next_order;
    start_running(e, r, 0);
    return true;
}

void qn_run_end(struct qn_engine *e, struct qn_run *r, enum qn_finish finish) {
    if (r->state == QN_RUN_ENDED) return;
    qn_run_mark(r, e->now_ns, r->phase);
    if (r->state == QN_RUN_QUEUED) dequeue(e, r);
    if (r->state == QN_RUN_RUNNING) {
        stop_running(e, r);
        e->pool_tried[r->pool] = 0;
    }
    if (r->fid.on) {
        qn_fidelity_free(e, r);
        if (finish == QN_FINISH_ERROR || r->job->job->fidelity_only) end_output(e, r, finish);
    } else {
        end_output(e, r, finish);
        if (ended_well(finish) && !r->no_memory && measure(e, r)) return;
    }
    r->state = QN_RUN_ENDED;
    if (r->key) r->key->users--;
    free(r->hist);
    r->hist = NULL;
    qn_draft_end(r);
    qn_text_out_free(&r->text);
    if (!--r->job->n_live) qn_job_done(e, r->job);
}
