/* JSON schemas: what is refused and by which name, and random walks through random schemas' masks, whose
 * texts must parse and satisfy the schema by a validator of the test's own. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <jansson.h>
#include <locale.h>
#include <math.h>
#include <regex.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "api/schema.h"
#include "model/constrain/constrain.h"
#include "model/random.h"

#define EOS 256

static uint64_t rng = 7;

static uint32_t below(uint32_t n) {
    return (uint32_t)(qn_random_next(&rng) % n);
}

/* ---- a vocabulary: bytes, the end, and some words ---- */

static const char *const words[] = {"\": ", "\", ", "{\"",  "\"}",      "}}",         "]}", "[]", "{}",
                                    "true", "null", "ab",   "abc",      "12",         "-1", "0.", "\n  ",
                                    " \"",  "\\n",  "\\\"", "\xC3\xA9", "\xC3\xA9\"", "00", "e+"};
#define N_TOKENS (EOS + 1 + (uint32_t)(sizeof words / sizeof *words))

static struct qn_str_ref piece(const void *ctx, int32_t id) {
    static char bytes[256];
    (void)ctx;
    if (id > EOS) return (struct qn_str_ref){words[id - EOS - 1], strlen(words[id - EOS - 1])};
    bytes[id & 255] = (char)id;
    return (struct qn_str_ref){&bytes[id & 255], id && id < EOS ? 1 : 0};
}

static bool ends(const void *ctx, int32_t id) {
    (void)ctx;
    return id == EOS;
}

static struct qn_lexicon *lexicon;

static int set_up(void **state) {
    struct qn_lexicon_source src = {N_TOKENS, NULL, piece, ends};
    struct qn_err e = {0};
    (void)state;
    return qn_lexicon_new(&src, &lexicon, &e);
}

static int tear_down(void **state) {
    (void)state;
    qn_lexicon_unref(lexicon);
    return 0;
}

static int make(const char *schema, struct qn_constraint **out, struct qn_api_err *err, struct qn_err *e) {
    char *copy = strdup(schema);
    struct qn_api_constraint c = {.kind = QN_CONSTRAIN_SCHEMA, .text = copy, .n = strlen(copy)};
    struct qn_buf grammar = {0};
    *out = NULL;
    int rc = qn_api_schema_grammar(&c, "json_schema", &grammar, err);
    if (!rc) rc = qn_constraint_new(lexicon, grammar.p, grammar.n, true, out, e);
    qn_buf_free(&grammar);
    free(copy);
    return rc;
}

/* A random walk; false when it did not end within `most` tokens. */
static bool walk(struct qn_constraint *c, char *text, uint32_t most) {
    int32_t tokens[1024];
    struct qn_cursor cur;
    size_t n = 0;
    qn_cursor_init(&cur, false);
    for (uint32_t i = 0; i < most; i++) {
        struct qn_cursor_at at = {tokens, i};
        const uint64_t *mask;
        bool done;
        assert_int_equal(qn_cursor_done(c, &cur, &at, &done), QN_OK);
        assert_int_equal(qn_cursor_mask(c, &cur, &at, &mask), QN_OK);
        bool may_end = mask[EOS / 64] >> (EOS % 64) & 1;
        if (done || (may_end && below(3) == 0)) {
            text[n] = '\0';
            return true;
        }
        /* What closes things is liked, so that texts end. */
        static const char liked[] = "\"}],0";
        uint32_t id = below(N_TOKENS);
        if (below(3) == 0) id = (uint32_t)liked[below(5)];
        for (uint32_t k = 0; k < N_TOKENS && (id == EOS || !(mask[id / 64] >> (id % 64) & 1)); k++)
            id = (id + 1) % N_TOKENS;
        if (!(mask[id / 64] >> (id % 64) & 1)) {
            text[n] = '\0';
            return true; /* only the end is left */
        }
        struct qn_str_ref s = piece(NULL, (int32_t)id);
        memcpy(text + n, s.p, s.n);
        n += s.n;
        tokens[i] = (int32_t)id;
    }
    text[n] = '\0';
    return false;
}

/* ---- a validator ---- */

static size_t characters(const char *s) {
    size_t n = 0;
    for (; *s; s++) n += ((unsigned char)*s & 0xC0) != 0x80;
    return n;
}

