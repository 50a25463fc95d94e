/* Bodies of the OpenAI endpoints -> struct qn_api_openai. Data flow: bounds and tree (jload.c), each key
 * through the endpoint's table, what is common with an inference through its own setter, then the rules of
 * the whole. Thread: any. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "api/constraint.h"
#include "api/infer_set.h"
#include "api/jget.h"
#include "api/jload.h"
#include "api/openai.h"

/* ---- messages ---- */
static void free_messages(struct qn_api_openai *r) {
    for (uint32_t i = 0; i < r->n_messages; i++) free(r->messages[i].text);
    free(r->messages);
    r->messages = NULL;
    r->n_messages = 0;
}

static int set_role(const json_t *v, const char *param, struct qn_api_message *m, struct qn_api_err *err) {
    static const char *const roles[] = {"system", "developer", "user", "assistant", "tool"};
    char show[QN_JSHOW];
    for (size_t i = 0; json_is_string(v) && i < sizeof roles / sizeof *roles; i++) {
        if (strcmp(json_string_value(v), roles[i]) != 0) continue;
        snprintf(m->role, sizeof m->role, "%s", roles[i]);
        return 0;
    }
    return qn_api_fail(
        err, QN_API_INVALID, param,
        "\"%s\" must be \"system\", \"developer\", \"user\", \"assistant\" or \"tool\", got %s", param,
        v ? qn_jshow(v, show) : "nothing");
}

/* The text of one part {"type":"text","text":…}; NULL and *err when it is none. */
static const json_t *part_text(const json_t *v, const char *param, struct qn_api_err *err) {
    char show[QN_JSHOW], at[64];
    const json_t *type = json_object_get(v, "type"), *text = json_object_get(v, "text");
    snprintf(at, sizeof at, "%.48s.type", param);
    if (!json_is_string(type) || strcmp(json_string_value(type), "text") != 0) {
        qn_api_fail(err, type ? QN_API_UNSUPPORTED_PARAMETER : QN_API_INVALID, at,
                    "\"%s\" must be \"text\", the only kind of content here, got %s", at,
                    type ? qn_jshow(type, show) : "nothing");
        return NULL;
    }
    if (json_is_string(text)) return text;
    snprintf(at, sizeof at, "%.48s.text", param);
    qn_api_fail(err, QN_API_INVALID, at, "\"%s\" must be a string, got %s", at,
                text ? qn_jshow(text, show) : "nothing");
    return NULL;
}

/* Parts stand below each other, a line end between them. */
static int join_parts(const json_t *v, const char *param, struct qn_api_message *m, struct qn_api_err *err) {
    char at[64];
    size_t n = 0, used = 0;
    for (size_t i = 0; i < json_array_size(v); i++) {
        snprintf(at, sizeof at, "%.40s[%zu]", param, i);
        const json_t *text = part_text(json_array_get(v, i), at, err);
        if (!text) return -1;
        n += json_string_length(text) + 1; /* bounded by the body's size */
    }
    m->text = malloc(n + 1);
    if (!m->text) return qn_api_fail(err, QN_API_OUT_OF_MEMORY, "", "out of memory");
    for (size_t i = 0; i < json_array_size(v); i++) {
        const json_t *text = json_object_get(json_array_get(v, i), "text");
        if (i) m->text[used++] = '\n';
        memcpy(m->text + used, json_string_value(text), json_string_length(text));
        used += json_string_length(text);
    }
    m->text[used] = '\0';
    m->n = used;
    return 0;
}

static int set_content(const json_t *v, const char *param, struct qn_api_message *m, struct qn_api_err *err) {
    char show[QN_JSHOW];
    if (json_is_array(v)) return join_parts(v, param, m, err);
    if (json_is_string(v)) return qn_jget_text(v, param, 0, SIZE_MAX - 1, &m->text, &m->n, err);
    return qn_api_fail(err, QN_API_INVALID, param,
                       "\"%s\" must be a text or an array of parts {\"type\":\"text\",\"text\":…}, got %s",
                       param, v ? qn_jshow(v, show) : "nothing");
}

/* What else clients send with a message: some of it says nothing here, some would need a template that has a
 * place for it. */
