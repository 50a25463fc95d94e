/* Error messages of model/: formatting into the caller's struct; the first one wins. */
#include "model/err.h"

#include <stdarg.h>
#include <stdio.h>

static int set(struct qn_err *e, int code, const char *param, const char *fmt, va_list ap) {
    if (e && e->code == QN_OK) {
        e->code = code;
        snprintf(e->param, sizeof e->param, "%s", param);
        vsnprintf(e->msg, sizeof e->msg, fmt, ap);
    }
    return code;
}

int qn_err_set(struct qn_err *e, int code, const char *fmt, ...) {
    va_list ap;
    va_start(ap, fmt);
    set(e, code, "", fmt, ap);
    va_end(ap);
    return code;
}

int qn_err_param(struct qn_err *e, int code, const char *param, const char *fmt, ...) {
    va_list ap;
    va_start(ap, fmt);
    set(e, code, param, fmt, ap);
    va_end(ap);
    return code;
}
