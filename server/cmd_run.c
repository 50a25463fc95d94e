/* quern run: one generation from the command line, through the same parser, job and engine as POST /v1/infer.
 *
 *   argv -> struct qn_api_infer -> qn_job_new -> engine thread -> events -> text on stdout, table on stderr
 *
 * Threads: main waits on a condition variable that the engine's wake signals; Ctrl-C cancels the job. */
#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "api/infer_fields.h"
#include "kernels/cpu.h"
#include "kernels/pool.h"
#include "server/cli.h"
#include "server/cmd.h"
#include "server/engine.h"

#define MAX_STDIN (1u << 20) /* bytes of a prompt read from standard input */

struct waiter {
    pthread_mutex_t lock;
    pthread_cond_t ready;
    bool woken;
};

struct run {
    const char *model_path, *state_type;
    uint32_t threads;
    bool json, quiet, text_set;
    struct qn_api_infer req;
    struct qn_registry models;
    struct qn_pool *pool;
    struct qn_engine *engine;
    struct qn_job *job;
    struct waiter waiter;
};

static volatile sig_atomic_t interrupted;

static void on_sigint(int sig) {
    (void)sig;
    interrupted = 1;
}

static void wake(void *ctx) {
    struct waiter *w = ctx;
    pthread_mutex_lock(&w->lock);
    w->woken = true;
    pthread_cond_signal(&w->ready);
    pthread_mutex_unlock(&w->lock);
}

/* Waits for events, or 100 ms, so that Ctrl-C is seen. */
static void wait_events(struct waiter *w) {
    struct timespec until;
    clock_gettime(CLOCK_REALTIME, &until);
    until.tv_nsec += 100000000;
    if (until.tv_nsec >= 1000000000) {
        until.tv_nsec -= 1000000000;
        until.tv_sec++;
    }
    pthread_mutex_lock(&w->lock);
    if (!w->woken) pthread_cond_timedwait(&w->ready, &w->lock, &until);
    w->woken = false;
    pthread_mutex_unlock(&w->lock);
}

static int set_field(void *ctx, const char *name, const char *value) {
    struct run *r = ctx;
    struct qn_api_err err = {0};
    char field[64];
    size_t n = strlen(name);
    if (n >= sizeof field) return 1;
    for (size_t i = 0; i <= n; i++) field[i] = name[i] == '-' ? '_' : name[i];
    if (!qn_api_infer_field(field) || !strcmp(field, "model") || !strcmp(field, "stream")) return 1;
    if (!value) {
        fprintf(stderr, "quern: --%s needs a value\n", name);
        return -1;
    }
    if (qn_api_infer_set(&r->req, field, value, &err) == 0) return 0;
    fprintf(stderr, "quern: --%s: %s\n", name, err.msg);
    return -1;
}

/* The request's fields as options; `model` is a path here, and streaming is what run does anyway. */
static void field_help(void) {
    size_t n = 0;
    const struct qn_api_field *f = qn_api_infer_fields(&n);
    printf("\nrequest fields (as in POST /v1/infer):\n");
    for (size_t i = 0; i < n; i++) {
        if (!strcmp(f[i].name, "model") || !strcmp(f[i].name, "stream")) continue;
        char left[32] = "--";
        for (size_t k = 0; f[i].name[k] && k + 3 < sizeof left; k++) {
            left[k + 2] = f[i].name[k] == '_' ? '-' : f[i].name[k];
            left[k + 3] = '\0';
        }
        printf("  %-24s %s%s%s%s\n", left, f[i].doc, f[i].def ? " (default " : "", f[i].def ? f[i].def : "",
               f[i].def ? ")" : "");
    }
}

/* All of standard input as text; NULL with a message when it is too long, holds a zero byte, or memory is
 * short: a prompt is never cut. */
static char *read_stdin(void) {
    char *p = malloc(MAX_STDIN + 1);
    size_t n = p ? fread(p, 1, MAX_STDIN + 1, stdin) : 0;
    const char *why = !p                   ? "out of memory"
                      : n > MAX_STDIN      ? "standard input holds more than 1 MiB"
                      : memchr(p, '\0', n) ? "standard input holds a zero byte"
                                           : NULL;
    if (!why) {
        p[n] = '\0';
        return p;
    }
    fprintf(stderr, "quern: %s\n", why);
    free(p);
    return NULL;
}

static int set_sequence(struct run *r, const char *text) {
    struct qn_api_err err = {0};
    char *piped = NULL;
    if (!text && !r->req.n_seqs && !isatty(STDIN_FILENO)) {
        text = piped = read_stdin();
        if (!text) return 2;
    }
    int bad = text ? qn_api_infer_set(&r->req, "sequence", text, &err) : 0;
    if (!bad) bad = qn_api_infer_check(&r->req, NULL, &err);
    free(piped);
    if (bad) fprintf(stderr, "quern: %s\n", err.msg);
    return bad ? 2 : 0;
}

