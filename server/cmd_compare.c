/* quern compare: one sequence in several structures, from the command line; the same comparison as POST
 * /v1/compare, in this process, or with --url by that request.
 *
 *   argv -> struct qn_api_compare -> qn_comparison -> [job -> engine thread -> DONE]* -> table, JSON or CSV
 *                                 -> JSON -> POST /v1/compare -> events             -> the same
 *
 * Threads: main waits for the engine's events; Ctrl-C cancels the run that is under way. */
#include <ctype.h>
#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>

#include "api/infer_fields.h"
#include "api/received.h"
#include "api/request_write.h"
#include "kernels/cpu.h"
#include "server/cli.h"
#include "server/cmd.h"
#include "server/compare_table.h"
#include "server/comparison.h"
#include "server/local.h"
#include "server/remote.h"
#include "server/structure_text.h"

struct options {
    const char *model_path, *kv_name, *prompt, *file, *structures, *task;
    enum qn_state_type kv_type;
    uint32_t threads, repeats, max_tokens, baseline;
    bool json, csv, convert, ignore_eos;
    struct qn_remote remote;
};

static volatile sig_atomic_t interrupted;

static void on_sigint(int sig) {
    (void)sig;
    interrupted = 1;
}

/* 0, 1 for a failure of the machine, 2 for one of the request; said on stderr. */
static int complain(const struct qn_api_err *err) {
    fprintf(stderr, "quern: %s\n", err->msg);
    return qn_api_status(err->code) >= 500 ? 1 : 2;
}

/* ---- the request ---- */
static int set_sequence(const struct options *o, struct qn_api_compare *r) {
    struct qn_api_err err = {.code = QN_API_OK};
    char *text = NULL;
    if (!o->prompt == !o->file) {
        fprintf(stderr, "quern: give either --prompt TEXT or --file FILE\n");
        return 2;
    }
    if (o->file) {
        FILE *f = strcmp(o->file, "-") ? fopen(o->file, "rb") : stdin;
        if (!f) {
            fprintf(stderr, "quern: can't open %s: %s\n", o->file, strerror(errno));
            return 1;
        }
        text = qn_local_read(f, o->file);
        if (f != stdin) fclose(f);
        if (!text) return 2;
    }
    int bad = qn_api_infer_set(&r->run, "sequence", text ? text : o->prompt, &err);
    free(text);
    return bad ? complain(&err) : 0;
}

static int set_request(const struct options *o, struct qn_api_compare *r) {
    struct qn_api_err err = {.code = QN_API_OK};
    if (qn_api_infer_set(&r->run, "task", o->task, &err)) return complain(&err);
    r->run.convert = o->convert;
    r->run.ignore_eos = o->ignore_eos;
    r->repeats = o->repeats;
    r->baseline = o->baseline;
    if (r->run.task == QN_TASK_GENERATE) r->run.max_tokens = o->max_tokens;
    if (strcmp(o->structures, "all") != 0 &&
        qn_structure_list(o->structures, &r->structures, &r->n_structures, &err))
        return complain(&err);
    return set_sequence(o, r);
}

/* ---- the runs ---- */
/* Waits for the job under way; false when Ctrl-C ended it. */
static bool follow(struct qn_local *l, struct qn_job *j) {
    bool done = false;
    while (!done) {
        if (interrupted) qn_engine_cancel(l->engine, j);
        qn_local_wait(l);
        for (struct qn_event *ev = qn_engine_take(l->engine), *next; ev; ev = next) {
            next = (struct qn_event *)(void *)ev->node.next;
            done = done || ev->kind == QN_EVENT_DONE;
            qn_event_free(ev);
        }
    }
    return !interrupted;
}

