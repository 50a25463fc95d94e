/* UTF-8 decoding by Unicode's table 3-7 (well-formed byte sequences); see utf8.h. */
#include "model/text/utf8.h"

#include <stdlib.h>
#include <string.h>

#include "kernels/mem.h"

/* What a lead byte promises: how many bytes follow, and the range that the first of them must be in. The
 * range is what excludes overlong forms, surrogates and values past U+10FFFF. need = -1: never a lead byte.
 */
struct lead {
    int need;
    uint8_t lo, hi;
};

static struct lead lead_of(uint8_t b) {
    if (b < 0x80) return (struct lead){0, 0, 0};
    if (b >= 0xC2 && b <= 0xDF) return (struct lead){1, 0x80, 0xBF};
    if (b == 0xE0) return (struct lead){2, 0xA0, 0xBF};
    if (b == 0xED) return (struct lead){2, 0x80, 0x9F};
    if (b >= 0xE1 && b <= 0xEF) return (struct lead){2, 0x80, 0xBF};
    if (b == 0xF0) return (struct lead){3, 0x90, 0xBF};
    if (b >= 0xF1 && b <= 0xF3) return (struct lead){3, 0x80, 0xBF};
    if (b == 0xF4) return (struct lead){3, 0x80, 0x8F};
    return (struct lead){-1, 0, 0};
}

/* How many of the bytes at s belong to one well-formed sequence's beginning (>= 1 unless the lead is bad). */
static size_t well_formed(const uint8_t *s, size_t n, struct lead l) {
    size_t i = 1;
    while (i < n && i <= (size_t)l.need) {
        const uint8_t lo = i == 1 ? l.lo : 0x80, hi = i == 1 ? l.hi : 0xBF;
        if (s[i] < lo || s[i] > hi) break;
        i++;
    }
    return i;
}

size_t qn_utf8_next(const uint8_t *s, size_t n, uint32_t *cp, bool *valid) {
    const struct lead l = lead_of(s[0]);
    if (valid) *valid = true;
    if (l.need == 0) {
        *cp = s[0];
        return 1;
    }
    const size_t have = l.need < 0 ? 1 : well_formed(s, n, l);
    if (l.need < 0 || have != (size_t)l.need + 1) {
        *cp = QN_UTF8_BAD;
        if (valid) *valid = false;
        return have;
    }
    uint32_t v = (uint32_t)s[0] & (0x3Fu >> l.need);
    for (size_t i = 1; i < have; i++) v = (v << 6) | (s[i] & 0x3Fu);
    *cp = v;
    return have;
}

size_t qn_utf8_prev(const uint8_t *s, size_t n, uint32_t *cp) {
    size_t back = 1;
    while (back < n && back < 4 && (s[n - back] & 0xC0) == 0x80) back++;
    if (qn_utf8_next(s + n - back, back, cp, NULL) == back) return back;
    *cp = QN_UTF8_BAD;
    return 1;
}

size_t qn_utf8_put(uint32_t cp, uint8_t out[4]) {
    if (cp < 0x80) {
        out[0] = (uint8_t)cp;
        return 1;
    }
    if (cp < 0x800) {
        out[0] = (uint8_t)(0xC0 | (cp >> 6));
        out[1] = (uint8_t)(0x80 | (cp & 0x3F));
        return 2;
    }
    if (cp < 0x10000) {
        out[0] = (uint8_t)(0xE0 | (cp >> 12));
        out[1] = (uint8_t)(0x80 | ((cp >> 6) & 0x3F));
        out[2] = (uint8_t)(0x80 | (cp & 0x3F));
        return 3;
    }
    out[0] = (uint8_t)(0xF0 | ((cp >> 18) & 0x07));
    out[1] = (uint8_t)(0x80 | ((cp >> 12) & 0x3F));
    out[2] = (uint8_t)(0x80 | ((cp >> 6) & 0x3F));
    out[3] = (uint8_t)(0x80 | (cp & 0x3F));
    return 4;
}

size_t qn_utf8_valid_len(const uint8_t *s, size_t n) {
    size_t i = 0;
    while (i < n) {
        if (s[i] < 0x80) {
            i++;
            continue;
        }
        uint32_t cp;
        bool valid;
        const size_t len = qn_utf8_next(s + i, n - i, &cp, &valid);
        if (!valid) return i;
        i += len;
    }
    return n;
}

uint8_t *qn_utf8_repair(const uint8_t *s, size_t n, size_t *out_n) {
    size_t need = 0;
    for (size_t i = 0; i < n;) {
        uint32_t cp;
        bool valid;
        const size_t len = qn_utf8_next(s + i, n - i, &cp, &valid);
        if (!qn_size_add(need, valid ? len : 3, &need)) return NULL;
        i += len;
    }
    uint8_t *out = malloc(need > 0 ? need : 1);
    if (!out) return NULL;
    size_t w = 0;
    for (size_t i = 0; i < n;) {
        uint32_t cp;
        const size_t len = qn_utf8_next(s + i, n - i, &cp, NULL);
        w += qn_utf8_put(cp, out + w);
        i += len;
    }
    *out_n = w;
    return out;
}

size_t qn_utf8_safe_len(const uint8_t *s, size_t n) {
    /* Only the last three bytes can belong to an unfinished character. */
    for (size_t back = 1; back <= 3 && back <= n; back++) {
        const struct lead l = lead_of(s[n - back]);
        if (l.need < 0 && (s[n - back] & 0xC0) == 0x80) continue;
        if (l.need < (int)back) return n;
        return well_formed(s + n - back, back, l) == back ? n - back : n;
    }
    return n;
}