static int open_all(struct run *r, struct qn_err *err) {
    struct qn_open_options opt = {.pool = r->pool,
                                  .prefix_cache = false,
                                  .progress = qn_cli_progress,
                                  .state_type =
                                      strcmp(r->state_type, "f32") == 0 ? QN_STATE_F32 : QN_STATE_F16};
    int bad = qn_model_open(r->model_path, &opt, &r->models.models[0], err);
    if (bad) return bad;
    r->models.n = 1;
    struct qn_engine_options eo = {
        .models = &r->models, .max_running = QN_API_MAX_OUTPUTS, .wake = wake, .wake_ctx = &r->waiter};
    r->engine = qn_engine_new(&eo);
    if (!r->engine || qn_engine_start(r->engine))
        return qn_err_set(err, QN_ERR_NOMEM, "can't start the engine");
    return QN_OK;
}

/* Prints tokens until the job is done. Several outputs are printed whole at the end instead of interleaved.
 */
static void follow(struct run *r) {
    bool done = false, several = r->job->n_outputs > 1 || r->json;
    while (!done) {
        if (interrupted) qn_engine_cancel(r->engine, r->job);
        wait_events(&r->waiter);
        for (struct qn_event *ev = qn_engine_take(r->engine); ev;) {
            struct qn_event *next = (struct qn_event *)ev->node.next;
            if (ev->kind == QN_EVENT_DONE)
                done = true;
            else if (!several)
                fwrite(ev->text, 1, ev->n, stdout);
            qn_event_free(ev);
            ev = next;
        }
        fflush(stdout);
    }
}

static void print_outputs(const struct qn_job *j) {
    for (uint32_t i = 0; i < j->n_outputs; i++) {
        const struct qn_output *o = &j->outputs[i];
        if (j->req.task == QN_TASK_SCORE) {
            printf("[%u] %llu tokens, log-probability %.4f, %.4f bits per byte\n", i,
                   (unsigned long long)o->scored_tokens, o->log_prob,
                   o->scored_bytes ? -o->log_prob / 0.6931471805599453 / (double)o->scored_bytes : 0.0);
        } else if (j->req.task == QN_TASK_EMBED) {
            uint32_t d = qn_model_info(j->model)->d_model;
            printf("[%u] %u values:", i, d);
            for (uint32_t k = 0; k < d; k++) printf(" %.6g", (double)o->embedding[k]);
            putchar('\n');
        } else if (j->n_outputs > 1) {
            printf("[%u] %.*s\n", i, (int)o->text.n, o->text.p ? o->text.p : "");
        }
    }
}

static void print_table(const struct qn_job *j, const struct qn_api_timings *t) {
    const struct qn_structure *s = qn_variant_structure(j->variant);
    struct qn_seq_bytes sum = {0};
    uint64_t prompt = 0, made = 0, cached = 0;
    char a[32], b[32], c[32];
    for (uint32_t i = 0; i < j->n_outputs; i++) {
        prompt += j->outputs[i].n_prompt;
        made += j->outputs[i].n_tokens;
        cached += j->outputs[i].cached_tokens;
        sum.peak += j->outputs[i].bytes.peak;
        sum.peak_shared += j->outputs[i].bytes.peak_shared;
    }
    fprintf(stderr, "\n%-12s %s + %s, sharing %s (%s, %s)\n", "structure", s->attention.type, s->ffn.type,
            s->sharing.type, s->origin == QN_ORIGIN_NATIVE ? "native" : "converted",
            qn_exactness_name(s->exactness));
    fprintf(stderr, "%-12s %9llu tokens  %9.1f ms", "prefill", (unsigned long long)(prompt - cached),
            t->prefill);
    if (t->prefill_tps >= 0.0) fprintf(stderr, "  %9.1f tokens/s", t->prefill_tps);
    fprintf(stderr, "\n%-12s %9llu tokens  %9.1f ms", "decode", (unsigned long long)made, t->decode);
    if (t->decode_tps >= 0.0) fprintf(stderr, "  %9.1f tokens/s", t->decode_tps);
    fprintf(stderr, "\n%-12s queue %.1f, tokenize %.1f, convert %.1f, finish %.1f, total %.1f ms", "other",
            t->queue, t->tokenize, t->convert, t->finish, t->total);
    fprintf(stderr, "\n%-12s weights %s, state %s (%s per token)\n", "memory",
            qn_cli_bytes(a, s->weights_bytes), qn_cli_bytes(b, sum.peak),
            qn_cli_bytes(c, s->state_bytes_per_token));
}

