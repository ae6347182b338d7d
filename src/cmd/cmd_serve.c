/* cmd_serve - gramme serve [GRAPH]: a whole graph on this node.
 *
 * agg with one worker is one process: frontend and worker as threads over the local bus.  Every
 * other graph is a supervisor with processes over NATS: this process then starts, watches, restarts
 * and drains them (fleet/supervisor.h), and computes nothing. */
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <unistd.h>
#include <uv.h>

#include "base/alloc.h"
#include "base/core_share.h"
#include "base/log.h"
#include "base/num.h"
#include "cmd/cmd.h"
#include "cmd/cmd_bus.h"
#include "cmd/cmd_frontend.h"
#include "cmd/cmd_graph.h"
#include "cmd/cmd_process.h"
#include "cmd/cmd_target.h"
#include "device/device_cpu.h"
#include "device/device_watch.h"
#include "fleet/supervisor.h"
#include "plan/check.h"
#include "plan/graph_plan.h"

extern char **environ;

#define RING_MESSAGES 65536u    /* one a step and frontend, one a request: seconds of backlog */
#define RING_BYTES (512u << 20) /* max-queue-bytes of prompts, twice */
#define ROSTER_RING_BYTES (4u << 20)
#define FLUSH_MS 1000u /* for the last lines to reach a slow terminal */
#define COMPONENTS_MAX 4096u

/* --- one process -------------------------------------------------------------------------- */

/* Each of the component's devices has at least so many; 0: no devices were given. */
static uint64_t device_bytes_of(const struct graph_plan *plan, enum graph_section_id section) {
    for (uint32_t i = 0; plan->has_place && i < plan->component_count; i++)
        if (plan->components[i].section == section) return plan->components[i].device_bytes;
    return 0;
}

static int serve_in_one_process(const struct graph *graph, uint64_t device_bytes) {
    struct bus *bus = NULL;
    enum err e = bus_local_create(RING_MESSAGES, RING_BYTES, &bus);
    if (e) return cmd_fail(e, NULL);
    struct cmd_frontend_setup setup = {.options = graph->sections[GRAPH_FRONTEND].options,
                                       .local_worker = graph->sections[GRAPH_VLLM_WORKER].options,
                                       .local_device_bytes = device_bytes,
                                       .bus = bus,
                                       .instance = cmd_process_draw_instance(),
                                       .report_fd = -1,
                                       .tells_workers = true};
    int status = cmd_frontend_serve(&setup);
    bus_destroy(bus);
    return status;
}

/* --- many --------------------------------------------------------------------------------- */

struct fleet {
    const struct graph *graph;
    const struct options *flags;
    const struct cmd_target *target;
    const struct graph_plan *plan; /* made only for --devices */
    uv_loop_t loop;
    uv_signal_t on_term, on_int, on_hup;
    struct terminal *terminal;
    struct supervisor *supervisor;
    struct supervisor_component *components; /* owned */
    char **environments;                     /* owned: "NAME=value" of all sections */
    uint32_t component_count, environment_count;
    struct handover bus; /* url, name space, secrets */
    bool has_own_bus;
    int cores_fd; /* how the workers share the cores; -1: none yet */
    uint32_t core_slot_count;
    char nats_program[512], listen_host[128];
    uint16_t listen_port;
    char join[1400]; /* the line other nodes type; "" none */
    int status;
};

/* "VllmWorker.0: cpu 4, 5, 6, 7 with 1.00 GiB each" */
static void log_devices(const struct fleet *fleet, const char *name, enum graph_section_id section,
                        uint32_t replica) {
    const struct graph_plan *plan = fleet->plan;
    struct buf line;
    buf_init(&line, 0);
    for (uint32_t g = 0; g < plan->place.group_count; g++) {
        const struct place_group *group = &plan->place.groups[g];
        if (plan->components[group->request].section != section || group->replica != replica)
            continue;
        for (uint32_t i = 0; i < group->count; i++) {
            uint32_t device = plan->place.devices[group->first + i];
            if (!i) buf_add_format(&line, "%s", fleet->target->devices.items[device].name);
            buf_add_format(&line, "%s %u", i ? "," : "", device);
        }
    }
    const char *text = buf_string(&line);
    log_info("%s: devices %s with %.2f GiB each", name, text ? text : "",
             (double) device_bytes_of(plan, section) / (1u << 30));
    buf_release(&line);
}

