/* The compute pool: one gate word says whether a loop is open, which one, and how many workers are inside.
 *
 * The caller opens the gate, works itself, closes it and waits only for workers that did enter: a worker that
 * wakes late or is descheduled never holds up a loop that it has not joined. Items lie in lanes, runs of
 * consecutive ones with a counter of their own: a thread takes those of its own lane in order, which is one
 * stream of memory and a counter that nobody else has in its cache, and then what is left in others.
 * Workers spin a short while on the gate and then park on a condition variable. Who waits brings what it has
 * been told (qn_pool_ahead) it will read next into its cache.
 * Memory order: the job's fields are written before the gate opens (release) and read after a worker's
 * entering exchange (acquire); a worker's leaving decrement (release) publishes its results to the waiting
 * caller. */
#include "kernels/pool.h"

#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "kernels/mem.h"

#define INSIDE_MASK 0xffffull    /* workers inside the open loop */
#define OPEN_BIT    (1ull << 16) /* items may be claimed */
#define ROUND_ONE   (1ull << 32) /* loop number, upper half */
#define SPIN_TURNS  3000u        /* about 40 us on current cores, longer than the gaps within a step */
#define YIELD_TURNS 4000u        /* caller: from here on it lets a worker inside have the core */
#define LANE_ITEMS  4u           /* fewer per lane are not worth a counter */
#define AHEAD_TURN  256u         /* bytes that one turn of waiting asks for: a few lines, to look up often */

/* On a line of its own for each thread: its lane, and what it may bring into its cache while it waits. The
 * caller alone writes the hint; a stale or torn one costs a useless prefetch, which can't fault. */
struct lane {
    _Alignas(QN_ALIGN) _Atomic size_t next; /* first unclaimed item */
    struct {
        _Atomic(const uint8_t *) from;
        _Atomic size_t bytes;
    } ahead[QN_POOL_AHEAD];
};

/* How much a thread has asked for of each of its hints. */
struct asked {
    const uint8_t *from[QN_POOL_AHEAD];
    size_t done[QN_POOL_AHEAD];
};

struct qn_pool {
    _Alignas(QN_ALIGN) _Atomic uint64_t gate;
    _Alignas(QN_ALIGN) size_t items;
    unsigned n_lanes; /* of the open loop */
    qn_pool_fn fn;
    void *arg;
    unsigned threads; /* caller included */
    unsigned started; /* workers that exist */
    _Atomic unsigned parked;
    _Atomic bool stop;
    pthread_mutex_t lock;
    pthread_cond_t wake;
    struct lane *lanes; /* [threads] */
    struct asked asked; /* the caller's */
    struct worker {
        struct qn_pool *pool;
        pthread_t id;
        unsigned thread;
    } * workers;
};

static inline void relax(void) {
#if defined(__x86_64__)
    __builtin_ia32_pause();
#endif
}

static unsigned lanes_of(size_t items, unsigned threads) {
    return items / LANE_ITEMS >= threads ? threads : (unsigned)((items + LANE_ITEMS - 1) / LANE_ITEMS);
}

/* Where lane i of n begins: they differ by one item at most. */
static size_t lane_begin(size_t items, unsigned n, unsigned i) {
    size_t more = items % n;
    return items / n * i + (i < more ? i : more);
}

static unsigned own_lane(const struct qn_pool *p, unsigned n, unsigned thread) {
    return (unsigned)((uint64_t)thread * n / p->threads);
}

static void claim_items(struct qn_pool *p, unsigned thread) {
    unsigned n = p->n_lanes, own = own_lane(p, n, thread);
    for (unsigned k = 0; k < n; k++) {
        unsigned i = own + k < n ? own + k : own + k - n;
        size_t end = lane_begin(p->items, n, i + 1);
        while (atomic_load_explicit(&p->lanes[i].next, memory_order_relaxed) < end) {
            size_t item = atomic_fetch_add_explicit(&p->lanes[i].next, 1, memory_order_relaxed);
            if (item < end) p->fn(p->arg, item, thread);
        }
    }
}

/* One turn of waiting. */
static void wait_turn(const struct lane *l, struct asked *a) {
    for (unsigned i = 0; i < QN_POOL_AHEAD; i++) {
        const uint8_t *from = atomic_load_explicit(&l->ahead[i].from, memory_order_relaxed);
        if (from != a->from[i]) {
            a->from[i] = from;
            a->done[i] = 0;
        }
        if (a->done[i] >= atomic_load_explicit(&l->ahead[i].bytes, memory_order_relaxed)) continue;
        for (unsigned k = 0; k < AHEAD_TURN; k += QN_ALIGN)
            __builtin_prefetch((const void *)((uintptr_t)from + a->done[i] + k), 0, 2);
        a->done[i] += AHEAD_TURN;
        return;
    }
    relax();
}

/* Something to do for a worker that has seen loop number `seen`. */
static bool fresh(uint64_t gate, uint64_t seen) {
    return (gate & OPEN_BIT) && gate / ROUND_ONE != seen;
}

static void park(struct qn_pool *p, uint64_t seen) {
    pthread_mutex_lock(&p->lock);
    atomic_fetch_add(&p->parked,
                     1); /* before the last look at the gate: the opener looks the other way round */
    while (!atomic_load(&p->stop) && !fresh(atomic_load(&p->gate), seen))
        pthread_cond_wait(&p->wake, &p->lock);
    atomic_fetch_sub(&p->parked, 1);
    pthread_mutex_unlock(&p->lock);
}

