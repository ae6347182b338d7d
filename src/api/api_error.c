/* api_error - see api_error.h. */
#include "api/api_error.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "api/utf8_text.h"

/* Messages quote what the client sent, possibly cut in the middle of a character or not UTF-8 at
 * all; an error body must be valid JSON whatever it quotes. */
static void make_printable(char *text) {
    size_t bytes = strlen(text);
    for (size_t at = 0; at < bytes;) {
        size_t length = utf8_text_length((unsigned char *) text + at, bytes - at);
        if (!length) text[at] = '?';
        at += length ? length : 1;
    }
}

enum err api_error_set(struct api_error *error, int status, const char *param, const char *format,
                       ...) {
    *error = (struct api_error){.status = status};
    snprintf(error->param, sizeof error->param, "%s", param ? param : "");
    va_list args;
    va_start(args, format);
    vsnprintf(error->text.text, sizeof error->text.text, format, args);
    va_end(args);
    make_printable(error->text.text);
    make_printable(error->param);
    switch (status) {
    case 404: return ERR_NOT_FOUND;
    case 429: return ERR_BUSY;
    case 500: return ERR_MEMORY;
    case 503: return ERR_PEER_GONE;
    default: return ERR_USAGE;
    }
}

enum err api_error_memory(struct api_error *error) {
    return api_error_set(error, 500, NULL, "the server is out of memory");
}

const char *api_error_type(int status) {
    switch (status) {
    case 400: return "BadRequestError";
    case 401: return "AuthenticationError";
    case 403: return "PermissionDeniedError";
    case 404: return "NotFoundError";
    case 405: return "MethodNotAllowedError";
    case 408: return "RequestTimeoutError";
    case 413: return "RequestTooLargeError";
    case 429: return "RateLimitError";
    case 431: return "RequestHeaderTooLargeError";
    case 501: return "NotImplementedError";
    case 503: return "ServiceUnavailableError";
    case 505: return "HTTPVersionNotSupportedError";
    default: return status >= 400 && status < 500 ? "BadRequestError" : "InternalServerError";
    }
}

void api_error_render(const struct api_error *error, struct buf *out) {
    buf_add_string(out, "{\"error\":{\"message\":\"");
    buf_add_json_escaped(out, error->text.text, strlen(error->text.text));
    buf_add_format(out, "\",\"type\":\"%s\",\"param\":", api_error_type(error->status));
    if (error->param[0]) {
        buf_add_byte(out, '"');
        buf_add_json_escaped(out, error->param, strlen(error->param));
        buf_add_byte(out, '"');
    } else {
        buf_add_string(out, "null");
    }
    if (error->code[0]) buf_add_format(out, ",\"code\":\"%s\"}}", error->code);
    else buf_add_format(out, ",\"code\":%d}}", error->status);
}
