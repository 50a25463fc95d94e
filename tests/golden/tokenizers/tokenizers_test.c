/* Token ids against Hugging Face tokenizers and SentencePiece: every NAME.vocab + NAME.cases of the committed
 * tiny fixtures, and of the directory that QN_TOKENIZER_GOLDEN names (real vocabularies; run.sh makes them).
 */
// clang-format off
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>
// clang-format on
#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tests/support/vocab_fixture.h"

struct totals {
    size_t vocabularies, good, bad;
};

static void run_one(const char *dir, const char *name, struct totals *sum) {
    char path[1024];
    struct qn_token_cases cases;
    snprintf(path, sizeof path, "%s/%s.vocab", dir, name);
    struct qn_tokenizer *t = qn_vocab_fixture_tokenizer(path);
    assert_non_null(t);
    snprintf(path, sizeof path, "%s/%s.cases", dir, name);
    assert_int_equal(qn_token_cases_read(&cases, path), 0);
    const size_t good = qn_token_cases_check(t, &cases, 5);
    printf("%-18s %u tokens: %zu of %zu texts agree\n", name, qn_tokenizer_size(t), good, cases.n);
    sum->vocabularies++;
    sum->good += good;
    sum->bad += cases.n - good;
    qn_token_cases_free(&cases);
    qn_tokenizer_free(t);
}

static struct totals run_dir(const char *dir) {
    struct totals sum = {0, 0, 0};
    struct dirent **names = NULL;
    const int n = scandir(dir, &names, NULL, alphasort);
    assert_true(n >= 0);
    for (int i = 0; i < n; i++) {
        char *dot = strrchr(names[i]->d_name, '.');
        if (dot && strcmp(dot, ".vocab") == 0) {
            *dot = 0;
            run_one(dir, names[i]->d_name, &sum);
        }
        free(names[i]);
    }
    free(names);
    printf("%zu passed, %zu failed\n", sum.good, sum.bad);
    return sum;
}

static void tiny_vocabularies_agree(void **state) {
    (void)state;
    const struct totals sum = run_dir("tests/golden/tokenizers");
    assert_true(sum.vocabularies >= 6);
    assert_int_equal(sum.bad, 0);
}

static void real_vocabularies_agree(void **state) {
    (void)state;
    const char *dir = getenv("QN_TOKENIZER_GOLDEN");
    if (!dir) {
        printf("QN_TOKENIZER_GOLDEN is not set\n");
        skip();
    }
    const struct totals sum = run_dir(dir);
    assert_true(sum.good > 0);
    assert_int_equal(sum.bad, 0);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(tiny_vocabularies_agree),
        cmocka_unit_test(real_vocabularies_agree),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
