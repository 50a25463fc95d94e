/* A parser by recursive descent, one look at each character. Data flow: text -> nodes and ranges in two
 * arrays; children are linked from the last to the first, the order in which program.c needs them. */
#include "model/constrain/regex.h"

#include <stdlib.h>
#include <string.h>

#define LAST_CHAR 0x10FFFFu
#define SHOWN     40 /* bytes of an expression in a message */

struct parser {
    struct qn_re *re;
    const unsigned char *s;
    size_t at, end;
    const char *label; /* what the expression is called in messages */
    int n_label;
    uint32_t n_rules, depth;
    bool json, search;
    struct qn_err *err;
};

static int parse_alt(struct parser *p, uint32_t *out);

static int fail(struct parser *p, const char *what) {
    size_t n = p->end < SHOWN ? p->end : SHOWN;
    while (n < p->end && n && (p->s[n] & 0xC0) == 0x80) n--;
    return qn_err_set(p->err, QN_ERR_INVALID, "%.*s%s%s at byte %zu of \"%.*s%s\"", p->n_label, p->label,
                      p->n_label ? ": " : "", what, p->at, (int)n, (const char *)p->s,
                      n < p->end ? "..." : "");
}

static int no_memory(struct parser *p) {
    return qn_err_set(p->err, QN_ERR_NOMEM, "out of memory");
}

static int grow(struct parser *p, void **at, uint32_t *cap, size_t size) {
    uint32_t want = *cap ? *cap * 2 : 64;
    void *q = realloc(*at, want * size);
    if (!q) return no_memory(p);
    *at = q;
    *cap = want;
    return QN_OK;
}

static int too_large(struct parser *p) {
    return qn_err_set(p->err, QN_ERR_TOO_LONG, "the expression has more than %u parts", QN_RE_MAX_NODES);
}

static int add_node(struct parser *p, enum qn_re_kind kind, uint32_t *out) {
    struct qn_re *re = p->re;
    if (re->n_nodes >= QN_RE_MAX_NODES) return too_large(p);
    if (re->n_nodes == re->cap_nodes) {
        int rc = grow(p, (void **)&re->nodes, &re->cap_nodes, sizeof *re->nodes);
        if (rc) return rc;
    }
    re->nodes[re->n_nodes] =
        (struct qn_re_node){.kind = kind, .json = p->json, .a = QN_RE_NONE, .prev = QN_RE_NONE};
    *out = re->n_nodes++;
    return QN_OK;
}

static void add_child(struct parser *p, uint32_t parent, uint32_t child) {
    struct qn_re_node *n = p->re->nodes;
    n[child].prev = n[parent].a;
    n[parent].a = child;
}

/* ---- classes ---- */

static int add_range(struct parser *p, uint32_t lo, uint32_t hi) {
    struct qn_re *re = p->re;
    if (re->n_ranges >= QN_RE_MAX_RANGES) return too_large(p);
    if (re->n_ranges == re->cap_ranges) {
        int rc = grow(p, (void **)&re->ranges, &re->cap_ranges, sizeof *re->ranges);
        if (rc) return rc;
    }
    re->ranges[re->n_ranges++] = (struct qn_re_range){lo, hi};
    return QN_OK;
}

static int by_start(const void *a, const void *b) {
    const struct qn_re_range *x = a, *y = b;
    return x->lo < y->lo ? -1 : x->lo > y->lo;
}

/* Sorts the ranges from `from` on and joins those that touch. */
static void normalise(struct qn_re *re, uint32_t from) {
    uint32_t n = re->n_ranges - from, kept = 0;
    struct qn_re_range *r = re->ranges + from;
    if (n < 2) return;
    qsort(r, n, sizeof *r, by_start);
    for (uint32_t i = 1; i < n; i++) {
        if (r[i].lo <= r[kept].hi + 1)
            r[kept].hi = r[i].hi > r[kept].hi ? r[i].hi : r[kept].hi;
        else
            r[++kept] = r[i];
    }
    re->n_ranges = from + kept + 1;
}

