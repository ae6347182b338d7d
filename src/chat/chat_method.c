/* chat_method - see chat_method.h. */
#include "chat/chat_method.h"

#include <string.h>

#include "chat/chat_format.h"
#include "chat/chat_iter.h"
#include "chat/chat_pieces.h"
#include "chat/chat_text.h"

/* What a method gets: its parameters by position (CHAT_MISSING when absent), and all arguments. */
struct call {
    struct chat_run *run;
    const struct chat_value *self;
    const struct chat_value *p;
    struct chat_args *args;
    uint8_t variant;
    struct chat_value *out;
};

#define PARAMETERS_MAX 4

struct method {
    const char *name;
    uint8_t kind; /* of the object */
    uint8_t variant;
    uint8_t required;
    bool is_free; /* takes any arguments */
    enum err (*call)(const struct call *call);
    const char *parameters[PARAMETERS_MAX];
};

/* start and end of find, count, startswith ...: code points, clipped, as bytes.  false: start is
 * past the end, so that nothing is found. */
static enum err need_range(const struct call *call, const struct chat_value *start,
                           const struct chat_value *end, uint32_t *from, uint32_t *to,
                           bool *is_valid) {
    int64_t first = 0, last = INT64_MAX, length = chat_text_length(call->self);
    enum err e =
        chat_eval_is_given(start) ? chat_eval_need_int(call->run, start, 0, &first) : ERR_OK;
    if (!e && chat_eval_is_given(end)) e = chat_eval_need_int(call->run, end, last, &last);
    if (e) return e;
    if (last > length) last = length;
    if (last < 0) last = last + length < 0 ? 0 : last + length;
    if (first < 0) first = first + length < 0 ? 0 : first + length;
    *is_valid = first <= last;
    *from = chat_text_offset(call->self, first);
    *to = chat_text_offset(call->self, last);
    return chat_run_spend(call->run, call->self->count / 64);
}

static enum err text_recase(const struct call *call) {
    return chat_text_recase(call->run, call->self, (enum chat_recase) call->variant, call->out);
}

static enum err text_strip(const struct call *call) {
    const struct chat_value *chars = chat_eval_is_given(call->p) ? call->p : NULL;
    enum err e = chars ? chat_eval_need_text(call->run, chars) : ERR_OK;
    return e ? e
             : chat_text_strip(call->run, call->self, (enum chat_strip) call->variant, chars,
                               call->out);
}

static enum err text_split(const struct call *call) {
    int64_t limit;
    const struct chat_value *separator = chat_eval_is_given(call->p) ? call->p : NULL;
    enum err e = separator ? chat_eval_need_text(call->run, separator) : ERR_OK;
    if (!e) e = chat_eval_need_int(call->run, call->p + 1, -1, &limit);
    return e ? e
             : chat_pieces_split(call->run, call->self, separator, limit, call->variant, call->out);
}

static enum err text_split_lines(const struct call *call) {
    int64_t keeps_ends;
    enum err e = chat_eval_need_int(call->run, call->p, 0, &keeps_ends);
    return e ? e : chat_pieces_split_lines(call->run, call->self, keeps_ends != 0, call->out);
}

static enum err text_join(const struct call *call) {
    return chat_pieces_join(call->run, call->self, call->p, false, call->out);
}

static enum err text_replace(const struct call *call) {
    int64_t count;
    struct chat_value new = call->p[1];
    enum err e = chat_eval_need_text(call->run, call->p);
    if (!e) e = chat_eval_need_text(call->run, call->p + 1);
    if (!e) e = chat_eval_need_int(call->run, call->p + 2, -1, &count);
    if (!e && call->self->is_markup) e = chat_text_escape(call->run, call->p + 1, &new);
    return e ? e : chat_text_replace(call->run, call->self, call->p, &new, count, call->out);
}

