/* The same cases as tokenizers_test.c through the loaders: NAME.json (a published tokenizer.json) and
 * NAME.gguf of the directory that QN_TOKENIZER_GOLDEN names, against NAME.cases. */
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

#include "model/load/gguf.h"
#include "model/load/json.h"
#include "model/load/mapfile.h"
#include "model/load/vocab.h"
#include "tests/support/vocab_fixture.h"

enum { ROWS = 1 << 20 }; /* more rows than any vocabulary has tokens */

static struct qn_tokenizer *from_json(const char *path) {
    const struct qn_json_limits limits = {.depth = 64, .nodes = 20000000};
    struct qn_err err = {0};
    struct qn_tokenizer *t = NULL;
    json_t *tree = NULL;
    if (qn_json_file(path, "tokenizer.json", false, limits, &tree, &err) == QN_OK) {
        const struct qn_hf_vocab files = {.tokenizer = tree};
        qn_vocab_from_hf(&files, ROWS, NULL, &t, &err);
    }
    json_decref(tree);
    if (!t) fail_msg("%s: %s", path, err.msg);
    return t;
}

static struct qn_tokenizer *from_gguf(const char *path) {
    struct qn_err err = {0};
    struct qn_mapfile map = {0};
    struct qn_gguf g;
    struct qn_tokenizer *t = NULL;
    if (qn_mapfile_open(&map, path, &err) == QN_OK && qn_gguf_parse(map.data, map.size, &g, &err) == QN_OK) {
        qn_vocab_from_gguf(&g, ROWS, &t, &err);
        qn_gguf_free(&g);
    }
    qn_mapfile_close(&map);
    if (!t) fail_msg("%s: %s", path, err.msg);
    return t;
}

/* name.json or name.gguf: cuts the ending off; NULL for other files. */
static struct qn_tokenizer *open_by_ending(const char *dir, char *name) {
    char path[1024];
    char *dot = strrchr(name, '.');
    snprintf(path, sizeof path, "%s/%s", dir, name);
    if (!dot || (strcmp(dot, ".json") != 0 && strcmp(dot, ".gguf") != 0)) return NULL;
    const int gguf = dot[1] == 'g';
    *dot = 0;
    return gguf ? from_gguf(path) : from_json(path);
}

static void loaded_vocabularies_agree(void **state) {
    (void)state;
    const char *dir = getenv("QN_TOKENIZER_GOLDEN");
    if (!dir) {
        printf("QN_TOKENIZER_GOLDEN is not set\n");
        skip();
    }
    struct dirent **names = NULL;
    const int n = scandir(dir, &names, NULL, alphasort);
    size_t good = 0, bad = 0;
    assert_true(n >= 0);
    for (int i = 0; i < n; i++) {
        char path[1024];
        struct qn_token_cases cases;
        struct qn_tokenizer *t = open_by_ending(dir, names[i]->d_name);
        if (t) {
            snprintf(path, sizeof path, "%s/%s.cases", dir, names[i]->d_name);
            assert_int_equal(qn_token_cases_read(&cases, path), 0);
            const size_t same = qn_token_cases_check(t, &cases, 5);
            printf("%-18s through the loader: %zu of %zu texts agree\n", names[i]->d_name, same, cases.n);
            good += same;
            bad += cases.n - same;
            qn_token_cases_free(&cases);
        }
        qn_tokenizer_free(t);
        free(names[i]);
    }
    free(names);
    printf("%zu passed, %zu failed\n", good, bad);
    assert_true(good > 0);
    assert_int_equal(bad, 0);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(loaded_vocabularies_agree),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
