/* Malformed checkpoints of quern's own family: a good one (tests/golden/quern) with one thing changed at a
 * time in config.json or in the tensor directory; each must be refused with a message that names the fault.
 * Also truncated and bit-flipped config.json: never a crash, and nothing leaks. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "model/load/json.h"
#include "model/load/open.h"

struct fixture {
    char *config;
    size_t config_len;
    uint8_t *weights;
    size_t weights_len;
};

static void *read_all(const char *path, size_t *n) {
    FILE *f = fopen(path, "rb");
    assert_non_null(f);
    fseek(f, 0, SEEK_END);
    *n = (size_t)ftell(f);
    rewind(f);
    char *p = malloc(*n + 1);
    assert_non_null(p);
    assert_int_equal(fread(p, 1, *n, f), *n);
    p[*n] = 0;
    fclose(f);
    return p;
}

static void open_fixture(struct fixture *x, const char *dir) {
    char path[80];
    snprintf(path, sizeof path, "%s/config.json", dir);
    x->config = read_all(path, &x->config_len);
    snprintf(path, sizeof path, "%s/model.safetensors", dir);
    x->weights = read_all(path, &x->weights_len);
}

static void close_fixture(struct fixture *x) {
    free(x->config);
    free(x->weights);
}

/* ---- one change to the tensors ---- */

enum change { NOTHING, DROP, RENAME, COLS, ROWS, DIMS, TYPE, F_EACH };

static void change_tensor(struct qn_tensor_dir *dir, enum change what, const char *name, const char *to) {
    struct qn_tensor *t = NULL;
    for (size_t i = 0; i < dir->n; i++)
        if (qn_str_is(dir->t[i].name, name)) t = &dir->t[i];
    if (!t) fail_msg("the fixture has no %s", name);
    if (what == DROP) {
        free(t->owned);
        *t = dir->t[--dir->n];
    } else if (what == RENAME || what == F_EACH) {
        free(t->owned);
        t->owned = strdup(to);
        t->name = (struct qn_str){t->owned, strlen(to)};
        if (what == F_EACH) { /* a shape that only its neighbour contradicts; nothing is read */
            t->n_dims = 3;
            t->dims[0] = 4, t->dims[1] = 12, t->dims[2] = 40;
        }
    } else if (what == COLS) {
        t->dims[t->n_dims - 1]--;
    } else if (what == ROWS) {
        t->dims[0]++;
    } else if (what == DIMS) {
        t->dims[t->n_dims++] = 1;
    } else if (what == TYPE) {
        t->type = QN_TYPE_COUNT;
        t->type_name = "I32";
    }
}

static int open_changed(const struct fixture *x, const char *config, size_t len, enum change what,
                        const char *name, const char *to, struct qn_err *err) {
    struct qn_checkpoint *c = calloc(1, sizeof *c);
    struct qn_tensor_dir dir = {0};
    struct qn_load_options opt = {0};
    json_t *root = NULL;
    assert_non_null(c);
    memset(err, 0, sizeof *err);
    int rc = qn_json_parse(config, len, "config.json", (struct qn_json_limits){.depth = 32, .nodes = 100000},
                           &root, err);
    if (rc == QN_OK) {
        assert_int_equal(qn_safetensors_parse(x->weights, x->weights_len, &dir, NULL), QN_OK);
        if (what != NOTHING) change_tensor(&dir, what, name, to);
        assert_int_equal(qn_tensor_dir_index(&dir, NULL), QN_OK);
        struct qn_hf_vocab files = {.config = root};
        rc = qn_open_hf(&files, &dir, &opt, c, err);
    }
    if (rc != QN_OK && (rc != err->code || !err->msg[0])) fail_msg("%d without a message", rc);
    qn_checkpoint_free(c);
    qn_tensor_dir_free(&dir);
    json_decref(root);
    return rc;
}

/* ---- config.json ---- */