static bool type_is(const char *t, const json_t *v) {
    double d = json_number_value(v);
    return (!strcmp(t, "string") && json_is_string(v)) || (!strcmp(t, "number") && json_is_number(v)) ||
           (!strcmp(t, "integer") && json_is_number(v) && d >= floor(d) && d <= floor(d)) ||
           (!strcmp(t, "boolean") && json_is_boolean(v)) || (!strcmp(t, "null") && json_is_null(v)) ||
           (!strcmp(t, "array") && json_is_array(v)) || (!strcmp(t, "object") && json_is_object(v));
}

static bool valid(json_t *root, json_t *s, json_t *v);

static bool valid_type(const json_t *type, const json_t *v) {
    if (!json_is_array(type)) return !type || type_is(json_string_value(type), v);
    for (size_t i = 0; i < json_array_size(type); i++)
        if (type_is(json_string_value(json_array_get(type, i)), v)) return true;
    return false;
}

static double limit(const json_t *s, const char *key, double none) {
    const json_t *v = json_object_get(s, key);
    return v ? json_number_value(v) : none;
}

static bool valid_scalar(const json_t *s, const json_t *v) {
    const json_t *pattern = json_object_get(s, "pattern");
    if (json_is_string(v)) {
        double n = (double)characters(json_string_value(v));
        if (n < limit(s, "minLength", 0) || n > limit(s, "maxLength", INFINITY)) return false;
        if (pattern) {
            regex_t re;
            assert_int_equal(regcomp(&re, json_string_value(pattern), REG_EXTENDED | REG_NOSUB), 0);
            int rc = regexec(&re, json_string_value(v), 0, NULL, 0);
            regfree(&re);
            if (rc) return false;
        }
    }
    double x = json_number_value(v);
    return !json_is_number(v) ||
           (x >= limit(s, "minimum", -INFINITY) && x <= limit(s, "maximum", INFINITY) &&
            x > limit(s, "exclusiveMinimum", -INFINITY) && x < limit(s, "exclusiveMaximum", INFINITY));
}

static bool valid_parts(json_t *root, json_t *s, json_t *v) {
    json_t *items = json_object_get(s, "items"), *props = json_object_get(s, "properties"), *item;
    const json_t *required = json_object_get(s, "required");
    json_t *more = json_object_get(s, "additionalProperties");
    const char *key;
    double n = (double)json_array_size(v);
    if (json_is_array(v) && (n < limit(s, "minItems", 0) || n > limit(s, "maxItems", INFINITY))) return false;
    for (size_t i = 0; items && i < json_array_size(v); i++)
        if (!valid(root, items, json_array_get(v, i))) return false;
    for (size_t i = 0; json_is_object(v) && i < json_array_size(required); i++)
        if (!json_object_get(v, json_string_value(json_array_get(required, i)))) return false;
    json_object_foreach(v, key, item) {
        json_t *p = json_object_get(props, key);
        if (p ? !valid(root, p, item) : json_is_false(more)) return false;
        if (!p && json_is_object(more) && !valid(root, more, item)) return false;
    }
    return true;
}

static bool valid(json_t *root, json_t *s, json_t *v) {
    const json_t *any = json_object_get(s, "anyOf"), *list = json_object_get(s, "enum");
    const json_t *ref = json_object_get(s, "$ref");
    bool some = !any, in = !list;
    if (json_is_true(s)) return true;
    if (ref && !strcmp(json_string_value(ref), "#")) return valid(root, root, v);
    if (ref)
        return valid(root, json_object_get(json_object_get(root, "$defs"), json_string_value(ref) + 8), v);
    for (size_t i = 0; i < json_array_size(any) && !some; i++) some = valid(root, json_array_get(any, i), v);
    for (size_t i = 0; i < json_array_size(list) && !in; i++) in = json_equal(json_array_get(list, i), v);
    return some && in && valid_type(json_object_get(s, "type"), v) && valid_scalar(s, v) &&
           valid_parts(root, s, v);
}

/* ---- random schemas ---- */

static char schema[1 << 16];
static size_t used;

__attribute__((format(printf, 1, 2))) static void put(const char *fmt, ...) {
    va_list ap;
    va_start(ap, fmt);
    used += (size_t)vsnprintf(schema + used, sizeof schema - used, fmt, ap);
    va_end(ap);
}

static void put_schema(uint32_t depth);

