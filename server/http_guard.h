/* What a request head must satisfy before its body is read: the checks that libmicrohttpd 0.9.75 leaves out.
 * Pure: fed header by header, says yes or which error. Thread: any. */
#ifndef QN_SERVER_HTTP_GUARD_H
#define QN_SERVER_HTTP_GUARD_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "api/error.h"

#define QN_HEAD_MAX_FIELDS 64
#define QN_HEAD_MAX_LINE   8192

struct qn_head { /* zero it, add every header field, then check; strings borrowed from the caller */
    unsigned n_fields, n_length, n_host, n_transfer;
    bool chunked, bad_transfer, bad_name, bad_value, bad_length, too_large, encoded, expect;
    uint64_t length; /* Content-Length, when n_length = 1 */
    const char *authorization, *api_key, *request_id, *origin, *preflight_method, *preflight_headers, *accept,
        *if_none_match;
};

void qn_head_add(struct qn_head *h, const char *name, size_t name_n, const char *value, size_t value_n);
/* version: "HTTP/1.1". 0, or -1 with *err (framing, too large, transfer coding, media type). Every error but
 * the media type means that the connection must be closed: where the body ends is not certain. */
int qn_head_check(const struct qn_head *h, const char *version, struct qn_api_err *err);
/* A client's x-request-id is taken when it is 1 to 128 characters of [A-Za-z0-9._:/+=@-]. */
bool qn_request_id_sane(const char *s);
/* Percent-decodes a path in place (raw bytes, '+' stays). False on a bad or NUL escape. */
bool qn_path_decode(char *s);

#endif
