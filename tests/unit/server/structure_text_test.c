/* Structures as people write them: every form that is taken, and where the others are wrong. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <stdlib.h>
#include <string.h>

#include "server/structure_text.h"
#include "server/translate.h"

static void parse(const char *text, struct qn_api_compare_structure *s) {
    struct qn_api_err e = {0};
    if (qn_structure_text(text, strlen(text), s, &e)) fail_msg("%s: %s", text, e.msg);
}

static void taken(void **state) {
    (void)state;
    struct qn_api_compare_structure s;
    parse("gqa+swiglu+none", &s);
    assert_string_equal(s.attention.type, "gqa");
    assert_string_equal(s.ffn.type, "swiglu");
    assert_string_equal(s.sharing.type, "none");
    assert_int_equal(s.attention.n_params + s.ffn.n_params + s.sharing.n_params, 0);
    parse("mqa", &s);
    assert_string_equal(s.attention.type, "mqa");
    assert_string_equal(s.ffn.type, "");
    parse("+moe(experts_per_token=1)", &s);
    assert_string_equal(s.attention.type, "");
    assert_string_equal(s.ffn.params[0].name, "experts_per_token");
    assert_int_equal(s.ffn.params[0].kind, QN_API_INT);
    assert_true(s.ffn.params[0].value > 0.5 && s.ffn.params[0].value < 1.5);
    parse("++all", &s);
    assert_string_equal(s.sharing.type, "all");
    parse("performer(features=64,kernel=favor+,rope=false,x=-0.5,seed=7)+moe+groups(count=2)", &s);
    assert_int_equal(s.attention.n_params, 5);
    assert_string_equal(s.attention.params[1].text, "favor+");
    assert_int_equal(s.attention.params[1].kind, QN_API_TEXT);
    assert_int_equal(s.attention.params[2].kind, QN_API_BOOL);
    assert_true(s.attention.params[2].value < 0.5);
    assert_int_equal(s.attention.params[3].kind, QN_API_NUMBER);
    assert_true(s.attention.params[3].value < 0);
    assert_string_equal(s.ffn.type, "moe");
    assert_string_equal(s.sharing.type, "groups");
}

static void refused(void **state) {
    (void)state;
    static const struct {
        const char *text, *says;
    } rows[] = {
        {"", "attention+ffn+sharing"},
        {"gqa ", "character 4"},
        {"GQA", "the name of a structure expected at character 1"},
        {"gqa+swiglu+none+more", "no fourth part"},
        {"gqa(", "the name of a parameter expected at character 5"},
        {"gqa(kv_heads", "\"=\""},
        {"gqa(kv_heads=", "a value"},
        {"gqa(kv_heads=2", "\",\" or \")\" expected at character 15"},
        {"gqa(kv_heads=2x)", "a number, true, false or a word"},
        {"gqa(kv_heads=1e99)", "a number"},
        {"gqa(kv_heads=nan)x", "expected at character 18"},
        {"gqa(a=1,b=1,c=1,d=1,e=1,f=1,g=1,h=1,i=1)", "no more than 8"},
        {"gqa(kv_heads=2,causal=true,kv_heads=3)", "kv_heads is given twice"},
        {"abcdefghijklmnopqrstuvwx", "the name of a structure"},
        {"gqa(k=abcdefghijklmnopqrstuvwx)", "a value of 1 to 23"},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        struct qn_api_compare_structure s;
        struct qn_api_err e = {0};
        if (!qn_structure_text(rows[i].text, strlen(rows[i].text), &s, &e))
            fail_msg("%s was taken", rows[i].text);
        if (!strstr(e.msg, rows[i].says)) fail_msg("%s: %s", rows[i].text, e.msg);
        assert_string_equal(e.param, "structures");
    }
}

static void lists(void **state) {
    (void)state;
    struct qn_api_compare_structure *list;
    struct qn_api_err e = {0};
    uint32_t n;
    assert_int_equal(
        qn_structure_list("gqa+swiglu+none,mqa,performer(features=64,seed=1)+moe", &list, &n, &e), 0);
    assert_int_equal(n, 3);
    assert_int_equal(list[2].attention.n_params, 2);
    assert_string_equal(list[2].ffn.type, "moe");
    free(list);
    assert_int_equal(qn_structure_list("gqa,,mqa", &list, &n, &e), -1);
    assert_null(list);
    char many[4 * 40] = "gqa";
    for (size_t i = 0; i < 32; i++) memcpy(many + 3 + 4 * i, ",mha", 5);
    e = (struct qn_api_err){0};
    assert_int_equal(qn_structure_list(many, &list, &n, &e), -1);
    assert_non_null(strstr(e.msg, "32"));
}

/* Parameters stand in a name only where they tell structures apart. */
static void names(void **state) {
    (void)state;
    static const char *const texts[] = {
        "gqa(kv_heads=2)+moe(experts=4,experts_per_token=1)+all",
        "gqa(kv_heads=2)+moe(experts=4,experts_per_token=2)+groups(count=2)",
        "performer(features=64,hyperbolic=true,kernel=softmax)+glu+none",
        "performer(features=64,hyperbolic=false,kernel=relu)+moe(experts=4)+all",
        "performer(features=0.5,hyperbolic=false,kernel=relu)+moe(experts=4)+all"};
    static const char *const want[] = {"gqa+moe(experts_per_token=1)+all",
                                       "gqa+moe(experts_per_token=2)+groups",
                                       "performer(features=64,hyperbolic=true,kernel=softmax)+glu+none",
                                       "performer(features=64,hyperbolic=false,kernel=relu)+moe+all",
                                       "performer(features=0.5,hyperbolic=false,kernel=relu)+moe+all"};
    struct qn_api_compared rows[5];
    struct qn_api_comparison r = {.results = rows, .n_results = 5};
    char name[QN_STRUCTURE_NAME], part[12];
    for (size_t i = 0; i < 5; i++) {
        struct qn_api_compare_structure s;
        parse(texts[i], &s);
        rows[i] = (struct qn_api_compared){.structure = {s.attention, s.ffn, s.sharing, "native", "exact"}};
    }
    for (uint32_t i = 0; i < 5; i++)
        assert_string_equal(qn_structure_name(&r, i, name, sizeof name), want[i]);
    assert_string_equal(qn_structure_part_name(&r, 1, QN_SLOT_FFN, part, sizeof part), "moe(experts");
    r.n_results = 1; /* alone it needs none */
    assert_string_equal(qn_structure_name(&r, 0, name, sizeof name), "gqa+moe+all");
}

