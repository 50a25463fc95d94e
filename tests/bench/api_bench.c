/* Times of api/ on one thread: parse and write of a small request, a long prompt, token ids, embeddings,
 * stream events. Prints one line each; not part of the tests. Usage: api_bench [rounds] */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "api/models.h"

static double now_us(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec * 1e6 + (double)t.tv_nsec / 1e3;
}

struct bench {
    const char *name;
    void (*run)(void);
    unsigned per_round;
};

static char *big_text, *big_ids;
static float vec[4096];
static struct qn_buf out;

static void parse(const char *body) {
    struct qn_api_infer r;
    struct qn_api_err e = {0};
    if (qn_api_infer_parse(body, strlen(body), NULL, &r, &e)) {
        fprintf(stderr, "%s\n", e.msg);
        exit(1);
    }
    qn_api_infer_free(&r);
}

static void small_parse(void) {
    parse("{\"model\":\"grist\",\"attention\":{\"type\":\"gqa\",\"kv_heads\":2},\"sequence\":\"Once upon a "
          "time there was a "
          "mill\",\"max_tokens\":64,\"temperature\":0.7,\"top_p\":0.9,\"seed\":7,\"stop\":[\"\\n\\n\"],"
          "\"stream\":false}");
}

static void text_parse(void) {
    parse(big_text);
}

static void ids_parse(void) {
    parse(big_ids);
}

static void small_write(void) {
    static const int32_t ids[64] = {1, 20, 300, 4000, 50000};
    struct qn_api_output o = {.text = "and it ground the corn of the whole village.",
                              .text_len = 44,
                              .tokens = ids,
                              .n_tokens = 64,
                              .finish_reason = "length"};
    struct qn_api_reply r = {.id = "inf-0123456789abcdef",
                             .created = 1700000000,
                             .model = "grist",
                             .outputs = &o,
                             .n_outputs = 1,
                             .timings = {.queue = 0.12, .decode = 123.456, .total = 130.5}};
    qn_buf_clear(&out);
    qn_api_infer_write(&out, &r);
}

static void embedding_write(void) {
    struct qn_api_output o = {.embedding = vec, .n_embedding = 4096};
    struct qn_api_reply r = {.id = "inf-0123456789abcdef", .model = "grist", .outputs = &o, .n_outputs = 1};
    qn_buf_clear(&out);
    qn_api_infer_write(&out, &r);
}

static void event_write(void) {
    qn_buf_clear(&out);
    qn_api_sse_token(
        &out, &(struct qn_api_stream_token){.index = 0, .token = 1234, .text = " mill", .text_len = 5});
}

static char *repeat(const char *head, const char *unit, size_t times, const char *tail) {
    size_t h = strlen(head), u = strlen(unit), t = strlen(tail);
    char *s = malloc(h + u * times + t + 1);
    if (!s) exit(1);
    memcpy(s, head, h);
    for (size_t i = 0; i < times; i++) memcpy(s + h + i * u, unit, u);
    memcpy(s + h + u * times, tail, t + 1);
    return s;
}

int main(int argc, char **argv) {
    static const struct bench all[] = {
        {"parse 200 B request", small_parse, 100}, {"write its reply", small_write, 100},
        {"parse 32 KB prompt", text_parse, 1},     {"parse 4096 token ids", ids_parse, 1},
        {"write 4096 floats", embedding_write, 1}, {"write one stream event", event_write, 1000},
    };
    int rounds = argc > 1 ? atoi(argv[1]) : 200;
    uint32_t x = 12345;
    big_text = repeat("{\"sequence\":\"", "It was the best of times.\\n", 1213, "\"}");
    big_ids = repeat("{\"sequence\":[", "12345,", 4095, "7]}");
    for (size_t i = 0; i < 4096; i++) {
        x = x * 1664525u + 1013904223u;
        vec[i] = (float)(int32_t)x / 2147483648.0f;
    }
    for (size_t b = 0; b < sizeof all / sizeof all[0]; b++) {
        double best = 1e18;
        for (int i = 0; i < rounds; i++) {
            double t0 = now_us();
            for (unsigned k = 0; k < all[b].per_round; k++) all[b].run();
            double us = (now_us() - t0) / all[b].per_round;
            if (us < best) best = us;
        }
        printf("%-24s %10.3f us\n", all[b].name, best);
    }
    qn_buf_free(&out);
    free(big_text);
    free(big_ids);
    return 0;
}