/* Replicas count on from the port that is written, over sections that write the same one; 0: each
 * picks a free one, or none is wanted. */
static uint32_t system_port_of(const struct fleet *fleet, const struct options *options) {
    if (!options_is_set(options, OPT_SYSTEM_PORT)) return 0;
    uint64_t first = options_count(options, OPT_SYSTEM_PORT);
    uint32_t before = 0;
    for (uint32_t i = 0; first && i < fleet->component_count; i++) {
        const struct options *other = fleet->components[i].options;
        before += options_is_set(other, OPT_SYSTEM_PORT) &&
                  options_count(other, OPT_SYSTEM_PORT) == first;
    }
    return first ? (uint32_t) first + before : 0;
}

static void add_components(struct fleet *fleet, enum graph_section_id id, enum unit_role role,
                           const struct handover *share) {
    const struct graph_section *section = &fleet->graph->sections[id];
    char **environment = fleet->environments + fleet->environment_count;
    for (uint32_t i = 0; i < section->env_count; i++) {
        const struct graph_env *env = &section->envs[i];
        size_t bytes = strlen(env->name) + strlen(env->value) + 2;
        char *entry = alloc_bytes(bytes);
        if (!entry) break; /* told by the count */
        snprintf(entry, bytes, "%s=%s", env->name, env->value);
        fleet->environments[fleet->environment_count++] = entry;
    }
    for (uint32_t i = 0; i < section->replica_count; i++) {
        uint32_t system_port = role == UNIT_FRONTEND ? 0 : system_port_of(fleet, section->options);
        struct supervisor_component *component = &fleet->components[fleet->component_count++];
        *component = (struct supervisor_component){.role = role,
                                                   .options = section->options,
                                                   .handover = *share,
                                                   .environment = (const char *const *) environment,
                                                   .environment_count = section->env_count};
        component->handover.tells_workers = role == UNIT_FRONTEND && i == 0;
        if (role == UNIT_FRONTEND) component->handover.core_count = 0;
        else component->handover.core_slot = fleet->core_slot_count++;
        component->handover.system_port = system_port;
        component->handover.device_bytes = device_bytes_of(fleet->plan, id);
        snprintf(component->name, sizeof component->name, "%s.%u", graph_section_name(id), i);
        if (component->handover.device_bytes) log_devices(fleet, component->name, id, i);
    }
}

/* The node's workers share its cores: whoever computes gets an equal part (base/core_share.h). */
static enum err share_node(struct fleet *fleet, struct err_text *text, struct handover *out) {
    struct device_cpu cpu;
    device_cpu_look(NULL, &cpu);
    uint32_t workers = 0, fixed = 0;
    for (int i = GRAPH_VLLM_WORKER; i <= GRAPH_PREFILL_WORKER; i++) {
        const struct graph_section *section = &fleet->graph->sections[i];
        if (!section->is_used) continue;
        workers += section->replica_count;
        if (options_is_set(section->options, OPT_THREADS)) fixed += section->replica_count;
    }
    *out = (struct handover){.memory_sharers = workers};
    if (!workers) return ERR_OK;
    out->core_count = cpu.thread_count;
    log_info("%s: %u workers; %s", device_cpu_describe(&cpu).text, workers,
             fixed == workers ? "each has its --threads"
             : workers == 1   ? "it may use them all"
                              : "those that compute share the threads equally");
    return core_share_create(workers, text, &fleet->cores_fd);
}

