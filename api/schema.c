/* Data flow: JSON text of a schema -> tree -> expressions; what is referred to, and what occurs more than
 * once, becomes a rule of its own, written from a list of what is still to do, so that neither deep nor
 * circular references recurse here. Thread: any. */
#include "api/schema.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "api/constraint.h"
#include "api/jget.h"
#include "api/jload.h"
#include "api/schema_text.h"

#define MAX_RULES 4096u
#define MAX_TEXT  ((size_t)4 << 20) /* bytes of a grammar */
#define PATH      400

struct rule {
    struct qn_buf text;
    json_t *schema; /* NULL: written when it was made */
    char *path;     /* owned: its place, for messages */
};
struct maker {
    json_t *root;
    const char *param;
    struct rule *rules;
    uint32_t n, cap, written;
    uint32_t any, object; /* rules of any value and any object; 0 = not there yet */
    size_t bytes;
    struct qn_api_err *err;
};

static int emit(struct maker *m, struct qn_buf *out, json_t *s, const char *path);

static int no_memory(struct maker *m) {
    return qn_api_fail(m->err, QN_API_OUT_OF_MEMORY, "", "out of memory");
}

/* Refuses a keyword by its place. */
static int refuse(struct maker *m, const char *path, const char *key, const char *why) {
    char param[PATH + 80];
    snprintf(param, sizeof param, "%s%s%s", path, key[0] ? "." : "", key);
    return qn_api_fail(m->err, QN_API_INVALID, param, "\"%s\" %s", param, why);
}

static void sub_path(char out[PATH], const char *path, const char *key, const char *name) {
    snprintf(out, PATH, "%s.%s%s%s", path, key, name[0] ? "." : "", name);
}

/* ---- rules ---- */

/* A new rule, still to be written when schema is given; its number, or 0 on failure (0 is the whole). */
static uint32_t add_rule(struct maker *m, json_t *schema, const char *path) {
    if (m->n == MAX_RULES) {
        refuse(m, m->param, "", "has too many parts");
        return 0;
    }
    if (m->n == m->cap) {
        uint32_t cap = m->cap ? m->cap * 2 : 16;
        struct rule *r = realloc(m->rules, cap * sizeof *r);
        if (!r) {
            no_memory(m);
            return 0;
        }
        m->rules = r;
        m->cap = cap;
    }
    char *copy = schema ? strdup(path) : NULL;
    if (schema && !copy) {
        no_memory(m);
        return 0;
    }
    m->rules[m->n] = (struct rule){.schema = schema, .path = copy};
    return m->n++;
}

static void call(struct qn_buf *out, uint32_t rule) {
    qn_buf_printf(out, "(?&%u)", (unsigned)rule);
}

/* A call of the rule for a schema, the same one each time. */
static int call_schema(struct maker *m, struct qn_buf *out, json_t *schema, const char *path) {
    uint32_t r = 1;
    while (r < m->n && m->rules[r].schema != schema) r++;
    if (r >= m->n) r = add_rule(m, schema, path);
    if (!r) return -1;
    call(out, r);
    return 0;
}

/* Calls the rule of this text (taken over), which all that is written the same share: counted repetitions are
 * what makes programs large. */
static int call_text(struct maker *m, struct qn_buf *out, struct qn_buf *text) {
    uint32_t r = 1;
    if (text->failed) {
        qn_buf_free(text);
        return no_memory(m);
    }
    for (; r < m->n; r++) {
        const struct qn_buf *t = &m->rules[r].text;
        if (!m->rules[r].schema && t->n == text->n && !memcmp(t->p, text->p, t->n)) break;
    }
    if (r < m->n) {
        qn_buf_free(text);
    } else if ((r = add_rule(m, NULL, ""))) {
        m->rules[r].text = *text;
    } else {
        qn_buf_free(text);
        return -1;
    }
    call(out, r);
    return 0;
}

static uint32_t any_value(struct maker *m);

static const char members[] =
    "\\{" QN_SCHEMA_BLANKS "(?:" QN_SCHEMA_TEXT QN_SCHEMA_COLON
    "(?&%u)(?:," QN_SCHEMA_BLANKS QN_SCHEMA_TEXT QN_SCHEMA_COLON "(?&%u))*" QN_SCHEMA_BLANKS ")?\\}";

