/* quern bench --structures: what each structure costs at a shape, before anything is trained for it.
 *
 *   options -> shape + lists -> structures (every combination, as synthetic models) x batches x lengths =
 * cells rounds: open the first structure, one sample of each of its cells, close; the next structure; …
 *
 * One model is in memory at a time, and rounds alternate between structures, so that what else the machine
 * does in a minute falls on all of them. Thread: main. */
#include <errno.h>
#include <inttypes.h>
#include <stdarg.h>
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

#define SHARED_VOCAB 4096    /* of a sweep over ways of sharing: a large head hides what blocks cost */
#define CONTEXT_ROOM 64      /* positions past the longest length, for decode steps */
#define LENGTH_MAX   1048576 /* tokens */

/* Published shapes. The vocabulary stands apart because a sweep over sharing replaces it. */
static const struct preset {
    const char *name, *shape, *ffn;
    uint32_t vocab;
} presets[] = {
    {"bert-base", "hidden=768,layers=12,heads=12,ffn_dim=3072,k=256,features=256", "gelu", 30522},
    {"smollm2", "hidden=576,layers=30,heads=9,ffn_dim=1536,k=256,features=256", "swiglu", 49152},
};
#define N_PRESETS (sizeof presets / sizeof *presets)

/* Options as text, before they are split. */
struct options {
    const char *shape, *lengths, *attention, *ffn, *sharing, *batch, *type, *kv_name, *format, *depth_mode,
        *only;
    uint32_t max_seconds, repeats, step_tokens, threads;
    bool structures;
};

__attribute__((format(printf, 1, 2))) static int usage(const char *fmt, ...) {
    va_list ap;
    fprintf(stderr, "quern: ");
    va_start(ap, fmt);
    vfprintf(stderr, fmt, ap);
    va_end(ap);
    fprintf(stderr, "\n");
    return 2;
}

/* --- lists --- */
/* The next of "a,b,c" into out: 1, 0 at the end, -1 when it is empty or too long. */
static int next_item(const char **text, char out[QN_SWEEP_NAME]) {
    if (!**text) return 0;
    size_t n = strcspn(*text, ",");
    if (n == 0 || n >= QN_SWEEP_NAME) return -1;
    memcpy(out, *text, n);
    out[n] = '\0';
    *text += n;
    if (**text == ',' && !*++*text) return -1;
    return 1;
}

static int split_names(const char *option, const char *text, struct qn_sweep_names *out) {
    const char *rest = text;
    char item[QN_SWEEP_NAME];
    int r;
    while ((r = next_item(&rest, item)) == 1) {
        if (out->n == QN_SWEEP_LIST) return usage("--%s: at most %d entries", option, QN_SWEEP_LIST);
        for (uint32_t i = 0; i < out->n; i++) {
            if (strcmp(out->at[i], item) == 0) return usage("--%s: \"%s\" is named twice", option, item);
        }
        memcpy(out->at[out->n++], item, sizeof item);
    }
    if (r < 0 || out->n == 0)
        return usage("--%s must be names with commas between them, not \"%.60s\"", option, text);
    return 0;
}

/* Whole numbers from 1 to max, ascending in `out`. */
static int split_numbers(const char *option, const char *text, uint32_t max, struct qn_sweep_numbers *out) {
    const char *rest = text;
    char item[QN_SWEEP_NAME];
    int r;
    while ((r = next_item(&rest, item)) == 1) {
        char *end = NULL;
        errno = 0;
        unsigned long v = item[0] >= '0' && item[0] <= '9' ? strtoul(item, &end, 10) : 0;
        if (!end || *end || errno || v < 1 || v > max)
            return usage("--%s: \"%s\" is not a whole number from 1 to %" PRIu32, option, item, max);
        if (out->n == QN_SWEEP_LIST) return usage("--%s: at most %d entries", option, QN_SWEEP_LIST);
        uint32_t i = out->n++;
        for (; i > 0 && out->at[i - 1] > v; i--) out->at[i] = out->at[i - 1];
        if (i > 0 && out->at[i - 1] == v) return usage("--%s: %lu is named twice", option, v);
        out->at[i] = (uint32_t)v;
    }
    if (r < 0 || out->n == 0)
        return usage("--%s must be whole numbers with commas between them, not \"%.60s\"", option, text);
    return 0;
}

