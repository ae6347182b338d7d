/* cmd_worker - see cmd_worker.h; also `gramme worker` and `gramme prefill`.
 *
 * The main thread runs a small loop: signals, the system port, reports to the supervisor.  The
 * engine lives on the worker's step thread.
 *
 *   OPENING -> LOADING -> SERVING -> DRAINING -> CLOSING -> done      any -- failed --> CLOSING */
#include "cmd/cmd_worker.h"

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <uv.h>

#include "base/clock.h"
#include "base/log.h"
#include "cmd/cmd.h"
#include "cmd/cmd_bus.h"
#include "cmd/cmd_memory.h"
#include "cmd/cmd_model.h"
#include "cmd/cmd_process.h"
#include "cmd/cmd_system_port.h"
#include "device/device_list.h"
#include "plan/graph_plan.h"

#define SIM_KV_BYTES_MAX (16u << 20) /* on a device: some 43,000 blocks */

enum phase { OPENING, LOADING, SERVING, DRAINING, CLOSING };

struct process {
    struct cmd_process base;
    bool is_prefill;
    uv_loop_t loop;
    uv_signal_t on_term, on_int;
    uv_async_t on_change;
    uv_timer_t drain_timer;
    uv_work_t open_work;
    enum phase phase;
    uint64_t started_ns;
    struct bus *bus;
    struct model *model;
    struct worker *worker;
    struct cmd_system_port *system_port;
    struct core_share *core_share; /* owned; NULL: alone on this node */
    uint16_t http_port;
    uint64_t tokenizer_digest;
    char bus_side[CMD_BUS_SIDE_BYTES]; /* our address towards the nats-server; "" loopback */
    enum err open_error;
    struct err_text open_text;
    int status;
};

/* --- also for a worker inside a frontend ------------------------------------------------- */

void cmd_worker_log_plan(const struct plan *plan) {
    log_info(
        "kv cache: %llu tokens in %u blocks, %.1f requests of %u tokens at once; %.2f GiB planned",
        (unsigned long long) plan->kv_tokens, plan->block_count, plan->concurrency,
        plan->model_len_max, (double) plan->total_bytes / (1u << 30));
}

static enum err read_ports(const char *ports, struct err_text *text, struct worker_handoff *out) {
    unsigned first, last;
    char rest;
    if (!ports) return ERR_OK;
    if (sscanf(ports, "%u-%u%c", &first, &last, &rest) != 2 || first == 0 || last < first ||
        last > UINT16_MAX)
        return err_set(text, ERR_USAGE, "transfer-ports: '%s' is not FIRST-LAST", ports);
    out->port_first = (uint16_t) first;
    out->port_last = (uint16_t) last;
    return ERR_OK;
}

static enum err read_handoff(const struct cmd_worker_setup *setup, struct err_text *text,
                             struct worker_handoff *out) {
    const struct options *o = setup->options;
    *out = (struct worker_handoff){
        .is_prefill = setup->is_prefill,
        .listen = options_text(o, OPT_TRANSFER_LISTEN),
        .transports = options_text(o, OPT_TRANSFER_TRANSPORTS),
        .transfer_timeout_ms = options_ms(o, OPT_TRANSFER_TIMEOUT),
        .quarantine_timeout_ms = options_ms(o, OPT_QUARANTINE_TIMEOUT),
        .is_verifying = options_bool(o, OPT_VERIFY_KV),
    };
    if (!setup->is_prefill)
        out->rule = (struct handoff_rule){
            .is_remote = options_bool(o, OPT_REMOTE_PREFILL),
            .is_conditional = options_bool(o, OPT_CONDITIONAL_DISAGG),
            .local_tokens_max = (uint32_t) options_count(o, OPT_MAX_LOCAL_PREFILL_LENGTH),
            .queue_max = (uint32_t) options_count(o, OPT_MAX_PREFILL_QUEUE_SIZE),
            .timeout_ms = options_ms(o, OPT_REMOTE_PREFILL_TIMEOUT),
        };
    if (!out->listen) out->listen = setup->bus_side; /* NULL: loopback */
    return read_ports(options_text(o, OPT_TRANSFER_PORTS), text, out);
}

/* The smallest of the devices that --devices gives this worker's ranks. */
static enum err read_devices(const struct options *options, uint32_t rank_count,
                             struct err_text *text, uint64_t *bytes) {
    const char *written = options_text(options, OPT_DEVICES);
    if (!written) return ERR_OK;
    struct device_list devices;
    enum err e = device_list_parse(written, NULL, text, &devices);
    if (e) return e;
    if (devices.count < rank_count)
        e = err_set(text, ERR_USAGE, "--devices: %u of them, and tensor-parallel-size is %u",
                    devices.count, rank_count);
    for (uint32_t i = 0; !e && i < rank_count; i++)
        if (!i || devices.items[i].total_bytes < *bytes) *bytes = devices.items[i].total_bytes;
    device_list_release(&devices);
    return e;
}

