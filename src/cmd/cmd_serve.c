/* cmd_serve - gramme serve [agg]: the OpenAI API over one worker in this process.
 *
 * The main thread runs the loop: sockets, templates, tokenizer.  The worker's step thread runs the
 * engine; the two speak over the local bus.  The port is bound first, so that health answers while
 * the model loads (on libuv's pool, then on the step thread).
 *
 *   STARTING -> LOADING -> SERVING -> DRAINING -> CLOSING -> done
 *       any   -- fatal error --------------------^
 *   DRAINING: health is 503 at once; requests are taken for --drain-delay, then refused; what runs
 *   may finish within --drain-timeout.  A second signal ends at once. */
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <sys/resource.h>
#include <unistd.h>
#include <uv.h>

#include "api/api.h"
#include "base/alloc.h"
#include "base/clock.h"
#include "base/log.h"
#include "cmd/cmd.h"
#include "cmd/cmd_model.h"
#include "worker/worker.h"

#define RING_MESSAGES 65536u    /* one a step and frontend, one a request: seconds of backlog */
#define RING_BYTES (512u << 20) /* max-queue-bytes of prompts, twice */
#define DRAIN_POLL_MS 5
#define KEYS_FILE_BYTES_MAX 65536

enum phase { STARTING, LOADING, SERVING, DRAINING, CLOSING };

struct serve {
    const struct options *options;
    uv_loop_t *loop;
    uv_signal_t on_term, on_int;
    uv_async_t on_change;
    uv_timer_t drain_timer, progress_timer;
    uv_work_t open_work;
    enum phase phase;
    bool is_refusing; /* draining, and the delay is over */
    bool is_opening;  /* open_work is under way */
    uint64_t started_ns, drain_ns;

    const char *model_name;
    struct model *model;
    struct tokenizer *tokenizer;
    struct chat_template *chat_template;
    struct bus *bus;
    struct api *api;
    struct api_options api_options;
    struct worker *worker;
    struct worker_options worker_options;
    char **file_keys; /* of --api-key-file: owned */
    uint32_t file_key_count;
    uint16_t port;
    enum err open_error;
    struct err_text open_text;
    int status;
};

static uint64_t draw_instance(void) {
    uint64_t instance = 0;
    while (!instance)
        if (getrandom(&instance, sizeof instance, 0) != sizeof instance) instance = clock_wall_ns();
    return instance;
}

/* --- the end ----------------------------------------------------------------------------- */

static void close_handle(uv_handle_t *handle, void *ctx) {
    (void) ctx;
    if (!uv_is_closing(handle)) uv_close(handle, NULL);
}

static void on_api_closed(void *ctx) {
    struct serve *serve = ctx;
    worker_destroy(serve->worker);
    serve->worker = NULL;
    uv_walk(serve->loop, close_handle, NULL);
}

static void end(struct serve *serve, int status) {
    if (serve->phase == CLOSING) return;
    serve->phase = CLOSING;
    serve->status = status;
    api_close(serve->api, on_api_closed, serve);
}

static void on_drain_tick(uv_timer_t *timer) {
    struct serve *serve = timer->data;
    uint64_t age_ms = (clock_now_ns() - serve->drain_ns) / 1000000u;
    uint32_t delay_ms = options_ms(serve->options, OPT_DRAIN_DELAY);
    if (age_ms < delay_ms) return;
    if (!serve->is_refusing) {
        serve->is_refusing = true;
        api_drain(serve->api);
    }
    uint32_t live = api_live_count(serve->api);
    if (live && age_ms - delay_ms < options_ms(serve->options, OPT_DRAIN_TIMEOUT)) return;
    if (live) log_warn("%u requests did not finish within the drain timeout: ended", live);
    uv_timer_stop(timer);
    log_info("stopped");
    end(serve, CMD_DONE);
}