static uint32_t any_object(struct maker *m) {
    uint32_t value = any_value(m);
    return value ? m->object : 0;
}

/* The rules of any value and any object, which call each other. */
static uint32_t any_value(struct maker *m) {
    if (m->any) return m->any;
    uint32_t any = add_rule(m, NULL, ""), object = any ? add_rule(m, NULL, "") : 0;
    if (!object) return 0;
    qn_buf_printf(&m->rules[any].text,
                  "%s|%s|true|false|null|(?&%u)|\\[" QN_SCHEMA_BLANKS "(?:(?&%u)(?:," QN_SCHEMA_BLANKS
                  "(?&%u))*" QN_SCHEMA_BLANKS ")?\\]",
                  QN_SCHEMA_TEXT, QN_SCHEMA_NUM, (unsigned)object, (unsigned)any, (unsigned)any);
    qn_buf_printf(&m->rules[object].text, members, (unsigned)any, (unsigned)any);
    m->any = any;
    m->object = object;
    return any;
}

static int emit_any(struct maker *m, struct qn_buf *out) {
    uint32_t r = any_value(m);
    if (!r) return -1;
    call(out, r);
    return 0;
}

/* ---- strings and numbers ---- */

static bool given(const json_t *s, const char *key) {
    const json_t *v = json_object_get(s, key);
    return v && !json_is_null(v);
}

/* A count in [0, 2^31); *out is left alone when it is not given. */
static int count_of(struct maker *m, const json_t *s, const char *key, const char *path, uint64_t *out) {
    char param[PATH + 80];
    if (!given(s, key)) return 0;
    snprintf(param, sizeof param, "%s.%s", path, key);
    return qn_jget_uint(json_object_get(s, key), param, 0, INT32_MAX, out, m->err);
}

static int emit_pattern(struct maker *m, struct qn_buf *out, const json_t *s, const char *path) {
    const json_t *p = json_object_get(s, "pattern");
    char label[PATH + 16];
    if (!json_is_string(p)) return refuse(m, path, "pattern", "must be a string");
    int n = snprintf(label, sizeof label, "%s.pattern", path);
    if (n >= (int)sizeof label) n = (int)sizeof label - 1;
    for (int i = 0; i < n; i++) /* a name with a line break would end the rule */
        if (label[i] == '\n') label[i] = ' ';
    if (memchr(json_string_value(p), '\n', json_string_length(p)))
        return refuse(m, path, "pattern", "must write line breaks as \\n");
    qn_buf_printf(out, "\"(?p%zu,%d:", json_string_length(p) + (size_t)n, n);
    qn_buf_add(out, label, (size_t)n);
    qn_buf_add(out, json_string_value(p), json_string_length(p));
    qn_buf_str(out, ")\"");
    return 0;
}

static int emit_string(struct maker *m, struct qn_buf *out, const json_t *s, const char *path) {
    bool pattern = given(s, "pattern"), format = given(s, "format");
    bool bounded = given(s, "minLength") || given(s, "maxLength");
    uint64_t min = 0, max = UINT64_MAX;
    if (pattern + format + bounded > 1)
        return refuse(m, path, pattern ? "pattern" : "format",
                      "can't be combined with other limits of a string");
    if (pattern) return emit_pattern(m, out, s, path);
    if (format) {
        const char *name = json_string_value(json_object_get(s, "format"));
        const char *text = name ? qn_schema_format(name) : NULL;
        if (!text)
            return refuse(m, path, "format",
                          "must be date, time, date-time, duration, uuid, ipv4, ipv6, hostname or email");
        qn_buf_printf(out, "\"%s\"", text);
        return 0;
    }
    if (count_of(m, s, "minLength", path, &min) || count_of(m, s, "maxLength", path, &max)) return -1;
    if (min > QN_SCHEMA_STRING) return refuse(m, path, "minLength", "is larger than 4096");
    if (min > max) return refuse(m, path, "minLength", "is larger than maxLength");
    struct qn_buf text = {0};
    qn_buf_printf(&text, "\"(?j:%s{%u,", QN_SCHEMA_CHAR, (unsigned)min);
    if (max != UINT64_MAX)
        qn_buf_printf(&text, "%u", (unsigned)(max < QN_SCHEMA_STRING ? max : QN_SCHEMA_STRING));
    qn_buf_str(&text, "})\"");
    return call_text(m, out, &text);
}

