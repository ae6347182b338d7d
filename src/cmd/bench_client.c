/* bench_client - see bench_client.h. */
#include "cmd/bench_client.h"

#include <jansson.h>
#include <llhttp.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <uv.h>

#include "base/alloc.h"
#include "base/clock.h"

#define READ_BYTES 65536u
#define BODY_BYTES_MAX (64u << 20) /* of one answer, or of one event */
#define TICK_MS 1u

enum conn_state { CONN_FREE, CONN_CONNECTING, CONN_SENT };

struct run;

struct conn {
    uv_tcp_t tcp;
    uv_connect_t connect;
    uv_write_t write;
    llhttp_t llhttp;
    struct run *run;
    struct buf out;
    struct buf text; /* the rest of an event, or a whole plain body */
    enum conn_state state;
    bool is_open; /* has a handle */
    bool is_reused;
    bool is_retried;
    bool is_event_stream;
    bool has_bytes;   /* of the answer */
    bool is_complete; /* the answer, as HTTP has it */
    bool is_writing;
    bool is_done; /* [DONE], or the whole plain body */
    bool must_close;
    bool has_usage;
    bool is_failed;
    uint64_t request_index;
    uint64_t begun_us, last_us; /* last: when text came last; 0: none yet */
    uint64_t texts;
    uint64_t stamp_us; /* when the kernel had what is read now; 0: it does not say */
    struct bench_samples arrivals, looks; /* of texts, since begun_us; only with step_grid_us */
    uint64_t input_tokens, output_tokens, cached_tokens;
};

struct run {
    const struct bench_load *load;
    struct bench_result *result;
    uv_loop_t loop;
    uv_timer_t timer;
    struct conn *conns;
    uint8_t *read_buffer;
    uint32_t sent, ended;
    uint64_t random;
    double next_due_us;
    bool has_memory_error;
};

static void begin(struct conn *conn, uint64_t due_us);
static void send_request(struct conn *conn);
static void pump(struct run *run);

static void add_sample(struct bench_samples *samples, uint64_t us) {
    if (samples->count >= BENCH_GAPS_MAX) return;
    if (samples->count == samples->room) {
        size_t room = samples->room ? samples->room * 2 : 1024;
        uint32_t *grown = alloc_resize(samples->us, room * sizeof *grown);
        if (!grown) return; /* a lost sample is no lost run */
        samples->us = grown;
        samples->room = room;
    }
    samples->us[samples->count++] = us > UINT32_MAX ? UINT32_MAX : (uint32_t) us;
}

static void count_reason(struct bench_result *result, const char *text) {
    for (uint32_t i = 0; i < result->reason_count; i++) {
        if (strncmp(result->reasons[i].text, text, sizeof result->reasons[i].text - 1)) continue;
        result->reasons[i].count++;
        return;
    }
    if (result->reason_count == BENCH_REASONS_MAX) {
        result->reasons[BENCH_REASONS_MAX - 1].count++;
        return;
    }
    struct bench_reason *reason = &result->reasons[result->reason_count++];
    snprintf(reason->text, sizeof reason->text, "%s", text);
    reason->count = 1;
}

static void note_failure(struct conn *conn, const char *text) {
    if (conn->is_failed) return;
    conn->is_failed = true;
    conn->must_close = true;
    count_reason(conn->run->result, text);
}

/* --- one request --- */

/* Each step gave one text, so no two texts are of the same step: what comes in the same slot of the
 * grid as the text after it is of an earlier one. */
static void add_step_samples(const struct conn *conn, const struct bench_samples *times,
                             struct bench_samples *out) {
    uint64_t grid_us = conn->run->load->step_grid_us, next_slot = UINT64_MAX;
    for (size_t i = times->count; i > 0; i--) {
        uint64_t at_us = conn->begun_us + times->us[i - 1];
        uint64_t slot = at_us / grid_us;
        if (slot >= next_slot) slot = next_slot - 1;
        add_sample(out, at_us - slot * grid_us);
        next_slot = slot;
    }
}

