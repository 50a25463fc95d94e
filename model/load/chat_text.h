/* A checkpoint's chat template as text: where each format keeps it. Thread: one loader. */
#ifndef QN_MODEL_LOAD_CHAT_TEXT_H
#define QN_MODEL_LOAD_CHAT_TEXT_H

#include "model/load/checkpoint.h"
#include "model/load/gguf.h"
#include "model/load/vocab.h"

#define QN_CHAT_TEXT_MAX ((size_t)1 << 20) /* bytes; a longer one is left out */

/* Both set c->chat_text, or leave it NULL where there is none that is text. A strange one is no reason not to
 * load a model, so the only error is QN_ERR_NOMEM. */
int qn_chat_text_from_gguf(const struct qn_gguf *g, struct qn_checkpoint *c, struct qn_err *err);
int qn_chat_text_from_hf(const struct qn_hf_vocab *files, struct qn_checkpoint *c, struct qn_err *err);
/* DIR/chat_template.jinja: *out is malloc'ed and *n its bytes, or NULL when there is no such file. QN_ERR_IO,
 * QN_ERR_NOMEM. */
int qn_chat_text_file(const char *dir, char **out, size_t *n, struct qn_err *err);

#endif
