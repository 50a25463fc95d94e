/* One model and one engine inside a command (run, compare): opened, waited on, closed. Thread: main; the
 * engine has its own. */
#ifndef QN_SERVER_LOCAL_H
#define QN_SERVER_LOCAL_H

#include <pthread.h>
#include <stdio.h>

#include "kernels/pool.h"
#include "server/engine.h"

struct qn_local {
    struct qn_registry models;
    struct qn_pool *pool;
    struct qn_engine *engine;
    pthread_mutex_t lock;
    pthread_cond_t ready;
    bool made, woken;
};

struct qn_local_options {
    const char *model_path;
    enum qn_state_type kv_type;
    uint32_t threads;
};
/* Loads with a progress line on a terminal. After a failure call close as well. */
int qn_local_open(struct qn_local *l, const struct qn_local_options *opt, struct qn_err *err);
/* Waits for events, or 100 ms, so that Ctrl-C is seen. */
void qn_local_wait(struct qn_local *l);
void qn_local_stop(struct qn_local *l);  /* the engine ends; its events are dropped */
void qn_local_close(struct qn_local *l); /* jobs must be gone */

#define QN_KV_TYPE_WORDS "f32|f16|bf16|q8"
#define QN_KV_TYPE_HELP  "storage of keys and values (default f16)"
/* false, with a message: it is none of those. */
bool qn_local_kv_type(const char *name, enum qn_state_type *out);
/* All of a stream as text; NULL with a message when it is too long, holds a zero byte, can't be read, or
 * memory is short: a prompt is never cut. free(). */
char *qn_local_read(FILE *f, const char *name);

#endif
