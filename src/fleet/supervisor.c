/* supervisor - see supervisor.h. */
#include "fleet/supervisor.h"

#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/alloc.h"
#include "base/buf.h"
#include "base/clock.h"
#include "base/core_share.h"
#include "base/log.h"
#include "bus/msg.h"
#include "fleet/notify.h"
#include "fleet/restart.h"

#define TICK_MS 50u
#define FIRST_TICK_MS 5u /* until the private bus is up: the others start then */
#define BUS_START_US 5000000u
#define BUS_STUCK_US 5000000u /* beyond the pings that found it out */
#define ROSTER_US 100000u     /* specified: protocol.md 2 */
#define DEAD_MAX 1024u        /* specified: msg.h */
#define GRACE_MS 5000u        /* beyond a drain before SIGKILL */
#define BUS_GRACE_US 2000000u /* nats-server keeps nothing: it has nothing to finish */
#define HOPELESS_US 1000000u  /* for frontends when nothing can serve */

enum phase { STARTING, SERVING, FRONTENDS, WORKERS, BUS, OVER };

struct supervisor {
    struct supervisor_options options;
    struct unit *units; /* owned; the private bus first */
    uint32_t unit_count;
    enum phase phase;
    int status;
    uint64_t begun_us, phase_until_us;
    bool is_killed_off; /* this phase's stragglers got SIGKILL */
    bool is_bus_there;  /* the private one has answered once, or the bus is elsewhere */
    int bus_config_fd;  /* -1: none */
    uv_timer_t tick;
    uv_signal_t on_child;
    /* ROSTER */
    struct bus *bus;
    struct bus_port *port;
    struct buf out;
    uint64_t bus_cut_us; /* our connection to the bus is gone since then; 0: it is there */
    uint64_t roster_number, roster_us;
    struct msg_roster_dead *dead; /* owned; DEAD_MAX, a ring */
    uint32_t dead_count, dead_at;
    uint64_t *alive; /* owned; unit_count */
};

/* --- ROSTER ----------------------------------------------------------------------------------- */

static void send_roster(struct supervisor *supervisor) {
    supervisor->roster_us = clock_now_us();
    if (!supervisor->port) return;
    uint32_t alive_count = 0;
    for (uint32_t i = 0; i < supervisor->unit_count; i++)
        if (supervisor->units[i].pid && supervisor->units[i].role != UNIT_BUS)
            supervisor->alive[alive_count++] = supervisor->units[i].handover.instance;
    struct msg_roster roster = {.number = ++supervisor->roster_number,
                                .alive = supervisor->alive,
                                .alive_count = alive_count,
                                .dead = supervisor->dead,
                                .dead_count = supervisor->dead_count};
    buf_clear(&supervisor->out);
    msg_encode_roster(&roster, &supervisor->out);
    struct bus_message ignored;
    while (bus_take(supervisor->port, &ignored)) {
    }                                 /* nobody writes to us but by mistake */
    if (!buf_error(&supervisor->out)) /* a lost one is followed by the next */
        (void) bus_send(supervisor->port, BUS_ROSTER, 0, supervisor->out.data,
                        supervisor->out.bytes);
}

static void note_death(struct supervisor *supervisor, uint64_t instance, int status) {
    supervisor->dead[supervisor->dead_at] = (struct msg_roster_dead){
        .instance = instance,
        .reason = WIFSIGNALED(status) ? MSG_REAP_KILLED : MSG_REAP_EXITED,
        .status = WIFSIGNALED(status) ? WTERMSIG(status) : WEXITSTATUS(status)};
    supervisor->dead_at = (supervisor->dead_at + 1) % DEAD_MAX;
    if (supervisor->dead_count < DEAD_MAX) supervisor->dead_count++;
}

static void close_port(struct supervisor *supervisor) {
    bus_port_close(supervisor->port);
    supervisor->port = NULL;
    if (supervisor->bus) bus_destroy(supervisor->bus);
    supervisor->bus = NULL;
}

/* --- starting --------------------------------------------------------------------------------- */

static void start_unit(struct supervisor *supervisor, struct unit *unit) {
    const struct supervisor_options *o = &supervisor->options;
    bool is_bus = unit->role == UNIT_BUS;
    struct unit_program program = {.path = is_bus ? o->nats_program : o->program,
                                   .environment = o->environment,
                                   .config_fd = is_bus ? supervisor->bus_config_fd : -1,
                                   .cores_fd = unit->handover.core_count ? o->cores_fd : -1};
    struct err_text text = {0};
    uint64_t now_us = clock_now_us();
    enum err e = unit_start(unit, &program, now_us, &text);
    if (e) {
        log_error("%s: %s", unit->name, text.text[0] ? text.text : err_name(e));
        unit->start_at_us = now_us + RESTART_FIRST_US;
        return;
    }
    log_info("%s: started, pid %ld", unit->name, (long) unit->pid);
    send_roster(supervisor);
}

