/* api_client - the whole API on a loop with a fake worker, and raw clients of it, in one thread. */
#ifndef GRAMME_TESTS_API_CLIENT_H
#define GRAMME_TESTS_API_CLIENT_H

#include "fake_worker.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <jansson.h>
#include <netinet/in.h>
#include <signal.h>
#include <sys/socket.h>
#include <unistd.h>
#include <uv.h>

#include "base/clock.h"
#include "base/log.h"

#define WAIT_US 60000000u /* what must come, comes; a loaded machine is no failure */
#define CHAT_TEMPLATE                                                                              \
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"     \
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"

struct server {
    uv_loop_t loop;
    struct bus *bus;
    struct fake_worker worker;
    struct tokenizer *tokenizer;
    struct chat_template *chat_template;
    struct api_options options;
    struct http_limits limits;
    struct api *api;
    struct api_health health;
    uint16_t port;
    bool is_closed;
    bool has_worker;
    bool is_paused; /* the worker makes no steps */
};

struct client {
    int fd;
    char *data; /* all that came, NUL behind */
    size_t bytes, room;
    bool is_eof;
};

static inline void server_health(void *ctx, struct api_health *out) {
    *out = ((struct server *) ctx)->health;
}

static inline void turn(struct server *server) {
    uv_run(&server->loop, UV_RUN_NOWAIT);
    if (!server->has_worker) return;
    fake_poll(&server->worker);
    if (!server->is_paused) fake_step(&server->worker);
}

static inline void turn_for_ms(struct server *server, uint32_t ms) {
    uint64_t until = clock_now_us() + (uint64_t) ms * 1000;
    while (clock_now_us() < until) {
        turn(server);
        usleep(200);
    }
}

/* Options may be changed between the two. */
static inline void server_init(struct server *server) {
    memset(server, 0, sizeof *server);
    signal(SIGPIPE, SIG_IGN);
    if (!getenv("API_TEST_LOG")) log_configure(LOG_ERROR, LOG_HUMAN, NULL);
    assert_int_equal(uv_loop_init(&server->loop), 0);
    server->tokenizer = fixture_tokenizer();
    struct err_text text = {""};
    if (chat_template_create(CHAT_TEMPLATE, strlen(CHAT_TEMPLATE), &text, &server->chat_template))
        fail_msg("template: %s", text.text);
    server->options = fixture_options(server->tokenizer);
    server->options.chat_template = server->chat_template;
    server->options.version = "1.2.3";
    http_limits_default(&server->limits);
    server->health = (struct api_health){.is_live = true, .is_ready = true, .percent = -1};
    server->has_worker = true;
}

static inline void server_start(struct server *server) {
    struct err_text text = {""};
    assert_int_equal(bus_local_create(4096, 1 << 24, &server->bus), ERR_OK);
    if (api_create(&server->loop, server->bus, 7, &server->options, &server->limits, server_health,
                   server, &text, &server->api))
        fail_msg("api: %s", text.text);
    assert_int_equal(api_listen(server->api, "127.0.0.1", 0, &text, &server->port), ERR_OK);
    if (!server->has_worker) return;
    fake_open(&server->worker, server->bus, 0x1001);
    fake_hello(&server->worker);
    turn_for_ms(server, 60); /* a tick: the HELLO is read */
}

static inline void server_on_closed(void *ctx) { ((struct server *) ctx)->is_closed = true; }

/* All handles must be gone: a leaked one would hold the loop. */
static inline void server_stop(struct server *server) {
    if (server->api) {
        if (!server->is_closed) api_close(server->api, server_on_closed, server);
        uint64_t until = clock_now_us() + WAIT_US;
        while (!server->is_closed && clock_now_us() < until) turn(server);
        assert_true(server->is_closed);
        api_destroy(server->api);
    }
    if (server->has_worker) fake_close(&server->worker);
    bus_destroy(server->bus);
    chat_template_destroy(server->chat_template);
    tokenizer_close(server->tokenizer);
    while (uv_run(&server->loop, UV_RUN_NOWAIT)) {
    }
    assert_int_equal(uv_loop_close(&server->loop), 0);
}

