/* Vocabulary -> tree of bytes. Data flow: pieces -> copies -> ids sorted by their bytes -> nodes in the order
 * of a walk, closed from the end of each subtree. Thread: any. */
#include "model/constrain/lexicon.h"

#include <stdlib.h>
#include <string.h>

struct word {
    const char *p;
    uint32_t n, id;
};

static int by_bytes(const void *a, const void *b) {
    const struct word *x = a, *y = b;
    int c = memcmp(x->p, y->p, x->n < y->n ? x->n : y->n);
    if (c) return c;
    if (x->n != y->n) return x->n < y->n ? -1 : 1;
    return x->id < y->id ? -1 : x->id > y->id;
}

static void free_lexicon(struct qn_lexicon *l) {
    free(l->nodes);
    free(l->ids);
    free(l->ends);
    free(l->offsets);
    free(l->bytes);
    free(l);
}

/* Copies of all pieces, and which tokens end a text. */
static int copy_pieces(struct qn_lexicon *l, const struct qn_lexicon_source *src, struct qn_err *err) {
    size_t total = 0;
    for (uint32_t i = 0; i < src->n; i++) {
        total += src->piece(src->ctx, (int32_t)i).n;
        l->n_ends += src->ends(src->ctx, (int32_t)i);
    }
    if (total > UINT32_MAX - 1) return qn_err_set(err, QN_ERR_INVALID, "the vocabulary's text is too large");
    l->offsets = calloc(src->n + (size_t)1, sizeof *l->offsets);
    l->bytes = malloc(total + 1);
    l->ends = malloc((l->n_ends + (size_t)1) * sizeof *l->ends);
    if (!l->offsets || !l->bytes || !l->ends) return qn_err_set(err, QN_ERR_NOMEM, "out of memory");
    uint32_t at = 0, n = 0;
    for (uint32_t i = 0; i < src->n; i++) {
        struct qn_str_ref s = src->piece(src->ctx, (int32_t)i);
        l->offsets[i] = at;
        if (s.n) memcpy(l->bytes + at, s.p, s.n);
        at += (uint32_t)s.n;
        if (src->ends(src->ctx, (int32_t)i)) l->ends[n++] = i;
    }
    l->offsets[src->n] = at;
    return QN_OK;
}

static bool ends(const struct qn_lexicon *l, uint32_t id) {
    for (uint32_t i = 0; i < l->n_ends; i++)
        if (l->ends[i] == id) return true;
    return false;
}

/* The words that can be allowed, in the order of their bytes. */
static struct word *sorted(const struct qn_lexicon *l, uint32_t *n, size_t *bytes) {
    struct word *w = malloc((l->n_tokens + (size_t)1) * sizeof *w);
    *n = 0;
    *bytes = 0;
    for (uint32_t i = 0; w && i < l->n_tokens; i++) {
        uint32_t len = l->offsets[i + 1] - l->offsets[i];
        if (!len || len > QN_TOKEN_BYTES || ends(l, i)) continue;
        w[(*n)++] = (struct word){l->bytes + l->offsets[i], len, i};
        *bytes += len;
    }
    if (w) qsort(w, *n, sizeof *w, by_bytes);
    return w;
}

/* The subtree of the deepest open node is complete. */
static void close_node(struct qn_lexicon *l, const uint32_t *path, uint32_t depth) {
    struct qn_lex_node *node = &l->nodes[path[depth]];
    node->end = l->n_nodes;
    node->last = l->n_ids;
    if (!depth) return;
    struct qn_lex_node *parent = &l->nodes[path[depth - 1]];
    parent->below[0] |= node->below[0];
    parent->below[1] |= node->below[1];
    if (node->byte < 128) parent->below[node->byte >> 6] |= UINT64_C(1) << (node->byte & 63);
    parent->high = parent->high || node->high || node->byte >= 128;
    if (parent->height < node->height + 1) parent->height = (uint16_t)(node->height + 1);
}

static void build(struct qn_lexicon *l, const struct word *w, uint32_t n) {
    uint32_t path[QN_TOKEN_BYTES + 1] = {0}, depth = 0;
    l->n_nodes = 1;
    for (uint32_t i = 0; i < n; i++) {
        uint32_t same = 0;
        while (i && same < depth && same < w[i].n && w[i].p[same] == w[i - 1].p[same]) same++;
        for (; depth > same; depth--) close_node(l, path, depth);
        for (; depth < w[i].n; depth++) {
            path[depth + 1] = l->n_nodes;
            l->nodes[l->n_nodes++] = (struct qn_lex_node){
                .byte = (uint8_t)w[i].p[depth], .depth = (uint16_t)(depth + 1), .first = i, .own = i};
        }
        if (l->longest < depth) l->longest = depth;
        l->ids[l->n_ids++] = w[i].id;
        l->nodes[path[depth]].own = l->n_ids;
    }
    for (; depth; depth--) close_node(l, path, depth);
    close_node(l, path, 0);
}

int qn_lexicon_new(const struct qn_lexicon_source *src, struct qn_lexicon **out, struct qn_err *err) {
    struct qn_lexicon *l = calloc(1, sizeof *l);
    uint32_t n = 0;
    size_t bytes = 0;
    *out = NULL;
    if (!l) return qn_err_set(err, QN_ERR_NOMEM, "out of memory");
    atomic_init(&l->refs, 1);
    l->n_tokens = src->n;
    l->words = (src->n + 63) / 64;
    int rc = copy_pieces(l, src, err);
    struct word *w = rc ? NULL : sorted(l, &n, &bytes);
    if (w) {
        l->nodes = calloc(bytes + 1, sizeof *l->nodes);
        l->ids = malloc((n + (size_t)1) * sizeof *l->ids);
    }
    bool ready = w && l->nodes && l->ids;
    if (!rc && !ready) rc = qn_err_set(err, QN_ERR_NOMEM, "out of memory");
    if (ready) {
        build(l, w, n);
        struct qn_lex_node *fit = realloc(l->nodes, l->n_nodes * sizeof *fit); /* prefixes are shared */
        if (fit) l->nodes = fit;
        *out = l;
    } else {
        free_lexicon(l);
    }
    free(w);
    return rc;
}

void qn_lexicon_unref(struct qn_lexicon *l) {
    if (l && atomic_fetch_sub_explicit(&l->refs, 1, memory_order_acq_rel) == 1) free_lexicon(l);
}
