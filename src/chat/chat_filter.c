/* chat_filter - see chat_filter.h.  The dispatch, and the tests. */
#include "chat/chat_filter.h"

#include <string.h>

#include "chat/chat_iter.h"
#include "chat/chat_method.h"
#include "chat/chat_number.h"
#include "chat/chat_text.h"

static const struct chat_filter_entry *const tables[] = {chat_filter_text_table,
                                                         chat_filter_list_table};

#define TABLE_SHIFT 16 /* a filter's number: its table, and its place there */

uint32_t chat_filter_find(const char *name, uint32_t bytes) {
    for (uint32_t t = 0; t < ARRAY_COUNT(tables); t++)
        for (uint32_t i = 0; tables[t][i].name; i++)
            if (strlen(tables[t][i].name) == bytes && memcmp(tables[t][i].name, name, bytes) == 0)
                return t << TABLE_SHIFT | i;
    return CHAT_NODE_NO_SLOT;
}

enum err chat_filter_apply(struct chat_run *run, uint32_t filter, const struct chat_value *in,
                           const struct chat_args *args, struct chat_value *out) {
    const struct chat_filter_entry *entry =
        &tables[filter >> TABLE_SHIFT][filter & ((1u << TABLE_SHIFT) - 1)];
    struct chat_value parameters[CHAT_FILTER_PARAMETERS_MAX];
    struct chat_filter_call call = {run, in, parameters, args, entry->variant, out};
    enum err e = ERR_OK;
    if (!entry->is_free)
        e = chat_eval_bind(run, entry->name, entry->parameters, entry->required, args, parameters);
    return e ? e : entry->call(&call);
}

enum test_kind {
    TEST_DEFINED,
    TEST_UNDEFINED,
    TEST_NONE,
    TEST_BOOLEAN,
    TEST_FALSE,
    TEST_TRUE,
    TEST_INTEGER,
    TEST_FLOAT,
    TEST_NUMBER,
    TEST_STRING,
    TEST_MAPPING,
    TEST_SEQUENCE,
    TEST_ITERABLE,
    TEST_CALLABLE,
    TEST_ESCAPED,
    TEST_ODD,
    TEST_EVEN,
    TEST_LOWER,
    TEST_UPPER,
    TEST_FILTER,
    TEST_TEST,
    TEST_ONE_ARGUMENT, /* those below take one */
    TEST_SAMEAS,
    TEST_DIVISIBLE,
    TEST_COMPARE,
};

struct test {
    const char *name;
    uint8_t kind;
    uint8_t compare;
};

static const struct test tests[] = {
    {"defined", TEST_DEFINED, 0},
    {"undefined", TEST_UNDEFINED, 0},
    {"none", TEST_NONE, 0},
    {"string", TEST_STRING, 0},
    {"mapping", TEST_MAPPING, 0},
    {"iterable", TEST_ITERABLE, 0},
    {"sequence", TEST_SEQUENCE, 0},
    {"false", TEST_FALSE, 0},
    {"true", TEST_TRUE, 0},
    {"boolean", TEST_BOOLEAN, 0},
    {"number", TEST_NUMBER, 0},
    {"integer", TEST_INTEGER, 0},
    {"float", TEST_FLOAT, 0},
    {"callable", TEST_CALLABLE, 0},
    {"escaped", TEST_ESCAPED, 0},
    {"odd", TEST_ODD, 0},
    {"even", TEST_EVEN, 0},
    {"lower", TEST_LOWER, 0},
    {"upper", TEST_UPPER, 0},
    {"filter", TEST_FILTER, 0},
    {"test", TEST_TEST, 0},
    {"sameas", TEST_SAMEAS, 0},
    {"divisibleby", TEST_DIVISIBLE, 0},
    {"in", TEST_COMPARE, CHAT_IN},
    {"==", TEST_COMPARE, CHAT_EQ},
    {"eq", TEST_COMPARE, CHAT_EQ},
    {"equalto", TEST_COMPARE, CHAT_EQ},
    {"!=", TEST_COMPARE, CHAT_NE},
    {"ne", TEST_COMPARE, CHAT_NE},
    {">", TEST_COMPARE, CHAT_GT},
    {"gt", TEST_COMPARE, CHAT_GT},
    {"greaterthan", TEST_COMPARE, CHAT_GT},
    {"ge", TEST_COMPARE, CHAT_GE},
    {">=", TEST_COMPARE, CHAT_GE},
    {"<", TEST_COMPARE, CHAT_LT},
    {"lt", TEST_COMPARE, CHAT_LT},
    {"lessthan", TEST_COMPARE, CHAT_LT},
    {"<=", TEST_COMPARE, CHAT_LE},
    {"le", TEST_COMPARE, CHAT_LE},
};

