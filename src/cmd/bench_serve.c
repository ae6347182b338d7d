/* bench_serve - see bench_serve.h: options, the run, the report. */
#include "cmd/bench_serve.h"

#include <curl/curl.h>
#include <dirent.h>
#include <inttypes.h>
#include <jansson.h>
#include <netdb.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

#include "cmd/bench_client.h"
#include "cmd/bench_options.h"
#include "cmd/bench_prompt.h"
#include "cmd/bench_stamp.h"
#include "cmd/cmd.h"

#define FETCH_BYTES_MAX (16u << 20)
#define FETCH_TIMEOUT_MS 10000L

/* What the server says of itself before and after. */
struct server_state {
    double cpu_ms; /* of process --pid; < 0: unknown */
    double writes; /* write calls, from its metrics; < 0: unknown */
};

struct bench {
    struct bench_options settings;
    char model[256];
    char host[300], node[256], port[8];
    char base[512];     /* http://host:port */
    struct buf members; /* JSON members that all requests share */
};

/* --- the server's address --- */

/* "http://host:port/anything" in its parts. */
static enum err split_url(struct bench *bench, struct err_text *text) {
    const char *url = bench->settings.url;
    if (strncmp(url, "https://", 8) == 0)
        return err_set(text, ERR_UNSUPPORTED, "--url %s: only http is measured", url);
    const char *at = strncmp(url, "http://", 7) == 0 ? url + 7 : url;
    size_t bytes = strcspn(at, "/");
    const char *colon = memrchr(at, ':', bytes);
    const char *bracket = memchr(at, ']', bytes);
    if (colon && bracket && colon < bracket) colon = NULL;
    size_t node_bytes = colon ? (size_t) (colon - at) : bytes;
    size_t port_bytes = colon ? bytes - node_bytes - 1 : 0;
    bool is_six = node_bytes > 2 && at[0] == '[' && at[node_bytes - 1] == ']';
    if (node_bytes == 0 || node_bytes >= sizeof bench->node || port_bytes >= sizeof bench->port)
        return err_set(text, ERR_USAGE, "--url %s: not of the form http://HOST:PORT", url);
    snprintf(bench->host, sizeof bench->host, "%.*s", (int) bytes, at);
    snprintf(bench->node, sizeof bench->node, "%.*s", (int) (is_six ? node_bytes - 2 : node_bytes),
             is_six ? at + 1 : at);
    snprintf(bench->port, sizeof bench->port, "%.*s", (int) port_bytes, colon ? colon + 1 : "");
    if (port_bytes == 0) snprintf(bench->port, sizeof bench->port, "80");
    snprintf(bench->base, sizeof bench->base, "http://%s", bench->host);
    return ERR_OK;
}

static enum err resolve(const struct bench *bench, struct sockaddr_storage *out,
                        struct err_text *text) {
    struct addrinfo hints = {.ai_socktype = SOCK_STREAM};
    struct addrinfo *found = NULL;
    int status = getaddrinfo(bench->node, bench->port, &hints, &found);
    if (status)
        return err_set(text, ERR_NOT_FOUND, "%s: %s", bench->settings.url, gai_strerror(status));
    memset(out, 0, sizeof *out);
    memcpy(out, found->ai_addr, found->ai_addrlen);
    freeaddrinfo(found);
    return ERR_OK;
}

/* --- what the server says --- */

static size_t on_fetched(char *data, size_t size, size_t count, void *ctx) {
    struct buf *out = ctx;
    buf_add(out, data, size * count);
    return buf_error(out) ? 0 : size * count;
}

