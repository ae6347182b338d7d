/* worker_metrics - see worker_metrics.h. */
#include "api/worker_metrics.h"

#include <stddef.h>

enum field_type { U32, U64, USAGE };

static const struct {
    const char *name, *kind, *help;
    enum field_type type;
    size_t offset;
    double scale;
} fields[] = {
#define FIELD(field) offsetof(struct msg_load, field)
    {"vllm:num_requests_running", "gauge", "Number of requests in model execution batches.", U32,
     FIELD(running_requests), 1},
    {"vllm:num_requests_waiting", "gauge", "Number of requests waiting to be processed.", U32,
     FIELD(waiting_requests), 1},
    {"vllm:kv_cache_usage_perc", "gauge", "KV-cache usage. 1 means 100 percent usage.", USAGE, 0,
     1},
    {"vllm:num_preemptions_total", "counter", "Cumulative number of preemptions from the engine.",
     U64, FIELD(preemption_count), 1},
    {"vllm:prefix_cache_queries_total", "counter",
     "Prefix cache queries, in terms of number of queried tokens.", U64, FIELD(prefix_query_tokens),
     1},
    {"vllm:prefix_cache_hits_total", "counter",
     "Prefix cache hits, in terms of number of cached tokens.", U64, FIELD(prefix_hit_tokens), 1},
    {"gramme_worker_kv_blocks", "gauge", "KV blocks of the worker.", U32, FIELD(blocks_total), 1},
    {"gramme_worker_kv_blocks_free", "gauge", "KV blocks that hold nothing.", U32,
     FIELD(blocks_free), 1},
    {"gramme_worker_kv_blocks_cached", "gauge",
     "KV blocks that nobody uses now but that hold a "
     "prefix.",
     U32, FIELD(blocks_cached), 1},
    {"gramme_worker_queued_prefills", "gauge", "Remote prompts that wait on a prefill worker.", U32,
     FIELD(queued_prefills), 1},
    {"gramme_worker_steps_total", "counter", "Steps of the engine.", U64, FIELD(step_count), 1},
    {"gramme_worker_prompt_tokens_total", "counter", "Prompt tokens computed.", U64,
     FIELD(prompt_tokens), 1},
    {"gramme_worker_generation_tokens_total", "counter", "Tokens sampled.", U64,
     FIELD(generation_tokens), 1},
    {"gramme_worker_step_seconds", "gauge", "Time of the last step.", U64, FIELD(step_us), 1e-6},
#undef FIELD
};

static double value_of(const struct msg_load *load, size_t i) {
    const char *base = (const char *) load + fields[i].offset;
    switch (fields[i].type) {
    case U32: return *(const uint32_t *) (const void *) base * fields[i].scale;
    case U64: return (double) *(const uint64_t *) (const void *) base * fields[i].scale;
    case USAGE: break;
    }
    double used = (double) load->blocks_total - load->blocks_free - load->blocks_cached;
    return load->blocks_total ? used / load->blocks_total : 0;
}

void worker_metrics_render(const struct worker_metrics_row *rows, uint32_t count, struct buf *out) {
    for (size_t i = 0; i < ARRAY_COUNT(fields); i++) {
        buf_add_format(out, "# HELP %s %s\n# TYPE %s %s\n", fields[i].name, fields[i].help,
                       fields[i].name, fields[i].kind);
        for (uint32_t k = 0; k < count; k++)
            buf_add_format(out, "%s{worker=\"%s\",engine=\"0\"} %.17g\n", fields[i].name,
                           rows[k].name, value_of(rows[k].load, i));
    }
}
