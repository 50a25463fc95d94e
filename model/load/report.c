/* The list of a checkpoint's faults: see report.h. */
#include "model/load/report.h"

#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

void qn_report_add(struct qn_report *r, bool format, const char *fmt, ...) {
    va_list ap;
    char line[256];
    va_start(ap, fmt);
    int n = vsnprintf(line, sizeof line, fmt, ap);
    va_end(ap);
    if (format) r->format = true;
    size_t len = n < 0 ? 0 : (size_t)n < sizeof line ? (size_t)n : sizeof line - 1;
    if (r->hidden || len + 3 > sizeof r->text - r->len) {
        r->hidden++;
        return;
    }
    if (r->shown++) {
        memcpy(r->text + r->len, "; ", 2);
        r->len += 2;
    }
    memcpy(r->text + r->len, line, len + 1);
    r->len += len;
}

bool qn_report_full(const struct qn_report *r) {
    return r->hidden >= QN_REPORT_HIDDEN;
}

int qn_report_result(const struct qn_report *r, const char *family, struct qn_err *err) {
    char more[32] = "";
    if (r->shown + r->hidden == 0) return QN_OK;
    if (r->hidden) snprintf(more, sizeof more, "; and %u more", r->hidden);
    return qn_err_set(err, r->format ? QN_ERR_FORMAT : QN_ERR_UNSUPPORTED,
                      "%u tensor%s of this %s checkpoint can't be used: %s%s", r->shown + r->hidden,
                      r->shown + r->hidden == 1 ? "" : "s", family, r->text, more);
}

static const char *show_shape(const uint64_t *dims, uint32_t n, char out[80]) {
    size_t len = 0;
    out[len++] = '[';
    for (uint32_t i = 0; i < n && len < 60; i++) {
        int w = snprintf(out + len, 80 - len, "%s%" PRIu64, i ? ", " : "", dims[i]);
        len += w > 0 ? (size_t)w : 0;
    }
    snprintf(out + len, 80 - len, "]");
    return out;
}

bool qn_report_check(struct qn_report *r, const char *name, const struct qn_tensor *t, const uint64_t *want,
                     uint32_t n_want) {
    char is[80], ought[80];
    size_t bytes;
    if (t->n_dims != n_want || memcmp(t->dims, want, n_want * sizeof *want) != 0) {
        qn_report_add(r, true, "'%s' is %s, expected %s", name, show_shape(t->dims, t->n_dims, is),
                      show_shape(want, n_want, ought));
    } else if (t->type == QN_TYPE_COUNT) {
        qn_report_add(r, false, "'%s' has type %s, which is not supported", name, t->type_name);
    } else if (n_want != 2 && t->type != QN_F32 && t->type != QN_F16 && t->type != QN_BF16) {
        qn_report_add(r, false, "'%s' has type %s, but must be F32, F16 or BF16", name, t->type_name);
    } else if (n_want == 2 && !qn_matrix_bytes(t->type, (size_t)want[0], (size_t)want[1], &bytes)) {
        qn_report_add(r, false, "'%s' (%s, %s) is too large or its rows are not whole blocks", name,
                      t->type_name, show_shape(want, n_want, ought));
    } else {
        return true;
    }
    return false;
}