static enum err make_components(struct fleet *fleet, struct err_text *text) {
    const struct graph *graph = fleet->graph;
    uint64_t count = 0, environment_count = 0;
    for (int i = 0; i < GRAPH_SECTION_COUNT; i++) {
        count += graph->sections[i].replica_count;
        environment_count += graph->sections[i].env_count;
    }
    if (count > COMPONENTS_MAX)
        return err_set(text, ERR_LIMIT, "%llu processes on one node: at most %u",
                       (unsigned long long) count, COMPONENTS_MAX);
    fleet->components = alloc_zero(count, sizeof *fleet->components);
    fleet->environments = alloc_zero(environment_count + 1, sizeof *fleet->environments);
    if (!fleet->components || !fleet->environments)
        return err_set(text, ERR_MEMORY, "out of memory");
    struct handover share;
    enum err e = share_node(fleet, text, &share);
    if (e) return e;
    add_components(fleet, GRAPH_VLLM_WORKER, UNIT_WORKER, &share);
    if (graph_is_disagg(graph->kind))
        add_components(fleet, GRAPH_PREFILL_WORKER, UNIT_PREFILL, &share);
    add_components(fleet, GRAPH_FRONTEND, UNIT_FRONTEND, &share);
    for (uint32_t i = 0; i < fleet->component_count; i++)
        if (fleet->components[i].handover.system_port > UINT16_MAX)
            return err_set(text, ERR_USAGE,
                           "--system-port: replicas count on from it, and %s would have %u: at "
                           "most 65535",
                           fleet->components[i].name, fleet->components[i].handover.system_port);
    if (fleet->environment_count < environment_count)
        for (uint32_t i = 0; i < fleet->component_count; i++)
            fleet->components[i].environment_count = 0;
    return ERR_OK;
}

/* Secrets are drawn here: without randomness there is none, and no bus. */
static enum err draw_hex(struct err_text *text, char *out, uint32_t digits) {
    uint8_t bytes[32] = {0};
    CHECK(digits / 2 <= sizeof bytes);
    if (getrandom(bytes, digits / 2, 0) != (ssize_t) (digits / 2))
        return err_set(text, ERR_IO, "the kernel gives no random bytes (getrandom: %s)",
                       strerror(errno));
    for (uint32_t i = 0; i < digits / 2; i++) snprintf(out + 2 * i, 3, "%02x", bytes[i]);
    return ERR_OK;
}

static bool is_loopback(const char *host) {
    return strncmp(host, "127.", 4) == 0 || strcmp(host, "::1") == 0;
}

static enum err make_own_bus(struct fleet *fleet, struct err_text *text) {
    const char *listen = options_text(fleet->flags, OPT_BUS_LISTEN);
    struct handover *bus = &fleet->bus;
    enum err e = nats_server_find(getenv("PATH"), text, fleet->nats_program);
    if (e) return e;
    fleet->has_own_bus = true;
    snprintf(fleet->listen_host, sizeof fleet->listen_host, "127.0.0.1");
    if (listen) {
        e = nats_server_parse_listen(listen, text, fleet->listen_host, &fleet->listen_port);
        if (!e && !is_loopback(fleet->listen_host) && !bus->token[0] && !bus->cert_file[0])
            e = err_set(text, ERR_USAGE,
                        "--bus-listen %s: who reaches it could join and read every prompt: set "
                        "GRAMME_BUS_TOKEN (or --bus-token-file, or TLS by --bus-cert-file)",
                        listen);
        if (!e) e = nats_server_check_port(fleet->listen_host, fleet->listen_port, text);
    } else {
        e = nats_server_pick_port(fleet->listen_host, text, &fleet->listen_port);
        if (!e) e = draw_hex(text, bus->token, 32);
    }
    if (e) return e;
    if (bus->user[0])
        return err_set(text, ERR_USAGE, "the private nats-server knows a token only, no user");
    bool is_v6 = strchr(fleet->listen_host, ':') != NULL;
    snprintf(bus->url, sizeof bus->url, "%s://%s%s%s:%u", bus->has_tls ? "tls" : "nats",
             is_v6 ? "[" : "", fleet->listen_host, is_v6 ? "]" : "", fleet->listen_port);
    return ERR_OK;
}

