/* Strict typed readers of JSON values. Data flow: a value of the tree -> a C value inside its range, or an
 * error that names the field. Thread: any. */
#include "api/jget.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

const char *qn_jtype(const json_t *v) {
    switch (json_typeof(v)) {
    case JSON_OBJECT:
        return "an object";
    case JSON_ARRAY:
        return "an array";
    case JSON_STRING:
        return "a string";
    case JSON_INTEGER:
        return "an integer";
    case JSON_REAL:
        return "a number";
    case JSON_TRUE:
    case JSON_FALSE:
        return "a boolean";
    case JSON_NULL:
        return "null";
    }
    return "nothing";
}

const char *qn_jshow(const json_t *v, char out[QN_JSHOW]) {
    if (json_is_integer(v)) {
        snprintf(out, QN_JSHOW, "%lld", (long long)json_integer_value(v));
    } else if (json_is_real(v)) {
        double d = json_real_value(v);
        bool whole = d == floor(d) && fabs(d) < 1e9; /* shown as 1.0, not as the integer that it is not */
        snprintf(out, QN_JSHOW, whole ? "%.1f" : "%.9g", d);
    } else if (json_is_string(v)) {
        size_t n = json_string_length(v), cut = n < 48 ? n : 48;
        const char *s = json_string_value(v);
        while (cut < n && cut && ((unsigned char)s[cut] & 0xC0) == 0x80) cut--; /* whole characters */
        snprintf(out, QN_JSHOW, "the string \"%.*s%s\"", (int)cut, s, cut < n ? "..." : "");
    } else if (json_is_boolean(v)) {
        snprintf(out, QN_JSHOW, "%s", json_is_true(v) ? "true" : "false");
    } else {
        snprintf(out, QN_JSHOW, "%s", qn_jtype(v));
    }
    return out;
}

int qn_jget_uint(const json_t *v, const char *param, uint64_t min, uint64_t max, uint64_t *out,
                 struct qn_api_err *err) {
    char show[QN_JSHOW];
    if (json_is_real(v) && json_real_value(v) == floor(json_real_value(v)) &&
        fabs(json_real_value(v)) < 9007199254740992.0)
        return qn_api_fail(err, QN_API_INVALID, param,
                           "\"%s\" must be an integer, got %s: write it without a fraction or exponent",
                           param, qn_jshow(v, show));
    if (!json_is_integer(v))
        return qn_api_fail(err, QN_API_INVALID, param, "\"%s\" must be an integer in [%llu, %llu], got %s",
                           param, (unsigned long long)min, (unsigned long long)max, qn_jshow(v, show));
    json_int_t i = json_integer_value(v);
    if (i < 0 || (uint64_t)i < min || (uint64_t)i > max)
        return qn_api_fail(err, QN_API_INVALID, param, "\"%s\" must be in [%llu, %llu], got %lld", param,
                           (unsigned long long)min, (unsigned long long)max, (long long)i);
    *out = (uint64_t)i;
    return 0;
}

int qn_jget_float(const json_t *v, const char *param, const struct qn_jrange *r, float *out,
                  struct qn_api_err *err) {
    char show[QN_JSHOW];
    double d = json_is_number(v) ? json_number_value(v) : (double)NAN;
    bool fits = isfinite(d) && d >= r->min && d <= r->max && (!r->open || (float)d > (float)r->min);
    if (!fits)
        return qn_api_fail(err, QN_API_INVALID, param, "\"%s\" must be a number in %c%g, %g], got %s", param,
                           r->open ? '(' : '[', r->min, r->max, qn_jshow(v, show));
    *out = (float)d;
    return 0;
}

int qn_jget_bool(const json_t *v, const char *param, bool *out, struct qn_api_err *err) {
    char show[QN_JSHOW];
    if (!json_is_boolean(v))
        return qn_api_fail(err, QN_API_INVALID, param, "\"%s\" must be true or false, got %s", param,
                           qn_jshow(v, show));
    *out = json_is_true(v);
    return 0;
}

int qn_jget_text(const json_t *v, const char *param, size_t min, size_t max, char **out, size_t *n,
                 struct qn_api_err *err) {
    char show[QN_JSHOW];
    if (!json_is_string(v))
        return qn_api_fail(err, QN_API_INVALID, param, "\"%s\" must be a string, got %s", param,
                           qn_jshow(v, show));
    size_t len = json_string_length(v);
    if (len < min && len == 0)
        return qn_api_fail(err, QN_API_INVALID, param, "\"%s\" must not be empty", param);
    if (len < min || len > max)
        return qn_api_fail(err, QN_API_INVALID, param, "\"%s\" must be %zu to %zu bytes long, got %zu", param,
                           min, max, len);
    char *copy = malloc(len + 1);
    if (!copy) return qn_api_fail(err, QN_API_OUT_OF_MEMORY, "", "out of memory");
    memcpy(copy, json_string_value(v), len);
    copy[len] = '\0';
    *out = copy;
    *n = len;
    return 0;
}

bool qn_jname_ok(const char *s, size_t n, size_t max) {
    if (n == 0 || n > max) return false;
    for (size_t i = 0; i < n; i++)
        if (!((s[i] >= 'a' && s[i] <= 'z') || (s[i] >= '0' && s[i] <= '9') || s[i] == '_')) return false;
    return true;
}

