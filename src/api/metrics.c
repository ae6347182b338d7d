/* metrics - see metrics.h. */
#include "api/metrics.h"

#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "base/alloc.h"
#include "base/clock.h"

#define BUCKETS_MAX 48

enum metric_kind { GAUGE, COUNTER, HISTOGRAM };
/* Bounds of the histograms as vLLM has them (facts: engines 1.9). */
static const double ttft_bounds[] = {.001, .005, .01, .02, .04, .06, .08, .1, .25, .5,  .75,
                                     1,    2.5,  5,   7.5, 10,  20,  40,  80, 160, 640, 2560};
static const double token_time_bounds[] = {.01, .025, .05, .075, .1,  .15, .2, .3, .4, .5,
                                           .75, 1,    2.5, 5,    7.5, 10,  20, 40, 80};
static const double request_time_bounds[] = {.3, .5, .8, 1,  1.5, 2,   2.5, 5,   10,   15,  20,
                                             30, 40, 50, 60, 120, 240, 480, 960, 1920, 7680};
static const double iteration_bounds[] = {1,   8,    16,   32,   64,   128,  256,
                                          512, 1024, 2048, 4096, 8192, 16384};
static const double n_bounds[] = {1, 2, 5, 10, 20};

#define BOUNDS(array) array, ARRAY_COUNT(array)
#define BY_LENGTH NULL, 0 /* 1, 2, 5, 10 ... up to max-model-len */
#define NO_BOUNDS NULL, 0

