/* Converting whole checkpoints: every family from safetensors gives the same logits from the GGUF that is
 * written; a type becomes itself bit for bit; F32 holds exactly the dequantised values; descriptions become
 * files of the same weights; what GGUF can't hold, and outputs that can't be, are refused and leave nothing
 * behind. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include <dirent.h>
#include <sys/stat.h>

#include "model/load/gguf.h"
#include "model/load/mapfile.h"
#include "model/save/save.h"
#include "tests/support/golden.h"
#include "tests/support/requant.h"
#include "tests/support/tiny_model.h"

#define MODELS "tests/golden/models/"

static char dir[64], out[96], other[96];

static int convert_to(const char *path, const char *type, const char *to, bool replace,
                      struct qn_convert_report *r, struct qn_err *err) {
    struct qn_convert_report unused;
    struct qn_pool *pool = qn_pool_new(2);
    struct qn_convert_options opt = {.type = type, .out = to, .replace = replace, .pool = pool};
    memset(err, 0, sizeof *err);
    int rc = qn_model_convert(path, &opt, r ? r : &unused, err);
    qn_pool_free(&pool);
    return rc;
}

static void convert(const char *path, const char *type, const char *to) {
    struct qn_err err;
    if (convert_to(path, type, to, true, NULL, &err) != QN_OK) fail_msg("%s: %s", path, err.msg);
}

/* Logits of ids 3, 10, 17, … in exact arithmetic, so that equal values in two types are equal; the caller
 * frees. */
static float *logits_of(const char *path, uint32_t n, uint32_t *vocab) {
    struct qn_bench b;
    struct qn_bench_options opt = {.state = QN_STATE_F32, .threads = 2, .max_step_tokens = 64, .exact = true};
    int32_t ids[32];
    uint32_t all = 64;
    if (!qn_bench_open(&b, path, &opt)) fail_msg("%s: %s", path, b.err.msg);
    *vocab = qn_model_info(b.model)->vocab;
    for (uint32_t i = 0; i < n; i++) ids[i] = (int32_t)((3 + 7 * i) % *vocab);
    float *v = calloc((size_t)n * *vocab, sizeof *v);
    struct qn_bench_run run = {
        .ids = ids, .n = n, .chunks = &all, .n_chunks = 1, .want = QN_WANT_ALL, .out = v, .width = *vocab};
    if (!v || !qn_bench_run(&b, &run)) fail_msg("%s: %s", path, b.err.msg);
    qn_bench_close(&b);
    return v;
}

static double distance(const char *a, const char *b) {
    uint32_t va, vb, n = 24;
    float *x = logits_of(a, n, &va), *y = logits_of(b, n, &vb);
    assert_int_equal(va, vb);
    double d = memcmp(x, y, (size_t)n * va * sizeof *x) == 0 ? 0 : qn_distance(x, y, (size_t)n * va);
    free(x);
    free(y);
    return d;
}

/* ---- from safetensors ---- */

static void families_keep_their_logits(void **state) {
    (void)state;
    static const struct {
        const char *path, *type;
        double off; /* GGUF keeps llama3's frequencies as factors in f32 */
    } cases[] = {
        {"llama/f32", "f32", 0},       {"llama3/bf16", "bf16", 1e-5},  {"mistral/bf16", "bf16", 0},
        {"qwen2/bf16", "bf16", 0},     {"qwen3/f32", "f32", 0},        {"gemma/bf16", "bf16", 0},
        {"gpt2/f32", "f32", 0},        {"gpt_bigcode/f16", "f16", 0},  {"gpt_bigcode_mha/f16", "f16", 0},
        {"mixtral/f16", "f16", 0},     {"mixtral/fused", "f16", 0},    {"qwen2_moe/bf16", "bf16", 0},
        {"qwen3_moe/bf16", "bf16", 0}, {"qwen3_moe/fused", "bf16", 0}, {"olmoe/f16", "f16", 0},
        {"olmoe_norm/f16", "f16", 0},
    };
    char path[128];
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        snprintf(path, sizeof path, MODELS "%s", cases[i].path);
        convert(path, cases[i].type, out);
        double d = distance(path, out);
        if (d > cases[i].off) fail_msg("%s: logits are off by %g", cases[i].path, d);
    }
}

