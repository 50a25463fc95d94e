/* Loading: every family in both formats and every tensor type gives the canonical weights, spec and tokenizer
 * back, bit for bit. Thread: the test's own. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "kernels/mem.h"
#include "model/load/checkpoint.h"
#include "tests/support/tiny_model.h"

static const char *const families[] = {"llama",       "qwen2",   "qwen3",    "gemma",    "gpt2",
                                       "gpt_bigcode", "mixtral", "qwen2moe", "qwen3moe", "olmoe"};
#define N_FAMILIES (sizeof families / sizeof *families)

static char dir[64];

static int make_dir(void **state) {
    (void)state;
    snprintf(dir, sizeof dir, "/tmp/quern-load-XXXXXX");
    return mkdtemp(dir) ? 0 : -1;
}

static int remove_dir(void **state) {
    char command[128];
    (void)state;
    snprintf(command, sizeof command, "rm -rf %s", dir);
    return system(command);
}

/* Loads path or fails with the loader's message. */
static struct qn_checkpoint *load(const char *path, const struct qn_load_options *opt) {
    struct qn_checkpoint *c;
    struct qn_err err = {0};
    int rc = qn_checkpoint_load(path, opt, &c, &err);
    if (rc != QN_OK) fail_msg("%s: %d %s", path, rc, err.msg);
    return c;
}

static struct qn_checkpoint *load_gguf(const struct qn_test_tiny *t) {
    char path[128];
    snprintf(path, sizeof path, "%s/%s.gguf", dir, t->family);
    assert_int_equal(qn_test_write_tiny_gguf(path, t), 0);
    return load(path, NULL);
}

static struct qn_checkpoint *load_hf(const struct qn_test_tiny *t) {
    char path[128], command[192];
    snprintf(path, sizeof path, "%s/%s-hf", dir, t->family);
    snprintf(command, sizeof command, "rm -rf %s", path);
    assert_int_equal(system(command), 0);
    assert_int_equal(qn_test_write_tiny_hf(path, t), 0);
    return load(path, NULL);
}

/* ---- comparisons ---- */

static void check_matrix(const struct qn_test_tiny *t, const struct qn_matrix *m, enum qn_test_part part,
                         uint32_t layer) {
    uint32_t rows, cols;
    qn_test_tiny_shape(t, part, &rows, &cols);
    if (!qn_test_tiny_has(t, part)) {
        assert_null(m->data);
        return;
    }
    assert_non_null(m->data);
    assert_int_equal(m->rows, rows);
    assert_int_equal(m->cols, cols);
    assert_int_equal(m->type, qn_test_tiny_type(t, part));
    float *got = malloc(cols * sizeof *got), *want = malloc(cols * sizeof *want);
    for (uint32_t r = 0; r < rows; r++) {
        struct qn_test_buf raw = {0};
        qn_test_tiny_row(t, part, layer, r, &raw);
        qn_type_row_to_f32(m->type, raw.p, want, cols);
        qn_matrix_get_row(m, r, got);
        if (memcmp(got, want, cols * sizeof *got) != 0)
            fail_msg("%s: part %d, layer %u, row %u differs", t->family, (int)part, layer, r);
        qn_test_buf_free(&raw);
    }
    free(got);
    free(want);
}

/* Expert e of a part whose rows are those of all experts. */
static void check_expert(const struct qn_test_tiny *t, const struct qn_matrix *m, enum qn_test_part part,
                         uint32_t layer, uint32_t e) {
    struct qn_test_buf raw = {0};
    size_t row_bytes;
    qn_test_tiny_expert(t, part, layer, e, &raw);
    assert_int_equal(m->type, t->type);
    assert_true(qn_type_row_bytes(t->type, m->cols, &row_bytes) && raw.n == m->rows * row_bytes);
    float *got = malloc(m->cols * sizeof *got), *want = malloc(m->cols * sizeof *want);
    for (uint32_t r = 0; r < m->rows; r++) {
        qn_type_row_to_f32(t->type, raw.p + r * row_bytes, want, m->cols);
        qn_matrix_get_row(m, r, got);
        if (memcmp(got, want, m->cols * sizeof *got) != 0)
            fail_msg("%s: part %d, layer %u, expert %u, row %u differs", t->family, (int)part, layer, e, r);
    }
    free(got);
    free(want);
    qn_test_buf_free(&raw);
}

