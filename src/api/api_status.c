/* api_status - GET /gramme/status: one JSON object of the graph as this frontend sees it.
 *
 * Numbers since the start of each process; who shows rates takes the difference of two. */
#include <string.h>
#include <unistd.h>

#include "api/api_impl.h"
#include "base/clock.h"

static void add_string(struct buf *out, const char *key, const char *value) {
    buf_add_format(out, "\"%s\":\"", key);
    answer_add_text(out, value, strlen(value));
    buf_add_string(out, "\",");
}

static void add_number(struct buf *out, const char *key, uint64_t value) {
    buf_add_format(out, "\"%s\":%llu,", key, (unsigned long long) value);
}

static const char *state_of(const struct dispatch_worker *worker) {
    if (worker->is_foreign) return "refused";
    if (!worker->hello) return "unknown";
    if (worker->is_draining) return "draining";
    return worker->is_suspect ? "suspect" : "serving";
}

static void add_hello(struct buf *out, const struct msg_hello *hello) {
    add_string(out, "name", hello->name);
    add_string(out, "host", hello->host);
    add_string(out, "version", hello->version);
    add_string(out, "component",
               hello->component == DISPATCH_COMPONENT_PREFILL ? "prefill" : "worker");
    add_number(out, "tensor_parallel", hello->tp);
    add_number(out, "max_model_len", hello->model_len_max);
    add_number(out, "max_num_seqs", hello->seat_count);
    add_number(out, "block_size", hello->block_size);
    add_number(out, "device_bytes", hello->device_bytes);
    add_number(out, "budget_bytes", hello->budget_bytes);
    add_number(out, "planned_bytes", hello->planned_bytes);
    add_number(out, "block_bytes", hello->block_bytes);
}

static void add_load(struct buf *out, const struct msg_load *load) {
    add_number(out, "blocks_total", load->blocks_total);
    add_number(out, "blocks_free", load->blocks_free);
    add_number(out, "blocks_cached", load->blocks_cached);
    add_number(out, "running", load->running_requests);
    add_number(out, "waiting", load->waiting_requests);
    add_number(out, "queued_prefills", load->queued_prefills);
    add_number(out, "running_tokens", load->running_tokens);
    add_number(out, "waiting_tokens", load->waiting_tokens);
    add_number(out, "steps", load->step_count);
    add_number(out, "step_us", load->step_us);
    add_number(out, "prompt_tokens", load->prompt_tokens);
    add_number(out, "generation_tokens", load->generation_tokens);
    add_number(out, "prefix_query_tokens", load->prefix_query_tokens);
    add_number(out, "prefix_hit_tokens", load->prefix_hit_tokens);
    add_number(out, "preemptions", load->preemption_count);
    add_number(out, "sent_bytes", load->sent_bytes);
    add_number(out, "received_bytes", load->received_bytes);
    add_number(out, "device_used_bytes", load->device_used_bytes);
    add_number(out, "device_other_bytes", load->device_other_bytes);
    add_number(out, "device_drift_bytes", load->device_drift_bytes);
    add_number(out, "remote_prefills", load->remote_results[MSG_REMOTE_DONE]);
}

static void add_workers(const struct api *api, struct buf *out) {
    struct dispatch_worker worker;
    buf_add_string(out, "\"workers\":[");
    for (uint32_t i = 0; api->dispatch && dispatch_get_worker(api->dispatch, i, &worker); i++) {
        buf_add_format(out, "%s{\"instance\":\"%016llx\",", i ? "," : "",
                       (unsigned long long) worker.instance);
        if (worker.hello) add_hello(out, worker.hello);
        if (worker.load) add_load(out, worker.load);
        add_number(out, "requests_here", worker.work_count);
        buf_add_format(out, "\"state\":\"%s\"}", state_of(&worker));
    }
    buf_add_byte(out, ']');
}

static void add_cards(const struct api *api, struct buf *out) {
    struct device_watch_sample sample = {0};
    char node[64] = "";
    if (api->options.look_at_cards) api->options.look_at_cards(api->options.cards_ctx, &sample);
    gethostname(node, sizeof node - 1);
    buf_add_string(out, "\"cards\":[");
    for (uint32_t i = 0; i < sample.card_count; i++) {
        const struct device_watch_card *card = &sample.cards[i];
        buf_add_string(out, i ? ",{" : "{");
        add_string(out, "node", node);
        add_number(out, "index", i);
        add_string(out, "name", card->name);
        add_number(out, "total_bytes", card->total_bytes);
        add_number(out, "used_bytes", card->used_bytes);
        add_string(out, "largest_name", card->largest.name);
        add_number(out, "largest_pid", card->largest.pid);
        add_number(out, "largest_bytes", card->largest.bytes);
        buf_add_format(out, "\"other_bytes\":%llu}", (unsigned long long) card->other_bytes);
    }
    buf_add_string(out, "],");
}

bool api_status_is_ready(const struct api *api, const struct api_health *health) {
    return health->is_ready && api->has_model && !api->is_draining &&
           dispatch_worker_count(api->dispatch) > 0;
}

void api_status_render(struct api *api, struct buf *out) {
    struct api_health health = {.percent = -1};
    api->health(api->health_ctx, &health);
    bool is_ready = api_status_is_ready(api, &health);
    buf_add_byte(out, '{');
    add_string(out, "version", api->options.version ? api->options.version : "");
    add_string(out, "model", api->options.served_name_count ? api->options.served_names[0] : "");
    add_string(out, "state",
               is_ready           ? "ready"
               : api->is_draining ? "draining"
               : health.stage     ? health.stage
               : health.is_ready  ? "no worker"
                                  : "loading");
    add_number(out, "now_us", clock_now_us());
    add_number(out, "started_s", (uint64_t) api->created_s);
    add_number(out, "max_model_len", api->options.model_len_max);
    add_number(out, "connections", api->http ? http_server_connection_count(api->http) : 0);
    add_number(out, "requests", api->http ? http_server_exchange_count(api->http) : 0);
    add_number(out, "requests_waiting", api->waiting_count);
    add_number(out, "prompt_tokens", (uint64_t) metrics_value(api->metrics, METRIC_PROMPT_TOKENS));
    add_number(out, "generation_tokens",
               (uint64_t) metrics_value(api->metrics, METRIC_GENERATION_TOKENS));
    add_number(out, "migrations", (uint64_t) metrics_value(api->metrics, METRIC_MIGRATIONS));
    add_cards(api, out);
    add_workers(api, out);
    buf_add_byte(out, '}');
}
