/* handover - what a supervisor hands to a process it starts: who it is, where the bus is, its share
 * of the node, and every option that somebody set, with its source.
 *
 * Lies in a memory file that the child inherits (a secret in it stands in no argv, no environment
 * and no file).  Written once before the fork, read once after the exec. */
#ifndef GRAMME_FLEET_HANDOVER_H
#define GRAMME_FLEET_HANDOVER_H

#include <stdbool.h>
#include <stdint.h>

#include "base/err.h"
#include "config/option.h"

#define HANDOVER_FD 3 /* of the child: the memory file */
#define REPORT_FD 4   /* of the child: where report.h writes */
#define CORES_FD 5    /* of a worker: how the node's cores are shared (base/core_share.h) */
/* Set to the supervisor's pid for a child that was given both. */
#define HANDOVER_VARIABLE "GRAMME_FLEET"

struct handover {
    uint64_t instance; /* drawn by the supervisor, so that it knows whose death it reaps */
    char name[64];     /* "VllmWorker.0" */
    char url[512];     /* of the bus */
    char name_space[64];
    char token[256], user[128], password[256]; /* "" none */
    char ca_file[256], cert_file[256], key_file[256];
    bool has_tls;
    uint32_t core_count;     /* that the node's workers share; 0: CORES_FD is not there */
    uint32_t core_slot;      /* its own in that file */
    uint32_t memory_sharers; /* workers that share this machine's memory; 0, 1: none */
    uint64_t device_bytes;   /* of each of its ranks' devices; 0: the machine's own memory */
    uint32_t system_port;    /* of this replica; 0: as its option says */
    bool tells_workers;      /* a frontend: exports the gauges of the workers too */
};

/* A new memory file, read from its start by handover_read; the caller closes it. */
MUST_USE enum err handover_write(const struct handover *handover, const struct options *options,
                                 struct err_text *text, int *fd);
/* Closes nothing.  `options` gains every option of the file that its command has. */
MUST_USE enum err handover_read(int fd, struct handover *handover, struct options *options,
                                struct err_text *text);

#endif
