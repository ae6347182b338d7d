/* cmd_frontend - see cmd_frontend.h; also `gramme frontend`.
 *
 * The main thread runs the loop.  The port is bound first, so that health answers while the model
 * is opened (on libuv's pool) and while workers load.
 *
 *   STARTING -> LOADING -> SERVING -> DRAINING -> CLOSING -> done
 *       any   -- fatal error --------------------^
 *   LOADING ends when enough workers are known.  DRAINING: health is 503 at once; requests are
 *   taken for --drain-delay, then refused; what runs may finish within --drain-timeout.  A second
 *   signal ends at once. */
#include "cmd/cmd_frontend.h"

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <uv.h>

#include "api/api.h"
#include "base/alloc.h"
#include "base/clock.h"
#include "base/log.h"
#include "cmd/cmd.h"
#include "cmd/cmd_memory.h"
#include "cmd/cmd_model.h"
#include "cmd/cmd_process.h"
#include "cmd/cmd_worker.h"
#include "worker/worker.h"

#define DRAIN_POLL_MS 5
#define WATCH_MS 20 /* while loading; then it is fifty times slower */
#define KEYS_FILE_BYTES_MAX 65536

enum phase { STARTING, LOADING, SERVING, DRAINING, CLOSING };

struct frontend {
    const struct cmd_frontend_setup *setup;
    const struct options *options; /* of the setup */
    uv_loop_t *loop;
    uv_signal_t on_term, on_int;
    uv_async_t on_change;
    uv_timer_t drain_timer, watch_timer;
    uv_work_t open_work;
    enum phase phase;
    bool is_refusing; /* draining, and the delay is over */
    bool is_opening;  /* open_work is under way */
    uint64_t started_ns, drain_ns;

    const char *model_name;
    struct model *model;
    struct tokenizer *tokenizer;
    struct chat_template *chat_template;
    struct api *api;
    struct api_options api_options;
    uint32_t len_max;           /* of the model, or as written */
    struct worker *worker;      /* the local one */
    struct device_watch *watch; /* of the node's cards, where no local worker watches them */
    char **file_keys;           /* of --api-key-file: owned */
    uint32_t file_key_count;
    uint16_t port;
    enum err open_error;
    struct err_text open_text;
    int status;
};

/* --- the end ----------------------------------------------------------------------------- */

static void close_handle(uv_handle_t *handle, void *ctx) {
    (void) ctx;
    if (!uv_is_closing(handle)) uv_close(handle, NULL);
}

static void on_api_closed(void *ctx) {
    struct frontend *frontend = ctx;
    worker_destroy(frontend->worker);
    frontend->worker = NULL;
    uv_walk(frontend->loop, close_handle, NULL);
}

static void end(struct frontend *frontend, int status) {
    if (frontend->phase == CLOSING) return;
    frontend->phase = CLOSING;
    frontend->status = status;
    api_close(frontend->api, on_api_closed, frontend);
}

static void on_drain_tick(uv_timer_t *timer) {
    struct frontend *frontend = timer->data;
    uint64_t age_ms = (clock_now_ns() - frontend->drain_ns) / 1000000u;
    uint32_t delay_ms = options_ms(frontend->options, OPT_DRAIN_DELAY);
    if (age_ms < delay_ms) return;
    if (!frontend->is_refusing) {
        frontend->is_refusing = true;
        api_drain(frontend->api);
    }
    uint32_t live = api_live_count(frontend->api);
    if (live && age_ms - delay_ms < options_ms(frontend->options, OPT_DRAIN_TIMEOUT)) return;
    if (live) log_warn("%u requests did not finish within the drain timeout: ended", live);
    uv_timer_stop(timer);
    log_info("stopped");
    end(frontend, CMD_DONE);
}

