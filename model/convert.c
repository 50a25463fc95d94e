/* Weights that a structure runs with and no checkpoint has: averages over layers (sharing), conversions of a
 * kind (attention, FFN), or conversions of averages.
 *
 *   member's blocks -[mean.c, when sharing asks for it]-> averaged blocks -[the kind's convert]-> blocks
 *
 * Made once per half of a structure, kept within a budget, the least recently used unused ones going first.
 * A conversion is in use while a sequence that runs with it holds state: a request that only waits must not
 * keep the room from the one whose turn it is. Thread: engine for prepare; the lock keeps qn_variant_resolve
 * on other threads from seeing a half-changed list. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/cpu.h"
#include "kernels/mem.h"
#include "model/internal.h"

/* --- which blocks a half is made from --- */
static bool kind_converts(const struct qn_resolved *r, enum qn_half half) {
    const struct qn_choice *c = half == QN_HALF_FFN ? &r->ffn.choice : &r->attention.choice;
    return c->origin == QN_ORIGIN_CONVERTED;
}

bool qn_half_converted(const struct qn_resolved *r, enum qn_half half) {
    return r->sharing.mean || kind_converts(r, half);
}

/* Blocks [first, first + n) of a list of `all`: averaged ones, or those of the checkpoint's member that the
 * structure's layers run with. */
struct range {
    uint32_t first, n, all;
};

static struct range range_of(const struct qn_spec *spec, const struct qn_resolved *r, enum qn_half half) {
    bool ffn = half == QN_HALF_FFN;
    uint32_t averaged = ffn ? r->sharing.ffn_blocks : r->sharing.attn_blocks;
    if (r->sharing.mean) return (struct range){0, averaged, averaged};
    uint32_t first = qn_sharing_block(&r->sharing, spec, ffn, 0);
    uint32_t last = qn_sharing_block(&r->sharing, spec, ffn, spec->layers - 1);
    return (struct range){first, last - first + 1, ffn ? spec->ffn_blocks : spec->attn_blocks};
}

static void print_key(const struct qn_spec *spec, const struct qn_resolved *r, enum qn_half half,
                      char key[QN_KEY_MAX]) {
    bool ffn = half == QN_HALF_FFN;
    char part[QN_PART_TEXT];
    struct range b = range_of(spec, r, half);
    qn_part_print(ffn ? &r->ffn.choice.part : &r->attention.choice.part, part, sizeof part);
    snprintf(key, QN_KEY_MAX, "%d %s of member %" PRIu32 ", %s %" PRIu32 ": %" PRIu32 "+%" PRIu32, (int)half,
             part, ffn ? r->ffn.member : r->attention.member, r->sharing.mean ? "means of" : "blocks of",
             r->sharing.mean ? r->sharing.member : 0, b.first, b.n);
}

/* Sources of averaged block j, as attention or as FFN blocks: one for each of its layers. Returns how many.
 */
static size_t sources(const struct qn_model *m, const struct qn_resolved *r, enum qn_half half, uint32_t j,
                      const struct qn_attn_weights **attn, const struct qn_ffn_weights **ffn) {
    const struct qn_spec *spec = &m->ckpt->spec;
    size_t n = 0;
    for (uint32_t i = 0; i < spec->layers; i++) {
        if (qn_sharing_block(&r->sharing, spec, half == QN_HALF_FFN, i) != j) continue;
        uint32_t from = qn_sharing_source(&r->sharing, spec, half == QN_HALF_FFN, i);
        if (half == QN_HALF_FFN)
            ffn[n++] = qn_checkpoint_ffn(m->ckpt, r->ffn.member) + from;
        else
            attn[n++] = qn_checkpoint_attn(m->ckpt, r->attention.member) + from;
    }
    return n;
}

#define LAYERS_MAX 1024 /* qn_spec_check */

static int mean_block(struct qn_mean *mean, const struct qn_model *m, const struct qn_resolved *r, uint32_t j,
                      struct qn_attn_weights *attn, struct qn_ffn_weights *ffn, struct qn_err *err) {
    const struct qn_attn_weights *a[LAYERS_MAX];
    const struct qn_ffn_weights *f[LAYERS_MAX];
    if (ffn) return qn_mean_ffn(mean, f, sources(m, r, QN_HALF_FFN, j, a, f), ffn, err);
    return qn_mean_attn(mean, r->attention.member, a, sources(m, r, QN_HALF_ATTENTION, j, a, f), attn, err);
}