static int check_extra(const char *key, const json_t *v, const char *param, struct qn_api_err *err) {
    static const char *const ignored[] = {"name", "tool_call_id", "refusal", "annotations",
                                          "reasoning_content"};
    static const char *const refused[] = {"tool_calls", "function_call", "audio"};
    static const char *const known[] = {"role", "content", "name", "tool_calls", "tool_call_id"};
    char full[64];
    snprintf(full, sizeof full, "%.24s.%.36s", param, key);
    for (size_t i = 0; i < sizeof ignored / sizeof *ignored; i++)
        if (!strcmp(key, ignored[i])) return 0;
    for (size_t i = 0; i < sizeof refused / sizeof *refused; i++) {
        if (strcmp(key, refused[i]) != 0) continue;
        if (json_is_null(v) || (json_is_array(v) && !json_array_size(v))) return 0;
        return qn_api_fail(err, QN_API_UNSUPPORTED_PARAMETER, full,
                           "\"%s\": no chat template here has a place for it", full);
    }
    struct qn_api_err inner = {.code = QN_API_OK};
    qn_junknown(key, known, sizeof known / sizeof *known, &inner);
    return qn_api_fail(err, inner.code, full, "%s", inner.msg);
}

static int set_message(json_t *v, const char *param, struct qn_api_message *m, struct qn_api_err *err) {
    char at[64], show[QN_JSHOW];
    const char *key;
    json_t *item;
    if (!json_is_object(v))
        return qn_api_fail(err, QN_API_INVALID, param,
                           "\"%s\" must be an object with role and content, got %s", param,
                           qn_jshow(v, show));
    snprintf(at, sizeof at, "%.40s.role", param);
    if (set_role(json_object_get(v, "role"), at, m, err)) return -1;
    json_object_foreach(v, key, item) {
        if (!strcmp(key, "role") || !strcmp(key, "content")) continue;
        if (check_extra(key, item, param, err)) return -1;
    }
    snprintf(at, sizeof at, "%.40s.content", param);
    return set_content(json_object_get(v, "content"), at, m, err);
}

static int set_messages(const json_t *v, const struct qn_api_field *f, struct qn_api_openai *r,
                        struct qn_api_err *err) {
    char param[64], show[QN_JSHOW];
    size_t n = json_array_size(v);
    free_messages(r);
    if (!json_is_array(v))
        return qn_api_fail(err, QN_API_INVALID, f->name, "\"messages\" must be an array of messages, got %s",
                           qn_jshow(v, show));
    if (n < 1 || n > (size_t)f->max)
        return qn_api_fail(err, QN_API_INVALID, f->name, "\"messages\" must hold 1 to %d messages, got %zu",
                           (int)f->max, n);
    r->messages = calloc(n, sizeof *r->messages);
    if (!r->messages) return qn_api_fail(err, QN_API_OUT_OF_MEMORY, "", "out of memory");
    r->n_messages = (uint32_t)n;
    for (size_t i = 0; i < n; i++) {
        snprintf(param, sizeof param, "messages[%zu]", i);
        if (set_message(json_array_get(v, i), param, &r->messages[i], err)) return -1;
    }
    return 0;
}

/* ---- small ones ---- */
static int set_target(const json_t *v, struct qn_api_openai *r, struct qn_api_err *err) {
    char show[QN_JSHOW];
    size_t n = json_is_string(v) ? json_string_length(v) : 0;
    if (!n || n >= sizeof r->target)
        return qn_api_fail(err, QN_API_INVALID, "model",
                           "\"model\" must be the id of a model, 1 to %d bytes long, got %s",
                           QN_API_TARGET - 1, qn_jshow(v, show));
    memcpy(r->target, json_string_value(v), n + 1);
    return 0;
}

static int set_stream_options(json_t *v, struct qn_api_openai *r, struct qn_api_err *err) {
    static const char *const known[] = {"include_usage", "include_obfuscation"};
    char show[QN_JSHOW], param[64];
    const char *key;
    json_t *item;
    bool ignored;
    if (!json_is_object(v))
        return qn_api_fail(err, QN_API_INVALID, "stream_options",
                           "\"stream_options\" must be an object, got %s", qn_jshow(v, show));
    json_object_foreach(v, key, item) {
        snprintf(param, sizeof param, "stream_options.%.40s", key);
        bool usage = !strcmp(key, known[0]);
        if (!usage && strcmp(key, known[1]) != 0) {
            struct qn_api_err inner = {.code = QN_API_OK};
            qn_junknown(key, known, sizeof known / sizeof *known, &inner);
            return qn_api_fail(err, inner.code, param, "%s", inner.msg);
        }
        if (json_is_null(item)) continue;
        if (qn_jget_bool(item, param, usage ? &r->include_usage : &ignored, err)) return -1;
    }
    return 0;
}

