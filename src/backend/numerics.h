/* numerics - the class that fixes activation format, rounding and order of sums (numerics.md 1). */
#ifndef GRAMME_BACKEND_NUMERICS_H
#define GRAMME_BACKEND_NUMERICS_H

#include <stdbool.h>

#include "base/check.h"
#include "model/tensor_type.h"

enum numerics { NUMERICS_AUTO, NUMERICS_F32A, NUMERICS_BF16P, NUMERICS_Q8A32 };

const char *numerics_name(enum numerics numerics);
/* "q8a32" -> NUMERICS_Q8A32; false for another word. */
MUST_USE bool numerics_parse(const char *word, enum numerics *out);
/* auto resolved by the weight format (numerics.md 1). */
enum numerics numerics_resolve(enum numerics wanted, enum tensor_type weight_type);

#endif
