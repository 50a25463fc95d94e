/* Parses the configuration of `quern serve` by the table of config_table.c:
 *
 *   defaults -> file (key = value lines, # comments) -> environment QUERN_… -> arguments, each overriding
 *
 * Whoever gives a value is named in the error. Thread: main, before any other exists. */
#include "server/config.h"

#include <ctype.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "model/model.h"
#include "rev.h"
#include "server/config_table.h"

#define LINE_MAX_BYTES 4096

/* Where a value came from, for messages. */
struct source {
    const char *file; /* config file, or NULL */
    unsigned line;
    bool env;
    bool keep;          /* the text dies with the source: copy strings */
    unsigned char *own; /* [qn_n_options]: this source has already given the option (models start over) */
};

/* Strings taken from a file live as long as the process. */
struct kept {
    struct kept *next;
    char s[];
};
static struct kept *kept_strings;

static const char *keep(const char *s) {
    size_t n = strlen(s) + 1;
    struct kept *k = malloc(sizeof *k + n);
    if (!k) return NULL;
    memcpy(k->s, s, n);
    k->next = kept_strings;
    kept_strings = k;
    return k->s;
}

static void env_name(const char *name, char out[64]) {
    size_t n = 6;
    memcpy(out, "QUERN_", 6);
    for (; *name && n < 63; name++) out[n++] = *name == '-' ? '_' : (char)toupper((unsigned char)*name);
    out[n] = '\0';
}

static int complain(const struct source *from, const char *name, const char *what) {
    if (from->file) {
        fprintf(stderr, "quern: %s:%u: %s: %s\n", from->file, from->line, name, what);
    } else if (from->env) {
        char env[64];
        env_name(name, env);
        fprintf(stderr, "quern: environment variable %s: %s\n", env, what);
    } else {
        fprintf(stderr, "quern: --%s: %s\n", name, what);
    }
    return 2;
}

/* Digits, then a unit out of the list; the value times the unit's factor. */
struct unit {
    const char *name;
    uint64_t factor;
};

static bool parse_number(const char *s, const struct unit *units, uint64_t *out) {
    uint64_t v = 0;
    if (!isdigit((unsigned char)*s)) return false;
    for (; isdigit((unsigned char)*s); s++)
        if (__builtin_mul_overflow(v, (uint64_t)10, &v) ||
            __builtin_add_overflow(v, (uint64_t)(*s - '0'), &v))
            return false;
    while (*s == ' ') s++;
    for (; units->name; units++)
        if (strcasecmp(s, units->name) == 0) return !__builtin_mul_overflow(v, units->factor, out);
    return false;
}

static const struct unit plain_units[] = {{"", 1}, {NULL, 0}};
static const struct unit byte_units[] = {{"", 1},           {"b", 1},           {"k", 1u << 10},
                                         {"kib", 1u << 10}, {"kb", 1000},       {"m", 1u << 20},
                                         {"mib", 1u << 20}, {"mb", 1000000},    {"g", 1u << 30},
                                         {"gib", 1u << 30}, {"gb", 1000000000}, {NULL, 0}};
static const struct unit time_units[] = {{"", 1000},     {"s", 1000},    {"ms", 1}, {"m", 60000},
                                         {"min", 60000}, {"h", 3600000}, {NULL, 0}};

static int set_number(struct qn_config *c, const struct qn_option *o, const char *s,
                      const struct source *from) {
    const struct unit *units = o->type == QN_OPT_BYTES ? byte_units
                               : o->type == QN_OPT_MS  ? time_units
                                                       : plain_units;
    uint64_t v;
    char why[160];
    if (!parse_number(s, units, &v)) {
        snprintf(why, sizeof why, "'%.40s' is not a %s", s,
                 o->type == QN_OPT_BYTES ? "size such as 65536, 64KiB or 2GiB"
                 : o->type == QN_OPT_MS  ? "time such as 500ms, 30s or 2m"
                                         : "whole number");
        return complain(from, o->name, why);
    }
    if (v < o->min || v > o->max) {
        snprintf(why, sizeof why, "'%.40s' is outside [%llu, %llu]%s", s, (unsigned long long)o->min,
                 (unsigned long long)o->max,
                 o->type == QN_OPT_BYTES ? " bytes"
                 : o->type == QN_OPT_MS  ? " milliseconds"
                                         : "");
        return complain(from, o->name, why);
    }
    char *field = (char *)c + o->offset;
    if (o->type == QN_OPT_U64 || o->type == QN_OPT_BYTES) {
        memcpy(field, &v, sizeof v); /* size_t is 64 bits: checked below */
    } else {
        uint32_t v32 = (uint32_t)v;
        memcpy(field, &v32, sizeof v32);
    }
    return 0;
}
_Static_assert(sizeof(size_t) == sizeof(uint64_t), "64-bit sizes");

