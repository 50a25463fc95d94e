/* Structures from and to text; see structure_text.h. */
#include "server/structure_text.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "server/translate.h"

struct cursor {
    const char *at, *end;
    const char *text; /* start, for messages */
    struct qn_api_err *err;
};

static int wrong(const struct cursor *c, const char *want) {
    return qn_api_fail(c->err, QN_API_INVALID, "structures", "\"%.*s\": %s expected at character %d",
                       (int)(c->end - c->text < 80 ? c->end - c->text : 80), c->text, want,
                       (int)(c->at - c->text) + 1);
}

static bool peek(const struct cursor *c, char what) {
    return c->at < c->end && *c->at == what;
}

static bool accept(struct cursor *c, char what) {
    if (!peek(c, what)) return false;
    c->at++;
    return true;
}

static bool name_byte(char b) {
    return (b >= 'a' && b <= 'z') || (b >= '0' && b <= '9') || b == '_';
}

/* a-z 0-9 _ into out[24]; what: of the message. */
static int take_name(struct cursor *c, char out[24], const char *what) {
    size_t n = 0;
    while (c->at + n < c->end && name_byte(c->at[n])) n++;
    if (!n || n > 23) return wrong(c, what);
    memcpy(out, c->at, n);
    out[n] = '\0';
    c->at += n;
    return 0;
}

/* A number, true, false, or a word. */
static int take_value(struct cursor *c, struct qn_api_part *p) {
    char text[24], *end;
    size_t n = 0;
    while (c->at + n < c->end && !strchr(",)", c->at[n])) n++;
    if (!n || n >= sizeof text) return wrong(c, "a value of 1 to 23 characters");
    memcpy(text, c->at, n);
    text[n] = '\0';
    bool yes = !strcmp(text, "true"), letter = (text[0] | 32) >= 'a' && (text[0] | 32) <= 'z';
    p->params[p->n_params].kind = QN_API_BOOL;
    p->params[p->n_params].value = yes;
    if (!yes && strcmp(text, "false") != 0 && letter) {
        p->params[p->n_params].kind = QN_API_TEXT;
        memcpy(p->params[p->n_params].text, text, n + 1);
    } else if (!letter) {
        double v = strtod(text, &end);
        if (*end || !isfinite(v) || fabs(v) >= 9007199254740992.0)
            return wrong(c, "a number, true, false or a word");
        p->params[p->n_params].kind = strpbrk(text, ".eE") ? QN_API_NUMBER : QN_API_INT;
        p->params[p->n_params].value = v;
    }
    p->n_params++;
    c->at += n;
    return 0;
}

static int take_params(struct cursor *c, struct qn_api_part *p) {
    do {
        if (p->n_params == QN_API_PARTS) return wrong(c, "no more than 8 parameters");
        memset(&p->params[p->n_params], 0, sizeof p->params[0]);
        if (take_name(c, p->params[p->n_params].name, "the name of a parameter")) return -1;
        for (uint32_t i = 0; i < p->n_params; i++)
            if (!strcmp(p->params[i].name, p->params[p->n_params].name))
                return qn_api_fail(c->err, QN_API_INVALID, "structures", "\"%.*s\": %s is given twice",
                                   (int)(c->end - c->text < 80 ? c->end - c->text : 80), c->text,
                                   p->params[i].name);
        if (!accept(c, '=')) return wrong(c, "\"=\"");
        if (take_value(c, p)) return -1;
    } while (accept(c, ','));
    return accept(c, ')') ? 0 : wrong(c, "\",\" or \")\"");
}

static int take_part(struct cursor *c, struct qn_api_part *p) {
    if (c->at == c->end || peek(c, '+')) return 0; /* the model's own */
    if (take_name(c, p->type, "the name of a structure")) return -1;
    return accept(c, '(') ? take_params(c, p) : 0;
}