/* Puts what the ranges from `from` on leave out in their place. */
static int negate(struct parser *p, uint32_t from) {
    struct qn_re *re = p->re;
    normalise(re, from);
    uint32_t n = re->n_ranges - from, next = 0;
    for (uint32_t i = 0; i < n; i++) {
        struct qn_re_range r = re->ranges[from + i];
        if (r.lo > next) {
            int rc = add_range(p, next, r.lo - 1);
            if (rc) return rc;
        }
        next = r.hi + 1;
    }
    int rc = next <= LAST_CHAR ? add_range(p, next, LAST_CHAR) : QN_OK;
    if (rc) return rc;
    uint32_t left = re->n_ranges - from - n;
    if (left) memmove(re->ranges + from, re->ranges + from + n, left * sizeof *re->ranges);
    re->n_ranges = from + left;
    return QN_OK;
}

/* \d \w \s and their opposites, added to the ranges. */
static int add_shorthand(struct parser *p, int c) {
    static const struct qn_re_range digit[] = {{'0', '9'}},
                                    word[] = {{'0', '9'}, {'A', 'Z'}, {'_', '_'}, {'a', 'z'}},
                                    space[] = {{'\t', '\r'}, {' ', ' '}};
    int lower = c | 0x20, rc = QN_OK;
    const struct qn_re_range *r = lower == 'd' ? digit : lower == 'w' ? word : space;
    uint32_t n = lower == 'd' ? 1 : lower == 'w' ? 4 : 2, from = p->re->n_ranges;
    for (uint32_t i = 0; i < n && !rc; i++) rc = add_range(p, r[i].lo, r[i].hi);
    if (!rc && c < 'a') rc = negate(p, from);
    return rc;
}

static bool is_shorthand(int c) {
    return c && strchr("dDwWsS", c);
}

/* ---- characters ---- */

static int peek(const struct parser *p) {
    return p->at < p->end ? p->s[p->at] : -1;
}

static bool take(struct parser *p, int c) {
    if (peek(p) != c) return false;
    p->at++;
    return true;
}

/* One character of well-formed UTF-8. */
static int read_char(struct parser *p, uint32_t *out) {
    unsigned c = p->s[p->at], need = c < 0x80 ? 0 : c < 0xE0 ? 1 : c < 0xF0 ? 2 : 3;
    static const uint32_t least[] = {0, 0x80, 0x800, 0x10000};
    uint32_t x = need == 0 ? c : c & (0x3Fu >> need);
    bool ok = c < 0x80 || (c >= 0xC2 && c <= 0xF4);
    if (ok && p->end - p->at <= need) ok = false;
    for (unsigned i = 1; ok && i <= need; i++) {
        ok = (p->s[p->at + i] & 0xC0) == 0x80;
        x = x << 6 | (p->s[p->at + i] & 0x3Fu);
    }
    if (!ok || x < least[need] || x > LAST_CHAR || (x >= 0xD800 && x <= 0xDFFF))
        return fail(p, "invalid UTF-8");
    p->at += need + 1;
    *out = x;
    return QN_OK;
}

static int hex(int c) {
    return c >= '0' && c <= '9'   ? c - '0'
           : c >= 'a' && c <= 'f' ? c - 'a' + 10
           : c >= 'A' && c <= 'F' ? c - 'A' + 10
                                  : -1;
}

static int read_hex(struct parser *p, unsigned digits, uint32_t *out) {
    uint32_t x = 0;
    for (unsigned i = 0; i < digits; i++, p->at++) {
        int h = hex(peek(p));
        if (h < 0) return fail(p, "a hexadecimal digit is missing");
        x = x << 4 | (uint32_t)h;
    }
    if (x > LAST_CHAR || (x >= 0xD800 && x <= 0xDFFF)) return fail(p, "this is no character");
    *out = x;
    return QN_OK;
}

/* A character after a backslash that is none of the classes. */
static int read_escape(struct parser *p, uint32_t *out) {
    static const char from[] = "ntrfva", to[] = "\n\t\r\f\v\a";
    int c = peek(p);
    if (c < 0) return fail(p, "a backslash ends the expression");
    const char *known = c ? strchr(from, c) : NULL;
    if (known) {
        p->at++;
        *out = (uint32_t)to[known - from];
        return QN_OK;
    }
    if (c == 'x' || c == 'u' || c == 'U') {
        p->at++;
        return read_hex(p, c == 'x' ? 2 : c == 'u' ? 4 : 8, out);
    }
    bool alnum = (c >= '0' && c <= '9') || ((c | 0x20) >= 'a' && (c | 0x20) <= 'z');
    if (c == 'b' || c == 'B' || c == 'A' || c == 'Z' || c == 'z')
        return fail(p, "places in the text (\\b and the like) are not supported");
    if (c >= '1' && c <= '9') return fail(p, "back references are not supported");
    if (alnum && c != '0') return fail(p, "unknown escape");
    if (c != '0') return read_char(p, out);
    p->at++;
    if (peek(p) >= '0' && peek(p) <= '7') return fail(p, "octal escapes are not supported");
    *out = 0;
    return QN_OK;
}