static int set_word(struct qn_config *c, const struct qn_option *o, const char *s,
                    const struct source *from) {
    char why[160];
    for (int i = 0; i < 5 && o->words[i]; i++) {
        bool same = strcmp(s, o->words[i]) == 0;
        if (o->type == QN_OPT_SWITCH && !same)
            same = strcmp(s, i ? "true" : "false") == 0 || strcmp(s, i ? "1" : "0") == 0;
        if (!same) continue;
        char *field = (char *)c + o->offset;
        if (o->type == QN_OPT_LEVEL)
            memcpy(field, &i, sizeof i);
        else
            *(bool *)field = i == 1;
        return 0;
    }
    snprintf(why, sizeof why, "'%.40s' is not one of %s", s, o->arg);
    return complain(from, o->name, why);
}

static int set_listen(struct qn_config *c, const char *s, const struct source *from) {
    const char *host = s, *end, *port;
    if (*s == '[') {
        host = s + 1;
        end = strchr(s, ']');
        port = end && end[1] == ':' ? end + 2 : NULL;
    } else {
        end = strrchr(s, ':');
        port = end ? end + 1 : NULL;
        if (end && memchr(s, ':', (size_t)(end - s))) port = NULL; /* bare IPv6 needs brackets */
    }
    uint64_t v;
    if (!port || end == host || (size_t)(end - host) >= sizeof c->listen_host ||
        !parse_number(port, plain_units, &v) || v > 65535)
        return complain(from, "listen", "expected HOST:PORT, for example 127.0.0.1:8080 or [::]:8080");
    memcpy(c->listen_host, host, (size_t)(end - host));
    c->listen_host[end - host] = '\0';
    c->listen_port = (uint16_t)v;
    return 0;
}

static int unknown_template(const struct qn_option *o, const char *s, const struct source *from) {
    char why[512];
    snprintf(why, sizeof why, "'%.40s' is not one of %s", s, qn_model_chat_names());
    return complain(from, o->name, why);
}

/* One more model; a later source replaces the list of an earlier one. */
static int add_model(struct qn_config *c, const struct qn_option *o, const char *s,
                     const struct source *from) {
    if (!from->own[o - qn_options]) c->n_models = 0;
    if (c->n_models == QN_CONFIG_MODELS) return complain(from, o->name, "too many models (at most 16)");
    c->models[c->n_models] = qn_model_arg_split(s, c->model_names[c->n_models]);
    if (!c->models[c->n_models][0]) return complain(from, o->name, "has a name, but no path");
    for (uint32_t i = 0; i < c->n_models; i++) {
        char why[128];
        if (!c->model_names[i][0] || strcmp(c->model_names[i], c->model_names[c->n_models]) != 0) continue;
        snprintf(why, sizeof why, "two models are named '%s'", c->model_names[i]);
        return complain(from, o->name, why);
    }
    c->n_models++;
    return 0;
}

static int set_string(struct qn_config *c, const struct qn_option *o, const char *s,
                      const struct source *from) {
    if (*s == '\0') return complain(from, o->name, "is empty");
    if (o->type == QN_OPT_TEMPLATE && !qn_model_chat_known(s)) return unknown_template(o, s, from);
    if (from->keep && !(s = keep(s))) return complain(from, o->name, "out of memory");
    if (o->type != QN_OPT_MODEL) {
        memcpy((char *)c + o->offset, &s, sizeof s);
        return 0;
    }
    return add_model(c, o, s, from);
}