static enum err fetch(const struct bench *bench, const char *path, struct buf *out,
                      struct err_text *text) {
    char url[1024], bearer[512];
    snprintf(url, sizeof url, "%s%s", bench->base, path);
    CURL *curl = curl_easy_init();
    if (!curl) return err_set(text, ERR_MEMORY, "no memory for %s", url);
    struct curl_slist *headers = NULL;
    if (bench->settings.api_key) {
        snprintf(bearer, sizeof bearer, "Authorization: Bearer %s", bench->settings.api_key);
        headers = curl_slist_append(NULL, bearer);
    }
    curl_easy_setopt(curl, CURLOPT_URL, url);
    curl_easy_setopt(curl, CURLOPT_HTTPHEADER, headers);
    curl_easy_setopt(curl, CURLOPT_NOSIGNAL, 1L);
    curl_easy_setopt(curl, CURLOPT_TIMEOUT_MS, FETCH_TIMEOUT_MS);
    curl_easy_setopt(curl, CURLOPT_WRITEFUNCTION, on_fetched);
    curl_easy_setopt(curl, CURLOPT_WRITEDATA, out);
    CURLcode code = curl_easy_perform(curl);
    long status = 0;
    curl_easy_getinfo(curl, CURLINFO_RESPONSE_CODE, &status);
    curl_slist_free_all(headers);
    curl_easy_cleanup(curl);
    if (code) return err_set(text, ERR_IO, "%s: %s", url, curl_easy_strerror(code));
    if (status != 200) return err_set(text, ERR_IO, "%s: status %ld", url, status);
    return ERR_OK;
}

static enum err find_model(struct bench *bench, struct err_text *text) {
    if (bench->settings.model) {
        snprintf(bench->model, sizeof bench->model, "%s", bench->settings.model);
        return ERR_OK;
    }
    struct buf body;
    buf_init(&body, FETCH_BYTES_MAX);
    enum err e = fetch(bench, "/v1/models", &body, text);
    if (!e) {
        json_t *root = json_loadb((const char *) body.data, body.bytes, 0, NULL);
        const json_t *first = json_array_get(json_object_get(root, "data"), 0);
        const char *id = json_string_value(json_object_get(first, "id"));
        if (id) snprintf(bench->model, sizeof bench->model, "%s", id);
        else e = err_set(text, ERR_FORMAT, "%s/v1/models names no model; use --model", bench->base);
        json_decref(root);
    }
    buf_release(&body);
    return e;
}

/* Nanoseconds on a core of every thread now alive; 10 ms ticks where the kernel keeps no more. */
static double process_cpu_ms(pid_t pid) {
    char path[64], line[1024];
    snprintf(path, sizeof path, "/proc/%d/task", pid);
    DIR *tasks = opendir(path);
    if (!tasks) return -1;
    double total_ms = 0;
    bool is_known = false;
    for (struct dirent *task; (task = readdir(tasks));) {
        if (task->d_name[0] == '.') continue;
        char file[400];
        snprintf(file, sizeof file, "/proc/%d/task/%s/schedstat", pid, task->d_name);
        FILE *in = fopen(file, "r");
        uint64_t ns = 0;
        if (in && fscanf(in, "%" SCNu64, &ns) == 1) {
            total_ms += (double) ns / 1e6;
            is_known = true;
        }
        if (in) fclose(in);
    }
    closedir(tasks);
    if (is_known) return total_ms;
    snprintf(path, sizeof path, "/proc/%d/stat", pid);
    FILE *in = fopen(path, "r");
    size_t bytes = in ? fread(line, 1, sizeof line - 1, in) : 0;
    if (in) fclose(in);
    line[bytes] = '\0';
    const char *end = strrchr(line, ')'); /* the name may hold anything */
    unsigned long user = 0, system = 0;
    if (!end || sscanf(end + 1, " %*c %*d %*d %*d %*d %*d %*u %*u %*u %*u %*u %lu %lu", &user,
                       &system) != 2)
        return -1;
    return (double) (user + system) * 1000.0 / (double) sysconf(_SC_CLK_TCK);
}

static void look_at_server(const struct bench *bench, struct server_state *out) {
    static const char name[] = "\ngramme_http_writes_total";
    *out = (struct server_state){.cpu_ms = -1, .writes = -1};
    struct buf body;
    buf_init(&body, FETCH_BYTES_MAX);
    buf_add_byte(&body, '\n');
    if (fetch(bench, "/metrics", &body, NULL) == ERR_OK && buf_string(&body)) {
        const char *at = strstr(buf_string(&body), name);
        if (at && (at = strchr(at + 1, ' '))) out->writes = strtod(at, NULL);
    }
    buf_release(&body);
    if (bench->settings.pid) out->cpu_ms = process_cpu_ms(bench->settings.pid);
}