/* The tighter of two bounds on one side; for integers the next whole number inside, never open. */
static int bound_of(struct maker *m, const json_t *s, const char *path, bool upper, bool integer,
                    struct qn_schema_range *r) {
    static const char *const keys[2][2] = {{"minimum", "exclusiveMinimum"}, {"maximum", "exclusiveMaximum"}};
    for (int open = 0; open < 2; open++) {
        const char *key = keys[upper][open];
        if (!given(s, key)) continue;
        const json_t *v = json_object_get(s, key);
        double x = json_number_value(v), at;
        if (!json_is_number(v) || !isfinite(x)) return refuse(m, path, key, "must be a number");
        at = integer ? (upper ? floor(x) : ceil(x)) : x;
        bool is_open = open;
        if (integer && open && at == x) at += upper ? -1 : 1;
        if (integer) is_open = false;
        if (at != floor(at)) return refuse(m, path, key, "must be a whole number: others are not supported");
        if (upper && (at < r->hi || (at == r->hi && is_open))) r->hi = at, r->hi_open = is_open;
        if (!upper && (at > r->lo || (at == r->lo && is_open))) r->lo = at, r->lo_open = is_open;
    }
    return 0;
}

static int emit_number(struct maker *m, struct qn_buf *out, const json_t *s, const char *path, bool integer) {
    struct qn_schema_range r = {-INFINITY, INFINITY, false, false};
    if (bound_of(m, s, path, false, integer, &r) || bound_of(m, s, path, true, integer, &r)) return -1;
    bool some = integer ? qn_schema_integer(out, &r) : qn_schema_number(out, &r);
    return some ? 0 : refuse(m, path, "", "has bounds that no number of at most 15 digits is between");
}

/* ---- arrays and objects ---- */

static int emit_array(struct maker *m, struct qn_buf *out, json_t *s, const char *path) {
    json_t *items = json_object_get(s, "items");
    struct qn_buf item = {0};
    char at[PATH];
    uint64_t min = 0, max = UINT64_MAX;
    sub_path(at, path, "items", "");
    if (count_of(m, s, "minItems", path, &min) || count_of(m, s, "maxItems", path, &max)) return -1;
    if (min > max) return refuse(m, path, "minItems", "is larger than maxItems");
    if (min > QN_SCHEMA_STRING) return refuse(m, path, "minItems", "is larger than 4096");
    bool bounded = max != UINT64_MAX;
    if (bounded && max > QN_SCHEMA_STRING) max = QN_SCHEMA_STRING;
    int rc = !items || json_is_true(items) ? emit_any(m, &item) : call_schema(m, &item, items, at);
    if (!rc && !max) {
        qn_buf_str(out, "\\[" QN_SCHEMA_BLANKS "\\]");
    } else if (!rc) {
        qn_buf_printf(out, "\\[" QN_SCHEMA_BLANKS "(?:%s(?:," QN_SCHEMA_BLANKS "%s)", item.p ? item.p : "",
                      item.p ? item.p : "");
        qn_buf_printf(out, "{%u,", (unsigned)(min ? min - 1 : 0));
        if (bounded) qn_buf_printf(out, "%u", (unsigned)(max - 1));
        qn_buf_str(out, "}");
        qn_buf_str(out, QN_SCHEMA_BLANKS);
        qn_buf_str(out, min ? ")\\]" : ")?\\]");
    }
    if (item.failed) rc = no_memory(m);
    qn_buf_free(&item);
    return rc;
}

struct member {
    const char *key;
    json_t *schema;
    bool required;
};

static int emit_member(struct maker *m, struct qn_buf *out, const struct member *p, const char *path) {
    char at[PATH];
    struct qn_buf key = {0};
    qn_buf_json_str(&key, p->key, strlen(p->key));
    if (key.n) qn_schema_quote(out, key.p, key.n);
    bool failed = key.failed;
    qn_buf_free(&key);
    if (failed) return no_memory(m);
    sub_path(at, path, "properties", p->key);
    qn_buf_str(out, QN_SCHEMA_COLON);
    return emit(m, out, p->schema, at);
}

