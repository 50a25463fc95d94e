/* Options of a command, written for a terminal, for man and for bash; see cli_page.h. Data flow: rows ->
 * stdout. Thread: main. */
#include "server/cli_page.h"

#include <stdio.h>
#include <string.h>

bool qn_cli_is_help(const char *arg, enum qn_cli_format *format) {
    static const char *const names[] = {"--help", "--help=man", "--help=completion"};
    *format = QN_CLI_TEXT;
    if (!strcmp(arg, "-h")) return true;
    for (int i = 0; i < 3; i++) {
        if (strcmp(arg, names[i]) != 0) continue;
        *format = (enum qn_cli_format)i;
        return true;
    }
    return false;
}

struct qn_cli_row *qn_cli_page_add(struct qn_cli_page *p, const char *name, const char *meta,
                                   const char *help) {
    struct qn_cli_row *r = &p->rows[p->n < QN_CLI_ROWS ? p->n : QN_CLI_ROWS - 1];
    if (p->n < QN_CLI_ROWS) p->n++;
    memset(r, 0, sizeof *r);
    snprintf(r->name, sizeof r->name, "%s", name);
    r->meta = meta;
    r->help = help;
    return r;
}

/* ---- a terminal ---- */

static void print_text(const struct qn_cli_page *p) {
    printf("usage: %s\n%s\n\noptions:\n", p->usage, p->about);
    for (size_t i = 0; i < p->n; i++) {
        const struct qn_cli_row *r = &p->rows[i];
        char left[96];
        if (i && i == p->fields) printf("\nrequest fields (as in the HTTP API):\n");
        snprintf(left, sizeof left, "--%s%s%s", r->name, r->meta ? " " : "", r->meta ? r->meta : "");
        printf("  %-25s  %s%s%s%s\n", left, r->help, r->initial[0] ? " (default " : "", r->initial,
               r->initial[0] ? ")" : "");
    }
}

/* ---- man ---- */

void qn_cli_roff(const char *s) {
    bool start = true;
    for (; *s; s++) {
        if (start && (*s == '.' || *s == '\'')) fputs("\\&", stdout);
        if (*s == '\\')
            fputs("\\e", stdout);
        else if (*s == '-')
            fputs("\\-", stdout);
        else
            putchar(*s);
        start = *s == '\n';
    }
}

static void print_man(const struct qn_cli_page *p) {
    printf(".SS quern ");
    qn_cli_roff(p->name);
    printf("\n.B ");
    qn_cli_roff(p->usage);
    printf("\n.PP\n");
    qn_cli_roff(p->about);
    putchar('\n');
    for (size_t i = 0; i < p->n; i++) {
        const struct qn_cli_row *r = &p->rows[i];
        if (i && i == p->fields)
            printf(".PP\nAnd the fields of a request, as they are named in the HTTP API, as options:\n");
        printf(".TP\n\\fB\\-\\-");
        qn_cli_roff(r->name);
        printf("\\fR");
        if (r->meta) {
            printf(" \\fI");
            qn_cli_roff(r->meta);
            printf("\\fR");
        }
        putchar('\n');
        qn_cli_roff(r->help);
        if (r->initial[0]) {
            printf(" (default ");
            qn_cli_roff(r->initial);
            putchar(')');
        }
        putchar('\n');
    }
}

/* ---- bash ---- */

/* What may stand there: the words of "a|b|c", files, or nothing that a shell could know. */
static void print_values(const char *meta) {
    static const char *const files[] = {"MODEL", "FILE", "PATH"};
    const char *optional = meta[0] == '[' ? strchr(meta, ']') : NULL; /* [NAME=]MODEL */
    if (optional) meta = optional + 1;
    for (size_t i = 0; i < sizeof files / sizeof *files; i++) {
        if (strcmp(meta, files[i]) != 0) continue;
        printf("_quern_files \"$cur\"%s ;;\n", i == 0 ? " grist" : "");
        return;
    }
    bool words = meta[0] >= 'a' && meta[0] <= 'z';
    printf(words ? "_quern_words \"$cur\" " : ":");
    for (const char *s = meta; words && *s; s++) putchar(*s == '|' ? ' ' : *s);
    printf(" ;;\n");
}

static void print_completion(const struct qn_cli_page *p) {
    printf("    '%s')\n        case $prev:$cur in\n", p->name);
    for (size_t i = 0; i < p->n; i++) {
        if (!p->rows[i].meta) continue;
        printf("        --%s:*) ", p->rows[i].name);
        print_values(p->rows[i].meta);
    }
    if (p->argument) {
        printf("        *:[!-]* | *:) ");
        print_values(p->argument);
    }
    printf("        *) _quern_words \"$cur\"");
    for (size_t i = 0; i < p->n; i++) printf(" --%s", p->rows[i].name);
    printf(" --help ;;\n        esac ;;\n");
}

void qn_cli_page_print(const struct qn_cli_page *p, enum qn_cli_format format) {
    if (format == QN_CLI_MAN)
        print_man(p);
    else if (format == QN_CLI_COMPLETION)
        print_completion(p);
    else
        print_text(p);
}
