/* The files of model/zoo/grist as constants of the binary. QN_ZOO_GRIST, their folder, is set by the Makefile
 * when they are there: a source tree without them gives a binary without a model. */
#include "model/zoo/zoo.h"

#include <string.h>

#ifdef QN_ZOO_GRIST
/* One file between two symbols; the assembler reads it, so that no compiler has to. */
#define EMBED(symbol, file)                                                                                  \
    __asm__(".pushsection .rodata\n.balign 64\n.hidden " #symbol "\n.globl " #symbol "\n" #symbol            \
            ":\n.incbin \"" QN_ZOO_GRIST "/" file "\"\n.hidden " #symbol "_end\n.globl " #symbol             \
            "_end\n" #symbol "_end:\n.byte 0\n.popsection\n");                                               \
    extern const uint8_t symbol[] __attribute__((visibility("hidden")));                                     \
    extern const uint8_t symbol##_end[] __attribute__((visibility("hidden")))

EMBED(qn_zoo_grist_config, "config.json");
EMBED(qn_zoo_grist_tokenizer, "tokenizer.json");
EMBED(qn_zoo_grist_settings, "tokenizer_config.json");
EMBED(qn_zoo_grist_weights, "model.safetensors");

#define FILE_OF(symbol)                                                                                      \
    { symbol, symbol##_end }
static const struct qn_zoo_model grist = {
    .name = "grist",
    .config = FILE_OF(qn_zoo_grist_config),
    .tokenizer = FILE_OF(qn_zoo_grist_tokenizer),
    .settings = FILE_OF(qn_zoo_grist_settings),
    .weights = FILE_OF(qn_zoo_grist_weights),
};

const struct qn_zoo_model *qn_zoo_default(void) {
    return &grist;
}
#else
const struct qn_zoo_model *qn_zoo_default(void) {
    return NULL;
}
#endif

const struct qn_zoo_model *qn_zoo_find(const char *name) {
    const struct qn_zoo_model *z = qn_zoo_default();
    return z && strcmp(name, z->name) == 0 ? z : NULL;
}
