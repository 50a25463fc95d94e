/* Error codes -> status, type and code of a reply, and the one place that formats error messages: what a
 * client sent is quoted in them, so they are made valid UTF-8 without control characters here, whatever was
 * cut where. Thread: any. */
#include "api/error.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

static const char invalid[] = "invalid_request_error";
static const char server[] = "server_error";

static const struct code_row {
    unsigned status;
    const char *type, *name;
} codes[QN_API_CODE_COUNT] = {
    [QN_API_OK] = {200, "", ""},
    [QN_API_INVALID] = {400, invalid, "invalid_value"},
    [QN_API_UNKNOWN_FIELD] = {400, invalid, "unknown_field"},
    [QN_API_BAD_JSON] = {400, invalid, "invalid_json"},
    [QN_API_UNSUPPORTED] = {400, invalid, "unsupported_structure"},
    [QN_API_UNSUPPORTED_PARAMETER] = {400, invalid, "unsupported_parameter"},
    [QN_API_CONTEXT] = {400, invalid, "context_length_exceeded"},
    [QN_API_TOO_LARGE_WORK] = {400, invalid, "request_too_large"},
    [QN_API_UNAUTHORIZED] = {401, "authentication_error", "invalid_api_key"},
    [QN_API_NOT_FOUND] = {404, invalid, "not_found"},
    [QN_API_MODEL_NOT_FOUND] = {404, invalid, "model_not_found"},
    [QN_API_METHOD] = {405, invalid, "method_not_allowed"},
    [QN_API_BODY_TOO_LARGE] = {413, invalid, "body_too_large"},
    [QN_API_MEDIA_TYPE] = {415, invalid, "unsupported_media_type"},
    [QN_API_HEADERS] = {431, invalid, "headers_too_large"},
    [QN_API_FRAMING] = {400, invalid, "bad_framing"},
    [QN_API_QUEUE_FULL] = {429, "rate_limit_error", "queue_full"},
    [QN_API_INTERNAL] = {500, server, "internal"},
    [QN_API_NOT_IMPLEMENTED] = {501, server, "not_implemented"},
    [QN_API_LOADING] = {503, server, "loading"},
    [QN_API_DRAINING] = {503, server, "draining"},
    [QN_API_TOO_MANY_CONNECTIONS] = {503, server, "too_many_connections"},
    [QN_API_OUT_OF_MEMORY] = {503, server, "out_of_memory"},
    [QN_API_MODEL_LOST] = {503, server, "model_lost"},
    [QN_API_TIMEOUT] = {408, server, "timeout"},
};

static const struct code_row *row(enum qn_api_code code) {
    return &codes[(unsigned)code < QN_API_CODE_COUNT ? code : QN_API_INTERNAL];
}

unsigned qn_api_status(enum qn_api_code code) {
    return row(code)->status;
}

const char *qn_api_type(enum qn_api_code code) {
    return row(code)->type;
}

const char *qn_api_code_name(enum qn_api_code code) {
    return row(code)->name;
}

/* Replaces what is not printable UTF-8 by '?', and drops a character that was cut at the end. */
static void scrub(char *text) {
    unsigned char *s = (unsigned char *)text;
    while (*s) {
        size_t need = *s < 0x80 ? 0 : *s >= 0xF0 ? 3 : *s >= 0xE0 ? 2 : 1, i = 1;
        bool bad = *s < 0x20 || *s == 0x7F || (*s >= 0x80 && *s < 0xC2) || *s > 0xF4;
        if (*s == 0xC2 && s[1] >= 0x80 && s[1] < 0xA0) bad = true; /* control characters of terminals */
        while (!bad && i <= need && s[i] >= 0x80 && s[i] <= 0xBF) i++;
        if (!bad && i <= need && s[i] == '\0') {
            *s = '\0';
            return;
        }
        if (!bad && i > need) {
            bool wrong = (*s == 0xE0 && s[1] < 0xA0) || (*s == 0xED && s[1] > 0x9F) ||
                         (*s == 0xF0 && s[1] < 0x90) || (*s == 0xF4 && s[1] > 0x8F);
            if (!wrong) {
                s += need + 1;
                continue;
            }
        }
        *s++ = '?';
    }
}

int qn_api_fail(struct qn_api_err *e, enum qn_api_code code, const char *param, const char *fmt, ...) {
    if (!e || e->code != QN_API_OK) return -1;
    e->code = code;
    snprintf(e->param, sizeof e->param, "%s", param ? param : "");
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(e->msg, sizeof e->msg, fmt, ap);
    va_end(ap);
    scrub(e->param);
    scrub(e->msg);
    return -1;
}

void qn_api_error_write(struct qn_buf *out, const struct qn_api_err *e) {
    qn_buf_str(out, "{\"error\":{\"message\":");
    qn_buf_json_str(out, e->msg, strlen(e->msg));
    qn_buf_str(out, ",\"type\":\"");
    qn_buf_str(out, qn_api_type(e->code));
    qn_buf_str(out, "\",\"param\":");
    if (e->param[0])
        qn_buf_json_str(out, e->param, strlen(e->param));
    else
        qn_buf_str(out, "null");
    qn_buf_str(out, ",\"code\":\"");
    qn_buf_str(out, qn_api_code_name(e->code));
    qn_buf_str(out, "\"}}");
}
