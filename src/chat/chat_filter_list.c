/* chat_filter_list - filters over sequences and dicts; see chat_filter.h.  Those that are
 * generators in the reference are generators here. */
#include <string.h>

#include "chat/chat_filter.h"
#include "chat/chat_iter.h"
#include "chat/chat_method.h"
#include "chat/chat_pieces.h"
#include "chat/chat_text.h"

static const struct chat_value missing;

static bool is_true(const struct chat_value *value) {
    return value->kind != CHAT_MISSING && chat_value_is_true(value);
}

/* Attributes by path: "a.0.b" */

struct getter {
    struct chat_value path; /* text, int, or missing: the item itself */
    struct chat_value otherwise;
    bool ignores_case;
};

static enum err get_part(struct chat_run *run, const struct getter *getter,
                         const struct chat_value *part, struct chat_value *item) {
    struct chat_value found, key = *part;
    bool is_number = part->kind == CHAT_TEXT && part->count > 0 && part->count < 18;
    for (uint32_t i = 0; is_number && i < part->count; i++)
        is_number = part->text[i] >= '0' && part->text[i] <= '9';
    if (is_number) {
        key = chat_value_int(0);
        for (uint32_t i = 0; i < part->count; i++)
            key.integer = key.integer * 10 + (part->text[i] - '0');
    }
    enum err e = chat_eval_item(run, item, &key, &found);
    if (e) return e;
    *item = found;
    if (found.kind == CHAT_UNDEFINED && chat_eval_is_given(&getter->otherwise))
        *item = getter->otherwise;
    return ERR_OK;
}

static enum err get(struct chat_run *run, const struct getter *getter,
                    const struct chat_value *from, struct chat_value *out) {
    struct chat_value item = *from;
    enum err e = ERR_OK;
    if (getter->path.kind == CHAT_TEXT) {
        struct chat_value dot = CHAT_LITERAL("."), part;
        uint32_t at = 0, end;
        do {
            end = chat_text_find(&getter->path, &dot, at, getter->path.count);
            if (end == UINT32_MAX) end = getter->path.count;
            e = chat_text_slice(run, &getter->path, at, end, &part);
            if (!e) e = get_part(run, getter, &part, &item);
            at = end + 1;
        } while (!e && end < getter->path.count);
    } else if (chat_eval_is_given(&getter->path)) {
        e = get_part(run, getter, &getter->path, &item);
    }
    if (!e && getter->ignores_case && item.kind == CHAT_TEXT)
        e = chat_text_recase(run, &item, CHAT_RECASE_LOWER, &item);
    *out = item;
    return e;
}

/* map, select, reject, selectattr, rejectattr */

struct apply_state {
    struct getter getter;
    uint32_t number; /* of the filter or test, CHAT_NODE_NO_SLOT: none, the truth decides */
    struct chat_args args;
    struct chat_value name;
    bool is_map;
    bool by_attribute;
    bool is_reject;
};

static enum err prepare_test(struct chat_run *run, struct apply_state *state) {
    struct chat_args *args = &state->args;
    if (state->by_attribute) {
        if (args->count == 0)
            return chat_run_fail(run, ERR_FORMAT, "the name of an attribute is missing");
        state->getter.path = args->values[0];
        args->values++;
        args->count--;
    }
    state->number = CHAT_NODE_NO_SLOT;
    if (args->count == 0) return ERR_OK;
    state->name = args->values[0];
    args->values++;
    args->count--;
    if (state->name.kind == CHAT_TEXT)
        state->number = chat_filter_find_test(state->name.text, state->name.count);
    return ERR_OK;
}

static enum err prepare_map(struct chat_run *run, struct apply_state *state) {
    struct chat_args *args = &state->args;
    state->number = CHAT_NODE_NO_SLOT;
    if (args->count == 0) {
        bool has_attribute = false;
        for (uint32_t i = 0; i < args->named_count; i++) {
            if (chat_text_is(&args->named[i].name, "attribute")) {
                state->getter.path = args->named[i].value;
                has_attribute = true;
            } else if (chat_text_is(&args->named[i].name, "default")) {
                state->getter.otherwise = args->named[i].value;
            } else {
                return chat_run_fail(run, ERR_FORMAT, "map takes no such argument");
            }
        }
        if (!has_attribute) return chat_run_fail(run, ERR_FORMAT, "map requires a filter argument");
        return ERR_OK;
    }
    state->name = args->values[0];
    args->values++;
    args->count--;
    if (state->name.kind == CHAT_TEXT)
        state->number = chat_filter_find(state->name.text, state->name.count);
    return ERR_OK;
}

