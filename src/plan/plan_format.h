/* plan_format - what the weights of a quantized checkpoint weigh, by what its config.json says of
 * them: quantization_config of the formats that vLLM loads.  Pure. */
#ifndef GRAMME_PLAN_PLAN_FORMAT_H
#define GRAMME_PLAN_PLAN_FORMAT_H

#include <jansson.h>
#include <stdbool.h>

#include "plan/cuda_estimate.h"

/* false: a method that is not known; *out is untouched. */
bool plan_format_of_config(const json_t *quantization, struct cuda_estimate_format *out);
/* The scales of a format that a name or `quantization:` told: "fp8", "gptq" ...; bits are set. */
void plan_format_add_scales(const char *format, struct cuda_estimate_format *out);

#endif
