/* chat_value - see chat_value.h. */
#include "chat/chat_value.h"

#include <math.h>
#include <string.h>

#include "chat/chat_iter.h"
#include "chat/chat_run.h"
#include "chat/chat_text.h"

#define DICT_INDEX_FROM 12u /* entries; fewer are searched one by one */

const struct chat_marks chat_value_all;

static const char *const kind_names[] = {
    [CHAT_MISSING] = "missing",   [CHAT_UNDEFINED] = "Undefined",
    [CHAT_NONE] = "NoneType",     [CHAT_BOOL] = "bool",
    [CHAT_INT] = "int",           [CHAT_REAL] = "float",
    [CHAT_TEXT] = "str",          [CHAT_LIST] = "list",
    [CHAT_TUPLE] = "tuple",       [CHAT_DICT] = "dict",
    [CHAT_VIEW] = "dict view",    [CHAT_RANGE] = "range",
    [CHAT_ITER] = "generator",    [CHAT_SPACE] = "Namespace",
    [CHAT_FUNCTION] = "function", [CHAT_METHOD] = "method",
    [CHAT_MACRO] = "Macro",       [CHAT_LOOP] = "LoopContext",
    [CHAT_CYCLER] = "Cycler",     [CHAT_JOINER] = "Joiner",
};

const char *chat_value_kind_name(const struct chat_value *value) { return kind_names[value->kind]; }

struct chat_value chat_value_lacks(const struct chat_value *object, const char *name,
                                   uint32_t bytes) {
    return chat_value_undefined((enum chat_undefined)(CHAT_UNDEFINED_OF + object->kind), name,
                                bytes);
}

enum err chat_value_refuse_undefined(struct chat_run *run, const struct chat_value *value) {
    int bytes = value->count > 200 ? 200 : (int) value->count;
    if (value->sub == CHAT_UNDEFINED_NAME)
        return chat_run_fail(run, ERR_FORMAT, "'%.*s' is undefined", bytes, value->text);
    if (value->sub == CHAT_UNDEFINED_HINT)
        return chat_run_fail(run, ERR_FORMAT, "%.*s", bytes, value->text);
    if (value->sub == CHAT_UNDEFINED_UNSAFE)
        return chat_run_fail(run, ERR_FORMAT, "access to attribute '%.*s' is unsafe", bytes,
                             value->text);
    const char *kind = kind_names[value->sub - CHAT_UNDEFINED_OF];
    return chat_run_fail(run, ERR_FORMAT, "'%s object' has no attribute '%.*s'", kind, bytes,
                         value->text);
}

bool chat_value_is_true(const struct chat_value *value) {
    switch (value->kind) {
    case CHAT_MISSING:
    case CHAT_UNDEFINED:
    case CHAT_NONE: return false;
    case CHAT_BOOL:
    case CHAT_INT: return value->integer != 0;
    case CHAT_REAL: return value->real != 0;
    case CHAT_TEXT:
    case CHAT_LIST:
    case CHAT_TUPLE: return value->count != 0;
    case CHAT_DICT:
    case CHAT_VIEW: return value->dict->count != 0;
    case CHAT_RANGE: return value->range->count != 0;
    case CHAT_LOOP: return true; /* it has a length, and that is never 0 inside it */
    default: return true;
    }
}

enum err chat_value_length(struct chat_run *run, const struct chat_value *value, int64_t *out) {
    switch (value->kind) {
    case CHAT_UNDEFINED: *out = 0; return ERR_OK;
    case CHAT_TEXT: *out = chat_text_length(value); return chat_run_spend(run, value->count / 64);
    case CHAT_LIST:
    case CHAT_TUPLE: *out = value->count; return ERR_OK;
    case CHAT_DICT:
    case CHAT_VIEW: *out = value->dict->count; return ERR_OK;
    case CHAT_RANGE: *out = value->range->count; return ERR_OK;
    case CHAT_LOOP: return chat_iter_loop_length(run, value->loop, out);
    default:
        return chat_run_fail(run, ERR_FORMAT, "an object of type '%s' has no length",
                             chat_value_kind_name(value));
    }
}

bool chat_value_same(const struct chat_value *a, const struct chat_value *b) {
    if (a->kind != b->kind) return false;
    switch (a->kind) {
    case CHAT_UNDEFINED:
    case CHAT_NONE: return true;
    case CHAT_TEXT: return a->text == b->text && a->count == b->count;
    case CHAT_LIST:
    case CHAT_TUPLE: return a->items == b->items && a->count == b->count;
    default: return a->integer == b->integer;
    }
}

