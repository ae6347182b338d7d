/* chat_text - see chat_text.h. */
#include "chat/chat_text.h"

#include <string.h>

uint32_t chat_text_length(const struct chat_value *text) {
    uint32_t continuation = 0;
    for (uint32_t i = 0; i < text->count; i++)
        continuation += ((unsigned char) text->text[i] & 0xc0) == 0x80;
    return text->count - continuation;
}

uint32_t chat_text_offset(const struct chat_value *text, int64_t index) {
    if (index <= 0) return 0;
    uint32_t at = 0;
    while (at < text->count && index > 0) {
        uint32_t width = chat_unicode_width((unsigned char) text->text[at]);
        at = width > text->count - at ? text->count : at + width;
        index--;
    }
    return at;
}

int64_t chat_text_index(const struct chat_value *text, uint32_t offset) {
    struct chat_value head = chat_value_text(text->text, offset);
    return chat_text_length(&head);
}

bool chat_text_is(const struct chat_value *value, const char *literal) {
    return value->kind == CHAT_TEXT && value->count == strlen(literal) &&
           memcmp(value->text, literal, value->count) == 0;
}

enum err chat_text_slice(struct chat_run *run, const struct chat_value *text, uint32_t from,
                         uint32_t to, struct chat_value *out) {
    const struct chat_marks *marks = text->marks;
    struct chat_value slice = chat_value_text(text->text + from, to - from);
    slice.is_markup = text->is_markup;
    if (from < to && marks == &chat_value_all) slice.marks = marks;
    if (from < to && marks && marks != &chat_value_all) {
        uint32_t first = 0;
        while (first < marks->count && marks->spans[first].end <= from) first++;
        uint32_t last = first;
        while (last < marks->count && marks->spans[last].first < to) last++;
        if (last - first == 1 && marks->spans[first].first <= from &&
            marks->spans[first].end >= to) {
            slice.marks = &chat_value_all;
        } else if (last > first) {
            struct chat_marks *clipped =
                chat_run_take(run, 1, sizeof *clipped + (last - first) * sizeof(struct chat_span));
            if (!clipped) return run->failed;
            clipped->count = last - first;
            for (uint32_t i = first; i < last; i++) {
                uint32_t a = marks->spans[i].first, b = marks->spans[i].end;
                clipped->spans[i - first] =
                    (struct chat_span){(a < from ? from : a) - from, (b > to ? to : b) - from};
            }
            slice.marks = clipped;
        }
    }
    *out = slice;
    return ERR_OK;
}

static uint32_t span_count(const struct chat_value *text) {
    return !text->marks ? 0 : text->marks == &chat_value_all ? 1 : text->marks->count;
}

static uint32_t spans_copy(struct chat_marks *into, uint32_t at, const struct chat_value *text,
                           uint32_t shift) {
    struct chat_span whole = {0, text->count};
    uint32_t count = span_count(text);
    const struct chat_span *spans = text->marks == &chat_value_all ? &whole : text->marks->spans;
    for (uint32_t i = 0; i < count; i++) {
        struct chat_span span = {spans[i].first + shift, spans[i].end + shift};
        if (at && into->spans[at - 1].end == span.first) into->spans[at - 1].end = span.end;
        else into->spans[at++] = span;
    }
    return at;
}

enum err chat_text_concat(struct chat_run *run, const struct chat_value *a,
                          const struct chat_value *b, struct chat_value *out) {
    if (a->count == 0 || b->count == 0) {
        *out = a->count ? *a : *b;
        return ERR_OK;
    }
    uint64_t bytes = (uint64_t) a->count + b->count;
    enum err e = chat_run_spend(run, bytes / 64);
    if (e) return e;
    const char *text = a->text;
    if (a->text + a->count == run->pool_at && b->count <= (size_t) (run->pool_end - run->pool_at)) {
        memcpy(run->pool_at, b->text, b->count); /* a is the newest text: it grows in place */
        run->pool_at += b->count;
    } else {
        char *at = chat_run_take_text(run, bytes);
        if (!at) return run->failed;
        memcpy(at, a->text, a->count);
        memcpy(at + a->count, b->text, b->count);
        text = at;
    }
    struct chat_value joined = chat_value_text(text, (uint32_t) bytes);
    if (a->marks == &chat_value_all && b->marks == &chat_value_all) {
        joined.marks = &chat_value_all;
    } else if (a->marks || b->marks) {
        uint32_t count = span_count(a) + span_count(b);
        struct chat_marks *marks =
            chat_run_take(run, 1, sizeof *marks + count * sizeof(struct chat_span));
        if (!marks) return run->failed;
        uint32_t at = a->marks ? spans_copy(marks, 0, a, 0) : 0;
        marks->count = b->marks ? spans_copy(marks, at, b, a->count) : at;
        joined.marks = marks;
    }
    *out = joined;
    return ERR_OK;
}