static enum err text_affix(const struct call *call) {
    const struct chat_value *affixes = call->p;
    uint32_t count = 1, from, to;
    bool is_valid;
    enum err e = ERR_OK;
    if (call->p->kind == CHAT_TUPLE) {
        affixes = call->p->items;
        count = call->p->count;
    }
    for (uint32_t i = 0; !e && i < count; i++) e = chat_eval_need_text(call->run, &affixes[i]);
    if (!e) e = need_range(call, call->p + 1, call->p + 2, &from, &to, &is_valid);
    if (e) return e;
    bool found = false;
    for (uint32_t i = 0; is_valid && !found && i < count; i++) {
        uint32_t bytes = affixes[i].count;
        if (bytes > to - from) continue;
        const char *at = call->self->text + (call->variant ? to - bytes : from);
        found = memcmp(at, affixes[i].text, bytes) == 0;
    }
    *call->out = chat_value_bool(found);
    return ERR_OK;
}

enum { FIND, FIND_LAST, INDEX, INDEX_LAST };

static enum err text_find(const struct call *call) {
    uint32_t from, to, at = UINT32_MAX;
    bool is_valid;
    enum err e = chat_eval_need_text(call->run, call->p);
    if (!e) e = need_range(call, call->p + 1, call->p + 2, &from, &to, &is_valid);
    if (e) return e;
    bool is_last = call->variant == FIND_LAST || call->variant == INDEX_LAST;
    if (is_valid)
        at = is_last ? chat_text_find_last(call->self, call->p, from, to)
                     : chat_text_find(call->self, call->p, from, to);
    if (at == UINT32_MAX && call->variant >= INDEX)
        return chat_run_fail(call->run, ERR_FORMAT, "substring not found");
    *call->out = chat_value_int(at == UINT32_MAX ? -1 : chat_text_index(call->self, at));
    return ERR_OK;
}

static enum err text_count(const struct call *call) {
    uint32_t from, to;
    int64_t count = 0;
    bool is_valid;
    enum err e = chat_eval_need_text(call->run, call->p);
    if (!e) e = need_range(call, call->p + 1, call->p + 2, &from, &to, &is_valid);
    if (e) return e;
    if (is_valid && call->p->count == 0) {
        struct chat_value part = chat_value_text(call->self->text + from, to - from);
        count = chat_text_length(&part) + 1;
    }
    while (is_valid && call->p->count) {
        uint32_t at = chat_text_find(call->self, call->p, from, to);
        if (at == UINT32_MAX) break;
        count++;
        from = at + call->p->count;
    }
    *call->out = chat_value_int(count);
    return ERR_OK;
}

enum { IS_ALPHA, IS_DIGIT, IS_NUMERIC, IS_DECIMAL, IS_ALNUM, IS_SPACE, IS_PRINTABLE, IS_ASCII };

static bool is_class(uint8_t class, uint32_t code) {
    switch (class) {
    case IS_ALPHA: return chat_unicode_is_alpha(code);
    case IS_DIGIT:
        return chat_unicode_is_decimal(code) || (code >= 0xb2 && code <= 0xb3) || code == 0xb9 ||
               code == 0x2070 || (code >= 0x2074 && code <= 0x2079) ||
               (code >= 0x2080 && code <= 0x2089) || (code >= 0x2460 && code <= 0x2468);
    case IS_NUMERIC: return chat_unicode_is_numeric(code);
    case IS_DECIMAL: return chat_unicode_is_decimal(code);
    case IS_ALNUM: return chat_unicode_is_alpha(code) || chat_unicode_is_numeric(code);
    case IS_SPACE: return chat_unicode_is_space(code);
    case IS_PRINTABLE: return chat_unicode_is_printable(code);
    default: return code < 0x80;
    }
}

static enum err text_is(const struct call *call) {
    const char *at = call->self->text, *end = at + call->self->count;
    bool is_all = call->self->count > 0 || call->variant >= IS_PRINTABLE;
    while (is_all && at < end) is_all = is_class(call->variant, chat_unicode_read(&at, end));
    *call->out = chat_value_bool(is_all);
    return chat_run_spend(call->run, call->self->count / 64);
}

