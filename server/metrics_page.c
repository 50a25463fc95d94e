/* GET /metrics: recorded numbers, then gauges of this moment.
 * Data flow: atomics, engine and model statistics, /proc/self, the cgroup -> text. Thread: loop. */
#include "server/metrics_page.h"

#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>
static void gauge(struct qn_buf *out, const char *name, const char *help, uint64_t v) {
    qn_metrics_head(out, name, "gauge", help);
    qn_buf_printf(out, "%s %llu\n", name, (unsigned long long)v);
}

static void model_label(struct qn_buf *out, const char *name, const struct qn_model *m, const char *more) {
    qn_buf_printf(out, "%s{model=\"", name);
    qn_metrics_label(out, qn_model_info(m)->id);
    qn_buf_printf(out, "\"%s}", more);
}

static void model_row(struct qn_buf *out, const char *name, const struct qn_model *m, const char *more,
                      uint64_t v) {
    model_label(out, name, m, more);
    qn_buf_printf(out, " %llu\n", (unsigned long long)v);
}

static void write_state(const struct qn_registry *g, struct qn_buf *out) {
    qn_metrics_head(out, "quern_kv_used_bytes", "gauge", "State held by sequences.");
    for (uint32_t i = 0; i < g->n; i++)
        model_row(out, "quern_kv_used_bytes", g->models[i], "", qn_model_state(g->models[i]).used);
    qn_metrics_head(out, "quern_kv_budget_bytes", "gauge", "State pool.");
    for (uint32_t i = 0; i < g->n; i++)
        model_row(out, "quern_kv_budget_bytes", g->models[i], "", qn_model_state(g->models[i]).budget);
    qn_metrics_head(out, "quern_kv_utilization_ratio", "gauge", "State held by sequences, of the pool.");
    for (uint32_t i = 0; i < g->n; i++) {
        struct qn_state_stats s = qn_model_state(g->models[i]);
        model_label(out, "quern_kv_utilization_ratio", g->models[i], "");
        qn_buf_printf(out, " %.6f\n", s.budget ? (double)s.used / (double)s.budget : 0.0);
    }
}

static void write_bytes(const struct qn_registry *g, struct qn_buf *out) {
    qn_metrics_head(out, "quern_bytes", "gauge", "Memory of a model by kind.");
    for (uint32_t i = 0; i < g->n; i++) {
        struct qn_memory b = qn_model_memory(g->models[i]);
        struct {
            const char *label;
            size_t bytes;
        } rows[] = {{",kind=\"weights\"", b.weights},           {",kind=\"converted\"", b.converted},
                    {",kind=\"state_used\"", b.state_used},     {",kind=\"state_cached\"", b.state_cached},
                    {",kind=\"state_budget\"", b.state_budget}, {",kind=\"scratch\"", b.scratch},
                    {",kind=\"tokenizer\"", b.tokenizer}};
        for (size_t k = 0; k < sizeof rows / sizeof rows[0]; k++)
            model_row(out, "quern_bytes", g->models[i], rows[k].label, rows[k].bytes);
    }
    qn_metrics_head(out, "quern_prefix_cache_lookup_tokens_total", "counter",
                    "Prompt tokens looked up in the cache.");
    for (uint32_t i = 0; i < g->n; i++)
        model_row(out, "quern_prefix_cache_lookup_tokens_total", g->models[i], "",
                  qn_model_state(g->models[i]).lookups_tokens);
    qn_metrics_head(out, "quern_prefix_cache_hit_tokens_total", "counter", "Prompt tokens found there.");
    for (uint32_t i = 0; i < g->n; i++)
        model_row(out, "quern_prefix_cache_hit_tokens_total", g->models[i], "",
                  qn_model_state(g->models[i]).hits_tokens);
}

