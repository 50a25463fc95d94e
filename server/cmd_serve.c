/* `quern serve`: from configuration to a served model and back to a clean end.
 *
 *   configuration -> listen -> loop starts (/livez answers) | load thread: pool, models, engine -> ready
 *   SIGTERM -> leaving (--drain-delay) -> draining (--drain-timeout) -> stopping -> join, free, exit 0
 *
 * Thread: loop (the process's main thread), plus the load thread until it is joined. */
#include "server/cmd.h"

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <sys/resource.h>
#include <unistd.h>

#include "api/openapi.h"
#include "kernels/cpu.h"
#include "server/handlers.h"
#include "server/http.h"
#include "server/listen.h"
#include "server/loop.h"
#include "server/stream.h"

#define STALL_MS      30000u
#define WORKERS_MOST  4u
#define STOP_GRACE_NS 500000000u        /* after cancelling: for last events to reach their clients */
#define STATE_MOST    ((size_t)4 << 30) /* of one model, when --state-memory does not say */
#define STATE_UNKNOWN ((size_t)1 << 30) /* of all, when the machine's memory is unknown */
#define EXTRA_FILES   256u              /* descriptors beside connections */

struct serve {
    struct qn_server srv;
    pthread_t loader;
    bool loading; /* the thread exists */
    atomic_bool loaded;
    int load_code; /* set by the loader before `loaded` */
    char load_msg[1200];
    const char *phase; /* of the model being loaded; loader's alone */
    uint64_t phase_ns;
    uint64_t deadline_ns; /* end of the present part of the drain */
    bool now;             /* leave at once */
    uint32_t told_lost;   /* bit i: the log knows that model i is lost */
};

/* srv is the first member. */
static struct serve *serve_of(struct qn_server *srv) {
    return (struct serve *)srv;
}

/* ---- loading ---- */

static void on_progress(void *ctx, const char *phase, double done) {
    struct serve *s = ctx;
    (void)done;
    if (s->phase && strcmp(s->phase, phase) == 0) return;
    uint64_t now = qn_now_ns();
    if (s->phase)
        qn_log_line(s->srv.log, QN_LOG_DEBUG, "load: %s took %.1f ms", s->phase,
                    (double)(now - s->phase_ns) * 1e-6);
    s->phase = phase;
    s->phase_ns = now;
}

/* The state pools of several models together take no more than that of one would. */
static size_t state_share(const struct qn_config *c) {
    size_t quarter = qn_cpu_memory_bytes() / 4;
    if (c->state_bytes > 0 || c->n_models < 2) return c->state_bytes;
    if (quarter == 0) quarter = STATE_UNKNOWN;
    size_t share = quarter / c->n_models;
    return share < STATE_MOST ? share : STATE_MOST;
}

/* The model's line in the log; -1 when an earlier one has its name. */
static int loaded(struct serve *s, const struct qn_model_info *info) {
    struct qn_server *srv = &s->srv;
    for (uint32_t k = 0; k + 1 < srv->models.n; k++)
        if (strcmp(qn_model_info(srv->models.models[k])->id, info->id) == 0) {
            snprintf(s->load_msg, sizeof s->load_msg,
                     "two models are named '%s'; --model NAME=PATH gives one of them another name", info->id);
            return -1;
        }
    qn_log_line(srv->log, QN_LOG_INFO,
                "model %s: %s, %.1f M parameters, %.1f MiB of weights%s, context %u; loaded in %.0f ms "
                "(map %.0f, pack %.0f, tokenizer %.0f)",
                info->id, info->family, (double)info->params_total * 1e-6,
                (double)info->weights_bytes / (1024.0 * 1024.0), info->mapped ? " (mapped)" : "",
                info->context, info->load_ms, info->map_ms, info->pack_ms, info->tokenizer_ms);
    if (info->chat_template_text && info->chat_template_text[0] && !info->chat_template[0])
        qn_log_line(srv->log, QN_LOG_WARN,
                    "model %s has a chat template that quern does not know: chat requests get 400 unless "
                    "--chat-template chooses one",
                    info->id);
    if (srv->cfg.mmap && info->note && info->note[0])
        qn_log_line(srv->log, QN_LOG_WARN, "model %s is not mapped, its weights are in memory: %s", info->id,
                    info->note);
    return 0;
}