enum { IS_LOWER, IS_UPPER, IS_TITLE };

static enum err text_is_case(const struct call *call) {
    const char *at = call->self->text, *end = at + call->self->count;
    bool is_right = true, has_cased = false, follows_cased = false;
    while (is_right && at < end) {
        uint32_t code = chat_unicode_read(&at, end);
        bool upper = chat_unicode_is_upper(code) || chat_unicode_is_title(code);
        bool lower = chat_unicode_is_lower(code);
        if (call->variant == IS_LOWER) is_right = !upper;
        if (call->variant == IS_UPPER) is_right = !lower && !chat_unicode_is_title(code);
        if (call->variant == IS_TITLE)
            is_right = !(upper && follows_cased) && !(lower && !follows_cased);
        follows_cased = upper || lower;
        has_cased = has_cased || follows_cased;
    }
    *call->out = chat_value_bool(is_right && has_cased);
    return chat_run_spend(call->run, call->self->count / 64);
}

static enum err text_is_identifier(const struct call *call) {
    const char *at = call->self->text, *end = at + call->self->count;
    bool is_name = call->self->count > 0;
    while (is_name && at < end) {
        bool is_first = at == call->self->text;
        uint32_t code = chat_unicode_read(&at, end);
        is_name = code == '_' || chat_unicode_is_alpha(code) ||
                  (!is_first && chat_unicode_is_decimal(code));
    }
    *call->out = chat_value_bool(is_name);
    return ERR_OK;
}

enum { PAD_CENTER, PAD_RIGHT, PAD_LEFT };

static enum err text_pad(const struct call *call) {
    struct chat_value space = CHAT_LITERAL(" ");
    const struct chat_value *fill = call->p[1].kind == CHAT_MISSING ? &space : &call->p[1];
    int64_t width;
    enum err e = chat_eval_need_int(call->run, call->p, 0, &width);
    if (!e) e = chat_eval_need_text(call->run, fill);
    if (e) return e;
    if (chat_text_length(fill) != 1)
        return chat_run_fail(call->run, ERR_FORMAT,
                             "the fill character must be exactly one character long");
    if (call->variant == PAD_CENTER)
        return chat_pieces_center(call->run, call->self, width, fill, call->out);
    int64_t missing = width - chat_text_length(call->self);
    return chat_pieces_pad(call->run, call->self, call->variant == PAD_LEFT ? missing : 0,
                           call->variant == PAD_RIGHT ? missing : 0, fill, call->out);
}

static enum err text_zfill(const struct call *call) {
    int64_t width;
    struct chat_value zero = CHAT_LITERAL("0"), digits;
    enum err e = chat_eval_need_int(call->run, call->p, 0, &width);
    if (e) return e;
    int64_t missing = width - chat_text_length(call->self);
    const struct chat_value *self = call->self;
    bool has_sign = self->count && (self->text[0] == '-' || self->text[0] == '+');
    if (!has_sign || missing <= 0)
        return chat_pieces_pad(call->run, self, missing, 0, &zero, call->out);
    struct chat_value sign;
    e = chat_text_slice(call->run, self, 0, 1, &sign);
    if (!e) e = chat_text_slice(call->run, self, 1, self->count, &digits);
    if (!e) e = chat_pieces_pad(call->run, &digits, missing, 0, &zero, &digits);
    return e ? e : chat_text_concat(call->run, &sign, &digits, call->out);
}