static const struct {
    const char *name, *expect, *from, *to;
} configs[] = {
    {"no vocabulary size", "'vocab_size' is missing", "\"vocab_size\"", "\"vocab\""},
    {"no width", "'hidden_size' is missing", "\"hidden_size\"", "\"hidden\""},
    {"no layers", "'num_hidden_layers' is missing", "\"num_hidden_layers\"", "\"layers\""},
    {"no heads", "'num_attention_heads' is missing", "\"num_attention_heads\"", "\"heads\""},
    {"no context", "'max_position_embeddings' is missing", "\"max_position_embeddings\"", "\"context\""},
    {"width a string", "'hidden_size' must be an integer", "\"hidden_size\": 32", "\"hidden_size\": \"32\""},
    {"width negative", "out of range", "\"hidden_size\": 32", "\"hidden_size\": -32"},
    {"width huge", "d_model is 4294967295", "\"hidden_size\": 32", "\"hidden_size\": 4294967295"},
    {"no layer at all", "is not 1 to 1024", "\"num_hidden_layers\": 2", "\"num_hidden_layers\": 0"},
    {"a billion layers", "is not 1 to 1024", "\"num_hidden_layers\": 2", "\"num_hidden_layers\": 1000000000"},
    {"no head at all", "is not 1 to 1024", "\"num_attention_heads\": 4", "\"num_attention_heads\": 0"},
    {"head width 7", "not a multiple of 8", "\"head_dim\": 8", "\"head_dim\": 12"},
    {"epsilon 0", "norm_eps", "\"rms_norm_eps\": 1e-05", "\"rms_norm_eps\": 0"},
    {"rope base 1", "rope_base", "\"rope_theta\": 10000.0", "\"rope_theta\": 1"},
    {"16 lags", "embed_lags is 16", "\"embedding_lags\": 3", "\"embedding_lags\": 16"},
    {"tables wider than the model", "d_embed is 33", "\"embedding_lags\"",
     "\"embedding_size\": 33, \"embedding_lags\""},
    {"tables of no width", "'embedding_size' is 0", "\"embedding_lags\"",
     "\"embedding_size\": 0, \"embedding_lags\""},
    {"tables too narrow", "d_embed is 4", "\"embedding_lags\"", "\"embedding_size\": 4, \"embedding_lags\""},
    {"tables of another width", "'model.embed_tokens.weight' is [44, 32], expected [44, 16]",
     "\"embedding_lags\"", "\"embedding_size\": 16, \"embedding_lags\""},
    {"a map that is missing", "'model.output_map.weight' is missing", "\"embedding_lags\"",
     "\"embedding_size\": 32, \"embedding_lags\""},
    {"a sliding window", "'sliding_window' is not supported", "\"embedding_lags\"",
     "\"sliding_window\": 5, \"embedding_lags\""},
    {"scaled RoPE", "'rope_scaling' is not supported", "\"embedding_lags\"",
     "\"rope_scaling\": {}, \"embedding_lags\""},
    {"no attention", "'attention' is not an object", "\"attention\": {", "\"attentions\": {"},
    {"attention a list", "'attention' is not an object", "\"attention\": {", "\"attention\": [], \"x\": {"},
    {"attention empty", "1 to 8 members", "\"attention\": {", "\"attention\": {}, \"x\": {"},
    {"an unknown attention", "'sparse' is not a known structure", "\"mqa\": {", "\"sparse\": {"},
    {"a long name", "is not a known structure", "\"mqa\": {", "\"abcdefghijklmnopqrstuvwxyz\": {"},
    {"an empty name", "attention", "\"mqa\": {", "\"\": {"},
    {"a member that is a number", "attention 'mha' is not an object", "\"mha\": {\n   \"kv_heads\": 4\n  }",
     "\"mha\": 4"},
    {"an unknown key of a member", "unknown key 'window'", "\"kv_heads\": 1\n", "\"window\": 1\n"},
    {"KV heads that do not divide", "does not divide", "\"kv_heads\": 2\n", "\"kv_heads\": 3\n"},
    {"KV heads 0", "kv_heads is 0", "\"kv_heads\": 2\n", "\"kv_heads\": 0\n"},
    {"KV heads that make it another kind", "'gqa' has numbers that are not", "\"kv_heads\": 2\n",
     "\"kv_heads\": 1\n"},
    {"slots missing", "'linformer' has numbers that are not", "\"k\": 12,", ""},
    {"too many slots", "slots is 4097", "\"k\": 12,", "\"k\": 4097,"},
    {"features missing", "'performer' has numbers that are not", "\"features\": 24,", ""},
    {"too many features", "features is 5000", "\"features\": 24,", "\"features\": 5000,"},
    {"an unknown kernel", "neither favor+ nor relu", "\"favor+\"", "\"cos\""},
    {"rope a number", "'rope' must be true or false", "\"rope\": true", "\"rope\": 1"},
    {"no ffn", "'ffn' is not an object", "\"ffn\": {", "\"ffns\": {"},
    {"an unknown ffn", "'mlp' is not a known structure", "\"swiglu\": {", "\"mlp\": {"},
    {"an FFN without width", "'intermediate_size' is missing", "\"intermediate_size\": 40",
     "\"activation\": \"silu\""},
    {"an FFN of width 0", "ffn_dim is 0", "\"intermediate_size\": 40", "\"intermediate_size\": 0"},
    {"an unknown activation", "'activation' that does not go", "\"activation\": \"gelu\"",
     "\"activation\": \"relu\""},
    {"an unknown key of an FFN", "unknown key 'bias'", "\"activation\": \"gelu\"", "\"bias\": true"},
    {"experts in a dense FFN", "is not a mixture", "\"intermediate_size\": 40",
     "\"intermediate_size\": 40, \"expert\": \"relu\", \"num_experts\": 4, \"num_experts_per_tok\": 2"},
    {"a mixture without experts", "lacks 'num_experts'",
     "\"expert\": \"swiglu\",\n   \"num_experts\": 4,\n   \"num_experts_per_tok\": 2,\n   "
     "\"intermediate_size\": 24,\n   \"gating\": \"B\"",
     "\"intermediate_size\": 24"},
    {"experts of no kind", "lacks 'expert'", "\"expert\": \"swiglu\",", ""},
    {"experts of an unknown kind", "'expert' that is not a known", "\"expert\": \"swiglu\"",
     "\"expert\": \"mlp\""},
    {"experts that are mixtures", "moe", "\"expert\": \"swiglu\"", "\"expert\": \"moe\""},
    {"no experts", "has 0 experts", "\"num_experts\": 4", "\"num_experts\": 0"},
    {"too many experts", "experts is 100000", "\"num_experts\": 4", "\"num_experts\": 100000"},
    {"more experts used than there are", "experts_per_token", "\"num_experts_per_tok\": 2",
     "\"num_experts_per_tok\": 5"},
    {"experts used not said", "'num_experts_per_tok' is missing", "\"num_experts_per_tok\": 2,", ""},
    {"an unknown gating", "'gating' that is not", "\"gating\": \"B\"", "\"gating\": \"E\""},
    {"a gating of two letters", "'gating' that is not", "\"gating\": \"B\"", "\"gating\": \"DD\""},
    {"a gating that is a number", "'gating' must be", "\"gating\": \"B\"", "\"gating\": 4"},
    {"a scale without sigmoid gating", "'route_scale', which goes with gating D", "\"gating\": \"B\"",
     "\"gating\": \"B\", \"route_scale\": 2"},
    {"groups without sigmoid gating", "'groups', which goes with gating D", "\"gating\": \"B\"",
     "\"gating\": \"C\", \"groups\": 2"},
    {"a scale of 0", "'route_scale' not above 0", "\"gating\": \"B\"",
     "\"gating\": \"D\", \"route_scale\": 0"},
    {"a scale below 0", "'route_scale' not above 0", "\"gating\": \"B\"",
     "\"gating\": \"D\", \"route_scale\": -1"},
    {"groups that do not divide", "does not divide the number of experts", "\"gating\": \"B\"",
     "\"gating\": \"D\", \"groups\": 3, \"top_groups\": 1"},
    {"groups without top groups", "top_groups is 0", "\"gating\": \"B\"", "\"gating\": \"D\", \"groups\": 2"},
    {"top groups without groups", "does not divide", "\"gating\": \"B\"",
     "\"gating\": \"D\", \"top_groups\": 1"},
    {"too few experts in the open groups", "open groups hold", "\"gating\": \"B\"",
     "\"gating\": \"D\", \"groups\": 4, \"top_groups\": 1"},
    {"a gate of no shared expert", "without 'shared_intermediate_size'", "\"gating\": \"B\"",
     "\"shared_gate\": true"},
    {"a shared expert that is not there",
     "'model.layers.0.ffn.moe.shared_expert.gate_proj.weight' is missing", "\"gating\": \"B\"",
     "\"shared_intermediate_size\": 24"},
    {"a shared expert too narrow", "shared_dim is 4", "\"gating\": \"B\"", "\"shared_intermediate_size\": 4"},
    {"a shared expert too wide", "shared_dim is 2000000", "\"gating\": \"B\"",
     "\"shared_intermediate_size\": 2000000"},
    {"no sharing", "'sharing' is not an array", "\"sharing\": [", "\"shared\": ["},
    {"sharing twice", "each at most once", "\"none\",\n  \"all\"", "\"all\",\n  \"all\""},
    {"unknown sharing", "is not none or all", "\"none\",\n  \"all\"", "\"none\",\n  \"half\""},
    {"sharing a number", "is not none or all", "\"none\",\n  \"all\"", "1"},
    {"sharing empty", "1 to 8 members", "\"none\",\n  \"all\"", ""},
    {"held out a number", "'held_out' is not an array", "\"held_out\": [", "\"held_out\": 1, \"x\": ["},
    {"held out rows of numbers", "not an object", "\"held_out\": [", "\"held_out\": [1], \"x\": ["},
    {"held out of no member", "names no member", "\"ffn\": \"swiglu\"", "\"ffn\": \"relu\""},
    {"held out below 0", "not above 0", "\"nats_per_byte\": 1.5", "\"nats_per_byte\": -1.5"},
    {"held out without figures", "not above 0", "\"bits_per_byte\": 2.164", "\"bits\": 1"},
};