bool qn_jid_ok(const char *s, size_t n, size_t max) {
    if (n == 0 || n > max) return false;
    for (size_t i = 0; i < n; i++) {
        char c = s[i];
        bool word = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9');
        if (!word && c != '.' && c != '_' && c != '-') return false;
    }
    return true;
}

int qn_jget_model(const json_t *v, char out[65], struct qn_api_err *err) {
    char show[QN_JSHOW];
    if (!json_is_string(v) || !qn_jid_ok(json_string_value(v), json_string_length(v), 64))
        return qn_api_fail(err, QN_API_INVALID, "model",
                           "\"model\" must be 1 to 64 characters of A-Z a-z 0-9 . _ -, got %s",
                           qn_jshow(v, show));
    memcpy(out, json_string_value(v), json_string_length(v) + 1);
    return 0;
}

/* The error of item i of an array of ids. */
static int bad_id(const json_t *v, const struct qn_jids *how, size_t i, struct qn_api_err *err) {
    char show[QN_JSHOW], param[64];
    snprintf(param, sizeof param, "%s", how->param);
    if (how->deep) snprintf(param, sizeof param, "%.40s[%zu]", how->param, i);
    return qn_api_fail(err, QN_API_INVALID, param,
                       "item %zu of \"%s\" must be a token id in [0, 2147483647], got %s", i, how->param,
                       qn_jshow(v, show));
}

int qn_jget_ids(const json_t *v, const struct qn_jids *how, int32_t **out, size_t *n,
                struct qn_api_err *err) {
    char show[QN_JSHOW];
    if (!json_is_array(v))
        return qn_api_fail(err, QN_API_INVALID, how->param, "\"%s\" must be an array of token ids, got %s",
                           how->param, qn_jshow(v, show));
    size_t count = json_array_size(v);
    if (count == 0 && !how->allow_empty)
        return qn_api_fail(err, QN_API_INVALID, how->param, "\"%s\" must not be empty", how->param);
    int32_t *ids = calloc(count ? count : 1, sizeof *ids);
    if (!ids) return qn_api_fail(err, QN_API_OUT_OF_MEMORY, "", "out of memory");
    for (size_t i = 0; i < count; i++) {
        const json_t *item = json_array_get(v, i);
        json_int_t id = json_is_integer(item) ? json_integer_value(item) : -1;
        if (id < 0 || id > INT32_MAX) {
            free(ids);
            return bad_id(item, how, i, err);
        }
        ids[i] = (int32_t)id;
    }
    *out = ids;
    *n = count;
    return 0;
}

#define NAME_MAX_LEN 40 /* longer names are compared by their beginning */

/* Optimal string alignment distance: insert, delete, replace, swap of neighbours. */
static size_t distance(const char *a, const char *b) {
    size_t row[3][NAME_MAX_LEN + 1];
    size_t na = strnlen(a, NAME_MAX_LEN), nb = strnlen(b, NAME_MAX_LEN);
    size_t *two = row[0], *one = row[1], *cur = row[2];
    for (size_t j = 0; j <= nb; j++) one[j] = j, two[j] = j;
    for (size_t i = 1; i <= na; i++) {
        cur[0] = i;
        for (size_t j = 1; j <= nb; j++) {
            size_t best = one[j - 1] + (a[i - 1] != b[j - 1]);
            if (one[j] + 1 < best) best = one[j] + 1;
            if (cur[j - 1] + 1 < best) best = cur[j - 1] + 1;
            bool swap = i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1];
            if (swap && two[j - 2] + 1 < best) best = two[j - 2] + 1;
            cur[j] = best;
        }
        size_t *t = two;
        two = one, one = cur, cur = t;
    }
    return one[nb];
}

size_t qn_jnearest(const char *s, const char *const *known, size_t n) {
    size_t best = 0, best_d = SIZE_MAX;
    for (size_t i = 0; i < n; i++) {
        size_t d = distance(s, known[i]);
        if (d < best_d) best_d = d, best = i;
    }
    return best;
}

int qn_junknown(const char *s, const char *const *known, size_t n, struct qn_api_err *err) {
    static const char *const other[][2] = {
        /* what other servers call it */
        {"prompt", "sequence"},
        {"input", "sequence"},
        {"inputs", "sequence"},
        {"text", "sequence"},
        {"messages", "sequence"},
        {"max_new_tokens", "max_tokens"},
        {"n_predict", "max_tokens"},
        {"num_predict", "max_tokens"},
        {"max_completion_tokens", "max_tokens"},
        {"repeat_penalty", "repetition_penalty"},
        {"best_of", "n"},
        {"stop_sequences", "stop"},
        {"cache_prompt", "cache"},
        {"timeout", "timeout_ms"},
        {"n_probs", "logprobs"},
        {"top_logprobs", "logprobs"},
    };
    const char *hint = known[qn_jnearest(s, known, n)];
    for (size_t i = 0; i < sizeof other / sizeof other[0]; i++)
        for (size_t j = 0; j < n; j++)
            if (!strcmp(s, other[i][0]) && !strcmp(known[j], other[i][1])) hint = known[j];
    return qn_api_fail(err, QN_API_UNKNOWN_FIELD, s,
                       "unknown field \"%.48s\"; the nearest known field is \"%s\"", s, hint);
}
