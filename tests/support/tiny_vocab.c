/* Tiny vocabularies for GGUF and tokenizer.json. */
#include "tests/support/tiny_vocab.h"

#include <stdbool.h>
#include <stdio.h>
#include <string.h>

#define MAX_TOKENS 288
#define META       "\xe2\x96\x81"

struct vocab {
    char text[MAX_TOKENS][16];
    const char *ptr[MAX_TOKENS];
    int32_t type[MAX_TOKENS]; /* GGUF's token types */
    float score[MAX_TOKENS];
    uint32_t n;
    const char *merges[16];
    uint32_t n_merges;
    bool spm;
};

static void add(struct vocab *v, const char *text, int32_t type, float score) {
    snprintf(v->text[v->n], sizeof v->text[0], "%s", text);
    v->ptr[v->n] = v->text[v->n];
    v->type[v->n] = type;
    v->score[v->n++] = score;
}

/* GPT-2's byte alphabet: printable Latin-1 stands for itself, the others for U+0100 and on, in byte order. */
static void add_byte_alphabet(struct vocab *v) {
    uint32_t next = 256;
    for (uint32_t b = 0; b < 256; b++) {
        bool printable = (b >= 33 && b <= 126) || (b >= 161 && b <= 172) || b >= 174;
        uint32_t c = printable ? b : next++;
        char s[4] = {0};
        if (c < 128) {
            s[0] = (char)c;
        } else {
            s[0] = (char)(0xc0 | c >> 6);
            s[1] = (char)(0x80 | (c & 63));
        }
        add(v, s, 1, 0);
    }
}

/* Adds the token that merge "left right" makes. */
static void add_merge(struct vocab *v, const char *merge) {
    char joined[16];
    size_t left = (size_t)(strchr(merge, ' ') - merge);
    snprintf(joined, sizeof joined, "%.*s%s", (int)left, merge, merge + left + 1);
    v->merges[v->n_merges++] = merge;
    add(v, joined, 1, -(float)v->n_merges);
}

static bool like_llama(const struct qn_test_tiny *t) {
    return strcmp(t->family, "llama") == 0 || strcmp(t->family, "mixtral") == 0;
}

static void fill(struct vocab *v, const struct qn_test_tiny *t) {
    static const char *const spm_merges[] = {"h e", "l l",     "he ll",     "hell o",
                                             "o r", META " w", META "w or", "l d"};
    static const char *const bpe_merges[] = {"h e", "l l", "he ll", "hell o", "o r", "\xc4\xa0 w"};
    memset(v, 0, sizeof *v);
    v->spm = like_llama(t) || strcmp(t->family, "gemma") == 0;
    if (!v->spm) {
        add_byte_alphabet(v);
        add(v, "<|endoftext|>", 3, 0);
        add(v, "<|im_end|>", 3, 0);
        for (size_t i = 0; i < sizeof bpe_merges / sizeof *bpe_merges; i++) add_merge(v, bpe_merges[i]);
        return;
    }
    add(v, "<unk>", 2, 0);
    add(v, "<s>", 3, 0);
    add(v, "</s>", 3, 0);
    for (unsigned b = 0; b < 256; b++) {
        char s[8];
        snprintf(s, sizeof s, "<0x%02X>", b);
        add(v, s, 6, 0);
    }
    const char *const letters[] = {META, "h", "e", "l", "o", "w", "r", "d"};
    for (size_t i = 0; i < 8; i++) add(v, letters[i], 1, -100.0f - (float)i);
    /* The tiny models' tables have 272 rows. */
    for (size_t i = 0; v->n < t->vocab && i < sizeof spm_merges / sizeof *spm_merges; i++)
        add_merge(v, spm_merges[i]);
}

static const char *pre_name(const struct qn_test_tiny *t) {
    if (strncmp(t->family, "qwen", 4) == 0) return "qwen2";
    return strcmp(t->family, "gpt2") == 0 ? "gpt-2" : "starcoder";
}

void qn_test_tiny_vocab_gguf(const struct qn_test_tiny *t, struct qn_test_gguf *g) {
    struct vocab v;
    fill(&v, t);
    qn_test_gguf_str(g, "tokenizer.ggml.model", v.spm ? "llama" : "gpt2");
    if (!v.spm) qn_test_gguf_str(g, "tokenizer.ggml.pre", pre_name(t));
    qn_test_gguf_strs(g, "tokenizer.ggml.tokens", v.ptr, v.n);
    qn_test_gguf_array4(g, "tokenizer.ggml.token_type", 5, v.type, v.n);
    if (v.spm)
        qn_test_gguf_array4(g, "tokenizer.ggml.scores", 6, v.score, v.n);
    else
        qn_test_gguf_strs(g, "tokenizer.ggml.merges", v.merges, v.n_merges);
    qn_test_gguf_u32(g, "tokenizer.ggml.bos_token_id", v.spm ? 1 : 256);
    qn_test_gguf_u32(g, "tokenizer.ggml.eos_token_id", v.spm ? 2 : 256);
    if (v.spm) qn_test_gguf_u32(g, "tokenizer.ggml.unknown_token_id", 0);
    qn_test_gguf_bool(g, "tokenizer.ggml.add_bos_token", v.spm);
    if (v.spm) qn_test_gguf_bool(g, "tokenizer.ggml.add_space_prefix", like_llama(t));
}

