/* The compute pool: one gate word says whether a loop is open, which one, and how many workers are inside.
 *
 * The caller opens the gate, works itself, closes it and waits only for workers that did enter: a worker that
 * wakes late or is descheduled never holds up a loop that it has not joined. Items are claimed by one atomic
 * counter. Workers spin a short while on the gate and then park on a condition variable.
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

struct qn_pool {
    _Alignas(QN_ALIGN) _Atomic uint64_t gate;
    _Alignas(QN_ALIGN) _Atomic size_t next; /* first unclaimed item */
    _Alignas(QN_ALIGN) size_t items;
    qn_pool_fn fn;
    void *arg;
    unsigned threads; /* caller included */
    unsigned started; /* workers that exist */
    _Atomic unsigned parked;
    _Atomic bool stop;
    pthread_mutex_t lock;
    pthread_cond_t wake;
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

static void claim_items(struct qn_pool *p, unsigned thread) {
    size_t items = p->items;
    for (;;) {
        size_t i = atomic_fetch_add_explicit(&p->next, 1, memory_order_relaxed);
        if (i >= items) return;
        p->fn(p->arg, i, thread);
    }
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
    while (!atomic_load_explicit(&p->stop, memory_order_relaxed)) {
        uint64_t g = atomic_load_explicit(&p->gate, memory_order_relaxed);
        if (!fresh(g, seen)) {
            if (++idle < SPIN_TURNS) {
                relax();
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

struct qn_pool *qn_pool_new(unsigned threads) {
    if (threads < 1 || threads > INSIDE_MASK) return NULL;
    struct qn_pool *p = qn_mem_alloc(sizeof *p);
    if (!p) return NULL;
    p->threads = threads;
    p->workers = qn_mem_alloc_array(threads, sizeof *p->workers);
    if (!p->workers || pthread_mutex_init(&p->lock, NULL)) {
        qn_mem_free(p->workers);
        qn_mem_free(p);
        return NULL;
    }
    if (pthread_cond_init(&p->wake, NULL)) {
        pthread_mutex_destroy(&p->lock);
        qn_mem_free(p->workers);
        qn_mem_free(p);
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
    qn_mem_free(p->workers);
    qn_mem_free(p);
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
    atomic_store_explicit(&p->next, 0, memory_order_relaxed);
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
            relax();
        } else {
            sched_yield();
        }
        g = atomic_load_explicit(&pool->gate, memory_order_acquire);
    }
}
