/* api - see api.h.  The server's life: what is opened, polled, ticked and closed. */
#include "api/api.h"

#include <errno.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/random.h>
#include <unistd.h>

#include "api/api_impl.h"
#include "base/alloc.h"
#include "base/clock.h"
#include "base/log.h"

#define CLOSE_GRACE_US 1000000u /* for last events to reach the kernel */

/* splitmix64 (Steele, Lea, Flood 2014): ids and seeds need spread, not secrecy. */
uint64_t api_random(struct api *api) {
    uint64_t z = (api->random_state += 0x9e3779b97f4a7c15u);
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
}

/* --- http -------------------------------------------------------------------------------- */

static void on_request(void *ctx, struct http_exchange *exchange) {
    struct api_call *call = api_call_open(ctx, exchange);
    if (call) api_route(call);
}

static void on_gone(void *ctx, struct http_exchange *exchange) {
    (void) ctx;
    struct api_call *call = http_exchange_user(exchange);
    if (call) api_generate_gone(call);
}

static void on_drain(void *ctx, struct http_exchange *exchange) {
    (void) ctx;
    struct api_call *call = http_exchange_user(exchange);
    if (call) api_generate_drain(call);
}

static void on_done(void *ctx, struct http_exchange *exchange, bool is_complete) {
    (void) ctx;
    struct api_call *call = http_exchange_user(exchange);
    if (call) api_call_log(call, is_complete);
}

static void on_refusal(void *ctx, struct http_exchange *exchange, int status, const char *reason) {
    struct api_call *call = api_call_open(ctx, exchange);
    if (!call) return;
    struct api_error error;
    api_error_set(&error, status, NULL, "%s", reason);
    if (status == 503) error.retry_after_s = 1;
    api_call_fail(call, &error);
    log_request(LOG_INFO, call->id, "%s refused, status %d: %s", http_request_peer(exchange),
                status, reason);
}

/* --- bus --------------------------------------------------------------------------------- */

/* Not uv_async_send: who wakes up by it while the sender has not yet returned spins until then, and
 * on one core that is 1 us of a streamed token. */
static void wake(void *ctx) {
    struct api *api = ctx;
    uint64_t one = 1;
    if (atomic_exchange(&api->is_woken, true)) return;
    while (write(api->wake_fd, &one, sizeof one) < 0 && errno == EINTR) continue;
}

static void poll_bus(struct api *api) {
    if (!api->dispatch) return;
    uint64_t now_us = clock_now_us();
    dispatch_poll(api->dispatch, now_us);
    api_generate_run_touched(api, now_us);
}

static void on_wake(uv_poll_t *handle, int status, int events) {
    struct api *api = handle->data;
    uint64_t count;
    (void) status, (void) events;
    if (read(api->wake_fd, &count, sizeof count) < 0 && errno != EAGAIN && errno != EINTR)
        log_error("the wake-up of the bus: %s", strerror(errno));
    atomic_store(&api->is_woken, false); /* before the look: what comes later wakes again */
    poll_bus(api);
}

/* Gauges are read from the last LOAD when asked for; counters move by what changed. */
static void on_load(void *ctx, const struct dispatch_load *load) {
    struct api *api = ctx;
    if (!load->before || !api->options.tells_workers) return;
    const struct msg_load *now = load->now, *before = load->before;
    struct metrics *metrics = api->metrics;
    if (now->preemption_count > before->preemption_count)
        metrics_add(metrics, METRIC_PREEMPTIONS,
                    (double) (now->preemption_count - before->preemption_count));
    if (now->prefix_query_tokens > before->prefix_query_tokens)
        metrics_add(metrics, METRIC_PREFIX_QUERIES,
                    (double) (now->prefix_query_tokens - before->prefix_query_tokens));
    if (now->prefix_hit_tokens > before->prefix_hit_tokens) {
        double hits = (double) (now->prefix_hit_tokens - before->prefix_hit_tokens);
        metrics_add(metrics, METRIC_PREFIX_HITS, hits);
    }
    uint64_t steps =
        now->step_count > before->step_count ? now->step_count - before->step_count : 0;
    uint64_t tokens = now->prompt_tokens + now->generation_tokens;
    uint64_t tokens_before = before->prompt_tokens + before->generation_tokens;
    if (steps && tokens > tokens_before) /* the mean of these steps, once each */
        metrics_observe(metrics, METRIC_ITERATION_TOKENS,
                        (double) (tokens - tokens_before) / (double) steps, steps);
}

