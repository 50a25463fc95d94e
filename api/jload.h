/* Request bytes -> jansson tree, safely: bounds over the raw bytes first, then one block of memory for the
 * whole tree. Internal to api/. Thread: any; a tree lives and dies on the thread that loaded it. */
#ifndef QN_API_JLOAD_H
#define QN_API_JLOAD_H

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "api/error.h"

struct qn_jbounds {
    uint32_t max_depth;    /* nested arrays and objects; 0 = 64, never above 64 */
    uint32_t max_elements; /* values of all kinds; 0 = 65536 */
    bool reply;            /* a server wrote it: many arrays and objects, and strings may hold U+0000 */
};

/* What the raw bytes hold, counted without understanding them: an upper bound of what the parser will make.
 */
struct qn_jcount {
    size_t containers, values, colons, strings;
};

/* Walks the bytes once. 0 and *count, or -1 with BAD_JSON (too deep) or TOO_LARGE_WORK (too many values or
 * containers), param = the top-level field where it happened. Malformed JSON is left to the parser to find.
 */
int qn_jprescan(const char *body, size_t len, const struct qn_jbounds *lim, struct qn_jcount *count,
                struct qn_api_err *err);

struct qn_jdoc {
    json_t *root; /* an object; borrowed from the block, gone after qn_jdoc_close */
    void *block;
    size_t block_size, block_used;
    bool exhausted; /* the estimate was too small: a fault of ours, tests look at it */
    struct qn_jdoc *outer;
};

/* Loads an object. 0, or -1 with *err. Nothing but qn_jdoc_close may free *doc, on the same thread, and docs
 * of a thread close in the reverse order of opening. Call close after a failure too. */
int qn_jdoc_open(struct qn_jdoc *doc, const char *body, size_t len, const struct qn_jbounds *lim,
                 struct qn_api_err *err);
void qn_jdoc_close(struct qn_jdoc *doc);

#endif