/* Members of which none must be there: the comma depends on whether one was there before. Each member is a
 * rule, and so is each rest of the list. */
static int emit_optional(struct maker *m, struct qn_buf *out, const struct member *p, size_t n,
                         const char *path) {
    uint32_t rest = 0; /* of what comes after member i */
    struct qn_buf first = {0};
    int rc = 0;
    for (size_t i = n; i-- > 0 && !rc;) {
        uint32_t one = add_rule(m, NULL, ""), next = one && i ? add_rule(m, NULL, "") : 0;
        struct qn_buf text = {0};
        if (!one || (i && !next)) {
            rc = -1;
            break;
        }
        rc = emit_member(m, &text, &p[i], path); /* may move the rules */
        m->rules[one].text = text;
        if (i + 1 < n) qn_buf_str(&first, "|");
        call(&first, one);
        if (rest) call(&first, rest);
        if (next) {
            struct qn_buf *b = &m->rules[next].text;
            qn_buf_printf(b, "(?:," QN_SCHEMA_BLANKS "(?&%u))?", (unsigned)one);
            if (rest) call(b, rest);
        }
        rest = next;
    }
    qn_buf_printf(out, "(?:(?:%s)" QN_SCHEMA_BLANKS ")?", first.p ? first.p : "");
    if (first.failed) rc = no_memory(m);
    qn_buf_free(&first);
    return rc;
}

/* Members in order, of which one at least is required. */
static int emit_members(struct maker *m, struct qn_buf *out, const struct member *p, size_t n,
                        const char *path) {
    bool before = false; /* a required one was there: commas come first from now on */
    int rc = 0;
    for (size_t i = 0; i < n && !rc; i++) {
        if (!p[i].required) qn_buf_str(out, "(?:");
        if (before) qn_buf_str(out, "," QN_SCHEMA_BLANKS);
        rc = emit_member(m, out, &p[i], path);
        if (!before && !p[i].required) qn_buf_str(out, "," QN_SCHEMA_BLANKS);
        if (!p[i].required) qn_buf_str(out, ")?");
        before = before || p[i].required;
    }
    qn_buf_str(out, QN_SCHEMA_BLANKS);
    return rc;
}

static int read_required(struct maker *m, const json_t *s, struct member *p, size_t n, bool *any,
                         const char *path) {
    const json_t *list = json_object_get(s, "required");
    *any = false;
    if (!list || json_is_null(list)) return 0;
    if (!json_is_array(list)) return refuse(m, path, "required", "must be an array of names");
    for (size_t k = 0; k < json_array_size(list); k++) {
        const char *name = json_string_value(json_array_get(list, k));
        size_t i = 0;
        while (name && i < n && strcmp(p[i].key, name) != 0) i++;
        if (!name || i == n) return refuse(m, path, "required", "names what is not in properties");
        p[i].required = *any = true;
    }
    return 0;
}

/* An object without properties: any members, or all of one schema. */
static int emit_map(struct maker *m, struct qn_buf *out, json_t *more, const char *path) {
    char at[PATH];
    if (!more || json_is_true(more)) {
        uint32_t r = any_object(m);
        if (!r) return -1;
        call(out, r);
        return 0;
    }
    struct qn_buf value = {0};
    sub_path(at, path, "additionalProperties", "");
    int rc = call_schema(m, &value, more, at);
    unsigned rule = value.p ? (unsigned)strtoul(value.p + 3, NULL, 10) : 0;
    if (value.failed) rc = no_memory(m);
    if (!rc) qn_buf_printf(out, members, rule, rule);
    qn_buf_free(&value);
    return rc;
}

