/* chat_format - see chat_format.h. */
#include "chat/chat_format.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "chat/chat_number.h"
#include "chat/chat_text.h"

#define WIDTH_MAX (1 << 20)
#define PRECISION_MAX 500
#define NUMBER_BYTES 1024 /* 309 digits of the largest double, and the precision */

struct spec {
    char fill[4];
    uint32_t fill_bytes;
    char align; /* < > ^ =, 0: the type's own */
    char sign;  /* + space, 0 */
    char group; /* , _ 0 */
    char type;
    bool is_alternate;
    bool is_zero;
    int64_t width;
    int64_t precision; /* -1: none */
};

static enum err bad_spec(struct chat_run *run, const char *what, const struct chat_value *value) {
    if (value->kind == CHAT_UNDEFINED) return chat_value_refuse_undefined(run, value);
    return chat_run_fail(run, ERR_FORMAT, "format: %s '%s'", what, chat_value_kind_name(value));
}

/* prefix (sign, 0x) and body, padded to the width in code points. */
static enum err out_padded(struct chat_run *run, const struct spec *spec, const char *prefix,
                           const struct chat_value *body, char default_align) {
    char align = spec->align ? spec->align : default_align;
    int64_t missing = spec->width - (int64_t) strlen(prefix) - chat_text_length(body);
    int64_t left = missing <= 0                   ? 0
                   : align == '>' || align == '=' ? missing
                   : align == '^'                 ? missing / 2
                                                  : 0;
    int64_t right = missing <= 0 ? 0 : missing - left;
    enum err e = missing > 0 ? chat_run_spend(run, (uint64_t) missing) : ERR_OK;
    if (!e && align == '=') e = chat_run_out_string(run, prefix);
    for (int64_t i = 0; !e && i < left; i++)
        e = chat_run_out(run, spec->fill, spec->fill_bytes, false);
    if (!e && align != '=') e = chat_run_out_string(run, prefix);
    if (!e) e = chat_run_out_text(run, body);
    for (int64_t i = 0; !e && i < right; i++)
        e = chat_run_out(run, spec->fill, spec->fill_bytes, false);
    return e;
}

static const char *sign_of(const struct spec *spec, bool is_negative) {
    return is_negative ? "-" : spec->sign == '+' ? "+" : spec->sign == ' ' ? " " : "";
}

/* Puts a separator between groups of digits at the start of text. */
static void group_digits(char *text, size_t room, char separator, int each) {
    size_t digits = strspn(text, "0123456789abcdefABCDEF"), length = strlen(text);
    size_t marks = digits ? (digits - 1) / (size_t) each : 0;
    if (length + marks + 1 > room) return;
    memmove(text + digits + marks, text + digits, length - digits + 1);
    for (size_t i = digits, to = digits + marks, n = 0; i > 0 && marks; n++) {
        if (n && n % (size_t) each == 0) {
            text[--to] = separator;
            marks--;
        }
        text[--to] = text[--i];
    }
}

static enum err out_integer(struct chat_run *run, const struct spec *spec, int64_t integer,
                            bool is_percent) {
    char digits[NUMBER_BYTES], prefix[8];
    uint64_t size = integer < 0 ? 0 - (uint64_t) integer : (uint64_t) integer;
    const char *base = "";
    size_t at = sizeof digits - 1;
    digits[at] = '\0';
    unsigned radix = spec->type == 'x' || spec->type == 'X' ? 16 : spec->type == 'o' ? 8 : 10;
    if (spec->type == 'b') radix = 2;
    const char *letters = spec->type == 'X' ? "0123456789ABCDEF" : "0123456789abcdef";
    do digits[--at] = letters[size % radix];
    while (size /= radix);
    while (is_percent && (int64_t) (sizeof digits - 1 - at) < spec->precision) digits[--at] = '0';
    if (spec->is_alternate)
        base = spec->type == 'x'   ? "0x"
               : spec->type == 'X' ? "0X"
               : spec->type == 'o' ? "0o"
               : spec->type == 'b' ? "0b"
                                   : "";
    snprintf(prefix, sizeof prefix, "%s%s", sign_of(spec, integer < 0), base);
    char text[NUMBER_BYTES];
    snprintf(text, sizeof text, "%s", digits + at);
    if (spec->group) group_digits(text, sizeof text, spec->group, radix == 10 ? 3 : 4);
    struct chat_value body = chat_value_text(text, (uint32_t) strlen(text));
    return out_padded(run, spec, prefix, &body, '>');
}