static void on_signal(uv_signal_t *handle, int number) {
    struct serve *serve = handle->data;
    if (serve->phase >= DRAINING) {
        log_warn("second signal: ending at once");
        _exit(CMD_INTERRUPTED);
    }
    bool was_serving = serve->phase == SERVING;
    serve->phase = DRAINING;
    serve->drain_ns = clock_now_ns();
    log_info("%s: %s", number == SIGTERM ? "sigterm" : "interrupted",
             was_serving ? "draining" : "stopping while loading");
    /* Nothing runs yet while loading: the step thread stops at its next stage. */
    if (!was_serving && serve->is_opening) return;
    uv_timer_start(&serve->drain_timer, on_drain_tick, 0, DRAIN_POLL_MS);
}

/* --- loading ----------------------------------------------------------------------------- */

static void fail(struct serve *serve, enum err e, const struct err_text *text) {
    uv_timer_stop(&serve->progress_timer);
    if (serve->phase < DRAINING) end(serve, cmd_fail(e, text));
    else end(serve, CMD_DONE);
}

static void on_worker_change(uv_async_t *handle) {
    struct serve *serve = handle->data;
    if (!serve->worker || serve->phase == CLOSING) return;
    struct worker_status status;
    worker_get_status(serve->worker, &status);
    if (status.state == WORKER_FAILED) {
        fail(serve, ERR_IO, &status.error);
        return;
    }
    if (status.state != WORKER_SERVING || serve->phase != LOADING) return;
    serve->phase = SERVING;
    uv_timer_stop(&serve->progress_timer);
    cmd_model_progress(NULL, "", 1, 1);
    const struct plan *plan = worker_get_plan(serve->worker);
    serve->api_options.model_len_max = plan->model_len_max;
    api_set_model(serve->api, &serve->api_options);
    log_info(
        "kv cache: %llu tokens in %u blocks, %.1f requests of %u tokens at once; %.2f GiB planned",
        (unsigned long long) plan->kv_tokens, plan->block_count, plan->concurrency,
        plan->model_len_max, (double) plan->total_bytes / (1u << 30));
    const char *host = options_text(serve->options, OPT_HOST);
    log_info("ready: %s on http://%s%s%s:%u after %.2f s", serve->api_options.served_names[0],
             strchr(host, ':') ? "[" : "", host, strchr(host, ':') ? "]" : "", serve->port,
             (double) (clock_now_ns() - serve->started_ns) / 1e9);
}

static void wake_main(void *ctx) { uv_async_send(&((struct serve *) ctx)->on_change); }

static void on_progress_tick(uv_timer_t *timer) {
    struct serve *serve = timer->data;
    if (!serve->worker) return;
    struct worker_status status;
    worker_get_status(serve->worker, &status);
    if (status.state == WORKER_LOADING && status.total_bytes)
        cmd_model_progress(NULL, status.stage, status.done_bytes, status.total_bytes);
}

static enum err start_worker(struct serve *serve, struct err_text *text) {
    struct worker_boot_options boot;
    enum err e = cmd_model_boot_options(serve->options, model_get_spec(serve->model), text, &boot);
    if (e) return e;
    boot.engine.queue_requests_max = serve->api_options.queue_requests_max;
    boot.engine.queue_prompt_bytes_max = serve->api_options.queue_prompt_bytes_max;
    serve->worker_options = (struct worker_options){
        .backend = boot.backend,
        .engine = boot.engine,
        .budget = boot.budget,
        .ops = boot.ops,
        .tokenizer_digest = tokenizer_digest(serve->tokenizer),
        .sync_timeout_ms = options_ms(serve->options, OPT_SYNC_TIMEOUT),
        .step_timeout_ms = options_ms(serve->options, OPT_STEP_TIMEOUT),
        .prefault = boot.prefault,
    };
    e = worker_create(&serve->worker_options, serve->model, serve->bus, draw_instance(), text,
                      &serve->worker);
    if (!e) worker_on_change(serve->worker, wake_main, serve);
    if (!e) wake_main(serve); /* it may have changed before we listened */
    return e;
}

/* On the pool: files only. */
static void open_model(uv_work_t *work) {
    struct serve *serve = work->data;
    struct err_text *text = &serve->open_text;
    enum err e = cmd_model_open(serve->options, serve->model_name, text, &serve->model);
    if (!e) e = model_open_tokenizer(serve->model, text, &serve->tokenizer);
    const char *source = e ? NULL : model_chat_template(serve->model);
    if (source) {
        struct err_text why;
        if (chat_template_create(source, strlen(source), &why, &serve->chat_template))
            log_warn("no chat completions: %s", why.text);
    }
    serve->open_error = e;
}