static void on_closed(uv_handle_t *handle) {
    struct conn *conn = handle->data;
    conn->is_open = false;
    if (conn->state == CONN_CONNECTING) { /* a retry */
        begin(conn, conn->begun_us);
    } else {
        pump(conn->run);
    }
}

static void close_conn(struct conn *conn) {
    if (conn->is_open && !uv_is_closing((uv_handle_t *) &conn->tcp))
        uv_close((uv_handle_t *) &conn->tcp, on_closed);
}

static void finish(struct conn *conn) {
    struct bench_result *result = conn->run->result;
    uint64_t now_us = clock_now_us();
    if (conn->state == CONN_FREE) return;
    conn->state = CONN_FREE;
    conn->run->ended++;
    result->ended_us = now_us;
    if (!conn->is_failed && !conn->is_done) note_failure(conn, "the answer ended before [DONE]");
    if (conn->is_failed) {
        result->failed++;
    } else {
        result->done++;
        result->input_tokens += conn->input_tokens;
        result->cached_tokens += conn->cached_tokens;
        result->output_tokens += conn->has_usage ? conn->output_tokens : conn->texts;
        result->without_usage += !conn->has_usage;
        add_sample(&result->whole, now_us - conn->begun_us);
        add_step_samples(conn, &conn->arrivals, &result->steps);
        add_step_samples(conn, &conn->looks, &result->looks);
    }
    if (conn->must_close || conn->is_writing) {
        close_conn(conn);
        return;
    }
    conn->is_reused = true;
    pump(conn->run);
}

/* A connection that died: once more when the server had closed an old one, else a failure. */
static void break_off(struct conn *conn, const char *text) {
    conn->must_close = true;
    if (conn->state == CONN_SENT && conn->is_reused && !conn->has_bytes && !conn->is_retried) {
        conn->is_retried = true;
        conn->state = CONN_CONNECTING;
        close_conn(conn);
        return;
    }
    if (conn->state == CONN_FREE) {
        close_conn(conn);
        return;
    }
    note_failure(conn, text);
    finish(conn);
}

static void take_usage(struct conn *conn, const json_t *usage) {
    if (!json_is_object(usage)) return;
    conn->has_usage = true;
    conn->input_tokens = (uint64_t) json_integer_value(json_object_get(usage, "prompt_tokens"));
    conn->output_tokens =
        (uint64_t) json_integer_value(json_object_get(usage, "completion_tokens"));
    conn->cached_tokens = (uint64_t) json_integer_value(
        json_object_get(json_object_get(usage, "prompt_tokens_details"), "cached_tokens"));
}

static void take_error(struct conn *conn, const json_t *root, const char *fallback) {
    const json_t *error = json_object_get(root, "error");
    const char *message = json_string_value(json_object_get(error, "message"));
    if (!message) message = json_string_value(json_object_get(root, "message"));
    char text[200];
    snprintf(text, sizeof text, "%s%s%s", fallback, message ? ": " : "", message ? message : "");
    note_failure(conn, text);
}

/* The few events that must be understood go through a JSON parser, the many others do not. */
static void take_rare_event(struct conn *conn, const char *data, size_t bytes) {
    json_t *root = json_loadb(data, bytes, 0, NULL);
    if (!root) {
        note_failure(conn, "an event is not JSON");
        return;
    }
    take_usage(conn, json_object_get(root, "usage"));
    if (json_object_get(root, "error")) take_error(conn, root, "error event");
    json_decref(root);
}

static bool has(const char *data, size_t bytes, const char *what) {
    return memmem(data, bytes, what, strlen(what)) != NULL;
}

/* A non-empty string behind "key": in the event, spaces allowed. */
static bool has_text(const char *data, size_t bytes, const char *key) {
    const char *at = memmem(data, bytes, key, strlen(key));
    if (!at) return false;
    const char *end = data + bytes;
    for (at += strlen(key); at < end && (*at == ' ' || *at == ':'); at++) {
    }
    return end - at >= 2 && at[0] == '"' && at[1] != '"';
}

