/* What chat_template.h promises: the table of templates, how a checkpoint's text is told apart by it, and the
 * two runs of a renderer (chat_render.h).
 *
 * Published texts of one template differ in spelling: '\n' or a line's end inside of a string, single or
 * double quotes, message.role or message['role'], blanks around operators. They are compared in a normal form
 * in which these are the same. Thread: any. */
#include "model/text/chat_template.h"

#include <stdlib.h>
#include <string.h>

#include "kernels/mem.h"
#include "model/text/chat_render.h"

/* --- the table, in the order in which a text is held against it; all in the normal form --- */
#define IM_BODY      "'<|im_start|>'+message['role']+'\n'+message['content']+'<|im_end|>\n'"
#define IM_PROMPT    "'<|im_start|>assistant\n'"
#define IM_SYSTEM(s) "'<|im_start|>system\n" s "<|im_end|>\n'"
#define SMOLLM2      "You are a helpful AI assistant named SmolLM, trained by Hugging Face"
#define IM_QWEN25                                                                                            \
    "'<|im_start|>system\nYou are Qwen, created by Alibaba Cloud. You are a helpful assistant.<|im_end|>\n'"
#define QWEN25 "You are Qwen, created by Alibaba Cloud. You are a helpful assistant."
#define TURNS  "(message['role']=='user')!=(loop.index0%2==0)"
#define LLAMA3_BODY                                                                                          \
    "'<|start_header_id|>'+message['role']+'<|end_header_id|>\n\n'+message['content']|trim+'<|eot_id|>'"
#define LLAMA3_PROMPT "'<|start_header_id|>assistant<|end_header_id|>\n\n'"
/* Things that make a ChatML template another one. */
#define NOT_PLAIN                                                                                            \
    "tool", "think", "raise_exception", "strip", "trim", "loop.last", "eos_token", "bos_token", "<|im_sep|>"

