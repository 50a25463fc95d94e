/* quern man, quern completion, quern reference: what the tables of options and fields say, for people and
 * programs. Data flow: the table of commands, each of which prints its own options (--help=…); the list of
 * endpoints -> stdout. Thread: main. */
#include <stdio.h>
#include <string.h>

#include "api/openapi.h"
#include "api/reference.h"
#include "server/cli.h"
#include "server/cmd.h"
#include "server/commands.h"

/* Every command prints its options in that format. */
static int each_command(const char *format) {
    size_t n;
    const struct qn_command *c = qn_commands(&n);
    for (size_t i = 0; i < n; i++) {
        char name[32], mode[32], help[32];
        snprintf(name, sizeof name, "%s", c[i].name);
        snprintf(mode, sizeof mode, "%s", c[i].mode ? c[i].mode : "");
        snprintf(help, sizeof help, "--help=%s", format);
        char *argv[] = {name, c[i].mode ? mode : help, help, NULL};
        int code = c[i].run(c[i].mode ? 3 : 2, argv);
        if (code) return code;
    }
    return 0;
}

static int finish(void) {
    return fflush(stdout) ? 1 : 0;
}

/* ---- man ---- */

static const char man_head[] =
    ".SH NAME\nquern \\- transformer inference on CPUs; every request chooses its structure\n"
    ".SH SYNOPSIS\n.B quern\n.I command\n.RI [ options ]\n.br\n.B quern\n.BR \\-\\-version \" | \" "
    "\\-\\-help\n"
    ".SH DESCRIPTION\nquern runs transformer language models on CPUs, as a service over HTTP and from the "
    "command "
    "line. Each request\nchooses the structure that it runs with (attention, feed\\-forward, sharing of "
    "layers) and is "
    "told what that cost in\ntime, memory and fidelity. A small model, grist, is built in.\n"
    ".PP\nEvery option may be written as\n.BI \\-\\-name \" VALUE\"\nor\n.BI \\-\\-name= VALUE .\n"
    ".SH COMMANDS\n";

static const char man_tail[] =
    ".SH ENVIRONMENT\n"
    ".TP\n.BI QUERN_ OPTION\nEach option of\n.B quern serve\nhas a variable: QUERN_ and its name in upper "
    "case with "
    "underscores, such as QUERN_MAX_BODY. Options win over the\nenvironment, the environment over the file "
    "of\n"
    ".BR \\-\\-config .\n"
    ".TP\n.B QUERN_CONFIG\nThe file that\n.B \\-\\-config\nnames.\n"
    ".TP\n.B QUERN_API_KEY\nThe key that\n.B quern run\nand\n.B quern compare\nsend to a server "
    "(\\fB\\-\\-url\\fR) when no\n.B \\-\\-api\\-key\\-file\nis given.\n"
    ".TP\n.B QUERN_ISA\nThe instruction set to use at most.\n"
    ".SH EXIT STATUS\n.TP\n.B 0\nSuccess.\n.TP\n.B 1\nFailure of the machine or of the server.\n"
    ".TP\n.B 2\nA mistake in the options or in the request.\n"
    ".SH EXAMPLES\n.EX\nquern serve \\-\\-listen 127.0.0.1:8080\nquern run \\-\\-attention mqa \"ROMEO:\"\n"
    "quern compare \\-\\-prompt \"ROMEO:\" \\-\\-structures gqa,mqa\n"
    "quern run \\-\\-url http://127.0.0.1:8080 \"ROMEO:\"\n.EE\n"
    ".SH SEE ALSO\nA running server describes its whole interface at /openapi.json;\n.B quern "
    "reference\nprints the same."
    "\n";

