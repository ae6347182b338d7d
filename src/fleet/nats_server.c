/* nats_server - see nats_server.h. */
#include "fleet/nats_server.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/buf.h"

#define PORT_FIRST 18000u /* the kernel's outgoing ports begin at 32768 */
#define PORT_COUNT 14000u
#define PORT_TRIES 200u
#define PROBE_MS 2

enum err nats_server_find(const char *path, struct err_text *text, char out[512]) {
    static const char more[] = "/usr/sbin:/usr/local/bin:/usr/local/sbin:/usr/bin";
    const char *lists[] = {path ? path : "", more};
    for (size_t i = 0; i < ARRAY_COUNT(lists); i++)
        for (const char *at = lists[i]; *at;) {
            size_t bytes = strcspn(at, ":");
            char file[512];
            int length = snprintf(file, sizeof file, "%.*s/nats-server", (int) bytes, at);
            if (bytes && length > 0 && (size_t) length < sizeof file && access(file, X_OK) == 0) {
                memcpy(out, file, (size_t) length + 1);
                return ERR_OK;
            }
            at += bytes;
            if (*at == ':') at++;
        }
    return err_set(text, ERR_NOT_FOUND,
                   "nats-server is not on this machine, and a graph of several processes needs it: "
                   "apt-get install nats-server (or --nats URL for one elsewhere)");
}

/* An address and port as the kernel wants them; 0: no address. */
static socklen_t make_address(const char *host, uint16_t port, struct sockaddr_storage *out) {
    struct sockaddr_in v4 = {.sin_family = AF_INET, .sin_port = htons(port)};
    struct sockaddr_in6 v6 = {.sin6_family = AF_INET6, .sin6_port = htons(port)};
    *out = (struct sockaddr_storage){0};
    if (inet_pton(AF_INET, host, &v4.sin_addr) == 1) {
        memcpy(out, &v4, sizeof v4);
        return sizeof v4;
    }
    if (inet_pton(AF_INET6, host, &v6.sin6_addr) != 1) return 0;
    memcpy(out, &v6, sizeof v6);
    return sizeof v6;
}

/* 0: free; else the errno that nats-server would meet there. */
static int try_port(const char *host, uint16_t port) {
    struct sockaddr_storage address;
    socklen_t bytes = make_address(host, port, &address);
    if (!bytes) return EADDRNOTAVAIL;
    int fd = socket(address.ss_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd < 0) return errno;
    int on = 1; /* as nats-server does: a port in TIME_WAIT is free */
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    int error = bind(fd, (const struct sockaddr *) &address, bytes) || listen(fd, 1) ? errno : 0;
    close(fd);
    return error;
}

enum err nats_server_check_port(const char *host, uint16_t port, struct err_text *text) {
    int error = try_port(host, port);
    if (!error) return ERR_OK;
    return err_set(text, ERR_IO, "the private nats-server cannot listen on %s port %u: %s", host,
                   port, error == EADDRINUSE ? "the port is taken" : strerror(error));
}

bool nats_server_is_up(const char *host, uint16_t port) {
    struct sockaddr_storage address;
    socklen_t bytes = make_address(host, port, &address);
    int fd = bytes ? socket(address.ss_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0) : -1;
    if (fd < 0) return false;
    bool is_up = connect(fd, (const struct sockaddr *) &address, bytes) == 0;
    if (!is_up && errno == EINPROGRESS) { /* on this machine the answer is there at once */
        struct pollfd wait = {.fd = fd, .events = POLLOUT};
        int error = -1;
        socklen_t error_bytes = sizeof error;
        is_up = poll(&wait, 1, PROBE_MS) == 1 &&
                getsockopt(fd, SOL_SOCKET, SO_ERROR, &error, &error_bytes) == 0 && error == 0;
    }
    close(fd);
    return is_up;
}

