/* Which tensors a checkpoint must hold, in which shape, and the report of all that is wrong with them.
 * Private to weights.c and want.c. Thread: one loader. */
#ifndef QN_MODEL_LOAD_WANT_H
#define QN_MODEL_LOAD_WANT_H

#include "model/load/weights.h"

/* What was found: one entry per (layer, slot, weight or bias); NULL where the model has none. */
struct qn_found {
    struct qn_tensor **t; /* [(layers + 1) * QN_SLOT_COUNT * 2]; row 0 is the model's own slots */
    uint32_t layers;
    /* [layers * experts * 3]: gate, up and down where each expert has its own; NULL else */
    struct qn_tensor **expert;
    uint32_t experts; /* per layer */
    enum qn_expert_layout layout;
};

/* layer: 0-based for layer slots; ignored for the model's own. */
struct qn_tensor *qn_found_get(const struct qn_found *f, enum qn_slot slot, uint32_t layer, bool bias);

/* One expert's gate (0), up (1) or down (2), as a tensor of its own wherever it lies. All was checked. */
struct qn_tensor qn_found_expert(const struct qn_found *f, uint32_t layer, uint32_t expert, unsigned which);

/* True when safetensors of this family store the slot's matrix as [in, out]. */
bool qn_want_transposed(const struct qn_weights_source *src, enum qn_slot slot);

/* Looks up and checks every tensor; QN_ERR_FORMAT (or QN_ERR_UNSUPPORTED when only types are at fault) with
 * one message that lists all problems, bounded. *found is filled also on failure: qn_found_free. */
int qn_want_collect(const struct qn_weights_source *src, const struct qn_spec *spec, struct qn_found *found,
                    struct qn_err *err);

void qn_found_free(struct qn_found *f);

#endif
