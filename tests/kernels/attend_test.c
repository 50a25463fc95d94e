/* Attention: every level gives the reference's bits; the reference agrees with softmax in double; unseen
 * slots may hold NaN; a row's result doesn't depend on what lies after its length. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <math.h>

#include <cmocka.h>

#include "tests/support/guard.h"

/* Against double, relative to the largest |v| = 2: f32 sums of up to a few hundred terms and a 2 ulp exp. */
#define ATTEND_TOLERANCE 2e-5

struct scene {
    struct rng rng;
    struct qn_attend a;
    struct guarded q, out, kv[32];
    const uint8_t *table[32];
    float *k, *v; /* [tokens, head_dim], as stored (f16 already rounded) */
    unsigned blocks;
};

static float rounded(enum qn_kv_type t, float x) {
    return t == QN_KV_F16 ? qn_f16_to_f32(qn_f32_to_f16(x)) : x;
}

static void poison(uint8_t *p, size_t n) { /* NaN as f32 and as f16 */
    memset(p, 0xff, n);
}

static void scene_new(struct scene *s, enum qn_kv_type t, uint32_t group, uint32_t hd, uint32_t first,
                      uint32_t length, bool at_end) {
    const struct qn_ops *ops = qn_ops();
    size_t half = (size_t)hd * QN_KV_BLOCK * qn_kv_elem_bytes(t), ld = hd + 8 * rng_below(&s->rng, 2);
    guarded_new(&s->q, ((group - 1) * ld + hd) * 4, at_end);
    guarded_new(&s->out, ((group - 1) * ld + hd) * 4, at_end);
    rng_fill(&s->rng, (float *)(void *)s->q.p, s->q.n / 4);
    s->blocks = (length + QN_KV_BLOCK - 1) / QN_KV_BLOCK;
    s->k = calloc((size_t)length * hd, 4);
    s->v = calloc((size_t)length * hd, 4);
    assert_true(s->k && s->v);
    rng_fill(&s->rng, s->k, (size_t)length * hd);
    rng_fill(&s->rng, s->v, (size_t)length * hd);
    for (unsigned b = 0; b < s->blocks; b++) {
        guarded_new(&s->kv[b], 2 * half, at_end);
        poison(s->kv[b].p, 2 * half);
        s->table[b] = s->kv[b].p;
    }
    for (uint32_t i = first; i < length; i++) {
        struct qn_kv_write w = {.k = s->k + (size_t)i * hd,
                                .v = s->v + (size_t)i * hd,
                                .v_offset = half,
                                .type = t,
                                .block = s->kv[i / QN_KV_BLOCK].p,
                                .head_dim = hd,
                                .slot = i % QN_KV_BLOCK};
        ops->kv_write(&w);
        for (uint32_t d = 0; d < hd; d++) {
            s->k[(size_t)i * hd + d] = rounded(t, s->k[(size_t)i * hd + d]);
            s->v[(size_t)i * hd + d] = rounded(t, s->v[(size_t)i * hd + d]);
        }
    }
    s->a = (struct qn_attend){.q = (float *)(void *)s->q.p,
                              .ldq = ld,
                              .out = (float *)(void *)s->out.p,
                              .ldo = ld,
                              .blocks = s->table,
                              .v_offset = half,
                              .type = t,
                              .group = group,
                              .head_dim = hd,
                              .first = first,
                              .length = length,
                              .scale = 1.0f / sqrtf((float)hd)};
}

static void scene_free(struct scene *s) {
    assert_true(guarded_free(&s->q));
    assert_true(guarded_free(&s->out));
    for (unsigned b = 0; b < s->blocks; b++) assert_true(guarded_free(&s->kv[b]));
    free(s->k);
    free(s->v);
}

static void check_double(const struct scene *s, const float *out) {
    const struct qn_attend *a = &s->a;
    size_t hd = a->head_dim;
    for (size_t h = 0; h < a->group; h++) {
        double score[512], top = -INFINITY, sum = 0;
        for (size_t t = a->first; t < a->length; t++) {
            score[t] = 0;
            for (size_t d = 0; d < hd; d++)
                score[t] += (double)a->q[h * a->ldq + d] * (double)s->k[t * hd + d];
            score[t] *= (double)a->scale;
            top = fmax(top, score[t]);
        }
        for (size_t t = a->first; t < a->length; t++) sum += exp(score[t] - top);
        for (size_t d = 0; d < hd; d++) {
            double want = 0;
            for (size_t t = a->first; t < a->length; t++)
                want += exp(score[t] - top) / sum * (double)s->v[t * hd + d];
            assert_true(fabs(want - (double)out[h * a->ldo + d]) <= 2 * ATTEND_TOLERANCE);
        }
    }
}

