/* The walk that attend.h describes, for the functions that the including file defined. */
#ifndef QN_KERNELS_X86_ATTEND_WALK_H
#define QN_KERNELS_X86_ATTEND_WALK_H

#include "kernels/x86/attend.h"

#define EACH_SIZE(n, call)                                                                                   \
    do {                                                                                                     \
        switch (n) {                                                                                         \
        case 6:                                                                                              \
            call(6);                                                                                         \
            break;                                                                                           \
        case 5:                                                                                              \
            call(5);                                                                                         \
            break;                                                                                           \
        case 4:                                                                                              \
            call(4);                                                                                         \
            break;                                                                                           \
        case 3:                                                                                              \
            call(3);                                                                                         \
            break;                                                                                           \
        case 2:                                                                                              \
            call(2);                                                                                         \
            break;                                                                                           \
        default:                                                                                             \
            call(1);                                                                                         \
            break;                                                                                           \
        }                                                                                                    \
    } while (0)

/* Heads from `from` on, of all rows' heads in order: as many as a tile takes. */
INLINE void tile_open(bool q8, struct tile *s, const struct qn_attend *a, size_t from, size_t n) {
    s->a = a;
    s->heads = (unsigned)n;
    s->chunks = 0;
    memset(s->sum, 0, sizeof s->sum);
    memset(s->max, 0, sizeof s->max);
    memset(s->out, 0, sizeof s->out);
    for (unsigned h = 0, parts = (unsigned)((n + HEADS - 1) / HEADS); parts > 0; parts--) {
        unsigned size = (s->heads - h + parts - 1) / parts; /* as even as can be: 7 heads are 4 and 3 */
        float *q = s->q + h * (size_t)a->head_dim;
        s->first[s->chunks] = h;
        s->size[s->chunks++] = size;
        for (unsigned i = 0; i < size; i++) {
            size_t row = (from + h + i) / a->group, head = (from + h + i) % a->group;
            const float *x = a->q + row * a->q_row + head * a->ldq;
            qn_attend_seen(a, (uint32_t)row, &s->lo[h + i], &s->hi[h + i]);
            s->out[h + i] = a->out + row * a->out_row + head * a->ldo;
            s->max[h + i] = -INFINITY;
            memset(s->out[h + i], 0, a->head_dim * sizeof(float));
            if (q8) {
                s->step[h + i] = query_codes(x, a->head_dim, q + i, size) * a->scale;
            } else {
                for (size_t d = 0; d < a->head_dim; d++) q[d * size + i] = x[d];
            }
        }
        h += size;
    }
}

/* The group of tokens from `base` on; tokens below `end` are seen by some head. */
INLINE void group_open(struct group *g, const struct qn_attend *a, uint32_t base, uint32_t end) {
    const uint32_t at = base / QN_KV_BLOCK, last = (end - 1) / QN_KV_BLOCK;
    size_t scales = QN_KV_BLOCK * (size_t)a->head_dim;
    g->base = base;
    g->blocks = last - at < BLOCKS ? last - at + 1 : BLOCKS;
    g->k_row = QN_KV_BLOCK;
    for (unsigned i = 0; i < BLOCKS; i++) {
        uint32_t own = i < g->blocks ? at + i : last, next = at + BLOCKS + i <= last ? at + BLOCKS + i : last;
        g->k[i] = a->blocks[own] + a->k_offset;
        g->v[i] = a->blocks[own] + a->v_offset;
        g->next_k[i] = a->blocks[next] + a->k_offset;
        g->next_v[i] = a->blocks[next] + a->v_offset;
        g->k_scale[i] = g->k[i] + scales; /* Q8's */
        g->v_scale[i] = g->v[i] + scales;
    }
}

/* out = out * shrink + weights times values, G heads from h on. */
INLINE void chunk_values(enum form f, unsigned G, struct tile *s, unsigned h, const struct group *g) {
    uint32_t lo[HEADS], hi[HEADS], from = 0, to = GROUP;
    bool apart = false;
    if (form_q8(f)) {
        all_values(f, G, s, h, g, 0, 0, true);
        return;
    }
    UNROLL for (unsigned i = 0; i < G; i++) {
        seen_slots(s, h + i, g, &lo[i], &hi[i]);
        from = lo[i] > from ? lo[i] : from;
        to = hi[i] < to ? hi[i] : to;
        apart = apart || lo[i] != lo[0];
    }
    if (to < from) to = from;
    /* What all see is taken together; what one sees before and after that, alone. */
    for (unsigned i = 0; i < G && apart; i++)
        all_values(f, 1, s, h + i, g, lo[i], hi[i] < from ? hi[i] : from, true);
    all_values(f, G, s, h, g, from, to, !apart);
    for (unsigned i = 0; i < G; i++) {
        uint32_t at = lo[i] > to ? lo[i] : to;
        if (hi[i] > at) all_values(f, 1, s, h + i, g, at, hi[i], false);
    }
}