static enum err out_real(struct chat_run *run, const struct spec *spec, double real) {
    char text[NUMBER_BYTES];
    bool is_negative = signbit(real) && !isnan(real), is_percent = spec->type == '%';
    int precision = spec->precision < 0 ? 6 : (int) spec->precision;
    double size = is_percent ? fabs(real) * 100 : fabs(real);
    bool is_upper = spec->type == 'E' || spec->type == 'F' || spec->type == 'G';
    if (!isfinite(real)) {
        snprintf(text, sizeof text, "%s%s",
                 isnan(real) ? (is_upper ? "NAN" : "nan") : (is_upper ? "INF" : "inf"),
                 is_percent ? "%" : "");
    } else if (spec->type == 0 && spec->precision < 0) {
        text[chat_number_print_real(size, text)] = '\0';
    } else if (spec->type == 0) {
        if (precision == 0) precision = 1;
        chat_number_format(text, sizeof text, 'g', spec->is_alternate, precision, size);
        if (!strpbrk(text, ".e") && size < pow(10, precision) && strlen(text) + 3 < sizeof text)
            memcpy(text + strlen(text), ".0", 3);
    } else {
        char type = is_percent ? 'f' : spec->type == 'n' ? 'g' : spec->type;
        if ((type == 'g' || type == 'G') && precision == 0) precision = 1;
        chat_number_format(text, sizeof text - 2, type, spec->is_alternate, precision, size);
        if (is_percent) memcpy(text + strlen(text), "%", 2);
    }
    if (spec->group) group_digits(text, sizeof text, spec->group, 3);
    struct chat_value body = chat_value_text(text, (uint32_t) strlen(text));
    return out_padded(run, spec, sign_of(spec, is_negative), &body, '>');
}

static enum err out_text(struct chat_run *run, const struct spec *spec,
                         const struct chat_value *text, char default_align) {
    struct chat_value body = *text;
    enum err e = ERR_OK;
    if (spec->precision >= 0)
        e = chat_text_slice(run, text, 0, chat_text_offset(text, spec->precision), &body);
    return e ? e : out_padded(run, spec, "", &body, default_align);
}

static enum err repr_of(struct chat_run *run, const struct chat_value *value,
                        struct chat_value *out) {
    struct chat_capture capture = chat_run_capture(run);
    enum err e = chat_text_out_repr(run, value);
    return e ? e : chat_run_capture_end(run, capture, out);
}

/* text % values */

struct percent {
    struct chat_run *run;
    const struct chat_value *text;
    const struct chat_value *values;
    uint32_t at;
    uint32_t next; /* of the values, when they are a tuple or one value */
    bool is_mapping;
};

static enum err next_value(struct percent *percent, struct chat_value *out) {
    bool is_tuple = percent->values->kind == CHAT_TUPLE;
    uint32_t count = is_tuple ? percent->values->count : 1;
    if (percent->next >= count)
        return chat_run_fail(percent->run, ERR_FORMAT, "not enough arguments for format string");
    *out = is_tuple ? percent->values->items[percent->next] : *percent->values;
    percent->next++;
    return ERR_OK;
}

static char peek(const struct percent *percent) {
    return percent->at < percent->text->count ? percent->text->text[percent->at] : '\0';
}

static enum err read_size(struct percent *percent, int64_t max, int64_t *out) {
    *out = 0;
    if (peek(percent) == '*') {
        struct chat_value value;
        percent->at++;
        enum err e = next_value(percent, &value);
        if (e) return e;
        if (!chat_eval_index(&value, out)) return bad_spec(percent->run, "* wants int", &value);
    }
    while (peek(percent) >= '0' && peek(percent) <= '9' && *out <= max)
        *out = *out * 10 + (percent->text->text[percent->at++] - '0');
    return *out > max || *out < -max
               ? chat_run_fail(percent->run, ERR_LIMIT, "format: a width is too large")
               : ERR_OK;
}

