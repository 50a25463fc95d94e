/* The steps of --mmap: see mapped.h. */
#include "model/load/mapped.h"

#include <stdio.h>

#include "kernels/cpu.h"
#include "model/load/panels.h"

static void give_up(struct qn_checkpoint *c, const struct qn_err *why) {
    snprintf(c->note, sizeof c->note, "%.250s", why->msg);
    qn_panels_free(c->panels);
    c->panels = NULL;
}

void qn_mapped_begin(struct qn_checkpoint *c, const char *path, const struct qn_mapfile *files, size_t n,
                     const struct qn_load_options *opt) {
    struct qn_panels_source src = {0};
    struct qn_err why = {0}, ignored = {0};
    uint64_t start = qn_now_ns();
    int rc = QN_OK;
    for (size_t i = 0; i < n && rc == QN_OK; i++) rc = qn_panels_source_add(&src, &files[i], &why);
    if (rc == QN_OK && !opt->spec_only) rc = qn_panels_new(path, &src, &c->panels, &why);
    if (rc != QN_OK) give_up(c, &why);
    /* Absent, stale or damaged: in all cases it is written anew. */
    if (c->panels) (void)qn_panels_map(c->panels, opt->pool, &ignored);
    c->ms_map += (double)(qn_now_ns() - start) * 1e-6;
}

/* What load packed becomes the file, and the file is mapped. */
static int write_and_map(struct qn_checkpoint *c, const struct qn_load_options *opt, struct qn_err *why) {
    int rc = qn_panels_write(c->panels, opt->pool, why);
    if (rc != QN_OK) return rc;
    qn_checkpoint_drop_weights(c);
    return qn_panels_map(c->panels, opt->pool, why);
}

int qn_mapped_weights(struct qn_checkpoint *c, const struct qn_load_options *opt, qn_weights_fn load,
                      void *arg, struct qn_err *err) {
    struct qn_err why = {0};
    int rc = load(arg, opt, c, err);
    if (rc != QN_OK || !c->panels || qn_panels_whole(c->panels)) return rc;
    if (qn_panels_mapped(c->panels)) { /* of another checkpoint of the same size and time */
        qn_checkpoint_drop_weights(c);
        qn_panels_reset(c->panels);
        rc = load(arg, opt, c, err);
        if (rc != QN_OK) return rc;
    }
    if (write_and_map(c, opt, &why) == QN_OK) {
        rc = load(arg, opt, c, err);
        if (rc != QN_OK || qn_panels_whole(c->panels)) return rc;
        qn_err_set(&why, QN_ERR_FORMAT, "what was written is not what is wanted");
        qn_checkpoint_drop_weights(c);
    }
    give_up(c, &why);
    return c->attn ? QN_OK : load(arg, opt, c, err);
}
