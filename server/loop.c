/* The libuv loop. libmicrohttpd's epoll descriptor and our own watch set are polled by it; whatever may have
 * made work for libmicrohttpd ends in one pump. Thread: loop. */
#include "server/loop.h"

#include <signal.h>
#include <stdlib.h>
#include <uv.h>

#include "server/http.h"

struct qn_loop {
    struct qn_server *srv;
    struct qn_loop_hooks hooks;
    uv_loop_t uv;
    uv_poll_t http, watch;
    uv_timer_t due, sweep, once;
    uv_idle_t again;
    uv_async_t async;
    uv_signal_t sig_term, sig_int, sig_hup;
    bool have_http;
};

static void on_again(uv_idle_t *h) {
    qn_loop_pump(h->data);
}

static void on_due(uv_timer_t *h) {
    qn_loop_pump(h->data);
}

void qn_loop_pump(struct qn_loop *l) {
    if (!l->have_http) return;
    int wait = qn_http_run(l->srv->http);
    if (wait == 0) { /* more to do, but let the other handles have their turn */
        uv_idle_start(&l->again, on_again);
        return;
    }
    uv_idle_stop(&l->again);
    if (wait < 0)
        uv_timer_stop(&l->due);
    else
        uv_timer_start(&l->due, on_due, (uint64_t)wait, 0);
}

static void on_http(uv_poll_t *h, int status, int events) {
    (void)status;
    (void)events;
    qn_loop_pump(h->data);
}

static void on_watch(uv_poll_t *h, int status, int events) {
    struct qn_loop *l = h->data;
    (void)status;
    (void)events;
    qn_http_watch(l->srv->http);
    qn_loop_pump(l);
}

static void on_sweep(uv_timer_t *h) {
    struct qn_loop *l = h->data;
    if (l->have_http) {
        qn_http_sweep(l->srv->http);
        qn_loop_pump(l);
    }
    l->hooks.tick(l->srv);
}

static void on_once(uv_timer_t *h) {
    struct qn_loop *l = h->data;
    l->hooks.on_timer(l->srv);
    qn_loop_pump(l);
}

static void on_async(uv_async_t *h) {
    struct qn_loop *l = h->data;
    l->hooks.woken(l->srv);
    qn_loop_pump(l);
}

static void on_signal(uv_signal_t *h, int signum) {
    struct qn_loop *l = h->data;
    l->hooks.on_signal(l->srv, signum);
    qn_loop_pump(l);
}

struct qn_loop *qn_loop_new(struct qn_server *srv, const struct qn_loop_hooks *hooks) {
    struct qn_loop *l = calloc(1, sizeof *l);
    if (!l) return NULL;
    l->srv = srv;
    l->hooks = *hooks;
    if (uv_loop_init(&l->uv) != 0) {
        free(l);
        return NULL;
    }
    uv_timer_init(&l->uv, &l->due);
    uv_timer_init(&l->uv, &l->sweep);
    uv_timer_init(&l->uv, &l->once);
    uv_idle_init(&l->uv, &l->again);
    uv_async_init(&l->uv, &l->async, on_async);
    uv_signal_init(&l->uv, &l->sig_term);
    uv_signal_init(&l->uv, &l->sig_int);
    uv_signal_init(&l->uv, &l->sig_hup);
    l->due.data = l->sweep.data = l->once.data = l->again.data = l->async.data = l;
    l->sig_term.data = l->sig_int.data = l->sig_hup.data = l;
    uv_signal_start(&l->sig_term, on_signal, SIGTERM);
    uv_signal_start(&l->sig_int, on_signal, SIGINT);
    uv_signal_start(&l->sig_hup, on_signal, SIGHUP);
    uv_timer_start(&l->sweep, on_sweep, QN_SWEEP_MS, QN_SWEEP_MS);
    return l;
}

int qn_loop_attach_http(struct qn_loop *l) {
    if (uv_poll_init(&l->uv, &l->http, qn_http_fd(l->srv->http)) != 0) return -1;
    if (uv_poll_init(&l->uv, &l->watch, qn_http_watch_fd(l->srv->http)) != 0) {
        uv_close((uv_handle_t *)&l->http, NULL);
        return -1;
    }
    l->http.data = l->watch.data = l;
    l->have_http = true;
    uv_poll_start(&l->http, UV_READABLE, on_http);
    uv_poll_start(&l->watch, UV_READABLE, on_watch);
    qn_loop_pump(l);
    return 0;
}

void qn_loop_detach_http(struct qn_loop *l) {
    if (!l->have_http) return;
    l->have_http = false;
    uv_close((uv_handle_t *)&l->http, NULL);
    uv_close((uv_handle_t *)&l->watch, NULL);
    uv_timer_stop(&l->due);
    uv_idle_stop(&l->again);
    uv_run(&l->uv, UV_RUN_NOWAIT); /* the descriptors are the library's to close: be off them first */
}

void qn_loop_run(struct qn_loop *l) {
    uv_run(&l->uv, UV_RUN_DEFAULT);
}

void qn_loop_turn(struct qn_loop *l) {
    uv_run(&l->uv, UV_RUN_NOWAIT);
}

void qn_loop_stop(struct qn_loop *l) {
    uv_stop(&l->uv);
}

void qn_loop_wake(void *arg) {
    struct qn_loop *l = arg;
    uv_async_send(&l->async);
}

void qn_loop_after(struct qn_loop *l, uint64_t ms) {
    uv_timer_start(&l->once, on_once, ms ? ms : 1, 0);
}

struct work {
    uv_work_t uv;
    struct qn_loop *loop;
    void (*work)(void *arg), (*after)(void *arg);
    void *arg;
};

static void do_work(uv_work_t *w) {
    struct work *k = w->data;
    k->work(k->arg);
}

static void work_done(uv_work_t *w, int status) {
    struct work *k = w->data;
    struct qn_loop *l = k->loop;
    (void)status;
    k->after(k->arg);
    free(k);
    qn_loop_pump(l);
}

int qn_loop_work(struct qn_loop *l, void (*work)(void *arg), void (*after)(void *arg), void *arg) {
    struct work *k = calloc(1, sizeof *k);
    if (!k) return -1;
    k->uv.data = k;
    k->loop = l;
    k->work = work;
    k->after = after;
    k->arg = arg;
    if (uv_queue_work(&l->uv, &k->uv, do_work, work_done) != 0) {
        free(k);
        return -1;
    }
    return 0;
}

static void close_one(uv_handle_t *h, void *arg) {
    (void)arg;
    if (!uv_is_closing(h)) uv_close(h, NULL);
}

/* The process is about to end: a signal that comes when libuv no longer takes it must not end it otherwise.
 */
static void ignore_signals(void) {
    signal(SIGTERM, SIG_IGN);
    signal(SIGINT, SIG_IGN);
    signal(SIGHUP, SIG_IGN);
}

void qn_loop_free(struct qn_loop *l) {
    sigset_t ours;
    if (!l) return;
    sigemptyset(&ours); /* between libuv's handlers and none they wait */
    sigaddset(&ours, SIGTERM);
    sigaddset(&ours, SIGINT);
    sigaddset(&ours, SIGHUP);
    pthread_sigmask(SIG_BLOCK, &ours, NULL);
    uv_walk(&l->uv, close_one, NULL);
    while (uv_run(&l->uv, UV_RUN_DEFAULT) != 0) {
    }
    uv_loop_close(&l->uv);
    ignore_signals();
    free(l);
}
