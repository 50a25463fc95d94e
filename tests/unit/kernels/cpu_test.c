/* CPU limits: cgroup v1 and v2 quotas over the whole chain, from fixture trees made in a temporary directory.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <ftw.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "kernels/kernels.h"

static char root[64];

/* Writes a file below the fixture root, making its folders. */
static void put(const char *path, const char *text) {
    char full[512];
    snprintf(full, sizeof full, "%s%s", root, path);
    for (char *p = full + strlen(root) + 1; (p = strchr(p, '/')); p++) {
        *p = 0;
        mkdir(full, 0700);
        *p = '/';
    }
    FILE *f = fopen(full, "w");
    assert_non_null(f);
    fputs(text, f);
    fclose(f);
}

static int remove_one(const char *path, const struct stat *s, int kind, struct FTW *f) {
    (void)s, (void)kind, (void)f;
    return remove(path);
}

static int setup(void **state) {
    (void)state;
    strcpy(root, "/tmp/qn_cpu_test_XXXXXX");
    return mkdtemp(root) ? 0 : -1;
}

static int teardown(void **state) {
    (void)state;
    return nftw(root, remove_one, 8, FTW_DEPTH | FTW_PHYS);
}

static void expect(unsigned affinity, unsigned threads, const char *why) {
    const char *got;
    assert_int_equal(qn_cpu_threads_at(root, affinity, &got), threads);
    assert_string_equal(got, why);
}

#define V2_MOUNT "30 23 0:26 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate\n"

static void nothing_there(void **state) {
    (void)state;
    expect(8, 8, "affinity");
    expect(0, 1, "affinity");
}

static void v2_own_group(void **state) {
    (void)state;
    put("/proc/self/cgroup", "0::/a/b\n");
    put("/proc/self/mountinfo", V2_MOUNT);
    put("/sys/fs/cgroup/a/b/cpu.max", "350000 100000\n");
    expect(8, 3, "cgroup quota");
    expect(2, 2, "affinity");
    put("/sys/fs/cgroup/a/b/cpu.max", "max 100000\n");
    expect(8, 8, "affinity");
    put("/sys/fs/cgroup/a/b/cpu.max", "20000 100000\n");
    expect(8, 1, "cgroup quota");
    put("/sys/fs/cgroup/a/b/cpu.max", "garbage\n");
    expect(8, 8, "affinity");
}

static void v2_ancestor_limits(void **state) {
    (void)state;
    put("/proc/self/cgroup", "0::/pods/pod1/c1\n");
    put("/proc/self/mountinfo", V2_MOUNT);
    put("/sys/fs/cgroup/pods/pod1/c1/cpu.max", "max 100000\n");
    put("/sys/fs/cgroup/pods/cpu.max", "250000 100000\n");
    expect(16, 2, "cgroup quota");
    put("/sys/fs/cgroup/pods/pod1/cpu.max", "60000 50000\n");
    expect(16, 1, "cgroup quota");
}

static void v2_in_a_namespace(void **state) {
    (void)state;
    put("/proc/self/cgroup", "0::/\n");
    put("/proc/self/mountinfo", V2_MOUNT);
    put("/sys/fs/cgroup/cpu.max", "400000 100000\n");
    expect(16, 4, "cgroup quota");
    put("/proc/self/cgroup", "0::/../../other\n");
    expect(16, 4, "cgroup quota");
}

#define V1_MOUNTS                                                                                            \
    "31 23 0:27 / /sys/fs/cgroup rw - tmpfs tmpfs rw\n"                                                      \
    "32 31 0:28 / /sys/fs/cgroup/cpuset rw - cgroup cgroup rw,cpuset\n"                                      \
    "33 31 0:29 %s /sys/fs/cgroup/cpu,cpuacct rw shared:9 - cgroup cgroup rw,cpu,cpuacct\n"