/* --- sizes --- */
struct sums {
    struct qn_distinct tensors;
    size_t made, replaced, idle;
    bool bad;
};

static void add_made(struct sums *s, size_t made, size_t replaced) {
    if (made == SIZE_MAX || !qn_size_add(s->made, made, &s->made)) s->bad = true;
    s->replaced += replaced;
}

static void add_attn(const struct qn_model *m, const struct qn_resolved *r, const struct qn_attn_weights *w,
                     struct sums *s) {
    const struct qn_attention *a = &r->attention;
    qn_distinct_attn(&s->tensors, &m->ckpt->spec, a->member, w);
    if (!kind_converts(r, QN_HALF_ATTENTION)) return;
    size_t replaced = 0, made = a->ops->convert_bytes(a, w, &replaced);
    add_made(s, made, replaced);
}

static size_t matrices_bytes(const struct qn_ffn_weights *w) {
    size_t all = qn_ffn_matrices_bytes(&w->dense) + w->router.bytes;
    for (uint32_t i = 0; i < w->n_experts; i++) all += qn_ffn_matrices_bytes(&w->experts[i]);
    return all;
}

static void add_ffn(const struct qn_model *m, const struct qn_resolved *r, const struct qn_ffn_weights *w,
                    struct sums *s) {
    const struct qn_ffn *f = &r->ffn;
    size_t all = matrices_bytes(w), read = f->ops->row_weight_bytes(f, w), replaced = 0;
    qn_distinct_ffn(&s->tensors, &m->ckpt->spec, w);
    s->idle += all > read ? all - read : 0;
    if (!kind_converts(r, QN_HALF_FFN) || !f->ops->convert_bytes) return;
    size_t made = f->ops->convert_bytes(f, w, &replaced);
    add_made(s, made, replaced);
}

bool qn_half_sizes(const struct qn_model *m, const struct qn_resolved *r, enum qn_half half,
                   struct qn_half_sizes *out) {
    struct qn_mean mean = {.spec = &m->ckpt->spec, .counting = true};
    struct sums s = {0};
    struct range b = range_of(&m->ckpt->spec, r, half);
    for (uint32_t j = b.first; j < b.first + b.n && !s.bad; j++) {
        struct qn_attn_weights attn;
        struct qn_ffn_weights ffn;
        if (r->sharing.mean) {
            s.bad = mean_block(&mean, m, r, j, &attn, half == QN_HALF_FFN ? &ffn : NULL, NULL) != QN_OK;
        } else if (half == QN_HALF_FFN) {
            ffn = qn_checkpoint_ffn(m->ckpt, r->ffn.member)[j];
        } else {
            attn = qn_checkpoint_attn(m->ckpt, r->attention.member)[j];
        }
        if (!s.bad && half == QN_HALF_FFN) add_ffn(m, r, &ffn, &s);
        if (!s.bad && half == QN_HALF_ATTENTION) add_attn(m, r, &attn, &s);
    }
    qn_distinct_finish(&s.tensors, &out->bytes, &out->active);
    out->bytes = (out->bytes > s.replaced ? out->bytes - s.replaced : 0) + s.made;
    out->active = (out->active > s.replaced + s.idle ? out->active - s.replaced - s.idle : 0) + s.made;
    bool ok =
        !s.bad && !s.tensors.failed && mean.bytes != SIZE_MAX && qn_size_add(mean.bytes, s.made, &out->made);
    qn_mean_free(&mean);
    return ok;
}

/* --- the cache --- */
static void conversion_free(struct qn_conversion *c) {
    for (uint32_t i = 0; c->attention && c->attn && i < c->n; i++) c->attention->release(&c->attn[i]);
    for (uint32_t i = 0; c->ffn_ops && c->ffn && i < c->n; i++) c->ffn_ops->release(&c->ffn[i]);
    if (c->attn != c->attn_mean) free(c->attn);
    if (c->ffn != c->ffn_mean) free(c->ffn);
    free(c->attn_mean);
    free(c->ffn_mean);
    qn_mean_free(&c->mean);
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
        if ((v->holders > 0 || v->preparing) && v->conversion[c->half] == c) return true;
    }
    return false;
}

