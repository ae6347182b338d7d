/* chat_eval - see chat_eval.h. */
#include "chat/chat_eval.h"

#include <string.h>

#include "chat/chat_exec.h"
#include "chat/chat_filter.h"
#include "chat/chat_format.h"
#include "chat/chat_global.h"
#include "chat/chat_iter.h"
#include "chat/chat_method.h"
#include "chat/chat_number.h"
#include "chat/chat_text.h"

struct chat_frame *chat_eval_frame(struct chat_run *run, const struct chat_function *function,
                                   struct chat_frame *up) {
    size_t bytes = function->slot_count * sizeof(struct chat_value);
    struct chat_frame *frame = chat_run_take(run, 1, sizeof *frame + bytes);
    if (!frame) return NULL;
    frame->up = up;
    memset(frame->slots, 0, bytes);
    return frame;
}

bool chat_eval_index(const struct chat_value *value, int64_t *out) {
    *out = chat_value_is_integer(value) ? value->integer : 0;
    return chat_value_is_integer(value);
}

bool chat_eval_is_given(const struct chat_value *value) {
    return value->kind != CHAT_MISSING && value->kind != CHAT_NONE;
}

enum err chat_eval_need_int(struct chat_run *run, const struct chat_value *value, int64_t absent,
                            int64_t *out) {
    *out = absent;
    if (value->kind == CHAT_MISSING || chat_eval_index(value, out)) return ERR_OK;
    if (value->kind == CHAT_UNDEFINED) return chat_value_refuse_undefined(run, value);
    return chat_run_fail(run, ERR_FORMAT, "expected an integer, not '%s'",
                         chat_value_kind_name(value));
}

enum err chat_eval_need_text(struct chat_run *run, const struct chat_value *value) {
    if (value->kind == CHAT_TEXT) return ERR_OK;
    if (value->kind == CHAT_UNDEFINED) return chat_value_refuse_undefined(run, value);
    return chat_run_fail(run, ERR_FORMAT, "expected a string, not '%s'",
                         chat_value_kind_name(value));
}

/* Arithmetic */

static enum err repeat(struct chat_run *run, const struct chat_value *value, int64_t times,
                       struct chat_value *out) {
    bool is_text = value->kind == CHAT_TEXT;
    if (times < 0) times = 0;
    if (times == 1 || value->count == 0) {
        *out = *value;
        return ERR_OK;
    }
    if (times > (int64_t) (UINT32_MAX / 64 / value->count))
        return chat_run_fail(run, ERR_LIMIT, "the result of * is too long");
    enum err e = chat_run_spend(run, (uint64_t) (times + 1));
    if (is_text) {
        struct chat_capture capture = chat_run_capture(run);
        for (int64_t i = 0; !e && i < times; i++) e = chat_run_out_text(run, value);
        if (!e) e = chat_run_capture_end(run, capture, out);
        out->is_markup = value->is_markup;
        return e;
    }
    uint32_t count = (uint32_t) times * value->count;
    struct chat_value *items = e ? NULL : chat_run_take(run, count, sizeof *items);
    if (!items) return run->failed;
    for (uint32_t i = 0; i < count; i++) items[i] = value->items[i % value->count];
    *out = chat_value_items((enum chat_kind) value->kind, items, count);
    return ERR_OK;
}

static enum err add(struct chat_run *run, const struct chat_value *a, const struct chat_value *b,
                    struct chat_value *out) {
    if (a->kind == CHAT_TEXT) {
        struct chat_value left = *a, right = *b;
        enum err e = ERR_OK;
        if (a->is_markup || b->is_markup) {
            e = chat_text_escape(run, a, &left);
            if (!e) e = chat_text_escape(run, b, &right);
        }
        if (!e) e = chat_text_concat(run, &left, &right, out);
        out->is_markup = a->is_markup || b->is_markup;
        return e;
    }
    if (a->count == 0 || b->count == 0) {
        *out = a->count ? *a : *b;
        return ERR_OK;
    }
    uint64_t count = (uint64_t) a->count + b->count;
    if (count > UINT32_MAX) return chat_run_fail(run, ERR_LIMIT, "the list is too long");
    struct chat_value *items = chat_run_take(run, count, sizeof *items);
    if (!items) return run->failed;
    memcpy(items, a->items, a->count * sizeof *items);
    memcpy(items + a->count, b->items, b->count * sizeof *items);
    *out = chat_value_items((enum chat_kind) a->kind, items, (uint32_t) count);
    return chat_run_spend(run, count / 16);
}

