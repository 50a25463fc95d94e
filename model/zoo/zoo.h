/* Models inside the binary: a checkpoint's files, taken in when quern is built. Thread: any (constant). */
#ifndef QN_MODEL_ZOO_ZOO_H
#define QN_MODEL_ZOO_ZOO_H

#include <stdint.h>

struct qn_zoo_file {
    const uint8_t *begin, *end; /* [begin, end) */
};

struct qn_zoo_model {
    const char *name;                                        /* the path that opens it */
    struct qn_zoo_file config, tokenizer, settings, weights; /* JSON, JSON, JSON, safetensors */
};

/* NULL when there is none of that name. */
const struct qn_zoo_model *qn_zoo_find(const char *name);
/* The one that is served when no other is named; NULL when the binary was built without. */
const struct qn_zoo_model *qn_zoo_default(void);

#endif