uint32_t chat_text_find(const struct chat_value *text, const struct chat_value *needle,
                        uint32_t from, uint32_t to) {
    if (from > to || needle->count > to - from) return UINT32_MAX;
    if (needle->count == 0) return from;
    const char *at = memmem(text->text + from, to - from, needle->text, needle->count);
    return at ? (uint32_t) (at - text->text) : UINT32_MAX;
}

uint32_t chat_text_find_last(const struct chat_value *text, const struct chat_value *needle,
                             uint32_t from, uint32_t to) {
    if (from > to || needle->count > to - from) return UINT32_MAX;
    for (uint32_t at = to - needle->count;; at--) {
        if (memcmp(text->text + at, needle->text, needle->count) == 0) return at;
        if (at == from) return UINT32_MAX;
    }
}

static bool is_stripped(uint32_t code, const struct chat_value *chars) {
    if (!chars) return chat_unicode_is_space(code);
    const char *at = chars->text, *end = chars->text + chars->count;
    while (at < end)
        if (chat_unicode_read(&at, end) == code) return true;
    return false;
}

enum err chat_text_strip(struct chat_run *run, const struct chat_value *text, enum chat_strip sides,
                         const struct chat_value *chars, struct chat_value *out) {
    const char *first = text->text, *end = text->text + text->count;
    while ((sides & CHAT_STRIP_LEFT) && first < end) {
        const char *next = first;
        if (!is_stripped(chat_unicode_read(&next, end), chars)) break;
        first = next;
    }
    while ((sides & CHAT_STRIP_RIGHT) && end > first) {
        const char *last = end - 1;
        while (last > first && ((unsigned char) *last & 0xc0) == 0x80) last--;
        const char *at = last;
        if (!is_stripped(chat_unicode_read(&at, end), chars)) break;
        end = last;
    }
    uint32_t cut = text->count - (uint32_t) (end - first);
    enum err e = chat_run_spend(run, (uint64_t) cut * (chars ? chars->count : 1) / 64);
    if (e) return e;
    return chat_text_slice(run, text, (uint32_t) (first - text->text),
                           (uint32_t) (end - text->text), out);
}

static bool is_cased(uint32_t code) {
    return chat_unicode_is_upper(code) || chat_unicode_is_lower(code) ||
           chat_unicode_is_title(code);
}

/* U+03A3 is written as a final sigma behind a cased letter and before none (Unicode 3.13). */
static bool is_final_sigma(const struct chat_value *text, const char *at, const char *next) {
    const char *end = text->text + text->count;
    bool behind = false;
    for (const char *p = text->text; p < at;) {
        uint32_t code = chat_unicode_read(&p, at);
        if (is_cased(code)) behind = true;
        else if (code != '\'' && code != 0xad && code != 0x2019) behind = false;
    }
    while (behind && next < end) {
        uint32_t code = chat_unicode_read(&next, end);
        if (is_cased(code)) return false;
        if (code != '\'' && code != 0xad && code != 0x2019) break;
    }
    return behind;
}

static enum chat_case case_for(enum chat_recase how, uint32_t code, bool is_start) {
    switch (how) {
    case CHAT_RECASE_UPPER: return CHAT_CASE_UPPER;
    case CHAT_RECASE_LOWER: return CHAT_CASE_LOWER;
    case CHAT_RECASE_CAPITALIZE:
    case CHAT_RECASE_TITLE: return is_start ? CHAT_CASE_TITLE : CHAT_CASE_LOWER;
    case CHAT_RECASE_SWAP: return chat_unicode_is_upper(code) ? CHAT_CASE_LOWER : CHAT_CASE_UPPER;
    case CHAT_RECASE_WORDS: return is_start ? CHAT_CASE_UPPER : CHAT_CASE_LOWER;
    }
    return CHAT_CASE_LOWER;
}

static bool starts_next(enum chat_recase how, uint32_t code) {
    if (how == CHAT_RECASE_TITLE) return !is_cased(code);
    if (how != CHAT_RECASE_WORDS) return false;
    return code == '-' || code == '(' || code == '{' || code == '[' || code == '<' ||
           chat_unicode_is_space(code);
}