int qn_structure_text(const char *text, size_t n, struct qn_api_compare_structure *out,
                      struct qn_api_err *err) {
    struct cursor c = {.at = text, .end = text + n, .text = text, .err = err};
    struct qn_api_part *parts[] = {&out->attention, &out->ffn, &out->sharing};
    memset(out, 0, sizeof *out);
    if (!n) return wrong(&c, "attention+ffn+sharing");
    for (size_t i = 0; i < 3; i++) {
        if (take_part(&c, parts[i])) return -1;
        if (!accept(&c, '+')) break;
        if (i == 2) return wrong(&c, "no fourth part");
    }
    return c.at == c.end ? 0 : wrong(&c, "\"+\", \"(\" or the end");
}

/* Where this item ends: at a comma outside brackets. */
static size_t item_length(const char *s) {
    size_t n = 0;
    int depth = 0;
    for (; s[n] && (s[n] != ',' || depth > 0); n++) depth += s[n] == '(' ? 1 : s[n] == ')' ? -1 : 0;
    return n;
}

static int append(struct qn_api_compare_structure **list, uint32_t *n,
                  const struct qn_api_compare_structure *s, struct qn_api_err *err) {
    if (*n == QN_COMPARE_STRUCTURES)
        return qn_api_fail(err, QN_API_INVALID, "structures",
                           "more than %u structures: name those to compare", QN_COMPARE_STRUCTURES);
    struct qn_api_compare_structure *p = realloc(*list, (*n + 1) * sizeof *p);
    if (!p) return qn_api_fail(err, QN_API_OUT_OF_MEMORY, "", "out of memory");
    *list = p;
    p[(*n)++] = *s;
    return 0;
}

int qn_structure_list(const char *text, struct qn_api_compare_structure **out, uint32_t *n,
                      struct qn_api_err *err) {
    *out = NULL;
    *n = 0;
    for (;;) {
        size_t k = item_length(text);
        struct qn_api_compare_structure s;
        if (qn_structure_text(text, k, &s, err) || append(out, n, &s, err)) {
            free(*out);
            *out = NULL;
            *n = 0;
            return -1;
        }
        if (!text[k]) return 0;
        text += k + 1;
    }
}

/* ---- all of a model ---- */
/* How much leave an entry needs: 0 native, 1 exact, 2 approximate or untrained, 3 none can be given. */
static int leave(const struct qn_api_structure_entry *e) {
    if (!strcmp(e->exactness, "unavailable")) return 3;
    if (!strcmp(e->slot, "attention") && !e->causal) return 3;
    if (strcmp(e->origin, "converted") != 0) return 0;
    return strcmp(e->exactness, "exact") ? 2 : 1;
}

/* Entries of one slot that need at most `most`; returns how many. out: [n] indices. */
static size_t slot_entries(const struct qn_structure_source *s, const char *slot, int most, size_t *out) {
    size_t k = 0;
    for (size_t i = 0; i < s->n; i++)
        if (!strcmp(s->rows[i].slot, slot) && leave(&s->rows[i]) <= most) out[k++] = i;
    return k;
}

static bool same_param(const struct qn_api_part *a, uint32_t i, const struct qn_api_part *b, uint32_t j) {
    return !strcmp(a->params[i].name, b->params[j].name) && !strcmp(a->params[i].text, b->params[j].text) &&
           fabs(a->params[i].value - b->params[j].value) <= 0;
}

static bool same_part(const struct qn_api_part *a, const struct qn_api_part *b) {
    bool same = !strcmp(a->type, b->type) && a->n_params == b->n_params;
    for (uint32_t i = 0; same && i < a->n_params; i++) same = same_param(a, i, b, i);
    return same;
}

struct list {
    struct qn_api_compare_structure *items;
    uint32_t n;
};

static bool looks_back_only(const struct qn_api_part *attention) {
    for (uint32_t i = 0; i < attention->n_params; i++)
        if (!strcmp(attention->params[i].name, "causal")) return attention->params[i].value > 0;
    return true;
}

