/* Memory for blocks that are read in every step: cut from large pieces in huge pages. Blocks of all layers
 * lie far apart for one layer, so with small pages attention would pay for an address translation at each of
 * them. Thread: engine. */
#ifndef QN_MODEL_STATE_SLAB_H
#define QN_MODEL_STATE_SLAB_H

#include <stddef.h>

#define QN_SLAB_BYTES    ((size_t)64 << 20) /* reserved; resident is what was touched */
#define QN_SLAB_SLOT_MIN ((size_t)64 << 10) /* smaller blocks are not worth it */

struct qn_slab;

/* n bytes, zeroed, QN_ALIGN aligned; NULL when the size does not fit or there is no room. Give back with the
 * same n. */
void *qn_slab_take(struct qn_slab **slabs, size_t n);
/* The memory is cleared, and the system has it again. */
void qn_slab_give(struct qn_slab **slabs, void *p, size_t n);

#endif
