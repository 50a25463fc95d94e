/* The option table of `quern serve`, shared by the parser, --help and --print-config. Private to
 * server/config*.c. */
#ifndef QN_SERVER_CONFIG_TABLE_H
#define QN_SERVER_CONFIG_TABLE_H

#include <stddef.h>
#include <stdint.h>

#include "server/config.h"

enum qn_opt_type {
    QN_OPT_U32 = 0, /* decimal */
    QN_OPT_U64,     /* decimal */
    QN_OPT_BYTES,   /* size_t; suffixes KiB MiB GiB (k m g), kB MB GB */
    QN_OPT_MS,      /* uint32_t milliseconds; suffixes ms s m; a bare number is seconds */
    QN_OPT_SWITCH,  /* bool: on | off */
    QN_OPT_CHOICE,  /* bool: words[0] = false, words[1] = true */
    QN_OPT_LEVEL,   /* int: index of the word */
    QN_OPT_STRING,  /* const char *, a path */
    QN_OPT_MODEL,   /* models[] and model_names[], repeatable */
    QN_OPT_LISTEN,  /* listen_host and listen_port */
    QN_OPT_TEMPLATE /* const char *, a name that qn_model_chat_known knows */
};

struct qn_option {
    const char *name; /* without the dashes; QUERN_ + upper case is its environment variable */
    enum qn_opt_type type;
    size_t offset;       /* of the field in struct qn_config */
    uint64_t min, max;   /* in the field's unit; 0, 0 for words and strings */
    const char *initial; /* default, in the option's own syntax; NULL = none */
    const char *words[5];
    const char *arg, *help;
};

extern const struct qn_option qn_options[];
extern const size_t qn_n_options;

#endif
