/* api_generate - the life of a request for tokens: prepared, dispatched, answered, gone.
 *
 *   start -> (pool) -> prepared -> waiting -> admitted -> answering -> over
 *
 * Bus callbacks only mark a request as touched; what follows from it (chunks, cancels, errors) is
 * done once a wake-up by api_generate_run_touched, so that all tokens that came together leave in
 * one write.  A request is freed when it is over and its job, if any, has returned. */
#include <stdio.h>
#include <string.h>

#include "api/api_impl.h"
#include "api/request_prompt.h"
#include "api/token_answer.h"
#include "base/alloc.h"
#include "base/clock.h"
#include "base/log.h"

#define CHUNK_BYTES 32768u /* rendered at once; with pending_bytes_high it bounds what waits */

/* --- lists and counts -------------------------------------------------------------------- */

static void touch(struct api_request *request) {
    struct api *api = request->api;
    if (request->is_touched) return;
    request->is_touched = true;
    request->touched_next = NULL;
    if (api->touched_last) api->touched_last->touched_next = request;
    else api->touched = request;
    api->touched_last = request;
}

static void leave_queue(struct api_request *request) {
    if (!request->is_waiting) return;
    request->is_waiting = false;
    request->api->waiting_count--;
    request->api->waiting_bytes -= request->queued_bytes;
}

static void request_free(struct api_request *request) {
    struct api *api = request->api;
    leave_queue(request);
    if (request->next) request->next->previous = request->previous;
    if (request->previous) request->previous->next = request->next;
    else api->requests = request->next;
    if (request->has_answer) answer_release(&request->answer);
    request_parse_release(&request->spec);
    alloc_free(request->body);
    buf_release(&request->reply);
    arena_release(&request->arena);
    alloc_free(request);
}

/* The end of a request, however it came: workers are told, the call keeps what the access line
 * needs, memory goes (a touched one at the end of the wake-up, a tokenizing one after its job). */
static void request_over(struct api_request *request) {
    struct api *api = request->api;
    for (uint32_t i = 0; i < request->work_count; i++)
        dispatch_drop(api->dispatch, &request->works[i]);
    leave_queue(request);
    if (request->call) request->call->request = NULL;
    request->call = NULL;
    if (!request->is_job_running && !request->is_touched) request_free(request);
}

static void count_rate(struct api *api, uint64_t now_us, uint32_t admitted) {
    uint64_t second = now_us / 1000000;
    uint64_t gap = second - api->rate_second;
    if (gap > API_RATE_SECONDS) gap = API_RATE_SECONDS;
    for (uint64_t i = 0; i < gap; i++) api->admitted_counts[(second - i) % API_RATE_SECONDS] = 0;
    api->rate_second = second;
    api->admitted_counts[second % API_RATE_SECONDS] += admitted;
}

uint32_t api_generate_retry_after_s(const struct api *api) {
    uint32_t admitted = 0;
    for (uint32_t i = 0; i < API_RATE_SECONDS; i++) admitted += api->admitted_counts[i];
    uint32_t most = api->options.queue_timeout_ms / 1000;
    if (most == 0) most = 1;
    if (admitted == 0) return most < 10 ? most : 10; /* nothing measured */
    uint64_t seconds = (uint64_t) api->waiting_count * API_RATE_SECONDS / admitted + 1;
    return seconds < most ? (uint32_t) seconds : most;
}

/* --- figures ----------------------------------------------------------------------------- */

static double seconds_between(uint64_t from_us, uint64_t to_us) {
    return to_us > from_us ? (double) (to_us - from_us) / 1e6 : 0;
}