/* --- the shape --- */
/* "key=value" of a shape by its key; NULL when it has none. */
static const char *shape_find(const char *shape, const char *key) {
    size_t n = strlen(key);
    for (const char *p = shape; *p; p += *p == ',') {
        if (strncmp(p, key, n) == 0 && p[n] == '=') return p;
        p += strcspn(p, ",");
    }
    return NULL;
}

static int set_shape(struct qn_sweep *s, const struct options *o, const char **ffn) {
    static const char *const own[][2] = {{"attention", "attention"},
                                         {"ffn", "ffn"},
                                         {"sharing", "sharing"},
                                         {"type", "type"},
                                         {"n", "lengths"}};
    const char *shape = o->shape, *name = "own shape";
    uint32_t vocab = s->sharing.n > 1 ? SHARED_VOCAB : 0;
    *ffn = "swiglu";
    for (size_t i = 0; i < N_PRESETS; i++) {
        if (strcmp(o->shape, presets[i].name) != 0) continue;
        name = presets[i].name;
        shape = presets[i].shape;
        *ffn = presets[i].ffn;
        if (!vocab) vocab = presets[i].vocab;
    }
    if (!strchr(shape, '='))
        return usage(
            "--shape must be bert-base, smollm2 or a list such as hidden=768,layers=12,heads=12; not "
            "\"%.60s\"",
            o->shape);
    for (size_t i = 0; i < sizeof own / sizeof *own; i++) {
        if (shape_find(shape, own[i][0]))
            return usage("--shape: \"%s\" has its own option, --%s", own[i][0], own[i][1]);
    }
    bool has_vocab = shape_find(shape, "vocab") != NULL;
    size_t n = (size_t)snprintf(s->shape, sizeof s->shape, "%s", shape);
    if (n < sizeof s->shape && !has_vocab && vocab)
        n += (size_t)snprintf(s->shape + n, sizeof s->shape - n, ",vocab=%" PRIu32, vocab);
    if (n >= sizeof s->shape) return usage("--shape is longer than %d bytes", QN_SWEEP_SHAPE - 1);
    snprintf(s->shape_name, sizeof s->shape_name, "%s", name);
    return 0;
}

/* The description of one structure; without the shape's kv_heads for those that have a number of their own.
 */
static void set_path(const struct qn_sweep *s, struct qn_sweep_structure *st, bool kv_heads) {
    char shape[QN_SWEEP_SHAPE];
    snprintf(shape, sizeof shape, "%s", s->shape);
    const char *found = kv_heads ? NULL : shape_find(shape, "kv_heads");
    if (found) {
        char *at = shape + (found - shape);
        size_t n = strcspn(at, ",");
        n += at[n] == ',';
        memmove(at, at + n, strlen(at + n) + 1);
    }
    size_t n = strlen(shape);
    if (n > 0 && shape[n - 1] == ',') shape[n - 1] = '\0';
    snprintf(st->path, sizeof st->path, "synthetic:%s,attention=%s,ffn=%s,sharing=%s,type=%s,n=%" PRIu32,
             shape, st->attention, st->ffn, st->sharing, s->type,
             s->lengths.at[s->lengths.n - 1] + CONTEXT_ROOM);
}

/* --- the plan --- */
static int list_structures(struct qn_sweep *s) {
    s->n_structures = s->attention.n * s->ffn.n * s->sharing.n;
    s->structures = calloc(s->n_structures, sizeof *s->structures);
    s->n_cells = s->n_structures * s->batches.n * s->lengths.n;
    s->cells = calloc(s->n_cells, sizeof *s->cells);
    if (!s->structures || !s->cells) return -1;
    for (uint32_t i = 0; i < s->n_structures; i++) {
        struct qn_sweep_structure *st = &s->structures[i];
        st->sharing = s->sharing.at[i % s->sharing.n];
        st->ffn = s->ffn.at[i / s->sharing.n % s->ffn.n];
        st->attention = s->attention.at[i / s->sharing.n / s->ffn.n];
        set_path(s, st, true);
    }
    for (uint32_t i = 0; i < s->n_cells; i++) {
        uint32_t batch = i / s->lengths.n % s->batches.n;
        s->cells[i] = (struct qn_sweep_cell){.structure = i / s->lengths.n / s->batches.n,
                                             .batch = s->batches.at[batch],
                                             .length = s->lengths.at[i % s->lengths.n],
                                             .has_prefill = s->prefill && batch == 0};
    }
    return 0;
}