static void check_scene(struct scene *s) {
    float *want = calloc(s->out.n, 1), *out = (float *)(void *)s->out.p;
    assert_non_null(want);
    for (int isa = 0; isa <= (int)qn_cpu_isa(); isa++) {
        struct qn_ops ops;
        char what[80];
        qn_ops_fill(&ops, (enum qn_isa)isa);
        memset(out, 0xa5, s->out.n);
        ops.attend(&s->a);
        if (isa == 0) {
            memcpy(want, out, s->out.n);
            check_double(s, want);
        }
        snprintf(what, sizeof what, "attend %s type %d group %u hd %u [%u, %u)",
                 qn_isa_name((enum qn_isa)isa), (int)s->a.type, s->a.group, s->a.head_dim, s->a.first,
                 s->a.length);
        for (size_t h = 0; h < s->a.group; h++) {
            assert_true(same_floats(&s->rng, what, out + h * s->a.ldo, want + h * s->a.ldo, s->a.head_dim));
        }
    }
    free(want);
}

static void levels_agree(void **state) {
    static const uint32_t lengths[] = {1, 2, 15, 16, 17, 31, 33, 48, 100, 129, 257};
    static const uint32_t dims[] = {8, 16, 24, 64, 72, 80, 96, 128, 256};
    struct scene s;
    (void)state;
    rng_init(&s.rng);
    for (int round = 0; round < 120; round++) {
        uint32_t length = lengths[rng_below(&s.rng, sizeof lengths / sizeof *lengths)];
        uint32_t first = rng_below(&s.rng, 2) ? rng_below(&s.rng, length) : 0;
        uint32_t hd = dims[rng_below(&s.rng, sizeof dims / sizeof *dims)], group = 1 + rng_below(&s.rng, 9);
        scene_new(&s, (enum qn_kv_type)(round % QN_KV_TYPE_COUNT), group, hd, first, length, round & 4);
        check_scene(&s);
        scene_free(&s);
    }
}

/* A head of a group gets the same bits as when it is asked for alone, and a shorter length is not disturbed
 * by tokens that follow. */
static void rows_stand_alone(void **state) {
    struct scene s;
    (void)state;
    rng_init(&s.rng);
    for (int isa = 0; isa <= (int)qn_cpu_isa(); isa++) {
        float want[16], solo[16];
        qn_kernels_init((enum qn_isa)isa);
        scene_new(&s, QN_KV_F16, 7, 16, 0, 90, true);
        qn_ops()->attend(&s.a);
        for (size_t h = 0; h < 7; h++) {
            struct qn_attend one = s.a;
            memcpy(want, s.a.out + h * s.a.ldo, sizeof want);
            one.q += h * one.ldq;
            one.out = solo;
            one.group = 1;
            qn_ops()->attend(&one);
            assert_memory_equal(want, solo, sizeof want);
        }
        struct qn_attend shorter = s.a;
        shorter.group = 1;
        shorter.length = 37;
        shorter.out = want;
        qn_ops()->attend(&shorter);
        for (unsigned b = 37 / QN_KV_BLOCK + 1; b < s.blocks; b++) poison(s.kv[b].p, s.kv[b].n);
        shorter.out = solo;
        qn_ops()->attend(&shorter);
        assert_memory_equal(want, solo, sizeof want);
        scene_free(&s);
    }
    qn_kernels_init(QN_ISA_COUNT - 1);
}

/* Cut at random blocks and put together again: the same bits at every level, and the bits of the whole where
 * there is one part. */
