/* Checkpoints of quern's own family against a plain float64 twin (tests/golden/quern, made by
 * tools/golden/quern.py): every combination of their members is native, and its logits are within 1e-4 of the
 * largest at every position (with matrices of BF16, whose products round, in exact arithmetic; 2e-2 in their
 * own), equal bit for bit however the sequence is cut, and no token has a say in the logits before it, which
 * it has once the same weights read in both directions. Thread: the main thread drives a pool of two. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "model/part.h"
#include "tests/support/golden.h"

#define NAME_SIZE 112

struct file {
    uint8_t *bytes;
    uint32_t n, vocab, structures;
    const int32_t *ids;
    const uint8_t *rows; /* per structure: three names of 16 bytes, then [n, vocab] floats */
};

static void read_golden(const char *path, struct file *g) {
    FILE *f = fopen(path, "rb");
    assert_non_null(f);
    fseek(f, 0, SEEK_END);
    size_t size = (size_t)ftell(f);
    rewind(f);
    g->bytes = malloc(size);
    assert_non_null(g->bytes);
    assert_int_equal(fread(g->bytes, 1, size, f), size);
    fclose(f);
    uint32_t head[3];
    assert_memory_equal(g->bytes, "QNMANY01", 8);
    memcpy(head, g->bytes + 8, sizeof head);
    g->n = head[0], g->vocab = head[1], g->structures = head[2];
    g->ids = (const int32_t *)(const void *)(g->bytes + 20);
    g->rows = g->bytes + 20 + 4 * (size_t)g->n;
    assert_int_equal(size, 20 + 4 * (size_t)g->n + g->structures * (48 + 4 * (size_t)g->n * g->vocab));
}

static const struct { uint32_t sizes[3], n; } cuts[] = {{{512}, 1}, {{1}, 1}, {{16}, 1}, {{7, 1, 13}, 3}};

/* Names of a structure's parts -> b->variant, prepared; "a+b+c" for messages. Without causality it is a
 * conversion. */
static void use_structure(struct qn_bench *b, const uint8_t *names, bool causal, char name[NAME_SIZE]) {
    struct qn_structure_request req = {.convert = !causal};
    qn_part_init(&req.attention, (const char *)names);
    qn_part_init(&req.ffn, (const char *)names + 16);
    qn_part_init(&req.sharing, (const char *)names + 32);
    if (!causal) qn_part_add(&req.attention, "causal", QN_PARAM_BOOL, 0);
    snprintf(name, NAME_SIZE, "%s+%s+%s%s", req.attention.type, req.ffn.type, req.sharing.type,
             causal ? "" : " in both directions");
    if (qn_variant_resolve(b->model, &req, &b->variant, &b->err) != QN_OK)
        fail_msg("%s: %s", name, b->err.msg);
    assert_int_equal(qn_variant_structure(b->variant)->causal, causal);
    assert_int_equal(qn_variant_prepare(b->variant, NULL, &b->err), QN_OK);
}

static void leave_structure(struct qn_bench *b) {
    qn_variant_unref(b->variant);
    b->variant = NULL;
}

/* One structure, cut in every way. */
static void check_structure(struct qn_bench *b, const struct file *g, const uint8_t *at, double tolerance,
                            float *out, float *first) {
    char name[NAME_SIZE];
    size_t n = (size_t)g->n * g->vocab;
    float *want = malloc(n * sizeof *want);
    assert_non_null(want);
    memcpy(want, at + 48, n * sizeof *want);
    use_structure(b, at, true, name);
    assert_int_equal(qn_variant_structure(b->variant)->origin, QN_ORIGIN_NATIVE);
    assert_int_equal(qn_variant_structure(b->variant)->exactness, QN_EXACT);
    for (size_t i = 0; i < sizeof cuts / sizeof *cuts; i++) {
        struct qn_bench_run run = {.ids = g->ids,
                                   .n = g->n,
                                   .chunks = cuts[i].sizes,
                                   .n_chunks = cuts[i].n,
                                   .want = QN_WANT_ALL,
                                   .out = i ? out : first,
                                   .width = g->vocab};
        if (!qn_bench_run(b, &run)) fail_msg("%s: %s", name, b->err.msg);
        if (i) assert_memory_equal(out, first, n * sizeof *out);
    }
    double d = qn_distance(first, want, n);
    if (!(d <= tolerance)) fail_msg("%s: logits differ by %g of the largest", name, d);
    leave_structure(b);
    free(want);
}

/* --- causality --- */
/* Rows before token j that differ once it is another token; *own: whether row j does. out, first: [n, width],
 * first are the rows of g->ids. */
static uint32_t rows_changed(struct qn_bench *b, const struct file *g, struct qn_bench_run run, uint32_t j,
                             const float *first, bool *own) {
    int32_t ids[64];
    uint32_t changed = 0;
    memcpy(ids, g->ids, g->n * sizeof *ids);
    ids[j] = (int32_t)(((uint32_t)ids[j] + 1) % g->vocab);
    run.ids = ids;
    if (!qn_bench_run(b, &run)) fail_msg("%s", b->err.msg);
    size_t row = run.width * sizeof(float);
    for (uint32_t r = 0; r < j; r++)
        changed += memcmp(run.out + r * run.width, first + r * run.width, row) != 0;
    *own = memcmp(run.out + j * run.width, first + j * run.width, row) != 0;
    return changed;
}