/* What the access line and the histograms say about a request that had its prompts. */
static void note_figures(struct api_request *request, const char *finish) {
    struct api *api = request->api;
    struct api_call *call = request->call;
    if (!request->has_answer) return;
    const struct answer *answer = &request->answer;
    uint32_t out_tokens = answer_completion_tokens(answer);
    if (call) {
        call->has_tokens = true;
        call->model = api->options.served_names[request->spec.name_index];
        call->prompt_tokens = answer_prompt_tokens(answer);
        call->cached_tokens = answer_cached_tokens(answer);
        call->completion_tokens = out_tokens;
        if (request->work_count && request->works[0].was_admitted)
            call->queue_ms = (double) request->works[0].queue_us / 1e3;
        else if (request->work_count) /* it never left the queue */
            call->queue_ms = seconds_between(request->sent_us, clock_now_us()) * 1e3;
        call->ttft_ms = seconds_between(request->received_us, request->first_token_us) * 1e3;
        uint32_t gaps = out_tokens > answer->choice_count ? out_tokens - answer->choice_count : 0;
        if (gaps)
            call->itl_ms = seconds_between(request->first_token_us, request->last_token_us) * 1e3 *
                           answer->choice_count / gaps;
        call->finish = finish;
    }
    metrics_add(api->metrics, METRIC_GENERATION_TOKENS, out_tokens);
    metrics_add(api->metrics, METRIC_PROMPT_TOKENS_CACHED, answer_cached_tokens(answer));
}

static enum metric success_of(const char *reason) {
    return strcmp(reason, "stop") == 0     ? METRIC_SUCCESS_STOP
           : strcmp(reason, "length") == 0 ? METRIC_SUCCESS_LENGTH
                                           : METRIC_SUCCESS_ABORT;
}

static void observe_success(struct api_request *request, uint64_t now_us) {
    struct metrics *metrics = request->api->metrics;
    const struct answer *answer = &request->answer;
    const struct request_spec *spec = &request->spec;
    uint32_t longest = 0;
    for (uint32_t i = 0; i < answer->choice_count; i++) {
        const struct answer_choice *choice = &answer->choices[i];
        metrics_add(metrics, success_of(choice->finish_reason), 1);
        metrics_observe(metrics, METRIC_REQUEST_GENERATION_TOKENS, choice->done_count, 1);
        if (choice->done_count > longest) longest = choice->done_count;
    }
    for (uint32_t i = 0; i < spec->prompt_count; i++)
        metrics_observe(metrics, METRIC_REQUEST_PROMPT_TOKENS, answer->prompts[i].count, 1);
    metrics_observe(metrics, METRIC_MAX_GENERATION_TOKENS, longest, 1);
    metrics_observe(metrics, METRIC_PARAMS_N, spec->n, 1);
    metrics_observe(metrics, METRIC_PARAMS_MAX_TOKENS, spec->sampling.max_tokens, 1);
    metrics_observe(metrics, METRIC_E2E, seconds_between(request->received_us, now_us), 1);
    if (!request->admitted_us) return;
    metrics_observe(metrics, METRIC_QUEUE, (double) request->works[0].queue_us / 1e6, 1);
    metrics_observe(metrics, METRIC_INFERENCE,
                    seconds_between(request->admitted_us, request->last_token_us), 1);
    if (!request->first_token_us) return;
    metrics_observe(metrics, METRIC_PREFILL,
                    seconds_between(request->admitted_us, request->first_token_us), 1);
    double decode_s = seconds_between(request->first_token_us, request->last_token_us);
    metrics_observe(metrics, METRIC_DECODE, decode_s, 1);
    if (longest > 1)
        metrics_observe(metrics, METRIC_TIME_PER_OUTPUT_TOKEN, decode_s / (longest - 1), 1);
}

/* --- errors ------------------------------------------------------------------------------ */

/* The one that has, or last had, the first prompt. */
static void name_worker(struct api_request *request) {
    if (request->call && request->work_count && request->works[0].worker)
        dispatch_worker_name(request->api->dispatch, request->works[0].worker,
                             request->call->worker);
}

static void request_fail(struct api_request *request, const struct api_error *error) {
    struct api *api = request->api;
    struct api_call *call = request->call;
    if (!request->admitted_us) name_worker(request); /* else the headers name it already */
    note_figures(request, "error");
    if (error->status >= 500) metrics_add(api->metrics, METRIC_SUCCESS_ERROR, 1);
    if (call && http_answer_is_started(call->exchange)) {
        buf_clear(&api->out);
        answer_stream_error(error, &api->out);
        if (buf_error(&api->out)) {
            http_exchange_abort(call->exchange);
        } else {
            http_answer_body(call->exchange, api->out.data, api->out.bytes);
            http_answer_end(call->exchange);
        }
    } else if (call) {
        api_call_fail(call, error);
    }
    request_over(request);
}

/* --- answers ----------------------------------------------------------------------------- */

