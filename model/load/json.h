/* JSON of a checkpoint's side files, bounded before a tree is built, and typed getters over it.
 *
 * A linear scan bounds depth and node count first, so that a hostile file can't ask for unbounded memory, and
 * sees whether there is memory for the tree; then jansson parses strictly (duplicate keys refused, UTF-8
 * checked). Thread: one loader. */
#ifndef QN_MODEL_LOAD_JSON_H
#define QN_MODEL_LOAD_JSON_H

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "model/err.h"
#include "model/text/tokenizer.h"

struct qn_json_limits {
    unsigned depth; /* nested objects and arrays */
    size_t nodes;   /* values in all, about */
    bool reals;     /* integers become reals: for files that hold integers beyond 64 bits */
};

/* Parses len bytes whose top is an object. *out is a new reference (json_decref). `what` names the file. */
int qn_json_parse(const char *text, size_t len, const char *what, struct qn_json_limits limits, json_t **out,
                  struct qn_err *err);
/* The same for a file; a missing file is QN_OK with *out NULL when `optional`, else QN_ERR_IO. */
int qn_json_file(const char *path, const char *what, bool optional, struct qn_json_limits limits,
                 json_t **out, struct qn_err *err);

/* Getters: absent and null leave *out untouched and give QN_OK; another type or range is QN_ERR_FORMAT that
 * names the key. o may be NULL (all absent). */
int qn_json_u32(const json_t *o, const char *key, uint32_t *out, struct qn_err *err);
int qn_json_f32(const json_t *o, const char *key, float *out, struct qn_err *err);
int qn_json_bool(const json_t *o, const char *key, bool *out, struct qn_err *err);
/* Borrowed from o. */
int qn_json_str(const json_t *o, const char *key, const char **out, struct qn_err *err);
/* True when the key is there and not null. */
bool qn_json_has(const json_t *o, const char *key);
/* A string value with its length (may hold NUL bytes). v must be a string. */
struct qn_str qn_json_text(const json_t *v);

#endif
