/* The model as the server sees it: open, describe, resolve a structure, hold sequences, run a step.
 *
 * The caller need not know: file formats, tensor names, layers, kernels, how state is laid out. This header
 * (with batch.h, sample.h, err.h, save/save.h) is all of model/ that server/ includes; tests link server/
 * against another implementation of it.
 *
 * Threads. qn_model_open/close: the thread that owns the process's start and end. qn_model_info, structures,
 * resolve, tokenize, piece and cost are safe from any thread at any time. Everything on sequences, steps,
 * prepare and the state pool belongs to the engine thread alone. qn_state_stats and qn_model_memory may be
 * read anywhere (atomics). */
#ifndef QN_MODEL_MODEL_H
#define QN_MODEL_MODEL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "kernels/pool.h"
#include "model/err.h"

struct qn_model;   /* a checkpoint in memory, its tokenizer, state pool and conversions */
struct qn_variant; /* one structure of a model, ready or to be made ready; refcounted */
struct qn_seq;     /* one sequence's state */

/* ---- open ---- */
/* How keys and values are stored; structures.md says what each costs. */
enum qn_state_type { QN_STATE_F16 = 0, QN_STATE_F32, QN_STATE_BF16, QN_STATE_Q8, QN_STATE_TYPES };

struct qn_open_options {
    struct qn_pool *pool; /* borrowed; all arithmetic of this model runs on it */
    enum qn_state_type state_type;
    size_t state_bytes;       /* budget of the KV pool; 0: a quarter of memory, at most 4 GiB */
    size_t convert_bytes;     /* budget for converted weights (0: as much as the weights themselves) */
    uint32_t max_step_tokens; /* most rows of one step: scratch is sized for it (default 512 when 0) */
    bool prefix_cache;
    bool mmap; /* map packed weights from a file beside the checkpoint (the first open writes it; processes
                  share it) instead of holding them in memory of our own; not for built-in and synthetic ones
                */
    bool f16_as_bf16; /* F16 matrices become BF16, rounded to 8 bits, for faster prompts; not with mmap */
    bool exact;     /* all matrices become F32 of the same values: no quantised or 16-bit arithmetic; slow and
                       large, for measuring what that arithmetic costs (with QN_STATE_F32) */
    const char *id; /* its name, ^[A-Za-z0-9._-]{1,64}$; NULL: from the file's */
    const char *chat_template; /* one of qn_model_chat_names; NULL: as the checkpoint's own text says */
    void (*progress)(void *ctx, const char *phase, double done); /* may be NULL */
    void *progress_ctx;
};

int qn_model_open(const char *path, const struct qn_open_options *opt, struct qn_model **out,
                  struct qn_err *err);
/* The path under which the model inside this binary opens; NULL when it was built without one. */
const char *qn_model_builtin(void);
/* All variants and sequences must be gone. NULL is fine; clears *m. */
void qn_model_close(struct qn_model **m);

#define QN_TYPE_SLOTS 16
struct qn_model_info {
    char id[65]; /* ^[A-Za-z0-9._-]{1,64}$, from the file's name */
    char family[24], format[16];
    const char *path;
    const char *kv_type; /* "f16", … */
    uint64_t params_total, params_active;
    uint32_t layers, d_model, heads, kv_heads, head_dim, ffn_dim, vocab, context;
    size_t file_bytes, weights_bytes, scratch_bytes;
    struct {
        const char *name;
        size_t bytes;
    } by_type[QN_TYPE_SLOTS]; /* file bytes; unused: name NULL */
    bool has_tokenizer, adds_bos, adds_eos;
    int32_t bos, eos, unk, pad; /* -1 when absent */
    int64_t opened_at;          /* unix seconds */
    double load_ms, map_ms, pack_ms, tokenizer_ms;
    bool mapped;      /* weights are mapped from a file */
    const char *note; /* why they are not although that was asked for; "" or NULL else */
    const char
        *chat_template; /* the name of the conversation format that qn_model_chat writes; "" when none */
    const char *chat_template_text; /* the checkpoint's own template, recognised or not; "" when none */
};
const struct qn_model_info *qn_model_info(const struct qn_model *m);

