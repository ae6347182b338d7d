/* log - one line an event, to standard error.
 *
 * Lowercase human lines, or JSON lines on request (--log-format json).  Thread-safe: a line is
 * one write.  Never a prompt, never a token of the bus.  Values stand in the sentence
 * ("block 17 refs 2"); a system error ends with %m. */
#ifndef GRAMME_BASE_LOG_H
#define GRAMME_BASE_LOG_H

#include <stdbool.h>
#include <stddef.h>

#include "base/check.h"

enum log_level { LOG_ERROR, LOG_WARN, LOG_INFO, LOG_DEBUG };
enum log_format { LOG_HUMAN, LOG_JSON };

/* Defaults: LOG_INFO, LOG_HUMAN. `who` stands before each line when not NULL ("decode 0"); it is
 * borrowed for the life of the process. */
void log_configure(enum log_level level, enum log_format format, const char *who);
/* Whole lines, newline included, go there instead; from any thread.  NULL: standard error again. */
typedef void (*log_sink_fn)(void *ctx, const char *line, size_t bytes);
void log_divert(log_sink_fn sink, void *ctx);
bool log_is_on(enum log_level level);
void log_line(enum log_level level, const char *format, ...) PRINTF_LIKE(2, 3);
/* As log_line, with the id of a request in a field of its own. */
void log_request(enum log_level level, const char *request_id, const char *format, ...)
    PRINTF_LIKE(3, 4);

#define log_error(...) log_line(LOG_ERROR, __VA_ARGS__)
#define log_warn(...) log_line(LOG_WARN, __VA_ARGS__)
#define log_info(...) log_line(LOG_INFO, __VA_ARGS__)
#define log_debug(...)                                                                             \
    do {                                                                                           \
        if (log_is_on(LOG_DEBUG)) log_line(LOG_DEBUG, __VA_ARGS__);                                \
    } while (0)

#endif
