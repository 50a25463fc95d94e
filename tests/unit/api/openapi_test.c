/* The OpenAPI document: parses, every reference resolves, every field of the table is there with its bounds,
 * every path and error reply that the service has is described. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <jansson.h>
#include <stdio.h>
#include <string.h>

#include "api/compare.h"
#include "api/openai.h"
#include "api/openapi.h"

static json_t *doc;

static int load(void **state) {
    (void)state;
    struct qn_buf b = {0};
    qn_api_openapi_write(&b, "1.2.3-\"test\"");
    doc = b.failed ? NULL : json_loadb(b.p, b.n, JSON_REJECT_DUPLICATES, NULL);
    qn_buf_free(&b);
    return doc ? 0 : -1;
}

static int unload(void **state) {
    (void)state;
    json_decref(doc);
    return 0;
}

/* Walks "a/b/c" from the root; ~1 stands for a slash inside a name. */
static json_t *at(const char *path) {
    json_t *v = doc;
    char name[128];
    while (*path) {
        size_t n = 0;
        while (*path && *path != '/' && n + 1 < sizeof name) {
            if (path[0] == '~' && path[1] == '1') {
                name[n++] = '/';
                path += 2;
            } else {
                name[n++] = *path++;
            }
        }
        if (*path == '/') path++;
        name[n] = '\0';
        v = json_object_get(v, name);
    }
    return v;
}

static void header(void **state) {
    (void)state;
    assert_string_equal(json_string_value(at("openapi")), "3.1.0");
    assert_string_equal(json_string_value(at("info/version")), "1.2.3-\"test\"");
    assert_string_equal(json_string_value(at("components/securitySchemes/bearer/scheme")), "bearer");
}

static size_t refs;

static void check_refs(json_t *v) {
    const char *key;
    json_t *item;
    size_t i;
    json_object_foreach(v, key, item) {
        if (!strcmp(key, "$ref")) {
            const char *ref = json_string_value(item);
            assert_true(!strncmp(ref, "#/", 2));
            if (!at(ref + 2)) fail_msg("%s leads nowhere", ref);
            refs++;
        }
        check_refs(item);
    }
    json_array_foreach(v, i, item) check_refs(item);
}

static void references_resolve(void **state) {
    (void)state;
    check_refs(doc);
    assert_true(refs > 50);
}

static void fields_with_bounds(void **state) {
    (void)state;
    size_t n;
    const struct qn_api_field *f = qn_api_infer_fields(&n);
    json_t *props = at("components/schemas/InferRequest/properties");
    assert_int_equal(json_object_size(props), n);
    for (size_t i = 0; i < n; i++) {
        json_t *p = json_object_get(props, f[i].name);
        assert_non_null(p);
        assert_string_equal(json_string_value(json_object_get(p, "description")), f[i].doc);
        if (f[i].def) {
            char *def = json_dumps(json_object_get(p, "default"), JSON_ENCODE_ANY);
            assert_string_equal(def, f[i].def);
            void (*release)(void *);
            json_get_alloc_funcs(NULL, &release);
            release(def);
        }
        if (f[i].type == QN_FIELD_U32 || f[i].type == QN_FIELD_U64 || f[i].type == QN_FIELD_FLOAT) {
            json_t *min = json_object_get(p, f[i].min_open ? "exclusiveMinimum" : "minimum");
            assert_true(json_is_number(min) && json_number_value(min) == f[i].min);
            assert_true(json_number_value(json_object_get(p, "maximum")) == f[i].max);
        }
    }
    assert_true(json_is_false(at("components/schemas/InferRequest/additionalProperties")));
    assert_int_equal(json_integer_value(at("components/schemas/Stop/maxLength")), 256);
}

/* What a comparison shares with an inference is described alike; its own bounds are the parser's. */
static void compare_fields(void **state) {
    (void)state;
    size_t n;
    const struct qn_api_compare_field *f = qn_api_compare_fields(&n);
    json_t *props = at("components/schemas/CompareRequest/properties");
    assert_int_equal(json_object_size(props), n);
    for (size_t i = 0; i < n; i++) {
        json_t *p = json_object_get(props, f[i].name);
        assert_non_null(p);
        if (!f[i].schema)
            assert_true(
                json_equal(p, json_object_get(at("components/schemas/InferRequest/properties"), f[i].name)));
    }
    const char *where = "components/schemas/CompareRequest/properties/repeats/maximum";
    assert_int_equal(json_integer_value(at(where)), QN_COMPARE_REPEATS);
    where = "components/schemas/CompareRequest/properties/structures/maxItems";
    assert_int_equal(json_integer_value(at(where)), QN_COMPARE_STRUCTURES);
    where = "components/schemas/CompareRequest/properties/baseline/maximum";
    assert_int_equal(json_integer_value(at(where)), QN_COMPARE_STRUCTURES - 1);
    assert_int_equal(json_object_size(at("components/schemas/CompareStructure/properties")), 4);
}