/* The file that weights are mapped from was cut or overwritten: the model can't answer any more, and every
 * step of it gives QN_ERR_LOST. It stays so. Any thread. */
bool qn_model_lost(const struct qn_model *m);

#define QN_INSPECT_NAMES 160
/* Describes a checkpoint without loading its weights (quern inspect). */
struct qn_inspect {
    struct qn_model_info info;
    /* Native structure, f16 state; a kind of fixed size has no bytes per token. */
    size_t state_bytes_per_token, state_fixed_bytes;
    char members[3][QN_INSPECT_NAMES]; /* attentions, FFNs, ways of sharing that were trained: "gqa, mha" */
    char attention[24], ffn[24], sharing[24];
    bool chat_text; /* it brings a chat template, known (then info.chat_template names it) or not */
    char path[1024];
};
int qn_model_inspect(const char *path, struct qn_inspect *out, struct qn_err *err);

/* ---- structures ---- */
#define QN_PART_PARAMS 8
enum qn_param_kind { QN_PARAM_INT = 0, QN_PARAM_BOOL, QN_PARAM_NUMBER, QN_PARAM_TEXT };
/* One third of a structure, as asked for or as resolved: {"type": type, name: value, …}. */
struct qn_part {
    char type[24]; /* "" = native */
    uint32_t n_params;
    struct qn_param {
        char name[24];
        enum qn_param_kind kind;
        double value;  /* integers are exact below 2^53 */
        char text[24]; /* QN_PARAM_TEXT */
    } params[QN_PART_PARAMS];
};
struct qn_structure_request {
    struct qn_part attention, ffn, sharing;
    bool convert; /* also allow approximate and untrained conversions */
    bool causal;  /* rows are predictions: a structure that looks at later tokens is refused */
};
enum qn_origin { QN_ORIGIN_NATIVE = 0, QN_ORIGIN_CONVERTED, QN_ORIGIN_SYNTHETIC /* random weights */ };
enum qn_exactness { QN_EXACT = 0, QN_APPROXIMATE, QN_UNTRAINED, QN_UNAVAILABLE };
struct qn_structure { /* what a variant is */
    struct qn_part attention, ffn, sharing;
    enum qn_origin origin;
    enum qn_exactness exactness;
    bool causal;                  /* false: embed only, and the whole sequence must be one span of one step */
    bool rollback;                /* its state can be cut back to any shorter length */
    size_t weights_bytes;         /* of all weights this structure uses */
    size_t weights_active_bytes;  /* read for one token; of experts, as many as an even choice meets */
    size_t state_bytes_per_token; /* all layers; 0 for fixed-size states */
    size_t state_fixed_bytes;     /* all layers; 0 for paged states */
};
const char *qn_exactness_name(enum qn_exactness e); /* "exact" "approximate" "untrained" "unavailable" */

/* Finds what a request asks for. Cheap: makes no weights. On success *out has one reference, and is the same
 * object for the same resolved structure. QN_ERR_INVALID with err->param "attention" | "ffn" | "sharing" |
 * "convert" and a message that lists what this model can run. */
int qn_variant_resolve(struct qn_model *m, const struct qn_structure_request *req, struct qn_variant **out,
                       struct qn_err *err);
void qn_variant_ref(struct qn_variant *v);
void qn_variant_unref(struct qn_variant *v); /* last one: its converted weights stay cached until evicted */
const struct qn_structure *qn_variant_structure(const struct qn_variant *v);
struct qn_model *qn_variant_model(const struct qn_variant *v);
/* Makes the converted weights when they are not there yet (engine thread; *ms = time spent, 0 when there).
 * They stay while a sequence of v has state reserved; before an empty one reserves, prepare again.
 * QN_ERR_NO_STATE when the conversion budget is held by such sequences, QN_ERR_NOMEM. */