static int emit_object(struct maker *m, struct qn_buf *out, json_t *s, const char *path) {
    json_t *props = json_object_get(s, "properties"), *more = json_object_get(s, "additionalProperties"), *v;
    size_t n = json_object_size(props), i = 0;
    const char *key;
    bool any;
    if (props && !json_is_object(props)) return refuse(m, path, "properties", "must be an object");
    if (n && more && !json_is_false(more) && !json_is_null(more)) /* null: as if it were not there */
        return refuse(m, path, "additionalProperties", "must be false beside properties");
    const json_t *required = json_object_get(s, "required");
    bool named = given(s, "required") && !(json_is_array(required) && !json_array_size(required));
    if (json_is_null(more)) more = NULL;
    if (!n && !named && !json_is_false(more)) return emit_map(m, out, more, path);
    struct member *p = calloc(n + 1, sizeof *p);
    if (!p) return no_memory(m);
    for (size_t k = 0; k < n; k++) p[k].key = "";
    json_object_foreach(props, key, v) if (i < n) p[i++] = (struct member){key, v, false};
    int rc = read_required(m, s, p, n, &any, path);
    qn_buf_str(out, "\\{" QN_SCHEMA_BLANKS);
    if (!rc && n) rc = any ? emit_members(m, out, p, n, path) : emit_optional(m, out, p, n, path);
    qn_buf_str(out, "\\}");
    free(p);
    return rc;
}

/* ---- schemas ---- */

static const char *const types[] = {"string", "integer", "number", "boolean", "null", "array", "object"};

static int emit_type(struct maker *m, struct qn_buf *out, json_t *s, const char *type, const char *path) {
    size_t t = 0;
    while (t < 7 && strcmp(types[t], type) != 0) t++;
    switch (t) {
    case 0:
        return emit_string(m, out, s, path);
    case 1:
    case 2:
        return emit_number(m, out, s, path, t == 1);
    case 3:
        qn_buf_str(out, "(?:true|false)");
        return 0;
    case 4:
        qn_buf_str(out, "null");
        return 0;
    case 5:
        return emit_array(m, out, s, path);
    case 6:
        return emit_object(m, out, s, path);
    default:
        return refuse(m, path, "type",
                      "must be string, integer, number, boolean, null, array, object, or an array of those");
    }
}

static int emit_types(struct maker *m, struct qn_buf *out, json_t *s, const json_t *type, const char *path) {
    if (json_is_string(type)) return emit_type(m, out, s, json_string_value(type), path);
    size_t n = json_array_size(type);
    if (!n) return refuse(m, path, "type", "must be a name or an array of names");
    qn_buf_str(out, "(?:");
    for (size_t i = 0; i < n; i++) {
        const char *name = json_string_value(json_array_get(type, i));
        for (size_t k = 0; name && k < i; k++) /* nested, copies of copies would have no end */
            if (!strcmp(json_string_value(json_array_get(type, k)), name))
                return refuse(m, path, "type", "names a type twice");
        if (i) qn_buf_str(out, "|");
        if (emit_type(m, out, s, name ? name : "", path)) return -1;
    }
    qn_buf_str(out, ")");
    return 0;
}

/* Is a value of the type that stands beside the enum? */
static bool has_type(const json_t *type, const json_t *v) {
    double d = json_number_value(v);
    bool is[] = {json_is_string(v), json_is_number(v) && d == floor(d),
                 json_is_number(v), json_is_boolean(v),
                 json_is_null(v),   json_is_array(v),
                 json_is_object(v)};
    if (!type) return true;
    for (size_t i = 0; i < (json_is_array(type) ? json_array_size(type) : 1); i++) {
        const char *name = json_string_value(json_is_array(type) ? json_array_get(type, i) : type);
        for (size_t t = 0; name && t < 7; t++)
            if (is[t] && !strcmp(types[t], name)) return true;
    }
    return false;
}

static int emit_enum(struct maker *m, struct qn_buf *out, const json_t *s, const char *path) {
    const json_t *list = json_object_get(s, "enum"), *type = json_object_get(s, "type");
    json_t *only = json_object_get(s, "const");
    size_t n = list ? json_array_size(list) : 1, some = 0;
    if (list && !json_is_array(list)) return refuse(m, path, "enum", "must be an array of values");
    qn_buf_str(out, "(?:");
    for (size_t i = 0; i < n; i++) {
        json_t *v = list ? json_array_get(list, i) : only;
        if (!has_type(type, v) || (only && !json_equal(v, only))) continue;
        if (some++) qn_buf_str(out, "|");
        qn_schema_literal(out, v);
    }
    qn_buf_str(out, ")");
    return some ? 0 : refuse(m, path, list ? "enum" : "const", "has no value of the schema's type and const");
}

