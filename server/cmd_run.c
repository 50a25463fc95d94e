/* quern run: one generation from the command line, through the same parser, job and engine as POST /v1/infer.
 *
 *   argv -> struct qn_api_infer -> qn_job_new -> engine thread -> events -> text on stdout, table on stderr
 *
 * Threads: main waits on a condition variable that the engine's wake signals; Ctrl-C cancels the job. */
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "api/infer_fields.h"
#include "kernels/cpu.h"
#include "server/cli.h"
#include "server/cmd.h"
#include "server/engine.h"
#include "server/local.h"

struct run {
    const char *model_path, *kv_name;
    enum qn_state_type kv_type;
    uint32_t threads;
    bool json, quiet, text_set;
    struct qn_api_infer req;
    struct qn_local local;
    struct qn_job *job;
};

static volatile sig_atomic_t interrupted;

static void on_sigint(int sig) {
    (void)sig;
    interrupted = 1;
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

static int set_sequence(struct run *r, const char *text) {
    struct qn_api_err err = {0};
    char *piped = NULL;
    if (!text && !r->req.n_seqs && !isatty(STDIN_FILENO)) {
        text = piped = qn_local_read(stdin, "standard input");
        if (!text) return 2;
    }
    int bad = text ? qn_api_infer_set(&r->req, "sequence", text, &err) : 0;
    if (!bad) bad = qn_api_infer_check(&r->req, NULL, &err);
    free(piped);
    if (bad) fprintf(stderr, "quern: %s\n", err.msg);
    return bad ? 2 : 0;
}

/* Prints tokens until the job is done. Several outputs are printed whole at the end instead of interleaved.
 */
static void follow(struct run *r) {
    bool done = false, several = r->job->n_outputs > 1 || r->json;
    while (!done) {
        if (interrupted) qn_engine_cancel(r->local.engine, r->job);
        qn_local_wait(&r->local);
        for (struct qn_event *ev = qn_engine_take(r->local.engine); ev;) {
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
            s->sharing.type,
            s->origin == QN_ORIGIN_NATIVE      ? "native"
            : s->origin == QN_ORIGIN_SYNTHETIC ? "synthetic"
                                               : "converted",
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
    if (qn_job_new(&r->local.models, &r->req, &jo, &r->job, &err) || qn_job_prepare(r->job, &err) ||
        qn_engine_submit(r->local.engine, r->job, &err, &retry)) {
        fprintf(stderr, "quern: %s\n", err.msg);
        return err.code == QN_API_INTERNAL || err.code == QN_API_OUT_OF_MEMORY ? 1 : 2;
    }
    follow(r);
    return finish(r);
}

static void release(struct run *r) {
    qn_local_stop(&r->local);
    if (r->job) qn_job_unref(r->job);
    qn_api_infer_free(&r->req);
    qn_local_close(&r->local);
}

static int parse(struct run *r, int argc, char **argv, const char **text) {
    const struct qn_cli_option options[] = {
        {"model", QN_CLI_STRING, &r->model_path, 0, 0, "MODEL", QN_MODEL_HELP},
        {"threads", QN_CLI_UINT, &r->threads, 1, 256, "N", "compute threads"},
        {"kv-type", QN_CLI_STRING, &r->kv_name, 0, 0, QN_KV_TYPE_WORDS, QN_KV_TYPE_HELP},
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
    if (!qn_local_kv_type(r->kv_name, &r->kv_type)) return 2;
    return set_sequence(r, *text);
}

int qn_cmd_run(int argc, char **argv) {
    struct run r = {.kv_name = "f16"};
    const char *text = NULL;
    r.threads = qn_cpu_threads(NULL);
    r.model_path = qn_model_builtin();
    qn_api_infer_init(&r.req);
    int code = parse(&r, argc, argv, &text);
    if (code) {
        qn_api_infer_free(&r.req);
        return code == 1 ? 0 : 2;
    }
    struct sigaction sa = {.sa_handler = on_sigint};
    sigaction(SIGINT, &sa, NULL);
    struct qn_err err = {0};
    struct qn_local_options lo = {.model_path = r.model_path, .kv_type = r.kv_type, .threads = r.threads};
    if (qn_local_open(&r.local, &lo, &err) == QN_OK) {
        code = submit(&r);
    } else {
        fprintf(stderr, "quern: %s\n", err.msg);
        code = 1;
    }
    release(&r);
    return code;
}
