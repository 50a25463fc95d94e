/* Request bytes -> jansson tree.
 *
 * Data flow: qn_jprescan bounds depth and number of values over the raw bytes, because a tree takes up to 80
 * times the bytes it was made from; from the same counts follows an upper bound of what jansson will
 * allocate. That much is taken as one block, and jansson's allocations on this thread come out of it while
 * the document is open. Two reasons: it halves the time of a parse, and jansson's lexer ignores a failed
 * append to its token buffer and then reads past the token, so memory must be short either before it starts
 * or not at all. Thread: any; the open document is thread-local. Other users of jansson in the process see
 * plain malloc. */
#include "api/jload.h"

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define HARD_DEPTH     64
#define MAX_CONTAINERS 4096 /* no valid request needs more than one per sequence and a handful */

static _Thread_local struct qn_jdoc *open_doc;

static void *doc_malloc(size_t n) {
    struct qn_jdoc *d = open_doc;
    if (!d) return malloc(n);
    size_t want =
        (n + 7) & ~(size_t)7; /* jansson holds pointers, doubles and 64-bit integers, nothing wider */
    if (n > SIZE_MAX - 7 || want > d->block_size - d->block_used) {
        d->exhausted = true;
        return NULL;
    }
    void *p = (char *)d->block + d->block_used;
    d->block_used += want;
    return p;
}

static void doc_free(void *p) {
    for (const struct qn_jdoc *d = open_doc; d; d = d->outer) {
        uintptr_t at = (uintptr_t)p, base = (uintptr_t)d->block;
        if (at >= base && at - base < d->block_size) return; /* the block goes as a whole */
    }
    free(p);
}

/* Before main, so that no other thread is inside jansson when its allocator changes. */
__attribute__((constructor)) static void use_doc_memory(void) {
    json_set_alloc_funcs(doc_malloc, doc_free);
}

/* ---- over the raw bytes ---- */

struct span {
    size_t at, n;
};

/* Index just past the string that opens at i (at the end of the input if it never closes). */
static size_t skip_string(const char *s, size_t len, size_t i) {
    for (i++; i < len; i++) {
        if (s[i] == '\\')
            i++;
        else if (s[i] == '"')
            return i + 1;
    }
    return len;
}

/* The top-level key whose value holds byte `pos`, and the last string begun before pos. */
static void locate(const char *s, size_t len, size_t pos, struct span *key, struct span *last) {
    size_t depth = 0;
    *key = *last = (struct span){0, 0};
    for (size_t i = 0; i < len && i < pos;) {
        if (s[i] == '"') {
            size_t end = skip_string(s, len, i);
            *last = (struct span){i + 1, end - i >= 2 ? end - i - 2 : 0};
            i = end;
            continue;
        }
        if (s[i] == '{' || s[i] == '[') depth++;
        if ((s[i] == '}' || s[i] == ']') && depth) depth--;
        if (s[i] == ':' && depth == 1) *key = *last;
        if (s[i] == ',' && depth == 1) key->n = 0;
        i++;
    }
}

/* Name of the top-level field at byte `pos`, cut to fit; "" when there is none. */
static void field_at(const char *s, size_t len, size_t pos, char out[64]) {
    struct span key, last;
    locate(s, len, pos, &key, &last);
    snprintf(out, 64, "%.*s", key.n > 63 ? 63 : (int)key.n, s + key.at);
}

static int too_much(const char *body, size_t len, size_t pos, const char *what, uint64_t max,
                    struct qn_api_err *err) {
    char name[64];
    field_at(body, len, pos, name);
    return qn_api_fail(err, QN_API_TOO_LARGE_WORK, name, "the body holds more than %llu %s",
                       (unsigned long long)max, what);
}

int qn_jprescan(const char *body, size_t len, const struct qn_jbounds *lim, struct qn_jcount *count,
                struct qn_api_err *err) {
    size_t max_depth = lim && lim->max_depth && lim->max_depth < HARD_DEPTH ? lim->max_depth : HARD_DEPTH;
    size_t max_values = lim && lim->max_elements ? lim->max_elements : 65536;
    size_t depth = 0, commas = 0;
    *count = (struct qn_jcount){0, 0, 0, 0};
    for (size_t i = 0; i < len;) {
        char c = body[i];
        if (c == '"') {
            count->strings++;
            i = skip_string(body, len, i);
            continue;
        }
        if (c == '{' || c == '[') {
            count->containers++;
            if (++depth > max_depth) {
                char name[64];
                field_at(body, len, i, name);
                return qn_api_fail(err, QN_API_BAD_JSON, name, "the body is nested deeper than %zu levels",
                                   max_depth);
            }
            if (count->containers > MAX_CONTAINERS && !(lim && lim->reply))
                return too_much(body, len, i, "arrays and objects", MAX_CONTAINERS, err);
        } else if (c == '}' || c == ']') {
            if (depth) depth--;
        } else if (c == ',') {
            commas++;
        } else if (c == ':') {
            count->colons++;
        } else if (c == '\0') { /* jansson skips one that stands after a number */
            return qn_api_fail(err, QN_API_BAD_JSON, "", "the body holds a zero byte at offset %zu", i);
        }
        count->values = count->containers + commas + 1;
        if (count->values > max_values) return too_much(body, len, i, "values", max_values, err);
        i++;
    }
    return 0;
}

