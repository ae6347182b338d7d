/* http_stream - what HTTP alone costs: a server that answers every request with 64 chunks of the
 * size of a token's event, one in each turn of a steady beat, as an engine would.
 *
 *   http_stream PORT [BEAT_MS]     then: gramme bench serve --url http://127.0.0.1:PORT --model m \
 *                                            --pid $(pidof http_stream) --concurrency 64
 *
 * BEAT_MS 0: as fast as the loop turns.  SIGINT ends it and prints requests, writes, CPU. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>

#include "base/alloc.h"
#include "base/check.h"
#include "http/http_server.h"

#define TOKENS 64
#define LIVE_MAX 16384

static const char event[] =
    "data: {\"id\":\"chatcmpl-0123456789abcdef\",\"object\":\"chat.completion.chunk\","
    "\"created\":1795470725,\"model\":\"m\",\"choices\":[{\"index\":0,\"delta\":{\"content\":"
    "\" word\"},\"logprobs\":null,\"finish_reason\":null}]}\n\n";
static const char last[] =
    "data: {\"choices\":[],\"usage\":{\"prompt_tokens\":10,\"completion_tokens\":64}}\n\n"
    "data: [DONE]\n\n";

struct live {
    struct http_exchange *exchange;
    uint32_t tokens;
};

static struct live live[LIVE_MAX];
static uint32_t live_count;
static struct http_server *server;
static uint64_t request_count;
static uv_timer_t beat;
static uv_idle_t busy;
static uv_signal_t stop;
static uint64_t beat_ms;

static void step(void) {
    for (uint32_t i = 0; i < live_count;) {
        struct http_exchange *exchange = live[i].exchange;
        if (live[i].tokens == TOKENS) {
            http_answer_body(exchange, last, sizeof last - 1);
            http_answer_end(exchange);
            live[i] = live[--live_count];
            continue;
        }
        live[i++].tokens++;
        http_answer_body(exchange, event, sizeof event - 1);
    }
    if (live_count == 0) uv_idle_stop(&busy);
}

static void on_beat(uv_timer_t *timer) { step(); }
static void on_busy(uv_idle_t *idle) { step(); }

static void on_request(void *ctx, struct http_exchange *exchange) {
    static const struct http_header headers[] = {
        {"Cache-Control", "no-cache"},
        {"X-Accel-Buffering", "no"},
        {"X-Request-Id", "0123456789abcdef0123456789abcdef"},
    };
    request_count++;
    CHECK(live_count < LIVE_MAX);
    http_answer_start(exchange, 200, "text/event-stream", headers, 3);
    live[live_count++] = (struct live){.exchange = exchange};
    if (beat_ms == 0) uv_idle_start(&busy, on_busy);
}

static void on_gone(void *ctx, struct http_exchange *exchange) {
    for (uint32_t i = 0; i < live_count; i++)
        if (live[i].exchange == exchange) live[i] = live[--live_count];
}

static void on_closed(void *ctx) {}

static void on_stop(uv_signal_t *handle, int number) {
    struct rusage usage;
    getrusage(RUSAGE_SELF, &usage);
    double us = (double) (usage.ru_utime.tv_sec + usage.ru_stime.tv_sec) * 1e6 +
                (double) (usage.ru_utime.tv_usec + usage.ru_stime.tv_usec);
    uint64_t writes = http_server_write_count(server);
    printf("%" PRIu64 " requests, %" PRIu64
           " writes, %.2f tokens a write, %.1f us of CPU a request\n",
           request_count, writes, (double) request_count * TOKENS / (double) (writes ? writes : 1),
           us / (double) (request_count ? request_count : 1));
    uv_close((uv_handle_t *) handle, NULL);
    uv_close((uv_handle_t *) &beat, NULL);
    uv_close((uv_handle_t *) &busy, NULL);
    http_server_close(server, on_closed, NULL);
}

int main(int argc, char **argv) {
    if (argc < 2) {
        fputs("usage: http_stream PORT [BEAT_MS]\n", stderr);
        return 2;
    }
    uv_loop_t *loop = uv_default_loop();
    struct http_limits limits;
    struct err_text text;
    http_limits_default(&limits);
    limits.connections_max = LIVE_MAX;
    struct http_handler handler = {.on_request = on_request, .on_gone = on_gone};
    CHECK(http_server_create(loop, &limits, &handler, &server) == ERR_OK);
    uint16_t port = (uint16_t) strtoul(argv[1], NULL, 10);
    if (http_server_listen(server, "127.0.0.1", port, &text, NULL)) {
        fprintf(stderr, "%s\n", text.text);
        return 1;
    }
    beat_ms = argc > 2 ? strtoul(argv[2], NULL, 10) : 0;
    uv_timer_init(loop, &beat);
    uv_idle_init(loop, &busy);
    if (beat_ms) uv_timer_start(&beat, on_beat, beat_ms, beat_ms);
    uv_signal_init(loop, &stop);
    uv_signal_start(&stop, on_stop, SIGINT);
    uv_run(loop, UV_RUN_DEFAULT);
    uv_loop_close(loop);
    return 0;
}