static enum err equal(struct chat_run *run, const struct chat_value *a, const struct chat_value *b,
                      uint32_t depth, bool *out);

static enum err equal_dict(struct chat_run *run, const struct chat_dict *a,
                           const struct chat_dict *b, uint32_t depth, bool *out) {
    *out = a->count == b->count;
    for (uint32_t i = 0; *out && i < a->count; i++) {
        const struct chat_value *other;
        enum err e = chat_value_dict_get(run, b, &a->entries[i].key, &other);
        if (e) return e;
        *out = other != NULL;
        if (other) e = equal(run, &a->entries[i].value, other, depth + 1, out);
        if (e) return e;
    }
    return ERR_OK;
}

static enum err equal(struct chat_run *run, const struct chat_value *a, const struct chat_value *b,
                      uint32_t depth, bool *out) {
    if (depth > CHAT_RUN_VALUE_DEPTH_MAX)
        return chat_run_fail(run, ERR_LIMIT, "a value is nested too deeply to be compared");
    enum err e = chat_run_spend(run, 1);
    if (e) return e;
    if (chat_value_is_number(a) && chat_value_is_number(b)) {
        *out = a->kind != CHAT_REAL && b->kind != CHAT_REAL
                   ? a->integer == b->integer
                   : chat_value_as_real(a) == chat_value_as_real(b);
        return ERR_OK;
    }
    *out = false;
    if (a->kind != b->kind) return ERR_OK;
    switch (a->kind) {
    case CHAT_UNDEFINED: *out = true; return ERR_OK;
    case CHAT_TEXT:
        *out = a->count == b->count && memcmp(a->text, b->text, a->count) == 0;
        return *out ? chat_run_spend(run, a->count / 64) : ERR_OK;
    case CHAT_LIST:
    case CHAT_TUPLE:
        *out = a->count == b->count;
        for (uint32_t i = 0; *out && !e && i < a->count; i++)
            if (!chat_value_same(&a->items[i], &b->items[i]) || a->items[i].kind == CHAT_REAL)
                e = equal(run, &a->items[i], &b->items[i], depth + 1, out);
        return e;
    case CHAT_DICT: return equal_dict(run, a->dict, b->dict, depth, out);
    case CHAT_RANGE:
        *out =
            a->range->count == b->range->count &&
            (a->range->count == 0 || (a->range->start == b->range->start &&
                                      (a->range->count == 1 || a->range->step == b->range->step)));
        return ERR_OK;
    default: *out = chat_value_same(a, b) && a->sub == b->sub; return ERR_OK;
    }
}

enum err chat_value_equal(struct chat_run *run, const struct chat_value *a,
                          const struct chat_value *b, bool *out) {
    return equal(run, a, b, 0, out);
}

static int compare_text(const struct chat_value *a, const struct chat_value *b) {
    uint32_t common = a->count < b->count ? a->count : b->count;
    int order = memcmp(a->text, b->text, common); /* UTF-8 sorts as code points do */
    if (order) return order < 0 ? -1 : 1;
    return a->count == b->count ? 0 : a->count < b->count ? -1 : 1;
}

static enum err compare(struct chat_run *run, const struct chat_value *a,
                        const struct chat_value *b, const char *operator_name, uint32_t depth,
                        int *out) {
    if (depth > CHAT_RUN_VALUE_DEPTH_MAX)
        return chat_run_fail(run, ERR_LIMIT, "a value is nested too deeply to be compared");
    enum err e = chat_run_spend(run, 1);
    if (e) return e;
    if (chat_value_is_number(a) && chat_value_is_number(b)) {
        if (a->kind != CHAT_REAL && b->kind != CHAT_REAL) {
            *out = a->integer == b->integer ? 0 : a->integer < b->integer ? -1 : 1;
        } else {
            double x = chat_value_as_real(a), y = chat_value_as_real(b);
            *out = isnan(x) || isnan(y) ? 2 : x == y ? 0 : x < y ? -1 : 1;
        }
        return ERR_OK;
    }
    if (a->kind == CHAT_UNDEFINED) return chat_value_refuse_undefined(run, a);
    if (b->kind == CHAT_UNDEFINED) return chat_value_refuse_undefined(run, b);
    if (a->kind == CHAT_TEXT && b->kind == CHAT_TEXT) {
        *out = compare_text(a, b);
        return chat_run_spend(run, (a->count < b->count ? a->count : b->count) / 64);
    }
    if (a->kind == b->kind && chat_value_is_sequence(a)) {
        for (uint32_t i = 0; i < a->count && i < b->count; i++) {
            bool is_equal;
            e = equal(run, &a->items[i], &b->items[i], depth + 1, &is_equal);
            if (e) return e;
            if (!is_equal)
                return compare(run, &a->items[i], &b->items[i], operator_name, depth + 1, out);
        }
        *out = a->count == b->count ? 0 : a->count < b->count ? -1 : 1;
        return ERR_OK;
    }
    return chat_run_fail(run, ERR_FORMAT, "'%s' is not supported between '%s' and '%s'",
                         operator_name, chat_value_kind_name(a), chat_value_kind_name(b));
}

