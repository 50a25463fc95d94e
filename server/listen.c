/* Listening socket, service manager notification, and the health check client. Thread: main. */
#include "server/listen.h"

#include <errno.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <sys/un.h>
#include <unistd.h>

#include "server/cli.h"
#include "server/cmd.h"

#define SEND_BUFFER     (128 * 1024) /* a slow reader holds at most this in the kernel */
#define USER_TIMEOUT_MS 30000        /* unacknowledged data: the network is gone */

static void set_int(int fd, int level, int name, int value) {
    (void)setsockopt(fd, level, name, &value, sizeof value); /* a missing option is no reason not to serve */
}

static int open_socket(const struct addrinfo *a) {
    int fd = socket(a->ai_family, a->ai_socktype | SOCK_NONBLOCK | SOCK_CLOEXEC, a->ai_protocol);
    if (fd < 0) return -1;
    set_int(fd, SOL_SOCKET, SO_REUSEADDR, 1);
    if (a->ai_family == AF_INET6) set_int(fd, IPPROTO_IPV6, IPV6_V6ONLY, 0);
    set_int(fd, SOL_SOCKET, SO_SNDBUF, SEND_BUFFER);
    set_int(fd, SOL_SOCKET, SO_KEEPALIVE, 1);
    set_int(fd, IPPROTO_TCP, TCP_KEEPIDLE, 30);
    set_int(fd, IPPROTO_TCP, TCP_KEEPINTVL, 10);
    set_int(fd, IPPROTO_TCP, TCP_KEEPCNT, 3);
    set_int(fd, IPPROTO_TCP, TCP_USER_TIMEOUT, USER_TIMEOUT_MS);
    if (bind(fd, a->ai_addr, a->ai_addrlen) == 0 && listen(fd, SOMAXCONN) == 0) return fd;
    int saved = errno;
    close(fd);
    errno = saved;
    return -1;
}

static uint16_t port_of(int fd) {
    union {
        struct sockaddr any;
        struct sockaddr_in in4;
        struct sockaddr_in6 in6;
    } a;
    socklen_t n = sizeof a;
    memset(&a, 0, sizeof a);
    if (getsockname(fd, &a.any, &n) != 0) return 0;
    return ntohs(a.any.sa_family == AF_INET6 ? a.in6.sin6_port : a.in4.sin_port);
}

static int resolve(const char *host, uint16_t port, int flags, struct addrinfo **list) {
    struct addrinfo hints = {.ai_family = AF_UNSPEC, .ai_socktype = SOCK_STREAM, .ai_flags = flags};
    char service[8];
    snprintf(service, sizeof service, "%u", port);
    return getaddrinfo(host, service, &hints, list);
}

int qn_listen(const char *host, uint16_t port, uint16_t *actual, char *why, size_t why_n) {
    struct addrinfo *list = NULL;
    int rc = resolve(host, port, AI_PASSIVE | AI_ADDRCONFIG, &list);
    if (rc != 0) rc = resolve(host, port, AI_PASSIVE, &list);
    if (rc != 0) {
        snprintf(why, why_n, "%s", gai_strerror(rc));
        return -1;
    }
    int fd = -1;
    for (const struct addrinfo *a = list; a && fd < 0; a = a->ai_next) fd = open_socket(a);
    if (fd < 0)
        snprintf(why, why_n, "%s", strerror(errno));
    else
        *actual = port_of(fd);
    freeaddrinfo(list);
    return fd;
}

void qn_sd_notify(const char *state) {
    const char *path = getenv("NOTIFY_SOCKET");
    struct sockaddr_un addr = {.sun_family = AF_UNIX};
    if (!path || (path[0] != '/' && path[0] != '@') || strlen(path) >= sizeof addr.sun_path) return;
    memcpy(addr.sun_path, path, strlen(path));
    if (path[0] == '@') addr.sun_path[0] = '\0'; /* abstract name */
    int fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    if (fd < 0) return;
    socklen_t n = (socklen_t)(offsetof(struct sockaddr_un, sun_path) + strlen(path));
    (void)sendto(fd, state, strlen(state), MSG_NOSIGNAL, (struct sockaddr *)&addr, n);
    close(fd);
}

