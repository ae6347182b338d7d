/* xfer_ring - see xfer_ring.h. */
#include "xfer/xfer_ring.h"

#include <errno.h>
#include <fcntl.h>
#include <stdatomic.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/num.h"

#define NOEXEC_SEAL 8u /* since Linux 6.3, where a machine may insist on it */
#define SEALS (F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL)

/* Each side's words on a line of their own. */
struct xfer_ring_memory {
    _Alignas(64) _Atomic uint64_t written;
    atomic_uint writer_waits;
    _Alignas(64) _Atomic uint64_t taken;
    atomic_uint reader_waits;
    _Alignas(4096) uint8_t data[XFER_RING_BYTES];
};

static enum err map_memory(struct xfer_ring *ring, int fd, bool is_writer) {
    void *memory = mmap(NULL, sizeof *ring->memory, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (memory == MAP_FAILED) return ERR_MEMORY;
    *ring = (struct xfer_ring){.memory = memory, .is_writer = is_writer};
    return ERR_OK;
}

enum err xfer_ring_create(struct xfer_ring *ring, int *fd) {
    *ring = (struct xfer_ring){.is_writer = true};
    unsigned flags = MFD_CLOEXEC | MFD_ALLOW_SEALING;
    int new = memfd_create("gramme-transfer", flags | NOEXEC_SEAL);
    if (new < 0 && errno == EINVAL) new = memfd_create("gramme-transfer", flags);
    if (new < 0) return ERR_IO;
    if (ftruncate(new, sizeof *ring->memory) != 0 || fcntl(new, F_ADD_SEALS, SEALS) != 0 ||
        map_memory(ring, new, true)) {
        close(new);
        return ERR_IO;
    }
    *fd = new;
    return ERR_OK;
}

enum err xfer_ring_open(struct xfer_ring *ring, int fd) {
    struct stat status;
    *ring = (struct xfer_ring){.is_writer = false};
    if (fstat(fd, &status) != 0 || status.st_size != (off_t) sizeof *ring->memory)
        return ERR_FORMAT;
    int seals = fcntl(fd, F_GET_SEALS);
    if (seals < 0 || (seals & SEALS) != SEALS) return ERR_FORMAT;
    return map_memory(ring, fd, false);
}

void xfer_ring_close(struct xfer_ring *ring) {
    if (ring->memory) munmap(ring->memory, sizeof *ring->memory);
    ring->memory = NULL;
}

uint64_t xfer_ring_look(struct xfer_ring *ring, uint8_t **at) {
    struct xfer_ring_memory *memory = ring->memory;
    uint64_t other = atomic_load(ring->is_writer ? &memory->taken : &memory->written);
    uint64_t held = ring->is_writer ? ring->at - other : other - ring->at;
    if (held > XFER_RING_BYTES) ring->is_bad = true;
    if (ring->is_bad) return 0;
    *at = memory->data + ring->at % XFER_RING_BYTES;
    return num_min(ring->is_writer ? XFER_RING_BYTES - held : held,
                   XFER_RING_BYTES - ring->at % XFER_RING_BYTES);
}

bool xfer_ring_pass(struct xfer_ring *ring, uint64_t bytes) {
    struct xfer_ring_memory *memory = ring->memory;
    ring->at += bytes;
    atomic_store(ring->is_writer ? &memory->written : &memory->taken, ring->at);
    atomic_uint *waits = ring->is_writer ? &memory->reader_waits : &memory->writer_waits;
    return atomic_load(waits) && atomic_exchange(waits, 0);
}

bool xfer_ring_wait(struct xfer_ring *ring) {
    struct xfer_ring_memory *memory = ring->memory;
    atomic_uint *waits = ring->is_writer ? &memory->writer_waits : &memory->reader_waits;
    uint8_t *at;
    atomic_store(waits, 1);
    if (xfer_ring_look(ring, &at) == 0 && !ring->is_bad) return true;
    atomic_store(waits, 0);
    return false;
}