static int load_models(struct serve *s) {
    struct qn_server *srv = &s->srv;
    const struct qn_config *c = &srv->cfg;
    struct qn_open_options opt = {.pool = srv->pool,
                                  .state_type = (enum qn_state_type)c->kv_type,
                                  .state_bytes = state_share(c),
                                  .convert_bytes = c->convert_bytes,
                                  .max_step_tokens = c->step_tokens,
                                  .prefix_cache = c->prefix_cache,
                                  .mmap = c->mmap,
                                  .f16_as_bf16 = c->f16_as_bf16,
                                  .chat_template = c->chat_template,
                                  .progress = on_progress,
                                  .progress_ctx = s};
    for (uint32_t i = 0; i < c->n_models; i++) {
        struct qn_err err = {.code = QN_OK};
        struct qn_model *m = NULL;
        s->phase = NULL;
        opt.id = c->model_names[i][0] ? c->model_names[i] : NULL;
        if (qn_model_open(c->models[i], &opt, &m, &err) != QN_OK) {
            snprintf(s->load_msg, sizeof s->load_msg, "can't load %.200s: %.900s", c->models[i], err.msg);
            return -1;
        }
        srv->models.models[srv->models.n++] = m;
        if (loaded(s, qn_model_info(m)) != 0) return -1;
    }
    return 0;
}

static int start_engine(struct serve *s) {
    struct qn_server *srv = &s->srv;
    const struct qn_config *c = &srv->cfg;
    struct qn_engine_options opt = {.models = &srv->models,
                                    .max_queue_requests = c->max_queue,
                                    .max_queue_tokens = c->max_queue_tokens,
                                    .max_running = c->max_running,
                                    .step_tokens = c->step_tokens,
                                    .prefill_chunk = c->prefill_chunk,
                                    .reserve_tokens = c->reserve_tokens,
                                    .stream_high_water = QN_STREAM_HIGH_WATER,
                                    .stall_timeout_ms = STALL_MS,
                                    .metrics = srv->metrics,
                                    .wake = qn_loop_wake,
                                    .wake_ctx = srv->loop};
    srv->engine = qn_engine_new(&opt);
    if (srv->engine && qn_engine_start(srv->engine) == 0) return 0;
    snprintf(s->load_msg, sizeof s->load_msg, "the engine could not start: no memory or threads");
    qn_engine_free(&srv->engine);
    return -1;
}

static void *load(void *arg) {
    struct serve *s = arg;
    uint64_t begin = qn_now_ns();
    s->srv.pool = qn_pool_new(s->srv.threads);
    if (!s->srv.pool) snprintf(s->load_msg, sizeof s->load_msg, "no memory or threads for the compute pool");
    s->load_code = s->srv.pool && load_models(s) == 0 && start_engine(s) == 0 ? 0 : -1;
    s->srv.load_ms = (double)(qn_now_ns() - begin) * 1e-6;
    atomic_store(&s->loaded, true);
    qn_loop_wake(s->srv.loop);
    return NULL;
}

/* Threads made from here on inherit the mask: signals are the loop's, but for those that a thread raises
 * itself: a mapped file that was cut is the model's to deal with. */
static int start_loading(struct serve *s) {
    static const int own[] = {SIGBUS, SIGSEGV, SIGFPE, SIGILL};
    sigset_t all, old;
    sigfillset(&all);
    for (size_t i = 0; i < sizeof own / sizeof own[0]; i++) sigdelset(&all, own[i]);
    pthread_sigmask(SIG_SETMASK, &all, &old);
    int rc = pthread_create(&s->loader, NULL, load, s);
    pthread_sigmask(SIG_SETMASK, &old, NULL);
    s->loading = rc == 0;
    return rc == 0 ? 0 : -1;
}

