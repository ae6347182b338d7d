/* chat_text_out - str() and repr() of every kind of value; see chat_text.h. */
#include <stdio.h>
#include <string.h>

#include "chat/chat_iter.h"
#include "chat/chat_node.h"
#include "chat/chat_number.h"
#include "chat/chat_text.h"

static enum err out_repr(struct chat_run *run, const struct chat_value *value, uint32_t depth);

/* The escape of a character that repr does not write as it is; 0 when it does. */
static int escape_of(uint32_t code, char quote, char out[12]) {
    switch (code) {
    case '\\': return snprintf(out, 12, "\\\\");
    case '\n': return snprintf(out, 12, "\\n");
    case '\r': return snprintf(out, 12, "\\r");
    case '\t': return snprintf(out, 12, "\\t");
    default: break;
    }
    if (code == (uint32_t) quote) return snprintf(out, 12, "\\%c", quote);
    if (chat_unicode_is_printable(code)) return 0;
    if (code < 0x100) return snprintf(out, 12, "\\x%02x", code);
    if (code < 0x10000) return snprintf(out, 12, "\\u%04x", code);
    return snprintf(out, 12, "\\U%08x", code);
}

static enum err out_repr_text(struct chat_run *run, const struct chat_value *text) {
    bool has_single = memchr(text->text, '\'', text->count) != NULL;
    char quote = has_single && !memchr(text->text, '"', text->count) ? '"' : '\'';
    enum err e = text->is_markup ? chat_run_out_string(run, "Markup(") : ERR_OK;
    if (!e) e = chat_run_out(run, &quote, 1, false);
    const char *at = text->text, *end = text->text + text->count, *from = at;
    while (!e && at < end) {
        const char *start = at;
        char escape[12];
        int length = escape_of(chat_unicode_read(&at, end), quote, escape);
        if (length == 0) continue;
        uint32_t offset = (uint32_t) (start - text->text);
        struct chat_value letter;
        e = chat_run_out_slice(run, text, (uint32_t) (from - text->text), offset);
        if (!e) e = chat_text_slice(run, text, offset, (uint32_t) (at - text->text), &letter);
        if (!e) e = chat_run_out(run, escape, (size_t) length, letter.marks != NULL);
        from = at;
    }
    if (!e) e = chat_run_out_slice(run, text, (uint32_t) (from - text->text), text->count);
    if (!e) e = chat_run_out(run, &quote, 1, false);
    return !e && text->is_markup ? chat_run_out_string(run, ")") : e;
}

static enum err out_items(struct chat_run *run, const struct chat_value *value, uint32_t depth) {
    bool is_list = value->kind == CHAT_LIST;
    enum err e = chat_run_out_string(run, is_list ? "[" : "(");
    for (uint32_t i = 0; !e && i < value->count; i++) {
        if (i) e = chat_run_out_string(run, ", ");
        if (!e) e = out_repr(run, &value->items[i], depth + 1);
    }
    if (e) return e;
    return chat_run_out_string(run, is_list ? "]" : value->count == 1 ? ",)" : ")");
}

static enum err out_dict(struct chat_run *run, const struct chat_dict *dict, uint32_t depth) {
    enum err e = chat_run_out_string(run, "{");
    for (uint32_t i = 0; !e && i < dict->count; i++) {
        if (i) e = chat_run_out_string(run, ", ");
        if (!e) e = out_repr(run, &dict->entries[i].key, depth + 1);
        if (!e) e = chat_run_out_string(run, ": ");
        if (!e) e = out_repr(run, &dict->entries[i].value, depth + 1);
    }
    return e ? e : chat_run_out_string(run, "}");
}

static enum err out_view(struct chat_run *run, const struct chat_value *view, uint32_t depth) {
    static const char *const names[] = {"dict_keys([", "dict_values([", "dict_items(["};
    enum err e = chat_run_out_string(run, names[view->sub]);
    for (uint32_t i = 0; !e && i < view->dict->count; i++) {
        const struct chat_entry *entry = &view->dict->entries[i];
        const struct chat_value pair[2] = {entry->key, entry->value};
        struct chat_value tuple = chat_value_items(CHAT_TUPLE, pair, 2);
        if (i) e = chat_run_out_string(run, ", ");
        if (e) break;
        e = out_repr(run,
                     view->sub == CHAT_VIEW_KEYS     ? &entry->key
                     : view->sub == CHAT_VIEW_VALUES ? &entry->value
                                                     : &tuple,
                     depth + 1);
    }
    return e ? e : chat_run_out_string(run, "])");
}

