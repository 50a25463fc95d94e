/* Option tables of the one-shot commands: a table in, typed values out; unknown options are errors. */
#include "server/cli.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static void help(const struct qn_cli *cli, enum qn_cli_format format) {
    struct qn_cli_page page = {
        .usage = cli->usage, .about = cli->about, .name = cli->name, .argument = cli->argument};
    for (size_t i = 0; i < cli->n_options; i++) {
        const struct qn_cli_option *o = &cli->options[i];
        struct qn_cli_row *r = qn_cli_page_add(&page, o->name, o->meta, o->help);
        bool here = o->kind == QN_CLI_THREADS && format != QN_CLI_TEXT; /* this machine's: not for a manual */
        if ((o->kind == QN_CLI_UINT || o->kind == QN_CLI_THREADS) && !here)
            snprintf(r->initial, sizeof r->initial, "%u", *(const uint32_t *)o->value);
    }
    page.fields = page.n;
    if (cli->other_help) cli->other_help(&page);
    qn_cli_page_print(&page, format);
}

static int set_uint(const struct qn_cli_option *o, const char *text) {
    char *end = NULL;
    errno = 0;
    unsigned long v = text[0] >= '0' && text[0] <= '9' ? strtoul(text, &end, 10) : 0;
    if (!end || *end || errno || v < o->min || v > o->max) {
        fprintf(stderr, "quern: --%s must be a whole number from %u to %u, not \"%.40s\"\n", o->name, o->min,
                o->max, text);
        return 2;
    }
    *(uint32_t *)o->value = (uint32_t)v;
    return 0;
}

static int set_value(const struct qn_cli_option *o, const char *value) {
    if (o->kind == QN_CLI_UINT || o->kind == QN_CLI_THREADS) return set_uint(o, value);
    *(const char **)o->value = value;
    return 0;
}

/* One --name [value] or --name=value at argv[*i]; advances *i over a separate value. */
static int parse_option(struct qn_cli *cli, int argc, char **argv, int *i) {
    const char *name = argv[*i] + 2, *eq = strchr(name, '=');
    size_t n = eq ? (size_t)(eq - name) : strlen(name);
    const char *value = eq ? eq + 1 : *i + 1 < argc ? argv[*i + 1] : NULL;
    if (n == strlen("state-type") && strncmp(name, "state-type", n) == 0) { /* its first name */
        name = "kv-type";
        n = strlen(name);
    }
    for (size_t k = 0; k < cli->n_options; k++) {
        const struct qn_cli_option *o = &cli->options[k];
        if (strlen(o->name) != n || strncmp(o->name, name, n) != 0) continue;
        if (o->kind == QN_CLI_FLAG) {
            if (eq) break;
            *(bool *)o->value = true;
            return 0;
        }
        if (!value) {
            fprintf(stderr, "quern: --%s needs a value\n", o->name);
            return 2;
        }
        if (!eq) (*i)++;
        return set_value(o, value);
    }
    if (cli->other && n < 64) {
        char key[64];
        memcpy(key, name, n);
        key[n] = '\0';
        int r = cli->other(cli->ctx, key, value);
        if (r == 0 && !eq) (*i)++;
        if (r <= 0) return r < 0 ? 2 : 0;
    }
    fprintf(stderr, "quern: unknown option %.80s (see --help)\n", argv[*i]);
    return 2;
}

int qn_cli_parse(struct qn_cli *cli, int argc, char **argv) {
    enum qn_cli_format format;
    cli->n_positional = 0;
    for (int i = 1; i < argc; i++) {
        if (qn_cli_is_help(argv[i], &format)) {
            help(cli, format);
            return 1;
        }
        if (argv[i][0] == '-' && argv[i][1] == '-' && argv[i][2]) {
            int r = parse_option(cli, argc, argv, &i);
            if (r) return r;
        } else if (cli->n_positional < cli->max_positional) {
            cli->positional[cli->n_positional++] = argv[i];
        } else {
            fprintf(stderr, "quern: unexpected argument \"%.80s\" (see --help)\n", argv[i]);
            return 2;
        }
    }
    return 0;
}

void qn_cli_progress(void *ctx, const char *phase, double done) {
    (void)ctx;
    if (!isatty(STDERR_FILENO)) return;
    int filled = (int)(done * 30.0);
    fprintf(stderr, "\r%-10s [%.*s%*s] %3.0f %%", phase, filled, "##############################",
            30 - filled, "", done * 100.0);
    /* The line is wiped when a phase ends, so that what follows starts on a clean one. */
    if (done >= 1.0) fprintf(stderr, "\r%60s\r", "");
    fflush(stderr);
}

const char *qn_cli_bytes(char buf[32], uint64_t n) {
    static const char *const unit[] = {"B", "KiB", "MiB", "GiB", "TiB"};
    double v = (double)n;
    size_t u = 0;
    while (v >= 1024.0 && u < 4) {
        v /= 1024.0;
        u++;
    }
    snprintf(buf, 32, u ? "%.1f %s" : "%.0f %s", v, unit[u]);
    return buf;
}