static enum err next_applied(struct chat_run *run, struct chat_iter *iter, struct chat_value *out) {
    struct apply_state *state = iter->state;
    enum err e = ERR_OK;
    *out = missing;
    if (!iter->inner) {
        if (!chat_value_is_true(&iter->source)) return ERR_OK;
        e = state->is_map ? prepare_map(run, state) : prepare_test(run, state);
        if (!e) e = chat_iter_create(run, &iter->source, &iter->inner);
    }
    while (!e) {
        struct chat_value item, value;
        bool passes = false;
        e = chat_iter_next(run, iter->inner, &item);
        if (e || item.kind == CHAT_MISSING) break;
        e = get(run, &state->getter, &item, &value);
        if (e) break;
        if (state->number == CHAT_NODE_NO_SLOT && state->name.kind != CHAT_MISSING)
            return chat_run_fail(run, ERR_FORMAT, "no %s of that name",
                                 state->is_map ? "filter" : "test");
        if (state->is_map) {
            *out = value;
            if (state->number == CHAT_NODE_NO_SLOT) return ERR_OK;
            return chat_filter_apply(run, state->number, &value, &state->args, out);
        }
        if (state->number == CHAT_NODE_NO_SLOT) passes = chat_value_is_true(&value);
        else e = chat_filter_test(run, state->number, &value, &state->args, &passes);
        if (e || passes == state->is_reject) continue;
        *out = item;
        return ERR_OK;
    }
    return e;
}

enum { APPLY_MAP, APPLY_SELECT, APPLY_REJECT, APPLY_SELECT_ATTR, APPLY_REJECT_ATTR };

static enum err apply(const struct chat_filter_call *call) {
    struct chat_run *run = call->run;
    struct apply_state *state = chat_run_take(run, 1, sizeof *state);
    if (!state) return run->failed;
    memset(state, 0, sizeof *state);
    state->is_map = call->variant == APPLY_MAP;
    state->by_attribute = call->variant >= APPLY_SELECT_ATTR;
    state->is_reject = call->variant == APPLY_REJECT || call->variant == APPLY_REJECT_ATTR;
    uint32_t count = call->args->count, named_count = call->args->named_count;
    state->args.values = chat_run_take(run, count, sizeof *state->args.values);
    state->args.named = chat_run_take(run, named_count, sizeof *state->args.named);
    if (!state->args.values || !state->args.named) return run->failed;
    if (count) memcpy(state->args.values, call->args->values, count * sizeof *state->args.values);
    if (named_count)
        memcpy(state->args.named, call->args->named, named_count * sizeof *state->args.named);
    state->args.count = count;
    state->args.named_count = named_count;
    return chat_iter_generate(run, next_applied, call->in, state, call->out);
}

static enum err join(const struct chat_filter_call *call) {
    struct chat_run *run = call->run;
    struct chat_value empty = CHAT_LITERAL(""), separator, source = *call->in;
    enum err e = ERR_OK;
    if (chat_eval_is_given(call->p + 1)) {
        struct apply_state *state = chat_run_take(run, 1, sizeof *state);
        if (!state) return run->failed;
        memset(state, 0, sizeof *state);
        state->is_map = true;
        state->number = CHAT_NODE_NO_SLOT;
        state->getter.path = call->p[1];
        e = chat_iter_generate(run, next_applied, call->in, state, &source);
        if (!e) e = chat_iter_create(run, call->in, &source.iter->inner);
    }
    if (!e)
        e = chat_text_out_copy(run, call->p->kind == CHAT_MISSING ? &empty : call->p, &separator);
    separator.is_markup = false;
    return e ? e : chat_pieces_join(run, &separator, &source, true, call->out);
}

/* Sorting: a merge sort on keys, stable as Python's. */