static void on_signal(uv_signal_t *handle, int number) {
    struct frontend *frontend = handle->data;
    if (frontend->phase >= DRAINING) {
        log_warn("second signal: ending at once");
        _exit(CMD_INTERRUPTED);
    }
    bool was_serving = frontend->phase == SERVING;
    frontend->phase = DRAINING;
    frontend->drain_ns = clock_now_ns();
    log_info("%s: %s", number == SIGTERM ? "sigterm" : "interrupted",
             was_serving ? "draining" : "stopping while loading");
    /* Nothing runs yet while loading: the step thread stops at its next stage. */
    if (!was_serving && frontend->is_opening) return;
    uv_timer_start(&frontend->drain_timer, on_drain_tick, 0, DRAIN_POLL_MS);
}

/* --- loading ----------------------------------------------------------------------------- */

static int tell_failure(const struct frontend *frontend, enum err e, bool is_permanent,
                        const struct err_text *text) {
    struct cmd_process process = {.report_fd = frontend->setup->report_fd};
    return cmd_process_fail(&process, e, is_permanent, text);
}

static void fail(struct frontend *frontend, enum err e, const struct err_text *text) {
    uv_timer_stop(&frontend->watch_timer);
    if (frontend->phase < DRAINING) end(frontend, tell_failure(frontend, e, false, text));
    else end(frontend, CMD_DONE);
}

static void become_ready(struct frontend *frontend) {
    frontend->phase = SERVING;
    uv_timer_set_repeat(&frontend->watch_timer, 50 * WATCH_MS);
    const char *host = options_text(frontend->options, OPT_HOST);
    struct report report = {.kind = REPORT_READY};
    snprintf(report.text, sizeof report.text, "%.500s on http://%s%.400s%s:%u",
             frontend->api_options.served_names[0], strchr(host, ':') ? "[" : "", host,
             strchr(host, ':') ? "]" : "", frontend->port);
    report_send(frontend->setup->report_fd, &report);
    log_info("%s %s after %.2f s", frontend->setup->report_fd < 0 ? "ready:" : "serving",
             report.text, (double) (clock_now_ns() - frontend->started_ns) / 1e9);
}

static void on_worker_change(uv_async_t *handle) {
    struct frontend *frontend = handle->data;
    if (!frontend->worker || frontend->phase == CLOSING) return;
    struct worker_status status;
    worker_get_status(frontend->worker, &status);
    if (status.state == WORKER_FAILED) {
        fail(frontend, ERR_IO, &status.error);
        return;
    }
    if (status.state != WORKER_SERVING || frontend->phase != LOADING) return;
    cmd_model_progress(NULL, "", 1, 1);
    const struct plan *plan = worker_get_plan(frontend->worker);
    frontend->api_options.model_len_max = plan->model_len_max;
    api_set_model(frontend->api, &frontend->api_options);
    cmd_worker_log_plan(plan);
    cmd_memory_settle(plan, frontend->model,
                      options_bool(frontend->setup->local_worker, OPT_PREFAULT), false);
    become_ready(frontend);
}

static void wake_main(void *ctx) { uv_async_send(&((struct frontend *) ctx)->on_change); }

static void show_progress(struct frontend *frontend) {
    struct worker_status status;
    worker_get_status(frontend->worker, &status);
    if (status.state == WORKER_LOADING && status.total_bytes)
        cmd_model_progress(NULL, status.stage, status.done_bytes, status.total_bytes);
}

/* Workers elsewhere: enough of them is ready; the shortest thought of a sequence is theirs. */
static void on_watch_tick(uv_timer_t *timer) {
    struct frontend *frontend = timer->data;
    if (frontend->phase > SERVING || frontend->is_opening) return;
    if (frontend->setup->local_worker) {
        if (frontend->worker && frontend->phase == LOADING) show_progress(frontend);
        return;
    }
    uint32_t len_max = api_worker_len_max(frontend->api);
    if (len_max)
        api_set_len(frontend->api, len_max < frontend->len_max ? len_max : frontend->len_max);
    if (frontend->phase == LOADING &&
        api_worker_count(frontend->api) >= options_count(frontend->options, OPT_MIN_WORKERS))
        become_ready(frontend);
}