static const struct qn_chat_template templates[] = {
    {.name = "smollm2",
     .render = qn_chat_render_chatml,
     .system = SMOLLM2,
     .need = {IM_BODY, IM_PROMPT, IM_SYSTEM(SMOLLM2), "messages[0]['role']!='system'"},
     .never = {NOT_PLAIN}},
    {.name = "qwen2",
     .render = qn_chat_render_chatml,
     .system = "You are a helpful assistant.",
     .need = {IM_BODY, IM_PROMPT, IM_SYSTEM("You are a helpful assistant."), "messages[0]['role']!='system'"},
     .never = {NOT_PLAIN}},
    {.name = "qwen1.5",
     .render = qn_chat_render_chatml,
     .system = "You are a helpful assistant",
     .need = {IM_BODY, IM_PROMPT, IM_SYSTEM("You are a helpful assistant"), "messages[0]['role']!='system'"},
     .never = {NOT_PLAIN}},
    {.name = "qwen2.5",
     .render = qn_chat_render_qwen25,
     .system = QWEN25,
     .need = {IM_BODY, IM_PROMPT, IM_QWEN25, "'\n<tool_response>\n'", "'\n</tool_response>'"},
     .never = {"think", "raise_exception", "strip", "trim", "eos_token", "bos_token", "vision"}},
    {.name = "qwen3",
     .render = qn_chat_render_qwen3,
     .need = {IM_PROMPT, "'\n<think>\n'+reasoning_content.strip('\n')+'\n</think>\n\n'+content.lstrip('\n')",
              "enable_thinking", "last_query_index", "'\n<tool_response>\n'",
              "loop.index0>ns.last_query_index"},
     .never = {"vision", "<function=", "raise_exception", "<|im_start|>assistant\n<think>", "'<think>\n'",
               "eos_token", "bos_token"}},
    {.name = "chatml",
     .render = qn_chat_render_chatml,
     .need = {IM_BODY, IM_PROMPT},
     .never = {NOT_PLAIN, "system"}},
    {.name = "llama2",
     .render = qn_chat_render_llama2,
     .flags = QN_CHAT_SYSTEM,
     .need = {TURNS, "bos_token+'[INST] '+content.strip()+' [/INST]'",
              "'<<SYS>>\n'+system_message+'\n<</SYS>>\n\n'+message['content']",
              "' '+content.strip()+' '+eos_token"},
     .never = {"true==true", "tool"}},
    {.name = "llama3",
     .render = qn_chat_render_llama3,
     .need = {LLAMA3_BODY, "bos_token+content", LLAMA3_PROMPT, "add_generation_prompt"},
     .never = {"tool", "date_string", "system"}},
    {.name = "llama3-early", /* as first published */
     .render = qn_chat_render_llama3,
     .flags = QN_CHAT_ALWAYS,
     .need = {LLAMA3_BODY, "bos_token+content", LLAMA3_PROMPT},
     .never = {"tool", "date_string", "system", "add_generation_prompt"}},
    {.name = "llama3.2",
     .render = qn_chat_render_llama31,
     .flags = QN_CHAT_TODAY,
     .need = {LLAMA3_BODY, LLAMA3_PROMPT, "'Cutting Knowledge Date: December 2023\n'",
              "'Today Date: '+date_string", "strftime_now('%d%b%Y')", "'26 Jul 2024'"}},
    {.name = "llama3.1",
     .render = qn_chat_render_llama31,
     .need = {LLAMA3_BODY, LLAMA3_PROMPT, "'Cutting Knowledge Date: December 2023\n'",
              "'Today Date: '+date_string", "'26 Jul 2024'"},
     .never = {"strftime_now"}},
    {.name = "mistral-v0.1", /* the 7B's first two releases */
     .render = qn_chat_render_mistral,
     .open = "[INST] ",
     .close = " [/INST]",
     .answer = "",
     .done = " ",
     .need = {TURNS, "{{ '[INST] '+message['content']+' [/INST]' }}",
              "{{ message['content']+eos_token+' ' }}"},
     .never = {"tool", "system", "<<SYS>>"}},
    {.name = "mistral-v0.2", /* and Mixtral's */
     .render = qn_chat_render_mistral,
     .open = "[INST] ",
     .close = " [/INST]",
     .answer = "",
     .done = "",
     .need = {TURNS, "{{ '[INST] '+message['content']+' [/INST]' }}", "{{ message['content']+eos_token}}"},
     .never = {"tool", "system", "<<SYS>>"}},
    {.name = "mistral-v1", /* both in their present form */
     .render = qn_chat_render_mistral,
     .flags = QN_CHAT_SYSTEM,
     .open = " [INST] ",
     .close = " [/INST]",
     .answer = " ",
     .done = "",
     .need = {TURNS, "' [INST] '+system_message+'\n\n'+message['content']+' [/INST]'",
              "' [INST] '+message['content']+' [/INST]'", "' '+message['content']+eos_token",
              "loop.first and system_message is defined"},
     .never = {"tool"}},
    {.name = "mistral-v3",
     .render = qn_chat_render_mistral,
     .flags = QN_CHAT_SYSTEM | QN_CHAT_SYSTEM_LAST | QN_CHAT_TRIM,
     .open = "[INST] ",
     .close = "[/INST]",
     .answer = " ",
     .done = "",
     .need = {"'[INST] '+system_message+'\n\n'+message['content']+'[/INST]'",
              "'[INST] '+message['content']+'[/INST]'", "' '+message['content']|trim+eos_token",
              "loop.last and system_message is defined", "ns.index%2==0"}},
    {.name = "mistral-v3-tekken",
     .render = qn_chat_render_mistral,
     .flags = QN_CHAT_SYSTEM | QN_CHAT_SYSTEM_LAST,
     .open = "[INST]",
     .close = "[/INST]",
     .answer = "",
     .done = "",
     .need = {"'[INST]'+system_message+'\n\n'+message['content']+'[/INST]'",
              "'[INST]'+message['content']+'[/INST]'", "{{- message['content']+eos_token}}",
              "loop.last and system_message is defined", "ns.index%2==0"}},
    {.name = "gemma",
     .render = qn_chat_render_gemma,
     .need = {"{{ bos_token }}", TURNS,
              "'<start_of_turn>'+role+'\n'+message['content']|trim+'<end_of_turn>\n'",
              "'<start_of_turn>model\n'", "'System role not supported'"},
     .never = {"tool", "first_user_prefix"}},
    {.name = "zephyr", /* and TinyLlama's */
     .render = qn_chat_render_zephyr,
     .need = {"{{ '<|user|>\n'+message['content']+eos_token }}\n{%",
              "{{ '<|system|>\n'+message['content']+eos_token }}\n{%",
              "{{ '<|assistant|>\n'+message['content']+eos_token }}\n{%",
              "{% if loop.last and add_generation_prompt %}\n{{ '<|assistant|>' }}\n{%"},
     .never = {"tool", "bos_token", "raise_exception", "trim", "strip"}},
};
#define N_TEMPLATES (sizeof templates / sizeof *templates)

static const char names[] =
    "chatml, gemma, llama2, llama3, llama3-early, llama3.1, llama3.2, mistral-v0.1, "
    "mistral-v0.2, mistral-v1, mistral-v3, mistral-v3-tekken, qwen1.5, qwen2, qwen2.5, "
    "qwen3, smollm2, zephyr";

