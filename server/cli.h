/* Option tables of the one-shot commands (run, inspect, bench): parsing, bounds, --help (also as man page and
 * completion: server/cli_page.h), and the progress line on a terminal. `quern serve` has its own table with
 * environment and file (server/config.h). Thread: main. */
#ifndef QN_SERVER_CLI_H
#define QN_SERVER_CLI_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "server/cli_page.h"

enum qn_cli_kind {
    QN_CLI_FLAG = 0, /* bool */
    QN_CLI_UINT,     /* uint32_t */
    QN_CLI_THREADS,  /* uint32_t whose default is the machine's */
    QN_CLI_STRING    /* const char * */
};

struct qn_cli_option {
    const char *name; /* without the dashes */
    enum qn_cli_kind kind;
    void *value;       /* holds the default before parsing */
    uint32_t min, max; /* UINT, THREADS */
    const char *meta;  /* "N", "PATH", … ; NULL for flags */
    const char *help;
};

struct qn_cli {
    const char *name;  /* "bench", or with the option of its mode: "bench --machine" */
    const char *usage; /* "quern bench --model PATH [options]" */
    const char *about;
    const struct qn_cli_option *options;
    size_t n_options;
    /* Called for --name value that the table does not know; 0 when taken, -1 when unknown or wrong (it has
     * then printed why unless it returns 1 = not mine). NULL: none. */
    int (*other)(void *ctx, const char *name, const char *value);
    void (*other_help)(struct qn_cli_page *page); /* adds rows for what `other` takes */
    void *ctx;
    const char *argument;    /* for the completion: what a positional argument is, as a meta; NULL: text */
    const char **positional; /* receives at most max_positional arguments */
    uint32_t max_positional, n_positional;
};

/* 0: go on; 1: --help was printed (exit 0); 2: usage error, printed to stderr. */
int qn_cli_parse(struct qn_cli *cli, int argc, char **argv);

/* A progress function for qn_open_options: one line on stderr when it is a terminal, else nothing. ctx
 * unused. */
void qn_cli_progress(void *ctx, const char *phase, double done);

/* "1.5 MiB" into buf; returns buf. */
const char *qn_cli_bytes(char buf[32], uint64_t n);

#endif
