/* chat_filter_text - filters that make texts and numbers; see chat_filter.h. */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "chat/chat_filter.h"
#include "chat/chat_format.h"
#include "chat/chat_json.h"
#include "chat/chat_number.h"
#include "chat/chat_pieces.h"
#include "chat/chat_text.h"

static const struct chat_value *given(const struct chat_value *value,
                                      const struct chat_value *otherwise) {
    return value->kind == CHAT_MISSING ? otherwise : value;
}

static bool is_true(const struct chat_value *value) {
    return value->kind != CHAT_MISSING && chat_value_is_true(value);
}

static enum err recase(const struct chat_filter_call *call) {
    struct chat_value text;
    enum err e = chat_text_out_copy(call->run, call->in, &text);
    return e ? e : chat_text_recase(call->run, &text, (enum chat_recase) call->variant, call->out);
}

static enum err trim(const struct chat_filter_call *call) {
    struct chat_value text;
    bool has_chars = call->p->kind != CHAT_MISSING && call->p->kind != CHAT_NONE;
    enum err e = chat_text_out_copy(call->run, call->in, &text);
    if (!e && has_chars) e = chat_eval_need_text(call->run, call->p);
    return e ? e
             : chat_text_strip(call->run, &text, CHAT_STRIP_BOTH, has_chars ? call->p : NULL,
                               call->out);
}

static enum err string(const struct chat_filter_call *call) {
    return chat_text_out_copy(call->run, call->in, call->out);
}

static enum err safe(const struct chat_filter_call *call) {
    enum err e = chat_text_out_copy(call->run, call->in, call->out);
    call->out->is_markup = true;
    return e;
}

static enum err escape(const struct chat_filter_call *call) {
    struct chat_value text;
    enum err e = chat_text_out_copy(call->run, call->in, &text);
    if (call->variant) text.is_markup = false; /* forceescape */
    return e ? e : chat_text_escape(call->run, &text, call->out);
}

static enum err replace(const struct chat_filter_call *call) {
    struct chat_value text, old, new;
    struct chat_value count_value = call->p[2];
    int64_t count;
    if (count_value.kind == CHAT_NONE) count_value.kind = CHAT_MISSING;
    enum err e = chat_eval_need_int(call->run, &count_value, -1, &count);
    if (!e) e = chat_text_out_copy(call->run, call->in, &text);
    if (!e) e = chat_text_out_copy(call->run, call->p, &old);
    if (!e) e = chat_text_out_copy(call->run, call->p + 1, &new);
    text.is_markup = false;
    return e ? e : chat_text_replace(call->run, &text, &old, &new, count, call->out);
}

static enum err center(const struct chat_filter_call *call) {
    struct chat_value text, space = CHAT_LITERAL(" ");
    int64_t width;
    enum err e = chat_eval_need_int(call->run, call->p, 80, &width);
    if (!e) e = chat_text_out_copy(call->run, call->in, &text);
    return e ? e : chat_pieces_center(call->run, &text, width, &space, call->out);
}

/* The lines of in + "\n", all but the first indented (and blank ones only when asked). */
static enum err indent(const struct chat_filter_call *call) {
    struct chat_run *run = call->run;
    struct chat_value four = chat_value_int(4), newline = CHAT_LITERAL("\n"), text, lines;
    struct chat_value space = CHAT_LITERAL(" "), none = CHAT_LITERAL(""), margin = none;
    const struct chat_value *width = given(call->p, &four);
    int64_t columns = 0;
    enum err e = chat_eval_need_text(run, call->in);
    if (!e && width->kind != CHAT_TEXT) e = chat_eval_need_int(run, width, 4, &columns);
    if (!e && width->kind == CHAT_TEXT) margin = *width;
    else if (!e) e = chat_pieces_pad(run, &none, columns, 0, &space, &margin);
    if (!e) e = chat_text_concat(run, call->in, &newline, &text);
    if (!e) e = chat_pieces_split_lines(run, &text, false, &lines);
    if (e) return e;
    bool first = is_true(call->p + 1), blank = is_true(call->p + 2);
    struct chat_capture capture = chat_run_capture(run);
    for (uint32_t i = 0; !e && i < lines.count; i++) {
        bool is_indented = i == 0 ? first : blank || lines.items[i].count;
        if (i) e = chat_run_out(run, "\n", 1, false);
        if (!e && is_indented) e = chat_run_out_text(run, &margin);
        if (!e) e = chat_run_out_text(run, &lines.items[i]);
    }
    if (!e) e = chat_run_capture_end(run, capture, call->out);
    call->out->is_markup = call->in->is_markup;
    return e;
}

