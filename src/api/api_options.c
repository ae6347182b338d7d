/* api_options - the defaults of the API's options (behaviour.md 5). */
#include "api/api.h"

#include <string.h>

void api_options_init(struct api_options *options) {
    *options = (struct api_options){
        .defaults = {.temperature = 1, .top_p = 1, .repetition_penalty = 1},
        .queue_requests_max = 4096,
        .queue_prompt_bytes_max = (uint64_t) 256 << 20,
        .queue_timeout_ms = 300000,
        .sse_keep_alive_ms = 15000,
        .sync_timeout_ms = 3000,
        .migration_timeout_ms = 30000,
        .migration_limit = 2,
        .gone_timeout_ms = 10000,
        .step_timeout_ms = 5000,
        .tells_workers = true,
        .version = GRAMME_VERSION,
    };
    router_options_init(&options->router);
}

static enum router_policy policy_of(const char *word) {
    return strcmp(word, "random") == 0        ? ROUTER_RANDOM
           : strcmp(word, "round-robin") == 0 ? ROUTER_ROUND_ROBIN
           : strcmp(word, "kv") == 0          ? ROUTER_KV
                                              : ROUTER_LEAST_LOADED; /* and kv-load */
}

void api_options_read_router(struct api_options *api, const struct options *options) {
    struct router_options *router = &api->router;
    /* The classic file's key is another name for it. */
    const char *classic = options_text(options, OPT_ROUTER);
    bool is_classic = classic && !options_is_set(options, OPT_ROUTER_MODE);
    router->policy = policy_of(is_classic ? classic : options_text(options, OPT_ROUTER_MODE));
    router->overlap_weight = options_number(options, OPT_KV_OVERLAP_SCORE_WEIGHT);
    router->temperature = options_number(options, OPT_ROUTER_TEMPERATURE);
    router->has_events = options_bool(options, OPT_KV_EVENTS);
    router->approximate_us = (uint64_t) options_ms(options, OPT_ROUTER_TTL) * 1000;
    router->predicted_us = (uint64_t) options_ms(options, OPT_ROUTER_PREDICTED_TTL) * 1000;
    router->guessed_blocks_max = (uint32_t) options_count(options, OPT_ROUTER_MAX_TREE_SIZE);
    api->gone_timeout_ms = options_ms(options, OPT_GONE_TIMEOUT);
    api->step_timeout_ms = options_ms(options, OPT_STEP_TIMEOUT);
    api->sync_timeout_ms = options_ms(options, OPT_SYNC_TIMEOUT);
    api->migration_timeout_ms = options_ms(options, OPT_MIGRATION_TIMEOUT);
    api->migration_limit = (uint32_t) options_count(options, OPT_MIGRATION_LIMIT);
}
