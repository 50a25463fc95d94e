/* tokenizer.json's normalizer, pre_tokenizer and post_processor, recognised by their structure.
 *
 * quern has no general pipeline: it knows the ones that the supported families use, and refuses the rest by
 * name. Regular expressions are compared as strings with the few that hand-written scanners exist for. */
#include <stdio.h>
#include <string.h>

#include "model/load/json.h"
#include "model/load/tensors.h"
#include "model/load/vocab_hf.h"

#define META      "\xe2\x96\x81" /* U+2581, SentencePiece's visible blank */
#define STEPS_MAX 8              /* members of a Sequence */

static const struct {
    const char *regex;
    enum qn_pretok pretok;
} splits[] = {
    {"'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+", QN_PRETOK_GPT2},
    {"'(?:[sdmt]|ll|ve|re)| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+", QN_PRETOK_GPT2},
    {"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}{1,3}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|"
     "\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+",
     QN_PRETOK_LLAMA3},
    {"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|"
     "\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+",
     QN_PRETOK_QWEN2},
};

/* A pipeline as a flat list of steps with their types. */
struct steps {
    const json_t *step[STEPS_MAX];
    const char *type[STEPS_MAX];
    size_t n;
};

static int unsupported(struct qn_err *err, const char *part, const char *what) {
    char shown[64];
    return qn_err_param(err, QN_ERR_UNSUPPORTED, part, "tokenizer.json: %s '%s' is not supported", part,
                        qn_str_show((struct qn_str){what, strlen(what)}, shown));
}

static int add_step(struct steps *s, const json_t *o, const char *part, struct qn_err *err) {
    const char *type = NULL;
    int rc = qn_json_str(o, "type", &type, err);
    if (rc != QN_OK) return rc;
    if (!type)
        return qn_err_param(err, QN_ERR_FORMAT, part, "tokenizer.json: a step of %s has no 'type'", part);
    if (s->n == STEPS_MAX) return unsupported(err, part, "a sequence of more than 8 steps");
    s->step[s->n] = o;
    s->type[s->n++] = type;
    return QN_OK;
}

/* list: the key that holds a Sequence's members. Absent and null give no steps. */
static int flatten(const json_t *tokenizer, const char *part, const char *list, struct steps *s,
                   struct qn_err *err) {
    const json_t *o = json_object_get(tokenizer, part);
    size_t i;
    json_t *v;
    *s = (struct steps){0};
    if (!o || json_is_null(o)) return QN_OK;
    int rc = add_step(s, o, part, err);
    if (s->n == 0 || strcmp(s->type[0], "Sequence") != 0) return rc;
    s->n = 0;
    const json_t *members = json_object_get(o, list);
    if (!json_is_array(members))
        return qn_err_param(err, QN_ERR_FORMAT, part, "tokenizer.json: a Sequence of %s has no '%s'", part,
                            list);
    json_array_foreach(members, i, v) {
        rc = add_step(s, v, part, err);
        if (rc != QN_OK) return rc;
    }
    return QN_OK;
}

/* The text of a pattern {"String": …} or {"Regex": …}; "" when there is none. */
static const char *pattern_of(const json_t *step, const char *kind) {
    const json_t *v = json_object_get(json_object_get(step, "pattern"), kind);
    return json_is_string(v) ? json_string_value(v) : "";
}

static bool text_is(const json_t *step, const char *key, const char *want) {
    const json_t *v = json_object_get(step, key);
    return json_is_string(v) && strcmp(json_string_value(v), want) == 0;
}

/* ---- normalizer ---- */

struct normalizer {
    bool prepend, replace, nfc;
};

static int read_normalizer(const json_t *tokenizer, struct normalizer *n, struct qn_err *err) {
    struct steps s;
    int rc = flatten(tokenizer, "normalizer", "normalizers", &s, err);
    *n = (struct normalizer){0};
    for (size_t i = 0; i < s.n && rc == QN_OK; i++) {
        if (strcmp(s.type[i], "NFC") == 0)
            n->nfc = true;
        else if (strcmp(s.type[i], "Prepend") == 0 && text_is(s.step[i], "prepend", META))
            n->prepend = true;
        else if (strcmp(s.type[i], "Replace") == 0 && strcmp(pattern_of(s.step[i], "String"), " ") == 0 &&
                 text_is(s.step[i], "content", META))
            n->replace = true;
        else
            rc = unsupported(err, "normalizer", s.type[i]);
    }
    return rc;
}

/* ---- pre_tokenizer ---- */

/* ByteLevel, alone or after one splitting step. */
static int byte_level(const struct steps *s, size_t at, struct qn_vocab_desc *d, struct qn_err *err) {
    bool prefix = true, use_regex = true, each = false;
    int rc;
    if ((rc = qn_json_bool(s->step[at], "add_prefix_space", &prefix, err)) < 0) return rc;
    if ((rc = qn_json_bool(s->step[at], "use_regex", &use_regex, err)) < 0) return rc;
    if (prefix) return unsupported(err, "pre_tokenizer", "ByteLevel with add_prefix_space");
    d->kind = QN_TOK_BPE;
    if (s->n == 1) {
        d->pretok = use_regex ? QN_PRETOK_GPT2 : QN_PRETOK_NONE;
        return QN_OK;
    }
    if (s->n != 2 || at != 1) return unsupported(err, "pre_tokenizer", "a sequence of this form");
    if (strcmp(s->type[0], "Digits") == 0) {
        if ((rc = qn_json_bool(s->step[0], "individual_digits", &each, err)) < 0) return rc;
        if (!each || !use_regex) return unsupported(err, "pre_tokenizer", "Digits in this form");
        d->pretok = QN_PRETOK_SMOLLM;
        return QN_OK;
    }
    if (strcmp(s->type[0], "Split") != 0) return unsupported(err, "pre_tokenizer", s->type[0]);
    const char *regex = pattern_of(s->step[0], "Regex");
    bool inverted = false;
    if ((rc = qn_json_bool(s->step[0], "invert", &inverted, err)) < 0) return rc;
    for (size_t i = 0; i < sizeof splits / sizeof *splits; i++) {
        if (strcmp(regex, splits[i].regex) != 0 || inverted || use_regex ||
            !text_is(s->step[0], "behavior", "Isolated"))
            continue;
        d->pretok = splits[i].pretok;
        return QN_OK;
    }
    return unsupported(err, "pre_tokenizer", *regex ? regex : "Split in this form");
}