/* None of the members is required, and names need escapes. */
static void put_object(uint32_t depth) {
    uint32_t n = below(5);
    put("{\"type\":\"object\",\"additionalProperties\":false,\"properties\":{");
    for (uint32_t i = 0; i < n; i++) {
        put("%s\"p%u%s\":", i ? "," : "", i, below(2) ? "" : "\\\"\xE2\x82\xAC.");
        put_schema(depth - 1);
    }
    put("}}");
}

/* Objects with plain names, of which some are required. */
static void put_strict(uint32_t depth) {
    uint32_t n = 1 + below(4), m = 0;
    put("{\"type\":\"object\",\"properties\":{");
    for (uint32_t i = 0; i < n; i++) {
        put("%s\"k%u\":", i ? "," : "", i);
        put_schema(depth - 1);
    }
    put("},\"required\":[");
    for (uint32_t i = 0; i < n; i++)
        if (below(2)) put("%s\"k%u\"", m++ ? "," : "", i);
    put("]}");
}

static void put_number(void) {
    int32_t lo = (int32_t)below(400) - 200, hi = lo + 2 + (int32_t)below(below(2) ? 3 : 100000);
    const char *type = below(2) ? "integer" : "number";
    switch (below(5)) {
    case 0:
        put("{\"type\":\"%s\"}", type);
        break;
    case 1:
        put("{\"type\":\"%s\",\"minimum\":%d}", type, lo);
        break;
    case 2:
        put("{\"type\":\"%s\",\"exclusiveMaximum\":%d}", type, hi);
        break;
    case 3:
        put("{\"type\":\"%s\",\"exclusiveMinimum\":%d,\"maximum\":%d}", type, lo, hi);
        break;
    default:
        put("{\"type\":\"%s\",\"minimum\":%d,\"exclusiveMaximum\":%d}", type, lo, hi);
    }
}

static void put_scalar(void) {
    static const char *const rows[] = {
        "{\"type\":\"boolean\"}",
        "{\"type\":\"null\"}",
        "{\"type\":[\"string\",\"null\"],\"maxLength\":3}",
        "{\"type\":\"string\",\"minLength\":2,\"maxLength\":5}",
        "{\"type\":\"string\",\"minLength\":3}",
        "{\"type\":\"string\",\"pattern\":\"^[a-c]{2,3}$\"}",
        "{\"type\":\"string\",\"pattern\":\"x[0-9]\"}",
        "{\"type\":\"string\",\"pattern\":\"^a|b$\"}",
        "{\"enum\":[\"a\\\"b\",1,null,[1,{\"x\":2.5}],\"\xE2\x82\xAC\\\\\"]}",
        "{\"type\":\"string\",\"enum\":[\"left\",\"right\",3]}",
        "{\"const\":\"only (this)\"}",
        "{\"$ref\":\"#/$defs/leaf\"}",
        "{\"$ref\":\"#/$defs/tree\"}",
    };
    if (below(3) == 0)
        put_number();
    else
        put("%s", rows[below(sizeof rows / sizeof *rows)]);
}

static void put_schema(uint32_t depth) {
    if (!depth || used > sizeof schema / 2) {
        put_scalar();
        return;
    }
    switch (below(7)) {
    case 0:
        put_object(depth);
        break;
    case 1:
    case 2:
        put_strict(depth);
        break;
    case 3:
        put("{\"type\":\"array\",\"minItems\":%u,\"maxItems\":%u,\"items\":", below(3), 2 + below(3));
        put_schema(depth - 1);
        put("}");
        break;
    case 4:
        put("{\"anyOf\":[");
        put_schema(depth - 1);
        put(",");
        put_schema(depth - 1);
        put("]}");
        break;
    case 5:
        put("{\"type\":\"object\",\"additionalProperties\":");
        put_schema(depth - 1);
        put("}");
        break;
    default:
        put_scalar();
    }
}