static int set_option(struct qn_config *c, const struct qn_option *o, const char *s,
                      const struct source *from) {
    size_t row = (size_t)(o - qn_options);
    if (from->own[row] && o->type != QN_OPT_MODEL && from->file)
        return complain(from, o->name, "is given twice");
    int rc;
    switch (o->type) {
    case QN_OPT_SWITCH:
    case QN_OPT_CHOICE:
    case QN_OPT_LEVEL:
        rc = set_word(c, o, s, from);
        break;
    case QN_OPT_LISTEN:
        rc = set_listen(c, s, from);
        break;
    case QN_OPT_STRING:
    case QN_OPT_TEMPLATE:
    case QN_OPT_MODEL:
        rc = set_string(c, o, s, from);
        break;
    default:
        rc = set_number(c, o, s, from);
        break;
    }
    from->own[row] = 1;
    return rc;
}

/* Edit distance of two short names, for "did you mean". */
static unsigned distance(const char *a, const char *b) {
    unsigned row[32];
    size_t nb = strlen(b);
    if (nb >= 31) nb = 31;
    for (unsigned j = 0; j <= nb; j++) row[j] = j;
    for (unsigned i = 1; *a; a++, i++) {
        unsigned diag = row[0];
        row[0] = i;
        for (size_t j = 1; j <= nb; j++) {
            unsigned best = diag + (*a != b[j - 1]);
            diag = row[j];
            if (row[j] + 1 < best) best = row[j] + 1;
            if (row[j - 1] + 1 < best) best = row[j - 1] + 1;
            row[j] = best;
        }
    }
    return row[nb];
}

static const struct qn_option *find_option(const char *name, size_t n) {
    if (n == strlen("state-type") && strncmp(name, "state-type", n) == 0) { /* its first name */
        name = "kv-type";
        n = strlen(name);
    }
    for (size_t i = 0; i < qn_n_options; i++)
        if (strncmp(qn_options[i].name, name, n) == 0 && qn_options[i].name[n] == '\0') return &qn_options[i];
    return NULL;
}

static int unknown(const struct source *from, const char *name, size_t n) {
    char asked[64];
    snprintf(asked, sizeof asked, "%.*s", (int)(n < 60 ? n : 60), name);
    const char *nearest = "config";
    unsigned best = distance(asked, nearest);
    for (size_t i = 0; i < qn_n_options; i++) {
        unsigned d = distance(asked, qn_options[i].name);
        if (d < best) {
            best = d;
            nearest = qn_options[i].name;
        }
    }
    const char *dash = from->file ? "" : "--";
    if (from->file)
        fprintf(stderr, "quern: %s:%u: unknown key '%s'", from->file, from->line, asked);
    else
        fprintf(stderr, "quern: unknown option '--%s'", asked);
    if (best <= 4) fprintf(stderr, "; did you mean '%s%s'?", dash, nearest);
    fputs(from->file ? "\n" : "\n`quern serve --help` lists the options\n", stderr);
    return 2;
}

static char *trim(char *s) {
    while (isspace((unsigned char)*s)) s++;
    size_t n = strlen(s);
    while (n > 0 && isspace((unsigned char)s[n - 1])) s[--n] = '\0';
    return s;
}

static int read_line(struct qn_config *c, char *line, const struct source *from) {
    char *s = trim(line);
    if (*s == '\0' || *s == '#') return 0;
    char *eq = strchr(s, '=');
    if (!eq) {
        fprintf(stderr, "quern: %s:%u: expected key = value\n", from->file, from->line);
        return 2;
    }
    *eq = '\0';
    char *key = trim(s), *value = trim(eq + 1);
    size_t n = strlen(value);
    if (n >= 2 && value[0] == '"' && value[n - 1] == '"') {
        value[n - 1] = '\0';
        value++;
    }
    const struct qn_option *o = find_option(key, strlen(key));
    return o ? set_option(c, o, value, from) : unknown(from, key, strlen(key));
}

