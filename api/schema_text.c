/* Literals, ranges of numbers and formats as expressions. Data flow: a value, two bounds or a name -> text
 * appended to a rule. Thread: any. */
#include "api/schema_text.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "api/constraint.h"
#include "api/schema.h"

#define LARGEST UINT64_C(999999999999999) /* QN_SCHEMA_DIGITS nines */

void qn_schema_quote(struct qn_buf *out, const char *s, size_t n) {
    for (size_t i = 0; i < n; i++) {
        unsigned char c = (unsigned char)s[i];
        bool plain = c >= 0x80 || (c >= '0' && c <= '9') || ((c | 0x20) >= 'a' && (c | 0x20) <= 'z');
        if (!plain) qn_buf_add(out, "\\", 1);
        qn_buf_add(out, s + i, 1);
    }
}

void qn_schema_literal(struct qn_buf *out, json_t *v) {
    struct qn_buf text = {0};
    qn_api_json_text(&text, v);
    qn_schema_quote(out, text.p ? text.p : "", text.n);
    if (text.failed) out->failed = true;
    qn_buf_free(&text);
}

/* ---- ranges ---- */

static bool all(const char *s, size_t n, char c) {
    for (size_t i = 0; i < n; i++)
        if (s[i] != c) return false;
    return true;
}

static void any_digits(struct qn_buf *out, size_t n) {
    if (n) qn_buf_printf(out, "\\d{%zu}", n);
}

/* Digit strings of one length between two others. */
static void between(struct qn_buf *out, const char *lo, const char *hi, size_t n) {
    static const char zeros[] = "0000000000000000", nines[] = "9999999999999999";
    while (n && *lo == *hi) {
        qn_buf_add(out, lo, 1);
        lo++, hi++, n--;
    }
    if (!n) return;
    if (all(lo, n, '0') && all(hi, n, '9')) {
        any_digits(out, n);
        return;
    }
    qn_buf_str(out, "(?:");
    qn_buf_add(out, lo, 1);
    between(out, lo + 1, nines, n - 1);
    if (hi[0] - lo[0] > 1) {
        qn_buf_printf(out, "|[%c-%c]", lo[0] + 1, hi[0] - 1);
        any_digits(out, n - 1);
    }
    qn_buf_str(out, "|");
    qn_buf_add(out, hi, 1);
    between(out, zeros, hi + 1, n - 1);
    qn_buf_str(out, ")");
}

/* Whole numbers in [lo, hi], lo <= hi, hi at most LARGEST, without leading zeros. */
static void whole(struct qn_buf *out, uint64_t lo, uint64_t hi) {
    char a[24], b[24];
    bool first = true;
    qn_buf_str(out, "(?:");
    for (uint64_t from = 0, to = 9; from <= hi; from = to + 1, to = to * 10 + 9) {
        if (to < lo) continue;
        if (!first) qn_buf_str(out, "|");
        first = false;
        if (hi == LARGEST && from >= lo && from) { /* all longer ones too */
            int more = snprintf(a, sizeof a, "%" PRIu64, from);
            qn_buf_printf(out, "[1-9]\\d{%d,%d}", more - 1, QN_SCHEMA_DIGITS - 1);
            break;
        }
        int n = snprintf(a, sizeof a, "%" PRIu64, from > lo ? from : lo);
        snprintf(b, sizeof b, "%" PRIu64, to < hi ? to : hi);
        between(out, a, b, (size_t)n);
    }
    qn_buf_str(out, ")");
}

/* |x| of a bound, cut to what is written at most. */
static uint64_t size_of(double x) {
    double a = fabs(x);
    return a > (double)LARGEST ? LARGEST : (uint64_t)a;
}

bool qn_schema_integer(struct qn_buf *out, const struct qn_schema_range *r) {
    if (r->lo > r->hi || r->lo > (double)LARGEST || r->hi < -(double)LARGEST) return false;
    bool below = r->lo < 0, above = r->hi >= 0;
    qn_buf_str(out, "(?:");
    if (below) {
        qn_buf_str(out, "-");
        whole(out, r->hi < 0 ? size_of(r->hi) : 1, size_of(r->lo));
    }
    if (below && above) qn_buf_str(out, "|");
    if (above) whole(out, r->lo > 0 ? size_of(r->lo) : 0, size_of(r->hi));
    qn_buf_str(out, ")");
    return true;
}

