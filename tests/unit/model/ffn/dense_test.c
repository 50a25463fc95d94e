/* Every plain and gated FFN against a double-precision reference, the identities that tell gate from up and
 * one activation from another, what replies say of them, and the exact conversion of a plain MLP into a gated
 * one. Thread: the test's and a pool of two. */
#include "tests/unit/model/ffn/kit.h"

#define D    48
#define DIM  72
#define ROWS 19

struct kind_case {
    const char *name;
    enum qn_act_fn act;
    bool gated;
    const char *word; /* what the reply says of the activation */
};

static const struct kind_case kinds[] = {
    {"relu", QN_ACT_RELU, false, NULL},        {"gelu", QN_ACT_GELU_ERF, false, "erf"},
    {"gelu", QN_ACT_GELU_TANH, false, "tanh"}, {"swiglu", QN_ACT_SILU, true, NULL},
    {"geglu", QN_ACT_GELU_ERF, true, "erf"},   {"geglu", QN_ACT_GELU_TANH, true, "tanh"},
    {"reglu", QN_ACT_RELU, true, NULL},        {"glu", QN_ACT_SIGMOID, true, NULL},
    {"bilinear", QN_ACT_IDENTITY, true, NULL},
};
#define N_KINDS (sizeof kinds / sizeof *kinds)

static struct qn_spec spec_of(const struct kind_case *k) {
    struct qn_ffn_member m = {.act = k->act, .dim = DIM};
    memcpy(m.type, k->name, strlen(k->name) + 1);
    return kit_spec(D, &m);
}

static struct qn_ffn native(const struct qn_spec *s) {
    struct qn_ffn f;
    struct qn_err err;
    assert_int_equal(kit_resolve(s, qn_ffn_find(s, ""), NULL, &f, &err), QN_OK);
    assert_int_equal(f.choice.origin, QN_ORIGIN_NATIVE);
    return f;
}

static void run_net(const struct kind_case *k, const struct kit_net *n, const float *b_up,
                    const float *b_down, const float *x, float *y) {
    struct qn_spec s = spec_of(k);
    struct qn_ffn f = native(&s);
    struct qn_ffn_weights w = {
        .dense = n->w, .b_up = (float *)(uintptr_t)b_up, .b_down = (float *)(uintptr_t)b_down};
    kit_run(&s, &f, &w, NULL, ROWS, x, y);
}

/* Rows through the kernels, with and without biases, against doubles. */
static void equal_the_reference(void **state) {
    (void)state;
    for (size_t i = 0; i < N_KINDS; i++) {
        for (int biased = 0; biased < 2; biased++) {
            uint64_t s = 100 + i;
            struct kit_net n = kit_net_new(&s, D, DIM, kinds[i].gated);
            float *x = kit_floats(&s, ROWS * D, 2), *y = kit_floats(&s, ROWS * D, 1);
            float *b_up = biased ? kit_floats(&s, DIM, 1) : NULL;
            float *b_down = biased ? kit_floats(&s, D, 1) : NULL;
            double want[ROWS * D] = {0};
            run_net(&kinds[i], &n, b_up, b_down, x, y);
            for (uint32_t r = 0; r < ROWS; r++)
                kit_reference(&n, kinds[i].act, b_up, b_down, x + r * D, 1, want + r * D);
            double off = kit_distance(y, want, ROWS * D);
            if (!(off < 2e-6)) fail_msg("%s is off by %.1e", kinds[i].name, off);
            qn_mem_free(x);
            qn_mem_free(y);
            qn_mem_free(b_up);
            qn_mem_free(b_down);
            kit_net_free(&n);
        }
    }
}

/* The reference tells the activations apart: each kind's result is far from every other's, the two forms of
 * GELU and a swap of gate and up included. */
static void differ_from_each_other(void **state) {
    (void)state;
    uint64_t s = 7;
    struct kit_net n = kit_net_new(&s, D, DIM, true), swapped = n;
    float *x = kit_floats(&s, ROWS * D, 2), *y = kit_floats(&s, ROWS * D, 1);
    swapped.gate = n.up;
    swapped.up = n.gate;
    for (size_t i = 0; i < N_KINDS; i++) {
        if (!kinds[i].gated) continue;
        run_net(&kinds[i], &n, NULL, NULL, x, y);
        for (size_t j = 0; j < N_KINDS; j++) {
            double want[ROWS * D] = {0};
            if (!kinds[j].gated || i == j) continue;
            for (uint32_t r = 0; r < ROWS; r++)
                kit_reference(&n, kinds[j].act, NULL, NULL, x + r * D, 1, want + r * D);
            assert_true(kit_distance(y, want, ROWS * D) > 2e-5);
        }
        double want[ROWS * D] = {0};
        for (uint32_t r = 0; r < ROWS; r++)
            kit_reference(&swapped, kinds[i].act, NULL, NULL, x + r * D, 1, want + r * D);
        bool symmetric = kinds[i].act == QN_ACT_IDENTITY;
        assert_true((kit_distance(y, want, ROWS * D) < 2e-6) == symmetric);
    }
    qn_mem_free(x);
    qn_mem_free(y);
    kit_net_free(&n);
}

