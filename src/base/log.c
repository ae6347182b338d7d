/* log - see log.h. */
#include "base/log.h"

#include <errno.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "base/buf.h"
#include "base/clock.h"

#define LINE_BYTES_MAX 4096 /* longer lines are cut: a log is no transport */

static _Atomic int level_max = LOG_INFO;
static _Atomic int line_format = LOG_HUMAN;
static const char *_Atomic line_who;
static _Atomic log_sink_fn line_sink;
static void *_Atomic line_sink_ctx;

static const char *const level_names[] = {"error", "warn", "info", "debug"};

void log_configure(enum log_level level, enum log_format format, const char *who) {
    atomic_store(&level_max, (int) level);
    atomic_store(&line_format, (int) format);
    atomic_store(&line_who, who);
}

void log_divert(log_sink_fn sink, void *ctx) {
    atomic_store(&line_sink_ctx, ctx);
    atomic_store(&line_sink, sink);
}

bool log_is_on(enum log_level level) { return (int) level <= atomic_load(&level_max); }

static int print_time(char *out, size_t room, bool is_json) {
    uint64_t wall_ns = clock_wall_ns();
    time_t seconds = (time_t) (wall_ns / 1000000000u);
    unsigned millis = (unsigned) (wall_ns / 1000000u % 1000u);
    struct tm utc;
    if (is_json) {
        gmtime_r(&seconds, &utc);
        return snprintf(out, room, "%04d-%02d-%02dT%02d:%02d:%02d.%03uZ", utc.tm_year + 1900,
                        utc.tm_mon + 1, utc.tm_mday, utc.tm_hour, utc.tm_min, utc.tm_sec, millis);
    }
    localtime_r(&seconds, &utc);
    return snprintf(out, room, "%02d:%02d:%02d.%03u", utc.tm_hour, utc.tm_min, utc.tm_sec, millis);
}

/* The bytes of text that form whole, valid UTF-8, with the rest replaced by '?': a log line must
 * stay readable whatever a client sent. */
static void add_clean(struct buf *out, const char *text, bool is_json) {
    char clean[LINE_BYTES_MAX];
    size_t count = 0;
    for (; text[count] && count < sizeof clean - 1; count++) {
        unsigned char c = (unsigned char) text[count];
        clean[count] = c >= 0x20 && c != 0x7f ? (char) c : ' ';
    }
    clean[count] = '\0';
    if (is_json) buf_add_json_escaped(out, clean, count);
    else buf_add(out, clean, count);
}

static void write_line(enum log_level level, const char *request_id, const char *text) {
    char stamp[80];
    const char *who = atomic_load(&line_who);
    bool is_json = atomic_load(&line_format) == LOG_JSON;
    print_time(stamp, sizeof stamp, is_json);
    struct buf line;
    buf_init(&line, 4 * LINE_BYTES_MAX);
    if (is_json) {
        buf_add_format(&line, "{\"time\":\"%s\",\"level\":\"%s\"", stamp, level_names[level]);
        if (who) {
            buf_add_string(&line, ",\"who\":\"");
            add_clean(&line, who, true);
            buf_add_string(&line, "\"");
        }
        if (request_id) {
            buf_add_string(&line, ",\"request\":\"");
            add_clean(&line, request_id, true);
            buf_add_string(&line, "\"");
        }
        buf_add_string(&line, ",\"message\":\"");
        add_clean(&line, text, true);
        buf_add_string(&line, "\"}\n");
    } else {
        buf_add_format(&line, "%s ", stamp);
        if (who) buf_add_format(&line, "%s ", who);
        if (level <= LOG_WARN) buf_add_format(&line, "%s: ", level_names[level]);
        if (request_id) {
            add_clean(&line, request_id, false);
            buf_add_string(&line, " ");
        }
        add_clean(&line, text, false);
        buf_add_string(&line, "\n");
    }
    if (!buf_error(&line)) {
        log_sink_fn sink = atomic_load(&line_sink);
        if (sink) {
            sink(atomic_load(&line_sink_ctx), (const char *) line.data, line.bytes);
        } else {
            ssize_t written = write(STDERR_FILENO, line.data, line.bytes);
            (void) written; /* nobody is left to tell */
        }
    }
    buf_release(&line);
}

void log_line(enum log_level level, const char *format, ...) {
    int saved_errno = errno;
    if (!log_is_on(level)) return;
    char text[LINE_BYTES_MAX];
    va_list args;
    va_start(args, format);
    errno = saved_errno;
    vsnprintf(text, sizeof text, format, args);
    va_end(args);
    write_line(level, NULL, text);
    errno = saved_errno;
}

void log_request(enum log_level level, const char *request_id, const char *format, ...) {
    int saved_errno = errno;
    if (!log_is_on(level)) return;
    char text[LINE_BYTES_MAX];
    va_list args;
    va_start(args, format);
    errno = saved_errno;
    vsnprintf(text, sizeof text, format, args);
    va_end(args);
    write_line(level, request_id, text);
    errno = saved_errno;
}
