/* worker_metrics - see worker_metrics.h. */
#include "api/worker_metrics.h"

#include <stddef.h>
#include <string.h>

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
    {"gramme_worker_requests_running", "gauge", "Requests that the worker computes.", U32,
     FIELD(running_requests), 1},
    {"gramme_worker_requests_waiting", "gauge", "Requests that wait there.", U32,
     FIELD(waiting_requests), 1},
    {"gramme_worker_waiting_tokens", "gauge", "Prompt tokens that wait there.", U64,
     FIELD(waiting_tokens), 1},
    {"gramme_worker_kv_usage", "gauge", "Share of its KV blocks in use.", USAGE, 0, 1},
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
    {"gramme_worker_remote_blocks", "gauge", "KV blocks promised to remote prefills.", U32,
     FIELD(remote_blocks), 1},
    {"gramme_worker_quarantined_blocks", "gauge", "KV blocks that a transfer may still write.", U32,
     FIELD(quarantined_blocks), 1},
    {"gramme_handoff_seconds_total", "counter",
     "From PREFILL sent to joined, over the remote prefills that were used.", U64,
     FIELD(handoff_us), 1e-6},
    {"gramme_prefills_done_total", "counter", "Remote prefills computed and sent.", U64,
     FIELD(prefills_done), 1},
    {"gramme_prefills_abandoned_total", "counter", "Remote prefills given up.", U64,
     FIELD(prefills_abandoned), 1},
    {"gramme_transfer_sent_bytes_total", "counter", "KV bytes sent.", U64, FIELD(sent_bytes), 1},
    {"gramme_transfer_received_bytes_total", "counter", "KV bytes received.", U64,
     FIELD(received_bytes), 1},
    {"gramme_transfer_busy_seconds_total", "counter", "Time with a send under way.", U64,
     FIELD(busy_us), 1e-6},
    {"gramme_transfer_tail_seconds_total", "counter",
     "From the last compute to the last byte sent, over the prefills done.", U64, FIELD(tail_us),
     1e-6},
    {"gramme_transfer_failures_total", "counter", "Transfers that failed.", U64,
     FIELD(transfer_failures), 1},
    {"gramme_transfer_pairs_shm", "gauge", "Workers connected for KV over shared memory.", U64,
     FIELD(pairs_shm), 1},
    {"gramme_transfer_pairs_tcp", "gauge", "Workers connected for KV over TCP.", U64,
     FIELD(pairs_tcp), 1},
    {"gramme_transfer_pairs_lost_total", "counter",
     "Such connections that broke: the worker died, stood still or broke the protocol.", U64,
     FIELD(pairs_lost), 1},
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

enum device_figure {
    DEVICE_TOTAL,
    DEVICE_BUDGET,
    DEVICE_PLANNED,
    DEVICE_USED,
    DEVICE_OTHER,
    DEVICE_DRIFT,
    DEVICE_FIGURES
};

static uint64_t device_figure(const struct worker_metrics_row *row, enum device_figure figure) {
    switch (figure) {
    case DEVICE_TOTAL: return row->device_bytes;
    case DEVICE_BUDGET: return row->budget_bytes;
    case DEVICE_PLANNED: return row->planned_bytes;
    case DEVICE_USED: return row->load->device_used_bytes;
    case DEVICE_OTHER: return row->load->device_other_bytes;
    default: return row->load->device_drift_bytes;
    }
}

/* The memory of a rank's device; ranks of a worker are alike. */
static void render_devices(const struct worker_metrics_row *rows, uint32_t count, struct buf *out) {
    static const struct {
        const char *name, *help;
    } figures[DEVICE_FIGURES] = {
        {"total", "Memory of the device."},
        {"budget", "What the worker may take of it."},
        {"planned", "What its plan takes of it."},
        {"used", "What it has taken, as its plan counts; of mapped weights its share."},
        {"other", "What other processes have taken."},
        {"drift", "What it has taken beyond its plan, shared weights counted whole."},
    };
    for (uint32_t i = 0; i < DEVICE_FIGURES; i++) {
        buf_add_format(out,
                       "# HELP gramme_device_%s_bytes %s\n# TYPE gramme_device_%s_bytes gauge\n",
                       figures[i].name, figures[i].help, figures[i].name);
        for (uint32_t k = 0; k < count; k++)
            buf_add_format(out, "gramme_device_%s_bytes{worker=\"%s\"} %llu\n", figures[i].name,
                           rows[k].name,
                           (unsigned long long) device_figure(&rows[k], (enum device_figure) i));
    }
}

void worker_metrics_render(const struct worker_metrics_row *rows, uint32_t count, bool with_vllm,
                           struct buf *out) {
    for (size_t i = 0; i < ARRAY_COUNT(fields); i++) {
        if (!with_vllm && strncmp(fields[i].name, "vllm:", 5) == 0) continue;
        buf_add_format(out, "# HELP %s %s\n# TYPE %s %s\n", fields[i].name, fields[i].help,
                       fields[i].name, fields[i].kind);
        for (uint32_t k = 0; k < count; k++)
            buf_add_format(out, "%s{worker=\"%s\",engine=\"0\"} %.17g\n", fields[i].name,
                           rows[k].name, value_of(rows[k].load, i));
    }
    render_devices(rows, count, out);
    buf_add_string(out, "# HELP gramme_remote_prefill_total Prompts that a decode worker sent to a "
                        "prefill worker or kept, by what became of them.\n"
                        "# TYPE gramme_remote_prefill_total counter\n");
    for (uint32_t k = 0; k < count; k++)
        for (uint32_t r = 0; r < MSG_REMOTE_RESULT_COUNT; r++)
            buf_add_format(out, "gramme_remote_prefill_total{worker=\"%s\",result=\"%s\"} %llu\n",
                           rows[k].name, msg_remote_result_name((enum msg_remote_result) r),
                           (unsigned long long) rows[k].load->remote_results[r]);
}