/* text with the first `from` as `to`; NULL when it is not there. */
static char *changed(const char *text, const char *from, const char *to) {
    const char *at = strstr(text, from);
    if (!at) return NULL;
    size_t n = strlen(text) + strlen(to) + 1;
    char *out = malloc(n);
    assert_non_null(out);
    snprintf(out, n, "%.*s%s%s", (int)(at - text), text, to, at + strlen(from));
    return out;
}

static void bad_configs(void **state) {
    (void)state;
    struct fixture x;
    struct qn_err err;
    open_fixture(&x, "tests/golden/quern/all");
    assert_int_equal(open_changed(&x, x.config, x.config_len, NOTHING, NULL, NULL, &err), QN_OK);
    for (size_t i = 0; i < sizeof configs / sizeof *configs; i++) {
        char *text = changed(x.config, configs[i].from, configs[i].to);
        if (!text) fail_msg("%s: the fixture lacks %s", configs[i].name, configs[i].from);
        int rc = open_changed(&x, text, strlen(text), NOTHING, NULL, NULL, &err);
        if (rc == QN_OK) fail_msg("%s: accepted", configs[i].name);
        if (!strstr(err.msg, configs[i].expect)) fail_msg("%s: \"%s\"", configs[i].name, err.msg);
        free(text);
    }
    close_fixture(&x);
}