/* ---- quern healthcheck ---- */

/* http://HOST:PORT/PATH, with the last two optional. 0, or -1. */
static int split_url(const char *url, char host[256], uint16_t *port, const char **path) {
    if (strncmp(url, "http://", 7) != 0) return -1;
    const char *s = url + 7, *slash = strchr(s, '/'), *end = slash ? slash : s + strlen(s);
    const char *colon = memrchr(s, ':', (size_t)(end - s));
    const char *host_end = colon && colon[1] != ']' ? colon : end;
    if (*s == '[') {
        s++;
        host_end = memchr(s, ']', (size_t)(end - s));
        if (!host_end) return -1;
        colon = host_end[1] == ':' ? host_end + 1 : NULL;
    }
    if (host_end == s || host_end - s > 255) return -1;
    memcpy(host, s, (size_t)(host_end - s));
    host[host_end - s] = '\0';
    unsigned long p = colon ? strtoul(colon + 1, NULL, 10) : 80;
    if (p == 0 || p > 65535) return -1;
    *port = (uint16_t)p;
    *path = slash ? slash : "/";
    return 0;
}

static int connect_to(const char *host, uint16_t port) {
    struct addrinfo *list = NULL;
    struct timeval limit = {.tv_sec = 3};
    int fd = -1;
    if (resolve(host, port, 0, &list) != 0) return -1;
    for (const struct addrinfo *a = list; a && fd < 0; a = a->ai_next) {
        fd = socket(a->ai_family, a->ai_socktype | SOCK_CLOEXEC, a->ai_protocol);
        if (fd < 0) continue;
        setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit);
        setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof limit);
        if (connect(fd, a->ai_addr, a->ai_addrlen) == 0) break;
        close(fd);
        fd = -1;
    }
    freeaddrinfo(list);
    return fd;
}

static int ask(const char *host, uint16_t port, const char *path) {
    char buf[1024];
    int fd = connect_to(host, port);
    if (fd < 0) {
        fprintf(stderr, "quern: no connection to %s port %u\n", host, port);
        return 1;
    }
    int n = snprintf(buf, sizeof buf, "GET %.512s HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n",
                     path);
    ssize_t got =
        send(fd, buf, (size_t)n, MSG_NOSIGNAL) == n ? recv(fd, buf, sizeof buf - 1, MSG_WAITALL) : -1;
    close(fd);
    buf[got > 0 ? got : 0] = '\0';
    if (strncmp(buf, "HTTP/1.1 200 ", 13) == 0) return 0;
    fprintf(stderr, "quern: not healthy: %.*s\n", (int)strcspn(buf, "\r\n"), buf);
    return 1;
}

int qn_cmd_healthcheck(int argc, char **argv) {
    char host[256], made[300];
    uint16_t port;
    const char *path, *url = NULL;
    const struct qn_cli_option options[] = {
        {"url", QN_CLI_STRING, &url, 0, 0, "URL",
         "what must answer 200; default: /readyz on the port of QUERN_LISTEN, or 8080, on this host"}};
    struct qn_cli cli = {.name = "healthcheck",
                         .usage = "quern healthcheck [--url http://HOST:PORT/PATH]",
                         .about = "Succeeds when a server answers 200; for health checks of containers.",
                         .options = options,
                         .n_options = 1};
    int r = qn_cli_parse(&cli, argc, argv);
    if (r) return r == 1 ? 0 : 2;
    if (!url) { /* the port of QUERN_LISTEN on this host */
        const char *listen_at = getenv("QUERN_LISTEN"), *colon = listen_at ? strrchr(listen_at, ':') : NULL;
        snprintf(made, sizeof made, "http://127.0.0.1:%.5s/readyz", colon ? colon + 1 : "8080");
        url = made;
    }
    if (split_url(url, host, &port, &path) != 0) {
        fputs("quern: --url must look like http://127.0.0.1:8080/readyz\n", stderr);
        return 2;
    }
    return ask(host, port, path);
}