static int run_all(struct qn_local *l, struct qn_comparison *c) {
    struct qn_api_err err = {.code = QN_API_OK};
    struct qn_api_sample s;
    struct qn_job *j;
    while ((j = qn_comparison_next(c))) {
        uint32_t done, all;
        qn_comparison_progress(c, &done, &all);
        qn_cli_progress(NULL, "comparing", (double)done / all);
        if (qn_engine_submit(l->engine, j, &err, NULL)) {
            qn_comparison_fail(c, &err);
            break;
        }
        if (!follow(l, j)) {
            fprintf(stderr, "\nquern: interrupted\n");
            return 1;
        }
        qn_comparison_take(c, &s);
    }
    qn_cli_progress(NULL, "comparing", 1);
    return qn_comparison_error(c)->code ? complain(qn_comparison_error(c)) : 0;
}

static int print(const struct options *o, const struct qn_api_comparison *r) {
    struct qn_buf json = {0};
    if (o->csv) {
        qn_compare_csv(stdout, r);
    } else if (o->json) {
        qn_api_compare_write(&json, r);
        if (!json.failed) printf("%s\n", json.p);
    } else {
        qn_compare_table(stdout, r);
    }
    bool failed = json.failed;
    qn_buf_free(&json);
    return failed || fflush(stdout) != 0 ? 1 : 0;
}

static int compare_local(const struct options *o, struct qn_local *l, struct qn_api_compare *r) {
    struct qn_api_err err = {.code = QN_API_OK};
    struct qn_comparison *c = NULL;
    struct qn_job_options jo = {.t_received_ns = qn_now_ns()};
    int code = 0;
    if (!r->n_structures &&
        qn_structure_all(l->models.models[0], o->convert, &r->structures, &r->n_structures, &err))
        return complain(&err);
    if (qn_api_compare_check(r, &err) || qn_comparison_new(&l->models, r, &jo, &c, &err))
        return complain(&err);
    code = run_all(l, c);
    if (!code) code = print(o, qn_comparison_result(c));
    qn_local_stop(l); /* before the jobs that it may still know */
    qn_comparison_free(c);
    return code;
}

static int run_local(const struct options *o, struct qn_api_compare *r) {
    struct qn_local l;
    struct qn_err err = {0};
    struct qn_local_options lo = {o->model_path, o->kv_type, o->threads};
    int code = 1;
    if (qn_local_open(&l, &lo, &err) == QN_OK)
        code = compare_local(o, &l, r);
    else
        fprintf(stderr, "quern: %s\n", err.msg);
    qn_local_close(&l);
    return code;
}

/* ---- on a server ---- */
/* GET a description. 0, or 1 with a message; *sink is freed by the caller. */
static int get(const struct options *o, const char *path, struct qn_remote_sink *sink) {
    qn_buf_free(&sink->body);
    int rc = qn_remote_call(&o->remote, path, NULL, sink);
    if (!rc && !sink->body.n) {
        fprintf(stderr, "quern: %s answered nothing\n", o->remote.url);
        rc = 1;
    }
    return rc;
}

/* --structures all: what the server's model can run, chosen as in this process. */
static int choose_remote(const struct options *o, struct qn_api_compare *r) {
    struct qn_remote_sink sink = {.event = NULL};
    struct qn_api_err err = {.code = QN_API_OK};
    struct qn_api_runs runs = {.rows = NULL};
    struct qn_api_structure own;
    struct qn_buf path = {0};
    memcpy(runs.model, r->run.model, sizeof runs.model);
    int rc = get(o, "/v1/structures", &sink);
    if (!rc && qn_api_receive_structures(sink.body.p, sink.body.n, &runs, &err)) rc = 1;
    if (!rc) {
        qn_buf_str(&path, "/v1/models/");
        for (const char *s = runs.model; *s; s++)
            qn_buf_printf(&path, isalnum((unsigned char)*s) ? "%c" : "%%%02X", (unsigned char)*s);
        rc = path.failed ? 1 : get(o, path.p, &sink);
    }
    if (!rc && qn_api_receive_native(sink.body.p, sink.body.n, &own, &err)) rc = 1;
    if (!rc && qn_structure_choose(&(struct qn_structure_source){runs.rows, runs.n, &own}, o->convert,
                                   &r->structures, &r->n_structures, &err))
        rc = 1;
    if (err.code) fprintf(stderr, "quern: %s: %s\n", o->remote.url, err.msg);
    free(runs.rows);
    qn_buf_free(&path);
    qn_buf_free(&sink.body);
    return rc;
}

