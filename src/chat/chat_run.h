/* chat_run - one rendering: its memory, its bounds, its output, its error.
 *
 * Owned by chat_template_render, one thread.  Everything a rendering makes lives in `arena`;
 * texts are written into a bump area of it, so that a + b + c grows in place.  The output is one
 * buffer: a capture (macro, set block, join, format ...) writes behind the output so far, and is
 * cut off as a text when it ends.
 *
 * The first failure sets `failed` and the sentence; callers hand the error on. */
#ifndef GRAMME_CHAT_CHAT_RUN_H
#define GRAMME_CHAT_CHAT_RUN_H

#include "base/arena.h"
#include "base/buf.h"
#include "chat/chat_template.h"
#include "chat/chat_value.h"

#define CHAT_RUN_VALUE_DEPTH_MAX 200u /* nesting of lists and dicts; JSON schemas reach 30 */

struct chat_name;

struct chat_run {
    struct arena arena;
    char *pool_at; /* free bytes for texts */
    char *pool_end;
    size_t pool_bytes_next;
    struct buf out;
    struct chat_range *ranges; /* of `out`; owned */
    size_t range_count;
    size_t range_room;
    size_t range_base; /* first range of the innermost capture */
    uint64_t steps_left;
    uint32_t depth;
    uint32_t depth_max;
    uint32_t line;              /* of the template, for the error */
    struct chat_value *context; /* by name */
    const struct chat_name *names;
    int64_t now_s;
    struct err_text *text;
    enum err failed;
};

struct chat_capture {
    size_t first;
    size_t range_base;
};

/* Returns e; the first call fills the error's text with "template line N: ...". */
MUST_USE enum err chat_run_fail(struct chat_run *run, enum err e, const char *format, ...)
    PRINTF_LIKE(3, 4);
/* NULL and run->failed past the memory limit. */
MUST_USE void *chat_run_take(struct chat_run *run, size_t count, size_t size);
MUST_USE char *chat_run_take_text(struct chat_run *run, size_t bytes);
MUST_USE enum err chat_run_over_steps(struct chat_run *run);

/* Every statement, expression and item costs a step, long texts one per 64 bytes. */
MUST_USE static inline enum err chat_run_spend(struct chat_run *run, uint64_t steps) {
    if (__builtin_expect(run->steps_left < steps, 0)) return chat_run_over_steps(run);
    run->steps_left -= steps;
    return ERR_OK;
}

MUST_USE enum err chat_run_out(struct chat_run *run, const char *data, size_t bytes, bool is_user);
MUST_USE enum err chat_run_out_string(struct chat_run *run, const char *text);
/* A text with its marks, or its bytes from..to. */
MUST_USE enum err chat_run_out_text(struct chat_run *run, const struct chat_value *text);
MUST_USE enum err chat_run_out_slice(struct chat_run *run, const struct chat_value *text,
                                     uint32_t from, uint32_t to);
struct chat_capture chat_run_capture(struct chat_run *run);
/* What was written since, as a text. */
MUST_USE enum err chat_run_capture_end(struct chat_run *run, struct chat_capture capture,
                                       struct chat_value *out);
/* Throws it away. */
void chat_run_capture_drop(struct chat_run *run, struct chat_capture capture);

#endif
