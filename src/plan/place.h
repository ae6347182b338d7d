/* place - which worker gets which devices.
 *
 * Largest groups first; a group's devices are of one node; within a node the devices with the most
 * free bytes, then the lowest numbers; no device twice, but where explicit lists ask for it.  Pure:
 * the same request gives the same placement. */
#ifndef GRAMME_PLAN_PLACE_H
#define GRAMME_PLAN_PLACE_H

#include <stdbool.h>
#include <stdint.h>

#include "base/err.h"
#include "device/device_list.h"

#define PLACE_COMPONENTS_MAX 8

struct place_request {
    const char *name; /* "PrefillWorker" */
    uint32_t replica_count;
    uint32_t device_count; /* a replica: resources.gpu, or TP */
    /* Devices by number, replica after replica; a list shorter than all replicas need begins
     * again.  NULL: chosen here. */
    const uint32_t *devices;
    uint32_t devices_count;
};

struct place_group {
    uint32_t request; /* index */
    uint32_t replica;
    uint32_t node;
    uint32_t first, count; /* in place.devices */
};

struct place {
    struct place_group *groups; /* owned; in the order of requests and replicas */
    uint32_t group_count;
    uint32_t *devices; /* owned: device numbers */
    uint32_t device_count;
    uint32_t idle_count; /* devices nobody got */
    uint32_t shared;     /* a device given to two groups by explicit lists; UINT32_MAX: none */
    uint32_t shared_a, shared_b; /* the two groups */
};

/* ERR_NO_ROOM: too few devices, in all or within one node; `text` says which and how many. */
MUST_USE enum err place_make(const struct place_request *requests, uint32_t request_count,
                             const struct device_list *devices, struct err_text *text,
                             struct place *out);
void place_release(struct place *place);

#endif
