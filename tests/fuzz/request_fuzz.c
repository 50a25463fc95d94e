/* libFuzzer target: bodies of /v1/infer, /v1/compare, /tokenize, /detokenize and the OpenAI
 * endpoints. Beyond memory safety it holds
 * that a refusal says what and is itself a valid reply, that an accepted request respects every bound, and
 * that the block of a document is never too small. */
#include <jansson.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "api/compare.h"
#include "api/infer_fields.h"
#include "api/jload.h"
#include "api/models.h"
#include "api/openai.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void must(bool ok) {
    if (!ok) abort(); /* a find */
}

static void check_error(const struct qn_api_err *e) {
    struct qn_buf b = {0};
    must(e->code != QN_API_OK && e->msg[0] && qn_api_status(e->code) >= 400);
    qn_api_error_write(&b, e);
    json_t *v = json_loadb(b.p, b.n, 0, NULL);
    json_t *msg = json_string(e->msg), *param = json_string(e->param); /* NULL when not UTF-8 */
    must(v && msg && param);
    json_decref(v);
    json_decref(msg);
    json_decref(param);
    qn_buf_free(&b);
}

static void check_request(const struct qn_api_infer *r, const struct qn_api_limits *lim) {
    must(r->n_seqs >= 1 && (uint64_t)r->n_seqs * r->n <= lim->max_outputs);
    must(r->max_tokens <= lim->max_tokens && r->top_p > 0 && r->top_p <= 1 && r->min_p >= 0 && r->min_p <= 1);
    must(r->temperature >= 0 && r->temperature <= 100 && r->repetition_penalty > 0 && r->logprobs <= 20);
    must(r->n_stop <= QN_API_MAX_STOP && r->attention.n_params <= QN_API_PARTS && r->timeout_ms <= 3600000);
    for (uint32_t i = 0; i < r->n_seqs; i++) {
        const struct qn_api_seq *s = &r->seqs[i];
        must(s->n > 0 && (s->is_ids ? s->ids != NULL : strlen(s->text) == s->n));
        for (size_t k = 0; s->is_ids && k < s->n; k++) must(s->ids[k] >= 0);
    }
    for (uint32_t i = 0; i < r->n_stop; i++) must(r->stop_len[i] >= 1 && r->stop_len[i] <= 256);
}

static void check_openai(const char *body, size_t size, const struct qn_api_limits *lim) {
    for (int form = QN_FORM_COMPLETION; form < QN_FORM_COUNT; form++) {
        struct qn_api_openai r;
        struct qn_api_err e = {0};
        if (qn_api_openai_parse((enum qn_api_form)form, body, size, lim, &r, &e)) {
            check_error(&e);
        } else if (form == QN_FORM_CHAT) {
            must(r.n_messages >= 1 && r.run.max_tokens <= lim->max_tokens && r.run.logprobs <= 20);
            for (uint32_t i = 0; i < r.n_messages; i++)
                must(r.messages[i].role[0] && strlen(r.messages[i].text) == r.messages[i].n);
        } else if (form == QN_FORM_EMBEDDING) {
            must(r.run.n_seqs >= 1 && r.run.n_seqs <= QN_API_MAX_INPUTS && r.run.task == QN_TASK_EMBED);
        } else {
            check_request(&r.run, lim);
        }
        qn_api_openai_free(&r);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    static const struct qn_api_limits lim = {
        .max_outputs = 8, .max_tokens = 4096, .max_depth = 32, .max_elements = 5000};
    const char *body = (const char *)data;
    struct qn_api_infer r;
    struct qn_api_tokenize t;
    struct qn_api_detokenize d;
    struct qn_jdoc doc;
    struct qn_api_err e = {0};
    if (qn_api_infer_parse(body, size, &lim, &r, &e))
        check_error(&e);
    else
        check_request(&r, &lim);
    qn_api_infer_free(&r);
    struct qn_api_compare c;
    e = (struct qn_api_err){0};
    if (qn_api_compare_parse(body, size, &lim, &c, &e)) {
        check_error(&e);
    } else {
        must(c.n_structures >= 1 && c.n_structures <= QN_COMPARE_STRUCTURES && c.baseline < c.n_structures);
        must(c.repeats >= 1 && c.repeats <= QN_COMPARE_REPEATS && c.run.n_seqs == 1);
    }
    qn_api_compare_free(&c);
    e = (struct qn_api_err){0};
    if (qn_api_tokenize_parse(body, size, &t, &e)) check_error(&e);
    qn_api_tokenize_free(&t);
    e = (struct qn_api_err){0};
    if (qn_api_detokenize_parse(body, size, &d, &e)) check_error(&e);
    qn_api_detokenize_free(&d);
    e = (struct qn_api_err){0};
    check_openai(body, size, &lim);
    (void)qn_jdoc_open(&doc, body, size, NULL, &e);
    must(!doc.exhausted && e.code != QN_API_OUT_OF_MEMORY);
    qn_jdoc_close(&doc);
    return 0;
}