static void detach(struct qn_variant *v, enum qn_half half) {
    v->conversion[half] = NULL;
    if (half == QN_HALF_FFN)
        v->ffn_weights = NULL;
    else
        v->attn_weights = NULL;
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
        if (v->conversion[gone->half] == gone) detach(v, gone->half);
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

/* --- making --- */
static int no_memory(struct qn_err *err) {
    return qn_err_set(err, QN_ERR_NOMEM, "out of memory for converted weights");
}

/* Averages, each through the pool. */
static int make_means(struct qn_conversion *c, const struct qn_model *m, const struct qn_resolved *r,
                      struct qn_err *err) {
    bool ffn = c->half == QN_HALF_FFN;
    c->mean = (struct qn_mean){.spec = &m->ckpt->spec, .pool = m->pool};
    if (ffn)
        c->ffn = c->ffn_mean = calloc(c->n, sizeof *c->ffn);
    else
        c->attn = c->attn_mean = calloc(c->n, sizeof *c->attn);
    if (!c->ffn && !c->attn) return no_memory(err);
    int rc = QN_OK;
    for (uint32_t j = 0; j < c->n && rc == QN_OK; j++)
        rc = mean_block(&c->mean, m, r, j, ffn ? NULL : &c->attn_mean[j], ffn ? &c->ffn_mean[j] : NULL, err);
    return rc;
}

/* The kind's conversion of blocks [first, first + n), a block per item of the pool. */
struct kind_job {
    struct qn_conversion *c;
    const struct qn_resolved *r;
    const struct qn_attn_weights *attn; /* sources, by block */
    const struct qn_ffn_weights *ffn;
    uint32_t first;
    int *rc; /* [blocks] */
};

static void convert_item(void *arg, size_t item, unsigned thread) {
    (void)thread;
    struct kind_job *j = arg;
    uint32_t b = j->first + (uint32_t)item;
    if (j->ffn)
        j->rc[item] = j->c->ffn_ops->convert(&j->r->ffn, &j->ffn[b], &j->c->ffn[b], NULL);
    else
        j->rc[item] = j->c->attention->convert(&j->r->attention, b, &j->attn[b], &j->c->attn[b], NULL);
}

static int make_kind(struct qn_conversion *c, const struct qn_model *m, const struct qn_resolved *r,
                     struct qn_err *err) {
    struct range b = range_of(&m->ckpt->spec, r, c->half);
    struct kind_job j = {.c = c, .r = r, .first = b.first};
    if (c->half == QN_HALF_FFN) {
        j.ffn = c->ffn_mean ? c->ffn_mean : qn_checkpoint_ffn(m->ckpt, r->ffn.member);
        c->ffn = calloc(c->n, sizeof *c->ffn);
        if (c->ffn) c->ffn_ops = r->ffn.ops;
    } else {
        j.attn = c->attn_mean ? c->attn_mean : qn_checkpoint_attn(m->ckpt, r->attention.member);
        c->attn = calloc(c->n, sizeof *c->attn);
        if (c->attn) c->attention = r->attention.ops;
    }
    j.rc = calloc(b.n, sizeof *j.rc);
    bool ok = j.rc && (c->ffn_ops || c->attention);
    if (ok) qn_pool_run(m->pool, b.n, convert_item, &j);
    for (uint32_t i = 0; ok && i < b.n; i++) ok = j.rc[i] == QN_OK;
    free(j.rc);
    return ok ? QN_OK : no_memory(err);
}

static int conversion_make(struct qn_model *m, const struct qn_resolved *r, enum qn_half half,
                           const char *key, struct qn_conversion **out, struct qn_err *err) {
    struct qn_half_sizes sizes;
    if (!qn_half_sizes(m, r, half, &sizes)) return no_memory(err);
    int rc = make_room(m, sizes.made, err);
    if (rc) return rc;
    struct qn_conversion *c = calloc(1, sizeof *c);
    if (!c) return no_memory(err);
    c->half = half;
    c->n = range_of(&m->ckpt->spec, r, half).all;
    c->bytes = sizes.made;
    snprintf(c->key, sizeof c->key, "%s", key);
    if (r->sharing.mean) rc = make_means(c, m, r, err);
    if (rc == QN_OK && kind_converts(r, half)) rc = make_kind(c, m, r, err);
    if (rc) {
        conversion_free(c);
        return rc;
    }
    *out = c;
    return QN_OK;
}

static void attach(struct qn_variant *v, struct qn_conversion *c) {
    v->conversion[c->half] = c;
    if (c->half == QN_HALF_FFN)
        v->ffn_weights = c->ffn;
    else
        v->attn_weights = c->attn;
    c->used_at = ++v->model->last_use;
}

/* *made: whether anything had to be. */
static int prepare_half(struct qn_variant *v, const struct qn_resolved *r, enum qn_half half, bool *made,
                        struct qn_err *err) {
    struct qn_model *m = v->model;
    char key[QN_KEY_MAX];
    if (!qn_half_converted(r, half)) return QN_OK;
    print_key(&m->ckpt->spec, r, half, key);
    pthread_mutex_lock(&m->lock);
    struct qn_conversion *c = conversion_find(m, key);
    if (c) attach(v, c);
    pthread_mutex_unlock(&m->lock);
    if (c) return QN_OK;
    *made = true;
    int rc = conversion_make(m, r, half, key, &c, err);
    if (rc || !c) return rc;
    pthread_mutex_lock(&m->lock);
    c->next = m->conversions;
    m->conversions = c;
    atomic_fetch_add(&m->converted_bytes, c->bytes);
    attach(v, c);
    pthread_mutex_unlock(&m->lock);
    return QN_OK;
}

static void set_preparing(struct qn_variant *v, bool on) {
    pthread_mutex_lock(&v->model->lock);
    v->preparing = on;
    pthread_mutex_unlock(&v->model->lock);
}

int qn_variant_prepare(struct qn_variant *v, double *ms, struct qn_err *err) {
    const struct qn_resolved r = {v->attention, v->ffn, v->sharing};
    uint64_t start = qn_now_ns();
    bool made = false;
    if (ms) *ms = 0;
    set_preparing(v, true);
    int rc = prepare_half(v, &r, QN_HALF_ATTENTION, &made, err);
    if (rc == QN_OK) rc = prepare_half(v, &r, QN_HALF_FFN, &made, err);
    set_preparing(v, false);
    if (ms && made) *ms = (double)(qn_now_ns() - start) * 1e-6;
    return rc;
}

/* Does one of the n variants run with the conversion of this key? */
static bool shared_with(struct qn_variant *const *v, uint32_t n, enum qn_half half, const char *key) {
    char other[QN_KEY_MAX];
    for (uint32_t i = 0; i < n; i++) {
        const struct qn_resolved r = {v[i]->attention, v[i]->ffn, v[i]->sharing};
        if (!qn_half_converted(&r, half)) continue;
        print_key(&v[i]->model->ckpt->spec, &r, half, other);
        if (strcmp(other, key) == 0) return true;
    }
    return false;
}

bool qn_variants_fit(struct qn_variant *const *v, uint32_t n, size_t *bytes, size_t *budget) {
    size_t sum = 0, most = n ? v[0]->model->convert_budget : 0;
    for (uint32_t i = 0; i < n; i++) {
        const struct qn_resolved r = {v[i]->attention, v[i]->ffn, v[i]->sharing};
        for (int h = QN_HALF_ATTENTION; h < QN_HALVES; h++) {
            char key[QN_KEY_MAX];
            if (!qn_half_converted(&r, (enum qn_half)h)) continue;
            print_key(&v[i]->model->ckpt->spec, &r, (enum qn_half)h, key);
            if (shared_with(v, i, (enum qn_half)h, key)) continue;
            if (!qn_size_add(sum, v[i]->made[h], &sum)) sum = SIZE_MAX;
        }
    }
    if (bytes) *bytes = sum;
    if (budget) *budget = most;
    return sum <= most;
}