struct sorting {
    struct chat_run *run;
    struct chat_value *keys;
    struct chat_value *items;
    struct chat_value *spare_keys;
    struct chat_value *spare_items;
    bool is_reverse;
    bool is_wrapped; /* |sort compares lists of keys: equal ones need no order */
};

static enum err is_before(struct sorting *sorting, uint32_t a, uint32_t b, bool *out) {
    const struct chat_value *x = &sorting->keys[a], *y = &sorting->keys[b];
    bool is_equal = false;
    int order = 0;
    enum err e = ERR_OK;
    *out = false;
    if (sorting->is_wrapped) e = chat_value_equal(sorting->run, x, y, &is_equal);
    if (e || is_equal) return e;
    e = chat_value_compare(sorting->run, x, y, "<", &order);
    *out = order == (sorting->is_reverse ? 1 : -1);
    return e;
}

static enum err merge_sort(struct sorting *sorting, uint32_t from, uint32_t to) {
    if (to - from < 2) return ERR_OK;
    uint32_t middle = from + (to - from) / 2, left = from, right = middle;
    enum err e = merge_sort(sorting, from, middle); /* as deep as the logarithm of the count */
    if (!e) e = merge_sort(sorting, middle, to);
    for (uint32_t at = from; !e && at < to; at++) {
        bool takes_right = left == middle;
        if (!takes_right && right < to) e = is_before(sorting, right, left, &takes_right);
        uint32_t taken = takes_right ? right++ : left++;
        sorting->spare_keys[at] = sorting->keys[taken];
        sorting->spare_items[at] = sorting->items[taken];
    }
    if (e) return e;
    memcpy(sorting->keys + from, sorting->spare_keys + from, (to - from) * sizeof *sorting->keys);
    memcpy(sorting->items + from, sorting->spare_items + from,
           (to - from) * sizeof *sorting->items);
    return ERR_OK;
}

/* Sorts a copy of the list by keys of the same count. */
static enum err sort_by(struct chat_run *run, const struct chat_value *list,
                        struct chat_value *keys, bool is_reverse, bool is_wrapped,
                        struct chat_value *out) {
    uint32_t count = list->count;
    struct sorting sorting = {
        .run = run, .keys = keys, .is_reverse = is_reverse, .is_wrapped = is_wrapped};
    sorting.items = chat_run_take(run, count, sizeof *keys);
    sorting.spare_keys = chat_run_take(run, count, sizeof *keys);
    sorting.spare_items = chat_run_take(run, count, sizeof *keys);
    if (!sorting.items || !sorting.spare_keys || !sorting.spare_items) return run->failed;
    if (count) memcpy(sorting.items, list->items, count * sizeof *keys);
    *out = chat_value_items(CHAT_LIST, sorting.items, count);
    return merge_sort(&sorting, 0, count);
}

/* A key of several attributes, "a,b", is a list of them. */
static enum err sort_key(struct chat_run *run, const struct chat_value *attribute,
                         bool ignores_case, const struct chat_value *item, struct chat_value *out) {
    struct chat_value comma = CHAT_LITERAL(","), paths;
    struct getter getter = {.path = *attribute, .ignores_case = ignores_case};
    if (attribute->kind != CHAT_TEXT ||
        chat_text_find(attribute, &comma, 0, attribute->count) == UINT32_MAX)
        return get(run, &getter, item, out);
    enum err e = chat_pieces_split(run, attribute, &comma, -1, false, &paths);
    struct chat_value *parts = e ? NULL : chat_run_take(run, paths.count, sizeof *parts);
    if (!parts) return run->failed;
    for (uint32_t i = 0; !e && i < paths.count; i++) {
        getter.path = paths.items[i];
        e = get(run, &getter, item, &parts[i]);
    }
    *out = chat_value_items(CHAT_LIST, parts, paths.count);
    return e;
}

static enum err sort_keys(struct chat_run *run, const struct chat_value *list,
                          const struct chat_value *attribute, bool ignores_case,
                          struct chat_value **out) {
    struct chat_value *keys = chat_run_take(run, list->count, sizeof *keys);
    if (!keys) return run->failed;
    enum err e = ERR_OK;
    for (uint32_t i = 0; !e && i < list->count; i++)
        e = sort_key(run, attribute, ignores_case, &list->items[i], &keys[i]);
    *out = keys;
    return e;
}