static void check_experts(const struct qn_test_tiny *t, const struct qn_ffn_weights *f, uint32_t layer) {
    assert_int_equal(f->n_experts, t->experts);
    for (uint32_t e = 0; e < t->experts; e++) {
        assert_int_equal(f->experts[e].up.rows, t->ffn);
        assert_int_equal(f->experts[e].down.cols, t->ffn);
        check_expert(t, &f->experts[e].gate, QN_PART_EXPERT_GATE, layer, e);
        check_expert(t, &f->experts[e].up, QN_PART_EXPERT_UP, layer, e);
        check_expert(t, &f->experts[e].down, QN_PART_EXPERT_DOWN, layer, e);
    }
}

static void check_vector(const struct qn_test_tiny *t, const float *v, enum qn_test_part part,
                         uint32_t layer) {
    uint32_t rows, cols;
    struct qn_test_buf raw = {0};
    if (!qn_test_tiny_has(t, part)) {
        assert_null(v);
        return;
    }
    assert_non_null(v);
    qn_test_tiny_shape(t, part, &rows, &cols);
    qn_test_tiny_row(t, part, layer, 0, &raw);
    if (memcmp(v, raw.p, rows * sizeof *v) != 0)
        fail_msg("%s: part %d, layer %u differs", t->family, (int)part, layer);
    qn_test_buf_free(&raw);
}

static void check_positions(const struct qn_test_tiny *t, const float *pos) {
    if (!qn_test_tiny_has(t, QN_PART_POS)) {
        assert_null(pos);
        return;
    }
    float *want = malloc(t->d_model * sizeof *want);
    for (uint32_t r = 0; r < t->context; r++) {
        struct qn_test_buf raw = {0};
        qn_test_tiny_row(t, QN_PART_POS, 0, r, &raw);
        qn_type_row_to_f32(t->type, raw.p, want, t->d_model);
        assert_memory_equal(pos + r * t->d_model, want, t->d_model * sizeof *want);
        qn_test_buf_free(&raw);
    }
    free(want);
}

static void check_weights(const struct qn_test_tiny *t, const struct qn_checkpoint *c) {
    check_matrix(t, &c->embed, QN_PART_EMBED, 0);
    check_matrix(t, &c->output, QN_PART_OUTPUT, 0);
    check_positions(t, c->pos_embed);
    check_vector(t, c->out_norm.g, QN_PART_OUT_NORM, 0);
    check_vector(t, c->out_norm.b, QN_PART_OUT_NORM_B, 0);
    for (uint32_t l = 0; l < t->layers; l++) {
        const struct qn_attn_weights *a = &c->attn[l];
        const struct qn_ffn_weights *f = &c->ffn[l];
        check_vector(t, a->norm.g, QN_PART_ATTN_NORM, l);
        check_vector(t, a->norm.b, QN_PART_ATTN_NORM_B, l);
        check_matrix(t, &a->q, QN_PART_Q, l);
        check_matrix(t, &a->k, QN_PART_K, l);
        check_matrix(t, &a->v, QN_PART_V, l);
        check_matrix(t, &a->o, QN_PART_O, l);
        check_vector(t, a->bq, QN_PART_BQ, l);
        check_vector(t, a->bk, QN_PART_BK, l);
        check_vector(t, a->bv, QN_PART_BV, l);
        check_vector(t, a->bo, QN_PART_BO, l);
        check_vector(t, a->q_norm, QN_PART_Q_NORM, l);
        check_vector(t, a->k_norm, QN_PART_K_NORM, l);
        check_vector(t, f->norm.g, QN_PART_FFN_NORM, l);
        check_vector(t, f->norm.b, QN_PART_FFN_NORM_B, l);
        check_matrix(t, &f->dense.gate, t->experts ? QN_PART_SHARED_GATE : QN_PART_GATE, l);
        check_matrix(t, &f->dense.up, t->experts ? QN_PART_SHARED_UP : QN_PART_UP, l);
        check_matrix(t, &f->dense.down, t->experts ? QN_PART_SHARED_DOWN : QN_PART_DOWN, l);
        check_matrix(t, &f->router, QN_PART_ROUTER, l);
        check_vector(t, f->shared_gate, QN_PART_SHARED_SCALE, l);
        check_experts(t, f, l);
        check_vector(t, f->b_up, QN_PART_B_UP, l);
        check_vector(t, f->b_down, QN_PART_B_DOWN, l);
    }
}