static enum err start_worker(struct frontend *frontend, struct err_text *text) {
    const struct cmd_worker_setup setup = {
        .options = frontend->setup->local_worker,
        .queue_requests_max = frontend->api_options.queue_requests_max,
        .queue_prompt_bytes_max = frontend->api_options.queue_prompt_bytes_max,
        .instance = cmd_process_draw_instance(),
        .device_bytes = frontend->setup->local_device_bytes,
        .has_frontend = true,
    };
    enum err e = cmd_worker_create(&setup, frontend->model, tokenizer_digest(frontend->tokenizer),
                                   frontend->setup->bus, text, &frontend->worker);
    if (!e) worker_on_change(frontend->worker, wake_main, frontend);
    if (!e) wake_main(frontend); /* it may have changed before we listened */
    return e;
}

/* On the pool: files only. */
static void open_model(uv_work_t *work) {
    struct frontend *frontend = work->data;
    struct err_text *text = &frontend->open_text;
    const struct options *options =
        frontend->setup->local_worker ? frontend->setup->local_worker : frontend->options;
    enum err e = cmd_model_open(options, frontend->model_name, text, &frontend->model);
    if (!e) e = model_open_tokenizer(frontend->model, text, &frontend->tokenizer);
    const char *source = e ? NULL : model_chat_template(frontend->model);
    if (source) {
        struct err_text why;
        if (chat_template_create(source, strlen(source), &why, &frontend->chat_template))
            log_warn("no chat completions: %s", why.text);
    }
    if (!e && !frontend->setup->local_worker) model_drop_pages(frontend->model);
    frontend->open_error = e;
}

static void set_defaults(struct frontend *frontend) {
    struct api_sampling_defaults *defaults = &frontend->api_options.defaults;
    const struct model_generation *generation = model_generation_defaults(frontend->model);
    *defaults = (struct api_sampling_defaults){
        .temperature = 1, .top_p = 1, .min_p = 0, .repetition_penalty = 1, .top_k = 0};
    if (strcasecmp(options_text(frontend->options, OPT_GENERATION_CONFIG), "none") == 0) return;
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
    struct frontend *frontend = work->data;
    frontend->is_opening = false;
    if (frontend->phase == DRAINING) { /* a signal came while the files were read */
        end(frontend, CMD_DONE);
        return;
    }
    if (frontend->open_error) {
        fail(frontend, frontend->open_error, &frontend->open_text);
        return;
    }
    const struct model_spec *spec = model_get_spec(frontend->model);
    struct api_options *api = &frontend->api_options;
    api->tokenizer = frontend->tokenizer;
    api->chat_template = frontend->chat_template;
    api->bos_text = model_special_token(frontend->model, "bos_token");
    api->eos_text = model_special_token(frontend->model, "eos_token");
    api->vocab_size = spec->vocab_size;
    api->eos_ids = spec->eos_ids;
    api->eos_count = spec->eos_count;
    if (!api->served_name_count) api->served_names[api->served_name_count++] = spec->name;
    set_defaults(frontend);
    frontend->len_max = spec->context_tokens;
    if (options_is_set(frontend->options, OPT_MAX_MODEL_LEN) &&
        options_count(frontend->options, OPT_MAX_MODEL_LEN) < frontend->len_max)
        frontend->len_max = (uint32_t) options_count(frontend->options, OPT_MAX_MODEL_LEN);
    struct err_text text = {0};
    enum err e = ERR_OK;
    if (frontend->setup->local_worker) e = start_worker(frontend, &text);
    else {
        api->model_len_max = frontend->len_max;
        api_set_model(frontend->api, api);
    }
    if (e) fail(frontend, e, &text);
}

/* --- the beginning ----------------------------------------------------------------------- */

/* Of a worker in this process. */
static void add_local_health(const struct frontend *frontend, struct api_health *out) {
    struct worker_status status = {.state = WORKER_LOADING};
    if (frontend->worker) worker_get_status(frontend->worker, &status);
    if (status.state == WORKER_FAILED || status.state == WORKER_STOPPED) {
        out->stage = "failed";
        out->is_ready = false;
    } else if (frontend->phase < SERVING) {
        out->stage = status.stage[0] ? "loading weights" : "opening the model";
        if (status.total_bytes)
            out->percent = 100.0 * (double) status.done_bytes / (double) status.total_bytes;
    } else if (status.is_stuck) {
        out->stage = "a step is stuck";
        out->is_ready = false;
        out->is_live = status.stuck_ms < 3ull * options_ms(frontend->options, OPT_STEP_TIMEOUT);
    }
}