/* Finds out before the first measurement whether every structure can be had. */
static int inspect(struct qn_sweep *s, struct qn_err *err) {
    struct qn_inspect *seen = calloc(1, sizeof *seen);
    int rc = seen ? QN_OK : qn_err_set(err, QN_ERR_NOMEM, "out of memory");
    for (uint32_t i = 0; i < s->n_structures && rc == QN_OK; i++) {
        struct qn_err other = {0};
        rc = qn_model_inspect(s->structures[i].path, seen, err);
        if (rc == QN_OK || !shape_find(s->shape, "kv_heads")) continue;
        set_path(s, &s->structures[i], false);
        if (qn_model_inspect(s->structures[i].path, seen, &other) == QN_OK) rc = QN_OK;
    }
    free(seen);
    return rc;
}

static void progress(const struct qn_sweep *s, uint32_t round, const struct qn_sweep_cell *c) {
    if (!isatty(STDERR_FILENO)) return;
    const struct qn_sweep_structure *st = &s->structures[c->structure];
    fprintf(stderr, "\rround %" PRIu32 "/%" PRIu32 "  %s+%s+%s  batch %" PRIu32 "  n %" PRIu32 "%20s",
            round + 1, s->repeats, st->attention, st->ffn, st->sharing, c->batch, c->length, "");
    fflush(stderr);
}

static int run_round(struct qn_sweep *s, uint32_t round, struct qn_err *err) {
    int rc = QN_OK;
    for (uint32_t i = 0; i < s->n_structures && rc == QN_OK; i++) {
        struct qn_sweep_run *run;
        uint32_t per = s->n_cells / s->n_structures;
        progress(s, round, &s->cells[(size_t)i * per]);
        rc = qn_sweep_open(s, i, &run, err);
        if (rc) return rc;
        for (uint32_t k = 0; k < per && rc == QN_OK; k++) {
            progress(s, round, &s->cells[(size_t)i * per + k]);
            rc = qn_sweep_sample(run, &s->cells[(size_t)i * per + k], err);
        }
        qn_sweep_close(&run);
    }
    return rc;
}

static int run(struct qn_sweep *s) {
    struct qn_err err = {0};
    s->pool = qn_pool_new(s->threads);
    s->state_budget = qn_cpu_memory_bytes() / 2;
    if (!s->pool || list_structures(s)) {
        fprintf(stderr, "quern: out of memory\n");
        return 1;
    }
    int rc = inspect(s, &err);
    if (rc) {
        fprintf(stderr, "quern: %s\n", err.msg);
        return rc == QN_ERR_INVALID ? 2 : 1;
    }
    for (uint32_t i = 0; i < s->repeats && rc == QN_OK; i++) rc = run_round(s, i, &err);
    if (isatty(STDERR_FILENO)) fprintf(stderr, "\r%79s\r", "");
    if (rc) {
        fprintf(stderr, "quern: %s\n", err.msg);
        return 1;
    }
    return qn_sweep_print(s) ? 1 : 0;
}

/* --- options --- */
/* 0 when `value` is a or b; *second tells which. */
static int choose(const char *option, const char *value, const char *a, const char *b, bool *second) {
    *second = strcmp(value, b) == 0;
    if (*second || strcmp(value, a) == 0) return 0;
    return usage("--%s must be %s or %s, not \"%.40s\"", option, a, b, value);
}

static int set_words(struct qn_sweep *s, const struct options *o) {
    static const char *const formats[] = {"table", "json", "csv"};
    if (!qn_local_kv_type(o->kv_name, &s->kv_type)) return 2;
    int r = choose("depth-mode", o->depth_mode, "synthetic", "computed", &s->computed_depth);
    s->decode = s->prefill = true;
    if (!r && o->only) {
        r = choose("only", o->only, "decode", "prefill", &s->prefill);
        s->decode = !s->prefill;
    }
    if (r) return r;
    for (int i = 0; i < 3; i++) {
        s->format = (enum qn_sweep_format)i;
        if (strcmp(o->format, formats[i]) == 0) return 0;
    }
    return usage("--format must be table, json or csv, not \"%.40s\"", o->format);
}