static enum err text_expand_tabs(const struct call *call) {
    int64_t width, column = 0;
    struct chat_run *run = call->run;
    enum err e = chat_eval_need_int(call->run, call->p, 8, &width);
    if (e) return e;
    struct chat_capture capture = chat_run_capture(run);
    const char *at = call->self->text, *end = at + call->self->count;
    while (!e && at < end) {
        uint32_t from = (uint32_t) (at - call->self->text);
        uint32_t code = chat_unicode_read(&at, end);
        if (code != '\t') {
            e = chat_run_out_slice(run, call->self, from, (uint32_t) (at - call->self->text));
            column = code == '\n' || code == '\r' ? 0 : column + 1;
            continue;
        }
        int64_t spaces = width > 0 ? width - column % width : 0;
        e = chat_run_spend(run, (uint64_t) spaces);
        for (int64_t i = 0; !e && i < spaces; i++) e = chat_run_out(run, " ", 1, false);
        column += spaces;
    }
    return e ? e : chat_run_capture_end(run, capture, call->out);
}

static enum err text_partition(const struct call *call) {
    struct chat_run *run = call->run;
    const struct chat_value *self = call->self;
    enum err e = chat_eval_need_text(call->run, call->p);
    if (!e && call->p->count == 0) return chat_run_fail(run, ERR_FORMAT, "empty separator");
    struct chat_value *items = e ? NULL : chat_run_take(run, 3, sizeof *items);
    if (!items) return run->failed;
    uint32_t at = call->variant ? chat_text_find_last(self, call->p, 0, self->count)
                                : chat_text_find(self, call->p, 0, self->count);
    items[0] = items[1] = items[2] = CHAT_LITERAL("");
    *call->out = chat_value_items(CHAT_TUPLE, items, 3);
    if (at == UINT32_MAX) {
        items[call->variant ? 2 : 0] = *self;
        return ERR_OK;
    }
    e = chat_text_slice(run, self, 0, at, &items[0]);
    items[1] = *call->p;
    return e ? e : chat_text_slice(run, self, at + call->p->count, self->count, &items[2]);
}

static enum err text_remove(const struct call *call) {
    const struct chat_value *self = call->self;
    enum err e = chat_eval_need_text(call->run, call->p);
    if (e) return e;
    uint32_t bytes = call->p->count, from = call->variant ? self->count - bytes : 0;
    bool found =
        bytes && bytes <= self->count && memcmp(self->text + from, call->p->text, bytes) == 0;
    if (!found) bytes = 0;
    return call->variant ? chat_text_slice(call->run, self, 0, self->count - bytes, call->out)
                         : chat_text_slice(call->run, self, bytes, self->count, call->out);
}

static enum err text_format(const struct call *call) {
    return chat_format_braces(call->run, call->self, call->args, call->out);
}

static enum err text_format_map(const struct call *call) {
    struct chat_args args;
    struct chat_node constant = {.kind = CHAT_EXPR_CONST, .value = *call->p};
    struct chat_node star = {.kind = CHAT_ARG_STAR_STAR, .a = &constant};
    /* What is no mapping has no fields, and a text without fields needs none. */
    bool is_dict = call->p->kind == CHAT_DICT;
    enum err e = chat_eval_args(call->run, NULL, is_dict ? &star : NULL, NULL, &args);
    return e ? e : chat_format_braces(call->run, call->self, &args, call->out);
}

static enum err text_unsupported(const struct call *call) {
    return chat_run_fail(call->run, ERR_UNSUPPORTED, "this string method is not supported");
}

static enum err row_index(const struct call *call) {
    int64_t count = 0;
    struct chat_run *run = call->run;
    for (uint32_t i = 0; i < call->self->count; i++) {
        bool is_equal;
        enum err e = chat_value_equal(run, &call->self->items[i], call->p, &is_equal);
        if (e) return e;
        if (is_equal && call->variant) {
            *call->out = chat_value_int(i);
            return ERR_OK;
        }
        count += is_equal;
    }
    if (call->variant) return chat_run_fail(run, ERR_FORMAT, "the value is not in the list");
    *call->out = chat_value_int(count);
    return ERR_OK;
}

static enum err same(const struct call *call) { /* copy(): nothing can change the original */
    *call->out = *call->self;
    return ERR_OK;
}

