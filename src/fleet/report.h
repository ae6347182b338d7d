/* report - lines from a supervised process to its supervisor: loading, ready, failed.
 *
 * A pipe beside the log, one line an item, written without ever waiting.  The child's half needs
 * no memory; the supervisor's half is pure parsing. */
#ifndef GRAMME_FLEET_REPORT_H
#define GRAMME_FLEET_REPORT_H

#include <stdbool.h>
#include <stdint.h>

#include "base/err.h"

#define REPORT_LINE_MAX 1200

enum report_kind { REPORT_NONE, REPORT_LOADING, REPORT_READY, REPORT_FAILED };

struct report {
    enum report_kind kind;
    uint64_t done_bytes, total_bytes; /* LOADING */
    bool is_permanent;                /* FAILED: trying again will not help */
    char text[1024];                  /* LOADING: stage; READY: "demo on http://..."; FAILED: why */
};

/* fd < 0: nothing is done, so that a process without a supervisor need not ask. */
void report_send(int fd, const struct report *report);
/* One line without its newline; false when it is none of ours. */
MUST_USE bool report_parse(const char *line, struct report *out);
/* Whether a failure of this kind repeats by nature: a missing model, no room, wrong usage. */
bool report_is_permanent(enum err e);

#endif
