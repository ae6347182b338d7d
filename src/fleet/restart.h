/* restart - whether and when a component that ended is started again.  Pure. */
#ifndef GRAMME_FLEET_RESTART_H
#define GRAMME_FLEET_RESTART_H

#include <stdbool.h>
#include <stdint.h>

#define RESTART_FIRST_US 200000u     /* then doubled each time */
#define RESTART_LAST_US 30000000u    /* at most */
#define RESTART_HEALTHY_US 60000000u /* served that long: the count begins anew */

struct restart_end {
    bool is_asked;      /* it drained and ended well: somebody restarts workers in turn */
    bool is_permanent;  /* the failure repeats by nature */
    bool is_at_once;    /* the bus: everybody waits for it */
    uint64_t served_us; /* it was ready for that long; 0: never */
};

/* failures: in a row so far, of this component; kept here.  true: again after *delay_us; false:
 * given up. */
bool restart_decide(const struct restart_end *end, uint32_t limit, uint32_t *failures,
                    uint64_t *delay_us);

#endif
