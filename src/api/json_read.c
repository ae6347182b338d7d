/* json_read - see json_read.h. */
#include "api/json_read.h"

#include <stdbool.h>
#include <stdint.h>
#include <string.h>

#include "api/utf8_text.h"
#include "base/buf.h"

struct reader {
    const unsigned char *start, *at, *end;
    struct buf key;     /* of the member under way, NUL behind */
    struct buf decoded; /* a string with escapes */
    const char *why;    /* NULL: no fault yet */
    bool no_memory;
};

static bool fault_at(struct reader *reader, const unsigned char *at, const char *why) {
    reader->at = at;
    reader->why = why;
    return false;
}

static bool fault(struct reader *reader, const char *why) {
    return fault_at(reader, reader->at,
                    reader->at == reader->end ? "the text ends too early" : why);
}

static bool out_of_memory(struct reader *reader) {
    reader->no_memory = true;
    return false;
}

static void skip_space(struct reader *reader) {
    while (reader->at < reader->end && (*reader->at == ' ' || *reader->at == '\n' ||
                                        *reader->at == '\r' || *reader->at == '\t'))
        reader->at++;
}

/* --- strings ----------------------------------------------------------------------------- */

/* The first byte from `at` on that is not plain: a quote, a backslash, control or not ASCII.
 * Eight at a time: a byte is special when it has its high bit, or is below 0x20, or equals one of
 * the two (the usual zero-byte trick; a false alarm in a byte above a real one does no harm). */
static const unsigned char *skip_plain(const unsigned char *at, const unsigned char *end) {
    const uint64_t ones = 0x0101010101010101u, highs = 0x8080808080808080u;
    while (end - at >= 8) {
        uint64_t word;
        memcpy(&word, at, sizeof word);
        uint64_t quote = word ^ (ones * '"'), slash = word ^ (ones * '\\');
        uint64_t special = word | ((word - ones * 0x20) & ~word) | ((quote - ones) & ~quote) |
                           ((slash - ones) & ~slash);
        if (special & highs) break;
        at += 8;
    }
    while (at < end && *at >= 0x20 && *at < 0x80 && *at != '"' && *at != '\\') at++;
    return at;
}

static bool read_hex(struct reader *reader, uint32_t *out) {
    uint32_t code = 0;
    if (reader->end - reader->at < 4) {
        reader->at = reader->end;
        return fault(reader, "");
    }
    for (int i = 0; i < 4; i++) {
        unsigned char c = reader->at[i];
        uint32_t digit = 16;
        if (c >= '0' && c <= '9') digit = c - (uint32_t) '0';
        if (c >= 'a' && c <= 'f') digit = c - (uint32_t) 'a' + 10;
        if (c >= 'A' && c <= 'F') digit = c - (uint32_t) 'A' + 10;
        if (digit == 16) return fault(reader, "\\u needs four hexadecimal digits");
        code = code << 4 | digit;
    }
    reader->at += 4;
    *out = code;
    return true;
}

static void add_code_point(struct buf *out, uint32_t code) {
    unsigned char bytes[4];
    size_t count;
    if (code < 0x80) {
        bytes[0] = (unsigned char) code;
        count = 1;
    } else if (code < 0x800) {
        bytes[0] = (unsigned char) (0xc0 | code >> 6);
        bytes[1] = (unsigned char) (0x80 | (code & 63));
        count = 2;
    } else if (code < 0x10000) {
        bytes[0] = (unsigned char) (0xe0 | code >> 12);
        bytes[1] = (unsigned char) (0x80 | (code >> 6 & 63));
        bytes[2] = (unsigned char) (0x80 | (code & 63));
        count = 3;
    } else {
        bytes[0] = (unsigned char) (0xf0 | code >> 18);
        bytes[1] = (unsigned char) (0x80 | (code >> 12 & 63));
        bytes[2] = (unsigned char) (0x80 | (code >> 6 & 63));
        bytes[3] = (unsigned char) (0x80 | (code & 63));
        count = 4;
    }
    buf_add(out, bytes, count);
}

/* Behind a backslash. */
static bool read_escape(struct reader *reader, struct buf *out) {
    if (reader->at == reader->end) return fault(reader, "");
    static const char from[] = "\"\\/bfnrt", to[] = "\"\\/\b\f\n\r\t";
    const unsigned char *escape = reader->at;
    const char *plain = *escape ? strchr(from, *escape) : NULL;
    if (plain) {
        reader->at++;
        buf_add_byte(out, (uint8_t) to[plain - from]);
        return true;
    }
    if (*escape != 'u') return fault(reader, "an unknown escape");
    uint32_t code, low;
    reader->at++;
    if (!read_hex(reader, &code)) return false;
    if (code >= 0xdc00 && code < 0xe000)
        return fault_at(reader, escape, "a lone surrogate is no character");
    if (code >= 0xd800 && code < 0xdc00) {
        if (reader->end - reader->at < 2 || reader->at[0] != '\\' || reader->at[1] != 'u')
            return fault_at(reader, escape, "a lone surrogate is no character");
        reader->at += 2;
        if (!read_hex(reader, &low)) return false;
        if (low < 0xdc00 || low >= 0xe000)
            return fault_at(reader, escape, "a lone surrogate is no character");
        code = 0x10000 + ((code - 0xd800) << 10) + (low - 0xdc00);
    }
    add_code_point(out, code);
    return true;
}

