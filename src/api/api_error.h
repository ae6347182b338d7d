/* api_error - why a request is answered with an error, and the OpenAI form of it.
 *
 * Filled by whoever finds the fault first; rendered once, as a body or as the last event of a
 * stream.  Plain data, any thread. */
#ifndef GRAMME_API_API_ERROR_H
#define GRAMME_API_API_ERROR_H

#include <stdint.h>

#include "base/buf.h"
#include "base/err.h"

struct api_error {
    int status;             /* HTTP; 0: no error */
    uint32_t retry_after_s; /* 0: the header is not sent */
    char param[128];        /* the field at fault; "" becomes null */
    char code[32];          /* a word ("worker_died"); "" becomes the status */
    struct err_text text;
};

/* Fills error and returns the enum err that fits the status (400: ERR_USAGE).  param may be
 * NULL. */
enum err api_error_set(struct api_error *error, int status, const char *param, const char *format,
                       ...) PRINTF_LIKE(4, 5);
/* 500, "out of memory". */
enum err api_error_memory(struct api_error *error);
/* The word of the status in vLLM's spelling ("BadRequestError"). */
const char *api_error_type(int status);
/* {"error":{"message","type","param","code"}} */
void api_error_render(const struct api_error *error, struct buf *out);

#endif