static enum err sort(const struct chat_filter_call *call) {
    struct chat_value list, *keys;
    int64_t is_reverse = 0;
    enum err e = chat_iter_list(call->run, call->in, CHAT_LIST, &list);
    if (!e && call->p->kind != CHAT_MISSING)
        e = chat_eval_need_int(call->run, call->p, 0, &is_reverse);
    if (!e) e = sort_keys(call->run, &list, call->p + 2, !is_true(call->p + 1), &keys);
    return e ? e : sort_by(call->run, &list, keys, is_reverse != 0, true, call->out);
}

static enum err dict_sort(const struct chat_filter_call *call) {
    struct chat_run *run = call->run;
    struct chat_value view = *call->in, list, *keys, one = chat_value_int(0);
    bool by_value = chat_text_is(call->p + 1, "value");
    if (chat_eval_is_given(call->p + 1) && !by_value && !chat_text_is(call->p + 1, "key"))
        return chat_run_fail(run, ERR_FORMAT, "dictsort sorts by \"key\" or \"value\"");
    if (view.kind == CHAT_UNDEFINED) return chat_value_refuse_undefined(run, &view);
    if (view.kind != CHAT_DICT)
        return chat_run_fail(run, ERR_FORMAT, "dictsort needs a mapping, not '%s'",
                             chat_value_kind_name(&view));
    view.kind = CHAT_VIEW;
    view.sub = CHAT_VIEW_ITEMS;
    one.integer = by_value;
    int64_t is_reverse = 0;
    enum err e = chat_iter_list(run, &view, CHAT_LIST, &list);
    if (!e && call->p[2].kind != CHAT_MISSING)
        e = chat_eval_need_int(run, call->p + 2, 0, &is_reverse);
    if (!e) e = sort_keys(run, &list, &one, !is_true(call->p), &keys);
    return e ? e : sort_by(run, &list, keys, is_reverse != 0, false, call->out);
}

static enum err group_by(const struct chat_filter_call *call) {
    struct chat_run *run = call->run;
    struct getter getter = {call->p[0], call->p[1], !is_true(call->p + 2)};
    struct getter plain = {call->p[0], call->p[1], false};
    struct chat_value list, sorted;
    struct chat_iter_builder groups = {0};
    enum err e = chat_iter_list(run, call->in, CHAT_LIST, &list);
    struct chat_value *keys = e ? NULL : chat_run_take(run, list.count, sizeof *keys);
    if (!keys) return run->failed;
    for (uint32_t i = 0; !e && i < list.count; i++) e = get(run, &getter, &list.items[i], &keys[i]);
    if (!e) e = sort_by(run, &list, keys, false, false, &sorted);
    for (uint32_t from = 0, to; !e && from < list.count; from = to) {
        bool is_equal = true;
        for (to = from + 1; !e && to < list.count; to++) {
            e = chat_value_equal(run, &keys[from], &keys[to], &is_equal);
            if (!is_equal) break;
        }
        struct chat_value *pair = e ? NULL : chat_run_take(run, 2, sizeof *pair);
        if (!pair) return run->failed;
        e = get(run, &plain, &sorted.items[from], &pair[0]);
        pair[1] = chat_value_items(CHAT_LIST, sorted.items + from, to - from);
        struct chat_value group = chat_value_items(CHAT_TUPLE, pair, 2);
        group.sub = 1; /* .grouper and .list name its halves */
        if (!e) e = chat_iter_add(run, &groups, &group);
    }
    *call->out = chat_value_items(CHAT_LIST, groups.items, groups.count);
    return e;
}

