/* quern bench --machine: what memory and arithmetic of this machine can give at most, by threads. A generated
 * token reads the weights once: tokens/s can't be more than GB/s over bytes; a prompt's are bound by the
 * arithmetic. Thread: main. */
#include <stdio.h>
#include <string.h>

#include "kernels/cpu.h"
#include "kernels/probe.h"
#include "server/cli.h"
#include "server/cmd_bench.h"

#define ROWS 6

struct machine {
    uint32_t threads, mib;
    bool json, machine;
};

static const struct {
    const char *name, *title, *unit;
} rows[ROWS] = {
    {"read_memory_gb", "memory read", "GB/s"},        {"read_l3_gb", "read, 16 MiB in all", "GB/s"},
    {"read_l2_gb", "read, 512 KiB a thread", "GB/s"}, {"int8_gops", "8-bit dot products (VNNI)", "GOP/s"},
    {"bf16_gflops", "BF16 dot products", "GFLOP/s"},  {"f32_gflops", "f32 multiply-adds", "GFLOP/s"},
};

/* Multiplies and adds count as one operation each. */
static void measure(const struct machine *m, struct qn_pool *pool, double *out) {
    const struct qn_probe_ops *ops = qn_probe_ops();
    out[0] = qn_probe_read(pool, (size_t)m->mib << 20) * 1e-9;
    out[1] = qn_probe_read(pool, (size_t)16 << 20) * 1e-9;
    out[2] = qn_probe_read(pool, (size_t)qn_pool_threads(pool) << 19) * 1e-9;
    out[3] = qn_probe_compute(pool, ops->int8) * 2e-9;
    out[4] = qn_probe_compute(pool, ops->bf16) * 2e-9;
    out[5] = qn_probe_compute(pool, ops->f32) * 2e-9;
}

static void print_json(const uint32_t *threads, double (*v)[ROWS], uint32_t n) {
    printf("{\"cpu\":");
    qn_bench_json_string(qn_cpu_model());
    printf(",\"isa\":\"%s\",\"quern\":\"%s\",\"threads\":[", qn_isa_name(qn_cpu_isa()), QN_VERSION);
    for (uint32_t i = 0; i < n; i++) {
        printf("%s{\"threads\":%u", i ? "," : "", threads[i]);
        for (int r = 0; r < ROWS; r++) {
            printf(",\"%s\":", rows[r].name);
            printf(v[i][r] > 0 ? "%.2f" : "null", v[i][r]);
        }
        printf("}");
    }
    printf("]}\n");
}

static void print_table(const uint32_t *threads, double (*v)[ROWS], uint32_t n) {
    printf("%s, %s\n\n| |", qn_cpu_model(), qn_isa_name(qn_cpu_isa()));
    for (uint32_t i = 0; i < n; i++) printf(" %u thread%s |", threads[i], threads[i] > 1 ? "s" : "");
    printf("\n|---|");
    for (uint32_t i = 0; i < n; i++) printf("---:|");
    for (int r = 0; r < ROWS; r++) {
        printf("\n| %s, %s |", rows[r].title, rows[r].unit);
        for (uint32_t i = 0; i < n; i++) printf(v[i][r] > 0 ? " %.1f |" : " – |", v[i][r]);
    }
    printf("\n");
}

int qn_cmd_bench_machine(int argc, char **argv) {
    struct machine m = {.threads = qn_cpu_threads(NULL), .mib = 512};
    const struct qn_cli_option options[] = {
        {"machine", QN_CLI_FLAG, &m.machine, 0, 0, NULL, "this measurement"},
        {"threads", QN_CLI_THREADS, &m.threads, 1, 256, "N", "measure 1, 2, 4, … and this many threads"},
        {"memory", QN_CLI_UINT, &m.mib, 1, 1u << 16, "MIB",
         "MiB to read in all: several times the last cache"},
        {"json", QN_CLI_FLAG, &m.json, 0, 0, NULL, "print one JSON object instead of a table"},
    };
    struct qn_cli cli = {.name = "bench --machine",
                         .usage = "quern bench --machine [options]",
                         .about = "Measures what memory and arithmetic give at most.",
                         .options = options,
                         .n_options = sizeof options / sizeof *options};
    int r = qn_cli_parse(&cli, argc, argv);
    if (r) return r == 1 ? 0 : 2;
    uint32_t threads[10], n = 0;
    double v[10][ROWS];
    for (uint32_t t = 1; t < m.threads; t *= 2) threads[n++] = t;
    threads[n++] = m.threads;
    for (uint32_t i = 0; i < n; i++) {
        struct qn_pool *pool = qn_pool_new(threads[i]);
        if (pool) measure(&m, pool, v[i]);
        if (!pool || v[i][0] <= 0) {
            fprintf(stderr, "quern: out of memory, or too few MiB for so many threads\n");
            qn_pool_free(&pool);
            return 1;
        }
        qn_pool_free(&pool);
    }
    (m.json ? print_json : print_table)(threads, v, n);
    return fflush(stdout) ? 1 : 0;
}
