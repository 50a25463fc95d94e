/* What a sweep found, one row a cell: median, spread, achieved rates, ratios against the first structure at
 * the same batch and length; as an aligned table, JSON or CSV. The fields of JSON and CSV are one list.
 * Thread: main. */
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/cpu.h"
#include "server/cmd_bench.h"
#include "server/comparison.h"

#define MOST_FIELDS 48
#define COLUMNS     15
#define COLUMN_MAX  40

double qn_sweep_median(const struct qn_sweep_samples *s, double *iqr) {
    double v[QN_SWEEP_REPEATS], median, spread;
    memcpy(v, s->seconds, s->n * sizeof *v);
    qn_quartiles(v, s->n, &median, &spread);
    if (iqr) *iqr = spread;
    return median;
}

/* --- figures --- */
/* Seconds and rates of one kind of work; NAN where there is none. */
struct rate {
    double seconds, iqr, gflops, gbytes, speedup;
};
struct figures {
    struct rate decode, prefill;
    double estimate;    /* seconds, of a prefill that was skipped; else NAN */
    double bytes_ratio; /* of decode steps */
};

static struct rate rate_of(const struct qn_sweep_samples *s, const struct qn_cost *cost,
                           const struct qn_sweep_samples *base) {
    struct rate r = {NAN, NAN, NAN, NAN, NAN};
    if (s->n == 0) return r;
    r.seconds = qn_sweep_median(s, &r.iqr);
    r.gflops = cost->flops / r.seconds * 1e-9;
    r.gbytes = cost->bytes / r.seconds * 1e-9;
    if (base->n) r.speedup = qn_sweep_median(base, NULL) / r.seconds;
    return r;
}

static struct figures figures_of(const struct qn_sweep *s, const struct qn_sweep_cell *c) {
    uint32_t per = s->n_cells / s->n_structures;
    const struct qn_sweep_cell *base = &s->cells[(size_t)(c - s->cells) % per];
    return (struct figures){
        .decode = rate_of(&c->decode, &c->decode_cost, &base->decode),
        .prefill = rate_of(&c->prefill, &c->prefill_cost, &base->prefill),
        .estimate = c->prefill_skipped ? qn_sweep_estimate(s, c) : NAN,
        .bytes_ratio = base->decode_cost.bytes / c->decode_cost.bytes,
    };
}

/* --- JSON and CSV --- */
struct field {
    const char *name;
    const char *text; /* NULL: a number */
    double number;    /* NAN: null */
    int decimals;
};
struct fields {
    struct field at[MOST_FIELDS];
    size_t n;
};

static void add_text(struct fields *f, const char *name, const char *text) {
    f->at[f->n++] = (struct field){.name = name, .text = text};
}

static void add_number(struct fields *f, const char *name, double v, int decimals) {
    f->at[f->n++] = (struct field){.name = name, .number = v, .decimals = decimals};
}

/* "kv_heads=3 k=256": the whole numbers of a part. */
static const char *part_numbers(const struct qn_part *p, char *out, size_t size) {
    size_t n = 0;
    out[0] = '\0';
    for (uint32_t i = 0; i < p->n_params && n < size; i++) {
        if (p->params[i].kind != QN_PARAM_INT) continue;
        n += (size_t)snprintf(out + n, size - n, "%s%s=%.0f", n ? " " : "", p->params[i].name,
                              p->params[i].value);
    }
    return out;
}

static void add_decode(struct fields *f, const struct qn_sweep_cell *c, const struct figures *g) {
    double ms = 1e3 / c->batch;
    add_number(f, "decode_ms_per_token", g->decode.seconds * ms, 4);
    add_number(f, "decode_iqr_ms", g->decode.iqr * ms, 4);
    add_number(f, "decode_samples", c->decode.n, 0);
    add_number(f, "decode_tokens_per_second", c->batch / g->decode.seconds, 2);
    add_number(f, "decode_speedup", g->decode.speedup, 3);
    add_number(f, "decode_bytes_ratio", g->bytes_ratio, 3);
    add_number(f, "decode_flops", c->decode_cost.flops, 0);
    add_number(f, "decode_gflops_per_second", g->decode.gflops, 2);
    add_number(f, "decode_bytes", c->decode_cost.bytes, 0);
    add_number(f, "decode_gbytes_per_second", g->decode.gbytes, 2);
    add_text(f, "decode_skipped", c->decode_skipped);
}

