/* The trie of added tokens; see added.h. */
#include "model/text/added.h"

#include <stdlib.h>
#include <string.h>

#include "kernels/mem.h"
#include "model/text/unicode.h"
#include "model/text/utf8.h"

static bool new_node(struct qn_added *a, uint32_t *node) {
    if (a->n_nodes == a->cap) {
        size_t cap, bytes;
        if (a->n_nodes >= QN_NO_ID || !qn_size_mul(a->cap, 2, &cap)) return false;
        if (cap < 64) cap = 64;
        if (!qn_size_mul(cap, sizeof *a->node_id, &bytes)) return false;
        uint32_t *p = realloc(a->node_id, bytes);
        if (!p) return false;
        a->node_id = p;
        a->cap = cap;
    }
    *node = (uint32_t)a->n_nodes;
    a->node_id[a->n_nodes++] = QN_NO_ID;
    return true;
}

bool qn_added_init(struct qn_added *a) {
    uint32_t root;
    memset(a, 0, sizeof *a);
    return qn_pair_map_init(&a->edges, 64) && new_node(a, &root);
}

void qn_added_free(struct qn_added *a) {
    qn_pair_map_free(&a->edges);
    free(a->node_id);
    memset(a, 0, sizeof *a);
}

bool qn_added_put(struct qn_added *a, struct qn_str text, uint32_t id) {
    const uint8_t *s = (const uint8_t *)text.p;
    uint32_t node = 0;
    if (text.n == 0) return true;
    for (size_t i = 0; i < text.n; i++) {
        const struct qn_pair *e = qn_pair_map_get(&a->edges, node, s[i]);
        uint32_t child;
        if (e) {
            child = e->result;
        } else {
            if (!new_node(a, &child)) return false;
            const struct qn_pair edge = {node, s[i], 0, child};
            if (!qn_pair_map_put(&a->edges, &edge)) return false;
        }
        node = child;
    }
    a->first[s[0]] = true;
    if (a->node_id[node] == QN_NO_ID) a->node_id[node] = id;
    return true;
}

/* The longest token that starts at s[at]: its id and end, or QN_NO_ID. */
static uint32_t longest_at(const struct qn_added *a, const uint8_t *s, size_t n, size_t at, size_t *end) {
    uint32_t node = 0, id = QN_NO_ID;
    for (size_t i = at; i < n; i++) {
        const struct qn_pair *e = qn_pair_map_get(&a->edges, node, s[i]);
        if (!e) break;
        node = e->result;
        if (a->node_id[node] == QN_NO_ID) continue;
        id = a->node_id[node];
        *end = i + 1;
    }
    return id;
}

/* LSTRIP swallows white space before the token (not into what an earlier match took), RSTRIP what follows. */
static void widen(const uint8_t *attrs, const uint8_t *s, size_t n, size_t from, struct qn_added_match *m) {
    uint32_t cp;
    while ((attrs[m->id] & QN_ATTR_LSTRIP) && m->start > from) {
        const size_t len = qn_utf8_prev(s + from, m->start - from, &cp);
        if (qn_uclass_of(cp) != QN_UC_SPACE) break;
        m->start -= len;
    }
    while ((attrs[m->id] & QN_ATTR_RSTRIP) && m->end < n) {
        const size_t len = qn_utf8_next(s + m->end, n - m->end, &cp, NULL);
        if (qn_uclass_of(cp) != QN_UC_SPACE) break;
        m->end += len;
    }
}

bool qn_added_find(const struct qn_added *a, const uint8_t *attrs, struct qn_str text, size_t from,
                   struct qn_added_match *m) {
    const uint8_t *s = (const uint8_t *)text.p;
    if (a->n_nodes <= 1) return false;
    for (size_t i = from; i < text.n; i++) {
        if (!a->first[s[i]]) continue;
        const uint32_t id = longest_at(a, s, text.n, i, &m->end);
        if (id == QN_NO_ID) continue;
        m->id = id;
        m->start = i;
        widen(attrs, s, text.n, from, m);
        return true;
    }
    return false;
}

size_t qn_added_bytes(const struct qn_added *a) {
    return qn_pair_map_bytes(&a->edges) + a->cap * sizeof *a->node_id;
}