/* --- requests --- */

static enum err build_members(struct bench *bench, struct err_text *text) {
    const struct bench_options *s = &bench->settings;
    struct buf *out = &bench->members;
    buf_add_string(out, "{\"model\":\"");
    buf_add_json_escaped(out, bench->model, strlen(bench->model));
    buf_add_format(out, "\",\"max_tokens\":%u,\"temperature\":%g", s->max_tokens, s->temperature);
    if (s->is_streaming)
        buf_add_string(out, ",\"stream\":true,\"stream_options\":{\"include_usage\":true}");
    if (s->ignores_eos) buf_add_string(out, ",\"ignore_eos\":true");
    if (s->extra_body) {
        json_error_t error;
        json_t *root = json_loads(s->extra_body, JSON_REJECT_DUPLICATES, &error);
        char *dump = json_is_object(root) ? json_dumps(root, JSON_COMPACT) : NULL;
        if (dump && strlen(dump) > 2) {
            buf_add_byte(out, ',');
            buf_add(out, dump + 1, strlen(dump) - 2);
        }
        bool is_object = dump != NULL;
        free(dump);
        json_decref(root);
        if (!is_object)
            return err_set(text, ERR_USAGE, "--extra-body: not a JSON object: %s", error.text);
    }
    return buf_error(out);
}

static void add_body(void *ctx, uint64_t index, struct buf *out) {
    const struct bench *bench = ctx;
    const struct bench_options *s = &bench->settings;
    bool is_chat = strcmp(s->endpoint, "chat") == 0;
    buf_add(out, bench->members.data, bench->members.bytes);
    buf_add_string(out,
                   is_chat ? ",\"messages\":[{\"role\":\"user\",\"content\":\"" : ",\"prompt\":\"");
    uint32_t shared = s->shared_tokens < s->prompt_tokens ? s->shared_tokens : s->prompt_tokens;
    bench_prompt_add(out, s->seed, UINT64_MAX, shared);
    if (shared && shared < s->prompt_tokens) buf_add_byte(out, ' ');
    bench_prompt_add(out, s->seed, index, s->prompt_tokens - shared);
    buf_add_string(out, is_chat ? "\"}]}" : "\"}");
}

/* --- report --- */

struct figures {
    double seconds, requests_per_s, output_per_s, total_per_s;
    double cpu_ms_per_request; /* < 0: unknown */
    double tokens_per_write;   /* < 0: unknown */
    double client_us_per_event;
    struct bench_stamp stamp;
};

static double own_cpu_us(void) {
    struct rusage usage;
    getrusage(RUSAGE_SELF, &usage);
    return (double) (usage.ru_utime.tv_sec + usage.ru_stime.tv_sec) * 1e6 +
           (double) (usage.ru_utime.tv_usec + usage.ru_stime.tv_usec);
}

static void compute(const struct bench_result *result, const struct server_state *before,
                    const struct server_state *after, double own_us, struct figures *out) {
    double ended = (double) (result->done + result->failed);
    out->seconds = (double) (result->ended_us - result->started_us) / 1e6;
    double per_s = out->seconds > 0 ? 1 / out->seconds : 0;
    out->requests_per_s = result->done * per_s;
    out->output_per_s = (double) result->output_tokens * per_s;
    out->total_per_s = (double) (result->output_tokens + result->input_tokens) * per_s;
    out->cpu_ms_per_request = before->cpu_ms >= 0 && after->cpu_ms >= 0 && ended > 0
                                  ? (after->cpu_ms - before->cpu_ms) / ended
                                  : -1;
    double writes = before->writes >= 0 ? after->writes - before->writes : -1;
    out->tokens_per_write = writes > 0 ? (double) result->output_tokens / writes : -1;
    out->client_us_per_event = result->events ? own_us / (double) result->events : 0;
    bench_stamp_read(&out->stamp);
}