int qn_variant_prepare(struct qn_variant *v, double *ms, struct qn_err *err);

/* Bytes of state of an empty sequence that takes `tokens` tokens: whole blocks, as reserving them does. */
size_t qn_variant_state_bytes(const struct qn_variant *v, uint32_t tokens);
/* Whether the converted weights of n structures of one model can be there at the same time. *bytes: what they
 * take together, those that several share once (SIZE_MAX on overflow); *budget: what there is. Both may be
 * NULL. */
bool qn_variants_fit(struct qn_variant *const *v, uint32_t n, size_t *bytes, size_t *budget);

/* Parameters that a request may set on a part; the others that replies show are the model's. */
struct qn_rules {
    struct qn_param_rule {
        char name[24];
        enum qn_param_kind kind;
        double min, max;          /* of numbers */
        const char *const *words; /* of a text: those it may be, NULL at the end; NULL else */
        struct qn_param def;      /* what it is when not given; its name is "" when that is not one value */
    } at[QN_PART_PARAMS];
    uint32_t n;
};

struct qn_structure_entry { /* one row of GET /v1/structures */
    const char *slot;       /* "attention" | "ffn" | "sharing" */
    struct qn_part part;    /* resolved parameters */
    enum qn_origin origin;
    enum qn_exactness exactness;
    char why[160]; /* when unavailable, or what a conversion does */
    bool causal, rollback;
    size_t state_bytes_per_token, state_fixed_bytes; /* attention only */
    struct qn_rules rules;
};
/* Fills up to max entries, returns how many there are. */
size_t qn_model_structures(const struct qn_model *m, struct qn_structure_entry *out, size_t max);

struct qn_held_out { /* how well a native structure predicts text that it was not trained on, as measured */
    char attention[24], ffn[24], sharing[24];
    double nats_per_byte, bits_per_byte;
};
/* Fills up to max rows from the checkpoint's own table, returns how many there are (0: it has none). */
size_t qn_model_held_out(const struct qn_model *m, struct qn_held_out *out, size_t max);

/* Analytic cost of running positions [begin, end) of a sequence, with `logit_rows` rows of logits. bytes:
 * weights once per step of `rows_per_step` positions (0 = all in one), plus state read and written. */
struct qn_cost {
    double flops, bytes;
};
struct qn_cost qn_variant_cost(const struct qn_variant *v, uint32_t begin, uint32_t end, uint32_t logit_rows,
                               uint32_t rows_per_step);
/* Bytes of weights that one step of `rows` rows reads, whosever rows they are: body, of a mixture as many
 * experts as an even choice meets; head, the output matrix and the map before it, only when it gives logits.
 */
struct qn_step_weights {
    double body, head;
};
struct qn_step_weights qn_variant_step_weights(const struct qn_variant *v, uint32_t rows);

/* ---- text ---- */
struct qn_str_ref {
    const char *p;
    size_t n;
};
/* As qn_tokenizer_encode; add_special adds bos/eos as the checkpoint says. *out: free(). */
int qn_model_tokenize(const struct qn_model *m, const char *text, size_t len, bool add_special,
                      size_t max_tokens, int32_t **out, size_t *n, struct qn_err *err);
struct qn_str_ref qn_model_piece(const struct qn_model *m, int32_t id, bool special);
bool qn_model_strips_first_blank(const struct qn_model *m); /* SPM: drop the blank of a text's first piece */
bool qn_model_is_eog(const struct qn_model *m, int32_t id);

struct qn_chat_message {
    const char *role;    /* terminated: "system", "user", "assistant" …; templates know which they take */
    const char *content; /* n bytes */
    size_t n;
};
/* A conversation as the text that the model was trained to read, byte for byte what the checkpoint's own
 * template gives. It holds all special tokens, the first one included: tokenize it with add_special false.
 * add_generation_prompt: ends where the assistant's next message begins. *out: free(), not terminated.
 * QN_ERR_UNSUPPORTED when the model has no known template, QN_ERR_INVALID for a conversation that its
 * template refuses (param "messages[i]", "messages[i].role" or "messages"), QN_ERR_NOMEM. Any thread. */
