/* Options of a command as text for a terminal, as a part of the man page, or as a part of the completion
 * script: one list of rows, three ways to write it. `--help`, `--help=man` and `--help=completion` of every
 * command end here. Thread: main. */
#ifndef QN_SERVER_CLI_PAGE_H
#define QN_SERVER_CLI_PAGE_H

#include <stdbool.h>
#include <stddef.h>

#define QN_CLI_ROWS 96

enum qn_cli_format { QN_CLI_TEXT = 0, QN_CLI_MAN, QN_CLI_COMPLETION };

struct qn_cli_row {
    char name[32];    /* without the dashes */
    const char *meta; /* "N", "FILE", "on|off"; NULL: takes no value */
    const char *help;
    char initial[64]; /* default; "" = none, or said in help */
};

struct qn_cli_page {
    const char *usage, *about;
    const char *argument; /* what stands without a name: "FILE", "MODEL", words; NULL: nothing to complete */
    const char *name;     /* the command, and the option that chooses its mode: "bench --machine" */
    struct qn_cli_row rows[QN_CLI_ROWS];
    size_t n;
    size_t fields; /* rows from here on are fields of a request; 0: none */
};

/* --help, --help=man, --help=completion: true, with the format. */
bool qn_cli_is_help(const char *arg, enum qn_cli_format *format);
/* A row at the end; what does not fit is left out (a test holds the tables against QN_CLI_ROWS). */
struct qn_cli_row *qn_cli_page_add(struct qn_cli_page *p, const char *name, const char *meta,
                                   const char *help);
void qn_cli_page_print(const struct qn_cli_page *p, enum qn_cli_format format);

/* Text for roff: backslashes, dashes, and dots at the start of a line. */
void qn_cli_roff(const char *s);

#endif