static void walks_validate(void **state) {
    static char text[1 << 14];
    uint32_t complete = 0;
    (void)state;
    for (uint32_t k = 0; k < 250; k++) {
        struct qn_constraint *c;
        struct qn_api_err err = {0};
        struct qn_err e = {0};
        json_error_t je;
        used = 0;
        put("{\"$defs\":{\"leaf\":{\"type\":\"integer\",\"minimum\":0},\"tree\":{\"type\":\"object\","
            "\"properties\":"
            "{\"v\":{\"$ref\":\"#/$defs/leaf\"},\"next\":{\"anyOf\":[{\"$ref\":\"#/$defs/tree\"},{\"type\":"
            "\"null\"}]}},\"required\":[\"v\",\"next\"],\"additionalProperties\":false}},\"anyOf\":[");
        put_schema(3);
        put("]}");
        json_t *root = json_loads(schema, JSON_REJECT_DUPLICATES, &je);
        if (!root) fail_msg("%s: %s", schema, je.text);
        if (make(schema, &c, &err, &e)) fail_msg("%s: %s %s", schema, err.msg, e.msg);
        for (uint32_t i = 0; i < 4; i++) {
            if (!walk(c, text, 600)) continue;
            json_t *v = json_loads(text, JSON_DECODE_ANY, &je);
            if (!v) fail_msg("%s\n%s\n%s", schema, text, je.text);
            if (!valid(root, root, v)) fail_msg("%s\ndoes not describe %s", schema, text);
            json_decref(v);
            complete++;
        }
        qn_constraint_unref(c);
        json_decref(root);
    }
    assert_true(complete > 700);
}

/* ---- what is refused ---- */

static void refused(void **state) {
    static const struct {
        const char *schema, *param, *says;
    } rows[] = {
        {"{\"type\":\"strange\"}", "json_schema.type", "must be string"},
        {"{\"type\":[]}", "json_schema.type", "must be a name"},
        {"{\"type\":\"object\",\"properties\":{\"a\":{\"type\":\"integer\",\"multipleOf\":2}}}",
         "json_schema.properties.a.multipleOf", "not supported"},
        {"{\"type\":\"array\",\"items\":{\"not\":{}}}", "json_schema.items.not", "not supported"},
        {"{\"oneOf\":[{}]}", "json_schema.oneOf", "not supported"},
        {"{\"type\":\"array\",\"uniqueItems\":true}", "json_schema.uniqueItems", "not supported"},
        {"{\"type\":\"array\",\"prefixItems\":[]}", "json_schema.prefixItems", "not supported"},
        {"{\"type\":\"object\",\"patternProperties\":{}}", "json_schema.patternProperties", "not supported"},
        {"{\"type\":\"object\",\"properties\":{\"a\":{}},\"additionalProperties\":true}",
         "json_schema.additionalProperties", "must be false"},
        {"{\"type\":\"object\",\"properties\":{\"a\":{}},\"required\":[\"b\"]}", "json_schema.required",
         "not in properties"},
        {"{\"type\":\"object\",\"required\":[\"b\"]}", "json_schema.required", "not in properties"},
        {"{\"anyOf\":[{\"type\":\"string\"},{\"type\":\"string\",\"format\":\"iri\"}]}",
         "json_schema.anyOf[1].format", "must be date"},
        {"{\"anyOf\":[]}", "json_schema.anyOf", "array of schemas"},
        {"{\"allOf\":[{},{}]}", "json_schema.allOf", "one schema only"},
        {"{\"anyOf\":[{}],\"type\":\"object\"}", "json_schema.type", "combined with anyOf"},
        {"{\"enum\":[1],\"minimum\":0}", "json_schema.minimum", "combined with enum"},
        {"{\"enum\":[1],\"type\":\"string\"}", "json_schema.enum", "no value"},
        {"{\"enum\":[1],\"const\":2}", "json_schema.enum", "no value"},
        {"{\"enum\":[]}", "json_schema.enum", "no value"},
        {"{\"$ref\":\"#/$defs/a\"}", "json_schema.$ref", "refers to nothing"},
        {"{\"$ref\":\"http://x/y\"}", "json_schema.$ref", "place in this schema"},
        {"{\"type\":\"string\",\"minLength\":-1}", "json_schema.minLength", "in [0"},
        {"{\"type\":\"string\",\"minLength\":3,\"maxLength\":2}", "json_schema.minLength",
         "larger than maxLength"},
        {"{\"type\":\"string\",\"pattern\":\"a\",\"maxLength\":2}", "json_schema.pattern", "combined"},
        {"{\"type\":\"integer\",\"minimum\":3,\"maximum\":2}", "json_schema", "no number"},
        {"{\"type\":\"integer\",\"minimum\":\"3\"}", "json_schema.minimum", "must be a number"},
        {"{\"type\":\"number\",\"minimum\":0.5}", "json_schema.minimum", "whole number"},
        {"{\"type\":\"array\",\"items\":[1]}", "json_schema.items", "must be a schema"},
        {"{\"type\":\"object\",\"properties\":{\"a\":false}}", "json_schema.properties.a",
         "must be a schema"},
        /* by the automaton */
        {"{\"type\":\"string\",\"pattern\":\"(?=a)\"}", "", "json_schema.pattern: this kind of group"},
        {"{\"properties\":{\"a\":{\"pattern\":\"a)\\\"(b\"}}}", "",
         "json_schema.properties.a.pattern: a group was not"},
        {"{\"$ref\":\"#\"}", "", "refers to itself"},
        {"{\"anyOf\":[{\"$ref\":\"#\"},{\"type\":\"null\"}]}", "", "refers to itself"},
        {"{\"type\":\"object\",\"properties\":{\"a\":{\"$ref\":\"#\"}},\"required\":[\"a\"]}", "",
         "bounded nesting"},
        {"{\"type\":\"array\",\"minItems\":4096,\"items\":{\"type\":\"array\",\"minItems\":4096,\"items\":"
         "{\"type\":\"string\",\"minLength\":4096}}}",
         "", "counted repetitions"},
    };
    (void)state;
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        struct qn_constraint *c;
        struct qn_api_err err = {0};
        struct qn_err e = {0};
        int rc = make(rows[i].schema, &c, &err, &e);
        if (!rc || strcmp(err.param, rows[i].param) != 0 ||
            !strstr(rows[i].param[0] ? err.msg : e.msg, rows[i].says))
            fail_msg("%s: \"%s\" \"%s\" \"%s\"", rows[i].schema, err.param, err.msg, e.msg);
        qn_constraint_unref(c);
    }
}

