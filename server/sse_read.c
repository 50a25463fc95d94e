/* Server-sent events as a client reads them. Data flow: bytes -> lines (ended by \n, \r or \r\n) -> the data
 * lines of one event -> the caller. Comments and other fields are passed over. Thread: any. */
#include "server/sse_read.h"

#include <string.h>

static bool end_of_event(struct qn_sse *s) {
    bool go_on = true;
    if (s->has_data) go_on = s->event(s->ctx, s->data.p ? s->data.p : "", s->data.n);
    qn_buf_clear(&s->data);
    s->has_data = false;
    return go_on;
}

static bool end_of_line(struct qn_sse *s) {
    const char *p = s->line.p;
    size_t n = s->line.n;
    if (n == 0) return end_of_event(s);
    bool data = n >= 4 && !memcmp(p, "data", 4) && (n == 4 || p[4] == ':');
    if (data) {
        size_t skip = n < 5 ? 4 : n > 5 && p[5] == ' ' ? 6 : 5;
        if (s->has_data) qn_buf_add(&s->data, "\n", 1);
        qn_buf_add(&s->data, p + skip, n - skip);
        s->has_data = true;
    }
    qn_buf_clear(&s->line);
    return !s->data.failed;
}

bool qn_sse_feed(struct qn_sse *s, const char *bytes, size_t n) {
    size_t at = 0;
    while (at < n) {
        if (s->after_cr && bytes[at] == '\n') { /* the other half of \r\n */
            s->after_cr = false;
            at++;
            continue;
        }
        s->after_cr = false;
        size_t k = at;
        while (k < n && bytes[k] != '\n' && bytes[k] != '\r') k++;
        qn_buf_add(&s->line, bytes + at, k - at);
        if (s->line.failed) return false;
        at = k;
        if (k == n) break;
        s->after_cr = bytes[k] == '\r';
        at++;
        if (!end_of_line(s)) return false;
    }
    return true;
}

void qn_sse_free(struct qn_sse *s) {
    qn_buf_free(&s->line);
    qn_buf_free(&s->data);
}
