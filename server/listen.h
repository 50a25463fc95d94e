/* The listening socket, and what service managers want to be told. Thread: loop. */
#ifndef QN_SERVER_LISTEN_H
#define QN_SERVER_LISTEN_H

#include <stddef.h>
#include <stdint.h>

/* A non-blocking listening TCP socket with the options that accepted connections inherit (bounded send
 * buffer, keep-alive, user timeout). *actual = its port (port 0 lets the kernel choose). -1 with why. */
int qn_listen(const char *host, uint16_t port, uint16_t *actual, char *why, size_t why_n);

/* Sends a state to $NOTIFY_SOCKET ("READY=1"); nothing happens without one. */
void qn_sd_notify(const char *state);

#endif
