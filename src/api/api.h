/* api - the OpenAI API on one loop thread: JSON in, bus messages out, tokens back, SSE out.
 *
 * Owns the requests.  Renders templates, tokenizes (long prompts on libuv's pool), checks every
 * field, dispatches to a worker over the bus, detokenizes, finds stop strings, counts usage, and
 * writes metrics.  Keeps the frontend's side of protocol.md 1 to 3.
 *
 *   request: parsed -> queued at a worker -> admitted (headers go out) -> streaming -> done
 *
 * A client that leaves cancels its attempt; a worker that is lost moves it (graphs). */
#ifndef GRAMME_API_API_H
#define GRAMME_API_API_H

#include <stdbool.h>
#include <stdint.h>
#include <uv.h>

#include "base/err.h"
#include "bus/bus.h"
#include "chat/chat_template.h"
#include "config/option.h"
#include "device/device_watch.h"
#include "http/http_server.h"
#include "router/router.h"
#include "token/tokenizer.h"

struct api;

#define API_NAMES_MAX 16
#define API_KEYS_MAX 64

/* Defaults of sampling that generation_config.json sets. */
struct api_sampling_defaults {
    float temperature, top_p, min_p, repetition_penalty;
    int32_t top_k;
    uint32_t max_tokens; /* 0: none */
};

/* Everything is borrowed until api_destroy. */
struct api_options {
    const char *served_names[API_NAMES_MAX];
    uint32_t served_name_count;
    const struct tokenizer *tokenizer;
    const struct chat_template *chat_template; /* NULL: chat requests are 400 */
    const char *bos_text, *eos_text;           /* for templates; NULL: none */
    uint32_t model_len_max;
    uint32_t vocab_size;
    const uint32_t *eos_ids;
    uint32_t eos_count;
    struct api_sampling_defaults defaults;
    uint32_t queue_requests_max;     /* --max-queue 4,096 */
    uint64_t queue_prompt_bytes_max; /* 256 MiB */
    uint32_t queue_timeout_ms;       /* 300,000, then 503 */
    uint32_t sse_keep_alive_ms;      /* 15,000 */
    uint32_t sync_timeout_ms;        /* 3,000 */
    uint32_t migration_timeout_ms;   /* 30,000; 0: that */
    uint32_t migration_limit;        /* 2 deaths of workers, then 500 worker_died; 0: that */
    uint32_t gone_timeout_ms; /* 10,000; 0: the worker lives in this process, silence is no sign */
    uint32_t step_timeout_ms; /* 5,000: steps that stand still make suspect; 0: they do not */
    bool allows_inexact;      /* streams may go on where numbers are computed otherwise */
    bool tells_workers;       /* /metrics carries what the workers report: one frontend a graph */
    struct router_options router;
    const char *api_keys[API_KEYS_MAX];
    uint32_t api_key_count;
    bool guards_metrics;         /* --api-key guards /metrics too */
    const char *allowed_origins; /* comma list or "*"; NULL: localhost */
    const char *version;         /* "0.1.0" */
    /* This node's cards, for /metrics (with tells_workers) and /gramme/status; NULL: not here. */
    void (*look_at_cards)(void *ctx, struct device_watch_sample *out);
    void *cards_ctx;
};

/* The defaults of everything that has one; names, tokenizer, model and keys are the caller's. */
void api_options_init(struct api_options *options);
/* Routing, suspicion and migration as the option table has them. */
void api_options_read_router(struct api_options *api, const struct options *options);

/* What /health and /live say. */
struct api_health {
    bool is_live;
    bool is_ready;
    const char *stage; /* loading: "layers"; draining; stuck */
    double percent;    /* of loading; < 0: unknown */
};
typedef void (*api_health_fn)(void *ctx, struct api_health *out);

/* Opens its own bus port on `bus` and its own http_server on `loop`.  health may be called at any
 * request. */
MUST_USE enum err api_create(uv_loop_t *loop, struct bus *bus, uint64_t instance,
                             const struct api_options *options, const struct http_limits *limits,
                             api_health_fn health, void *health_ctx, struct err_text *text,
                             struct api **out);
MUST_USE enum err api_listen(struct api *api, const char *host, uint16_t port,
                             struct err_text *text, uint16_t *port_out);
/* Before the model is loaded only health, live and version answer; api_ready opens the rest.
 * (api_create may be given a NULL tokenizer; this brings it.) */
void api_set_model(struct api *api, const struct api_options *options);
/* Refuses new requests (503, Connection: close). */
void api_drain(struct api *api);
uint32_t api_worker_count(const struct api *api); /* that take requests */
/* The longest sequence that a worker takes, 0 while none is known; for api_set_len. */
uint32_t api_worker_len_max(const struct api *api);
/* The model is there, but its workers take shorter sequences than was thought. */
void api_set_len(struct api *api, uint32_t model_len_max);
uint32_t api_live_count(const struct api *api); /* requests not yet answered whole */
/* Ends what is left with an error event; then closes the server; done when all is closed. */
void api_close(struct api *api, void (*done)(void *ctx), void *ctx);
void api_destroy(struct api *api); /* after done */

#endif