static enum err truncate(const struct chat_filter_call *call) {
    struct chat_run *run = call->run;
    struct chat_value dots = CHAT_LITERAL("..."), space = CHAT_LITERAL(" "), head,
                      leeway = call->p[3];
    const struct chat_value *end = given(call->p + 2, &dots);
    int64_t length, slack, end_length = 0, in_length = 0;
    if (leeway.kind == CHAT_NONE) leeway.kind = CHAT_MISSING;
    enum err e = chat_eval_need_int(run, call->p, 255, &length);
    if (!e) e = chat_eval_need_int(run, &leeway, 5, &slack);
    if (!e) e = chat_value_length(run, end, &end_length);
    if (!e) e = chat_value_length(run, call->in, &in_length);
    if (e) return e;
    if (length < end_length || slack < 0)
        return chat_run_fail(run, ERR_FORMAT, "truncate: the length is too small");
    *call->out = *call->in;
    if (in_length <= length + slack) return ERR_OK;
    e = chat_eval_need_text(run, call->in);
    if (!e) e = chat_eval_need_text(run, end);
    if (e) return e;
    uint32_t kept = chat_text_offset(call->in, length - end_length);
    e = chat_text_slice(run, call->in, 0, kept, &head);
    if (!e && !is_true(call->p + 1)) {
        uint32_t at = chat_text_find_last(&head, &space, 0, head.count);
        if (at != UINT32_MAX) e = chat_text_slice(run, &head, 0, at, &head);
    }
    return e ? e : chat_text_concat(run, &head, end, call->out);
}

static enum err format(const struct chat_filter_call *call) {
    struct chat_run *run = call->run;
    struct chat_value text, values;
    enum err e = chat_text_out_copy(run, call->in, &text);
    if (e) return e;
    if (call->args->count && call->args->named_count)
        return chat_run_fail(run, ERR_FORMAT,
                             "format takes arguments by position or by name, not both");
    struct chat_dict *dict = chat_run_take(run, 1, sizeof *dict);
    if (!dict) return run->failed;
    *dict = (struct chat_dict){0};
    for (uint32_t i = 0; !e && i < call->args->named_count; i++)
        e = chat_value_dict_set(run, dict, &call->args->named[i].name, &call->args->named[i].value);
    values = chat_value_items(CHAT_TUPLE, call->args->values, call->args->count);
    if (call->args->named_count) values = (struct chat_value){.kind = CHAT_DICT, .dict = dict};
    return e ? e : chat_format_percent(run, &text, &values, call->out);
}