/* --- the end ---------------------------------------------------------------------------------- */

static bool role_is_in(enum unit_role role, enum phase phase) {
    switch (phase) {
    case FRONTENDS: return role == UNIT_FRONTEND;
    case WORKERS: return role == UNIT_WORKER || role == UNIT_PREFILL;
    case BUS: return role == UNIT_BUS;
    default: return false;
    }
}

static uint32_t count_alive(const struct supervisor *supervisor, enum phase phase) {
    uint32_t count = 0;
    for (uint32_t i = 0; i < supervisor->unit_count; i++)
        count += supervisor->units[i].pid && role_is_in(supervisor->units[i].role, phase);
    return count;
}

static void signal_phase(struct supervisor *supervisor, int number) {
    for (uint32_t i = 0; i < supervisor->unit_count; i++)
        if (role_is_in(supervisor->units[i].role, supervisor->phase)) {
            unit_signal(&supervisor->units[i], number);
            /* A stopped process would sleep through its end. */
            if (number != SIGKILL) unit_signal(&supervisor->units[i], SIGCONT);
        }
}

static uint64_t grace_us(const struct supervisor *supervisor) {
    uint32_t grace_ms = supervisor->options.grace_ms;
    return (uint64_t) (grace_ms ? grace_ms : GRACE_MS) * 1000;
}

static void enter_phase(struct supervisor *supervisor, enum phase phase, uint64_t until_us) {
    supervisor->phase = phase;
    supervisor->is_killed_off = false;
    supervisor->phase_until_us = clock_now_us() + until_us;
    signal_phase(supervisor, SIGTERM);
}

/* Goes on to the next phase when nobody of this one is left. */
static void go_on_draining(struct supervisor *supervisor) {
    while (supervisor->phase >= FRONTENDS && supervisor->phase < OVER) {
        if (count_alive(supervisor, supervisor->phase)) {
            if (clock_now_us() < supervisor->phase_until_us || supervisor->is_killed_off) return;
            log_warn("%u processes did not end in time: killed",
                     count_alive(supervisor, supervisor->phase));
            signal_phase(supervisor, SIGKILL);
            supervisor->is_killed_off = true;
            return;
        }
        if (supervisor->phase == FRONTENDS) enter_phase(supervisor, WORKERS, grace_us(supervisor));
        else if (supervisor->phase == WORKERS) {
            close_port(supervisor);
            enter_phase(supervisor, BUS, BUS_GRACE_US);
        } else {
            supervisor->phase = OVER;
            supervisor->options.on_over(supervisor->options.ctx, supervisor->status);
        }
    }
}

void supervisor_drain(struct supervisor *supervisor) {
    if (supervisor->phase >= FRONTENDS) return;
    notify_send(supervisor->options.notify_socket, "STOPPING=1");
    terminal_status(supervisor->options.terminal, "");
    enter_phase(supervisor, FRONTENDS,
                (uint64_t) supervisor->options.drain_ms * 1000 + grace_us(supervisor));
    go_on_draining(supervisor);
}

bool supervisor_is_draining(const struct supervisor *supervisor) {
    return supervisor->phase >= FRONTENDS;
}

void supervisor_kill(struct supervisor *supervisor) {
    for (uint32_t i = 0; i < supervisor->unit_count; i++)
        unit_signal(&supervisor->units[i], SIGKILL);
}

static void give_up(struct supervisor *supervisor, const struct unit *unit) {
    if (supervisor->phase >= FRONTENDS) return;
    log_error("%s cannot run and nothing is left that serves without it; its last line: %s",
              unit->name, unit_last_words(unit));
    supervisor->status = 1;
    notify_send(supervisor->options.notify_socket, "STOPPING=1");
    terminal_status(supervisor->options.terminal, "");
    enter_phase(supervisor, FRONTENDS, HOPELESS_US);
    go_on_draining(supervisor);
}

/* Whether every unit of that role is given up.  Prefill workers may all go: prompts are then
 * computed where they are decoded. */
static bool is_role_lost(const struct supervisor *supervisor, enum unit_role role) {
    if (role == UNIT_PREFILL) return false;
    for (uint32_t i = 0; i < supervisor->unit_count; i++)
        if (supervisor->units[i].role == role && supervisor->units[i].state != UNIT_GIVEN_UP)
            return false;
    return true;
}