/* Biases of paired rows, a tokenizer, matrices of other types. */
static void hf_directories_become_gguf(void **state) {
    (void)state;
    static const char *const text = "To be, or not\nto be: 12 <0x41> caf\xc3\xa9";
    for (int k = 0; k < 2; k++) {
        struct qn_test_tiny t = qn_test_tiny_default(k ? "qwen2" : "llama");
        t.attn_bias = true;
        t.tied = k == 0;
        assert_int_equal(qn_test_write_tiny_hf(other, &t), 0);
        convert(other, "f32", out);
        assert_true(distance(other, out) == 0);
        struct qn_bench a, b;
        struct qn_bench_options opt = {.state = QN_STATE_F32, .threads = 1, .max_step_tokens = 8};
        int32_t *x, *y;
        size_t nx, ny;
        assert_true(qn_bench_open(&a, other, &opt) && qn_bench_open(&b, out, &opt));
        assert_int_equal(qn_model_tokenize(a.model, text, strlen(text), true, 0, &x, &nx, NULL), QN_OK);
        assert_int_equal(qn_model_tokenize(b.model, text, strlen(text), true, 0, &y, &ny, NULL), QN_OK);
        assert_int_equal(nx, ny);
        assert_memory_equal(x, y, nx * sizeof *x);
        free(x);
        free(y);
        qn_bench_close(&a);
        qn_bench_close(&b);
    }
}

/* ---- from GGUF ---- */

static void open_gguf(const char *path, struct qn_mapfile *m, struct qn_gguf *g) {
    struct qn_err err = {0};
    if (qn_mapfile_open(m, path, &err) || qn_gguf_parse(m->data, m->size, g, &err))
        fail_msg("%s: %s", path, err.msg);
}

static void same_metadata(const struct qn_gguf *a, const struct qn_gguf *b, uint64_t file_type) {
    uint64_t v;
    for (size_t i = 0; i < a->n_kv; i++) {
        char key[128];
        snprintf(key, sizeof key, "%.*s", (int)a->kv[i].key.n, a->kv[i].key.p);
        if (strcmp(key, "general.file_type") == 0) continue;
        const struct qn_gguf_kv *kv = qn_gguf_find(b, key);
        if (!kv || kv->type != a->kv[i].type || kv->array != a->kv[i].array ||
            qn_gguf_kv_bytes(kv) != qn_gguf_kv_bytes(&a->kv[i]) ||
            memcmp(kv->data, a->kv[i].data, qn_gguf_kv_bytes(kv)) != 0)
            fail_msg("%s is not kept", key);
    }
    assert_int_equal(qn_gguf_u64(b, "general.file_type", &v, NULL), QN_OK);
    assert_int_equal(v, file_type);
    assert_int_equal(qn_gguf_u64(b, "general.quantization_version", &v, NULL), QN_OK);
    assert_int_equal(v, 2);
}

/* Every tensor that keeps its type keeps its bytes; all metadata is there. */
static void a_type_becomes_itself(void **state) {
    (void)state;
    static const struct {
        const char *name;
        enum qn_type type;
        uint64_t file_type;
    } types[] = {{"q8_0", QN_Q8_0, 7}, {"q4_0", QN_Q4_0, 2},  {"q4_1", QN_Q4_1, 3},
                 {"f16", QN_F16, 1},   {"bf16", QN_BF16, 32}, {"f32", QN_F32, 0}};
    for (size_t i = 0; i < sizeof types / sizeof *types; i++) {
        struct qn_test_tiny t = qn_test_tiny_default("llama");
        struct qn_mapfile ma, mb;
        struct qn_gguf a, b;
        size_t kept = 0;
        t.type = types[i].type;
        t.rope_factors = true;
        assert_int_equal(qn_test_write_tiny_gguf(other, &t), 0);
        convert(other, types[i].name, out);
        open_gguf(other, &ma, &a);
        open_gguf(out, &mb, &b);
        same_metadata(&a, &b, types[i].file_type);
        assert_int_equal(a.dir.n, b.dir.n);
        for (size_t k = 0; k < a.dir.n; k++) {
            const struct qn_tensor *x = &a.dir.t[k], *y = &b.dir.t[k]; /* both sorted by name */
            assert_int_equal(qn_str_compare(x->name, y->name), 0);
            assert_int_equal(x->n_dims, y->n_dims);
            assert_memory_equal(x->dims, y->dims, sizeof x->dims);
            if (x->type != y->type) {
                assert_true(qn_str_is(x->name, "token_embd.weight"));
                continue;
            }
            assert_memory_equal(x->data, y->data, x->bytes);
            kept++;
        }
        assert_true(kept >= a.dir.n - 1);
        qn_gguf_free(&a);
        qn_gguf_free(&b);
        qn_mapfile_close(&ma);
        qn_mapfile_close(&mb);
    }
}