static enum err find_bus(struct fleet *fleet, struct err_text *text) {
    const struct options *flags = fleet->flags;
    struct handover *bus = &fleet->bus;
    const char *url = options_text(flags, OPT_NATS), *where = "--nats";
    const char *variable = getenv("NATS_SERVER");
    if (!url && variable && variable[0] && !options_text(flags, OPT_BUS_LISTEN)) {
        url = variable;
        where = "NATS_SERVER";
    }
    if (url && options_text(flags, OPT_BUS_LISTEN))
        return err_set(text, ERR_USAGE, "--nats and --bus-listen: one of them");
    enum err e = cmd_bus_read_secrets(flags, getenv("GRAMME_BUS_TOKEN"), text, bus);
    if (!e && url) e = cmd_bus_read_url(url, where, text, bus);
    if (e) return e;
    const char *name_space = options_text(flags, OPT_NAMESPACE);
    const char *name_where = "--namespace";
    if (!name_space && url && fleet->graph->name_space[0]) {
        name_space = fleet->graph->name_space;
        name_where = "endpoint";
    }
    if (!name_space && url)
        return err_set(text, ERR_USAGE,
                       "%s: others may use that server too: give --namespace NAME for this graph",
                       where);
    if (!url) e = make_own_bus(fleet, text);
    if (!e && name_space) e = cmd_bus_read_namespace(name_space, name_where, text, bus);
    if (!e && !name_space) {
        bus->name_space[0] = 'g';
        e = draw_hex(text, bus->name_space + 1, 8);
    }
    return e;
}

static void make_join_line(struct fleet *fleet) {
    const struct options *flags = fleet->flags;
    if (fleet->has_own_bus && !options_text(flags, OPT_BUS_LISTEN)) return;
    const char *file = options_text(flags, OPT_FILE);
    bool has_secret = fleet->bus.token[0] || fleet->bus.user[0];
    snprintf(fleet->join, sizeof fleet->join,
             "join from another node: %sgramme worker %s --join %s --namespace %s %s %s%s",
             has_secret ? "GRAMME_BUS_TOKEN=... " : "", graph_kind_name(fleet->graph->kind),
             fleet->bus.url, fleet->bus.name_space, file ? "-f" : "-m",
             file ? file
                  : options_text(fleet->graph->sections[GRAPH_VLLM_WORKER].options, OPT_MODEL),
             graph_is_disagg(fleet->graph->kind) ? " (or: gramme prefill ...)" : "");
}

static void on_line(void *ctx, const char *line, size_t bytes) { terminal_line(ctx, line, bytes); }

static void close_handle(uv_handle_t *handle, void *ctx) {
    (void) ctx;
    if (!uv_is_closing(handle)) uv_close(handle, NULL);
}

static void on_over(void *ctx, int status) {
    struct fleet *fleet = ctx;
    fleet->status = status;
    log_info("stopped");
    supervisor_close(fleet->supervisor);
    uv_walk(&fleet->loop, close_handle, NULL);
}

static void on_signal(uv_signal_t *handle, int number) {
    struct fleet *fleet = handle->data;
    if (supervisor_is_draining(fleet->supervisor)) {
        supervisor_kill(fleet->supervisor);
        log_warn("second signal: ending at once");
        terminal_destroy(fleet->terminal, FLUSH_MS);
        _exit(CMD_INTERRUPTED);
    }
    log_info("%s: draining", number == SIGINT ? "interrupted" : "sigterm");
    supervisor_drain(fleet->supervisor);
}

static enum err start_supervisor(struct fleet *fleet, struct err_text *text) {
    const struct options *frontend = fleet->graph->sections[GRAPH_FRONTEND].options;
    const struct handover *bus = &fleet->bus;
#define GIVEN(field) (bus->field[0] ? bus->field : NULL)
    struct supervisor_options options = {
        .loop = &fleet->loop,
        .terminal = fleet->terminal,
        .program = "/proc/self/exe",
        .environment = environ,
        .nats_program = fleet->has_own_bus ? fleet->nats_program : NULL,
        .nats = {.host = fleet->listen_host,
                 .port = fleet->listen_port,
                 .token = bus->token,
                 .ca_file = bus->ca_file,
                 .cert_file = bus->cert_file,
                 .key_file = bus->key_file},
        .bus = {.url = bus->url,
                .name_space = bus->name_space,
                .token = GIVEN(token),
                .user = GIVEN(user),
                .password = GIVEN(password),
                .tls_ca_file = GIVEN(ca_file),
                .tls_cert_file = GIVEN(cert_file),
                .tls_key_file = GIVEN(key_file),
                .has_tls = bus->has_tls,
                .ring_messages_max = 1024,
                .ring_bytes_max = ROSTER_RING_BYTES},
        .notify_socket = getenv("NOTIFY_SOCKET"),
        .ready_note = fleet->join[0] ? fleet->join : NULL,
        .cores_fd = fleet->cores_fd,
        .restart_limit = (uint32_t) options_count(fleet->flags, OPT_RESTART_LIMIT),
        .drain_ms = options_ms(frontend, OPT_DRAIN_DELAY) + options_ms(frontend, OPT_DRAIN_TIMEOUT),
        .is_json = strcasecmp(options_text(fleet->flags, OPT_LOG_FORMAT), "json") == 0,
        .is_debug = log_is_on(LOG_DEBUG),
        .on_over = on_over,
        .ctx = fleet};
#undef GIVEN
    return supervisor_create(&options, fleet->components, fleet->component_count, text,
                             &fleet->supervisor);
}