uint32_t chat_filter_find_test(const char *name, uint32_t bytes) {
    for (uint32_t i = 0; i < ARRAY_COUNT(tests); i++)
        if (strlen(tests[i].name) == bytes && memcmp(tests[i].name, name, bytes) == 0) return i;
    return CHAT_NODE_NO_SLOT;
}

static bool is_of_kind(enum test_kind kind, const struct chat_value *in) {
    switch (kind) {
    case TEST_DEFINED: return in->kind != CHAT_UNDEFINED;
    case TEST_UNDEFINED: return in->kind == CHAT_UNDEFINED;
    case TEST_NONE: return in->kind == CHAT_NONE;
    case TEST_BOOLEAN: return in->kind == CHAT_BOOL;
    case TEST_FALSE: return in->kind == CHAT_BOOL && !in->integer;
    case TEST_TRUE: return in->kind == CHAT_BOOL && in->integer;
    case TEST_INTEGER: return in->kind == CHAT_INT;
    case TEST_FLOAT: return in->kind == CHAT_REAL;
    case TEST_NUMBER: return chat_value_is_number(in);
    case TEST_STRING: return in->kind == CHAT_TEXT;
    case TEST_MAPPING: return in->kind == CHAT_DICT;
    case TEST_SEQUENCE: /* it has a length and items: so has the reference's undefined */
        return in->kind == CHAT_TEXT || in->kind == CHAT_DICT || in->kind == CHAT_RANGE ||
               in->kind == CHAT_UNDEFINED || chat_value_is_sequence(in);
    case TEST_ITERABLE: return chat_iter_is_possible(in);
    case TEST_CALLABLE:
        return in->kind == CHAT_FUNCTION || in->kind == CHAT_METHOD || in->kind == CHAT_MACRO ||
               in->kind == CHAT_LOOP || in->kind == CHAT_JOINER || in->kind == CHAT_UNDEFINED;
    default: return in->kind == CHAT_TEXT && in->is_markup;
    }
}

/* in % divisor == rest */
static enum err has_rest(struct chat_run *run, const struct chat_value *in,
                         const struct chat_value *divisor, int64_t rest, bool *out) {
    struct chat_value result, wanted = chat_value_int(rest);
    enum err e = chat_eval_arith(run, CHAT_MOD, in, divisor, &result);
    return e ? e : chat_value_equal(run, &result, &wanted, out);
}

static enum err is_in_case(struct chat_run *run, bool is_upper, const struct chat_value *in,
                           bool *out) {
    struct chat_value text, result;
    struct chat_args none = {0};
    enum err e = chat_text_out_copy(run, in, &text);
    uint16_t method = is_upper ? chat_method_find("isupper", 7) : chat_method_find("islower", 7);
    if (!e) e = chat_method_call(run, method, &text, &none, &result);
    if (!e) *out = chat_value_is_true(&result);
    return e;
}

/* Whether a filter, or a test, has this name. */
static enum err is_name_of(struct chat_run *run, bool of_filter, const struct chat_value *in,
                           bool *out) {
    if (!chat_value_is_hashable(in))
        return chat_run_fail(run, ERR_FORMAT, "a name cannot be a '%s'", chat_value_kind_name(in));
    *out = in->kind == CHAT_TEXT &&
           (of_filter ? chat_filter_find(in->text, in->count)
                      : chat_filter_find_test(in->text, in->count)) != CHAT_NODE_NO_SLOT;
    return ERR_OK;
}

enum err chat_filter_test(struct chat_run *run, uint32_t number, const struct chat_value *in,
                          const struct chat_args *args, bool *out) {
    const struct test *test = &tests[number];
    static const char *const none[] = {NULL}, *const one[] = {"other", NULL};
    struct chat_value other, two = chat_value_int(2);
    enum err e = chat_eval_bind(run, test->name, test->kind > TEST_ONE_ARGUMENT ? one : none,
                                test->kind > TEST_ONE_ARGUMENT, args, &other);
    if (e) return e;
    switch (test->kind) {
    case TEST_ODD: return has_rest(run, in, &two, 1, out);
    case TEST_EVEN: return has_rest(run, in, &two, 0, out);
    case TEST_DIVISIBLE: return has_rest(run, in, &other, 0, out);
    case TEST_LOWER:
    case TEST_UPPER: return is_in_case(run, test->kind == TEST_UPPER, in, out);
    case TEST_SAMEAS: *out = chat_value_same(in, &other); return ERR_OK;
    case TEST_COMPARE: return chat_eval_compare(run, test->compare, in, &other, out);
    case TEST_FILTER:
    case TEST_TEST: return is_name_of(run, test->kind == TEST_FILTER, in, out);
    default: *out = is_of_kind((enum test_kind) test->kind, in); return ERR_OK;
    }
}