/* What a stream of events has come to. */
struct progress {
    uint32_t done, all;
    struct qn_buf reply;
};

static bool on_event(void *ctx, const char *json, size_t n) {
    struct progress *p = ctx;
    struct qn_api_received got;
    struct qn_api_err err = {.code = QN_API_OK};
    bool ok = qn_api_receive(json, n, &got, &err) == 0;
    if (!ok)
        fprintf(stderr, "quern: an event of the server is not understood: %s\n", err.msg);
    else if (got.kind == QN_GOT_ERROR)
        qn_remote_complain(got.text, got.text_len);
    else if (got.kind == QN_GOT_SAMPLE && p->done < p->all)
        qn_cli_progress(NULL, "comparing", (double)++p->done / p->all);
    else if (got.kind == QN_GOT_COMPARISON)
        qn_buf_add(&p->reply, json, n);
    ok = ok && got.kind != QN_GOT_ERROR;
    qn_api_received_free(&got);
    return ok;
}

static int print_received(const struct options *o, const struct qn_buf *json) {
    struct qn_api_received got;
    struct qn_api_err err = {.code = QN_API_OK};
    int rc = 1;
    if (qn_api_receive(json->n ? json->p : "", json->n, &got, &err))
        fprintf(stderr, "quern: the reply is not understood: %s\n", err.msg);
    else if (got.kind != QN_GOT_COMPARISON)
        fprintf(stderr, "quern: the reply is not understood: it is of another kind\n");
    else if (o->json)
        rc = printf("%.*s\n", (int)json->n, json->p) < 0 || fflush(stdout) ? 1 : 0;
    else
        rc = print(o, &got.comparison);
    qn_api_received_free(&got);
    return rc;
}

static int run_remote(const struct options *o, struct qn_api_compare *r) {
    struct qn_api_err err = {.code = QN_API_OK};
    struct progress progress = {.done = 0};
    struct qn_remote_sink sink = {.event = on_event, .ctx = &progress};
    struct qn_api_compare defaults;
    struct qn_buf body = {0};
    if (!r->n_structures && choose_remote(o, r)) return 1;
    if (qn_api_compare_check(r, &err)) return complain(&err);
    progress.all = r->n_structures * (r->repeats + 1);
    r->run.stream = true;
    qn_api_compare_init(&defaults);
    qn_api_request_write(&body, &qn_api_compare_table, r, &defaults);
    int rc = body.failed ? 1 : qn_remote_call(&o->remote, "/v1/compare", &body, &sink);
    qn_cli_progress(NULL, "comparing", 1);
    if (!rc) rc = print_received(o, progress.reply.n ? &progress.reply : &sink.body);
    qn_buf_free(&progress.reply);
    qn_buf_free(&sink.body);
    qn_buf_free(&body);
    return rc;
}

/* ---- the command ---- */
#define FAILED 3 /* of parse: a failure that is not one of usage */

static int prepare(struct options *o, struct qn_api_compare *r) {
    struct qn_api_err err = {.code = QN_API_OK};
    if (!o->remote.url) {
        if (!o->model_path) o->model_path = qn_model_builtin();
        if (!o->model_path) {
            fprintf(stderr, "quern: " QN_NO_MODEL_HINT "\n");
            return 2;
        }
        return qn_local_kv_type(o->kv_name ? o->kv_name : "f16", &o->kv_type) ? 0 : 2;
    }
    if (o->kv_name || o->threads != qn_cpu_threads(NULL)) {
        fprintf(stderr, "quern: --threads and --kv-type are the server's: they can't be given with --url\n");
        return 2;
    }
    if (o->model_path && qn_api_infer_set(&r->run, "model", o->model_path, &err))
        return complain(&err) == 1 ? FAILED : 2;
    o->remote.stop = &interrupted;
    int rc = qn_remote_prepare(&o->remote);
    return rc == 1 ? FAILED : rc;
}

