/* What this machine and this container allow.
 *
 * Threads: min(affinity, floor(quota / period)) over every cgroup from the process's own up to its mount
 * point, for v1 (cpu.cfs_quota_us, cpu.cfs_period_us) and v2 (cpu.max), whichever exist. Data flow:
 * /proc/self/cgroup names the groups, /proc/self/mountinfo says where their hierarchies are mounted and from
 * which group on. Thread: start-up; the model string is made once. */
#include "kernels/cpu.h"

#include <sched.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#if defined(__x86_64__)
#include "kernels/x86/x86.h"
#endif

static const char *const isa_names[QN_ISA_COUNT] = {"ref", "avx2", "avx512", "avx512vnni", "avx512bf16"};

const char *qn_isa_name(enum qn_isa isa) {
    return (unsigned)isa < QN_ISA_COUNT ? isa_names[isa] : "?";
}

enum qn_isa qn_cpu_isa(void) {
    enum qn_isa isa = QN_ISA_REF;
#if defined(__x86_64__)
    isa = qn_x86_isa();
#endif
    const char *limit = getenv("QUERN_ISA");
    for (unsigned i = 0; limit && i < (unsigned)isa; i++) {
        if (!strcmp(limit, isa_names[i])) isa = (enum qn_isa)i;
    }
    return isa;
}

const char *qn_cpu_model(void) {
    static char model[49];
#if defined(__x86_64__)
    if (!model[0]) qn_x86_model(model);
#endif
    return model[0] ? model : "unknown CPU";
}

/* ---- control groups ---- */

#define PATH_SIZE 4096

/* One hierarchy that can limit CPU time or memory: where the process's group lies. */
struct cgroup {
    bool v2;
    char dir[PATH_SIZE]; /* the process's own group */
    size_t mount_len;    /* dir[0 .. mount_len) is the mount point: the walk up ends there */
};

static bool join(char out[PATH_SIZE], const char *a, const char *b) {
    int n = snprintf(out, PATH_SIZE, "%s%s", a, b);
    return n >= 0 && n < PATH_SIZE;
}

/* Reads the first two words of a small file as numbers; -1 for "max". Returns how many were read. */
static int read_numbers(const char *dir, const char *name, long long v[2]) {
    char path[PATH_SIZE], word[2][32];
    if (!join(path, dir, name)) return 0;
    FILE *f = fopen(path, "re");
    if (!f) return 0;
    int n = fscanf(f, "%31s %31s", word[0], word[1]);
    fclose(f);
    for (int i = 0; i < n; i++) {
        char *end;
        v[i] = strtoll(word[i], &end, 10);
        if (*end || end == word[i]) v[i] = -1;
    }
    return n < 0 ? 0 : n;
}

/* "cpu" in "cpu,cpuacct". */
static bool list_has(const char *list, const char *word) {
    size_t n = strlen(word);
    for (const char *p = list; p; p = strchr(p, ',')) {
        if (*p == ',') p++;
        if (!strncmp(p, word, n) && (p[n] == ',' || !p[n] || p[n] == '\n')) return true;
    }
    return false;
}

/* The process's path in the v2 hierarchy, or in the v1 hierarchy that has `controller`. */
static bool group_path(const char *root, bool v2, const char *controller, char out[PATH_SIZE]) {
    char name[PATH_SIZE], line[PATH_SIZE];
    if (!join(name, root, "/proc/self/cgroup")) return false;
    FILE *f = fopen(name, "re");
    bool found = false;
    while (f && !found && fgets(line, sizeof line, f)) {
        char *list = strchr(line, ':'), *path = list ? strchr(list + 1, ':') : NULL;
        if (!path) continue;
        *list++ = 0;
        *path++ = 0;
        path[strcspn(path, "\n")] = 0;
        found = v2 ? !strcmp(line, "0") && !*list : list_has(list, controller);
        if (found) found = join(out, path, "");
    }
    if (f) fclose(f);
    return found;
}

/* A line of mountinfo: id parent dev ROOT POINT options … - TYPE source SUPER. */
static bool parse_mount(char *line, char **mount_root, char **point, char **type, char **super) {
    char *tail = strstr(line, " - "), *save, *word;
    if (!tail) return false;
    *tail = 0;
    word = strtok_r(line, " ", &save);
    for (int i = 0; i < 3 && word; i++) word = strtok_r(NULL, " ", &save);
    *mount_root = word;
    *point = word ? strtok_r(NULL, " ", &save) : NULL;
    *type = strtok_r(tail + 3, " ", &save);
    strtok_r(NULL, " ", &save);
    *super = strtok_r(NULL, " \n", &save);
    return *point && *type && *super;
}

