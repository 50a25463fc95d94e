/* What requests may set: the parameters that each row of GET /v1/structures tells of, their bounds and their
 * defaults; and the lists that refusals give. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "model/model.h"
#include "model/part.h"

#define SMALL "attention=gqa,vocab=300,n=64,type=f32"

static struct qn_model *open_it(const char *text) {
    struct qn_model *m = NULL;
    struct qn_err err = {0};
    struct qn_open_options opt = {.state_bytes = 1 << 20, .convert_bytes = 64 << 20, .max_step_tokens = 16};
    if (qn_model_open(text, &opt, &m, &err)) fail_msg("%s: %s", text, err.msg);
    return m;
}

/* What a request for the row's kind with this value comes to. */
static int with_value(struct qn_model *m, const struct qn_structure_entry *e,
                      const struct qn_param_rule *rule, double value, const char *word, struct qn_err *err) {
    struct qn_structure_request req = {.convert = true};
    struct qn_part *part = e->slot[0] == 'a' ? &req.attention : e->slot[0] == 'f' ? &req.ffn : &req.sharing;
    struct qn_variant *v;
    qn_part_init(part, e->part.type);
    if (word)
        qn_part_add_text(part, rule->name, word);
    else
        qn_part_add(part, rule->name, rule->kind, value);
    memset(err, 0, sizeof *err);
    int rc = qn_variant_resolve(m, &req, &v, err);
    if (rc) return rc;
    const struct qn_structure *s = qn_variant_structure(v);
    const struct qn_part *made = e->slot[0] == 'a'   ? &s->attention
                                 : e->slot[0] == 'f' ? &s->ffn
                                                     : &s->sharing;
    const struct qn_param *p = qn_part_find(made, rule->name);
    assert_true(p && (word ? strcmp(p->text, word) == 0 : p->value == value));
    qn_variant_unref(v);
    return QN_OK;
}

static void check_rule(struct qn_model *m, const struct qn_structure_entry *e,
                       const struct qn_param_rule *rule) {
    struct qn_err err;
    if (rule->kind == QN_PARAM_TEXT) {
        for (size_t i = 0; rule->words[i]; i++)
            assert_int_equal(with_value(m, e, rule, 0, rule->words[i], &err), QN_OK);
        assert_int_equal(with_value(m, e, rule, 0, "nonsense", &err), QN_ERR_INVALID);
        return;
    }
    double low = rule->kind == QN_PARAM_BOOL ? 0 : rule->min,
           high = rule->kind == QN_PARAM_BOOL ? 1 : rule->max;
    if (with_value(m, e, rule, low, NULL, &err) != QN_OK || with_value(m, e, rule, high, NULL, &err) != QN_OK)
        fail_msg("%s: %s", rule->name, err.msg);
    if (rule->kind == QN_PARAM_BOOL) return;
    assert_int_equal(with_value(m, e, rule, low - 1, NULL, &err), QN_ERR_INVALID);
    assert_non_null(strstr(err.msg, rule->name));
    assert_int_equal(with_value(m, e, rule, high + 1, NULL, &err), QN_ERR_INVALID);
    assert_non_null(strstr(err.msg, rule->name));
}

/* "mha: ; gqa: kv_heads; …" of what there is. */
static void name_rules(const struct qn_structure_entry *e, char *out, size_t size) {
    size_t at = strlen(out);
    at += (size_t)snprintf(out + at, size - at, "%s%s:", at ? "; " : "", e->part.type);
    for (uint32_t i = 0; i < e->rules.n && at < size; i++) {
        const struct qn_param_rule *r = &e->rules.at[i];
        bool has = r->def.name[0] != 0;
        at += (size_t)snprintf(out + at, size - at, has && r->kind != QN_PARAM_TEXT ? " %s=%g" : " %s",
                               r->name, r->def.value);
    }
}

/* Every parameter that a row tells of can be set to its bounds and not beyond them. */
static void rules_hold(void **state) {
    (void)state;
    struct qn_structure_entry rows[64];
    static const char *const models[] = {
        "synthetic:hidden=64,layers=3,heads=8,kv_heads=2,head_dim=8,attention=gqa,vocab=300,n=64,type=f32",
        "synthetic:hidden=64,layers=3,heads=8,head_dim=8,attention=performer,features=24,ffn=moe,experts=6,"
        "experts_per_token=2,vocab=300,n=64,type=f32"};
    static const char *const want[] = {"mha: causal=1; gqa: kv_heads=2 causal=1; mqa: causal=1; linformer: "
                                       "k=64 causal=1; performer: features=32 "
                                       "seed=1 orthogonal=1 hyperbolic=0 relu=0 causal=1; moe: experts=4 "
                                       "experts_per_token=2 gating; none:; all:; "
                                       "attention:; ffn:; groups: count=2",
                                       "performer: features=24 seed orthogonal hyperbolic=0 relu=0 causal=1; "
                                       "moe: experts_per_token=2; none:; "
                                       "all:; attention:; ffn:; groups: count=2"};
    for (size_t k = 0; k < 2; k++) {
        struct qn_model *m = open_it(models[k]);
        char names[600] = "", last[24] = "";
        size_t n = qn_model_structures(m, rows, 64);
        assert_true(n <= 64);
        for (size_t i = 0; i < n; i++) {
            const struct qn_structure_entry *e = &rows[i];
            if (e->exactness == QN_UNAVAILABLE) continue;
            for (uint32_t r = 0; r < e->rules.n; r++) check_rule(m, e, &e->rules.at[r]);
            if (strcmp(last, e->part.type) == 0 || (e->slot[0] == 'f' && !e->rules.n)) continue;
            snprintf(last, sizeof last, "%s", e->part.type);
            name_rules(e, names, sizeof names);
        }
        assert_string_equal(names, want[k]);
        qn_model_close(&m);
    }
}

/* What the refusal of an unknown attention says. */
static char *refusal(const char *model, struct qn_err *err) {
    struct qn_structure_request req = {.convert = true};
    struct qn_variant *v;
    struct qn_model *m = open_it(model);
    memset(err, 0, sizeof *err);
    qn_part_init(&req.attention, "nope");
    assert_int_equal(qn_variant_resolve(m, &req, &v, err), QN_ERR_INVALID);
    qn_model_close(&m);
    return strstr(err->msg, "can run: gqa(");
}

/* A list that is too long ends at an entry, says so, and has the native ones first. */
static void refusals_list_whole_entries(void **state) {
    (void)state;
    struct qn_err err;
    const char *list = refusal("synthetic:hidden=64,layers=2,heads=240,kv_heads=12,head_dim=8," SMALL, &err);
    assert_non_null(list);
    assert_non_null(strstr(list, "gqa(heads=240,kv_heads=12,causal=true) native, mha(heads=240"));
    assert_null(strstr(list, "causal=false"));
    const char *end = strstr(list, ", \xE2\x80\xA6");
    assert_non_null(end);
    assert_int_equal(end[5], 0);
    assert_true(strncmp(end - 6, " exact", 6) == 0 || strncmp(end - 10, " untrained", 10) == 0 ||
                strncmp(end - 12, " approximate", 12) == 0);
    /* what fits is there to the last entry */
    list = refusal("synthetic:hidden=64,layers=2,heads=8,kv_heads=2,head_dim=8," SMALL, &err);
    assert_true(list && strstr(list, "performer(") && !strstr(list, "\xE2\x80\xA6"));
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(rules_hold),
                                       cmocka_unit_test(refusals_list_whole_entries)};
    return cmocka_run_group_tests_name("model/rules", tests, NULL, NULL);
}
