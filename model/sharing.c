/* Sharing of weight blocks between layers: see sharing.h. Thread: any (constant). */
#include "model/sharing.h"

#include <stdio.h>
#include <string.h>

static uint32_t block_of(uint32_t layer, uint32_t blocks, uint32_t layers) {
    return (uint32_t)((uint64_t)layer * blocks / layers);
}

/* --- the kinds --- */
static int shape_none(const struct qn_spec *spec, const struct qn_part *ask, struct qn_part *part,
                      uint32_t blocks[2], struct qn_err *err) {
    (void)ask, (void)part, (void)err;
    blocks[0] = blocks[1] = spec->layers;
    return QN_OK;
}

static int shape_all(const struct qn_spec *spec, const struct qn_part *ask, struct qn_part *part,
                     uint32_t blocks[2], struct qn_err *err) {
    (void)spec, (void)ask, (void)part, (void)err;
    blocks[0] = blocks[1] = 1;
    return QN_OK;
}

static int shape_attention(const struct qn_spec *spec, const struct qn_part *ask, struct qn_part *part,
                           uint32_t blocks[2], struct qn_err *err) {
    (void)ask, (void)part, (void)err;
    blocks[0] = 1;
    blocks[1] = spec->layers;
    return QN_OK;
}

static int shape_ffn(const struct qn_spec *spec, const struct qn_part *ask, struct qn_part *part,
                     uint32_t blocks[2], struct qn_err *err) {
    (void)ask, (void)part, (void)err;
    blocks[0] = spec->layers;
    blocks[1] = 1;
    return QN_OK;
}

/* Runs of layers with one block each (ALBERT's num_hidden_groups). Without "count": the checkpoint's own
 * number, or two. */
static int shape_groups(const struct qn_spec *spec, const struct qn_part *ask, struct qn_part *part,
                        uint32_t blocks[2], struct qn_err *err) {
    uint32_t count = spec->layers < 2 ? 1 : 2;
    for (uint32_t i = 0; i < spec->n_share; i++) {
        if (strcmp(spec->share[i].type, "groups") == 0) count = spec->share[i].attn_blocks;
    }
    int rc = qn_part_uint(ask, "sharing", "count", spec->layers, &count, err);
    if (rc) return rc;
    qn_part_add(part, "count", QN_PARAM_INT, count);
    blocks[0] = blocks[1] = count;
    return QN_OK;
}

/* Checkpoints of several ways have these two (model/load/quern_config.c). */
static void rules_from(const struct qn_spec *spec, struct qn_rules *out) {
    static const char *const members[] = {"none", "all", NULL};
    if (spec->n_share > 1) qn_rule_words(out, "from", members);
}

static void rules_groups(const struct qn_spec *spec, struct qn_rules *out) {
    qn_rule_int(out, "count", 1, spec->layers);
    rules_from(spec, out);
}

static const struct qn_sharing_ops kinds[] = {
    {"none", shape_none, rules_from},           {"all", shape_all, rules_from},
    {"attention", shape_attention, rules_from}, {"ffn", shape_ffn, rules_from},
    {"groups", shape_groups, rules_groups},
};

/* --- the list --- */
const struct qn_sharing_ops *const qn_sharing_registry[] = {
    &kinds[0], &kinds[1], &kinds[2], &kinds[3], &kinds[4], NULL,
};

const struct qn_sharing_ops *qn_sharing_find(const struct qn_spec *spec, const char *name) {
    if (!name[0]) name = spec->share[0].type;
    for (size_t i = 0; qn_sharing_registry[i]; i++) {
        if (strcmp(name, qn_sharing_registry[i]->name) == 0) return qn_sharing_registry[i];
    }
    return NULL;
}

/* --- resolve --- */
/* True when every one of `to` blocks serves layers of a single one of `from` blocks. */
static bool refines(uint32_t to, uint32_t from, uint32_t layers) {
    for (uint32_t i = 1; i < layers; i++) {
        if (block_of(i, to, layers) == block_of(i - 1, to, layers) &&
            block_of(i, from, layers) != block_of(i - 1, from, layers))
            return false;
    }
    return true;
}

