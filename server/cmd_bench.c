/* quern bench: throughput of prompt reading and generation, straight on the model (no HTTP, no scheduler).
 *
 * Each repeat starts from empty sequences, fills `depth` tokens untimed, then times either a prompt of
 * --prompt tokens or --generate greedy tokens, for --batch sequences together. Prompt and generation are
 * separate rows; tokens per second are totals over the batch: median and interquartile range of the repeats,
 * in JSON every one of them, with what the formula says was computed and read, so that a figure can be held
 * against the machine's limits (`quern bench --machine`). One untimed warm-up comes first. Tokens are
 * pseudo-random and fixed, so runs compare. Thread: main. */
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/cpu.h"
#include "kernels/pool.h"
#include "model/batch.h"
#include "model/sample.h"
#include "server/cli.h"
#include "server/cmd.h"
#include "server/cmd_bench.h"
#include "server/comparison.h"
#include "server/local.h"

struct bench {
    const char *model_path, *kv_name, *depth_mode;
    enum qn_state_type kv_type;
    uint32_t prompt, generate, batch, depth, repeats, threads, step_tokens;
    bool f16_as_bf16, json;
    struct qn_pool *pool;
    struct qn_model *model;
    struct qn_variant *variant;
    struct qn_seq **seqs;  /* [batch] */
    struct qn_span *spans; /* [batch] */
    int32_t *next;         /* [batch] token that each sequence continues with */
    int32_t *tokens;       /* [max(prompt, depth)] */
    uint32_t vocab;
    uint32_t base; /* sequence of the step's first span */
};

struct row {
    uint32_t prompt, generate;
    double *samples; /* [repeats] tokens per second, owned */
    double mean, stddev, median, iqr;
    struct qn_cost cost; /* of one repeat, all sequences */
};

/* Greedy choice; the argmax is part of what generation costs. */
static void take_row(void *ctx, uint32_t span, uint32_t pos, float *v) {
    struct bench *b = ctx;
    (void)pos;
    b->next[b->base + span] = (int32_t)qn_argmax(v, b->vocab);
}

static int run_step(struct bench *b, uint32_t n_spans, struct qn_err *err) {
    struct qn_step step = {
        .variant = b->variant, .spans = b->spans, .n_spans = n_spans, .on_row = take_row, .ctx = b};
    return qn_step_run(&step, err);
}

/* Feeds n tokens to every sequence; steps are filled as the engine fills them, with as many prompts as fit.
 */
static int feed(struct bench *b, uint32_t n, struct qn_err *err) {
    uint32_t done = 0; /* of sequence s */
    for (uint32_t s = 0; s < b->batch;) {
        uint32_t k = 0, rows = 0;
        b->base = s;
        while (s < b->batch && rows < b->step_tokens) {
            uint32_t chunk = n - done < b->step_tokens - rows ? n - done : b->step_tokens - rows;
            bool last = done + chunk == n;
            b->spans[k++] = (struct qn_span){.seq = b->seqs[s],
                                             .tokens = b->tokens + done,
                                             .n = chunk,
                                             .want = last ? QN_WANT_LAST : QN_WANT_NONE};
            int r = qn_seq_reserve(b->seqs[s], qn_seq_length(b->seqs[s]) + chunk);
            if (r)
                return qn_err_set(err, r, "the state pool is too small for --batch x (--depth + --prompt)");
            rows += chunk;
            done = last ? 0 : done + chunk;
            s += last;
        }
        int r = run_step(b, k, err);
        if (r) return r;
    }
    b->base = 0;
    return QN_OK;
}

static int generate(struct bench *b, uint32_t n, struct qn_err *err) {
    for (uint32_t i = 0; i < n; i++) {
        for (uint32_t s = 0; s < b->batch; s++) {
            int r = qn_seq_reserve(b->seqs[s], qn_seq_length(b->seqs[s]) + 1);
            if (r)
                return qn_err_set(err, r, "the state pool is too small for --batch x (--depth + --generate)");
            b->spans[s] =
                (struct qn_span){.seq = b->seqs[s], .tokens = &b->next[s], .n = 1, .want = QN_WANT_LAST};
        }
        int r = run_step(b, b->batch, err);
        if (r) return r;
    }
    return QN_OK;
}

