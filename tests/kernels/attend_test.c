/* Attention: every level gives the reference's bits, for every type of keys and values; the reference agrees
 * with softmax in double; unseen slots may hold NaN; a row's result depends neither on the rows beside it nor
 * on what lies behind it. */
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

/* Against double, where |v| <= 2: f32 sums of up to a few hundred terms and a 2 ulp exp; with Q8 queries of
 * 16 bits too, whose scores are off by up to 2^-16 * 2 * 2 * 8. */
#define ATTEND_TOLERANCE 4e-5
#define ATTEND_TOL_Q8    1e-3
#define BLOCKS_MAX       40

struct scene {
    struct rng rng;
    struct qn_attend a;
    struct guarded q, out, kv[BLOCKS_MAX];
    const uint8_t *table[BLOCKS_MAX];
    float *k, *v; /* [tokens, head_dim], as stored */
    unsigned blocks;
};

struct shape {
    enum qn_kv_type type;
    uint32_t group, hd, rows, pos, window;
    bool at_end;
};

/* Hadamard transforms of the largest power of two that divides n. */
static void turn(float *x, uint32_t n, float norm) {
    for (uint32_t h = 1; n % (2 * h) == 0; h *= 2) {
        for (uint32_t i = 0; i < n; i += 2 * h) {
            for (uint32_t j = i; j < i + h; j++) {
                float a = x[j], b = x[j + h];
                x[j] = (a + b) * norm;
                x[j + h] = (a - b) * norm;
            }
        }
    }
}

/* What is read back of one token's keys or values. */
static void rounded(enum qn_kv_type t, float *x, uint32_t n) {
    float top = 0;
    if (t == QN_KV_Q8) turn(x, n, 1);
    for (uint32_t i = 0; i < n; i++) top = fmaxf(top, fabsf(x[i]));
    for (uint32_t i = 0; i < n; i++) {
        if (t == QN_KV_F16) x[i] = qn_f16_to_f32(qn_f32_to_f16(x[i]));
        if (t == QN_KV_BF16) x[i] = qn_bf16_to_f32(qn_f32_to_bf16(x[i]));
        if (t == QN_KV_Q8) x[i] = nearbyintf(x[i] * (127.0f / top)) * (top / 127.0f);
    }
    if (t == QN_KV_Q8) turn(x, n, 0.5f);
}

static void poison(uint8_t *p, size_t n) { /* NaN as f32, f16 and bf16 */
    memset(p, 0xff, n);
}

static uint32_t tokens(const struct shape *sh) {
    return sh->pos + sh->rows;
}

/* Tokens that no row sees are left out: their slots hold NaN. */
static void write_tokens(struct scene *s, const struct shape *sh, size_t half) {
    uint32_t first = sh->window > 0 && sh->pos + 1 > sh->window ? sh->pos + 1 - sh->window : 0;
    for (uint32_t i = first; i < tokens(sh); i++) {
        float *k = s->k + (size_t)i * sh->hd, *v = s->v + (size_t)i * sh->hd;
        struct qn_kv_write w = {.k = k,
                                .v = v,
                                .v_offset = half,
                                .type = sh->type,
                                .block = s->kv[i / QN_KV_BLOCK].p,
                                .head_dim = sh->hd,
                                .slot = i % QN_KV_BLOCK};
        qn_ops()->kv_write(&w);
        rounded(sh->type, k, sh->hd);
        rounded(sh->type, v, sh->hd);
    }
}

static void scene_new(struct scene *s, const struct shape *sh) {
    size_t half = qn_kv_half_bytes(sh->type, sh->hd), ld = sh->hd + 8 * rng_below(&s->rng, 2);
    size_t row = sh->group * ld + 8 * rng_below(&s->rng, 2);
    guarded_new(&s->q, ((sh->rows - 1) * row + (sh->group - 1) * ld + sh->hd) * 4, sh->at_end);
    guarded_new(&s->out, s->q.n, sh->at_end);
    rng_fill(&s->rng, (float *)(void *)s->q.p, s->q.n / 4);
    s->blocks = (tokens(sh) + QN_KV_BLOCK - 1) / QN_KV_BLOCK;
    assert_true(s->blocks <= BLOCKS_MAX);
    s->k = calloc((size_t)tokens(sh) * sh->hd, 4);
    s->v = calloc((size_t)tokens(sh) * sh->hd, 4);
    assert_true(s->k && s->v);
    rng_fill(&s->rng, s->k, (size_t)tokens(sh) * sh->hd);
    rng_fill(&s->rng, s->v, (size_t)tokens(sh) * sh->hd);
    for (unsigned b = 0; b < s->blocks; b++) {
        guarded_new(&s->kv[b], 2 * half, sh->at_end);
        poison(s->kv[b].p, 2 * half);
        s->table[b] = s->kv[b].p;
    }
    write_tokens(s, sh, half);
    s->a = (struct qn_attend){.q = (float *)(void *)s->q.p,
                              .ldq = ld,
                              .q_row = row,
                              .out = (float *)(void *)s->out.p,
                              .ldo = ld,
                              .out_row = row,
                              .blocks = s->table,
                              .v_offset = half,
                              .type = sh->type,
                              .group = sh->group,
                              .head_dim = sh->hd,
                              .rows = sh->rows,
                              .pos = sh->pos,
                              .end = UINT32_MAX,
                              .window = sh->window,
                              .scale = 1.0f / sqrtf((float)sh->hd)};
}

