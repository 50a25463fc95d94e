/* Time of one layer's attention per token and KV head: decode (one token a step) near the beginning and far
 * from it, and prefill in steps of 512 tokens. One thread. Usage: recurrent_bench [head_dim [group]].
 * Prints a table; medians of several rounds. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/mem.h"
#include "model/attention/attention.h"

#define ROUNDS 7
#define CHUNK  512

struct bench {
    struct qn_spec spec;
    struct qn_attention a;
    struct qn_attn_weights src, w;
    struct qn_attention_call call;
    struct qn_row rows[CHUNK];
    struct qn_row_span span;
    uint8_t **blocks;
    size_t n_blocks;
    struct qn_state_size state;
};

static float *noise(size_t n) {
    float *x = qn_mem_alloc_array(n, sizeof *x);
    if (!x) exit(2);
    for (size_t i = 0; i < n; i++) x[i] = (float)rand() / (float)RAND_MAX - 0.5f;
    return x;
}

static void open_bench(struct bench *b, const struct qn_attn_member *m, const uint32_t shape[2],
                       uint32_t context) {
    struct qn_part p;
    memset(b, 0, sizeof *b);
    b->spec.head_dim = shape[0];
    b->spec.heads = m->kv_heads * shape[1];
    b->spec.context = context;
    b->spec.n_attn = 1;
    b->spec.attn[0] = *m;
    qn_part_init(&p, m->type);
    if (qn_attention_find(&b->spec, m->type)->resolve(&b->spec, 0, &p, &b->a, NULL) != QN_OK) exit(2);
    b->w.proj_heads = 1;
    if (m->features) b->w.features = noise((size_t)m->features * shape[0]);
    if (m->slots) b->w.e = b->w.f = noise((size_t)m->slots * context);
    b->state = b->a.ops->state(&b->a, QN_KV_F32);
    b->n_blocks = b->state.block_bytes ? context / QN_KV_BLOCK : 0;
    b->blocks = calloc(b->n_blocks + 1, sizeof *b->blocks);
    for (size_t i = 0; i < b->n_blocks; i++) b->blocks[i] = qn_mem_alloc(b->state.block_bytes);
    size_t floats = b->a.ops->work_floats(&b->spec, 1), heads = (size_t)b->spec.heads * shape[0];
    b->call = (struct qn_attention_call){.a = &b->a,
                                         .w = &b->w,
                                         .rows = b->rows,
                                         .spans = &b->span,
                                         .n_spans = 1,
                                         .work = qn_mem_alloc_array(floats, sizeof(float)),
                                         .work_floats = floats,
                                         .type = QN_KV_F32,
                                         .q = noise(CHUNK * heads),
                                         .k = noise((size_t)CHUNK * m->kv_heads * shape[0]),
                                         .v = noise((size_t)CHUNK * m->kv_heads * shape[0]),
                                         .out = noise(CHUNK * heads)};
    b->span.fixed = qn_mem_alloc(b->state.fixed_bytes);
}

static void step(struct bench *b, uint32_t pos, uint32_t n) {
    for (uint32_t i = 0; i < n; i++) b->rows[i] = (struct qn_row){.blocks = b->blocks, .pos = pos + i};
    b->span.n = b->call.n_rows = n;
    b->a.ops->run(&b->call);
}

static int by_value(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

/* Microseconds per token, `chunk` tokens a step, 512 tokens from pos on. */
static double measure(struct bench *b, uint32_t pos, uint32_t chunk) {
    double us[ROUNDS];
    for (int r = 0; r < ROUNDS; r++) {
        uint64_t start = qn_now_ns();
        for (uint32_t i = 0; i < CHUNK; i += chunk) step(b, pos + i, chunk);
        us[r] = (double)(qn_now_ns() - start) * 1e-3 / CHUNK;
    }
    qsort(us, ROUNDS, sizeof *us, by_value);
    return us[ROUNDS / 2];
}

int main(int argc, char **argv) {
    uint32_t shape[2] = {argc > 1 ? (uint32_t)atoi(argv[1]) : 64, argc > 2 ? (uint32_t)atoi(argv[2]) : 1};
    static const struct qn_attn_member members[] = {
        {.type = "mha", .kv_heads = 8},
        {.type = "linformer", .kv_heads = 8, .slots = 64},
        {.type = "linformer", .kv_heads = 8, .slots = 128},
        {.type = "linformer", .kv_heads = 8, .slots = 256},
        {.type = "performer", .kv_heads = 8, .features = 64},
        {.type = "performer", .kv_heads = 8, .features = 128},
        {.type = "performer", .kv_heads = 8, .features = 256},
        {.type = "performer", .kv_heads = 8, .features = 256, .relu = true},
    };
    qn_kernels_ensure();
    printf("us per token and KV head, head_dim %u, %u query heads each\n", shape[0], shape[1]);
    printf("%-10s %5s %12s %12s %12s %12s %12s\n", "kind", "size", "decode@1k", "decode@15k", "prefill@1k",
           "prefill@15k", "state KiB");
    for (size_t i = 0; i < sizeof members / sizeof *members; i++) {
        struct bench b;
        struct qn_attn_member m = members[i];
        if (shape[1] > 1 && m.slots + m.features == 0) snprintf(m.type, sizeof m.type, "gqa");
        open_bench(&b, &m, shape, 16384);
        for (uint32_t at = 0; at < 1024; at += CHUNK) step(&b, at, CHUNK);
        double kv = m.kv_heads;
        printf("%-10s %5u %12.2f", m.relu ? "relu" : m.type, m.slots + m.features, measure(&b, 1024, 1) / kv);
        for (uint32_t at = 1024; at < 15360; at += CHUNK) step(&b, at, CHUNK);
        printf(" %12.2f", measure(&b, 15360, 1) / kv);
        printf(" %12.2f", measure(&b, 1024, CHUNK) / kv);
        printf(" %12.2f %12.1f\n", measure(&b, 15360, CHUNK) / kv,
               ((double)b.state.fixed_bytes + (double)b.n_blocks * (double)b.state.block_bytes) / 1024 / kv);
    }
    return 0;
}