/* f(a) - f(-a) = a for SiLU, both GELUs and ReLU, so FFN(W) - FFN(-W) is the bilinear one; sigmoid(a) +
 * sigmoid(-a) = 1, so GLU(W) + GLU(-W) is the up and down branch alone. */
static void sign_identities(void **state) {
    (void)state;
    static const struct kind_case bilinear = {"bilinear", QN_ACT_IDENTITY, true, NULL};
    for (size_t i = 0; i < N_KINDS; i++) {
        if (!kinds[i].gated || kinds[i].act == QN_ACT_IDENTITY) continue;
        uint64_t s = 40 + i;
        struct kit_net n = kit_net_new(&s, D, DIM, true), minus = n;
        float *x = kit_floats(&s, ROWS * D, 2), *a = kit_floats(&s, ROWS * D, 1),
              *b = kit_floats(&s, ROWS * D, 1), *c = kit_floats(&s, ROWS * D, 1);
        float *negative = qn_mem_alloc_array(DIM * D, sizeof *negative);
        assert_non_null(negative);
        for (size_t j = 0; j < DIM * D; j++) negative[j] = -n.gate[j];
        kit_pack(&minus.w.gate, negative, DIM, D);
        run_net(&kinds[i], &n, NULL, NULL, x, a);
        run_net(&kinds[i], &minus, NULL, NULL, x, b);
        double want[ROWS * D] = {0};
        if (kinds[i].act == QN_ACT_SIGMOID) { /* a plain network without activation */
            struct kit_net linear = n;
            linear.gate = NULL;
            for (uint32_t r = 0; r < ROWS; r++)
                kit_reference(&linear, QN_ACT_IDENTITY, NULL, NULL, x + r * D, 1, want + r * D);
        } else {
            run_net(&bilinear, &n, NULL, NULL, x, c);
            for (size_t j = 0; j < ROWS * D; j++) want[j] = (double)c[j];
        }
        float sign = kinds[i].act == QN_ACT_SIGMOID ? 1.0f : -1.0f;
        for (size_t j = 0; j < ROWS * D; j++) a[j] += sign * b[j];
        assert_true(kit_distance(a, want, ROWS * D) < 3e-6);
        qn_matrix_free(&minus.w.gate);
        qn_mem_free(negative);
        qn_mem_free(x);
        qn_mem_free(a);
        qn_mem_free(b);
        qn_mem_free(c);
        kit_net_free(&n);
    }
}

/* A row's bits do not depend on the rows beside it, nor on the pool. */
static void rows_are_independent(void **state) {
    (void)state;
    struct qn_pool *pool = qn_pool_new(2);
    assert_non_null(pool);
    for (size_t i = 0; i < N_KINDS; i++) {
        uint64_t s = 60 + i;
        struct kit_net n = kit_net_new(&s, D, DIM, kinds[i].gated);
        float *x = kit_floats(&s, ROWS * D, 2), *all = kit_floats(&s, ROWS * D, 1), one[D];
        struct qn_spec spec = spec_of(&kinds[i]);
        struct qn_ffn f = native(&spec);
        struct qn_ffn_weights w = {.dense = n.w};
        kit_run(&spec, &f, &w, pool, ROWS, x, all);
        for (uint32_t r = 0; r < ROWS; r++) {
            kit_run(&spec, &f, &w, NULL, 1, x + r * D, one);
            assert_memory_equal(one, all + r * D, sizeof one);
        }
        qn_mem_free(x);
        qn_mem_free(all);
        kit_net_free(&n);
    }
    qn_pool_free(&pool);
}

/* ---- what replies say ---- */