static void f32_holds_the_dequantised_values(void **state) {
    (void)state;
    static const char *const families[] = {"llama", "gpt2", "qwen2moe"};
    char wide[96];
    snprintf(wide, sizeof wide, "%s/wide", dir);
    for (size_t i = 0; i < sizeof families / sizeof *families; i++) {
        struct qn_test_tiny t = qn_test_tiny_default(families[i]);
        t.type = QN_Q4_1;
        assert_int_equal(qn_test_write_tiny_gguf(other, &t), 0);
        assert_true(qn_requant(other, wide, QN_F32));
        convert(other, "f32", out);
        assert_true(distance(wide, out) == 0);
        convert(wide, "f16", out); /* rounded to nearest: what rounding the dequantised values gives */
        double d = distance(wide, out);
        assert_true(d > 0 && d < 0.01);
        assert_true(qn_requant(other, wide, QN_F16));
        if (strcmp(families[i], "gpt2") != 0) assert_true(distance(wide, out) == 0); /* its positions stay */
    }
    unlink(wide);
}

/* ---- descriptions ---- */

static void descriptions_become_files(void **state) {
    (void)state;
#define SHAPE                                                                                                \
    "synthetic:hidden=256,layers=8,heads=4,kv_heads=2,attention=gqa,vocab=300,n=64,ffn_dim=512,name=noise,"
    struct qn_convert_report r;
    struct qn_err err;
    convert(SHAPE "type=f32", "f32", out);
    assert_true(distance(SHAPE "type=f32", out) == 0);
    convert(SHAPE "type=f32", "q8_0", out); /* rounded as a description of that type is */
    assert_true(distance(SHAPE "type=q8_0", out) == 0);
    convert(SHAPE "type=q8_0", "q8_0", out); /* a second rounding changes nothing */
    assert_true(distance(SHAPE "type=q8_0", out) == 0);
    convert("synthetic:hidden=64,layers=2,heads=4,vocab=300,n=64,ffn=moe,experts=3,type=f32", "f32", out);
    assert_true(
        distance("synthetic:hidden=64,layers=2,heads=4,vocab=300,n=64,ffn=moe,experts=3,type=f32", out) == 0);
    assert_int_equal(convert_to(SHAPE "tied=false", "q4_k_m", out, true, &r, &err), QN_OK);
    assert_int_equal(r.fell_back, 0);
    /* 8 layers: 0, 3, 6 and 7 get more bits for attn_v and ffn_down; the output matrix too */
    for (size_t i = 0; r.by_type[i].name; i++)
        assert_int_equal(r.by_type[i].tensors, strcmp(r.by_type[i].name, "Q6_K") == 0   ? 9
                                               : strcmp(r.by_type[i].name, "Q4_K") == 0 ? 49
                                                                                        : 17);
    assert_true(distance(SHAPE "tied=false,type=f32", out) < 0.5);
}

/* ---- refusals ---- */

/* Files in the test's directory. */
static int files(void) {
    DIR *d = opendir(dir);
    int n = 0;
    assert_non_null(d);
    for (struct dirent *e; (e = readdir(d));) n += e->d_name[0] != '.' || strlen(e->d_name) > 2;
    closedir(d);
    return n;
}