/* The model's own structure, and each that differs from it in one part. */
static int vary(const struct qn_structure_source *s, int most, struct list *out, struct qn_api_err *err) {
    struct qn_api_compare_structure one = {.convert = most > 1};
    if (looks_back_only(&s->own->attention) && append(&out->items, &out->n, &one, err)) return -1;
    for (size_t i = 0; i < s->n; i++) {
        const struct qn_api_structure_entry *e = &s->rows[i];
        struct qn_api_part none = {.type = ""};
        bool attention = !strcmp(e->slot, "attention"), ffn = !strcmp(e->slot, "ffn");
        const struct qn_api_part *own = attention ? &s->own->attention
                                        : ffn     ? &s->own->ffn
                                                  : &s->own->sharing;
        if (leave(e) > most || same_part(&e->part, own)) continue;
        one.attention = attention ? e->part : none;
        one.ffn = ffn ? e->part : none;
        one.sharing = attention || ffn ? none : e->part;
        if (append(&out->items, &out->n, &one, err)) return -1;
    }
    return 0;
}

/* Every combination; one part at a time when they would be too many. */
static int combine(const struct qn_structure_source *src, int most, struct list *out,
                   struct qn_api_err *err) {
    size_t n = src->n, *a = calloc(n ? n : 1, 3 * sizeof *a), *f = a ? a + n : NULL,
           *s = a ? a + 2 * n : NULL;
    if (!a) return qn_api_fail(err, QN_API_OUT_OF_MEMORY, "", "out of memory");
    size_t na = slot_entries(src, "attention", most, a), nf = slot_entries(src, "ffn", most, f);
    size_t ns = slot_entries(src, "sharing", most, s), all = na * nf * ns;
    int rc = all > QN_COMPARE_STRUCTURES ? vary(src, most, out, err) : 0;
    if (all > QN_COMPARE_STRUCTURES) all = 0;
    for (size_t i = 0; i < all && !rc; i++) {
        struct qn_api_compare_structure one = {.convert = false};
        one.attention = src->rows[a[i / (nf * ns)]].part;
        one.ffn = src->rows[f[i / ns % nf]].part;
        one.sharing = src->rows[s[i % ns]].part;
        rc = append(&out->items, &out->n, &one, err);
    }
    free(a);
    return rc;
}

/* The model's own structure comes first: it is the baseline when nobody says otherwise. */
static void native_first(const struct qn_api_structure *own, struct qn_api_compare_structure *list,
                         uint32_t n) {
    uint32_t i = 0;
    while (i < n && !(same_part(&list[i].attention, &own->attention) && same_part(&list[i].ffn, &own->ffn) &&
                      same_part(&list[i].sharing, &own->sharing)))
        i++;
    if (i == n) return;
    struct qn_api_compare_structure first = list[i];
    memmove(&list[1], &list[0], i * sizeof *list);
    list[0] = first;
}

int qn_structure_choose(const struct qn_structure_source *s, bool convert,
                        struct qn_api_compare_structure **out, uint32_t *count, struct qn_api_err *err) {
    struct list list = {NULL, 0};
    *out = NULL;
    *count = 0;
    int rc = convert ? vary(s, 2, &list, err) : combine(s, 0, &list, err);
    if (!rc && !convert && list.n <= 1) {
        list.n = 0;
        rc = combine(s, 1, &list, err);
    }
    if (!rc && !list.n)
        rc = qn_api_fail(err, QN_API_UNSUPPORTED, "structures", "this model has none to compare");
    if (rc) {
        free(list.items);
        return rc;
    }
    native_first(s->own, list.items, list.n);
    *out = list.items;
    *count = list.n;
    return 0;
}

