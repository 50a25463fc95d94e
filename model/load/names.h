/* The family table: everything that tells one model family's files from another's.
 *
 * A family is one row of names and flags (names.c). gguf_spec.c and hf_config.c read hyper-parameters by it,
 * weights.c finds and lays out tensors by it; the forward pass sees only struct qn_spec. To add a family, add
 * a row; a new naming scheme or fused layout is a new name table or enum value next to it. Thread: any;
 * constant. */
#ifndef QN_MODEL_LOAD_NAMES_H
#define QN_MODEL_LOAD_NAMES_H

#include <stdbool.h>
#include <stdint.h>

#include "model/spec.h"
#include "model/text/tokenizer.h"

enum qn_slot {
    QN_SLOT_EMBED = 0,
    QN_SLOT_POS,
    QN_SLOT_OUT_NORM,
    QN_SLOT_OUTPUT,
    QN_SLOT_ROPE_FACTORS,
    QN_SLOT_ATTN_NORM, /* from here on once per layer */
    QN_SLOT_Q,
    QN_SLOT_K,
    QN_SLOT_V,
    QN_SLOT_QKV,
    QN_SLOT_O,
    QN_SLOT_Q_NORM,
    QN_SLOT_K_NORM,
    QN_SLOT_FFN_NORM,
    QN_SLOT_GATE,
    QN_SLOT_UP,
    QN_SLOT_DOWN,
    QN_SLOT_ROUTER,       /* mixtures of experts */
    QN_SLOT_SHARED_SCALE, /* the vector whose sigmoid scales the shared expert */
    QN_SLOT_SHARED_GATE,
    QN_SLOT_SHARED_UP,
    QN_SLOT_SHARED_DOWN,
    QN_SLOT_GATE_EXPS, /* all experts in one tensor, [experts, out, in] */
    QN_SLOT_UP_EXPS,
    QN_SLOT_DOWN_EXPS,
    QN_SLOT_GATE_UP_EXPS, /* rows of gate above rows of up */
    QN_SLOT_EXPERT_GATE,  /* from here on once per layer and expert */
    QN_SLOT_EXPERT_UP,
    QN_SLOT_EXPERT_DOWN,
    QN_SLOT_COUNT
};

/* How the experts lie in the file. */
enum qn_expert_layout {
    QN_EXPERTS_NONE = 0, /* not a mixture */
    QN_EXPERTS_EACH,     /* three tensors for each */
    QN_EXPERTS_STACKED,  /* three for all */
    QN_EXPERTS_MERGED    /* two for all: gate and up in one, and down */
};

/* How q, k and v lie in the file. */
enum qn_qkv_layout {
    QN_QKV_SEPARATE = 0,  /* three tensors */
    QN_QKV_FUSED,         /* one: all q rows, then all k rows, then all v rows */
    QN_QKV_FUSED_PER_HEAD /* one: for each head its q, k and v rows */
};

enum qn_presence { QN_NEVER = 0, QN_OPTIONAL, QN_REQUIRED };

/* Tensor names of a format, without ".weight" and ".bias" (with a '$' at the end: whole as they are). Layer
 * names hold one %u, names of single experts two. */
struct qn_name_table {
    const char *prefix; /* before every name but those that start with '/'; files may lack it */
    const char *name[QN_SLOT_COUNT];
};

/* Keys of config.json that differ between families. */
struct qn_config_keys {
    const char *d_model, *layers, *heads, *kv_heads, *ffn, *context, *eps, *act;
};

struct qn_family {
    const char *name;        /* qn_spec.family */
    const char *gguf_arch;   /* general.architecture, and the prefix of its keys */
    const char *hf_types[3]; /* config.json's model_type; NULL ends */
    const struct qn_name_table *gguf_names, *hf_names;
    const struct qn_name_table *hf_merged_names; /* when gate and up of all experts are one tensor; or NULL */
    const struct qn_config_keys *hf_keys;
    enum qn_norm_kind norm;
    enum qn_pos_kind pos;
    bool gated;         /* gate and up, or up alone */
    enum qn_act_fn act; /* when the file doesn't say, or when act_fixed */
    bool act_fixed;     /* gemma: the file's word is not to be trusted */
    enum qn_presence qkv_bias, o_bias, ffn_bias;
    bool qk_norm;
    bool qk_norm_whole;    /* over all heads at once */
    bool moe;              /* FFNs are mixtures of gated experts */
    bool shared_expert;    /* with a shared one beside them, scaled by a sigmoid */
    enum qn_gating gating; /* when the file doesn't say whether weights are renormalised */
    bool embed_scaled;     /* embeddings times sqrt(d_model) */
    bool one_kv_head;      /* MQA unless config.json says "multi_query": false */
    bool gguf_permuted;    /* GGUF: q and k rows in adjacent-pair order */
    enum qn_qkv_layout gguf_qkv, hf_qkv;
    bool hf_conv1d;         /* safetensors: block matrices are stored [in, out] */
    bool hf_norm_minus_one; /* safetensors: norms are stored as gamma - 1 */
    bool hf_renorm_key; /* config.json: norm_topk_prob tells whether weights are renormalised, absent: not */
    bool hf_window_opt_in; /* config.json: sliding_window counts only with use_sliding_window */
    uint32_t hf_head_dim;  /* default of head_dim; 0: d_model / heads */
    float hf_eps;          /* default of the norm's epsilon */
};

/* NULL when no row has it. moe: the file has experts. */
const struct qn_family *qn_family_by_gguf_arch(struct qn_str arch, bool moe);
const struct qn_family *qn_family_by_hf_type(const char *model_type);
/* Row i, or NULL past the last one: for messages, tests and /v1/models. */
const struct qn_family *qn_family_at(unsigned i);

/* Fills spec's family-wide fields (family, norm, pos, qk_norm, embed_scale from d_model) and the names and
 * blocks of its single members; after layers, d_model, heads and kv_heads. */
void qn_family_fill(const struct qn_family *f, struct qn_spec *spec);
/* Sets the FFN member's type (the registry's name) and act, of a mixture its experts' too;
 * QN_ERR_UNSUPPORTED for a pair that has no name. */
int qn_family_set_ffn(const struct qn_family *f, enum qn_act_fn act, struct qn_spec *spec,
                      struct qn_err *err);

#endif