/* Chunks see part of a group only: those without a seen token of it are left alone. */
INLINE bool chunk_sees(const struct tile *s, unsigned chunk, const struct group *g) {
    unsigned h = s->first[chunk], last = h + s->size[chunk] - 1;
    return s->hi[last] > g->base && s->lo[h] < g->base + GROUP;
}

INLINE void scores_of(enum form f, struct tile *s, const struct group *g) {
    for (unsigned c = 0; c < s->chunks; c++) {
        if (!chunk_sees(s, c, g)) continue;
        unsigned h = s->first[c], n = s->size[c];
        const float *q = s->q + h * (size_t)s->a->head_dim;
        unsigned blocks = (s->hi[h + n - 1] - g->base + QN_KV_BLOCK - 1) / QN_KV_BLOCK;
        if (blocks > g->blocks) blocks = g->blocks;
#define CALL(N) chunk_scores(f, N, s, h, q, g, blocks)
        EACH_SIZE(n, CALL);
#undef CALL
        /* two loops: the heads' chains of operations overlap */
        for (unsigned i = 0; i < n; i++) raise_max(s, h + i, g);
        for (unsigned i = 0; i < n; i++) soften(form_q8(f), s, h + i, g);
    }
}

INLINE void values_of(enum form f, struct tile *s, const struct group *g) {
    for (unsigned c = 0; c < s->chunks; c++) {
        if (!chunk_sees(s, c, g)) continue;
        unsigned h = s->first[c];
#define CALL(N) chunk_values(f, N, s, h, g)
        EACH_SIZE(s->size[c], CALL);
#undef CALL
    }
}

/* As stored. */
INLINE void tile_walk(enum form f, struct tile *s, uint32_t begin, uint32_t end) {
    for (uint32_t base = begin - begin % GROUP; base < end; base += GROUP) {
        struct group g;
        group_open(&g, s->a, base, end);
        scores_of(f, s, &g);
        values_of(f, s, &g);
    }
}

/* Keys and values widened. */
INLINE void tile_walk_wide(enum form f, struct tile *s, uint32_t begin, uint32_t end) {
    const enum form wide = form_q8(f) ? FORM_WIDE_Q8 : FORM_WIDE;
    const size_t lane =
        form_q8(f) ? 2 * sizeof(int16_t) : sizeof(float); /* bytes of a token in a row of keys */
    for (uint32_t base = begin - begin % GROUP; base < end; base += GROUP) {
        struct group g;
        group_open(&g, s->a, base, end);
        for (unsigned i = 0; i < g.blocks; i++) widen_keys(f, s, &g, i);
        struct group w = g;
        const uint8_t *at = (const uint8_t *)s->wide;
        for (unsigned i = 0; i < BLOCKS; i++) {
            w.k[i] = at + i * QN_KV_BLOCK * lane;
            w.v[i] = at + i * QN_KV_BLOCK * s->a->head_dim * form_bytes(wide);
        }
        w.k_row = GROUP;
        scores_of(wide, s, &w);
        for (unsigned i = 0; i < g.blocks; i++) widen_values(f, s, &g, i);
        values_of(wide, s, &w);
    }
}

INLINE void tile_close(bool q8, struct tile *s, unsigned h, float sum) {
    float *out = s->out[h], inv = 1.0f / sum;
    if (q8) {
        float back = hadamard(out, s->a->head_dim);
        for (size_t d = 0; d < s->a->head_dim; d++) out[d] *= back;
    }
    if (s->a->part) {
        out[s->a->head_dim] = s->max[h];
        out[s->a->head_dim + 1] = sum;
        return;
    }
    for (size_t d = 0; d < s->a->head_dim; d++) out[d] *= inv;
}

INLINE void attend(enum form f, const struct qn_attend *a) {
    struct tile s;
    size_t all = (size_t)a->rows * a->group, most = Q_MAX / a->head_dim / HEADS * HEADS;
    if (most > TILE) most = TILE;
    for (size_t at = 0; at < all; at += s.heads) {
        tile_open(f == FORM_Q8, &s, a, at, all - at < most ? all - at : most);
        uint32_t begin, end, other;
        qn_attend_seen(a, (uint32_t)(at / a->group), &begin, &other);
        qn_attend_seen(a, (uint32_t)((at + s.heads - 1) / a->group), &other, &end);
        if (f != FORM_F32 && s.heads >= WIDE_HEADS && a->head_dim <= WIDE_DIM) {
            tile_walk_wide(f, &s, begin, end);
        } else {
            tile_walk(f, &s, begin, end);
        }
        for (unsigned h = 0; h < s.heads; h++) tile_close(f == FORM_Q8, &s, h, qn_fold16(s.sum[h]));
    }
}

#endif