/* The room a rank has: its device's, or a share of the machine's. */
static enum err set_budget(const struct cmd_worker_setup *setup, uint32_t rank_count,
                           struct err_text *text, struct plan_budget *budget) {
    bool is_sim = strcasecmp(options_text(setup->options, OPT_ENGINE), "sim") == 0;
    uint64_t device_bytes = setup->device_bytes;
    enum err e =
        device_bytes ? ERR_OK : read_devices(setup->options, rank_count, text, &device_bytes);
    if (e) return e;
    if (device_bytes) {
        budget->total_bytes = device_bytes;
        budget->available_bytes = 0;
        budget->is_shared = false;
        if (!(budget->utilization > 0)) budget->utilization = GRAPH_PLAN_UTILIZATION;
        /* A simulated block is a few bytes: a card full of them would drown the host. */
        if (is_sim && !budget->kv_bytes) budget->kv_bytes = SIM_KV_BYTES_MAX;
    } else if (setup->memory_sharers > 1) {
        budget->total_bytes /= setup->memory_sharers;
        budget->available_bytes /= setup->memory_sharers;
    }
    return ERR_OK;
}

enum err cmd_worker_create(const struct cmd_worker_setup *setup, const struct model *model,
                           uint64_t tokenizer_digest, struct bus *bus, struct err_text *text,
                           struct worker **out) {
    const struct options *options = setup->options;
    struct worker_boot_options boot;
    enum err e = cmd_model_boot_options(options, model_get_spec(model), text, &boot);
    if (e) return e;
    if (setup->queue_requests_max) {
        boot.engine.queue_requests_max = setup->queue_requests_max;
        boot.engine.queue_prompt_bytes_max = setup->queue_prompt_bytes_max;
    }
    boot.backend.core_share = setup->core_share;
    boot.backend.core_count = setup->core_count;
    boot.backend.is_thread_count_fixed = options_is_set(options, OPT_THREADS);
    e = set_budget(setup, boot.backend.rank_count, text, &boot.budget);
    if (e) return e;
    if (setup->is_prefill) { /* what is computed is sent while the next chunk is */
        boot.engine.is_chunked_prefill = true;
        boot.engine.prefill_chunk_max = (uint32_t) options_count(options, OPT_HANDOFF_CHUNK_TOKENS);
    }
    struct worker_options worker = {
        .backend = boot.backend,
        .engine = boot.engine,
        .budget = boot.budget,
        .ops = boot.ops,
        .tokenizer_digest = tokenizer_digest,
        .sync_timeout_ms = options_ms(options, OPT_SYNC_TIMEOUT),
        .step_timeout_ms = options_ms(options, OPT_STEP_TIMEOUT),
        .prefault = boot.prefault,
        .is_forced = options_bool(options, OPT_FORCE),
        .load_concurrency = (uint32_t) options_count(options, OPT_LOAD_CONCURRENCY),
        .name = setup->name,
        .http_port = setup->http_port,
        .is_node = !setup->is_supervised,
    };
    e = read_handoff(setup, text, &worker.handoff);
    worker.budget.process.has_frontend = setup->has_frontend;
    worker.budget.process.has_transfer = setup->is_prefill || worker.handoff.rule.is_remote;
    if (e) return e;
    return worker_create(&worker, model, bus, setup->instance, text, out);
}

/* --- the end ----------------------------------------------------------------------------- */

static void close_handle(uv_handle_t *handle, void *ctx) {
    (void) ctx;
    if (!uv_is_closing(handle)) uv_close(handle, NULL);
}

static void on_port_closed(void *ctx) {
    struct process *process = ctx;
    process->system_port = NULL;
    uv_walk(&process->loop, close_handle, NULL);
}

static void end(struct process *process, int status) {
    if (process->phase == CLOSING) return;
    process->phase = CLOSING;
    process->status = status;
    worker_destroy(process->worker);
    process->worker = NULL;
    if (process->system_port) cmd_system_port_close(process->system_port, on_port_closed, process);
    else on_port_closed(process);
}

static void fail(struct process *process, enum err e, const struct err_text *text) {
    if (process->phase >= DRAINING) end(process, CMD_DONE);
    else end(process, cmd_process_fail(&process->base, e, false, text));
}

