/* What the files of model/ know of each other's structs; nothing outside model/ and its tests includes it.
 *
 * - struct qn_model: checkpoint, state pool, scratch; the lists of variants and conversions under one lock
 * - struct qn_variant: one resolved structure: per layer, what runs and with which weights
 * - struct qn_conversion: weights made for one half of a structure, shared by variants that resolve to the
 * same
 * - struct qn_seq: one sequence: its tokens, its table of blocks and its fixed-size state */
#ifndef QN_MODEL_INTERNAL_H
#define QN_MODEL_INTERNAL_H

#include <pthread.h>
#include <stdatomic.h>

#include "model/attention/attention.h"
#include "model/batch.h"
#include "model/ffn/ffn.h"
#include "model/load/checkpoint.h"
#include "model/mean.h"
#include "model/sharing.h"
#include "model/state/kv.h"

#define QN_LOGIT_ROWS      32 /* rows of logits that are computed at once */
#define QN_MAX_STEP_TOKENS 65536
#define QN_KEY_MAX         (3 * QN_PART_TEXT)

/* The spans of a step, cut where a copy of a fixed-size state is taken (cuts.c). Pass by pass: the first
 * parts of all spans, then the second parts of those that have one … */
#define QN_PASSES (QN_MAX_STEP_TOKENS / QN_SNAPSHOT_TOKENS + 3)
struct qn_cuts {
    struct qn_row_span *spans; /* [M] */
    struct qn_kv_block **keep; /* [M] the copy that is taken after a part, or NULL */
    uint32_t *done;            /* [M] rows of each span that are in parts */
    uint32_t n_passes;         /* 0: no copies are taken in this step */
    uint32_t end[QN_PASSES];   /* parts of passes 0 to i */
};

/* Work memory of one step, one allocation made at open. M = max_step_tokens; inner = heads * head_dim. */
struct qn_scratch {
    uint8_t *memory;
    size_t bytes;
    float *x;         /* [M, d_model] the residual stream */
    float *h;         /* [M, max(d_model, inner)] a normalised input, or what attention read */
    float *y;         /* [M, d_model] what a sub-layer adds */
    float *q, *k, *v; /* [M, inner] each: a conversion may use as many KV heads as there are heads */
    float *ffn;       /* the FFN's own */
    float *attention; /* [threads, attention_floats] the attention's own */
    size_t attention_floats;
    float *cs;                 /* [M, rope_dim] cos and sin of each row's position */
    float *logits;             /* [QN_LOGIT_ROWS, vocab] */
    void *act;                 /* quantised form of one input */
    void *mid;                 /* and of an FFN's hidden layer */
    void *gemm;                /* OpenBLAS panels */
    struct qn_row *rows;       /* [M] */
    uint32_t *wanted;          /* [M] rows whose result is asked for, ascending */
    struct qn_row *readers;    /* [M] the same, as rows */
    struct qn_row_span *spans; /* [M] */
    struct qn_cuts cuts;       /* where spans stop for snapshots */
};

struct qn_model {
    struct qn_checkpoint *ckpt;
    struct qn_model_info info;
    const struct qn_chat_template *chat; /* NULL: none that is known */
    char *path;
    struct qn_pool *pool;
    enum qn_kv_type kv_type;
    uint32_t max_rows;
    bool prefix_cache;
    float *inv_freq; /* [rope_dim / 2] */
    struct qn_kv_pool *kv;
    struct qn_scratch scratch;
    uint64_t step_mark;   /* finds a sequence that stands twice in one step */
    pthread_mutex_t lock; /* guards all below */
    bool has_lock;
    struct qn_variant *variants;
    struct qn_past_id *past_ids; /* of variants that are gone */
    uint64_t last_variant, last_use;
    struct qn_conversion *conversions;
    size_t convert_budget;
    _Atomic size_t converted_bytes;
};

/* What a request's three parts came to. */
struct qn_resolved {
    struct qn_attention attention;
    struct qn_ffn ffn;
    struct qn_sharing sharing;
};

/* Weights come in two halves, each with its own blocks, conversions and cache of them. */
enum qn_half { QN_HALF_ATTENTION = 0, QN_HALF_FFN, QN_HALVES };

/* Steps in which a half's weights are made, as far as it needs them: averages over layers; a kind's
 * conversion, of the averages or of the checkpoint's blocks. Each is a conversion of its own. */
enum qn_make { QN_MAKE_MEANS = 0, QN_MAKE_KIND, QN_MAKES };

/* Weights of one half of a structure that had to be made: averages over layers, or a kind's conversion of the
 * checkpoint's blocks or of averages. */
struct qn_conversion {
    char key[QN_KEY_MAX];
    enum qn_half half;
    const struct qn_attention_ops *attention; /* whose convert made attn; NULL: not a kind's */
    const struct qn_ffn_ops *ffn_ops;         /* whose convert made ffn; NULL: not a kind's */
    struct qn_attn_weights *attn;             /* [n], of the attention half */
    struct qn_ffn_weights *ffn;               /* [n], of the other */
    uint32_t n;
    struct qn_mean mean;        /* owns what averages allocated */
    struct qn_conversion *from; /* the averages that a kind's blocks were made from and borrow of; or NULL */
    uint32_t dependents;        /* conversions that are made, or being made, from this one: it stays */
    size_t bytes;               /* weights, lists of blocks and this struct */
    uint64_t used_at;
    struct qn_conversion *next;
};