/* A step costs the same whatever its state contains. */
static int take_depth(struct bench *b, struct qn_err *err) {
    if (strcmp(b->depth_mode, "computed") == 0) return feed(b, b->depth, err);
    for (uint32_t s = 0; s < b->batch; s++) {
        int r = qn_seq_fill(b->seqs[s], b->depth, s + 1, err);
        if (r) return r;
    }
    return QN_OK;
}

/* One repeat: seconds for the timed part, or a negative number on error. */
static double once(struct bench *b, uint32_t prompt, uint32_t gen, struct qn_err *err) {
    double seconds = -1.0;
    uint32_t made = 0;
    for (; made < b->batch; made++) {
        if (qn_seq_new(b->variant, 0, false, &b->seqs[made], err)) goto out;
        b->next[made] = b->tokens[made % (b->prompt ? b->prompt : 1)];
    }
    if (b->depth && take_depth(b, err)) goto out;
    uint64_t t0 = qn_now_ns();
    if (prompt ? feed(b, prompt, err) : generate(b, gen, err)) goto out;
    seconds = (double)(qn_now_ns() - t0) * 1e-9;
out:
    for (uint32_t i = 0; i < made; i++) qn_seq_free(&b->seqs[i]);
    return seconds;
}

/* Weights that n tokens of each sequence read: once per step, whosever rows it runs. */
static double weights_read(const struct bench *b, uint32_t n, bool generate) {
    uint64_t rows = (uint64_t)n * b->batch, per = generate ? b->batch : b->step_tokens;
    uint64_t whole = rows / per, rest = rows % per;
    struct qn_step_weights w = qn_variant_step_weights(b->variant, (uint32_t)per);
    double bytes = (double)whole * w.body;
    if (rest) bytes += qn_variant_step_weights(b->variant, (uint32_t)rest).body;
    return bytes + (double)(generate ? n : whole + (rest > 0)) * w.head;
}

/* The formula's counts of one repeat: arithmetic and state of each sequence, weights of the steps they share.
 */
static struct qn_cost cost_of(const struct bench *b, uint32_t n, bool generate) {
    uint32_t chunk = generate ? 1 : n < b->step_tokens ? n : b->step_tokens, rest = n % chunk;
    uint32_t whole = n / chunk, begin = b->depth;
    struct qn_cost c = qn_variant_cost(b->variant, begin, begin + n, generate ? n : 1, chunk);
    struct qn_step_weights w = qn_variant_step_weights(b->variant, chunk);
    double alone = whole * w.body + (generate ? n : 1) * w.head;
    if (rest) alone += qn_variant_step_weights(b->variant, rest).body;
    return (struct qn_cost){.flops = b->batch * c.flops,
                            .bytes = b->batch * (c.bytes - alone) + weights_read(b, n, generate)};
}

static int measure(struct bench *b, struct row *row, struct qn_err *err) {
    double sum = 0.0, sum2 = 0.0;
    double tokens = (double)(row->prompt + row->generate) * b->batch;
    row->samples = calloc(b->repeats, sizeof *row->samples);
    if (!row->samples) return qn_err_set(err, QN_ERR_NOMEM, "out of memory");
    if (once(b, row->prompt, row->generate < 8 ? row->generate : 8, err) < 0.0) return err->code;
    for (uint32_t i = 0; i < b->repeats; i++) {
        double s = once(b, row->prompt, row->generate, err);
        if (s < 0.0) return err->code;
        row->samples[i] = tokens / s;
        sum += tokens / s;
        sum2 += tokens / s * (tokens / s);
    }
    double n = (double)b->repeats;
    row->mean = sum / n;
    double var = n > 1.0 ? (sum2 - sum * sum / n) / (n - 1.0) : 0.0;
    row->stddev = var > 0.0 ? sqrt(var) : 0.0;
    row->cost = cost_of(b, row->prompt + row->generate, row->generate > 0);
    qn_quartiles(row->samples, b->repeats, &row->median, &row->iqr);
    return QN_OK;
}