static void *worker_main(void *arg) {
    struct worker *w = arg;
    struct qn_pool *p = w->pool;
    uint64_t seen = 0;
    unsigned idle = 0;
    struct asked asked = {0};
    while (!atomic_load_explicit(&p->stop, memory_order_relaxed)) {
        uint64_t g = atomic_load_explicit(&p->gate, memory_order_relaxed);
        if (!fresh(g, seen)) {
            if (++idle < SPIN_TURNS) {
                wait_turn(&p->lanes[w->thread], &asked);
            } else {
                park(p, seen);
                idle = 0;
            }
            continue;
        }
        if (!atomic_compare_exchange_weak_explicit(&p->gate, &g, g + 1, memory_order_acquire,
                                                   memory_order_relaxed))
            continue;
        seen = g / ROUND_ONE;
        claim_items(p, w->thread);
        atomic_fetch_sub_explicit(&p->gate, 1, memory_order_release);
        idle = 0;
    }
    return NULL;
}

static void free_memory(struct qn_pool *p) {
    qn_mem_free(p->lanes);
    qn_mem_free(p->workers);
    qn_mem_free(p);
}

struct qn_pool *qn_pool_new(unsigned threads) {
    if (threads < 1 || threads > INSIDE_MASK) return NULL;
    struct qn_pool *p = qn_mem_alloc(sizeof *p);
    if (!p) return NULL;
    p->threads = threads;
    p->lanes = qn_mem_alloc_array(threads, sizeof *p->lanes);
    p->workers = qn_mem_alloc_array(threads, sizeof *p->workers);
    if (!p->lanes || !p->workers || pthread_mutex_init(&p->lock, NULL)) {
        free_memory(p);
        return NULL;
    }
    if (pthread_cond_init(&p->wake, NULL)) {
        pthread_mutex_destroy(&p->lock);
        free_memory(p);
        return NULL;
    }
    for (unsigned i = 1; i < threads; i++) {
        struct worker *w = &p->workers[p->started];
        w->pool = p;
        w->thread = i;
        if (pthread_create(&w->id, NULL, worker_main, w)) {
            qn_pool_free(&p);
            return NULL;
        }
        p->started++;
    }
    return p;
}

void qn_pool_free(struct qn_pool **pool) {
    struct qn_pool *p = pool ? *pool : NULL;
    if (!p) return;
    pthread_mutex_lock(&p->lock);
    atomic_store(&p->stop, true);
    pthread_cond_broadcast(&p->wake);
    pthread_mutex_unlock(&p->lock);
    for (unsigned i = 0; i < p->started; i++) pthread_join(p->workers[i].id, NULL);
    pthread_cond_destroy(&p->wake);
    pthread_mutex_destroy(&p->lock);
    free_memory(p);
    *pool = NULL;
}

unsigned qn_pool_threads(const struct qn_pool *pool) {
    return pool ? pool->threads : 1;
}

static void open_gate(struct qn_pool *p, size_t items, qn_pool_fn fn, void *arg) {
    uint64_t round = atomic_load_explicit(&p->gate, memory_order_relaxed) / ROUND_ONE;
    p->items = items;
    p->fn = fn;
    p->arg = arg;
    p->n_lanes = lanes_of(items, p->threads);
    for (unsigned i = 0; i < p->n_lanes; i++)
        atomic_store_explicit(&p->lanes[i].next, lane_begin(items, p->n_lanes, i), memory_order_relaxed);
    /* Loop numbers run 1 .. 2^32 - 1: 0 is what a new worker has seen. */
    round = round == UINT32_MAX ? 1 : round + 1;
    atomic_store(&p->gate, round * ROUND_ONE | OPEN_BIT);
    if (atomic_load(&p->parked)) {
        pthread_mutex_lock(&p->lock);
        pthread_cond_broadcast(&p->wake);
        pthread_mutex_unlock(&p->lock);
    }
}

void qn_pool_run(struct qn_pool *pool, size_t items, qn_pool_fn fn, void *arg) {
    if (!pool || pool->threads == 1 || items <= 1) {
        for (size_t i = 0; i < items; i++) fn(arg, i, 0);
        return;
    }
    open_gate(pool, items, fn, arg);
    claim_items(pool, 0);
    uint64_t g = atomic_fetch_and_explicit(&pool->gate, ~OPEN_BIT, memory_order_acquire);
    for (unsigned turn = 0; g & INSIDE_MASK; turn++) {
        if (turn < YIELD_TURNS) {
            wait_turn(&pool->lanes[0], &pool->asked);
        } else {
            sched_yield();
        }
        g = atomic_load_explicit(&pool->gate, memory_order_acquire);
    }
}

void qn_pool_ahead(struct qn_pool *pool, unsigned thread, unsigned slot, const void *from, size_t bytes) {
    struct lane *l = &pool->lanes[thread];
    atomic_store_explicit(&l->ahead[slot].bytes, bytes, memory_order_relaxed);
    atomic_store_explicit(&l->ahead[slot].from, (const uint8_t *)from, memory_order_relaxed);
}

size_t qn_pool_first(const struct qn_pool *pool, size_t items, unsigned thread) {
    unsigned n = lanes_of(items, pool->threads);
    return n ? lane_begin(items, n, own_lane(pool, n, thread)) : 0;
}