static void take_event(struct conn *conn, const char *data, size_t bytes, uint64_t now_us) {
    struct bench_result *result = conn->run->result;
    result->events++;
    if (bytes == 6 && memcmp(data, "[DONE]", 6) == 0) {
        conn->is_done = true;
        return;
    }
    if (has_text(data, bytes, "\"content\"") || has_text(data, bytes, "\"text\"") ||
        has_text(data, bytes, "\"reasoning_content\"")) {
        if (conn->last_us) {
            add_sample(&result->gaps, now_us - conn->last_us);
        } else {
            add_sample(&result->first, now_us - conn->begun_us);
        }
        conn->last_us = now_us;
        conn->texts++;
        if (conn->run->load->step_grid_us) {
            uint64_t stamp_us = conn->stamp_us ? conn->stamp_us : now_us;
            add_sample(&conn->arrivals, stamp_us - conn->begun_us);
            add_sample(&conn->looks, now_us - conn->begun_us);
        }
    }
    if (has(data, bytes, "\"usage\":{") || has(data, bytes, "\"usage\": {") ||
        has(data, bytes, "\"error\""))
        take_rare_event(conn, data, bytes);
}

/* Lines of an event stream: "data: ..." is an event, everything else (comments) is not. */
static size_t take_lines(struct conn *conn, const char *data, size_t bytes) {
    uint64_t now_us = clock_now_us();
    const char *at = data, *end = data + bytes;
    for (const char *line_end; (line_end = memchr(at, '\n', (size_t) (end - at)));
         at = line_end + 1) {
        size_t length = (size_t) (line_end - at);
        if (length && at[length - 1] == '\r') length--;
        if (length < 5 || memcmp(at, "data:", 5) != 0) continue;
        size_t skip = length > 5 && at[5] == ' ' ? 6 : 5;
        take_event(conn, at + skip, length - skip, now_us);
    }
    return (size_t) (at - data);
}

static int on_body(llhttp_t *llhttp, const char *data, size_t bytes) {
    struct conn *conn = llhttp->data;
    if (!conn->is_event_stream) {
        buf_add(&conn->text, data, bytes);
        return buf_error(&conn->text) ? -1 : 0;
    }
    if (conn->text.bytes == 0) {
        size_t taken = take_lines(conn, data, bytes);
        buf_add(&conn->text, data + taken, bytes - taken);
    } else {
        buf_add(&conn->text, data, bytes);
        if (!buf_error(&conn->text)) {
            size_t taken = take_lines(conn, (const char *) conn->text.data, conn->text.bytes);
            conn->text.bytes -= taken;
            memmove(conn->text.data, conn->text.data + taken, conn->text.bytes);
        }
    }
    return buf_error(&conn->text) ? -1 : 0;
}

static int on_value(llhttp_t *llhttp, const char *data, size_t bytes) {
    struct conn *conn = llhttp->data;
    static const char type[] = "text/event-stream";
    if (bytes >= sizeof type - 1 && memcmp(data, type, sizeof type - 1) == 0)
        conn->is_event_stream = llhttp->status_code == 200;
    return 0;
}

static int on_complete(llhttp_t *llhttp) {
    struct conn *conn = llhttp->data;
    if (llhttp->status_code == 100) return 0;
    if (!llhttp_should_keep_alive(llhttp)) conn->must_close = true;
    if (!conn->is_event_stream) {
        json_t *root = json_loadb((const char *) conn->text.data, conn->text.bytes, 0, NULL);
        if (llhttp->status_code != 200) {
            char text[32];
            snprintf(text, sizeof text, "status %d", llhttp->status_code);
            take_error(conn, root, text);
        } else if (!root) {
            note_failure(conn, "the answer is not JSON");
        } else {
            conn->is_done = true;
            take_usage(conn, json_object_get(root, "usage"));
            add_sample(&conn->run->result->first, clock_now_us() - conn->begun_us);
        }
        json_decref(root);
    }
    conn->is_complete = true; /* the parser is still running: on_read finishes */
    return HPE_PAUSED;        /* one answer a request: what follows would not be ours */
}