static enum err min_max(const struct chat_filter_call *call) {
    static const char empty[] = "no aggregated item, sequence was empty";
    struct chat_run *run = call->run;
    struct getter getter = {.path = call->p[1], .ignores_case = !is_true(call->p)};
    struct chat_iter *iter;
    struct chat_value best = missing, best_key, item, key;
    enum err e = chat_iter_create(run, call->in, &iter);
    while (!e) {
        int order = call->variant ? -1 : 1;
        e = chat_iter_next(run, iter, &item);
        if (e || item.kind == CHAT_MISSING) break;
        e = get(run, &getter, &item, &key);
        bool is_first = best.kind == CHAT_MISSING;
        if (!e && !is_first)
            e = chat_value_compare(run, &key, &best_key, call->variant ? ">" : "<", &order);
        if (!is_first && order != (call->variant ? 1 : -1)) continue;
        best = item;
        best_key = key;
    }
    *call->out = best.kind != CHAT_MISSING
                     ? best
                     : chat_value_undefined(CHAT_UNDEFINED_HINT, empty, sizeof empty - 1);
    return e;
}

static enum err sum(const struct chat_filter_call *call) {
    struct chat_run *run = call->run;
    struct getter getter = {.path = call->p[0]};
    struct chat_value total = chat_value_int(0), item, value, next;
    struct chat_iter *iter;
    if (call->p[1].kind != CHAT_MISSING) total = call->p[1];
    if (total.kind == CHAT_TEXT) return chat_run_fail(run, ERR_FORMAT, "sum cannot sum strings");
    enum err e = chat_iter_create(run, call->in, &iter);
    while (!e) {
        e = chat_iter_next(run, iter, &item);
        if (e || item.kind == CHAT_MISSING) break;
        e = get(run, &getter, &item, &value);
        if (!e) e = chat_eval_arith(run, 0 /* + */, &total, &value, &next);
        total = next;
    }
    *call->out = total;
    return e;
}

static enum err length(const struct chat_filter_call *call) {
    int64_t count = 0;
    enum err e = chat_value_length(call->run, call->in, &count);
    *call->out = chat_value_int(count);
    return e;
}

static enum err list(const struct chat_filter_call *call) {
    return chat_iter_list(call->run, call->in, CHAT_LIST, call->out);
}

static enum err first(const struct chat_filter_call *call) {
    static const char empty[] = "no first item, sequence was empty";
    struct chat_iter *iter;
    enum err e = chat_iter_create(call->run, call->in, &iter);
    if (!e) e = chat_iter_next(call->run, iter, call->out);
    if (!e && call->out->kind == CHAT_MISSING)
        *call->out = chat_value_undefined(CHAT_UNDEFINED_HINT, empty, sizeof empty - 1);
    return e;
}

static enum err last(const struct chat_filter_call *call) {
    static const char empty[] = "no last item, sequence was empty";
    struct chat_value reversed;
    enum err e = chat_iter_reverse(call->run, call->in, &reversed);
    if (!e) e = chat_iter_next(call->run, reversed.iter, call->out);
    if (!e && call->out->kind == CHAT_MISSING)
        *call->out = chat_value_undefined(CHAT_UNDEFINED_HINT, empty, sizeof empty - 1);
    return e;
}

static enum err reverse(const struct chat_filter_call *call) {
    struct chat_run *run = call->run;
    const struct chat_value *in = call->in;
    struct chat_value list_value;
    if (in->kind == CHAT_TEXT) {
        struct chat_capture capture = chat_run_capture(run);
        enum err e = chat_run_spend(run, in->count / 16);
        for (uint32_t end = in->count; !e && end > 0;) {
            uint32_t from = end - 1;
            while (from > 0 && ((unsigned char) in->text[from] & 0xc0) == 0x80) from--;
            e = chat_run_out_slice(run, in, from, end);
            end = from;
        }
        return e ? e : chat_run_capture_end(run, capture, call->out);
    }
    if (in->kind != CHAT_ITER) return chat_iter_reverse(run, in, call->out);
    enum err e = chat_iter_list(run, in, CHAT_LIST, &list_value);
    struct chat_value *items = e ? NULL : chat_run_take(run, list_value.count, sizeof *items);
    if (!items) return run->failed;
    for (uint32_t i = 0; i < list_value.count; i++)
        items[i] = list_value.items[list_value.count - 1 - i];
    *call->out = chat_value_items(CHAT_LIST, items, list_value.count);
    return ERR_OK;
}