static void look_if_ready(struct supervisor *supervisor);

/* --- reaping ---------------------------------------------------------------------------------- */

/* is_expected: it ended well, or was told to go. */
static void tell_end(const struct unit *unit, pid_t pid, int status, bool is_expected) {
    if (WIFSIGNALED(status))
        log_warn("%s: pid %ld was killed by signal %d (%s)", unit->name, (long) pid,
                 WTERMSIG(status), strsignal(WTERMSIG(status)));
    else if (is_expected) log_info("%s: pid %ld has ended", unit->name, (long) pid);
    else log_warn("%s: pid %ld ended with status %d", unit->name, (long) pid, WEXITSTATUS(status));
}

static void tell_given_up(const struct unit *unit, bool is_permanent) {
    if (is_permanent) log_error("%s: given up: %s", unit->name, unit_last_words(unit));
    else
        log_error("%s: given up after %u failures in a row (--restart-limit); its last line: %s",
                  unit->name, unit->failures, unit_last_words(unit));
}

static void on_unit_end(struct supervisor *supervisor, struct unit *unit, int status) {
    pid_t pid = unit->pid;
    uint64_t now_us = clock_now_us();
    bool was_ready = unit->state == UNIT_READY;
    bool is_clean = WIFEXITED(status) && WEXITSTATUS(status) == 0;
    int code = WIFEXITED(status) ? WEXITSTATUS(status) : 0;
    unit_end(unit);
    tell_end(unit, pid, status, is_clean || role_is_in(unit->role, supervisor->phase));
    if (unit->handover.core_count)
        core_share_clear(supervisor->options.cores_fd, unit->handover.core_slot);
    if (unit->role != UNIT_BUS) note_death(supervisor, unit->handover.instance, status);
    /* While frontends finish, workers are still needed; afterwards nothing starts again. */
    bool may_restart = supervisor->phase < FRONTENDS ||
                       (supervisor->phase == FRONTENDS && unit->role != UNIT_FRONTEND);
    if (may_restart) {
        struct restart_end end = {
            .is_asked = is_clean && was_ready,
            /* 2 usage, 3 something missing (behaviour.md 3), 127 no such program */
            .is_permanent = (unit->report.kind == REPORT_FAILED && unit->report.is_permanent) ||
                            code == 2 || code == 3 || code == 127,
            .is_at_once = unit->role == UNIT_BUS,
            .served_us = was_ready ? now_us - unit->ready_us : 0};
        uint64_t delay_us;
        if (restart_decide(&end, supervisor->options.restart_limit, &unit->failures, &delay_us)) {
            unit->start_at_us = now_us + delay_us;
            if (delay_us)
                log_info("%s: starts again in %.1f s", unit->name, (double) delay_us / 1e6);
            else start_unit(supervisor, unit);
        } else {
            unit->state = UNIT_GIVEN_UP;
            tell_given_up(unit, end.is_permanent);
            if (is_role_lost(supervisor, unit->role)) give_up(supervisor, unit);
            look_if_ready(supervisor);
        }
    }
    go_on_draining(supervisor);
}

/* All there is to reap: as process 1 also what others left behind. */
static void on_child_signal(uv_signal_t *handle, int number) {
    (void) number;
    struct supervisor *supervisor = handle->data;
    int status;
    pid_t pid;
    bool is_any = false;
    while ((pid = waitpid(-1, &status, WNOHANG)) > 0)
        for (uint32_t i = 0; i < supervisor->unit_count; i++)
            if (supervisor->units[i].pid == pid) {
                on_unit_end(supervisor, &supervisor->units[i], status);
                is_any = true;
                break;
            }
    /* Those that died together are told together: no stream moves from one of them to another. */
    if (is_any) send_roster(supervisor);
}

/* --- reports ---------------------------------------------------------------------------------- */

static void show_loading(struct supervisor *supervisor) {
    char status[512] = "";
    size_t bytes = 0;
    for (uint32_t i = 0; i < supervisor->unit_count && supervisor->phase == STARTING; i++) {
        const struct unit *unit = &supervisor->units[i];
        if (unit->state != UNIT_STARTED || unit->report.kind != REPORT_LOADING ||
            !unit->report.total_bytes)
            continue;
        int wrote = snprintf(
            status + bytes, sizeof status - bytes, "%s%s %llu %%",
            bytes ? "   " : "loading: ", unit->name,
            (unsigned long long) (unit->report.done_bytes * 100 / unit->report.total_bytes));
        if (wrote < 0 || bytes + (size_t) wrote >= sizeof status) break;
        bytes += (size_t) wrote;
    }
    terminal_status(supervisor->options.terminal, status);
}