int qn_model_chat(const struct qn_model *m, const struct qn_chat_message *msgs, size_t n,
                  bool add_generation_prompt, char **out, size_t *len, struct qn_err *err);
/* The known templates: "chatml, …". */
const char *qn_model_chat_names(void);
/* Whether a name is one of them. */
bool qn_model_chat_known(const char *name);

/* ---- sequences (engine thread) ---- */
/* salt separates prefix-cache domains (0 = shared by all). Holds a reference on v. */
int qn_seq_new(struct qn_variant *v, uint64_t salt, bool use_cache, struct qn_seq **out, struct qn_err *err);
void qn_seq_free(struct qn_seq **s);
/* Tokens whose state the sequence holds. */
uint32_t qn_seq_length(const struct qn_seq *s);
/* On an empty sequence: takes over cached state of a prefix of tokens[0..n), blocks of 16 tokens or a copy of
 * a fixed-size state (kept every 256 tokens and before the last token of prompts); at most n-1 tokens, so
 * that there is something left to run. Returns how many tokens it now holds. */
uint32_t qn_seq_match(struct qn_seq *s, const int32_t *tokens, uint32_t n);
/* Bytes that holding `length` tokens would newly take from the pool (0 when there already). */
size_t qn_seq_need(const struct qn_seq *s, uint32_t length);
/* Takes them: all or nothing. QN_ERR_NO_STATE when the pool, after evicting unused cached blocks, can't give.
 */
int qn_seq_reserve(struct qn_seq *s, uint32_t length);
/* Gives all state back (preemption); the sequence is empty again. */
void qn_seq_reset(struct qn_seq *s);
/* Cuts the state to `length` tokens where the structure can roll back, or to 0, or to where the cache has a
 * copy of a fixed-size state; QN_ERR_UNSUPPORTED else. */
int qn_seq_truncate(struct qn_seq *s, uint32_t length);
/* Takes back the last tokens down to `length`, as far as they were run as guesses (struct qn_span.drafts) and
 * no step went on from them; what was reserved stays. QN_ERR_INVALID else. */
int qn_seq_rewind(struct qn_seq *s, uint32_t length);
/* A second sequence that continues from the same state; blocks are shared and copied on write, a fixed-size
 * state is copied at once. QN_ERR_NO_STATE when there is no room for that, QN_ERR_NOMEM. */
int qn_seq_fork(struct qn_seq *s, struct qn_seq **out, struct qn_err *err);
struct qn_seq_bytes {
    size_t held, shared, peak, peak_shared;
};
struct qn_seq_bytes qn_seq_bytes(const struct qn_seq *s);
/* For benchmarks: makes an empty sequence hold n tokens at the cost of running a few. At most 31 tokens drawn
 * from `seed` are run; what the others would have left in paged blocks is random, in a fixed-size state it is
 * left out. Takes state as qn_seq_reserve does; the sequence never enters the prefix cache. QN_ERR_INVALID
 * when it holds tokens, QN_ERR_UNSUPPORTED when its structure is not causal, and what reserve and a step
 * give. */
int qn_seq_fill(struct qn_seq *s, uint32_t n, uint64_t seed, struct qn_err *err);

/* State pool of one model. used = blocks referenced by sequences (a shared block once); cached = blocks kept
 * only for reuse (evictable). used + cached <= budget. */
struct qn_state_stats {
    size_t budget, used, cached, blocks_used, blocks_cached, hits_tokens, lookups_tokens;
};
struct qn_state_stats qn_model_state(const struct qn_model *m);
struct qn_memory {
    size_t weights, converted, state_budget, state_used, state_cached, scratch, tokenizer;
};
struct qn_memory qn_model_memory(const struct qn_model *m);
/* Drops every cached block that no sequence uses. */
void qn_model_drop_cache(struct qn_model *m);

#endif