static enum err to_int(const struct chat_filter_call *call) {
    struct chat_run *run = call->run;
    const struct chat_value *in = call->in;
    struct chat_value zero = chat_value_int(0);
    int64_t base, integer;
    bool overflow = false;
    double real = 0;
    /* A bad base is one more reason to try it as a float. */
    if (call->p[1].kind == CHAT_MISSING) base = 10;
    else if (!chat_eval_index(call->p + 1, &base) || base < 0 || base > 36) base = 1;
    *call->out = *given(call->p, &zero);
    if (in->kind == CHAT_UNDEFINED) return chat_value_refuse_undefined(run, in);
    if (chat_value_is_integer(in)) {
        *call->out = chat_value_int(in->integer);
        return ERR_OK;
    }
    if (in->kind == CHAT_TEXT) {
        if (chat_number_parse_int(in->text, in->count, (int) base, &integer, &overflow)) {
            *call->out = chat_value_int(integer);
            return ERR_OK;
        }
        if (!overflow && (!chat_number_parse_real(in->text, in->count, &real) || !isfinite(real)))
            return ERR_OK;
    } else if (in->kind == CHAT_REAL) {
        real = in->real;
        if (isnan(real)) return ERR_OK;
        if (isinf(real))
            return chat_run_fail(run, ERR_FORMAT, "cannot convert infinity to an integer");
    } else {
        return ERR_OK;
    }
    if (overflow || fabs(real) >= 9.2e18)
        return chat_run_fail(run, ERR_UNSUPPORTED, "the integer does not fit 64 bits");
    *call->out = chat_value_int((int64_t) real);
    return ERR_OK;
}

static enum err to_float(const struct chat_filter_call *call) {
    struct chat_value zero = chat_value_real(0.0);
    double real;
    *call->out = *given(call->p, &zero);
    if (call->in->kind == CHAT_UNDEFINED) return chat_value_refuse_undefined(call->run, call->in);
    if (chat_value_is_number(call->in)) *call->out = chat_value_real(chat_value_as_real(call->in));
    if (call->in->kind == CHAT_TEXT &&
        chat_number_parse_real(call->in->text, call->in->count, &real))
        *call->out = chat_value_real(real);
    return ERR_OK;
}

static enum err need_number(struct chat_run *run, const struct chat_value *value) {
    if (chat_value_is_number(value)) return ERR_OK;
    if (value->kind == CHAT_UNDEFINED) return chat_value_refuse_undefined(run, value);
    return chat_run_fail(run, ERR_FORMAT, "expected a number, not '%s'",
                         chat_value_kind_name(value));
}

static enum err absolute(const struct chat_filter_call *call) {
    enum err e = need_number(call->run, call->in);
    if (e) return e;
    struct chat_value zero = chat_value_int(0);
    if (call->in->kind == CHAT_REAL) *call->out = chat_value_real(fabs(call->in->real));
    else if (call->in->integer >= 0) *call->out = chat_value_int(call->in->integer);
    else return chat_number_apply(call->run, CHAT_SUB, &zero, call->in, call->out);
    return ERR_OK;
}

/* Rounding an int to tens, hundreds ...: half to even. */
static enum err round_int(struct chat_run *run, int64_t value, int64_t digits,
                          struct chat_value *out) {
    int64_t scale = 1;
    for (int64_t i = digits; i < 0 && scale; i++)
        if (__builtin_mul_overflow(scale, 10, &scale)) scale = 0;
    *out = chat_value_int(scale ? value : 0);
    if (scale <= 1) return ERR_OK;
    int64_t rest = value % scale;
    if (rest < 0) rest += scale;
    int64_t low = value - rest;
    bool rises = rest > scale - rest || (rest == scale - rest && (low / scale) % 2 != 0);
    if (rises && __builtin_add_overflow(low, scale, &low))
        return chat_run_fail(run, ERR_UNSUPPORTED, "the integer does not fit 64 bits");
    *out = chat_value_int(low);
    return ERR_OK;
}