static int emit_any_of(struct maker *m, struct qn_buf *out, const json_t *list, const char *key,
                       const char *path) {
    char at[PATH], name[32];
    size_t n = json_array_size(list);
    if (!n) return refuse(m, path, key, "must be an array of schemas");
    if (n > 1 && !strcmp(key, "allOf")) return refuse(m, path, key, "is supported with one schema only");
    qn_buf_str(out, "(?:");
    for (size_t i = 0; i < n; i++) {
        if (i) qn_buf_str(out, "|");
        snprintf(name, sizeof name, "%s[%zu]", key, i);
        sub_path(at, path, name, "");
        if (emit(m, out, json_array_get(list, i), at)) return -1;
    }
    qn_buf_str(out, ")");
    return 0;
}

/* One step of a pointer: the name up to '/', with ~1 and ~0 for / and ~. */
static json_t *follow(json_t *at, const char *name, size_t n) {
    char key[256];
    size_t k = 0;
    for (size_t i = 0; i < n && k + 1 < sizeof key; i++) {
        bool tilde = name[i] == '~' && i + 1 < n && (name[i + 1] == '0' || name[i + 1] == '1');
        key[k++] = tilde ? (name[i + 1] == '1' ? '/' : '~') : name[i];
        i += tilde;
    }
    key[k] = '\0';
    if (json_is_object(at)) return json_object_get(at, key);
    return json_is_array(at) ? json_array_get(at, (size_t)strtoul(key, NULL, 10)) : NULL;
}

static int emit_ref(struct maker *m, struct qn_buf *out, const json_t *s, const char *path) {
    const char *ref = json_string_value(json_object_get(s, "$ref"));
    json_t *at = m->root;
    char place[PATH];
    if (!ref || ref[0] != '#' || (ref[1] && ref[1] != '/'))
        return refuse(m, path, "$ref", "must refer to a place in this schema, as \"#/$defs/name\" does");
    snprintf(place, sizeof place, "%s", m->param);
    for (const char *p = ref + 1; *p == '/' && at;) {
        size_t n = strcspn(++p, "/"), used = strlen(place);
        at = follow(at, p, n);
        snprintf(place + used, sizeof place - used, ".%.*s", n > 200 ? 200 : (int)n, p);
        p += n;
    }
    if (!at) return refuse(m, path, "$ref", "refers to nothing in this schema");
    return call_schema(m, out, at, place);
}

/* Keywords that say something, by what they can stand beside. */
static bool is_in(const char *key, const char *const *list) {
    for (; *list; list++)
        if (!strcmp(key, *list)) return true;
    return false;
}

static int check_keywords(struct maker *m, json_t *s, const char *path) {
    static const char *const notes[] = {"title", "description", "default",    "examples", "$schema",
                                        "$id",   "$comment",    "deprecated", "readOnly", "writeOnly",
                                        "$defs", "definitions", NULL};
    static const char *const limits[] = {"minLength",
                                         "maxLength",
                                         "pattern",
                                         "format",
                                         "minimum",
                                         "maximum",
                                         "exclusiveMinimum",
                                         "exclusiveMaximum",
                                         "items",
                                         "minItems",
                                         "maxItems",
                                         "properties",
                                         "required",
                                         "additionalProperties",
                                         NULL};
    static const char *const whole[] = {"$ref", "anyOf", "allOf", "enum", "const", NULL};
    const char *key, *other = NULL;
    json_t *v;
    json_object_foreach(s, key, v) if (is_in(key, whole) && (!json_is_null(v) || !strcmp(key, "const")))
        other = key;
    json_object_foreach(s, key, v) {
        if (is_in(key, notes) || (json_is_null(v) && strcmp(key, "const") != 0)) continue;
        bool type = !strcmp(key, "type"),
             beside = other && (!strcmp(other, "enum") || !strcmp(other, "const"));
        if (!type && !is_in(key, limits) && !is_in(key, whole))
            return refuse(m, path, key, "is a keyword that is not supported");
        bool value = !strcmp(key, "enum") || !strcmp(key, "const");
        if (other && strcmp(key, other) != 0 && !((type || value) && beside)) {
            char why[80];
            snprintf(why, sizeof why, "can't be combined with %s", other);
            return refuse(m, path, key, why);
        }
    }
    return 0;
}