static const struct metric_info {
    enum metric_kind kind;
    const char *name;   /* of the family; several metrics of one family stand together */
    const char *labels; /* besides model_name and engine; "" none */
    const char *help;
    const double *bounds;
    uint32_t bound_count;
} infos[METRIC_COUNT] = {
    [METRIC_REQUESTS_RUNNING] = {GAUGE, "vllm:num_requests_running", "",
                                 "Number of requests in model execution batches.", NO_BOUNDS},
    [METRIC_REQUESTS_WAITING] = {GAUGE, "vllm:num_requests_waiting", "",
                                 "Number of requests waiting to be processed.", NO_BOUNDS},
    [METRIC_KV_USAGE] = {GAUGE, "vllm:kv_cache_usage_perc", "",
                         "KV-cache usage. 1 means 100 percent usage.", NO_BOUNDS},
    [METRIC_WORKERS] = {GAUGE, "gramme_workers", "", "Workers that take requests of this frontend.",
                        NO_BOUNDS},
    [METRIC_CONNECTIONS] = {GAUGE, "gramme_http_connections", "", "Open client connections.",
                            NO_BOUNDS},
    [METRIC_PREEMPTIONS] = {COUNTER, "vllm:num_preemptions_total", "",
                            "Cumulative number of preemptions from the engine.", NO_BOUNDS},
    [METRIC_PROMPT_TOKENS] = {COUNTER, "vllm:prompt_tokens_total", "",
                              "Number of prefill tokens processed.", NO_BOUNDS},
    [METRIC_PROMPT_TOKENS_CACHED] = {COUNTER, "vllm:prompt_tokens_cached_total", "",
                                     "Number of prompt tokens found in the prefix cache.",
                                     NO_BOUNDS},
    [METRIC_GENERATION_TOKENS] = {COUNTER, "vllm:generation_tokens_total", "",
                                  "Number of generation tokens processed.", NO_BOUNDS},
    [METRIC_SUCCESS_STOP] = {COUNTER, "vllm:request_success_total", "finished_reason=\"stop\"",
                             "Count of successfully processed requests.", NO_BOUNDS},
    [METRIC_SUCCESS_LENGTH] = {COUNTER, "vllm:request_success_total", "finished_reason=\"length\"",
                               "", NO_BOUNDS},
    [METRIC_SUCCESS_ABORT] = {COUNTER, "vllm:request_success_total", "finished_reason=\"abort\"",
                              "", NO_BOUNDS},
    [METRIC_SUCCESS_ERROR] = {COUNTER, "vllm:request_success_total", "finished_reason=\"error\"",
                              "", NO_BOUNDS},
    [METRIC_PREFIX_QUERIES] = {COUNTER, "vllm:prefix_cache_queries_total", "",
                               "Prefix cache queries, in terms of number of queried tokens.",
                               NO_BOUNDS},
    [METRIC_PREFIX_HITS] = {COUNTER, "vllm:prefix_cache_hits_total", "",
                            "Prefix cache hits, in terms of number of cached tokens.", NO_BOUNDS},
    [METRIC_HTTP_2XX] = {COUNTER, "gramme_http_requests_total", "status=\"2xx\"",
                         "Requests answered, by status.", NO_BOUNDS},
    [METRIC_HTTP_4XX] = {COUNTER, "gramme_http_requests_total", "status=\"4xx\"", "", NO_BOUNDS},
    [METRIC_HTTP_429] = {COUNTER, "gramme_http_requests_total", "status=\"429\"", "", NO_BOUNDS},
    [METRIC_HTTP_5XX] = {COUNTER, "gramme_http_requests_total", "status=\"5xx\"", "", NO_BOUNDS},
    [METRIC_STREAM_EVENTS] = {COUNTER, "gramme_stream_events_total", "",
                              "Server-sent events written.", NO_BOUNDS},
    [METRIC_HTTP_WRITES] = {COUNTER, "gramme_http_writes_total", "",
                            "Write calls that all answers went out in.", NO_BOUNDS},
    [METRIC_MESSAGES_DROPPED] = {COUNTER, "gramme_bus_messages_dropped_total", "",
                                 "Bus messages of another attempt or broken, dropped.", NO_BOUNDS},
    [METRIC_TOKEN_GAPS] = {COUNTER, "gramme_token_gaps_total", "",
                           "Times tokens were missing and asked for again.", NO_BOUNDS},
    [METRIC_REDISPATCHES] = {COUNTER, "gramme_redispatches_total", "",
                             "Attempts sent again to a worker.", NO_BOUNDS},
    [METRIC_MIGRATIONS] = {COUNTER, "gramme_migrations_total", "",
                           "Running requests moved from one worker to another.", NO_BOUNDS},
    [METRIC_MIGRATIONS_INEXACT] = {COUNTER, "gramme_migrations_inexact_total", "",
                                   "Of them, to a worker that computes other numbers.", NO_BOUNDS},
    [METRIC_WORKER_DEATHS] = {COUNTER, "gramme_worker_deaths_total", "",
                              "Workers that died or fell silent for good.", NO_BOUNDS},
    [METRIC_SUSPECTS] = {COUNTER, "gramme_worker_suspicions_total", "",
                         "Times a worker was silent, or its steps stood still.", NO_BOUNDS},
    [METRIC_SUSPECTS_BACK] = {COUNTER, "gramme_worker_suspicions_ended_total", "",
                              "Times a suspect worker was itself again.", NO_BOUNDS},
    [METRIC_ROUTER_CHOICES] = {COUNTER, "gramme_router_choices_total", "",
                               "Choices of a worker among several.", NO_BOUNDS},
    [METRIC_ROUTER_BLOCKS] = {COUNTER, "gramme_router_request_blocks_total", "",
                              "Full prompt blocks of the requests chosen for.", NO_BOUNDS},
    [METRIC_ROUTER_OVERLAP] = {COUNTER, "gramme_router_overlap_blocks_total", "",
                               "Of them, blocks believed at the chosen worker.", NO_BOUNDS},
    [METRIC_ROUTER_EVENTS] = {COUNTER, "gramme_router_kv_events_total", "",
                              "KV events applied, one a block.", NO_BOUNDS},
    [METRIC_ROUTER_GAPS] = {COUNTER, "gramme_router_kv_gaps_total", "",
                            "Times KV events were missing.", NO_BOUNDS},
    [METRIC_ROUTER_DUMPS] = {COUNTER, "gramme_router_kv_dumps_total", "",
                             "Dumps of a worker's cache taken.", NO_BOUNDS},
    [METRIC_TTFT] = {HISTOGRAM, "vllm:time_to_first_token_seconds", "",
                     "Histogram of time to first token in seconds.", BOUNDS(ttft_bounds)},
    [METRIC_ITL] = {HISTOGRAM, "vllm:inter_token_latency_seconds", "",
                    "Histogram of inter-token latency in seconds.", BOUNDS(token_time_bounds)},
    [METRIC_TIME_PER_OUTPUT_TOKEN] = {HISTOGRAM, "vllm:request_time_per_output_token_seconds", "",
                                      "Histogram of time per output token of a request in seconds.",
                                      BOUNDS(token_time_bounds)},
    [METRIC_E2E] = {HISTOGRAM, "vllm:e2e_request_latency_seconds", "",
                    "Histogram of e2e request latency in seconds.", BOUNDS(request_time_bounds)},
    [METRIC_QUEUE] = {HISTOGRAM, "vllm:request_queue_time_seconds", "",
                      "Histogram of time spent in WAITING phase for request.",
                      BOUNDS(request_time_bounds)},
    [METRIC_INFERENCE] = {HISTOGRAM, "vllm:request_inference_time_seconds", "",
                          "Histogram of time spent in RUNNING phase for request.",
                          BOUNDS(request_time_bounds)},
    [METRIC_PREFILL] = {HISTOGRAM, "vllm:request_prefill_time_seconds", "",
                        "Histogram of time spent in PREFILL phase for request.",
                        BOUNDS(request_time_bounds)},
    [METRIC_DECODE] = {HISTOGRAM, "vllm:request_decode_time_seconds", "",
                       "Histogram of time spent in DECODE phase for request.",
                       BOUNDS(request_time_bounds)},
    [METRIC_REQUEST_PROMPT_TOKENS] = {HISTOGRAM, "vllm:request_prompt_tokens", "",
                                      "Number of prefill tokens processed.", BY_LENGTH},
    [METRIC_REQUEST_GENERATION_TOKENS] = {HISTOGRAM, "vllm:request_generation_tokens", "",
                                          "Number of generation tokens processed.", BY_LENGTH},
    [METRIC_ITERATION_TOKENS] = {HISTOGRAM, "vllm:iteration_tokens_total", "",
                                 "Histogram of number of tokens per engine_step.",
                                 BOUNDS(iteration_bounds)},
    [METRIC_MAX_GENERATION_TOKENS] = {HISTOGRAM, "vllm:request_max_num_generation_tokens", "",
                                      "Histogram of maximum number of requested generation tokens.",
                                      BY_LENGTH},
    [METRIC_PARAMS_N] = {HISTOGRAM, "vllm:request_params_n", "",
                         "Histogram of the n request parameter.", BOUNDS(n_bounds)},
    [METRIC_PARAMS_MAX_TOKENS] = {HISTOGRAM, "vllm:request_params_max_tokens", "",
                                  "Histogram of the max_tokens request parameter.", BY_LENGTH},
};