static enum err to_round(const struct chat_filter_call *call) {
    struct chat_value common = CHAT_LITERAL("common");
    const struct chat_value *method = given(call->p + 1, &common);
    int64_t digits;
    enum err e = need_number(call->run, call->in);
    if (!e) e = chat_eval_need_int(call->run, call->p, 0, &digits);
    if (e) return e;
    bool is_ceil = chat_text_is(method, "ceil");
    if (chat_text_is(method, "common")) {
        if (chat_value_is_integer(call->in))
            return round_int(call->run, call->in->integer, digits, call->out);
        *call->out = chat_value_real(chat_number_round(call->in->real, digits));
        return ERR_OK;
    }
    if (!is_ceil && !chat_text_is(method, "floor"))
        return chat_run_fail(call->run, ERR_FORMAT, "method must be common, ceil or floor");
    struct chat_value ten = chat_value_int(10), scale, power = chat_value_int(digits), scaled;
    e = chat_number_apply(call->run, CHAT_POW, &ten, &power, &scale);
    if (!e) e = chat_number_apply(call->run, CHAT_MUL, call->in, &scale, &scaled);
    if (e) return e;
    if (scaled.kind == CHAT_REAL) {
        double whole = is_ceil ? ceil(scaled.real) : floor(scaled.real);
        if (!isfinite(whole) || fabs(whole) >= 9.2e18)
            return chat_run_fail(call->run, ERR_UNSUPPORTED, "the number is too large to round");
        scaled = chat_value_int((int64_t) whole);
    }
    return chat_number_apply(call->run, CHAT_DIV, &scaled, &scale, call->out);
}

static enum err file_size(const struct chat_filter_call *call) {
    static const char *const decimal[] = {"kB", "MB", "GB", "TB", "PB", "EB", "ZB", "YB"};
    static const char *const binary[] = {"KiB", "MiB", "GiB", "TiB", "PiB", "EiB", "ZiB", "YiB"};
    bool is_binary = is_true(call->p);
    double bytes, base = is_binary ? 1024 : 1000, unit = base;
    char text[96], number[64];
    if (call->in->kind == CHAT_TEXT) {
        if (!chat_number_parse_real(call->in->text, call->in->count, &bytes))
            return chat_run_fail(call->run, ERR_FORMAT, "could not convert string to float");
    } else {
        enum err e = need_number(call->run, call->in);
        if (e) return e;
        bytes = chat_value_as_real(call->in);
    }
    struct chat_capture capture = chat_run_capture(call->run);
    if (bytes == 1) {
        snprintf(text, sizeof text, "1 Byte");
    } else if (bytes < base) {
        snprintf(text, sizeof text, "%lld Bytes", (long long) bytes);
    } else {
        int at = 0;
        for (unit = base * base; bytes >= unit && at < 7; at++) unit *= base;
        chat_number_format(number, sizeof number, 'f', false, 1, base * bytes / unit);
        snprintf(text, sizeof text, "%s %s", number, is_binary ? binary[at] : decimal[at]);
    }
    enum err e = chat_run_out_string(call->run, text);
    return e ? e : chat_run_capture_end(call->run, capture, call->out);
}

static enum err word_count(const struct chat_filter_call *call) {
    struct chat_value text;
    enum err e = chat_text_out_copy(call->run, call->in, &text);
    if (e) return e;
    const char *at = text.text, *end = at + text.count;
    int64_t count = 0;
    bool is_inside = false;
    while (at < end) {
        bool is_word = chat_unicode_is_word(chat_unicode_read(&at, end));
        count += is_word && !is_inside;
        is_inside = is_word;
    }
    *call->out = chat_value_int(count);
    return chat_run_spend(call->run, text.count / 64);
}

static enum err url_quote(struct chat_run *run, const struct chat_value *value, bool is_query) {
    struct chat_value text;
    enum err e = chat_text_out_copy(run, value, &text);
    for (uint32_t i = 0; !e && i < text.count; i++) {
        unsigned char c = (unsigned char) text.text[i];
        bool is_plain = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') ||
                        (c >= '0' && c <= '9') || (c && strchr("_.-~", c)) ||
                        (c == '/' && !is_query);
        char coded[4] = {(char) c, '\0'};
        if (c == ' ' && is_query) coded[0] = '+';
        else if (!is_plain) snprintf(coded, sizeof coded, "%%%02X", c);
        struct chat_value letter = {0};
        e = chat_text_slice(run, &text, i, i + 1, &letter);
        if (!e) e = chat_run_out(run, coded, strlen(coded), letter.marks != NULL);
    }
    return e;
}