enum err chat_eval_arith(struct chat_run *run, uint8_t op, const struct chat_value *a,
                         const struct chat_value *b, struct chat_value *out) {
    static const char *const names[] = {"+", "-", "*", "/", "//", "%", "**"};
    if (chat_value_is_number(a) && chat_value_is_number(b))
        return chat_number_apply(run, (enum chat_arith) op, a, b, out);
    bool is_row = a->kind == CHAT_TEXT || chat_value_is_sequence(a);
    if (op == CHAT_MOD && a->kind == CHAT_TEXT) return chat_format_percent(run, a, b, out);
    if (op == CHAT_ADD && is_row && a->kind == b->kind) return add(run, a, b, out);
    if (op == CHAT_MUL && is_row && chat_value_is_integer(b))
        return repeat(run, a, b->integer, out);
    if (op == CHAT_MUL && chat_value_is_integer(a) &&
        (b->kind == CHAT_TEXT || chat_value_is_sequence(b)))
        return repeat(run, b, a->integer, out);
    if (a->kind == CHAT_UNDEFINED) return chat_value_refuse_undefined(run, a);
    if (b->kind == CHAT_UNDEFINED) return chat_value_refuse_undefined(run, b);
    return chat_run_fail(run, ERR_FORMAT, "'%s' is not supported between '%s' and '%s'", names[op],
                         chat_value_kind_name(a), chat_value_kind_name(b));
}

enum err chat_eval_compare(struct chat_run *run, uint8_t op, const struct chat_value *a,
                           const struct chat_value *b, bool *out) {
    static const char *const names[] = {"==", "!=", "<", "<=", ">", ">="};
    enum err e;
    int order = 2;
    switch (op) {
    case CHAT_EQ:
    case CHAT_NE:
        e = chat_value_equal(run, a, b, out);
        if (op == CHAT_NE) *out = !*out;
        return e;
    case CHAT_IN:
    case CHAT_NOT_IN:
        e = chat_value_contains(run, b, a, out);
        if (op == CHAT_NOT_IN) *out = !*out;
        return e;
    default: break;
    }
    e = chat_value_compare(run, a, b, names[op], &order);
    *out = order != 2 && ((op == CHAT_LT && order < 0) || (op == CHAT_LE && order <= 0) ||
                          (op == CHAT_GT && order > 0) || (op == CHAT_GE && order >= 0));
    return e;
}

/* Attributes and items */

static enum err number_attr(const struct chat_value *object, const struct chat_value *name,
                            struct chat_value *out) {
    bool is_integer = chat_value_is_integer(object);
    if (chat_text_is(name, "real")) *out = is_integer ? chat_value_int(object->integer) : *object;
    else if (chat_text_is(name, "imag"))
        *out = is_integer ? chat_value_int(0) : chat_value_real(0.0);
    else if (is_integer && chat_text_is(name, "numerator")) *out = chat_value_int(object->integer);
    else if (is_integer && chat_text_is(name, "denominator")) *out = chat_value_int(1);
    return ERR_OK;
}

static enum err method_attr(struct chat_run *run, const struct chat_value *object,
                            const struct chat_value *name, uint16_t method,
                            struct chat_value *out) {
    if (chat_method_is_unsafe(method, object)) {
        *out = chat_value_undefined(CHAT_UNDEFINED_UNSAFE, name->text, name->count);
        return ERR_OK;
    }
    struct chat_value *box = chat_run_take(run, 1, sizeof *box);
    if (!box) return run->failed;
    *box = *object;
    *out = (struct chat_value){.kind = CHAT_METHOD, .sub = (uint8_t) method, .box = box};
    return ERR_OK;
}

