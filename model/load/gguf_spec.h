/* GGUF metadata -> struct qn_spec, by the family's row. Thread: one loader. */
#ifndef QN_MODEL_LOAD_GGUF_SPEC_H
#define QN_MODEL_LOAD_GGUF_SPEC_H

#include "model/load/gguf.h"
#include "model/load/names.h"

/* Fills *spec (checked by qn_spec_check) and *family. QN_ERR_UNSUPPORTED for an architecture or feature that
 * quern doesn't run, QN_ERR_FORMAT for a missing or mistyped key. */
int qn_gguf_spec(const struct qn_gguf *g, struct qn_spec *spec, const struct qn_family **family,
                 struct qn_err *err);

#endif