static int read_file(struct qn_config *c, const char *path, unsigned char *own) {
    FILE *f = fopen(path, "re");
    if (!f) {
        fprintf(stderr, "quern: can't read the configuration %s: %s\n", path, strerror(errno));
        return 2;
    }
    struct source from = {path, 0, false, true, own};
    char line[LINE_MAX_BYTES];
    int rc = 0;
    while (rc == 0 && fgets(line, sizeof line, f)) {
        from.line++;
        if (strlen(line) == sizeof line - 1) {
            fprintf(stderr, "quern: %s:%u: line too long\n", path, from.line);
            rc = 2;
            break;
        }
        rc = read_line(c, line, &from);
    }
    if (rc == 0 && ferror(f)) {
        fprintf(stderr, "quern: can't read the configuration %s: %s\n", path, strerror(errno));
        rc = 2;
    }
    fclose(f);
    return rc;
}

static int read_env(struct qn_config *c, unsigned char *own) {
    struct source from = {NULL, 0, true, false, own};
    for (size_t i = 0; i < qn_n_options; i++) {
        char name[64];
        env_name(qn_options[i].name, name);
        const char *value = getenv(name);
        if (!value && strcmp(name, "QUERN_KV_TYPE") == 0)
            value = getenv("QUERN_STATE_TYPE"); /* its first name */
        if (!value || *value == '\0') continue;
        int rc = set_option(c, &qn_options[i], value, &from);
        if (rc) return rc;
    }
    return 0;
}

/* Flags that take no value and are no settings. */
static bool *action_of(struct qn_config *c, const char *name, size_t n) {
    struct {
        const char *name;
        bool *field;
    } actions[] = {{"help", &c->want_help},
                   {"version", &c->want_version},
                   {"print-config", &c->want_print},
                   {"check-config", &c->want_check}};
    for (size_t i = 0; i < sizeof actions / sizeof actions[0]; i++)
        if (strlen(actions[i].name) == n && strncmp(actions[i].name, name, n) == 0) return actions[i].field;
    return NULL;
}

/* One argument (and its value). config: only look for --config. Advances *i past what it used. */
static int read_arg(struct qn_config *c, int argc, char **argv, int *i, struct source *from,
                    const char **config) {
    const char *a = argv[*i];
    if (!c->want_help && qn_cli_is_help(a, &c->help)) a = "--help";
    if (strcmp(a, "-V") == 0) a = "--version";
    if (strncmp(a, "--", 2) != 0 || a[2] == '\0') {
        fprintf(stderr, "quern: unexpected argument '%s'\n`quern serve --help` lists the options\n", a);
        return 2;
    }
    const char *name = a + 2, *eq = strchr(name, '=');
    size_t n = eq ? (size_t)(eq - name) : strlen(name);
    bool *action = action_of(c, name, n);
    if (action && !eq) {
        *action = true;
        return 0;
    }
    bool is_config = n == 6 && strncmp(name, "config", 6) == 0;
    const struct qn_option *o = is_config ? NULL : find_option(name, n);
    if (!o && !is_config) return unknown(from, name, n);
    const char *value = eq ? eq + 1 : NULL;
    if (!value) {
        if (*i + 1 >= argc) return complain(from, is_config ? "config" : o->name, "needs a value");
        value = argv[++*i];
    }
    if (is_config) {
        *config = value;
        return 0;
    }
    return from->own ? set_option(c, o, value, from) : 0; /* first pass: only look for --config */
}

static int read_args(struct qn_config *c, int argc, char **argv, unsigned char *own, const char **config) {
    struct source from = {NULL, 0, false, false, own};
    for (int i = 1; i < argc; i++) {
        int rc = read_arg(c, argc, argv, &i, &from, config);
        if (rc) return rc;
    }
    return 0;
}

static void set_defaults(struct qn_config *c, unsigned char *own) {
    struct source from = {NULL, 0, false, false, own};
    memset(c, 0, sizeof *c);
    for (size_t i = 0; i < qn_n_options; i++)
        if (qn_options[i].initial) (void)set_option(c, &qn_options[i], qn_options[i].initial, &from);
}

