/* libFuzzer target: a GGUF file in memory, through parser, spec, weights (packed) and vocabulary. Beyond
 * memory safety it holds that a refusal has a code and a message, and that what is accepted is within the
 * spec's ranges and in memory that the file's own size pays for. */
#include <stdlib.h>

#include "model/load/open.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void must(bool ok) {
    if (!ok) abort(); /* a find */
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    struct qn_checkpoint *c = calloc(1, sizeof *c);
    struct qn_load_options opt = {0};
    struct qn_err err = {0};
    if (!c) return 0;
    int rc = qn_open_gguf(data, size, &opt, c, &err);
    if (rc != QN_OK) {
        must(rc == err.code && err.msg[0]);
    } else {
        must(qn_spec_check(&c->spec, NULL) == QN_OK && c->embed.data && c->attn && c->ffn);
        /* Panels of 16 rows may pad a matrix; halves become floats. */
        must(c->weights_bytes / 40 <= size);
        if (c->tokenizer) must(qn_tokenizer_size(c->tokenizer) <= c->spec.vocab);
    }
    qn_checkpoint_free(c);
    return 0;
}
