/* Checks on a request head: framing that could be read two ways, sizes, codings. Pure. Thread: any. */
#include "server/http_guard.h"

#include <ctype.h>
#include <string.h>
#include <strings.h>

static bool is_token(const char *s, size_t n) {
    static const char extra[] = "!#$%&'*+-.^_`|~";
    for (size_t i = 0; i < n; i++)
        if (!isalnum((unsigned char)s[i]) && (s[i] == '\0' || !strchr(extra, s[i]))) return false;
    return n > 0;
}

static bool is_field_text(const char *s, size_t n) {
    for (size_t i = 0; i < n; i++) {
        unsigned char c = (unsigned char)s[i];
        if ((c < ' ' && c != '\t') || c == 0x7f) return false;
    }
    return true;
}

static void add_length(struct qn_head *h, const char *v, size_t n) {
    uint64_t x = 0;
    h->n_length++;
    if (n == 0) h->bad_length = true;
    for (size_t i = 0; i < n; i++) {
        if (v[i] < '0' || v[i] > '9' || __builtin_mul_overflow(x, (uint64_t)10, &x) ||
            __builtin_add_overflow(x, (uint64_t)(v[i] - '0'), &x)) {
            h->bad_length = true;
            return;
        }
    }
    h->length = x;
}

static bool named(const char *name, size_t n, const char *want) {
    return strlen(want) == n && strncasecmp(name, want, n) == 0;
}

void qn_head_add(struct qn_head *h, const char *name, size_t nn, const char *value, size_t vn) {
    if (!value) {
        value = "";
        vn = 0;
    }
    h->n_fields++;
    if (nn + vn > QN_HEAD_MAX_LINE) h->too_large = true;
    if (!is_token(name, nn)) h->bad_name = true;
    if (!is_field_text(value, vn)) h->bad_value = true;
    switch (nn) {
    case 4:
        if (named(name, nn, "host")) h->n_host++;
        break;
    case 6:
        if (named(name, nn, "origin")) h->origin = value;
        if (named(name, nn, "expect")) h->expect = true;
        if (named(name, nn, "accept")) h->accept = value;
        break;
    case 9:
        if (named(name, nn, "x-api-key")) h->api_key = value;
        break;
    case 12:
        if (named(name, nn, "x-request-id")) h->request_id = value;
        break;
    case 13:
        if (named(name, nn, "authorization")) h->authorization = value;
        if (named(name, nn, "if-none-match")) h->if_none_match = value;
        break;
    case 14:
        if (named(name, nn, "content-length")) add_length(h, value, vn);
        break;
    case 16:
        if (named(name, nn, "content-encoding") && !named(value, vn, "identity") && vn) h->encoded = true;
        break;
    case 17:
        if (named(name, nn, "transfer-encoding")) {
            h->n_transfer++;
            if (named(value, vn, "chunked"))
                h->chunked = true;
            else
                h->bad_transfer = true;
        }
        break;
    case 29:
        if (named(name, nn, "access-control-request-method")) h->preflight_method = value;
        break;
    case 30:
        if (named(name, nn, "access-control-request-headers")) h->preflight_headers = value;
        break;
    default:
        break;
    }
}

int qn_head_check(const struct qn_head *h, const char *version, struct qn_api_err *err) {
    if (strcmp(version, "HTTP/1.1") != 0 && strcmp(version, "HTTP/1.0") != 0)
        return qn_api_fail(err, QN_API_FRAMING, "", "this server speaks HTTP/1.1 and HTTP/1.0");
    if (h->too_large || h->n_fields > QN_HEAD_MAX_FIELDS)
        return qn_api_fail(err, QN_API_HEADERS, "", "a request may have %d header fields of at most %d bytes",
                           QN_HEAD_MAX_FIELDS, QN_HEAD_MAX_LINE);
    if (h->bad_name)
        return qn_api_fail(err, QN_API_FRAMING, "", "a header name holds a character it can't have");
    if (h->bad_value) return qn_api_fail(err, QN_API_FRAMING, "", "a header value holds a control character");
    if (h->n_length > 1)
        return qn_api_fail(err, QN_API_FRAMING, "content-length", "more than one Content-Length");
    if (h->bad_length)
        return qn_api_fail(err, QN_API_FRAMING, "content-length", "Content-Length is not a number");
    if (h->n_length && h->n_transfer)
        return qn_api_fail(err, QN_API_FRAMING, "transfer-encoding",
                           "Content-Length and Transfer-Encoding exclude each other");
    if (h->n_transfer && strcmp(version, "HTTP/1.0") == 0)
        return qn_api_fail(err, QN_API_FRAMING, "transfer-encoding", "HTTP/1.0 has no transfer codings");
    if (h->bad_transfer)
        return qn_api_fail(err, QN_API_NOT_IMPLEMENTED, "transfer-encoding",
                           "the only transfer coding understood is chunked");
    if (h->n_transfer > 1)
        return qn_api_fail(err, QN_API_FRAMING, "transfer-encoding", "more than one Transfer-Encoding");
    if (h->n_host > 1 || (h->n_host == 0 && strcmp(version, "HTTP/1.1") == 0))
        return qn_api_fail(err, QN_API_FRAMING, "host", "exactly one Host is needed");
    if (h->encoded)
        return qn_api_fail(err, QN_API_MEDIA_TYPE, "content-encoding", "request bodies can't be compressed");
    return 0;
}

bool qn_request_id_sane(const char *s) {
    size_t n = 0;
    for (; s[n]; n++)
        if (n >= 128 || (!isalnum((unsigned char)s[n]) && !strchr("._:/+=@-", s[n]))) return false;
    return n > 0;
}

static int hex_digit(char c) {
    if (c >= '0' && c <= '9') return c - '0';
    if (c >= 'a' && c <= 'f') return c - 'a' + 10;
    if (c >= 'A' && c <= 'F') return c - 'A' + 10;
    return -1;
}

bool qn_path_decode(char *s) {
    char *out = s;
    while (*s) {
        if (*s != '%') {
            *out++ = *s++;
            continue;
        }
        int hi = hex_digit(s[1]), lo = hi < 0 ? -1 : hex_digit(s[2]);
        if (lo < 0 || (hi == 0 && lo == 0)) return false;
        *out++ = (char)(hi * 16 + lo);
        s += 3;
    }
    *out = '\0';
    return true;
}
