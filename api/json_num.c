/* Numbers as JSON text, by hand: a 4096-float embedding through printf costs more than the request around it.
 *
 * Floats: the decimals that read back as v are those inside the interval half-way to its neighbours. Scaled
 * by a power of ten so that v has 9 digits the interval is some hundreds of integers wide at most (wider only
 * for subnormals); its member with the most trailing zeros is the shortest text. The scaling is done in
 * double, whose error is far below the interval's width, and the interval is shrunk by more than that error,
 * so the text always reads back exactly, through strtof and through a double alike (a text exactly half-way
 * is not used). Thread: any. */
#include "api/buf.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

static const char pairs[] = "00010203040506070809101112131415161718192021222324252627282930313233343536373839"
                            "40414243444546474849505152535455565758596061626364656667686970717273747576777879"
                            "8081828384858687888990919293949596979899";

/* Writes v before `end` (up to 20 bytes), returns the number of digits. */
static unsigned digits_of(uint64_t v, char *end) {
    char *p = end;
    while (v >= 100) {
        p -= 2;
        memcpy(p, pairs + 2 * (v % 100), 2);
        v /= 100;
    }
    if (v >= 10) {
        p -= 2;
        memcpy(p, pairs + 2 * v, 2);
    } else {
        *--p = (char)('0' + v);
    }
    return (unsigned)(end - p);
}

void qn_buf_json_uint(struct qn_buf *b, uint64_t v) {
    char t[20];
    unsigned n = digits_of(v, t + 20);
    qn_buf_add(b, t + 20 - n, n);
}

void qn_buf_json_int(struct qn_buf *b, int64_t v) {
    char t[21];
    uint64_t u = v < 0 ? 0u - (uint64_t)v : (uint64_t)v;
    unsigned n = digits_of(u, t + 21);
    char *p = t + 21 - n;
    if (v < 0) *--p = '-';
    qn_buf_add(b, p, (size_t)(t + 21 - p));
}

void qn_buf_json_num(struct qn_buf *b, double v, unsigned digits) {
    static const uint64_t pow10[] = {1,      10,      100,      1000,      10000,
                                     100000, 1000000, 10000000, 100000000, 1000000000};
    char t[20], out[48];
    if (!isfinite(v)) {
        qn_buf_add(b, "null", 4);
        return;
    }
    if (digits > 9) digits = 9;
    double scaled = fabs(v) * (double)pow10[digits] + 0.5;
    if (scaled >=
        9007199254740992.0) { /* no exact integer to print from; the fraction is noise there anyway */
        snprintf(out, sizeof out, "%.17g", v);
        qn_buf_str(b, out);
        return;
    }
    uint64_t m = (uint64_t)scaled, whole = m / pow10[digits], frac = m % pow10[digits];
    size_t n = 0;
    if (v < 0 && m) out[n++] = '-';
    unsigned w = digits_of(whole, t + 20);
    memcpy(out + n, t + 20 - w, w);
    n += w;
    if (frac) {
        while (frac % 10 == 0) frac /= 10, digits--;
        w = digits_of(frac, t + 20);
        out[n++] = '.';
        for (unsigned i = w; i < digits; i++) out[n++] = '0';
        memcpy(out + n, t + 20 - w, w);
        n += w;
    }
    qn_buf_add(b, out, n);
}

/* 10^k for k in [0, 54]; each entry is the nearest double. */
static double pow10_of(int k) {
    static const double small[] = {1e0,  1e1,  1e2,  1e3,  1e4,  1e5,  1e6,  1e7,  1e8,  1e9,  1e10, 1e11,
                                   1e12, 1e13, 1e14, 1e15, 1e16, 1e17, 1e18, 1e19, 1e20, 1e21, 1e22};
    static const double large[] = {1e23, 1e24, 1e25, 1e26, 1e27, 1e28, 1e29, 1e30, 1e31, 1e32, 1e33,
                                   1e34, 1e35, 1e36, 1e37, 1e38, 1e39, 1e40, 1e41, 1e42, 1e43, 1e44,
                                   1e45, 1e46, 1e47, 1e48, 1e49, 1e50, 1e51, 1e52, 1e53, 1e54};
    return k <= 22 ? small[k] : large[k - 23];
}

