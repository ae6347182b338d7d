/* worker - see worker.h.  The thread around worker_core: boots, then takes messages, steps, ticks,
 * and sleeps when there is nothing of the three. */
#include "worker/worker.h"

#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <sys/random.h>
#include <time.h>
#include <unistd.h>
#include <xxhash.h>

#include "base/alloc.h"
#include "base/clock.h"
#include "base/log.h"
#include "base/team.h"
#include "model/model.h"
#include "worker/worker_boot.h"
#include "worker/worker_core.h"
#include "worker/worker_heart.h"

#define STACK_BYTES (2u << 20) /* planned: plan_process.c */
_Static_assert(PLAN_PROCESS_TRANSFER_BYTES >= XFER_MEMORY_BYTES, "the transfer is planned whole");
#define MESSAGES_MAX 256u       /* taken between two steps */
#define STATUS_GAP_US 5000u     /* the load shown to others is at most this old while stepping */
#define DRAIN_GRACE_US 1000000u /* idle this long, what is finished is taken for heard */
#define WEIGHTS_MAX 1024u       /* mapped files of a model; those beyond are counted as resident */

struct worker {
    struct worker_options options;
    const struct model *model; /* borrowed */
    struct bus *bus;           /* borrowed */
    uint64_t instance;
    pthread_t thread;

    /* The step thread's own. */
    struct worker_boot boot;
    struct bus_port *port;
    struct worker_heart *heart;
    struct xfer *xfer; /* NULL: nothing goes out or comes in */
    struct worker_core *core;
    uint64_t lossy_count; /* the bus's, as last heeded */
    double rank_share;    /* of the plan, that one rank's device holds */
    struct device_process_range weights[WEIGHTS_MAX]; /* for the watch */

    _Atomic bool must_stop, must_drain, has_plan;
    _Atomic uint64_t step_begin_us; /* of the step under way; 0: none */

    pthread_mutex_t lock; /* guards all below; inside it only the watch's own is locked */
    pthread_cond_t wake;
    bool is_woken;
    struct worker_status status;
    struct device_watch *watch; /* NULL: none yet, or none could be started */
    bus_wake_fn on_change;
    void *on_change_ctx;
};

/* --- seen from other threads ------------------------------------------------------------------ */

static void wake_up(void *ctx) {
    struct worker *worker = ctx;
    pthread_mutex_lock(&worker->lock);
    if (!worker->is_woken) {
        worker->is_woken = true;
        pthread_cond_signal(&worker->wake);
    }
    pthread_mutex_unlock(&worker->lock);
}

void worker_on_change(struct worker *worker, bus_wake_fn wake, void *ctx) {
    pthread_mutex_lock(&worker->lock);
    worker->on_change = wake;
    worker->on_change_ctx = ctx;
    pthread_mutex_unlock(&worker->lock);
}

void worker_get_status(const struct worker *worker, struct worker_status *out) {
    struct worker *locked = (struct worker *) worker;
    pthread_mutex_lock(&locked->lock);
    *out = worker->status;
    pthread_mutex_unlock(&locked->lock);
    uint64_t begin_us = atomic_load(&worker->step_begin_us), now_us = clock_now_us();
    out->stuck_ms = begin_us && now_us > begin_us ? (now_us - begin_us) / 1000 : 0;
    out->is_stuck =
        worker->options.step_timeout_ms && out->stuck_ms > worker->options.step_timeout_ms;
}

const struct plan *worker_get_plan(const struct worker *worker) {
    return atomic_load(&worker->has_plan) ? &worker->boot.plan : NULL;
}

void worker_get_sample(const struct worker *worker, struct device_watch_sample *out) {
    struct worker *locked = (struct worker *) worker;
    *out = (struct device_watch_sample){0};
    pthread_mutex_lock(&locked->lock);
    if (locked->watch) device_watch_get(locked->watch, out);
    pthread_mutex_unlock(&locked->lock);
}

void worker_drain(struct worker *worker) {
    atomic_store(&worker->must_drain, true);
    wake_up(worker);
}

/* --- the step thread's side ----------------------------------------------------------------- */

static void tell_change(struct worker *worker) {
    pthread_mutex_lock(&worker->lock);
    bus_wake_fn on_change = worker->on_change;
    void *ctx = worker->on_change_ctx;
    if (on_change) on_change(ctx); /* only wakes; under the lock, so that it cannot be taken away */
    pthread_mutex_unlock(&worker->lock);
}

