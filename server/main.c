/* The quern program: picks the subcommand, turns its result into the exit status. The only file that ends the
 * process. Thread: main. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "kernels/cpu.h"
#include "rev.h"
#include "server/cmd.h"
#include "server/commands.h"

static void help(FILE *f) {
    size_t n;
    const struct qn_command *c = qn_commands(&n);
    fputs("quern: transformer inference on CPUs; every request chooses its structure\n\n"
          "usage: quern <command> [options]\n\n",
          f);
    for (size_t i = 0; i < n; i++)
        if (!c[i].mode) fprintf(f, "  %-11s %s\n", c[i].name, c[i].about);
    fputs("\n  -V, --version   version, revision, processor level\n"
          "  -h, --help      this text; `quern <command> --help` lists a command's options\n",
          f);
}

static int version(void) {
    printf("quern %s (%s), %s, kernels %s\n", QN_VERSION, QN_REVISION, qn_cpu_model(),
           qn_isa_name(qn_cpu_isa()));
    return 0;
}

static int dispatch(int argc, char **argv) {
    if (argc < 2) {
        help(stderr);
        return 2;
    }
    const char *name = argv[1];
    if (strcmp(name, "--version") == 0 || strcmp(name, "-V") == 0) return version();
    if (strcmp(name, "--help") == 0 || strcmp(name, "-h") == 0 || strcmp(name, "help") == 0) {
        help(stdout);
        return 0;
    }
    if (strcmp(name, "--healthcheck") == 0) return qn_cmd_healthcheck(argc - 1, argv + 1);
    size_t n;
    const struct qn_command *c = qn_commands(&n);
    for (size_t i = 0; i < n; i++)
        if (strcmp(name, c[i].name) == 0) return c[i].run(argc - 1, argv + 1);
    fprintf(stderr, "quern: unknown command '%s'\n\n", name);
    help(stderr);
    return 2;
}

int main(int argc, char **argv) {
    int code = dispatch(argc, argv);
    if (code & QN_EXIT_NOW) _exit(code & 0xff);
    if (fflush(stdout) != 0 && code == 0) code = 1;
    return code;
}
