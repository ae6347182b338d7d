/* api_impl - the bodies behind api.h, for the files of this room.
 *
 * A call is one HTTP exchange that reached us; it lies in the exchange's arena and dies with it.
 * A request is a call that wants tokens (or ids): it has its own memory, because a tokenizing
 * job may outlive the client. */
#ifndef GRAMME_API_API_IMPL_H
#define GRAMME_API_API_IMPL_H

#include <stdatomic.h>
#include <uv.h>

#include "api/answer.h"
#include "api/api.h"
#include "api/api_error.h"
#include "api/dispatch.h"
#include "api/metrics.h"
#include "api/request_parse.h"
#include "base/arena.h"
#include "base/buf.h"

#define API_POOLED_BODY_BYTES 65536u /* longer ones are parsed and tokenized on libuv's pool */
#define API_WORD_CACHE_BYTES (4u << 20)
#define API_RATE_SECONDS 10u /* over which the drain rate is measured */

struct api_request;

struct api_call {
    struct api *api;
    struct http_exchange *exchange;
    struct api_request *request; /* NULL: none, or over */
    char id[REQUEST_ID_BYTES];
    const char *origin; /* allowed: sent back; NULL otherwise */
    uint64_t received_us;
    bool is_quiet;                    /* probes: logged only with --log-level debug */
    char worker[DISPATCH_NAME_BYTES]; /* that it ran on; "" none */
    /* for the access line */
    bool has_tokens;
    const char *model;
    uint32_t prompt_tokens, cached_tokens, completion_tokens;
    double queue_ms, ttft_ms, itl_ms;
    const char *finish;
};

struct api_request {
    struct api *api;
    struct api_call *call; /* NULL: the client left */
    struct api_request *next, *previous;
    struct api_request *touched_next;
    struct arena arena;
    struct request_spec spec;
    struct answer answer;
    struct dispatch_work *works; /* one a prompt */
    uint32_t work_count;
    char *id; /* the request's, for workers */
    char *traceparent;
    uv_work_t job;
    uint8_t *body; /* owned, only for a job */
    size_t body_bytes;
    struct buf reply; /* of /tokenize and /detokenize */
    enum err prepare_error;
    struct api_error error; /* status 0: none */
    uint64_t received_us, sent_us, admitted_us, first_token_us, last_token_us, written_us;
    uint64_t queued_bytes; /* counted in api->waiting_bytes */
    uint32_t tokens_seen;
    bool is_waiting; /* counted in api->waiting_count */
    bool is_touched;
    bool is_job_running;
    bool has_answer; /* answer_init was called */
};

struct api {
    uv_loop_t *loop;
    struct api_options options;
    struct http_server *http;
    uint64_t writes_told; /* of http's write calls, already in the metrics */
    struct dispatch *dispatch;
    struct metrics *metrics;
    struct token_scratch *scratch; /* the loop thread's */
    struct answer_scratch answer_scratch;
    struct buf out;        /* a body or the chunks of one write */
    uv_poll_t wake;        /* of wake_fd, */
    int wake_fd;           /* an eventfd: the bus has something, */
    _Atomic bool is_woken; /* and it is written already */
    uv_timer_t tick;
    api_health_fn health;
    void *health_ctx;
    struct api_request *requests;
    struct api_request *touched, *touched_last;
    uint32_t waiting_count;
    uint64_t waiting_bytes;
    uint32_t admitted_counts[API_RATE_SECONDS]; /* by second */
    uint64_t rate_second;
    uint64_t random_state;
    int64_t created_s;
    uint32_t job_count;
    uint32_t open_handles;
    uint64_t closing_since_us; /* 0: not closing */
    bool is_http_closing;
    bool has_model;
    bool is_draining;
    bool is_abandoned;
    void (*done)(void *ctx);
    void *done_ctx;
};

uint64_t api_random(struct api *api);

/* --- api_call.c: answers --- */
void api_call_send(struct api_call *call, int status, const char *content_type,
                   const struct http_header *headers, size_t header_count, const void *body,
                   size_t bytes);
/* api->out as a JSON body. */
void api_call_send_out(struct api_call *call, int status);
void api_call_fail(struct api_call *call, const struct api_error *error);
void api_call_start_stream(struct api_call *call);
/* Makes the call of a new exchange; NULL without memory (then it is answered). */
struct api_call *api_call_open(struct api *api, struct http_exchange *exchange);
bool api_call_is_authorized(const struct api_call *call);
void api_call_log(struct api_call *call, bool is_complete);

/* --- api_status.c: what `gramme top` shows --- */
void api_status_render(struct api *api, struct buf *out);
/* Whether a request would be taken now: what /health says. */
bool api_status_is_ready(const struct api *api, const struct api_health *health);

/* --- api_route.c --- */
void api_route(struct api_call *call);

/* --- api_generate.c --- */
void api_generate_start(struct api_call *call, enum request_kind kind);
void api_generate_gone(struct api_call *call);
void api_generate_drain(struct api_call *call); /* the reader took something */
/* Goes on with every request that has news. */
void api_generate_run_touched(struct api *api, uint64_t now_us);
void api_generate_tick(struct api *api, uint64_t now_us);
void api_generate_end_all(struct api *api);
void api_generate_on_news(void *ctx, struct dispatch_work *work);
void api_generate_on_failed(void *ctx, struct dispatch_work *work, const struct api_error *error);
uint32_t api_generate_retry_after_s(const struct api *api);

#endif