static void set_state(struct worker *worker, enum worker_state state) {
    pthread_mutex_lock(&worker->lock);
    worker->status.state = state;
    pthread_mutex_unlock(&worker->lock);
    tell_change(worker);
}

static void set_error(struct worker *worker, enum err e, const char *what) {
    pthread_mutex_lock(&worker->lock);
    err_set(&worker->status.error, e, "%s: %s", what, err_name(e));
    worker->status.cause = e;
    pthread_mutex_unlock(&worker->lock);
}

static void set_load(struct worker *worker) {
    struct engine_load load;
    struct msg_load told;
    engine_get_load(worker->boot.engine, &load);
    worker_core_get_load(worker->core, &told);
    pthread_mutex_lock(&worker->lock);
    worker->status.load = load;
    worker->status.told = told;
    pthread_mutex_unlock(&worker->lock);
}

/* What the watch saw, for one of the ranks: they are equal, and share the process. */
static bool look_at_device(const struct worker *worker, struct msg_load *out) {
    struct device_watch_sample sample;
    worker_get_sample(worker, &sample);
    out->device_used_bytes = (uint64_t) (worker->rank_share * (double) sample.host.used_bytes);
    out->device_other_bytes = sample.host.other_bytes;
    out->device_drift_bytes = (uint64_t) (worker->rank_share * (double) sample.host.drift_bytes);
    return sample.number > 0;
}

static bool progress(void *ctx, const char *stage, uint64_t done_bytes, uint64_t total_bytes) {
    struct worker *worker = ctx;
    struct worker_status *status = &worker->status;
    pthread_mutex_lock(&worker->lock);
    bool is_new_stage = strncmp(status->stage, stage, sizeof status->stage - 1) != 0;
    uint64_t percent = total_bytes / 100 ? done_bytes / (total_bytes / 100) : 100;
    uint64_t before =
        status->total_bytes / 100 ? status->done_bytes / (status->total_bytes / 100) : 0;
    if (is_new_stage) {
        memset(status->stage, 0, sizeof status->stage);
        memcpy(status->stage, stage, strnlen(stage, sizeof status->stage - 1));
    }
    status->done_bytes = done_bytes;
    status->total_bytes = total_bytes;
    pthread_mutex_unlock(&worker->lock);
    if (is_new_stage || percent != before) {
        struct msg_load seen = {0};
        (void) look_at_device(worker, &seen);
        pthread_mutex_lock(&worker->lock);
        status->told = seen;
        pthread_mutex_unlock(&worker->lock);
        tell_change(worker);
    }
    return !atomic_load(&worker->must_stop);
}

static void set_watch(struct worker *worker, struct device_watch *watch) {
    pthread_mutex_lock(&worker->lock);
    struct device_watch *before = worker->watch;
    worker->watch = watch;
    pthread_mutex_unlock(&worker->lock);
    device_watch_stop(before);
}

/* Loading is watched too: what others take meanwhile is told before it is missing. */
static void on_plan(void *ctx, const struct plan *plan) {
    struct worker *worker = ctx;
    uint64_t all = plan_sum_bytes(plan);
    struct model_mapping mappings[WEIGHTS_MAX];
    uint32_t count = model_mappings(worker->model, WEIGHTS_MAX, mappings);
    for (uint32_t i = 0; i < count; i++)
        worker->weights[i] = (struct device_process_range){mappings[i].base, mappings[i].bytes};
    worker->rank_share = all ? (double) plan->total_bytes / (double) all : 1;
    pthread_mutex_lock(&worker->lock);
    worker->status.device_bytes = plan->device_bytes;
    worker->status.budget_bytes = plan->budget_bytes;
    worker->status.planned_bytes = plan->total_bytes;
    pthread_mutex_unlock(&worker->lock);
    const struct device_watch_options options = {
        .is_node = worker->options.is_node,
        .card_count = worker->options.is_node ? DEVICE_GPUS_MAX : 0,
        .planned_bytes = plan->fits ? all : 0, /* forced: nobody else is to blame */
        .weights = worker->weights,
        .weights_count = count};
    struct device_watch *watch = NULL;
    if (device_watch_start(&options, &watch))
        log_warn("nobody watches the memory: no thread for it");
    set_watch(worker, watch);
}