static json_t *samples_json(struct bench_samples *samples) {
    return json_pack("{s:f,s:f,s:f,s:f}", "mean", bench_client_mean_ms(samples), "p50",
                     bench_client_quantile_ms(samples, 0.5), "p99",
                     bench_client_quantile_ms(samples, 0.99), "max",
                     bench_client_quantile_ms(samples, 1));
}

static json_t *known(double value) { return value >= 0 ? json_real(value) : json_null(); }

static int print_json(const struct bench *bench, struct bench_result *result,
                      const struct figures *figures) {
    const struct bench_options *s = &bench->settings;
    json_t *root =
        json_pack("{s:s,s:s,s:s,s:s,s:b,s:i,s:f,s:i,s:i,s:i,s:i}", "bench", "serve", "url",
                  bench->base, "model", bench->model, "endpoint", s->endpoint, "stream",
                  s->is_streaming, "concurrency", (int) s->concurrency, "request_rate", s->rate,
                  "prompt_tokens", (int) s->prompt_tokens, "max_tokens", (int) s->max_tokens,
                  "requests", (int) result->done, "failed", (int) result->failed);
    json_t *more = json_pack(
        "{s:f,s:f,s:f,s:f,s:I,s:I,s:I,s:o,s:o,s:o,s:o,s:o,s:f,s:s,s:s,s:s,s:s}", "seconds",
        figures->seconds, "requests_per_s", figures->requests_per_s, "output_tokens_per_s",
        figures->output_per_s, "total_tokens_per_s", figures->total_per_s, "input_tokens",
        (json_int_t) result->input_tokens, "output_tokens", (json_int_t) result->output_tokens,
        "cached_tokens", (json_int_t) result->cached_tokens, "ttft_ms",
        samples_json(&result->first), "itl_ms", samples_json(&result->gaps), "e2e_ms",
        samples_json(&result->whole), "server_cpu_ms_per_request",
        known(figures->cpu_ms_per_request), "tokens_per_write", known(figures->tokens_per_write),
        "client_cpu_us_per_event", figures->client_us_per_event, "version", GRAMME_VERSION,
        "commit", figures->stamp.commit, "machine", figures->stamp.machine, "date",
        figures->stamp.date);
    bool has_memory = root && more && !json_object_update(root, more);
    if (has_memory && s->step_grid_ms > 0)
        has_memory = !json_object_set_new(root, "step_to_text_ms", samples_json(&result->steps)) &&
                     !json_object_set_new(root, "step_to_look_ms", samples_json(&result->looks));
    if (!has_memory) {
        fputs("gramme: no memory for the report\n", stderr);
        json_decref(root);
        json_decref(more);
        return CMD_FAILED;
    }
    json_dumpf(root, stdout, JSON_COMPACT | JSON_REAL_PRECISION(6));
    putchar('\n');
    json_decref(root);
    json_decref(more);
    return CMD_DONE;
}

static void print_samples(const char *name, struct bench_samples *samples) {
    if (samples->count == 0) return;
    printf("%-12s %9.2f %9.2f %9.2f %9.2f\n", name, bench_client_mean_ms(samples),
           bench_client_quantile_ms(samples, 0.5), bench_client_quantile_ms(samples, 0.99),
           bench_client_quantile_ms(samples, 1));
}

static void print_table(const struct bench *bench, struct bench_result *result,
                        const struct figures *figures) {
    const struct bench_options *s = &bench->settings;
    printf("%s %s, model %s%s\n", bench->base, s->endpoint, bench->model,
           s->is_streaming ? ", streamed" : "");
    printf("%u requests in %.2f s, %u failed; ", result->done, figures->seconds, result->failed);
    if (s->rate > 0) printf("%.3g arrivals/s, ", s->rate);
    printf("at most %u at once\n", s->concurrency);
    printf("tokens       %" PRIu64 " in (%" PRIu64 " cached), %" PRIu64 " out%s\n",
           result->input_tokens, result->cached_tokens, result->output_tokens,
           result->without_usage ? " (counted as events where usage was missing)" : "");
    printf("requests/s   %9.2f\n", figures->requests_per_s);
    printf("tokens/s     %9.1f out, %.1f in and out\n", figures->output_per_s,
           figures->total_per_s);
    printf("\nms                mean       p50       p99       max\n");
    print_samples("TTFT", &result->first);
    print_samples("ITL", &result->gaps);
    print_samples("request", &result->whole);
    print_samples("step to text", &result->steps);
    print_samples("step to look", &result->looks);
    putchar('\n');
    if (figures->cpu_ms_per_request >= 0)
        printf("server CPU   %9.3f ms a request (process %d, all threads)\n",
               figures->cpu_ms_per_request, s->pid);
    if (figures->tokens_per_write >= 0)
        printf("server       %9.2f tokens a write\n", figures->tokens_per_write);
    printf("client CPU   %9.2f us an event, %.2f events a read\n", figures->client_us_per_event,
           result->reads ? (double) result->events / (double) result->reads : 0);
    printf("gramme %s (%s) on %s, %s\n", GRAMME_VERSION, figures->stamp.commit,
           figures->stamp.machine, figures->stamp.date);
}