/* Literals are written as people write them: a model that knows 0.1 does not know 0.10000000000000001. */
static void literals(void **state) {
    static const char *const rows[] = {"0.1",
                                       "-2.5",
                                       "5.0",
                                       "0.30000000000000004",
                                       "1e+300",
                                       "12345678901234567",
                                       "\"\\u0001\\n\\\"/\xE2\x82\xAC\"",
                                       "[]",
                                       "{\"\":{}}",
                                       "null"};
    (void)state;
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        char text[128];
        struct qn_constraint *c;
        struct qn_api_err err = {0};
        struct qn_err e = {0};
        struct qn_cursor cur;
        int32_t tokens[64];
        uint32_t n = 0;
        bool done, yes = true;
        snprintf(text, sizeof text, "{\"const\":%s}", rows[i]);
        assert_int_equal(make(text, &c, &err, &e), 0);
        qn_cursor_init(&cur, false);
        for (; rows[i][n] && yes; n++) {
            tokens[n] = (unsigned char)rows[i][n];
            assert_int_equal(qn_cursor_allows(c, &cur, &(struct qn_cursor_at){tokens, n}, tokens[n], &yes),
                             0);
            if (!yes) fail_msg("%s: at %u", rows[i], n);
        }
        assert_int_equal(qn_cursor_done(c, &cur, &(struct qn_cursor_at){tokens, n}, &done), 0);
        assert_true(done);
        qn_constraint_unref(c);
    }
}