static const llhttp_settings_t settings = {
    .on_header_value = on_value,
    .on_body = on_body,
    .on_message_complete = on_complete,
};

/* When the kernel had the first of the bytes that are to be read.  Its stamps are of the wall's
 * clock. */
static uint64_t read_stamp_us(const struct conn *conn) {
    uv_os_fd_t fd;
    char byte;
    union {
        char bytes[CMSG_SPACE(sizeof(struct timespec))];
        struct cmsghdr align;
    } control;
    struct iovec piece = {&byte, 1};
    struct msghdr message = {.msg_iov = &piece,
                             .msg_iovlen = 1,
                             .msg_control = control.bytes,
                             .msg_controllen = sizeof control.bytes};
    struct timespec stamp;
    if (uv_fileno((const uv_handle_t *) &conn->tcp, &fd)) return 0;
    if (recvmsg(fd, &message, MSG_PEEK | MSG_DONTWAIT) != 1) return 0;
    const struct cmsghdr *at = CMSG_FIRSTHDR(&message);
    if (!at || at->cmsg_level != SOL_SOCKET || at->cmsg_type != SCM_TIMESTAMPNS) return 0;
    memcpy(&stamp, CMSG_DATA(at), sizeof stamp);
    uint64_t now_us = clock_now_us(), wall_us = clock_wall_ns() / 1000;
    uint64_t at_us = (uint64_t) stamp.tv_sec * 1000000 + (uint64_t) stamp.tv_nsec / 1000;
    uint64_t age_us = wall_us - at_us;
    return at_us <= wall_us && age_us <= now_us - conn->begun_us ? now_us - age_us : 0;
}

/* Called by libuv right before it reads. */
static void on_buffer(uv_handle_t *handle, size_t suggested, uv_buf_t *out) {
    struct conn *conn = handle->data;
    if (conn->run->load->step_grid_us) conn->stamp_us = read_stamp_us(conn);
    *out = uv_buf_init((char *) conn->run->read_buffer, READ_BYTES);
}

static void on_read(uv_stream_t *stream, ssize_t count, const uv_buf_t *buffer) {
    struct conn *conn = stream->data;
    if (count == 0) return;
    if (count < 0) {
        /* An answer without a length ends with its connection. */
        if (conn->state == CONN_SENT && conn->has_bytes && count == UV_EOF &&
            llhttp_finish(&conn->llhttp) == HPE_OK && conn->is_complete) {
            conn->must_close = true;
            finish(conn);
            return;
        }
        break_off(conn,
                  count == UV_EOF ? "the server closed the connection" : uv_strerror((int) count));
        return;
    }
    conn->run->result->reads++;
    conn->run->result->bytes += (uint64_t) count;
    if (conn->state != CONN_SENT) {
        break_off(conn, "bytes that nobody asked for");
        return;
    }
    conn->has_bytes = true;
    llhttp_errno_t e = llhttp_execute(&conn->llhttp, buffer->base, (size_t) count);
    if (conn->is_complete) {
        finish(conn);
    } else if (e != HPE_OK) {
        break_off(conn, "the answer is not HTTP");
    }
}

static void on_written(uv_write_t *write, int status) {
    struct conn *conn = write->data;
    conn->is_writing = false;
    if (status && status != UV_ECANCELED) break_off(conn, uv_strerror(status));
}

static void build_request(struct conn *conn) {
    const struct bench_load *load = conn->run->load;
    struct buf body;
    buf_init(&body, 0);
    load->body(load->body_ctx, conn->request_index, &body);
    buf_clear(&conn->out);
    buf_add_format(&conn->out,
                   "POST %s HTTP/1.1\r\nHost: %s\r\nContent-Type: application/json\r\n"
                   "Accept: */*\r\nContent-Length: %zu\r\n",
                   load->target, load->host, body.bytes);
    if (load->api_key) buf_add_format(&conn->out, "Authorization: Bearer %s\r\n", load->api_key);
    buf_add_string(&conn->out, "\r\n");
    buf_add(&conn->out, body.data, body.bytes);
    if (buf_error(&body)) conn->out.failed = buf_error(&body);
    buf_release(&body);
}