static void loading_done(struct serve *s) {
    struct qn_server *srv = &s->srv;
    pthread_join(s->loader, NULL);
    s->loading = false;
    if (s->load_code != 0) {
        qn_log_line(srv->log, QN_LOG_ERROR, "%s", s->load_msg);
        srv->failed = true;
        qn_loop_stop(srv->loop);
        return;
    }
    srv->state = QN_SERVER_READY;
    qn_log_line(srv->log, QN_LOG_INFO, "ready after %.0f ms", srv->load_ms);
    qn_sd_notify("READY=1\nSTATUS=serving");
}

/* ---- the end ---- */

static void begin_draining(struct serve *s) {
    struct qn_server *srv = &s->srv;
    srv->state = QN_SERVER_DRAINING;
    qn_http_quiesce(srv->http);
    qn_engine_drain(srv->engine);
    s->deadline_ns = qn_now_ns() + srv->cfg.drain_timeout_ms * (uint64_t)1000000;
    qn_log_line(srv->log, QN_LOG_INFO, "draining: %u requests in flight", qn_http_active(srv->http));
    qn_loop_pump(srv->loop); /* what clients sent already becomes a request before idle connections close */
}

static void begin_stopping(struct serve *s) {
    struct qn_server *srv = &s->srv;
    srv->state = QN_SERVER_STOPPING;
    s->deadline_ns = qn_now_ns() + STOP_GRACE_NS;
    qn_log_line(srv->log, QN_LOG_WARN, "drain time is over: %u requests are cancelled",
                qn_http_active(srv->http));
    qn_http_cancel_all(srv->http);
}

/* Looks whether the drain may go on; every tick and after events. */
static void drain_step(struct serve *s) {
    struct qn_server *srv = &s->srv;
    if (srv->state < QN_SERVER_DRAINING) return;
    if (qn_http_close_idle(srv->http) == 0 && qn_http_active(srv->http) == 0 && srv->workers == 0) {
        qn_loop_stop(srv->loop);
        return;
    }
    if (qn_now_ns() < s->deadline_ns) return;
    if (srv->state == QN_SERVER_DRAINING)
        begin_stopping(s);
    else
        qn_loop_stop(srv->loop);
}

static void on_timer(struct qn_server *srv) { /* the drain delay is over */
    if (srv->state == QN_SERVER_LEAVING) {
        begin_draining(serve_of(srv));
        drain_step(serve_of(srv));
    }
}

static void leave(struct serve *s, int signum) {
    struct qn_server *srv = &s->srv;
    if (s->loading || qn_server_closing(srv)) { /* nothing to finish, or a second signal */
        s->now = true;
        srv->failed = !s->loading;
        qn_loop_stop(srv->loop);
        return;
    }
    qn_log_line(srv->log, QN_LOG_INFO, "%s: leaving", signum == SIGTERM ? "SIGTERM" : "SIGINT");
    qn_sd_notify("STOPPING=1");
    srv->state = QN_SERVER_LEAVING;
    if (srv->cfg.drain_delay_ms)
        qn_loop_after(srv->loop, srv->cfg.drain_delay_ms);
    else
        on_timer(srv);
}

static void reload(struct qn_server *srv) {
    char why[320];
    if (!qn_auth_needed(srv->auth)) return;
    if (qn_auth_reload(srv->auth, why, sizeof why))
        qn_log_line(srv->log, QN_LOG_INFO, "%u API keys read again", qn_auth_count(srv->auth));
    else
        qn_log_line(srv->log, QN_LOG_ERROR, "API keys stay as they were: %s", why);
}

static void on_signal(struct qn_server *srv, int signum) {
    if (signum == SIGHUP)
        reload(srv);
    else
        leave(serve_of(srv), signum);
}