enum err chat_eval_attr(struct chat_run *run, const struct chat_value *object,
                        const struct chat_value *name, uint16_t method, struct chat_value *out) {
    *out = chat_value_lacks(object, name->text, name->count);
    if (method && chat_method_has(method, object))
        return method_attr(run, object, name, method, out);
    const struct chat_value *found = NULL;
    switch (object->kind) {
    case CHAT_MISSING:
    case CHAT_UNDEFINED: return chat_value_refuse_undefined(run, object);
    case CHAT_DICT: found = chat_value_dict_find(object->dict, name->text, name->count); break;
    case CHAT_SPACE:
        found = chat_value_dict_find(&object->space->dict, name->text, name->count);
        if (found && name->text[0] == '_') {
            *out = chat_value_undefined(CHAT_UNDEFINED_UNSAFE, name->text, name->count);
            return ERR_OK;
        }
        break;
    case CHAT_BOOL:
    case CHAT_INT:
    case CHAT_REAL: return number_attr(object, name, out);
    case CHAT_LOOP: {
        struct chat_value attribute;
        enum err e = chat_iter_loop_attribute(run, object->loop, name, &attribute);
        if (!e && attribute.kind != CHAT_MISSING) *out = attribute;
        return e;
    }
    case CHAT_CYCLER:
        if (chat_text_is(name, "current")) *out = object->cycler->items[object->cycler->position];
        return ERR_OK;
    case CHAT_MACRO:
        if (chat_text_is(name, "name")) *out = object->macro->node->value;
        if (out->kind == CHAT_MISSING) *out = chat_value_none();
        return ERR_OK;
    case CHAT_TUPLE: /* of |groupby */
        if (object->sub && chat_text_is(name, "grouper")) *out = object->items[0];
        if (object->sub && chat_text_is(name, "list")) *out = object->items[1];
        return ERR_OK;
    case CHAT_RANGE:
        if (chat_text_is(name, "start")) *out = chat_value_int(object->range->start);
        if (chat_text_is(name, "step")) *out = chat_value_int(object->range->step);
        return ERR_OK;
    default: break;
    }
    if (found) *out = *found;
    return ERR_OK;
}

static enum err letter_at(struct chat_run *run, const struct chat_value *text, int64_t index,
                          struct chat_value *out) {
    enum err e = chat_run_spend(run, text->count / 64);
    int64_t length = chat_text_length(text);
    if (index < 0) index += length;
    if (e || index < 0 || index >= length) return e;
    uint32_t from = chat_text_offset(text, index);
    uint32_t width = chat_unicode_width((unsigned char) text->text[from]);
    if (width > text->count - from) width = text->count - from;
    return chat_text_slice(run, text, from, from + width, out);
}

enum err chat_eval_item(struct chat_run *run, const struct chat_value *object,
                        const struct chat_value *key, struct chat_value *out) {
    const struct chat_value *found = NULL;
    int64_t index;
    bool is_index = chat_eval_index(key, &index);
    enum err e = ERR_OK;
    *out = chat_value_lacks(object, key->kind == CHAT_TEXT ? key->text : "that item",
                            key->kind == CHAT_TEXT ? key->count : 9);
    switch (object->kind) {
    case CHAT_UNDEFINED: return chat_value_refuse_undefined(run, object);
    case CHAT_DICT:
        if (key->kind == CHAT_TEXT)
            found = chat_value_dict_find(object->dict, key->text, key->count);
        else if (chat_value_is_hashable(key))
            e = chat_value_dict_get(run, object->dict, key, &found);
        break;
    case CHAT_LIST:
    case CHAT_TUPLE:
        if (is_index && index < 0) index += object->count;
        if (is_index && index >= 0 && index < object->count) found = &object->items[index];
        break;
    case CHAT_TEXT:
        if (is_index) return letter_at(run, object, index, out);
        break;
    case CHAT_RANGE:
        if (is_index && index < 0) index += object->range->count;
        if (is_index && index >= 0 && index < object->range->count)
            *out = chat_value_int(object->range->start + object->range->step * index);
        break;
    default: break;
    }
    if (found) *out = *found;
    if (e || found || key->kind != CHAT_TEXT) return e;
    struct chat_value attribute;
    /* A key of a dict that is not there may still name a method; nothing else of a dict. */
    uint16_t method = chat_method_find(key->text, key->count);
    if (object->kind == CHAT_DICT && !(method && chat_method_has(method, object))) return e;
    e = chat_eval_attr(run, object, key, method, &attribute);
    if (!e) *out = attribute;
    return e;
}