static enum err boot(struct worker *worker) {
    const struct worker_options *o = &worker->options;
    struct worker_boot_options options = {.ops = o->ops,
                                          .backend = o->backend,
                                          .engine = o->engine,
                                          .budget = o->budget,
                                          .prefault = o->prefault,
                                          .load_concurrency = o->load_concurrency,
                                          .is_forced = o->is_forced,
                                          .on_plan = on_plan,
                                          .on_plan_ctx = worker};
    struct err_text text = {""};
    enum err e = worker_boot_open(&options, worker->model, progress, worker, &text, &worker->boot);
    if (!e) {
        if (o->prefault) team_prefault_stack();
        double seconds = (double) worker->boot.stats.load_ns / 1e9;
        double bytes = (double) worker->boot.stats.loaded_bytes;
        if (model_weights_path(worker->model, 0) && o->ops != &sim_backend_ops)
            log_info("loaded %s in %.2f s, %.2f GB/s", mem_size((uint64_t) bytes).text, seconds,
                     bytes / 1e9 / seconds);
        atomic_store(&worker->has_plan, true);
        return ERR_OK;
    }
    set_watch(worker, NULL); /* no plan to keep any more */
    if (!text.text[0]) err_set(&text, e, "%s", err_name(e));
    pthread_mutex_lock(&worker->lock);
    worker->status.error = text;
    worker->status.cause = e;
    pthread_mutex_unlock(&worker->lock);
    return e;
}

/* Workers share KV and beliefs only when all of this is equal (protocol.md 2, HELLO). */
static uint64_t numeric_digest(const struct worker *worker) {
    const struct backend *backend = worker->boot.backend;
    const struct backend_ops *ops = worker->options.ops;
    uint64_t parts[] = {model_digest(worker->model), (uint64_t) ops->kv_dtype(backend),
                        worker->options.backend.block_size, (uint64_t) ops->numerics(backend),
                        XXH3_64bits(ops->name, strlen(ops->name))};
    return XXH3_64bits(parts, sizeof parts);
}

static void send_on_bus(void *ctx, enum bus_subject subject, uint64_t to, const void *data,
                        size_t bytes) {
    struct worker *worker = ctx;
    (void) worker_heart_send(worker->heart, subject, to, data, bytes); /* lost: SYNC repairs */
}

static bool has_handoff(const struct worker *worker) {
    return worker->options.handoff.is_prefill || worker->options.handoff.rule.is_remote;
}

/* Without a transfer a prefill worker is of no use; another one computes every prompt itself. */
static enum err open_xfer(struct worker *worker) {
    const struct worker_handoff *h = &worker->options.handoff;
    const struct backend_ops *ops = worker->options.ops;
    struct kv_layout layouts[PLAN_RANKS_MAX];
    struct err_text text = {""};
    if (!has_handoff(worker)) return ERR_OK;
    for (uint32_t rank = 0; rank < worker->options.backend.rank_count; rank++)
        ops->kv_layout(worker->boot.backend, rank, &layouts[rank]);
    struct xfer_options options = {.instance = worker->instance,
                                   .layouts = layouts,
                                   .rank_count = worker->options.backend.rank_count,
                                   .block_size = worker->options.backend.block_size,
                                   .is_verifying = h->is_verifying,
                                   .listen = h->listen,
                                   .port_first = h->port_first,
                                   .port_last = h->port_last,
                                   .transports = h->transports,
                                   .transfer_timeout_ms = h->transfer_timeout_ms,
                                   .wake = wake_up,
                                   .wake_ctx = worker};
    enum err e = h->transfer == WORKER_TRANSFER_LOCAL
                     ? xfer_local_create(&options, &text, &worker->xfer)
                     : xfer_ucx_create(&options, &text, &worker->xfer);
    if (!e) return ERR_OK;
    if (h->is_prefill) {
        set_error(worker, e, text.text[0] ? text.text : "the transfer");
        return e;
    }
    log_warn("every prompt is computed here, for there is no transfer: %s",
             text.text[0] ? text.text : err_name(e));
    return ERR_OK;
}