/* The part of a group's path below the group that is mounted; "" when it lies outside (another namespace). */
static const char *below(const char *path, const char *mount_root) {
    size_t n = strlen(mount_root);
    if (!strcmp(mount_root, "/")) return strcmp(path, "/") ? path : "";
    if (strncmp(path, mount_root, n) != 0 || (path[n] && path[n] != '/')) return "";
    return path + n;
}

static bool find_cgroup(const char *root, bool v2, const char *controller, struct cgroup *out) {
    char name[PATH_SIZE], line[PATH_SIZE], path[PATH_SIZE];
    if (!group_path(root, v2, controller, path) || !join(name, root, "/proc/self/mountinfo")) return false;
    FILE *f = fopen(name, "re");
    bool found = false;
    while (f && !found && fgets(line, sizeof line, f)) {
        char *mount_root, *point, *type, *super;
        if (!parse_mount(line, &mount_root, &point, &type, &super)) continue;
        if (v2 ? strcmp(type, "cgroup2") != 0 : strcmp(type, "cgroup") != 0 || !list_has(super, controller))
            continue;
        char mount[PATH_SIZE];
        if (!join(mount, root, point)) continue;
        out->v2 = v2;
        out->mount_len = strlen(mount);
        found = !strstr(path, "/..") && join(out->dir, mount, below(path, mount_root));
        if (!found) found = join(out->dir, mount, "");
    }
    if (f) fclose(f);
    return found;
}

/* dir becomes its parent; false at the mount point. */
static bool go_up(struct cgroup *g) {
    size_t n = strlen(g->dir);
    if (n <= g->mount_len) return false;
    while (n > g->mount_len && g->dir[n - 1] != '/') n--;
    while (n > g->mount_len && g->dir[n - 1] == '/') n--;
    g->dir[n] = 0;
    return true;
}

/* Smallest floor(quota / period), at least 1, of a group and all above it; 0 when nothing limits. */
static unsigned long long quota_threads(struct cgroup *g) {
    unsigned long long best = 0;
    do {
        long long v[2] = {-1, 100000}, period[2] = {100000, 0};
        if (g->v2) {
            if (!read_numbers(g->dir, "/cpu.max", v)) continue;
        } else {
            if (!read_numbers(g->dir, "/cpu.cfs_quota_us", v)) continue;
            v[1] = read_numbers(g->dir, "/cpu.cfs_period_us", period) ? period[0] : 100000;
        }
        if (v[0] <= 0 || v[1] <= 0) continue;
        unsigned long long n = (unsigned long long)(v[0] / v[1]);
        if (!n) n = 1;
        if (!best || n < best) best = n;
    } while (go_up(g));
    return best;
}

unsigned qn_cpu_threads_at(const char *root, unsigned affinity, const char **why) {
    struct cgroup g;
    unsigned best = affinity ? affinity : 1;
    const char *prefix = strcmp(root, "/") ? root : "";
    if (why) *why = "affinity";
    for (int v2 = 0; v2 < 2; v2++) {
        if (!find_cgroup(prefix, v2, "cpu", &g)) continue;
        unsigned long long n = quota_threads(&g);
        if (!n || n >= best) continue;
        best = (unsigned)n;
        if (why) *why = "cgroup quota";
    }
    return best;
}

unsigned qn_cpu_threads(const char **why) {
    cpu_set_t set;
    unsigned n = 0;
    CPU_ZERO(&set);
    if (!sched_getaffinity(0, sizeof set, &set)) n = (unsigned)CPU_COUNT(&set);
    if (!n) { /* more CPUs than the set holds */
        long online = sysconf(_SC_NPROCESSORS_ONLN);
        n = online > 0 ? (unsigned)online : 1;
    }
    return qn_cpu_threads_at("/", n, why);
}

size_t qn_cpu_memory_bytes(void) {
    long pages = sysconf(_SC_PHYS_PAGES), page = sysconf(_SC_PAGESIZE);
    size_t best = pages > 0 && page > 0 ? (size_t)pages * (size_t)page : 0;
    struct cgroup g;
    for (int v2 = 0; v2 < 2; v2++) {
        if (!find_cgroup("", v2, "memory", &g)) continue;
        do {
            long long v[2];
            if (!read_numbers(g.dir, v2 ? "/memory.max" : "/memory.limit_in_bytes", v) || v[0] <= 0) continue;
            if (!best || (size_t)v[0] < best) best = (size_t)v[0];
        } while (go_up(&g));
    }
    return best;
}