/* Python's clipping of start:stop:step to a length. */
static enum err slice_bounds(struct chat_run *run, const struct chat_value part[3], int64_t length,
                             int64_t *start, int64_t *step, int64_t *count) {
    int64_t stop;
    for (int i = 0; i < 3; i++)
        if (part[i].kind != CHAT_NONE && !chat_value_is_integer(&part[i]))
            return chat_run_fail(run, ERR_FORMAT, "slice indices must be integers or None");
    *step = part[2].kind == CHAT_NONE ? 1 : part[2].integer;
    if (*step == 0) return chat_run_fail(run, ERR_FORMAT, "slice step cannot be zero");
    if (*step == INT64_MIN) *step = -INT64_MAX;
    int64_t low = *step < 0 ? -1 : 0, high = *step < 0 ? length - 1 : length;
    *start = *step < 0 ? high : low;
    stop = *step < 0 ? low : high;
    if (part[0].kind != CHAT_NONE) {
        *start = part[0].integer < 0 ? part[0].integer + length : part[0].integer;
        *start = *start < low ? low : *start > high ? high : *start;
    }
    if (part[1].kind != CHAT_NONE) {
        stop = part[1].integer < 0 ? part[1].integer + length : part[1].integer;
        stop = stop < low ? low : stop > high ? high : stop;
    }
    *count = 0;
    if (*step > 0 && *start < stop) *count = (stop - *start - 1) / *step + 1;
    if (*step < 0 && *start > stop) *count = (*start - stop - 1) / -*step + 1;
    return ERR_OK;
}

static enum err slice_text(struct chat_run *run, const struct chat_value *text, int64_t start,
                           int64_t step, int64_t count, struct chat_value *out) {
    enum err e = chat_run_spend(run, text->count / 64);
    if (e) return e;
    if (step == 1 || count == 0) {
        uint32_t from = chat_text_offset(text, start);
        struct chat_value rest = chat_value_text(text->text + from, text->count - from);
        return chat_text_slice(run, text, from, from + chat_text_offset(&rest, count), out);
    }
    /* Where each code point starts; a slice with a step is rare and short. */
    int64_t length = chat_text_length(text);
    uint32_t *offsets = chat_run_take(run, (size_t) length + 1, sizeof *offsets);
    if (!offsets) return run->failed;
    uint32_t at = 0;
    for (int64_t i = 0; i <= length; i++) {
        offsets[i] = at;
        if (at < text->count) at += chat_unicode_width((unsigned char) text->text[at]);
        if (at > text->count) at = text->count;
    }
    struct chat_capture capture = chat_run_capture(run);
    for (int64_t i = 0; !e && i < count; i++) {
        int64_t index = start + i * step;
        e = chat_run_out_slice(run, text, offsets[index], offsets[index + 1]);
        if (!e) e = chat_run_spend(run, 1);
    }
    return e ? e : chat_run_capture_end(run, capture, out);
}

static enum err slice(struct chat_run *run, const struct chat_value *object,
                      const struct chat_value part[3], struct chat_value *out) {
    int64_t length = 0, start = 0, step = 1, count = 0;
    if (object->kind == CHAT_UNDEFINED) return chat_value_refuse_undefined(run, object);
    if (object->kind != CHAT_TEXT && object->kind != CHAT_RANGE && !chat_value_is_sequence(object))
        return chat_run_fail(run, ERR_FORMAT, "'%s' object cannot be sliced",
                             chat_value_kind_name(object));
    enum err e = chat_value_length(run, object, &length);
    if (!e) e = slice_bounds(run, part, length, &start, &step, &count);
    if (e) return e;
    if (object->kind == CHAT_TEXT) {
        e = slice_text(run, object, start, step, count, out);
        out->is_markup = object->is_markup;
        return e;
    }
    if (object->kind == CHAT_RANGE) {
        struct chat_range_object *range = chat_run_take(run, 1, sizeof *range);
        if (!range) return run->failed;
        *range = (struct chat_range_object){object->range->start + object->range->step * start,
                                            object->range->step * step, count};
        *out = (struct chat_value){.kind = CHAT_RANGE, .range = range};
        return ERR_OK;
    }
    if (step == 1 || count == 0) {
        *out = chat_value_items((enum chat_kind) object->kind, object->items + (count ? start : 0),
                                (uint32_t) count);
        return ERR_OK;
    }
    struct chat_value *items = chat_run_take(run, (size_t) count, sizeof *items);
    if (!items) return run->failed;
    for (int64_t i = 0; i < count; i++) items[i] = object->items[start + i * step];
    *out = chat_value_items((enum chat_kind) object->kind, items, (uint32_t) count);
    return chat_run_spend(run, (uint64_t) count / 16);
}

