/* cmd_system_port - a worker's own /live, /health and /metrics for probes and Prometheus.
 *
 * On the caller's loop; asks the caller at each request. */
#ifndef GRAMME_CMD_CMD_SYSTEM_PORT_H
#define GRAMME_CMD_CMD_SYSTEM_PORT_H

#include <stdbool.h>
#include <stdint.h>
#include <uv.h>

#include "base/err.h"
#include "bus/msg.h"
#include "device/device_watch.h"

struct cmd_system_port;

struct cmd_system_state {
    bool is_live, is_ready;
    const char *stage; /* when not ready */
    const char *name;  /* of the worker */
    struct msg_load load;
    uint64_t device_bytes, budget_bytes, planned_bytes; /* of one device; 0: no plan yet */
    struct device_watch_sample sample;                  /* its watch's */
};
typedef void (*cmd_system_port_fn)(void *ctx, struct cmd_system_state *out);

MUST_USE enum err cmd_system_port_open(uv_loop_t *loop, const char *host, uint16_t port,
                                       cmd_system_port_fn state, void *ctx, struct err_text *text,
                                       uint16_t *port_out, struct cmd_system_port **out);
/* Frees it, then calls done. */
void cmd_system_port_close(struct cmd_system_port *port, void (*done)(void *ctx), void *ctx);

#endif
