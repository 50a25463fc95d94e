/* The subcommands of quern by name: what main dispatches on, and what the man page and the completion are
 * made of. Thread: constant data. */
#ifndef QN_SERVER_COMMANDS_H
#define QN_SERVER_COMMANDS_H

#include <stddef.h>

struct qn_command {
    const char *name;
    const char *mode; /* an option that makes it another command with options of its own; NULL */
    int (*run)(int argc, char **argv);
    const char *about; /* a line of `quern --help` */
};

/* All of them; a mode follows its command. */
const struct qn_command *qn_commands(size_t *n);

#endif