static enum err out_object(struct chat_run *run, const struct chat_value *value) {
    char text[96];
    int64_t length = 0;
    enum err e = ERR_OK;
    switch (value->kind) {
    case CHAT_RANGE: {
        const struct chat_range_object *range = value->range;
        int64_t stop = range->start + range->step * range->count;
        if (range->step == 1)
            snprintf(text, sizeof text, "range(%lld, %lld)", (long long) range->start,
                     (long long) stop);
        else
            snprintf(text, sizeof text, "range(%lld, %lld, %lld)", (long long) range->start,
                     (long long) stop, (long long) range->step);
        break;
    }
    case CHAT_LOOP:
        e = chat_iter_loop_length(run, value->loop, &length);
        snprintf(text, sizeof text, "<LoopContext %lld/%lld>", (long long) value->loop->index0 + 1,
                 (long long) length);
        break;
    case CHAT_MACRO: {
        const struct chat_value *name = &value->macro->node->value;
        if (name->kind == CHAT_TEXT)
            snprintf(text, sizeof text, "<Macro '%.*s'>", (int) (name->count & 63), name->text);
        else snprintf(text, sizeof text, "<Macro anonymous>");
        break;
    }
    default: snprintf(text, sizeof text, "<%s object>", chat_value_kind_name(value)); break;
    }
    return e ? e : chat_run_out_string(run, text);
}

static enum err out_repr(struct chat_run *run, const struct chat_value *value, uint32_t depth) {
    if (depth > CHAT_RUN_VALUE_DEPTH_MAX)
        return chat_run_fail(run, ERR_LIMIT, "a value is nested too deeply to be printed");
    enum err e = chat_run_spend(run, 1);
    char number[CHAT_NUMBER_TEXT_BYTES];
    if (e) return e;
    switch (value->kind) {
    case CHAT_MISSING:
    case CHAT_UNDEFINED: return chat_run_out_string(run, "Undefined");
    case CHAT_NONE: return chat_run_out_string(run, "None");
    case CHAT_BOOL: return chat_run_out_string(run, value->integer ? "True" : "False");
    case CHAT_INT:
        return chat_run_out(run, number, chat_number_print_int(value->integer, number), false);
    case CHAT_REAL:
        return chat_run_out(run, number, chat_number_print_real(value->real, number), false);
    case CHAT_TEXT: return out_repr_text(run, value);
    case CHAT_LIST:
    case CHAT_TUPLE: return out_items(run, value, depth);
    case CHAT_DICT: return out_dict(run, value->dict, depth);
    case CHAT_VIEW: return out_view(run, value, depth);
    case CHAT_SPACE:
        e = chat_run_out_string(run, "<Namespace ");
        if (!e) e = out_dict(run, &value->space->dict, depth);
        return e ? e : chat_run_out_string(run, ">");
    default: return out_object(run, value);
    }
}

enum err chat_text_out_repr(struct chat_run *run, const struct chat_value *value) {
    return out_repr(run, value, 0);
}

enum err chat_text_out(struct chat_run *run, const struct chat_value *value) {
    if (value->kind == CHAT_TEXT) return chat_run_out_text(run, value);
    if (value->kind == CHAT_UNDEFINED || value->kind == CHAT_MISSING) return ERR_OK;
    return out_repr(run, value, 0);
}

enum err chat_text_out_copy(struct chat_run *run, const struct chat_value *value,
                            struct chat_value *out) {
    if (value->kind == CHAT_TEXT) {
        *out = *value;
        return ERR_OK;
    }
    struct chat_capture capture = chat_run_capture(run);
    enum err e = chat_text_out(run, value);
    return e ? e : chat_run_capture_end(run, capture, out);
}