/* (key), when there is one: its value. */
static enum err read_key(struct percent *percent, struct chat_value *out) {
    struct chat_run *run = percent->run;
    out->kind = CHAT_MISSING;
    if (peek(percent) != '(') return ERR_OK;
    uint32_t from = ++percent->at, depth = 1;
    for (; percent->at < percent->text->count; percent->at++) {
        depth += peek(percent) == '(';
        depth -= peek(percent) == ')';
        if (depth == 0) break;
    }
    if (depth) return chat_run_fail(run, ERR_FORMAT, "incomplete format key");
    struct chat_value key;
    const struct chat_value *found;
    enum err e = chat_text_slice(run, percent->text, from, percent->at++, &key);
    if (e) return e;
    if (percent->values->kind != CHAT_DICT)
        return bad_spec(run, "a key wants a mapping, not", percent->values);
    e = chat_value_dict_get(run, percent->values->dict, &key, &found);
    if (!e && !found) e = chat_run_fail(run, ERR_FORMAT, "format: no such key");
    if (!e) *out = *found;
    percent->next = 1;
    return e;
}

static enum err out_letter(struct chat_run *run, const struct spec *spec,
                           const struct chat_value *value) {
    char bytes[4];
    struct chat_value letter = *value;
    if (chat_value_is_integer(value)) {
        if (value->integer < 0 || value->integer > 0x10ffff ||
            (value->integer >= 0xd800 && value->integer < 0xe000))
            return chat_run_fail(run, ERR_FORMAT, "%%c: no such character");
        letter = chat_value_text(bytes, chat_unicode_write((uint32_t) value->integer, bytes));
    } else if (value->kind != CHAT_TEXT || chat_text_length(value) != 1) {
        return bad_spec(run, "%c wants a character, not", value);
    }
    return out_padded(run, spec, "", &letter, '>');
}

static enum err out_percent(struct percent *percent, struct spec *spec,
                            const struct chat_value *value) {
    struct chat_run *run = percent->run;
    struct chat_value text;
    enum err e;
    if (spec->align != '<') spec->align = 0;
    switch (spec->type) {
    case 's':
    case 'r':
        e = spec->type == 's' ? chat_text_out_copy(run, value, &text) : repr_of(run, value, &text);
        if (!e && percent->text->is_markup) e = chat_text_escape(run, &text, &text);
        return e ? e : out_text(run, spec, &text, '>');
    case 'c': return out_letter(run, spec, value);
    default: break;
    }
    if (!strchr("diuxXoeEfFgG", spec->type) || !spec->type)
        return chat_run_fail(run, ERR_FORMAT, "unsupported format character");
    if (!chat_value_is_number(value)) return bad_spec(run, "a number is required, not", value);
    if (spec->is_zero && spec->align != '<') {
        spec->fill[0] = '0';
        spec->align = '=';
    }
    if (strchr("eEfFgG", spec->type)) return out_real(run, spec, chat_value_as_real(value));
    int64_t integer = value->integer;
    if (value->kind == CHAT_REAL) {
        if (strchr("xXo", spec->type)) return bad_spec(run, "an integer is required, not", value);
        if (!isfinite(value->real) || fabs(value->real) >= 9.2e18)
            return chat_run_fail(run, ERR_UNSUPPORTED, "the integer does not fit 64 bits");
        integer = (int64_t) value->real;
    }
    return out_integer(run, spec, integer, true);
}