/* --- telling apart --- */

/* Whether blanks beside this character mean nothing. */
static bool is_operator(char c) {
    return c == '+' || c == '=' || c == '!' || c == '|' || c == '%' || c == '>';
}

/* One step of the normal form: what the text at s (n bytes) begins with is written to out; how many bytes
 * were read. */
static size_t step(const char *s, size_t n, char *out, size_t *at) {
    static const struct {
        const char *from, *to;
    } same[] = {
        {"\\n", "\n"}, {"message.role", "message['role']"}, {"message.content", "message['content']"}};
    for (size_t i = 0; i < sizeof same / sizeof *same; i++) {
        size_t k = strlen(same[i].from), m = strlen(same[i].to);
        if (n < k || memcmp(s, same[i].from, k) != 0) continue;
        memcpy(out + *at, same[i].to, m);
        *at += m;
        return k;
    }
    if (*s == ' ') {
        size_t k = 1;
        while (k < n && s[k] == ' ') k++;
        bool tag =
            *at > 0 && out[*at - 1] == '%' && *at > 1 && out[*at - 2] == '{'; /* {% if … %} keep theirs */
        bool end = k + 1 < n && s[k] == '%' && s[k + 1] == '}';
        bool beside = (*at > 0 && is_operator(out[*at - 1]) && !tag) || (k < n && is_operator(s[k]) && !end);
        if (!beside) out[(*at)++] = ' ';
        return k;
    }
    out[(*at)++] = *s == '"' ? '\'' : *s;
    /* 'a'+'b' is 'ab' */
    if (*at >= 3 && memcmp(out + *at - 3, "'+'", 3) == 0) *at -= 3;
    return 1;
}

const struct qn_chat_template *qn_chat_find(const char *name) {
    for (size_t i = 0; i < N_TEMPLATES; i++)
        if (strcmp(templates[i].name, name) == 0) return &templates[i];
    return NULL;
}

static bool holds(const char *text, size_t n, const char *part) {
    return memmem(text, n, part, strlen(part)) != NULL;
}

static bool matches(const struct qn_chat_template *t, const char *text, size_t n) {
    for (size_t i = 0; i < QN_CHAT_NEED && t->need[i]; i++)
        if (!holds(text, n, t->need[i])) return false;
    for (size_t i = 0; i < QN_CHAT_NEVER && t->never[i]; i++)
        if (holds(text, n, t->never[i])) return false;
    return true;
}

int qn_chat_recognise(const char *text, size_t n, const struct qn_chat_template **out, struct qn_err *err) {
    size_t bytes, at = 0;
    *out = NULL;
    if (n == 0) return QN_OK;
    /* No step writes more than twice what it reads. */
    char *normal = qn_size_mul(n, 2, &bytes) ? malloc(bytes) : NULL;
    if (!normal) return qn_err_set(err, QN_ERR_NOMEM, "out of memory for the chat template");
    for (size_t i = 0; i < n;) i += step(text + i, n - i, normal, &at);
    for (size_t i = 0; i < N_TEMPLATES && !*out; i++)
        if (matches(&templates[i], normal, at)) *out = &templates[i];
    free(normal);
    return QN_OK;
}

const char *qn_chat_name(const struct qn_chat_template *t) {
    return t->name;
}

const char *qn_chat_names(void) {
    return names;
}

/* --- rendering --- */
int qn_chat_render(const struct qn_chat_template *t, const struct qn_chat_context *ctx,
                   const struct qn_chat_message *msgs, size_t n, bool add_generation_prompt, char **out,
                   size_t *len, struct qn_err *err) {
    struct qn_chat_render r = {
        .t = t, .ctx = ctx, .msgs = msgs, .n = n, .prompt = add_generation_prompt, .err = err};
    *out = NULL;
    *len = 0;
    if (n == 0) return qn_err_param(err, QN_ERR_INVALID, "messages", "there must be at least one message");
    int rc = t->render(&r);
    if (rc != QN_OK) return rc;
    size_t bytes = r.len;
    r.out = r.overflow ? NULL : malloc(bytes ? bytes : 1);
    if (!r.out) return qn_err_set(err, QN_ERR_NOMEM, "out of memory for a conversation");
    r.len = 0;
    rc = t->render(&r); /* refuses nothing that the first run took */
    if (rc != QN_OK) {
        free(r.out);
        return rc;
    }
    *out = r.out;
    *len = bytes;
    return QN_OK;
}