/* The type that keywords imply when none is given. */
static const char *implied(const json_t *s) {
    if (given(s, "properties") || given(s, "required") || json_object_get(s, "additionalProperties"))
        return "object";
    if (given(s, "items") || given(s, "minItems") || given(s, "maxItems")) return "array";
    if (given(s, "pattern") || given(s, "format") || given(s, "minLength") || given(s, "maxLength"))
        return "string";
    if (given(s, "minimum") || given(s, "maximum") || given(s, "exclusiveMinimum") ||
        given(s, "exclusiveMaximum"))
        return "number";
    return NULL;
}

static int emit(struct maker *m, struct qn_buf *out, json_t *s, const char *path) {
    if (out->n > MAX_TEXT) return refuse(m, m->param, "", "is too large");
    if (json_is_true(s)) return emit_any(m, out);
    if (!json_is_object(s)) return refuse(m, path, "", "must be a schema: an object, or true");
    if (check_keywords(m, s, path)) return -1;
    if (given(s, "$ref")) return emit_ref(m, out, s, path);
    if (given(s, "anyOf")) return emit_any_of(m, out, json_object_get(s, "anyOf"), "anyOf", path);
    if (given(s, "allOf")) return emit_any_of(m, out, json_object_get(s, "allOf"), "allOf", path);
    if (given(s, "enum") || json_object_get(s, "const")) return emit_enum(m, out, s, path);
    if (given(s, "type")) return emit_types(m, out, s, json_object_get(s, "type"), path);
    return implied(s) ? emit_type(m, out, s, implied(s), path) : emit_any(m, out);
}

/* Writes what is still to be written; doing so adds more. */
static int write_rules(struct maker *m) {
    for (uint32_t r = 0; r < m->n; r++) {
        struct qn_buf text = {0};
        if (!m->rules[r].schema) continue;
        int rc = emit(m, &text, m->rules[r].schema, m->rules[r].path);
        m->rules[r].text = text; /* the rules may have moved meanwhile */
        if (rc) return -1;
        m->bytes += text.n;
        if (m->bytes > MAX_TEXT) return refuse(m, m->param, "", "is too large");
    }
    return 0;
}

static int join(struct maker *m, struct qn_buf *out) {
    for (uint32_t r = 0; r < m->n; r++) {
        if (r) qn_buf_str(out, "\n");
        if (m->rules[r].text.n) qn_buf_add(out, m->rules[r].text.p, m->rules[r].text.n);
        if (m->rules[r].text.failed) return no_memory(m);
    }
    return out->failed ? no_memory(m) : 0;
}

static void free_maker(struct maker *m) {
    for (uint32_t r = 0; r < m->n; r++) {
        qn_buf_free(&m->rules[r].text);
        free(m->rules[r].path);
    }
    free(m->rules);
}

int qn_api_schema_grammar(const struct qn_api_constraint *c, const char *param, struct qn_buf *out,
                          struct qn_api_err *err) {
    struct maker m = {.param = param, .err = err};
    struct qn_jdoc doc = {0};
    int rc = 0;
    if (c->kind == QN_CONSTRAIN_SCHEMA) {
        rc = qn_jdoc_open(&doc, c->text, c->n, NULL, err);
        m.root = doc.root;
    }
    if (!rc && m.root && !add_rule(&m, m.root, param) && m.n == 0) rc = -1;
    if (!rc && !m.root) { /* any object: rule 0 calls it */
        add_rule(&m, NULL, "");
        rc = m.n && any_object(&m) ? 0 : -1;
        if (!rc) call(&m.rules[0].text, m.object);
    }
    if (!rc) rc = write_rules(&m);
    if (!rc) rc = join(&m, out);
    free_maker(&m);
    qn_jdoc_close(&doc);
    return rc;
}
