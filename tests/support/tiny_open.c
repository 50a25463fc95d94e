/* Opens a tiny random model for tests: see tiny_open.h. */
#include "tests/support/tiny_open.h"

#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "model/part.h"

static void give_up(const char *what, const struct qn_err *err) {
    fprintf(stderr, "%s: %s\n", what, err->msg);
    exit(1);
}

struct qn_model *qn_test_tiny_open(const struct qn_test_tiny *t, const struct qn_open_options *opt) {
    struct qn_err err = {0};
    struct qn_model *m = NULL;
    char dir[] = "/tmp/quern-tiny-XXXXXX", path[64];
    if (!mkdtemp(dir)) give_up("mkdtemp", &err);
    snprintf(path, sizeof path, "%s/tiny.gguf", dir);
    int rc = qn_test_write_tiny_gguf(path, t);
    if (rc == 0) rc = qn_model_open(path, opt, &m, &err);
    unlink(path);
    rmdir(dir);
    if (rc) give_up(t->family, &err);
    return m;
}

struct qn_variant *qn_test_variant(struct qn_model *m, const char *attention, uint32_t kv_heads) {
    struct qn_err err = {0};
    struct qn_variant *v = NULL;
    struct qn_structure_request req = {.convert = true};
    qn_part_init(&req.attention, attention);
    if (kv_heads) qn_part_add(&req.attention, "kv_heads", QN_PARAM_INT, kv_heads);
    if (qn_variant_resolve(m, &req, &v, &err)) give_up(attention, &err);
    if (qn_variant_prepare(v, NULL, &err)) give_up(attention, &err);
    return v;
}

uint64_t qn_test_random(uint64_t *state) {
    uint64_t z = *state += UINT64_C(0x9e3779b97f4a7c15);
    z = (z ^ (z >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
    z = (z ^ (z >> 27)) * UINT64_C(0x94d049bb133111eb);
    return z ^ (z >> 31);
}

uint32_t qn_test_below(uint64_t *state, uint32_t n) {
    return (uint32_t)(qn_test_random(state) % n);
}
