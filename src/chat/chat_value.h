/* chat_value - what a template computes with: Python's values as far as templates see them.
 *
 * A value is 24 bytes and passed by copy.  What it points to lives in the arena of the rendering,
 * in the template, or in the caller's JSON; nothing is freed before the rendering ends.  Lists,
 * tuples, dicts and texts never change once made (the sandbox of the reference refuses every
 * method that would change them), so slices share memory.  Only namespaces, iterators, loops and
 * cyclers have state.
 *
 * A text carries marks: which of its bytes came from the user.  One thread, the rendering's. */
#ifndef GRAMME_CHAT_CHAT_VALUE_H
#define GRAMME_CHAT_CHAT_VALUE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/err.h"

struct chat_run;
struct chat_node;
struct chat_iter;
struct chat_frame;

enum chat_kind {
    CHAT_MISSING = 0, /* no value at all: an unset variable, an argument that was not given */
    CHAT_UNDEFINED,
    CHAT_NONE,
    CHAT_BOOL,
    CHAT_INT,
    CHAT_REAL,
    CHAT_TEXT,
    CHAT_LIST,
    CHAT_TUPLE,
    CHAT_DICT,
    CHAT_VIEW, /* dict.keys(), .values(), .items(); sub says which */
    CHAT_RANGE,
    CHAT_ITER, /* a generator: lazy, and gone once consumed */
    CHAT_SPACE,
    CHAT_FUNCTION, /* a global; sub is its number */
    CHAT_METHOD,   /* bound to box[0]; sub is its number */
    CHAT_MACRO,
    CHAT_LOOP,
    CHAT_CYCLER,
    CHAT_JOINER,
};

enum chat_view { CHAT_VIEW_KEYS, CHAT_VIEW_VALUES, CHAT_VIEW_ITEMS };

/* sub of an undefined: what text/count hold, for the message when it is used. */
enum chat_undefined {
    CHAT_UNDEFINED_NAME,   /* the name of a variable */
    CHAT_UNDEFINED_HINT,   /* a whole sentence */
    CHAT_UNDEFINED_UNSAFE, /* an attribute that the sandbox refuses */
    CHAT_UNDEFINED_OF,     /* plus the kind of the object that lacks the attribute */
};

struct chat_span {
    uint32_t first;
    uint32_t end;
};

/* Sorted, disjoint, not adjacent, within the text, and not the whole of it. */
struct chat_marks {
    uint32_t count;
    struct chat_span spans[];
};

/* Stands for "every byte"; NULL stands for "none". */
extern const struct chat_marks chat_value_all;

struct chat_value {
    uint8_t kind;
    uint8_t sub;
    bool is_markup; /* a text that |safe or |escape made: joining with it escapes HTML */
    uint32_t count; /* bytes of a text, items of a list or tuple */
    union {
        int64_t integer;
        double real;
        const char *text;
        const struct chat_value *items;
        const struct chat_dict *dict;
        const struct chat_range_object *range;
        struct chat_iter *iter;
        struct chat_space *space;
        struct chat_value *box;
        struct chat_macro *macro;
        struct chat_loop *loop;
        struct chat_cycler *cycler;
    };
    const struct chat_marks *marks; /* of a text */
};

struct chat_entry {
    struct chat_value key;
    struct chat_value value;
    uint32_t hash;
};

struct chat_dict {
    uint32_t count;
    uint32_t room;
    struct chat_entry *entries; /* in order of insertion */
    uint32_t *index;            /* entry + 1 by hash, 0: none; NULL in small dicts */
    uint32_t index_mask;
};

struct chat_range_object {
    int64_t start;
    int64_t step;
    int64_t count;
};

struct chat_space {
    struct chat_dict dict;
};

struct chat_macro {
    const struct chat_node *node;
    struct chat_frame *closure;
};

struct chat_cycler {
    const struct chat_value *items;
    uint32_t count;
    uint32_t position;
};

/* The activation of one function of the template: the root, a macro, a loop's filter. */
struct chat_frame {
    struct chat_frame *up;
    struct chat_value slots[];
};

