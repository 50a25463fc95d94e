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
#include "api/endpoints.h"
#include "api/openai.h"
#include "api/openapi.h"
#include "server/route.h"

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
}

/* Every table is a schema with its fields and nothing else; what a comparison shares with an inference is
 * described alike; its own bounds are the parser's. */
static void tables(void **state) {
    (void)state;
    size_t many;
    const struct qn_api_table *const *t = qn_api_tables();
    for (size_t i = 0; t[i]; i++) {
        char path[128];
        snprintf(path, sizeof path, "components/schemas/%s/properties", t[i]->schema);
        json_t *props = at(path);
        assert_int_equal(json_object_size(props), t[i]->n);
        for (size_t k = 0; k < t[i]->n; k++) {
            const struct qn_api_field *f = qn_api_table_row(t[i], k);
            assert_non_null(f);
            json_t *p = json_object_get(props, f->name),
                   *shared = at("components/schemas/InferRequest/properties");
            assert_string_equal(json_string_value(json_object_get(p, "description")), f->doc);
            if (t[i]->fields[k].type == QN_FIELD_SHARED)
                assert_true(json_equal(p, json_object_get(shared, f->name)));
        }
        for (size_t k = 0; k < 3 && t[i]->required[k]; k++)
            assert_non_null(qn_api_table_find(t[i], t[i]->required[k]));
    }
    const char *where = "components/schemas/CompareRequest/properties/repeats/maximum";
    assert_int_equal(json_integer_value(at(where)), QN_COMPARE_REPEATS);
    where = "components/schemas/CompareRequest/properties/structures/maxItems";
    assert_int_equal(json_integer_value(at(where)), QN_COMPARE_STRUCTURES);
    where = "components/schemas/CompareRequest/properties/baseline/maximum";
    assert_int_equal(json_integer_value(at(where)), QN_COMPARE_STRUCTURES - 1);
    const struct qn_api_endpoint *e = qn_api_endpoints(&many);
    for (size_t i = 0; i < many; i++) { /* whatever a body is read by is described */
        bool known = !e[i].request;
        for (size_t k = 0; t[k]; k++) known = known || t[k] == e[i].request;
        assert_true(known);
    }
}

/* The OpenAI endpoints: what must be given, and which of them stream. */
static void form_fields(void **state) {
    (void)state;
    for (int form = QN_FORM_COMPLETION; form < QN_FORM_COUNT; form++) {
        char path[96];
        snprintf(path, sizeof path, "components/schemas/%s",
                 qn_api_form_table((enum qn_api_form)form)->schema);
        json_t *schema = at(path);
        assert_true(json_is_false(json_object_get(schema, "additionalProperties")));
        assert_string_equal(json_string_value(json_array_get(json_object_get(schema, "required"), 0)),
                            qn_api_form_input((enum qn_api_form)form));
    }
    assert_non_null(at("paths/~1v1~1chat~1completions/post/responses/200/content/text~1event-stream"));
    assert_null(at("paths/~1v1~1embeddings/post/responses/200/content/text~1event-stream"));
    assert_non_null(at("paths/~1v1~1embeddings/post/responses/429"));
    json_t *asked = json_array_get(at("paths/~1tokenizer_info/get/parameters"), 1);
    assert_string_equal(json_string_value(json_object_get(asked, "in")), "query");
}

static void paths(void **state) {
    (void)state;
    size_t n;
    const struct qn_api_endpoint *e = qn_api_endpoints(&n);
    for (size_t i = 0; i < n; i++) {
        char path[160], key[64] = "";
        for (size_t k = 0, to = 0; e[i].path[k] && to + 3 < sizeof key; k++) {
            key[to++] = e[i].path[k] == '/' ? '~' : e[i].path[k];
            if (e[i].path[k] == '/') key[to++] = '1';
        }
        snprintf(path, sizeof path, "paths/%s/%s", key, e[i].method);
        json_t *operation = at(path);
        assert_non_null(operation);
        json_t *replies = json_object_get(operation, "responses");
        assert_non_null(json_object_get(replies, "200"));
        assert_non_null(json_object_get(replies, "503"));
        assert_true(!json_object_get(replies, "401") == !!(e[i].flags & QN_EP_OPEN));
        assert_true(!json_object_get(replies, "404") == !(e[i].flags & QN_EP_MODEL));
    }
    assert_non_null(at("paths/~1v1~1infer/post/responses/200/content/text~1event-stream"));
    assert_non_null(at("paths/~1v1~1infer/post/responses/200/headers/Server-Timing"));
    assert_non_null(at("paths/~1v1~1compare/post/responses/200/content/text~1event-stream"));
    assert_non_null(at("components/responses/QueueFull/headers/Retry-After"));
    static const char *const status[] = {"400", "401", "404", "405", "408", "413",
                                         "415", "429", "431", "500", "501", "503"};
    for (size_t i = 0; i < sizeof status / sizeof status[0]; i++)
        assert_non_null(json_object_get(at("paths/~1v1~1infer/post/responses"), status[i]));
    assert_int_equal(json_array_size(at("components/schemas/Error/properties/error/properties/code/enum")),
                     QN_API_CODE_COUNT - 1);
    for (int c = QN_API_INVALID; c < QN_API_CODE_COUNT; c++) { /* and the status of each is described */
        char text[8];
        snprintf(text, sizeof text, "%u", qn_api_status((enum qn_api_code)c));
        assert_non_null(json_object_get(at("paths/~1v1~1infer/post/responses"), text));
    }
}

/* The server's routes and the list that describes them are the same ones, with the same access. Only the
 * files of the page are no part of the interface. */
static void routes(void **state) {
    (void)state;
    size_t n, many;
    const struct qn_route *r = qn_routes(&n);
    const struct qn_api_endpoint *e = qn_api_endpoints(&many);
    size_t page = 0;
    for (size_t i = 0; i < n; i++) page += !strcmp(r[i].path, "/page/");
    assert_int_equal(n, many + page);
    for (size_t i = 0; i < many; i++) {
        char path[64];
        const char *arg;
        snprintf(path, sizeof path, "%.*s%s", (int)strcspn(e[i].path, "{"), e[i].path,
                 strchr(e[i].path, '{') ? "x" : "");
        const struct qn_route *found = qn_route_find(path, &arg);
        if (!found) fail_msg("no route %s", path);
        assert_int_equal(found->methods, strcmp(e[i].method, "post") ? QN_GET : QN_POST);
        assert_int_equal(found->access, e[i].flags & QN_EP_OPEN      ? QN_OPEN
                                        : e[i].flags & QN_EP_METRICS ? QN_METRICS
                                                                     : QN_KEYED);
        assert_true(found->prefix == !!strchr(e[i].path, '{'));
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(header), cmocka_unit_test(references_resolve), cmocka_unit_test(fields_with_bounds),
        cmocka_unit_test(tables), cmocka_unit_test(form_fields),        cmocka_unit_test(paths),
        cmocka_unit_test(routes)};
    return cmocka_run_group_tests_name("api/openapi", tests, load, unload);
}
