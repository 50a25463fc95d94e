/* Helpers on struct qn_part: see part.h. Pure. Thread: any. */
#include "model/part.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

void qn_part_init(struct qn_part *p, const char *type) {
    memset(p, 0, sizeof *p);
    snprintf(p->type, sizeof p->type, "%s", type);
}

void qn_part_add(struct qn_part *p, const char *name, enum qn_param_kind kind, double value) {
    if (p->n_params >= QN_PART_PARAMS) return;
    struct qn_param *q = &p->params[p->n_params++];
    snprintf(q->name, sizeof q->name, "%s", name);
    q->kind = kind;
    q->value = value;
}

void qn_part_add_text(struct qn_part *p, const char *name, const char *text) {
    uint32_t at = p->n_params;
    qn_part_add(p, name, QN_PARAM_TEXT, 0);
    if (p->n_params > at) snprintf(p->params[at].text, sizeof p->params[at].text, "%s", text);
}

static struct qn_param_rule *add_rule(struct qn_rules *r, const char *name, enum qn_param_kind kind) {
    if (r->n >= QN_PART_PARAMS) return NULL;
    struct qn_param_rule *rule = &r->at[r->n++];
    *rule = (struct qn_param_rule){.kind = kind};
    snprintf(rule->name, sizeof rule->name, "%s", name);
    return rule;
}

void qn_rule_int(struct qn_rules *r, const char *name, double min, double max) {
    struct qn_param_rule *rule = add_rule(r, name, QN_PARAM_INT);
    if (!rule) return;
    rule->min = min;
    rule->max = max;
}

void qn_rule_bool(struct qn_rules *r, const char *name) {
    add_rule(r, name, QN_PARAM_BOOL);
}

void qn_rule_words(struct qn_rules *r, const char *name, const char *const *words) {
    struct qn_param_rule *rule = add_rule(r, name, QN_PARAM_TEXT);
    if (rule) rule->words = words;
}

const struct qn_param *qn_part_find(const struct qn_part *p, const char *name) {
    for (uint32_t i = 0; i < p->n_params && i < QN_PART_PARAMS; i++) {
        if (strncmp(p->params[i].name, name, sizeof p->params[i].name) == 0) return &p->params[i];
    }
    return NULL;
}

static size_t put(char *out, size_t size, size_t at, const char *text) {
    if (at >= size) return at;
    int n = snprintf(out + at, size - at, "%s", text);
    return n < 0 ? at : at + (size_t)n;
}

const char *qn_part_print(const struct qn_part *p, char *out, size_t size) {
    if (size == 0) return "";
    out[0] = 0;
    size_t at = put(out, size, 0, p->type);
    for (uint32_t i = 0; i < p->n_params; i++) {
        const struct qn_param *q = &p->params[i];
        char value[80];
        if (q->kind == QN_PARAM_BOOL) {
            snprintf(value, sizeof value, "%s", q->value != 0 ? "true" : "false");
        } else if (q->kind == QN_PARAM_TEXT) {
            snprintf(value, sizeof value, "%.*s", (int)sizeof q->text, q->text);
        } else {
            snprintf(value, sizeof value, "%.17g", q->value);
        }
        at = put(out, size, at, i == 0 ? "(" : ",");
        at = put(out, size, at, q->name);
        at = put(out, size, at, "=");
        at = put(out, size, at, value);
    }
    if (p->n_params > 0) put(out, size, at, ")");
    return out;
}

/* Integers and numbers compare by value; words and booleans only with their own kind. */
static bool same_value(const struct qn_param *a, const struct qn_param *b) {
    bool number[2] = {a->kind == QN_PARAM_INT || a->kind == QN_PARAM_NUMBER,
                      b->kind == QN_PARAM_INT || b->kind == QN_PARAM_NUMBER};
    if (a->kind != b->kind && !(number[0] && number[1])) return false;
    if (a->kind == QN_PARAM_TEXT) return strncmp(a->text, b->text, sizeof a->text) == 0;
    return a->value == b->value;
}

int qn_part_check(const struct qn_part *ask, const struct qn_part *resolved, const char *slot,
                  struct qn_err *err) {
    for (uint32_t i = 0; i < ask->n_params && i < QN_PART_PARAMS; i++) {
        const struct qn_param *a = &ask->params[i];
        const struct qn_param *r = qn_part_find(resolved, a->name);
        if (!r) {
            return qn_err_param(err, QN_ERR_INVALID, slot, "%s \"%s\" has no parameter \"%.23s\"", slot,
                                resolved->type, a->name);
        }
        if (!same_value(a, r)) {
            char text[QN_PART_TEXT];
            return qn_err_param(err, QN_ERR_INVALID, slot,
                                "%s parameter \"%s\" can't be set to this value here: %s", slot, a->name,
                                qn_part_print(resolved, text, sizeof text));
        }
    }
    return QN_OK;
}

int qn_part_uint(const struct qn_part *ask, const char *slot, const char *name, uint32_t max, uint32_t *out,
                 struct qn_err *err) {
    const struct qn_param *q = qn_part_find(ask, name);
    if (!q) return QN_OK;
    /* the comparison with floor is false for NaN too */
    if ((q->kind != QN_PARAM_INT && q->kind != QN_PARAM_NUMBER) ||
        !(q->value >= 1 && q->value <= (double)max) || q->value != floor(q->value)) {
        return qn_err_param(err, QN_ERR_INVALID, slot, "%s parameter \"%s\" must be an integer from 1 to %u",
                            slot, name, max);
    }
    *out = (uint32_t)q->value;
    return QN_OK;
}
