/* Sequences: the public face of state/kv.c, with the length that the forward pass has reached. Thread:
 * engine. */
#include <stdlib.h>

#include "model/internal.h"

/* A sequence with state may stand in the next step; one without must be prepared and reserved again first. */
static void set_holds(struct qn_seq *s, bool holds) {
    if (holds && !s->holds) s->variant->holders++;
    if (!holds && s->holds) s->variant->holders--;
    s->holds = holds;
}

int qn_seq_new(struct qn_variant *v, uint64_t salt, bool use_cache, struct qn_seq **out, struct qn_err *err) {
    struct qn_seq *s = calloc(1, sizeof *s);
    *out = s;
    if (!s) return qn_err_set(err, QN_ERR_NOMEM, "out of memory for a sequence");
    qn_variant_ref(v);
    s->variant = v;
    s->use_cache = s->publish = use_cache && v->model->prefix_cache;
    qn_kv_seq_init(&s->kv, v->model->kv, v->block_bytes, salt, v->id);
    return QN_OK;
}

void qn_seq_free(struct qn_seq **ps) {
    struct qn_seq *s = *ps;
    if (!s) return;
    set_holds(s, false);
    qn_kv_seq_done(&s->kv);
    qn_variant_unref(s->variant);
    free(s);
    *ps = NULL;
}

uint32_t qn_seq_length(const struct qn_seq *s) {
    return s->length;
}

uint32_t qn_seq_match(struct qn_seq *s, const int32_t *tokens, uint32_t n) {
    if (s->length > 0 || !s->use_cache) return 0;
    s->length = qn_kv_match(&s->kv, tokens, n);
    return s->length;
}

size_t qn_seq_need(const struct qn_seq *s, uint32_t length) {
    return qn_kv_need(&s->kv, s->length, length);
}

int qn_seq_reserve(struct qn_seq *s, uint32_t length) {
    if (length > s->variant->model->ckpt->spec.context) return QN_ERR_TOO_LONG;
    int rc = qn_kv_reserve(&s->kv, s->length, length);
    if (rc == QN_OK) set_holds(s, true);
    return rc;
}

void qn_seq_reset(struct qn_seq *s) {
    set_holds(s, false);
    qn_kv_truncate(&s->kv, 0);
    s->length = 0;
    s->publish = s->use_cache;
}

int qn_seq_truncate(struct qn_seq *s, uint32_t length) {
    if (length > s->length) return QN_ERR_INVALID;
    if (length < s->length && !s->variant->attention.ops->rollback) return QN_ERR_UNSUPPORTED;
    qn_kv_truncate(&s->kv, length);
    s->length = length;
    return QN_OK;
}

int qn_seq_fork(struct qn_seq *s, struct qn_seq **out, struct qn_err *err) {
    int rc = qn_seq_new(s->variant, s->kv.salt, s->use_cache, out, err);
    if (!*out) return rc;
    rc = qn_kv_fork(&(*out)->kv, &s->kv, s->length);
    if (rc) {
        qn_seq_free(out);
        return qn_err_set(err, rc, "out of memory for a sequence");
    }
    (*out)->length = s->length;
    (*out)->publish = s->publish;
    set_holds(*out, s->holds);
    return QN_OK;
}

struct qn_seq_bytes qn_seq_bytes(const struct qn_seq *s) {
    return qn_kv_bytes(&s->kv);
}