static void get_health(void *ctx, struct api_health *out) {
    struct frontend *frontend = ctx;
    *out = (struct api_health){.is_live = true, .percent = -1};
    if (frontend->phase >= DRAINING) {
        out->stage = "draining";
        return;
    }
    out->is_ready = frontend->phase == SERVING;
    if (!out->is_ready)
        out->stage = frontend->is_opening ? "opening the model" : "waiting for workers";
    if (frontend->setup->local_worker) add_local_health(frontend, out);
}

/* Cards alone: memory is watched by who has a plan, and by the supervisor. */
static void start_watch(struct frontend *frontend) {
    const struct device_watch_options options = {
        .card_count = DEVICE_GPUS_MAX,
        .family_pid = frontend->setup->report_fd >= 0 ? (uint32_t) getppid() : 0};
    if (frontend->setup->local_worker) return;
    if (device_watch_start(&options, &frontend->watch))
        log_warn("nobody watches the cards: no thread for it");
}

static void look_at_cards(void *ctx, struct device_watch_sample *out) {
    const struct frontend *frontend = ctx;
    *out = (struct device_watch_sample){0};
    if (frontend->watch) device_watch_get(frontend->watch, out);
    else if (frontend->worker) worker_get_sample(frontend->worker, out);
}

static enum err read_keys(struct frontend *frontend, struct err_text *text) {
    struct api_options *api = &frontend->api_options;
    for (uint32_t i = 0; i < options_list_count(frontend->options, OPT_API_KEY); i++) {
        const char *key = options_list_item(frontend->options, OPT_API_KEY, i);
        if (!*key) return err_set(text, ERR_USAGE, "the API key is empty: give one, or none");
        api->api_keys[api->api_key_count++] = key;
    }
    const char *path = options_text(frontend->options, OPT_API_KEY_FILE);
    if (!path) return ERR_OK;
    struct buf file;
    buf_init(&file, 0);
    enum err e = cmd_read_all(path, KEYS_FILE_BYTES_MAX, text, &file);
    frontend->file_keys = alloc_zero(API_KEYS_MAX, sizeof *frontend->file_keys);
    if (!e && !frontend->file_keys) e = ERR_MEMORY;
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
                    frontend->file_keys[frontend->file_key_count++] = key;
                    api->api_keys[api->api_key_count++] = key;
                }
            }
        }
        at = line_end + 1;
    }
    if (!e && !frontend->file_key_count) e = err_set(text, ERR_USAGE, "%s: holds no key", path);
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

static void start_loop_handles(struct frontend *frontend) {
    uv_signal_init(frontend->loop, &frontend->on_term);
    uv_signal_init(frontend->loop, &frontend->on_int);
    uv_async_init(frontend->loop, &frontend->on_change, on_worker_change);
    uv_timer_init(frontend->loop, &frontend->drain_timer);
    uv_timer_init(frontend->loop, &frontend->watch_timer);
    frontend->on_term.data = frontend->on_int.data = frontend->on_change.data = frontend;
    frontend->drain_timer.data = frontend->watch_timer.data = frontend->open_work.data = frontend;
    uv_signal_start(&frontend->on_term, on_signal, SIGTERM);
    uv_signal_start(&frontend->on_int, on_signal, SIGINT);
    uv_timer_start(&frontend->watch_timer, on_watch_tick, WATCH_MS, WATCH_MS);
}

