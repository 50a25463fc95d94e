/* Structures from the words of api/ to those of model/ and back. Pure. Thread: any. */
#include "server/translate.h"

#include <assert.h>
#include <stdio.h>
#include <string.h>

static_assert(QN_API_PARTS == QN_PART_PARAMS, "a part has as many parameters on both sides");
static_assert((int)QN_API_INT == (int)QN_PARAM_INT && (int)QN_API_BOOL == (int)QN_PARAM_BOOL &&
                  (int)QN_API_NUMBER == (int)QN_PARAM_NUMBER && (int)QN_API_TEXT == (int)QN_PARAM_TEXT,
              "kinds of parameters are numbered alike on both sides");

void qn_api_to_part(const struct qn_api_part *from, struct qn_part *to) {
    memset(to, 0, sizeof *to);
    snprintf(to->type, sizeof to->type, "%s", from->type);
    for (uint32_t i = 0; i < from->n_params && i < QN_PART_PARAMS; i++) {
        snprintf(to->params[i].name, sizeof to->params[i].name, "%s", from->params[i].name);
        snprintf(to->params[i].text, sizeof to->params[i].text, "%s", from->params[i].text);
        to->params[i].kind = (enum qn_param_kind)from->params[i].kind;
        to->params[i].value = from->params[i].value;
        to->n_params++;
    }
}

void qn_part_to_api(const struct qn_part *from, struct qn_api_part *to) {
    memset(to, 0, sizeof *to);
    snprintf(to->type, sizeof to->type, "%s", from->type);
    for (uint32_t i = 0; i < from->n_params && i < QN_PART_PARAMS; i++) {
        snprintf(to->params[i].name, sizeof to->params[i].name, "%s", from->params[i].name);
        snprintf(to->params[i].text, sizeof to->params[i].text, "%s", from->params[i].text);
        to->params[i].kind = (enum qn_api_kind)from->params[i].kind;
        to->params[i].value = from->params[i].value;
        to->n_params++;
    }
}

const char *qn_origin_name(enum qn_origin o) {
    static const char *const names[] = {"native", "converted", "synthetic"};
    return names[(unsigned)o < 3 ? o : 1];
}

void qn_structure_to_api(const struct qn_structure *from, struct qn_api_structure *to) {
    memset(to, 0, sizeof *to);
    qn_part_to_api(&from->attention, &to->attention);
    qn_part_to_api(&from->ffn, &to->ffn);
    qn_part_to_api(&from->sharing, &to->sharing);
    to->origin = qn_origin_name(from->origin);
    to->exactness = qn_exactness_name(from->exactness);
}

int qn_fail_from_model(struct qn_api_err *err, const struct qn_err *from, enum qn_api_code code) {
    if (from->code == QN_ERR_NOMEM) return qn_api_fail(err, QN_API_OUT_OF_MEMORY, "", "out of memory");
    return qn_api_fail(err, code, from->param, "%s", from->msg);
}

int qn_resolve_parts(struct qn_model *m, const struct qn_api_parts *parts, enum qn_api_task task,
                     struct qn_variant **out, struct qn_api_err *err) {
    struct qn_structure_request r;
    struct qn_err me = {0};
    *out = NULL;
    qn_api_to_part(parts->attention, &r.attention);
    qn_api_to_part(parts->ffn, &r.ffn);
    qn_api_to_part(parts->sharing, &r.sharing);
    r.convert = parts->convert;
    r.causal = task != QN_TASK_EMBED;
    return qn_variant_resolve(m, &r, out, &me) ? qn_fail_from_model(err, &me, QN_API_UNSUPPORTED) : 0;
}

struct qn_variant *qn_native_variant(struct qn_model *m) {
    static const struct qn_structure_request native = {0};
    struct qn_variant *v = NULL;
    return qn_variant_resolve(m, &native, &v, NULL) == QN_OK ? v : NULL;
}
