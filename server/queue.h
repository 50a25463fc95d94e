/* A queue between threads: intrusive list under a mutex, drained as a whole, one wake-up per batch.
 * push: any thread; take: the one consumer. */
#ifndef QN_SERVER_QUEUE_H
#define QN_SERVER_QUEUE_H

#include <pthread.h>
#include <stddef.h>

struct qn_node {
    struct qn_node *next;
};

struct qn_queue {
    pthread_mutex_t lock;
    struct qn_node *head, **tail;
    void (*wake)(void *ctx); /* called by push, outside the lock, when the queue was empty; may be NULL */
    void *ctx;
};

int qn_queue_init(struct qn_queue *q, void (*wake)(void *ctx), void *ctx); /* 0, or -1 */
void qn_queue_destroy(struct qn_queue *q);
void qn_queue_push(struct qn_queue *q, struct qn_node *n);
/* A chain linked by next, in order, with at most one wake-up for all of it. NULL is fine. */
void qn_queue_push_list(struct qn_queue *q, struct qn_node *first);
struct qn_node *qn_queue_take(struct qn_queue *q); /* everything, oldest first, or NULL */

#endif