static enum err open_core(struct worker *worker) {
    const struct backend_options *b = &worker->options.backend;
    const struct plan *plan = &worker->boot.plan;
    struct worker_core_options options = {
        .engine = worker->boot.engine,
        .sync_timeout_ms = worker->options.sync_timeout_ms,
        .step_timeout_ms = worker->options.step_timeout_ms,
        .quarantine_timeout_ms = worker->options.handoff.quarantine_timeout_ms,
        .xfer = worker->xfer,
        .rule = worker->options.handoff.rule,
        .send = send_on_bus,
        .send_ctx = worker,
        .hello = {.instance = worker->instance,
                  .component = worker->options.handoff.is_prefill ? HANDOFF_COMPONENT_PREFILL
                                                                  : HANDOFF_COMPONENT_WORKER,
                  .numeric_digest = numeric_digest(worker),
                  .tokenizer_digest = worker->options.tokenizer_digest,
                  .model_len_max = plan->model_len_max,
                  .seat_count = b->seat_count,
                  .block_size = b->block_size,
                  .block_count = plan->block_count,
                  .batched_tokens_max = b->batched_tokens_max,
                  .tp = b->rank_count,
                  .version = GRAMME_VERSION,
                  .device_bytes = plan->device_bytes,
                  .budget_bytes = plan->budget_bytes,
                  .planned_bytes = plan->total_bytes,
                  .block_bytes = plan->block_bytes},
    };
    if (worker->options.name)
        snprintf(options.hello.name, sizeof options.hello.name, "%s", worker->options.name);
    gethostname(options.hello.host, sizeof options.hello.host - 1);
    options.hello.http_port = worker->options.http_port;
    if (worker->xfer)
        snprintf(options.hello.transfer_address, sizeof options.hello.transfer_address, "%s",
                 xfer_address(worker->xfer));
    if (getrandom(options.secret, sizeof options.secret, 0) != sizeof options.secret) return ERR_IO;
    return worker_core_create(&options, clock_now_us(), &worker->core);
}

static bool take_messages(struct worker *worker) {
    struct bus_message message;
    uint32_t count = 0;
    while (count < MESSAGES_MAX && bus_take(worker->port, &message)) {
        worker_core_message(worker->core, &message, clock_now_us());
        count++;
    }
    worker_core_flush(worker->core, clock_now_us());
    return count > 0;
}

/* Until something arrives, or the next tick. */
static void sleep_until_woken(struct worker *worker) {
    uint64_t until_us = worker_core_tick_at(worker->core);
    struct timespec until = {.tv_sec = (time_t) (until_us / 1000000),
                             .tv_nsec = (long) (until_us % 1000000 * 1000)};
    pthread_mutex_lock(&worker->lock);
    int error = 0;
    while (!worker->is_woken && error != ETIMEDOUT)
        error = pthread_cond_timedwait(&worker->wake, &worker->lock, &until);
    worker->is_woken = false;
    pthread_mutex_unlock(&worker->lock);
}

static void tell_device(struct worker *worker) {
    struct msg_load seen;
    if (look_at_device(worker, &seen))
        worker_core_set_device(worker->core, seen.device_used_bytes, seen.device_other_bytes,
                               seen.device_drift_bytes);
}

/* Once a tick: a bus that came back is told who is here; one that is away makes nobody silent. */
static void tick(struct worker *worker) {
    uint64_t now_us = clock_now_us();
    if (now_us >= worker_core_tick_at(worker->core)) {
        uint64_t lossy_count = bus_port_lossy_count(worker->port);
        if (lossy_count != worker->lossy_count) worker_core_lossy(worker->core, now_us);
        worker->lossy_count = lossy_count;
        worker_core_set_connected(worker->core, bus_is_connected(worker->bus));
        tell_device(worker);
    }
    worker_core_tick(worker->core, now_us);
}

static enum err step(struct worker *worker) {
    uint64_t now_us = clock_now_us();
    atomic_store(&worker->step_begin_us, now_us);
    worker_heart_set_stepping(worker->heart, true);
    enum err e = worker_core_step(worker->core, now_us);
    worker_heart_set_stepping(worker->heart, false);
    atomic_store(&worker->step_begin_us, 0);
    return e;
}

