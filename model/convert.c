/* Weights that a structure runs with and no checkpoint has: averages over layers (sharing), conversions of a
 * kind (attention, FFN), or conversions of averages.
 *
 *   member's blocks -[mean.c, when sharing asks for it]-> averaged blocks -[the kind's convert]-> blocks
 *
 * Each step is made once per half of a structure: averages are shared by all kinds that are made from them,
 * and what runs with the member's own weights needs none. Conversions are kept within a budget that counts
 * their lists too, the least recently used unused ones going first, averages after what was made from them.
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

/* One half of a resolved structure. */
struct side {
    const struct qn_model *m;
    const struct qn_resolved *r;
    enum qn_half half;
};

/* --- which blocks a half is made from --- */
static bool kind_converts(const struct qn_resolved *r, enum qn_half half) {
    return half == QN_HALF_FFN ? r->ffn.made : r->attention.made;
}

static bool averaged(const struct qn_resolved *r, enum qn_half half) {
    return r->sharing.mean_of[half == QN_HALF_FFN];
}

bool qn_half_converted(const struct qn_resolved *r, enum qn_half half) {
    return averaged(r, half) || kind_converts(r, half);
}

/* Blocks [first, first + n) of a list of `all`: averaged ones, or those of the checkpoint's member that the
 * structure's layers run with. */
struct range {
    uint32_t first, n, all;
};

static struct range range_of(const struct side *s) {
    const struct qn_spec *spec = &s->m->ckpt->spec;
    const struct qn_sharing *sharing = &s->r->sharing;
    bool ffn = s->half == QN_HALF_FFN;
    uint32_t means = ffn ? sharing->ffn_blocks : sharing->attn_blocks;
    if (averaged(s->r, s->half)) return (struct range){0, means, means};
    uint32_t first = qn_sharing_block(sharing, spec, ffn, 0);
    uint32_t last = qn_sharing_block(sharing, spec, ffn, spec->layers - 1);
    return (struct range){first, last - first + 1, ffn ? spec->ffn_blocks : spec->attn_blocks};
}

/* Averages are the same for every kind that is made from them, but for projections that only some read. */
static void print_key(const struct side *s, enum qn_make step, char key[QN_KEY_MAX]) {
    char part[QN_PART_TEXT] = "";
    struct range b = range_of(s);
    bool ffn = s->half == QN_HALF_FFN, means = averaged(s->r, s->half);
    if (step == QN_MAKE_KIND)
        qn_part_print(ffn ? &s->r->ffn.choice.part : &s->r->attention.choice.part, part, sizeof part);
    snprintf(key, QN_KEY_MAX, "%d %s of member %" PRIu32 "%s, %s %" PRIu32 ": %" PRIu32 "+%" PRIu32,
             (int)s->half, part, ffn ? s->r->ffn.member : s->r->attention.member,
             !ffn && s->r->attention.unprojected ? " without projections" : "",
             means ? "means of" : "blocks of", means ? s->r->sharing.member : 0, b.first, b.n);
}

/* --- averages --- */
struct block_lists {
    const struct qn_attn_weights *attn[QN_LAYERS_MAX];
    const struct qn_ffn_weights *ffn[QN_LAYERS_MAX];
};

/* Sources of averaged block j: one for each of its layers. Returns how many. */
static size_t sources(const struct side *s, uint32_t j, struct block_lists *out) {
    const struct qn_spec *spec = &s->m->ckpt->spec;
    bool ffn = s->half == QN_HALF_FFN;
    size_t n = 0;
    for (uint32_t i = 0; i < spec->layers; i++) {
        if (qn_sharing_block(&s->r->sharing, spec, ffn, i) != j) continue;
        uint32_t from = qn_sharing_source(&s->r->sharing, spec, ffn, i);
        if (ffn)
            out->ffn[n++] = qn_checkpoint_ffn(s->m->ckpt, s->r->ffn.member) + from;
        else
            out->attn[n++] = qn_checkpoint_attn(s->m->ckpt, s->r->attention.member) + from;
    }
    return n;
}

static struct qn_mean new_mean(const struct side *s) {
    return (struct qn_mean){
        .spec = &s->m->ckpt->spec, .pool = s->m->pool, .projections = !s->r->attention.unprojected};
}