/* ---- tensors ---- */

static const struct {
    const char *name, *expect;
    enum change what;
    const char *tensor, *to;
} tensors[] = {
    {"no embedding", "'model.embed_tokens.weight' is missing", DROP, "model.embed_tokens.weight", NULL},
    {"no lag", "'model.embed_lags.2.weight' is missing", DROP, "model.embed_lags.2.weight", NULL},
    {"a lag too many", "'model.embed_lags.4.weight' is not part", RENAME, "model.embed_lags.3.weight",
     "model.embed_lags.4.weight"},
    {"a map of no narrow table", "'model.embed_map.weight' is not part", RENAME, "model.norm.weight",
     "model.embed_map.weight"},
    {"no last norm", "'model.norm.weight' is missing", DROP, "model.norm.weight", NULL},
    {"no projection, own or shared", "'model.layers.1.attn.mha.k_proj.weight' is missing", DROP,
     "model.layers.1.attn.mha.k_proj.weight", NULL},
    {"no shared projection", "'model.layers.0.attn.gqa.q_proj.weight' is missing", DROP,
     "model.layers.0.attn.q_proj.weight", NULL},
    {"no norm of a member", "'model.shared.attn.mqa.norm.weight' is missing", DROP,
     "model.shared.attn.mqa.norm.weight", NULL},
    {"no projection of positions", "'model.layers.0.attn.linformer.e.weight' is missing", DROP,
     "model.linformer.e.weight", NULL},
    {"no directions", "'model.shared.attn.performer.features.weight' is missing", DROP,
     "model.shared.attn.performer.features.weight", NULL},
    {"no gate", "'model.shared.ffn.swiglu.gate_proj.weight' is missing", DROP,
     "model.shared.ffn.swiglu.gate_proj.weight", NULL},
    {"no router", "'model.layers.1.ffn.moe.router.weight' is missing", DROP,
     "model.layers.1.ffn.moe.router.weight", NULL},
    {"an expert's matrix missing", "'model.layers.0.ffn.moe.experts.3.down_proj.weight' is missing", DROP,
     "model.layers.0.ffn.moe.experts.3.down_proj.weight", NULL},
    {"an expert too many", "'model.layers.0.ffn.moe.experts.4.down_proj.weight' is not part", RENAME,
     "model.layers.0.ffn.moe.experts.3.down_proj.weight",
     "model.layers.0.ffn.moe.experts.4.down_proj.weight"},
    {"a layer too many", "'model.layers.2.attn.mha.norm.weight' is not part", RENAME,
     "model.layers.1.attn.mha.norm.weight", "model.layers.2.attn.mha.norm.weight"},
    {"a gate of a plain FFN", "'model.shared.ffn.gelu.gate_proj.weight' is not part", RENAME,
     "model.shared.ffn.gelu.up_proj.weight", "model.shared.ffn.gelu.gate_proj.weight"},
    {"a bias of the choice without sigmoid gating", "'model.shared.ffn.moe.route_bias.weight' is not part",
     RENAME, "model.norm.weight", "model.shared.ffn.moe.route_bias.weight"},
    {"a bias", "'model.norm.bias' is not part", RENAME, "model.norm.weight", "model.norm.bias"},
    {"no suffix", "'model.norm' is not part", RENAME, "model.norm.weight", "model.norm"},
    {"projection of positions too short", "'model.linformer.f.weight' is [12, 39], expected [12, 40]", COLS,
     "model.linformer.f.weight", NULL},
    {"slots too many", "'model.linformer.e.weight' is [13, 40]", ROWS, "model.linformer.e.weight", NULL},
    {"projection of one dimension more", "'model.linformer.e.weight' is [12, 40, 1], expected [4, 12, 40]",
     DIMS, "model.linformer.e.weight", NULL},
    {"directions too narrow", "is [24, 7], expected [24, 8]", COLS,
     "model.layers.0.attn.performer.features.weight", NULL},
    {"a matrix too narrow", "is [16, 31], expected [16, 32]", COLS, "model.layers.0.attn.gqa.k_proj.weight",
     NULL},
    {"a matrix too tall", "is [17, 32], expected [16, 32]", ROWS, "model.layers.0.attn.gqa.v_proj.weight",
     NULL},
    {"a matrix of three dimensions", "is [32, 32, 1], expected [32, 32]", DIMS,
     "model.shared.attn.o_proj.weight", NULL},
    {"a norm that is a matrix", "is [32, 1], expected [32]", DIMS, "model.norm.weight", NULL},
    {"a norm too long", "is [33], expected [32]", ROWS, "model.norm.weight", NULL},
    {"a router too tall", "is [5, 32], expected [4, 32]", ROWS, "model.shared.ffn.moe.router.weight", NULL},
    {"a lag too short", "is [44, 31], expected [44, 32]", COLS, "model.embed_lags.1.weight", NULL},
    {"integers", "type I32, which is not supported", TYPE, "model.embed_tokens.weight", NULL},
    {"integers in a norm", "type I32, which is not supported", TYPE, "model.norm.weight", NULL},
    {"integers over positions", "type I32, which is not supported", TYPE, "model.linformer.e.weight", NULL},
};

