/* The libuv loop: HTTP's descriptors, wake-ups from other threads, timers, signals, the worker pool.
 * All on the loop thread except qn_loop_wake. */
#ifndef QN_SERVER_LOOP_H
#define QN_SERVER_LOOP_H

#include "server/server.h"

struct qn_loop;

/* What the loop calls; srv is given back. */
struct qn_loop_hooks {
    void (*woken)(struct qn_server *srv);                 /* qn_loop_wake was called */
    void (*on_signal)(struct qn_server *srv, int signum); /* SIGTERM, SIGINT, SIGHUP */
    void (*on_timer)(struct qn_server *srv);              /* the one-shot timer of qn_loop_after */
    void (*tick)(struct qn_server *srv);                  /* every QN_SWEEP_MS, after HTTP's sweep */
};

struct qn_loop *qn_loop_new(struct qn_server *srv, const struct qn_loop_hooks *hooks);
/* Starts to serve srv->http. 0, or -1. */
int qn_loop_attach_http(struct qn_loop *l);
void qn_loop_detach_http(struct qn_loop *l); /* before srv->http is freed */
void qn_loop_run(struct qn_loop *l);         /* until qn_loop_stop */
void qn_loop_stop(struct qn_loop *l);
/* Handles what is waiting without blocking. */
void qn_loop_turn(struct qn_loop *l);
void qn_loop_pump(struct qn_loop *l);
void qn_loop_wake(void *l); /* any thread, void * so that it can be a callback */
void qn_loop_after(struct qn_loop *l, uint64_t ms);
/* work on a worker thread, then after on the loop. 0, or -1 (neither is called). */
int qn_loop_work(struct qn_loop *l, void (*work)(void *arg), void (*after)(void *arg), void *arg);
void qn_loop_free(struct qn_loop *l); /* producers of wake-ups must have been joined */

#endif
