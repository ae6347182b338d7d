/* fake_xfer - a body of xfer in virtual time: delays, reorders, doubles, breaks, loses, dies.
 *
 * One net holds all workers of a simulation; everything is drawn from its seed, and no thread and
 * no clock is used.  Time stands at what the last fake_xfer_run was given, so a simulation calls
 * it before the owners act at that moment.  The rules of xfer.h are kept to the letter: bytes are
 * written in two halves at different times, so that a block freed before RELEASED, or reused
 * before SENT, is spoilt where a test can see it. */
#ifndef GRAMME_TESTS_SIM_FAKE_XFER_H
#define GRAMME_TESTS_SIM_FAKE_XFER_H

#include <stdint.h>

#include "xfer/xfer.h"

struct fake_xfer_net;

struct fake_xfer_options {
    uint64_t seed;
    uint32_t delay_us_max;        /* before the first byte; drawn for each piece: reorders */
    uint32_t copy_us_max;         /* from the first byte to the last */
    uint32_t detect_us;           /* from a death until its peers know */
    uint32_t stuck_per_mille;     /* stops half-way; both sides end it by the transfer timeout */
    uint32_t broken_per_mille;    /* the pair breaks half-way: FAILED and BROKEN */
    uint32_t corrupted_per_mille; /* the checksum shows it: SENT and BROKEN */
    uint32_t doubled_per_mille;   /* its header comes once more, late */
};

/* What happened, so that a test can prove that it did. */
struct fake_xfer_counts {
    uint64_t begun, completed, discarded, stuck, broken, corrupted, doubled;
    uint64_t quarantined; /* receives that were under way when their work was forgotten */
    uint64_t forced;      /* receives ended by the transfer timeout */
    uint64_t orphaned;    /* transfers whose other end died */
};

struct fake_xfer_net *fake_xfer_net_create(const struct fake_xfer_options *options);
/* After all its xfers. */
void fake_xfer_net_destroy(struct fake_xfer_net *net);
/* As xfer_local_create; its address is "fake:<instance>"; xfer_destroy of one is a death too. */
void fake_xfer_create(struct fake_xfer_net *net, const struct xfer_options *options,
                      struct xfer **out);
/* Does what is due at now_us or before. */
void fake_xfer_run(struct fake_xfer_net *net, uint64_t now_us);
/* When something is due next; UINT64_MAX: nothing is. */
uint64_t fake_xfer_next_us(const struct fake_xfer_net *net);
/* kill -9: no byte moves from or to it any more and it hears nothing; its owner only destroys it.
 * Peers know detect_us later. */
void fake_xfer_crash(struct fake_xfer_net *net, uint64_t instance);
/* SIGSTOP and SIGCONT: what it has under way stands still, and so does its own timeout. */
void fake_xfer_stop(struct fake_xfer_net *net, uint64_t instance);
void fake_xfer_resume(struct fake_xfer_net *net, uint64_t instance);
void fake_xfer_get_counts(const struct fake_xfer_net *net, struct fake_xfer_counts *out);

#endif
