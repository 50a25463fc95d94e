/* quern run: one generation from the command line, through the same parser, job and engine as POST /v1/infer;
 * with --url on a server, by that request.
 *
 *   argv -> struct qn_api_infer -> qn_job_new -> engine thread -> events -> text on stdout, table on stderr
 *                               -> JSON -> POST /v1/infer -> events -> the same
 *
 * Threads: main waits on a condition variable that the engine's wake signals; Ctrl-C cancels the job. */
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "api/infer_fields.h"
#include "api/received.h"
#include "api/request_write.h"
#include "kernels/cpu.h"
#include "server/cli.h"
#include "server/cmd.h"
#include "server/engine.h"
#include "server/local.h"
#include "server/remote.h"
#include "server/run_print.h"

struct run {
    const char *model_path, *kv_name;
    enum qn_state_type kv_type;
    uint32_t threads;
    bool json, quiet;
    struct qn_api_infer req;
    struct qn_local local;
    struct qn_job *job;
    struct qn_remote remote;
    bool whole;          /* of a server's answer: printed at the end, not as it comes */
    struct qn_buf reply; /* its JSON */
};

#define FAILED 3 /* of parse: a failure that is not one of usage */

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

static const char *field_meta(const struct qn_api_field *f) {
    switch (f->type) {
    case QN_FIELD_BOOL:
        return "true|false";
    case QN_FIELD_U32:
    case QN_FIELD_U64:
        return "N";
    case QN_FIELD_FLOAT:
        return "X";
    case QN_FIELD_TASK:
        return "generate|score|embed";
    case QN_FIELD_PART:
        return "NAME";
    case QN_FIELD_SPECULATIVE:
        return "off|prompt";
    default:
        return "TEXT";
    }
}