static void print_json(const struct bench *b, const struct row *rows, size_t n) {
    printf("{\"machine\":{\"cpu\":");
    qn_bench_json_string(qn_cpu_model());
    printf(",\"isa\":\"%s\",\"threads\":%u},\"quern\":\"%s\",\"model\":", qn_isa_name(qn_cpu_isa()),
           b->threads, QN_VERSION);
    qn_bench_json_string(qn_model_info(b->model)->id);
    printf(",\"state_type\":\"%s\",\"results\":[", b->kv_name);
    for (size_t i = 0; i < n; i++) {
        printf("%s{\"prompt_tokens\":%u,\"generated_tokens\":%u,\"batch\":%u,\"depth\":%u,"
               "\"tokens_per_second\":%.2f,\"stddev\":%.2f,\"median\":%.2f,\"iqr\":%.2f,\"flops\":%.0f,"
               "\"bytes\":%.0f,\"samples\":[",
               i ? "," : "", rows[i].prompt, rows[i].generate, b->batch, b->depth, rows[i].mean,
               rows[i].stddev, rows[i].median, rows[i].iqr, rows[i].cost.flops, rows[i].cost.bytes);
        for (uint32_t k = 0; k < b->repeats; k++) printf("%s%.2f", k ? "," : "", rows[i].samples[k]);
        printf("]}");
    }
    printf("]}\n");
}

static void print_table(const struct bench *b, const struct row *rows, size_t n) {
    const struct qn_model_info *info = qn_model_info(b->model);
    char size[32];
    printf("%s, %s, %u threads\n", qn_cpu_model(), qn_isa_name(qn_cpu_isa()), b->threads);
    printf("%s: %.1f M parameters, %s of weights, %s state\n", info->id, (double)info->params_total * 1e-6,
           qn_cli_bytes(size, info->weights_bytes), b->kv_name);
    printf("loaded in %.0f ms (map %.0f, pack %.0f, tokenizer %.0f)\n\n", info->load_ms, info->map_ms,
           info->pack_ms, info->tokenizer_ms);
    printf(
        "| test | batch | depth | tokens/s | IQR | GFLOP/s | GB/s |\n|---|---:|---:|---:|---:|---:|---:|\n");
    for (size_t i = 0; i < n; i++) {
        uint32_t t = rows[i].prompt + rows[i].generate;
        double seconds = (double)t * b->batch / rows[i].median;
        printf("| %s %u | %u | %u | %.2f | %.2f | %.1f | %.1f |\n", rows[i].prompt ? "prompt" : "generate", t,
               b->batch, b->depth, rows[i].median, rows[i].iqr, rows[i].cost.flops / seconds * 1e-9,
               rows[i].cost.bytes / seconds * 1e-9);
    }
}

static int allocate(struct bench *b) {
    uint32_t longest = b->prompt > b->depth ? b->prompt : b->depth;
    if (!longest) longest = 1;
    b->seqs = calloc(b->batch, sizeof(struct qn_seq *));
    b->spans = calloc(b->batch, sizeof *b->spans);
    b->next = calloc(b->batch, sizeof *b->next);
    b->tokens = calloc(longest, sizeof *b->tokens);
    if (!b->seqs || !b->spans || !b->next || !b->tokens) return -1;
    uint64_t x = 88172645463325252ull; /* xorshift64: any fixed sequence will do */
    for (uint32_t i = 0; i < longest; i++) {
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        b->tokens[i] = (int32_t)(x % b->vocab);
    }
    return 0;
}

static int check_context(const struct bench *b, struct qn_err *err) {
    uint64_t longest = (uint64_t)b->depth + (b->prompt > b->generate ? b->prompt : b->generate);
    uint32_t context = qn_model_info(b->model)->context;
    if (longest <= context) return QN_OK;
    return qn_err_set(err, QN_ERR_TOO_LONG, "%" PRIu64 " tokens exceed the model's context of %u", longest,
                      context);
}

static int run(struct bench *b, struct qn_err *err) {
    struct qn_structure_request native = {.convert = false};
    struct qn_open_options opt = {.pool = b->pool,
                                  .state_type = b->kv_type,
                                  .f16_as_bf16 = b->f16_as_bf16,
                                  .max_step_tokens = b->step_tokens > b->batch ? b->step_tokens : b->batch,
                                  .progress = qn_cli_progress};
    int r = qn_model_open(b->model_path, &opt, &b->model, err);
    if (r) return r;
    if ((r = check_context(b, err))) return r;
    if ((r = qn_variant_resolve(b->model, &native, &b->variant, err))) return r;
    double convert_ms = 0.0;
    if ((r = qn_variant_prepare(b->variant, &convert_ms, err))) return r;
    b->vocab = qn_model_info(b->model)->vocab;
    if (allocate(b)) return qn_err_set(err, QN_ERR_NOMEM, "out of memory");
    struct row rows[2] = {{0}};
    size_t n = 0;
    if (b->prompt) rows[n++] = (struct row){.prompt = b->prompt};
    if (b->generate) rows[n++] = (struct row){.generate = b->generate};
    for (size_t i = 0; i < n && r == QN_OK; i++) r = measure(b, &rows[i], err);
    if (r == QN_OK) (b->json ? print_json : print_table)(b, rows, n);
    for (size_t i = 0; i < n; i++) free(rows[i].samples);
    return r;
}