static void woken(struct qn_server *srv) {
    struct serve *s = serve_of(srv);
    if (s->loading && atomic_load(&s->loaded)) loading_done(s);
    if (s->loading) return;
    qn_handle_events(srv);
    if (srv->state >= QN_SERVER_DRAINING) {
        qn_loop_pump(srv->loop);
        drain_step(s);
    }
}

/* Says it once for each model. */
static void tell_lost(struct serve *s) {
    const struct qn_registry *g = &s->srv.models;
    for (uint32_t i = 0; qn_server_loaded(&s->srv) && i < g->n; i++) {
        if ((s->told_lost >> i & 1u) || !qn_model_lost(g->models[i])) continue;
        s->told_lost |= 1u << i;
        qn_log_line(s->srv.log, QN_LOG_ERROR,
                    "model %s is lost: the file that its weights are mapped from was cut or overwritten; its "
                    "requests get 503 until quern is started again",
                    qn_model_info(g->models[i])->id);
    }
}

static void tick(struct qn_server *srv) {
    tell_lost(serve_of(srv));
    drain_step(serve_of(srv));
}

/* Joins everything that may still produce events, then lets connections go, then the rest. */
static void tear_down(struct serve *s) {
    struct qn_server *srv = &s->srv;
    if (srv->engine) {
        qn_engine_stop(srv->engine);
        qn_handle_events(srv);
    }
    if (srv->loop) {
        while (srv->workers > 0) qn_loop_turn(srv->loop);
        qn_loop_detach_http(srv->loop);
        qn_http_free(srv->http);
        qn_loop_free(srv->loop);
    }
    qn_engine_free(&srv->engine);
    qn_registry_close(&srv->models);
    qn_pool_free(&srv->pool);
}

/* ---- the beginning ---- */

static void raise_file_limit(struct serve *s) {
    struct rlimit lim;
    const struct qn_config *c = &s->srv.cfg;
    rlim_t want = (rlim_t)c->max_connections +
                  (c->max_connections / 2 > 1024 ? c->max_connections / 2 : 1024) + EXTRA_FILES;
    if (getrlimit(RLIMIT_NOFILE, &lim) != 0 || lim.rlim_cur >= want) return;
    if (lim.rlim_max < want) {
        qn_log_line(s->srv.log, QN_LOG_WARN,
                    "max-connections %u needs %llu file descriptors, the limit is %llu", c->max_connections,
                    (unsigned long long)want, (unsigned long long)lim.rlim_max);
        want = lim.rlim_max;
    }
    lim.rlim_cur = want;
    setrlimit(RLIMIT_NOFILE, &lim);
}

static bool is_loopback(const char *host) {
    return strncmp(host, "127.", 4) == 0 || strcmp(host, "::1") == 0 || strcmp(host, "localhost") == 0;
}

/* The worker pool parses large bodies; its size must be known before libuv makes it. */
static void size_workers(struct qn_server *srv) {
    char n[16];
    unsigned threads = srv->threads < WORKERS_MOST ? srv->threads : WORKERS_MOST;
    snprintf(n, sizeof n, "%u", threads);
    setenv("UV_THREADPOOL_SIZE", n, 1);
    srv->workers_max = 8 * threads;
}

static int open_services(struct serve *s) {
    struct qn_server *srv = &s->srv;
    char why[400];
    srv->started_ns = qn_now_ns();
    srv->submit_tail = &srv->submits;
    srv->metrics = qn_metrics_new();
    srv->log = qn_log_new(STDERR_FILENO, srv->cfg.log_json, srv->cfg.log_level);
    if (!srv->metrics || !srv->log ||
        getrandom(&srv->id_seed, sizeof srv->id_seed, 0) != (ssize_t)sizeof srv->id_seed) {
        fputs("quern: no memory or threads to start with\n", stderr);
        return 1;
    }
    srv->auth = qn_auth_new(srv->cfg.api_key_file, why, sizeof why);
    if (!srv->auth) {
        qn_log_line(srv->log, QN_LOG_ERROR, "API keys: %s", why);
        return 1;
    }
    qn_api_openapi_write(&srv->openapi, QN_VERSION);
    if (!qn_auth_needed(srv->auth) && !is_loopback(srv->cfg.listen_host))
        qn_log_line(srv->log, QN_LOG_WARN,
                    "listening on %s without an API key: anybody who reaches it may use it",
                    srv->cfg.listen_host);
    raise_file_limit(s);
    return 0;
}