static enum err convert(struct percent *percent) {
    struct chat_run *run = percent->run;
    struct spec spec = {.fill = " ", .fill_bytes = 1, .precision = -1};
    struct chat_value value;
    enum err e = read_key(percent, &value);
    if (e) return e;
    for (bool is_flag = true; is_flag;) {
        char c = peek(percent);
        is_flag = c && strchr("-+ #0", c);
        if (c == '-') spec.align = '<';
        if (c == '+' || (c == ' ' && !spec.sign)) spec.sign = c;
        if (c == '#') spec.is_alternate = true;
        if (c == '0') spec.is_zero = true;
        percent->at += is_flag;
    }
    e = read_size(percent, WIDTH_MAX, &spec.width);
    if (!e && spec.width < 0) {
        spec.align = '<';
        spec.width = -spec.width;
    }
    if (!e && peek(percent) == '.') {
        percent->at++;
        e = read_size(percent, PRECISION_MAX, &spec.precision);
        if (spec.precision < 0) spec.precision = 0;
    }
    if (e) return e;
    if (peek(percent) && strchr("hlL", peek(percent))) percent->at++;
    spec.type = peek(percent);
    if (percent->at++ >= percent->text->count)
        return chat_run_fail(run, ERR_FORMAT, "incomplete format");
    if (spec.type == '%') return chat_run_out(run, "%", 1, false);
    if (value.kind == CHAT_MISSING) e = next_value(percent, &value);
    return e ? e : out_percent(percent, &spec, &value);
}

enum err chat_format_percent(struct chat_run *run, const struct chat_value *text,
                             const struct chat_value *values, struct chat_value *out) {
    struct percent percent = {.run = run, .text = text, .values = values};
    percent.is_mapping = values->kind == CHAT_DICT || values->kind == CHAT_LIST ||
                         values->kind == CHAT_UNDEFINED || values->kind == CHAT_RANGE;
    struct chat_capture capture = chat_run_capture(run);
    enum err e = ERR_OK;
    while (!e && percent.at < text->count) {
        uint32_t from = percent.at;
        const char *next = memchr(text->text + from, '%', text->count - from);
        percent.at = next ? (uint32_t) (next - text->text) : text->count;
        e = chat_run_out_slice(run, text, from, percent.at);
        if (e || !next) break;
        percent.at++;
        e = chat_run_spend(run, 1);
        if (!e) e = convert(&percent);
    }
    uint32_t count = values->kind == CHAT_TUPLE ? values->count : 1;
    if (!e && percent.next < count && !percent.is_mapping)
        e = chat_run_fail(run, ERR_FORMAT, "not all arguments converted during formatting");
    if (e) return e;
    e = chat_run_capture_end(run, capture, out);
    out->is_markup = text->is_markup;
    return e;
}

/* text.format(...) */

struct braces {
    struct chat_run *run;
    const struct chat_args *args;
    int64_t automatic; /* next number of an empty field; -1: fields are numbered by hand */
};

static enum err format_text(struct braces *braces, const struct chat_value *text, int depth);

static bool read_number(const struct chat_value *text, uint32_t *at, int64_t *out) {
    uint32_t from = *at;
    *out = 0;
    while (*at < text->count && text->text[*at] >= '0' && text->text[*at] <= '9' &&
           *out < 1000000000)
        *out = *out * 10 + (text->text[(*at)++] - '0');
    return *at > from;
}

static enum err read_spec(struct chat_run *run, const struct chat_value *text, struct spec *spec) {
    uint32_t at = 0;
    *spec = (struct spec){.fill = " ", .fill_bytes = 1, .precision = -1};
    uint32_t width = text->count ? chat_unicode_width((unsigned char) text->text[0]) : 0;
    if (width && width < text->count && strchr("<>=^", text->text[width])) {
        memcpy(spec->fill, text->text, width);
        spec->fill_bytes = width;
        spec->align = text->text[width];
        at = width + 1;
    } else if (text->count && strchr("<>=^", text->text[0])) {
        spec->align = text->text[at++];
    }
#define NEXT (at < text->count ? text->text[at] : '\0')
    if (NEXT && strchr("+- ", NEXT)) spec->sign = text->text[at++];
    if (NEXT == '#') spec->is_alternate = ++at;
    if (NEXT == '0') {
        spec->is_zero = ++at;
        if (!spec->align && spec->fill[0] == ' ') {
            spec->fill[0] = '0';
            spec->fill_bytes = 1;
        }
    }
    read_number(text, &at, &spec->width);
    if (NEXT == ',' || NEXT == '_') spec->group = text->text[at++];
    bool has_precision = NEXT == '.';
    at += has_precision;
    if (has_precision && !read_number(text, &at, &spec->precision))
        return chat_run_fail(run, ERR_FORMAT, "format specifier missing precision");
    if (NEXT) spec->type = text->text[at++];
#undef NEXT
    if (at < text->count) return chat_run_fail(run, ERR_FORMAT, "invalid format specifier");
    if (spec->width > WIDTH_MAX || spec->precision > PRECISION_MAX)
        return chat_run_fail(run, ERR_LIMIT, "format: a width is too large");
    return ERR_OK;
}