static inline void client_open(struct client *client, const struct server *server) {
    *client = (struct client){.fd = socket(AF_INET, SOCK_STREAM, 0)};
    assert_true(client->fd >= 0);
    struct sockaddr_in to = {.sin_family = AF_INET,
                             .sin_port = htons(server->port),
                             .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    assert_int_equal(connect(client->fd, (struct sockaddr *) &to, sizeof to), 0);
    fcntl(client->fd, F_SETFL, O_NONBLOCK);
    client->room = 4096;
    client->data = calloc(1, client->room);
}

static inline void client_close(struct client *client) {
    if (client->fd >= 0) close(client->fd);
    free(client->data);
    *client = (struct client){.fd = -1};
}

static inline void client_read(struct client *client) {
    while (!client->is_eof) {
        if (client->bytes + 1 >= client->room)
            client->data = realloc(client->data, client->room *= 2);
        ssize_t n =
            read(client->fd, client->data + client->bytes, client->room - 1 - client->bytes);
        if (n < 0 && errno == EAGAIN) break;
        if (n <= 0) {
            client->is_eof = true;
            break;
        }
        client->bytes += (size_t) n;
        client->data[client->bytes] = '\0';
    }
}

static inline void client_send_bytes(struct server *server, struct client *client, const char *data,
                                     size_t bytes) {
    uint64_t until = clock_now_us() + WAIT_US;
    while (bytes > 0 && clock_now_us() < until) {
        ssize_t n = write(client->fd, data, bytes);
        if (n < 0 && errno != EAGAIN) return;
        if (n > 0) data += n, bytes -= (size_t) n;
        if (bytes) turn(server);
    }
}

/* Until the server has read that many requests that it has not answered. */
static inline void server_wait_live(struct server *server, uint32_t count) {
    uint64_t until = clock_now_us() + WAIT_US;
    while (api_live_count(server->api) != count && clock_now_us() < until) turn(server);
    assert_int_equal(api_live_count(server->api), count);
}

/* One request; headers are whole lines ("A: b\r\n") or "". */
static inline void client_ask(struct server *server, struct client *client, const char *method,
                              const char *path, const char *headers, const char *body) {
    size_t bytes = body ? strlen(body) : 0;
    char *text = malloc(bytes + 1024);
    int head = snprintf(text, 1024, "%s %s HTTP/1.1\r\nHost: a\r\n%s", method, path, headers);
    if (body) head += snprintf(text + head, 200, "Content-Length: %zu\r\n", bytes);
    head += snprintf(text + head, 3, "\r\n");
    if (body) memcpy(text + head, body, bytes);
    client->bytes = 0;
    client->data[0] = '\0';
    client_send_bytes(server, client, text, (size_t) head + bytes);
    free(text);
}

/* Until `text` came or the server closed. */
static inline bool client_wait(struct server *server, struct client *client, const char *text) {
    uint64_t until = clock_now_us() + WAIT_US;
    while (clock_now_us() < until) {
        turn(server);
        client_read(client);
        if (strstr(client->data, text)) return true;
        if (client->is_eof) return false;
    }
    return false;
}

static inline int client_status(const struct client *client) {
    return client->bytes > 12 ? atoi(client->data + 9) : 0;
}

/* Until the whole answer is here: its Content-Length or its last chunk. */
static inline bool client_wait_answer(struct server *server, struct client *client) {
    uint64_t until = clock_now_us() + WAIT_US;
    while (clock_now_us() < until) {
        turn(server);
        client_read(client);
        const char *blank = strstr(client->data, "\r\n\r\n");
        if (blank) {
            const char *length = strstr(client->data, "Content-Length: ");
            if (length && length < blank) {
                size_t bytes = strtoul(length + 16, NULL, 10);
                if (client->bytes >= (size_t) (blank + 4 - client->data) + bytes) return true;
            } else if (client->bytes > 5 &&
                       strcmp(client->data + client->bytes - 5, "0\r\n\r\n") == 0) {
                return true;
            } else if (client_status(client) == 204) {
                return true;
            }
        }
        if (client->is_eof) return false;
    }
    return false;
}

static inline const char *client_body(const struct client *client) {
    const char *blank = strstr(client->data, "\r\n\r\n");
    return blank ? blank + 4 : "";
}

static inline json_t *client_json(const struct client *client) {
    json_error_t why;
    json_t *root = json_loads(client_body(client), JSON_REJECT_DUPLICATES, &why);
    if (!root) fail_msg("%s in %s", why.text, client->data);
    return root;
}

/* The payloads of a chunked event stream, joined; the caller frees. */
static inline char *client_events(const struct client *client) {
    char *events = calloc(1, client->bytes + 1), *to = events;
    const char *at = client_body(client);
    for (;;) {
        char *end = NULL;
        size_t bytes = strtoul(at, &end, 16);
        if (bytes == 0 || strncmp(end, "\r\n", 2) != 0) break;
        if ((size_t) (client->data + client->bytes - end) < bytes + 4) break;
        memcpy(to, end + 2, bytes);
        to += bytes;
        at = end + 2 + bytes + 2;
    }
    return events;
}

static inline uint32_t count_of(const char *text, const char *what) {
    uint32_t count = 0;
    for (const char *at = text; (at = strstr(at, what)); at += strlen(what)) count++;
    return count;
}

static inline int ask(struct server *server, const char *method, const char *path,
                      const char *headers, const char *body, struct client *client) {
    client_open(client, server);
    client_ask(server, client, method, path, headers, body);
    if (!client_wait_answer(server, client)) fail_msg("no whole answer: %s", client->data);
    return client_status(client);
}

#endif
