/* libFuzzer target: tokenizer.json. The document also stands for its side files, so that their keys are
 * reached. A tokenizer that comes out must encode a text into ids of its own range. */
#include <stdlib.h>
#include <string.h>

#include "model/load/open.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void must(bool ok) {
    if (!ok) abort(); /* a find */
}

static void check_tokenizer(const struct qn_tokenizer *t) {
    static const char text[] = "hello  w\xc3\xa9rld 123\n\xff<|endoftext|></s>";
    struct qn_err err = {0};
    int32_t *ids = NULL;
    size_t n = 0;
    must(qn_tokenizer_size(t) >= 1 && qn_tokenizer_size(t) <= 100000);
    if (qn_tokenizer_encode(t, text, sizeof text - 1, QN_TOK_ADD_SPECIAL, 0, &ids, &n, &err) != QN_OK) {
        must(err.code != QN_OK && err.msg[0]);
        return;
    }
    for (size_t i = 0; i < n; i++) must(ids[i] >= 0 && (uint32_t)ids[i] < qn_tokenizer_size(t));
    free(ids);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    struct qn_tokenizer *t = NULL;
    struct qn_err err = {0};
    json_t *root = NULL;
    int rc = qn_open_tokenizer_json((const char *)data, size, &root, &err);
    if (rc == QN_OK) {
        struct qn_hf_vocab files = {.tokenizer = root, .settings = root, .generation = root, .config = root};
        rc = qn_vocab_from_hf(&files, 100000, NULL, &t, &err);
    }
    if (rc != QN_OK)
        must(rc == err.code && err.msg[0] && !t);
    else
        check_tokenizer(t);
    qn_tokenizer_free(t);
    json_decref(root);
    return 0;
}