static void add_prefill(struct fields *f, const struct qn_sweep_cell *c, const struct figures *g) {
    add_number(f, "prefill_ms", g->prefill.seconds * 1e3, 3);
    add_number(f, "prefill_iqr_ms", g->prefill.iqr * 1e3, 3);
    add_number(f, "prefill_samples", c->prefill.n, 0);
    add_number(f, "prefill_speedup", g->prefill.speedup, 3);
    add_number(f, "prefill_flops", c->prefill_cost.flops, 0);
    add_number(f, "prefill_gflops_per_second", g->prefill.gflops, 2);
    add_number(f, "prefill_bytes", c->prefill_cost.bytes, 0);
    add_number(f, "prefill_gbytes_per_second", g->prefill.gbytes, 2);
    add_text(f, "prefill_skipped",
             c->prefill_skipped ? "the estimate exceeds --max-seconds, or there is no state for it" : "");
    add_number(f, "prefill_estimate_ms", g->estimate * 1e3, 3);
}

struct row_text {
    char attention[160], ffn[160];
};

static void list_fields(const struct qn_sweep *s, const struct qn_sweep_cell *c, struct row_text *t,
                        struct fields *f) {
    const struct qn_sweep_structure *st = &s->structures[c->structure];
    struct figures g = figures_of(s, c);
    f->n = 0;
    add_text(f, "shape_name", s->shape_name);
    add_text(f, "shape", s->shape);
    add_text(f, "weight_type", s->type);
    add_text(f, "state_type", s->kv_name);
    add_number(f, "threads", s->threads, 0);
    add_text(f, "attention", st->attention);
    add_text(f, "attention_parameters", part_numbers(&st->info.attention, t->attention, sizeof t->attention));
    add_text(f, "ffn", st->ffn);
    add_text(f, "ffn_parameters", part_numbers(&st->info.ffn, t->ffn, sizeof t->ffn));
    add_text(f, "sharing", st->sharing);
    add_number(f, "batch", c->batch, 0);
    add_number(f, "length", c->length, 0);
    add_number(f, "weights_bytes", (double)st->info.weights_bytes, 0);
    add_number(f, "weights_active_bytes", (double)st->info.weights_active_bytes, 0);
    add_number(f, "state_bytes", c->state_bytes ? (double)c->state_bytes : NAN, 0);
    if (s->decode) add_decode(f, c, &g);
    if (s->prefill) add_prefill(f, c, &g);
}

void qn_bench_json_string(const char *s) {
    putchar('"');
    for (; *s; s++) {
        if (*s == '"' || *s == '\\') putchar('\\');
        if ((unsigned char)*s >= 0x20) putchar(*s);
    }
    putchar('"');
}

static void print_json(const struct qn_sweep *s) {
    struct row_text t;
    struct fields f;
    for (uint32_t i = 0; i < s->n_cells; i++) {
        list_fields(s, &s->cells[i], &t, &f);
        printf("%s{", i ? ",\n " : "[");
        for (size_t k = 0; k < f.n; k++) {
            const struct field *x = &f.at[k];
            printf("%s\"%s\":", k ? "," : "", x->name);
            if (x->text && x->text[0]) {
                qn_bench_json_string(x->text);
            } else if (x->text || isnan(x->number)) {
                printf("null");
            } else {
                printf("%.*f", x->decimals, x->number);
            }
        }
        printf("}");
    }
    printf("]\n");
}

static void print_csv_text(const char *s) {
    if (!s[strcspn(s, ",\"\n")]) {
        printf("%s", s);
        return;
    }
    putchar('"');
    for (; *s; s++) {
        if (*s == '"') putchar('"');
        putchar(*s);
    }
    putchar('"');
}

static void print_csv(const struct qn_sweep *s) {
    struct row_text t;
    struct fields f;
    list_fields(s, &s->cells[0], &t, &f);
    for (size_t k = 0; k < f.n; k++) printf("%s%s", k ? "," : "", f.at[k].name);
    printf("\n");
    for (uint32_t i = 0; i < s->n_cells; i++) {
        list_fields(s, &s->cells[i], &t, &f);
        for (size_t k = 0; k < f.n; k++) {
            if (k) putchar(',');
            if (f.at[k].text) {
                print_csv_text(f.at[k].text);
            } else if (!isnan(f.at[k].number)) {
                printf("%.*f", f.at[k].decimals, f.at[k].number);
            }
        }
        printf("\n");
    }
}

/* --- the table --- */
static const char *const columns[COLUMNS] = {
    "structure", "batch",      "n",   "ms/token", "IQR",          "speed-up",  "bytes ÷",   "GFLOP/s",
    "GB/s",      "prefill ms", "IQR", "speed-up", "prefill GF/s", "state KiB", "active MiB"};
typedef char cell_text[COLUMN_MAX];

static void number_text(char *out, double v, int decimals) {
    if (isnan(v)) {
        snprintf(out, COLUMN_MAX, "–");
    } else {
        snprintf(out, COLUMN_MAX, "%.*f", decimals, v);
    }
}

