/* The subcommands of quern. Each gets argc/argv with argv[0] = its own name, and returns the exit status: 0,
 * 1 (runtime failure, said on stderr) or 2 (usage, said on stderr). Only main.c ends the process. */
#ifndef QN_SERVER_CMD_H
#define QN_SERVER_CMD_H

/* Or-ed into a returned status: end the process at once, without atexit handlers or waiting for threads (a
 * second signal, or a signal while models are still loading). */
#define QN_EXIT_NOW 0x100

int qn_cmd_serve(int argc, char **argv);
int qn_cmd_run(int argc, char **argv);
int qn_cmd_compare(int argc, char **argv);
int qn_cmd_inspect(int argc, char **argv);
int qn_cmd_bench(int argc, char **argv);
/* quern healthcheck [--url http://HOST:PORT/PATH]: 0 when it answers 200. Used by container health checks. */
int qn_cmd_healthcheck(int argc, char **argv);

/* The model to use when none is named: models/SmolLM2-135M-Instruct.Q4_1.gguf below the working directory,
 * then below the folder above the binary's. Static storage; NULL when there is none. */
const char *qn_default_model(void);
/* What to tell the user then. */
#define QN_NO_MODEL_HINT                                                                                     \
    "no model: give --model PATH, or run `make model` to fetch models/SmolLM2-135M-Instruct.Q4_1.gguf"

#endif