static void listen_for_signals(struct fleet *fleet) {
    static const int numbers[] = {SIGTERM, SIGINT, SIGHUP};
    uv_signal_t *const handles[] = {&fleet->on_term, &fleet->on_int, &fleet->on_hup};
    for (size_t i = 0; i < ARRAY_COUNT(numbers); i++) {
        uv_signal_init(&fleet->loop, handles[i]);
        handles[i]->data = fleet;
        uv_signal_start(handles[i], on_signal, numbers[i]);
    }
}

/* The node's memory, and what the plan takes of each card of it. */
static struct device_watch *start_watch(const struct graph_plan *plan,
                                        const struct cmd_target *target) {
    struct device_watch_options options = {.is_node = true};
    struct device_watch *watch = NULL;
    for (uint32_t i = 0; plan->has_place && i < plan->place.group_count; i++) {
        const struct place_group *group = &plan->place.groups[i];
        const struct plan *of_rank = plan->components[group->request].plan;
        for (uint32_t k = 0; of_rank && k < group->count; k++) {
            const struct device *device =
                &target->devices.items[plan->place.devices[group->first + k]];
            if (device->kind != DEVICE_CUDA || device->is_elsewhere ||
                device->ordinal >= DEVICE_GPUS_MAX)
                continue;
            options.card_planned_bytes[device->ordinal] += of_rank->budget_bytes;
            options.card_count = (uint32_t) num_max(options.card_count, device->ordinal + 1);
        }
    }
    if (device_watch_start(&options, &watch))
        log_warn("nobody watches the node's memory: no thread for it");
    return watch;
}

static int serve_as_fleet(const struct graph *graph, const struct options *flags,
                          const struct cmd_target *target, const struct graph_plan *plan) {
    struct fleet fleet = {.graph = graph,
                          .flags = flags,
                          .target = target,
                          .plan = plan,
                          .cores_fd = -1,
                          .status = CMD_FAILED};
    struct err_text text = {0};
    enum err e = find_bus(&fleet, &text);
    if (e)
        return e == ERR_NOT_FOUND && !fleet.nats_program[0] ? (cmd_fail(e, &text), CMD_MISSING)
                                                            : cmd_fail(e, &text);
    e = cmd_process_raise_file_limit(&text);
    if (e) return cmd_fail(e, &text);
    if (terminal_create(STDERR_FILENO, &fleet.terminal)) return cmd_fail(ERR_MEMORY, NULL);
    log_divert(on_line, fleet.terminal);
    make_join_line(&fleet);
    e = make_components(&fleet, &text);
    uv_loop_init(&fleet.loop);
    if (!e) e = start_supervisor(&fleet, &text);
    if (!e) {
        struct device_watch *watch = start_watch(plan, target);
        listen_for_signals(&fleet);
        uv_run(&fleet.loop, UV_RUN_DEFAULT);
        device_watch_stop(watch);
    }
    log_divert(NULL, NULL);
    terminal_destroy(fleet.terminal, FLUSH_MS);
    supervisor_destroy(fleet.supervisor);
    uv_loop_close(&fleet.loop);
    for (uint32_t i = 0; i < fleet.environment_count; i++) alloc_free(fleet.environments[i]);
    alloc_free(fleet.environments);
    alloc_free(fleet.components);
    if (fleet.cores_fd >= 0) close(fleet.cores_fd);
    return e ? cmd_fail(e, &text) : fleet.status;
}

