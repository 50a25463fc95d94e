/* The variants of a model: found by key, made when there is none, dropped when nobody runs them.
 *
 *   resolved parts -[key]-> list -> the variant there
 *                               `-> sizes, budget -> a new one, with the id that this key had before
 *
 * A variant's id is the domain of its blocks in the prefix cache. Requests may make up structures without end
 * (a seed, a number of slots), so variants that nobody runs go, oldest first; but what others left in the
 * cache must not go with them. Structures that the checkpoint was trained with are few and always stay; of
 * the others the ids outlive the variants, so that who comes back finds the blocks that are still there.
 * Thread: any; the model's lock guards the lists. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/mem.h"
#include "model/internal.h"

#define IDLE_VARIANTS 64   /* converted ones that are kept with nobody running them: some KB each */
#define PAST_IDS      4096 /* ids of dropped ones that are kept: some 100 bytes each */

/* --- ids of variants that are gone --- */
struct qn_past_id {
    uint64_t id;
    struct qn_past_id *next;
    char key[];
};

/* The most recent one first; without memory the id is lost, and with it what the cache holds. */
static void remember(struct qn_model *m, const struct qn_variant *v) {
    size_t key = strlen(v->key) + 1;
    struct qn_past_id *p = malloc(sizeof *p + key), **at = &m->past_ids;
    if (!p) return;
    p->id = v->id;
    memcpy(p->key, v->key, key);
    p->next = m->past_ids;
    m->past_ids = p;
    for (size_t i = 0; i < PAST_IDS && *at; i++) at = &(*at)->next;
    if (!*at) return;
    free(*at); /* the last: never more than one too many */
    *at = NULL;
}

/* The id that this key had, which leaves the list, or a new one. */
static uint64_t id_for(struct qn_model *m, const char *key) {
    for (struct qn_past_id **at = &m->past_ids; *at; at = &(*at)->next) {
        struct qn_past_id *p = *at;
        if (strcmp(p->key, key) != 0) continue;
        uint64_t id = p->id;
        *at = p->next;
        free(p);
        return id;
    }
    return ++m->last_variant;
}

/* --- one variant --- */
static void variant_free(struct qn_variant *v) {
    free(v->layers);
    free(v);
}

static void absorb(struct qn_structure *s, const struct qn_choice *c) {
    if (c->origin == QN_ORIGIN_CONVERTED) s->origin = QN_ORIGIN_CONVERTED;
    if (c->exactness > s->exactness) s->exactness = c->exactness;
}

static void lay_out(struct qn_variant *v) {
    const struct qn_spec *spec = &v->model->ckpt->spec;
    struct qn_state_size one = v->attention.ops->state(&v->attention, v->model->kv_type);
    for (uint32_t i = 0; i < spec->layers; i++) {
        v->layers[i] = (struct qn_layer){
            .attention = &v->attention,
            .ffn = &v->ffn,
            .attn_block = qn_sharing_block(&v->sharing, spec, false, i),
            .ffn_block = qn_sharing_block(&v->sharing, spec, true, i),
            .state_offset = i * one.block_bytes,
            .fixed_offset = i * one.fixed_bytes,
        };
    }
    v->block_bytes = spec->layers * one.block_bytes;
    v->fixed_bytes = spec->layers * one.fixed_bytes;
}

/* NULL: out of memory, sizes overflow, or there are no such averages. */
static struct qn_variant *variant_new(struct qn_model *m, const struct qn_resolved *r, struct qn_err *err) {
    struct qn_variant *v = calloc(1, sizeof *v);
    if (v) v->layers = calloc(m->ckpt->spec.layers, sizeof *v->layers);
    int rc = v && v->layers ? QN_OK : qn_err_set(err, QN_ERR_NOMEM, "out of memory for a structure");
    if (rc == QN_OK) rc = qn_structure_sizes(m, r, &v->info, &v->idle_ffn_bytes, v->made, err);
    if (rc || !v) {
        if (v) variant_free(v);
        return NULL;
    }
    v->model = m;
    v->refs = 1;
    v->attention = r->attention;
    v->ffn = r->ffn;
    v->sharing = r->sharing;
    v->info.attention = r->attention.choice.part;
    v->info.ffn = r->ffn.choice.part;
    v->info.sharing = r->sharing.choice.part;
    v->info.causal = r->attention.causal;
    v->info.rollback = r->attention.causal && r->attention.ops->rollback;
    absorb(&v->info, &r->attention.choice);
    absorb(&v->info, &r->ffn.choice);
    absorb(&v->info, &r->sharing.choice);
    if (!qn_half_converted(r, QN_HALF_ATTENTION))
        v->attn_weights = qn_checkpoint_attn(m->ckpt, r->attention.member);
    if (!qn_half_converted(r, QN_HALF_FFN)) v->ffn_weights = qn_checkpoint_ffn(m->ckpt, r->ffn.member);
    if (v->info.origin == QN_ORIGIN_NATIVE && m->ckpt->synthetic) v->info.origin = QN_ORIGIN_SYNTHETIC;
    lay_out(v);
    return v;
}

