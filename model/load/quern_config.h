/* config.json of quern's own family of checkpoints -> struct qn_spec: several attentions, FFNs and ways of
 * sharing in one file (docs/checkpoints.md). A member is whatever a kind of the registries calls its own with
 * the numbers given; no structure's name stands in the code. Thread: one loader. */
#ifndef QN_MODEL_LOAD_QUERN_CONFIG_H
#define QN_MODEL_LOAD_QUERN_CONFIG_H

#include <jansson.h>

#include "model/load/checkpoint.h"

#define QN_QUERN_MODEL_TYPE "quern"
#define QN_HELD_OUT_MAX     512 /* rows of the table of held-out figures: every combination of members */

/* True when config.json is of this family. */
bool qn_quern_is(const json_t *config);
/* Fills and checks *spec. QN_ERR_FORMAT or QN_ERR_UNSUPPORTED that names the key. */
int qn_quern_config(const json_t *config, struct qn_spec *spec, struct qn_err *err);
/* What tensor names call weight block b of the spec: "model.layers.3", or "model.shared". */
#define QN_QUERN_BLOCK_NAME 32
void qn_quern_block_name(const struct qn_spec *spec, uint32_t b, char out[QN_QUERN_BLOCK_NAME]);
/* The table of held-out figures into c->held_out; c->spec is filled. None is fine. */
int qn_quern_held_out(const json_t *config, struct qn_checkpoint *c, struct qn_err *err);

#endif