static void parts_and_costs(void **state) {
    (void)state;
    for (size_t i = 0; i < N_KINDS; i++) {
        struct qn_spec s = spec_of(&kinds[i]);
        struct qn_ffn f = native(&s), g;
        struct qn_err err;
        const struct qn_param *p = qn_part_find(&f.choice.part, "activation");
        assert_true((p != NULL) == (kinds[i].word != NULL));
        if (p) assert_string_equal(p->text, kinds[i].word);
        if (p) assert_int_equal(p->kind, QN_PARAM_TEXT);
        assert_true(f.ops->row_macs(&f) == (kinds[i].gated ? 3.0 : 2.0) * D * DIM);
        for (int right = 0; p && right < 2; right++) { /* asked for by name */
            struct qn_part ask;
            qn_part_init(&ask, kinds[i].name);
            bool erf = strcmp(kinds[i].word, "erf") == 0;
            qn_part_add_text(&ask, "activation", erf == (right == 1) ? "erf" : "tanh");
            int rc = kit_resolve(&s, f.ops, &ask, &g, &err);
            assert_int_equal(rc, right ? QN_OK : QN_ERR_INVALID);
            if (!right) assert_string_equal(err.param, "ffn");
            if (!right) assert_non_null(strstr(err.msg, kinds[i].word));
        }
    }
}

/* From every kind to every dense kind: itself is native, a plain MLP to the gated kind of its activation is
 * exact, all else has no weights. */
static void what_can_be_had(void **state) {
    (void)state;
    for (size_t i = 0; i < N_KINDS; i++) {
        for (size_t j = 0; j < N_KINDS; j++) {
            struct qn_spec s = spec_of(&kinds[i]);
            struct qn_ffn f;
            struct qn_err err;
            const struct qn_ffn_ops *ops = qn_ffn_find(&s, kinds[j].name);
            assert_non_null(ops);
            assert_int_equal(kit_resolve(&s, ops, NULL, &f, &err), QN_OK);
            bool same = strcmp(kinds[i].name, kinds[j].name) == 0;
            bool lifts = (strcmp(kinds[i].name, "relu") == 0 && strcmp(kinds[j].name, "reglu") == 0) ||
                         (strcmp(kinds[i].name, "gelu") == 0 && strcmp(kinds[j].name, "geglu") == 0);
            assert_int_equal(f.choice.origin, same ? QN_ORIGIN_NATIVE : QN_ORIGIN_CONVERTED);
            assert_int_equal(f.choice.exactness, same || lifts ? QN_EXACT : QN_UNAVAILABLE);
            assert_true((f.choice.why[0] == 0) == same);
            if (same || lifts) assert_int_equal(f.act, kinds[i].act);
        }
    }
}

/* The plain MLP as a gated one: the same bits, and as many bytes as announced. */
static void plain_as_gated(void **state) {
    (void)state;
    for (size_t i = 0; i < N_KINDS; i++) {
        if (kinds[i].gated) continue;
        uint64_t seed = 80 + i;
        struct qn_spec s = spec_of(&kinds[i]);
        struct qn_ffn f = native(&s), g;
        struct qn_err err;
        struct kit_net n = kit_net_new(&seed, D, DIM, false);
        float *x = kit_floats(&seed, ROWS * D, 2), *a = kit_floats(&seed, ROWS * D, 1),
              *b = kit_floats(&seed, ROWS * D, 1);
        float *b_up = kit_floats(&seed, DIM, 1), *b_down = kit_floats(&seed, D, 1);
        const struct qn_ffn_ops *ops = kinds[i].act == QN_ACT_RELU ? &qn_ffn_reglu : &qn_ffn_geglu;
        assert_int_equal(kit_resolve(&s, ops, NULL, &g, &err), QN_OK);
        struct qn_ffn_weights w = {.dense = n.w, .b_up = b_up, .b_down = b_down}, c = {0};
        size_t replaced = 1, bytes = ops->convert_bytes(&g, &w, &replaced);
        assert_int_equal(replaced, 0);
        assert_int_equal(ops->convert(&g, &w, &c, &err), QN_OK);
        assert_int_equal(bytes, c.dense.up.bytes + DIM * sizeof(float));
        assert_ptr_equal(c.dense.gate.data, n.w.up.data); /* borrowed */
        kit_run(&s, &f, &w, NULL, ROWS, x, a);
        kit_run(&s, &g, &c, NULL, ROWS, x, b);
        assert_memory_equal(a, b, ROWS * D * sizeof *a);
        ops->release(&c);
        ops->release(&c); /* takes a zero one */
        qn_mem_free(x);
        qn_mem_free(a);
        qn_mem_free(b);
        qn_mem_free(b_up);
        qn_mem_free(b_down);
        kit_net_free(&n);
    }
}

int main(void) {
    qn_kernels_ensure();
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(equal_the_reference), cmocka_unit_test(differ_from_each_other),
        cmocka_unit_test(sign_identities),     cmocka_unit_test(rows_are_independent),
        cmocka_unit_test(parts_and_costs),     cmocka_unit_test(what_can_be_had),
        cmocka_unit_test(plain_as_gated),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
