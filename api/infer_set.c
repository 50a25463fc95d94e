/* One field of a request from one JSON value, or from text of a command line. Data flow: table row +
 * value -> member of the request's struct, or an error with the field's (or item's) name. Thread: any. */
#include "api/infer_set.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "api/constraint.h"
#include "api/jget.h"

/* ---- structure parts ---- */

static int part_type(const json_t *v, const char *param, struct qn_api_part *out, struct qn_api_err *err) {
    char show[QN_JSHOW];
    if (!json_is_string(v) || !qn_jname_ok(json_string_value(v), json_string_length(v), sizeof out->type - 1))
        return qn_api_fail(err, QN_API_INVALID, param,
                           "\"%s\" must be a structure name of 1 to 23 characters a-z 0-9 _, got %s", param,
                           qn_jshow(v, show));
    memcpy(out->type, json_string_value(v), json_string_length(v) + 1);
    return 0;
}

/* A parameter that is a word, such as "favor+". */
static int part_word(const json_t *v, const char *key, const char *param, struct qn_api_part *out,
                     struct qn_api_err *err) {
    char show[QN_JSHOW];
    const char *s = json_string_value(v);
    size_t n = json_string_length(v);
    static const char allowed[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._+-";
    bool letter = (s[0] >= 'a' && s[0] <= 'z') || (s[0] >= 'A' && s[0] <= 'Z'); /* "2" is no 2 */
    if (!letter || n >= sizeof out->params[0].text || strspn(s, allowed) != n)
        return qn_api_fail(err, QN_API_INVALID, param,
                           "\"%s\" must be a number, a boolean or a word of A-Z a-z 0-9 . _ + -, got %s",
                           param, qn_jshow(v, show));
    memcpy(out->params[out->n_params].name, key, strlen(key) + 1);
    memcpy(out->params[out->n_params].text, s, n + 1);
    out->params[out->n_params++].kind = QN_API_TEXT;
    return 0;
}

/* One parameter of {"type": …, name: value}. */
static int part_param(const char *key, const json_t *v, const char *param, struct qn_api_part *out,
                      struct qn_api_err *err) {
    char show[QN_JSHOW];
    if (!qn_jname_ok(key, strlen(key), sizeof out->params[0].name - 1))
        return qn_api_fail(err, QN_API_INVALID, param,
                           "\"%.48s\" is not a parameter name: 1 to 23 characters a-z 0-9 _", key);
    if (out->n_params == QN_API_PARTS)
        return qn_api_fail(err, QN_API_INVALID, param, "a structure takes at most %d parameters",
                           QN_API_PARTS);
    if (json_is_string(v)) return part_word(v, key, param, out, err);
    if (!json_is_number(v) && !json_is_boolean(v))
        return qn_api_fail(err, QN_API_INVALID, param, "\"%s\" must be a number, a boolean or a word, got %s",
                           param, qn_jshow(v, show));
    double value = json_is_boolean(v) ? (double)json_is_true(v) : json_number_value(v);
    if (!isfinite(value) || (json_is_integer(v) && fabs(value) >= 9007199254740992.0))
        return qn_api_fail(err, QN_API_INVALID, param, "\"%s\" is out of range: %s", param,
                           qn_jshow(v, show));
    memcpy(out->params[out->n_params].name, key, strlen(key) + 1);
    out->params[out->n_params].kind = json_is_integer(v) ? QN_API_INT
                                      : json_is_real(v)  ? QN_API_NUMBER
                                                         : QN_API_BOOL;
    out->params[out->n_params].value = value;
    out->n_params++;
    return 0;
}

static int set_part(json_t *v, const char *name, struct qn_api_part *out, struct qn_api_err *err) {
    struct qn_api_part part = {0};
    const char *key;
    json_t *item;
    char show[QN_JSHOW], param[64];
    if (json_is_string(v)) {
        if (part_type(v, name, &part, err)) return -1;
    } else if (json_is_object(v)) {
        snprintf(param, sizeof param, "%s.type", name);
        item = json_object_get(v, "type");
        if (!item)
            return qn_api_fail(err, QN_API_INVALID, param,
                               "\"%s\" needs a \"type\", for example {\"type\":\"gqa\"}", name);
        if (part_type(item, param, &part, err)) return -1;
        json_object_foreach(v, key, item) {
            snprintf(param, sizeof param, "%s.%.40s", name, key);
            if (!strcmp(key, "type") || json_is_null(item)) continue;
            if (part_param(key, item, param, &part, err)) return -1;
        }
    } else {
        return qn_api_fail(err, QN_API_INVALID, name,
                           "\"%s\" must be a name or an object with a \"type\", got %s", name,
                           qn_jshow(v, show));
    }
    *out = part;
    return 0;
}

/* ---- sequences ---- */

static void free_seqs(struct qn_api_infer *r) {
    for (uint32_t i = 0; i < r->n_seqs; i++) {
        free(r->seqs[i].text);
        free(r->seqs[i].ids);
    }
    free(r->seqs);
    r->seqs = NULL;
    r->n_seqs = 0;
}

static int set_seq(const json_t *v, const char *param, bool deep, struct qn_api_seq *s,
                   struct qn_api_err *err) {
    char show[QN_JSHOW];
    if (json_is_string(v)) return qn_jget_text(v, param, 1, SIZE_MAX - 1, &s->text, &s->n, err);
    s->is_ids = true;
    if (json_is_array(v)) return qn_jget_ids(v, &(struct qn_jids){param, deep, false}, &s->ids, &s->n, err);
    return qn_api_fail(err, QN_API_INVALID, param, "\"%s\" must be text or an array of token ids, got %s",
                       param, qn_jshow(v, show));
}

static int set_batch(const json_t *v, const char *name, uint32_t most, struct qn_api_infer *r,
                     struct qn_api_err *err) {
    size_t n = json_array_size(v);
    char param[64];
    if (n > most)
        return qn_api_fail(err, QN_API_INVALID, name, "\"%s\" holds %zu sequences, at most %u are allowed",
                           name, n, (unsigned)most);
    r->seqs = calloc(n, sizeof *r->seqs);
    if (!r->seqs) return qn_api_fail(err, QN_API_OUT_OF_MEMORY, "", "out of memory");
    r->batch = true;
    r->n_seqs = (uint32_t)n;
    for (size_t i = 0; i < n; i++) {
        const json_t *item = json_array_get(v, i);
        snprintf(param, sizeof param, "%s[%zu]", name, i);
        if (json_is_integer(item))
            return qn_api_fail(
                err, QN_API_INVALID, param,
                "\"%s\" is a number among sequences: an array holds token ids or sequences, not both", param);
        if (set_seq(item, param, false, &r->seqs[i], err)) return -1;
    }
    return 0;
}

static int set_sequence(const json_t *v, const char *name, const struct qn_api_limits *lim,
                        struct qn_api_infer *r, struct qn_api_err *err) {
    uint32_t most = qn_api_infer_most(lim);
    free_seqs(r);
    r->batch = false;
    const json_t *first = json_is_array(v) ? json_array_get(v, 0) : NULL;
    if (first && !json_is_number(first)) return set_batch(v, name, most, r, err);
    r->seqs = calloc(1, sizeof *r->seqs);
    if (!r->seqs) return qn_api_fail(err, QN_API_OUT_OF_MEMORY, "", "out of memory");
    r->n_seqs = 1;
    return set_seq(v, name, true, &r->seqs[0], err);
}

/* ---- stop, task ---- */

static void free_stop(struct qn_api_infer *r) {
    for (uint32_t i = 0; i < r->n_stop; i++) free(r->stop[i]);
    r->n_stop = 0;
}

static int add_stop(const json_t *v, const char *param, const struct qn_api_field *f, struct qn_api_infer *r,
                    struct qn_api_err *err) {
    if (r->n_stop == QN_API_MAX_STOP)
        return qn_api_fail(err, QN_API_INVALID, "stop", "\"stop\" takes at most %d strings", QN_API_MAX_STOP);
    uint32_t i = r->n_stop;
    if (qn_jget_text(v, param, (size_t)f->min, (size_t)f->max, &r->stop[i], &r->stop_len[i], err)) return -1;
    r->n_stop++;
    return 0;
}

static int set_stop(const json_t *v, const struct qn_api_field *f, struct qn_api_infer *r,
                    struct qn_api_err *err) {
    char param[64], show[QN_JSHOW];
    free_stop(r);
    if (json_is_string(v)) return add_stop(v, "stop", f, r, err);
    if (!json_is_array(v))
        return qn_api_fail(err, QN_API_INVALID, "stop",
                           "\"stop\" must be a string or an array of strings, got %s", qn_jshow(v, show));
    for (size_t i = 0; i < json_array_size(v); i++) {
        snprintf(param, sizeof param, "stop[%zu]", i);
        if (add_stop(json_array_get(v, i), param, f, r, err)) return -1;
    }
    return 0;
}

static int set_task(const json_t *v, const struct qn_api_field *f, struct qn_api_infer *r,
                    struct qn_api_err *err) {
    char show[QN_JSHOW];
    for (unsigned t = 0; json_is_string(v) && t <= (unsigned)f->max; t++) {
        if (strcmp(json_string_value(v), qn_api_task_name((enum qn_api_task)t)) != 0) continue;
        r->task = (enum qn_api_task)t;
        return 0;
    }
    return qn_api_fail(err, QN_API_INVALID, "task", "\"task\" must be \"generate\"%s, got %s",
                       f->max < QN_TASK_EMBED ? " or \"score\"" : ", \"score\" or \"embed\"",
                       qn_jshow(v, show));
}

/* ---- speculative ---- */

static int speculative_type(const json_t *v, const char *param, bool *prompt, struct qn_api_err *err) {
    char show[QN_JSHOW];
    const char *s = json_is_string(v) ? json_string_value(v) : json_is_false(v) ? "off" : "";
    *prompt = strcmp(s, "prompt") == 0;
    if (*prompt || strcmp(s, "off") == 0) return 0;
    return qn_api_fail(err, QN_API_INVALID, param,
                       "\"%s\" must be \"off\" or \"prompt\" (or an object with that \"type\"), got %s",
                       param, qn_jshow(v, show));
}

static int speculative_number(const char *key, const json_t *v, struct qn_api_speculative *out,
                              struct qn_api_err *err) {
    uint64_t value;
    bool draft = strcmp(key, "max_draft") == 0;
    uint32_t max = draft ? QN_API_MAX_DRAFT : QN_API_MAX_NGRAM;
    if (qn_jget_uint(v, draft ? "speculative.max_draft" : "speculative.ngram", 1, max, &value, err))
        return -1;
    *(draft ? &out->max_draft : &out->ngram) = (uint32_t)value;
    return 0;
}

static int set_speculative(json_t *v, struct qn_api_speculative *at, struct qn_api_err *err) {
    static const char *const known[] = {"speculative.type", "speculative.max_draft", "speculative.ngram"};
    struct qn_api_infer defaults;
    const char *key;
    json_t *item;
    qn_api_infer_init(&defaults);
    struct qn_api_speculative out = defaults.speculative;
    if (!json_is_object(v)) {
        if (speculative_type(v, "speculative", &out.prompt, err)) return -1;
    } else if (!json_object_get(v, "type") || json_is_null(json_object_get(v, "type"))) {
        return qn_api_fail(err, QN_API_INVALID, "speculative.type",
                           "\"speculative\" needs a \"type\": \"off\" or \"prompt\"");
    }
    json_object_foreach(v, key, item) {
        if (json_is_null(item)) continue;
        if (strcmp(key, "type") == 0) {
            if (speculative_type(item, "speculative.type", &out.prompt, err)) return -1;
        } else if (strcmp(key, "max_draft") == 0 || strcmp(key, "ngram") == 0) {
            if (speculative_number(key, item, &out, err)) return -1;
        } else {
            char full[64];
            snprintf(full, sizeof full, "speculative.%.40s", key);
            return qn_junknown(full, known, sizeof known / sizeof *known, err);
        }
    }
    *at = out;
    return 0;
}

/* ---- by the table ---- */

static int set_uint(const json_t *v, const struct qn_api_field *f, const struct qn_api_limits *lim, char *at,
                    struct qn_api_err *err) {
    uint64_t value, max = (uint64_t)f->max;
    bool bounded = f->offset == offsetof(struct qn_api_infer, max_tokens) && lim && lim->max_tokens;
    if (bounded && lim->max_tokens < max) max = lim->max_tokens;
    if (qn_jget_uint(v, f->name, (uint64_t)f->min, max, &value, err)) return -1;
    uint32_t narrow = (uint32_t)value;
    if (f->type == QN_FIELD_U64)
        memcpy(at, &value, sizeof value);
    else
        memcpy(at, &narrow, sizeof narrow);
    return 0;
}

static int set_float(const json_t *v, const struct qn_api_field *f, char *at, struct qn_api_err *err) {
    float value;
    if (qn_jget_float(v, f->name, &(struct qn_jrange){f->min, f->max, f->min_open}, &value, err)) return -1;
    memcpy(at, &value, sizeof value);
    return 0;
}

static int set_bool(const json_t *v, const struct qn_api_field *f, char *at, struct qn_api_err *err) {
    bool value;
    if (qn_jget_bool(v, f->name, &value, err)) return -1;
    memcpy(at, &value, sizeof value);
    return 0;
}

/* Rows may share a member: the second of them that is given is an error. */
static int set_text(const json_t *v, const struct qn_api_field *f, struct qn_api_text *at,
                    struct qn_api_err *err) {
    if (at->p)
        return qn_api_fail(err, QN_API_INVALID, f->name,
                           "\"%s\": the text was given already, by another name", f->name);
    return qn_jget_text(v, f->name, (size_t)f->min, SIZE_MAX - 1, &at->p, &at->n, err);
}

static int set_ids(const json_t *v, const struct qn_api_field *f, struct qn_api_ids *at,
                   struct qn_api_err *err) {
    if (json_array_size(v) > (size_t)f->max)
        return qn_api_fail(err, QN_API_INVALID, f->name, "\"%s\" holds %zu ids, at most %.0f are allowed",
                           f->name, json_array_size(v), f->max);
    return qn_jget_ids(v, &(struct qn_jids){f->name, true, f->min < 1}, &at->p, &at->n, err);
}

int qn_api_field_set(void *to, const struct qn_api_field *f, json_t *v, const struct qn_api_limits *lim,
                     struct qn_api_err *err) {
    struct qn_api_infer *r = to; /* for the rows that need one */
    char *at = (char *)to + f->offset;
    int rc = -1;
    if (json_is_null(v)) return 0;
    switch (f->type) {
    case QN_FIELD_MODEL:
        rc = qn_jget_model(v, at, err);
        break;
    case QN_FIELD_PART:
        rc = set_part(v, f->name, (struct qn_api_part *)(void *)at, err);
        break;
    case QN_FIELD_BOOL:
        rc = set_bool(v, f, at, err);
        break;
    case QN_FIELD_U32:
    case QN_FIELD_U64:
        rc = set_uint(v, f, lim, at, err);
        break;
    case QN_FIELD_FLOAT:
        rc = set_float(v, f, at, err);
        break;
    case QN_FIELD_TASK:
        rc = set_task(v, f, r, err);
        break;
    case QN_FIELD_SEQUENCE:
    case QN_FIELD_ONE: /* the rules of the whole refuse several */
        rc = set_sequence(v, f->name, lim, r, err);
        break;
    case QN_FIELD_STOP:
        rc = set_stop(v, f, r, err);
        break;
    case QN_FIELD_SPECULATIVE:
        rc = set_speculative(v, &r->speculative, err);
        break;
    case QN_FIELD_REGEX:
        rc = qn_api_constraint_regex(&r->constraint, v, f->name, err);
        break;
    case QN_FIELD_SCHEMA:
        rc = qn_api_constraint_schema(&r->constraint, v, f->name, err);
        break;
    case QN_FIELD_STRUCTURES:
        rc = qn_api_compare_set_structures(to, v, err);
        break;
    case QN_FIELD_TEXT:
        rc = set_text(v, f, (struct qn_api_text *)(void *)at, err);
        break;
    case QN_FIELD_IDS:
        rc = set_ids(v, f, (struct qn_api_ids *)(void *)at, err);
        break;
    case QN_FIELD_TARGET:
    case QN_FIELD_MESSAGES:
    case QN_FIELD_STREAM_OPTIONS:
    case QN_FIELD_ENCODING:
    case QN_FIELD_RESPONSE_FORMAT:
    case QN_FIELD_IGNORED:
    case QN_FIELD_REFUSED:
        rc = qn_api_openai_set(to, f, v, err);
        break;
    case QN_FIELD_SHARED: /* never handed out */
        break;
    }
    if (rc == 0 && f->given) *((bool *)(void *)((char *)to + f->given)) = true;
    return rc;
}

/* ---- from a command line ---- */

static json_t *bool_word(const char *s) {
    static const char *const words[][2] = {{"false", "true"}, {"0", "1"}, {"off", "on"}, {"no", "yes"}};
    for (size_t i = 0; i < sizeof words / sizeof words[0]; i++) {
        if (!strcmp(s, words[i][0])) return json_false();
        if (!strcmp(s, words[i][1])) return json_true();
    }
    return json_string(s); /* refused with the field's own message */
}

/* The JSON value that the text stands for; NULL when it is not valid UTF-8 or memory is short. */
static json_t *value_of(const struct qn_api_field *f, const char *text) {
    bool numeric = f->type == QN_FIELD_U32 || f->type == QN_FIELD_U64 || f->type == QN_FIELD_FLOAT;
    if (f->type == QN_FIELD_BOOL) return bool_word(text);
    bool part = f->type == QN_FIELD_PART || f->type == QN_FIELD_SPECULATIVE || f->type == QN_FIELD_SCHEMA;
    if (f->type == QN_FIELD_SCHEMA && !strcmp(text, "true")) return json_true();
    if (numeric || (part && text[0] == '{')) {
        json_error_t je;
        json_t *v = json_loads(text, JSON_DECODE_ANY | JSON_REJECT_DUPLICATES, &je);
        if (v && (json_is_number(v) || json_is_object(v))) return v;
        json_decref(v);
    }
    return json_string(text);
}

int qn_api_infer_set(struct qn_api_infer *r, const char *name, const char *value, struct qn_api_err *err) {
    const struct qn_api_field *f = qn_api_infer_field(name);
    int rc;
    if (!f) return qn_api_fail(err, QN_API_UNKNOWN_FIELD, name, "unknown field \"%.48s\"", name);
    json_t *v = value_of(f, value);
    if (!v)
        return qn_api_fail(err, QN_API_INVALID, name, "\"%s\" is not valid UTF-8, or memory is short", name);
    if (f->type == QN_FIELD_STOP)
        rc = add_stop(v, "stop", f, r, err);
    else
        rc = qn_api_field_set(r, f, v, NULL, err);
    json_decref(v);
    return rc;
}

void qn_api_infer_free(struct qn_api_infer *r) {
    if (!r) return;
    free_seqs(r);
    free_stop(r);
    qn_api_constraint_free(&r->constraint);
    memset(r, 0, sizeof *r);
}
