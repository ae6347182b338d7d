/* core_share - see core_share.h.  A slot is 0 (idle), UINT64_MAX (computing), or the time of the
 * last step's end, by the clock that all processes of a machine have in common. */
#include "base/core_share.h"

#include <errno.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/alloc.h"
#include "base/clock.h"

#define COMPUTING UINT64_MAX

/* On a line of its own: it is written twice a step. */
struct slot {
    _Alignas(64) _Atomic uint64_t state;
};

struct core_share {
    struct slot *slots;
    uint32_t slot_count, own;
};

enum err core_share_create(uint32_t slot_count, struct err_text *text, int *fd) {
    if (slot_count == 0 || slot_count > CORE_SHARE_SLOTS_MAX)
        return err_set(text, ERR_LIMIT, "%u workers share the cores: at most %u", slot_count,
                       CORE_SHARE_SLOTS_MAX);
    int file = memfd_create("gramme-cores", MFD_CLOEXEC);
    if (file < 0 || ftruncate(file, (off_t) (slot_count * sizeof(struct slot)))) {
        err_set(text, ERR_IO, "a memory file: %s", strerror(errno));
        if (file >= 0) close(file);
        return ERR_IO;
    }
    *fd = file;
    return ERR_OK;
}

void core_share_clear(int fd, uint32_t slot) {
    static const uint64_t idle = 0;
    ssize_t wrote = pwrite(fd, &idle, sizeof idle, (off_t) (slot * sizeof(struct slot)));
    (void) wrote; /* a slot that stays marked costs time only */
}

enum err core_share_open(int fd, uint32_t slot, struct err_text *text, struct core_share **out) {
    struct stat info;
    if (fstat(fd, &info)) return err_set(text, ERR_IO, "core share: %s", strerror(errno));
    uint64_t count = (uint64_t) info.st_size / sizeof(struct slot);
    if (slot >= count || count > CORE_SHARE_SLOTS_MAX)
        return err_set(text, ERR_FORMAT, "core share: no slot %u of %llu", slot,
                       (unsigned long long) count);
    struct core_share *share = alloc_zero(1, sizeof *share);
    if (!share) return err_set(text, ERR_MEMORY, "out of memory");
    void *at = mmap(NULL, count * sizeof(struct slot), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (at == MAP_FAILED) {
        alloc_free(share);
        return err_set(text, ERR_IO, "core share: %s", strerror(errno));
    }
    *share = (struct core_share){.slots = at, .slot_count = (uint32_t) count, .own = slot};
    *out = share;
    return ERR_OK;
}

void core_share_close(struct core_share *share) {
    if (!share) return;
    atomic_store(&share->slots[share->own].state, 0);
    munmap(share->slots, share->slot_count * sizeof(struct slot));
    alloc_free(share);
}

uint32_t core_share_begin(struct core_share *share) {
    atomic_store(&share->slots[share->own].state, COMPUTING);
    uint64_t now_us = clock_now_us();
    uint32_t busy = 1;
    for (uint32_t i = 0; i < share->slot_count; i++) {
        if (i == share->own) continue;
        uint64_t state = atomic_load_explicit(&share->slots[i].state, memory_order_relaxed);
        if (state == COMPUTING || (state && now_us < state + CORE_SHARE_REST_US)) busy++;
    }
    return busy;
}

void core_share_end(struct core_share *share) {
    atomic_store(&share->slots[share->own].state, clock_now_us());
}

uint32_t core_share_threads(uint32_t thread_count, uint32_t core_count, uint32_t busy) {
    uint32_t part = busy ? core_count / busy : core_count;
    if (part > thread_count) return thread_count;
    return part ? part : 1;
}
