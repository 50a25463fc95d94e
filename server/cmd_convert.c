/* quern convert FILE --type T --out FILE: writes a checkpoint as GGUF in another type, for quern and for
 * llama.cpp. Thread: main, and the pool. Ctrl-C stops it and leaves nothing behind. */
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>

#include "kernels/cpu.h"
#include "kernels/pool.h"
#include "model/save/save.h"
#include "server/cli.h"
#include "server/cmd.h"

static atomic_bool stop;

static void on_signal(int sig) {
    (void)sig;
    atomic_store(&stop, true);
}

/* A second signal ends the process. A file size limit is an error of write, not a signal. */
static void catch_signals(void) {
    struct sigaction sa = {.sa_handler = on_signal, .sa_flags = (int)SA_RESETHAND};
    sigaction(SIGINT, &sa, NULL);
    sigaction(SIGTERM, &sa, NULL);
    signal(SIGXFSZ, SIG_IGN);
    signal(SIGPIPE, SIG_IGN);
}

static void print_report(const struct qn_convert_report *r, const char *out) {
    char size[32];
    /* To the error stream: what is written may be the standard output. */
    fprintf(stderr, "%s: %s, %u tensors", out, qn_cli_bytes(size, r->file_bytes), r->tensors);
    for (size_t i = 0; i < QN_CONVERT_TYPES && r->by_type[i].name; i++)
        fprintf(stderr, "%s%u %s", i ? ", " : ": ", r->by_type[i].tensors, r->by_type[i].name);
    fprintf(stderr, "; %u copied as they were", r->kept);
    if (r->fell_back) fprintf(stderr, "; %u in a type that their rows fit", r->fell_back);
    fprintf(stderr, "\n");
}

int qn_cmd_convert(int argc, char **argv) {
    const char *path = NULL;
    struct qn_convert_options opt = {.cancel = &stop, .progress = qn_cli_progress};
    uint32_t threads = qn_cpu_threads(NULL);
    const struct qn_cli_option options[] = {
        {"type", QN_CLI_STRING, &opt.type, 0, 0, "TYPE", qn_convert_types()},
        {"out", QN_CLI_STRING, &opt.out, 0, 0, "FILE", "the GGUF file to write"},
        {"force", QN_CLI_FLAG, &opt.replace, 0, 0, NULL, "replace FILE if it is there"},
        {"threads", QN_CLI_THREADS, &threads, 1, 256, "N", "compute threads"},
    };
    struct qn_cli cli = {.name = "convert",
                         .usage = "quern convert MODEL --type TYPE --out FILE [options]",
                         .about =
                             "Writes a checkpoint as GGUF in another type. MODEL is a GGUF or safetensors "
                             "file, a directory, or synthetic:…",
                         .options = options,
                         .n_options = sizeof options / sizeof *options,
                         .argument = "FILE",
                         .positional = &path,
                         .max_positional = 1};
    int r = qn_cli_parse(&cli, argc, argv);
    if (r) return r == 1 ? 0 : 2;
    if (!path || !opt.type || !opt.out) {
        fprintf(stderr, "usage: %s\n", cli.usage);
        return 2;
    }
    struct qn_err err = {0};
    struct qn_convert_report report = {0};
    catch_signals();
    opt.pool = qn_pool_new(threads);
    r = opt.pool ? qn_model_convert(path, &opt, &report, &err) : qn_err_set(&err, QN_ERR_NOMEM, "no threads");
    qn_pool_free(&opt.pool);
    if (r == QN_OK) {
        print_report(&report, opt.out);
        return 0;
    }
    bool exists = strcmp(err.param, "out") == 0 && strstr(err.msg, "exists already");
    fprintf(stderr, "quern: %s%s\n", err.msg, exists ? " (--force replaces it)" : "");
    return strcmp(err.param, "type") == 0 ? 2 : 1;
}