/* Most bytes jansson 2.14 takes for such a body, never given back: a value is at most a string header (32)
 * and its share of the tables an array grew through (32); a pair 72 and 64 of tables; an object 72 + 128;
 * each string twice its bytes (decoded, and copied when it is a key); the token buffer, doubling, four times
 * the longest token. */
static bool estimate(const struct qn_jcount *c, size_t len, size_t *out) {
    size_t n = 4096, part;
    if (__builtin_mul_overflow(len, (size_t)6, &part) || __builtin_add_overflow(n, part, &n)) return false;
    if (__builtin_mul_overflow(c->values, (size_t)72, &part) || __builtin_add_overflow(n, part, &n))
        return false;
    if (__builtin_mul_overflow(c->colons, (size_t)160, &part) || __builtin_add_overflow(n, part, &n))
        return false;
    if (__builtin_mul_overflow(c->containers, (size_t)224, &part) || __builtin_add_overflow(n, part, &n))
        return false;
    if (__builtin_mul_overflow(c->strings, (size_t)48, &part) || __builtin_add_overflow(n, part, &n))
        return false;
    *out = n;
    return true;
}

/* ---- the parser's verdict ---- */

/* Translates jansson's error; where a field is at fault, it is named. */
static int refuse(const char *body, size_t len, const json_error_t *je, struct qn_api_err *err) {
    char name[64];
    struct span key, last;
    size_t pos = je->position > 0 ? (size_t)je->position : 0;
    locate(body, len, pos, &key, &last);
    int key_n = key.n > 63 ? 63 : (int)key.n, last_n = last.n > 63 ? 63 : (int)last.n;
    snprintf(name, sizeof name, "%.*s", key_n, body + key.at);
    switch (json_error_code(je)) {
    case json_error_duplicate_key:
        snprintf(name, sizeof name, "%.*s%s%.*s", key_n, body + key.at, key.n ? "." : "", last_n,
                 body + last.at);
        return qn_api_fail(err, QN_API_INVALID, name, "\"%s\" is given twice", name);
    case json_error_numeric_overflow:
        return qn_api_fail(
            err, QN_API_INVALID, name,
            "a number in \"%s\" is out of range: integers end at 9223372036854775807, others at "
            "1.8e308",
            name);
    case json_error_null_character:
    case json_error_null_byte_in_key:
        return qn_api_fail(err, QN_API_INVALID, name,
                           "\\u0000 is not allowed in a string (line %d, column %d)", je->line, je->column);
    case json_error_invalid_utf8:
        return qn_api_fail(err, QN_API_BAD_JSON, name, "the body is not valid UTF-8 (line %d)", je->line);
    case json_error_out_of_memory:
        return qn_api_fail(err, QN_API_OUT_OF_MEMORY, "", "out of memory");
    default:
        return qn_api_fail(err, QN_API_BAD_JSON, "",
                           "the body is not valid JSON: %.120s (line %d, column %d)", je->text, je->line,
                           je->column);
    }
}

int qn_jdoc_open(struct qn_jdoc *doc, const char *body, size_t len, const struct qn_jbounds *lim,
                 struct qn_api_err *err) {
    struct qn_jcount count;
    json_error_t je;
    *doc = (struct qn_jdoc){0};
    if (qn_jprescan(body, len, lim, &count, err)) return -1;
    if (!estimate(&count, len, &doc->block_size) || !(doc->block = malloc(doc->block_size)))
        return qn_api_fail(err, QN_API_OUT_OF_MEMORY, "", "out of memory");
    doc->outer = open_doc;
    open_doc = doc;
    memset(&je, 0, sizeof je);
    size_t nul = lim && lim->reply ? JSON_ALLOW_NUL : 0;
    doc->root = json_loadb(body, len, JSON_REJECT_DUPLICATES | JSON_DECODE_ANY | nul, &je);
    if (!doc->root) {
        if (doc->exhausted) return qn_api_fail(err, QN_API_OUT_OF_MEMORY, "", "out of memory");
        return refuse(body, len, &je, err);
    }
    if (!json_is_object(doc->root))
        return qn_api_fail(err, QN_API_INVALID, "", "the body must be a JSON object");
    return 0;
}

void qn_jdoc_close(struct qn_jdoc *doc) {
    if (!doc->block) return;
    /* The tree is not walked: nothing in it owns anything outside the block. */
    open_doc = doc->outer;
    free(doc->block);
    *doc = (struct qn_jdoc){0};
}