/* Conversions that could never be in memory together are refused here. */
static int check_budget(const struct qn_model *m, const struct qn_resolved *r,
                        size_t made[QN_HALVES][QN_MAKES], struct qn_err *err) {
    size_t half[QN_HALVES] = {0}, total = 0;
    for (int i = 0; i < QN_HALVES; i++)
        if (!qn_size_add(made[i][QN_MAKE_MEANS], made[i][QN_MAKE_KIND], &half[i]) ||
            !qn_size_add(total, half[i], &total))
            return qn_err_set(err, QN_ERR_NOMEM, "out of memory for a structure");
    if (total <= m->convert_budget) return QN_OK;
    bool ffn = half[QN_HALF_FFN] > half[QN_HALF_ATTENTION];
    const char *slot = r->sharing.mean ? "sharing" : ffn ? "ffn" : "attention";
    const struct qn_choice *c = r->sharing.mean ? &r->sharing.choice
                                : ffn           ? &r->ffn.choice
                                                : &r->attention.choice;
    return qn_err_param(err, QN_ERR_INVALID, slot,
                        "converted weights for %s \"%s\" need %zu bytes, more than the budget of %zu", slot,
                        c->part.type, total, m->convert_budget);
}

/* --- the list --- */
/* Of the converted variants that nobody runs, the oldest goes when there are too many. */
static void drop_idle(struct qn_model *m) {
    size_t idle = 0;
    struct qn_variant **oldest = NULL;
    for (struct qn_variant **v = &m->variants; *v; v = &(*v)->next) {
        if ((*v)->refs > 0 || (*v)->info.origin != QN_ORIGIN_CONVERTED) continue;
        idle++;
        if (!oldest || (*v)->used_at < (*oldest)->used_at) oldest = v;
    }
    if (idle <= IDLE_VARIANTS || !oldest) return;
    struct qn_variant *gone = *oldest;
    *oldest = gone->next;
    remember(m, gone);
    variant_free(gone);
}

/* With a reference for the caller, or NULL. Under the lock. */
static struct qn_variant *find(struct qn_model *m, const char *key) {
    struct qn_variant *v = m->variants;
    while (v && strcmp(v->key, key) != 0) v = v->next;
    if (v) v->refs++;
    return v;
}

static void print_key(const struct qn_resolved *r, char key[QN_KEY_MAX]) {
    char a[QN_PART_TEXT], f[QN_PART_TEXT], s[QN_PART_TEXT - 4];
    snprintf(key, QN_KEY_MAX, "%s|%s|%s", qn_part_print(&r->attention.choice.part, a, sizeof a),
             qn_part_print(&r->ffn.choice.part, f, sizeof f),
             qn_part_print(&r->sharing.choice.part, s, sizeof s));
}

/* Lists a new variant, unless another thread has listed its twin meanwhile. */
static struct qn_variant *add(struct qn_model *m, struct qn_variant *v) {
    pthread_mutex_lock(&m->lock);
    struct qn_variant *twin = find(m, v->key);
    if (!twin) {
        v->id = id_for(m, v->key);
        v->next = m->variants;
        m->variants = v;
    }
    pthread_mutex_unlock(&m->lock);
    if (twin) variant_free(v);
    return twin ? twin : v;
}

int qn_variant_of(struct qn_model *m, const struct qn_resolved *r, struct qn_variant **out,
                  struct qn_err *err) {
    char key[QN_KEY_MAX];
    print_key(r, key);
    pthread_mutex_lock(&m->lock);
    *out = find(m, key);
    pthread_mutex_unlock(&m->lock);
    if (*out) return QN_OK;
    /* Sizes mean a list of all tensors: once per variant, and while nobody waits for the lock. */
    struct qn_err why = {0};
    struct qn_variant *v = variant_new(m, r, &why);
    if (!v) return qn_err_param(err, why.code, why.param, "%s", why.msg);
    int rc = check_budget(m, r, v->made, err);
    if (rc) {
        variant_free(v);
        return rc;
    }
    memcpy(v->key, key, sizeof key);
    *out = add(m, v);
    return QN_OK;
}

void qn_variant_ref(struct qn_variant *v) {
    pthread_mutex_lock(&v->model->lock);
    v->refs++;
    pthread_mutex_unlock(&v->model->lock);
}

void qn_variant_unref(struct qn_variant *v) {
    if (!v) return;
    struct qn_model *m = v->model;
    pthread_mutex_lock(&m->lock);
    if (--v->refs == 0) {
        v->used_at = ++m->last_use;
        drop_idle(m);
    }
    pthread_mutex_unlock(&m->lock);
}

void qn_variant_free_all(struct qn_model *m) {
    while (m->variants) {
        struct qn_variant *v = m->variants;
        m->variants = v->next;
        variant_free(v);
    }
    while (m->past_ids) {
        struct qn_past_id *p = m->past_ids;
        m->past_ids = p->next;
        free(p);
    }
}

const struct qn_structure *qn_variant_structure(const struct qn_variant *v) {
    return &v->info;
}

struct qn_model *qn_variant_model(const struct qn_variant *v) {
    return v->model;
}