static enum err refuse(const struct call *call) {
    return chat_run_fail(call->run, ERR_FORMAT, "the sandbox refuses to change an object");
}

static enum err dict_get(const struct call *call) {
    const struct chat_value *found;
    enum err e = chat_value_dict_get(call->run, call->self->dict, call->p, &found);
    if (e) return e;
    *call->out = found ? *found : call->p[1].kind == CHAT_MISSING ? chat_value_none() : call->p[1];
    return ERR_OK;
}

static enum err dict_view(const struct call *call) {
    *call->out =
        (struct chat_value){.kind = CHAT_VIEW, .sub = call->variant, .dict = call->self->dict};
    return ERR_OK;
}

static enum err loop_cycle(const struct call *call) {
    if (call->args->count == 0)
        return chat_run_fail(call->run, ERR_FORMAT, "no items for cycling given");
    *call->out = call->args->values[call->self->loop->index0 % call->args->count];
    return ERR_OK;
}

static enum err loop_changed(const struct call *call) {
    struct chat_loop *loop = call->self->loop;
    struct chat_run *run = call->run;
    uint32_t count = call->args->count;
    struct chat_value now = chat_value_items(CHAT_TUPLE, call->args->values, count);
    bool is_equal = false;
    enum err e = chat_value_equal(run, &loop->changed, &now, &is_equal);
    if (e) return e;
    *call->out = chat_value_bool(!is_equal);
    if (is_equal) return ERR_OK;
    struct chat_value *items = chat_run_take(run, count, sizeof *items);
    if (!items) return run->failed;
    if (count) memcpy(items, call->args->values, count * sizeof *items);
    loop->changed = chat_value_items(CHAT_TUPLE, items, count);
    return ERR_OK;
}

static enum err cycler_next(const struct call *call) {
    struct chat_cycler *cycler = call->self->cycler;
    *call->out = cycler->items[cycler->position];
    cycler->position = (cycler->position + 1) % cycler->count;
    return ERR_OK;
}

static enum err cycler_reset(const struct call *call) {
    call->self->cycler->position = 0;
    *call->out = chat_value_none();
    return ERR_OK;
}