/* Each table of the OpenAI endpoints, row by row; rows that are the inference's are described alike. */
static void form_fields(void **state) {
    (void)state;
    for (int form = QN_FORM_COMPLETION; form < QN_FORM_COUNT; form++) {
        const struct qn_api_field *f;
        char path[96];
        size_t n = 0;
        snprintf(path, sizeof path, "components/schemas/%s", qn_api_form_schema((enum qn_api_form)form));
        json_t *schema = at(path), *props = json_object_get(schema, "properties");
        assert_true(json_is_false(json_object_get(schema, "additionalProperties")));
        assert_string_equal(json_string_value(json_array_get(json_object_get(schema, "required"), 0)),
                            qn_api_form_input((enum qn_api_form)form));
        for (; (f = qn_api_form_field((enum qn_api_form)form, n)); n++) {
            json_t *p = json_object_get(props, f->name), *q = NULL;
            assert_non_null(p);
            assert_string_equal(json_string_value(json_object_get(p, "description")), f->doc);
            if (f == qn_api_infer_field(f->name)) {
                q = json_object_get(at("components/schemas/InferRequest/properties"), f->name);
                assert_true(json_equal(p, q));
            }
        }
        assert_int_equal(json_object_size(props), n);
    }
    assert_non_null(at("paths/~1v1~1chat~1completions/post/responses/200/content/text~1event-stream"));
    assert_null(at("paths/~1v1~1embeddings/post/responses/200/content/text~1event-stream"));
    assert_non_null(at("paths/~1v1~1embeddings/post/responses/429"));
}

static void paths(void **state) {
    (void)state;
    static const char *const want[] = {"paths/~1v1~1infer/post",
                                       "paths/~1v1~1compare/post",
                                       "paths/~1v1~1structures/get",
                                       "paths/~1v1~1models/get",
                                       "paths/~1v1~1models~1{id}/get",
                                       "paths/~1tokenize/post",
                                       "paths/~1detokenize/post",
                                       "paths/~1livez/get",
                                       "paths/~1readyz/get",
                                       "paths/~1healthz/get",
                                       "paths/~1health/get",
                                       "paths/~1metrics/get",
                                       "paths/~1openapi.json/get",
                                       "paths/~1v1~1completions/post",
                                       "paths/~1v1~1chat~1completions/post",
                                       "paths/~1v1~1embeddings/post",
                                       "paths/~1tokenizer_info/get"};
    for (size_t i = 0; i < sizeof want / sizeof want[0]; i++) {
        char path[160];
        if (!at(want[i])) fail_msg("%s is missing", want[i]);
        snprintf(path, sizeof path, "%s/responses/200/headers/x-request-id", want[i]);
        assert_non_null(at(path));
        snprintf(path, sizeof path, "%s/responses/503", want[i]);
        assert_non_null(at(path));
    }
    assert_int_equal(json_object_size(at("paths")), sizeof want / sizeof want[0]);
    assert_non_null(at("paths/~1v1~1infer/post/responses/200/content/text~1event-stream"));
    assert_non_null(at("paths/~1v1~1infer/post/responses/200/headers/Server-Timing"));
    assert_non_null(at("paths/~1v1~1compare/post/responses/200/content/text~1event-stream"));
    assert_non_null(at("paths/~1v1~1compare/post/responses/429"));
    assert_null(at("paths/~1tokenize/post/responses/429"));
    assert_non_null(at("components/responses/QueueFull/headers/Retry-After"));
    static const char *const status[] = {"400", "401", "404", "405", "408", "413",
                                         "415", "429", "431", "500", "501", "503"};
    for (size_t i = 0; i < sizeof status / sizeof status[0]; i++)
        assert_non_null(json_object_get(at("paths/~1v1~1infer/post/responses"), status[i]));
    assert_null(at("paths/~1livez/get/responses/401"));
    assert_int_equal(json_array_size(at("components/schemas/Error/properties/error/properties/code/enum")),
                     QN_API_CODE_COUNT - 1);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(header),
                                       cmocka_unit_test(references_resolve),
                                       cmocka_unit_test(fields_with_bounds),
                                       cmocka_unit_test(compare_fields),
                                       cmocka_unit_test(form_fields),
                                       cmocka_unit_test(paths)};
    return cmocka_run_group_tests_name("api/openapi", tests, load, unload);
}