static void write_load(const struct qn_registry *g, struct qn_buf *out) {
    qn_metrics_head(out, "quern_model_load_seconds", "gauge", "Time to load a model by phase.");
    for (uint32_t i = 0; i < g->n; i++) {
        const struct qn_model_info *info = qn_model_info(g->models[i]);
        struct {
            const char *label;
            double ms;
        } rows[] = {{",phase=\"map\"", info->map_ms},
                    {",phase=\"pack\"", info->pack_ms},
                    {",phase=\"tokenizer\"", info->tokenizer_ms},
                    {",phase=\"all\"", info->load_ms}};
        for (size_t k = 0; k < sizeof rows / sizeof rows[0]; k++) {
            model_label(out, "quern_model_load_seconds", g->models[i], rows[k].label);
            qn_buf_printf(out, " %.6f\n", rows[k].ms / 1000);
        }
    }
}

static void write_available(const struct qn_registry *g, struct qn_buf *out) {
    qn_metrics_head(out, "quern_model_available", "gauge",
                    "1 while a model can answer; 0 when the file that its weights are mapped from was lost.");
    for (uint32_t i = 0; i < g->n; i++)
        model_row(out, "quern_model_available", g->models[i], "", !qn_model_lost(g->models[i]));
}

static void write_engine(struct qn_server *srv, struct qn_buf *out) {
    struct qn_engine_stats s = {0};
    if (qn_server_loaded(srv)) s = qn_engine_stats(srv->engine);
    gauge(out, "quern_queue_depth", "Requests waiting for admission.", s.queued);
    gauge(out, "quern_queue_tokens", "Prompt tokens of waiting requests.", s.queued_tokens);
    gauge(out, "quern_running", "Sequences in the running set.", s.running);
    gauge(out, "quern_paused", "Sequences that wait for a slow reader.", s.paused);
}

/* The queue of each model; their sums are the figures above. */
static void write_queues(struct qn_server *srv, struct qn_buf *out) {
    static const struct {
        const char *name, *help;
    } rows[4] = {{"quern_model_queue_depth", "Requests waiting for admission to a model."},
                 {"quern_model_queue_tokens", "Prompt tokens of requests that wait for a model."},
                 {"quern_model_running", "Sequences in a model's running set."},
                 {"quern_model_paused", "Sequences of a model that wait for a slow reader."}};
    const struct qn_registry *g = &srv->models;
    const char *names[QN_MAX_MODELS];
    uint64_t v[4][QN_MAX_MODELS];
    for (uint32_t i = 0; i < g->n; i++) {
        struct qn_engine_stats s = qn_engine_model_stats(srv->engine, i);
        names[i] = qn_model_info(g->models[i])->id;
        v[0][i] = s.queued;
        v[1][i] = s.queued_tokens;
        v[2][i] = s.running;
        v[3][i] = s.paused;
    }
    for (size_t k = 0; k < 4; k++) {
        qn_metrics_head(out, rows[k].name, "gauge", rows[k].help);
        for (uint32_t i = 0; i < g->n; i++) model_row(out, rows[k].name, g->models[i], "", v[k][i]);
    }
    qn_metrics_models_write(srv->metrics, names, g->n, out);
}

void qn_metrics_page(struct qn_server *srv, struct qn_buf *out) {
    qn_metrics_write(srv->metrics, out);
    write_engine(srv, out);
    if (qn_server_loaded(srv)) {
        write_queues(srv, out);
        write_state(&srv->models, out);
        write_bytes(&srv->models, out);
        write_load(&srv->models, out);
        write_available(&srv->models, out);
    }
    gauge(out, "quern_ready", "1 when requests are served: loaded, not draining, and a model is available.",
          srv->state == QN_SERVER_READY && qn_registry_alive(&srv->models) > 0);
    gauge(out, "quern_threads", "Compute threads.", srv->threads);
    qn_metrics_head(out, "quern_log_lines_dropped_total", "counter", "Log lines lost to a slow reader.");
    qn_buf_printf(out, "quern_log_lines_dropped_total %llu\n", (unsigned long long)qn_log_dropped(srv->log));
    qn_metrics_head(out, "quern_build_info", "gauge", "Version and revision.");
    qn_buf_printf(out, "quern_build_info{version=\"%s\",revision=\"%s\"} 1\n", QN_VERSION, qn_revision());
    qn_metrics_process(out);
}

