/* The scanners of pretok.h. Each function names the expression it stands for; alternatives are tried in the
 * expression's order, and what a regular-expression engine finds by backtracking is computed directly. */
#include "model/text/pretok.h"

#include <stdbool.h>

#include "model/text/unicode.h"
#include "model/text/utf8.h"

/* A character: where it ends and what it is; len = 0 at the end of the text. */
struct ch {
    uint32_t cp;
    size_t len;
    enum qn_uclass cls;
};

static struct ch peek(const uint8_t *s, size_t n, size_t at) {
    struct ch c = {0, 0, QN_UC_SPACE};
    if (at >= n) return c;
    c.len = qn_utf8_next(s + at, n - at, &c.cp, NULL);
    c.cls = qn_uclass_of(c.cp);
    return c;
}

/* End of the run of cls that starts at `at`. */
static size_t run_end(const uint8_t *s, size_t n, size_t at, enum qn_uclass cls) {
    for (;;) {
        const struct ch c = peek(s, n, at);
        if (c.len == 0 || c.cls != cls) return at;
        at += c.len;
    }
}

static bool is_newline(uint32_t cp) {
    return cp == '\r' || cp == '\n';
}

/* 's 't 're 've 'm 'll 'd at the start of s: its length or 0. With fold, any case; U+017F (long s) folds to
 * s, and is the only character outside ASCII that folds to one of these letters. */
static size_t contraction(const uint8_t *s, size_t n, bool fold) {
    if (n < 2 || s[0] != '\'') return 0;
    const uint8_t bit = fold ? 0x20 : 0;
    const uint8_t a = s[1] | bit;
    if (a == 's' || a == 't' || a == 'm' || a == 'd') return 2;
    if (n < 3) return 0;
    if (fold && s[1] == 0xC5 && s[2] == 0xBF) return 3;
    const uint8_t b = s[2] | bit;
    if ((a == 'r' && b == 'e') || (a == 'v' && b == 'e') || (a == 'l' && b == 'l')) return 3;
    return 0;
}

/* \s+(?!\S)|\s+ on a run of white space [0, end) whose last character starts at `last`: all of it when
 * nothing follows, else all but its last character, which is then a word of its own or leads the next one. */
static size_t blank_word(size_t end, size_t last, bool text_ends) {
    if (text_ends || last == 0) return end;
    return last;
}

/* A run of white space at the start of s. */
struct blanks {
    size_t end;     /* bytes */
    size_t last;    /* where its last character starts */
    size_t newline; /* end of its last \r or \n, 0 when it has none */
};

static struct blanks scan_blanks(const uint8_t *s, size_t n) {
    struct blanks b = {0, 0, 0};
    for (;;) {
        const struct ch c = peek(s, n, b.end);
        if (c.len == 0 || c.cls != QN_UC_SPACE) return b;
        b.last = b.end;
        b.end += c.len;
        if (is_newline(c.cp)) b.newline = b.end;
    }
}

/* 's|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+
 * split_digits: the text was first cut around every \p{N}, so each is a word and cuts count as the text's
 * end. */
static size_t gpt2_word(const uint8_t *s, size_t n, bool split_digits) {
    const size_t k = contraction(s, n, false);
    if (k > 0) return k;
    const struct ch c = peek(s, n, 0);
    if (c.cls != QN_UC_SPACE)
        return split_digits && c.cls == QN_UC_NUMBER ? c.len : run_end(s, n, c.len, c.cls);
    if (c.cp == ' ') {
        const struct ch next = peek(s, n, 1);
        if (next.cls != QN_UC_SPACE && !(split_digits && next.cls == QN_UC_NUMBER))
            return run_end(s, n, 1 + next.len, next.cls);
    }
    const struct blanks b = scan_blanks(s, n);
    const bool ends = b.end == n || (split_digits && peek(s, n, b.end).cls == QN_UC_NUMBER);
    return blank_word(b.end, b.last, ends);
}

/* At most max characters of \p{N}. */
static size_t digits(const uint8_t *s, size_t n, size_t max) {
    size_t at = 0;
    for (size_t i = 0; i < max; i++) {
        const struct ch c = peek(s, n, at);
        if (c.len == 0 || c.cls != QN_UC_NUMBER) break;
        at += c.len;
    }
    return at;
}

/* [^\s\p{L}\p{N}]+[\r\n]* from `at`, which is such a character. */
static size_t symbols(const uint8_t *s, size_t n, size_t at) {
    size_t end = run_end(s, n, at, QN_UC_OTHER);
    while (end < n && is_newline(s[end])) end++;
    return end;
}

/* (?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,max_digits}| ?[^\s\p{L}\p{N}]+[\r\n]*
 * |\s*[\r\n]+|\s+(?!\S)|\s+ */
static size_t llama3_word(const uint8_t *s, size_t n, size_t max_digits) {
    const size_t k = contraction(s, n, true);
    if (k > 0) return k;
    const struct ch c = peek(s, n, 0);
    if (c.cls == QN_UC_LETTER) return run_end(s, n, c.len, QN_UC_LETTER);
    if (c.cls == QN_UC_NUMBER) return digits(s, n, max_digits);
    const struct ch next = peek(s, n, c.len);
    if (!is_newline(c.cp) && next.cls == QN_UC_LETTER) return run_end(s, n, c.len, QN_UC_LETTER);
    if (c.cls == QN_UC_OTHER) return symbols(s, n, 0);
    if (c.cp == ' ' && next.cls == QN_UC_OTHER) return symbols(s, n, 1);
    const struct blanks b = scan_blanks(s, n);
    if (b.newline > 0) return b.newline;
    return blank_word(b.end, b.last, b.end == n);
}

size_t qn_pretok_word(enum qn_pretok kind, const uint8_t *s, size_t n) {
    switch (kind) {
    case QN_PRETOK_GPT2:
        return gpt2_word(s, n, false);
    case QN_PRETOK_SMOLLM:
        return gpt2_word(s, n, true);
    case QN_PRETOK_LLAMA3:
        return llama3_word(s, n, 3);
    case QN_PRETOK_QWEN2:
        return llama3_word(s, n, 1);
    case QN_PRETOK_NONE:
        break;
    }
    return n;
}
