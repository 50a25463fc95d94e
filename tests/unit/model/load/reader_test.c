/* The bounded cursor: values, stickiness, positions in messages, counts. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "model/load/reader.h"

static const uint8_t bytes[] = {1,  2, 3, 4, 5, 6, 7, 8, 9, 10,  11,  12,
                                13, 3, 0, 0, 0, 0, 0, 0, 0, 'a', 'b', 'c'};

static void reads_little_endian(void **state) {
    struct qn_reader r;
    struct qn_err err = {0};
    (void)state;
    qn_reader_init(&r, bytes, sizeof bytes, &err);
    assert_int_equal(qn_reader_u8(&r, "a"), 1);
    assert_int_equal(qn_reader_u32(&r, "b"), 0x05040302);
    assert_true(qn_reader_u64(&r, "c") == 0x0d0c0b0a09080706);
    struct qn_str s = qn_reader_string(&r, 3, "d");
    assert_int_equal(s.n, 3);
    assert_memory_equal(s.p, "abc", 3);
    assert_int_equal(r.pos, r.size);
    assert_non_null(qn_reader_bytes(&r, 0, "nothing"));
    assert_int_equal(r.status, QN_OK);
    const uint8_t one[] = {0, 0, 0x80, 0x3f};
    assert_true(qn_load_f32(one) == 1.0f);
}

static void the_first_error_sticks(void **state) {
    struct qn_reader r;
    struct qn_err err = {0};
    (void)state;
    qn_reader_init(&r, bytes, 6, &err);
    assert_int_equal(qn_reader_u32(&r, "the head"), 0x04030201);
    assert_int_equal(qn_reader_u32(&r, "the body"), 0);
    assert_int_equal(r.status, QN_ERR_FORMAT);
    assert_string_equal(err.msg, "byte 4: the file ends inside the body (4 bytes wanted, 2 left)");
    assert_int_equal(qn_reader_u8(&r, "the tail"), 0);
    assert_null(qn_reader_bytes(&r, 1, "the tail"));
    assert_int_equal(r.pos, 4);
    qn_reader_fail(&r, "another");
    assert_string_equal(err.msg, "byte 4: the file ends inside the body (4 bytes wanted, 2 left)");
}

static void lengths_never_wrap(void **state) {
    struct qn_reader r;
    struct qn_err err = {0};
    (void)state;
    qn_reader_init(&r, bytes, sizeof bytes, &err);
    r.pos = 8;
    assert_null(qn_reader_bytes(&r, UINT64_MAX, "all"));
    assert_int_equal(r.status, QN_ERR_FORMAT);
    err = (struct qn_err){0};
    qn_reader_init(&r, bytes, sizeof bytes, &err);
    r.pos = 13;
    (void)qn_reader_string(&r, 2, "a name");
    assert_string_equal(err.msg, "byte 13: a name is 3 bytes long, at most 2 are allowed");
}

static void counts_are_held_against_what_is_left(void **state) {
    struct qn_reader r;
    struct qn_err err = {0};
    (void)state;
    qn_reader_init(&r, bytes, 24, &err);
    r.pos = 4;
    assert_true(qn_reader_fits(&r, 5, 4, "things"));
    assert_false(qn_reader_fits(&r, 6, 4, "things"));
    assert_string_equal(err.msg, "byte 4: the count of things is 6, more than the rest of the file can hold");
    assert_false(qn_reader_fits(&r, 0, 4, "things"));
    qn_reader_init(&r, bytes, 24, NULL);
    assert_false(qn_reader_fits(&r, UINT64_MAX, 1, "things"));
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(reads_little_endian),
        cmocka_unit_test(the_first_error_sticks),
        cmocka_unit_test(lengths_never_wrap),
        cmocka_unit_test(counts_are_held_against_what_is_left),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
