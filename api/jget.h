/* Strict typed readers of JSON values: right type, right range, or an error that names the field and says
 * what was found. Nothing is converted silently (no "1", no 1.0, no true for an integer). Internal to api/.
 * Thread: any. */
#ifndef QN_API_JGET_H
#define QN_API_JGET_H

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "api/error.h"

#define QN_JSHOW 120 /* bytes enough for qn_jshow's text */

/* "an integer", "a string", … for messages. */
const char *qn_jtype(const json_t *v);
/* A short description of a value as it was found: `12`, `the string "abc…"`, `an object`. Valid UTF-8. */
const char *qn_jshow(const json_t *v, char out[QN_JSHOW]);

/* Integer in [min, max]. 0, or -1 with *err. */
int qn_jget_uint(const json_t *v, const char *param, uint64_t min, uint64_t max, uint64_t *out,
                 struct qn_api_err *err);
struct qn_jrange {
    double min, max;
    bool open; /* min itself is not allowed */
};
/* Finite number in the range, integers welcome; narrowed to float before the check. */
int qn_jget_float(const json_t *v, const char *param, const struct qn_jrange *r, float *out,
                  struct qn_api_err *err);
int qn_jget_bool(const json_t *v, const char *param, bool *out, struct qn_api_err *err);
/* *out (free()) is a NUL-terminated copy, *n its bytes, which are in [min, max]. */
int qn_jget_text(const json_t *v, const char *param, size_t min, size_t max, char **out, size_t *n,
                 struct qn_api_err *err);

/* True when s is 1 … max bytes out of [a-z0-9_] (names) or [A-Za-z0-9._-] (ids). */
bool qn_jname_ok(const char *s, size_t n, size_t max);
bool qn_jid_ok(const char *s, size_t n, size_t max);
/* A model id into out[65]: charset and length checked. */
int qn_jget_model(const json_t *v, char out[65], struct qn_api_err *err);
/* Token ids: *out (free()) holds *n of them, each in [0, 2^31). A bad item is named param[i] when `deep`,
 * otherwise param, with its index in the message. The array is not empty unless allow_empty. */
struct qn_jids {
    const char *param;
    bool deep, allow_empty;
};
int qn_jget_ids(const json_t *v, const struct qn_jids *how, int32_t **out, size_t *n, struct qn_api_err *err);

/* Index of the known name nearest to s (edit distance, swaps count as one; the first wins), n > 0. */
size_t qn_jnearest(const char *s, const char *const *known, size_t n);
/* UNKNOWN_FIELD naming `s` and the nearest known name. Returns -1. */
int qn_junknown(const char *s, const char *const *known, size_t n, struct qn_api_err *err);

#endif