/* Averaged block j, of the side's half: *attn or *ffn. */
static int mean_block(struct qn_mean *mean, const struct side *s, uint32_t j, struct qn_attn_weights *attn,
                      struct qn_ffn_weights *ffn, struct qn_err *err) {
    struct block_lists from;
    size_t n = sources(s, j, &from);
    return s->half == QN_HALF_FFN ? qn_mean_ffn(mean, from.ffn, n, ffn, err)
                                  : qn_mean_attn(mean, s->r->attention.member, from.attn, n, attn, err);
}

/* --- sizes --- */
struct sums {
    struct qn_distinct tensors;
    size_t made, replaced, idle;
    bool bad;
};

static void add_made(struct sums *t, size_t made, size_t replaced) {
    if (made == SIZE_MAX || !qn_size_add(t->made, made, &t->made)) t->bad = true;
    t->replaced += replaced;
}

static void add_attn(const struct side *s, const struct qn_attn_weights *w, struct sums *t) {
    const struct qn_attention *a = &s->r->attention;
    qn_distinct_attn(&t->tensors, &s->m->ckpt->spec, a->member, !a->unprojected, w);
    if (!a->made) return;
    size_t replaced = 0, made = a->ops->convert_bytes(a, w, &replaced);
    add_made(t, made, replaced);
}

static size_t matrices_bytes(const struct qn_ffn_weights *w) {
    size_t all = qn_ffn_matrices_bytes(&w->dense) + w->router.bytes;
    for (uint32_t i = 0; i < w->n_experts; i++) all += qn_ffn_matrices_bytes(&w->experts[i]);
    return all;
}

static void add_ffn(const struct side *s, const struct qn_ffn_weights *w, struct sums *t) {
    const struct qn_ffn *f = &s->r->ffn;
    size_t all = matrices_bytes(w), read = f->ops->row_weight_bytes(f, w), replaced = 0;
    qn_distinct_ffn(&t->tensors, &s->m->ckpt->spec, w);
    t->idle += all > read ? all - read : 0;
    if (!f->made) return;
    size_t made = f->ops->convert_bytes(f, w, &replaced);
    add_made(t, made, replaced);
}

/* What one conversion takes besides weights: its struct, blocks, and their lists of experts. SIZE_MAX on
 * overflow. */
static size_t list_bytes(const struct side *s, enum qn_make step) {
    struct range b = range_of(s);
    size_t block = sizeof(struct qn_attn_weights), lists = 0, total = 0;
    if (s->half == QN_HALF_FFN) {
        uint32_t experts =
            step == QN_MAKE_KIND ? s->r->ffn.mix.experts : s->m->ckpt->spec.ffn[s->r->ffn.member].experts;
        block = sizeof(struct qn_ffn_weights);
        lists = experts * sizeof(struct qn_ffn_matrices);
    }
    bool ok = qn_size_mul(lists, b.n, &lists) && qn_size_mul(block, b.all, &total) &&
              qn_size_add(total, lists, &total) && qn_size_add(total, sizeof(struct qn_conversion), &total);
    return ok ? total : SIZE_MAX;
}

/* With lists; false on overflow. */
static bool conversion_bytes(const struct side *s, enum qn_make step, size_t weights, size_t *total) {
    size_t lists = list_bytes(s, step);
    return weights != SIZE_MAX && lists != SIZE_MAX && qn_size_add(weights, lists, total);
}

static int no_memory(struct qn_err *err) {
    return qn_err_set(err, QN_ERR_NOMEM, "out of memory for converted weights");
}