static void scene_free(struct scene *s) {
    assert_true(guarded_free(&s->q));
    assert_true(guarded_free(&s->out));
    for (unsigned b = 0; b < s->blocks; b++) assert_true(guarded_free(&s->kv[b]));
    free(s->k);
    free(s->v);
}

static void random_shape(struct rng *rng, int round, struct shape *sh) {
    static const uint32_t at[] = {0, 1, 14, 15, 16, 30, 31, 32, 47, 62, 63, 64, 99, 127, 128, 192, 256};
    static const uint32_t dims[] = {8, 16, 24, 64, 72, 80, 96, 128, 136, 256};
    static const uint32_t rows[] = {1, 1, 1, 2, 3, 5, 16, 17, 33, 70};
    *sh = (struct shape){.type = (enum qn_kv_type)(round % QN_KV_TYPE_COUNT),
                         .group = 1 + rng_below(rng, 9),
                         .hd = dims[rng_below(rng, sizeof dims / sizeof *dims)],
                         .rows = rows[rng_below(rng, sizeof rows / sizeof *rows)],
                         .pos = at[rng_below(rng, sizeof at / sizeof *at)],
                         .window = rng_below(rng, 3) ? 0 : 1 + rng_below(rng, 200),
                         .at_end = round & 4};
}

static void check_head(const struct scene *s, const float *q, uint32_t pos, const float *out) {
    const struct qn_attend *a = &s->a;
    size_t hd = a->head_dim, from = a->window > 0 && pos + 1 > a->window ? pos + 1 - a->window : 0;
    double score[512], top = -INFINITY, sum = 0, tolerance = 2 * ATTEND_TOLERANCE;
    if (a->type == QN_KV_Q8) tolerance = 2 * ATTEND_TOL_Q8;
    for (size_t t = from; t <= pos; t++) {
        score[t] = 0;
        for (size_t d = 0; d < hd; d++) score[t] += (double)q[d] * (double)s->k[t * hd + d];
        score[t] *= (double)a->scale;
        top = fmax(top, score[t]);
    }
    for (size_t t = from; t <= pos; t++) sum += exp(score[t] - top);
    for (size_t d = 0; d < hd; d++) {
        double want = 0;
        for (size_t t = from; t <= pos; t++) want += exp(score[t] - top) / sum * (double)s->v[t * hd + d];
        assert_true(fabs(want - (double)out[d]) <= tolerance);
    }
}

static void check_double(const struct scene *s, const float *out) {
    const struct qn_attend *a = &s->a;
    for (uint32_t r = 0; r < a->rows; r++) {
        for (size_t h = 0; h < a->group; h++)
            check_head(s, a->q + r * a->q_row + h * a->ldq, a->pos + r, out + r * a->out_row + h * a->ldo);
    }
}

static void check_same(const struct scene *s, const char *what, const float *got, const float *want) {
    for (uint32_t r = 0; r < s->a.rows; r++) {
        for (size_t h = 0; h < s->a.group; h++) {
            size_t at = r * s->a.out_row + h * s->a.ldo;
            assert_true(same_floats(&s->rng, what, got + at, want + at, s->a.head_dim));
        }
    }
}

static void check_scene(struct scene *s) {
    float *want = calloc(s->out.n, 1), *out = (float *)(void *)s->out.p;
    assert_non_null(want);
    for (int isa = 0; isa <= (int)qn_cpu_isa(); isa++) {
        struct qn_ops ops;
        char what[128];
        qn_ops_fill(&ops, (enum qn_isa)isa);
        memset(out, 0xa5, s->out.n);
        ops.attend(&s->a);
        if (isa == 0) {
            memcpy(want, out, s->out.n);
            check_double(s, want);
        }
        snprintf(what, sizeof what, "attend %s %s group %u hd %u rows %u pos %u window %u",
                 qn_isa_name((enum qn_isa)isa), qn_kv_type_name(s->a.type), s->a.group, s->a.head_dim,
                 s->a.rows, s->a.pos, s->a.window);
        check_same(s, what, out, want);
    }
    free(want);
}

static void levels_agree(void **state) {
    struct scene s;
    struct shape sh;
    (void)state;
    rng_init(&s.rng);
    for (int round = 0; round < 200; round++) {
        random_shape(&s.rng, round, &sh);
        scene_new(&s, &sh);
        check_scene(&s);
        scene_free(&s);
    }
}

