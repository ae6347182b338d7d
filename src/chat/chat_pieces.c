/* chat_pieces - see chat_pieces.h. */
#include "chat/chat_pieces.h"

#include <string.h>

#include "chat/chat_iter.h"
#include "chat/chat_text.h"

static enum err add_piece(struct chat_run *run, struct chat_iter_builder *pieces,
                          const struct chat_value *text, uint32_t from, uint32_t to) {
    struct chat_value piece;
    enum err e = chat_run_spend(run, 1);
    if (!e) e = chat_text_slice(run, text, from, to, &piece);
    return e ? e : chat_iter_add(run, pieces, &piece);
}

static void turn(struct chat_iter_builder *pieces) {
    for (uint32_t i = 0, j = pieces->count; i + 1 < j; i++) {
        struct chat_value kept = pieces->items[i];
        pieces->items[i] = pieces->items[--j];
        pieces->items[j] = kept;
    }
}

static uint32_t skip(const struct chat_value *text, uint32_t at, bool is_space) {
    const char *p = text->text + at, *end = text->text + text->count;
    while (p < end) {
        const char *next = p;
        if (chat_unicode_is_space(chat_unicode_read(&next, end)) != is_space) break;
        p = next;
    }
    return (uint32_t) (p - text->text);
}

static uint32_t skip_back(const struct chat_value *text, uint32_t at, bool is_space) {
    while (at > 0) {
        uint32_t last = at - 1;
        while (last > 0 && ((unsigned char) text->text[last] & 0xc0) == 0x80) last--;
        const char *p = text->text + last;
        if (chat_unicode_is_space(chat_unicode_read(&p, text->text + at)) != is_space) break;
        at = last;
    }
    return at;
}

static enum err split_space(struct chat_run *run, const struct chat_value *text, int64_t limit,
                            struct chat_iter_builder *pieces) {
    uint32_t at = skip(text, 0, true);
    enum err e = ERR_OK;
    while (!e && at < text->count) {
        uint32_t end = skip(text, at, false);
        if (limit == 0) end = skip_back(text, text->count, true);
        e = add_piece(run, pieces, text, at, end);
        at = limit-- == 0 ? text->count : skip(text, end, true);
    }
    return e;
}

static enum err split_space_back(struct chat_run *run, const struct chat_value *text, int64_t limit,
                                 struct chat_iter_builder *pieces) {
    uint32_t at = skip_back(text, text->count, true);
    enum err e = ERR_OK;
    while (!e && at > 0) {
        uint32_t start = skip_back(text, at, false);
        if (limit == 0) start = skip(text, 0, true);
        e = add_piece(run, pieces, text, start, at);
        at = limit-- == 0 ? 0 : skip_back(text, start, true);
    }
    turn(pieces);
    return e;
}

static enum err split_at(struct chat_run *run, const struct chat_value *text,
                         const struct chat_value *separator, int64_t limit, bool from_right,
                         struct chat_iter_builder *pieces) {
    uint32_t from = 0, to = text->count;
    enum err e = ERR_OK;
    for (; !e && limit != 0; limit--) {
        uint32_t at = from_right ? chat_text_find_last(text, separator, 0, to)
                                 : chat_text_find(text, separator, from, to);
        if (at == UINT32_MAX) break;
        if (from_right) {
            e = add_piece(run, pieces, text, at + separator->count, to);
            to = at;
        } else {
            e = add_piece(run, pieces, text, from, at);
            from = at + separator->count;
        }
    }
    if (!e) e = add_piece(run, pieces, text, from, to);
    if (from_right) turn(pieces);
    return e;
}

enum err chat_pieces_split(struct chat_run *run, const struct chat_value *text,
                           const struct chat_value *separator, int64_t limit, bool from_right,
                           struct chat_value *out) {
    struct chat_iter_builder pieces = {0};
    enum err e = chat_run_spend(run, text->count / 64);
    if (e) return e;
    if (separator && separator->count == 0)
        return chat_run_fail(run, ERR_FORMAT, "empty separator");
    if (separator) e = split_at(run, text, separator, limit, from_right, &pieces);
    else if (from_right) e = split_space_back(run, text, limit, &pieces);
    else e = split_space(run, text, limit, &pieces);
    *out = chat_value_items(CHAT_LIST, pieces.items, pieces.count);
    return e;
}