/* Calls */

static enum err args_grow(struct chat_run *run, struct chat_args *args) {
    if (args->count == args->room) {
        struct chat_value *values = chat_run_take(run, args->room * 2u, sizeof *values);
        if (!values) return run->failed;
        memcpy(values, args->values, args->count * sizeof *values);
        args->values = values;
        args->room *= 2;
    }
    if (args->named_count == args->named_room) {
        struct chat_named *named = chat_run_take(run, args->named_room * 2u, sizeof *named);
        if (!named) return run->failed;
        memcpy(named, args->named, args->named_count * sizeof *named);
        args->named = named;
        args->named_room *= 2;
    }
    return ERR_OK;
}

static enum err args_name(struct chat_run *run, struct chat_args *args,
                          const struct chat_value *name, const struct chat_value *value) {
    enum err e = args_grow(run, args);
    if (e) return e;
    for (uint32_t i = 0; i < args->named_count; i++)
        if (args->named[i].name.count == name->count &&
            memcmp(args->named[i].name.text, name->text, name->count) == 0)
            return chat_run_fail(run, ERR_FORMAT, "got multiple values for an argument");
    args->named[args->named_count++] = (struct chat_named){*name, *value};
    return ERR_OK;
}

static enum err args_spread(struct chat_run *run, struct chat_args *args,
                            const struct chat_value *value) {
    struct chat_iter *iter;
    enum err e = chat_iter_create(run, value, &iter);
    while (!e) {
        struct chat_value item;
        e = chat_iter_next(run, iter, &item);
        if (e || item.kind == CHAT_MISSING) break;
        e = args_grow(run, args);
        if (!e) args->values[args->count++] = item;
    }
    return e;
}

static enum err args_spread_named(struct chat_run *run, struct chat_args *args,
                                  const struct chat_value *value) {
    if (value->kind != CHAT_DICT)
        return chat_run_fail(run, ERR_FORMAT, "the argument behind ** must be a mapping");
    enum err e = ERR_OK;
    for (uint32_t i = 0; !e && i < value->dict->count; i++) {
        const struct chat_entry *entry = &value->dict->entries[i];
        if (entry->key.kind != CHAT_TEXT)
            return chat_run_fail(run, ERR_FORMAT, "keywords must be strings");
        e = args_name(run, args, &entry->key, &entry->value);
    }
    return e;
}

enum err chat_eval_args(struct chat_run *run, struct chat_frame *frame, const struct chat_node *arg,
                        const struct chat_value *caller, struct chat_args *out) {
    out->count = out->named_count = 0;
    out->room = out->named_room = CHAT_EVAL_ARGS_ROOM;
    out->values = out->first_values;
    out->named = out->first_named;
    enum err e = ERR_OK;
    for (; !e && arg; arg = arg->next) {
        struct chat_value value;
        e = chat_eval(run, frame, arg->a, &value);
        if (e) break;
        switch (arg->kind) {
        case CHAT_ARG:
            e = args_grow(run, out);
            if (!e) out->values[out->count++] = value;
            break;
        case CHAT_ARG_NAMED: e = args_name(run, out, &arg->value, &value); break;
        case CHAT_ARG_STAR: e = args_spread(run, out, &value); break;
        default: e = args_spread_named(run, out, &value); break;
        }
    }
    struct chat_value name = CHAT_LITERAL("caller");
    return e || !caller ? e : args_name(run, out, &name, caller);
}