/* Where several frontends serve, each worker tells these itself, on its system port. */
static void leave_out_workers(struct metrics *metrics) {
    static const enum metric of_workers[] = {METRIC_REQUESTS_RUNNING, METRIC_REQUESTS_WAITING,
                                             METRIC_KV_USAGE,         METRIC_PREEMPTIONS,
                                             METRIC_PREFIX_QUERIES,   METRIC_PREFIX_HITS,
                                             METRIC_ITERATION_TOKENS};
    for (size_t i = 0; i < ARRAY_COUNT(of_workers); i++) metrics_leave_out(metrics, of_workers[i]);
}

/* --- the end ----------------------------------------------------------------------------- */

static void on_handle_closed(uv_handle_t *handle) {
    struct api *api = handle->data;
    if (--api->open_handles) return;
    close(api->wake_fd);
    if (api->is_abandoned) api_destroy(api);
    else if (api->done) api->done(api->done_ctx);
}

/* A half-made one: freed when the loop has closed its handles. */
static void abandon(struct api *api) {
    dispatch_destroy(api->dispatch);
    api->dispatch = NULL;
    api->is_abandoned = true;
    uv_close((uv_handle_t *) &api->wake, on_handle_closed);
    uv_close((uv_handle_t *) &api->tick, on_handle_closed);
}

static void on_http_closed(void *ctx) {
    struct api *api = ctx;
    api->http = NULL;
    dispatch_destroy(api->dispatch);
    api->dispatch = NULL;
    uv_close((uv_handle_t *) &api->wake, on_handle_closed);
    uv_close((uv_handle_t *) &api->tick, on_handle_closed);
}

/* Last events get a moment to leave; jobs on the pool must have returned. */
static void go_on_closing(struct api *api, uint64_t now_us) {
    if (api->is_http_closing || api->job_count) return;
    if (http_server_exchange_count(api->http) && now_us - api->closing_since_us < CLOSE_GRACE_US)
        return;
    api->is_http_closing = true;
    http_server_close(api->http, on_http_closed, api);
}

static void on_tick(uv_timer_t *timer) {
    struct api *api = timer->data;
    if (!api->dispatch) return;
    uint64_t now_us = clock_now_us();
    dispatch_poll(api->dispatch, now_us);
    dispatch_tick(api->dispatch, now_us);
    api_generate_tick(api, now_us);
    if (api->closing_since_us) go_on_closing(api, now_us);
}

void api_drain(struct api *api) { api->is_draining = true; }

uint32_t api_live_count(const struct api *api) {
    return api->http ? http_server_exchange_count(api->http) : 0;
}

uint32_t api_worker_count(const struct api *api) {
    return api->dispatch ? dispatch_worker_count(api->dispatch) : 0;
}

uint32_t api_worker_len_max(const struct api *api) {
    uint32_t len_max = 0;
    struct dispatch_worker worker;
    for (uint32_t i = 0; api->dispatch && dispatch_get_worker(api->dispatch, i, &worker); i++)
        if (worker.takes_work && worker.hello->model_len_max > len_max)
            len_max = worker.hello->model_len_max;
    return len_max;
}

void api_set_len(struct api *api, uint32_t model_len_max) {
    if (model_len_max == api->options.model_len_max) return;
    api->options.model_len_max = model_len_max;
    /* Without memory the old buckets stay: they are as good. */
    if (metrics_set_model(api->metrics, api->options.served_names[0], model_len_max))
        log_warn("no memory for the histograms of another model length");
}

void api_close(struct api *api, void (*done)(void *ctx), void *ctx) {
    CHECK(!api->closing_since_us);
    api->is_draining = true;
    api->done = done;
    api->done_ctx = ctx;
    api->closing_since_us = clock_now_us();
    api_generate_end_all(api);
    http_server_drain(api->http);
}

void api_destroy(struct api *api) {
    if (!api) return;
    CHECK(api->open_handles == 0 && !api->requests);
    token_scratch_destroy(api->scratch);
    metrics_destroy(api->metrics);
    answer_scratch_release(&api->answer_scratch);
    buf_release(&api->out);
    alloc_free(api);
}

/* --- the beginning ----------------------------------------------------------------------- */

