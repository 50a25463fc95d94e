/* The growing buffer and the JSON string writer. Data flow: replies are appended here and handed to the
 * server as one piece of bytes. Numbers are in json_num.c. Thread: any, one at a time. */
#include "api/buf.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

void qn_buf_free(struct qn_buf *b) {
    if (!b) return;
    free(b->p);
    b->p = NULL;
    b->n = b->cap = 0;
    b->failed = false;
}

void qn_buf_clear(struct qn_buf *b) {
    b->n = 0;
    b->failed = false;
    if (b->p) b->p[0] = '\0';
}

/* Room for `more` bytes and the closing NUL, or the sticky failure. */
static bool reserve(struct qn_buf *b, size_t more) {
    size_t need;
    if (b->failed) return false;
    if (__builtin_add_overflow(b->n, more, &need) || need == SIZE_MAX || (b->limit && need > b->limit)) {
        b->failed = true;
        return false;
    }
    if (need + 1 <= b->cap) return true;
    size_t cap = b->cap < 128 ? 256 : b->cap;
    while (cap < need + 1) {
        if (__builtin_mul_overflow(cap, (size_t)2, &cap)) cap = need + 1;
    }
    char *p = realloc(b->p, cap);
    if (!p) {
        b->failed = true;
        return false;
    }
    b->p = p;
    b->cap = cap;
    b->p[b->n] = '\0';
    return true;
}

void qn_buf_add(struct qn_buf *b, const void *p, size_t n) {
    if (!reserve(b, n)) return;
    if (n) memcpy(b->p + b->n, p, n);
    b->n += n;
    b->p[b->n] = '\0';
}

void qn_buf_str(struct qn_buf *b, const char *s) {
    qn_buf_add(b, s, strlen(s));
}

void qn_buf_printf(struct qn_buf *b, const char *fmt, ...) {
    va_list ap, again;
    char small[256];
    va_start(ap, fmt);
    va_copy(again, ap);
    int n = vsnprintf(small, sizeof small, fmt, ap);
    if (n < 0) {
        b->failed = true;
    } else if ((size_t)n < sizeof small) {
        qn_buf_add(b, small, (size_t)n);
    } else if (reserve(b, (size_t)n)) {
        vsnprintf(b->p + b->n, (size_t)n + 1, fmt, again);
        b->n += (size_t)n;
    }
    va_end(again);
    va_end(ap);
}

/* Bytes of the well-formed UTF-8 character at s (0 when there is none); *skip = bytes of the longest
 * beginning of one, at least 1, which is what one U+FFFD stands for. */
static size_t utf8_len(const unsigned char *s, size_t n, size_t *skip) {
    unsigned char lo = 0x80, hi = 0xBF;
    size_t need;
    *skip = 1;
    if (s[0] < 0x80) return 1;
    if (s[0] >= 0xC2 && s[0] <= 0xDF) {
        need = 1;
    } else if (s[0] >= 0xE0 && s[0] <= 0xEF) {
        need = 2;
        if (s[0] == 0xE0) lo = 0xA0; /* shorter forms exist */
        if (s[0] == 0xED) hi = 0x9F; /* surrogates */
    } else if (s[0] >= 0xF0 && s[0] <= 0xF4) {
        need = 3;
        if (s[0] == 0xF0) lo = 0x90;
        if (s[0] == 0xF4) hi = 0x8F; /* past U+10FFFF */
    } else {
        return 0;
    }
    for (size_t i = 1; i <= need; i++) {
        if (i >= n || s[i] < lo || s[i] > hi) return 0;
        *skip = i + 1;
        lo = 0x80;
        hi = 0xBF;
    }
    return need + 1;
}

bool qn_buf_utf8_ok(const char *s, size_t n) {
    size_t skip, len;
    for (size_t i = 0; i < n; i += len)
        if (!(len = utf8_len((const unsigned char *)s + i, n - i, &skip))) return false;
    return true;
}

/* Appends what stands for one byte that may not stand in a JSON string as it is. */
static void add_escape(struct qn_buf *b, unsigned char c) {
    static const char hex[] = "0123456789abcdef";
    char u[6] = {'\\', 'u', '0', '0', hex[c >> 4], hex[c & 15]};
    const char *s = NULL;
    switch (c) {
    case '"':
        s = "\\\"";
        break;
    case '\\':
        s = "\\\\";
        break;
    case '\n':
        s = "\\n";
        break;
    case '\r':
        s = "\\r";
        break;
    case '\t':
        s = "\\t";
        break;
    case '\b':
        s = "\\b";
        break;
    case '\f':
        s = "\\f";
        break;
    default:
        break;
    }
    if (s)
        qn_buf_add(b, s, 2);
    else
        qn_buf_add(b, u, sizeof u);
}

void qn_buf_json_str(struct qn_buf *b, const char *str, size_t n) {
    const unsigned char *s = (const unsigned char *)str;
    size_t start = 0, i = 0;
    if (!reserve(b, n < SIZE_MAX - 2 ? n + 2 : n)) return;
    qn_buf_add(b, "\"", 1);
    while (i < n) {
        unsigned char c = s[i];
        if (c >= 0x20 && c < 0x80 && c != '"' && c != '\\') {
            i++;
            continue;
        }
        size_t skip = 1, len = c < 0x80 ? 0 : utf8_len(s + i, n - i, &skip);
        if (len) {
            i += len;
            continue;
        }
        if (i > start) qn_buf_add(b, s + start, i - start);
        if (c < 0x80)
            add_escape(b, c);
        else
            qn_buf_add(b, "\xEF\xBF\xBD", 3);
        i += skip;
        start = i;
    }
    if (i > start) qn_buf_add(b, s + start, i - start);
    qn_buf_add(b, "\"", 1);
}