static void set_defaults(struct serve *serve) {
    struct api_sampling_defaults *defaults = &serve->api_options.defaults;
    const struct model_generation *generation = model_generation_defaults(serve->model);
    *defaults = (struct api_sampling_defaults){
        .temperature = 1, .top_p = 1, .min_p = 0, .repetition_penalty = 1, .top_k = 0};
    if (strcasecmp(options_text(serve->options, OPT_GENERATION_CONFIG), "none") == 0) return;
    if (generation->has_temperature) defaults->temperature = generation->temperature;
    if (generation->has_top_p) defaults->top_p = generation->top_p;
    if (generation->has_top_k) defaults->top_k = generation->top_k;
    if (generation->has_min_p) defaults->min_p = generation->min_p;
    if (generation->has_repetition_penalty)
        defaults->repetition_penalty = generation->repetition_penalty;
    if (generation->has_max_new_tokens) defaults->max_tokens = generation->max_new_tokens;
    if (generation->has_temperature || generation->has_top_p || generation->has_top_k ||
        generation->has_min_p || generation->has_repetition_penalty)
        log_info(
            "sampling defaults from generation_config.json: temperature %g, top_p %g, top_k %d, "
            "min_p %g, repetition_penalty %g (--generation-config none turns them off)",
            (double) defaults->temperature, (double) defaults->top_p, defaults->top_k,
            (double) defaults->min_p, (double) defaults->repetition_penalty);
}

static void on_model_open(uv_work_t *work, int uv_status) {
    (void) uv_status;
    struct serve *serve = work->data;
    serve->is_opening = false;
    if (serve->phase == DRAINING) { /* a signal came while the files were read */
        end(serve, CMD_DONE);
        return;
    }
    if (serve->open_error) {
        fail(serve, serve->open_error, &serve->open_text);
        return;
    }
    const struct model_spec *spec = model_get_spec(serve->model);
    struct api_options *api = &serve->api_options;
    api->tokenizer = serve->tokenizer;
    api->chat_template = serve->chat_template;
    api->bos_text = model_special_token(serve->model, "bos_token");
    api->eos_text = model_special_token(serve->model, "eos_token");
    api->vocab_size = spec->vocab_size;
    api->eos_ids = spec->eos_ids;
    api->eos_count = spec->eos_count;
    if (!api->served_name_count) api->served_names[api->served_name_count++] = spec->name;
    set_defaults(serve);
    struct err_text text = {0};
    enum err e = start_worker(serve, &text);
    if (e) fail(serve, e, &text);
}

/* --- the beginning ----------------------------------------------------------------------- */

static void get_health(void *ctx, struct api_health *out) {
    struct serve *serve = ctx;
    struct worker_status status = {.state = WORKER_LOADING};
    if (serve->worker) worker_get_status(serve->worker, &status);
    uint32_t step_timeout_ms = options_ms(serve->options, OPT_STEP_TIMEOUT);
    *out = (struct api_health){.is_live = true, .percent = -1};
    if (serve->phase >= DRAINING) {
        out->stage = "draining";
    } else if (status.state == WORKER_FAILED || status.state == WORKER_STOPPED) {
        out->stage = "failed";
    } else if (serve->phase < SERVING) {
        out->stage = status.stage[0] ? "loading weights" : "opening the model";
        if (status.total_bytes)
            out->percent = 100.0 * (double) status.done_bytes / (double) status.total_bytes;
    } else if (status.is_stuck) {
        out->stage = "a step is stuck";
        out->is_live = status.stuck_ms < 3ull * step_timeout_ms;
    } else {
        out->is_ready = true;
    }
}