struct cell {
    double value; /* of a gauge or counter; a histogram's sum */
    uint64_t count;
    uint64_t buckets[BUCKETS_MAX];
};

struct metrics {
    char *label; /* owned: model_name="...",engine="0" */
    double length_bounds[BUCKETS_MAX];
    uint32_t length_bound_count;
    uint32_t block_size, block_count;
    double started_s;
    struct cell cells[METRIC_COUNT];
    bool is_left_out[METRIC_COUNT];
};

enum err metrics_set_model(struct metrics *metrics, const char *model_name,
                           uint32_t model_len_max) {
    struct buf label;
    buf_init(&label, 0);
    buf_add_string(&label, "model_name=\"");
    for (const char *at = model_name; *at; at++) {
        if (*at == '"' || *at == '\\') buf_add_byte(&label, '\\');
        if (*at == '\n') {
            buf_add_string(&label, "\\n");
            continue;
        }
        buf_add_byte(&label, (uint8_t) *at);
    }
    buf_add_string(&label, "\",engine=\"0\"");
    const char *text = buf_string(&label);
    char *copy = text ? alloc_string(text, label.bytes) : NULL;
    buf_release(&label);
    if (!copy) return ERR_MEMORY;
    alloc_free(metrics->label);
    metrics->label = copy;
    static const uint32_t steps[] = {1, 2, 5};
    metrics->length_bound_count = 0;
    for (uint64_t power = 1; metrics->length_bound_count + 3 < BUCKETS_MAX; power *= 10)
        for (size_t i = 0; i < ARRAY_COUNT(steps); i++) {
            if (power * steps[i] > model_len_max) return ERR_OK;
            metrics->length_bounds[metrics->length_bound_count++] = (double) (power * steps[i]);
        }
    return ERR_OK;
}