static void update_timings(struct api_request *request) {
    uint64_t from_us = request->admitted_us ? request->admitted_us : request->received_us;
    request->answer.timings = (struct answer_timings){
        .prompt_ms = seconds_between(from_us, request->first_token_us) * 1e3,
        .predicted_ms = seconds_between(request->first_token_us, request->last_token_us) * 1e3,
    };
}

static const char *finish_of(const struct answer *answer) {
    return answer->choice_count ? answer->choices[0].finish_reason : "none";
}

/* Renders what the reader has room for; true when the stream is complete. */
static bool pump_stream(struct api_request *request, uint64_t now_us) {
    struct api *api = request->api;
    struct http_exchange *exchange = request->call->exchange;
    struct answer *answer = &request->answer;
    bool is_all = false, is_ended = false;
    while (!is_all && !is_ended && !http_answer_is_full(exchange)) {
        uint64_t events = answer->event_count;
        buf_clear(&api->out);
        is_all = true;
        for (uint32_t i = 0; i < answer->choice_count && is_all; i++)
            is_all = answer_advance(answer, &answer->choices[i], CHUNK_BYTES, &api->out);
        is_ended = answer_is_ended(answer);
        if (is_ended) answer_stream_end(answer, &api->out);
        if (buf_error(&api->out)) {
            http_exchange_abort(exchange);
            request_over(request);
            return false;
        }
        if (!api->out.bytes) break;
        http_answer_body(exchange, api->out.data, api->out.bytes);
        request->written_us = now_us;
        metrics_add(api->metrics, METRIC_STREAM_EVENTS, (double) (answer->event_count - events));
    }
    /* Now, while it is in the cache, and not when the other streams' tokens are rendered too. */
    if (!is_ended) http_answer_flush(exchange);
    if (!is_all && !is_ended)
        for (uint32_t i = 0; i < answer->choice_count; i++)
            answer_look_ahead(answer, &answer->choices[i]);
    return is_ended;
}

/* Takes the text of what came; true when the body was sent. */
static bool collect_body(struct api_request *request) {
    struct api *api = request->api;
    struct answer *answer = &request->answer;
    for (uint32_t i = 0; i < answer->choice_count; i++)
        answer_advance(answer, &answer->choices[i], SIZE_MAX, &api->out);
    if (!answer_is_ended(answer)) return false;
    buf_clear(&api->out);
    answer_body(answer, &api->out);
    api_call_send_out(request->call, 200);
    return true;
}

/* Writes what can be written; ends the request when all is. */
static void advance(struct api_request *request, uint64_t now_us) {
    struct api *api = request->api;
    struct answer *answer = &request->answer;
    if (request->spec.wants_timings) update_timings(request);
    bool is_whole = false;
    if (!request->spec.is_stream) {
        is_whole = collect_body(request);
    } else if (http_answer_is_started(request->call->exchange)) {
        is_whole = pump_stream(request, now_us);
        if (!request->call) return; /* no memory: cut off */
    }
    if (is_whole) {
        if (request->spec.is_stream) http_answer_end(request->call->exchange);
        note_figures(request, finish_of(answer));
        observe_success(request, now_us);
        request_over(request);
        return;
    }
    /* A choice that found its stop string needs no more tokens. */
    if (request->spec.stops.count)
        for (uint32_t i = 0; i < request->work_count; i++)
            dispatch_note_closed(api->dispatch, &request->works[i]);
}

/* --- news -------------------------------------------------------------------------------- */

static void note_tokens(struct api_request *request, uint64_t now_us) {
    const struct answer *answer = &request->answer;
    uint32_t seen = 0;
    for (uint32_t i = 0; i < answer->choice_count; i++) seen += answer->logs[i].count;
    uint32_t fresh = seen - request->tokens_seen;
    if (!fresh) return;
    request->tokens_seen = seen;
    if (!request->first_token_us) {
        request->first_token_us = now_us;
        metrics_observe(request->api->metrics, METRIC_TTFT,
                        seconds_between(request->received_us, now_us), 1);
    } else {
        /* `fresh` tokens over all choices since the last time: each choice's share of the time */
        double gap_s = seconds_between(request->last_token_us, now_us) * answer->choice_count;
        metrics_observe(request->api->metrics, METRIC_ITL, gap_s / fresh, fresh);
    }
    request->last_token_us = now_us;
}

