/* Replies and chunks of the OpenAI endpoints, byte for byte: shapes that their clients insist on. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <jansson.h>
#include <math.h>
#include <string.h>

#include "api/openai.h"

#define TIMINGS                                                                                              \
    "{\"queue_ms\":1,\"tokenize_ms\":0,\"convert_ms\":0,\"prefill_ms\":0,\"decode_ms\":0,\"finish_ms\":0,"   \
    "\"total_ms\":1.5,\"ttft_ms\":0,\"compute_ms\":0,\"prefill_tokens_per_second\":0,"                       \
    "\"decode_tokens_per_second\":0,\"steps\":2,\"mean_batch\":0}"
#define MEMORY                                                                                               \
    "{\"weights_bytes\":7,\"weights_active_bytes\":0,\"state_bytes\":0,\"state_shared_bytes\":0,"            \
    "\"state_bytes_per_token\":0,\"scratch_bytes\":0,\"process_rss_bytes\":0}"
#define STRUCTURE                                                                                            \
    "{\"attention\":{\"type\":\"mqa\"},\"ffn\":{\"type\":\"moe\"},\"sharing\":{\"type\":\"none\"},"          \
    "\"origin\":\"native\",\"exactness\":\"exact\",\"divergence\":null}"
#define FIGURES "\"timings\":" TIMINGS ",\"memory\":" MEMORY ",\"structure\":" STRUCTURE
#define USAGE                                                                                                \
    "\"usage\":{\"prompt_tokens\":4,\"completion_tokens\":2,\"total_tokens\":6,"                             \
    "\"prompt_tokens_details\":{\"cached_tokens\":1},\"quern\":{" FIGURES "}}"
#define TAIL "]," USAGE "," FIGURES "}"

static struct qn_api_reply reply_of(const struct qn_api_output *o, uint32_t n) {
    return (struct qn_api_reply){.id = "cmpl-1",
                                 .created = 17,
                                 .model = "grist",
                                 .structure = {.attention = {.type = "mqa"},
                                               .ffn = {.type = "moe"},
                                               .sharing = {.type = "none"},
                                               .origin = "native",
                                               .exactness = "exact"},
                                 .outputs = o,
                                 .n_outputs = n,
                                 .prompt_tokens = 4,
                                 .completion_tokens = 2,
                                 .cached_tokens = 1,
                                 .timings = {.queue = 1, .total = 1.5, .steps = 2},
                                 .memory = {.weights = 7}};
}

static void expect(struct qn_buf *b, const char *want) {
    assert_false(b->failed);
    assert_string_equal(b->p, want);
    for (const char *at = b->p; *at;) { /* JSON as a whole, or in each data line */
        const char *end = strstr(at, "\n\n");
        size_t n = end ? (size_t)(end - at) : strlen(at), skip = strncmp(at, "data: ", 6) ? 0 : 6;
        json_t *v = json_loadb(at + skip, n - skip, JSON_REJECT_DUPLICATES, NULL);
        assert_non_null(v);
        json_decref(v);
        at = end ? end + 2 : at + n;
    }
    qn_buf_free(b);
}

