/* bench_options - what the user asks of `gramme bench serve`.
 *
 * A file of its own, because argp.h and config/option.h both define struct option. */
#ifndef GRAMME_CMD_BENCH_OPTIONS_H
#define GRAMME_CMD_BENCH_OPTIONS_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "base/err.h"

struct bench_options {
    const char *url;
    const char *model; /* NULL: asked */
    const char *endpoint;
    const char *api_key;
    const char *extra_body;
    uint32_t concurrency, requests, warmup;
    uint32_t prompt_tokens, shared_tokens, max_tokens;
    uint32_t timeout_s;
    double step_grid_ms; /* 0: unknown */
    uint64_t seed;
    double rate, temperature;
    pid_t pid;
    bool is_streaming, ignores_eos, is_json;
};

/* Fills in defaults and what the arguments say (borrowed).  Help and usage errors exit here, as
 * argp does, with 0 and 2. */
MUST_USE enum err bench_options_read(int argc, char **argv, struct bench_options *out);

#endif
