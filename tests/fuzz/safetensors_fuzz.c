/* libFuzzer target: safetensors, alone and as a checkpoint. Input: a little-endian u32 n, n bytes of
 * config.json, then the safetensors file; when n is more than the rest, the whole input is a safetensors
 * file. */
#include <stdlib.h>

#include "model/load/json.h"
#include "model/load/open.h"
#include "model/load/reader.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void must(bool ok) {
    if (!ok) abort(); /* a find */
}

/* A file that parses holds its tensors back to back, from the first byte after the header to its end. */
static void check_dir(const struct qn_tensor_dir *dir, const uint8_t *data, size_t size) {
    size_t total = 0;
    for (size_t i = 0; i < dir->n; i++) {
        const struct qn_tensor *t = &dir->t[i];
        must(t->data >= data + 8 && t->bytes <= size && t->data <= data + size - t->bytes);
        total += t->bytes;
    }
    must(total <= size - 8);
}

static void check_open(const uint8_t *config, size_t n, const struct qn_tensor_dir *dir) {
    struct qn_checkpoint *c = calloc(1, sizeof *c);
    struct qn_load_options opt = {0};
    struct qn_err err = {0};
    json_t *root = NULL;
    if (!c) return;
    int rc = qn_json_parse((const char *)config, n, "config.json",
                           (struct qn_json_limits){.depth = 32, .nodes = 100000}, &root, &err);
    if (rc == QN_OK) {
        struct qn_hf_vocab files = {.config = root};
        rc = qn_open_hf(&files, dir, &opt, c, &err);
    }
    if (rc != QN_OK)
        must(rc == err.code && err.msg[0]);
    else
        must(qn_spec_check(&c->spec, NULL) == QN_OK && c->embed.data);
    qn_checkpoint_free(c);
    json_decref(root);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    struct qn_tensor_dir dir = {0};
    struct qn_err err = {0};
    size_t n = size >= 4 ? qn_load_u32(data) : SIZE_MAX;
    bool whole = n > size - (size < 4 ? size : 4);
    const uint8_t *file = whole ? data : data + 4 + n;
    size_t bytes = whole ? size : size - 4 - n;
    int rc = qn_safetensors_parse(file, bytes, &dir, &err);
    if (rc == QN_OK) rc = qn_tensor_dir_index(&dir, &err);
    if (rc != QN_OK)
        must(rc == err.code && err.msg[0]);
    else
        check_dir(&dir, file, bytes);
    if (rc == QN_OK && !whole) check_open(data + 4, n, &dir);
    qn_tensor_dir_free(&dir);
    return 0;
}