static void send_request(struct conn *conn) {
    conn->state = CONN_SENT;
    conn->has_bytes = false;
    conn->is_complete = false;
    conn->is_writing = true;
    conn->is_event_stream = false;
    llhttp_init(&conn->llhttp, HTTP_RESPONSE, &settings);
    conn->llhttp.data = conn;
    buf_clear(&conn->text);
    uv_buf_t piece = uv_buf_init((char *) conn->out.data, (unsigned) conn->out.bytes);
    conn->write.data = conn;
    if (uv_write(&conn->write, (uv_stream_t *) &conn->tcp, &piece, 1, on_written))
        break_off(conn, "cannot write to the connection");
}

/* Without them the times are those of the look. */
static void ask_for_stamps(const struct conn *conn) {
    uv_os_fd_t fd;
    int yes = 1;
    if (uv_fileno((const uv_handle_t *) &conn->tcp, &fd) == 0)
        (void) setsockopt(fd, SOL_SOCKET, SO_TIMESTAMPNS, &yes, sizeof yes);
}

static void on_connected(uv_connect_t *connect, int status) {
    struct conn *conn = connect->data;
    if (status == UV_ECANCELED) return;
    if (status) {
        break_off(conn, uv_strerror(status));
        return;
    }
    uv_tcp_nodelay(&conn->tcp, 1);
    if (conn->run->load->step_grid_us) ask_for_stamps(conn);
    uv_read_start((uv_stream_t *) &conn->tcp, on_buffer, on_read);
    send_request(conn);
}

/* Sends the connection's request, over a new connection where there is none. */
static void begin(struct conn *conn, uint64_t due_us) {
    struct run *run = conn->run;
    conn->begun_us = due_us;
    conn->last_us = conn->texts = 0;
    conn->arrivals.count = conn->looks.count = 0;
    conn->input_tokens = conn->output_tokens = conn->cached_tokens = 0;
    conn->has_usage = conn->is_done = conn->is_failed = conn->must_close = false;
    if (conn->is_open) {
        send_request(conn);
        return;
    }
    conn->is_reused = false;
    conn->state = CONN_CONNECTING;
    uv_tcp_init(&run->loop, &conn->tcp);
    conn->tcp.data = conn;
    conn->connect.data = conn;
    conn->is_open = true;
    int status = uv_tcp_connect(&conn->connect, &conn->tcp,
                                (const struct sockaddr *) &run->load->address, on_connected);
    if (status) break_off(conn, uv_strerror(status));
}

/* --- the whole load --- */

/* Exponential gaps make Poisson arrivals (splitmix64 for the draws). */
static void draw_next_due(struct run *run) {
    uint64_t z = run->random += 0x9e3779b97f4a7c15u;
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
    z = (z ^ z >> 27) * 0x94d049bb133111ebu;
    double uniform = ((double) ((z ^ z >> 31) >> 11) + 0.5) * 0x1p-53;
    run->next_due_us += -log(uniform) / run->load->rate * 1e6;
}

static struct conn *free_conn(struct run *run) {
    struct conn *closed = NULL;
    for (uint32_t i = 0; i < run->load->concurrency; i++) {
        struct conn *conn = &run->conns[i];
        if (conn->state != CONN_FREE) continue;
        if (conn->is_open && uv_is_closing((uv_handle_t *) &conn->tcp)) continue;
        if (conn->is_open) return conn;
        if (!closed) closed = conn;
    }
    return closed;
}

static void pump(struct run *run) {
    const struct bench_load *load = run->load;
    while (run->sent < load->request_count) {
        uint64_t now_us = clock_now_us();
        if (load->rate > 0 && run->next_due_us > (double) now_us) break;
        struct conn *conn = free_conn(run);
        if (!conn) break;
        conn->request_index = load->first_index + run->sent;
        conn->is_retried = false;
        build_request(conn);
        if (buf_error(&conn->out)) {
            run->has_memory_error = true;
            return;
        }
        run->sent++;
        /* In an open loop a request that had to wait for a connection has been waiting. */
        begin(conn, load->rate > 0 ? (uint64_t) run->next_due_us : clock_now_us());
        if (load->rate > 0) draw_next_due(run);
    }
}

