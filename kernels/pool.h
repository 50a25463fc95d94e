/* The compute pool: a fixed set of threads that run one parallel loop at a time.
 *
 * The caller's thread takes part, so a pool of 1 has no threads of its own. Work is cut into items; which
 * thread runs which item must never change a result: items own disjoint outputs. Workers spin briefly and
 * then park, so an idle pool costs nothing. Thread: one caller at a time (the engine thread, or a loader
 * before it starts). */
#ifndef QN_KERNELS_POOL_H
#define QN_KERNELS_POOL_H

#include <stddef.h>

struct qn_pool;

/* fn(arg, item, thread): item in [0, items), thread in [0, threads). Must not fail, must not call the pool.
 */
typedef void (*qn_pool_fn)(void *arg, size_t item, unsigned thread);

/* threads >= 1 in all, the caller's included. NULL when threads or memory can't be had. */
struct qn_pool *qn_pool_new(unsigned threads) __attribute__((warn_unused_result));
void qn_pool_free(struct qn_pool **pool); /* joins the workers; NULL is fine; clears *pool */
unsigned qn_pool_threads(const struct qn_pool *pool);
/* Runs fn for every item and returns when all are done. pool may be NULL: runs on the caller alone. */
void qn_pool_run(struct qn_pool *pool, size_t items, qn_pool_fn fn, void *arg);
/* Tells a thread what it will read first in a later loop: while it waits, it brings that into its cache. Up
 * to QN_POOL_AHEAD pieces, each of which stays until its slot is told another; 0 bytes: none. from may be
 * gone by then, nothing is read. Called by the caller of qn_pool_run. */
#define QN_POOL_AHEAD 2
void qn_pool_ahead(struct qn_pool *pool, unsigned thread, unsigned slot, const void *from, size_t bytes);
/* The item that this thread takes first of a loop over so many. */
size_t qn_pool_first(const struct qn_pool *pool, size_t items, unsigned thread);

#endif