/* Headers go out when every prompt is known to a worker and one runs. */
static void note_admission(struct api_request *request, uint64_t now_us) {
    if (request->admitted_us) return;
    bool is_acked = true, is_admitted = false;
    for (uint32_t i = 0; i < request->work_count; i++) {
        is_acked = is_acked && request->works[i].was_acked;
        is_admitted = is_admitted || request->works[i].was_admitted;
    }
    if (!is_acked || !is_admitted) return;
    struct api *api = request->api;
    name_worker(request);
    /* The news comes after the step that admitted it; the worker says how long it had waited. */
    uint64_t told_us = request->sent_us + request->works[0].queue_us;
    request->admitted_us = told_us < now_us ? told_us : now_us;
    request->written_us = now_us;
    leave_queue(request);
    count_rate(api, now_us, 1);
    if (request->spec.is_stream && !http_answer_is_started(request->call->exchange))
        api_call_start_stream(request->call);
}

static void run(struct api_request *request, uint64_t now_us) {
    if (request->error.status) {
        struct api_error error = request->error;
        request_fail(request, &error);
        return;
    }
    for (uint32_t i = 0; i < request->work_count; i++)
        request->answer.prompts[i].cached_tokens = request->works[i].cached_tokens;
    note_admission(request, now_us);
    note_tokens(request, now_us);
    advance(request, now_us);
}

void api_generate_run_touched(struct api *api, uint64_t now_us) {
    while (api->touched) {
        struct api_request *request = api->touched;
        api->touched = request->touched_next;
        if (!api->touched) api->touched_last = NULL;
        request->is_touched = false;
        if (request->call) run(request, now_us);
        else if (!request->is_job_running) request_free(request);
    }
}

void api_generate_on_news(void *ctx, struct dispatch_work *work) {
    (void) ctx;
    touch(work->owner);
}

void api_generate_on_failed(void *ctx, struct dispatch_work *work, const struct api_error *error) {
    (void) ctx;
    struct api_request *request = work->owner;
    if (!request->error.status) request->error = *error;
    touch(request);
}

void api_generate_drain(struct api_call *call) {
    struct api_request *request = call->request;
    if (request && request->has_answer && !request->is_touched) advance(request, clock_now_us());
}

void api_generate_gone(struct api_call *call) {
    struct api_request *request = call->request;
    if (!request) return;
    note_figures(request, "abort");
    metrics_add(call->api->metrics, METRIC_SUCCESS_ABORT, 1);
    request_over(request);
}

/* --- from body to dispatch --------------------------------------------------------------- */

static void prepare(struct api_request *request, const void *body, size_t bytes,
                    struct token_scratch *scratch) {
    const struct api_options *options = &request->api->options;
    struct request_spec *spec = &request->spec;
    enum err e;
    if (spec->kind == REQUEST_DETOKENIZE) {
        e = token_answer_text(options, body, bytes, &request->reply, &request->error);
    } else {
        e = request_parse(spec, options, body, bytes, &request->error);
        if (!e)
            e = request_prompt_make(spec, options, scratch,
                                    (int64_t) (clock_wall_ns() / 1000000000u), &request->error);
        if (!e && spec->kind == REQUEST_TOKENIZE) token_answer_ids(spec, options, &request->reply);
    }
    if (!e && buf_error(&request->reply)) e = api_error_memory(&request->error);
    request->prepare_error = e;
}

static enum err make_works(struct api_request *request) {
    struct request_spec *spec = &request->spec;
    struct api_call *call = request->call;
    request->works = arena_take_zero(&request->arena, spec->prompt_count, sizeof *request->works);
    const char *id = spec->request_id[0] && !http_request_header(call->exchange, "x-request-id")
                         ? spec->request_id
                         : call->id;
    const char *trace = http_request_header(call->exchange, "traceparent");
    request->id = arena_copy(&request->arena, id, strlen(id));
    request->traceparent = arena_copy(&request->arena, trace ? trace : "",
                                      trace && strlen(trace) <= 128 ? strlen(trace) : 0);
    if (!request->works || !request->id || !request->traceparent) return ERR_MEMORY;
    memcpy(call->id, request->id, strlen(request->id) + 1);
    uint64_t deadline_us =
        request->received_us + (uint64_t) request->api->options.queue_timeout_ms * 1000;
    for (uint32_t i = 0; i < spec->prompt_count; i++)
        request->works[i] = (struct dispatch_work){
            .prompt_ids = spec->prompts[i].ids.ids,
            .prompt_count = spec->prompts[i].ids.count,
            .sampling = &spec->sampling,
            .logs = request->answer.logs + (size_t) i * spec->n,
            .choice_count = spec->n,
            .prompt_log = &request->answer.prompts[i].log,
            .request_id = request->id,
            .traceparent = request->traceparent,
            .deadline_us = deadline_us,
            .route = &spec->route,
            .owner = request,
        };
    request->work_count = spec->prompt_count;
    return ERR_OK;
}

