/* Configuration of `quern serve`: one option table with name, environment variable, type, bounds, default and
 * help; the parser, --help, --print-config, file < environment < flags, and docs derive from it. */
#ifndef QN_SERVER_CONFIG_H
#define QN_SERVER_CONFIG_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "server/cli_page.h"
#include "server/model_arg.h"

#define QN_CONFIG_MODELS 16

struct qn_config {
    const char *models[QN_CONFIG_MODELS];                      /* paths */
    char model_names[QN_CONFIG_MODELS][QN_MODEL_NAME_MAX + 1]; /* "": from the file's */
    const char *chat_template;                                 /* NULL: as each checkpoint says */
    uint32_t n_models;
    char listen_host[256];
    uint16_t listen_port;
    uint32_t threads;         /* 0 = what affinity and cgroup allow */
    uint32_t max_connections; /* soft limit; above it: accept, 503, close */
    uint32_t header_timeout_ms, body_timeout_ms, idle_timeout_ms;
    size_t max_body;             /* bytes */
    uint32_t request_timeout_ms; /* default deadline of a request, 0 = none */
    uint32_t drain_delay_ms, drain_timeout_ms;
    uint32_t max_queue, max_running, step_tokens, prefill_chunk, reserve_tokens, max_outputs, max_tokens;
    uint64_t max_queue_tokens;
    size_t state_bytes, convert_bytes;
    bool mmap, f16_as_bf16, prefix_cache, metrics_auth, log_json, access_log;
    int log_level, kv_type; /* enum qn_state_type */
    const char *api_key_file;
    enum qn_cli_format help;                              /* how want_help wants it */
    bool want_help, want_version, want_print, want_check; /* what to do instead of serving */
};

/* Defaults < file (--config, QUERN_CONFIG) < environment < argv (argv[0] is skipped). 0; 2 with a message on
 * stderr for usage errors; 1 for --help and --version, which the caller serves. Strings point into
 * argv/environ or are kept for the process's life. */
int qn_config_load(struct qn_config *c, int argc, char **argv);
/* Source revision that was built (git), for logs and /metrics. */
const char *qn_revision(void);
void qn_config_help(enum qn_cli_format format); /* option table to stdout */
void qn_config_print(
    const struct qn_config *c); /* --print-config: file syntax, every option with its value */

#endif