int qn_cmd_man(int argc, char **argv) {
    struct qn_cli cli = {
        .name = "man", .usage = "quern man", .about = "Prints the manual page: quern man > quern.1"};
    int r = qn_cli_parse(&cli, argc, argv);
    if (r) return r == 1 ? 0 : 2;
    printf(".TH QUERN 1 \"\" \"quern " QN_VERSION "\" \"User Commands\"\n%s", man_head);
    r = each_command("man");
    fputs(man_tail, stdout);
    return r ? r : finish();
}

/* ---- completion ---- */

static const char bash_head[] =
    "# bash completion for quern, made by `quern completion bash`\n"
    "_quern_words() { local cur=$1; shift; mapfile -t COMPREPLY < <(compgen -W \"$*\" -- \"$cur\"); }\n"
    "_quern_files() {\n"
    "    local cur=$1; shift\n"
    "    compopt -o filenames 2> /dev/null\n"
    "    mapfile -t COMPREPLY < <(compgen -f -W \"$*\" -- \"$cur\")\n"
    "}\n"
    "_quern() {\n"
    "    local cur=${COMP_WORDS[COMP_CWORD]} prev=${COMP_WORDS[COMP_CWORD-1]} command=${COMP_WORDS[1]} word\n"
    "    COMPREPLY=()\n"
    "    if [ \"$cur\" = = ]; then cur=; fi # --name=value comes as three words\n"
    "    if [ \"$prev\" = = ]; then prev=${COMP_WORDS[COMP_CWORD-2]}; fi\n";

static void bash_commands(void) {
    size_t n;
    const struct qn_command *c = qn_commands(&n);
    printf("    if [ \"$COMP_CWORD\" -eq 1 ]; then\n        _quern_words \"$cur\"");
    for (size_t i = 0; i < n; i++)
        if (!c[i].mode) printf(" %s", c[i].name);
    printf(" --help --version\n        return\n    fi\n"
           "    for word in \"${COMP_WORDS[@]:2}\"; do\n        case \"${COMP_WORDS[1]} $word\" in\n");
    for (size_t i = 0; i < n; i++)
        if (c[i].mode)
            printf("        '%s %s') command=\"${COMP_WORDS[1]} $word\" ;;\n", c[i].name, c[i].mode);
    printf("        esac\n    done\n    case $command in\n");
}

int qn_cmd_completion(int argc, char **argv) {
    const char *shell = NULL;
    struct qn_cli cli = {.name = "completion",
                         .usage = "quern completion bash",
                         .about = "Prints the completion script: source <(quern completion bash)",
                         .argument = "bash",
                         .positional = &shell,
                         .max_positional = 1};
    int r = qn_cli_parse(&cli, argc, argv);
    if (r) return r == 1 ? 0 : 2;
    if (!shell || strcmp(shell, "bash") != 0) {
        fprintf(stderr, "quern: the shell must be bash: quern completion bash\n");
        return 2;
    }
    fputs(bash_head, stdout);
    bash_commands();
    r = each_command("completion");
    fputs("    esac\n}\ncomplete -F _quern quern\n", stdout);
    return r ? r : finish();
}

/* ---- reference ---- */

int qn_cmd_reference(int argc, char **argv) {
    bool markdown = false;
    const struct qn_cli_option options[] = {
        {"markdown", QN_CLI_FLAG, &markdown, 0, 0, NULL,
         "tables of fields and errors, each after a line that names it, for docs/api.md"},
    };
    struct qn_cli cli = {.name = "reference",
                         .usage = "quern reference [--markdown]",
                         .about = "Prints what the server answers to GET /openapi.json.",
                         .options = options,
                         .n_options = sizeof options / sizeof *options};
    int r = qn_cli_parse(&cli, argc, argv);
    if (r) return r == 1 ? 0 : 2;
    struct qn_buf b = {0};
    if (markdown)
        qn_api_reference_write(&b);
    else
        qn_api_openapi_write(&b, QN_VERSION);
    bool failed = b.failed;
    if (!failed) printf("%.*s%s", (int)b.n, b.p, markdown ? "" : "\n");
    qn_buf_free(&b);
    return failed ? 1 : finish();
}
