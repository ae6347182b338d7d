/* device_watch - looks at the memory that a plan counts on while it is used, and says so before it
 * hurts.
 *
 * One thread a watch, a look every two seconds: this machine's memory (RAM and cgroup), what this
 * process has of it, and the cards that it is told to look at, with who holds them.  A
 * worker watches its own plan, from before its first byte is loaded; the supervisor watches the
 * node.  At rest a look is a few small files of /proc; a process with a plan is also measured as
 * the plan counts (device_process.h), as often as half a percent of a core allows, and followed by
 * its resident pages in between.  NVML is opened only where cards are wanted, and once.
 *
 * A warning is given once, when it begins; it may come again after it has ended, and it ends only
 * well clear of where it began.  device_watch_judge is that policy, pure.
 *
 * Owned by whoever started it; device_watch_get from any thread. */
#ifndef GRAMME_DEVICE_DEVICE_WATCH_H
#define GRAMME_DEVICE_DEVICE_WATCH_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/err.h"
#include "device/device_cpu.h"
#include "device/device_gpu.h"
#include "device/device_process.h"

struct device_watch_holder {
    uint32_t pid; /* 0: nobody is known */
    char name[32];
    uint64_t bytes;
};

/* Of the machine's memory, as far as it is ours (cgroup). */
struct device_watch_host {
    uint64_t total_bytes, available_bytes;
    const char *bound;      /* what bounds it: "free memory", "cgroup memory limit" */
    uint64_t used_bytes;    /* by this process: as device_process counts where it has a plan, else
                               resident */
    uint64_t lent_bytes;    /* its pages of mapped weights that others' used_bytes count */
    uint64_t planned_bytes; /* of this process; 0: it has no plan */
    uint64_t other_bytes;   /* taken, and not by this process */
    uint64_t drift_bytes;   /* used and lent beyond the plan: it plans each file as its own */
};

struct device_watch_card {
    char name[96];
    uint64_t total_bytes, used_bytes;
    uint64_t planned_bytes;             /* 0: nothing of ours is planned there */
    uint64_t own_bytes;                 /* by this process and its family */
    uint64_t other_bytes;               /* by anyone else */
    struct device_watch_holder largest; /* of the others */
};

struct device_watch_sample {
    uint64_t number; /* of looks so far; 0: none yet */
    struct device_watch_host host;
    struct device_watch_card cards[DEVICE_GPUS_MAX];
    uint32_t card_count;
};

/* --- when to warn (pure) ---------------------------------------------------------------------- */

enum device_watch_kind {
    DEVICE_WATCH_PLAN,  /* what the plan still counts on is not there (any more) */
    DEVICE_WATCH_LOW,   /* hardly any is left, plan or not */
    DEVICE_WATCH_DRIFT, /* this process uses more than planned */
    DEVICE_WATCH_CARD,  /* + card: others took of it what the plan counts on */
    DEVICE_WATCH_KINDS = DEVICE_WATCH_CARD + DEVICE_GPUS_MAX,
};

struct device_watch_state {
    bool is_warned[DEVICE_WATCH_KINDS];
};

/* Whether this look begins the warning; the state is kept. */
bool device_watch_judge(struct device_watch_state *state, enum device_watch_kind kind,
                        const struct device_watch_sample *sample);
/* The warning's line: numbers, cause, what to do. */
void device_watch_describe(enum device_watch_kind kind, const struct device_watch_sample *sample,
                           const struct device_watch_holder *largest, char *out, size_t room);

/* --- the thread ------------------------------------------------------------------------- */

struct device_watch_options {
    const struct device_roots *roots;           /* NULL: the system's */
    const char *library;                        /* NVML; NULL: the system's */
    uint32_t interval_ms;                       /* 0: 2000 */
    bool is_node;                               /* also low memory, which is the node's */
    uint64_t planned_bytes;                     /* of this process */
    const struct device_process_range *weights; /* its mapped files, borrowed */
    uint32_t weights_count;
    uint32_t family_pid; /* whose children are ours too; 0: only this process's own */
    /* Planned bytes by card; count 0: cards are not looked at. */
    uint64_t card_planned_bytes[DEVICE_GPUS_MAX];
    uint32_t card_count;
    void (*warn)(void *ctx, const char *line); /* on the watch's thread; NULL: the log */
    void *warn_ctx;
};

struct device_watch;

/* A watch of cards alone ends by itself where there are none. */
MUST_USE enum err device_watch_start(const struct device_watch_options *options,
                                     struct device_watch **out);
/* NULL is allowed.  Waits for the thread: at most one look. */
void device_watch_stop(struct device_watch *watch);
/* The last look. */
void device_watch_get(struct device_watch *watch, struct device_watch_sample *out);
/* One look now, on the caller's thread, without a watch: cards only where options ask for them. */
void device_watch_look(const struct device_watch_options *options, struct device_watch_sample *out);
/* The process that has the most memory of its own, this one and kernel threads apart. */
void device_watch_find_largest(const struct device_roots *roots, struct device_watch_holder *out);

#endif