enum err chat_value_compare(struct chat_run *run, const struct chat_value *a,
                            const struct chat_value *b, const char *operator_name, int *out) {
    return compare(run, a, b, operator_name, 0, out);
}

static enum err contains_item(struct chat_run *run, const struct chat_value *hay,
                              const struct chat_value *needle, bool *out) {
    struct chat_iter *iter;
    enum err e = chat_iter_create(run, hay, &iter);
    *out = false;
    while (!e && !*out) {
        struct chat_value item;
        e = chat_iter_next(run, iter, &item);
        if (e || item.kind == CHAT_MISSING) break;
        *out = chat_value_same(&item, needle);
        if (!*out) e = chat_value_equal(run, &item, needle, out);
    }
    return e;
}

enum err chat_value_contains(struct chat_run *run, const struct chat_value *hay,
                             const struct chat_value *needle, bool *out) {
    if (hay->kind == CHAT_TEXT) {
        if (needle->kind != CHAT_TEXT)
            return chat_run_fail(run, ERR_FORMAT,
                                 "'in <string>' requires a string on its left, not '%s'",
                                 chat_value_kind_name(needle));
        *out = needle->count == 0 ||
               memmem(hay->text, hay->count, needle->text, needle->count) != NULL;
        return chat_run_spend(run, hay->count / 64);
    }
    if (hay->kind == CHAT_DICT || (hay->kind == CHAT_VIEW && hay->sub == CHAT_VIEW_KEYS)) {
        const struct chat_value *found;
        enum err e = chat_value_dict_get(run, hay->dict, needle, &found);
        *out = !e && found;
        return e;
    }
    return contains_item(run, hay, needle, out);
}

static bool is_hashable(const struct chat_value *value, uint32_t depth) {
    if (value->kind == CHAT_LIST || value->kind == CHAT_DICT) return false;
    if (value->kind != CHAT_TUPLE || depth > CHAT_RUN_VALUE_DEPTH_MAX) return true;
    for (uint32_t i = 0; i < value->count; i++)
        if (!is_hashable(&value->items[i], depth + 1)) return false;
    return true;
}

bool chat_value_is_hashable(const struct chat_value *value) { return is_hashable(value, 0); }

static uint32_t hash_bytes(const char *data, uint32_t bytes) {
    uint32_t hash = 2166136261u; /* FNV-1a; only dicts of a dozen keys and more are indexed */
    for (uint32_t i = 0; i < bytes; i++) hash = (hash ^ (unsigned char) data[i]) * 16777619u;
    return hash;
}

static enum err hash_value(struct chat_run *run, const struct chat_value *key, uint32_t depth,
                           uint32_t *out) {
    uint64_t bits = 0;
    enum err e = ERR_OK;
    switch (key->kind) {
    case CHAT_TEXT: *out = hash_bytes(key->text, key->count); return ERR_OK;
    case CHAT_REAL:
        if (key->real == floor(key->real) && fabs(key->real) < 9e18)
            bits = (uint64_t) (int64_t) key->real;
        else memcpy(&bits, &key->real, sizeof bits);
        break;
    case CHAT_TUPLE:
        if (depth > CHAT_RUN_VALUE_DEPTH_MAX)
            return chat_run_fail(run, ERR_LIMIT, "a key is nested too deeply");
        for (uint32_t i = 0; !e && i < key->count; i++) {
            uint32_t hash = 0;
            e = hash_value(run, &key->items[i], depth + 1, &hash);
            bits = bits * 31 + hash;
        }
        break;
    case CHAT_LIST:
    case CHAT_DICT:
        return chat_run_fail(run, ERR_FORMAT, "unhashable type: '%s'", chat_value_kind_name(key));
    case CHAT_VIEW:
        if (key->sub != CHAT_VIEW_VALUES)
            return chat_run_fail(run, ERR_FORMAT, "unhashable type: 'dict view'");
        bits = (uint64_t) key->integer;
        break;
    case CHAT_UNDEFINED:
    case CHAT_NONE: bits = key->kind; break;
    default: bits = (uint64_t) key->integer; break;
    }
    *out = (uint32_t) ((bits ^ bits >> 32) * 2654435761u);
    return e;
}

