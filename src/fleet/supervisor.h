/* supervisor - starts the processes of a graph on this node, watches them, restarts what dies,
 * drains in order, and leaves nothing behind.
 *
 * Owns the units and the private nats-server; runs on the caller's loop; never blocks on a child.
 * Tells all who listens on the bus who lives and who was reaped (ROSTER, protocol.md 2 and 6).
 *
 *   STARTING --all ready--> SERVING --supervisor_drain--> FRONTENDS -> WORKERS -> BUS -> OVER
 *       \-- nothing left that can serve ------------------^  (status 1)
 *
 * FRONTENDS: they take no new work and finish what runs; then the workers go, then the bus. */
#ifndef GRAMME_FLEET_SUPERVISOR_H
#define GRAMME_FLEET_SUPERVISOR_H

#include <stdbool.h>
#include <stdint.h>
#include <uv.h>

#include "base/err.h"
#include "bus/bus.h"
#include "fleet/nats_server.h"
#include "fleet/terminal.h"
#include "fleet/unit.h"

struct supervisor;

/* Everything is borrowed until supervisor_destroy. */
struct supervisor_options {
    uv_loop_t *loop;
    struct terminal *terminal;
    const char *program; /* of the components: this one */
    char *const *environment;
    const char *nats_program;        /* NULL: the bus is elsewhere */
    struct nats_server_options nats; /* of the private one */
    struct bus_nats_options bus;     /* how to reach it */
    const char *notify_socket;       /* NULL: no systemd */
    const char *ready_note;          /* a line after "ready"; NULL: none */
    int cores_fd;                    /* core_share's file for the workers; -1: none */
    uint32_t restart_limit;
    uint32_t drain_ms; /* that frontends may take */
    uint32_t grace_ms; /* beyond a drain, before SIGKILL; 0: 5,000 */
    bool is_json, is_debug;
    void (*on_over)(void *ctx, int status); /* every process is gone */
    void *ctx;
};

struct supervisor_component {
    enum unit_role role; /* not UNIT_BUS */
    char name[64];
    const struct options *options;
    struct handover handover; /* name, instance and bus are filled in here */
    const char *const *environment;
    uint32_t environment_count;
};

/* Starts everything at once; what fails is seen by on_over. */
MUST_USE enum err supervisor_create(const struct supervisor_options *options,
                                    const struct supervisor_component *components, uint32_t count,
                                    struct err_text *text, struct supervisor **out);
void supervisor_drain(struct supervisor *supervisor);
bool supervisor_is_draining(const struct supervisor *supervisor);
/* Ends every process at once; for a second signal, right before the end of this one. */
void supervisor_kill(struct supervisor *supervisor);
/* After on_over, before the loop's handles are walked. */
void supervisor_close(struct supervisor *supervisor);
void supervisor_destroy(struct supervisor *supervisor); /* after the loop has ended */

#endif