static void check_parts(struct scene *s, uint32_t step) {
    const struct qn_attend *a = &s->a;
    size_t one = (size_t)a->group * (a->head_dim + 2), n = 0;
    float *parts = calloc((a->length / step + 1) * one, sizeof *parts);
    float *want = calloc(s->out.n, 1), *out = (float *)(void *)s->out.p;
    assert_true(parts && want);
    for (int isa = 0; isa <= (int)qn_cpu_isa(); isa++) {
        struct qn_ops ops;
        qn_ops_fill(&ops, (enum qn_isa)isa);
        n = 0;
        for (uint32_t t = a->first; t < a->length; n++) {
            uint32_t end = t - t % step + step;
            struct qn_attend part = *a;
            part.part = true;
            part.first = t;
            part.length = t = end < a->length ? end : a->length;
            part.out = parts + n * one;
            part.ldo = (size_t)a->head_dim + 2;
            ops.attend(&part);
        }
        memset(out, 0xa5, s->out.n);
        for (size_t i = 0; i < n; i++) qn_attend_join(parts, parts + i * one, i == 0, a->group, a->head_dim);
        qn_attend_finish(parts, a->group, a->head_dim, out, a->ldo);
        if (isa == 0) memcpy(want, out, s->out.n);
        for (size_t h = 0; h < a->group; h++)
            assert_true(same_floats(&s->rng, "parts", out + h * a->ldo, want + h * a->ldo, a->head_dim));
    }
    check_double(s, want);
    if (n == 1) {
        qn_ops()->attend(a);
        for (size_t h = 0; h < a->group; h++)
            assert_memory_equal(out + h * a->ldo, want + h * a->ldo, a->head_dim * sizeof(float));
    }
    free(parts);
    free(want);
}

/* Cut at a block and gone on with: the bits of one call. */
static void check_resumed(struct scene *s, uint32_t cut) {
    struct qn_attend whole = s->a, part = s->a;
    size_t ld = (size_t)whole.head_dim + 2;
    float *want = calloc(whole.group * ld, sizeof *want), *out = calloc(whole.group * ld, sizeof *out);
    assert_true(want && out);
    for (int isa = 0; isa <= (int)qn_cpu_isa(); isa++) {
        struct qn_ops ops;
        qn_ops_fill(&ops, (enum qn_isa)isa);
        whole.part = part.part = true;
        whole.ldo = part.ldo = ld;
        whole.out = want;
        part.out = out;
        ops.attend(&whole);
        part.resume = false;
        part.length = cut;
        ops.attend(&part);
        part.resume = true;
        part.first = cut;
        part.length = whole.length;
        ops.attend(&part);
        part.first = whole.first;
        assert_memory_equal(want, out, whole.group * ld * sizeof *want);
    }
    free(want);
    free(out);
}

static void parts_come_together(void **state) {
    struct scene s;
    (void)state;
    rng_init(&s.rng);
    for (int round = 0; round < 60; round++) {
        uint32_t length = 1 + rng_below(&s.rng, 300),
                 first = rng_below(&s.rng, 2) ? rng_below(&s.rng, length) : 0;
        uint32_t hd = 8 * (1 + rng_below(&s.rng, 12)), group = 1 + rng_below(&s.rng, 7);
        scene_new(&s, (enum qn_kv_type)(round % QN_KV_TYPE_COUNT), group, hd, first, length, round & 4);
        check_parts(&s, QN_KV_BLOCK * (1 + rng_below(&s.rng, 24)));
        uint32_t cut = (first / QN_KV_BLOCK + 1 + rng_below(&s.rng, 8)) * QN_KV_BLOCK;
        if (cut < length) check_resumed(&s, cut);
        scene_free(&s);
    }
}

static void writes_agree(void **state) {
    struct rng rng;
    (void)state;
    rng_init(&rng);
    for (int round = 0; round < 40; round++) {
        enum qn_kv_type t = (enum qn_kv_type)(round % QN_KV_TYPE_COUNT);
        uint32_t hd = 8 * (1 + rng_below(&rng, 20));
        size_t half = (size_t)hd * QN_KV_BLOCK * qn_kv_elem_bytes(t);
        float k[160], v[160];
        uint8_t *want = malloc(2 * half);
        assert_non_null(want);
        rng_fill(&rng, k, hd);
        rng_fill(&rng, v, hd);
        k[0] = 1e6f; /* overflows f16 */
        v[1] = 1e-7f;
        for (int isa = 0; isa <= (int)qn_cpu_isa(); isa++) {
            struct guarded g;
            struct qn_ops ops;
            qn_ops_fill(&ops, (enum qn_isa)isa);
            guarded_new(&g, 2 * half, round & 4);
            struct qn_kv_write w = {.k = k,
                                    .v = v,
                                    .block = g.p,
                                    .v_offset = half,
                                    .type = t,
                                    .head_dim = hd,
                                    .slot = (uint32_t)round % QN_KV_BLOCK};
            ops.kv_write(&w);
            if (isa == 0) memcpy(want, g.p, 2 * half);
            assert_memory_equal(want, g.p, 2 * half);
            assert_true(guarded_free(&g));
        }
        free(want);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(levels_agree),
        cmocka_unit_test(rows_stand_alone),
        cmocka_unit_test(parts_come_together),
        cmocka_unit_test(writes_agree),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