static enum err start_answer(struct api_request *request) {
    struct api *api = request->api;
    struct request_spec *spec = &request->spec;
    char id[REQUEST_ID_BYTES + 16];
    const char *own =
        spec->request_id[0] && !http_request_header(request->call->exchange, "x-request-id")
            ? spec->request_id
            : request->call->id;
    snprintf(id, sizeof id, "%s-%s", spec->kind == REQUEST_CHAT ? "chatcmpl" : "cmpl", own);
    if (!spec->has_seed) spec->sampling.seed = api_random(api);
    request->has_answer = true;
    enum err e = answer_init(&request->answer, spec, &api->options, &api->answer_scratch, id,
                             (int64_t) (clock_wall_ns() / 1000000000u));
    if (!e) e = make_works(request);
    /* The usual answer's tokens need no further allocation. */
    uint32_t expected = spec->sampling.max_tokens < 256 ? spec->sampling.max_tokens : 256;
    for (uint32_t i = 0; i < request->answer.choice_count && !e; i++)
        e = token_log_reserve(&request->answer.logs[i], expected);
    return e;
}

/* echo with max_tokens 0 and no logprobs: there is nothing to compute. */
static void end_without_worker(struct api_request *request) {
    for (uint32_t i = 0; i < request->answer.choice_count; i++)
        request->answer.logs[i].finish = MSG_FINISH_LENGTH;
    leave_queue(request);
    if (request->spec.is_stream) api_call_start_stream(request->call);
    advance(request, clock_now_us());
}

static void prepared(struct api_request *request) {
    struct api *api = request->api;
    struct request_spec *spec = &request->spec;
    struct api_error error;
    if (request->prepare_error) {
        error = request->error;
        request_fail(request, &error);
        return;
    }
    if (spec->kind == REQUEST_TOKENIZE || spec->kind == REQUEST_DETOKENIZE) {
        api_call_send(request->call, 200, "application/json", NULL, 0, request->reply.data,
                      request->reply.bytes);
        request_over(request);
        return;
    }
    enum err e = start_answer(request);
    if (e) {
        api_error_memory(&error);
        request_fail(request, &error);
        return;
    }
    metrics_add(api->metrics, METRIC_PROMPT_TOKENS, answer_prompt_tokens(&request->answer));
    if (spec->sampling.max_tokens == 0 && spec->sampling.prompt_logprobs < 0) {
        end_without_worker(request);
        return;
    }
    uint64_t now_us = clock_now_us();
    request->sent_us = now_us;
    for (uint32_t i = 0; i < request->work_count && !e; i++)
        e = dispatch_submit(api->dispatch, &request->works[i], now_us);
    if (!e) return;
    if (e == ERR_PEER_GONE) {
        api_error_set(&error, 503, NULL, "no worker is there to run this");
        error.retry_after_s = 1;
    } else {
        api_error_set(&error, 500, NULL, "the request cannot be sent to a worker: %s", err_name(e));
    }
    request_fail(request, &error);
}

static void job_run(uv_work_t *job) {
    struct api_request *request = job->data;
    struct token_scratch *scratch = NULL;
    if (token_scratch_create(request->api->options.tokenizer, 0, &scratch)) {
        request->prepare_error = api_error_memory(&request->error);
        return;
    }
    prepare(request, request->body, request->body_bytes, scratch);
    token_scratch_destroy(scratch);
}

