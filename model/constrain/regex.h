/* Text of a regular expression -> a tree of nodes. Internal to model/constrain/.
 *
 * What is understood is what Python's re and ECMAScript agree on, over characters of Unicode: literals, . and
 * classes, groups, |, * + ? {m,n} (lazy ones too: the language is the same), \d \w \s of ASCII, escapes by
 * code point, and ^ $ at the ends. What no automaton can do (back references, look-around) is refused with
 * its place. Grammars made by api/schema.c use three more groups:
 *
 *   (?&7)            the rule of line 7
 *   (?j:…)           each character as it stands inside a JSON string: " as \", a line feed as \n
 *   (?p12,3:abcE)    an expression of 12 bytes from outside, called "abc" in messages, found anywhere in the
 *                    content of a JSON string
 *
 * Thread: any. */
#ifndef QN_MODEL_CONSTRAIN_REGEX_H
#define QN_MODEL_CONSTRAIN_REGEX_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "model/err.h"

#define QN_RE_MAX_NODES  65536u
#define QN_RE_MAX_RANGES 65536u
#define QN_RE_MAX_DEPTH  100u  /* nested groups */
#define QN_RE_MAX_REPEAT 5000u /* of a counted repetition */
#define QN_RE_MANY       UINT32_MAX
#define QN_RE_NONE       UINT32_MAX

enum qn_re_kind {
    QN_RE_CLASS,  /* one character of ranges[a .. a + b) */
    QN_RE_CAT,    /* children one after the other; none: the empty text */
    QN_RE_ALT,    /* one of the children */
    QN_RE_REPEAT, /* the child, min to max times */
    QN_RE_CALL    /* rule a */
};
struct qn_re_node {
    enum qn_re_kind kind;
    bool json;     /* CLASS: as inside a JSON string */
    uint32_t a, b; /* CAT, ALT, REPEAT: a = the last child, QN_RE_NONE without */
    uint32_t prev; /* the sibling before */
    uint32_t min, max;
};
struct qn_re_range {
    uint32_t lo, hi; /* code points; of one class they are apart */
};
struct qn_re { /* zeroed to begin with */
    struct qn_re_node *nodes;
    struct qn_re_range *ranges;
    uint32_t n_nodes, cap_nodes, n_ranges, cap_ranges;
};
struct qn_re_source {
    const char *text; /* UTF-8 */
    size_t n;
    uint32_t n_rules; /* > 0: the groups of grammars are understood */
};

/* *root: the node of the whole. QN_OK, QN_ERR_INVALID, QN_ERR_TOO_LONG (too many nodes), QN_ERR_NOMEM. */
int qn_re_parse(struct qn_re *re, const struct qn_re_source *src, uint32_t *root, struct qn_err *err);
void qn_re_free(struct qn_re *re);

#endif
