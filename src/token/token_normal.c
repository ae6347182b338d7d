/* token_normal - see the header.
 *
 * Each step reads one text and writes another; a step that would change nothing passes its input
 * on.  NFC is our own over utf8proc's tables: linear in the text whatever marks stand in it, and
 * only for the characters that the reference's older Unicode knows (TOKEN_COMBINES). */
#include "token/token_normal.h"

#include <string.h>

#include <utf8proc.h>

#include "base/alloc.h"
#include "token/token_unicode.h"

/* One step's work: the text it reads, the buffer it writes, and the user's ranges, which move
 * with the text.  They are rewritten in place: what is written never passes what was read. */
struct pass {
    struct token_scratch *scratch;
    const uint8_t *text;
    size_t bytes;
    struct buf *out;
    size_t range_count; /* in scratch->ranges */
    size_t range_read, range_written;
    struct tokenizer_range range; /* a copy of the one at range_read */
};

static void load_range(struct pass *pass) {
    if (pass->range_read < pass->range_count) {
        pass->range = pass->scratch->ranges[pass->range_read];
    }
}

static void begin_pass(struct pass *pass, struct buf *out) {
    buf_clear(out);
    pass->out = out;
    pass->range_read = pass->range_written = 0;
    load_range(pass);
}

static void end_pass(struct pass *pass) {
    pass->text = pass->out->data;
    pass->bytes = pass->out->bytes;
    pass->range_count = pass->range_written;
}

/* text[first..end) became what was written to `out` from out_first on; is_same: byte for byte,
 * else every byte of it counts as the user's when one of its source is. */
static void move_ranges(struct pass *pass, size_t first, size_t end, size_t out_first,
                        bool is_same) {
    while (pass->range_read < pass->range_count && pass->range.first < end) {
        struct tokenizer_range range = pass->range;
        if (range.end > first) {
            struct tokenizer_range moved = {out_first, pass->out->bytes};
            if (is_same) {
                moved.first = out_first + (range.first > first ? range.first - first : 0);
                moved.end = out_first + ((range.end < end ? range.end : end) - first);
            }
            struct tokenizer_range *last =
                pass->range_written ? &pass->scratch->ranges[pass->range_written - 1] : NULL;
            if (last && last->end >= moved.first) {
                last->end = moved.end;
            } else {
                pass->scratch->ranges[pass->range_written++] = moved;
            }
        }
        if (range.end > end) break;
        pass->range_read++;
        load_range(pass);
    }
}

static void copy_same(struct pass *pass, size_t first, size_t end) {
    size_t out_first = pass->out->bytes;
    buf_add(pass->out, pass->text + first, end - first);
    move_ranges(pass, first, end, out_first, true);
}

static void prepend(struct pass *pass, struct buf *out, const struct tokenizer_normal *normal) {
    begin_pass(pass, out);
    buf_add(out, normal->to, normal->to_bytes);
    copy_same(pass, 0, pass->bytes);
    end_pass(pass);
}

/* false: there is nothing to replace. */
static bool replace(struct pass *pass, struct buf *out, const struct tokenizer_normal *normal) {
    size_t from_bytes = normal->from_bytes;
    const uint8_t *found = memmem(pass->text, pass->bytes, normal->from, from_bytes);
    if (!found) return false;
    begin_pass(pass, out);
    size_t at = 0;
    while (found) {
        size_t place = (size_t) (found - pass->text);
        copy_same(pass, at, place);
        size_t out_first = out->bytes;
        buf_add(out, normal->to, normal->to_bytes);
        at = place + from_bytes;
        move_ranges(pass, place, at, out_first, false);
        found = memmem(pass->text + at, pass->bytes - at, normal->from, from_bytes);
    }
    copy_same(pass, at, pass->bytes);
    end_pass(pass);
    return true;
}

/* --- NFC ------------------------------------------------------------------------------------ */

static bool combines(uint32_t cp) { return token_unicode_class(cp) & TOKEN_COMBINES; }

static uint8_t order_of(uint32_t cp) {
    return combines(cp) ? (uint8_t) utf8proc_get_property((utf8proc_int32_t) cp)->combining_class
                        : 0;
}

/* The first character at or behind `at` that NFC may touch; `bytes` when there is none.  None
 * stands below U+0300, whose lead byte is 0xcc. */