static enum err find_entry(struct chat_run *run, const struct chat_dict *dict,
                           const struct chat_value *key, uint32_t hash, uint32_t *out) {
    enum err e = chat_run_spend(run, 1);
    bool is_equal = false;
    *out = UINT32_MAX;
    if (!dict->index) {
        for (uint32_t i = 0; !e && i < dict->count; i++) {
            if (dict->entries[i].hash != hash) continue;
            e = chat_value_equal(run, &dict->entries[i].key, key, &is_equal);
            if (e || !is_equal) continue;
            *out = i;
            break;
        }
        return e;
    }
    for (uint32_t at = hash & dict->index_mask; !e && dict->index[at];
         at = (at + 1) & dict->index_mask) {
        uint32_t i = dict->index[at] - 1;
        if (dict->entries[i].hash != hash) {
            e = chat_run_spend(run, 1);
            continue;
        }
        e = chat_value_equal(run, &dict->entries[i].key, key, &is_equal);
        if (e || !is_equal) continue;
        *out = i;
        break;
    }
    return e;
}

static void index_add(struct chat_dict *dict, uint32_t entry) {
    uint32_t at = dict->entries[entry].hash & dict->index_mask;
    while (dict->index[at]) at = (at + 1) & dict->index_mask;
    dict->index[at] = entry + 1;
}

static enum err dict_grow(struct chat_run *run, struct chat_dict *dict) {
    uint32_t room = dict->room ? dict->room * 2 : 4;
    struct chat_entry *entries = chat_run_take(run, room, sizeof *entries);
    if (!entries) return run->failed;
    if (dict->count) memcpy(entries, dict->entries, dict->count * sizeof *entries);
    dict->entries = entries;
    dict->room = room;
    if (room < DICT_INDEX_FROM) return ERR_OK;
    dict->index = chat_run_take(run, (size_t) room * 2, sizeof *dict->index);
    if (!dict->index) return run->failed;
    memset(dict->index, 0, (size_t) room * 2 * sizeof *dict->index);
    dict->index_mask = room * 2 - 1;
    for (uint32_t i = 0; i < dict->count; i++) index_add(dict, i);
    return ERR_OK;
}

enum err chat_value_dict_set(struct chat_run *run, struct chat_dict *dict,
                             const struct chat_value *key, const struct chat_value *value) {
    uint32_t hash = 0, at = 0;
    enum err e = hash_value(run, key, 0, &hash);
    if (!e) e = find_entry(run, dict, key, hash, &at);
    if (e) return e;
    if (at != UINT32_MAX) {
        dict->entries[at].value = *value;
        return ERR_OK;
    }
    if (dict->count == dict->room) e = dict_grow(run, dict);
    if (e) return e;
    dict->entries[dict->count] = (struct chat_entry){*key, *value, hash};
    if (dict->index) index_add(dict, dict->count);
    dict->count++;
    return ERR_OK;
}

enum err chat_value_dict_get(struct chat_run *run, const struct chat_dict *dict,
                             const struct chat_value *key, const struct chat_value **out) {
    uint32_t hash = 0, at = 0;
    *out = NULL;
    enum err e = hash_value(run, key, 0, &hash);
    if (!e) e = find_entry(run, dict, key, hash, &at);
    if (!e && at != UINT32_MAX) *out = &dict->entries[at].value;
    return e;
}

const struct chat_value *chat_value_dict_find(const struct chat_dict *dict, const char *key,
                                              uint32_t bytes) {
    if (dict->index) {
        uint32_t hash = hash_bytes(key, bytes);
        for (uint32_t at = hash & dict->index_mask; dict->index[at];
             at = (at + 1) & dict->index_mask) {
            const struct chat_entry *entry = &dict->entries[dict->index[at] - 1];
            if (entry->hash == hash && entry->key.kind == CHAT_TEXT && entry->key.count == bytes &&
                memcmp(entry->key.text, key, bytes) == 0)
                return &entry->value;
        }
        return NULL;
    }
    for (uint32_t i = 0; i < dict->count; i++) {
        const struct chat_entry *entry = &dict->entries[i];
        if (entry->key.kind == CHAT_TEXT && entry->key.count == bytes &&
            memcmp(entry->key.text, key, bytes) == 0)
            return &entry->value;
    }
    return NULL;
}
