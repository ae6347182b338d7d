/* device_process - how much memory this process has, as the kernel counts it page by page.
 *
 * What the plan is compared with (design.md 7): every resident page of the process, private and
 * shared alike, but of the model's mapped files only this process's share of each page (Pss), for
 * several workers of a node map the same file.  From /proc/self/smaps: the kernel walks the page
 * tables for it, about 10 ms a GiB of small pages while other threads may fault but not map; so ask
 * at boot, at a scrape, or every few seconds, never per step.  device_process_resident is cheap.
 *
 * Stateless, allocates nothing, any thread. */
#ifndef GRAMME_DEVICE_DEVICE_PROCESS_H
#define GRAMME_DEVICE_DEVICE_PROCESS_H

#include <stdint.h>

#include "base/err.h"
#include "device/device_cpu.h"

/* Bytes of address space that hold a mapped file of weights. */
struct device_process_range {
    const void *base;
    uint64_t bytes;
};

struct device_process {
    uint64_t used_bytes;      /* what counts: private + shared + weights_bytes */
    uint64_t private_bytes;   /* resident in no other process; ranges left out, as in shared */
    uint64_t shared_bytes;    /* resident, and others have the page too: libraries, shared memory */
    uint64_t weights_bytes;   /* Pss of the ranges */
    uint64_t lent_bytes;      /* Rss of the ranges beyond that: resident here, counted elsewhere */
    uint64_t pss_bytes;       /* of all mappings, ranges included: sums over processes are right */
    uint64_t resident_bytes;  /* of all mappings */
    uint64_t anonymous_bytes; /* of them: no file's */
    uint64_t swapped_bytes;
};

/* `ranges` may be NULL with a count of 0.  ERR_NOT_FOUND: there is no smaps (no /proc, or a kernel
 * without it); ERR_FORMAT: it is no such list; ERR_IO.  `roots` NULL: the system's own. */
MUST_USE enum err device_process_look(const struct device_roots *roots,
                                      const struct device_process_range *ranges,
                                      uint32_t range_count, struct device_process *out);
/* Resident bytes of all mappings from /proc/self/statm: cheap, and off by some pages a thread.
 * 0: unknown. */
uint64_t device_process_resident(const struct device_roots *roots);
/* Pages of the program and of its libraries that can be resident at most: code, constants, data.
 * Counted from the loaded objects themselves, so `plan` and `serve` of one build agree. */
uint64_t device_process_library_bytes(void);

#endif