/* At the opening quote.  *text lies in the input when nothing was escaped, else in out. */
static bool read_string(struct reader *reader, struct buf *out, const unsigned char **text,
                        size_t *bytes) {
    const unsigned char *from = ++reader->at;
    bool is_copied = false;
    buf_clear(out);
    for (;;) {
        reader->at = skip_plain(reader->at, reader->end);
        if (reader->at == reader->end) return fault(reader, "");
        unsigned char c = *reader->at;
        if (c == '"') break;
        if (c < 0x20) return fault(reader, "a control character must be escaped in a string");
        if (c >= 0x80) {
            size_t length = utf8_text_length(reader->at, (size_t) (reader->end - reader->at));
            if (!length) return fault(reader, "the string is not valid UTF-8");
            reader->at += length;
            continue;
        }
        buf_add(out, from, (size_t) (reader->at - from));
        is_copied = true;
        reader->at++;
        if (!read_escape(reader, out)) return false;
        from = reader->at;
    }
    if (is_copied) {
        buf_add(out, from, (size_t) (reader->at - from));
        if (buf_error(out)) return out_of_memory(reader);
    }
    *text = is_copied ? out->data : from;
    *bytes = is_copied ? out->bytes : (size_t) (reader->at - from);
    reader->at++;
    return true;
}

/* A member's name, into reader->key. */
static bool read_key(struct reader *reader) {
    const unsigned char *start = reader->at, *text;
    size_t bytes;
    if (reader->at == reader->end || *reader->at != '"')
        return fault(reader, "a string is wanted as name");
    if (!read_string(reader, &reader->decoded, &text, &bytes)) return false;
    if (bytes && memchr(text, 0, bytes)) return fault_at(reader, start, "a name holds a NUL");
    buf_clear(&reader->key);
    buf_add(&reader->key, text, bytes);
    if (!buf_string(&reader->key)) return out_of_memory(reader);
    skip_space(reader);
    if (reader->at == reader->end || *reader->at != ':') return fault(reader, "':' is wanted");
    reader->at++;
    skip_space(reader);
    return true;
}

/* --- other scalars ------------------------------------------------------------------------ */

static bool is_digit(const struct reader *reader) {
    return reader->at < reader->end && *reader->at >= '0' && *reader->at <= '9';
}

/* Integers here; what has a fraction or an exponent is jansson's work (rounding, locale). */
static json_t *read_number(struct reader *reader) {
    const unsigned char *from = reader->at;
    bool is_negative = *reader->at == '-', is_real = false, is_big = false;
    if (is_negative) reader->at++;
    if (!is_digit(reader)) return fault(reader, "a digit is wanted"), NULL;
    uint64_t value = 0;
    bool is_zero = *reader->at == '0';
    while (is_digit(reader)) {
        uint64_t digit = (uint64_t) (*reader->at++ - '0');
        is_big |= __builtin_mul_overflow(value, 10u, &value);
        is_big |= __builtin_add_overflow(value, digit, &value);
        if (is_zero) break;
    }
    if (is_zero && is_digit(reader)) return fault(reader, "a number cannot begin with 0"), NULL;
    if (reader->at < reader->end && *reader->at == '.') {
        is_real = true;
        reader->at++;
        if (!is_digit(reader)) return fault(reader, "a digit is wanted"), NULL;
        while (is_digit(reader)) reader->at++;
    }
    if (reader->at < reader->end && (*reader->at == 'e' || *reader->at == 'E')) {
        is_real = true;
        reader->at++;
        if (reader->at < reader->end && (*reader->at == '+' || *reader->at == '-')) reader->at++;
        if (!is_digit(reader)) return fault(reader, "a digit is wanted"), NULL;
        while (is_digit(reader)) reader->at++;
    }
    json_t *number = NULL;
    if (is_real) {
        number =
            json_loadb((const char *) from, (size_t) (reader->at - from), JSON_DECODE_ANY, NULL);
        if (!number) fault_at(reader, from, "the number is too large");
        return number;
    }
    uint64_t limit = (uint64_t) INT64_MAX + is_negative;
    if (is_big || value > limit) return fault_at(reader, from, "the integer is too large"), NULL;
    number = json_integer(is_negative ? (json_int_t) (0 - value) : (json_int_t) value);
    if (!number) out_of_memory(reader);
    return number;
}