static void v1_chain(void **state) {
    char mounts[512];
    (void)state;
    snprintf(mounts, sizeof mounts, V1_MOUNTS, "/");
    put("/proc/self/cgroup", "5:cpuset:/elsewhere\n4:cpuacct,cpu:/docker/abc\n0::/x\n");
    put("/proc/self/mountinfo", mounts);
    put("/sys/fs/cgroup/cpu,cpuacct/docker/abc/cpu.cfs_quota_us", "-1\n");
    put("/sys/fs/cgroup/cpu,cpuacct/docker/abc/cpu.cfs_period_us", "100000\n");
    expect(16, 16, "affinity");
    put("/sys/fs/cgroup/cpu,cpuacct/docker/cpu.cfs_quota_us", "500000\n");
    put("/sys/fs/cgroup/cpu,cpuacct/docker/cpu.cfs_period_us", "100000\n");
    expect(16, 5, "cgroup quota");
    put("/sys/fs/cgroup/cpu,cpuacct/docker/abc/cpu.cfs_quota_us", "150000\n");
    expect(16, 1, "cgroup quota");
}

/* Docker bind-mounts the container's own group: the mount's root is the group itself. */
static void v1_mounted_from_inside(void **state) {
    char mounts[512];
    (void)state;
    snprintf(mounts, sizeof mounts, V1_MOUNTS, "/docker/abc");
    put("/proc/self/cgroup", "4:cpu,cpuacct:/docker/abc\n");
    put("/proc/self/mountinfo", mounts);
    put("/sys/fs/cgroup/cpu,cpuacct/cpu.cfs_quota_us", "200000\n");
    put("/sys/fs/cgroup/cpu,cpuacct/cpu.cfs_period_us", "100000\n");
    expect(16, 2, "cgroup quota");
    put("/proc/self/cgroup", "4:cpu,cpuacct:/docker/abc/inner\n");
    put("/sys/fs/cgroup/cpu,cpuacct/inner/cpu.cfs_quota_us", "120000\n");
    put("/sys/fs/cgroup/cpu,cpuacct/inner/cpu.cfs_period_us", "100000\n");
    expect(16, 1, "cgroup quota");
}

static void this_machine(void **state) {
    const char *why;
    (void)state;
    assert_true(qn_cpu_threads(&why) >= 1);
    assert_non_null(why);
    assert_true(qn_cpu_memory_bytes() > 1 << 20);
    assert_true(strlen(qn_cpu_model()) > 0);
}

static void level_can_be_lowered(void **state) {
    enum qn_isa top;
    struct qn_ops ops;
    (void)state;
    unsetenv("QUERN_ISA");
    top = qn_cpu_isa();
    for (int i = 0; i < QN_ISA_COUNT; i++) {
        setenv("QUERN_ISA", qn_isa_name((enum qn_isa)i), 1);
        assert_int_equal(qn_cpu_isa(), i < (int)top ? i : (int)top);
        qn_ops_fill(&ops, QN_ISA_COUNT - 1);
        assert_int_equal(ops.isa, qn_cpu_isa());
    }
    setenv("QUERN_ISA", "no such level", 1);
    assert_int_equal(qn_cpu_isa(), top);
    unsetenv("QUERN_ISA");
    qn_ops_fill(&ops, QN_ISA_AVX2);
    assert_true(ops.isa <= QN_ISA_AVX2);
    assert_string_equal(qn_isa_name(QN_ISA_COUNT), "?");
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(nothing_there, setup, teardown),
        cmocka_unit_test_setup_teardown(v2_own_group, setup, teardown),
        cmocka_unit_test_setup_teardown(v2_ancestor_limits, setup, teardown),
        cmocka_unit_test_setup_teardown(v2_in_a_namespace, setup, teardown),
        cmocka_unit_test_setup_teardown(v1_chain, setup, teardown),
        cmocka_unit_test_setup_teardown(v1_mounted_from_inside, setup, teardown),
        cmocka_unit_test(this_machine),
        cmocka_unit_test(level_can_be_lowered),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
