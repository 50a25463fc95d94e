/* Types of tensors: see mix.h. */
#include "model/save/mix.h"

#include <stdlib.h>
#include <string.h>
#include <strings.h>

static const struct qn_type_mix mixes[] = {
    {"q8_0", QN_Q8_0, false, 7},   {"q4_0", QN_Q4_0, false, 2}, {"q4_1", QN_Q4_1, false, 3},
    {"q4_k_m", QN_Q4_K, true, 15}, {"f16", QN_F16, false, 1},   {"bf16", QN_BF16, false, 32},
    {"f32", QN_F32, false, 0},
};
#define N_MIXES (sizeof mixes / sizeof *mixes)

const struct qn_type_mix *qn_type_mix_find(const char *name) {
    for (size_t i = 0; i < N_MIXES; i++)
        if (strcasecmp(mixes[i].name, name) == 0) return &mixes[i];
    return NULL;
}

const char *qn_type_mix_names(void) {
    return "q8_0, q4_0, q4_1, q4_k_m, f16, bf16, f32";
}

static bool has(const struct qn_save_tensor *t, const char *part) {
    return strstr(t->name, part) != NULL;
}

static bool is(const struct qn_save_tensor *t, const char *name) {
    return strcmp(t->name, name) == 0;
}

/* Matrices, and stacks of them; a matrix of one row is a vector. */
static bool may_change(const struct qn_save_tensor *t) {
    size_t n = strlen(t->name);
    return t->rows > 1 && n >= 6 && strcmp(t->name + n - 6, "weight") == 0 && !has(t, "_norm.weight") &&
           !has(t, "ffn_gate_inp.weight") && !is(t, "position_embd.weight");
}

static bool tied(const struct qn_save_source *s) {
    for (size_t i = 0; i < s->n; i++)
        if (is(&s->t[i], "output.weight")) return false;
    return true;
}

/* Which layers' are worth more bits: the first and last eighth, and every third between. */
static bool in_better_layer(const struct qn_save_source *s, const struct qn_save_tensor *t) {
    unsigned long n = s->layers, i;
    if (strncmp(t->name, "blk.", 4) != 0) return false;
    i = strtoul(t->name + 4, NULL, 10);
    return i < n / 8 || i >= 7 * n / 8 || (i - n / 8) % 3 == 2;
}

/* Attention's matrices. With eight experts, attention is a small part of the file. */
static enum qn_type attention_type(const struct qn_type_mix *mix, const struct qn_save_source *s,
                                   const struct qn_save_tensor *t) {
    bool v = has(t, "attn_v.weight") || has(t, "attn_qkv.weight");
    if (s->experts == 8 && (v || has(t, "attn_k.weight"))) return QN_Q8_0;
    if (s->experts == 8 && mix->more_bits && has(t, "attn_output.weight")) return QN_Q5_K;
    if (v && mix->more_bits && in_better_layer(s, t)) return QN_Q6_K;
    /* The largest Llamas: eight query heads to a value head make values cheap. */
    if (v && mix->more_bits && s->layers == 80 && s->heads != s->kv_heads && strcmp(s->arch, "llama") == 0)
        return QN_Q5_K;
    return mix->type;
}

static enum qn_type wanted(const struct qn_type_mix *mix, const struct qn_save_source *s,
                           const struct qn_save_tensor *t) {
    if (is(t, "output.weight") || (is(t, "token_embd.weight") && tied(s)))
        return t->cols % qn_type_block(mix->type) != 0 || mix->type == QN_Q8_0 ? QN_Q8_0 : QN_Q6_K;
    if (has(t, "attn_")) return attention_type(mix, s, t);
    if (has(t, "ffn_down") && mix->more_bits && in_better_layer(s, t)) return QN_Q6_K;
    return mix->type;
}

enum qn_type qn_type_mix_of(const struct qn_type_mix *mix, const struct qn_save_source *s,
                            const struct qn_save_tensor *t, bool *fell_back) {
    *fell_back = false;
    if (!may_change(t)) return t->type;
    if (qn_type_block(mix->type) == 1) return mix->type;
    enum qn_type type = wanted(mix, s, t);
    if (t->cols % qn_type_block(type) == 0) return type;
    *fell_back = true;
    if (t->cols % 32 != 0) return QN_F16;
    return type == QN_Q6_K ? QN_Q8_0 : type == QN_Q5_K ? QN_Q5_1 : QN_Q5_0;
}
