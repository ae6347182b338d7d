/* cmd_memory - see cmd_memory.h.
 *
 * With --prefault the plan's line "process" is filled like every other buffer: what boot measures
 * below it is taken from the heap, touched, and freed again with trimming off, so it stays resident
 * and serves the requests to come. */
#include "cmd/cmd_memory.h"

#include <link.h>
#include <malloc.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/alloc.h"
#include "base/log.h"
#include "base/num.h"
#include "plan/plan_process.h"

#define ARENAS_MAX 2 /* design.md 7 */
#define MAPPINGS_MAX 1024u
#define RESERVE_PIECE_BYTES ((uint64_t) 256 << 10)
#define RESERVE_ROUNDS 4
/* Heap that is not reserved, for what other threads take from the second arena: a share of all, so
 * that plan and measurement stay within half a percent. */
#define SLACK_SHARE 250u
#define HEAP_MAP_THRESHOLD (32 << 20) /* the most that malloc takes: larger pieces are mapped */

void cmd_memory_configure(void) {
    pthread_attr_t attributes;
    (void) mallopt(M_ARENA_MAX, ARENAS_MAX);
    if (pthread_attr_init(&attributes)) return;
    if (!pthread_attr_setstacksize(&attributes, PLAN_PROCESS_STACK_BYTES))
        (void) pthread_setattr_default_np(&attributes);
    pthread_attr_destroy(&attributes);
}

enum err cmd_memory_look(const struct model *model, struct device_process *out) {
    struct model_mapping mappings[MAPPINGS_MAX];
    struct device_process_range ranges[MAPPINGS_MAX];
    uint32_t count = model ? model_mappings(model, MAPPINGS_MAX, mappings) : 0;
    for (uint32_t i = 0; i < count; i++)
        ranges[i] = (struct device_process_range){mappings[i].base, mappings[i].bytes};
    return device_process_look(NULL, ranges, count, out);
}

/* --- prefault ------------------------------------------------------------------------------ */

static int touch_object(struct dl_phdr_info *object, size_t bytes, void *ctx) {
    uint64_t page = (uint64_t) sysconf(_SC_PAGESIZE);
    (void) bytes;
    (void) ctx;
    for (int i = 0; i < object->dlpi_phnum; i++) {
        const ElfW(Phdr) *part = &object->dlpi_phdr[i];
        if (part->p_type != PT_LOAD || !(part->p_flags & PF_R)) continue;
        uintptr_t at = object->dlpi_addr + part->p_vaddr, first = at / page * page;
        uint64_t span = num_round_up(at + part->p_memsz - first, page);
        /* Best effort: parts of a data segment may be read-only by now. */
        (void) madvise((void *) first, span, MADV_POPULATE_READ);
        if (part->p_flags & PF_W) (void) madvise((void *) first, span, MADV_POPULATE_WRITE);
    }
    return 0;
}

/* Touches so many bytes of the heap beyond what is in use; the list keeps them from being one
 * piece twice. */
static void *reserve(uint64_t bytes, void *list) {
    for (uint64_t done = 0; done + RESERVE_PIECE_BYTES <= bytes; done += RESERVE_PIECE_BYTES) {
        void **piece = alloc_bytes(RESERVE_PIECE_BYTES);
        if (!piece) break;
        mem_prefault_range(piece, RESERVE_PIECE_BYTES);
        *piece = list;
        list = piece;
    }
    return list;
}

static void fill_heap(const struct model *model, uint64_t planned_bytes) {
    uint64_t wanted = planned_bytes - planned_bytes / SLACK_SHARE;
    void *list = NULL;
    (void) mallopt(M_TRIM_THRESHOLD, INT32_MAX);
    (void) mallopt(M_MMAP_THRESHOLD, HEAP_MAP_THRESHOLD);
    for (int round = 0; round < RESERVE_ROUNDS; round++) {
        struct device_process now;
        if (cmd_memory_look(model, &now) || now.used_bytes + RESERVE_PIECE_BYTES > wanted) break;
        list = reserve(wanted - now.used_bytes, list);
    }
    while (list) {
        void *next = *(void **) list;
        alloc_free(list);
        list = next;
    }
}

/* --- plan beside measurement --------------------------------------------------------------- */

static void tell(const struct device_process *now, uint64_t planned, bool prefault, bool is_quiet) {
    double off = ((double) now->used_bytes - (double) planned) / (double) now->used_bytes * 100;
    char rest[96] = " (pages come with their first use)";
    if (prefault || now->used_bytes > planned) snprintf(rest, sizeof rest, " (%+.1f %%)", off);
    log_line(is_quiet ? LOG_DEBUG : LOG_INFO, "memory: planned %.1f MiB, measured %.1f MiB%s",
             (double) planned / (1 << 20), (double) now->used_bytes / (1 << 20), rest);
    if (now->used_bytes > planned + planned / 100)
        log_warn("the process itself uses %.1f MiB more than was planned for it",
                 (double) (now->used_bytes - planned) / (1 << 20));
}

void cmd_memory_settle(const struct plan *plan, const struct model *model, bool prefault,
                       bool is_quiet) {
    uint64_t planned = plan_sum_bytes(plan);
    malloc_trim(0);
    if (prefault) {
        dl_iterate_phdr(touch_object, NULL);
        fill_heap(model, planned);
    }
    struct device_process now;
    enum err e = cmd_memory_look(model, &now);
    if (!e) tell(&now, planned, prefault, is_quiet);
    else
        log_line(is_quiet ? LOG_DEBUG : LOG_INFO, "memory: planned %.1f MiB, not measured: %s",
                 (double) planned / (1 << 20), err_name(e));
}
