/* What constraints cost at a model's vocabulary: preparing one, a mask in a state that was not met before and
 * in one that was, asking for one token, and sampling under a mask.
 *
 *   build/release/bench/mask_bench MODEL [DECODE_MS]
 *
 * DECODE_MS: time of one decode step, to give shares of. One table on stdout. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "api/schema.h"
#include "kernels/cpu.h"
#include "model/constrain/constrain.h"
#include "model/model.h"
#include "model/sample.h"

static const char *const cases[][3] = {
    {"object",
     "{\"type\":\"object\",\"properties\":{\"name\":{\"type\":\"string\"},\"age\":{\"type\":\"integer\"},"
     "\"city\":{\"type\":\"string\"},\"tags\":{\"type\":\"array\",\"items\":{\"type\":\"string\"}}},"
     "\"required\":[\"name\",\"age\",\"city\",\"tags\"],\"additionalProperties\":false}",
     "{\"name\": \"Margaret Atkinson-Jones\", \"age\": 42, \"city\": \"New York City\", \"tags\": [\"reader "
     "of old "
     "books\", \"friend\", \"lives by the sea\", \"caf\xC3\xA9 owner\"]}"},
    {"lengths",
     "{\"type\":\"object\",\"properties\":{\"a\":{\"type\":\"string\",\"maxLength\":200},\"b\":{\"type\":"
     "\"string\",\"minLength\":5,\"maxLength\":100}},\"required\":[\"a\",\"b\"],\"additionalProperties\":"
     "false}",
     "{\"a\": \"Once upon a time there was a little girl who lived in a house by the sea with her dog.\", "
     "\"b\": "
     "\"She liked to walk along the beach and look for shells.\"}"},
    {"any JSON", NULL,
     "{\"name\": \"John\", \"list\": [1, 2, {\"deep\": [true, null, \"text in here\"]}], \"more\": {\"a\": "
     "-1.5e3, "
     "\"b\": \"and a longer text that goes on for some words\"}}"},
};

static struct qn_str_ref piece(const void *m, int32_t id) {
    return qn_model_piece(m, id, false);
}
static bool ends(const void *m, int32_t id) {
    return qn_model_is_eog(m, id);
}

static double ms_since(uint64_t start) {
    return (double)(qn_now_ns() - start) * 1e-6;
}

/* Milliseconds of all tokens: with masks, or by asking for the tokens alone. */
static double replay(struct qn_constraint *c, const int32_t *ids, uint32_t n, bool masks, uint64_t **copies) {
    struct qn_cursor cur;
    double ms = 0;
    qn_cursor_init(&cur, false);
    for (uint32_t i = 0; i < n; i++) {
        struct qn_cursor_at at = {ids, i};
        const uint64_t *mask;
        bool yes = true;
        uint64_t start = qn_now_ns();
        int rc = masks ? qn_cursor_mask(c, &cur, &at, &mask) : qn_cursor_allows(c, &cur, &at, ids[i], &yes);
        if (!rc) rc = qn_cursor_done(c, &cur, &at, &yes);
        ms += ms_since(start);
        if (rc) fprintf(stderr, "token %u: %d\n", i, rc);
        if (!rc && masks && copies) *copies = (uint64_t *)(uintptr_t)mask;
    }
    return ms / n;
}

static double sampling(uint32_t vocab, const uint64_t *mask) {
    float *logits = malloc(vocab * sizeof *logits);
    void *work = malloc(qn_sample_work_bytes(vocab));
    struct qn_sampling p = {.temperature = 0.8f, .top_p = 1, .repetition_penalty = 1};
    struct qn_sampled out;
    double ms = 0;
    for (uint32_t k = 0; logits && work && k < 200; k++) {
        for (uint32_t i = 0; i < vocab; i++) logits[i] = (float)((i * 2654435761u + k) % 1000) * 0.01f;
        struct qn_sample_input in = {
            .logits = logits, .vocab = vocab, .position = k, .work = work, .mask = mask};
        uint64_t start = qn_now_ns();
        qn_sample(&p, &in, &out);
        ms += ms_since(start) / 200;
    }
    free(logits);
    free(work);
    return ms;
}

static int one(struct qn_model *m, struct qn_lexicon *l, const char *const row[3], double decode) {
    struct qn_api_constraint q = {.kind = row[1] ? QN_CONSTRAIN_SCHEMA : QN_CONSTRAIN_JSON,
                                  .text = (char *)(uintptr_t)row[1],
                                  .n = row[1] ? strlen(row[1]) : 0};
    struct qn_buf grammar = {0};
    struct qn_api_err err = {0};
    struct qn_err e = {0};
    struct qn_constraint *c;
    uint64_t *mask = NULL;
    int32_t *ids;
    size_t n;
    uint64_t start = qn_now_ns();
    if (qn_api_schema_grammar(&q, "schema", &grammar, &err) ||
        qn_constraint_new(l, grammar.p, grammar.n, true, &c, &e) ||
        qn_model_tokenize(m, row[2], strlen(row[2]), false, 4096, &ids, &n, &e)) {
        fprintf(stderr, "%s %s\n", err.msg, e.msg);
        return 1;
    }
    double made = ms_since(start), ask = replay(c, ids, (uint32_t)n, false, NULL);
    qn_constraint_unref(c);
    if (qn_constraint_new(l, grammar.p, grammar.n, true, &c, &e)) return 1;
    double cold = replay(c, ids, (uint32_t)n, true, &mask), warm = replay(c, ids, (uint32_t)n, true, &mask);
    double plain = sampling(qn_model_info(m)->vocab, NULL), masked = sampling(qn_model_info(m)->vocab, mask);
    printf("| %s | %zu | %.2f | %.1f (%.1f %%) | %.1f (%.1f %%) | %.1f | %+.1f |\n", row[0], n, made,
           ask * 1e3, 100 * ask / decode, cold * 1e3, 100 * cold / decode, warm * 1e3,
           (masked - plain) * 1e3);
    qn_constraint_unref(c);
    qn_buf_free(&grammar);
    free(ids);
    return 0;
}

int main(int argc, char **argv) {
    struct qn_err e = {0};
    struct qn_model *m = NULL;
    struct qn_lexicon *l;
    struct qn_pool *pool = NULL;
    double decode = argc > 2 ? strtod(argv[2], NULL) : 4;
    if (argc < 2 || !(pool = qn_pool_new(1))) return 2;
    struct qn_open_options opt = {.pool = pool, .state_bytes = (size_t)1 << 24};
    if (qn_model_open(argv[1], &opt, &m, &e)) {
        fprintf(stderr, "%s\n", e.msg);
        return 1;
    }
    struct qn_lexicon_source src = {qn_model_info(m)->vocab, m, piece, ends};
    uint64_t start = qn_now_ns();
    int rc = qn_lexicon_new(&src, &l, &e);
    printf("vocabulary of %u: %.1f ms, once\n\n", src.n, ms_since(start));
    printf(
        "| text | tokens | prepare, ms | ask, us per token (of a step) | new masks, us | known masks, us | "
        "sampling, us |\n|---|---:|---:|---:|---:|---:|---:|\n");
    for (size_t i = 0; !rc && i < sizeof cases / sizeof *cases; i++) rc = one(m, l, cases[i], decode);
    qn_lexicon_unref(l);
    qn_model_close(&m);
    qn_pool_free(&pool);
    return rc;
}
