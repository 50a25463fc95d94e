/* The least that libmicrohttpd costs: answers 200 "ok\n" to everything from its own epoll thread. What
 * quern's /livez is held against (tests/bench/livez.sh). Usage: bare_loop PORT; ends when its stdin does. */
#include <microhttpd.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

static enum MHD_Result answer(void *cls, struct MHD_Connection *c, const char *url, const char *method,
                              const char *version, const char *data, size_t *size, void **state) {
    static int seen;
    (void)url, (void)method, (void)version, (void)data, (void)size;
    if (!*state) { /* an answer before the request is complete would cost the connection */
        *state = &seen;
        return MHD_YES;
    }
    *state = NULL;
    return MHD_queue_response(c, MHD_HTTP_OK, cls);
}

int main(int argc, char **argv) {
    static char text[] = "ok\n";
    char end;
    if (argc != 2) return 2;
    struct MHD_Response *r = MHD_create_response_from_buffer(3, text, MHD_RESPMEM_PERSISTENT);
    if (!r) return 1;
    struct MHD_Daemon *d = MHD_start_daemon(MHD_USE_EPOLL_INTERNAL_THREAD, (unsigned short)atoi(argv[1]),
                                            NULL, NULL, answer, r, MHD_OPTION_END);
    if (!d) return 1;
    while (read(0, &end, 1) > 0) continue;
    MHD_stop_daemon(d);
    MHD_destroy_response(r);
    return 0;
}