/* Fields 20 (threads), 22 (start time in ticks), 23 (virtual bytes), 24 (resident pages) of /proc/self/stat.
 */
static bool read_stat(uint64_t field[25]) {
    char line[1024];
    FILE *f = fopen("/proc/self/stat", "re");
    if (!f) return false;
    bool ok = fgets(line, sizeof line, f) != NULL;
    fclose(f);
    char *p = ok ? strrchr(line, ')') : NULL; /* the name may hold blanks */
    if (!p) return false;
    p++;
    for (int i = 3; i < 25; i++) {
        while (*p == ' ') p++;
        field[i] = strtoull(p, NULL, 10);
        while (*p && *p != ' ') p++;
    }
    return true;
}

static double boot_time(void) {
    char line[256];
    double t = 0;
    FILE *f = fopen("/proc/stat", "re");
    if (!f) return 0;
    while (fgets(line, sizeof line, f))
        if (strncmp(line, "btime ", 6) == 0) t = strtod(line + 6, NULL);
    fclose(f);
    return t;
}

static unsigned open_fds(void) {
    unsigned n = 0;
    DIR *d = opendir("/proc/self/fd");
    if (!d) return 0;
    while (readdir(d)) n++;
    closedir(d);
    return n > 3 ? n - 3 : 0; /* ., .. and the folder itself */
}

/* cpu.stat of the innermost cgroup v2 (or v1's cpu controller), as mounted in the usual places. */
static void write_throttled(struct qn_buf *out) {
    static const char *const files[] = {"/sys/fs/cgroup/cpu.stat", "/sys/fs/cgroup/cpu/cpu.stat"};
    char line[128];
    for (size_t i = 0; i < sizeof files / sizeof files[0]; i++) {
        double seconds = -1;
        FILE *f = fopen(files[i], "re");
        if (!f) continue;
        while (fgets(line, sizeof line, f)) {
            if (strncmp(line, "throttled_usec ", 15) == 0) seconds = strtod(line + 15, NULL) * 1e-6;
            if (strncmp(line, "throttled_time ", 15) == 0) seconds = strtod(line + 15, NULL) * 1e-9;
        }
        fclose(f);
        if (seconds < 0) continue;
        qn_metrics_head(out, "quern_cgroup_throttled_seconds_total", "counter",
                        "Time this container was stopped by its CPU quota.");
        qn_buf_printf(out, "quern_cgroup_throttled_seconds_total %.6f\n", seconds);
        return;
    }
}

void qn_metrics_process(struct qn_buf *out) {
    uint64_t st[25] = {0};
    struct rusage ru;
    if (getrusage(RUSAGE_SELF, &ru) == 0) {
        double cpu = (double)ru.ru_utime.tv_sec + (double)ru.ru_stime.tv_sec +
                     ((double)ru.ru_utime.tv_usec + (double)ru.ru_stime.tv_usec) * 1e-6;
        qn_metrics_head(out, "process_cpu_seconds_total", "counter", "User and system CPU time.");
        qn_buf_printf(out, "process_cpu_seconds_total %.6f\n", cpu);
    }
    if (read_stat(st)) {
        gauge(out, "process_resident_memory_bytes", "Resident memory.",
              st[24] * (uint64_t)sysconf(_SC_PAGESIZE));
        gauge(out, "process_virtual_memory_bytes", "Virtual memory.", st[23]);
        gauge(out, "process_threads", "Threads of the process.", st[20]);
        qn_metrics_head(out, "process_start_time_seconds", "gauge", "Start, seconds since the epoch.");
        qn_buf_printf(out, "process_start_time_seconds %.2f\n",
                      boot_time() + (double)st[22] / (double)sysconf(_SC_CLK_TCK));
    }
    struct rlimit lim;
    gauge(out, "process_open_fds", "Open file descriptors.", open_fds());
    if (getrlimit(RLIMIT_NOFILE, &lim) == 0)
        gauge(out, "process_max_fds", "Most file descriptors.", (uint64_t)lim.rlim_cur);
    write_throttled(out);
}
