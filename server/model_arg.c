/* Splits the value of --model. Thread: main. */
#include "server/model_arg.h"

#include <ctype.h>
#include <stdbool.h>
#include <string.h>
#include <sys/stat.h>

static bool is_name(const char *s, size_t n) {
    if (n == 0 || n > QN_MODEL_NAME_MAX) return false;
    for (size_t i = 0; i < n; i++) {
        unsigned char c = (unsigned char)s[i];
        if (c >= 128 || (!isalnum(c) && c != '.' && c != '_' && c != '-')) return false;
    }
    return true;
}

const char *qn_model_arg_split(const char *arg, char name[QN_MODEL_NAME_MAX + 1]) {
    const char *eq = strchr(arg, '=');
    struct stat st;
    name[0] = '\0';
    if (!eq || !is_name(arg, (size_t)(eq - arg)) || stat(arg, &st) == 0) return arg;
    memcpy(name, arg, (size_t)(eq - arg));
    name[eq - arg] = '\0';
    return eq + 1;
}
