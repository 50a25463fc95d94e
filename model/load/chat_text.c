/* Finds a checkpoint's chat template:
 *
 *   GGUF          tokenizer.chat_template
 *   Hugging Face  chat_template.jinja, else tokenizer_config.json's "chat_template": a text, or a list of
 *                 {"name", "template"}, of which the one named "default" counts
 *
 * What it means is chat_template.h's. Thread: one loader. */
#include "model/load/chat_text.h"

#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "model/load/json.h"
#include "model/load/mapfile.h"

static int keep(struct qn_str s, struct qn_checkpoint *c, struct qn_err *err) {
    if (s.n == 0 || s.n > QN_CHAT_TEXT_MAX || memchr(s.p, 0, s.n)) return QN_OK;
    char *copy = malloc(s.n + 1);
    if (!copy) return qn_err_set(err, QN_ERR_NOMEM, "out of memory for the chat template");
    memcpy(copy, s.p, s.n);
    copy[s.n] = 0;
    free(c->chat_text);
    c->chat_text = copy;
    return QN_OK;
}

int qn_chat_text_from_gguf(const struct qn_gguf *g, struct qn_checkpoint *c, struct qn_err *err) {
    struct qn_str s = {"", 0};
    if (qn_gguf_str(g, "tokenizer.chat_template", &s, NULL) != QN_OK) return QN_OK;
    return keep(s, c, err);
}

/* The text named "default" of a list of named ones. */
static const json_t *default_of(const json_t *list) {
    size_t i;
    json_t *v;
    json_array_foreach(list, i, v) {
        const char *name = json_string_value(json_object_get(v, "name"));
        if (name && strcmp(name, "default") == 0) return json_object_get(v, "template");
    }
    return NULL;
}

int qn_chat_text_from_hf(const struct qn_hf_vocab *files, struct qn_checkpoint *c, struct qn_err *err) {
    if (files->chat) return keep((struct qn_str){files->chat, files->n_chat}, c, err);
    const json_t *v = files->settings ? json_object_get(files->settings, "chat_template") : NULL;
    if (json_is_array(v)) v = default_of(v);
    return json_is_string(v) ? keep(qn_json_text(v), c, err) : QN_OK;
}

int qn_chat_text_file(const char *dir, char **out, size_t *n, struct qn_err *err) {
    char path[PATH_MAX];
    struct stat st;
    struct qn_mapfile m;
    *out = NULL;
    *n = 0;
    if (snprintf(path, sizeof path, "%s/chat_template.jinja", dir) >= (int)sizeof path)
        return qn_err_set(err, QN_ERR_IO, "the path is too long");
    if (stat(path, &st) != 0 || !S_ISREG(st.st_mode) || st.st_size == 0) return QN_OK;
    int rc = qn_mapfile_open(&m, path, err);
    if (rc != QN_OK) return rc;
    if (m.size <= QN_CHAT_TEXT_MAX) {
        *out = malloc(m.size);
        if (*out)
            memcpy(*out, m.data, *n = m.size);
        else
            rc = qn_err_set(err, QN_ERR_NOMEM, "out of memory for the chat template");
    }
    rc = qn_mapfile_check(&m, "chat_template.jinja", rc, err);
    if (rc != QN_OK) {
        free(*out);
        *out = NULL;
        *n = 0;
    }
    qn_mapfile_close(&m);
    return rc;
}