enum err chat_eval_bind(struct chat_run *run, const char *what, const char *const *names,
                        uint32_t required, const struct chat_args *args,
                        struct chat_value *values) {
    uint32_t count = 0;
    while (names[count]) values[count++] = (struct chat_value){0};
    if (args->count > count)
        return chat_run_fail(run, ERR_FORMAT, "%s takes at most %u arguments, not %u", what, count,
                             args->count);
    for (uint32_t i = 0; i < args->count; i++) values[i] = args->values[i];
    for (uint32_t n = 0; n < args->named_count; n++) {
        uint32_t i = 0;
        while (names[i] && !chat_text_is(&args->named[n].name, names[i])) i++;
        if (!names[i] || values[i].kind != CHAT_MISSING)
            return chat_run_fail(run, ERR_FORMAT, "%s takes no argument '%.*s'%s", what,
                                 (int) (args->named[n].name.count & 63), args->named[n].name.text,
                                 names[i] ? " twice" : "");
        values[i] = args->named[n].value;
    }
    for (uint32_t i = 0; i < required; i++)
        if (values[i].kind == CHAT_MISSING)
            return chat_run_fail(run, ERR_FORMAT, "%s lacks its argument '%s'", what, names[i]);
    return ERR_OK;
}

enum err chat_eval_call(struct chat_run *run, const struct chat_value *callee,
                        struct chat_args *args, struct chat_value *out) {
    switch (callee->kind) {
    case CHAT_FUNCTION: return chat_global_call(run, callee->sub, args, out);
    case CHAT_METHOD: return chat_method_call(run, callee->sub, callee->box, args, out);
    case CHAT_MACRO: return chat_exec_macro(run, callee->macro, args, out);
    case CHAT_JOINER: return chat_global_join(run, callee, args, out);
    case CHAT_UNDEFINED: return chat_value_refuse_undefined(run, callee);
    case CHAT_LOOP: return chat_run_fail(run, ERR_UNSUPPORTED, "recursive loops are not supported");
    default:
        return chat_run_fail(run, ERR_FORMAT, "'%s' object is not callable",
                             chat_value_kind_name(callee));
    }
}

/* Steps of a chain */

static enum err step_call(struct chat_run *run, struct chat_frame *frame,
                          const struct chat_node *step, uint16_t method, struct chat_value *value) {
    struct chat_args args;
    struct chat_value result = {0};
    enum err e = chat_eval_args(run, frame, step->a, NULL, &args);
    run->line = step->line;
    if (e) return e;
    if (method) e = chat_method_call(run, method, value, &args, &result);
    else e = chat_eval_call(run, value, &args, &result);
    *value = result;
    return e;
}

static enum err step_compare(struct chat_run *run, struct chat_frame *frame,
                             const struct chat_node *operand, struct chat_value *value) {
    bool is_true = true;
    enum err e = ERR_OK;
    for (; !e && is_true && operand; operand = operand->next) {
        struct chat_value right;
        e = chat_eval(run, frame, operand->a, &right);
        run->line = operand->line;
        if (!e) e = chat_eval_compare(run, operand->op, value, &right, &is_true);
        *value = right;
    }
    *value = chat_value_bool(is_true);
    return e;
}

static enum err step_slice(struct chat_run *run, struct chat_frame *frame,
                           const struct chat_node *step, struct chat_value *value) {
    struct chat_value part[3] = {chat_value_none(), chat_value_none(), chat_value_none()}, result;
    enum err e = step->a ? chat_eval(run, frame, step->a, &part[0]) : ERR_OK;
    if (!e && step->b) e = chat_eval(run, frame, step->b, &part[1]);
    if (!e && step->c) e = chat_eval(run, frame, step->c, &part[2]);
    run->line = step->line;
    result = chat_value_none();
    if (!e) e = slice(run, value, part, &result);
    *value = result;
    return e;
}

static enum err step_filter(struct chat_run *run, struct chat_frame *frame,
                            const struct chat_node *step, struct chat_value *value) {
    struct chat_args args;
    struct chat_value result = {0};
    if (step->slot == CHAT_NODE_NO_SLOT)
        return chat_run_fail(run, ERR_FORMAT, "no %s named '%.*s'",
                             step->kind == CHAT_STEP_FILTER ? "filter" : "test",
                             (int) (step->value.count & 63), step->value.text);
    enum err e = chat_eval_args(run, frame, step->a, NULL, &args);
    run->line = step->line;
    if (e) return e;
    if (step->kind == CHAT_STEP_FILTER) {
        e = chat_filter_apply(run, step->slot, value, &args, &result);
    } else {
        bool is_true = false;
        e = chat_filter_test(run, step->slot, value, &args, &is_true);
        result = chat_value_bool(is_true != (step->op != 0));
    }
    *value = result;
    return e;
}

