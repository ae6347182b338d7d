/* metrics - counters, gauges and histograms of this process, in Prometheus' text format 0.0.4.
 *
 * vLLM's names and buckets (facts: engines 1.9), so that existing dashboards work; our own begin
 * with gramme_.  A fixed set: the token path adds to a number by its index and allocates nothing.
 * Label values never come from clients.  Loop thread. */
#ifndef GRAMME_API_METRICS_H
#define GRAMME_API_METRICS_H

#include <stdint.h>

#include "base/buf.h"
#include "base/err.h"

enum metric {
    /* gauges */
    METRIC_REQUESTS_RUNNING,
    METRIC_REQUESTS_WAITING,
    METRIC_KV_USAGE,
    METRIC_WORKERS,
    METRIC_CONNECTIONS,
    /* counters */
    METRIC_PREEMPTIONS,
    METRIC_PROMPT_TOKENS,
    METRIC_PROMPT_TOKENS_CACHED,
    METRIC_GENERATION_TOKENS,
    METRIC_SUCCESS_STOP,
    METRIC_SUCCESS_LENGTH,
    METRIC_SUCCESS_ABORT,
    METRIC_SUCCESS_ERROR,
    METRIC_PREFIX_QUERIES,
    METRIC_PREFIX_HITS,
    METRIC_HTTP_2XX,
    METRIC_HTTP_4XX,
    METRIC_HTTP_429,
    METRIC_HTTP_5XX,
    METRIC_STREAM_EVENTS,
    METRIC_HTTP_WRITES,
    METRIC_MESSAGES_DROPPED,
    METRIC_TOKEN_GAPS,
    METRIC_REDISPATCHES,
    METRIC_MIGRATIONS,
    METRIC_MIGRATIONS_INEXACT,
    METRIC_WORKER_DEATHS,
    METRIC_SUSPECTS,
    METRIC_SUSPECTS_BACK,
    METRIC_ROUTER_CHOICES,
    METRIC_ROUTER_BLOCKS,
    METRIC_ROUTER_OVERLAP,
    METRIC_ROUTER_EVENTS,
    METRIC_ROUTER_GAPS,
    METRIC_ROUTER_DUMPS,
    /* histograms */
    METRIC_TTFT,
    METRIC_ITL,
    METRIC_TIME_PER_OUTPUT_TOKEN,
    METRIC_E2E,
    METRIC_QUEUE,
    METRIC_INFERENCE,
    METRIC_PREFILL,
    METRIC_DECODE,
    METRIC_REQUEST_PROMPT_TOKENS,
    METRIC_REQUEST_GENERATION_TOKENS,
    METRIC_ITERATION_TOKENS,
    METRIC_MAX_GENERATION_TOKENS,
    METRIC_PARAMS_N,
    METRIC_PARAMS_MAX_TOKENS,
    METRIC_COUNT,
};

struct metrics;

/* model_name is copied; token histograms get buckets 1, 2, 5, 10 ... up to model_len_max. */
MUST_USE enum err metrics_create(const char *model_name, uint32_t model_len_max,
                                 struct metrics **out);
void metrics_destroy(struct metrics *metrics);
/* Another model's name and length; the numbers stand. */
MUST_USE enum err metrics_set_model(struct metrics *metrics, const char *model_name,
                                    uint32_t model_len_max);
void metrics_set(struct metrics *metrics, enum metric gauge, double value);
/* A counter that someone else counts: it takes that value. */
void metrics_advance(struct metrics *metrics, enum metric counter, double value);
void metrics_add(struct metrics *metrics, enum metric counter, double amount);
void metrics_observe(struct metrics *metrics, enum metric histogram, double value, uint64_t times);
double metrics_value(const struct metrics *metrics, enum metric metric); /* a histogram's count */
/* Another process tells this family: it is not rendered, so that sums are right. */
void metrics_leave_out(struct metrics *metrics, enum metric metric);
/* For vllm:cache_config_info; 0 blocks: not known yet. */
void metrics_set_cache(struct metrics *metrics, uint32_t block_size, uint32_t block_count);
void metrics_render(const struct metrics *metrics, struct buf *out);

#endif