/* Logits with causality, hidden rows without: all that such a structure may be asked for. */
static void check_causality(struct qn_bench *b, const struct file *g, const uint8_t *names, bool causal,
                            float *out, float *first) {
    static const uint32_t whole[] = {64}, pieces[] = {7, 1, 13}, tokens[] = {1, 2, 15, 16, 17, 29};
    char name[NAME_SIZE];
    use_structure(b, names, causal, name);
    struct qn_bench_run run = {.ids = g->ids,
                               .n = g->n,
                               .chunks = whole,
                               .n_chunks = 1,
                               .want = causal ? QN_WANT_ALL : QN_WANT_HIDDEN,
                               .out = first,
                               .width = causal ? g->vocab : qn_model_info(b->model)->d_model};
    assert_true(g->n <= 64 && g->n > 30);
    if (!qn_bench_run(b, &run)) fail_msg("%s: %s", name, b->err.msg);
    run.out = out;
    for (size_t cut = 0; cut < (causal ? 2 : 1); cut++) {
        if (cut) run.chunks = pieces, run.n_chunks = 3;
        for (size_t i = 0; i < sizeof tokens / sizeof *tokens; i++) {
            bool own;
            uint32_t j = tokens[i], n = rows_changed(b, g, run, j, first, &own);
            if (n != (causal ? 0 : j) || !own)
                fail_msg("%s: token %u changes %u earlier rows%s", name, j, n, own ? "" : " and not its own");
        }
    }
    leave_structure(b);
}

static void check_fixture_as(const char *dir, bool exact, double tolerance) {
    char path[96];
    struct file g;
    struct qn_bench b;
    struct qn_bench_options opt = {
        .state = QN_STATE_F32, .threads = 2, .max_step_tokens = 64, .exact = exact};
    snprintf(path, sizeof path, "%s/golden.bin", dir);
    read_golden(path, &g);
    if (!qn_bench_open(&b, dir, &opt)) fail_msg("%s: %s", dir, b.err.msg);
    leave_structure(&b);
    size_t n = (size_t)g.n * g.vocab;
    assert_true(qn_model_info(b.model)->d_model <= g.vocab);
    float *out = malloc(n * sizeof *out), *first = malloc(n * sizeof *first);
    assert_true(out && first);
    for (uint32_t i = 0; i < g.structures; i++) {
        const uint8_t *at = g.rows + i * (48 + 4 * n);
        check_structure(&b, &g, at, tolerance, out, first);
        check_causality(&b, &g, at, true, out, first);
        check_causality(&b, &g, at, false, out, first);
    }
    free(out);
    free(first);
    qn_bench_close(&b);
    free(g.bytes);
}

static void check_fixture(const char *dir) {
    check_fixture_as(dir, false, 1e-4);
}

static void all_thirty(void **state) {
    (void)state;
    check_fixture("tests/golden/quern/all");
}

static void other_forms(void **state) {
    (void)state;
    check_fixture_as("tests/golden/quern/forms", true, 1e-4);
    check_fixture_as("tests/golden/quern/forms", false, 2e-2);
}

/* Tables narrower than the model, E and F of each block, gating D. */
static void factored(void **state) {
    (void)state;
    check_fixture("tests/golden/quern/factored");
}

/* The default is the first member of each list; the held-out table comes through. */
static void defaults_and_table(void **state) {
    (void)state;
    static const char *const native[][3] = {{"gqa", "swiglu", "none"}, {"linformer", "gelu", "all"}};
    static const char *const dirs[] = {"tests/golden/quern/all", "tests/golden/quern/forms"};
    for (int i = 0; i < 2; i++) {
        struct qn_bench b;
        struct qn_held_out rows[4];
        struct qn_bench_options opt = {.threads = 1, .max_step_tokens = 64};
        if (!qn_bench_open(&b, dirs[i], &opt)) fail_msg("%s: %s", dirs[i], b.err.msg);
        const struct qn_structure *s = qn_variant_structure(b.variant);
        assert_string_equal(s->attention.type, native[i][0]);
        assert_string_equal(s->ffn.type, native[i][1]);
        assert_string_equal(s->sharing.type, native[i][2]);
        assert_int_equal(qn_model_held_out(b.model, rows, 4), i ? 0 : 2);
        assert_int_equal(qn_model_held_out(b.model, NULL, 0), i ? 0 : 2);
        if (i == 0) {
            assert_string_equal(rows[1].attention, "performer");
            assert_string_equal(rows[1].ffn, "moe");
            assert_string_equal(rows[1].sharing, "all");
            assert_true(rows[1].nats_per_byte == 2.0 && rows[1].bits_per_byte == 2.885);
        }
        qn_bench_close(&b);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(all_thirty),
        cmocka_unit_test(other_forms),
        cmocka_unit_test(factored),
        cmocka_unit_test(defaults_and_table),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