struct decimal { /* value = digits * 10^exp */
    uint32_t digits;
    int exp;
};

/* 2^e for e in [-1022, 1023]. */
static double pow2_of(int e) {
    uint64_t bits = (uint64_t)(e + 1023) << 52;
    double d;
    memcpy(&d, &bits, sizeof d);
    return d;
}

/* The shortest decimal inside v's rounding interval, closest to v among those. v > 0, finite. */
static struct decimal shortest(float v) {
    uint32_t bits, mant;
    memcpy(&bits, &v, sizeof bits);
    int e2 = (int)(bits >> 23);
    mant = bits & 0x7fffffu;
    bool edge = e2 > 1 && mant == 0; /* a power of two: the neighbour below is half as far */
    int log2 = e2 ? e2 - 127 : 31 - __builtin_clz(mant) - 149;
    double x = (double)v, up = pow2_of((e2 ? e2 : 1) - 151), down = edge ? up / 2 : up; /* half-way marks */
    int k = 8 - ((log2 * 19728) >> 16); /* 19728 / 65536 = log10(2): v * 10^k has 9 digits, or 10 below 3e9 */
    double scale = pow10_of(k < 0 ? -k : k);
    double c = k < 0 ? x / scale : x * scale;
    double h = k < 0 ? up / scale : up * scale, l = k < 0 ? down / scale : down * scale;
    const double shrink = c * 1e-14; /* many double ulps, a ten-millionth of the interval */
    uint32_t lo = (uint32_t)(c - l + shrink) + 1,
             hi = (uint32_t)(c + h - shrink); /* lo: a whole one is passed over */
    uint32_t unit = 1, best = (uint32_t)(c + 0.5), hit = hi / 10 * 10;
    while (hit >= lo && hit) {
        unit *= 10;
        best = (uint32_t)(c / unit + 0.5) * unit;
        if (best < lo) best += unit;
        if (best > hi) best = hit;
        if (unit == 1000000000u) break;
        hit = hi / (unit * 10) * (unit * 10);
    }
    struct decimal d = {best, -k};
    while (d.digits % 10 == 0) d.digits /= 10, d.exp++;
    return d;
}

void qn_buf_json_float(struct qn_buf *b, float v) {
    char t[20], out[40];
    size_t n = 0;
    if (!isfinite(v)) {
        qn_buf_add(b, "null", 4);
        return;
    }
    if (v == 0.0f) {
        qn_buf_add(b, signbit(v) ? "-0.0" : "0", signbit(v) ? 4 : 1);
        return;
    }
    struct decimal d = shortest(fabsf(v));
    unsigned w = digits_of(d.digits, t + 20);
    const char *p = t + 20 - w;
    int point = (int)w + d.exp; /* digits before the decimal point */
    if (v < 0) out[n++] = '-';
    if (point > -5 && point <= 0) { /* 0.000ddd */
        out[n++] = '0', out[n++] = '.';
        for (int i = point; i < 0; i++) out[n++] = '0';
        memcpy(out + n, p, w), n += w;
    } else if (point > 0 && point <= 12) {
        size_t before = (size_t)point < w ? (size_t)point : w;
        memcpy(out + n, p, before), n += before;
        for (int i = (int)w; i < point; i++) out[n++] = '0';
        if (before < w) {
            out[n++] = '.';
            memcpy(out + n, p + before, w - before), n += w - before;
        }
    } else {
        out[n++] = p[0];
        if (w > 1) {
            out[n++] = '.';
            memcpy(out + n, p + 1, w - 1), n += w - 1;
        }
        out[n++] = 'e';
        int e = point - 1;
        if (e < 0) out[n++] = '-', e = -e;
        w = digits_of((uint64_t)e, t + 20);
        memcpy(out + n, t + 20 - w, w), n += w;
    }
    qn_buf_add(b, out, n);
}