static bool ends_line(uint32_t code) {
    return (code >= 10 && code <= 13) || (code >= 0x1c && code <= 0x1e) || code == 0x85 ||
           code == 0x2028 || code == 0x2029;
}

enum err chat_pieces_split_lines(struct chat_run *run, const struct chat_value *text,
                                 bool keeps_ends, struct chat_value *out) {
    struct chat_iter_builder lines = {0};
    const char *at = text->text, *end = at + text->count, *start = at;
    enum err e = chat_run_spend(run, text->count / 64);
    while (!e && at < end) {
        const char *line_end = at;
        uint32_t code = chat_unicode_read(&at, end);
        if (!ends_line(code)) {
            if (at == end)
                e = add_piece(run, &lines, text, (uint32_t) (start - text->text), text->count);
            continue;
        }
        if (code == '\r' && at < end && *at == '\n') at++;
        e = add_piece(run, &lines, text, (uint32_t) (start - text->text),
                      (uint32_t) ((keeps_ends ? at : line_end) - text->text));
        start = at;
    }
    *out = chat_value_items(CHAT_LIST, lines.items, lines.count);
    return e;
}

enum err chat_pieces_pad(struct chat_run *run, const struct chat_value *text, int64_t left,
                         int64_t right, const struct chat_value *fill, struct chat_value *out) {
    if (left <= 0 && right <= 0) {
        *out = *text;
        return ERR_OK;
    }
    uint64_t spaces = (left > 0 ? (uint64_t) left : 0) + (right > 0 ? (uint64_t) right : 0);
    struct chat_capture capture = chat_run_capture(run);
    enum err e = chat_run_spend(run, spaces);
    for (int64_t i = 0; !e && i < left; i++) e = chat_run_out_text(run, fill);
    if (!e) e = chat_run_out_text(run, text);
    for (int64_t i = 0; !e && i < right; i++) e = chat_run_out_text(run, fill);
    return e ? e : chat_run_capture_end(run, capture, out);
}

enum err chat_pieces_center(struct chat_run *run, const struct chat_value *text, int64_t width,
                            const struct chat_value *fill, struct chat_value *out) {
    int64_t missing = width - chat_text_length(text);
    /* CPython's rule: the odd space goes left when the width is odd too. */
    int64_t left = missing > 0 ? missing / 2 + (missing & width & 1) : 0;
    return chat_pieces_pad(run, text, left, missing - left, fill, out);
}

enum err chat_pieces_join(struct chat_run *run, const struct chat_value *separator,
                          const struct chat_value *iterable, bool any, struct chat_value *out) {
    struct chat_iter *iter;
    struct chat_iter_builder parts = {0};
    enum err e = chat_iter_create(run, iterable, &iter);
    /* First all items, then the text: an item may be a generator that captures output itself. */
    while (!e) {
        struct chat_value item;
        e = chat_iter_next(run, iter, &item);
        if (e || item.kind == CHAT_MISSING) break;
        if (!any && item.kind != CHAT_TEXT)
            return chat_run_fail(run, ERR_FORMAT, "join expected a string, not '%s'",
                                 chat_value_kind_name(&item));
        if (!any && separator->is_markup) e = chat_text_escape(run, &item, &item);
        if (!e) e = chat_iter_add(run, &parts, &item);
    }
    if (e) return e;
    struct chat_capture capture = chat_run_capture(run);
    for (uint32_t i = 0; !e && i < parts.count; i++) {
        if (i) e = chat_run_out_text(run, separator);
        if (!e) e = chat_text_out(run, &parts.items[i]);
    }
    if (e) return e;
    e = chat_run_capture_end(run, capture, out);
    out->is_markup = !any && separator->is_markup;
    return e;
}
