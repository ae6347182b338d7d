/* unit - see unit.h. */
#include "fleet/unit.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/random.h>
#include <unistd.h>

#include "base/alloc.h"
#include "base/buf.h"
#include "base/clock.h"
#include "base/log.h"
#include "fleet/child.h"
#include "fleet/nats_server.h"

#define READ_BYTES 16384
#define READS_MAX 64 /* a turn: one chatty child does not hold up the others */

/* A pipe being read; freed by its own close callback, because the slot may be in use again. */
struct unit_pipe {
    uv_poll_t poll;
    int fd;
    struct unit *unit;
    struct line_cut cut;
    line_cut_fn on_line;
};

/* --- their output ----------------------------------------------------------------------------- */

static void add_json_line(const struct unit *unit, const char *line, size_t bytes,
                          struct buf *out) {
    buf_add_format(out, "{\"who\":\"%s\",\"message\":\"", unit->name);
    char clean[LINE_CUT_MAX + 1];
    for (size_t i = 0; i < bytes; i++) /* foreign bytes: only what is surely valid UTF-8 */
        clean[i] = (unsigned char) line[i] < 0x80 ? line[i] : '?';
    buf_add_json_escaped(out, clean, bytes);
    buf_add_string(out, "\"}");
}

static void on_log_line(void *ctx, const char *line, size_t bytes, bool is_cut) {
    struct unit *unit = ctx;
    if (!bytes) return;
    if (unit->role == UNIT_BUS && !unit->shows_all && !nats_server_is_line_shown(line)) return;
    snprintf(unit->last_line, sizeof unit->last_line, "%s", line);
    struct buf out;
    buf_init(&out, 0);
    if (unit->is_json && line[0] == '{') buf_add(&out, line, bytes);
    else if (unit->is_json) add_json_line(unit, line, bytes, &out);
    else
        buf_add_format(&out, "%-*s | %s%s", (int) unit->name_width, unit->name, line,
                       is_cut ? " ..." : "");
    if (!buf_error(&out)) terminal_line(unit->terminal, (const char *) out.data, out.bytes);
    buf_release(&out);
}

static void on_report_line(void *ctx, const char *line, size_t bytes, bool is_cut) {
    struct unit *unit = ctx;
    (void) bytes;
    struct report report;
    if (is_cut || !report_parse(line, &report)) return;
    /* The reason of a failure stands, whatever comes after it. */
    if (unit->report.kind == REPORT_FAILED) return;
    unit->report = report;
    if (report.kind == REPORT_READY && unit->state == UNIT_STARTED) {
        unit->state = UNIT_READY;
        unit->ready_us = clock_now_us();
    }
    unit->on_report(unit->ctx, unit);
}

/* false: the other end is closed. */
static bool read_pipe(struct unit_pipe *pipe, uint32_t reads_max) {
    char data[READ_BYTES];
    for (uint32_t i = 0; i < reads_max; i++) {
        ssize_t got = read(pipe->fd, data, sizeof data);
        if (got < 0 && errno == EINTR) continue;
        if (got < 0) return errno == EAGAIN;
        if (got == 0) return false;
        line_cut_feed(&pipe->cut, data, (size_t) got, pipe->on_line, pipe->unit);
    }
    return true;
}

static void on_readable(uv_poll_t *poll, int status, int events) {
    (void) events;
    struct unit_pipe *pipe = poll->data;
    if (status < 0 || !read_pipe(pipe, READS_MAX)) uv_poll_stop(poll); /* closed by unit_end */
}

static void on_closed(uv_handle_t *handle) {
    struct unit_pipe *pipe = handle->data;
    close(pipe->fd);
    alloc_free(pipe);
}

static void close_pipe(struct unit_pipe **at) {
    struct unit_pipe *pipe = *at;
    if (!pipe) return;
    (void) read_pipe(pipe, READS_MAX);
    line_cut_end(&pipe->cut, pipe->on_line, pipe->unit);
    uv_poll_stop(&pipe->poll);
    uv_close((uv_handle_t *) &pipe->poll, on_closed);
    *at = NULL;
}

/* Takes the fd over, also when it fails. */
static enum err watch(struct unit *unit, int fd, line_cut_fn on_line, struct unit_pipe **out) {
    struct unit_pipe *pipe = alloc_zero(1, sizeof *pipe);
    if (!pipe || uv_poll_init(unit->loop, &pipe->poll, fd)) {
        alloc_free(pipe);
        close(fd);
        return ERR_MEMORY;
    }
    pipe->fd = fd;
    pipe->unit = unit;
    pipe->on_line = on_line;
    pipe->poll.data = pipe;
    uv_poll_start(&pipe->poll, UV_READABLE, on_readable);
    *out = pipe;
    return ERR_OK;
}

/* --- start ------------------------------------------------------------------------------------ */

static uint64_t draw_instance(void) {
    uint64_t instance = 0;
    while (!instance)
        if (getrandom(&instance, sizeof instance, 0) != sizeof instance) instance = clock_wall_ns();
    return instance;
}