static void check_spec(const struct qn_test_tiny *t, const struct qn_spec *s) {
    bool gpt = t->family[0] == 'g' && t->family[1] == 'p', gemma = strcmp(t->family, "gemma") == 0;
    assert_string_equal(s->family, t->family);
    assert_int_equal(s->layers, t->layers);
    assert_int_equal(s->d_model, t->d_model);
    assert_int_equal(s->heads, t->heads);
    assert_int_equal(s->attn[0].kv_heads, t->kv_heads);
    assert_int_equal(s->head_dim, t->head_dim);
    assert_int_equal(s->ffn[0].dim, t->ffn);
    assert_int_equal(s->vocab, t->vocab);
    assert_int_equal(s->context, t->context);
    assert_int_equal(s->window, 0);
    assert_int_equal(s->norm, gpt ? QN_NORM_LAYER : QN_NORM_RMS);
    assert_true(s->norm_eps == 1e-5f);
    assert_int_equal(s->pos, gpt ? QN_POS_LEARNED : QN_POS_ROPE);
    assert_int_equal(s->rope_dim, gpt ? 0 : t->head_dim);
    assert_true(s->rope_base == (gpt ? 0.0f : 50000.0f));
    assert_int_equal(s->rope_scaling, QN_ROPE_NONE);
    const struct qn_ffn_member *f = &s->ffn[0];
    const char *dense = gpt ? "gelu" : gemma ? "geglu" : "swiglu";
    bool renorm = strcmp(t->family, "mixtral") == 0 || strcmp(t->family, "qwen3moe") == 0;
    assert_string_equal(f->type, t->experts ? "moe" : dense);
    assert_string_equal(f->expert, t->experts ? dense : "");
    assert_int_equal(f->experts, t->experts);
    assert_int_equal(f->used, t->used);
    assert_int_equal(f->shared_dim, t->shared_dim);
    assert_int_equal(f->shared_gate, t->shared_dim > 0);
    if (t->experts) assert_int_equal(f->gating, renorm ? QN_GATING_SOFTMAX_RENORM : QN_GATING_SOFTMAX);
    assert_int_equal(s->ffn[0].act, gpt || gemma ? QN_ACT_GELU_TANH : QN_ACT_SILU);
    assert_int_equal(s->qk_norm, strncmp(t->family, "qwen3", 5) == 0);
    assert_int_equal(s->qk_norm_whole, strcmp(t->family, "olmoe") == 0);
    assert_int_equal(s->tied, t->tied);
    assert_true(s->embed_scale == (gemma ? 8.0f : 1.0f));
}

static void check_text(const struct qn_checkpoint *c, const char *text, const int32_t *want, size_t n) {
    struct qn_err err = {0};
    int32_t *ids;
    size_t got;
    int rc = qn_tokenizer_encode(c->tokenizer, text, strlen(text), QN_TOK_ADD_SPECIAL, 0, &ids, &got, &err);
    if (rc != QN_OK) fail_msg("%s", err.msg);
    for (size_t i = 0; i < got && i < n; i++)
        if (ids[i] != want[i])
            fail_msg("%s %s: token %zu is %d, not %d", c->spec.family, c->format, i, ids[i], want[i]);
    assert_int_equal(got, n);
    free(ids);
}

