/* unit - one process slot of the supervisor: what runs there, its pipes, its last words.
 *
 * The slot stays when the process ends and gets the next one.  All on the loop's thread; the
 * supervisor (supervisor.h) decides, this only carries out.
 *
 *   IDLE --unit_start--> STARTED --report ready--> READY --reaped (unit_end)--> IDLE
 *                           \----------------- reaped ----------------------/   IDLE -> GIVEN_UP */
#ifndef GRAMME_FLEET_UNIT_H
#define GRAMME_FLEET_UNIT_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>
#include <uv.h>

#include "base/err.h"
#include "config/option.h"
#include "fleet/handover.h"
#include "fleet/line_cut.h"
#include "fleet/report.h"
#include "fleet/terminal.h"

enum unit_role { UNIT_BUS, UNIT_WORKER, UNIT_PREFILL, UNIT_FRONTEND };
enum unit_state { UNIT_IDLE, UNIT_STARTED, UNIT_READY, UNIT_GIVEN_UP };

struct unit_pipe;

struct unit {
    enum unit_role role;
    char name[64];
    const struct options *options;  /* borrowed; NULL for the bus */
    struct handover handover;       /* instance: a new one each start */
    const char *const *environment; /* "NAME=value" beside ours; borrowed */
    uint32_t environment_count;

    enum unit_state state;
    pid_t pid; /* 0: none */
    uint64_t started_us, ready_us, start_at_us;
    uint32_t failures;
    struct report report; /* the last one of this process */
    char last_line[512];  /* of its log */
    struct unit_pipe *log, *report_pipe;

    /* of the supervisor, set before the first start */
    uv_loop_t *loop;
    struct terminal *terminal;
    uint32_t name_width;     /* of the prefix before its lines */
    bool is_json, shows_all; /* log lines as JSON; the bus's chatter too */
    void (*on_report)(void *ctx, struct unit *unit);
    void *ctx;
};

struct unit_program {
    const char *path;
    char *const *environment; /* NULL-ended, ours */
    int config_fd;            /* the bus's configuration; -1: not the bus */
    int cores_fd;             /* of workers: how cores are shared; -1: not a worker */
};

MUST_USE enum err unit_start(struct unit *unit, const struct unit_program *program, uint64_t now_us,
                             struct err_text *text);
/* The process was reaped: what is left in its pipes is read, then they are closed. */
void unit_end(struct unit *unit);
void unit_signal(const struct unit *unit, int number);
const char *unit_last_words(const struct unit *unit); /* why it failed, as far as it said */

#endif
