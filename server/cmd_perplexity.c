/* quern perplexity --model FILE --text FILE: how well a checkpoint predicts a text, with quern's arithmetic,
 * with exact f32 arithmetic on the same values (--exact), or with both and their difference (--compare).
 * Thread: main. */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "kernels/cpu.h"
#include "kernels/pool.h"
#include "server/cli.h"
#include "server/cmd.h"
#include "server/cmd_bench.h"
#include "server/local.h"
#include "server/perplexity.h"

#define MAX_TEXT ((size_t)1 << 31)
#define MAX_STEP 4096

struct measure {
    const char *model_path, *text_path, *kv_name;
    enum qn_state_type kv_type;
    uint32_t ctx, windows, batch, threads;
    bool exact, compare, f16_as_bf16, json;
    char *text;
    size_t text_bytes;
    struct qn_pool *pool;
    char id[65];
};

/* One way of computing. */
struct result {
    struct qn_perplexity p;
    double seconds;
};

/* ---- text ---- */

/* All of a stream; NULL with a message. */
static char *read_all(FILE *f, const char *name, size_t *n) {
    size_t cap = 1 << 16;
    char *p = malloc(cap);
    *n = 0;
    while (p) {
        *n += fread(p + *n, 1, cap - *n, f);
        if (*n < cap) break;
        char *grown = cap < MAX_TEXT ? realloc(p, cap * 2) : NULL;
        if (!grown) {
            free(p);
            fprintf(stderr, "quern: %s is too long\n", name);
            return NULL;
        }
        p = grown;
        cap *= 2;
    }
    if (p && !ferror(f)) return p;
    fprintf(stderr, "quern: %s can't be read: %s\n", name, p ? strerror(errno) : "out of memory");
    free(p);
    return NULL;
}

static bool read_text(struct measure *m) {
    bool standard = strcmp(m->text_path, "-") == 0;
    FILE *f = standard ? stdin : fopen(m->text_path, "rb");
    if (!f) {
        fprintf(stderr, "quern: cannot open '%s': %s\n", m->text_path, strerror(errno));
        return false;
    }
    m->text = read_all(f, standard ? "standard input" : m->text_path, &m->text_bytes);
    if (!standard) fclose(f);
    return m->text != NULL;
}

/* ---- one run ---- */

/* ctx: seconds since the start are told by the caller's clock. */
static void show_progress(void *ctx, const struct qn_perplexity *p, uint32_t windows) {
    const uint64_t *start = ctx;
    double s = (double)(qn_now_ns() - *start) * 1e-9;
    fprintf(stderr, "\rwindow %" PRIu32 " of %" PRIu32 ", perplexity %.4f +/- %.4f, %.0f s left   ",
            p->windows, windows, qn_perplexity_value(p), qn_perplexity_error(p),
            s / p->windows * (windows - p->windows));
    if (p->windows == windows) fprintf(stderr, "\r%76s\r", "");
    fflush(stderr);
}

static int run_model(struct measure *m, struct qn_model *model, struct result *out, struct qn_err *err) {
    struct qn_structure_request native = {.causal = true};
    struct qn_variant *v = NULL;
    int32_t *tokens = NULL;
    size_t n = 0;
    uint64_t start = 0;
    struct qn_perplexity_options opt = {.ctx = m->ctx,
                                        .windows = m->windows,
                                        .batch = m->batch,
                                        .step_tokens = MAX_STEP,
                                        .progress = isatty(STDERR_FILENO) ? show_progress : NULL,
                                        .progress_ctx = &start};
    snprintf(m->id, sizeof m->id, "%s", qn_model_info(model)->id);
    int rc = qn_model_tokenize(model, m->text, m->text_bytes, true, 0, &tokens, &n, err);
    if (rc == QN_OK) rc = qn_variant_resolve(model, &native, &v, err);
    if (rc == QN_OK) rc = qn_variant_prepare(v, NULL, err);
    start = qn_now_ns();
    if (rc == QN_OK) rc = qn_perplexity_run(v, tokens, n, &opt, &out->p, err);
    out->seconds = (double)(qn_now_ns() - start) * 1e-9;
    if (v) qn_variant_unref(v);
    free(tokens);
    return rc;
}

static int run(struct measure *m, bool exact, struct result *out, struct qn_err *err) {
    struct qn_model *model = NULL;
    struct qn_open_options opt = {.pool = m->pool,
                                  .state_type = exact ? QN_STATE_F32 : m->kv_type,
                                  .max_step_tokens = MAX_STEP,
                                  .exact = exact,
                                  .f16_as_bf16 = m->f16_as_bf16 && !exact,
                                  .progress = qn_cli_progress};
    int rc = qn_model_open(m->model_path, &opt, &model, err);
    if (rc == QN_OK) rc = run_model(m, model, out, err);
    qn_model_close(&model);
    return rc;
}

/* ---- results ---- */

static void print_row(const struct measure *m, const struct result *r, bool exact) {
    printf("{\"perplexity\":%.6f,\"stderr\":%.6f,\"nll\":%.8f,\"scored\":%" PRIu64 ",\"windows\":%" PRIu32
           ",\"ctx\":%" PRIu32 ",\"arithmetic\":\"%s\",\"state_type\":\"%s\",\"seconds\":%.3f,"
           "\"tokens_per_second\":%.2f}",
           qn_perplexity_value(&r->p), qn_perplexity_error(&r->p), r->p.nll / (double)r->p.scored,
           r->p.scored, r->p.windows, m->ctx, exact ? "exact" : "packed", exact ? "f32" : m->kv_name,
           r->seconds, (double)r->p.windows * m->ctx / r->seconds);
}