static int set_sweep(struct qn_sweep *s, const struct options *o) {
    const char *ffn = NULL;
    int r = set_words(s, o);
    if (!r) r = split_names("sharing", o->sharing, &s->sharing);
    if (!r) r = set_shape(s, o, &ffn);
    if (!r) r = split_names("attention", o->attention, &s->attention);
    if (!r) r = split_names("ffn", o->ffn ? o->ffn : ffn, &s->ffn);
    if (!r) r = split_numbers("lengths", o->lengths, LENGTH_MAX, &s->lengths);
    if (!r) r = split_numbers("batch", o->batch, 256, &s->batches);
    if (r) return r;
    s->type = o->type;
    s->kv_name = o->kv_name;
    s->threads = o->threads;
    s->max_seconds = o->max_seconds;
    s->repeats = o->repeats;
    uint32_t largest = s->batches.at[s->batches.n - 1];
    s->step_tokens = o->step_tokens > largest ? o->step_tokens : largest;
    return 0;
}

static int parse(int argc, char **argv, struct options *o) {
    const struct qn_cli_option options[] = {
        {"structures", QN_CLI_FLAG, &o->structures, 0, 0, NULL, "compare structures: this mode"},
        {"shape", QN_CLI_STRING, &o->shape, 0, 0, "SHAPE",
         "bert-base (default), smollm2, or keys of a synthetic model: hidden=…,layers=…,heads=…"},
        {"attention", QN_CLI_STRING, &o->attention, 0, 0, "A,B",
         "default mha,gqa,mqa,linformer,performer; ratios are against the first"},
        {"ffn", QN_CLI_STRING, &o->ffn, 0, 0, "A,B", "default: the shape's own"},
        {"sharing", QN_CLI_STRING, &o->sharing, 0, 0, "A,B",
         "default none; several make the vocabulary 4096 unless the shape names one"},
        {"lengths", QN_CLI_STRING, &o->lengths, 0, 0, "N,N", "depths and prompts, default 512,2048,8192"},
        {"batch", QN_CLI_STRING, &o->batch, 0, 0, "N,N", "sequences that decode together, default 1"},
        {"type", QN_CLI_STRING, &o->type, 0, 0, "TYPE", "of the weights, default q8_0"},
        {"kv-type", QN_CLI_STRING, &o->kv_name, 0, 0, QN_KV_TYPE_WORDS, QN_KV_TYPE_HELP},
        {"only", QN_CLI_STRING, &o->only, 0, 0, "WORK", "decode or prefill; default both"},
        {"depth-mode", QN_CLI_STRING, &o->depth_mode, 0, 0, "MODE",
         "synthetic (default: random state) or computed (run that many tokens first)"},
        {"threads", QN_CLI_THREADS, &o->threads, 1, 256, "N", "compute threads"},
        {"max-seconds", QN_CLI_UINT, &o->max_seconds, 0, 86400, "S",
         "of all prefill samples of a cell; longer ones are skipped with an estimate"},
        {"repeats", QN_CLI_UINT, &o->repeats, 1, QN_SWEEP_REPEATS, "N", "rounds: samples of each cell"},
        {"step-tokens", QN_CLI_UINT, &o->step_tokens, 1, 8192, "N", "most tokens of one step"},
        {"format", QN_CLI_STRING, &o->format, 0, 0, "FORMAT", "table (default), json or csv"},
    };
    struct qn_cli cli = {.name = "bench --structures",
                         .usage = "quern bench --structures [options]",
                         .about =
                             "Measures structures at a shape, with random weights: time per token at depth, "
                             "prefill, state, rates.",
                         .options = options,
                         .n_options = sizeof options / sizeof *options};
    return qn_cli_parse(&cli, argc, argv);
}

int qn_cmd_bench_structures(int argc, char **argv) {
    struct options o = {.shape = "bert-base",
                        .lengths = "512,2048,8192",
                        .attention = "mha,gqa,mqa,linformer,performer",
                        .sharing = "none",
                        .batch = "1",
                        .type = "q8_0",
                        .kv_name = "f16",
                        .format = "table",
                        .depth_mode = "synthetic",
                        .max_seconds = 10,
                        .repeats = 5,
                        .step_tokens = 512};
    o.threads = qn_cpu_threads(NULL);
    int r = parse(argc, argv, &o);
    if (r) return r == 1 ? 0 : 2;
    struct qn_sweep s = {0};
    r = set_sweep(&s, &o);
    if (!r) r = run(&s);
    qn_pool_free(&s.pool);
    free(s.structures);
    free(s.cells);
    return r;
}
