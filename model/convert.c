/* Converted attention weights: made once per resolved attention, kept within a budget, the least recently
 * used unused ones going first. A conversion is in use while a sequence that runs with it holds state: a
 * request that only waits must not keep the room from the one whose turn it is. Thread: engine for prepare;
 * the lock keeps qn_variant_resolve on other threads from seeing a half-changed list. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/cpu.h"
#include "kernels/mem.h"
#include "model/internal.h"

size_t qn_conversion_bytes(const struct qn_model *m, const struct qn_attention *a, size_t *replaced) {
    size_t total = 0;
    *replaced = 0;
    const struct qn_attn_weights *src = qn_checkpoint_attn(m->ckpt, a->member);
    for (uint32_t i = 0; i < m->ckpt->spec.attn_blocks; i++) {
        size_t instead = 0, n = a->ops->convert_bytes(a, &src[i], &instead);
        if (n == SIZE_MAX || !qn_size_add(total, n, &total)) return SIZE_MAX;
        *replaced += instead;
    }
    return total;
}

static void conversion_free(struct qn_conversion *c) {
    for (uint32_t i = 0; c->attn && i < c->n; i++) c->ops->release(&c->attn[i]);
    free(c->attn);
    free(c);
}

void qn_conversion_free_all(struct qn_model *m) {
    while (m->conversions) {
        struct qn_conversion *c = m->conversions;
        m->conversions = c->next;
        conversion_free(c);
    }
    atomic_store(&m->converted_bytes, 0);
}

static struct qn_conversion *conversion_find(struct qn_model *m, const char *key) {
    for (struct qn_conversion *c = m->conversions; c; c = c->next) {
        if (strcmp(c->key, key) == 0) return c;
    }
    return NULL;
}

static bool in_use(const struct qn_model *m, const struct qn_conversion *c) {
    for (const struct qn_variant *v = m->variants; v; v = v->next) {
        if (v->holders > 0 && v->conversion == c) return true;
    }
    return false;
}

/* Drops the least recently used conversion that no sequence runs with; false when all are needed. */
static bool evict_one(struct qn_model *m) {
    struct qn_conversion **oldest = NULL;
    for (struct qn_conversion **c = &m->conversions; *c; c = &(*c)->next) {
        if (!in_use(m, *c) && (!oldest || (*c)->used_at < (*oldest)->used_at)) oldest = c;
    }
    if (!oldest) return false;
    struct qn_conversion *gone = *oldest;
    *oldest = gone->next;
    for (struct qn_variant *v = m->variants; v; v = v->next) {
        if (v->conversion != gone) continue;
        v->conversion = NULL;
        v->attn_weights = NULL;
    }
    atomic_fetch_sub(&m->converted_bytes, gone->bytes);
    conversion_free(gone);
    return true;
}

static int make_room(struct qn_model *m, size_t bytes, struct qn_err *err) {
    int rc = QN_OK;
    pthread_mutex_lock(&m->lock);
    while (rc == QN_OK && (bytes > m->convert_budget || m->converted_bytes > m->convert_budget - bytes)) {
        if (!evict_one(m)) {
            rc = qn_err_set(err, QN_ERR_NO_STATE,
                            "the budget for converted weights is held by running requests");
        }
    }
    pthread_mutex_unlock(&m->lock);
    return rc;
}

static int conversion_make(struct qn_variant *v, const char *key, struct qn_conversion **out,
                           struct qn_err *err) {
    struct qn_model *m = v->model;
    size_t replaced, bytes = qn_conversion_bytes(m, &v->attention, &replaced);
    int rc = make_room(m, bytes, err);
    if (rc) return rc;
    struct qn_conversion *c = calloc(1, sizeof *c);
    if (!c) return qn_err_set(err, QN_ERR_NOMEM, "out of memory for converted weights");
    c->ops = v->attention.ops;
    c->n = m->ckpt->spec.attn_blocks;
    c->bytes = bytes;
    snprintf(c->key, sizeof c->key, "%s", key);
    c->attn = calloc(c->n, sizeof *c->attn);
    if (!c->attn) rc = qn_err_set(err, QN_ERR_NOMEM, "out of memory for converted weights");
    for (uint32_t i = 0; rc == QN_OK && i < c->n; i++) {
        rc = c->ops->convert(&v->attention, i, &qn_checkpoint_attn(m->ckpt, v->attention.member)[i],
                             &c->attn[i], err);
    }
    if (rc) {
        conversion_free(c);
        return rc;
    }
    *out = c;
    return QN_OK;
}

static void attach(struct qn_variant *v, struct qn_conversion *c) {
    v->conversion = c;
    v->attn_weights = c->attn;
    c->used_at = ++v->model->last_use;
}

int qn_variant_prepare(struct qn_variant *v, double *ms, struct qn_err *err) {
    struct qn_model *m = v->model;
    char key[QN_PART_TEXT];
    if (ms) *ms = 0;
    if (v->attention.choice.origin == QN_ORIGIN_NATIVE) return QN_OK;
    qn_part_print(&v->attention.choice.part, key, sizeof key);
    pthread_mutex_lock(&m->lock);
    struct qn_conversion *c = conversion_find(m, key);
    if (c) attach(v, c);
    pthread_mutex_unlock(&m->lock);
    if (c) return QN_OK;

    uint64_t start = qn_now_ns();
    int rc = conversion_make(v, key, &c, err);
    if (rc) return rc;
    pthread_mutex_lock(&m->lock);
    c->next = m->conversions;
    m->conversions = c;
    atomic_fetch_add(&m->converted_bytes, c->bytes);
    attach(v, c);
    pthread_mutex_unlock(&m->lock);
    if (ms) *ms = (double)(qn_now_ns() - start) * 1e-6;
    return QN_OK;
}