static int cross_check(const struct qn_config *c) {
    if (c->prefill_chunk > c->step_tokens) {
        fprintf(stderr, "quern: --prefill-chunk (%u) can't exceed --step-tokens (%u)\n", c->prefill_chunk,
                c->step_tokens);
        return 2;
    }
    return 0;
}

int qn_config_load(struct qn_config *c, int argc, char **argv) {
    unsigned char own[64];
    _Static_assert(sizeof own >= 32, "one flag per option");
    memset(own, 0, sizeof own);
    set_defaults(c, own);
    const char *config = getenv("QUERN_CONFIG");
    int rc = read_args(c, argc, argv, NULL, &config);
    if (rc) return rc;
    if (c->want_help || c->want_version) return 1;
    memset(own, 0, sizeof own);
    if (config && *config && (rc = read_file(c, config, own))) return rc;
    memset(own, 0, sizeof own);
    if ((rc = read_env(c, own))) return rc;
    memset(own, 0, sizeof own);
    if ((rc = read_args(c, argc, argv, own, &config))) return rc;
    return cross_check(c);
}

const char *qn_revision(void) {
    return QN_REVISION;
}

void qn_config_help(enum qn_cli_format format) {
    struct qn_cli_page page = {
        .name = "serve",
        .usage = "quern serve [options]",
        .about =
            "Serves models over HTTP until SIGTERM.\n"
            "Each option has an environment variable, QUERN_ and its name in upper case "
            "(QUERN_MAX_BODY),\n"
            "and a key in the file given by --config. Arguments win over the environment, the environment "
            "over the file."};
    for (size_t i = 0; i < qn_n_options; i++) {
        const struct qn_option *o = &qn_options[i];
        struct qn_cli_row *r = qn_cli_page_add(&page, o->name, o->arg, o->help);
        if (o->initial) snprintf(r->initial, sizeof r->initial, "%s", o->initial);
    }
    qn_cli_page_add(&page, "config", "FILE", "read options from a file of key = value lines");
    qn_cli_page_add(&page, "print-config", NULL,
                    "print every option with its value, as such a file, and exit");
    qn_cli_page_add(&page, "check-config", NULL, "check the configuration and exit");
    qn_cli_page_print(&page, format);
}

static void print_value(const struct qn_config *c, const struct qn_option *o) {
    const char *field = (const char *)c + o->offset;
    uint32_t u32;
    uint64_t u64;
    int level;
    const char *s;
    switch (o->type) {
    case QN_OPT_U32:
    case QN_OPT_MS:
        memcpy(&u32, field, sizeof u32);
        printf("%s = %u%s\n", o->name, u32, o->type == QN_OPT_MS ? "ms" : "");
        return;
    case QN_OPT_U64:
    case QN_OPT_BYTES:
        memcpy(&u64, field, sizeof u64);
        printf("%s = %llu\n", o->name, (unsigned long long)u64);
        return;
    case QN_OPT_SWITCH:
    case QN_OPT_CHOICE:
        printf("%s = %s\n", o->name, o->words[*(const bool *)field ? 1 : 0]);
        return;
    case QN_OPT_LEVEL:
        memcpy(&level, field, sizeof level);
        printf("%s = %s\n", o->name, o->words[level]);
        return;
    case QN_OPT_STRING:
    case QN_OPT_TEMPLATE:
        memcpy(&s, field, sizeof s);
        if (s)
            printf("%s = %s\n", o->name, s);
        else
            printf("# %s =\n", o->name);
        return;
    case QN_OPT_MODEL:
        if (c->n_models == 0) printf("# %s =\n", o->name);
        for (uint32_t i = 0; i < c->n_models; i++)
            printf("%s = %s%s%s\n", o->name, c->model_names[i], c->model_names[i][0] ? "=" : "",
                   c->models[i]);
        return;
    case QN_OPT_LISTEN:
        printf(strchr(c->listen_host, ':') ? "%s = [%s]:%u\n" : "%s = %s:%u\n", o->name, c->listen_host,
               c->listen_port);
        return;
    }
}

void qn_config_print(const struct qn_config *c) {
    for (size_t i = 0; i < qn_n_options; i++) print_value(c, &qn_options[i]);
}
