/* bench_client - the connections of a load test: requests out, events in, times taken.
 *
 * Owned by one thread; bench_client_run turns its own loop until every request has ended.
 *
 *   connection: CONNECTING -> SENT -> (head) -> READING -> FREE -> SENT ...   any -> closed
 *
 * A kept-alive connection that the server closed before it answered is opened once more; every
 * other failure is counted and named. */
#ifndef GRAMME_CMD_BENCH_CLIENT_H
#define GRAMME_CMD_BENCH_CLIENT_H

#include <netinet/in.h>
#include <stdbool.h>
#include <stdint.h>

#include "base/buf.h"
#include "base/err.h"

#define BENCH_REASONS_MAX 8
#define BENCH_GAPS_MAX (16u << 20) /* samples of inter-token time kept: 64 MiB */

/* Samples in microseconds. */
struct bench_samples {
    uint32_t *us;
    size_t count;
    size_t room;
};

struct bench_reason {
    char text[200];
    uint32_t count;
};

struct bench_result {
    uint32_t done, failed;
    uint64_t input_tokens, output_tokens, cached_tokens;
    uint64_t events, reads, bytes;
    uint32_t without_usage; /* their output tokens are the events with text */
    uint64_t started_us, ended_us;
    struct bench_samples first; /* request -> first text */
    struct bench_samples gaps;  /* text -> next text */
    struct bench_samples whole; /* request -> end */
    /* Only with step_grid_us: from the end of a token's step until this machine's kernel had its
     * text, by the kernel's own stamp; and until this client, which takes the connections in turn
     * and reads what came meanwhile later, looked at it. */
    struct bench_samples steps, looks;
    struct bench_reason reasons[BENCH_REASONS_MAX];
    uint32_t reason_count;
};

/* Appends the body of request `index`. */
typedef void (*bench_body_fn)(void *ctx, uint64_t index, struct buf *out);

struct bench_load {
    struct sockaddr_storage address;
    const char *host;    /* of the Host header, with port */
    const char *target;  /* "/v1/chat/completions" */
    const char *api_key; /* NULL: none */
    bench_body_fn body;
    void *body_ctx;
    uint64_t first_index; /* of this run's requests */
    uint32_t request_count;
    uint32_t concurrency; /* connections at most */
    double rate;          /* requests a second, Poisson; 0: closed loop */
    uint64_t seed;
    uint32_t timeout_ms;
    uint32_t step_grid_us; /* steps end at its multiples (--sim-grid, this machine); 0: unknown */
};

/* result is filled as far as it came also when it fails; bench_client_release frees it. */
MUST_USE enum err bench_client_run(const struct bench_load *load, struct err_text *text,
                                   struct bench_result *result);
void bench_client_release(struct bench_result *result);
/* Sorts the samples; fraction 0.5 is the median.  0 when there are none. */
double bench_client_quantile_ms(struct bench_samples *samples, double fraction);
double bench_client_mean_ms(const struct bench_samples *samples);

#endif