/* A head of a row gets the same bits as when it is asked for alone, with NaN in all that it does not see. */
static void rows_stand_alone(void **state) {
    struct scene s;
    struct shape sh;
    (void)state;
    rng_init(&s.rng);
    for (int round = 0; round < 60; round++) {
        float solo[256], *want;
        random_shape(&s.rng, round, &sh);
        qn_kernels_init((enum qn_isa)rng_below(&s.rng, (uint32_t)qn_cpu_isa() + 1));
        scene_new(&s, &sh);
        want = calloc(s.out.n, 1);
        assert_non_null(want);
        qn_ops()->attend(&s.a);
        memcpy(want, s.a.out, s.out.n);
        for (uint32_t r = sh.rows; r-- > 0;) { /* from the last on: what lies behind is spoilt */
            uint32_t length = sh.pos + r + 1;
            for (unsigned b = (length + QN_KV_BLOCK - 1) / QN_KV_BLOCK; b < s.blocks; b++)
                poison(s.kv[b].p, s.kv[b].n);
            struct qn_attend one = s.a;
            one.rows = one.group = 1;
            one.pos = s.a.pos + r;
            one.out = solo;
            for (size_t h = 0; h < sh.group; h++) {
                one.q = s.a.q + r * s.a.q_row + h * s.a.ldq;
                one.ldo = sh.hd;
                qn_ops()->attend(&one);
                assert_memory_equal(want + r * s.a.out_row + h * s.a.ldo, solo, sh.hd * sizeof *solo);
            }
        }
        free(want);
        scene_free(&s);
    }
    qn_kernels_init(QN_ISA_COUNT - 1);
}

/* One row cut at multiples of `step` and put together again, into out. Returns the number of parts. */
static size_t in_parts(const struct scene *s, const struct qn_ops *ops, uint32_t step, float *parts,
                       float *out) {
    const struct qn_attend *a = &s->a;
    size_t one = (size_t)a->group * (a->head_dim + 2), n = 0;
    uint32_t first = a->window > 0 && a->pos + 1 > a->window ? a->pos + 1 - a->window : 0;
    for (uint32_t t = first - first % step; t <= a->pos; t += step) {
        struct qn_attend part = *a;
        part.part = true;
        part.begin = t;
        part.end = t + step;
        part.out = parts + n * one;
        part.ldo = (size_t)a->head_dim + 2;
        ops->attend(&part);
        ops->attend_join(parts, parts + n * one, n == 0, a->group, a->head_dim);
        n++;
    }
    qn_attend_finish(parts, a->group, a->head_dim, out, a->ldo);
    return n;
}

/* The same bits at every level, and the bits of the whole where there is one part. */
static void check_parts(struct scene *s, uint32_t step) {
    const struct qn_attend *a = &s->a;
    size_t one = (size_t)a->group * (a->head_dim + 2), n = 0;
    float *parts = calloc(((a->pos + 1) / step + 2) * one, sizeof *parts);
    float *want = calloc(s->out.n, 1), *out = (float *)(void *)s->out.p;
    assert_true(parts && want);
    for (int isa = 0; isa <= (int)qn_cpu_isa(); isa++) {
        struct qn_ops ops;
        qn_ops_fill(&ops, (enum qn_isa)isa);
        memset(out, 0xa5, s->out.n);
        n = in_parts(s, &ops, step, parts, out);
        if (isa == 0) memcpy(want, out, s->out.n);
        check_same(s, "parts", out, want);
    }
    check_double(s, want);
    if (n == 1) {
        qn_ops()->attend(a);
        check_same(s, "one part", out, want);
    }
    free(parts);
    free(want);
}

static void parts_come_together(void **state) {
    struct scene s;
    (void)state;
    rng_init(&s.rng);
    for (int round = 0; round < 60; round++) {
        struct shape sh = {.type = (enum qn_kv_type)(round % QN_KV_TYPE_COUNT),
                           .group = 1 + rng_below(&s.rng, 7),
                           .hd = 8 * (1 + rng_below(&s.rng, 12)),
                           .rows = 1,
                           .pos = rng_below(&s.rng, 300),
                           .window = rng_below(&s.rng, 2) ? 1 + rng_below(&s.rng, 300) : 0,
                           .at_end = round & 4};
        scene_new(&s, &sh);
        check_parts(&s, QN_ATTEND_GROUP * (1 + rng_below(&s.rng, 6)));
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
        size_t half = qn_kv_half_bytes(t, hd);
        float k[160], v[160];
        uint8_t *want = malloc(2 * half);
        assert_non_null(want);
        rng_fill(&rng, k, hd);
        rng_fill(&rng, v, hd);
        k[0] = 1e6f; /* overflows f16 */
        v[1] = 1e-7f;
        if (round % 7 == 1) memset(k, 0, sizeof k);
        if (round % 7 == 2) v[0] = NAN, v[2] = -INFINITY;
        if (round % 7 == 3) {
            for (uint32_t i = 0; i < hd; i++) v[i] *= 1e-38f;
        }
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