static void refuse(const char *path, const char *type, const char *to, bool replace, int code,
                   const char *why) {
    struct qn_err err;
    int n = files();
    assert_int_equal(convert_to(path, type, to, replace, NULL, &err), code);
    if (!strstr(err.msg, why)) fail_msg("%s %s: %s", path, to, err.msg);
    assert_int_equal(files(), n);
}

static void what_gguf_has_no_place_for(void **state) {
    (void)state;
#define S "synthetic:hidden=32,layers=2,heads=2,vocab=300,n=32,"
    static const struct {
        const char *path, *why;
    } cases[] = {
        {"tests/golden/quern/all", "several structures"},
        {S "attention=performer,features=16", "performer"},
        {S "attention=linformer,k=4", "linformer"},
        {S "rope=false", "without RoPE"},
        {S "sharing=all", "share"},
        {S "embedding=16,type=f16", "width of its own"},
        {S "lags=2", "preceding"},
        {S "ffn=moe,gating=D", "sigmoid"},
        {S "ffn=moe,gating=C", "Llama"},
        {S "ffn=moe,shared_dim=32", "Llama"},
        {S "ffn=gelu", "Llama"},
        {S "norm=layer", "Llama"},
        {S "pos=learned", "Llama"},
        {S "nonsense=1", "nonsense"},
    };
    unlink(out);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct qn_err err;
        int n = files(), rc = convert_to(cases[i].path, "f16", out, false, NULL, &err);
        assert_true(rc == QN_ERR_UNSUPPORTED || rc == QN_ERR_INVALID);
        if (!strstr(err.msg, cases[i].why)) fail_msg("%s: %s", cases[i].path, err.msg);
        assert_int_equal(files(), n);
    }
}

static void outputs_that_cannot_be(void **state) {
    (void)state;
    struct qn_test_tiny t = qn_test_tiny_default("llama");
    char path[128], link_path[96];
    struct stat before, after;
    unlink(out);
    assert_int_equal(qn_test_write_tiny_gguf(other, &t), 0);
    refuse(other, "q9", out, false, QN_ERR_INVALID, "q4_k_m");
    refuse(other, "f16", other, true, QN_ERR_INVALID, "input itself");
    snprintf(link_path, sizeof link_path, "%s/link", dir);
    assert_int_equal(symlink(other, link_path), 0);
    refuse(other, "f16", link_path, true, QN_ERR_INVALID, "input itself");
    refuse(link_path, "f16", other, true, QN_ERR_INVALID, "input itself");
    unlink(link_path);
    refuse(MODELS "llama/f32", "f16", MODELS "llama/f32/model.safetensors", true, QN_ERR_INVALID,
           "input itself");
    refuse(other, "f16", dir, true, QN_ERR_INVALID, "directory");
    refuse(other, "f16", "", true, QN_ERR_INVALID, "not the name");
    snprintf(path, sizeof path, "%s/none/file", dir);
    refuse(other, "f16", path, true, QN_ERR_IO, "No such file");
    refuse(other, "f16", "/dev/full", true, QN_ERR_IO, "No space left");
    snprintf(path, sizeof path, "%s/none", dir);
    refuse(path, "f16", out, false, QN_ERR_IO, "No such file");
    convert(other, "f16", out);
    assert_int_equal(stat(out, &before), 0);
    refuse(other, "f32", out, false, QN_ERR_INVALID, "exists already");
    assert_int_equal(stat(out, &after), 0);
    assert_true(before.st_ino == after.st_ino && before.st_size == after.st_size);
    convert(other, "f32", out);
    assert_int_equal(stat(out, &after), 0);
    assert_true(after.st_size > before.st_size);
    assert_int_equal(convert_to(other, "f32", "/dev/null", false, NULL, &(struct qn_err){0}), QN_OK);
}