static void check_tokenizer(const struct qn_test_tiny *t, const struct qn_checkpoint *c) {
    bool llama = strcmp(t->family, "llama") == 0 || strcmp(t->family, "mixtral") == 0,
         gemma = strcmp(t->family, "gemma") == 0;
    const int32_t spm[] = {1, 259, 270}, gemma_ids[] = {1, 270}, bpe[] = {261, 263};
    assert_non_null(c->tokenizer);
    assert_int_equal(qn_tokenizer_adds_bos(c->tokenizer), llama || gemma);
    if (llama)
        check_text(c, "hello", spm, 3);
    else if (gemma)
        check_text(c, "hello", gemma_ids, 2);
    else
        check_text(c, "hello w", bpe, 2);
    assert_true(qn_tokenizer_is_eog(c->tokenizer, llama || gemma ? 2 : 257));
    assert_false(qn_tokenizer_is_eog(c->tokenizer, 5));
}

static void check_all(const struct qn_test_tiny *t, struct qn_checkpoint *c, const char *format) {
    assert_string_equal(c->format, format);
    check_spec(t, &c->spec);
    check_weights(t, c);
    assert_true(c->params > 0 && c->weights_bytes > 0 && c->file_bytes > 0);
    assert_true(c->bytes_by_type[t->type] > 0);
    if (t->tokenizer)
        check_tokenizer(t, c);
    else
        assert_null(c->tokenizer);
    qn_checkpoint_free(c);
}

/* ---- tests ---- */

static void every_family_gguf(void **state) {
    (void)state;
    for (size_t i = 0; i < N_FAMILIES; i++) {
        struct qn_test_tiny t = qn_test_tiny_default(families[i]);
        check_all(&t, load_gguf(&t), "gguf");
        t.tied = false;
        t.tokenizer = false;
        t.seed = 77;
        check_all(&t, load_gguf(&t), "gguf");
    }
}

static void every_family_safetensors(void **state) {
    (void)state;
    for (size_t i = 0; i < N_FAMILIES; i++) {
        for (int type = QN_F32; type <= QN_BF16; type++) {
            struct qn_test_tiny t = qn_test_tiny_default(families[i]);
            t.type = (enum qn_type)type;
            t.tied = type != QN_F16;
            t.tokenizer = type != QN_BF16;
            t.sharded = type == QN_F16;
            t.no_prefix = type == QN_BF16;
            check_all(&t, load_hf(&t), "safetensors");
        }
    }
}

static void every_tensor_type(void **state) {
    (void)state;
    for (int type = 0; type < QN_TYPE_COUNT; type++) {
        for (size_t i = 0; i < N_FAMILIES; i++) {
            struct qn_test_tiny t = qn_test_tiny_default(families[i]);
            t.type = (enum qn_type)type;
            if (qn_type_block(t.type) == 256) t.d_model = 256, t.head_dim = 64, t.ffn = 256;
            if (qn_type_block(t.type) == 256 && t.shared_dim) t.shared_dim = 256;
            t.vocab = 275; /* not a multiple of a panel */
            t.tokenizer = false;
            struct qn_checkpoint *c = load_gguf(&t);
            check_weights(&t, c);
            qn_checkpoint_free(c);
        }
    }
}

/* Experts one by one, stacked, and with gate and up in one tensor. */
static void every_layout_of_experts(void **state) {
    (void)state;
    for (size_t i = 0; i < N_FAMILIES; i++) {
        struct qn_test_tiny t = qn_test_tiny_default(families[i]);
        if (!t.experts) continue;
        t.tokenizer = false;
        t.layout = QN_TEST_EXPERTS_SPLIT;
        check_all(&t, load_gguf(&t), "gguf");
        t.layout = QN_TEST_EXPERTS_MERGED;
        check_all(&t, load_gguf(&t), "gguf");
        for (int type = QN_F32; type <= QN_BF16; type++) {
            t.type = (enum qn_type)type;
            t.no_prefix = type == QN_BF16;
            check_all(&t, load_hf(&t), "safetensors");
        }
        t.type = QN_Q8_0;
        check_all(&t, load_gguf(&t), "gguf");
    }
}

static void gpt_bigcode_per_head_layout(void **state) {
    struct qn_test_tiny t = qn_test_tiny_default("gpt_bigcode");
    (void)state;
    t.kv_heads = t.heads;
    check_all(&t, load_hf(&t), "safetensors");
}