static void label(const struct qn_spec *spec, struct qn_sharing *s) {
    const struct qn_share_member *m = &spec->share[s->member];
    struct qn_choice *c = &s->choice;
    c->why[0] = 0;
    s->mean_of[0] = !refines(s->attn_blocks, m->attn_blocks, s->layers);
    s->mean_of[1] = !refines(s->ffn_blocks, m->ffn_blocks, s->layers);
    s->mean = s->mean_of[0] || s->mean_of[1];
    c->exactness = s->mean ? QN_UNTRAINED : QN_EXACT;
    c->origin = QN_ORIGIN_CONVERTED;
    /* Among several the name decides: in a model of one layer all have one block. */
    bool named = spec->n_share == 1 || strcmp(m->type, s->ops->name) == 0;
    if (named && m->attn_blocks == s->attn_blocks && m->ffn_blocks == s->ffn_blocks) {
        c->origin = QN_ORIGIN_NATIVE;
    } else if (s->mean) {
        snprintf(c->why, sizeof c->why,
                 "each shared block is the mean of its layers' blocks: structural conversion, quality not "
                 "preserved");
    } else {
        snprintf(c->why, sizeof c->why,
                 "layers refer to the same weights as with \"%s\": the same function, nothing copied",
                 m->type);
    }
}

/* Lower is better. */
static int rank(const struct qn_sharing *s) {
    return s->choice.origin == QN_ORIGIN_NATIVE ? -1 : (int)s->choice.exactness;
}

/* "from": the member whose blocks are taken, by its name; without it any may be. */
static int read_from(const struct qn_spec *spec, const struct qn_part *ask, const char **from,
                     struct qn_err *err) {
    const struct qn_param *p = qn_part_find(ask, "from");
    *from = p ? p->text : NULL;
    if (!p) return QN_OK;
    for (uint32_t i = 0; i < spec->n_share && p->kind == QN_PARAM_TEXT; i++)
        if (strcmp(spec->share[i].type, p->text) == 0) return QN_OK;
    return qn_err_param(err, QN_ERR_INVALID, "sharing",
                        "sharing parameter \"from\" must name a way of sharing that the checkpoint was "
                        "trained with");
}

int qn_sharing_resolve(const struct qn_sharing_ops *ops, const struct qn_spec *spec,
                       const struct qn_part *ask, struct qn_sharing *out, struct qn_err *err) {
    uint32_t blocks[2] = {0, 0};
    const char *from;
    bool found = false;
    memset(out, 0, sizeof *out);
    int rc = read_from(spec, ask, &from, err);
    struct qn_sharing s = {.ops = ops, .layers = spec->layers};
    qn_part_init(&s.choice.part, ops->name);
    if (rc == QN_OK) rc = ops->shape(spec, ask, &s.choice.part, blocks, err);
    if (rc) return rc;
    s.attn_blocks = blocks[0];
    s.ffn_blocks = blocks[1];
    for (uint32_t i = 0; i < spec->n_share; i++) {
        if (from && strcmp(spec->share[i].type, from) != 0) continue;
        s.member = i;
        label(spec, &s);
        if (!found || rank(&s) < rank(out)) *out = s;
        found = true;
    }
    /* Where several could be meant, the reply says whose blocks these are; else it is one structure, asked
     * for with or without "from". */
    bool told = spec->n_share > 1 && out->choice.origin == QN_ORIGIN_CONVERTED;
    if (from || told) qn_part_add_text(&out->choice.part, "from", spec->share[out->member].type);
    rc = qn_part_check(ask, &out->choice.part, "sharing", err);
    if (from && !told) out->choice.part.n_params--; /* the last one */
    return rc;
}

uint32_t qn_sharing_source(const struct qn_sharing *s, const struct qn_spec *spec, bool ffn, uint32_t layer) {
    const struct qn_share_member *m = &spec->share[s->member];
    return ffn ? m->ffn_first + block_of(layer, m->ffn_blocks, s->layers)
               : m->attn_first + block_of(layer, m->attn_blocks, s->layers);
}

uint32_t qn_sharing_block(const struct qn_sharing *s, const struct qn_spec *spec, bool ffn, uint32_t layer) {
    if (s->mean_of[ffn]) return block_of(layer, ffn ? s->ffn_blocks : s->attn_blocks, s->layers);
    return qn_sharing_source(s, spec, ffn, layer);
}