enum err metrics_create(const char *model_name, uint32_t model_len_max, struct metrics **out) {
    struct metrics *metrics = alloc_zero(1, sizeof *metrics);
    if (!metrics) return ERR_MEMORY;
    metrics->started_s = (double) clock_wall_ns() / 1e9;
    enum err e = metrics_set_model(metrics, model_name, model_len_max);
    if (e) {
        metrics_destroy(metrics);
        return e;
    }
    *out = metrics;
    return ERR_OK;
}

void metrics_destroy(struct metrics *metrics) {
    if (!metrics) return;
    alloc_free(metrics->label);
    alloc_free(metrics);
}

void metrics_set(struct metrics *metrics, enum metric gauge, double value) {
    DCHECK(infos[gauge].kind == GAUGE);
    metrics->cells[gauge].value = value;
}

void metrics_add(struct metrics *metrics, enum metric counter, double amount) {
    DCHECK(infos[counter].kind == COUNTER);
    metrics->cells[counter].value += amount;
}

void metrics_advance(struct metrics *metrics, enum metric counter, double value) {
    DCHECK(infos[counter].kind == COUNTER);
    metrics->cells[counter].value = value;
}

static const double *bounds_of(const struct metrics *metrics, const struct metric_info *info,
                               uint32_t *count) {
    *count = info->bounds ? info->bound_count : metrics->length_bound_count;
    return info->bounds ? info->bounds : metrics->length_bounds;
}

void metrics_observe(struct metrics *metrics, enum metric histogram, double value, uint64_t times) {
    const struct metric_info *info = &infos[histogram];
    DCHECK(info->kind == HISTOGRAM);
    uint32_t count;
    const double *bounds = bounds_of(metrics, info, &count);
    uint32_t at = 0;
    while (at < count && value > bounds[at]) at++;
    struct cell *cell = &metrics->cells[histogram];
    if (at < count) cell->buckets[at] += times;
    cell->count += times;
    cell->value += value * (double) times;
}

double metrics_value(const struct metrics *metrics, enum metric metric) {
    return infos[metric].kind == HISTOGRAM ? (double) metrics->cells[metric].count
                                           : metrics->cells[metric].value;
}

void metrics_leave_out(struct metrics *metrics, enum metric metric) {
    metrics->is_left_out[metric] = true;
}

void metrics_set_cache(struct metrics *metrics, uint32_t block_size, uint32_t block_count) {
    metrics->block_size = block_size;
    metrics->block_count = block_count;
}

