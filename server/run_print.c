/* What `quern run` prints of a reply, its own or a server's. Data flow: struct of the reply -> text. Thread:
 * any. */
#include "server/run_print.h"

#include <math.h>

#include "server/cli.h"

void qn_run_outputs(FILE *f, const struct qn_api_reply *r) {
    for (uint32_t i = 0; i < r->n_outputs; i++) {
        const struct qn_api_output *o = &r->outputs[i];
        if (o->score) {
            double bits = o->score->bits_per_byte;
            fprintf(f, "[%u] %llu tokens, log-probability %.4f, %.4f bits per byte\n", i,
                    (unsigned long long)o->score->tokens, o->score->log_prob, isfinite(bits) ? bits : 0.0);
        } else if (o->embedding) {
            fprintf(f, "[%u] %zu values:", i, o->n_embedding);
            for (size_t k = 0; k < o->n_embedding; k++) fprintf(f, " %.6g", (double)o->embedding[k]);
            putc('\n', f);
        } else if (r->n_outputs > 1) {
            fprintf(f, "[%u] %.*s\n", i, (int)o->text_len, o->text);
        }
    }
}

/* Tokens of all outputs; a reply's usage counts only those that were generated. */
static uint64_t tokens_of(const struct qn_api_reply *r) {
    uint64_t n = 0;
    for (uint32_t i = 0; i < r->n_outputs; i++) n += r->outputs[i].n_tokens;
    return n;
}

void qn_run_table(FILE *f, const struct qn_api_reply *r) {
    const struct qn_api_structure *s = &r->structure;
    const struct qn_api_timings *t = &r->timings;
    char a[32], b[32], c[32];
    fprintf(f, "\n%-12s %s + %s, sharing %s (%s, %s)\n", "structure", s->attention.type, s->ffn.type,
            s->sharing.type, s->origin, s->exactness);
    fprintf(f, "%-12s %9llu tokens  %9.1f ms", "prefill",
            (unsigned long long)(r->prompt_tokens - r->cached_tokens), t->prefill);
    if (t->prefill_tps >= 0.0) fprintf(f, "  %9.1f tokens/s", t->prefill_tps);
    fprintf(f, "\n%-12s %9llu tokens  %9.1f ms", "decode", (unsigned long long)tokens_of(r), t->decode);
    if (t->decode_tps >= 0.0) fprintf(f, "  %9.1f tokens/s", t->decode_tps);
    fprintf(f, "\n%-12s queue %.1f, tokenize %.1f, convert %.1f, finish %.1f, total %.1f ms", "other",
            t->queue, t->tokenize, t->convert, t->finish, t->total);
    fprintf(f, "\n%-12s weights %s, state %s (%s per token)\n", "memory", qn_cli_bytes(a, r->memory.weights),
            qn_cli_bytes(b, r->memory.state), qn_cli_bytes(c, r->memory.state_per_token));
}
