/* Bounded JSON parsing and typed getters for the loader. */
#include "model/load/json.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "kernels/mem.h"
#include "model/load/mapfile.h"

/* Counts nesting and separators outside strings. The text need not be valid: jansson judges that afterwards.
 * *need: more than jansson 2.14 ever holds at once for it, with malloc's own: a value 48, a pair 96 and as
 * much of tables, an object or array 240, the tables that it outgrew included; of strings twice their bytes,
 * the token buffer that doubles besides. */
static int check_limits(const char *text, size_t len, const char *what, struct qn_json_limits limits,
                        size_t *need, struct qn_err *err) {
    unsigned depth = 0;
    size_t nodes = 1, strings = 0, containers = 0, colons = 0;
    bool in_string = false;
    for (size_t i = 0; i < len; i++) {
        char c = text[i];
        if (in_string) {
            if (c == '\\')
                i++;
            else if (c == '"')
                in_string = false;
            continue;
        }
        if (c == '"') {
            in_string = true;
            strings++;
        }
        if (c == ':') colons++;
        if (c == '{' || c == '[') {
            nodes++;
            containers++;
            if (++depth > limits.depth)
                return qn_err_set(err, QN_ERR_FORMAT, "%s: nested deeper than %u levels (byte %zu)", what,
                                  limits.depth, i);
        }
        if ((c == '}' || c == ']') && depth > 0) depth--;
        if (c == ',') nodes++;
        if (nodes > limits.nodes)
            return qn_err_set(err, QN_ERR_FORMAT, "%s: more than %zu values", what, limits.nodes);
    }
    const size_t each[][2] = {{len, 6}, {nodes, 80}, {strings, 64}, {colons, 192}, {containers, 240}};
    *need = 65536;
    for (size_t i = 0, part; i < sizeof each / sizeof *each; i++)
        if (!qn_size_mul(each[i][0], each[i][1], &part) || !qn_size_add(*need, part, need)) *need = SIZE_MAX;
    return QN_OK;
}

/* jansson's lexer ignores that its token buffer could not grow, and then reads past the token: memory must be
 * short before it begins or not at all. Nothing else in the process grows while a checkpoint is loaded. What
 * is asked for here is given back untouched. */
static bool has_memory(size_t n) {
    void *volatile p = malloc(n); /* else the compiler may take it for granted */
    bool ok = p != NULL;
    free(p);
    return ok;
}

int qn_json_parse(const char *text, size_t len, const char *what, struct qn_json_limits limits, json_t **out,
                  struct qn_err *err) {
    json_error_t je;
    size_t need = 0;
    *out = NULL;
    int rc = check_limits(text, len, what, limits, &need, err);
    if (rc != QN_OK) return rc;
    if (!has_memory(need)) return qn_err_set(err, QN_ERR_NOMEM, "%s: out of memory", what);
    size_t flags = JSON_REJECT_DUPLICATES | JSON_ALLOW_NUL | (limits.reals ? JSON_DECODE_INT_AS_REAL : 0);
    json_t *root = json_loadb(text, len, flags, &je);
    if (!root) {
        if (json_error_code(&je) == json_error_out_of_memory)
            return qn_err_set(err, QN_ERR_NOMEM, "%s: out of memory", what);
        return qn_err_set(err, QN_ERR_FORMAT, "%s: %s (line %d, column %d)", what, je.text, je.line,
                          je.column);
    }
    if (!json_is_object(root)) {
        json_decref(root);
        return qn_err_set(err, QN_ERR_FORMAT, "%s: not a JSON object", what);
    }
    *out = root;
    return QN_OK;
}

int qn_json_file(const char *path, const char *what, bool optional, struct qn_json_limits limits,
                 json_t **out, struct qn_err *err) {
    struct qn_mapfile m;
    struct stat st;
    *out = NULL;
    if (stat(path, &st) != 0 && errno == ENOENT) {
        if (optional) return QN_OK;
        return qn_err_set(err, QN_ERR_IO, "%s is missing: no file '%s'", what, path);
    }
    int rc = qn_mapfile_open(&m, path, err);
    if (rc != QN_OK) return rc;
    rc = qn_json_parse((const char *)m.data, m.size, what, limits, out, err);
    rc = qn_mapfile_check(&m, what, rc, err);
    if (rc != QN_OK) {
        json_decref(*out);
        *out = NULL;
    }
    qn_mapfile_close(&m);
    return rc;
}

static const json_t *get(const json_t *o, const char *key) {
    const json_t *v = o ? json_object_get(o, key) : NULL;
    return v && !json_is_null(v) ? v : NULL;
}

bool qn_json_has(const json_t *o, const char *key) {
    return get(o, key) != NULL;
}

int qn_json_u32(const json_t *o, const char *key, uint32_t *out, struct qn_err *err) {
    const json_t *v = get(o, key);
    if (!v) return QN_OK;
    if (!json_is_integer(v)) return qn_err_param(err, QN_ERR_FORMAT, key, "'%s' must be an integer", key);
    json_int_t i = json_integer_value(v);
    if (i < 0 || i > UINT32_MAX)
        return qn_err_param(err, QN_ERR_FORMAT, key, "'%s' is %lld, out of range", key, (long long)i);
    *out = (uint32_t)i;
    return QN_OK;
}

int qn_json_f32(const json_t *o, const char *key, float *out, struct qn_err *err) {
    const json_t *v = get(o, key);
    if (!v) return QN_OK;
    double d = json_number_value(v);
    if (!json_is_number(v) || !isfinite((float)d))
        return qn_err_param(err, QN_ERR_FORMAT, key, "'%s' must be a finite number", key);
    *out = (float)d;
    return QN_OK;
}

int qn_json_bool(const json_t *o, const char *key, bool *out, struct qn_err *err) {
    const json_t *v = get(o, key);
    if (!v) return QN_OK;
    if (!json_is_boolean(v)) return qn_err_param(err, QN_ERR_FORMAT, key, "'%s' must be true or false", key);
    *out = json_is_true(v);
    return QN_OK;
}

int qn_json_str(const json_t *o, const char *key, const char **out, struct qn_err *err) {
    const json_t *v = get(o, key);
    if (!v) return QN_OK;
    if (!json_is_string(v) || strlen(json_string_value(v)) != json_string_length(v))
        return qn_err_param(err, QN_ERR_FORMAT, key, "'%s' must be a string", key);
    *out = json_string_value(v);
    return QN_OK;
}

struct qn_str qn_json_text(const json_t *v) {
    return (struct qn_str){json_string_value(v), json_string_length(v)};
}