static void bad_tensors(void **state) {
    (void)state;
    struct fixture x;
    struct qn_err err;
    open_fixture(&x, "tests/golden/quern/all");
    for (size_t i = 0; i < sizeof tensors / sizeof *tensors; i++) {
        int rc =
            open_changed(&x, x.config, x.config_len, tensors[i].what, tensors[i].tensor, tensors[i].to, &err);
        if (rc == QN_OK) fail_msg("%s: accepted", tensors[i].name);
        if (!strstr(err.msg, tensors[i].expect)) fail_msg("%s: \"%s\"", tensors[i].name, err.msg);
    }
    close_fixture(&x);
}

/* Several faults at once come in one list. */
static void all_faults_in_one_list(void **state) {
    (void)state;
    struct fixture x;
    struct qn_err err;
    open_fixture(&x, "tests/golden/quern/all");
    char *text = changed(x.config, "\"embedding_lags\": 3", "\"embedding_lags\": 5");
    assert_non_null(text);
    int rc = open_changed(&x, text, strlen(text), RENAME, "model.norm.weight", "model.norm.scale", &err);
    assert_int_equal(rc, QN_ERR_FORMAT);
    static const char *const parts[] = {
        "4 tensors", "'model.embed_lags.4.weight' is missing", "'model.embed_lags.5.weight' is missing",
        "'model.norm.weight' is missing", "'model.norm.scale' is not part of such a model"};
    for (size_t i = 0; i < sizeof parts / sizeof *parts; i++) assert_non_null(strstr(err.msg, parts[i]));
    free(text);
    close_fixture(&x);
}