static void table_row(const struct qn_sweep *s, const struct qn_sweep_cell *c, cell_text *out) {
    const struct qn_sweep_structure *st = &s->structures[c->structure];
    struct figures g = figures_of(s, c);
    double ms = 1e3 / c->batch;
    snprintf(out[0], COLUMN_MAX, "%.12s+%.12s+%.10s", st->attention, st->ffn, st->sharing);
    snprintf(out[1], COLUMN_MAX, "%" PRIu32, c->batch);
    snprintf(out[2], COLUMN_MAX, "%" PRIu32, c->length);
    number_text(out[3], g.decode.seconds * ms, 3);
    if (c->decode_skipped[0]) snprintf(out[3], COLUMN_MAX, "skipped");
    number_text(out[4], g.decode.iqr * ms, 3);
    number_text(out[5], g.decode.speedup, 2);
    number_text(out[6], s->decode ? g.bytes_ratio : NAN, 2);
    number_text(out[7], g.decode.gflops, 1);
    number_text(out[8], g.decode.gbytes, 1);
    number_text(out[9], g.prefill.seconds * 1e3, 1);
    if (c->prefill_skipped) snprintf(out[9], COLUMN_MAX, "~%.0f skipped", g.estimate * 1e3);
    number_text(out[10], g.prefill.iqr * 1e3, 1);
    number_text(out[11], g.prefill.speedup, 2);
    number_text(out[12], g.prefill.gflops, 1);
    number_text(out[13], c->state_bytes ? (double)c->state_bytes / 1024.0 : NAN, 0);
    number_text(out[14], (double)st->info.weights_active_bytes / 1048576.0, 1);
}

/* Characters that s takes on a screen. */
static int width(const char *s) {
    int n = 0;
    for (; *s; s++) n += ((unsigned char)*s & 0xc0) != 0x80;
    return n;
}

static void print_line(const cell_text *row, const int *wide) {
    for (int k = 0; k < COLUMNS; k++) {
        int pad = wide[k] - width(row[k]);
        printf("| %*s%s%*s ", k ? pad : 0, "", row[k], k ? 0 : pad, "");
    }
    printf("|\n");
}

static int print_table(const struct qn_sweep *s) {
    cell_text(*rows)[COLUMNS] = calloc((size_t)s->n_cells + 1, sizeof *rows);
    int wide[COLUMNS] = {0};
    if (!rows) return -1;
    for (int k = 0; k < COLUMNS; k++) snprintf(rows[0][k], COLUMN_MAX, "%s", columns[k]);
    for (uint32_t i = 0; i < s->n_cells; i++) table_row(s, &s->cells[i], rows[i + 1]);
    for (uint32_t i = 0; i <= s->n_cells; i++) {
        for (int k = 0; k < COLUMNS; k++) {
            if (width(rows[i][k]) > wide[k]) wide[k] = width(rows[i][k]);
        }
    }
    printf("%s, %s, %" PRIu32 " threads\n", qn_cpu_model(), qn_isa_name(qn_cpu_isa()), s->threads);
    printf("%s: %s; %s weights, %s state\n\n", s->shape_name, s->shape, s->type, s->kv_name);
    print_line(rows[0], wide);
    for (int k = 0; k < COLUMNS; k++) {
        printf(k ? "|" : "|:");
        for (int i = 0; i < wide[k] + 1; i++) putchar('-');
        if (k) putchar(':');
    }
    printf("|\n");
    for (uint32_t i = 1; i <= s->n_cells; i++) print_line(rows[i], wide);
    free(rows);
    for (uint32_t i = 0; i < s->n_cells; i++) {
        const struct qn_sweep_cell *c = &s->cells[i];
        const struct qn_sweep_structure *st = &s->structures[c->structure];
        if (!c->decode_skipped[0]) continue;
        printf("\n%s+%s+%s, batch %" PRIu32 ", n %" PRIu32 ": decode skipped: %s", st->attention, st->ffn,
               st->sharing, c->batch, c->length, c->decode_skipped);
    }
    printf("\nMedians and interquartile ranges of interleaved rounds; speed-up and bytes ÷ are against the "
           "first structure;\n~ is an estimate from shorter prompts where a prefill would exceed "
           "%" PRIu32 " s.\n",
           s->max_seconds);
    return 0;
}

int qn_sweep_print(const struct qn_sweep *s) {
    int rc = 0;
    if (s->format == QN_SWEEP_JSON) {
        print_json(s);
    } else if (s->format == QN_SWEEP_CSV) {
        print_csv(s);
    } else {
        rc = print_table(s);
    }
    return fflush(stdout) || rc ? -1 : 0;
}