/* Everybody is ready, or given up for good while the others can serve. */
static void look_if_ready(struct supervisor *supervisor) {
    if (supervisor->phase != STARTING) return;
    const char *url = NULL;
    for (uint32_t i = 0; i < supervisor->unit_count; i++) {
        const struct unit *other = &supervisor->units[i];
        if (other->state != UNIT_READY && other->state != UNIT_GIVEN_UP) return;
        if (other->role == UNIT_FRONTEND && !url) url = other->report.text;
    }
    supervisor->phase = SERVING;
    show_loading(supervisor);
    log_info("ready: %s after %.2f s", url ? url : "",
             (double) (clock_now_us() - supervisor->begun_us) / 1e6);
    if (supervisor->options.ready_note) log_info("%s", supervisor->options.ready_note);
    notify_send(supervisor->options.notify_socket, "READY=1");
}

static void on_report(void *ctx, struct unit *unit) {
    struct supervisor *supervisor = ctx;
    show_loading(supervisor);
    if (unit->report.kind == REPORT_READY) look_if_ready(supervisor);
}

static enum err open_port(struct supervisor *supervisor, struct err_text *text);

/* The private bus is not waited for for ever: who comes first connects again until it is there. */
static void look_for_bus(struct supervisor *supervisor, uint64_t now_us) {
    const struct nats_server_options *nats = &supervisor->options.nats;
    bool is_own = supervisor->options.nats_program != NULL;
    struct unit *unit = &supervisor->units[0];
    if (is_own && unit->state == UNIT_STARTED && nats_server_is_up(nats->host, nats->port)) {
        unit->state = UNIT_READY; /* it does not tell by itself */
        unit->ready_us = now_us;
    }
    if (supervisor->is_bus_there) return;
    if (is_own && unit->state != UNIT_READY && now_us - supervisor->begun_us < BUS_START_US) return;
    supervisor->is_bus_there = true;
    uv_timer_set_repeat(&supervisor->tick, TICK_MS);
    struct err_text text = {0};
    enum err e = open_port(supervisor, &text);
    if (e) log_error("no roster is sent: %s", text.text[0] ? text.text : err_name(e));
}

/* One that lives and answers nobody would hold up every stream for ever: it is ended, and what
 * follows is as if it had died. */
static void look_at_bus(struct supervisor *supervisor, uint64_t now_us) {
    const struct unit *unit = &supervisor->units[0];
    bool is_own = supervisor->options.nats_program != NULL;
    if (!is_own || unit->state != UNIT_READY || !supervisor->bus ||
        bus_is_connected(supervisor->bus)) {
        supervisor->bus_cut_us = 0;
        return;
    }
    if (!supervisor->bus_cut_us) supervisor->bus_cut_us = now_us;
    if (now_us - supervisor->bus_cut_us < BUS_STUCK_US) return;
    log_warn("%s: pid %ld answers nobody: killed", unit->name, (long) unit->pid);
    unit_signal(unit, SIGKILL);
    supervisor->bus_cut_us = 0;
}

static void on_tick(uv_timer_t *timer) {
    struct supervisor *supervisor = timer->data;
    uint64_t now_us = clock_now_us();
    bool may_start = supervisor->phase <= FRONTENDS;
    if (may_start) {
        look_for_bus(supervisor, now_us);
        look_at_bus(supervisor, now_us);
    }
    for (uint32_t i = 0; may_start && i < supervisor->unit_count; i++) {
        struct unit *unit = &supervisor->units[i];
        if (supervisor->phase == FRONTENDS && unit->role == UNIT_FRONTEND) continue;
        if (!supervisor->is_bus_there && unit->role != UNIT_BUS) continue;
        if (unit->state == UNIT_IDLE && now_us >= unit->start_at_us) start_unit(supervisor, unit);
    }
    if (now_us - supervisor->roster_us >= ROSTER_US) send_roster(supervisor);
    go_on_draining(supervisor);
}

/* --- create, destroy -------------------------------------------------------------------------- */