/* --- both --------------------------------------------------------------------------------- */

static enum err find_kind(const struct cmd_graph_line *line, struct err_text *text,
                          enum graph_kind *kind) {
    *kind = GRAPH_AGG;
    for (uint32_t i = 0; i < line->positional_count; i++) {
        const char *word = line->positional[i];
        if (i == 0 && graph_kind_of(word, kind)) continue;
        return err_set(text, ERR_USAGE,
                       "'%s' is no graph (agg, agg_router, disagg, disagg_router); if it is a "
                       "model: gramme serve -m %s",
                       word, word);
    }
    if (options_list_count(line->flags, OPT_SHAPE))
        return err_set(text, ERR_USAGE,
                       "--shape says what a model is that is not here: it is for plan and check");
    if (!options_text(line->flags, OPT_FILE) && !options_text(line->flags, OPT_MODEL) &&
        !line->override_count)
        return err_set(text, ERR_USAGE, "no model: gramme serve -m MODEL, or -f FILE");
    return ERR_OK;
}

/* What stands in a file, or is meant for devices, is checked before anything starts. */
static int read_graph(const struct cmd_graph_line *line, enum graph_kind kind,
                      const struct cmd_target *target, struct graph *graph) {
    bool is_sim = strcasecmp(options_text(line->flags, OPT_ENGINE), "sim") == 0;
    struct check_target check = {.plan = &target->plan,
                                 .is_elsewhere = target->is_elsewhere,
                                 .gpus = target->gpus,
                                 .is_serve = !is_sim || !target->is_elsewhere};
    bool is_checked = options_text(line->flags, OPT_FILE) || options_text(line->flags, OPT_DEVICES);
    return cmd_graph_read(line, kind, is_checked ? &check : NULL, graph);
}

static int serve(const struct cmd_graph_line *line, const struct graph *graph,
                 const struct cmd_target *target) {
    struct graph_plan plan = {0};
    struct err_text text = {0};
    bool has_devices = options_text(line->flags, OPT_DEVICES) != NULL;
    enum err e = has_devices ? graph_plan_make(graph, &target->plan, &text, &plan) : ERR_OK;
    if (!e && has_devices && !plan.has_place) {
        e = ERR_NO_ROOM;
        text = plan.place_text;
    }
    int status;
    if (e) status = cmd_fail(e, &text);
    else if (graph_plan_is_one_process(graph, line->flags))
        status = serve_in_one_process(graph, device_bytes_of(&plan, GRAPH_VLLM_WORKER));
    else status = serve_as_fleet(graph, line->flags, target, &plan);
    graph_plan_release(&plan);
    return status;
}

int cmd_serve(int argc, char **argv) {
    struct cmd_graph_line line;
    int status = cmd_graph_read_line(OPTION_SERVE, argc, argv, &line);
    if (status) return status;
    struct err_text text = {0};
    enum graph_kind kind;
    struct graph graph;
    struct cmd_target target = {0};
    enum err e = find_kind(&line, &text, &kind);
    bool has_auto = options_is_auto(line.flags, OPT_TENSOR_PARALLEL_SIZE) ||
                    options_is_auto(line.flags, OPT_MAX_MODEL_LEN) ||
                    options_is_auto(line.flags, OPT_GPU_MEMORY_UTILIZATION);
    if (options_bool(line.flags, OPT_PRINT_CONFIG) && !options_text(line.flags, OPT_FILE) &&
        !has_auto) {
        cmd_print_config(line.flags);
        cmd_graph_release_line(&line);
        return CMD_DONE;
    }
    if (!e) e = cmd_target_find(line.flags, &text, &target);
    status = e ? cmd_fail(e, &text) : read_graph(&line, kind, &target, &graph);
    if (!status) {
        e = cmd_graph_choose(&graph, &target.plan, &text);
        if (e) status = cmd_fail(e, &text);
        else if (options_bool(line.flags, OPT_PRINT_CONFIG)) cmd_graph_print(&graph);
        else status = serve(&line, &graph, &target);
        graph_release(&graph);
    }
    cmd_target_release(&target);
    cmd_graph_release_line(&line);
    return status;
}
