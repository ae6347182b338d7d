/* cmd_rates - what this machine's cores give, measured in a second: for predictions. */
#ifndef GRAMME_CMD_CMD_RATES_H
#define GRAMME_CMD_CMD_RATES_H

#include <stdint.h>

#include "backend/numerics.h"
#include "base/err.h"
#include "model/tensor_type.h"

/* All threads at once: streaming reads, and the products of a prompt's rows with weights of this
 * type, both the best of several rounds.  Takes 512 MiB for that second.  numerics AUTO: as the
 * backend would choose. */
MUST_USE enum err cmd_rates_measure(uint32_t thread_count, enum tensor_type type,
                                    enum numerics numerics, struct err_text *text,
                                    double *read_gb_per_s, double *tflops);

#endif