static enum err or_default(const struct chat_filter_call *call) {
    struct chat_value empty = CHAT_LITERAL("");
    bool is_absent =
        call->in->kind == CHAT_UNDEFINED || (is_true(call->p + 1) && !chat_value_is_true(call->in));
    *call->out = !is_absent ? *call->in : call->p->kind == CHAT_MISSING ? empty : *call->p;
    return ERR_OK;
}

static enum err attr(const struct chat_filter_call *call) {
    if (call->p->kind != CHAT_TEXT)
        return chat_run_fail(call->run, ERR_FORMAT, "attr needs the name of an attribute");
    uint16_t method = chat_method_find(call->p->text, call->p->count);
    if (call->in->kind == CHAT_DICT && !(method && chat_method_has(method, call->in))) {
        *call->out = chat_value_lacks(call->in, call->p->text, call->p->count);
        return ERR_OK;
    }
    return chat_eval_attr(call->run, call->in, call->p, method, call->out);
}

static enum err next_pair(struct chat_run *run, struct chat_iter *iter, struct chat_value *out) {
    *out = missing;
    if (iter->source.kind == CHAT_UNDEFINED) return ERR_OK;
    if (iter->source.kind != CHAT_DICT)
        return chat_run_fail(run, ERR_FORMAT, "can only get item pairs from a mapping");
    const struct chat_dict *dict = iter->source.dict;
    if (iter->position >= dict->count) return ERR_OK;
    struct chat_value *pair = chat_run_take(run, 2, sizeof *pair);
    if (!pair) return run->failed;
    pair[0] = dict->entries[iter->position].key;
    pair[1] = dict->entries[iter->position++].value;
    *out = chat_value_items(CHAT_TUPLE, pair, 2);
    return ERR_OK;
}

static enum err items(const struct chat_filter_call *call) {
    return chat_iter_generate(call->run, next_pair, call->in, NULL, call->out);
}

struct unique_state {
    struct getter getter;
    struct chat_dict seen;
};

static enum err next_unique(struct chat_run *run, struct chat_iter *iter, struct chat_value *out) {
    struct unique_state *state = iter->state;
    enum err e = iter->inner ? ERR_OK : chat_iter_create(run, &iter->source, &iter->inner);
    while (!e) {
        struct chat_value key;
        const struct chat_value *seen;
        e = chat_iter_next(run, iter->inner, out);
        if (e || out->kind == CHAT_MISSING) return e;
        e = get(run, &state->getter, out, &key);
        if (!e) e = chat_value_dict_get(run, &state->seen, &key, &seen);
        if (!e && !seen) return chat_value_dict_set(run, &state->seen, &key, out);
    }
    return e;
}

static enum err unique(const struct chat_filter_call *call) {
    struct unique_state *state = chat_run_take(call->run, 1, sizeof *state);
    if (!state) return call->run->failed;
    memset(state, 0, sizeof *state);
    state->getter = (struct getter){.path = call->p[1], .ignores_case = !is_true(call->p)};
    return chat_iter_generate(call->run, next_unique, call->in, state, call->out);
}

/* batch and slice */

struct rows_state {
    struct chat_value count;
    struct chat_value fill;
    struct chat_value list;
    struct chat_value pending;
    int64_t offset;
};

/* A row ends when its length equals the count and one more item is there. */
static enum err next_batch(struct chat_run *run, struct chat_iter *iter, struct chat_value *out) {
    struct rows_state *state = iter->state;
    struct chat_iter_builder row = {0};
    bool is_full = false;
    enum err e = iter->inner ? ERR_OK : chat_iter_create(run, &iter->source, &iter->inner);
    if (!e && state->pending.kind != CHAT_MISSING) e = chat_iter_add(run, &row, &state->pending);
    state->pending = missing;
    while (!e) {
        struct chat_value item, count = chat_value_int(row.count);
        e = chat_iter_next(run, iter->inner, &item);
        if (e || item.kind == CHAT_MISSING) break;
        e = chat_value_equal(run, &count, &state->count, &is_full);
        if (is_full) state->pending = item;
        if (e || is_full) break;
        e = chat_iter_add(run, &row, &item);
    }
    *out = missing;
    if (e || (row.count == 0 && !is_full)) return e;
    if (!is_full && chat_eval_is_given(&state->fill)) {
        struct chat_value count = chat_value_int(row.count);
        int64_t wanted = 0;
        int order = 0;
        e = chat_value_compare(run, &count, &state->count, "<", &order);
        if (!e && order < 0) e = chat_eval_need_int(run, &state->count, 0, &wanted);
        while (!e && (int64_t) row.count < wanted) {
            e = chat_run_spend(run, 1);
            if (!e) e = chat_iter_add(run, &row, &state->fill);
        }
    }
    *out = chat_value_items(CHAT_LIST, row.items, row.count);
    return e;
}

