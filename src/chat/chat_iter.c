/* chat_iter - see chat_iter.h. */
#include "chat/chat_iter.h"

#include <string.h>

#include "chat/chat_text.h"

static const struct chat_value missing;

static enum err next_item(struct chat_run *run, struct chat_iter *iter, struct chat_value *out) {
    *out = iter->position < iter->source.count ? iter->source.items[iter->position++] : missing;
    return ERR_OK;
}

static enum err next_reversed(struct chat_run *run, struct chat_iter *iter,
                              struct chat_value *out) {
    *out = iter->position > 0 ? iter->source.items[--iter->position] : missing;
    return ERR_OK;
}

static enum err next_letter(struct chat_run *run, struct chat_iter *iter, struct chat_value *out) {
    const struct chat_value *text = &iter->source;
    uint32_t at = (uint32_t) iter->position;
    *out = missing;
    if (at >= text->count) return ERR_OK;
    uint32_t width = chat_unicode_width((unsigned char) text->text[at]);
    if (width > text->count - at) width = text->count - at;
    iter->position += width;
    enum err e = chat_text_slice(run, text, at, at + width, out);
    out->is_markup = false;
    return e;
}

static enum err entry_item(struct chat_run *run, const struct chat_entry *entry, uint8_t view,
                           struct chat_value *out) {
    if (view != CHAT_VIEW_ITEMS) {
        *out = view == CHAT_VIEW_KEYS ? entry->key : entry->value;
        return ERR_OK;
    }
    struct chat_value *pair = chat_run_take(run, 2, sizeof *pair);
    if (!pair) return run->failed;
    pair[0] = entry->key;
    pair[1] = entry->value;
    *out = chat_value_items(CHAT_TUPLE, pair, 2);
    return ERR_OK;
}

static enum err next_entry(struct chat_run *run, struct chat_iter *iter, struct chat_value *out) {
    const struct chat_dict *dict = iter->source.dict;
    *out = missing;
    if (iter->position >= dict->count) return ERR_OK;
    return entry_item(run, &dict->entries[iter->position++], iter->source.sub, out);
}

static enum err next_entry_reversed(struct chat_run *run, struct chat_iter *iter,
                                    struct chat_value *out) {
    const struct chat_dict *dict = iter->source.dict;
    *out = missing;
    if (iter->position <= 0) return ERR_OK;
    return entry_item(run, &dict->entries[--iter->position], iter->source.sub, out);
}

static enum err next_number(struct chat_run *run, struct chat_iter *iter, struct chat_value *out) {
    const struct chat_range_object *range = iter->source.range;
    *out = iter->position < range->count
               ? chat_value_int(range->start + range->step * iter->position++)
               : missing;
    return ERR_OK;
}

static enum err next_none(struct chat_run *run, struct chat_iter *iter, struct chat_value *out) {
    *out = missing;
    return ERR_OK;
}

static chat_iter_next_fn next_of(const struct chat_value *value) {
    switch (value->kind) {
    case CHAT_LIST:
    case CHAT_TUPLE: return next_item;
    case CHAT_TEXT: return next_letter;
    case CHAT_DICT:
    case CHAT_VIEW: return next_entry;
    case CHAT_RANGE: return next_number;
    case CHAT_UNDEFINED: return next_none;
    default: return NULL;
    }
}

bool chat_iter_is_possible(const struct chat_value *value) {
    return value->kind == CHAT_ITER || value->kind == CHAT_LOOP || next_of(value) != NULL;
}

enum err chat_iter_create(struct chat_run *run, const struct chat_value *value,
                          struct chat_iter **out) {
    if (value->kind == CHAT_ITER) {
        *out = value->iter;
        return ERR_OK;
    }
    chat_iter_next_fn next = next_of(value);
    if (!next)
        return chat_run_fail(run, ERR_FORMAT, "'%s' object is not iterable",
                             chat_value_kind_name(value));
    struct chat_iter *iter = chat_run_take(run, 1, sizeof *iter);
    if (!iter) return run->failed;
    *iter = (struct chat_iter){.next = next, .source = *value};
    if (value->kind == CHAT_DICT) iter->source.sub = CHAT_VIEW_KEYS;
    *out = iter;
    return ERR_OK;
}

enum err chat_iter_generate(struct chat_run *run, chat_iter_next_fn next,
                            const struct chat_value *source, void *state, struct chat_value *out) {
    struct chat_iter *iter = chat_run_take(run, 1, sizeof *iter);
    if (!iter) return run->failed;
    *iter = (struct chat_iter){.next = next, .source = *source, .state = state};
    *out = (struct chat_value){.kind = CHAT_ITER, .iter = iter};
    return ERR_OK;
}

enum err chat_iter_next(struct chat_run *run, struct chat_iter *iter, struct chat_value *out) {
    enum err e = chat_run_spend(run, 1);
    if (e) return e;
    *out = missing;
    if (iter->is_done) return ERR_OK;
    if (iter->is_running) return chat_run_fail(run, ERR_FORMAT, "generator already executing");
    if (run->depth >= run->depth_max)
        return chat_run_fail(run, ERR_LIMIT, "generators are nested too deeply");
    run->depth++;
    iter->is_running = true;
    e = iter->next(run, iter, out);
    iter->is_running = false;
    run->depth--;
    if (e || out->kind == CHAT_MISSING) iter->is_done = true;
    return e;
}