static void job_done(uv_work_t *job, int status) {
    struct api_request *request = job->data;
    struct api *api = request->api;
    request->is_job_running = false;
    api->job_count--;
    alloc_free(request->body);
    request->body = NULL;
    if (!request->call) {
        if (!request->is_touched) request_free(request);
        return;
    }
    if (status) request->prepare_error = api_error_memory(&request->error);
    prepared(request);
}

static enum err start_job(struct api_request *request, const uint8_t *body, size_t bytes) {
    struct api *api = request->api;
    request->body = alloc_bytes(bytes); /* the exchange may end before the job does */
    if (!request->body) return ERR_MEMORY;
    memcpy(request->body, body, bytes);
    request->body_bytes = bytes;
    request->job.data = request;
    if (uv_queue_work(api->loop, &request->job, job_run, job_done)) return ERR_MEMORY;
    request->is_job_running = true;
    api->job_count++;
    return ERR_OK;
}

/* The door: what is queued already decides. */
static enum err check_queue(struct api *api, size_t bytes, struct api_error *error) {
    const struct api_options *options = &api->options;
    if (api->waiting_count < options->queue_requests_max &&
        api->waiting_bytes + bytes <= options->queue_prompt_bytes_max)
        return ERR_OK;
    count_rate(api, clock_now_us(), 0);
    enum err e =
        api_error_set(error, 429, NULL, "the queue is full: %u requests wait", api->waiting_count);
    error->retry_after_s = api_generate_retry_after_s(api);
    return e;
}

void api_generate_start(struct api_call *call, enum request_kind kind) {
    struct api *api = call->api;
    size_t bytes;
    const uint8_t *body = http_request_body(call->exchange, &bytes);
    struct api_error error;
    /* A short text to or from ids is answered at once: it waits for nobody. */
    bool is_quick = kind >= REQUEST_TOKENIZE && bytes <= API_POOLED_BODY_BYTES;
    if (!is_quick && check_queue(api, bytes, &error)) {
        api_call_fail(call, &error);
        return;
    }
    struct api_request *request = alloc_zero(1, sizeof *request);
    if (!request) {
        api_error_memory(&error);
        api_call_fail(call, &error);
        return;
    }
    request->api = api;
    request->call = call;
    call->request = request;
    request->received_us = call->received_us;
    arena_init(&request->arena, 0);
    buf_init(&request->reply, 0);
    request_parse_init(&request->spec, kind, &request->arena);
    request->next = api->requests;
    if (request->next) request->next->previous = request;
    api->requests = request;
    request->is_waiting = true;
    request->queued_bytes = bytes;
    api->waiting_count++;
    api->waiting_bytes += bytes;
    if (bytes <= API_POOLED_BODY_BYTES) {
        prepare(request, body, bytes, api->scratch);
        prepared(request);
    } else if (start_job(request, body, bytes)) {
        api_error_memory(&error);
        request_fail(request, &error);
    }
}

/* --- time and the end -------------------------------------------------------------------- */

void api_generate_tick(struct api *api, uint64_t now_us) {
    const struct api_options *options = &api->options;
    for (struct api_request *request = api->requests; request; request = request->next) {
        if (!request->call || request->is_job_running) continue;
        if (request->is_waiting) {
            if (now_us - request->received_us < (uint64_t) options->queue_timeout_ms * 1000)
                continue;
            if (!request->error.status) {
                api_error_set(&request->error, 503, NULL, "the request waited %u s in the queue",
                              options->queue_timeout_ms / 1000);
                request->error.retry_after_s = api_generate_retry_after_s(api);
            }
            touch(request);
        } else if (request->spec.is_stream && http_answer_is_started(request->call->exchange) &&
                   now_us - request->written_us >= (uint64_t) options->sse_keep_alive_ms * 1000) {
            request->written_us = now_us;
            if (!http_answer_is_full(request->call->exchange))
                http_answer_body(request->call->exchange, ": keep-alive\n\n", 14);
        }
    }
    api_generate_run_touched(api, now_us);
}

void api_generate_end_all(struct api *api) {
    for (struct api_request *request = api->requests; request; request = request->next) {
        if (!request->call) continue;
        if (!request->error.status) {
            api_error_set(&request->error, 503, NULL, "the server is shutting down");
            request->error.retry_after_s = 1;
        }
        touch(request);
    }
    api_generate_run_touched(api, clock_now_us());
}