/* ---- [classes] ---- */

/* One end of a range, or a shorthand, which is added at once. */
static int class_item(struct parser *p, uint32_t *c, bool *single) {
    *single = true;
    if (peek(p) != '\\') return read_char(p, c);
    p->at++;
    int e = peek(p);
    if (e > 0 && is_shorthand(e)) {
        p->at++;
        *single = false;
        return add_shorthand(p, e);
    }
    if (e == 'b') { /* backspace, inside a class */
        p->at++;
        *c = '\b';
        return QN_OK;
    }
    return read_escape(p, c);
}

static int class_items(struct parser *p) {
    bool first = true;
    for (;; first = false) {
        uint32_t lo = 0, hi = 0;
        bool single, other = false;
        if (p->at >= p->end) return fail(p, "a class has no end");
        if (!first && take(p, ']')) return QN_OK;
        int rc = class_item(p, &lo, &single);
        if (rc) return rc;
        hi = lo;
        bool range = peek(p) == '-' && p->at + 1 < p->end && p->s[p->at + 1] != ']';
        if (range) {
            p->at++;
            rc = class_item(p, &hi, &other);
            if (rc) return rc;
            if (!single || !other || hi < lo) return fail(p, "bad character range");
        }
        if (single && (rc = add_range(p, lo, hi))) return rc;
    }
}

/* Surrogates are no characters, and no text of JSON holds U+0000. */
static int close_class(struct parser *p, uint32_t from, uint32_t *out) {
    struct qn_re *re = p->re;
    int rc = add_node(p, QN_RE_CLASS, out);
    if (rc) return rc;
    normalise(re, from);
    uint32_t kept = from, n = re->n_ranges;
    for (uint32_t i = from; i < n; i++) { /* cut in two around them: at most one range is */
        uint32_t lo = re->ranges[i].lo, hi = re->ranges[i].hi;
        if (lo >= 0xD800 || hi <= 0xDFFF) continue;
        re->ranges[i].hi = 0xD7FF;
        if ((rc = add_range(p, 0xE000, hi))) return rc;
    }
    n = re->n_ranges;
    for (uint32_t i = from; i < n; i++) {
        struct qn_re_range r = re->ranges[i];
        if (p->json && r.lo == 0) r.lo = 1;
        if (r.lo >= 0xD800 && r.lo <= 0xDFFF) r.lo = 0xE000;
        if (r.hi >= 0xD800 && r.hi <= 0xDFFF) r.hi = 0xD7FF;
        if (r.lo <= r.hi) re->ranges[kept++] = r;
    }
    re->n_ranges = kept;
    if (kept == from) return fail(p, "a class without any character");
    re->nodes[*out].a = from;
    re->nodes[*out].b = kept - from;
    return QN_OK;
}

static int parse_class(struct parser *p, uint32_t *out) {
    uint32_t from = p->re->n_ranges;
    bool not = take(p, '^');
    int rc = class_items(p);
    if (!rc && not ) rc = negate(p, from);
    return rc ? rc : close_class(p, from, out);
}

static int one_char(struct parser *p, uint32_t c, uint32_t *out) {
    uint32_t from = p->re->n_ranges;
    int rc = add_range(p, c, c);
    return rc ? rc : close_class(p, from, out);
}

/* All characters but a line feed (dot) or all that a text of JSON should have. */
static int any_char(struct parser *p, bool dot, uint32_t *out) {
    uint32_t from = p->re->n_ranges;
    int rc = QN_OK;
    if (dot) {
        rc = add_range(p, '\n', '\n');
    } else {
        static const struct qn_re_range not [] = {{0, 8}, {11, 12}, {14, 31}, {127, 127}};
        for (size_t i = 0; i < sizeof not / sizeof *not &&!rc; i++) rc = add_range(p, not [i].lo, not [i].hi);
    }
    if (!rc) rc = negate(p, from);
    return rc ? rc : close_class(p, from, out);
}

/* ---- groups ---- */