static json_t *read_word(struct reader *reader) {
    static const struct {
        const char *word;
        size_t bytes;
    } words[] = {{"true", 4}, {"false", 5}, {"null", 4}};
    for (size_t i = 0; i < ARRAY_COUNT(words); i++) {
        if ((size_t) (reader->end - reader->at) < words[i].bytes ||
            memcmp(reader->at, words[i].word, words[i].bytes) != 0)
            continue;
        reader->at += words[i].bytes;
        return i == 0 ? json_true() : i == 1 ? json_false() : json_null();
    }
    fault(reader, "a value is wanted");
    return NULL;
}

/* A value; containers come back empty, their bracket taken. */
static json_t *read_value(struct reader *reader) {
    if (reader->at == reader->end) return fault(reader, ""), NULL;
    json_t *value;
    switch (*reader->at) {
    case '"': {
        const unsigned char *text;
        size_t bytes;
        if (!read_string(reader, &reader->decoded, &text, &bytes)) return NULL;
        value = json_stringn_nocheck(bytes ? (const char *) text : "", bytes);
        break;
    }
    case '{':
        reader->at++;
        value = json_object();
        break;
    case '[':
        reader->at++;
        value = json_array();
        break;
    case '-':
    case '0':
    case '1':
    case '2':
    case '3':
    case '4':
    case '5':
    case '6':
    case '7':
    case '8':
    case '9': return read_number(reader);
    default: return read_word(reader);
    }
    if (!value) out_of_memory(reader);
    return value;
}

/* --- the walk ----------------------------------------------------------------------------- */

/* Hands the value over to its container; *root when there is none. */
static bool attach(struct reader *reader, json_t *top, const unsigned char *value_at, json_t *value,
                   json_t **root) {
    if (!top) {
        *root = value;
        return true;
    }
    if (json_is_array(top)) return json_array_append_new(top, value) == 0 || out_of_memory(reader);
    size_t before = json_object_size(top);
    if (json_object_set_new_nocheck(top, (const char *) reader->key.data, value))
        return out_of_memory(reader);
    /* At the value: the path to it ends with the name that is meant. */
    if (json_object_size(top) == before) return fault_at(reader, value_at, "the name stands twice");
    return true;
}

static bool closes(const struct reader *reader, const json_t *top) {
    return reader->at < reader->end && *reader->at == (json_is_array(top) ? ']' : '}');
}

static bool read_all(struct reader *reader, json_t **root) {
    json_t *stack[JSON_READ_DEPTH_MAX]; /* borrowed: each hangs in the one before */
    size_t depth = 0;
    bool is_fresh = false; /* a container was just opened */
    for (;;) {
        json_t *top = depth ? stack[depth - 1] : NULL;
        skip_space(reader);
        if (!is_fresh || !closes(reader, top)) {
            if (top && json_is_object(top) && !read_key(reader)) return false;
            const unsigned char *value_at = reader->at;
            json_t *value = read_value(reader);
            if (!value || !attach(reader, top, value_at, value, root)) return false;
            is_fresh = json_is_object(value) || json_is_array(value);
            if (is_fresh) {
                if (depth == JSON_READ_DEPTH_MAX)
                    return fault_at(reader, reader->at - 1, "the value is nested too deeply");
                stack[depth++] = value;
                continue;
            }
        } else {
            reader->at++;
            depth--;
            is_fresh = false;
        }
        for (;;) {
            skip_space(reader);
            if (depth == 0)
                return reader->at == reader->end ||
                       fault(reader, "the text goes on behind its end");
            top = stack[depth - 1];
            if (closes(reader, top)) {
                reader->at++;
                depth--;
                continue;
            }
            if (reader->at == reader->end || *reader->at != ',')
                return fault(reader,
                             json_is_array(top) ? "',' or ']' is wanted" : "',' or '}' is wanted");
            reader->at++;
            break;
        }
    }
}

enum err json_read(const void *text, size_t bytes, struct json_read_fault *where, json_t **out) {
    struct reader reader = {.start = text, .at = text, .end = (const unsigned char *) text + bytes};
    buf_init(&reader.key, 0);
    buf_init(&reader.decoded, 0);
    json_t *root = NULL;
    bool is_read = read_all(&reader, &root);
    buf_release(&reader.key);
    buf_release(&reader.decoded);
    if (is_read) {
        *out = root;
        return ERR_OK;
    }
    json_decref(root);
    if (reader.no_memory) return ERR_MEMORY;
    *where = (struct json_read_fault){(size_t) (reader.at - reader.start), reader.why};
    return ERR_FORMAT;
}
