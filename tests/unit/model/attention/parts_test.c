/* Softmax over long sequences, whose tokens are read in parts: rows of one step that together have more parts
 * than the work memory holds are read in turns, with the bits that each has alone on one thread, and within
 * that memory; which grows with the context once, not for every thread. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "kernels/mem.h"
#include "tests/support/recurrent.h"

#define HEADS   64 /* so many that their parts are what the work memory is made for */
#define DH      8
#define CONTEXT 9216
#define ROWS    5
#define CANARY  64

static const struct qn_att_shape shape = {HEADS, DH, CONTEXT};
static const struct qn_attn_member member = {.type = "mqa", .kv_heads = 1};
static const uint32_t last[ROWS] = {CONTEXT - 1, 7000, CONTEXT - 3, 500, CONTEXT - 1024};

/* Rows of as many sequences, each the last of its own; they share blocks, since the earlier tokens don't
 * matter. */
struct scene {
    uint8_t *blocks[CONTEXT / QN_KV_BLOCK];
    struct qn_row rows[ROWS];
    float q[ROWS][HEADS * DH], k[ROWS][DH], v[ROWS][DH], out[ROWS][HEADS * DH];
};

static float *noise(struct rng *rng, float *x, size_t n) {
    for (size_t i = 0; i < n; i++) x[i] = (float)qn_att_normal(rng);
    return x;
}

static void make(struct scene *s) {
    struct rng rng;
    size_t floats = 2 * (size_t)QN_KV_BLOCK * DH;
    rng_init(&rng);
    for (size_t i = 0; i < CONTEXT / QN_KV_BLOCK; i++) {
        float *x = qn_mem_alloc_array(floats, sizeof *x);
        assert_non_null(x);
        s->blocks[i] = (uint8_t *)noise(&rng, x, floats);
    }
    for (int i = 0; i < ROWS; i++) s->rows[i] = (struct qn_row){.blocks = s->blocks, .pos = last[i]};
    noise(&rng, s->q[0], (size_t)ROWS * HEADS * DH);
    noise(&rng, s->k[0], (size_t)ROWS * DH);
    noise(&rng, s->v[0], (size_t)ROWS * DH);
}

/* Rows [first, first + n) in one step on so many threads; nothing is written past the work memory. */
static void step(struct scene *s, unsigned threads, uint32_t first, uint32_t n) {
    struct rng rng;
    struct qn_att t;
    rng_init(&rng);
    qn_att_open(&t, &rng, &member, &shape, NULL, threads);
    size_t all = threads * t.work_floats;
    float *work = qn_mem_alloc_array(all + CANARY, sizeof *work);
    assert_non_null(work);
    for (size_t i = 0; i < CANARY; i++) work[all + i] = 7;
    struct qn_attention_call call = {.a = &t.a,
                                     .w = &t.w,
                                     .pool = t.pool,
                                     .rows = s->rows + first,
                                     .n_rows = n,
                                     .work = work,
                                     .work_floats = t.work_floats,
                                     .type = QN_KV_F32,
                                     .q = s->q[first],
                                     .k = s->k[first],
                                     .v = s->v[first],
                                     .out = s->out[first]};
    memset(s->out, 0, sizeof s->out);
    t.a.ops->run(&call);
    for (size_t i = 0; i < CANARY; i++) assert_true(work[all + i] == 7);
    qn_mem_free(work);
    qn_att_close(&t);
}

static void many_parts_take_turns(void **state) {
    (void)state;
    static struct scene s;
    static float want[ROWS][HEADS * DH];
    make(&s);
    step(&s, 1, 0, ROWS); /* all keys are there from now on */
    for (uint32_t i = 0; i < ROWS; i++) {
        step(&s, 1, i, 1);
        memcpy(want[i], s.out[i], sizeof want[i]);
    }
    for (unsigned threads = 1; threads <= 8; threads++) {
        for (uint32_t n = 1; n <= ROWS; n++) {
            step(&s, threads, 0, n);
            assert_memory_equal(s.out, want, n * sizeof *want);
        }
    }
    for (size_t i = 0; i < CONTEXT / QN_KV_BLOCK; i++) qn_mem_free(s.blocks[i]);
}

static size_t work_bytes(uint32_t context, unsigned threads) {
    struct qn_spec spec = {.heads = 28, .head_dim = 128, .context = context};
    return qn_attention_gqa.work_floats(&spec, threads) * threads * sizeof(float);
}

static void memory_grows_with_the_context_once(void **state) {
    (void)state;
    size_t row = ((1u << 20) / 1024) * (size_t)28 * 130 * sizeof(float); /* parts of one row, all heads */
    for (unsigned threads = 1; threads <= 64; threads *= 4)
        assert_true(work_bytes(1u << 20, threads) <=
                    work_bytes(1024, threads) + row + threads * sizeof(float));
    assert_true(work_bytes(1u << 20, 1) >= row);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(many_parts_take_turns),
                                       cmocka_unit_test(memory_grows_with_the_context_once)};
    qn_kernels_ensure();
    return cmocka_run_group_tests(tests, NULL, NULL);
}
