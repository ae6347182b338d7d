/* restart - see restart.h. */
#include "fleet/restart.h"

bool restart_decide(const struct restart_end *end, uint32_t limit, uint32_t *failures,
                    uint64_t *delay_us) {
    *delay_us = 0;
    if (end->is_permanent) return false;
    if (end->is_asked) {
        *failures = 0;
        return true;
    }
    if (end->served_us >= RESTART_HEALTHY_US) *failures = 0;
    if (++*failures > limit) return false;
    uint64_t delay = RESTART_FIRST_US;
    for (uint32_t i = 1; i < *failures && delay < RESTART_LAST_US; i++) delay *= 2;
    if (delay > RESTART_LAST_US) delay = RESTART_LAST_US;
    /* The first time the bus is back at once; one that cannot live does not spin. */
    *delay_us = end->is_at_once && *failures <= 3 ? 0 : delay;
    return true;
}