/* ---- all of a model ---- */
/* Returns how many of them are conversions. */
static int all_of(const char *model, bool convert, struct qn_api_compare_structure **list, uint32_t *n) {
    int converted = 0;
    struct qn_model *m;
    struct qn_err err = {0};
    struct qn_api_err e = {0};
    struct qn_open_options opt = {.state_bytes = 1 << 20, .convert_bytes = 64 << 20, .max_step_tokens = 16};
    if (qn_model_open(model, &opt, &m, &err)) fail_msg("%s", err.msg);
    if (qn_structure_all(m, convert, list, n, &e)) fail_msg("%s: %s", model, e.msg);
    for (uint32_t i = 0; i < *n; i++) { /* all of them can be had */
        struct qn_api_parts p = {&(*list)[i].attention, &(*list)[i].ffn, &(*list)[i].sharing,
                                 (*list)[i].convert};
        struct qn_variant *v;
        if (qn_resolve_parts(m, &p, QN_TASK_GENERATE, &v, &e)) fail_msg("%s: %s", model, e.msg);
        converted += qn_variant_structure(v)->origin == QN_ORIGIN_CONVERTED;
        assert_true(i > 0 || !converted);
        qn_variant_unref(v);
    }
    qn_model_close(&m);
    return converted;
}

static int differing(const struct qn_api_compare_structure *s) {
    return (s->attention.type[0] != 0) + (s->ffn.type[0] != 0) + (s->sharing.type[0] != 0);
}

#define GROUPED                                                                                              \
    "synthetic:hidden=96,layers=4,heads=12,kv_heads=4,head_dim=8,attention=gqa,vocab=300,n=64,type=f32"
#define SHARED                                                                                               \
    "synthetic:hidden=64,layers=2,heads=8,head_dim=8,vocab=300,n=64,type=f32,attention=mqa,ffn=moe,"         \
    "sharing=all"

/* However many conversions there are, one part at a time is few enough. */
static void all_with_conversions(void **state) {
    (void)state;
    static const char *const models[] = {GROUPED, SHARED, "tests/golden/quern/all"};
    for (size_t i = 0; i < 3; i++) {
        struct qn_api_compare_structure *list;
        uint32_t n, slots[3] = {0};
        assert_true(all_of(models[i], true, &list, &n) > 1);
        assert_int_equal(differing(&list[0]), 0);
        for (uint32_t k = 1; k < n; k++) {
            assert_int_equal(differing(&list[k]), 1);
            slots[0] += list[k].attention.type[0] != 0;
            slots[1] += list[k].ffn.type[0] != 0;
            slots[2] += list[k].sharing.type[0] != 0;
        }
        assert_true(slots[0] >= 3 && slots[0] < 10 && slots[2] == 4);
        assert_true(slots[1] >= (i != 1));
        free(list);
    }
    struct qn_api_compare_structure *list;
    uint32_t n;
    assert_int_equal(all_of("tests/golden/quern/all", false, &list, &n), 0);
    assert_true(n >= 1 + 4 + 2 + 1);
    free(list);
    assert_int_equal(all_of(models[0], false, &list, &n),
                     3); /* only one is native: gqa and mha with swiglu and moe */
    assert_int_equal(n, 4);
    assert_int_equal(differing(&list[3]), 3);
    free(list);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(taken), cmocka_unit_test(refused),
                                       cmocka_unit_test(lists), cmocka_unit_test(names),
                                       cmocka_unit_test(all_with_conversions)};
    return cmocka_run_group_tests_name("server/structure_text", tests, NULL, NULL);
}