static enum err next_slice(struct chat_run *run, struct chat_iter *iter, struct chat_value *out) {
    struct rows_state *state = iter->state;
    int64_t slices, number = iter->position;
    enum err e = chat_eval_need_int(run, &state->count, 0, &slices);
    if (!e && slices == 0) e = chat_run_fail(run, ERR_FORMAT, "division by zero");
    if (!e && number == 0) e = chat_iter_list(run, &iter->source, CHAT_LIST, &state->list);
    *out = missing;
    if (e || number >= slices) return e;
    int64_t each = state->list.count / slices, extra = state->list.count % slices;
    int64_t start = state->offset + number * each;
    if (number < extra) state->offset++;
    int64_t end = state->offset + (number + 1) * each;
    iter->position++;
    struct chat_iter_builder row = {0};
    for (int64_t i = start; !e && i < end; i++) e = chat_iter_add(run, &row, &state->list.items[i]);
    if (!e && chat_eval_is_given(&state->fill) && number >= extra)
        e = chat_iter_add(run, &row, &state->fill);
    *out = chat_value_items(CHAT_LIST, row.items, row.count);
    return e;
}

static enum err rows(const struct chat_filter_call *call) {
    struct rows_state *state = chat_run_take(call->run, 1, sizeof *state);
    if (!state) return call->run->failed;
    *state = (struct rows_state){.count = call->p[0], .fill = call->p[1]};
    return chat_iter_generate(call->run, call->variant ? next_slice : next_batch, call->in, state,
                              call->out);
}

/* clang-format off */
const struct chat_filter_entry chat_filter_list_table[] = {
    {"length", 0, 0, false, length, {NULL}},
    {"count", 0, 0, false, length, {NULL}},
    {"selectattr", APPLY_SELECT_ATTR, 0, true, apply, {NULL}},
    {"rejectattr", APPLY_REJECT_ATTR, 0, true, apply, {NULL}},
    {"select", APPLY_SELECT, 0, true, apply, {NULL}},
    {"reject", APPLY_REJECT, 0, true, apply, {NULL}},
    {"map", APPLY_MAP, 0, true, apply, {NULL}},
    {"list", 0, 0, false, list, {NULL}},
    {"join", 0, 0, false, join, {"d", "attribute"}},
    {"items", 0, 0, false, items, {NULL}},
    {"default", 0, 0, false, or_default, {"default_value", "boolean"}},
    {"d", 0, 0, false, or_default, {"default_value", "boolean"}},
    {"first", 0, 0, false, first, {NULL}},
    {"last", 0, 0, false, last, {NULL}},
    {"reverse", 0, 0, false, reverse, {NULL}},
    {"sort", 0, 0, false, sort, {"reverse", "case_sensitive", "attribute"}},
    {"dictsort", 0, 0, false, dict_sort, {"case_sensitive", "by", "reverse"}},
    {"unique", 0, 0, false, unique, {"case_sensitive", "attribute"}},
    {"groupby", 0, 1, false, group_by, {"attribute", "default", "case_sensitive"}},
    {"min", 0, 0, false, min_max, {"case_sensitive", "attribute"}},
    {"max", 1, 0, false, min_max, {"case_sensitive", "attribute"}},
    {"sum", 0, 0, false, sum, {"attribute", "start"}},
    {"attr", 0, 1, false, attr, {"name"}},
    {"batch", 0, 1, false, rows, {"linecount", "fill_with"}},
    {"slice", 1, 1, false, rows, {"slices", "fill_with"}},
    {NULL, 0, 0, false, NULL, {NULL}},
};
/* clang-format on */