static int half_sizes(const struct side *s, struct qn_half_sizes *out, struct qn_err *err) {
    struct qn_mean mean = new_mean(s);
    struct sums t = {0};
    struct range b = range_of(s);
    bool means = averaged(s->r, s->half);
    int rc = QN_OK;
    mean.counting = true;
    for (uint32_t j = b.first; j < b.first + b.n && rc == QN_OK; j++) {
        struct qn_attn_weights attn;
        struct qn_ffn_weights ffn;
        if (means) {
            rc = mean_block(&mean, s, j, &attn, &ffn, err);
        } else if (s->half == QN_HALF_FFN) {
            ffn = qn_checkpoint_ffn(s->m->ckpt, s->r->ffn.member)[j];
        } else {
            attn = qn_checkpoint_attn(s->m->ckpt, s->r->attention.member)[j];
        }
        if (rc == QN_OK && s->half == QN_HALF_FFN) add_ffn(s, &ffn, &t);
        if (rc == QN_OK && s->half == QN_HALF_ATTENTION) add_attn(s, &attn, &t);
    }
    qn_distinct_finish(&t.tensors, &out->bytes, &out->active);
    out->bytes = (out->bytes > t.replaced ? out->bytes - t.replaced : 0) + t.made;
    out->active = (out->active > t.replaced + t.idle ? out->active - t.replaced - t.idle : 0) + t.made;
    memset(out->made, 0, sizeof out->made);
    bool ok = !t.bad && !t.tensors.failed;
    if (ok && means) ok = conversion_bytes(s, QN_MAKE_MEANS, mean.bytes, &out->made[QN_MAKE_MEANS]);
    if (ok && kind_converts(s->r, s->half))
        ok = conversion_bytes(s, QN_MAKE_KIND, t.made, &out->made[QN_MAKE_KIND]);
    qn_mean_free(&mean);
    return rc == QN_OK && !ok ? no_memory(err) : rc;
}

int qn_half_sizes(const struct qn_model *m, const struct qn_resolved *r, enum qn_half half,
                  struct qn_half_sizes *out, struct qn_err *err) {
    const struct side s = {m, r, half};
    return half_sizes(&s, out, err);
}

/* --- the cache --- */
static void conversion_free(struct qn_conversion *c) {
    for (uint32_t i = 0; c->attention && i < c->n; i++) c->attention->release(&c->attn[i]);
    for (uint32_t i = 0; c->ffn_ops && i < c->n; i++) c->ffn_ops->release(&c->ffn[i]);
    if (c->from) c->from->dependents--;
    free(c->attn);
    free(c->ffn);
    qn_mean_free(&c->mean);
    free(c);
}

