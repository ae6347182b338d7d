/* cmd_rates - what this machine's cores give, measured in a second: for predictions. */
#ifndef GRAMME_CMD_CMD_RATES_H
#define GRAMME_CMD_CMD_RATES_H

#include <stdint.h>

#include "backend/numerics.h"
#include "base/err.h"
#include "model/model_spec.h"

struct cmd_rates {
    double read_gb_per_s;    /* streaming reads */
    double tflops;           /* products of a prompt's rows */
    double product_gb_per_s; /* of weights through the products of one row: a step of decode */
};

/* All threads at once, with weights of the model's type and shape, each the best of several rounds.
 * Takes 512 MiB for that second.  numerics AUTO: as the backend would choose. */
MUST_USE enum err cmd_rates_measure(uint32_t thread_count, const struct model_spec *spec,
                                    enum numerics numerics, struct err_text *text,
                                    struct cmd_rates *out);

#endif
