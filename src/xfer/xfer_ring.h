/* xfer_ring - a ring of bytes between two processes, in a memfd: one writes, the other reads.
 *
 * Not a protocol: what the bytes mean and how a sleeper is woken is xfer_ucx_shm.c's.  The writer
 * makes the ring and passes its descriptor; sealed, so that neither can shrink it under the other.
 * Nothing of it has a name, so nothing stays behind whoever dies.
 *
 * Whoever is about to sleep says so (xfer_ring_wait) and looks once more; the other, having moved
 * its counter, looks whether it is to wake: both in one total order, so that none sleeps for ever.
 * The other side's counter is foreign: is_bad when it says what cannot be.  One thread a side. */
#ifndef GRAMME_XFER_XFER_RING_H
#define GRAMME_XFER_XFER_RING_H

#include <stdbool.h>
#include <stdint.h>

#include "base/check.h"
#include "base/err.h"

/* Half a megabyte stays in the cache that both cores share and covers a wake-up of the reader. */
#define XFER_RING_BYTES (512u << 10)

struct xfer_ring_memory;

struct xfer_ring {
    struct xfer_ring_memory *memory; /* NULL: none */
    uint64_t at;                     /* our counter: bytes ever written, or read */
    bool is_writer, is_bad;
};

/* Makes one and writes to it; *fd is the caller's, to be passed on and closed.  ERR_IO. */
MUST_USE enum err xfer_ring_create(struct xfer_ring *ring, int *fd);
/* Reads from the one behind fd, which stays the caller's.  ERR_FORMAT: it is no such ring. */
MUST_USE enum err xfer_ring_open(struct xfer_ring *ring, int fd);
void xfer_ring_close(struct xfer_ring *ring);

/* Bytes in one piece that may be written, or read, now, and where. */
uint64_t xfer_ring_look(struct xfer_ring *ring, uint8_t **at);
/* So many of them are written, or read.  true: the other side sleeps and must be woken. */
MUST_USE bool xfer_ring_pass(struct xfer_ring *ring, uint64_t bytes);
/* We want to sleep.  false: there is something to do first. */
MUST_USE bool xfer_ring_wait(struct xfer_ring *ring);

#endif
