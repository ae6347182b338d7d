/* chat_json - see chat_json.h. */
#include "chat/chat_json.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "chat/chat_eval.h"
#include "chat/chat_number.h"
#include "chat/chat_text.h"

static enum err separator_of(struct chat_run *run, const struct chat_value *pair, uint32_t at,
                             struct chat_value *out) {
    struct chat_value index = chat_value_int(at);
    enum err e = chat_eval_item(run, pair, &index, out);
    if (!e && out->kind != CHAT_TEXT)
        e = chat_run_fail(run, ERR_FORMAT, "tojson: separators must be two strings");
    return e;
}

enum err chat_json_style(struct chat_run *run, const struct chat_value parameters[4],
                         struct chat_json_style *out) {
    const struct chat_value *indent = &parameters[1], *separators = &parameters[2];
    int64_t columns = 0, count = 0;
    *out = (struct chat_json_style){
        .item_separator = CHAT_LITERAL(", "),
        .key_separator = CHAT_LITERAL(": "),
        .ensure_ascii = parameters[0].kind != CHAT_MISSING && chat_value_is_true(&parameters[0]),
        .sort_keys = parameters[3].kind != CHAT_MISSING && chat_value_is_true(&parameters[3])};
    if (indent->kind == CHAT_TEXT) {
        out->indent = *indent;
    } else if (indent->kind != CHAT_MISSING && indent->kind != CHAT_NONE) {
        if (!chat_eval_index(indent, &columns))
            return chat_run_fail(run, ERR_FORMAT, "tojson: indent must be an integer or a string");
        if (columns > 1024) return chat_run_fail(run, ERR_LIMIT, "tojson: indent over 1024");
        char *spaces = chat_run_take_text(run, columns > 0 ? (size_t) columns : 0);
        if (!spaces) return run->failed;
        if (columns > 0) memset(spaces, ' ', (size_t) columns);
        out->indent = chat_value_text(spaces, columns > 0 ? (uint32_t) columns : 0);
    }
    if (out->indent.kind == CHAT_TEXT) out->item_separator = CHAT_LITERAL(",");
    if (separators->kind == CHAT_MISSING || separators->kind == CHAT_NONE) return ERR_OK;
    enum err e = chat_value_length(run, separators, &count);
    if (!e && count != 2)
        e = chat_run_fail(run, ERR_FORMAT, "tojson: separators must be two strings");
    if (!e) e = separator_of(run, separators, 0, &out->item_separator);
    return e ? e : separator_of(run, separators, 1, &out->key_separator);
}

static int escape_of(uint32_t code, bool ensure_ascii, char out[16]) {
    switch (code) {
    case '"': return snprintf(out, 16, "\\\"");
    case '\\': return snprintf(out, 16, "\\\\");
    case '\n': return snprintf(out, 16, "\\n");
    case '\r': return snprintf(out, 16, "\\r");
    case '\t': return snprintf(out, 16, "\\t");
    case '\b': return snprintf(out, 16, "\\b");
    case '\f': return snprintf(out, 16, "\\f");
    default: break;
    }
    if (code < 0x20 || (ensure_ascii && code >= 0x7f && code < 0x10000))
        return snprintf(out, 16, "\\u%04x", code);
    if (ensure_ascii && code >= 0x10000)
        return snprintf(out, 16, "\\u%04x\\u%04x", 0xd800 + ((code - 0x10000) >> 10),
                        0xdc00 + ((code - 0x10000) & 0x3ff));
    return 0;
}

static enum err print_text(struct chat_run *run, const struct chat_value *text, bool ensure_ascii) {
    enum err e = chat_run_out(run, "\"", 1, false);
    uint32_t from = 0;
    for (uint32_t i = 0; !e && i < text->count; i++) {
        unsigned char c = (unsigned char) text->text[i];
        if (c >= 0x20 && c != '"' && c != '\\' && (c < 0x7f || !ensure_ascii)) continue;
        char escape[16];
        const char *at = text->text + i;
        uint32_t code = chat_unicode_read(&at, text->text + text->count);
        uint32_t end = (uint32_t) (at - text->text);
        int length = escape_of(code, ensure_ascii, escape);
        struct chat_value letter = {0};
        e = chat_run_out_slice(run, text, from, i);
        if (!e) e = chat_text_slice(run, text, i, end, &letter);
        if (!e) e = chat_run_out(run, escape, (size_t) length, letter.marks != NULL);
        from = end;
        i = end - 1;
    }
    if (!e) e = chat_run_out_slice(run, text, from, text->count);
    return e ? e : chat_run_out(run, "\"", 1, false);
}

static enum err print_real(struct chat_run *run, double real) {
    char text[CHAT_NUMBER_TEXT_BYTES];
    if (isnan(real)) return chat_run_out_string(run, "NaN");
    if (isinf(real)) return chat_run_out_string(run, real < 0 ? "-Infinity" : "Infinity");
    return chat_run_out(run, text, chat_number_print_real(real, text), false);
}

