/* The queue between threads: order, one wake-up per batch, nothing lost under concurrent producers. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdlib.h>

#include <cmocka.h>

#include "server/queue.h"

#define PRODUCERS 4
#define EACH      5000

struct item {
    struct qn_node node;
    unsigned producer, number;
};
static struct item items[PRODUCERS][EACH];
static struct qn_queue queue;
static atomic_uint wakes;

static void wake(void *ctx) {
    (void)ctx;
    atomic_fetch_add(&wakes, 1);
}

static void batches(void **state) {
    struct item a[5] = {0};
    (void)state;
    wakes = 0;
    assert_int_equal(qn_queue_init(&queue, wake, NULL), 0);
    assert_null(qn_queue_take(&queue));
    for (unsigned i = 0; i < 3; i++) qn_queue_push(&queue, &a[i].node);
    a[3].node.next = &a[4].node;
    a[4].node.next = NULL;
    qn_queue_push_list(&queue, &a[3].node);
    qn_queue_push_list(&queue, NULL);
    assert_int_equal(wakes, 1);
    struct qn_node *n = qn_queue_take(&queue);
    for (unsigned i = 0; i < 5; i++, n = n->next) assert_ptr_equal(n, &a[i].node);
    assert_null(n);
    assert_null(qn_queue_take(&queue));
    qn_queue_push(&queue, &a[0].node);
    assert_int_equal(wakes, 2);
    qn_queue_destroy(&queue);
}

static void *produce(void *arg) {
    struct item *mine = arg;
    for (unsigned i = 0; i < EACH; i++) qn_queue_push(&queue, &mine[i].node);
    return NULL;
}

static void concurrent(void **state) {
    pthread_t t[PRODUCERS];
    unsigned next[PRODUCERS] = {0}, got = 0;
    (void)state;
    assert_int_equal(qn_queue_init(&queue, NULL, NULL), 0);
    for (unsigned p = 0; p < PRODUCERS; p++) {
        for (unsigned i = 0; i < EACH; i++) items[p][i] = (struct item){.producer = p, .number = i};
        assert_int_equal(pthread_create(&t[p], NULL, produce, items[p]), 0);
    }
    while (got < PRODUCERS * EACH)
        for (struct qn_node *n = qn_queue_take(&queue); n; n = n->next, got++) {
            struct item *it = (struct item *)(void *)n;
            assert_int_equal(it->number, next[it->producer]++);
        }
    for (unsigned p = 0; p < PRODUCERS; p++) pthread_join(t[p], NULL);
    qn_queue_destroy(&queue);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(batches), cmocka_unit_test(concurrent)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
