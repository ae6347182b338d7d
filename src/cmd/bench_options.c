/* bench_options - see bench_options.h. */
#include "cmd/bench_options.h"

#include <argp.h>
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"

#define STATUS_USAGE 2 /* exit status of a usage error */

enum {
    KEY_FIRST = 256,
    KEY_MODEL,
    KEY_ENDPOINT,
    KEY_KEY,
    KEY_EXTRA,
    KEY_CONCURRENCY,
    KEY_REQUESTS,
    KEY_WARMUP,
    KEY_PROMPT,
    KEY_SHARED,
    KEY_MAX,
    KEY_TIMEOUT,
    KEY_SEED,
    KEY_RATE,
    KEY_TEMPERATURE,
    KEY_PID,
    KEY_GRID,
    KEY_STREAM,
    KEY_NO_STREAM,
    KEY_EOS,
    KEY_JSON,
    KEY_URL
};

static const struct argp_option option_list[] = {
    {"url", KEY_URL, "URL", 0, "Server (http://127.0.0.1:8000)", 0},
    {"model", KEY_MODEL, "NAME", 0, "Model to ask for (the first of /v1/models)", 0},
    {"endpoint", KEY_ENDPOINT, "WORD", 0, "chat or completions (chat)", 0},
    {"api-key", KEY_KEY, "KEY", 0, "Sent as a bearer token", 0},
    {"concurrency", KEY_CONCURRENCY, "N", 0, "Requests under way at once, at most (16)", 0},
    {"requests", KEY_REQUESTS, "N", 0, "Requests to measure (4 x concurrency)", 0},
    {"warmup", KEY_WARMUP, "N", 0, "Requests before the clock starts (concurrency, at most 64)", 0},
    {"request-rate", KEY_RATE, "R", 0, "Arrivals a second, Poisson (0: as fast as they end)", 0},
    {"prompt-tokens", KEY_PROMPT, "N", 0, "Words of a prompt, about a token each (200)", 0},
    {"shared-tokens", KEY_SHARED, "N", 0, "The first N of them are the same in all prompts (0)", 0},
    {"max-tokens", KEY_MAX, "N", 0, "Tokens to generate, at most (64)", 0},
    {"temperature", KEY_TEMPERATURE, "T", 0, "0 is greedy (0)", 0},
    {"ignore-eos", KEY_EOS, NULL, 0,
     "Ask for all max-tokens (vLLM's field; not every server knows it)", 0},
    {"extra-body", KEY_EXTRA, "JSON", 0, "An object whose members go into every request", 0},
    {"stream", KEY_STREAM, NULL, 0, "Stream the answers (default)", 0},
    {"no-stream", KEY_NO_STREAM, NULL, 0, "Whole answers", 0},
    {"seed", KEY_SEED, "N", 0, "Of prompts and arrivals (1)", 0},
    {"timeout", KEY_TIMEOUT, "SECONDS", 0, "Of one request (600)", 0},
    {"pid", KEY_PID, "PID", 0, "Also measure the CPU time of this process, all threads", 0},
    {"step-grid", KEY_GRID, "MS", 0,
     "The workers on this machine run with --sim-grid --sim-step MS: also measure from the end of "
     "a "
     "token's step until the kernel here had its text, and until this client looked at it",
     0},
    {"json", KEY_JSON, NULL, 0, "One line of JSON instead of the table", 0},
    {0},
};

static uint64_t number(struct argp_state *state, const char *name, const char *text, uint64_t low,
                       uint64_t high) {
    char *end;
    errno = 0;
    unsigned long long value = strtoull(text, &end, 10);
    if (errno || end == text || *end || *text == '-' || value < low || value > high)
        argp_error(state, "--%s %s: not a whole number from %" PRIu64 " to %" PRIu64, name, text,
                   low, high);
    return value;
}

static double real(struct argp_state *state, const char *name, const char *text, double high) {
    char *end;
    double value = strtod(text, &end);
    if (end == text || *end || !(value >= 0 && value <= high))
        argp_error(state, "--%s %s: not a number from 0 to %g", name, text, high);
    return value;
}