static int parse(struct options *o, struct qn_api_compare *r, int argc, char **argv) {
    const struct qn_cli_option options[] = {
        {"model", QN_CLI_STRING, &o->model_path, 0, 0, "MODEL", QN_MODEL_HELP "; with --url: its name there"},
        {"prompt", QN_CLI_STRING, &o->prompt, 0, 0, "TEXT", "the sequence"},
        {"file", QN_CLI_STRING, &o->file, 0, 0, "FILE", "the sequence from a file, - for standard input"},
        {"structures", QN_CLI_STRING, &o->structures, 0, 0, "LIST",
         "attention+ffn+sharing,… with parameters in brackets, or all (the default)"},
        {"convert", QN_CLI_FLAG, &o->convert, 0, 0, NULL, "also allow approximate and untrained conversions"},
        {"task", QN_CLI_STRING, &o->task, 0, 0, "TASK", "generate (the default) or score"},
        {"max-tokens", QN_CLI_UINT, &o->max_tokens, 0, 1048576, "N", "tokens to generate"},
        {"ignore-eos", QN_CLI_FLAG, &o->ignore_eos, 0, 0, NULL, "go on past tokens that end a text"},
        {"repeats", QN_CLI_UINT, &o->repeats, 1, QN_COMPARE_REPEATS, "N", "measured runs of each structure"},
        {"baseline", QN_CLI_UINT, &o->baseline, 0, QN_COMPARE_STRUCTURES - 1, "I",
         "which structure the others are held against, from 0"},
        {"threads", QN_CLI_THREADS, &o->threads, 1, 256, "N", "compute threads"},
        {"kv-type", QN_CLI_STRING, &o->kv_name, 0, 0, QN_KV_TYPE_WORDS, QN_KV_TYPE_HELP},
        {"json", QN_CLI_FLAG, &o->json, 0, 0, NULL, "print the reply of POST /v1/compare"},
        {"csv", QN_CLI_FLAG, &o->csv, 0, 0, NULL, "print one line for each structure"},
        QN_REMOTE_OPTIONS(&o->remote),
    };
    struct qn_cli cli = {.name = "compare",
                         .usage = "quern compare [options] --prompt TEXT",
                         .about =
                             "Runs one sequence in several structures, in turn, and prints what each costs "
                             "and how far it\nis from the baseline. Example: --structures "
                             "'gqa,mqa,performer(features=64)+moe+all'",
                         .options = options,
                         .n_options = sizeof options / sizeof *options};
    int bad = qn_cli_parse(&cli, argc, argv);
    if (bad) return bad;
    if (o->json && o->csv) {
        fprintf(stderr, "quern: --json or --csv, not both\n");
        return 2;
    }
    return prepare(o, r);
}

int qn_cmd_compare(int argc, char **argv) {
    struct options o = {.structures = "all",
                        .task = "generate",
                        .repeats = 5,
                        .max_tokens = 64,
                        .threads = qn_cpu_threads(NULL),
                        .remote.idle_s = QN_REMOTE_IDLE};
    struct qn_api_compare r;
    qn_api_compare_init(&r);
    int code = parse(&o, &r, argc, argv);
    if (code) {
        qn_api_compare_free(&r);
        return code == FAILED ? 1 : code == 1 ? 0 : 2;
    }
    code = set_request(&o, &r);
    if (!code) {
        struct sigaction sa = {.sa_handler = on_sigint};
        sigaction(SIGINT, &sa, NULL);
        code = o.remote.url ? run_remote(&o, &r) : run_local(&o, &r);
    }
    qn_api_compare_free(&r);
    return code;
}