static enum err read_keys(struct serve *serve, struct err_text *text) {
    struct api_options *api = &serve->api_options;
    for (uint32_t i = 0; i < options_list_count(serve->options, OPT_API_KEY); i++)
        api->api_keys[api->api_key_count++] = options_list_item(serve->options, OPT_API_KEY, i);
    const char *path = options_text(serve->options, OPT_API_KEY_FILE);
    if (!path) return ERR_OK;
    struct buf file;
    buf_init(&file, 0);
    enum err e = cmd_read_all(path, KEYS_FILE_BYTES_MAX, text, &file);
    serve->file_keys = alloc_zero(API_KEYS_MAX, sizeof *serve->file_keys);
    if (!e && !serve->file_keys) e = ERR_MEMORY;
    for (size_t at = 0; !e && at < file.bytes;) {
        size_t line_end = at;
        while (line_end < file.bytes && file.data[line_end] != '\n') line_end++;
        size_t bytes = line_end - at;
        if (bytes && file.data[line_end - 1] == '\r') bytes--;
        if (bytes) {
            if (api->api_key_count == API_KEYS_MAX)
                e = err_set(text, ERR_LIMIT, "%s: more than %d keys", path, API_KEYS_MAX);
            else {
                char *key = alloc_string((const char *) file.data + at, bytes);
                if (!key) e = ERR_MEMORY;
                else {
                    serve->file_keys[serve->file_key_count++] = key;
                    api->api_keys[api->api_key_count++] = key;
                }
            }
        }
        at = line_end + 1;
    }
    if (!e && !serve->file_key_count) e = err_set(text, ERR_USAGE, "%s: holds no key", path);
    buf_release(&file);
    return e;
}

static void read_limits(const struct options *options, struct http_limits *limits) {
    http_limits_default(limits);
    limits->connections_max = (uint32_t) options_count(options, OPT_MAX_CONNECTIONS);
    limits->header_bytes_max = options_count(options, OPT_MAX_HEADER);
    limits->body_bytes_max = options_count(options, OPT_MAX_BODY);
    limits->header_timeout_ms = options_ms(options, OPT_HEADER_TIMEOUT);
    limits->body_timeout_ms = options_ms(options, OPT_BODY_TIMEOUT);
    limits->keep_alive_ms = options_ms(options, OPT_KEEP_ALIVE_TIMEOUT);
    limits->write_timeout_ms = options_ms(options, OPT_WRITE_TIMEOUT);
}

static void raise_file_limit(void) {
    struct rlimit limit;
    if (getrlimit(RLIMIT_NOFILE, &limit) || limit.rlim_cur == limit.rlim_max) return;
    limit.rlim_cur = limit.rlim_max;
    setrlimit(RLIMIT_NOFILE, &limit);
}

static void start_loop_handles(struct serve *serve) {
    uv_signal_init(serve->loop, &serve->on_term);
    uv_signal_init(serve->loop, &serve->on_int);
    uv_async_init(serve->loop, &serve->on_change, on_worker_change);
    uv_timer_init(serve->loop, &serve->drain_timer);
    uv_timer_init(serve->loop, &serve->progress_timer);
    serve->on_term.data = serve->on_int.data = serve->on_change.data = serve;
    serve->drain_timer.data = serve->progress_timer.data = serve->open_work.data = serve;
    uv_signal_start(&serve->on_term, on_signal, SIGTERM);
    uv_signal_start(&serve->on_int, on_signal, SIGINT);
    if (isatty(STDERR_FILENO)) uv_timer_start(&serve->progress_timer, on_progress_tick, 50, 50);
}