static enum err serve(struct worker *worker) {
    uint64_t status_at_us = 0, idle_since_us = 0;
    bool is_draining = false;
    while (!atomic_load(&worker->must_stop)) {
        if (!is_draining && atomic_load(&worker->must_drain)) {
            is_draining = true;
            worker_core_drain(worker->core, clock_now_us());
            set_state(worker, WORKER_DRAINING);
        }
        bool has_taken = take_messages(worker);
        bool has_work = worker_core_has_work(worker->core);
        if (has_work) {
            enum err e = step(worker);
            if (e) return e;
        }
        tick(worker);
        uint64_t now_us = clock_now_us();
        bool is_idle = !worker_core_has_work(worker->core);
        if (is_idle || now_us >= status_at_us) {
            set_load(worker);
            status_at_us = now_us + STATUS_GAP_US;
        }
        if (!engine_is_idle(worker->boot.engine)) idle_since_us = 0;
        else if (!idle_since_us) idle_since_us = now_us;
        if (is_draining && idle_since_us &&
            (worker_core_is_empty(worker->core) || now_us - idle_since_us > DRAIN_GRACE_US))
            break;
        if (is_idle && !has_taken) sleep_until_woken(worker);
    }
    return ERR_OK;
}

static void *run(void *ctx) {
    struct worker *worker = ctx;
    enum err e = boot(worker);
    if (!e) {
        e = open_xfer(worker);
        if (!e) {
            e = worker_heart_create(worker->port, WORKER_TICK_US, &worker->heart);
            if (!e) e = open_core(worker);
            if (e) set_error(worker, e, "the worker's book");
        }
    }
    if (!e) {
        tell_device(worker);
        set_load(worker);
        set_state(worker, WORKER_SERVING);
        e = serve(worker);
        if (e) set_error(worker, e, "the backend is gone");
        worker_core_bye(worker->core);
    }
    if (e == ERR_CANCELLED) log_info("worker: %s", worker->status.error.text);
    else if (e) log_error("worker failed: %s", worker->status.error.text);
    set_state(worker, e ? WORKER_FAILED : WORKER_STOPPED);
    return NULL;
}

/* --- create, destroy -------------------------------------------------------------------------- */

static enum err start_thread(struct worker *worker, struct err_text *text) {
    pthread_attr_t attributes;
    pthread_attr_init(&attributes);
    pthread_attr_setstacksize(&attributes, STACK_BYTES);
    int failed = pthread_create(&worker->thread, &attributes, run, worker);
    pthread_attr_destroy(&attributes);
    if (!failed) return ERR_OK;
    errno = failed;
    return err_set(text, ERR_IO, "the step thread: %s", strerror(failed));
}

enum err worker_create(const struct worker_options *options, const struct model *model,
                       struct bus *bus, uint64_t instance, struct err_text *text,
                       struct worker **out) {
    struct worker *worker = alloc_zero(1, sizeof *worker);
    if (!worker) return err_set(text, ERR_MEMORY, "no memory for the worker");
    worker->options = *options;
    worker->model = model;
    worker->bus = bus;
    worker->instance = instance;
    worker->status.state = WORKER_LOADING;
    worker->rank_share = 1;
    pthread_mutex_init(&worker->lock, NULL);
    pthread_condattr_t attributes;
    pthread_condattr_init(&attributes);
    pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC); /* clock_now_us is monotonic too */
    pthread_cond_init(&worker->wake, &attributes);
    pthread_condattr_destroy(&attributes);
    unsigned subjects = 1u << BUS_HELLO;
    if (options->handoff.rule.is_remote) subjects |= 1u << BUS_LOAD | 1u << BUS_ROSTER;
    enum err e = bus_port_open(bus, instance, subjects, wake_up, worker, &worker->port);
    if (e) err_set(text, e, "the worker's inbox: %s", err_name(e));
    else e = start_thread(worker, text);
    if (e) {
        bus_port_close(worker->port);
        pthread_cond_destroy(&worker->wake);
        pthread_mutex_destroy(&worker->lock);
        alloc_free(worker);
        return e;
    }
    *out = worker;
    return ERR_OK;
}

void worker_destroy(struct worker *worker) {
    if (!worker) return;
    atomic_store(&worker->must_stop, true);
    wake_up(worker);
    pthread_join(worker->thread, NULL);
    device_watch_stop(worker->watch);
    worker_heart_destroy(worker->heart);
    bus_port_close(worker->port); /* no wake after this */
    worker_core_destroy(worker->core);
    xfer_destroy(worker->xfer); /* before the region that it writes to */
    if (worker->boot.backend) worker_boot_close(&worker->boot);
    pthread_cond_destroy(&worker->wake);
    pthread_mutex_destroy(&worker->lock);
    alloc_free(worker);
}
