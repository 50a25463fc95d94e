/* Entry points over bytes in memory, below checkpoint.h: for checkpoint.c, tests and fuzzers.
 * Thread: one loader. */
#ifndef QN_MODEL_LOAD_OPEN_H
#define QN_MODEL_LOAD_OPEN_H

#include "model/load/checkpoint.h"
#include "model/load/safetensors.h"
#include "model/load/vocab.h"

/* A whole GGUF file in memory -> *c (zeroed by the caller). On failure *c is half-built: qn_checkpoint_free.
 */
int qn_open_gguf(const void *data, size_t size, const struct qn_load_options *opt, struct qn_checkpoint *c,
                 struct qn_err *err);
/* Parsed side files and an indexed tensor directory -> *c, in the same way. */
int qn_open_hf(const struct qn_hf_vocab *files, const struct qn_tensor_dir *dir,
               const struct qn_load_options *opt, struct qn_checkpoint *c, struct qn_err *err);
/* Parses a tokenizer.json of len bytes with the loader's own limits; *out is a new reference. */
int qn_open_tokenizer_json(const char *text, size_t len, json_t **out, struct qn_err *err);

#endif
