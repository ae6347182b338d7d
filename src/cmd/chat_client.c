/* chat_client - see chat_client.h. */
#include "cmd/chat_client.h"

#include <curl/curl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cmd/cmd_answer.h"

#define LINE_BYTES_MAX (1u << 20) /* one SSE event */
#define ERROR_BYTES_MAX 65536
#define CONNECT_TIMEOUT_S 10L
#define SILENCE_TIMEOUT_S 120L

struct stream {
    CURL *curl;
    struct buf line;  /* an unfinished line of the stream */
    struct buf error; /* the body of an answer that is no 200 */
    struct buf *answer;
    chat_client_fn on_text;
    void *ctx;
    struct err_text *text;
    enum err failed; /* an error event inside the stream */
    bool is_unheard; /* on_text said so */
};

static void error_message(const char *body, size_t bytes, struct err_text *text) {
    json_t *root = json_loadb(body, bytes, 0, NULL);
    const json_t *error = json_object_get(root, "error");
    const char *message = json_string_value(json_object_get(error, "message"));
    if (message) err_set(text, ERR_IO, "the server says: %s", message);
    json_decref(root);
}

static void on_event(struct stream *stream, const char *data, size_t bytes) {
    json_t *event = json_loadb(data, bytes, 0, NULL);
    if (!event) return; /* [DONE], or nothing we know */
    if (json_object_get(event, "error")) {
        error_message(data, bytes, stream->text);
        stream->failed = ERR_IO;
    }
    const json_t *choice = json_array_get(json_object_get(event, "choices"), 0);
    const json_t *content = json_object_get(json_object_get(choice, "delta"), "content");
    if (json_is_string(content)) {
        buf_add(stream->answer, json_string_value(content), json_string_length(content));
        if (!stream->on_text(stream->ctx, json_string_value(content), json_string_length(content)))
            stream->is_unheard = true;
    }
    json_decref(event);
}

static void on_line(struct stream *stream, const char *line, size_t bytes) {
    if (bytes && line[bytes - 1] == '\r') bytes--;
    if (bytes >= 5 && memcmp(line, "data:", 5) == 0) on_event(stream, line + 5, bytes - 5);
}

static size_t on_bytes(char *data, size_t size, size_t count, void *ctx) {
    struct stream *stream = ctx;
    size_t bytes = size * count;
    long status = 0;
    curl_easy_getinfo(stream->curl, CURLINFO_RESPONSE_CODE, &status);
    if (status != 200) {
        buf_add(&stream->error, data, bytes);
        return bytes;
    }
    for (size_t at = 0; at < bytes;) {
        const char *newline = memchr(data + at, '\n', bytes - at);
        size_t end = newline ? (size_t) (newline - data) : bytes;
        buf_add(&stream->line, data + at, end - at);
        if (buf_error(&stream->line)) return 0; /* an event past all bounds: give up */
        if (newline) {
            on_line(stream, stream->line.data ? (const char *) stream->line.data : "",
                    stream->line.bytes);
            buf_clear(&stream->line);
        }
        at = end + (newline != NULL);
    }
    return bytes;
}

static int on_progress(void *ctx, curl_off_t a, curl_off_t b, curl_off_t c, curl_off_t d) {
    (void) a, (void) b, (void) c, (void) d;
    return cmd_answer_was_interrupted() || ((struct stream *) ctx)->is_unheard;
}

static enum err perform(struct stream *stream, const char *url) {
    CURLcode code = curl_easy_perform(stream->curl);
    long status = 0;
    curl_easy_getinfo(stream->curl, CURLINFO_RESPONSE_CODE, &status);
    if (code == CURLE_ABORTED_BY_CALLBACK) return ERR_CANCELLED;
    if (code == CURLE_COULDNT_CONNECT)
        return err_set(
            stream->text, ERR_PEER_GONE,
            "nobody answers at %s: start one with 'gramme serve -m MODEL', or give -m MODEL", url);
    if (code == CURLE_PARTIAL_FILE || code == CURLE_RECV_ERROR || code == CURLE_GOT_NOTHING)
        return err_set(stream->text, ERR_PEER_GONE,
                       "the server at %s went away before the answer's end", url);
    if (code != CURLE_OK)
        return err_set(stream->text, ERR_PEER_GONE, "%s: %s", url, curl_easy_strerror(code));
    if (status != 200) {
        err_set(stream->text, ERR_IO, "the server answers with status %ld", status);
        error_message(stream->error.data ? (const char *) stream->error.data : "",
                      stream->error.bytes, stream->text);
        return ERR_IO;
    }
    return stream->failed;
}

enum err chat_client_ask(const char *url, const char *api_key, json_t *request,
                         chat_client_fn on_text, void *ctx, struct err_text *text,
                         struct buf *answer) {
    struct stream stream = {.answer = answer, .on_text = on_text, .ctx = ctx, .text = text};
    buf_init(&stream.line, LINE_BYTES_MAX);
    buf_init(&stream.error, ERROR_BYTES_MAX);
    json_object_set_new(request, "stream", json_true());
    char *body = json_dumps(request, JSON_COMPACT);
    struct buf address, bearer;
    buf_init(&address, 4096);
    buf_init(&bearer, 4096);
    size_t bytes = strlen(url);
    while (bytes && url[bytes - 1] == '/') bytes--;
    buf_add(&address, url, bytes);
    buf_add_string(&address, "/v1/chat/completions");
    struct curl_slist *headers = curl_slist_append(NULL, "content-type: application/json");
    if (api_key) {
        buf_add_format(&bearer, "authorization: Bearer %s", api_key);
        if (buf_string(&bearer)) headers = curl_slist_append(headers, buf_string(&bearer));
    }
    stream.curl = curl_easy_init();
    enum err e = stream.curl && body && headers && buf_string(&address) ? ERR_OK : ERR_MEMORY;
    if (!e) {
        curl_easy_setopt(stream.curl, CURLOPT_URL, buf_string(&address));
        curl_easy_setopt(stream.curl, CURLOPT_HTTPHEADER, headers);
        curl_easy_setopt(stream.curl, CURLOPT_POSTFIELDS, body);
        curl_easy_setopt(stream.curl, CURLOPT_WRITEFUNCTION, on_bytes);
        curl_easy_setopt(stream.curl, CURLOPT_WRITEDATA, &stream);
        curl_easy_setopt(stream.curl, CURLOPT_XFERINFOFUNCTION, on_progress);
        curl_easy_setopt(stream.curl, CURLOPT_XFERINFODATA, &stream);
        curl_easy_setopt(stream.curl, CURLOPT_NOPROGRESS, 0L);
        curl_easy_setopt(stream.curl, CURLOPT_NOSIGNAL, 1L);
        curl_easy_setopt(stream.curl, CURLOPT_CONNECTTIMEOUT, CONNECT_TIMEOUT_S);
        curl_easy_setopt(stream.curl, CURLOPT_LOW_SPEED_LIMIT, 1L);
        curl_easy_setopt(stream.curl, CURLOPT_LOW_SPEED_TIME, SILENCE_TIMEOUT_S);
        e = perform(&stream, url);
    }
    curl_easy_cleanup(stream.curl);
    curl_slist_free_all(headers);
    buf_release(&bearer);
    buf_release(&address);
    buf_release(&stream.error);
    buf_release(&stream.line);
    free(body);
    return e;
}
