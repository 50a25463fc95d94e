/* The reply of GET /tokenizer_info: what evaluation tools ask of a tokenizer that they have no copy of, under
 * the names that tokenizer_config.json uses. Data flow: facts -> bytes. Thread: any. */
#include <string.h>

#include "api/models.h"

static void add_text(struct qn_buf *b, const char *key, const char *s, size_t n) {
    qn_buf_str(b, key);
    if (s)
        qn_buf_json_str(b, s, n);
    else
        qn_buf_str(b, "null");
}

static void add_token(struct qn_buf *b, const char *name, const struct qn_api_special *t) {
    qn_buf_printf(b, ",\"%s_token\":", name);
    if (t->id < 0) {
        qn_buf_printf(b, "null,\"%s_token_id\":null", name);
        return;
    }
    qn_buf_json_str(b, t->text, t->n);
    qn_buf_printf(b, ",\"%s_token_id\":%d", name, (int)t->id);
}

void qn_api_tokenizer_info_write(struct qn_buf *b, const struct qn_api_tokenizer_info *t) {
    add_text(b, "{\"model\":", t->model, strlen(t->model));
    qn_buf_str(b, ",\"tokenizer_class\":\"PreTrainedTokenizerFast\",\"vocab_size\":");
    qn_buf_json_uint(b, t->vocab);
    qn_buf_str(b, ",\"model_max_length\":");
    qn_buf_json_uint(b, t->context);
    qn_buf_printf(b, ",\"add_bos_token\":%s,\"add_eos_token\":%s", t->adds_bos ? "true" : "false",
                  t->adds_eos ? "true" : "false");
    add_token(b, "bos", &t->bos);
    add_token(b, "eos", &t->eos);
    add_token(b, "unk", &t->unk);
    add_token(b, "pad", &t->pad);
    const char *text = t->chat_template && t->chat_template[0] ? t->chat_template : NULL,
               *name = t->chat_template_name && t->chat_template_name[0] ? t->chat_template_name : NULL;
    add_text(b, ",\"chat_template\":", text, text ? strlen(text) : 0);
    add_text(b, ",\"chat_template_name\":", name, name ? strlen(name) : 0);
    qn_buf_str(b, "}");
}