/* Numbers without a sign in [lo, hi]; false: none. */
static bool unsigned_number(struct qn_buf *out, const struct qn_schema_range *r) {
    static const char fraction[] = "(?:\\.\\d{1,15})?";
    uint64_t lo = size_of(r->lo), hi = size_of(r->hi);
    if (r->lo > (double)LARGEST || r->lo > r->hi) return false;
    qn_buf_str(out, "(?:");
    if (lo == hi) {
        qn_buf_printf(out, "%" PRIu64 "(?:\\.0)?)", lo);
        return !r->lo_open && !r->hi_open;
    }
    qn_buf_printf(out, "%" PRIu64 "%s", lo, r->lo_open ? "\\.\\d{0,14}[1-9]" : fraction);
    if (hi - lo > 1) {
        qn_buf_str(out, "|");
        whole(out, lo + 1, hi - 1);
        qn_buf_str(out, fraction);
    }
    if (!r->hi_open) qn_buf_printf(out, "|%" PRIu64 "(?:\\.0)?", hi);
    qn_buf_str(out, ")");
    return true;
}

bool qn_schema_number(struct qn_buf *out, const struct qn_schema_range *r) {
    bool below = r->lo<0, above = r->hi> 0 || (r->hi >= 0 && !r->hi_open), some = false;
    if (isinf(r->lo) && isinf(r->hi)) {
        qn_buf_str(out, QN_SCHEMA_NUM);
        return true;
    }
    qn_buf_str(out, "(?:");
    if (below) { /* what is between the bounds, seen from the other side; -0 is 0 */
        struct qn_schema_range m = {r->hi < 0 ? -r->hi : 0, -r->lo, r->hi <= 0 && r->hi_open, r->lo_open};
        qn_buf_str(out, "-");
        some = unsigned_number(out, &m);
        if (!some) return false;
    }
    if (above) {
        struct qn_schema_range p = {r->lo > 0 ? r->lo : 0, r->hi, r->lo >= 0 && r->lo_open, r->hi_open};
        if (below) qn_buf_str(out, "|");
        some = unsigned_number(out, &p);
    }
    qn_buf_str(out, ")");
    return some;
}

/* ---- formats ---- */

#define DATE                                                                                                 \
    "[12]\\d{3}-(?:(?:0[13578]|1[02])-(?:0[1-9]|[12]\\d|3[01])|(?:0[469]|11)-(?:0[1-9]|[12]\\d|30)|02-(?:0[" \
    "1-9]|1\\d|2[0-8]))"
#define TIME  "(?:[01]\\d|2[0-3]):[0-5]\\d:[0-5]\\d(?:\\.\\d{1,6})?(?:Z|[+-](?:[01]\\d|2[0-3]):[0-5]\\d)"
#define BYTE  "(?:25[0-5]|2[0-4]\\d|1\\d\\d|[1-9]?\\d)"
#define LABEL "[A-Za-z0-9](?:[A-Za-z0-9\\-]{0,30}[A-Za-z0-9])?"

const char *qn_schema_format(const char *name) {
    static const char *const formats[][2] = {
        {"date", DATE},
        {"time", TIME},
        {"date-time", DATE "T" TIME},
        {"duration", "P(?:\\d{1,4}W|\\d{1,4}D(?:T\\d{1,2}H(?:\\d{1,2}M)?)?|T\\d{1,4}[HMS])"},
        {"uuid", "[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}"},
        {"ipv4", BYTE "(?:\\." BYTE "){3}"},
        {"ipv6", "(?:[0-9a-f]{1,4}:){7}[0-9a-f]{1,4}"},
        {"hostname", LABEL "(?:\\." LABEL "){0,4}"},
        {"email", "[A-Za-z0-9_+\\-]{1,32}(?:\\.[A-Za-z0-9_+\\-]{1,32}){0,2}@" LABEL "(?:\\." LABEL "){1,3}"},
    };
    for (size_t i = 0; i < sizeof formats / sizeof *formats; i++)
        if (!strcmp(formats[i][0], name)) return formats[i][1];
    return NULL;
}
