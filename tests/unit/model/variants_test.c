/* The list of variants: requests with made-up parameters push out neither what the checkpoint was trained
 * with nor the way to what others left in the prefix cache, and the list stays short; a structure that is
 * known is not measured again; threads that ask for the same one get the same one. Thread: one, or four that
 * resolve. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "model/batch.h"
#include "model/internal.h"
#include "tests/support/tiny_open.h"

#define TOKENS 40
#define IDLE   64   /* as variants.c keeps */
#define PAST   4096 /* as variants.c keeps */

static struct qn_model *open_tiny(void) {
    struct qn_test_tiny t = qn_test_tiny_default("llama");
    struct qn_open_options opt = {
        .state_bytes = (size_t)8 << 20, .max_step_tokens = 64, .prefix_cache = true};
    t.heads = 4;
    t.kv_heads = 2;
    t.tokenizer = false;
    return qn_test_tiny_open(&t, &opt);
}

static struct qn_variant *performer(struct qn_model *m, uint32_t seed) {
    struct qn_structure_request req = {.convert = true};
    struct qn_variant *v = NULL;
    struct qn_err err = {0};
    qn_part_init(&req.attention, "performer");
    qn_part_add(&req.attention, "features", QN_PARAM_INT, 4);
    qn_part_add(&req.attention, "seed", QN_PARAM_INT, seed);
    if (qn_variant_resolve(m, &req, &v, &err)) fail_msg("%s", err.msg);
    return v;
}

static void made_up(struct qn_model *m, uint32_t first, uint32_t n) {
    for (uint32_t i = first; i < first + n; i++) qn_variant_unref(performer(m, i));
}

/* Runs a prompt with v, which is given up; returns the tokens that the cache already had. */
static uint32_t prompt(struct qn_variant *v) {
    int32_t tokens[TOKENS];
    struct qn_seq *s;
    for (int32_t i = 0; i < TOKENS; i++) tokens[i] = i * 5 % 200;
    assert_int_equal(qn_variant_prepare(v, NULL, NULL), QN_OK);
    assert_int_equal(qn_seq_new(v, 0, true, &s, NULL), QN_OK);
    uint32_t had = qn_seq_match(s, tokens, TOKENS);
    assert_int_equal(qn_seq_reserve(s, TOKENS), QN_OK);
    struct qn_span span = {.seq = s, .tokens = tokens + had, .n = TOKENS - had, .snapshot = true};
    struct qn_step step = {.variant = v, .spans = &span, .n_spans = 1};
    assert_int_equal(qn_step_run(&step, NULL), QN_OK);
    qn_seq_free(&s);
    qn_variant_unref(v);
    return had;
}

static size_t listed(const struct qn_model *m) {
    size_t n = 0;
    for (const struct qn_variant *v = m->variants; v; v = v->next) n++;
    return n;
}

static void made_up_ones_hide_nothing(void **state) {
    (void)state;
    struct qn_model *m = open_tiny();
    struct qn_variant *native = qn_test_variant(m, "", 0);
    assert_int_equal(prompt(native), 0);
    assert_int_equal(prompt(qn_test_variant(m, "mha", 0)), 0);
    uint64_t own = native->id;
    made_up(m, 0, 3 * IDLE);
    assert_int_equal(listed(m), IDLE + 1); /* the native one, and of the others the latest */
    assert_int_equal(prompt(qn_test_variant(m, "mha", 0)), 32);
    struct qn_variant *v = qn_test_variant(m, "", 0);
    assert_ptr_equal(v, native);
    assert_int_equal(v->id, own);
    assert_int_equal(prompt(v), 32);
    qn_model_close(&m);
}

static size_t past(const struct qn_model *m) {
    size_t n = 0;
    struct head { /* what variants.c begins its entries with */
        uint64_t id;
        struct head *next;
    };
    for (const struct head *p = (const void *)m->past_ids; p; p = p->next) n++;
    return n;
}

/* An id belongs to one key for ever; what is remembered is bounded, the least recent going first. */
static void ids_belong_to_keys(void **state) {
    (void)state;
    struct qn_model *m = open_tiny();
    uint64_t id[3];
    for (uint32_t i = 0; i < 3; i++) {
        struct qn_variant *v = performer(m, i);
        id[i] = v->id;
        qn_variant_unref(v);
    }
    made_up(m, 3, IDLE + PAST); /* seeds 0 to 2 are forgotten, 3 is the last that is not */
    assert_int_equal(listed(m), IDLE);
    assert_int_equal(past(m), PAST);
    struct qn_variant *v = performer(m, 3), *w = performer(m, 2);
    assert_int_equal(v->id, id[2] + 1);
    assert_true(w->id > id[2] + IDLE + PAST);
    assert_int_equal(past(m), PAST - 1);
    qn_variant_unref(v);
    qn_variant_unref(w);
    qn_model_close(&m);
}

/* The answer is kept with the variant: looked up before anything is counted. */
static void known_ones_are_not_measured(void **state) {
    (void)state;
    struct qn_model *m = open_tiny();
    struct qn_structure_request other = {.convert = true};
    struct qn_variant *v = performer(m, 1), *again;
    m->convert_budget = 0;
    again = performer(m, 1);
    assert_ptr_equal(v, again);
    qn_part_init(&other.attention, "mqa");
    assert_int_equal(qn_variant_resolve(m, &other, &again, NULL), QN_ERR_INVALID);
    assert_null(again);
    assert_int_equal(listed(m), 1);
    qn_variant_unref(v);
    qn_variant_unref(v);
    qn_model_close(&m);
}

#define ASKED 200
struct asker {
    struct qn_model *m;
    struct qn_variant *got[ASKED];
};

static void *ask(void *arg) {
    struct asker *a = arg;
    for (uint32_t i = 0; i < ASKED; i++) a->got[i] = performer(a->m, i);
    return NULL;
}

static void threads_get_the_same(void **state) {
    (void)state;
    static struct asker a[4];
    pthread_t thread[4];
    struct qn_model *m = open_tiny();
    for (int i = 0; i < 4; i++) {
        a[i].m = m;
        assert_int_equal(pthread_create(&thread[i], NULL, ask, &a[i]), 0);
    }
    for (int i = 0; i < 4; i++) assert_int_equal(pthread_join(thread[i], NULL), 0);
    assert_int_equal(listed(m), ASKED);
    for (uint32_t i = 0; i < ASKED; i++) {
        assert_int_equal(a[0].got[i]->refs, 4);
        for (int k = 0; k < 4; k++) {
            assert_ptr_equal(a[k].got[i], a[0].got[i]);
            if (k) qn_variant_unref(a[k].got[i]);
        }
        qn_variant_unref(a[0].got[i]);
    }
    assert_int_equal(listed(m), IDLE);
    qn_model_close(&m);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(made_up_ones_hide_nothing),
        cmocka_unit_test(ids_belong_to_keys),
        cmocka_unit_test(known_ones_are_not_measured),
        cmocka_unit_test(threads_get_the_same),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