static inline struct chat_value chat_value_none(void) {
    return (struct chat_value){.kind = CHAT_NONE};
}
static inline struct chat_value chat_value_bool(bool yes) {
    return (struct chat_value){.kind = CHAT_BOOL, .integer = yes};
}
static inline struct chat_value chat_value_int(int64_t integer) {
    return (struct chat_value){.kind = CHAT_INT, .integer = integer};
}
static inline struct chat_value chat_value_real(double real) {
    return (struct chat_value){.kind = CHAT_REAL, .real = real};
}
static inline struct chat_value chat_value_text(const char *text, uint32_t bytes) {
    return (struct chat_value){.kind = CHAT_TEXT, .count = bytes, .text = text};
}
static inline struct chat_value chat_value_items(enum chat_kind kind,
                                                 const struct chat_value *items, uint32_t count) {
    return (struct chat_value){.kind = (uint8_t) kind, .count = count, .items = items};
}
static inline struct chat_value chat_value_undefined(enum chat_undefined sub, const char *text,
                                                     uint32_t bytes) {
    return (struct chat_value){
        .kind = CHAT_UNDEFINED, .sub = (uint8_t) sub, .count = bytes, .text = text};
}
static inline bool chat_value_is_number(const struct chat_value *value) {
    return value->kind >= CHAT_BOOL && value->kind <= CHAT_REAL;
}
static inline bool chat_value_is_integer(const struct chat_value *value) {
    return value->kind == CHAT_INT || value->kind == CHAT_BOOL;
}
static inline double chat_value_as_real(const struct chat_value *value) {
    return value->kind == CHAT_REAL ? value->real : (double) value->integer;
}
static inline bool chat_value_is_sequence(const struct chat_value *value) {
    return value->kind == CHAT_LIST || value->kind == CHAT_TUPLE;
}

/* Undefined because `object` has no attribute or item of that name. */
struct chat_value chat_value_lacks(const struct chat_value *object, const char *name,
                                   uint32_t bytes);
/* The Python name of the kind: "str", "dict" ... */
const char *chat_value_kind_name(const struct chat_value *value);
/* Fails with what was undefined; for every use of an undefined that the reference refuses. */
MUST_USE enum err chat_value_refuse_undefined(struct chat_run *run, const struct chat_value *value);
MUST_USE bool chat_value_is_true(const struct chat_value *value);
/* The items of a list, tuple, view, dict or range, the code points of a text; ERR_FORMAT for what
 * has no length. */
MUST_USE enum err chat_value_length(struct chat_run *run, const struct chat_value *value,
                                    int64_t *out);
/* Python's ==. */
MUST_USE enum err chat_value_equal(struct chat_run *run, const struct chat_value *a,
                                   const struct chat_value *b, bool *out);
/* -1, 0, 1 for < = >; 2 where a NaN makes every comparison false. */
MUST_USE enum err chat_value_compare(struct chat_run *run, const struct chat_value *a,
                                     const struct chat_value *b, const char *operator_name,
                                     int *out);
/* Python's `needle in hay`. */
MUST_USE enum err chat_value_contains(struct chat_run *run, const struct chat_value *hay,
                                      const struct chat_value *needle, bool *out);
bool chat_value_same(const struct chat_value *a, const struct chat_value *b);

/* Whether it can be a key: no list or dict in it. */
bool chat_value_is_hashable(const struct chat_value *value);
/* ERR_FORMAT for keys without a hash (lists, dicts). */
MUST_USE enum err chat_value_dict_set(struct chat_run *run, struct chat_dict *dict,
                                      const struct chat_value *key, const struct chat_value *value);
/* *out is NULL when the key is not there. */
MUST_USE enum err chat_value_dict_get(struct chat_run *run, const struct chat_dict *dict,
                                      const struct chat_value *key, const struct chat_value **out);
const struct chat_value *chat_value_dict_find(const struct chat_dict *dict, const char *key,
                                              uint32_t bytes);

#endif