static enum err out_value(struct chat_run *run, const struct chat_value *value,
                          const struct chat_value *spec_text) {
    struct spec spec;
    if (spec_text->count == 0) return chat_text_out(run, value);
    enum err e = read_spec(run, spec_text, &spec);
    if (e) return e;
    if (value->kind == CHAT_TEXT) {
        if ((spec.type && spec.type != 's') || spec.sign || spec.align == '=' || spec.group)
            return chat_run_fail(run, ERR_FORMAT, "invalid format of a string");
        return out_text(run, &spec, value, '<');
    }
    if (!chat_value_is_number(value)) return bad_spec(run, "a specifier does not fit", value);
    if (spec.is_zero && !spec.align) spec.align = '=';
    bool is_real = spec.type && strchr("eEfFgG%", spec.type);
    if (value->kind == CHAT_REAL || is_real) {
        if (spec.type && !is_real && spec.type != 'n')
            return bad_spec(run, "a specifier does not fit", value);
        return out_real(run, &spec, chat_value_as_real(value));
    }
    if (spec.type == 'c' && !spec.sign) return out_letter(run, &spec, value);
    if ((spec.type && !strchr("dxXobn", spec.type)) || spec.precision >= 0 ||
        (spec.group == ',' && spec.type && spec.type != 'd'))
        return bad_spec(run, "a specifier does not fit", value);
    return out_integer(run, &spec, value->integer, false);
}

/* The value that a field's first name or number stands for. */
static enum err field_value(struct braces *braces, const struct chat_value *name,
                            struct chat_value *out) {
    struct chat_run *run = braces->run;
    int64_t number;
    uint32_t at = 0;
    bool is_number = read_number(name, &at, &number) && at == name->count;
    if (name->count == 0) {
        if (braces->automatic < 0)
            return chat_run_fail(run, ERR_FORMAT, "format mixes numbered and empty fields");
        number = braces->automatic++;
    } else if (is_number) {
        if (braces->automatic > 0)
            return chat_run_fail(run, ERR_FORMAT, "format mixes numbered and empty fields");
        braces->automatic = -1;
    } else {
        for (uint32_t i = 0; i < braces->args->named_count; i++) {
            const struct chat_named *named = &braces->args->named[i];
            if (named->name.count != name->count ||
                memcmp(named->name.text, name->text, name->count) != 0)
                continue;
            *out = named->value;
            return ERR_OK;
        }
        return chat_run_fail(run, ERR_FORMAT, "format: no argument '%.*s'",
                             (int) (name->count & 63), name->text);
    }
    if (number >= braces->args->count)
        return chat_run_fail(run, ERR_FORMAT, "format: argument index out of range");
    *out = braces->args->values[number];
    return ERR_OK;
}