static void completions(void **state) {
    (void)state;
    static const struct qn_api_logprob top[] = {
        {5, -0.25f, "a\n", 2}, {6, -2.5f, "\xFF", 1}, {7, -3.0f, "a\n", 2}};
    static const struct qn_api_token tokens[] = {{{9, (float)NAN, "<s>", 3}, 0, NULL},
                                                 {{5, -0.25f, "a\n", 2}, 3, top},
                                                 {{8, -HUGE_VALF, "\xE2\x82", 2}, 2, top}};
    static const uint32_t offsets[] = {0, 0, 2};
    struct qn_api_output o[2] = {{.text = "a\nb", .text_len = 3, .finish_reason = "length"},
                                 {.index = 1, .text = "", .finish_reason = "timeout"}};
    struct qn_api_reply r = reply_of(o, 2);
    struct qn_buf b = {0};
    qn_api_completion_write(&b, &r);
    expect(
        &b,
        "{\"id\":\"cmpl-1\",\"object\":\"text_completion\",\"created\":17,\"model\":\"grist\",\"choices\":["
        "{\"index\":0,\"text\":\"a\\nb\",\"logprobs\":null,\"finish_reason\":\"length\"},"
        "{\"index\":1,\"text\":\"\",\"logprobs\":null,\"finish_reason\":\"length\",\"finish_detail\":"
        "\"timeout\"}" TAIL);
    o[0].logprobs = tokens;
    o[0].n_logprobs = 3;
    o[0].offsets = offsets;
    o[0].finish_reason = "stop";
    r.n_outputs = 1;
    qn_api_completion_write(&b, &r);
    expect(
        &b,
        "{\"id\":\"cmpl-1\",\"object\":\"text_completion\",\"created\":17,\"model\":\"grist\",\"choices\":["
        "{\"index\":0,\"text\":\"a\\nb\",\"logprobs\":{\"tokens\":[\"<s>\",\"a\\n\",\"bytes:\\\\xe2\\\\x82\"]"
        ","
        "\"token_logprobs\":[null,-0.25,-9999],\"top_logprobs\":[null,{\"a\\n\":-0.25,\"bytes:\\\\xff\":-2.5}"
        ","
        "{\"a\\n\":-0.25,\"bytes:\\\\xff\":-2.5,\"bytes:\\\\xe2\\\\x82\":-9999}],\"text_offset\":[0,0,2]},"
        "\"finish_reason\":\"stop\"}" TAIL);
}

static void chats(void **state) {
    (void)state;
    static const struct qn_api_logprob top[] = {{5, -0.25f, "a", 1}, {6, -HUGE_VALF, "\xFF", 1}};
    static const struct qn_api_token token = {{5, -0.25f, "a", 1}, 2, top};
    struct qn_api_output o = {.text = "a\"", .text_len = 2, .finish_reason = "stop"};
    struct qn_api_reply r = reply_of(&o, 1);
    struct qn_buf b = {0};
    qn_api_chat_write(&b, &r);
    expect(
        &b,
        "{\"id\":\"cmpl-1\",\"object\":\"chat.completion\",\"created\":17,\"model\":\"grist\",\"choices\":["
        "{\"index\":0,\"message\":{\"role\":\"assistant\",\"content\":\"a\\\"\",\"refusal\":null},"
        "\"logprobs\":null,\"finish_reason\":\"stop\"}" TAIL);
    o.logprobs = &token;
    o.n_logprobs = 1;
    qn_api_chat_write(&b, &r);
    expect(
        &b,
        "{\"id\":\"cmpl-1\",\"object\":\"chat.completion\",\"created\":17,\"model\":\"grist\",\"choices\":["
        "{\"index\":0,\"message\":{\"role\":\"assistant\",\"content\":\"a\\\"\",\"refusal\":null},"
        "\"logprobs\":{\"content\":[{\"token\":\"a\",\"logprob\":-0.25,\"bytes\":[97],\"top_logprobs\":["
        "{\"token\":\"a\",\"logprob\":-0.25,\"bytes\":[97]},{\"token\":\"\xEF\xBF\xBD\",\"logprob\":-9999,"
        "\"bytes\":[255]}]}],\"refusal\":null},\"finish_reason\":\"stop\"}" TAIL);
}

static void embeddings(void **state) {
    (void)state;
    static const float vec[] = {1.0f, -0.5f, 0.1f};
    struct qn_api_output o[2] = {{.embedding = vec, .n_embedding = 3},
                                 {.index = 1, .embedding = vec, .n_embedding = 1}};
    struct qn_api_reply r = reply_of(o, 2);
    struct qn_buf b = {0};
#define EMBEDDING_TAIL                                                                                       \
    "],\"model\":\"grist\",\"usage\":{\"prompt_tokens\":4,\"total_tokens\":4,\"quern\":{" FIGURES            \
    "}}," FIGURES "}"
    r.completion_tokens = 0;
    qn_api_embedding_write(&b, &r, false);
    expect(&b,
           "{\"object\":\"list\",\"data\":[{\"object\":\"embedding\",\"index\":0,\"embedding\":[1,-0.5,0.1]},"
           "{\"object\":\"embedding\",\"index\":1,\"embedding\":[1]}" EMBEDDING_TAIL);
    qn_api_embedding_write(&b, &r, true); /* 00 00 80 3f  00 00 00 bf  cd cc cc 3d */
    expect(&b, "{\"object\":\"list\",\"data\":[{\"object\":\"embedding\",\"index\":0,\"embedding\":"
               "\"AACAPwAAAL/"
               "NzMw9\"},{\"object\":\"embedding\",\"index\":1,\"embedding\":\"AACAPw==\"}" EMBEDDING_TAIL);
    o[1].n_embedding = 2; /* the third way for base64 to end */
    r.outputs = &o[1];
    r.n_outputs = 1;
    qn_api_embedding_write(&b, &r, true);
    expect(&b, "{\"object\":\"list\",\"data\":[{\"object\":\"embedding\",\"index\":1,\"embedding\":"
               "\"AACAPwAAAL8=\"}" EMBEDDING_TAIL);
}