enum err chat_text_recase(struct chat_run *run, const struct chat_value *text, enum chat_recase how,
                          struct chat_value *out) {
    struct chat_capture capture = chat_run_capture(run);
    enum err e = chat_run_spend(run, text->count / 16);
    const char *at = text->text, *end = text->text + text->count;
    const struct chat_marks *marks = text->marks;
    bool is_start = true;
    uint32_t span = 0;
    while (!e && at < end) {
        const char *from = at;
        uint32_t offset = (uint32_t) (at - text->text);
        uint32_t code = chat_unicode_read(&at, end), mapped[3];
        bool is_user = marks != NULL;
        if (marks && marks != &chat_value_all) {
            while (span < marks->count && marks->spans[span].end <= offset) span++;
            is_user = span < marks->count && marks->spans[span].first <= offset;
        }
        enum chat_case to = case_for(how, code, is_start);
        if (how == CHAT_RECASE_SWAP && !is_cased(code)) {
            e = chat_run_out(run, from, (size_t) (at - from), is_user);
            continue;
        }
        uint32_t count = chat_unicode_map(code, to, mapped);
        if (code == 0x3a3 && to == CHAT_CASE_LOWER) {
            e = chat_run_spend(run, text->count / 16);
            if (is_final_sigma(text, from, at)) mapped[0] = 0x3c2;
        }
        for (uint32_t i = 0; !e && i < count; i++) {
            char bytes[4];
            uint32_t width = chat_unicode_write(mapped[i], bytes);
            e = chat_run_out(run, bytes, width, is_user);
        }
        is_start = starts_next(how, code);
    }
    if (e) return e;
    e = chat_run_capture_end(run, capture, out);
    out->is_markup = text->is_markup;
    return e;
}

enum err chat_text_replace(struct chat_run *run, const struct chat_value *text,
                           const struct chat_value *old, const struct chat_value *new,
                           int64_t count, struct chat_value *out) {
    struct chat_capture capture = chat_run_capture(run);
    enum err e = chat_run_spend(run, text->count / 64);
    uint32_t from = 0, to = text->count;
    bool is_any = false;
    while (!e && count != 0) {
        uint32_t at = chat_text_find(text, old, from, to);
        if (at == UINT32_MAX) break;
        is_any = true;
        if (old->count == 0) { /* before every character, and at the end */
            e = chat_run_out_text(run, new);
            if (from == to) break;
            uint32_t width = chat_unicode_width((unsigned char) text->text[from]);
            if (width > to - from) width = to - from;
            if (!e) e = chat_run_out_slice(run, text, from, from + width);
            from += width;
        } else {
            e = chat_run_out_slice(run, text, from, at);
            if (!e) e = chat_run_out_text(run, new);
            from = at + old->count;
        }
        if (!e) e = chat_run_spend(run, 1);
        count--;
    }
    if (!e && !is_any) {
        chat_run_capture_drop(run, capture);
        *out = *text;
        return ERR_OK;
    }
    if (!e) e = chat_run_out_slice(run, text, from, to);
    if (e) return e;
    e = chat_run_capture_end(run, capture, out);
    out->is_markup = text->is_markup;
    return e;
}

enum err chat_text_escape(struct chat_run *run, const struct chat_value *text,
                          struct chat_value *out) {
    if (text->is_markup) {
        *out = *text;
        return ERR_OK;
    }
    struct chat_capture capture = chat_run_capture(run);
    uint32_t from = 0;
    enum err e = ERR_OK;
    for (uint32_t i = 0; !e && i < text->count; i++) {
        char c = text->text[i];
        const char *entity = c == '&'    ? "&amp;"
                             : c == '<'  ? "&lt;"
                             : c == '>'  ? "&gt;"
                             : c == '"'  ? "&#34;"
                             : c == '\'' ? "&#39;"
                                         : NULL;
        if (!entity) continue;
        struct chat_value letter;
        e = chat_text_slice(run, text, i, i + 1, &letter);
        if (!e) e = chat_run_out_slice(run, text, from, i);
        if (!e) e = chat_run_out(run, entity, strlen(entity), letter.marks != NULL);
        from = i + 1;
    }
    if (!e) e = chat_run_out_slice(run, text, from, text->count);
    if (e) return e;
    e = chat_run_capture_end(run, capture, out);
    out->is_markup = true;
    return e;
}
