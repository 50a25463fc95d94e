/* Measures streams: opens N streaming requests at once and notes when each event arrives.
 *
 *   sse_client PORT STREAMS TOKENS
 *
 * The fake engine gives every running stream its token at the end of one step, so the events of a step leave
 * together: an event's added latency is its distance from the first arrival of its step (steps lie 20 ms
 * apart). Prints `events per_second p50_ms p99_ms max_ms errors`. One thread, epoll. */
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

struct stream {
    int fd;
    char tail[6]; /* last bytes seen, to find "data: " across reads */
    unsigned seen;
    int done;
};

static uint64_t now_ns(void) {
    struct timespec ts;
    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (uint64_t)ts.tv_sec * 1000000000u + (uint64_t)ts.tv_nsec;
}

static int by_value(const void *a, const void *b) {
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
    return x < y ? -1 : x > y;
}

static int open_stream(unsigned port, unsigned index, unsigned tokens) {
    char body[128], req[320];
    struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};
    int n = snprintf(body, sizeof body, "{\"sequence\":\"stream %u\",\"max_tokens\":%u,\"stream\":true}",
                     index, tokens);
    int k = snprintf(req, sizeof req, "POST /v1/infer HTTP/1.1\r\nHost: b\r\nContent-Length: %d\r\n\r\n%s", n,
                     body);
    to.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    if (fd < 0 || connect(fd, (struct sockaddr *)&to, sizeof to) != 0 || write(fd, req, (size_t)k) != k)
        return -1;
    fcntl(fd, F_SETFL, O_NONBLOCK);
    return fd;
}

/* Counts "data: " that starts a line; the stream has ended when "[DONE]" came. */
static unsigned count_events(struct stream *s, const char *p, size_t n) {
    unsigned found = 0;
    for (size_t i = 0; i < n; i++) {
        memmove(s->tail, s->tail + 1, 5);
        s->tail[5] = p[i];
        if (memcmp(s->tail, "data: ", 6) == 0) found++;
        if (memcmp(s->tail, "[DONE]", 6) == 0) s->done = 1;
    }
    return found;
}

int main(int argc, char **argv) {
    if (argc != 4) return 2;
    unsigned port = (unsigned)atoi(argv[1]), n = (unsigned)atoi(argv[2]), tokens = (unsigned)atoi(argv[3]);
    struct stream *streams = calloc(n, sizeof *streams);
    size_t cap = (size_t)n * (tokens + 8), m = 0, open = n, errors = 0;
    uint64_t *at = calloc(cap, sizeof *at);
    int ep = epoll_create1(0);
    if (!streams || !at || ep < 0) return 1;
    for (unsigned i = 0; i < n; i++) {
        struct epoll_event ev = {.events = EPOLLIN, .data.ptr = &streams[i]};
        streams[i].fd = open_stream(port, i, tokens);
        if (streams[i].fd < 0 || epoll_ctl(ep, EPOLL_CTL_ADD, streams[i].fd, &ev) != 0) {
            perror("sse_client: stream not opened");
            return 1;
        }
    }
    static char buf[65536];
    while (open > 0) {
        struct epoll_event ev[64];
        int k = epoll_wait(ep, ev, 64, 5000);
        if (k <= 0) break;
        for (int i = 0; i < k; i++) {
            struct stream *s = ev[i].data.ptr;
            ssize_t got = read(s->fd, buf, sizeof buf);
            uint64_t t = now_ns();
            unsigned found = got > 0 ? count_events(s, buf, (size_t)got) : 0;
            s->seen += found;
            while (found-- > 0 && m < cap) at[m++] = t;
            if (got > 0 && !s->done) continue;
            if (got < 0 && errno == EAGAIN) continue;
            errors += !s->done || s->seen != tokens + 2; /* tokens, the whole reply, [DONE] */
            close(s->fd);
            open--;
        }
    }
    errors += open;
    uint64_t begin = m ? at[0] : 0, end = m ? at[m - 1] : 1, first = begin, warm = begin + 500000000u;
    size_t kept = 0;
    uint64_t *late = calloc(m + 1, sizeof *late);
    if (!late) return 1;
    for (size_t i = 0; i < m; i++) {
        if (i && at[i] - at[i - 1] > 6000000u) first = at[i]; /* a new step */
        if (at[i] > warm && at[i] < end - 300000000u)
            late[kept++] = at[i] - first; /* not the rush of start and end */
    }
    qsort(late, kept, sizeof *late, by_value);
    if (kept == 0) {
        fprintf(stderr, "sse_client: %zu events in %.1f s, %zu errors\n", m, (double)(end - begin) * 1e-9,
                errors);
        return 1;
    }
    printf("%zu %.0f %.2f %.2f %.2f %zu\n", m, (double)m / ((double)(end - begin) * 1e-9),
           (double)late[kept / 2] * 1e-6, (double)late[kept * 99 / 100] * 1e-6, (double)late[kept - 1] * 1e-6,
           errors);
    return errors ? 1 : 0;
}