static int set_encoding(const json_t *v, struct qn_api_openai *r, struct qn_api_err *err) {
    char show[QN_JSHOW];
    const char *s = json_is_string(v) ? json_string_value(v) : "";
    r->base64 = !strcmp(s, "base64");
    if (r->base64 || !strcmp(s, "float")) return 0;
    return qn_api_fail(err, QN_API_INVALID, "encoding_format",
                       "\"encoding_format\" must be \"float\" or \"base64\", got %s", qn_jshow(v, show));
}

/* {"name", "description", "schema", "strict"}: the schema is what counts; it is always followed strictly. */
static int set_schema(json_t *v, struct qn_api_openai *r, struct qn_api_err *err) {
    static const char at[] = "response_format.json_schema", place[] = "response_format.json_schema.schema";
    static const char *const known[] = {"name", "description", "schema", "strict"};
    char show[QN_JSHOW], param[64];
    const char *key;
    json_t *item, *schema = json_object_get(v, "schema");
    if (!json_is_object(v))
        return qn_api_fail(err, QN_API_INVALID, at, "\"%s\" must be an object with a \"schema\", got %s", at,
                           v ? qn_jshow(v, show) : "nothing");
    json_object_foreach(v, key, item) {
        struct qn_api_err inner = {.code = QN_API_OK};
        size_t i = 0;
        while (i < sizeof known / sizeof *known && strcmp(key, known[i]) != 0) i++;
        if (i < sizeof known / sizeof *known) continue;
        snprintf(param, sizeof param, "%s.%.30s", at, key);
        qn_junknown(key, known, i, &inner);
        return qn_api_fail(err, inner.code, param, "%s", inner.msg);
    }
    if (!json_is_object(schema))
        return qn_api_fail(err, QN_API_INVALID, place, "\"%s\" must be a JSON schema as an object, got %s",
                           place, schema ? qn_jshow(schema, show) : "nothing");
    if (qn_api_constraint_schema(&r->run.constraint, schema, place, err)) return -1;
    r->run.constraint.param = place; /* whoever compiles it names this field */
    return 0;
}

static int set_response_format(json_t *v, struct qn_api_openai *r, struct qn_api_err *err) {
    static const char *const known[] = {"type", "json_schema"};
    char show[QN_JSHOW], param[64];
    const char *key;
    json_t *item, *type = json_object_get(v, "type");
    const char *name = json_is_string(type) ? json_string_value(type) : "";
    if (!json_is_object(v))
        return qn_api_fail(err, QN_API_INVALID, "response_format",
                           "\"response_format\" must be an object with a \"type\", got %s",
                           qn_jshow(v, show));
    json_object_foreach(v, key, item) {
        struct qn_api_err inner = {.code = QN_API_OK};
        if (!strcmp(key, known[0]) || !strcmp(key, known[1])) continue;
        snprintf(param, sizeof param, "response_format.%.40s", key);
        qn_junknown(key, known, sizeof known / sizeof *known, &inner);
        return qn_api_fail(err, inner.code, param, "%s", inner.msg);
    }
    if (!strcmp(name, "text")) return 0;
    if (!strcmp(name, "json_object"))
        return qn_api_constraint_schema(&r->run.constraint, json_true(), "response_format", err);
    if (!strcmp(name, "json_schema")) return set_schema(json_object_get(v, "json_schema"), r, err);
    return qn_api_fail(
        err, QN_API_INVALID, "response_format.type",
        "\"response_format.type\" must be \"text\", \"json_object\" or \"json_schema\", got %s",
        type ? qn_jshow(type, show) : "nothing");
}

static int refuse(const json_t *v, const struct qn_api_field *f, struct qn_api_err *err) {
    bool empty = (json_is_array(v) && !json_array_size(v)) || (json_is_object(v) && !json_object_size(v)) ||
                 (json_is_string(v) && !json_string_length(v));
    if (empty) return 0;
    return qn_api_fail(err, QN_API_UNSUPPORTED_PARAMETER, f->name, "\"%s\" is not supported: %s", f->name,
                       f->doc);
}