/* The request's fields as options; `model` is a path here, and streaming is what run does anyway. */
static void field_help(struct qn_cli_page *page) {
    size_t n = 0;
    const struct qn_api_field *f = qn_api_infer_fields(&n);
    for (size_t i = 0; i < n; i++) {
        if (!strcmp(f[i].name, "model") || !strcmp(f[i].name, "stream")) continue;
        struct qn_cli_row *r = qn_cli_page_add(page, f[i].name, field_meta(&f[i]), f[i].doc);
        for (size_t k = 0; r->name[k]; k++)
            if (r->name[k] == '_') r->name[k] = '-';
        if (f[i].def) snprintf(r->initial, sizeof r->initial, "%s", f[i].def);
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

/* The reply's JSON, or its texts and figures. */
static int print(const struct run *r, const char *json, size_t n) {
    struct qn_api_received got;
    struct qn_api_err err = {.code = QN_API_OK};
    if (r->json) {
        printf("%.*s\n", (int)n, json);
        return fflush(stdout) != 0 ? 1 : 0;
    }
    bool ok = qn_api_receive(json, n, &got, &err) == 0 && got.kind == QN_GOT_REPLY;
    if (ok) {
        putchar('\n');
        qn_run_outputs(stdout, &got.reply);
        if (!r->quiet) qn_run_table(stderr, &got.reply);
    } else {
        fprintf(stderr, "quern: the reply is not understood: %s\n",
                err.code ? err.msg : "it is of another kind");
    }
    qn_api_received_free(&got);
    return !ok || fflush(stdout) != 0 ? 1 : 0;
}

static int finish(struct run *r) {
    struct qn_job *j = r->job;
    struct qn_buf reply = {0};
    if (j->error != QN_API_OK) {
        fprintf(stderr, "quern: %s\n", j->error_msg);
        return 1;
    }
    qn_job_write_reply(j, &reply);
    int rc = reply.failed ? 1 : print(r, reply.p, reply.n);
    qn_buf_free(&reply);
    return rc;
}

/* ---- on a server ---- */

/* One event: text is printed as it comes, the reply is kept. */
static bool on_event(void *ctx, const char *json, size_t n) {
    struct run *r = ctx;
    struct qn_api_received got;
    struct qn_api_err err = {.code = QN_API_OK};
    bool ok = qn_api_receive(json, n, &got, &err) == 0;
    if (!ok)
        fprintf(stderr, "quern: an event of the server is not understood: %s\n", err.msg);
    else if (got.kind == QN_GOT_ERROR)
        qn_remote_complain(got.text, got.text_len);
    else if (got.kind == QN_GOT_TOKEN && !r->whole)
        fwrite(got.text, 1, got.text_len, stdout);
    else if (got.kind == QN_GOT_REPLY)
        qn_buf_add(&r->reply, json, n);
    ok = ok && got.kind != QN_GOT_ERROR;
    qn_api_received_free(&got);
    fflush(stdout);
    return ok;
}

static int run_remote(struct run *r) {
    struct qn_remote_sink sink = {.event = on_event, .ctx = r};
    struct qn_buf body = {0};
    struct qn_api_infer defaults;
    qn_api_infer_init(&defaults);
    r->req.stream = r->req.task != QN_TASK_EMBED;
    r->whole = r->json || r->req.task != QN_TASK_GENERATE || (uint64_t)r->req.n_seqs * r->req.n > 1;
    qn_api_request_write(&body, &qn_api_infer_table, &r->req, &defaults);
    int rc = 1;
    if (body.failed)
        fprintf(stderr, "quern: out of memory\n");
    else
        rc = qn_remote_call(&r->remote, "/v1/infer", &body, &sink);
    if (!rc && r->reply.n) sink.body.n = 0; /* a stream brought it */
    if (!rc && sink.body.n) qn_buf_add(&r->reply, sink.body.p, sink.body.n);
    if (!rc) rc = r->reply.failed ? 1 : print(r, r->reply.n ? r->reply.p : "", r->reply.n);
    qn_buf_free(&sink.body);
    qn_buf_free(&body);
    return rc;
}

/* ---- in this process ---- */

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
    qn_buf_free(&r->reply);
    qn_local_close(&r->local);
}

static int prepare_local(struct run *r) {
    if (!r->model_path) r->model_path = qn_model_builtin();
    if (!r->model_path) {
        fprintf(stderr, "quern: " QN_NO_MODEL_HINT "\n");
        return 2;
    }
    return qn_local_kv_type(r->kv_name ? r->kv_name : "f16", &r->kv_type) ? 0 : 2;
}

static int prepare_remote(struct run *r) {
    struct qn_api_err err = {.code = QN_API_OK};
    if (r->kv_name || r->threads != qn_cpu_threads(NULL)) {
        fprintf(stderr, "quern: --threads and --kv-type are the server's: they can't be given with --url\n");
        return 2;
    }
    if (r->model_path && qn_api_infer_set(&r->req, "model", r->model_path, &err)) {
        fprintf(stderr, "quern: %s\n", err.msg);
        return 2;
    }
    r->remote.stop = &interrupted;
    int rc = qn_remote_prepare(&r->remote);
    return rc == 1 ? FAILED : rc;
}

static int parse(struct run *r, int argc, char **argv, const char **text) {
    const struct qn_cli_option options[] = {
        {"model", QN_CLI_STRING, &r->model_path, 0, 0, "MODEL", QN_MODEL_HELP "; with --url: its name there"},
        {"threads", QN_CLI_THREADS, &r->threads, 1, 256, "N", "compute threads"},
        {"kv-type", QN_CLI_STRING, &r->kv_name, 0, 0, QN_KV_TYPE_WORDS, QN_KV_TYPE_HELP},
        {"json", QN_CLI_FLAG, &r->json, 0, 0, NULL,
         "print the reply of POST /v1/infer instead of text and table"},
        {"quiet", QN_CLI_FLAG, &r->quiet, 0, 0, NULL, "no table of time and memory"},
        QN_REMOTE_OPTIONS(&r->remote),
    };
    struct qn_cli cli = {
        .name = "run",
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
    bad = r->remote.url ? prepare_remote(r) : prepare_local(r);
    return bad ? bad : set_sequence(r, *text);
}

static int run_local(struct run *r) {
    struct qn_err err = {0};
    struct qn_local_options lo = {.model_path = r->model_path, .kv_type = r->kv_type, .threads = r->threads};
    if (qn_local_open(&r->local, &lo, &err) == QN_OK) return submit(r);
    fprintf(stderr, "quern: %s\n", err.msg);
    return 1;
}

int qn_cmd_run(int argc, char **argv) {
    struct run r = {.remote.idle_s = QN_REMOTE_IDLE};
    const char *text = NULL;
    r.threads = qn_cpu_threads(NULL);
    qn_api_infer_init(&r.req);
    int code = parse(&r, argc, argv, &text);
    if (code) {
        qn_api_infer_free(&r.req);
        return code == FAILED ? 1 : code == 1 ? 0 : 2;
    }
    struct sigaction sa = {.sa_handler = on_sigint};
    sigaction(SIGINT, &sa, NULL);
    code = r.remote.url ? run_remote(&r) : run_local(&r);
    release(&r);
    return code;
}