/* clang-format off */
static const struct method methods[] = {
    {NULL, 0, 0, 0, false, NULL, {NULL}},
    {"upper", CHAT_TEXT, CHAT_RECASE_UPPER, 0, false, text_recase, {NULL}},
    {"lower", CHAT_TEXT, CHAT_RECASE_LOWER, 0, false, text_recase, {NULL}},
    {"casefold", CHAT_TEXT, CHAT_RECASE_LOWER, 0, false, text_recase, {NULL}},
    {"capitalize", CHAT_TEXT, CHAT_RECASE_CAPITALIZE, 0, false, text_recase, {NULL}},
    {"title", CHAT_TEXT, CHAT_RECASE_TITLE, 0, false, text_recase, {NULL}},
    {"swapcase", CHAT_TEXT, CHAT_RECASE_SWAP, 0, false, text_recase, {NULL}},
    {"strip", CHAT_TEXT, CHAT_STRIP_BOTH, 0, false, text_strip, {"chars"}},
    {"lstrip", CHAT_TEXT, CHAT_STRIP_LEFT, 0, false, text_strip, {"chars"}},
    {"rstrip", CHAT_TEXT, CHAT_STRIP_RIGHT, 0, false, text_strip, {"chars"}},
    {"split", CHAT_TEXT, 0, 0, false, text_split, {"sep", "maxsplit"}},
    {"rsplit", CHAT_TEXT, 1, 0, false, text_split, {"sep", "maxsplit"}},
    {"splitlines", CHAT_TEXT, 0, 0, false, text_split_lines, {"keepends"}},
    {"join", CHAT_TEXT, 0, 1, false, text_join, {"iterable"}},
    {"replace", CHAT_TEXT, 0, 2, false, text_replace, {"old", "new", "count"}},
    {"startswith", CHAT_TEXT, 0, 1, false, text_affix, {"prefix", "start", "end"}},
    {"endswith", CHAT_TEXT, 1, 1, false, text_affix, {"suffix", "start", "end"}},
    {"find", CHAT_TEXT, FIND, 1, false, text_find, {"sub", "start", "end"}},
    {"rfind", CHAT_TEXT, FIND_LAST, 1, false, text_find, {"sub", "start", "end"}},
    {"index", CHAT_TEXT, INDEX, 1, false, text_find, {"sub", "start", "end"}},
    {"rindex", CHAT_TEXT, INDEX_LAST, 1, false, text_find, {"sub", "start", "end"}},
    {"count", CHAT_TEXT, 0, 1, false, text_count, {"sub", "start", "end"}},
    {"isalpha", CHAT_TEXT, IS_ALPHA, 0, false, text_is, {NULL}},
    {"isdigit", CHAT_TEXT, IS_DIGIT, 0, false, text_is, {NULL}},
    {"isnumeric", CHAT_TEXT, IS_NUMERIC, 0, false, text_is, {NULL}},
    {"isdecimal", CHAT_TEXT, IS_DECIMAL, 0, false, text_is, {NULL}},
    {"isalnum", CHAT_TEXT, IS_ALNUM, 0, false, text_is, {NULL}},
    {"isspace", CHAT_TEXT, IS_SPACE, 0, false, text_is, {NULL}},
    {"isprintable", CHAT_TEXT, IS_PRINTABLE, 0, false, text_is, {NULL}},
    {"isascii", CHAT_TEXT, IS_ASCII, 0, false, text_is, {NULL}},
    {"islower", CHAT_TEXT, IS_LOWER, 0, false, text_is_case, {NULL}},
    {"isupper", CHAT_TEXT, IS_UPPER, 0, false, text_is_case, {NULL}},
    {"istitle", CHAT_TEXT, IS_TITLE, 0, false, text_is_case, {NULL}},
    {"isidentifier", CHAT_TEXT, 0, 0, false, text_is_identifier, {NULL}},
    {"center", CHAT_TEXT, PAD_CENTER, 1, false, text_pad, {"width", "fillchar"}},
    {"ljust", CHAT_TEXT, PAD_RIGHT, 1, false, text_pad, {"width", "fillchar"}},
    {"rjust", CHAT_TEXT, PAD_LEFT, 1, false, text_pad, {"width", "fillchar"}},
    {"zfill", CHAT_TEXT, 0, 1, false, text_zfill, {"width"}},
    {"expandtabs", CHAT_TEXT, 0, 0, false, text_expand_tabs, {"tabsize"}},
    {"partition", CHAT_TEXT, 0, 1, false, text_partition, {"sep"}},
    {"rpartition", CHAT_TEXT, 1, 1, false, text_partition, {"sep"}},
    {"removeprefix", CHAT_TEXT, 0, 1, false, text_remove, {"prefix"}},
    {"removesuffix", CHAT_TEXT, 1, 1, false, text_remove, {"suffix"}},
    {"format", CHAT_TEXT, 0, 0, true, text_format, {NULL}},
    {"format_map", CHAT_TEXT, 0, 1, false, text_format_map, {"mapping"}},
    {"encode", CHAT_TEXT, 0, 0, true, text_unsupported, {NULL}},
    {"translate", CHAT_TEXT, 0, 0, true, text_unsupported, {NULL}},
    {"maketrans", CHAT_TEXT, 0, 0, true, text_unsupported, {NULL}},
    {"index", CHAT_LIST, 1, 1, false, row_index, {"value"}},
    {"count", CHAT_LIST, 0, 1, false, row_index, {"value"}},
    {"copy", CHAT_LIST, 0, 0, false, same, {NULL}},
    {"append", CHAT_LIST, 0, 0, true, refuse, {NULL}},
    {"clear", CHAT_LIST, 0, 0, true, refuse, {NULL}},
    {"extend", CHAT_LIST, 0, 0, true, refuse, {NULL}},
    {"insert", CHAT_LIST, 0, 0, true, refuse, {NULL}},
    {"pop", CHAT_LIST, 0, 0, true, refuse, {NULL}},
    {"remove", CHAT_LIST, 0, 0, true, refuse, {NULL}},
    {"reverse", CHAT_LIST, 0, 0, true, refuse, {NULL}},
    {"sort", CHAT_LIST, 0, 0, true, refuse, {NULL}},
    {"index", CHAT_TUPLE, 1, 1, false, row_index, {"value"}},
    {"count", CHAT_TUPLE, 0, 1, false, row_index, {"value"}},
    {"get", CHAT_DICT, 0, 1, false, dict_get, {"key", "default"}},
    {"items", CHAT_DICT, CHAT_VIEW_ITEMS, 0, false, dict_view, {NULL}},
    {"keys", CHAT_DICT, CHAT_VIEW_KEYS, 0, false, dict_view, {NULL}},
    {"values", CHAT_DICT, CHAT_VIEW_VALUES, 0, false, dict_view, {NULL}},
    {"copy", CHAT_DICT, 0, 0, false, same, {NULL}},
    {"fromkeys", CHAT_DICT, 0, 0, true, text_unsupported, {NULL}},
    {"clear", CHAT_DICT, 0, 0, true, refuse, {NULL}},
    {"pop", CHAT_DICT, 0, 0, true, refuse, {NULL}},
    {"popitem", CHAT_DICT, 0, 0, true, refuse, {NULL}},
    {"setdefault", CHAT_DICT, 0, 0, true, refuse, {NULL}},
    {"update", CHAT_DICT, 0, 0, true, refuse, {NULL}},
    {"cycle", CHAT_LOOP, 0, 0, true, loop_cycle, {NULL}},
    {"changed", CHAT_LOOP, 0, 0, true, loop_changed, {NULL}},
    {"next", CHAT_CYCLER, 0, 0, false, cycler_next, {NULL}},
    {"reset", CHAT_CYCLER, 0, 0, false, cycler_reset, {NULL}},
};
/* clang-format on */

