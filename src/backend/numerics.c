/* numerics - see numerics.h. */
#include "backend/numerics.h"

#include <string.h>

static const char *const names[] = {"auto", "f32a", "bf16p", "q8a32"};

const char *numerics_name(enum numerics numerics) {
    return (unsigned) numerics < ARRAY_COUNT(names) ? names[numerics] : "?";
}

bool numerics_parse(const char *word, enum numerics *out) {
    for (unsigned i = 0; i < ARRAY_COUNT(names); i++) {
        if (strcmp(word, names[i]) != 0) continue;
        *out = (enum numerics) i;
        return true;
    }
    return false;
}

enum numerics numerics_resolve(enum numerics wanted, enum tensor_type weight_type) {
    if (wanted != NUMERICS_AUTO) return wanted;
    bool is_float =
        weight_type == TENSOR_F32 || weight_type == TENSOR_F16 || weight_type == TENSOR_BF16;
    return is_float ? NUMERICS_F32A : NUMERICS_Q8A32;
}
