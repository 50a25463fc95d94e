/* Performer and Linformer against slow numpy twins in double (tests/twin, made by tools/golden/linear.py):
 * within 1e-5 of the largest output, for several chunkings. Layout of the file: tests/golden/README.md. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "kernels/mem.h"
#include "tests/support/recurrent.h"

#define FILE_NAME "tests/twin/linear.bin"
#define TOLERANCE 1e-5

struct head { /* of a case, as it lies in the file */
    uint32_t linformer, heads, kv_heads, head_dim, n, size, proj, context, relu, causal, shared;
};

struct cursor {
    const uint8_t *at, *end;
};

static const void *take(struct cursor *c, size_t bytes) {
    const uint8_t *p = c->at;
    assert_true((size_t)(c->end - p) >= bytes);
    c->at += bytes;
    return p;
}

static void fill(struct cursor *c, float *x, size_t n) {
    memcpy(x, take(c, n * sizeof *x), n * sizeof *x);
}

static void run_case(struct cursor *c) {
    static const uint32_t chunks[] = {1, 7, 16, 1000};
    struct head h;
    memcpy(&h, take(c, sizeof h), sizeof h);
    struct qn_attn_member m = {.kv_heads = h.kv_heads,
                               .slots = h.linformer ? h.size : 0,
                               .features = h.linformer ? 0 : h.size,
                               .relu = h.relu};
    snprintf(m.type, sizeof m.type, "%s", h.linformer ? "linformer" : "performer");
    struct qn_att_shape shape = {h.heads, h.head_dim, h.context};
    struct qn_part p;
    qn_part_init(&p, m.type);
    qn_part_add(&p, "causal", QN_PARAM_BOOL, h.causal);
    struct rng rng;
    struct qn_att t;
    rng_init(&rng);
    qn_att_open(&t, &rng, &m, &shape, &p, 2);
    t.w.proj_heads = h.proj;
    struct qn_att_seq *s = qn_att_seq_new(&t, &rng, h.n, 1);
    size_t kv = (size_t)h.n * h.kv_heads * h.head_dim, all = (size_t)h.n * h.heads * h.head_dim;
    fill(c, s->q, all);
    fill(c, s->k, kv);
    fill(c, s->v, kv);
    if (h.linformer) {
        fill(c, t.w.e, (size_t)h.proj * h.context * h.size);
        fill(c, t.w.f, (size_t)h.proj * h.context * h.size);
        if (h.shared) t.w.f = t.w.e;
    } else {
        fill(c, t.w.features, (size_t)h.proj * h.head_dim * h.size);
    }
    float *got = calloc(all, sizeof *got);
    double *want = calloc(all, sizeof *want);
    assert_true(got && want);
    fill(c, got, all);
    for (size_t i = 0; i < all; i++) want[i] = (double)got[i];
    for (size_t i = 0; i < (h.causal ? 4 : 1); i++) {
        struct qn_att_seq *u = qn_att_seq_copy(&t, s);
        qn_att_chunks(&t, u, h.causal ? chunks[i] : h.n);
        assert_true(qn_att_error(u->out, want, all) <= TOLERANCE);
        qn_att_seq_free(u);
    }
    free(got);
    free(want);
    qn_att_seq_free(s);
    qn_att_close(&t);
}

static void equal_the_twins(void **state) {
    (void)state;
    FILE *f = fopen(FILE_NAME, "rb");
    assert_non_null(f);
    assert_int_equal(fseek(f, 0, SEEK_END), 0);
    long size = ftell(f);
    assert_true(size > 12);
    rewind(f);
    uint8_t *data = malloc((size_t)size);
    assert_non_null(data);
    assert_int_equal(fread(data, 1, (size_t)size, f), (size_t)size);
    fclose(f);
    struct cursor c = {data, data + size};
    assert_memory_equal(take(&c, 8), "QTWIN001", 8);
    uint32_t n;
    memcpy(&n, take(&c, sizeof n), sizeof n);
    assert_true(n >= 9);
    for (uint32_t i = 0; i < n; i++) run_case(&c);
    assert_ptr_equal(c.at, c.end);
    free(data);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(equal_the_twins)};
    qn_kernels_ensure();
    return cmocka_run_group_tests(tests, NULL, NULL);
}
