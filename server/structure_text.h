/* Structures as people write them: attention+ffn+sharing, each with parameters in brackets, parts that are
 * left out (or empty) being the model's own:
 *
 *   gqa+swiglu+none    mqa    +moe(experts_per_token=1)    performer(features=64,kernel=relu)+moe+all
 *
 * Pure. Thread: any. */
#ifndef QN_SERVER_STRUCTURE_TEXT_H
#define QN_SERVER_STRUCTURE_TEXT_H

#include <stddef.h>

#include "api/compare.h"
#include "api/models.h"
#include "model/model.h"

/* One structure out of text[0, n). 0, or -1 with *err saying what is wrong where. */
int qn_structure_text(const char *text, size_t n, struct qn_api_compare_structure *out,
                      struct qn_api_err *err);
/* A list of them with commas between. *out: free(). At most QN_COMPARE_STRUCTURES. */
int qn_structure_list(const char *text, struct qn_api_compare_structure **out, uint32_t *n,
                      struct qn_api_err *err);
/* What there is to choose from: a model's rows as GET /v1/structures lists them, and its own structure. */
struct qn_structure_source {
    const struct qn_api_structure_entry *rows; /* [n] */
    size_t n;
    const struct qn_api_structure *own;
};
/* Of what a model can run and is causal: every native combination; when there is only one, every combination
 * of what can be had by exact conversions too; with convert, whatever can be had. With convert, or when the
 * combinations are too many, only the model's own structure and each that differs from it in one part. The
 * model's own comes first. *out: free(). */
int qn_structure_choose(const struct qn_structure_source *s, bool convert,
                        struct qn_api_compare_structure **out, uint32_t *n, struct qn_api_err *err);
/* The same of a model in this process. */
int qn_structure_all(struct qn_model *m, bool convert, struct qn_api_compare_structure **out, uint32_t *n,
                     struct qn_api_err *err);

/* ---- names ---- */
#define QN_STRUCTURE_NAME 256 /* room for most names; longer ones are cut */
enum qn_slot { QN_SLOT_ATTENTION, QN_SLOT_FFN, QN_SLOT_SHARING };
/* Names of result i's structure, "gqa+moe(experts_per_token=1)+none", and of a part of it: with those
 * parameters in which parts of that type differ in this comparison, so that different structures have
 * different names. Return out. */
const char *qn_structure_name(const struct qn_api_comparison *r, uint32_t i, char *out, size_t size);
const char *qn_structure_part_name(const struct qn_api_comparison *r, uint32_t i, enum qn_slot slot,
                                   char *out, size_t size);

#endif
