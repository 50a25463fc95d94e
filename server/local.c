/* A model and an engine for one command; see local.h. */
#include "server/local.h"

#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "kernels/cpu.h"
#include "server/cli.h"

#define MAX_TEXT ((size_t)1 << 20)

static void wake(void *ctx) {
    struct qn_local *l = ctx;
    pthread_mutex_lock(&l->lock);
    l->woken = true;
    pthread_cond_signal(&l->ready);
    pthread_mutex_unlock(&l->lock);
}

void qn_local_wait(struct qn_local *l) {
    struct timespec until;
    clock_gettime(CLOCK_REALTIME, &until);
    until.tv_nsec += 100000000;
    if (until.tv_nsec >= 1000000000) {
        until.tv_nsec -= 1000000000;
        until.tv_sec++;
    }
    pthread_mutex_lock(&l->lock);
    if (!l->woken) pthread_cond_timedwait(&l->ready, &l->lock, &until);
    l->woken = false;
    pthread_mutex_unlock(&l->lock);
}

int qn_local_open(struct qn_local *l, const struct qn_local_options *opt, struct qn_err *err) {
    memset(l, 0, sizeof *l);
    if (pthread_mutex_init(&l->lock, NULL)) return qn_err_set(err, QN_ERR_NOMEM, "out of memory");
    if (pthread_cond_init(&l->ready, NULL)) {
        pthread_mutex_destroy(&l->lock);
        return qn_err_set(err, QN_ERR_NOMEM, "out of memory");
    }
    l->made = true;
    l->pool = qn_pool_new(opt->threads);
    if (!l->pool) return qn_err_set(err, QN_ERR_NOMEM, "out of memory");
    struct qn_open_options oo = {.pool = l->pool,
                                 .convert_bytes = qn_cpu_memory_bytes() / 2, /* one user: what there is */
                                 .prefix_cache = false,
                                 .progress = qn_cli_progress,
                                 .state_type = opt->kv_type};
    int bad = qn_model_open(opt->model_path, &oo, &l->models.models[0], err);
    if (bad) return bad;
    l->models.n = 1;
    struct qn_engine_options eo = {
        .models = &l->models, .max_running = QN_API_MAX_OUTPUTS, .wake = wake, .wake_ctx = l};
    l->engine = qn_engine_new(&eo);
    if (!l->engine || qn_engine_start(l->engine))
        return qn_err_set(err, QN_ERR_NOMEM, "can't start the engine");
    return QN_OK;
}

void qn_local_stop(struct qn_local *l) {
    if (l->engine) qn_engine_free(&l->engine);
}

void qn_local_close(struct qn_local *l) {
    qn_local_stop(l);
    qn_registry_close(&l->models);
    qn_pool_free(&l->pool);
    if (!l->made) return;
    pthread_cond_destroy(&l->ready);
    pthread_mutex_destroy(&l->lock);
    l->made = false;
}

bool qn_local_kv_type(const char *name, enum qn_state_type *out) {
    static const char *const names[QN_STATE_TYPES] = {
        [QN_STATE_F16] = "f16", [QN_STATE_F32] = "f32", [QN_STATE_BF16] = "bf16", [QN_STATE_Q8] = "q8"};
    for (int i = 0; i < QN_STATE_TYPES; i++) {
        *out = (enum qn_state_type)i;
        if (strcmp(name, names[i]) == 0) return true;
    }
    fprintf(stderr, "quern: --kv-type must be f32, f16, bf16 or q8, not \"%.40s\"\n", name);
    return false;
}

char *qn_local_read(FILE *f, const char *name) {
    char *p = malloc(MAX_TEXT + 1);
    size_t n = p ? fread(p, 1, MAX_TEXT + 1, f) : 0;
    const char *why = !p                   ? "can't be read: out of memory"
                      : ferror(f)          ? "can't be read"
                      : n > MAX_TEXT       ? "holds more than 1 MiB"
                      : memchr(p, '\0', n) ? "holds a zero byte"
                                           : NULL;
    if (!why) {
        p[n] = '\0';
        return p;
    }
    fprintf(stderr, "quern: %s %s\n", name, why);
    free(p);
    return NULL;
}