static error_t parse_option(int key, char *arg, struct argp_state *state) {
    struct bench_options *s = state->input;
    switch (key) {
    case KEY_URL: s->url = arg; break;
    case KEY_MODEL: s->model = arg; break;
    case KEY_ENDPOINT:
        if (strcmp(arg, "chat") && strcmp(arg, "completions"))
            argp_error(state, "--endpoint %s: chat or completions", arg);
        s->endpoint = arg;
        break;
    case KEY_KEY: s->api_key = arg; break;
    case KEY_EXTRA: s->extra_body = arg; break;
    case KEY_CONCURRENCY:
        s->concurrency = (uint32_t) number(state, "concurrency", arg, 1, 16384);
        break;
    case KEY_REQUESTS: s->requests = (uint32_t) number(state, "requests", arg, 1, 100000000); break;
    case KEY_WARMUP: s->warmup = (uint32_t) number(state, "warmup", arg, 0, 1000000); break;
    case KEY_PROMPT:
        s->prompt_tokens = (uint32_t) number(state, "prompt-tokens", arg, 1, 10000000);
        break;
    case KEY_SHARED:
        s->shared_tokens = (uint32_t) number(state, "shared-tokens", arg, 0, 10000000);
        break;
    case KEY_MAX: s->max_tokens = (uint32_t) number(state, "max-tokens", arg, 1, 10000000); break;
    case KEY_TIMEOUT: s->timeout_s = (uint32_t) number(state, "timeout", arg, 1, 1000000); break;
    case KEY_SEED: s->seed = number(state, "seed", arg, 0, UINT64_MAX); break;
    case KEY_RATE: s->rate = real(state, "request-rate", arg, 1e6); break;
    case KEY_TEMPERATURE: s->temperature = real(state, "temperature", arg, 2); break;
    case KEY_PID: s->pid = (pid_t) number(state, "pid", arg, 1, INT32_MAX); break;
    case KEY_GRID: s->step_grid_ms = real(state, "step-grid", arg, 1e6); break;
    case KEY_STREAM: s->is_streaming = true; break;
    case KEY_NO_STREAM: s->is_streaming = false; break;
    case KEY_EOS: s->ignores_eos = true; break;
    case KEY_JSON: s->is_json = true; break;
    case ARGP_KEY_ARG: argp_error(state, "'%s' is not an option", arg); break;
    default: return ARGP_ERR_UNKNOWN;
    }
    return 0;
}

static const struct argp parser = {
    option_list,
    parse_option,
    NULL,
    "An OpenAI load client for any server.\vTimes are taken where the text arrives: TTFT from a "
    "request to its first text, ITL between one event with text and the next.  Tokens are those "
    "of the server's usage.",
    NULL,
    NULL,
    NULL,
};

enum err bench_options_read(int argc, char **argv, struct bench_options *out) {
    char **arguments = alloc_zero((size_t) argc + 2, sizeof *arguments);
    if (!arguments) return ERR_MEMORY;
    char name[] = "gramme bench serve";
    arguments[0] = name; /* argp wants the program's name first */
    for (int i = 0; i < argc; i++) arguments[i + 1] = argv[i];
    *out = (struct bench_options){
        .url = "http://127.0.0.1:8000",
        .endpoint = "chat",
        .concurrency = 16,
        .warmup = UINT32_MAX,
        .prompt_tokens = 200,
        .max_tokens = 64,
        .timeout_s = 600,
        .seed = 1,
        .is_streaming = true,
    };
    argp_err_exit_status = STATUS_USAGE;
    error_t status = argp_parse(&parser, argc + 1, arguments, 0, NULL, out);
    alloc_free(arguments);
    if (status) return ERR_MEMORY;
    if (out->requests == 0) out->requests = 4 * out->concurrency;
    if (out->warmup == UINT32_MAX) out->warmup = out->concurrency < 64 ? out->concurrency : 64;
    return ERR_OK;
}