/* A config of a kilobyte that promises millions of tensors is refused after some thousand. */
static void promises_without_end(void **state) {
    (void)state;
    struct fixture x;
    struct qn_err err;
    open_fixture(&x, "tests/golden/quern/all");
    char *layers = changed(x.config, "\"num_hidden_layers\": 2", "\"num_hidden_layers\": 1024");
    assert_non_null(layers);
    char *text = changed(layers, "\"num_experts\": 4", "\"num_experts\": 1024");
    assert_non_null(text);
    assert_int_equal(open_changed(&x, text, strlen(text), NOTHING, NULL, NULL, &err), QN_ERR_FORMAT);
    long faults = strtol(err.msg, NULL, 10);
    assert_true(faults > 4096 && faults < 5000);
    free(layers);
    free(text);
    close_fixture(&x);
}

/* Gating D: its bias may be there or not, and has a number for each expert. */
static void bias_of_the_choice(void **state) {
    (void)state;
    struct fixture x;
    struct qn_err err;
    open_fixture(&x, "tests/golden/quern/all");
    char *text = changed(x.config, "\"gating\": \"B\"",
                         "\"gating\": \"D\", \"groups\": 2, \"top_groups\": 1, \"route_scale\": 2.5");
    assert_non_null(text);
    assert_int_equal(open_changed(&x, text, strlen(text), NOTHING, NULL, NULL, &err), QN_OK);
    int rc = open_changed(&x, text, strlen(text), RENAME, "model.norm.weight",
                          "model.layers.1.ffn.moe.route_bias.weight", &err);
    assert_int_equal(rc, QN_ERR_FORMAT);
    assert_non_null(strstr(err.msg, "'model.layers.1.ffn.moe.route_bias.weight' is [32], expected [4]"));
    free(text);
    close_fixture(&x);
}

/* E for all heads beside an F for each: F's three dimensions are right, the number of heads is not. */
static void uneven_projections(void **state) {
    (void)state;
    struct fixture x;
    struct qn_err err;
    open_fixture(&x, "tests/golden/quern/forms");
    assert_int_equal(open_changed(&x, x.config, x.config_len, NOTHING, NULL, NULL, &err), QN_OK);
    int rc = open_changed(&x, x.config, x.config_len, RENAME, "model.shared.attn.performer.features.weight",
                          "model.shared.attn.linformer.f.weight", &err);
    assert_int_equal(rc, QN_ERR_FORMAT);
    assert_non_null(strstr(err.msg, "is [2, 20, 8], expected [2, 9, 48]"));
    close_fixture(&x);
    /* Directions shaped as an F for each of four heads, beside the model's one E. */
    open_fixture(&x, "tests/golden/quern/all");
    char *text = changed(x.config, "\"features\": 24", "\"features\": 12");
    assert_non_null(text);
    rc = open_changed(&x, text, strlen(text), F_EACH, "model.layers.0.attn.performer.features.weight",
                      "model.layers.0.attn.linformer.f.weight", &err);
    assert_int_equal(rc, QN_ERR_FORMAT);
    assert_non_null(strstr(err.msg, "'model.layers.0.attn.linformer.f.weight' has another number of heads"));
    assert_null(strstr(err.msg, "linformer.f.weight' is ["));
    free(text);
    close_fixture(&x);
}

static void spoiled_text(void **state) {
    (void)state;
    struct fixture x;
    struct qn_err err;
    open_fixture(&x, "tests/golden/quern/forms");
    for (size_t n = 0; n < x.config_len - 2; n += 3)
        assert_true(open_changed(&x, x.config, n, NOTHING, NULL, NULL, &err) != QN_OK);
    for (size_t bit = 0; bit < 8 * x.config_len; bit += 5) {
        x.config[bit / 8] = (char)(x.config[bit / 8] ^ (1 << bit % 8));
        open_changed(&x, x.config, x.config_len, NOTHING, NULL, NULL, &err);
        x.config[bit / 8] = (char)(x.config[bit / 8] ^ (1 << bit % 8));
    }
    close_fixture(&x);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(bad_configs),
        cmocka_unit_test(bad_tensors),
        cmocka_unit_test(all_faults_in_one_list),
        cmocka_unit_test(promises_without_end),
        cmocka_unit_test(bias_of_the_choice),
        cmocka_unit_test(uneven_projections),
        cmocka_unit_test(spoiled_text),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