static enum err take_options(struct api *api, const struct api_options *options) {
    api->options = *options;
    if (!options->tokenizer) return ERR_OK;
    CHECK(options->served_name_count > 0 && options->model_len_max > 0);
    struct token_scratch *scratch = NULL;
    enum err e = token_scratch_create(options->tokenizer, API_WORD_CACHE_BYTES, &scratch);
    if (!e) e = metrics_set_model(api->metrics, options->served_names[0], options->model_len_max);
    if (e) {
        token_scratch_destroy(scratch);
        return e;
    }
    token_scratch_destroy(api->scratch);
    api->scratch = scratch;
    dispatch_set_tokenizer(api->dispatch, tokenizer_digest(options->tokenizer));
    api->has_model = true;
    return ERR_OK;
}

void api_set_model(struct api *api, const struct api_options *options) {
    if (take_options(api, options)) log_error("api: no memory to take the model up");
    /* The worker's HELLO may wait in the ring: who asks after "ready" must not find nobody. */
    poll_bus(api);
}

enum err api_create(uv_loop_t *loop, struct bus *bus, uint64_t instance,
                    const struct api_options *options, const struct http_limits *limits,
                    api_health_fn health, void *health_ctx, struct err_text *text,
                    struct api **out) {
    struct api *api = alloc_zero(1, sizeof *api);
    if (!api) return err_set(text, ERR_MEMORY, "no memory for the server");
    api->loop = loop;
    api->health = health;
    api->health_ctx = health_ctx;
    api->created_s = (int64_t) (clock_wall_ns() / 1000000000u);
    buf_init(&api->out, 0);
    buf_init(&api->answer_scratch.text, 0);
    buf_init(&api->answer_scratch.cut, 0);
    if (getrandom(&api->random_state, sizeof api->random_state, 0) < 0)
        api->random_state = clock_wall_ns();
    /* Before the port: it may wake at once. */
    api->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (api->wake_fd < 0 || uv_poll_init(loop, &api->wake, api->wake_fd)) {
        if (api->wake_fd >= 0) close(api->wake_fd);
        alloc_free(api);
        return err_set(text, ERR_IO, "no file descriptor for the bus's wake-ups");
    }
    CHECK(uv_timer_init(loop, &api->tick) == 0);
    api->wake.data = api->tick.data = api;
    uv_poll_start(&api->wake, UV_READABLE, on_wake);
    api->open_handles = 2;
    uv_timer_start(&api->tick, on_tick, DISPATCH_TICK_MS, DISPATCH_TICK_MS);

    const char *name = options->served_name_count ? options->served_names[0] : "";
    struct dispatch_options dispatch_options = {
        .instance = instance,
        .sync_timeout_ms = options->sync_timeout_ms ? options->sync_timeout_ms : 3000,
        .migration_timeout_ms =
            options->migration_timeout_ms ? options->migration_timeout_ms : 30000,
        .migration_limit = options->migration_limit ? options->migration_limit : 2,
        .gone_timeout_ms = options->gone_timeout_ms,
        .step_timeout_ms = options->step_timeout_ms,
        .allows_inexact = options->allows_inexact,
        .version = options->version,
        .router = options->router,
    };
    if (!dispatch_options.router.seed) dispatch_options.router.seed = instance;
    struct dispatch_handler dispatch_handler = {.ctx = api,
                                                .on_news = api_generate_on_news,
                                                .on_failed = api_generate_on_failed,
                                                .on_load = on_load};
    struct http_handler http_handler = {.ctx = api,
                                        .on_request = on_request,
                                        .on_gone = on_gone,
                                        .on_drain = on_drain,
                                        .on_done = on_done,
                                        .on_refusal = on_refusal};
    enum err e = metrics_create(name, options->model_len_max, &api->metrics);
    if (!e && !options->tells_workers) leave_out_workers(api->metrics);
    if (!e)
        e = dispatch_create(bus, &dispatch_options, &dispatch_handler, api->metrics, wake, api,
                            &api->dispatch);
    if (!e) e = take_options(api, options);
    if (!e) e = http_server_create(loop, limits, &http_handler, &api->http);
    if (e) {
        abandon(api);
        return err_set(text, e, "the server cannot be made: %s", err_name(e));
    }
    *out = api;
    return ERR_OK;
}

enum err api_listen(struct api *api, const char *host, uint16_t port, struct err_text *text,
                    uint16_t *port_out) {
    return http_server_listen(api->http, host, port, text, port_out);
}
