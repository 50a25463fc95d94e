/* The model inside the binary: it opens under its name without a file, has a tokenizer, runs every structure
 * that its table of held-out figures names, and equals what its files give. Skipped in a tree without them.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "model/internal.h"

static struct qn_model *open_it(const char *path) {
    struct qn_model *m = NULL;
    struct qn_err err = {0};
    struct qn_open_options opt = {.state_bytes = (size_t)8 << 20, .max_step_tokens = 32};
    if (qn_model_open(path, &opt, &m, &err) != QN_OK) fail_msg("%s: %s", path, err.msg);
    return m;
}

static void opens_by_name(void **state) {
    (void)state;
    if (!qn_model_builtin()) skip();
    struct qn_model *m = open_it(qn_model_builtin()), *f = open_it("model/zoo/grist");
    assert_string_equal(qn_model_info(m)->id, "grist");
    assert_true(qn_model_info(m)->has_tokenizer);
    assert_int_equal(m->ckpt->weights_bytes, f->ckpt->weights_bytes);
    assert_int_equal(m->ckpt->params, f->ckpt->params);
    const struct qn_matrix *a = &m->ckpt->attn[0].q, *b = &f->ckpt->attn[0].q;
    assert_int_equal(a->bytes, b->bytes);
    assert_memory_equal(a->data, b->data, a->bytes);
    qn_model_close(&f);
    qn_model_close(&m);
}

static void every_row_of_its_table_is_native(void **state) {
    (void)state;
    if (!qn_model_builtin()) skip();
    struct qn_model *m = open_it(qn_model_builtin());
    struct qn_held_out rows[64];
    size_t n = qn_model_held_out(m, rows, 64);
    assert_true(n <= 64);
    for (size_t i = 0; i < n; i++) {
        struct qn_structure_request req = {.convert = false};
        struct qn_variant *v = NULL;
        qn_part_init(&req.attention, rows[i].attention);
        qn_part_init(&req.ffn, rows[i].ffn);
        qn_part_init(&req.sharing, rows[i].sharing);
        assert_int_equal(qn_variant_resolve(m, &req, &v, NULL), QN_OK);
        assert_int_equal(qn_variant_structure(v)->origin, QN_ORIGIN_NATIVE);
        qn_variant_unref(v);
    }
    qn_model_close(&m);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(opens_by_name),
        cmocka_unit_test(every_row_of_its_table_is_native),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