static enum err start(struct serve *serve, struct err_text *text) {
    const struct options *options = serve->options;
    struct api_options *api = &serve->api_options;
    struct http_limits limits;
    read_limits(options, &limits);
    for (uint32_t i = 0; i < options_list_count(options, OPT_SERVED_MODEL_NAME); i++) {
        if (i == API_NAMES_MAX)
            return err_set(text, ERR_LIMIT, "--served-model-name: more than %d names",
                           API_NAMES_MAX);
        api->served_names[api->served_name_count++] =
            options_list_item(options, OPT_SERVED_MODEL_NAME, i);
    }
    api->queue_requests_max = (uint32_t) options_count(options, OPT_MAX_QUEUE);
    api->queue_prompt_bytes_max = options_count(options, OPT_MAX_QUEUE_BYTES);
    api->queue_timeout_ms = options_ms(options, OPT_QUEUE_TIMEOUT);
    api->sse_keep_alive_ms = options_ms(options, OPT_SSE_KEEP_ALIVE);
    api->sync_timeout_ms = options_ms(options, OPT_SYNC_TIMEOUT);
    api->guards_metrics = options_bool(options, OPT_GUARD_METRICS);
    api->allowed_origins = options_text(options, OPT_ALLOWED_ORIGINS);
    api->version = GRAMME_VERSION;
    enum err e = read_keys(serve, text);
    if (!e) e = bus_local_create(RING_MESSAGES, RING_BYTES, &serve->bus);
    if (!e)
        e = api_create(serve->loop, serve->bus, draw_instance(), api, &limits, get_health, serve,
                       text, &serve->api);
    if (e) return e;
    start_loop_handles(serve);
    const char *host = options_text(options, OPT_HOST);
    e = api_listen(serve->api, host, (uint16_t) options_count(options, OPT_PORT), text,
                   &serve->port);
    if (e) {
        end(serve, CMD_FAILED);
        return e;
    }
    bool is_local =
        strncmp(host, "127.", 4) == 0 || strcmp(host, "::1") == 0 || strcmp(host, "localhost") == 0;
    if (!is_local && !api->api_key_count)
        log_warn("%s is open to the network and no --api-key is set: anyone can use this server",
                 host);
    log_info("listening on %s port %u, loading %s", host, serve->port, serve->model_name);
    serve->phase = LOADING;
    serve->is_opening = true;
    if (uv_queue_work(serve->loop, &serve->open_work, open_model, on_model_open)) {
        end(serve, CMD_FAILED);
        return err_set(text, ERR_MEMORY, "out of memory");
    }
    return ERR_OK;
}

static void release(struct serve *serve) {
    worker_destroy(serve->worker);
    api_destroy(serve->api);
    bus_destroy(serve->bus);
    chat_template_destroy(serve->chat_template);
    tokenizer_close(serve->tokenizer);
    model_close(serve->model);
    for (uint32_t i = 0; i < serve->file_key_count; i++) alloc_free(serve->file_keys[i]);
    alloc_free(serve->file_keys);
}

static enum err check_arguments(const struct options *options, const char **positional,
                                uint32_t count, struct err_text *text) {
    static const char *const later[] = {"agg_router", "disagg", "disagg_router"};
    for (uint32_t i = 0; i < count; i++) {
        for (size_t k = 0; k < ARRAY_COUNT(later); k++)
            if (strcmp(positional[i], later[k]) == 0)
                return err_set(text, ERR_UNSUPPORTED,
                               "serve %s is not built yet; 'serve agg' serves one worker",
                               later[k]);
        if (strcmp(positional[i], "agg") != 0)
            return err_set(text, ERR_USAGE,
                           "'%s' is no graph; if it is a model: gramme serve -m %s", positional[i],
                           positional[i]);
    }
    if (!options_text(options, OPT_MODEL))
        return err_set(text, ERR_USAGE, "no model: gramme serve -m MODEL");
    return ERR_OK;
}

int cmd_serve(int argc, char **argv) {
    struct options *options = NULL;
    const char *positional[CMD_POSITIONAL_MAX];
    uint32_t positional_count = 0;
    int status = cmd_options(OPTION_SERVE, argc, argv, &options, positional, &positional_count);
    if (status) return status;
    uv_loop_t loop;
    struct err_text text = {0};
    struct serve serve = {.options = options, .loop = &loop, .started_ns = clock_now_ns()};
    if (options_bool(options, OPT_PRINT_CONFIG)) {
        cmd_print_config(options);
        options_destroy(options);
        return CMD_DONE;
    }
    enum err e = check_arguments(options, positional, positional_count, &text);
    if (e) {
        options_destroy(options);
        return cmd_fail(e, &text);
    }
    serve.model_name = options_text(options, OPT_MODEL);
    raise_file_limit();
    uv_loop_init(&loop);
    e = start(&serve, &text);
    if (serve.api) uv_run(&loop, UV_RUN_DEFAULT);
    status = e ? cmd_fail(e, &text) : serve.status;
    release(&serve);
    uv_loop_close(&loop);
    options_destroy(options);
    return status;
}