/* Ours without what is for the supervisor alone, then the component's own, then who started it. */
static enum err make_environment(const struct unit *unit, const struct unit_program *program,
                                 char *own, size_t own_bytes, const char ***out) {
    uint32_t count = 0;
    while (program->environment[count]) count++;
    const char **environment =
        alloc_array(count + unit->environment_count + 2, sizeof *environment);
    if (!environment) return ERR_MEMORY;
    uint32_t used = 0;
    for (uint32_t i = 0; i < count; i++) {
        const char *entry = program->environment[i];
        bool is_ours = strncmp(entry, "NOTIFY_SOCKET=", 14) == 0 ||
                       strncmp(entry, HANDOVER_VARIABLE "=", sizeof HANDOVER_VARIABLE) == 0;
        for (uint32_t k = 0; k < unit->environment_count && !is_ours; k++) {
            size_t name_bytes = strcspn(unit->environment[k], "=") + 1;
            is_ours = strncmp(entry, unit->environment[k], name_bytes) == 0;
        }
        if (!is_ours) environment[used++] = entry;
    }
    for (uint32_t k = 0; k < unit->environment_count; k++)
        environment[used++] = unit->environment[k];
    snprintf(own, own_bytes, HANDOVER_VARIABLE "=%ld", (long) getpid());
    environment[used++] = own;
    environment[used] = NULL;
    *out = environment;
    return ERR_OK;
}

static enum err start_bus(struct unit *unit, const struct unit_program *program,
                          struct err_text *text, int *log_fd) {
    char name[] = "nats-server", flag[] = "-c", file[] = "/proc/self/fd/3";
    char *arguments[] = {name, flag, file, NULL};
    struct child_spec spec = {.path = program->path,
                              .arguments = arguments,
                              .environment = program->environment,
                              .fds = {program->config_fd},
                              .fd_count = 1};
    return child_start(&spec, text, &unit->pid, log_fd);
}

static enum err start_gramme(struct unit *unit, const struct unit_program *program,
                             struct err_text *text, int *log_fd, int *report_fd) {
    static const char *const commands[] = {[UNIT_BUS] = "",
                                           [UNIT_WORKER] = "worker",
                                           [UNIT_PREFILL] = "prefill",
                                           [UNIT_FRONTEND] = "frontend"};
    int handover_fd = -1, ends[2] = {-1, -1};
    const char **environment = NULL;
    char own[64];
    enum err e = handover_write(&unit->handover, unit->options, text, &handover_fd);
    if (!e && pipe2(ends, O_CLOEXEC | O_NONBLOCK))
        e = err_set(text, ERR_IO, "a pipe: %s", strerror(errno));
    if (!e) e = make_environment(unit, program, own, sizeof own, &environment);
    if (!e) {
        const char *arguments[] = {"gramme", commands[unit->role], unit->name, NULL};
        struct child_spec spec = {.path = program->path,
                                  .arguments = (char *const *) arguments,
                                  .environment = (char *const *) environment,
                                  .fds = {handover_fd, ends[1], program->cores_fd},
                                  .fd_count = program->cores_fd >= 0 ? 3 : 2};
        e = child_start(&spec, text, &unit->pid, log_fd);
    }
    alloc_free(environment);
    if (handover_fd >= 0) close(handover_fd);
    if (ends[1] >= 0) close(ends[1]);
    if (e && ends[0] >= 0) close(ends[0]);
    if (!e) *report_fd = ends[0];
    return e;
}

enum err unit_start(struct unit *unit, const struct unit_program *program, uint64_t now_us,
                    struct err_text *text) {
    DCHECK(unit->state == UNIT_IDLE && !unit->pid);
    int log_fd = -1, report_fd = -1;
    unit->report = (struct report){0};
    unit->last_line[0] = '\0';
    unit->handover.instance = draw_instance();
    enum err e = unit->role == UNIT_BUS ? start_bus(unit, program, text, &log_fd)
                                        : start_gramme(unit, program, text, &log_fd, &report_fd);
    if (e) return e;
    /* Without memory to read its pipes the child is stopped; it is reaped as any other. */
    enum err w = watch(unit, log_fd, on_log_line, &unit->log);
    if (report_fd >= 0 && w) close(report_fd);
    else if (report_fd >= 0) w = watch(unit, report_fd, on_report_line, &unit->report_pipe);
    unit->state = UNIT_STARTED;
    unit->started_us = now_us;
    unit->ready_us = 0;
    if (w) unit_signal(unit, SIGKILL);
    return ERR_OK;
}

void unit_end(struct unit *unit) {
    close_pipe(&unit->log);
    close_pipe(&unit->report_pipe);
    unit->pid = 0;
    unit->state = UNIT_IDLE;
}

void unit_signal(const struct unit *unit, int number) {
    if (unit->pid > 0) kill(unit->pid, number);
}

const char *unit_last_words(const struct unit *unit) {
    if (unit->report.kind == REPORT_FAILED) return unit->report.text;
    return unit->last_line[0] ? unit->last_line : "it said nothing";
}