static enum err step_sign(struct chat_run *run, bool is_minus, struct chat_value *value) {
    if (value->kind == CHAT_UNDEFINED) return chat_value_refuse_undefined(run, value);
    if (!chat_value_is_number(value))
        return chat_run_fail(run, ERR_FORMAT, "bad operand type for a sign: '%s'",
                             chat_value_kind_name(value));
    if (value->kind == CHAT_REAL) {
        if (is_minus) value->real = -value->real;
        return ERR_OK;
    }
    struct chat_value zero = chat_value_int(0), number = *value;
    return chat_number_apply(run, is_minus ? CHAT_SUB : CHAT_ADD, &zero, &number, value);
}

static enum err apply_step(struct chat_run *run, struct chat_frame *frame,
                           const struct chat_node *step, struct chat_value *value) {
    struct chat_value right, result;
    enum err e;
    switch (step->kind) {
    case CHAT_STEP_ARITH:
        e = chat_eval(run, frame, step->a, &right);
        run->line = step->line;
        if (!e) e = chat_eval_arith(run, step->op, value, &right, &result);
        if (!e) *value = result;
        return e;
    case CHAT_STEP_MINUS:
    case CHAT_STEP_PLUS: return step_sign(run, step->kind == CHAT_STEP_MINUS, value);
    case CHAT_STEP_COMPARE: return step_compare(run, frame, step->a, value);
    case CHAT_STEP_ATTR:
        e = chat_eval_attr(run, value, &step->value, step->method, &result);
        if (!e) *value = result;
        return e;
    case CHAT_STEP_ITEM:
        e = chat_eval(run, frame, step->a, &right);
        run->line = step->line;
        if (!e) e = chat_eval_item(run, value, &right, &result);
        if (!e) *value = result;
        return e;
    case CHAT_STEP_SLICE: return step_slice(run, frame, step, value);
    case CHAT_STEP_CALL: return step_call(run, frame, step, 0, value);
    default: return step_filter(run, frame, step, value);
    }
}

enum err chat_eval_steps(struct chat_run *run, struct chat_frame *frame,
                         const struct chat_node *step, struct chat_value *value) {
    enum err e = ERR_OK;
    for (; !e && step; step = step->next) {
        e = chat_run_spend(run, 1);
        if (e) return e;
        run->line = step->line;
        if (step->method && step->next && step->next->kind == CHAT_STEP_CALL &&
            chat_method_has(step->method, value) && !chat_method_is_unsafe(step->method, value)) {
            uint16_t method = step->method; /* x.strip(): no bound method is made */
            step = step->next;
            e = step_call(run, frame, step, method, value);
        } else {
            e = apply_step(run, frame, step, value);
        }
    }
    return e;
}

/* Expressions */

static enum err eval_name(struct chat_run *run, struct chat_frame *frame,
                          const struct chat_node *node, struct chat_value *out) {
    if (node->slot == CHAT_NODE_NO_SLOT) {
        *out = run->context[node->name];
    } else {
        for (uint16_t i = 0; i < node->hops; i++) frame = frame->up;
        *out = frame->slots[node->slot];
    }
    if (out->kind == CHAT_MISSING)
        *out = chat_value_undefined(CHAT_UNDEFINED_NAME, run->names[node->name].text,
                                    run->names[node->name].bytes);
    return ERR_OK;
}

static enum err eval_items(struct chat_run *run, struct chat_frame *frame,
                           const struct chat_node *node, struct chat_value *out) {
    uint32_t count = 0;
    for (const struct chat_node *item = node->a; item; item = item->next) count++;
    struct chat_value *items = chat_run_take(run, count, sizeof *items);
    if (!items) return run->failed;
    enum err e = ERR_OK;
    uint32_t at = 0;
    for (const struct chat_node *item = node->a; !e && item; item = item->next)
        e = chat_eval(run, frame, item, &items[at++]);
    *out = chat_value_items(node->kind == CHAT_EXPR_LIST ? CHAT_LIST : CHAT_TUPLE, items, count);
    return e;
}