static enum err start(struct frontend *frontend, struct err_text *text) {
    const struct options *options = frontend->options;
    struct api_options *api = &frontend->api_options;
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
    api_options_read_router(api, options);
    api->tells_workers = frontend->setup->tells_workers;
    if (frontend->setup->local_worker) /* it is a thread of this process: silence is no sign */
        api->gone_timeout_ms = api->step_timeout_ms = 0;
    api->guards_metrics = options_bool(options, OPT_GUARD_METRICS);
    api->allowed_origins = options_text(options, OPT_ALLOWED_ORIGINS);
    api->version = GRAMME_VERSION;
    api->look_at_cards = look_at_cards;
    api->cards_ctx = frontend;
    enum err e = read_keys(frontend, text);
    if (!e)
        e = api_create(frontend->loop, frontend->setup->bus, frontend->setup->instance, api,
                       &limits, get_health, frontend, text, &frontend->api);
    if (e) return e;
    start_loop_handles(frontend);
    start_watch(frontend);
    const char *host = options_text(options, OPT_HOST);
    e = api_listen(frontend->api, host, (uint16_t) options_count(options, OPT_PORT), text,
                   &frontend->port);
    if (e) {
        end(frontend, CMD_FAILED);
        return e;
    }
    bool is_local =
        strncmp(host, "127.", 4) == 0 || strcmp(host, "::1") == 0 || strcmp(host, "localhost") == 0;
    if (!is_local && !api->api_key_count)
        log_warn("%s is open to the network and no --api-key is set: anyone can use this server",
                 host);
    log_info("listening on %s port %u, loading %s", host, frontend->port, frontend->model_name);
    frontend->phase = LOADING;
    frontend->is_opening = true;
    if (uv_queue_work(frontend->loop, &frontend->open_work, open_model, on_model_open)) {
        end(frontend, CMD_FAILED);
        return err_set(text, ERR_MEMORY, "out of memory");
    }
    return ERR_OK;
}

static void release(struct frontend *frontend) {
    worker_destroy(frontend->worker);
    device_watch_stop(frontend->watch);
    api_destroy(frontend->api);
    chat_template_destroy(frontend->chat_template);
    tokenizer_close(frontend->tokenizer);
    model_close(frontend->model);
    for (uint32_t i = 0; i < frontend->file_key_count; i++) alloc_free(frontend->file_keys[i]);
    alloc_free(frontend->file_keys);
}

/* A port that is taken stays so: no supervisor should try it again and again. */
int cmd_frontend_serve(const struct cmd_frontend_setup *setup) {
    uv_loop_t loop;
    struct err_text text = {0};
    struct frontend frontend = {
        .setup = setup, .options = setup->options, .loop = &loop, .started_ns = clock_now_ns()};
    const struct options *of_model = setup->local_worker ? setup->local_worker : setup->options;
    frontend.model_name = options_text(of_model, OPT_MODEL);
    enum err e = cmd_process_raise_file_limit(&text);
    if (e) return tell_failure(&frontend, e, true, &text);
    uv_loop_init(&loop);
    e = start(&frontend, &text);
    if (frontend.api) uv_run(&loop, UV_RUN_DEFAULT);
    int status = e ? tell_failure(&frontend, e, true, &text) : frontend.status;
    release(&frontend);
    uv_loop_close(&loop);
    return status;
}

int cmd_frontend(int argc, char **argv) {
    struct cmd_process process;
    int status = cmd_process_open(OPTION_FRONTEND, GRAPH_FRONTEND, argc, argv, &process);
    if (status) return status;
    struct err_text text = {0};
    struct bus *bus = NULL;
    enum err e = ERR_OK;
    if (options_bool(process.options, OPT_PRINT_CONFIG)) {
        cmd_print_config(process.options);
        cmd_process_close(&process);
        return CMD_DONE;
    }
    if (!options_text(process.options, OPT_MODEL))
        e = err_set(&text, ERR_USAGE, "no model: gramme frontend -m MODEL (its tokenizer is used)");
    if (!e) e = cmd_process_open_bus(&process, &text, &bus);
    if (e) {
        status = cmd_process_fail(&process, e, true, &text);
    } else {
        struct cmd_frontend_setup setup = {.options = process.options,
                                           .bus = bus,
                                           .instance = process.handover.instance,
                                           .report_fd = process.report_fd,
                                           .tells_workers = process.handover.tells_workers};
        status = cmd_frontend_serve(&setup);
        bus_destroy(bus);
    }
    cmd_process_close(&process);
    return status;
}