void qn_conversion_free_all(struct qn_model *m) {
    while (m->conversions) {
        struct qn_conversion *c = m->conversions;
        m->conversions = c->next; /* what was made later comes first: before what it was made from */
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
    return c->dependents > 0;
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
/* Averages, each through the pool. */
static int make_means(struct qn_conversion *c, const struct side *s, struct qn_err *err) {
    int rc = QN_OK;
    c->mean = new_mean(s);
    for (uint32_t j = 0; j < c->n && rc == QN_OK; j++)
        rc = mean_block(&c->mean, s, j, c->attn ? &c->attn[j] : NULL, c->ffn ? &c->ffn[j] : NULL, err);
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

static int make_kind(struct qn_conversion *c, const struct side *s, struct qn_err *err) {
    struct range b = range_of(s);
    struct kind_job j = {.c = c, .r = s->r, .first = b.first};
    if (s->half == QN_HALF_FFN) {
        j.ffn = c->from ? c->from->ffn : qn_checkpoint_ffn(s->m->ckpt, s->r->ffn.member);
        c->ffn_ops = s->r->ffn.ops;
    } else {
        j.attn = c->from ? c->from->attn : qn_checkpoint_attn(s->m->ckpt, s->r->attention.member);
        c->attention = s->r->attention.ops;
    }
    j.rc = calloc(b.n, sizeof *j.rc);
    bool ok = j.rc != NULL;
    if (ok) qn_pool_run(s->m->pool, b.n, convert_item, &j);
    for (uint32_t i = 0; ok && i < b.n; i++) ok = j.rc[i] == QN_OK;
    free(j.rc);
    return ok ? QN_OK : no_memory(err);
}

/* One step of a preparation: averages, or the kind's conversion. */
struct make {
    struct side side;
    struct qn_model *m;
    enum qn_make step;
    struct qn_conversion *from; /* averages that the kind converts; NULL: the checkpoint's blocks */
};

static int conversion_make(const struct make *k, const char *key, struct qn_conversion **out,
                           struct qn_err *err) {
    const struct side *s = &k->side;
    struct qn_half_sizes sizes;
    int rc = half_sizes(s, &sizes, err);
    size_t bytes = sizes.made[k->step];
    if (rc == QN_OK) rc = make_room(k->m, bytes, err);
    if (rc) return rc;
    struct qn_conversion *c = calloc(1, sizeof *c);
    if (!c) return no_memory(err);
    *c = (struct qn_conversion){.half = s->half, .n = range_of(s).all, .bytes = bytes, .from = k->from};
    snprintf(c->key, sizeof c->key, "%s", key);
    if (c->from) c->from->dependents++;
    if (s->half == QN_HALF_FFN)
        c->ffn = calloc(c->n, sizeof *c->ffn);
    else
        c->attn = calloc(c->n, sizeof *c->attn);
    if (!c->ffn && !c->attn)
        rc = no_memory(err);
    else
        rc = k->step == QN_MAKE_KIND ? make_kind(c, s, err) : make_means(c, s, err);
    if (rc)
        conversion_free(c);
    else
        *out = c;
    return rc;
}

/* Finds it or makes it, and marks it used. *made: whether anything had to be. */
static int obtain(const struct make *k, struct qn_conversion **out, bool *made, struct qn_err *err) {
    struct qn_model *m = k->m;
    char key[QN_KEY_MAX];
    print_key(&k->side, k->step, key);
    pthread_mutex_lock(&m->lock);
    struct qn_conversion *c = conversion_find(m, key);
    if (c) c->used_at = ++m->last_use;
    pthread_mutex_unlock(&m->lock);
    *out = c;
    if (c) return QN_OK;
    *made = true;
    int rc = conversion_make(k, key, &c, err);
    if (rc || !c) return rc;
    pthread_mutex_lock(&m->lock);
    c->used_at = ++m->last_use;
    c->next = m->conversions;
    m->conversions = c;
    atomic_fetch_add(&m->converted_bytes, c->bytes);
    pthread_mutex_unlock(&m->lock);
    *out = c;
    return QN_OK;
}

static void attach(struct qn_variant *v, struct qn_conversion *c) {
    v->conversion[c->half] = c;
    if (c->half == QN_HALF_FFN)
        v->ffn_weights = c->ffn;
    else
        v->attn_weights = c->attn;
}

static int prepare_half(struct qn_variant *v, const struct qn_resolved *r, enum qn_half half, bool *made,
                        struct qn_err *err) {
    struct make k = {.side = {v->model, r, half}, .m = v->model};
    struct qn_conversion *c = NULL;
    int rc = QN_OK;
    if (!qn_half_converted(r, half)) return QN_OK;
    if (averaged(r, half)) rc = obtain(&k, &c, made, err);
    if (rc == QN_OK && kind_converts(r, half)) {
        k.step = QN_MAKE_KIND;
        k.from = c;
        if (k.from) k.from->dependents++; /* room for the second must not be made at its cost */
        rc = obtain(&k, &c, made, err);
        if (k.from) k.from->dependents--;
    }
    if (rc) return rc;
    pthread_mutex_lock(&v->model->lock);
    attach(v, c);
    pthread_mutex_unlock(&v->model->lock);
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

/* Whether the step is one that the half takes; its key. */
static bool step_key(const struct qn_variant *v, enum qn_half half, enum qn_make step, char key[QN_KEY_MAX]) {
    const struct qn_resolved r = {v->attention, v->ffn, v->sharing};
    const struct side s = {v->model, &r, half};
    if (step == QN_MAKE_KIND ? !kind_converts(&r, half) : !averaged(&r, half)) return false;
    print_key(&s, step, key);
    return true;
}

/* Does one of the n variants run with the conversion of this key? */
static bool shared_with(struct qn_variant *const *v, uint32_t n, enum qn_half half, enum qn_make step,
                        const char *key) {
    char other[QN_KEY_MAX];
    for (uint32_t i = 0; i < n; i++)
        if (step_key(v[i], half, step, other) && strcmp(other, key) == 0) return true;
    return false;
}

bool qn_variants_fit(struct qn_variant *const *v, uint32_t n, size_t *bytes, size_t *budget) {
    size_t sum = 0, most = n ? v[0]->model->convert_budget : 0;
    for (uint32_t i = 0; i < n * QN_HALVES * QN_MAKES; i++) {
        uint32_t one = i / (QN_HALVES * QN_MAKES);
        enum qn_half half = (enum qn_half)(i / QN_MAKES % QN_HALVES);
        enum qn_make step = (enum qn_make)(i % QN_MAKES);
        char key[QN_KEY_MAX];
        if (!step_key(v[one], half, step, key) || shared_with(v, one, half, step, key)) continue;
        if (!qn_size_add(sum, v[one]->made[half][step], &sum)) sum = SIZE_MAX;
    }
    if (bytes) *bytes = sum;
    if (budget) *budget = most;
    return sum <= most;
}
