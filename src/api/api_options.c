/* api_options - the defaults of the API's options (behaviour.md 5). */
#include "api/api.h"

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
        .version = GRAMME_VERSION,
    };
}
