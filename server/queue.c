/* The queue between threads: an intrusive list under a mutex.
 *
 * Producers link nodes in; the consumer takes the whole list at once, so that its lock is held for two
 * pointer moves however long the list is. The wake-up runs after the lock is dropped: a consumer that it
 * wakes at once must not find the lock taken. */
#include "server/queue.h"

int qn_queue_init(struct qn_queue *q, void (*wake)(void *ctx), void *ctx) {
    if (pthread_mutex_init(&q->lock, NULL)) return -1;
    q->head = NULL;
    q->tail = &q->head;
    q->wake = wake;
    q->ctx = ctx;
    return 0;
}

void qn_queue_destroy(struct qn_queue *q) {
    pthread_mutex_destroy(&q->lock);
}

void qn_queue_push(struct qn_queue *q, struct qn_node *n) {
    n->next = NULL;
    qn_queue_push_list(q, n);
}

void qn_queue_push_list(struct qn_queue *q, struct qn_node *first) {
    struct qn_node *last = first;
    if (!first) return;
    while (last->next) last = last->next;
    pthread_mutex_lock(&q->lock);
    int was_empty = !q->head;
    *q->tail = first;
    q->tail = &last->next;
    pthread_mutex_unlock(&q->lock);
    if (was_empty && q->wake) q->wake(q->ctx);
}

struct qn_node *qn_queue_take(struct qn_queue *q) {
    pthread_mutex_lock(&q->lock);
    struct qn_node *n = q->head;
    q->head = NULL;
    q->tail = &q->head;
    pthread_mutex_unlock(&q->lock);
    return n;
}