static void render_histogram(const struct metrics *metrics, const struct metric_info *info,
                             const struct cell *cell, struct buf *out) {
    uint32_t count;
    const double *bounds = bounds_of(metrics, info, &count);
    uint64_t sum = 0;
    for (uint32_t i = 0; i < count; i++) {
        sum += cell->buckets[i];
        char bound[32];
        snprintf(bound, sizeof bound, "%g", bounds[i]);
        /* The Python client prints floats: "1.0", not "1"; some queries match le="1.0". */
        if (bounds[i] >= 1e6) snprintf(bound, sizeof bound, "%.1f", bounds[i]);
        else if (!strpbrk(bound, ".e")) snprintf(bound, sizeof bound, "%.1f", bounds[i]);
        buf_add_format(out, "%s_bucket{le=\"%s\",%s} %llu\n", info->name, bound, metrics->label,
                       (unsigned long long) sum);
    }
    buf_add_format(out, "%s_bucket{le=\"+Inf\",%s} %llu\n", info->name, metrics->label,
                   (unsigned long long) cell->count);
    buf_add_format(out, "%s_count{%s} %llu\n", info->name, metrics->label,
                   (unsigned long long) cell->count);
    buf_add_format(out, "%s_sum{%s} %.17g\n", info->name, metrics->label, cell->value);
}

/* The standard gauges of a Prometheus client library, from /proc; left out where there is none. */
static void render_process(const struct metrics *metrics, struct buf *out) {
    struct timespec cpu;
    if (clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &cpu) == 0)
        buf_add_format(out,
                       "# HELP process_cpu_seconds_total Total user and system CPU time spent in "
                       "seconds.\n# TYPE process_cpu_seconds_total counter\n"
                       "process_cpu_seconds_total %.3f\n",
                       (double) cpu.tv_sec + (double) cpu.tv_nsec / 1e9);
    buf_add_format(
        out,
        "# HELP process_start_time_seconds Start time of the process since unix epoch in "
        "seconds.\n# TYPE process_start_time_seconds gauge\n"
        "process_start_time_seconds %.3f\n",
        metrics->started_s);
    FILE *file = fopen("/proc/self/statm", "re");
    if (!file) return;
    unsigned long long virtual_pages = 0, resident_pages = 0;
    if (fscanf(file, "%llu %llu", &virtual_pages, &resident_pages) == 2) {
        unsigned long long page = (unsigned long long) sysconf(_SC_PAGESIZE);
        buf_add_format(out,
                       "# HELP process_virtual_memory_bytes Virtual memory size in bytes.\n"
                       "# TYPE process_virtual_memory_bytes gauge\n"
                       "process_virtual_memory_bytes %llu\n"
                       "# HELP process_resident_memory_bytes Resident memory size in bytes.\n"
                       "# TYPE process_resident_memory_bytes gauge\n"
                       "process_resident_memory_bytes %llu\n",
                       virtual_pages * page, resident_pages * page);
    }
    fclose(file);
}

void metrics_render(const struct metrics *metrics, struct buf *out) {
    static const char *const kind_names[] = {"gauge", "counter", "histogram"};
    for (uint32_t i = 0; i < METRIC_COUNT; i++) {
        const struct metric_info *info = &infos[i];
        const struct cell *cell = &metrics->cells[i];
        if (metrics->is_left_out[i]) continue;
        if (i == 0 || strcmp(infos[i - 1].name, info->name) != 0)
            buf_add_format(out, "# HELP %s %s\n# TYPE %s %s\n", info->name, info->help, info->name,
                           kind_names[info->kind]);
        if (info->kind == HISTOGRAM) render_histogram(metrics, info, cell, out);
        else
            buf_add_format(out, "%s{%s%s%s} %.17g\n", info->name, info->labels,
                           info->labels[0] ? "," : "", metrics->label, cell->value);
    }
    if (metrics->block_count)
        buf_add_format(out,
                       "# HELP vllm:cache_config_info Information of the LLMEngine CacheConfig\n"
                       "# TYPE vllm:cache_config_info gauge\n"
                       "vllm:cache_config_info{block_size=\"%u\",num_gpu_blocks=\"%u\","
                       "engine=\"0\"} 1\n",
                       metrics->block_size, metrics->block_count);
    render_process(metrics, out);
}