static enum err url_encode(const struct chat_filter_call *call) {
    struct chat_run *run = call->run;
    struct chat_capture capture = chat_run_capture(run);
    enum err e = ERR_OK;
    if (call->in->kind == CHAT_DICT) {
        for (uint32_t i = 0; !e && i < call->in->dict->count; i++) {
            const struct chat_entry *entry = &call->in->dict->entries[i];
            if (i) e = chat_run_out(run, "&", 1, false);
            if (!e) e = url_quote(run, &entry->key, true);
            if (!e) e = chat_run_out(run, "=", 1, false);
            if (!e) e = url_quote(run, &entry->value, true);
        }
    } else if (call->in->kind == CHAT_TEXT || chat_value_is_number(call->in) ||
               call->in->kind == CHAT_NONE) {
        e = url_quote(run, call->in, false);
    } else {
        e = chat_run_fail(run, ERR_UNSUPPORTED, "urlencode of '%s' is not supported",
                          chat_value_kind_name(call->in));
    }
    return e ? e : chat_run_capture_end(run, capture, call->out);
}

static enum err to_json(const struct chat_filter_call *call) {
    struct chat_json_style style;
    enum err e = chat_json_style(call->run, call->p, &style);
    return e ? e : chat_json_print(call->run, call->in, &style, call->out);
}

static enum err from_json(const struct chat_filter_call *call) {
    enum err e = chat_eval_need_text(call->run, call->in);
    return e ? e : chat_json_parse(call->run, call->in, call->out);
}

static enum err unsupported(const struct chat_filter_call *call) {
    return chat_run_fail(call->run, ERR_UNSUPPORTED, "this filter is not supported");
}

/* clang-format off */
const struct chat_filter_entry chat_filter_text_table[] = {
    {"tojson", 0, 0, false, to_json, {"ensure_ascii", "indent", "separators", "sort_keys"}},
    {"trim", 0, 0, false, trim, {"chars"}},
    {"string", 0, 0, false, string, {NULL}},
    {"upper", CHAT_RECASE_UPPER, 0, false, recase, {NULL}},
    {"lower", CHAT_RECASE_LOWER, 0, false, recase, {NULL}},
    {"capitalize", CHAT_RECASE_CAPITALIZE, 0, false, recase, {NULL}},
    {"title", CHAT_RECASE_WORDS, 0, false, recase, {NULL}},
    {"safe", 0, 0, false, safe, {NULL}},
    {"e", 0, 0, false, escape, {NULL}},
    {"escape", 0, 0, false, escape, {NULL}},
    {"forceescape", 1, 0, false, escape, {NULL}},
    {"replace", 0, 2, false, replace, {"old", "new", "count"}},
    {"center", 0, 0, false, center, {"width"}},
    {"indent", 0, 0, false, indent, {"width", "first", "blank"}},
    {"truncate", 0, 0, false, truncate, {"length", "killwords", "end", "leeway"}},
    {"format", 0, 0, true, format, {NULL}},
    {"int", 0, 0, false, to_int, {"default", "base"}},
    {"float", 0, 0, false, to_float, {"default"}},
    {"abs", 0, 0, false, absolute, {NULL}},
    {"round", 0, 0, false, to_round, {"precision", "method"}},
    {"filesizeformat", 0, 0, false, file_size, {"binary"}},
    {"wordcount", 0, 0, false, word_count, {NULL}},
    {"urlencode", 0, 0, false, url_encode, {NULL}},
    {"from_json", 0, 0, false, from_json, {NULL}},
    {"pprint", 0, 0, true, unsupported, {NULL}},
    {"random", 0, 0, true, unsupported, {NULL}},
    {"striptags", 0, 0, true, unsupported, {NULL}},
    {"urlize", 0, 0, true, unsupported, {NULL}},
    {"wordwrap", 0, 0, true, unsupported, {NULL}},
    {"xmlattr", 0, 0, true, unsupported, {NULL}},
    {NULL, 0, 0, false, NULL, {NULL}},
};
/* clang-format on */