static void release(struct bench *b) {
    if (b->variant) qn_variant_unref(b->variant);
    qn_model_close(&b->model);
    qn_pool_free(&b->pool);
    free(b->seqs);
    free(b->spans);
    free(b->next);
    free(b->tokens);
}

int qn_cmd_bench(int argc, char **argv) {
    for (int i = 1; i < argc; i++) {
        if (strcmp(argv[i], "--structures") == 0) return qn_cmd_bench_structures(argc, argv);
        if (strcmp(argv[i], "--machine") == 0) return qn_cmd_bench_machine(argc, argv);
    }
    struct bench b = {.kv_name = "f16",
                      .depth_mode = "computed",
                      .prompt = 512,
                      .generate = 128,
                      .batch = 1,
                      .repeats = 5,
                      .step_tokens = 512};
    b.threads = qn_cpu_threads(NULL);
    b.model_path = qn_model_builtin();
    bool mode = false; /* decided above: named here for the help */
    const struct qn_cli_option options[] = {
        {"model", QN_CLI_STRING, &b.model_path, 0, 0, "MODEL", QN_MODEL_HELP},
        {"prompt", QN_CLI_UINT, &b.prompt, 0, 1u << 20, "N", "tokens of the prompt row, 0 leaves it out"},
        {"generate", QN_CLI_UINT, &b.generate, 0, 1u << 20, "N",
         "tokens of the generation row, 0 leaves it out"},
        {"batch", QN_CLI_UINT, &b.batch, 1, 256, "N", "sequences together"},
        {"depth", QN_CLI_UINT, &b.depth, 0, 1u << 20, "N", "tokens already in the state of each sequence"},
        {"repeats", QN_CLI_UINT, &b.repeats, 1, 1000, "N", "timed runs of each row"},
        {"threads", QN_CLI_THREADS, &b.threads, 1, 256, "N", "compute threads"},
        {"step-tokens", QN_CLI_UINT, &b.step_tokens, 1, 8192, "N", "most tokens of one step"},
        {"kv-type", QN_CLI_STRING, &b.kv_name, 0, 0, QN_KV_TYPE_WORDS, QN_KV_TYPE_HELP},
        {"f16-as-bf16", QN_CLI_FLAG, &b.f16_as_bf16, 0, 0, NULL, "round F16 weights to BF16"},
        {"depth-mode", QN_CLI_STRING, &b.depth_mode, 0, 0, "computed|filled",
         "run the tokens of the depth, or fill the state with random values (the same cost per step)"},
        {"structures", QN_CLI_FLAG, &mode, 0, 0, NULL,
         "compare structures at a shape of your own instead, with options of its own"},
        {"machine", QN_CLI_FLAG, &mode, 0, 0, NULL, "measure the machine's limits instead"},
        {"json", QN_CLI_FLAG, &b.json, 0, 0, NULL, "print one JSON object instead of a table"},
    };
    struct qn_cli cli = {.name = "bench",
                         .usage = "quern bench --model PATH [options]",
                         .about = "Measures tokens per second of prompt reading and generation.",
                         .options = options,
                         .n_options = sizeof options / sizeof *options};
    int r = qn_cli_parse(&cli, argc, argv);
    if (r) return r == 1 ? 0 : 2;
    if (!b.model_path) {
        fprintf(stderr, "quern: " QN_NO_MODEL_HINT "\n");
        return 2;
    }
    if (!qn_local_kv_type(b.kv_name, &b.kv_type)) return 2;
    if (strcmp(b.depth_mode, "computed") != 0 && strcmp(b.depth_mode, "filled") != 0) {
        fprintf(stderr, "quern: --depth-mode must be computed or filled\n");
        return 2;
    }
    struct qn_err err = {0};
    b.pool = qn_pool_new(b.threads);
    r = b.pool ? run(&b, &err) : qn_err_set(&err, QN_ERR_NOMEM, "no threads");
    if (r) fprintf(stderr, "quern: %s\n", err.msg);
    release(&b);
    return r ? 1 : 0;
}