static void on_drain_timeout(uv_timer_t *timer) {
    struct process *process = timer->data;
    struct worker_status status;
    worker_get_status(process->worker, &status);
    log_warn("%u requests did not finish within the drain timeout: they go on elsewhere",
             status.load.running_requests + status.load.waiting_requests);
    end(process, CMD_DONE);
}

static void on_signal(uv_signal_t *handle, int number) {
    struct process *process = handle->data;
    if (process->phase >= DRAINING) {
        log_warn("second signal: ending at once");
        _exit(CMD_INTERRUPTED);
    }
    bool was_serving = process->phase == SERVING;
    bool was_opening = process->phase == OPENING;
    process->phase = DRAINING;
    log_info("%s: %s", number == SIGTERM ? "sigterm" : "interrupted",
             was_serving ? "draining" : "stopping while loading");
    if (was_opening) return; /* the pool is reading files: ends when it is back */
    if (!was_serving) {
        end(process, CMD_DONE);
        return;
    }
    worker_drain(process->worker);
    uv_timer_start(&process->drain_timer, on_drain_timeout,
                   options_ms(process->base.options, OPT_DRAIN_TIMEOUT), 0);
}

/* --- loading ----------------------------------------------------------------------------- */

static void become_ready(struct process *process) {
    process->phase = SERVING;
    const struct plan *plan = worker_get_plan(process->worker);
    cmd_worker_log_plan(plan);
    cmd_memory_settle(plan, process->model, options_bool(process->base.options, OPT_PREFAULT),
                      false);
    struct report report = {.kind = REPORT_READY};
    snprintf(report.text, sizeof report.text, "%u blocks", plan->block_count);
    report_send(process->base.report_fd, &report);
    log_info("ready after %.2f s", (double) (clock_now_ns() - process->started_ns) / 1e9);
}

static void on_worker_change(uv_async_t *handle) {
    struct process *process = handle->data;
    if (!process->worker || process->phase == CLOSING) return;
    struct worker_status status;
    worker_get_status(process->worker, &status);
    switch (status.state) {
    case WORKER_FAILED: fail(process, status.cause, &status.error); break;
    case WORKER_STOPPED:
        log_info("stopped");
        end(process, CMD_DONE);
        break;
    case WORKER_SERVING:
        if (process->phase != LOADING) break;
        if (!process->base.is_supervised) cmd_model_progress(NULL, "", 1, 1);
        become_ready(process);
        break;
    case WORKER_LOADING: {
        struct report report = {.kind = REPORT_LOADING,
                                .done_bytes = status.done_bytes,
                                .total_bytes = status.total_bytes};
        snprintf(report.text, sizeof report.text, "%s", status.stage);
        report_send(process->base.report_fd, &report);
        cmd_model_progress(&process->base.is_supervised, status.stage, status.done_bytes,
                           status.total_bytes);
        break;
    }
    case WORKER_DRAINING: break;
    }
}

static void wake_main(void *ctx) { uv_async_send(&((struct process *) ctx)->on_change); }

/* On the pool: files only.  The tokenizer is opened for its digest: a frontend with another one
 * must not send us its ids. */
static void open_model(uv_work_t *work) {
    struct process *process = work->data;
    struct err_text *text = &process->open_text;
    struct tokenizer *tokenizer = NULL;
    enum err e = cmd_model_open(process->base.options, NULL, text, &process->model);
    if (!e) e = model_open_tokenizer(process->model, text, &tokenizer);
    if (!e) process->tokenizer_digest = tokenizer_digest(tokenizer);
    tokenizer_close(tokenizer);
    cmd_bus_find_side(process->base.handover.url, process->bus_side); /* may ask DNS */
    if (!e) model_drop_pages(process->model);
    process->open_error = e;
}

static void on_model_open(uv_work_t *work, int uv_status) {
    (void) uv_status;
    struct process *process = work->data;
    if (process->phase == DRAINING) {
        end(process, CMD_DONE);
        return;
    }
    if (process->open_error) {
        fail(process, process->open_error, &process->open_text);
        return;
    }
    process->phase = LOADING;
    const struct handover *handover = &process->base.handover;
    const struct cmd_worker_setup setup = {.options = process->base.options,
                                           .instance = handover->instance,
                                           .name = handover->name,
                                           .core_share = process->core_share,
                                           .core_count = handover->core_count,
                                           .memory_sharers = handover->memory_sharers,
                                           .device_bytes = handover->device_bytes,
                                           .http_port = process->http_port,
                                           .bus_side =
                                               process->bus_side[0] ? process->bus_side : NULL,
                                           .is_prefill = process->is_prefill,
                                           .is_supervised = process->base.is_supervised};
    struct err_text text = {0};
    enum err e = cmd_worker_create(&setup, process->model, process->tokenizer_digest, process->bus,
                                   &text, &process->worker);
    if (e) {
        fail(process, e, &text);
        return;
    }
    worker_on_change(process->worker, wake_main, process);
    wake_main(process); /* it may have changed before we listened */
}

