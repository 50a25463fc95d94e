/* The parts of `quern bench` and what they hand each other.
 *
 *   cmd_bench.c        throughput of one model
 *   cmd_bench_machine.c  `quern bench --machine`: what memory and arithmetic can give at most
 *   cmd_bench_sweep.c  `quern bench --structures`: options -> structures x batches x lengths, in rounds
 *   cmd_bench_cell.c   one structure opened; one sample of one cell
 *   cmd_bench_rows.c   samples -> figures -> table, JSON, CSV
 *
 * Thread: main. */
#ifndef QN_SERVER_CMD_BENCH_H
#define QN_SERVER_CMD_BENCH_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "model/model.h"

#define QN_SWEEP_LIST    16  /* entries of one list option */
#define QN_SWEEP_NAME    24  /* bytes of a name in a list */
#define QN_SWEEP_REPEATS 101 /* samples of a cell */
#define QN_SWEEP_SHAPE   256 /* bytes of a shape */

/* A list option, split. */
struct qn_sweep_names {
    char at[QN_SWEEP_LIST][QN_SWEEP_NAME];
    uint32_t n;
};
struct qn_sweep_numbers {
    uint32_t at[QN_SWEEP_LIST], n;
};

/* Seconds of one kind of work. */
struct qn_sweep_samples {
    double seconds[QN_SWEEP_REPEATS];
    uint32_t n;
};

/* One combination of parts at the sweep's shape, opened once per round as a synthetic model. */
struct qn_sweep_structure {
    const char *attention, *ffn, *sharing; /* in the sweep's lists */
    char path[2 * QN_SWEEP_SHAPE];         /* "synthetic:…" */
    struct qn_structure info;              /* as resolved */
    /* The first thing ever timed, to know what a first length will take: a short prefill. */
    double probe_seconds, probe_flops;
};

/* One structure at one batch size and length. */
struct qn_sweep_cell {
    uint32_t structure, batch, length;
    bool has_prefill;                         /* of one sequence: with the first batch size only */
    struct qn_sweep_samples decode;           /* of a step: `batch` sequences, one token each */
    struct qn_sweep_samples prefill;          /* of `length` tokens of one sequence */
    char decode_skipped[96];                  /* why; "" = not skipped */
    bool prefill_skipped;                     /* the estimate exceeds the bound */
    size_t state_bytes;                       /* most that the allocator held for one sequence of `length` */
    struct qn_cost decode_cost, prefill_cost; /* of a step; of one sequence */
};

enum qn_sweep_format { QN_SWEEP_TABLE = 0, QN_SWEEP_JSON, QN_SWEEP_CSV };

struct qn_sweep {
    char shape_name[QN_SWEEP_NAME], shape[QN_SWEEP_SHAPE];
    const char *type, *kv_name;
    enum qn_state_type kv_type;
    enum qn_sweep_format format;
    bool computed_depth;  /* fill the state by running tokens */
    bool decode, prefill; /* what is measured at all */
    uint32_t threads, max_seconds, repeats, step_tokens;
    size_t state_budget;
    struct qn_pool *pool;
    struct qn_sweep_names attention, ffn, sharing;
    struct qn_sweep_numbers lengths, batches;
    struct qn_sweep_structure *structures; /* [n_structures] */
    uint32_t n_structures;
    struct qn_sweep_cell *cells; /* [n_cells]: structures outermost, then batches, lengths ascending */
    uint32_t n_cells;
};

/* quern bench --structures; argv still holds that option. Exit status as in server/cmd.h. */
int qn_cmd_bench_structures(int argc, char **argv);
/* quern bench --machine; the same. */
int qn_cmd_bench_machine(int argc, char **argv);

/* cmd_bench_cell.c. An opened structure. */
struct qn_sweep_run;
/* Opens structure `index`; fills its info. */
int qn_sweep_open(struct qn_sweep *s, uint32_t index, struct qn_sweep_run **out, struct qn_err *err);
void qn_sweep_close(struct qn_sweep_run **run);
/* Takes one more sample of each kind that the cell wants and its bounds allow. */
int qn_sweep_sample(struct qn_sweep_run *run, struct qn_sweep_cell *cell, struct qn_err *err);
/* Expected seconds of a prefill of the cell's length, from shorter ones of its structure. */
double qn_sweep_estimate(const struct qn_sweep *s, const struct qn_sweep_cell *cell);

/* cmd_bench_rows.c. Median of samples (0 without any) and the interquartile range. */
double qn_sweep_median(const struct qn_sweep_samples *s, double *iqr);
/* Prints every cell in the sweep's format. 0, or -1 when stdout can't take it. */
int qn_sweep_print(const struct qn_sweep *s);

/* Prints s as a JSON string. */
void qn_bench_json_string(const char *s);

#endif