/* Metaspace with split would cut at each blank before merging, which SentencePiece BPE doesn't. */
static int metaspace(const json_t *step, struct qn_vocab_desc *d, struct qn_err *err) {
    const char *scheme = "always";
    bool split = true, prefix = true;
    int rc;
    if ((rc = qn_json_bool(step, "split", &split, err)) < 0) return rc;
    if ((rc = qn_json_bool(step, "add_prefix_space", &prefix, err)) < 0) return rc;
    if ((rc = qn_json_str(step, "prepend_scheme", &scheme, err)) < 0) return rc;
    if (split || !text_is(step, "replacement", META))
        return unsupported(err, "pre_tokenizer", "Metaspace in this form");
    d->add_space_prefix = prefix && strcmp(scheme, "never") != 0;
    return QN_OK;
}

/* After Replace has turned blanks into U+2581, gemma's Split at " " finds nothing to split. */
static bool is_idle_split(const struct steps *s) {
    return s->n == 1 && strcmp(s->type[0], "Split") == 0 &&
           strcmp(pattern_of(s->step[0], "String"), " ") == 0;
}

int qn_hf_pipeline(const json_t *tokenizer, bool byte_fallback, struct qn_vocab_desc *d, struct qn_err *err) {
    struct normalizer n;
    struct steps s;
    int rc = read_normalizer(tokenizer, &n, err);
    if (rc == QN_OK) rc = flatten(tokenizer, "pre_tokenizer", "pretokenizers", &s, err);
    if (rc != QN_OK) return rc;
    for (size_t i = 0; i < s.n; i++) {
        if (strcmp(s.type[i], "ByteLevel") != 0) continue;
        if (n.prepend || n.replace) return unsupported(err, "normalizer", "Replace before ByteLevel");
        d->nfc = n.nfc;
        return byte_level(&s, i, d, err);
    }
    d->kind = QN_TOK_SPM;
    d->pretok = QN_PRETOK_NONE;
    if (n.nfc) return unsupported(err, "normalizer", "NFC before SentencePiece BPE");
    if (!byte_fallback)
        return qn_err_param(
            err, QN_ERR_UNSUPPORTED, "byte_fallback",
            "tokenizer.json: neither byte-level BPE nor SentencePiece BPE with byte_fallback");
    if (n.replace && (s.n == 0 || is_idle_split(&s))) {
        d->add_space_prefix = n.prepend;
        return QN_OK;
    }
    if (s.n == 1 && strcmp(s.type[0], "Metaspace") == 0 && !n.prepend) return metaspace(s.step[0], d, err);
    return unsupported(err, "pre_tokenizer", s.n ? s.type[0] : "none");
}

/* ---- post_processor ---- */

static int read_template(const json_t *step, struct qn_hf_template *t, struct qn_err *err) {
    const json_t *single = json_object_get(step, "single");
    size_t i;
    json_t *v;
    bool after = false;
    if (!json_is_array(single))
        return qn_err_param(err, QN_ERR_FORMAT, "post_processor",
                            "tokenizer.json: a template has no 'single'");
    t->present = true;
    json_array_foreach(single, i, v) {
        if (json_object_get(v, "Sequence")) {
            if (after) return unsupported(err, "post_processor", "a template with two sequences");
            after = true;
            continue;
        }
        const json_t *id = json_object_get(json_object_get(v, "SpecialToken"), "id");
        struct qn_str *where = after ? &t->eos : &t->bos;
        if (!json_is_string(id) || json_string_length(id) == 0)
            return qn_err_param(err, QN_ERR_FORMAT, "post_processor",
                                "tokenizer.json: a template item is neither a sequence nor a special token");
        if (where->p)
            return unsupported(err, "post_processor", "a template with several special tokens on one side");
        *where = qn_json_text(id);
    }
    return QN_OK;
}

int qn_hf_post_processor(const json_t *tokenizer, struct qn_hf_template *t, struct qn_err *err) {
    struct steps s;
    *t = (struct qn_hf_template){0};
    int rc = flatten(tokenizer, "post_processor", "processors", &s, err);
    for (size_t i = 0; i < s.n && rc == QN_OK; i++) {
        /* ByteLevel only trims offsets here. */
        if (strcmp(s.type[i], "ByteLevel") == 0) continue;
        if (strcmp(s.type[i], "TemplateProcessing") != 0)
            rc = unsupported(err, "post_processor", s.type[i]);
        else if (t->present)
            rc = unsupported(err, "post_processor", "a sequence of templates");
        else
            rc = read_template(s.step[i], t, err);
    }
    return rc;
}