#define CHUNK(object)                                                                                        \
    "data: {\"id\":\"cmpl-1\",\"object\":\"" object "\",\"created\":17,\"model\":\"grist\",\"choices\":["

static void chunks(void **state) {
    (void)state;
    static const struct qn_api_token token = {{5, -0.25f, "a", 1}, 0, NULL};
    struct qn_api_chunk c = {
        .id = "cmpl-1", .model = "grist", .created = 17, .chat = true, .role = true, .index = 1};
    struct qn_buf b = {0};
    qn_api_chunk_write(&b, &c);
    expect(&b,
           CHUNK("chat.completion.chunk") "{\"index\":1,\"delta\":{\"role\":\"assistant\",\"content\":\"\"},"
                                          "\"logprobs\":null,\"finish_reason\":null}]}\n\n");
    c = (struct qn_api_chunk){.id = "cmpl-1",
                              .model = "grist",
                              .created = 17,
                              .chat = true,
                              .usage = true,
                              .text = "x\ny",
                              .n = 3,
                              .lp = &token};
    qn_api_chunk_write(&b, &c);
    expect(&b,
           CHUNK("chat.completion.chunk") "{\"index\":0,\"delta\":{\"content\":\"x\\ny\"},\"logprobs\":{"
                                          "\"content\":["
                                          "{\"token\":\"a\",\"logprob\":-0.25,\"bytes\":[97],\"top_"
                                          "logprobs\":[]}],"
                                          "\"refusal\":null},\"finish_reason\":null}],\"usage\":null}\n\n");
    c.chat = c.usage = false;
    c.offset = 12;
    qn_api_chunk_write(&b, &c);
    expect(&b, CHUNK("text_completion") "{\"index\":0,\"text\":\"x\\ny\",\"logprobs\":{\"tokens\":[\"a\"],"
                                        "\"token_logprobs\":[-0.25],\"top_logprobs\":[{\"a\":-0.25}],\"text_"
                                        "offset\":[12]},"
                                        "\"finish_reason\":null}]}\n\n");
}

static void ends(void **state) {
    (void)state;
    struct qn_api_output o[2] = {{.finish_reason = "stop"}, {.index = 1, .finish_reason = "cancelled"}};
    struct qn_api_reply r = reply_of(o, 2);
    struct qn_buf b = {0};
    qn_api_finish_write(&b, &r, true, false);
    expect(
        &b,
        CHUNK("chat.completion.chunk") "{\"index\":0,\"delta\":{},\"logprobs\":null,\"finish_reason\":"
                                       "\"stop\"}]}\n\n" CHUNK(
                                           "chat.completion.chunk") "{\"index\":1,\"delta\":{},\"logprobs\":"
                                                                    "null,\"finish_reason\":\"length\","
                                                                    "\"finish_detail\":\"cancelled\"}]"
                                                                    "," FIGURES "}\n\n");
    r.n_outputs = 1;
    qn_api_finish_write(&b, &r, false, true);
    expect(
        &b,
        CHUNK("text_completion") "{\"index\":0,\"text\":\"\",\"logprobs\":null,\"finish_reason\":\"stop\"}],"
                                 "\"usage\":null," FIGURES "}\n\n" CHUNK("text_completion") TAIL "\n\n");
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(completions), cmocka_unit_test(chats),
                                       cmocka_unit_test(embeddings), cmocka_unit_test(chunks),
                                       cmocka_unit_test(ends)};
    return cmocka_run_group_tests_name("openai replies", tests, NULL, NULL);
}