/* name.attr[item]... */
static enum err field_path(struct braces *braces, const struct chat_value *path,
                           struct chat_value *out) {
    struct chat_run *run = braces->run;
    uint32_t at = 0;
    while (at < path->count && path->text[at] != '.' && path->text[at] != '[') at++;
    struct chat_value part, found;
    enum err e = chat_text_slice(run, path, 0, at, &part);
    if (!e) e = field_value(braces, &part, out);
    while (!e && at < path->count) {
        bool is_item = path->text[at] == '[';
        if (!is_item && path->text[at] != '.')
            return chat_run_fail(run, ERR_FORMAT, "format: only . or [ may follow ]");
        uint32_t from = ++at, number_at = 0;
        while (at < path->count &&
               (is_item ? path->text[at] != ']' : path->text[at] != '.' && path->text[at] != '['))
            at++;
        if (at == from || (is_item && at == path->count))
            return chat_run_fail(run, ERR_FORMAT, "format: empty or open attribute");
        e = chat_text_slice(run, path, from, at, &part);
        at += is_item;
        if (e) return e;
        int64_t number;
        struct chat_value key = part;
        if (read_number(&part, &number_at, &number) && number_at == part.count)
            key = chat_value_int(number);
        if (is_item) e = chat_eval_item(run, out, &key, &found);
        else e = chat_eval_attr(run, out, &part, 0, &found);
        if (!e) *out = found;
    }
    return e;
}

/* One {field}: text is what stands between the braces. */
static enum err out_field(struct braces *braces, const struct chat_value *text, int depth) {
    struct chat_run *run = braces->run;
    uint32_t end = 0;
    bool in_item = false;
    for (; end < text->count; end++) {
        char c = text->text[end];
        in_item = c == '[' || (in_item && c != ']');
        if (!in_item && (c == '!' || c == ':')) break;
    }
    struct chat_value path, value, spec = CHAT_LITERAL("");
    enum err e = chat_text_slice(run, text, 0, end, &path);
    if (!e) e = field_path(braces, &path, &value);
    if (e) return e;
    if (end < text->count && text->text[end] == '!') {
        char how = end + 1 < text->count ? text->text[end + 1] : '\0';
        end += 2;
        if ((how != 'r' && how != 's') || (end < text->count && text->text[end] != ':'))
            return chat_run_fail(run, ERR_FORMAT, "format: unknown conversion");
        e = how == 'r' ? repr_of(run, &value, &value) : chat_text_out_copy(run, &value, &value);
    }
    if (!e && end < text->count) {
        struct chat_value nested;
        struct chat_capture capture = chat_run_capture(run);
        e = chat_text_slice(run, text, end + 1, text->count, &nested);
        if (!e) e = format_text(braces, &nested, depth + 1);
        if (!e) e = chat_run_capture_end(run, capture, &spec);
    }
    return e ? e : out_value(run, &value, &spec);
}

static enum err format_text(struct braces *braces, const struct chat_value *text, int depth) {
    struct chat_run *run = braces->run;
    enum err e = ERR_OK;
    if (depth > 2) return chat_run_fail(run, ERR_FORMAT, "format: nested too deeply");
    for (uint32_t at = 0; !e && at < text->count;) {
        char c = text->text[at];
        bool is_double = at + 1 < text->count && text->text[at + 1] == c;
        if ((c == '{' || c == '}') && is_double && depth == 0) {
            e = chat_run_out_slice(run, text, at, at + 1);
            at += 2;
            continue;
        }
        if (c == '}') return chat_run_fail(run, ERR_FORMAT, "single '}' in format string");
        if (c != '{') {
            uint32_t from = at;
            while (at < text->count && text->text[at] != '{' && text->text[at] != '}') at++;
            e = chat_run_out_slice(run, text, from, at);
            continue;
        }
        uint32_t from = ++at, open = 1;
        for (; at < text->count; at++) {
            open += text->text[at] == '{';
            open -= text->text[at] == '}';
            if (open == 0) break;
        }
        if (open) return chat_run_fail(run, ERR_FORMAT, "expected '}' before end of string");
        struct chat_value field;
        e = chat_run_spend(run, 1);
        if (!e) e = chat_text_slice(run, text, from, at++, &field);
        if (!e) e = out_field(braces, &field, depth);
    }
    return e;
}

enum err chat_format_braces(struct chat_run *run, const struct chat_value *text,
                            const struct chat_args *args, struct chat_value *out) {
    struct braces braces = {.run = run, .args = args};
    struct chat_capture capture = chat_run_capture(run);
    enum err e = format_text(&braces, text, 0);
    if (e) return e;
    e = chat_run_capture_end(run, capture, out);
    out->is_markup = text->is_markup;
    return e;
}