static enum err print(struct chat_run *run, const struct chat_value *value,
                      const struct chat_json_style *style, uint32_t depth);

static enum err new_line(struct chat_run *run, const struct chat_json_style *style,
                         uint32_t depth) {
    if (style->indent.kind == CHAT_MISSING) return ERR_OK;
    enum err e = chat_run_out(run, "\n", 1, false);
    for (uint32_t i = 0; !e && i < depth; i++) e = chat_run_out_text(run, &style->indent);
    return e;
}

static enum err print_items(struct chat_run *run, const struct chat_value *value,
                            const struct chat_json_style *style, uint32_t depth) {
    if (value->count == 0) return chat_run_out_string(run, "[]");
    enum err e = chat_run_out(run, "[", 1, false);
    for (uint32_t i = 0; !e && i < value->count; i++) {
        if (i) e = chat_run_out_text(run, &style->item_separator);
        if (!e) e = new_line(run, style, depth + 1);
        if (!e) e = print(run, &value->items[i], style, depth + 1);
    }
    if (!e) e = new_line(run, style, depth);
    return e ? e : chat_run_out(run, "]", 1, false);
}

static enum err print_key(struct chat_run *run, const struct chat_value *key,
                          const struct chat_json_style *style) {
    enum err e = ERR_OK;
    if (key->kind == CHAT_TEXT) return print_text(run, key, style->ensure_ascii);
    if (!chat_value_is_number(key) && key->kind != CHAT_NONE)
        return chat_run_fail(run, ERR_FORMAT, "tojson: a key is a '%s'", chat_value_kind_name(key));
    e = chat_run_out(run, "\"", 1, false);
    if (!e) e = print(run, key, style, 0);
    return e ? e : chat_run_out(run, "\"", 1, false);
}

/* The entries in the order they are printed: an insertion sort would be quadratic, so shell. */
static enum err sorted_entries(struct chat_run *run, const struct chat_dict *dict,
                               const struct chat_entry ***out) {
    const struct chat_entry **order = chat_run_take(run, dict->count, sizeof *order);
    if (!order) return run->failed;
    for (uint32_t i = 0; i < dict->count; i++) order[i] = &dict->entries[i];
    for (uint32_t gap = dict->count / 2; gap > 0; gap = gap > 2 ? gap * 5 / 11 : gap / 2)
        for (uint32_t i = gap; i < dict->count; i++) {
            const struct chat_entry *entry = order[i];
            uint32_t at = i;
            for (; at >= gap; at -= gap) {
                int compared;
                enum err e =
                    chat_value_compare(run, &entry->key, &order[at - gap]->key, "<", &compared);
                if (e) return e;
                if (compared >= 0) break;
                order[at] = order[at - gap];
            }
            order[at] = entry;
        }
    *out = order;
    return ERR_OK;
}

static enum err print_dict(struct chat_run *run, const struct chat_dict *dict,
                           const struct chat_json_style *style, uint32_t depth) {
    const struct chat_entry **order = NULL;
    if (dict->count == 0) return chat_run_out_string(run, "{}");
    enum err e = style->sort_keys ? sorted_entries(run, dict, &order) : ERR_OK;
    if (!e) e = chat_run_out(run, "{", 1, false);
    for (uint32_t i = 0; !e && i < dict->count; i++) {
        const struct chat_entry *entry = order ? order[i] : &dict->entries[i];
        if (i) e = chat_run_out_text(run, &style->item_separator);
        if (!e) e = new_line(run, style, depth + 1);
        if (!e) e = print_key(run, &entry->key, style);
        if (!e) e = chat_run_out_text(run, &style->key_separator);
        if (!e) e = print(run, &entry->value, style, depth + 1);
    }
    if (!e) e = new_line(run, style, depth);
    return e ? e : chat_run_out(run, "}", 1, false);
}

static enum err print(struct chat_run *run, const struct chat_value *value,
                      const struct chat_json_style *style, uint32_t depth) {
    char number[CHAT_NUMBER_TEXT_BYTES];
    if (depth > CHAT_RUN_VALUE_DEPTH_MAX)
        return chat_run_fail(run, ERR_LIMIT, "a value is nested too deeply for JSON");
    enum err e = chat_run_spend(run, 1);
    if (e) return e;
    switch (value->kind) {
    case CHAT_NONE: return chat_run_out_string(run, "null");
    case CHAT_BOOL: return chat_run_out_string(run, value->integer ? "true" : "false");
    case CHAT_INT:
        return chat_run_out(run, number, chat_number_print_int(value->integer, number), false);
    case CHAT_REAL: return print_real(run, value->real);
    case CHAT_TEXT: return print_text(run, value, style->ensure_ascii);
    case CHAT_LIST:
    case CHAT_TUPLE: return print_items(run, value, style, depth);
    case CHAT_DICT: return print_dict(run, value->dict, style, depth);
    default:
        return chat_run_fail(run, ERR_FORMAT, "object of type %s is not JSON serializable",
                             chat_value_kind_name(value));
    }
}

