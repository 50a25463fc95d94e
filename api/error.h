/* API errors: status, type, param, code, message; written as {"error":{…}} with all four keys, always. */
#ifndef QN_API_ERROR_H
#define QN_API_ERROR_H

#include "api/buf.h"

enum qn_api_code { /* what happened; fixes status, type and code of the reply */
                   QN_API_OK = 0,
                   QN_API_INVALID,               /* 400 invalid_request_error / invalid_value */
                   QN_API_UNKNOWN_FIELD,         /* 400 … / unknown_field */
                   QN_API_BAD_JSON,              /* 400 … / invalid_json */
                   QN_API_UNSUPPORTED,           /* 400 … / unsupported_structure */
                   QN_API_UNSUPPORTED_PARAMETER, /* 400 … / unsupported_parameter: known, and not done here */
                   QN_API_CONTEXT,               /* 400 … / context_length_exceeded */
                   QN_API_TOO_LARGE_WORK,  /* 400 … / request_too_large: can never fit state or limits */
                   QN_API_UNAUTHORIZED,    /* 401 authentication_error / invalid_api_key */
                   QN_API_NOT_FOUND,       /* 404 … / not_found */
                   QN_API_MODEL_NOT_FOUND, /* 404 … / model_not_found */
                   QN_API_METHOD,          /* 405 … / method_not_allowed */
                   QN_API_BODY_TOO_LARGE,  /* 413 … / body_too_large */
                   QN_API_MEDIA_TYPE,      /* 415 … / unsupported_media_type */
                   QN_API_HEADERS,         /* 431 … / headers_too_large */
                   QN_API_FRAMING,         /* 400 … / bad_framing */
                   QN_API_QUEUE_FULL,      /* 429 rate_limit_error / queue_full */
                   QN_API_INTERNAL,        /* 500 server_error / internal */
                   QN_API_NOT_IMPLEMENTED, /* 501 … / not_implemented (transfer codings) */
                   QN_API_LOADING,         /* 503 … / loading */
                   QN_API_DRAINING,        /* 503 … / draining */
                   QN_API_TOO_MANY_CONNECTIONS, /* 503 … / too_many_connections */
                   QN_API_OUT_OF_MEMORY,        /* 503 … / out_of_memory */
                   QN_API_MODEL_LOST, /* 503 … / model_lost: its mapped file was cut or overwritten */
                   QN_API_TIMEOUT,    /* 408 … / timeout: a deadline passed before any output */
                   QN_API_CODE_COUNT
};

struct qn_api_err {
    enum qn_api_code code; /* QN_API_OK while nothing failed; the first error wins */
    char param[64];        /* "" = null */
    char msg[1200];
};

int qn_api_fail(struct qn_api_err *e, enum qn_api_code code, const char *param, const char *fmt, ...)
    __attribute__((format(printf, 4, 5)));           /* returns -1 */
unsigned qn_api_status(enum qn_api_code code);       /* HTTP status */
const char *qn_api_type(enum qn_api_code code);      /* "invalid_request_error" … */
const char *qn_api_code_name(enum qn_api_code code); /* "queue_full" … */
void qn_api_error_write(struct qn_buf *out, const struct qn_api_err *e);

#endif