static int open_loop(struct serve *s) {
    static const struct qn_loop_hooks hooks = {woken, on_signal, on_timer, tick};
    struct qn_server *srv = &s->srv;
    char why[300];
    uint16_t port = 0;
    int fd = qn_listen(srv->cfg.listen_host, srv->cfg.listen_port, &port, why, sizeof why);
    if (fd < 0) {
        qn_log_line(srv->log, QN_LOG_ERROR, "can't listen on %s port %u: %s", srv->cfg.listen_host,
                    srv->cfg.listen_port, why);
        return 1;
    }
    srv->loop = qn_loop_new(srv, &hooks);
    srv->http = srv->loop ? qn_http_new(srv, fd, why, sizeof why) : NULL;
    if (!srv->http) {
        qn_log_line(srv->log, QN_LOG_ERROR, "the HTTP server did not start%s%s", srv->loop ? ": " : "",
                    srv->loop ? why : "");
        close(fd);
        return 1;
    }
    qn_log_line(srv->log, QN_LOG_INFO, "listening on %s port %u", srv->cfg.listen_host, port);
    return qn_loop_attach_http(srv->loop) == 0 && start_loading(s) == 0 ? 0 : 1;
}

static int serve(struct serve *s) {
    struct qn_server *srv = &s->srv;
    const char *why = "--threads";
    unsigned allowed = qn_cpu_threads(&why);
    if (srv->cfg.threads) why = "--threads";
    srv->threads = srv->cfg.threads ? srv->cfg.threads : allowed;
    size_workers(srv);
    signal(SIGPIPE, SIG_IGN);
    int rc = open_services(s);
    if (rc == 0) {
        qn_log_line(srv->log, QN_LOG_INFO, "quern %s (%s), %s, kernels %s, %u compute threads (%s)",
                    QN_VERSION, qn_revision(), qn_cpu_model(), qn_isa_name(qn_cpu_isa()), srv->threads, why);
        rc = open_loop(s);
    }
    if (rc == 0) {
        qn_loop_run(srv->loop);
        rc = srv->failed ? 1 : 0;
        if (s->now) {
            qn_log_line(srv->log, QN_LOG_WARN, "leaving at once");
            qn_log_free(srv->log);
            return rc | QN_EXIT_NOW;
        }
    }
    tear_down(s);
    if (rc == 0) qn_log_line(srv->log, QN_LOG_INFO, "stopped");
    qn_auth_free(srv->auth);
    qn_log_free(srv->log);
    qn_metrics_free(srv->metrics);
    qn_buf_free(&srv->openapi);
    return rc;
}

int qn_cmd_serve(int argc, char **argv) {
    static struct serve s; /* zeroed; too large for comfort on a stack, and strings of its config live on */
    int rc = qn_config_load(&s.srv.cfg, argc, argv);
    if (rc == 2) return 2;
    if (s.srv.cfg.want_help) {
        qn_config_help(s.srv.cfg.help);
        return 0;
    }
    if (s.srv.cfg.want_version) {
        printf("quern %s (%s)\n", QN_VERSION, qn_revision());
        return 0;
    }
    if (s.srv.cfg.n_models == 0) {
        const char *model = qn_model_builtin();
        if (model) s.srv.cfg.models[s.srv.cfg.n_models++] = model;
    }
    if (s.srv.cfg.want_print) {
        qn_config_print(&s.srv.cfg);
        return 0;
    }
    if (s.srv.cfg.want_check) {
        puts("the configuration is valid");
        return 0;
    }
    if (s.srv.cfg.n_models == 0) {
        fputs("quern: " QN_NO_MODEL_HINT "\n", stderr);
        return 2;
    }
    return serve(&s);
}
