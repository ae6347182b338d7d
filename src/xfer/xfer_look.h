/* xfer_look - what this machine can carry KV blocks over: for gramme doctor.
 *
 * Tries it: two workers of this process meet over each transport and one block moves.  Takes
 * well under a second where all is well, a few seconds where a transport is silent.  Any thread. */
#ifndef GRAMME_XFER_XFER_LOOK_H
#define GRAMME_XFER_XFER_LOOK_H

#include "xfer/xfer.h"

enum xfer_look_lane { XFER_LOOK_LOCAL, XFER_LOOK_SHM, XFER_LOOK_TCP, XFER_LOOK_LANES };

struct xfer_look {
    const char *name; /* "local", "shm", "tcp" */
    enum err error;   /* ERR_OK: a block went through and came whole */
    struct err_text text;
};

/* listen: as in xfer_options. */
void xfer_look(const char *listen, struct xfer_look out[XFER_LOOK_LANES]);

#endif