static int finish(struct run *r) {
    struct qn_job *j = r->job;
    struct qn_buf reply = {0};
    if (j->error != QN_API_OK) {
        fprintf(stderr, "quern: %s\n", j->error_msg);
        return 1;
    }
    qn_job_write_reply(j, &reply);
    if (r->json && !reply.failed) printf("%.*s\n", (int)reply.n, reply.p);
    if (!r->json) {
        putchar('\n');
        print_outputs(j);
        if (!r->quiet) print_table(j, qn_job_timings(j));
    }
    bool failed = reply.failed;
    qn_buf_free(&reply);
    return failed || fflush(stdout) != 0 ? 1 : 0;
}

static int submit(struct run *r) {
    struct qn_api_err err = {0};
    unsigned retry = 0;
    struct qn_job_options jo = {.t_received_ns = qn_now_ns()};
    r->req.stream = r->req.task == QN_TASK_GENERATE; /* token events, printed as they come */
    if (qn_job_new(&r->models, &r->req, &jo, &r->job, &err) ||
        qn_engine_submit(r->engine, r->job, &err, &retry)) {
        fprintf(stderr, "quern: %s\n", err.msg);
        return err.code == QN_API_INTERNAL || err.code == QN_API_OUT_OF_MEMORY ? 1 : 2;
    }
    follow(r);
    return finish(r);
}

static void release(struct run *r) {
    if (r->engine) {
        qn_engine_stop(r->engine);
        for (struct qn_event *ev = qn_engine_take(r->engine); ev;) {
            struct qn_event *next = (struct qn_event *)ev->node.next;
            qn_event_free(ev);
            ev = next;
        }
        qn_engine_free(&r->engine);
    }
    if (r->job) qn_job_unref(r->job);
    qn_api_infer_free(&r->req);
    qn_registry_close(&r->models);
    qn_pool_free(&r->pool);
}

static int parse(struct run *r, int argc, char **argv, const char **text) {
    const struct qn_cli_option options[] = {
        {"model", QN_CLI_STRING, &r->model_path, 0, 0, "PATH",
         "checkpoint: GGUF, safetensors or a directory"},
        {"threads", QN_CLI_UINT, &r->threads, 1, 256, "N", "compute threads"},
        {"state-type", QN_CLI_STRING, &r->state_type, 0, 0, "f16|f32",
         "storage of keys and values (default f16)"},
        {"json", QN_CLI_FLAG, &r->json, 0, 0, NULL,
         "print the reply of POST /v1/infer instead of text and table"},
        {"quiet", QN_CLI_FLAG, &r->quiet, 0, 0, NULL, "no table of time and memory"},
    };
    struct qn_cli cli = {
        .usage = "quern run [options] [TEXT]",
        .about = "Runs one sequence and prints what the model says, then time and memory (on stderr).\n"
                 "TEXT may also come from standard input.",
        .options = options,
        .n_options = sizeof options / sizeof *options,
        .other = set_field,
        .other_help = field_help,
        .ctx = r,
        .positional = text,
        .max_positional = 1};
    int bad = qn_cli_parse(&cli, argc, argv);
    if (bad) return bad;
    if (!r->model_path) {
        fprintf(stderr, "quern: " QN_NO_MODEL_HINT "\n");
        return 2;
    }
    if (strcmp(r->state_type, "f16") != 0 && strcmp(r->state_type, "f32") != 0) {
        fprintf(stderr, "quern: --state-type must be f16 or f32\n");
        return 2;
    }
    return set_sequence(r, *text);
}

int qn_cmd_run(int argc, char **argv) {
    struct run r = {.state_type = "f16",
                    .waiter = {PTHREAD_MUTEX_INITIALIZER, PTHREAD_COND_INITIALIZER, false}};
    const char *text = NULL;
    r.threads = qn_cpu_threads(NULL);
    r.model_path = qn_default_model();
    qn_api_infer_init(&r.req);
    int code = parse(&r, argc, argv, &text);
    if (code) {
        qn_api_infer_free(&r.req);
        return code == 1 ? 0 : 2;
    }
    struct sigaction sa = {.sa_handler = on_sigint};
    sigaction(SIGINT, &sa, NULL);
    struct qn_err err = {0};
    r.pool = qn_pool_new(r.threads);
    if (r.pool && open_all(&r, &err) == QN_OK) {
        code = submit(&r);
    } else {
        fprintf(stderr, "quern: %s\n", err.code ? err.msg : "out of memory");
        code = 1;
    }
    release(&r);
    return code;
}