/* --- the system port --------------------------------------------------------------------- */

static void get_state(void *ctx, struct cmd_system_state *out) {
    struct process *process = ctx;
    *out = (struct cmd_system_state){.is_live = true, .name = process->base.handover.name};
    struct worker_status status = {.state = WORKER_LOADING};
    if (process->worker) worker_get_status(process->worker, &status);
    out->load = status.told;
    out->device_bytes = status.device_bytes;
    out->budget_bytes = status.budget_bytes;
    out->planned_bytes = status.planned_bytes;
    if (process->worker) worker_get_sample(process->worker, &out->sample);
    out->is_ready = process->phase == SERVING && !status.is_stuck;
    if (process->phase >= DRAINING) out->stage = "draining";
    else if (process->phase < SERVING) out->stage = "loading";
    else if (status.is_stuck) out->stage = "a step is stuck";
    out->is_live = status.stuck_ms < 3ull * options_ms(process->base.options, OPT_STEP_TIMEOUT);
}

static enum err open_system_port(struct process *process, struct err_text *text) {
    const struct options *options = process->base.options;
    if (!options_is_set(options, OPT_SYSTEM_PORT)) return ERR_OK;
    uint32_t port = process->base.handover.system_port;
    if (!port) port = (uint32_t) options_count(options, OPT_SYSTEM_PORT);
    enum err e = cmd_system_port_open(&process->loop, options_text(options, OPT_SYSTEM_HOST),
                                      (uint16_t) port, get_state, process, text,
                                      &process->http_port, &process->system_port);
    if (!e)
        log_info("system port: http://%s:%u", options_text(options, OPT_SYSTEM_HOST),
                 process->http_port);
    return e;
}

/* --- the beginning ----------------------------------------------------------------------- */

static void start_loop_handles(struct process *process) {
    uv_signal_init(&process->loop, &process->on_term);
    uv_signal_init(&process->loop, &process->on_int);
    uv_async_init(&process->loop, &process->on_change, on_worker_change);
    uv_timer_init(&process->loop, &process->drain_timer);
    process->on_term.data = process->on_int.data = process->on_change.data = process;
    process->drain_timer.data = process->open_work.data = process;
    uv_signal_start(&process->on_term, on_signal, SIGTERM);
    uv_signal_start(&process->on_int, on_signal, SIGINT);
}

static int serve(struct process *process) {
    struct err_text text = {0};
    enum err e = ERR_OK;
    const char *model = options_text(process->base.options, OPT_MODEL);
    if (!model) e = err_set(&text, ERR_USAGE, "no model: give -m MODEL, or -f FILE with one");
    if (!e) e = cmd_process_raise_file_limit(&text);
    const struct handover *handover = &process->base.handover;
    if (!e && handover->core_count) {
        e = core_share_open(CORES_FD, handover->core_slot, &text, &process->core_share);
        close(CORES_FD);
    }
    if (!e) e = cmd_process_open_bus(&process->base, &text, &process->bus);
    if (e) return cmd_process_fail(&process->base, e, true, &text);
    uv_loop_init(&process->loop);
    start_loop_handles(process);
    e = open_system_port(process, &text);
    if (!e) log_info("loading %s", model);
    if (!e && uv_queue_work(&process->loop, &process->open_work, open_model, on_model_open))
        e = err_set(&text, ERR_MEMORY, "out of memory");
    if (e) end(process, cmd_process_fail(&process->base, e, true, &text));
    uv_run(&process->loop, UV_RUN_DEFAULT);
    uv_loop_close(&process->loop);
    model_close(process->model);
    bus_destroy(process->bus);
    core_share_close(process->core_share);
    return process->status;
}

static int run(enum graph_section_id section, int argc, char **argv) {
    struct process process = {.is_prefill = section == GRAPH_PREFILL_WORKER,
                              .started_ns = clock_now_ns()};
    int status = cmd_process_open(OPTION_WORKER, section, argc, argv, &process.base);
    if (status) return status;
    if (options_bool(process.base.options, OPT_PRINT_CONFIG))
        cmd_print_config(process.base.options);
    else status = serve(&process);
    cmd_process_close(&process.base);
    return status;
}

int cmd_worker(int argc, char **argv) { return run(GRAPH_VLLM_WORKER, argc, argv); }
int cmd_prefill(int argc, char **argv) { return run(GRAPH_PREFILL_WORKER, argc, argv); }