int qn_structure_all(struct qn_model *m, bool convert, struct qn_api_compare_structure **out, uint32_t *count,
                     struct qn_api_err *err) {
    size_t n = qn_model_structures(m, NULL, 0);
    struct qn_structure_entry *from = calloc(n ? n : 1, sizeof *from);
    struct qn_api_structure_entry *rows = calloc(n ? n : 1, sizeof *rows);
    struct qn_variant *v = qn_native_variant(m);
    struct qn_api_structure own;
    int rc = -1;
    *out = NULL;
    *count = 0;
    if (from && rows && v) {
        qn_model_structures(m, from, n);
        for (size_t i = 0; i < n; i++) {
            rows[i].slot = from[i].slot;
            rows[i].origin = qn_origin_name(from[i].origin);
            rows[i].exactness = qn_exactness_name(from[i].exactness);
            rows[i].causal = from[i].causal;
            qn_part_to_api(&from[i].part, &rows[i].part);
        }
        qn_structure_to_api(qn_variant_structure(v), &own);
        rc = qn_structure_choose(&(struct qn_structure_source){rows, n, &own}, convert, out, count, err);
    } else {
        qn_api_fail(err, QN_API_OUT_OF_MEMORY, "", "out of memory");
    }
    if (v) qn_variant_unref(v);
    free(from);
    free(rows);
    return rc;
}

/* ---- names ---- */
static const struct qn_api_part *part_of(const struct qn_api_comparison *r, uint32_t i, enum qn_slot slot) {
    const struct qn_api_structure *s = &r->results[i].structure;
    return slot == QN_SLOT_ATTENTION ? &s->attention : slot == QN_SLOT_FFN ? &s->ffn : &s->sharing;
}

/* Is there a part of the same type that lacks parameter k, or has another value of it? */
static bool tells_apart(const struct qn_api_comparison *r, const struct qn_api_part *p, uint32_t k,
                        enum qn_slot slot) {
    for (uint32_t i = 0; i < r->n_results; i++) {
        const struct qn_api_part *other = part_of(r, i, slot);
        bool same = false;
        if (strcmp(other->type, p->type) != 0) continue;
        for (uint32_t j = 0; j < other->n_params && !same; j++) same = same_param(p, k, other, j);
        if (!same) return true;
    }
    return false;
}

/* Appends to the text in out, cut at size; returns its new length. */
static size_t put(char *out, size_t size, size_t at, const char *text) {
    size_t n = strlen(text), room = size - 1 - at;
    if (n > room) n = room;
    memcpy(out + at, text, n);
    out[at + n] = '\0';
    return at + n;
}

const char *qn_structure_part_name(const struct qn_api_comparison *r, uint32_t i, enum qn_slot slot,
                                   char *out, size_t size) {
    const struct qn_api_part *p = part_of(r, i, slot);
    size_t at = put(out, size, 0, p->type);
    bool any = false;
    for (uint32_t k = 0; k < p->n_params; k++) {
        char value[32];
        if (!tells_apart(r, p, k, slot)) continue;
        at = put(out, size, at, any ? "," : "(");
        at = put(out, size, at, p->params[k].name);
        snprintf(value, sizeof value, "%.15g", p->params[k].value);
        if (p->params[k].kind == QN_API_BOOL)
            snprintf(value, sizeof value, p->params[k].value > 0 ? "true" : "false");
        at = put(out, size, at, "=");
        at = put(out, size, at, p->params[k].kind == QN_API_TEXT ? p->params[k].text : value);
        any = true;
    }
    if (any) put(out, size, at, ")");
    return out;
}

const char *qn_structure_name(const struct qn_api_comparison *r, uint32_t i, char *out, size_t size) {
    char part[QN_STRUCTURE_NAME];
    size_t at = 0;
    for (int slot = QN_SLOT_ATTENTION; slot <= QN_SLOT_SHARING; slot++) {
        if (slot > QN_SLOT_ATTENTION) at = put(out, size, at, "+");
        at = put(out, size, at, qn_structure_part_name(r, i, (enum qn_slot)slot, part, sizeof part));
    }
    return out;
}
