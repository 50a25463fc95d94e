/* Replies that describe models: GET /v1/models, GET /v1/structures; and the small bodies of /tokenize,
 * /detokenize. Pure, any thread. */
#ifndef QN_API_MODELS_H
#define QN_API_MODELS_H

#include "api/infer.h"

struct qn_api_model {
    const char *id, *family, *format, *kv_type;
    int64_t created;
    uint64_t params_total, params_active, layers, d_model, heads, kv_heads, head_dim, ffn_dim, vocab, context;
    uint64_t file_bytes, weights_bytes, state_bytes_per_token;
    struct qn_api_structure native;
    struct {
        const char *name;
        uint64_t bytes;
    } by_type[16]; /* unused: name NULL */
    uint64_t state_budget;
    const char *chat_template; /* "" or NULL = null */
    struct qn_api_kind_row {   /* what it can run, by slot, native ones first */
        const char *slot;
        char type[24];
        const char *exactness;
    } kinds[24];
    uint32_t n_kinds;
};
void qn_api_models_write(struct qn_buf *out, const struct qn_api_model *m,
                         size_t n); /* {"object":"list","data":[…]} */
void qn_api_model_write(struct qn_buf *out, const struct qn_api_model *m);

struct qn_api_rule { /* a parameter that a request may set */
    const char *name;
    enum qn_api_kind kind;
    double min, max;          /* of numbers */
    const char *const *words; /* of a text: those it may be, NULL at the end */
    bool has_default;
    double value; /* the default, */
    const char *text;
};
struct qn_api_structure_entry {
    const char *slot; /* "attention" | "ffn" | "sharing" */
    struct qn_api_part part;
    const char *origin, *exactness, *why; /* why "" = null */
    bool causal, rollback;
    uint64_t state_bytes_per_token, state_fixed_bytes;
    struct qn_api_rule rules[QN_API_PARTS];
    uint32_t n_rules;
};
struct qn_api_held_out { /* a native structure on text that it was not trained on, as measured */
    const char *attention, *ffn, *sharing;
    double nats_per_byte, bits_per_byte;
};
struct qn_api_structures {
    const char *model;
    uint32_t context; /* longest sequence, tokens */
    const struct qn_api_structure_entry *entries;
    size_t n;
    const struct qn_api_held_out *held_out;
    size_t n_held_out;
};
void qn_api_structures_write(struct qn_buf *out, const struct qn_api_structures *m, size_t n);

/* /tokenize {"model"?, "prompt"|"text"|"content", "add_special_tokens"?} */
struct qn_api_tokenize {
    char model[65];
    struct qn_api_text text;
    bool add_special;
    bool with_pieces;
};
int qn_api_tokenize_parse(const char *body, size_t len, struct qn_api_tokenize *out, struct qn_api_err *err);
void qn_api_tokenize_free(struct qn_api_tokenize *r);
/* {"count":…, "max_model_len":…, "tokens":[…]} with "pieces":[…] when asked. */
struct qn_api_tokens {
    const int32_t *ids;
    size_t n;
    uint64_t max_len;
    const struct qn_api_logprob *pieces;
};
void qn_api_tokenize_write(struct qn_buf *out, const struct qn_api_tokens *t);

/* /detokenize {"model"?, "tokens":[…]} -> {"prompt":"…","text":"…"} */
struct qn_api_detokenize {
    char model[65];
    struct qn_api_ids ids;
};
int qn_api_detokenize_parse(const char *body, size_t len, struct qn_api_detokenize *out,
                            struct qn_api_err *err);
void qn_api_detokenize_free(struct qn_api_detokenize *r);
void qn_api_detokenize_write(struct qn_buf *out, const char *text, size_t n);

/* GET /tokenizer_info */
struct qn_api_special {
    int32_t id; /* -1: there is none */
    const char *text;
    size_t n;
};
struct qn_api_tokenizer_info {
    const char *model;
    uint64_t vocab, context;
    bool adds_bos, adds_eos;
    struct qn_api_special bos, eos, unk, pad;
    const char *chat_template;      /* the checkpoint's own text; "" when none */
    const char *chat_template_name; /* the format that chats are written in; "" when none */
};
void qn_api_tokenizer_info_write(struct qn_buf *out, const struct qn_api_tokenizer_info *t);

#endif