enum err nats_server_pick_port(const char *host, struct err_text *text, uint16_t *port) {
    for (uint32_t i = 0; i < PORT_TRIES; i++) {
        uint32_t draw = 0;
        if (getrandom(&draw, sizeof draw, 0) != sizeof draw) draw = i * 7919u;
        uint16_t candidate = (uint16_t) (PORT_FIRST + draw % PORT_COUNT);
        if (try_port(host, candidate)) continue;
        *port = candidate;
        return ERR_OK;
    }
    return err_set(text, ERR_IO, "no free port for the private nats-server on %s", host);
}

/* A quoted string of nats-server's configuration language. */
static void add_quoted(struct buf *out, const char *text) {
    buf_add_byte(out, '"');
    for (; *text; text++) {
        if (*text == '"' || *text == '\\') buf_add_byte(out, '\\');
        buf_add_byte(out, (uint8_t) *text);
    }
    buf_add_byte(out, '"');
}

static void encode(const struct nats_server_options *options, struct buf *out) {
    buf_add_string(out, "host: ");
    add_quoted(out, options->host);
    buf_add_format(out,
                   "\nport: %u\nmax_payload: %u\nmax_pending: 268435456\nmax_connections: 65536\n"
                   "write_deadline: \"2s\"\nping_interval: \"5s\"\nping_max: 3\nlogtime: false\n"
                   "max_control_line: 4096\n",
                   options->port, NATS_SERVER_PAYLOAD_MAX);
    if (options->token[0]) {
        buf_add_string(out, "authorization {\n  token: ");
        add_quoted(out, options->token);
        buf_add_string(out, "\n  timeout: 2\n}\n");
    }
    if (options->cert_file[0]) {
        buf_add_string(out, "tls {\n  cert_file: ");
        add_quoted(out, options->cert_file);
        buf_add_string(out, "\n  key_file: ");
        add_quoted(out, options->key_file);
        if (options->ca_file[0]) {
            buf_add_string(out, "\n  ca_file: ");
            add_quoted(out, options->ca_file);
        }
        buf_add_string(out, "\n  timeout: 2\n}\n");
    }
}

enum err nats_server_write_config(const struct nats_server_options *options, struct err_text *text,
                                  int *fd) {
    struct buf out;
    buf_init(&out, 65536);
    encode(options, &out);
    enum err e = buf_error(&out);
    int file = -1;
    if (e) err_set(text, e, "the nats-server's configuration: %s", err_name(e));
    else if ((file = memfd_create("gramme-nats", MFD_CLOEXEC)) < 0 ||
             write(file, out.data, out.bytes) != (ssize_t) out.bytes)
        e = err_set(text, ERR_IO, "a memory file: %s", strerror(errno));
    buf_release(&out);
    if (e) {
        if (file >= 0) close(file);
        return e;
    }
    *fd = file;
    return ERR_OK;
}

enum err nats_server_parse_listen(const char *listen, struct err_text *text, char host[128],
                                  uint16_t *port) {
    const char *colon = strrchr(listen, ':'), *from = listen;
    size_t bytes = colon ? (size_t) (colon - listen) : 0;
    if (bytes > 2 && from[0] == '[' && from[bytes - 1] == ']') {
        from++;
        bytes -= 2;
    }
    char *end = NULL;
    unsigned long number = colon ? strtoul(colon + 1, &end, 10) : 0;
    struct in6_addr address;
    char copy[128];
    if (bytes && bytes < sizeof copy) snprintf(copy, sizeof copy, "%.*s", (int) bytes, from);
    if (!bytes || bytes >= sizeof copy || !colon[1] || *end || !number || number > 65535 ||
        (inet_pton(AF_INET, copy, &address) != 1 && inet_pton(AF_INET6, copy, &address) != 1))
        return err_set(text, ERR_USAGE,
                       "--bus-listen: '%s' is no ADDRESS:PORT such as 10.0.0.1:4222", listen);
    memcpy(host, copy, bytes + 1);
    *port = (uint16_t) number;
    return ERR_OK;
}

bool nats_server_is_line_shown(const char *line) {
    /* It warns of every token that is written as it is; ours lives in memory only. */
    if (strstr(line, "Plaintext passwords detected")) return false;
    return !strstr(line, "[INF]") && !strstr(line, "[DBG]") && !strstr(line, "[TRC]");
}