static void on_tick(uv_timer_t *timer) {
    struct run *run = timer->data;
    if (run->load->rate > 0) pump(run);
    uint64_t now_us = clock_now_us();
    for (uint32_t i = 0; i < run->load->concurrency; i++) {
        struct conn *conn = &run->conns[i];
        if (conn->state == CONN_FREE || !conn->is_open) continue;
        if (now_us - conn->begun_us < run->load->timeout_ms * 1000ull) continue;
        conn->is_retried = true;
        break_off(conn, "timeout");
    }
}

static void close_all(struct run *run) {
    for (uint32_t i = 0; i < run->load->concurrency; i++) {
        run->conns[i].state = CONN_FREE;
        close_conn(&run->conns[i]);
    }
    uv_close((uv_handle_t *) &run->timer, NULL);
    uv_run(&run->loop, UV_RUN_DEFAULT);
    uv_loop_close(&run->loop);
    for (uint32_t i = 0; i < run->load->concurrency; i++) {
        buf_release(&run->conns[i].out);
        buf_release(&run->conns[i].text);
        alloc_free(run->conns[i].arrivals.us);
        alloc_free(run->conns[i].looks.us);
    }
}

enum err bench_client_run(const struct bench_load *load, struct err_text *text,
                          struct bench_result *result) {
    struct run run = {.load = load, .result = result, .random = load->seed};
    run.conns = alloc_zero(load->concurrency, sizeof *run.conns);
    run.read_buffer = alloc_bytes(READ_BYTES);
    if (!run.conns || !run.read_buffer || uv_loop_init(&run.loop)) {
        alloc_free(run.conns);
        alloc_free(run.read_buffer);
        return err_set(text, ERR_MEMORY, "no memory for %u connections", load->concurrency);
    }
    for (uint32_t i = 0; i < load->concurrency; i++) {
        run.conns[i].run = &run;
        buf_init(&run.conns[i].out, 0);
        buf_init(&run.conns[i].text, BODY_BYTES_MAX);
    }
    uv_timer_init(&run.loop, &run.timer);
    run.timer.data = &run;
    uint64_t tick_ms = load->rate > 0 ? TICK_MS : 100;
    uv_timer_start(&run.timer, on_tick, tick_ms, tick_ms);
    result->started_us = clock_now_us();
    run.next_due_us = (double) result->started_us;
    pump(&run);
    while (run.ended < load->request_count && !run.has_memory_error) uv_run(&run.loop, UV_RUN_ONCE);
    run.sent = load->request_count;
    close_all(&run);
    alloc_free(run.conns);
    alloc_free(run.read_buffer);
    if (run.has_memory_error) return err_set(text, ERR_MEMORY, "no memory for a request's body");
    return ERR_OK;
}

void bench_client_release(struct bench_result *result) {
    alloc_free(result->first.us);
    alloc_free(result->gaps.us);
    alloc_free(result->whole.us);
    alloc_free(result->steps.us);
    alloc_free(result->looks.us);
    *result = (struct bench_result){0};
}

static int compare_us(const void *a, const void *b) {
    uint32_t x = *(const uint32_t *) a, y = *(const uint32_t *) b;
    return (x > y) - (x < y);
}

double bench_client_quantile_ms(struct bench_samples *samples, double fraction) {
    if (samples->count == 0) return 0;
    qsort(samples->us, samples->count, sizeof *samples->us, compare_us);
    size_t at = (size_t) (fraction * (double) (samples->count - 1) + 0.5);
    return samples->us[at] / 1000.0;
}

double bench_client_mean_ms(const struct bench_samples *samples) {
    double sum = 0;
    for (size_t i = 0; i < samples->count; i++) sum += samples->us[i];
    return samples->count ? sum / (double) samples->count / 1000.0 : 0;
}