int qn_api_openai_set(struct qn_api_openai *r, const struct qn_api_field *f, json_t *v,
                      struct qn_api_err *err) {
    switch (f->type) {
    case QN_FIELD_TARGET:
        return set_target(v, r, err);
    case QN_FIELD_MESSAGES:
        return set_messages(v, f, r, err);
    case QN_FIELD_STREAM_OPTIONS:
        return set_stream_options(v, r, err);
    case QN_FIELD_ENCODING:
        return set_encoding(v, r, err);
    case QN_FIELD_RESPONSE_FORMAT:
        return set_response_format(v, r, err);
    case QN_FIELD_REFUSED:
        return refuse(v, f, err);
    default: /* ignored */
        return 0;
    }
}

/* ---- the whole ---- */
static int settle_chat(struct qn_api_openai *r, const struct qn_api_limits *lim, struct qn_api_err *err) {
    struct qn_api_infer *q = &r->run;
    if (r->max_completion_given) {
        if (q->max_tokens_given && q->max_tokens != r->max_completion_tokens)
            return qn_api_fail(
                err, QN_API_INVALID, "max_completion_tokens",
                "\"max_completion_tokens\" and \"max_tokens\" mean the same: give one of them");
        if (lim && lim->max_tokens && r->max_completion_tokens > lim->max_tokens)
            return qn_api_fail(err, QN_API_INVALID, "max_completion_tokens",
                               "\"max_completion_tokens\" must be in [0, %u], got %u", lim->max_tokens,
                               r->max_completion_tokens);
        q->max_tokens = r->max_completion_tokens;
        q->max_tokens_given = true;
    }
    if (r->top_logprobs_given && r->top_logprobs && !r->chat_logprobs)
        return qn_api_fail(err, QN_API_INVALID, "top_logprobs",
                           "\"top_logprobs\" needs \"logprobs\": true beside it");
    q->logprobs_given = r->chat_logprobs;
    q->logprobs = r->chat_logprobs ? r->top_logprobs : 0;
    return 0;
}

static int settle_completion(struct qn_api_openai *r, struct qn_api_err *err) {
    struct qn_api_infer *q = &r->run;
    if (!r->echo || !q->logprobs_given) return 0;
    if (q->stream)
        return qn_api_fail(
            err, QN_API_INVALID, "echo",
            "\"echo\" with \"logprobs\" can't be streamed: leave one of them, or \"stream\", out");
    q->prompt_logprobs = true;
    return 0;
}

static int settle(struct qn_api_openai *r, const struct qn_api_limits *lim, struct qn_api_err *err) {
    bool chat = r->form == QN_FORM_CHAT;
    const char *input = qn_api_form_input(r->form);
    if (chat ? !r->n_messages : !r->run.n_seqs)
        return qn_api_fail(err, QN_API_INVALID, input, "\"%s\" is required", input);
    if (chat && settle_chat(r, lim, err)) return -1;
    if (r->form == QN_FORM_COMPLETION && settle_completion(r, err)) return -1;
    struct qn_api_infer whole = r->run;
    if (chat) whole.n_seqs = 1; /* the one that the messages will make */
    int rc = qn_api_infer_check(&whole, lim, err);
    if (rc) qn_api_form_rename(r->form, err);
    return rc;
}

int qn_api_openai_parse(enum qn_api_form form, const char *body, size_t len, const struct qn_api_limits *lim,
                        struct qn_api_openai *out, struct qn_api_err *err) {
    struct qn_jbounds bounds = {.max_depth = lim ? lim->max_depth : 0,
                                .max_elements = lim ? lim->max_elements : 0};
    struct qn_api_limits own = lim ? *lim : (struct qn_api_limits){0};
    struct qn_jdoc doc;
    if (form == QN_FORM_EMBEDDING) own.max_inputs = QN_API_MAX_INPUTS;
    qn_api_openai_init(form, out);
    int rc = qn_jdoc_open(&doc, body, len, &bounds, err);
    if (rc == 0) rc = qn_api_table_read(qn_api_form_table(form), doc.root, out, &own, err);
    if (rc == 0) rc = settle(out, &own, err);
    if (rc == 0) qn_api_infer_bound(&out->run, lim);
    qn_jdoc_close(&doc);
    return rc;
}

void qn_api_openai_free(struct qn_api_openai *r) {
    if (!r) return;
    free_messages(r);
    qn_api_infer_free(&r->run);
    memset(r, 0, sizeof *r);
}