static size_t next_combining(const uint8_t *text, size_t at, size_t bytes) {
    while (at < bytes) {
        if (bytes - at >= 8) {
            uint64_t eight;
            memcpy(&eight, text + at, 8);
            if (!(eight & 0x8080808080808080u)) {
                at += 8;
                continue;
            }
        }
        uint8_t lead = text[at];
        if (lead < 0xcc) {
            at += lead < 0x80 ? 1 : 2;
            continue;
        }
        uint32_t length;
        if (combines(token_unicode_decode(text + at, &length))) return at;
        at += length;
    }
    return bytes;
}

static enum err reserve_points(struct token_scratch *scratch, size_t count) {
    if (count <= scratch->point_room) return ERR_OK;
    size_t room = count + count / 2 + 64;
    uint32_t *points = alloc_resize(scratch->points, room * 2 * sizeof *points);
    if (!points) return ERR_MEMORY;
    scratch->points = points;
    scratch->point_room = room; /* twice: the other half is for sorting */
    return ERR_OK;
}

/* Appends the canonical decomposition.  One that needs a mark the reference does not know is no
 * decomposition to it. */
static enum err decompose(struct token_scratch *scratch, uint32_t cp, size_t *count) {
    utf8proc_int32_t parts[8];
    enum err e = reserve_points(scratch, *count + ARRAY_COUNT(parts));
    if (e) return e;
    utf8proc_ssize_t part_count = utf8proc_decompose_char(
        (utf8proc_int32_t) cp, parts, ARRAY_COUNT(parts), UTF8PROC_DECOMPOSE, NULL);
    bool is_known = part_count > 0 && part_count <= (utf8proc_ssize_t) ARRAY_COUNT(parts);
    for (utf8proc_ssize_t i = 1; is_known && i < part_count; i++) {
        is_known = combines(cp) || combines((uint32_t) parts[i]);
    }
    if (!is_known) {
        scratch->points[(*count)++] = cp;
        return ERR_OK;
    }
    for (utf8proc_ssize_t i = 0; i < part_count; i++) {
        scratch->points[(*count)++] = (uint32_t) parts[i];
    }
    return ERR_OK;
}

/* Sorts marks by their class and keeps the order within a class. */
static void sort_marks(uint32_t *marks, size_t count, uint32_t *spare) {
    if (count <= 16) {
        for (size_t i = 1; i < count; i++) {
            uint32_t mark = marks[i];
            size_t at = i;
            for (; at > 0 && order_of(marks[at - 1]) > order_of(mark); at--) {
                marks[at] = marks[at - 1];
            }
            marks[at] = mark;
        }
        return;
    }
    size_t firsts[256] = {0};
    for (size_t i = 0; i < count; i++) firsts[order_of(marks[i])]++;
    size_t sum = 0;
    for (size_t i = 0; i < 256; i++) {
        size_t here = firsts[i];
        firsts[i] = sum;
        sum += here;
    }
    for (size_t i = 0; i < count; i++) spare[firsts[order_of(marks[i])]++] = marks[i];
    memcpy(marks, spare, count * sizeof *marks);
}

/* The character that two compose to, 0 when they do not. */
static uint32_t composed(uint32_t first, uint32_t second) {
    utf8proc_int32_t pair[3] = {(utf8proc_int32_t) first, (utf8proc_int32_t) second};
    utf8proc_ssize_t count = utf8proc_normalize_utf32(pair, 2, UTF8PROC_COMPOSE | UTF8PROC_STABLE);
    return count == 1 ? (uint32_t) pair[0] : 0;
}

/* Unicode 3.11, canonical composition; in place, gives the number left. */
static size_t compose(uint32_t *points, size_t count) {
    size_t out = 0, starter = SIZE_MAX;
    int last_order = -1; /* of what stands behind the starter, -1: nothing */
    for (size_t i = 0; i < count; i++) {
        uint32_t cp = points[i];
        int order = order_of(cp);
        if (starter != SIZE_MAX && last_order < order + (last_order == -1) && combines(cp)) {
            uint32_t whole = composed(points[starter], cp);
            if (whole) {
                points[starter] = whole;
                continue;
            }
        }
        if (order == 0) {
            starter = out;
            last_order = -1;
        } else {
            last_order = order;
        }
        points[out++] = cp;
    }
    return out;
}

