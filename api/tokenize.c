/* The bodies of POST /tokenize and /detokenize, both ways. Data flow: bytes -> struct, result -> bytes.
 * Thread: any. */
#include <stdlib.h>
#include <string.h>

#include "api/infer_set.h"
#include "api/infer_write.h"
#include "api/jload.h"
#include "api/models.h"

#define MAX_IDS 262144 /* token ids of one /detokenize */

/* ---- /tokenize ---- */

#define AT(member) offsetof(struct qn_api_tokenize, member)
#define TEXT(name, doc)                                                                                      \
    { (name), QN_FIELD_TEXT, 0, 0, false, QN_FOR_ALL, NULL, (doc), AT(text), 0 }
#define FLAG(name, def, doc, member)                                                                         \
    { (name), QN_FIELD_BOOL, 0, 0, false, QN_FOR_ALL, (def), (doc), AT(member), 0 }

static const struct qn_api_field tok_fields[] = {
    {"model", QN_FIELD_MODEL, 1, 64, false, QN_FOR_ALL, NULL,
     "Id of a loaded model; the first loaded one when left out.", AT(model), 0},
    TEXT("prompt", "The text. It is given once, by one of its three names."),
    TEXT("text", "Another name of prompt."),
    TEXT("content", "Another name of prompt."),
    FLAG("add_special_tokens", "true",
         "Put the beginning-of-sequence token before the text where the model asks for it.", add_special),
    FLAG("add_special", "true", "Another name of add_special_tokens.", add_special),
    FLAG("with_pieces", "false", "Also return the text of every token.", with_pieces),
};
const struct qn_api_table qn_api_tokenize_table = {"TokenizeRequest",
                                                   tok_fields,
                                                   sizeof tok_fields / sizeof *tok_fields,
                                                   {NULL},
                                                   {"prompt", "text", "content"}};

int qn_api_tokenize_parse(const char *body, size_t len, struct qn_api_tokenize *out, struct qn_api_err *err) {
    struct qn_jdoc doc;
    memset(out, 0, sizeof *out);
    out->add_special = true;
    int rc = qn_jdoc_open(&doc, body, len, &(struct qn_jbounds){.max_depth = 8, .max_elements = 256}, err);
    if (rc == 0) rc = qn_api_table_read(&qn_api_tokenize_table, doc.root, out, NULL, err);
    if (rc == 0 && !out->text.p)
        rc = qn_api_fail(err, QN_API_INVALID, "prompt",
                         "\"prompt\" is required (\"text\" and \"content\" also work)");
    qn_jdoc_close(&doc);
    return rc;
}

void qn_api_tokenize_free(struct qn_api_tokenize *r) {
    if (!r) return;
    free(r->text.p);
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

static const struct qn_api_field detok_fields[] = {
    {"model", QN_FIELD_MODEL, 1, 64, false, QN_FOR_ALL, NULL,
     "Id of a loaded model; the first loaded one when left out.", offsetof(struct qn_api_detokenize, model),
     0},
    {"tokens", QN_FIELD_IDS, 0, MAX_IDS, false, QN_FOR_ALL, NULL, "Token ids, possibly none.",
     offsetof(struct qn_api_detokenize, ids), 0},
};
const struct qn_api_table qn_api_detokenize_table = {
    "DetokenizeRequest", detok_fields, sizeof detok_fields / sizeof *detok_fields, {"tokens"}, {NULL}};

int qn_api_detokenize_parse(const char *body, size_t len, struct qn_api_detokenize *out,
                            struct qn_api_err *err) {
    struct qn_jdoc doc;
    memset(out, 0, sizeof *out);
    int rc =
        qn_jdoc_open(&doc, body, len, &(struct qn_jbounds){.max_depth = 8, .max_elements = MAX_IDS}, err);
    if (rc == 0) rc = qn_api_table_read(&qn_api_detokenize_table, doc.root, out, NULL, err);
    if (rc == 0 && !out->ids.p)
        rc = qn_api_fail(err, QN_API_INVALID, "tokens", "\"tokens\" is required: an array of token ids");
    qn_jdoc_close(&doc);
    return rc;
}

void qn_api_detokenize_free(struct qn_api_detokenize *r) {
    if (!r) return;
    free(r->ids.p);
    memset(r, 0, sizeof *r);
}

void qn_api_detokenize_write(struct qn_buf *out, const char *text, size_t n) {
    qn_buf_str(out, "{\"prompt\":");
    qn_buf_json_str(out, text, n);
    qn_buf_str(out, ",\"text\":");
    qn_buf_json_str(out, text, n);
    qn_buf_str(out, "}");
}
