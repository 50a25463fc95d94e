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

static const struct qn_sharing_ops kinds[] = {
    {"none", shape_none}, {"all", shape_all},       {"attention", shape_attention},
    {"ffn", shape_ffn},   {"groups", shape_groups},
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
    s->mean = false;
    c->exactness = QN_EXACT;
    c->origin = QN_ORIGIN_CONVERTED;
    if (m->attn_blocks == s->attn_blocks && m->ffn_blocks == s->ffn_blocks) {
        c->origin = QN_ORIGIN_NATIVE;
    } else if (refines(s->attn_blocks, m->attn_blocks, s->layers) &&
               refines(s->ffn_blocks, m->ffn_blocks, s->layers)) {
        snprintf(c->why, sizeof c->why,
                 "layers refer to the same weights as with \"%s\": untied, nothing copied", m->type);
    } else {
        s->mean = true;
        c->exactness = QN_UNTRAINED;
        snprintf(c->why, sizeof c->why,
                 "each shared block is the mean of its layers' blocks: structural conversion, quality not "
                 "preserved");
    }
}

/* Lower is better. */
static int rank(const struct qn_sharing *s) {
    return s->choice.origin == QN_ORIGIN_NATIVE ? -1 : (int)s->choice.exactness;
}

int qn_sharing_resolve(const struct qn_sharing_ops *ops, const struct qn_spec *spec,
                       const struct qn_part *ask, struct qn_sharing *out, struct qn_err *err) {
    uint32_t blocks[2] = {0, 0};
    memset(out, 0, sizeof *out);
    qn_part_init(&out->choice.part, ops->name);
    int rc = ops->shape(spec, ask, &out->choice.part, blocks, err);
    if (rc) return rc;
    out->ops = ops;
    out->layers = spec->layers;
    out->attn_blocks = blocks[0];
    out->ffn_blocks = blocks[1];
    label(spec, out);
    for (uint32_t i = 1; i < spec->n_share; i++) {
        struct qn_sharing s = *out;
        s.member = i;
        label(spec, &s);
        if (rank(&s) < rank(out)) *out = s;
    }
    return qn_part_check(ask, &out->choice.part, "sharing", err);
}

uint32_t qn_sharing_source(const struct qn_sharing *s, const struct qn_spec *spec, bool ffn, uint32_t layer) {
    const struct qn_share_member *m = &spec->share[s->member];
    return ffn ? m->ffn_first + block_of(layer, m->ffn_blocks, s->layers)
               : m->attn_first + block_of(layer, m->attn_blocks, s->layers);
}

uint32_t qn_sharing_block(const struct qn_sharing *s, const struct qn_spec *spec, bool ffn, uint32_t layer) {
    if (s->mean) return block_of(layer, ffn ? s->ffn_blocks : s->attn_blocks, s->layers);
    return qn_sharing_source(s, spec, ffn, layer);
}