static int read_number(struct parser *p, uint32_t most, uint32_t *out) {
    uint32_t x = 0;
    if (peek(p) < '0' || peek(p) > '9') return fail(p, "a number is missing");
    for (; peek(p) >= '0' && peek(p) <= '9'; p->at++) {
        x = x * 10 + (uint32_t)(peek(p) - '0');
        if (x > most) return fail(p, "a number is too large");
    }
    *out = x;
    return QN_OK;
}

static int parse_call(struct parser *p, uint32_t *out) {
    uint32_t rule = 0;
    int rc = read_number(p, p->n_rules - 1, &rule);
    if (!rc && !take(p, ')')) rc = fail(p, "a group has no end");
    if (!rc) rc = add_node(p, QN_RE_CALL, out);
    if (!rc) p->re->nodes[*out].a = rule;
    return rc;
}

/* An expression from outside, by its length: what stands in it can't end the group. */
static int parse_pattern(struct parser *p, uint32_t *out) {
    uint32_t bytes = 0, label = 0;
    int rc = read_number(p, (uint32_t)(p->end - p->at), &bytes);
    if (!rc && !take(p, ',')) rc = fail(p, "a length is missing");
    if (!rc) rc = read_number(p, (uint32_t)(p->end - p->at), &label);
    if (!rc && (!take(p, ':') || bytes < label || p->end - p->at <= bytes))
        rc = fail(p, "the lengths do not fit");
    if (rc) return rc;
    struct parser in = {.re = p->re,
                        .s = p->s + p->at + label,
                        .end = bytes - label,
                        .label = (const char *)p->s + p->at,
                        .n_label = (int)label,
                        .depth = p->depth,
                        .json = true,
                        .search = true,
                        .err = p->err};
    p->at += bytes;
    rc = parse_alt(&in, out);
    if (!rc && in.at < in.end) rc = fail(&in, "a group was not opened");
    if (!rc && !take(p, ')')) rc = fail(p, "a group has no end");
    return rc;
}

static int skip_name(struct parser *p) {
    while (p->at < p->end && peek(p) != '>' && peek(p) != ')') p->at++;
    return take(p, '>') ? QN_OK : fail(p, "a group's name has no end");
}

static int parse_group(struct parser *p, uint32_t *out) {
    bool was = p->json, was_search = p->search;
    int rc = QN_OK;
    if (++p->depth > QN_RE_MAX_DEPTH) return fail(p, "groups are nested too deep");
    if (take(p, '?')) {
        int c = peek(p), next = p->at + 1 < p->end ? p->s[p->at + 1] : -1;
        p->at++;
        if (p->n_rules && (c == '&' || c == 'p')) {
            p->depth--;
            return c == '&' ? parse_call(p, out) : parse_pattern(p, out);
        }
        if (p->n_rules && c == 'j' && next == ':')
            p->at++, p->json = true;
        else if ((c == 'P' && next == '<') || (c == '<' && next != '=' && next != '!'))
            p->at += c == 'P', rc = skip_name(p);
        else if (c != ':')
            return fail(p, "this kind of group is not supported");
    }
    p->search = false;
    if (!rc) rc = parse_alt(p, out);
    if (!rc && !take(p, ')')) rc = fail(p, "a group has no end");
    p->json = was;
    p->search = was_search;
    p->depth--;
    return rc;
}

/* ---- expressions ---- */

static int parse_atom(struct parser *p, uint32_t *out) {
    uint32_t c = 0, from = p->re->n_ranges;
    int rc;
    switch (peek(p)) {
    case '(':
        p->at++;
        return parse_group(p, out);
    case '[':
        p->at++;
        return parse_class(p, out);
    case '.':
        p->at++;
        return any_char(p, true, out);
    case '*':
    case '+':
    case '?':
        return fail(p, "nothing to repeat");
    case '^':
    case '$':
        return fail(p, "^ and $ are supported at the ends of the expression only");
    case '\\':
        p->at++;
        if (p->at < p->end && is_shorthand(p->s[p->at])) {
            rc = add_shorthand(p, p->s[p->at++]);
            return rc ? rc : close_class(p, from, out);
        }
        rc = read_escape(p, &c);
        return rc ? rc : one_char(p, c, out);
    default:
        rc = read_char(p, &c);
        return rc ? rc : one_char(p, c, out);
    }
}

