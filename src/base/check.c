/* check - see check.h. */
#include "base/check.h"

#include <stdio.h>
#include <stdlib.h>

void check_failed(const char *file, int line, const char *what) {
    fprintf(stderr, "gramme: %s:%d: this must hold: %s\n", file, line, what);
    abort();
}