enum err chat_iter_add(struct chat_run *run, struct chat_iter_builder *builder,
                       const struct chat_value *item) {
    if (builder->count == builder->room) {
        uint32_t room = builder->room ? builder->room * 2 : 8;
        struct chat_value *items = chat_run_take(run, room, sizeof *items);
        if (!items) return run->failed;
        if (builder->count) memcpy(items, builder->items, builder->count * sizeof *items);
        builder->items = items;
        builder->room = room;
    }
    builder->items[builder->count++] = *item;
    return ERR_OK;
}

enum err chat_iter_list(struct chat_run *run, const struct chat_value *value, enum chat_kind kind,
                        struct chat_value *out) {
    if (chat_value_is_sequence(value)) {
        *out = chat_value_items(kind, value->items, value->count);
        return ERR_OK;
    }
    struct chat_iter *iter;
    struct chat_iter_builder builder = {0};
    enum err e = chat_iter_create(run, value, &iter);
    while (!e) {
        struct chat_value item;
        e = chat_iter_next(run, iter, &item);
        if (e || item.kind == CHAT_MISSING) break;
        e = chat_iter_add(run, &builder, &item);
    }
    *out = chat_value_items(kind, builder.items, builder.count);
    return e;
}

enum err chat_iter_reverse(struct chat_run *run, const struct chat_value *value,
                           struct chat_value *out) {
    enum err e = ERR_OK;
    if (chat_value_is_sequence(value)) {
        e = chat_iter_generate(run, next_reversed, value, NULL, out);
        if (!e) out->iter->position = value->count;
        return e;
    }
    if (value->kind == CHAT_DICT || value->kind == CHAT_VIEW) {
        e = chat_iter_generate(run, next_entry_reversed, value, NULL, out);
        if (e) return e;
        out->iter->position = value->dict->count;
        if (value->kind == CHAT_DICT) out->iter->source.sub = CHAT_VIEW_KEYS;
        return e;
    }
    if (value->kind == CHAT_UNDEFINED) return chat_iter_generate(run, next_none, value, NULL, out);
    if (value->kind == CHAT_RANGE || value->kind == CHAT_TEXT) {
        struct chat_value list;
        e = chat_iter_list(run, value, CHAT_LIST, &list);
        return e ? e : chat_iter_reverse(run, &list, out);
    }
    return chat_run_fail(run, ERR_FORMAT, "'%s' object is not reversible",
                         chat_value_kind_name(value));
}

static enum err loop_peek(struct chat_run *run, struct chat_loop *loop) {
    if (loop->after.kind != CHAT_MISSING) return ERR_OK;
    return chat_iter_next(run, loop->iter, &loop->after);
}

enum err chat_iter_loop_next(struct chat_run *run, struct chat_loop *loop, struct chat_value *out) {
    enum err e = ERR_OK;
    if (loop->after.kind != CHAT_MISSING) {
        *out = loop->after;
        loop->after = missing;
    } else {
        e = chat_iter_next(run, loop->iter, out);
        if (e || out->kind == CHAT_MISSING) return e;
    }
    loop->index0++;
    loop->before = loop->current;
    loop->current = *out;
    return e;
}

enum err chat_iter_loop_length(struct chat_run *run, struct chat_loop *loop, int64_t *out) {
    enum err e = ERR_OK;
    if (loop->length < 0 && loop->source.kind != CHAT_ITER) {
        e = chat_value_length(run, &loop->source, &loop->length);
    } else if (loop->length < 0) {
        struct chat_value rest, generator = {.kind = CHAT_ITER, .iter = loop->iter};
        e = chat_iter_list(run, &generator, CHAT_LIST, &rest);
        if (!e) e = chat_iter_create(run, &rest, &loop->iter);
        if (!e) loop->length = rest.count + loop->index0 + 1 + (loop->after.kind != CHAT_MISSING);
    }
    *out = loop->length;
    return e;
}

static enum err from_length(struct chat_run *run, struct chat_loop *loop, int64_t minus,
                            struct chat_value *out) {
    int64_t length = 0;
    enum err e = chat_iter_loop_length(run, loop, &length);
    *out = chat_value_int(length - minus);
    return e;
}

enum err chat_iter_loop_attribute(struct chat_run *run, struct chat_loop *loop,
                                  const struct chat_value *name, struct chat_value *out) {
    static const char no_previous[] = "there is no previous item";
    static const char no_next[] = "there is no next item";
    enum err e = ERR_OK;
    *out = missing;
    if (chat_text_is(name, "index0")) *out = chat_value_int(loop->index0);
    else if (chat_text_is(name, "index")) *out = chat_value_int(loop->index0 + 1);
    else if (chat_text_is(name, "first")) *out = chat_value_bool(loop->index0 == 0);
    else if (chat_text_is(name, "last")) {
        e = loop_peek(run, loop);
        *out = chat_value_bool(loop->after.kind == CHAT_MISSING);
    } else if (chat_text_is(name, "length")) e = from_length(run, loop, 0, out);
    else if (chat_text_is(name, "revindex")) e = from_length(run, loop, loop->index0, out);
    else if (chat_text_is(name, "revindex0")) e = from_length(run, loop, loop->index0 + 1, out);
    else if (chat_text_is(name, "depth")) *out = chat_value_int(1);
    else if (chat_text_is(name, "depth0")) *out = chat_value_int(0);
    else if (chat_text_is(name, "previtem")) {
        *out = loop->index0 == 0
                   ? chat_value_undefined(CHAT_UNDEFINED_HINT, no_previous, sizeof no_previous - 1)
                   : loop->before;
    } else if (chat_text_is(name, "nextitem")) {
        e = loop_peek(run, loop);
        *out = loop->after.kind == CHAT_MISSING
                   ? chat_value_undefined(CHAT_UNDEFINED_HINT, no_next, sizeof no_next - 1)
                   : loop->after;
    }
    return e;
}
