/* device_list - the devices a graph is placed on: named on the command line, or this machine's.
 *
 *   list  = item {"," item}
 *   item  = [N "x"] name [":" bytes]      8xcpu:1GiB   16xA100-40GB   4xcuda0:39.39GiB
 *         | [N "x"] "(" list ")"          2x(8xH100-80GB): each a node of its own
 *
 * name is a card of the catalogue (device_card.h), "cpu" (a slice of the host's memory, bytes
 * required) or "cudaN" (a slice of that card of this machine).  Without parentheses all devices
 * are of one node.  Devices are numbered from 0 in the order written. */
#ifndef GRAMME_DEVICE_DEVICE_LIST_H
#define GRAMME_DEVICE_DEVICE_LIST_H

#include <stdbool.h>
#include <stdint.h>

#include "base/err.h"
#include "device/device_card.h"
#include "device/device_gpu.h"

#define DEVICE_LIST_MAX 4096u
#define DEVICE_LIST_NODES_MAX 1024u

enum device_kind { DEVICE_CPU, DEVICE_CUDA };

struct device {
    enum device_kind kind;
    uint32_t node;
    uint32_t ordinal;               /* cudaN: N; else the number within the node */
    bool is_slice;                  /* a part of one real device */
    bool is_elsewhere;              /* from the catalogue: not of this machine */
    const struct device_card *card; /* NULL: unknown */
    char name[48];                  /* "A100-40GB", "cpu", "cuda0" */
    uint64_t total_bytes;
    uint64_t free_bytes; /* total_bytes where nobody looked */
};

struct device_list {
    struct device *items; /* owned */
    uint32_t count;
    uint32_t node_count;
};

/* ERR_USAGE: one line with the place and what is expected.  gpus: this machine's, for cudaN (NULL:
 * not looked at, cudaN then needs bytes). */
MUST_USE enum err device_list_parse(const char *text, const struct device_gpus *gpus,
                                    struct err_text *error, struct device_list *out);
/* The cards of this machine that CUDA_VISIBLE_DEVICES (NULL: not set) leaves, in its order.  The
 * list may be empty. */
MUST_USE enum err device_list_of_machine(const struct device_gpus *gpus, const char *visible,
                                         struct err_text *error, struct device_list *out);
/* CUDA_VISIBLE_DEVICES: indexes, UUIDs (a beginning is enough), empty or -1 for none, "all".
 * indexes has room for DEVICE_GPUS_MAX.  uuids: gpus may be NULL, then only indexes are read. */
MUST_USE enum err device_list_visible(const char *value, const struct device_gpus *gpus,
                                      struct err_text *error, uint32_t *indexes, uint32_t *count);
void device_list_release(struct device_list *list);

#endif
