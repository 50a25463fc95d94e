/* GET /tokenizer_info: what a client needs that has no copy of the tokenizer. The model is ?model=ID, else
 * the first one. Thread: loop. */
#include "api/models.h"
#include "server/handlers.h"

static struct qn_api_special special(const struct qn_model *m, int32_t id) {
    struct qn_str_ref s = qn_model_piece(m, id, true);
    return (struct qn_api_special){.id = id, .text = s.p, .n = s.n};
}

void qn_handle_tokenizer_info(struct qn_request *r) {
    const struct qn_model *m = qn_registry_find(&r->srv->models, r->arg);
    const struct qn_model_info *i = m ? qn_model_info(m) : NULL;
    if (!m || !i->has_tokenizer) {
        struct qn_api_err err = {.code = QN_API_OK};
        if (m)
            qn_api_fail(&err, QN_API_INVALID, "model", "model '%s' has no tokenizer", i->id);
        else
            qn_api_fail(&err, QN_API_MODEL_NOT_FOUND, "model", "no model '%.64s'; GET /v1/models lists them",
                        r->arg);
        qn_reply_error(r, &err);
        return;
    }
    const struct qn_api_tokenizer_info t = {.model = i->id,
                                            .vocab = i->vocab,
                                            .context = i->context,
                                            .adds_bos = i->adds_bos,
                                            .adds_eos = i->adds_eos,
                                            .bos = special(m, i->bos),
                                            .eos = special(m, i->eos),
                                            .unk = special(m, i->unk),
                                            .pad = special(m, i->pad),
                                            .chat_template = i->chat_template_text,
                                            .chat_template_name = i->chat_template};
    qn_api_tokenizer_info_write(&r->reply, &t);
    qn_reply_json(r);
}
