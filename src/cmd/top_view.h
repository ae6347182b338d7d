/* top_view - what `gramme top` shows: two looks at /gramme/status, and lines of text made of them.
 *
 * Pure: no terminal and no network, so that the same lines go to curses, to a pipe and to tests. */
#ifndef GRAMME_CMD_TOP_VIEW_H
#define GRAMME_CMD_TOP_VIEW_H

#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>

#include "base/buf.h"
#include "base/err.h"
#include "device/device_gpu.h"

struct top_worker {
    char instance[24], name[64], host[64], state[16], component[16];
    uint32_t tensor_parallel;
    uint64_t device_bytes, budget_bytes, planned_bytes, block_bytes;
    uint64_t blocks_total, blocks_free, blocks_cached;
    uint64_t running, waiting, queued_prefills, step_us;
    uint64_t prompt_tokens, generation_tokens, prefix_query_tokens, prefix_hit_tokens;
    uint64_t sent_bytes, received_bytes;
    uint64_t device_used_bytes, device_other_bytes; /* 0: not looked at yet */
    uint64_t device_drift_bytes;
};

/* Of the frontend's node. */
struct top_card {
    char node[64], name[96], largest_name[32];
    uint64_t index, total_bytes, used_bytes, other_bytes, largest_pid, largest_bytes;
};

struct top_view {
    char version[32], model[256], state[64];
    uint64_t now_us, started_s;
    uint64_t connections, requests, requests_waiting, prompt_tokens, generation_tokens, migrations;
    struct top_worker *workers; /* owned; by name */
    uint32_t worker_count;
    struct top_card cards[DEVICE_GPUS_MAX];
    uint32_t card_count;
};

/* ERR_FORMAT: not the object that /gramme/status gives. */
MUST_USE enum err top_view_read(const json_t *root, struct top_view *out);
void top_view_release(struct top_view *view);
/* Appends lines, each ended by a newline; rates are those between `before` (may be NULL) and `now`.
 * now_s: seconds since 1970.  columns: of the screen, 0: as many as are wanted; a narrow one has
 * fewer figures. */
void top_view_print(const struct top_view *before, const struct top_view *now, const char *url,
                    uint64_t now_s, uint32_t columns, struct buf *out);

#endif