/* Of the first against the second, in percent. */
static double difference(const struct result r[2]) {
    return 100 * (qn_perplexity_value(&r[0].p) / qn_perplexity_value(&r[1].p) - 1);
}

static void print_json(const struct measure *m, const struct result r[2]) {
    printf("{\"model\":");
    qn_bench_json_string(m->id);
    printf(",\"quern\":\"%s\",\"isa\":\"%s\",\"threads\":%" PRIu32 ",\"results\":[", QN_VERSION,
           qn_isa_name(qn_cpu_isa()), m->threads);
    print_row(m, &r[0], m->exact);
    if (m->compare) {
        printf(",");
        print_row(m, &r[1], true);
    }
    printf("]");
    if (m->compare) printf(",\"difference_percent\":%.5f", difference(r));
    printf("}\n");
}

static void print_text(const struct measure *m, const struct result r[2]) {
    printf("%s: %" PRIu32 " windows of %" PRIu32 " tokens, %" PRIu64 " predictions, %.1f s\n", m->id,
           r->p.windows, m->ctx, r->p.scored, r->seconds);
    printf("perplexity: %.4f +/- %.4f (%s)\n", qn_perplexity_value(&r->p), qn_perplexity_error(&r->p),
           m->exact ? "exact arithmetic" : m->kv_name);
    if (!m->compare) return;
    printf("perplexity: %.4f +/- %.4f (exact arithmetic, %.1f s)\n", qn_perplexity_value(&r[1].p),
           qn_perplexity_error(&r[1].p), r[1].seconds);
    printf("difference: %+.4f %%\n", difference(r));
}

static int measure(struct measure *m, struct qn_err *err) {
    struct result r[2] = {{.seconds = 0}};
    int rc = run(m, m->exact, &r[0], err);
    if (rc == QN_OK && m->compare) rc = run(m, true, &r[1], err);
    if (rc == QN_OK) (m->json ? print_json : print_text)(m, r);
    return rc;
}

int qn_cmd_perplexity(int argc, char **argv) {
    struct measure m = {.kv_name = "f16", .ctx = 512, .batch = 4};
    m.threads = qn_cpu_threads(NULL);
    m.model_path = qn_model_builtin();
    const struct qn_cli_option options[] = {
        {"model", QN_CLI_STRING, &m.model_path, 0, 0, "MODEL", QN_MODEL_HELP},
        {"text", QN_CLI_STRING, &m.text_path, 0, 0, "FILE", "UTF-8 text; - reads standard input"},
        {"ctx", QN_CLI_UINT, &m.ctx, QN_PERPLEXITY_CTX_MIN, 1u << 20, "N", "tokens of a window"},
        {"chunks", QN_CLI_UINT, &m.windows, 0, UINT32_MAX, "N", "most windows, 0 takes all"},
        {"batch", QN_CLI_UINT, &m.batch, 1, 64, "N", "windows at a time"},
        {"threads", QN_CLI_THREADS, &m.threads, 1, 256, "N", "compute threads"},
        {"kv-type", QN_CLI_STRING, &m.kv_name, 0, 0, QN_KV_TYPE_WORDS, QN_KV_TYPE_HELP},
        {"f16-as-bf16", QN_CLI_FLAG, &m.f16_as_bf16, 0, 0, NULL, "round F16 weights to BF16"},
        {"exact", QN_CLI_FLAG, &m.exact, 0, 0, NULL,
         "f32 arithmetic on the file's values: weights, activations, keys and values"},
        {"compare", QN_CLI_FLAG, &m.compare, 0, 0, NULL, "both arithmetics, and their difference"},
        {"json", QN_CLI_FLAG, &m.json, 0, 0, NULL, "print one JSON object instead of text"},
    };
    struct qn_cli cli = {.name = "perplexity",
                         .usage = "quern perplexity --model PATH --text FILE [options]",
                         .about = "Measures how well a model predicts a text, in windows of which the second "
                                  "half counts.",
                         .options = options,
                         .n_options = sizeof options / sizeof *options};
    int r = qn_cli_parse(&cli, argc, argv);
    if (r) return r == 1 ? 0 : 2;
    if (!m.model_path || !m.text_path) {
        fprintf(stderr, "quern: %s\n", m.model_path ? "no text: give --text FILE" : QN_NO_MODEL_HINT);
        return 2;
    }
    if (!qn_local_kv_type(m.kv_name, &m.kv_type)) return 2;
    if (m.exact && m.compare) {
        fprintf(stderr, "quern: --exact and --compare exclude each other\n");
        return 2;
    }
    struct qn_err err = {0};
    if (!read_text(&m)) return 1;
    m.pool = qn_pool_new(m.threads);
    r = m.pool ? measure(&m, &err) : qn_err_set(&err, QN_ERR_NOMEM, "no threads");
    if (r) fprintf(stderr, "quern: %s\n", err.msg);
    qn_pool_free(&m.pool);
    free(m.text);
    return r ? 1 : 0;
}