static void llama_biases_and_rope_factors(void **state) {
    struct qn_test_tiny t = qn_test_tiny_default("llama");
    (void)state;
    t.attn_bias = true;
    check_all(&t, load_hf(&t), "safetensors");
    t.rope_factors = true;
    struct qn_checkpoint *c = load_gguf(&t);
    check_vector(&t, c->rope_factors, QN_PART_ROPE_FACTORS, 0);
    check_all(&t, c, "gguf");
}

static void pool_and_progress_change_nothing(void **state) {
    struct qn_test_tiny t = qn_test_tiny_default("gpt2");
    char path[128];
    (void)state;
    t.ffn = 1024; /* several items per matrix */
    snprintf(path, sizeof path, "%s/pool", dir);
    assert_int_equal(qn_test_write_tiny_hf(path, &t), 0);
    struct qn_pool *pool = qn_pool_new(3);
    assert_non_null(pool);
    struct qn_load_options opt = {.pool = pool};
    check_all(&t, load(path, &opt), "safetensors");
    qn_pool_free(&pool);
}

struct seen {
    double last;
    int phases;
    const char *phase;
};

static void note(void *ctx, const char *phase, double done) {
    struct seen *s = ctx;
    if (!s->phase || strcmp(s->phase, phase) != 0) {
        s->phases++;
        s->last = 0;
        s->phase = phase;
    }
    assert_true(done >= s->last && done <= 1.0);
    s->last = done;
}

static void progress_rises_to_one(void **state) {
    struct qn_test_tiny t = qn_test_tiny_default("llama");
    struct seen seen = {0};
    char path[128];
    (void)state;
    snprintf(path, sizeof path, "%s/progress.gguf", dir);
    assert_int_equal(qn_test_write_tiny_gguf(path, &t), 0);
    struct qn_load_options opt = {.progress = note, .progress_ctx = &seen};
    struct qn_checkpoint *c = load(path, &opt);
    assert_int_equal(seen.phases, 4);
    assert_string_equal(seen.phase, "tokenizer");
    assert_true(seen.last == 1.0);
    qn_checkpoint_free(c);
}

static void spec_only_checks_and_packs_nothing(void **state) {
    struct qn_test_tiny t = qn_test_tiny_default("qwen3");
    struct qn_load_options opt = {.spec_only = true};
    char path[128];
    (void)state;
    snprintf(path, sizeof path, "%s/inspect.gguf", dir);
    assert_int_equal(qn_test_write_tiny_gguf(path, &t), 0);
    struct qn_checkpoint *c = load(path, &opt), *full = load(path, NULL);
    check_spec(&t, &c->spec);
    assert_null(c->attn);
    assert_null(c->embed.data);
    assert_int_equal(c->weights_bytes, 0);
    assert_int_equal(c->params, full->params);
    assert_non_null(c->tokenizer);
    qn_checkpoint_free(c);
    qn_checkpoint_free(full);
}

/* 2 layers of llama: embed 272x64, per layer q 64x64, k and v 32x64, o 64x64, three of 96x64, two norms. */
static void parameters_are_counted(void **state) {
    struct qn_test_tiny t = qn_test_tiny_default("llama");
    (void)state;
    struct qn_checkpoint *c = load_gguf(&t);
    uint64_t want = 272 * 64 + 64 + 2 * (64 * 64 * 2 + 32 * 64 * 2 + 3 * 96 * 64 + 2 * 64);
    assert_int_equal(c->params, want);
    assert_int_equal(c->bytes_by_type[QN_F32], 4 * want);
    assert_string_equal(c->name, "tiny");
    qn_checkpoint_free(c);
}

