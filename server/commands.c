/* The table of subcommands. Thread: constant data. */
#include "server/commands.h"

#include "server/cmd.h"

static const struct qn_command commands[] = {
    {"serve", NULL, qn_cmd_serve, "serve models over HTTP"},
    {"run", NULL, qn_cmd_run, "generate once, here or on a server, with a table of time and memory"},
    {"compare", NULL, qn_cmd_compare,
     "run one sequence in several structures; a table of time, memory and fidelity"},
    {"inspect", NULL, qn_cmd_inspect, "describe a model file"},
    {"convert", NULL, qn_cmd_convert, "write a model as GGUF in another type"},
    {"bench", NULL, qn_cmd_bench, "measure prompt and generation throughput"},
    {"bench", "--structures", qn_cmd_bench, "measure structures at a shape, with random weights"},
    {"bench", "--machine", qn_cmd_bench, "measure what memory and arithmetic give at most"},
    {"perplexity", NULL, qn_cmd_perplexity, "measure how well a model predicts a text"},
    {"healthcheck", NULL, qn_cmd_healthcheck, "ask a server whether it is ready"},
    {"reference", NULL, qn_cmd_reference, "print the HTTP interface: OpenAPI, or tables in Markdown"},
    {"man", NULL, qn_cmd_man, "print the manual page"},
    {"completion", NULL, qn_cmd_completion, "print the completion script of a shell (bash)"},
};

const struct qn_command *qn_commands(size_t *n) {
    *n = sizeof commands / sizeof *commands;
    return commands;
}