/* A file cut anywhere, a value that is no number: no file, and what was there stays. */
static void broken_inputs(void **state) {
    (void)state;
    struct qn_test_tiny t = qn_test_tiny_default("llama");
    struct qn_test_buf b = {0};
    struct qn_err err;
    qn_test_tiny_gguf(&t, &b);
    convert(MODELS "llama/f32", "f32", out);
    struct stat before, after;
    assert_int_equal(stat(out, &before), 0);
    for (size_t n = b.n - 1; n > 8; n = n * 9 / 10) {
        struct qn_test_buf cut = {b.p, n, n};
        assert_int_equal(qn_test_buf_save(&cut, other), 0);
        int had = files();
        assert_int_not_equal(convert_to(other, "q8_0", out, true, NULL, &err), QN_OK);
        assert_true(err.msg[0] != 0);
        assert_int_equal(files(), had);
    }
    assert_int_equal(stat(out, &after), 0);
    assert_true(before.st_ino == after.st_ino);
    static const float bad[] = {1e30f, -1e6f};
    for (int k = 0; k < 3; k++) {
        uint32_t nan = 0x7fc00000; /* the last tensor's last value */
        memcpy(b.p + b.n - 4, k == 2 ? (const void *)&nan : &bad[k], 4);
        assert_int_equal(qn_test_buf_save(&b, other), 0);
        refuse(other, "q8_0", out, true, QN_ERR_UNSUPPORTED, "beyond what Q8_0 can hold");
        refuse(other, "f16", out, true, QN_ERR_UNSUPPORTED, "beyond what F16 can hold");
        assert_int_equal(convert_to(other, "bf16", out, true, NULL, &err), QN_OK);
    }
    qn_test_buf_free(&b);
}

static void a_signal_stops_it(void **state) {
    (void)state;
    atomic_bool stop = true;
    struct qn_convert_report r;
    struct qn_err err = {0};
    struct qn_convert_options opt = {.type = "f16", .out = out, .cancel = &stop};
    unlink(out);
    int n = files();
    assert_int_equal(qn_model_convert(MODELS "llama/f32", &opt, &r, &err), QN_ERR_INVALID);
    assert_string_equal(err.msg, "stopped");
    assert_int_equal(files(), n);
}

static void cut_input(void *ctx, const char *phase, double done) {
    (void)done;
    if (strcmp(phase, "write") == 0) assert_int_equal(truncate(ctx, 4096), 0);
}

/* Someone cuts or changes the input meanwhile: an error, and no file of zeros. */
static void an_input_that_is_cut_meanwhile(void **state) {
    (void)state;
    for (int k = 0; k < 2; k++) { /* rounded, and copied */
        struct qn_test_tiny t = qn_test_tiny_default("llama");
        struct qn_convert_report r;
        struct qn_err err = {0};
        struct qn_convert_options opt = {
            .type = k ? "f32" : "f16", .out = out, .progress = cut_input, .progress_ctx = other};
        assert_int_equal(qn_test_write_tiny_gguf(other, &t), 0);
        assert_int_equal(qn_model_convert(other, &opt, &r, &err), QN_ERR_IO);
        if (!strstr(err.msg, other)) fail_msg("%d %s", k, err.msg);
        assert_int_not_equal(access(out, F_OK), 0);
        assert_int_equal(files(), 1);
    }
}

static int make_dir(void **state) {
    (void)state;
    snprintf(dir, sizeof dir, "/tmp/quern-convert-XXXXXX");
    if (!mkdtemp(dir)) return -1;
    snprintf(out, sizeof out, "%s/out.gguf", dir);
    snprintf(other, sizeof other, "%s/in", dir);
    return 0;
}

static int remove_dir(void **state) {
    (void)state;
    char command[128];
    snprintf(command, sizeof command, "rm -rf %s", dir);
    return system(command);
}

int main(void) {
#define T(f) cmocka_unit_test_setup_teardown(f, make_dir, remove_dir)
    const struct CMUnitTest tests[] = {
        /* First: cmocka's own handler of SIGBUS comes back after the test that opens the first file. */
        T(an_input_that_is_cut_meanwhile),
        T(families_keep_their_logits),
        T(hf_directories_become_gguf),
        T(a_type_becomes_itself),
        T(f32_holds_the_dequantised_values),
        T(descriptions_become_files),
        T(what_gguf_has_no_place_for),
        T(outputs_that_cannot_be),
        T(broken_inputs),
        T(a_signal_stops_it),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
