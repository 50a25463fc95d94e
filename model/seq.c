/* Sequences: the public face of state/kv.c, with the tokens that the forward pass has run. Thread: engine. */
#include <stdlib.h>
#include <string.h>

#include "kernels/mem.h"
#include "model/internal.h"

/* A sequence with state may stand in the next step; one without must be prepared and reserved again first. */
static void set_holds(struct qn_seq *s, bool holds) {
    if (holds && !s->holds) s->variant->holders++;
    if (!holds && s->holds) s->variant->holders--;
    s->holds = holds;
}

static bool room_for(struct qn_seq *s, uint32_t n) {
    if (n <= s->cap) return true;
    uint32_t cap = s->cap ? s->cap : 64;
    while (cap < n) cap = cap > UINT32_MAX / 2 ? n : cap * 2;
    size_t bytes;
    if (!qn_size_mul(cap, sizeof *s->tokens, &bytes)) return false;
    int32_t *p = realloc(s->tokens, bytes);
    if (!p) return false;
    memset(p + s->cap, 0, (cap - s->cap) * sizeof *p);
    s->tokens = p;
    s->cap = cap;
    return true;
}

int qn_seq_new(struct qn_variant *v, uint64_t salt, bool use_cache, struct qn_seq **out, struct qn_err *err) {
    struct qn_seq *s = calloc(1, sizeof *s);
    *out = s;
    if (!s) return qn_err_set(err, QN_ERR_NOMEM, "out of memory for a sequence");
    qn_variant_ref(v);
    s->variant = v;
    s->use_cache = s->publish = use_cache && v->model->prefix_cache;
    qn_kv_seq_init(&s->kv, v->model->kv, v->block_bytes, v->fixed_bytes, salt, v->id);
    return QN_OK;
}

void qn_seq_free(struct qn_seq **ps) {
    struct qn_seq *s = *ps;
    if (!s) return;
    set_holds(s, false);
    qn_kv_seq_done(&s->kv);
    qn_variant_unref(s->variant);
    free(s->tokens);
    free(s);
    *ps = NULL;
}

uint32_t qn_seq_length(const struct qn_seq *s) {
    return s->length;
}

uint32_t qn_seq_match(struct qn_seq *s, const int32_t *tokens, uint32_t n) {
    if (s->length > 0 || !s->use_cache || !room_for(s, n)) return 0;
    s->length = s->settled = qn_kv_match(&s->kv, tokens, n);
    if (s->length > 0) memcpy(s->tokens, tokens, s->length * sizeof *tokens);
    return s->length;
}

size_t qn_seq_need(const struct qn_seq *s, uint32_t length) {
    return qn_kv_need(&s->kv, s->length, length);
}

int qn_seq_reserve(struct qn_seq *s, uint32_t length) {
    if (length > s->variant->model->ckpt->spec.context) return QN_ERR_TOO_LONG;
    if (!room_for(s, length)) return QN_ERR_NOMEM;
    int rc = qn_kv_reserve(&s->kv, s->length, length);
    if (rc == QN_OK) set_holds(s, true);
    return rc;
}

void qn_seq_reset(struct qn_seq *s) {
    set_holds(s, false);
    qn_kv_truncate(&s->kv, 0);
    s->length = s->settled = 0;
    s->publish = s->use_cache;
}

/* A state that can't forget goes back to 0, or to where the cache has a copy of it. */
static bool go_back(struct qn_seq *s, uint32_t length) {
    const struct qn_variant *v = s->variant;
    struct qn_kv_range exact = {length, length, v->block_bytes > 0 ? QN_KV_BLOCK : 1};
    if (v->info.rollback) return true;
    return length == 0 || (s->kv.fixed && s->use_cache && qn_kv_restore(&s->kv, s->tokens, exact) > 0);
}

int qn_seq_truncate(struct qn_seq *s, uint32_t length) {
    if (length > s->length) return QN_ERR_INVALID;
    if (length < s->length && !go_back(s, length)) return QN_ERR_UNSUPPORTED;
    qn_kv_truncate(&s->kv, length);
    s->length = length;
    if (s->settled > length) s->settled = length;
    return QN_OK;
}

/* Blocks with guesses are not published and slots past the end are free to write: nothing else to undo. */
int qn_seq_rewind(struct qn_seq *s, uint32_t length) {
    if (length > s->length || length < s->settled) return QN_ERR_INVALID;
    s->length = length;
    return QN_OK;
}

int qn_seq_fork(struct qn_seq *s, struct qn_seq **out, struct qn_err *err) {
    int rc = qn_seq_new(s->variant, s->kv.salt, s->use_cache, out, err);
    if (!*out) return rc;
    rc = room_for(*out, s->length) ? qn_kv_fork(&(*out)->kv, &s->kv, s->length) : QN_ERR_NOMEM;
    if (rc) {
        qn_seq_free(out);
        return qn_err_set(
            err, rc, rc == QN_ERR_NOMEM ? "out of memory for a sequence" : "no room for a copy of its state");
    }
    if (s->length > 0) memcpy((*out)->tokens, s->tokens, s->length * sizeof *s->tokens);
    (*out)->length = s->length;
    (*out)->settled = s->settled;
    (*out)->publish = s->publish;
    set_holds(*out, s->holds);
    return QN_OK;
}

struct qn_seq_bytes qn_seq_bytes(const struct qn_seq *s) {
    return qn_kv_bytes(&s->kv);
}