struct qn_layer {
    const struct qn_attention *attention;
    const struct qn_ffn *ffn;
    uint32_t attn_block, ffn_block; /* in the variant's attn and ffn */
    size_t state_offset;            /* in a block of state, bytes */
    size_t fixed_offset;            /* in the fixed state, bytes */
};

struct qn_variant {
    struct qn_model *model;
    uint64_t id; /* of this key alone in the life of a process: the prefix cache's domain */
    char key[QN_KEY_MAX];
    uint32_t refs;    /* under the model's lock */
    uint64_t used_at; /* when refs fell to 0 */
    struct qn_structure info;
    struct qn_attention attention;
    struct qn_ffn ffn;
    struct qn_sharing sharing;
    struct qn_layer *layers; /* [spec.layers] */
    size_t block_bytes;      /* of state, QN_KV_BLOCK tokens; 0: no paged state */
    size_t fixed_bytes;      /* of state, per sequence; 0: no fixed state */
    /* by block: the checkpoint member's or the conversion's; NULL = to be prepared */
    const struct qn_attn_weights *attn_weights;
    const struct qn_ffn_weights *ffn_weights;
    struct qn_conversion *conversion[QN_HALVES];
    size_t made[QN_HALVES][QN_MAKES]; /* bytes that its conversions take */
    size_t idle_ffn_bytes;            /* what one choice of experts in each FFN block leaves unread */
    uint32_t holders; /* sequences with state reserved: their next step reads the weights; engine thread */
    bool preparing;   /* its weights are being made: half of them may be there already */
    struct qn_variant *next;
};

struct qn_seq {
    struct qn_variant *variant;
    struct qn_kv_seq kv;
    uint32_t length;
    uint32_t settled; /* tokens that are no guesses: what the cache may learn, and rewinding stops at */
    int32_t *tokens;  /* [length], room for cap, zeros behind; whatever is reserved has room */
    uint32_t cap;
    bool publish; /* may enter the prefix cache: asked for, and every row so far in packed arithmetic */
    bool use_cache;
    bool holds; /* counted in variant->holders */
    uint64_t mark;
};

/* As qn_model_open, from a checkpoint in memory, which the model takes over also when this fails. */
int qn_model_from_checkpoint(struct qn_checkpoint *c, const char *path, const struct qn_open_options *opt,
                             struct qn_model **out, struct qn_err *err);

/* cuts.c. plan: rows: the spans as rows of the step; all have been checked, their tokens are in the
 * sequences. copy: the layer's part of the states, after a pass. finish: the copies enter the cache;
 * sequences that may not publish have none. */
void qn_cuts_plan(struct qn_cuts *c, const struct qn_step *step, const struct qn_row_span *rows);
void qn_cuts_copy(const struct qn_cuts *c, uint32_t pass, size_t offset, size_t bytes);
void qn_cuts_finish(struct qn_cuts *c, struct qn_kv_pool *pool);

/* scratch.c. QN_OK, QN_ERR_NOMEM. free takes a zero one. */
int qn_scratch_init(struct qn_scratch *s, const struct qn_spec *spec, uint32_t rows, unsigned threads,
                    struct qn_err *err);
void qn_scratch_free(struct qn_scratch *s);

/* convert.c. True when the half's weights are not the checkpoint's own, but have to be made. */
bool qn_half_converted(const struct qn_resolved *r, enum qn_half half);
/* What a half runs with, in bytes. */
struct qn_half_sizes {
    size_t made[QN_MAKES]; /* memory that each step takes; 0 without */
    size_t bytes;          /* of all weights it uses, each once */
    size_t active;         /* of them, what one token reads */
};
/* QN_ERR_INVALID (param "sharing") when layers that should be averaged differ in form; QN_ERR_NOMEM when
 * sizes overflow or memory for the list of tensors is short. */
int qn_half_sizes(const struct qn_model *m, const struct qn_resolved *r, enum qn_half half,
                  struct qn_half_sizes *out, struct qn_err *err);
void qn_conversion_free_all(struct qn_model *m);

/* variants.c. The variant of these parts, with a reference: the one there, or a new one. QN_ERR_INVALID when
 * its conversions can't fit into their budget, QN_ERR_NOMEM. free_all: none may be referenced. */
int qn_variant_of(struct qn_model *m, const struct qn_resolved *r, struct qn_variant **out,
                  struct qn_err *err);
void qn_variant_free_all(struct qn_model *m);

/* cost.c: fills weights_bytes, weights_active_bytes, state_bytes_per_token, state_fixed_bytes. *idle_ffn: as
 * in struct qn_variant. made: per half, as in struct qn_half_sizes, 0 for one that needs no conversion.
 * Errors of qn_half_sizes. */
int qn_structure_sizes(const struct qn_model *m, const struct qn_resolved *r, struct qn_structure *s,
                       size_t *idle_ffn, size_t made[QN_HALVES][QN_MAKES], struct qn_err *err);
/* State of all layers with this attention, per block of tokens and per sequence. */
struct qn_state_size qn_state_size_of(const struct qn_spec *spec, const struct qn_attention *a,
                                      enum qn_kv_type type);

#endif