/* {m} {m,} {,n} {m,n}; anything else in braces stands for itself. */
static bool is_count(const struct parser *p) {
    size_t i = p->at + 1;
    bool digits = false, comma = false;
    for (; i < p->end && ((p->s[i] >= '0' && p->s[i] <= '9') || (p->s[i] == ',' && !comma)); i++) {
        comma = comma || p->s[i] == ',';
        digits = digits || p->s[i] != ',';
    }
    return i < p->end && p->s[i] == '}' && (digits || comma);
}

static int read_count(struct parser *p, uint32_t *min, uint32_t *max) {
    int rc = QN_OK;
    p->at++;
    *min = 0;
    *max = QN_RE_MANY;
    if (peek(p) != ',') rc = read_number(p, QN_RE_MAX_REPEAT, min);
    if (!rc && !take(p, ','))
        *max = *min;
    else if (!rc && peek(p) != '}')
        rc = read_number(p, QN_RE_MAX_REPEAT, max);
    if (rc) return rc;
    p->at++;
    return *max < *min ? fail(p, "the least count is above the most") : QN_OK;
}

static int repeat(struct parser *p, uint32_t child, uint32_t min, uint32_t max, uint32_t *out) {
    int rc = add_node(p, QN_RE_REPEAT, out);
    if (rc) return rc;
    p->re->nodes[*out].min = min;
    p->re->nodes[*out].max = max;
    add_child(p, *out, child);
    return QN_OK;
}

static int parse_repeat(struct parser *p, uint32_t *out) {
    uint32_t min = 0, max = QN_RE_MANY, child = 0;
    int rc = parse_atom(p, &child);
    int c = peek(p);
    *out = child;
    if (rc || !(c == '*' || c == '+' || c == '?' || (c == '{' && is_count(p)))) return rc;
    if (c == '{') {
        rc = read_count(p, &min, &max);
    } else {
        p->at++;
        min = c == '+';
        max = c == '?' ? 1 : QN_RE_MANY;
    }
    if (rc) return rc;
    take(p, '?'); /* lazy: another order of the same texts */
    c = peek(p);
    if (c == '*' || c == '+' || c == '?' || (c == '{' && is_count(p))) return fail(p, "multiple repeat");
    return repeat(p, child, min, max, out);
}

/* Any text before or after what is searched for. */
static int add_any(struct parser *p, uint32_t parent) {
    uint32_t any = 0, all = 0;
    int rc = any_char(p, false, &any);
    if (!rc) rc = repeat(p, any, 0, QN_RE_MANY, &all);
    if (!rc) add_child(p, parent, all);
    return rc;
}

/* top: a whole alternative of the expression, whose ends are the text's. */
static int parse_cat(struct parser *p, bool top, uint32_t *out) {
    int rc = add_node(p, QN_RE_CAT, out);
    bool begins = top && take(p, '^'), ends = false;
    if (!rc && p->search && !begins) rc = add_any(p, *out);
    while (!rc && p->at < p->end && peek(p) != '|' && peek(p) != ')') {
        uint32_t child = 0;
        bool last = p->at + 1 == p->end || p->s[p->at + 1] == '|';
        if (top && peek(p) == '$' && last) {
            p->at++;
            ends = true;
            break;
        }
        rc = parse_repeat(p, &child);
        if (!rc) add_child(p, *out, child);
    }
    if (!rc && p->search && !ends) rc = add_any(p, *out);
    return rc;
}

static int parse_alt(struct parser *p, uint32_t *out) {
    uint32_t alt = 0, child = 0;
    bool top = p->depth == 0 || p->search;
    int rc = parse_cat(p, top, &child);
    *out = child;
    if (rc || peek(p) != '|') return rc;
    rc = add_node(p, QN_RE_ALT, &alt);
    if (!rc) add_child(p, alt, child);
    while (!rc && take(p, '|')) {
        rc = parse_cat(p, top, &child);
        if (!rc) add_child(p, alt, child);
    }
    *out = alt;
    return rc;
}

int qn_re_parse(struct qn_re *re, const struct qn_re_source *src, uint32_t *root, struct qn_err *err) {
    struct parser p = {.re = re,
                       .s = (const unsigned char *)src->text,
                       .end = src->n,
                       .label = "",
                       .n_rules = src->n_rules,
                       .err = err};
    int rc = parse_alt(&p, root);
    if (!rc && p.at < p.end) rc = fail(&p, "a group was not opened");
    return rc;
}

void qn_re_free(struct qn_re *re) {
    free(re->nodes);
    free(re->ranges);
    *re = (struct qn_re){0};
}