/* ---- tokenizer.json ---- */

static void put_json_string(struct qn_test_buf *b, const char *s) {
    qn_test_put(b, "\"", 1);
    for (; *s; s++) {
        if (*s == '"' || *s == '\\') qn_test_put(b, "\\", 1);
        qn_test_put(b, s, 1);
    }
    qn_test_put(b, "\"", 1);
}

static const char *pipeline(const struct qn_test_tiny *t, const struct vocab *v) {
    if (v->spm && strcmp(t->family, "gemma") == 0)
        return "\"normalizer\":{\"type\":\"Replace\",\"pattern\":{\"String\":\" \"},\"content\":\"" META
               "\"},"
               "\"pre_tokenizer\":{\"type\":\"Split\",\"pattern\":{\"String\":\" \"},\"behavior\":"
               "\"MergedWithPrevious\",\"invert\":false},";
    if (v->spm)
        return "\"normalizer\":{\"type\":\"Sequence\",\"normalizers\":[{\"type\":\"Prepend\",\"prepend\":"
               "\"" META "\"},{\"type\":\"Replace\",\"pattern\":{\"String\":\" \"},\"content\":\"" META
               "\"}]},"
               "\"pre_tokenizer\":null,";
    if (strcmp(t->family, "gpt2") == 0)
        return "\"normalizer\":null,\"pre_tokenizer\":{\"type\":\"ByteLevel\",\"add_prefix_space\":false,"
               "\"trim_offsets\":true},";
    if (strcmp(t->family, "gpt_bigcode") == 0)
        return "\"normalizer\":null,\"pre_tokenizer\":{\"type\":\"Sequence\",\"pretokenizers\":[{\"type\":"
               "\"Digits\","
               "\"individual_digits\":true},{\"type\":\"ByteLevel\",\"add_prefix_space\":false,\"use_regex\":"
               "true}]},";
    return "\"normalizer\":{\"type\":\"NFC\"},\"pre_tokenizer\":{\"type\":\"Sequence\",\"pretokenizers\":[{"
           "\"type\":"
           "\"Split\",\"pattern\":{\"Regex\":\"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\\\r\\\\n\\\\p{L}\\\\p{N}]?"
           "\\\\p{L}+|"
           "\\\\p{N}| ?[^\\\\s\\\\p{L}\\\\p{N}]+[\\\\r\\\\n]*|\\\\s*[\\\\r\\\\n]+|\\\\s+(?!\\\\S)|\\\\s+\"},"
           "\"behavior\":\"Isolated\",\"invert\":false},{\"type\":\"ByteLevel\",\"add_prefix_space\":false,"
           "\"use_regex\":false}]},";
}

void qn_test_tiny_tokenizer_json(const struct qn_test_tiny *t, struct qn_test_buf *out) {
    struct vocab v;
    bool first = true;
    fill(&v, t);
    qn_test_printf(out, "{\"version\":\"1.0\",\"added_tokens\":[");
    for (uint32_t i = 0; i < v.n; i++) {
        if (v.type[i] != 3 && v.type[i] != 2) continue;
        qn_test_printf(out, "%s{\"id\":%u,\"content\":", first ? "" : ",", i);
        put_json_string(out, v.text[i]);
        qn_test_printf(out, ",\"single_word\":false,\"lstrip\":false,\"rstrip\":false,\"normalized\":false,"
                            "\"special\":true}");
        first = false;
    }
    qn_test_printf(out, "],%s", pipeline(t, &v));
    if (v.spm)
        qn_test_printf(
            out, "\"post_processor\":{\"type\":\"TemplateProcessing\",\"single\":[{\"SpecialToken\":{\"id\":"
                 "\"<s>\",\"type_id\":0}},{\"Sequence\":{\"id\":\"A\",\"type_id\":0}}]},");
    qn_test_printf(out, "\"model\":{\"type\":\"BPE\",%s\"byte_fallback\":%s,\"vocab\":{",
                   v.spm ? "\"unk_token\":\"<unk>\"," : "", v.spm ? "true" : "false");
    for (uint32_t i = 0; i < v.n; i++) {
        if (i) qn_test_put(out, ",", 1);
        put_json_string(out, v.text[i]);
        qn_test_printf(out, ":%u", i);
    }
    qn_test_printf(out, "},\"merges\":[");
    for (uint32_t i = 0; i < v.n_merges; i++) {
        if (i) qn_test_put(out, ",", 1);
        put_json_string(out, v.merges[i]);
    }
    qn_test_printf(out, "]}}");
}