_Static_assert(ARRAY_COUNT(methods) < 256, "the number of a method fits chat_value.sub");

uint16_t chat_method_find(const char *name, uint32_t bytes) {
    for (uint16_t i = 1; i < ARRAY_COUNT(methods); i++)
        if (strlen(methods[i].name) == bytes && memcmp(methods[i].name, name, bytes) == 0) return i;
    return 0;
}

/* The entry of the same name for this kind of object: names repeat further down the table. */
static uint16_t entry_of(uint16_t method, const struct chat_value *object) {
    if (methods[method].kind == object->kind) return method;
    for (uint16_t i = (uint16_t) (method + 1); i < ARRAY_COUNT(methods); i++)
        if (methods[i].kind == object->kind && strcmp(methods[i].name, methods[method].name) == 0)
            return i;
    return 0;
}

bool chat_method_has(uint16_t method, const struct chat_value *object) {
    return entry_of(method, object) != 0;
}

bool chat_method_is_unsafe(uint16_t method, const struct chat_value *object) {
    return methods[entry_of(method, object)].call == refuse;
}

enum err chat_method_call(struct chat_run *run, uint16_t method, const struct chat_value *object,
                          struct chat_args *args, struct chat_value *out) {
    const struct method *entry = &methods[entry_of(method, object)];
    struct chat_value parameters[PARAMETERS_MAX];
    struct call call = {run, object, parameters, args, entry->variant, out};
    enum err e = ERR_OK;
    if (!entry->is_free)
        e = chat_eval_bind(run, entry->name, entry->parameters, entry->required, args, parameters);
    return e ? e : entry->call(&call);
}
