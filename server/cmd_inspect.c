/* quern inspect FILE: what a checkpoint is and what it would cost here, without loading its weights.
 * Thread: main. */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "kernels/cpu.h"
#include "model/model.h"
#include "server/cli.h"
#include "server/cmd.h"

static void print_types(const struct qn_model_info *info) {
    char size[32];
    for (size_t i = 0; i < QN_TYPE_SLOTS && info->by_type[i].name; i++) {
        if (!info->by_type[i].bytes) continue;
        printf("  %-22s %s\n", info->by_type[i].name, qn_cli_bytes(size, info->by_type[i].bytes));
    }
}

/* How many tokens of state fit beside the weights in this machine's (or container's) memory. */
static void print_fit(const struct qn_inspect *in) {
    size_t memory = qn_cpu_memory_bytes();
    char have[32], need[32], state[32];
    uint64_t weights = in->info.file_bytes;
    uint64_t full = (uint64_t)in->state_bytes_per_token * in->info.context + in->state_fixed_bytes;
    if (in->state_bytes_per_token) {
        printf("state per token          %s (f16), %s at the full context of %u\n",
               qn_cli_bytes(need, in->state_bytes_per_token), qn_cli_bytes(state, full), in->info.context);
    } else {
        printf("state per sequence       %s, whatever its length\n", qn_cli_bytes(state, full));
    }
    if (!memory) {
        printf("memory                   unknown on this machine\n");
        return;
    }
    printf("memory of this machine   %s: ", qn_cli_bytes(have, memory));
    if (weights >= memory) {
        printf("the weights (%s) do not fit\n", qn_cli_bytes(need, weights));
        return;
    }
    uint64_t room = memory - weights;
    printf("weights fit; the rest holds ");
    if (in->state_bytes_per_token) printf("%" PRIu64 " tokens of state (", room / in->state_bytes_per_token);
    printf("%" PRIu64 " sequences%s", full ? room / full : 0,
           in->state_bytes_per_token ? " at full context)" : "");
    putchar('\n');
}

int qn_cmd_inspect(int argc, char **argv) {
    const char *path = NULL;
    struct qn_cli cli = {
        .name = "inspect",
        .usage = "quern inspect FILE",
        .about = "Describes a checkpoint (GGUF, safetensors, or a directory with config.json) after "
                 "checking it completely.",
        .argument = "FILE",
        .positional = &path,
        .max_positional = 1};
    int r = qn_cli_parse(&cli, argc, argv);
    if (r) return r == 1 ? 0 : 2;
    if (!path) {
        fprintf(stderr, "usage: %s\n", cli.usage);
        return 2;
    }
    struct qn_inspect in;
    struct qn_err err = {0};
    if (qn_model_inspect(path, &in, &err)) {
        fprintf(stderr, "quern: %s\n", err.msg);
        return 1;
    }
    const struct qn_model_info *info = &in.info;
    char size[32];
    printf("name                     %s\n", info->id);
    printf("format, family           %s, %s\n", info->format, info->family);
    printf("structure                %s + %s, sharing %s\n", in.attention, in.ffn, in.sharing);
    if (strchr(in.members[0], ',') || strchr(in.members[1], ',') || strchr(in.members[2], ','))
        printf("trained in all of        %s; %s; sharing %s\n", in.members[0], in.members[1], in.members[2]);
    printf("layers x width           %u x %u, FFN %u, vocabulary %u, context %u\n", info->layers,
           info->d_model, info->ffn_dim, info->vocab, info->context);
    printf("heads                    %u query, %u KV, %u wide\n", info->heads, info->kv_heads,
           info->head_dim);
    printf("parameters               %.2f M total, %.2f M active per token\n",
           (double)info->params_total * 1e-6, (double)info->params_active * 1e-6);
    printf("weights in the file      %s\n", qn_cli_bytes(size, info->file_bytes));
    print_types(info);
    printf("tokenizer                %s\n", info->has_tokenizer ? "yes" : "none: send token ids");
    printf("chat template            %s\n", info->chat_template[0] ? info->chat_template
                                            : in.chat_text         ? "one that quern does not know"
                                                                   : "none");
    print_fit(&in);
    return 0;
}
