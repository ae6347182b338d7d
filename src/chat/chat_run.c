/* chat_run - see chat_run.h. */
#include "chat/chat_run.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "base/alloc.h"

#define POOL_BYTES_FIRST 4096u
#define POOL_BYTES_MAX (1024u * 1024u)

enum err chat_run_fail(struct chat_run *run, enum err e, const char *format, ...) {
    if (run->failed) return run->failed;
    run->failed = e;
    char reason[900];
    va_list args;
    va_start(args, format);
    vsnprintf(reason, sizeof reason, format, args);
    va_end(args);
    return err_set(run->text, e, "template line %u: %s", run->line, reason);
}

enum err chat_run_over_steps(struct chat_run *run) {
    run->steps_left = 0;
    return chat_run_fail(run, ERR_LIMIT, "the template takes too many steps");
}

void *chat_run_take(struct chat_run *run, size_t count, size_t size) {
    size_t bytes;
    void *at = NULL;
    if (!__builtin_mul_overflow(count, size, &bytes)) at = arena_take(&run->arena, bytes);
    if (at) return at;
    size_t left = run->arena.limit_bytes - run->arena.taken_bytes;
    enum err e = run->arena.limit_bytes && bytes > left
                     ? chat_run_fail(run, ERR_LIMIT, "the template needs more than %zu bytes",
                                     run->arena.limit_bytes)
                     : chat_run_fail(run, ERR_MEMORY, "out of memory");
    (void) e;
    return NULL;
}

char *chat_run_take_text(struct chat_run *run, size_t bytes) {
    static char nothing[1];
    if (bytes == 0) return nothing;
    if (bytes > UINT32_MAX) {
        enum err e = chat_run_fail(run, ERR_LIMIT, "a text of %zu bytes is too long", bytes);
        (void) e;
        return NULL;
    }
    if (bytes > (size_t) (run->pool_end - run->pool_at)) {
        size_t room = run->pool_bytes_next ? run->pool_bytes_next : POOL_BYTES_FIRST;
        run->pool_bytes_next = room < POOL_BYTES_MAX ? room * 2 : room;
        if (room < bytes * 2) room = bytes * 2;
        size_t left = run->arena.limit_bytes - run->arena.taken_bytes;
        if (run->arena.limit_bytes && room > left) room = bytes;
        char *at = chat_run_take(run, room, 1);
        if (!at) return NULL;
        run->pool_at = at;
        run->pool_end = at + room;
    }
    char *at = run->pool_at;
    run->pool_at += bytes;
    return at;
}

static enum err out_failed(struct chat_run *run) {
    if (run->out.failed == ERR_LIMIT)
        return chat_run_fail(run, ERR_LIMIT, "the output is longer than %zu bytes",
                             run->out.limit_bytes);
    return chat_run_fail(run, ERR_MEMORY, "out of memory");
}

static enum err range_add(struct chat_run *run, size_t first, size_t end) {
    if (run->range_count > run->range_base && run->ranges[run->range_count - 1].end == first) {
        run->ranges[run->range_count - 1].end = end;
        return ERR_OK;
    }
    if (run->range_count == run->range_room) {
        size_t room = run->range_room ? run->range_room * 2 : 16;
        struct chat_range *ranges = alloc_resize(run->ranges, room * sizeof *ranges);
        if (!ranges) return chat_run_fail(run, ERR_MEMORY, "out of memory");
        run->ranges = ranges;
        run->range_room = room;
    }
    run->ranges[run->range_count++] = (struct chat_range){first, end};
    return ERR_OK;
}

enum err chat_run_out(struct chat_run *run, const char *data, size_t bytes, bool is_user) {
    if (bytes == 0) return run->failed;
    size_t first = run->out.bytes;
    buf_add(&run->out, data, bytes);
    if (run->out.failed) return out_failed(run);
    return is_user ? range_add(run, first, first + bytes) : ERR_OK;
}

enum err chat_run_out_string(struct chat_run *run, const char *text) {
    return chat_run_out(run, text, strlen(text), false);
}

enum err chat_run_out_text(struct chat_run *run, const struct chat_value *text) {
    return chat_run_out_slice(run, text, 0, text->count);
}

enum err chat_run_out_slice(struct chat_run *run, const struct chat_value *text, uint32_t from,
                            uint32_t to) {
    enum err e = chat_run_spend(run, (to - from) / 64);
    if (e) return e;
    const struct chat_marks *marks = text->marks;
    if (!marks || marks == &chat_value_all)
        return chat_run_out(run, text->text + from, to - from, marks != NULL);
    size_t first = run->out.bytes;
    e = chat_run_out(run, text->text + from, to - from, false);
    for (uint32_t i = 0; !e && i < marks->count; i++) {
        uint32_t a = marks->spans[i].first, b = marks->spans[i].end;
        if (a < from) a = from;
        if (b > to) b = to;
        if (a < b) e = range_add(run, first + (a - from), first + (b - from));
    }
    return e;
}

struct chat_capture chat_run_capture(struct chat_run *run) {
    struct chat_capture capture = {.first = run->out.bytes, .range_base = run->range_base};
    run->range_base = run->range_count;
    return capture;
}

void chat_run_capture_drop(struct chat_run *run, struct chat_capture capture) {
    run->range_count = run->range_base;
    run->range_base = capture.range_base;
    run->out.bytes = capture.first;
}

enum err chat_run_capture_end(struct chat_run *run, struct chat_capture capture,
                              struct chat_value *out) {
    size_t bytes = run->out.bytes - capture.first;
    size_t count = run->range_count - run->range_base;
    const struct chat_range *ranges = count ? run->ranges + run->range_base : NULL;
    *out = chat_value_text("", 0);
    if (bytes) {
        char *text = chat_run_take_text(run, bytes);
        if (!text) return run->failed;
        memcpy(text, run->out.data + capture.first, bytes);
        *out = chat_value_text(text, (uint32_t) bytes);
    }
    if (count == 1 && ranges[0].end - ranges[0].first == bytes) {
        out->marks = &chat_value_all;
    } else if (count) {
        struct chat_marks *marks =
            chat_run_take(run, 1, sizeof *marks + count * sizeof(struct chat_span));
        if (!marks) return run->failed;
        marks->count = (uint32_t) count;
        for (size_t i = 0; i < count; i++)
            marks->spans[i] = (struct chat_span){(uint32_t) (ranges[i].first - capture.first),
                                                 (uint32_t) (ranges[i].end - capture.first)};
        out->marks = marks;
    }
    chat_run_capture_drop(run, capture);
    return ERR_OK;
}
