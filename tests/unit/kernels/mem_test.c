/* Aligned memory: zeroed, aligned, refused on overflow; large pieces and arenas are resident where they were
 * written only. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>
#include <stdio.h>
#include <unistd.h>

#include "kernels/mem.h"

#define MIB ((size_t)1 << 20)

static size_t resident(void) {
    char line[128] = "";
    FILE *f = fopen("/proc/self/statm", "re");
    assert_true(f && fgets(line, sizeof line, f));
    fclose(f);
    char *second = strchr(line, ' ');
    assert_non_null(second);
    return strtoull(second, NULL, 10) * (size_t)sysconf(_SC_PAGESIZE);
}

static void every_size_is_aligned_and_zeroed(void **state) {
    (void)state;
    for (size_t n = 0; n < 1000; n += 7) {
        uint8_t *p = qn_mem_alloc(n);
        assert_non_null(p);
        assert_int_equal((uintptr_t)p % QN_ALIGN, 0);
        for (size_t i = 0; i < n; i++) assert_int_equal(p[i], 0);
        memset(p, 0xff, n); /* the next one of that size may get these bytes */
        qn_mem_free(p);
    }
    qn_mem_free(NULL);
    assert_null(qn_mem_alloc(SIZE_MAX));
    assert_null(qn_mem_alloc(SIZE_MAX - 100));
    assert_null(qn_mem_alloc_array(SIZE_MAX / 2, 3));
}

static void untouched_memory_is_not_resident(void **state) {
    (void)state;
    size_t before = resident();
    uint8_t *p = qn_mem_alloc(256 * MIB);
    assert_non_null(p);
    memset(p, 1, MIB);
    assert_true(resident() < before + 32 * MIB);
    qn_mem_free(p);
}

static void arenas_hand_out_what_they_have(void **state) {
    (void)state;
    struct qn_arena a = {0};
    assert_null(qn_arena_take(&a, 1));
    assert_false(qn_arena_open(&a, SIZE_MAX - 5));
    size_t before = resident();
    assert_true(qn_arena_open(&a, 256 * MIB - 5));
    uint8_t *p = qn_arena_take(&a, 100), *q = qn_arena_take(&a, MIB);
    assert_true(p && q && q >= p + 100);
    assert_int_equal((uintptr_t)p % QN_ALIGN, 0);
    assert_int_equal((uintptr_t)q % QN_ALIGN, 0);
    for (size_t i = 0; i < MIB; i++) assert_int_equal(q[i], 0);
    memset(q, 1, MIB);
    assert_true(resident() < before + 32 * MIB);
    assert_null(qn_arena_take(&a, 256 * MIB));
    assert_null(qn_arena_take(&a, SIZE_MAX));
    assert_non_null(qn_arena_take(&a, 254 * MIB));
    qn_arena_close(&a);
    assert_true(resident() < before + 8 * MIB);
    qn_arena_close(&a);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_size_is_aligned_and_zeroed),
        cmocka_unit_test(untouched_memory_is_not_resident),
        cmocka_unit_test(arenas_hand_out_what_they_have),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
