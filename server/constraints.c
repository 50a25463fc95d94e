/* The cache of constraints, and the only place where api/schema.h and model/constrain/ meet.
 *
 *   schema -> [api/schema.c] -> grammar -> [model/constrain/] -> constraint, shared by jobs
 *
 * One list for the process, behind a lock that is never held while something is made: two requests that want
 * the same new one at once make it twice, and the first to be done is kept. Thread: any. */
#include "server/constraints.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "api/schema.h"
#include "server/registry.h"

#define KEPT 24 /* constraints, of some MB each; what asks for it makes some 20 MB of one */

struct entry {
    const struct qn_model *model;
    enum qn_api_constrain kind;
    char *text; /* owned */
    size_t n;
    struct qn_constraint *constraint; /* one reference */
    uint64_t used;
};
struct words { /* a model's vocabulary */
    const struct qn_model *model;
    struct qn_lexicon *lexicon;
};

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static struct entry kept[KEPT];
static struct words vocabularies[QN_MAX_MODELS];
static uint64_t uses;

static void clear(struct entry *e) {
    free(e->text);
    qn_constraint_unref(e->constraint);
    *e = (struct entry){0};
}

/* ---- vocabularies ---- */

static struct qn_str_ref piece(const void *m, int32_t id) {
    return qn_model_piece(m, id, false);
}

static bool ends(const void *m, int32_t id) {
    return qn_model_is_eog(m, id);
}

static struct words *words_of(const struct qn_model *m) {
    for (size_t i = 0; i < QN_MAX_MODELS; i++)
        if (vocabularies[i].model == m) return &vocabularies[i];
    return NULL;
}

/* Borrowed: it stays until the model is dropped. NULL: out of memory. */
static struct qn_lexicon *lexicon_of(const struct qn_model *m) {
    struct qn_lexicon_source src = {qn_model_info(m)->vocab, m, piece, ends};
    struct qn_lexicon *made = NULL;
    struct qn_err e = {0};
    pthread_mutex_lock(&lock);
    const struct words *w = words_of(m);
    struct qn_lexicon *l = w ? w->lexicon : NULL;
    pthread_mutex_unlock(&lock);
    if (l || qn_lexicon_new(&src, &made, &e)) return l;
    pthread_mutex_lock(&lock);
    struct words *mine = words_of(m), *slot = mine ? mine : words_of(NULL);
    if (slot && !slot->lexicon) *slot = (struct words){m, made}, made = NULL;
    l = slot ? slot->lexicon : NULL;
    pthread_mutex_unlock(&lock);
    qn_lexicon_unref(made);
    return l;
}

/* ---- constraints ---- */

static struct entry *entry_of(const struct qn_model *m, const struct qn_api_constraint *c) {
    for (size_t i = 0; i < KEPT; i++) {
        const struct entry *e = &kept[i];
        if (e->model == m && e->kind == c->kind && e->n == c->n && (!c->n || !memcmp(e->text, c->text, c->n)))
            return &kept[i];
    }
    return NULL;
}

/* Under the lock. */
static struct qn_constraint *look(const struct qn_model *m, const struct qn_api_constraint *c) {
    struct entry *e = entry_of(m, c);
    if (!e) return NULL;
    e->used = ++uses;
    qn_constraint_ref(e->constraint);
    return e->constraint;
}

struct qn_constraint *qn_constraints_find(const struct qn_model *m, const struct qn_api_constraint *c) {
    pthread_mutex_lock(&lock);
    struct qn_constraint *found = look(m, c);
    pthread_mutex_unlock(&lock);
    return found;
}

/* Keeps it in place of the one that was not used for longest. The text's copy may fail: then it is not kept.
 */
static void keep(const struct qn_model *m, const struct qn_api_constraint *c, struct qn_constraint *made) {
    struct entry old = {0}, e = {.model = m, .kind = c->kind, .n = c->n, .constraint = made};
    e.text = malloc(c->n + 1);
    if (!e.text) return;
    if (c->n) memcpy(e.text, c->text, c->n);
    pthread_mutex_lock(&lock);
    if (entry_of(m, c)) {
        old.text = e.text;
    } else {
        struct entry *slot = kept;
        for (size_t i = 1; i < KEPT; i++)
            if (kept[i].used < slot->used) slot = &kept[i];
        old = *slot;
        e.used = ++uses;
        qn_constraint_ref(made);
        *slot = e;
    }
    pthread_mutex_unlock(&lock);
    clear(&old);
}

static int fail(struct qn_api_err *err, const char *param, const struct qn_err *e) {
    if (e->code == QN_ERR_NOMEM) return qn_api_fail(err, QN_API_OUT_OF_MEMORY, "", "out of memory");
    return qn_api_fail(err, e->code == QN_ERR_TOO_LONG ? QN_API_TOO_LARGE_WORK : QN_API_INVALID, param,
                       "\"%s\" can't be used: %s", param, e->msg);
}

int qn_constraints_make(struct qn_model *m, const struct qn_api_constraint *c, struct qn_constraint **out,
                        struct qn_api_err *err) {
    bool regex = c->kind == QN_CONSTRAIN_REGEX;
    const char *param = c->param ? c->param : regex ? "regex" : "json_schema";
    struct qn_buf grammar = {0};
    struct qn_err e = {0};
    *out = qn_constraints_find(m, c);
    if (*out) return 0;
    struct qn_lexicon *l = lexicon_of(m);
    if (!l) return qn_api_fail(err, QN_API_OUT_OF_MEMORY, "", "out of memory");
    int rc = regex ? 0 : qn_api_schema_grammar(c, param, &grammar, err);
    if (!rc && qn_constraint_new(l, regex ? c->text : grammar.p, regex ? c->n : grammar.n, !regex, out, &e))
        rc = fail(err, param, &e);
    qn_buf_free(&grammar);
    if (!rc) keep(m, c, *out);
    return rc;
}

void qn_constraints_drop(const struct qn_model *m) {
    pthread_mutex_lock(&lock);
    for (size_t i = 0; i < KEPT; i++)
        if (kept[i].model == m) clear(&kept[i]);
    struct words *w = words_of(m);
    if (m && w) {
        qn_lexicon_unref(w->lexicon);
        *w = (struct words){0};
    }
    pthread_mutex_unlock(&lock);
}
