/* The bodies of POST /tokenize and /detokenize, both ways. Data flow: bytes -> struct, result -> bytes.
 * Thread: any. */
#include <stdlib.h>
#include <string.h>

#include "api/infer_write.h"
#include "api/jget.h"
#include "api/jload.h"
#include "api/models.h"

#define MAX_IDS 262144 /* token ids of one /detokenize */

/* ---- /tokenize ---- */

enum { F_MODEL = 0, F_PROMPT, F_TEXT, F_CONTENT, F_SPECIAL, F_SPECIAL2, F_PIECES, F_COUNT };
static const char *const tok_fields[F_COUNT] = {
    "model", "prompt", "text", "content", "add_special_tokens", "add_special", "with_pieces"};

static size_t index_of(const char *key, const char *const *names, size_t n) {
    size_t i = 0;
    while (i < n && strcmp(key, names[i]) != 0) i++;
    return i;
}

static int tok_field(size_t f, const json_t *v, struct qn_api_tokenize *out, struct qn_api_err *err) {
    switch (f) {
    case F_MODEL:
        return qn_jget_model(v, out->model, err);
    case F_PROMPT:
    case F_TEXT:
    case F_CONTENT:
        if (out->text)
            return qn_api_fail(err, QN_API_INVALID, tok_fields[f],
                               "give the text once, as \"prompt\", \"text\" or \"content\"");
        return qn_jget_text(v, tok_fields[f], 0, SIZE_MAX - 1, &out->text, &out->n, err);
    case F_SPECIAL:
    case F_SPECIAL2:
        return qn_jget_bool(v, tok_fields[f], &out->add_special, err);
    default:
        return qn_jget_bool(v, tok_fields[f], &out->with_pieces, err);
    }
}

static int tok_fields_of(json_t *root, struct qn_api_tokenize *out, struct qn_api_err *err) {
    const char *key;
    json_t *v;
    json_object_foreach(root, key, v) {
        size_t f = index_of(key, tok_fields, F_COUNT);
        if (f == F_COUNT) return qn_junknown(key, tok_fields, F_COUNT, err);
        if (!json_is_null(v) && tok_field(f, v, out, err)) return -1;
    }
    if (!out->text)
        return qn_api_fail(err, QN_API_INVALID, "prompt",
                           "\"prompt\" is required (\"text\" and \"content\" also work)");
    return 0;
}

int qn_api_tokenize_parse(const char *body, size_t len, struct qn_api_tokenize *out, struct qn_api_err *err) {
    struct qn_jdoc doc;
    memset(out, 0, sizeof *out);
    out->add_special = true;
    int rc = qn_jdoc_open(&doc, body, len, &(struct qn_jbounds){8, 256}, err);
    if (rc == 0) rc = tok_fields_of(doc.root, out, err);
    qn_jdoc_close(&doc);
    return rc;
}

void qn_api_tokenize_free(struct qn_api_tokenize *r) {
    if (!r) return;
    free(r->text);
    memset(r, 0, sizeof *r);
}

void qn_api_tokenize_write(struct qn_buf *out, const struct qn_api_tokens *t) {
    qn_buf_str(out, "{\"count\":");
    qn_buf_json_uint(out, t->n);
    qn_buf_str(out, ",\"max_model_len\":");
    qn_buf_json_uint(out, t->max_len);
    qn_buf_str(out, ",\"tokens\":");
    qn_api_ids_write(out, t->ids, t->n);
    if (t->pieces) {
        qn_buf_str(out, ",\"pieces\":[");
        for (size_t i = 0; i < t->n; i++) {
            if (i) qn_buf_str(out, ",");
            qn_buf_json_str(out, t->pieces[i].text ? t->pieces[i].text : "",
                            t->pieces[i].text ? t->pieces[i].text_len : 0);
        }
        qn_buf_str(out, "]");
    }
    qn_buf_str(out, "}");
}

/* ---- /detokenize ---- */

static const char *const detok_fields[] = {"model", "tokens"};

static int detok_fields_of(json_t *root, struct qn_api_detokenize *out, struct qn_api_err *err) {
    const char *key;
    json_t *v;
    json_object_foreach(root, key, v) {
        size_t f = index_of(key, detok_fields, 2);
        int rc = 0;
        if (f == 2) return qn_junknown(key, detok_fields, 2, err);
        if (json_is_null(v)) continue;
        if (f == 0)
            rc = qn_jget_model(v, out->model, err);
        else
            rc = qn_jget_ids(v, &(struct qn_jids){"tokens", true, true}, &out->ids, &out->n, err);
        if (rc) return -1;
    }
    if (!out->ids)
        return qn_api_fail(err, QN_API_INVALID, "tokens", "\"tokens\" is required: an array of token ids");
    return 0;
}

int qn_api_detokenize_parse(const char *body, size_t len, struct qn_api_detokenize *out,
                            struct qn_api_err *err) {
    struct qn_jdoc doc;
    memset(out, 0, sizeof *out);
    int rc = qn_jdoc_open(&doc, body, len, &(struct qn_jbounds){8, MAX_IDS}, err);
    if (rc == 0) rc = detok_fields_of(doc.root, out, err);
    qn_jdoc_close(&doc);
    return rc;
}

void qn_api_detokenize_free(struct qn_api_detokenize *r) {
    if (!r) return;
    free(r->ids);
    memset(r, 0, sizeof *r);
}

void qn_api_detokenize_write(struct qn_buf *out, const char *text, size_t n) {
    qn_buf_str(out, "{\"prompt\":");
    qn_buf_json_str(out, text, n);
    qn_buf_str(out, ",\"text\":");
    qn_buf_json_str(out, text, n);
    qn_buf_str(out, "}");
}