static void init_unit(struct supervisor *supervisor, struct unit *unit,
                      const struct supervisor_component *component, uint32_t name_width) {
    const struct supervisor_options *o = &supervisor->options;
    *unit = (struct unit){.role = UNIT_BUS,
                          .name = "nats-server",
                          .loop = o->loop,
                          .terminal = o->terminal,
                          .name_width = name_width,
                          .is_json = o->is_json,
                          .shows_all = o->is_debug,
                          .on_report = on_report,
                          .ctx = supervisor};
    if (!component) return;
    unit->role = component->role;
    memcpy(unit->name, component->name, sizeof unit->name);
    unit->options = component->options;
    unit->environment = component->environment;
    unit->environment_count = component->environment_count;
    struct handover *handover = &unit->handover;
    *handover = component->handover;
    memcpy(handover->name, component->name, sizeof handover->name);
    const struct bus_nats_options *bus = &o->bus;
#define COPY(to, from) snprintf(to, sizeof to, "%s", (from) ? (from) : "")
    COPY(handover->url, bus->url);
    COPY(handover->name_space, bus->name_space);
    COPY(handover->token, bus->token);
    COPY(handover->user, bus->user);
    COPY(handover->password, bus->password);
    COPY(handover->ca_file, bus->tls_ca_file);
    COPY(handover->cert_file, bus->tls_cert_file);
    COPY(handover->key_file, bus->tls_key_file);
#undef COPY
    handover->has_tls = bus->has_tls;
}

static void wake_nobody(void *ctx) { (void) ctx; }

static enum err open_port(struct supervisor *supervisor, struct err_text *text) {
    uint64_t instance = clock_wall_ns() ^ ((uint64_t) getpid() << 40);
    enum err e = bus_nats_create(&supervisor->options.bus, text, &supervisor->bus);
    if (e) return e;
    e = bus_port_open(supervisor->bus, instance, 0, wake_nobody, NULL, &supervisor->port);
    return e ? err_set(text, e, "the supervisor's inbox: %s", err_name(e)) : ERR_OK;
}

enum err supervisor_create(const struct supervisor_options *options,
                           const struct supervisor_component *components, uint32_t count,
                           struct err_text *text, struct supervisor **out) {
    struct supervisor *supervisor = alloc_zero(1, sizeof *supervisor);
    if (!supervisor) return err_set(text, ERR_MEMORY, "no memory for the supervisor");
    supervisor->options = *options;
    supervisor->bus_config_fd = -1;
    supervisor->begun_us = clock_now_us();
    buf_init(&supervisor->out, 0);
    uint32_t own = options->nats_program ? 1 : 0;
    supervisor->unit_count = count + own;
    supervisor->units = alloc_zero(supervisor->unit_count, sizeof *supervisor->units);
    supervisor->dead = alloc_zero(DEAD_MAX, sizeof *supervisor->dead);
    supervisor->alive = alloc_zero(supervisor->unit_count, sizeof *supervisor->alive);
    enum err e = ERR_OK;
    if (!supervisor->units || !supervisor->dead || !supervisor->alive)
        e = err_set(text, ERR_MEMORY, "no memory for the supervisor");
    uint32_t width = own ? (uint32_t) strlen("nats-server") : 0;
    for (uint32_t i = 0; i < count; i++)
        if (strlen(components[i].name) > width) width = (uint32_t) strlen(components[i].name);
    if (!e && own) e = nats_server_write_config(&options->nats, text, &supervisor->bus_config_fd);
    if (!e) {
        if (own) init_unit(supervisor, &supervisor->units[0], NULL, width);
        for (uint32_t i = 0; i < count; i++)
            init_unit(supervisor, &supervisor->units[own + i], &components[i], width);
    }
    if (e) {
        supervisor_destroy(supervisor);
        return e;
    }
    uv_timer_init(options->loop, &supervisor->tick);
    uv_signal_init(options->loop, &supervisor->on_child);
    supervisor->tick.data = supervisor->on_child.data = supervisor;
    uv_signal_start(&supervisor->on_child, on_child_signal, SIGCHLD);
    uv_timer_start(&supervisor->tick, on_tick, 0, FIRST_TICK_MS);
    *out = supervisor;
    return ERR_OK;
}

void supervisor_close(struct supervisor *supervisor) {
    uv_close((uv_handle_t *) &supervisor->tick, NULL);
    uv_close((uv_handle_t *) &supervisor->on_child, NULL);
}

void supervisor_destroy(struct supervisor *supervisor) {
    if (!supervisor) return;
    close_port(supervisor);
    if (supervisor->bus_config_fd >= 0) close(supervisor->bus_config_fd);
    buf_release(&supervisor->out);
    alloc_free(supervisor->units);
    alloc_free(supervisor->dead);
    alloc_free(supervisor->alive);
    alloc_free(supervisor);
}