static enum err eval_dict(struct chat_run *run, struct chat_frame *frame,
                          const struct chat_node *node, struct chat_value *out) {
    struct chat_dict *dict = chat_run_take(run, 1, sizeof *dict);
    if (!dict) return run->failed;
    *dict = (struct chat_dict){0};
    enum err e = ERR_OK;
    for (const struct chat_node *key = node->a; !e && key; key = key->next->next) {
        struct chat_value name, value;
        e = chat_eval(run, frame, key, &name);
        if (!e) e = chat_eval(run, frame, key->next, &value);
        run->line = key->line;
        if (!e) e = chat_value_dict_set(run, dict, &name, &value);
    }
    *out = (struct chat_value){.kind = CHAT_DICT, .dict = dict};
    return e;
}

static enum err eval_concat(struct chat_run *run, struct chat_frame *frame,
                            const struct chat_node *node, struct chat_value *out) {
    struct chat_value joined = CHAT_LITERAL("");
    enum err e = ERR_OK;
    for (const struct chat_node *operand = node->a; !e && operand; operand = operand->next) {
        struct chat_value value, text;
        e = chat_eval(run, frame, operand, &value);
        if (!e) e = chat_text_out_copy(run, &value, &text);
        if (!e) e = chat_text_concat(run, &joined, &text, &joined);
    }
    joined.is_markup = false;
    *out = joined;
    return e;
}

static enum err eval_logic(struct chat_run *run, struct chat_frame *frame,
                           const struct chat_node *node, struct chat_value *out) {
    bool stops_at = node->kind == CHAT_EXPR_OR;
    enum err e = ERR_OK;
    for (const struct chat_node *operand = node->a; !e && operand; operand = operand->next) {
        e = chat_eval(run, frame, operand, out);
        if (!e && operand->next && chat_value_is_true(out) == stops_at) break;
    }
    return e;
}

static enum err eval_cond(struct chat_run *run, struct chat_frame *frame,
                          const struct chat_node *node, struct chat_value *out) {
    static const char hint[] = "an inline if without else was false";
    enum err e = chat_eval(run, frame, node->a, out);
    if (e) return e;
    if (chat_value_is_true(out)) return chat_eval(run, frame, node->b, out);
    if (node->c) return chat_eval(run, frame, node->c, out);
    *out = chat_value_undefined(CHAT_UNDEFINED_HINT, hint, sizeof hint - 1);
    return ERR_OK;
}

static enum err eval_nested(struct chat_run *run, struct chat_frame *frame,
                            const struct chat_node *node, struct chat_value *out) {
    enum err e;
    switch (node->kind) {
    case CHAT_EXPR_LIST:
    case CHAT_EXPR_TUPLE: return eval_items(run, frame, node, out);
    case CHAT_EXPR_DICT: return eval_dict(run, frame, node, out);
    case CHAT_EXPR_COND: return eval_cond(run, frame, node, out);
    case CHAT_EXPR_AND:
    case CHAT_EXPR_OR: return eval_logic(run, frame, node, out);
    case CHAT_EXPR_NOT:
        e = chat_eval(run, frame, node->a, out);
        if (!e) *out = chat_value_bool(!chat_value_is_true(out));
        return e;
    case CHAT_EXPR_CONCAT: return eval_concat(run, frame, node, out);
    default: break;
    }
    e = chat_eval(run, frame, node->a, out);
    return e ? e : chat_eval_steps(run, frame, node->b, out);
}

enum err chat_eval(struct chat_run *run, struct chat_frame *frame, const struct chat_node *node,
                   struct chat_value *out) {
    enum err e = chat_run_spend(run, 1);
    if (e) return e;
    if (node->kind == CHAT_EXPR_CONST) {
        *out = node->value;
        return ERR_OK;
    }
    if (node->kind == CHAT_EXPR_NAME) return eval_name(run, frame, node, out);
    run->line = node->line;
    if (run->depth >= run->depth_max)
        return chat_run_fail(run, ERR_LIMIT, "expressions and calls are nested too deeply");
    run->depth++;
    e = eval_nested(run, frame, node, out);
    run->depth--;
    return e;
}