/* Texts that are described, and texts that are not. */
static void described(void **state) {
    static const struct {
        const char *schema, *text;
        bool yes;
    } rows[] = {
        {"{\"type\":\"object\",\"required\":[],\"additionalProperties\":{\"type\":\"integer\"}}", "{\"a\":1}",
         true},
        {"{\"type\":\"object\",\"properties\":{},\"required\":[]}", "{\"a\":[1]}", true},
        {"{\"type\":\"object\",\"additionalProperties\":null}", "{\"a\":[1]}", true},
        {"{\"type\":\"object\",\"properties\":{},\"required\":[],\"additionalProperties\":false}",
         "{\"a\":1}", false},
        {"{\"type\":\"object\",\"properties\":{},\"required\":[],\"additionalProperties\":false}", "{}",
         true},
        {"{\"const\":\"a\",\"enum\":[\"a\",\"b\"],\"type\":\"string\"}", "\"a\"", true},
        {"{\"const\":\"a\",\"enum\":[\"a\",\"b\"],\"type\":\"string\"}", "\"b\"", false},
        {"{\"type\":\"array\",\"maxItems\":0}", "[]", true},
        {"{\"type\":\"array\",\"maxItems\":0}", "[1]", false},
        {"{\"type\":\"array\",\"minItems\":1,\"maxItems\":1}", "[]", false},
        {"{\"type\":\"array\",\"minItems\":1,\"maxItems\":1}", "[1]", true},
        {"{\"type\":\"array\",\"minItems\":1,\"maxItems\":1}", "[1,1]", false},
        {"{\"pattern\":\"^[^a]$\"}", "\"\\\"\"", true},
        {"{\"pattern\":\"^[^a]$\"}", "\"a\"", false},
        {"{\"pattern\":\"^.\\\\\\\\$\"}", "\"b\\\\\"", true},
        {"{\"pattern\":\"^\\\\n\\\\x01$\"}", "\"\\n\\u0001\"", true},
    };
    (void)state;
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        struct qn_constraint *c;
        struct qn_api_err err = {0};
        struct qn_err e = {0};
        struct qn_cursor cur;
        int32_t tokens[64];
        uint32_t n = 0;
        bool yes = true;
        if (make(rows[i].schema, &c, &err, &e)) fail_msg("%s: %s %s", rows[i].schema, err.msg, e.msg);
        qn_cursor_init(&cur, false);
        for (uint32_t len = (uint32_t)strlen(rows[i].text); n <= len && yes; n++) {
            tokens[n] = n < len ? (unsigned char)rows[i].text[n] : EOS;
            assert_int_equal(qn_cursor_allows(c, &cur, &(struct qn_cursor_at){tokens, n}, tokens[n], &yes),
                             0);
        }
        if (yes != rows[i].yes) fail_msg("%s and %s: %d", rows[i].schema, rows[i].text, yes);
        qn_constraint_unref(c);
    }
}

/* Strings of the same lengths are one part of the program, however many there are. */
static void many_strings(void **state) {
    char text[8192];
    struct qn_constraint *c;
    struct qn_api_err err = {0};
    struct qn_err e = {0};
    size_t n = (size_t)snprintf(text, sizeof text, "{\"properties\":{");
    (void)state;
    for (uint32_t i = 0; i < 60; i++)
        n += (size_t)snprintf(text + n, sizeof text - n, "%s\"p%u\":{\"type\":\"string\",\"maxLength\":%u}",
                              i ? "," : "", i, i % 3 ? 1000 : 4096);
    snprintf(text + n, sizeof text - n, "}}");
    if (make(text, &c, &err, &e)) fail_msg("%s %s", err.msg, e.msg);
    qn_constraint_unref(c);
}

/* Names of properties stand in messages, which are a part of the grammar: no line may end in them. */
static void names_of_patterns(void **state) {
    struct qn_constraint *c;
    struct qn_api_err err = {0};
    struct qn_err e = {0};
    (void)state;
    assert_int_equal(
        make("{\"properties\":{\"a\\nb\":{\"pattern\":\"^x$\"}},\"required\":[\"a\\nb\"]}", &c, &err, &e), 0);
    qn_constraint_unref(c);
}

/* A part that is written as often as its types are named is counted each time. */
static void copies_are_counted(void **state) {
    struct qn_constraint *c;
    struct qn_api_err err = {0};
    struct qn_err e = {0};
    (void)state;
    static char text[65536];
    size_t n = 0;
    static const uint32_t copies[] = {40, 100, 100};
    for (size_t k = 0; k < 3; k++) {
        n += (size_t)snprintf(text + n, sizeof text - n, "{\"type\":[\"object\"");
        for (uint32_t i = 1; i < copies[k]; i++)
            n += (size_t)snprintf(text + n, sizeof text - n, ",\"object\"");
        n += (size_t)snprintf(text + n, sizeof text - n,
                              "],%s\"properties\":{\"a\":", k ? "\"required\":[\"a\"]," : "");
    }
    snprintf(text + n, sizeof text - n, "{}}}}}}}");
    int rc = make(text, &c, &err, &e);
    assert_int_not_equal(rc, 0);
    assert_non_null(strstr(err.msg, "names a type twice"));
    qn_constraint_unref(c);
}

int main(void) {
    setlocale(LC_ALL, "C.UTF-8"); /* for regexec */
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(walks_validate),    cmocka_unit_test(refused),
        cmocka_unit_test(literals),          cmocka_unit_test(described),
        cmocka_unit_test(many_strings),      cmocka_unit_test(names_of_patterns),
        cmocka_unit_test(copies_are_counted)};
    return cmocka_run_group_tests_name("api/schema", tests, set_up, tear_down);
}
