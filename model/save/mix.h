/* Which type each tensor of a converted file gets. The rules are those of llama.cpp's llama-quantize without
 * importance data, so that files of the same name are the same mixture: norms, biases, routers and positions
 * stay; the output matrix (or the embedding table that serves as one) gets more bits; in Q4_K_M, values and
 * FFN outputs of some layers too; where rows are not whole blocks there is a type to fall back to. Pure. */
#ifndef QN_MODEL_SAVE_MIX_H
#define QN_MODEL_SAVE_MIX_H

#include "model/save/source.h"

struct qn_type_mix {
    const char *name;  /* "q4_k_m" */
    enum qn_type type; /* of most matrices */
    bool more_bits;    /* some layers' get Q6_K */
    uint32_t ftype;    /* general.file_type */
};

/* NULL for a name that is none (any case). */
const struct qn_type_mix *qn_type_mix_find(const char *name);
/* "q8_0, q4_0, …" for messages. */
const char *qn_type_mix_names(void);
/* The type that tensor t of the source is written in. *fell_back: its rows did not fit the one it should
 * have. */
enum qn_type qn_type_mix_of(const struct qn_type_mix *mix, const struct qn_save_source *s,
                            const struct qn_save_tensor *t, bool *fell_back);

#endif