/* --- the run --- */

static enum err run_load(struct bench *bench, uint64_t first_index, uint32_t count, double rate,
                         struct err_text *text, struct bench_result *result) {
    const struct bench_options *s = &bench->settings;
    struct bench_load load = {
        .host = bench->host,
        .target = strcmp(s->endpoint, "chat") == 0 ? "/v1/chat/completions" : "/v1/completions",
        .api_key = s->api_key,
        .body = add_body,
        .body_ctx = bench,
        .first_index = first_index,
        .request_count = count,
        .concurrency = s->concurrency,
        .rate = rate,
        .seed = s->seed,
        .timeout_ms = s->timeout_s * 1000u,
        .step_grid_us = (uint32_t) (s->step_grid_ms * 1000),
    };
    enum err e = resolve(bench, &load.address, text);
    return e ? e : bench_client_run(&load, text, result);
}

static void print_reasons(const struct bench_result *result) {
    for (uint32_t i = 0; i < result->reason_count; i++)
        fprintf(stderr, "gramme: %u failed: %s\n", result->reasons[i].count,
                result->reasons[i].text);
}

static enum err measure(struct bench *bench, struct err_text *text, struct bench_result *result,
                        struct figures *figures) {
    struct bench_options *s = &bench->settings;
    struct server_state before, after;
    enum err e = split_url(bench, text);
    if (!e) e = find_model(bench, text);
    if (!e) e = build_members(bench, text);
    if (!e && s->pid && process_cpu_ms(s->pid) < 0)
        e = err_set(text, ERR_NOT_FOUND, "--pid %d: no such process", s->pid);
    if (!e && s->warmup) {
        struct bench_result warm = {0};
        e = run_load(bench, 0, s->warmup, 0, text, &warm);
        if (!e && warm.done == 0) {
            print_reasons(&warm);
            e = err_set(text, ERR_IO, "no request of the warm-up succeeded");
        }
        bench_client_release(&warm);
    }
    if (e) return e;
    look_at_server(bench, &before);
    double own_us = own_cpu_us();
    e = run_load(bench, s->warmup, s->requests, s->rate, text, result);
    own_us = own_cpu_us() - own_us;
    look_at_server(bench, &after);
    compute(result, &before, &after, own_us, figures);
    return e;
}

int bench_serve_run(int argc, char **argv) {
    struct bench bench = {0};
    struct bench_options *s = &bench.settings;
    if (bench_options_read(argc, argv, s)) return CMD_FAILED;
    struct err_text text;
    struct bench_result result = {0};
    struct figures figures;
    buf_init(&bench.members, 0);
    enum err e = measure(&bench, &text, &result, &figures);
    int status = CMD_FAILED;
    if (e) {
        status = cmd_fail(e, &text);
    } else {
        print_reasons(&result);
        if (s->is_json) {
            status = print_json(&bench, &result, &figures);
        } else {
            print_table(&bench, &result, &figures);
            status = CMD_DONE;
        }
        if (result.failed) {
            fprintf(stderr, "gramme: %u of %u requests failed\n", result.failed, s->requests);
            status = CMD_FAILED;
        }
    }
    bench_client_release(&result);
    buf_release(&bench.members);
    return status;
}