static void safetensors_file_path(void **state) {
    struct qn_test_tiny t = qn_test_tiny_default("qwen2");
    char path[128];
    (void)state;
    snprintf(path, sizeof path, "%s/byfile", dir);
    assert_int_equal(qn_test_write_tiny_hf(path, &t), 0);
    snprintf(path, sizeof path, "%s/byfile/model.safetensors", dir);
    struct qn_checkpoint *c = load(path, NULL);
    assert_string_equal(c->name, "model");
    check_all(&t, c, "safetensors");
    snprintf(path, sizeof path, "%s/byfile/", dir);
    c = load(path, NULL);
    assert_string_equal(c->name, "byfile");
    qn_checkpoint_free(c);
}

/* tokenizer_config.json as it is found in the wild: an integer beyond 64 bits, tokens as objects. */
static void side_files_are_read(void **state) {
    struct qn_test_tiny t = qn_test_tiny_default("qwen2");
    struct qn_test_buf b = {0};
    char path[128], file[192];
    (void)state;
    snprintf(path, sizeof path, "%s/side", dir);
    assert_int_equal(qn_test_write_tiny_hf(path, &t), 0);
    qn_test_printf(&b, "{\"model_max_length\":1000000000000000019884624838656,\"eos_token\":{\"content\":"
                       "\"<|im_end|>\"},\"bos_token\":null}");
    snprintf(file, sizeof file, "%s/tokenizer_config.json", path);
    assert_int_equal(qn_test_buf_save(&b, file), 0);
    qn_test_buf_free(&b);
    qn_test_printf(&b, "{\"eos_token_id\":[257,100]}");
    snprintf(file, sizeof file, "%s/generation_config.json", path);
    assert_int_equal(qn_test_buf_save(&b, file), 0);
    qn_test_buf_free(&b);
    struct qn_checkpoint *c = load(path, NULL);
    assert_int_equal(qn_tokenizer_eos(c->tokenizer), 257);
    assert_int_equal(qn_tokenizer_bos(c->tokenizer), -1);
    assert_true(qn_tokenizer_is_eog(c->tokenizer, 100));
    check_all(&t, c, "safetensors");
}

/* The real file, when `make model` has put it there. */
static void smollm2(void **state) {
    const char *path = "models/SmolLM2-135M-Instruct.Q4_1.gguf";
    struct qn_pool *pool = qn_pool_new(2);
    struct qn_load_options opt = {.pool = pool};
    const int32_t want[] = {19556, 905, 28}; /* "Hello world," */
    (void)state;
    if (access(path, R_OK) != 0) {
        print_message("SKIP: %s is absent; run `make model`\n", path);
        qn_pool_free(&pool);
        skip();
    }
    struct qn_checkpoint *c = load(path, &opt);
    assert_int_equal(c->spec.layers, 30);
    assert_int_equal(c->spec.heads, 9);
    assert_int_equal(c->spec.attn[0].kv_heads, 3);
    assert_int_equal(c->spec.head_dim, 64);
    assert_int_equal(c->spec.vocab, 49152);
    assert_int_equal(c->spec.context, 8192);
    assert_true(c->spec.rope_base == 100000.0f && c->spec.tied);
    assert_int_equal(c->params, 134515008);
    assert_int_equal(c->embed.type, QN_Q8_0);
    assert_int_equal(c->attn[29].q.type, QN_Q4_1);
    assert_true(qn_tokenizer_is_eog(c->tokenizer, 2) && qn_tokenizer_is_eog(c->tokenizer, 0));
    check_text(c, "Hello world,", want, 3);
    qn_checkpoint_free(c);
    qn_pool_free(&pool);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_family_gguf),
        cmocka_unit_test(every_family_safetensors),
        cmocka_unit_test(every_tensor_type),
        cmocka_unit_test(every_layout_of_experts),
        cmocka_unit_test(gpt_bigcode_per_head_layout),
        cmocka_unit_test(llama_biases_and_rope_factors),
        cmocka_unit_test(pool_and_progress_change_nothing),
        cmocka_unit_test(progress_rises_to_one),
        cmocka_unit_test(spec_only_checks_and_packs_nothing),
        cmocka_unit_test(parameters_are_counted),
        cmocka_unit_test(safetensors_file_path),
        cmocka_unit_test(side_files_are_read),
        cmocka_unit_test(smollm2),
    };
    return cmocka_run_group_tests(tests, make_dir, remove_dir);
}
