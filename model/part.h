/* Small helpers on struct qn_part and the outcome of resolving one: used by every structure.
 * Pure functions. Thread: any. */
#ifndef QN_MODEL_PART_H
#define QN_MODEL_PART_H

#include "model/model.h"

#define QN_WHY_MAX 160
/* Bytes that qn_part_print needs for any part. */
#define QN_PART_TEXT 512

/* What became of one third of a structure: its resolved parameters and how it can be had. A structure's
 * resolve fills it also when the model can't run it (exactness QN_UNAVAILABLE, why = the reason). */
struct qn_choice {
    struct qn_part part; /* every parameter filled in, as the reply shows it */
    enum qn_origin origin;
    enum qn_exactness exactness;
    char why[QN_WHY_MAX]; /* what the conversion does, or why there is none; "" when native */
};

/* Empties the part and sets its type. */
void qn_part_init(struct qn_part *p, const char *type);
/* Appends a parameter; one too many for QN_PART_PARAMS is dropped. */
void qn_part_add(struct qn_part *p, const char *name, enum qn_param_kind kind, double value);
/* Appends a word as a parameter; cut at the room that struct qn_param has. */
void qn_part_add_text(struct qn_part *p, const char *name, const char *text);
/* Append the rule of a parameter; one too many is dropped. words: static, NULL at the end. */
void qn_rule_int(struct qn_rules *r, const char *name, double min, double max);
void qn_rule_bool(struct qn_rules *r, const char *name);
void qn_rule_words(struct qn_rules *r, const char *name, const char *const *words);
/* NULL when there is none of that name. */
const struct qn_param *qn_part_find(const struct qn_part *p, const char *name);
/* Text such as gqa(heads=9,kv_heads=3), the same for equal parts: key of caches and words for people.
 * Returns out, always terminated, cut at size. */
const char *qn_part_print(const struct qn_part *p, char *out, size_t size);
/* Every parameter that was asked for must stand in `resolved` with the same value: QN_OK, else QN_ERR_INVALID
 * that names it. slot is the request's field. */
int qn_part_check(const struct qn_part *ask, const struct qn_part *resolved, const char *slot,
                  struct qn_err *err);
/* Reads an optional integer parameter in [1, max] into *out (left alone when absent). */
int qn_part_uint(const struct qn_part *ask, const char *slot, const char *name, uint32_t max, uint32_t *out,
                 struct qn_err *err);

#endif