enum err chat_json_print(struct chat_run *run, const struct chat_value *value,
                         const struct chat_json_style *style, struct chat_value *out) {
    struct chat_capture capture = chat_run_capture(run);
    enum err e = print(run, value, style, 0);
    return e ? e : chat_run_capture_end(run, capture, out);
}

/* copies: whether the JSON will be gone, and how its strings are marked. */
struct reading {
    const struct chat_marks *marks;
    bool copies;
};

static enum err read_text(struct chat_run *run, const struct reading *reading, const char *text,
                          size_t bytes, struct chat_value *out) {
    if (bytes > UINT32_MAX) return chat_run_fail(run, ERR_LIMIT, "a string is too long");
    if (reading->copies) {
        char *copy = chat_run_take_text(run, bytes);
        if (!copy) return run->failed;
        if (bytes) memcpy(copy, text, bytes);
        text = copy;
    }
    *out = chat_value_text(text, (uint32_t) bytes);
    if (bytes) out->marks = reading->marks;
    return ERR_OK;
}

static enum err read_value(struct chat_run *run, const struct reading *reading, const json_t *json,
                           uint32_t depth, struct chat_value *out);

static enum err read_array(struct chat_run *run, const struct reading *reading, const json_t *json,
                           uint32_t depth, struct chat_value *out) {
    size_t count = json_array_size(json);
    if (count > UINT32_MAX) return chat_run_fail(run, ERR_LIMIT, "an array is too long");
    struct chat_value *items = chat_run_take(run, count, sizeof *items);
    if (!items) return run->failed;
    enum err e = ERR_OK;
    for (size_t i = 0; !e && i < count; i++)
        e = read_value(run, reading, json_array_get(json, i), depth + 1, &items[i]);
    *out = chat_value_items(CHAT_LIST, items, (uint32_t) count);
    return e;
}

static enum err read_object(struct chat_run *run, const struct reading *reading, const json_t *json,
                            uint32_t depth, struct chat_value *out) {
    struct chat_dict *dict = chat_run_take(run, 1, sizeof *dict);
    if (!dict) return run->failed;
    *dict = (struct chat_dict){0};
    *out = (struct chat_value){.kind = CHAT_DICT, .dict = dict};
    json_t *object = (json_t *) json; /* jansson's iterators take no const; nothing is changed */
    enum err e = ERR_OK;
    for (void *at = json_object_iter(object); !e && at; at = json_object_iter_next(object, at)) {
        struct chat_value key, value;
        e = read_text(run, reading, json_object_iter_key(at), json_object_iter_key_len(at), &key);
        if (!e) e = read_value(run, reading, json_object_iter_value(at), depth + 1, &value);
        if (!e) e = chat_value_dict_set(run, dict, &key, &value);
    }
    return e;
}

static enum err read_value(struct chat_run *run, const struct reading *reading, const json_t *json,
                           uint32_t depth, struct chat_value *out) {
    if (depth > CHAT_RUN_VALUE_DEPTH_MAX)
        return chat_run_fail(run, ERR_LIMIT, "the JSON is nested too deeply");
    enum err e = chat_run_spend(run, 1);
    if (e) return e;
    switch (json_typeof(json)) {
    case JSON_OBJECT: return read_object(run, reading, json, depth, out);
    case JSON_ARRAY: return read_array(run, reading, json, depth, out);
    case JSON_STRING:
        return read_text(run, reading, json_string_value(json), json_string_length(json), out);
    case JSON_INTEGER: *out = chat_value_int(json_integer_value(json)); return ERR_OK;
    case JSON_REAL: *out = chat_value_real(json_real_value(json)); return ERR_OK;
    case JSON_TRUE:
    case JSON_FALSE: *out = chat_value_bool(json_typeof(json) == JSON_TRUE); return ERR_OK;
    default: *out = chat_value_none(); return ERR_OK;
    }
}

enum err chat_json_value(struct chat_run *run, const json_t *json, bool is_user,
                         struct chat_value *out) {
    struct reading reading = {is_user ? &chat_value_all : NULL, false};
    return read_value(run, &reading, json, 0, out);
}

enum err chat_json_parse(struct chat_run *run, const struct chat_value *text,
                         struct chat_value *out) {
    /* What a text holds in part from the user is the user's in whole. */
    struct reading reading = {text->marks ? &chat_value_all : NULL, true};
    json_error_t error;
    enum err e = chat_run_spend(run, text->count / 16);
    if (e) return e;
    json_t *json = json_loadb(text->text, text->count, JSON_DECODE_ANY | JSON_ALLOW_NUL, &error);
    if (!json) return chat_run_fail(run, ERR_FORMAT, "from_json: %s", error.text);
    e = read_value(run, &reading, json, 0, out);
    json_decref(json);
    return e;
}
