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
int qn_cmd_perplexity(int argc, char **argv);
int qn_cmd_convert(int argc, char **argv);
/* quern healthcheck [--url http://HOST:PORT/PATH]: 0 when it answers 200. Used by container health checks. */
int qn_cmd_healthcheck(int argc, char **argv);
/* What the tables of options and fields say (server/cmd_reference.c). */
int qn_cmd_man(int argc, char **argv);
int qn_cmd_completion(int argc, char **argv);
int qn_cmd_reference(int argc, char **argv);

/* What to tell the user when no model is named and none is built in (qn_model_builtin). */
#define QN_NO_MODEL_HINT "no model: give --model PATH (this binary was built without model/zoo/grist)"
/* What --model takes, for the help texts. */
#define QN_MODEL_HELP "grist (built in, the default), a GGUF or safetensors file, a directory, or synthetic:…"

#endif