static enum err nfc_segment(struct pass *pass, size_t first, size_t end) {
    struct token_scratch *scratch = pass->scratch;
    size_t count = 0;
    for (size_t at = first; at < end;) {
        uint32_t length;
        enum err e = decompose(scratch, token_unicode_decode(pass->text + at, &length), &count);
        if (e) return e;
        at += length;
    }
    uint32_t *points = scratch->points;
    for (size_t at = 0; at < count;) {
        size_t stop = at;
        while (stop < count && order_of(points[stop])) stop++;
        sort_marks(points + at, stop - at, points + scratch->point_room);
        at = stop + 1;
    }
    count = compose(points, count);
    size_t out_first = pass->out->bytes;
    for (size_t i = 0; i < count; i++) {
        uint8_t text[4];
        buf_add(pass->out, text, token_unicode_encode(points[i], text));
    }
    move_ranges(pass, first, end, out_first, false);
    return ERR_OK;
}

/* Only a character that may combine, the ones like it behind and the one before can change. */
static enum err nfc(struct pass *pass, struct buf *out, bool *has_changed) {
    const uint8_t *text = pass->text;
    size_t bytes = pass->bytes;
    size_t found = next_combining(text, 0, bytes);
    *has_changed = found < bytes;
    if (found == bytes) return ERR_OK;
    begin_pass(pass, out);
    size_t done = 0;
    while (found < bytes) {
        size_t first = found, end = found;
        if (first > done) {
            do first--;
            while ((text[first] & 0xc0) == 0x80);
        }
        copy_same(pass, done, first);
        while (end < bytes) {
            uint32_t length;
            if (!combines(token_unicode_decode(text + end, &length))) break;
            end += length;
        }
        enum err e = nfc_segment(pass, first, end);
        if (e) return e;
        done = end;
        found = next_combining(text, done, bytes);
    }
    copy_same(pass, done, bytes);
    end_pass(pass);
    return ERR_OK;
}

/* --- the whole ------------------------------------------------------------------------------ */

/* The user's ranges inside text[first..end), counted from first. */
static enum err take_ranges(struct pass *pass, size_t first, size_t end,
                            struct token_added_user *user) {
    struct token_scratch *scratch = pass->scratch;
    while (user->next < user->range_count && user->ranges[user->next].end <= first) user->next++;
    size_t stop = user->next;
    while (stop < user->range_count && user->ranges[stop].first < end) stop++;
    size_t count = stop - user->next;
    if (count > scratch->range_room) {
        struct tokenizer_range *ranges =
            alloc_resize(scratch->ranges, count * sizeof *scratch->ranges);
        if (!ranges) return ERR_MEMORY;
        scratch->ranges = ranges;
        scratch->range_room = count;
    }
    for (size_t i = 0; i < count; i++) {
        struct tokenizer_range range = user->ranges[user->next + i];
        scratch->ranges[i].first = range.first > first ? range.first - first : 0;
        scratch->ranges[i].end = (range.end < end ? range.end : end) - first;
    }
    pass->range_count = count;
    return ERR_OK;
}

enum err token_normal_run(const struct tokenizer *tokenizer, struct token_scratch *scratch,
                          const uint8_t *text, size_t first, size_t end,
                          struct token_added_user *user, struct token_normal_text *out) {
    struct pass pass = {.scratch = scratch, .text = text + first, .bytes = end - first};
    bool wants_ranges = tokenizer->added.normalized.node_count && !user->is_all;
    enum err e = wants_ranges ? take_ranges(&pass, first, end, user) : ERR_OK;
    uint32_t turn = 0;
    for (uint32_t i = 0; !e && i < tokenizer->normal_count && pass.bytes; i++) {
        const struct tokenizer_normal *normal = &tokenizer->normals[i];
        struct buf *buf = &scratch->normal[turn];
        bool has_changed = true;
        switch (normal->kind) {
        case TOKENIZER_PREPEND: prepend(&pass, buf, normal); break;
        case TOKENIZER_REPLACE: has_changed = replace(&pass, buf, normal); break;
        case TOKENIZER_NFC: e = nfc(&pass, buf, &has_changed); break;
        }
        if (!has_changed) continue;
        if (!e) e = buf->failed;
        turn ^= 1;
    }
    if (e) return e;
    *out = (struct token_normal_text){.text = pass.text,
                                      .bytes = pass.bytes,
                                      .ranges = scratch->ranges,
                                      .range_count = pass.range_count};
    return ERR_OK;
}
