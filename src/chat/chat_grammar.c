/* chat_grammar - see chat_grammar.h. */
#include "chat/chat_grammar.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "chat/chat_number.h"

#define OP1 CHAT_TOKEN_OP1
#define OP2 CHAT_TOKEN_OP2

enum err chat_grammar_fail(struct chat_parser *parser, uint32_t line, const char *format, ...) {
    char reason[400];
    va_list args;
    va_start(args, format);
    vsnprintf(reason, sizeof reason, format, args);
    va_end(args);
    return err_set(parser->text, ERR_FORMAT, "template line %u: %s", line, reason);
}

enum err chat_grammar_unexpected(struct chat_parser *parser) {
    const struct chat_token *token = parser->at;
    switch (token->kind) {
    case CHAT_TOKEN_END:
        return chat_grammar_fail(parser, token->line, "unexpected end of template");
    case CHAT_TOKEN_NAME:
        return chat_grammar_fail(parser, token->line, "unexpected '%.*s'",
                                 (int) (token->bytes > 60 ? 60 : token->bytes), token->text);
    case CHAT_TOKEN_OPERATOR: {
        char op[3] = {(char) (token->op & 255), (char) (token->op >> 8), '\0'};
        return chat_grammar_fail(parser, token->line, "unexpected '%s'", op);
    }
    case CHAT_TOKEN_BLOCK_END:
    case CHAT_TOKEN_VARIABLE_END:
        return chat_grammar_fail(parser, token->line, "unexpected end of a tag");
    default: return chat_grammar_fail(parser, token->line, "unexpected literal");
    }
}

enum err chat_grammar_node(struct chat_parser *parser, enum chat_node_kind kind, uint32_t line,
                           struct chat_node **out) {
    struct chat_node *node = arena_take_zero(&parser->chat_template->arena, 1, sizeof *node);
    if (!node) return err_set(parser->text, ERR_MEMORY, "out of memory");
    node->kind = (uint8_t) kind;
    node->line = line;
    *out = node;
    return ERR_OK;
}

bool chat_grammar_is_op(const struct chat_parser *parser, uint32_t op) {
    return parser->at->kind == CHAT_TOKEN_OPERATOR && parser->at->op == op;
}

bool chat_grammar_is_name(const struct chat_token *token, const char *name) {
    return token->kind == CHAT_TOKEN_NAME && token->bytes == strlen(name) &&
           memcmp(token->text, name, token->bytes) == 0;
}

bool chat_grammar_skip_op(struct chat_parser *parser, uint32_t op) {
    if (!chat_grammar_is_op(parser, op)) return false;
    parser->at++;
    return true;
}

bool chat_grammar_skip_name(struct chat_parser *parser, const char *name) {
    if (!chat_grammar_is_name(parser->at, name)) return false;
    parser->at++;
    return true;
}

enum err chat_grammar_expect_op(struct chat_parser *parser, uint32_t op) {
    return chat_grammar_skip_op(parser, op) ? ERR_OK : chat_grammar_unexpected(parser);
}

enum err chat_grammar_enter(struct chat_parser *parser) {
    if (parser->depth < CHAT_NODE_DEPTH_MAX) {
        parser->depth++;
        return ERR_OK;
    }
    return err_set(parser->text, ERR_LIMIT, "template line %u: nested more than %u deep",
                   parser->at->line, CHAT_NODE_DEPTH_MAX);
}

/* Adds a step behind node, which becomes a chain when it is none. */
static enum err add_step(struct chat_parser *parser, struct chat_node **node,
                         struct chat_node *step) {
    struct chat_node *chain = *node;
    if (!chain || chain->kind != CHAT_EXPR_CHAIN) {
        enum err e = chat_grammar_node(parser, CHAT_EXPR_CHAIN, step->line, &chain);
        if (e) return e;
        chain->a = *node;
        *node = chain;
    }
    if (chain->c) chain->c->next = step;
    else chain->b = step;
    chain->c = step;
    return ERR_OK;
}

static enum err parse_or(struct chat_parser *parser, struct chat_node **out);
static enum err parse_unary(struct chat_parser *parser, bool with_filter, struct chat_node **out);

static enum err name_node(struct chat_parser *parser, const struct chat_token *token,
                          struct chat_node **out) {
    enum err e = chat_grammar_node(parser, CHAT_EXPR_NAME, token->line, out);
    if (!e) e = chat_node_name(parser->chat_template, token->text, token->bytes, &(*out)->name);
    if (e == ERR_LIMIT)
        return err_set(parser->text, e, "template line %u: more than %u names", token->line,
                       CHAT_NODE_NAMES_MAX);
    return e;
}

static enum err parse_name(struct chat_parser *parser, bool with_space, struct chat_node **out) {
    const struct chat_token *token = parser->at++;
    bool is_true = chat_grammar_is_name(token, "true") || chat_grammar_is_name(token, "True");
    bool is_false = chat_grammar_is_name(token, "false") || chat_grammar_is_name(token, "False");
    bool is_none = chat_grammar_is_name(token, "none") || chat_grammar_is_name(token, "None");
    if (is_true || is_false || is_none) {
        enum err e = chat_grammar_node(parser, CHAT_EXPR_CONST, token->line, out);
        if (!e) (*out)->value = is_none ? chat_value_none() : chat_value_bool(is_true);
        return e;
    }
    enum err e = name_node(parser, token, out);
    if (e || !with_space || !chat_grammar_skip_op(parser, OP1('.'))) return e;
    if (parser->at->kind != CHAT_TOKEN_NAME) return chat_grammar_unexpected(parser);
    (*out)->kind = CHAT_EXPR_SPACE;
    (*out)->value = chat_value_text(parser->at->text, parser->at->bytes);
    parser->at++;
    return ERR_OK;
}

/* Neighbouring string literals are one. */
static enum err parse_string(struct chat_parser *parser, struct chat_node **out) {
    const struct chat_token *first = parser->at;
    uint64_t bytes = 0;
    while (parser->at->kind == CHAT_TOKEN_STRING) bytes += parser->at++->bytes;
    enum err e = chat_grammar_node(parser, CHAT_EXPR_CONST, first->line, out);
    if (e) return e;
    if (parser->at == first + 1) {
        (*out)->value = chat_value_text(first->text, first->bytes);
        return ERR_OK;
    }
    char *text = arena_take(&parser->chat_template->arena, bytes);
    if (!text) return err_set(parser->text, ERR_MEMORY, "out of memory");
    (*out)->value = chat_value_text(text, (uint32_t) bytes);
    for (const struct chat_token *token = first; token < parser->at; token++) {
        memcpy(text, token->text, token->bytes);
        text += token->bytes;
    }
    return ERR_OK;
}

static enum err parse_list(struct chat_parser *parser, struct chat_node **out) {
    enum err e = chat_grammar_node(parser, CHAT_EXPR_LIST, parser->at++->line, out);
    struct chat_node **tail = e ? NULL : &(*out)->a;
    while (!e && !chat_grammar_is_op(parser, OP1(']'))) {
        e = chat_grammar_expression(parser, tail);
        if (!e) tail = &(*tail)->next;
        if (e || !chat_grammar_skip_op(parser, OP1(','))) break;
    }
    return e ? e : chat_grammar_expect_op(parser, OP1(']'));
}

static enum err parse_dict(struct chat_parser *parser, struct chat_node **out) {
    enum err e = chat_grammar_node(parser, CHAT_EXPR_DICT, parser->at++->line, out);
    struct chat_node **tail = e ? NULL : &(*out)->a;
    while (!e && !chat_grammar_is_op(parser, OP1('}'))) {
        e = chat_grammar_expression(parser, tail);
        if (!e) e = chat_grammar_expect_op(parser, OP1(':'));
        if (!e) tail = &(*tail)->next;
        if (!e) e = chat_grammar_expression(parser, tail);
        if (!e) tail = &(*tail)->next;
        if (e || !chat_grammar_skip_op(parser, OP1(','))) break;
    }
    return e ? e : chat_grammar_expect_op(parser, OP1('}'));
}

static enum err parse_primary(struct chat_parser *parser, bool with_space, struct chat_node **out) {
    const struct chat_token *token = parser->at;
    enum err e;
    switch (token->kind) {
    case CHAT_TOKEN_NAME: return parse_name(parser, with_space, out);
    case CHAT_TOKEN_STRING: return parse_string(parser, out);
    case CHAT_TOKEN_INTEGER:
    case CHAT_TOKEN_REAL:
        parser->at++;
        e = chat_grammar_node(parser, CHAT_EXPR_CONST, token->line, out);
        if (!e)
            (*out)->value = token->kind == CHAT_TOKEN_INTEGER ? chat_value_int(token->integer)
                                                              : chat_value_real(token->real);
        return e;
    default: break;
    }
    if (chat_grammar_is_op(parser, OP1('['))) e = parse_list(parser, out);
    else if (chat_grammar_is_op(parser, OP1('{'))) e = parse_dict(parser, out);
    else if (chat_grammar_skip_op(parser, OP1('('))) {
        e = chat_grammar_tuple(parser, CHAT_TUPLE_BRACKETS, out);
        if (!e) e = chat_grammar_expect_op(parser, OP1(')'));
    } else {
        return chat_grammar_unexpected(parser);
    }
    return e;
}

static enum err parse_argument(struct chat_parser *parser, struct chat_node **out) {
    const struct chat_token *token = parser->at;
    enum chat_node_kind kind = CHAT_ARG;
    if (chat_grammar_skip_op(parser, OP1('*'))) kind = CHAT_ARG_STAR;
    else if (chat_grammar_skip_op(parser, OP2('*', '*'))) kind = CHAT_ARG_STAR_STAR;
    else if (token->kind == CHAT_TOKEN_NAME && token[1].kind == CHAT_TOKEN_OPERATOR &&
             token[1].op == OP1('=')) {
        kind = CHAT_ARG_NAMED;
        parser->at += 2;
    }
    enum err e = chat_grammar_node(parser, kind, token->line, out);
    if (e) return e;
    if (kind == CHAT_ARG_NAMED) (*out)->value = chat_value_text(token->text, token->bytes);
    return chat_grammar_expression(parser, &(*out)->a);
}

/* Positional, then named, then *args, then **kwargs; no name twice. */
static enum err check_arguments(struct chat_parser *parser, const struct chat_node *args) {
    uint8_t last = CHAT_ARG;
    for (const struct chat_node *arg = args; arg; arg = arg->next) {
        bool is_bad = arg->kind == CHAT_ARG ? last != CHAT_ARG : false;
        if (arg->kind == CHAT_ARG_NAMED) is_bad = last == CHAT_ARG_STAR_STAR;
        if (arg->kind == CHAT_ARG_STAR) is_bad = last >= CHAT_ARG_STAR;
        if (arg->kind == CHAT_ARG_STAR_STAR) is_bad = last == CHAT_ARG_STAR_STAR;
        if (is_bad) return chat_grammar_fail(parser, arg->line, "arguments in a wrong order");
        if (arg->kind > last) last = arg->kind;
        for (const struct chat_node *other = args; other != arg; other = other->next)
            if (arg->kind == CHAT_ARG_NAMED && other->kind == CHAT_ARG_NAMED &&
                arg->value.count == other->value.count &&
                memcmp(arg->value.text, other->value.text, arg->value.count) == 0)
                return chat_grammar_fail(parser, arg->line, "an argument is given twice");
    }
    return ERR_OK;
}

static enum err parse_arguments(struct chat_parser *parser, struct chat_node **out) {
    enum err e = chat_grammar_expect_op(parser, OP1('('));
    struct chat_node **tail = out;
    uint32_t count = 0;
    while (!e && !chat_grammar_is_op(parser, OP1(')'))) {
        if (++count > CHAT_GRAMMAR_ARGUMENTS_MAX)
            return chat_grammar_fail(parser, parser->at->line, "more than %u arguments",
                                     CHAT_GRAMMAR_ARGUMENTS_MAX);
        e = parse_argument(parser, tail);
        if (!e) tail = &(*tail)->next;
        if (e || !chat_grammar_skip_op(parser, OP1(','))) break;
    }
    if (!e) e = chat_grammar_expect_op(parser, OP1(')'));
    return e ? e : check_arguments(parser, *out);
}

/* a or a:b or a:b:c inside [ ] */
static enum err parse_subscript(struct chat_parser *parser, struct chat_node *step) {
    enum err e = ERR_OK;
    if (!chat_grammar_is_op(parser, OP1(':'))) {
        e = chat_grammar_expression(parser, &step->a);
        if (e || !chat_grammar_is_op(parser, OP1(':'))) return e;
    }
    step->kind = CHAT_STEP_SLICE;
    parser->at++;
    if (!chat_grammar_is_op(parser, OP1(':')) && !chat_grammar_is_op(parser, OP1(']')))
        e = chat_grammar_expression(parser, &step->b);
    if (!e && chat_grammar_skip_op(parser, OP1(':')) && !chat_grammar_is_op(parser, OP1(']')))
        e = chat_grammar_expression(parser, &step->c);
    return e;
}

static enum err parse_brackets(struct chat_parser *parser, struct chat_node *step) {
    uint32_t line = parser->at->line;
    parser->at++;
    if (chat_grammar_skip_op(parser, OP1(']'))) /* x[] is x[()] */
        return chat_grammar_node(parser, CHAT_EXPR_TUPLE, line, &step->a);
    enum err e = parse_subscript(parser, step);
    if (e) return e;
    if (chat_grammar_is_op(parser, OP1(',')) && step->kind == CHAT_STEP_ITEM) {
        struct chat_node *tuple;
        e = chat_grammar_node(parser, CHAT_EXPR_TUPLE, line, &tuple);
        if (e) return e;
        tuple->a = step->a;
        step->a = tuple;
        struct chat_node **tail = &tuple->a->next;
        while (!e && chat_grammar_skip_op(parser, OP1(','))) {
            e = chat_grammar_expression(parser, tail);
            if (!e) tail = &(*tail)->next;
        }
    }
    return e ? e : chat_grammar_expect_op(parser, OP1(']'));
}

static enum err parse_postfix(struct chat_parser *parser, struct chat_node **node) {
    for (;;) {
        struct chat_node *step;
        uint32_t line = parser->at->line;
        enum err e;
        if (chat_grammar_is_op(parser, OP1('.'))) {
            const struct chat_token *name = ++parser->at;
            if (name->kind != CHAT_TOKEN_NAME && name->kind != CHAT_TOKEN_INTEGER)
                return chat_grammar_unexpected(parser);
            parser->at++;
            bool is_attr = name->kind == CHAT_TOKEN_NAME;
            e = chat_grammar_node(parser, is_attr ? CHAT_STEP_ATTR : CHAT_STEP_ITEM, line, &step);
            if (!e && is_attr) step->value = chat_value_text(name->text, name->bytes);
            if (!e && !is_attr) e = chat_grammar_node(parser, CHAT_EXPR_CONST, line, &step->a);
            if (!e && !is_attr) step->a->value = chat_value_int(name->integer);
        } else if (chat_grammar_is_op(parser, OP1('['))) {
            e = chat_grammar_node(parser, CHAT_STEP_ITEM, line, &step);
            if (!e) e = parse_brackets(parser, step);
        } else if (chat_grammar_is_op(parser, OP1('('))) {
            e = chat_grammar_node(parser, CHAT_STEP_CALL, line, &step);
            if (!e) e = parse_arguments(parser, &step->a);
        } else {
            return ERR_OK;
        }
        if (!e) e = add_step(parser, node, step);
        if (e) return e;
    }
}

/* a or a.b: the name of a filter or test.  None has a dot, but inside an if that is no error. */
static enum err parse_dotted(struct chat_parser *parser, struct chat_value *out) {
    const struct chat_token *first = parser->at, *last = first;
    if (first->kind != CHAT_TOKEN_NAME) return chat_grammar_unexpected(parser);
    parser->at++;
    while (chat_grammar_skip_op(parser, OP1('.'))) {
        last = parser->at++;
        if (last->kind != CHAT_TOKEN_NAME) {
            parser->at = last;
            return chat_grammar_unexpected(parser);
        }
    }
    *out = chat_value_text(first->text, (uint32_t) (last->text + last->bytes - first->text));
    return ERR_OK;
}

enum err chat_grammar_filter(struct chat_parser *parser, struct chat_node **node) {
    struct chat_node *step;
    enum err e = chat_grammar_node(parser, CHAT_STEP_FILTER, parser->at->line, &step);
    if (!e) e = parse_dotted(parser, &step->value);
    if (!e && chat_grammar_is_op(parser, OP1('('))) e = parse_arguments(parser, &step->a);
    return e ? e : add_step(parser, node, step);
}

static bool starts_test_argument(const struct chat_parser *parser) {
    const struct chat_token *token = parser->at;
    switch (token->kind) {
    case CHAT_TOKEN_STRING:
    case CHAT_TOKEN_INTEGER:
    case CHAT_TOKEN_REAL: return true;
    case CHAT_TOKEN_NAME:
        return !chat_grammar_is_name(token, "else") && !chat_grammar_is_name(token, "or") &&
               !chat_grammar_is_name(token, "and");
    default: return chat_grammar_is_op(parser, OP1('[')) || chat_grammar_is_op(parser, OP1('{'));
    }
}

static enum err parse_test(struct chat_parser *parser, struct chat_node **node) {
    struct chat_node *step;
    enum err e = chat_grammar_node(parser, CHAT_STEP_TEST, parser->at->line, &step);
    if (e) return e;
    step->op = chat_grammar_skip_name(parser, "not");
    e = parse_dotted(parser, &step->value);
    if (!e && chat_grammar_is_op(parser, OP1('('))) {
        e = parse_arguments(parser, &step->a);
    } else if (!e && starts_test_argument(parser)) {
        if (chat_grammar_is_name(parser->at, "is"))
            return chat_grammar_fail(parser, parser->at->line, "tests cannot be chained with is");
        e = chat_grammar_node(parser, CHAT_ARG, parser->at->line, &step->a);
        if (!e) e = parse_primary(parser, false, &step->a->a);
        if (!e) e = parse_postfix(parser, &step->a->a);
    }
    return e ? e : add_step(parser, node, step);
}

static enum err parse_filters(struct chat_parser *parser, struct chat_node **node) {
    enum err e = ERR_OK;
    while (!e) {
        if (chat_grammar_skip_op(parser, OP1('|'))) e = chat_grammar_filter(parser, node);
        else if (chat_grammar_skip_name(parser, "is")) e = parse_test(parser, node);
        else if (chat_grammar_is_op(parser, OP1('('))) e = parse_postfix(parser, node);
        else break;
    }
    return e;
}

static enum err parse_sign(struct chat_parser *parser, struct chat_node **out) {
    struct chat_node *step;
    bool is_minus = chat_grammar_is_op(parser, OP1('-'));
    uint32_t line = parser->at++->line;
    enum err e = parse_unary(parser, false, out);
    if (!e) e = chat_grammar_node(parser, is_minus ? CHAT_STEP_MINUS : CHAT_STEP_PLUS, line, &step);
    return e ? e : add_step(parser, out, step);
}

static enum err parse_unary(struct chat_parser *parser, bool with_filter, struct chat_node **out) {
    enum err e = chat_grammar_enter(parser);
    if (e) return e;
    bool is_sign = chat_grammar_is_op(parser, OP1('-')) || chat_grammar_is_op(parser, OP1('+'));
    e = is_sign ? parse_sign(parser, out) : parse_primary(parser, false, out);
    if (!e) e = parse_postfix(parser, out);
    if (!e && with_filter) e = parse_filters(parser, out);
    parser->depth--;
    return e;
}

static enum err add_arith(struct chat_parser *parser, enum chat_arith op, uint32_t line,
                          struct chat_node *right, struct chat_node **node) {
    struct chat_node *step;
    enum err e = chat_grammar_node(parser, CHAT_STEP_ARITH, line, &step);
    if (e) return e;
    step->op = (uint8_t) op;
    step->a = right;
    return add_step(parser, node, step);
}

static enum err parse_pow(struct chat_parser *parser, struct chat_node **out) {
    enum err e = parse_unary(parser, true, out);
    while (!e && chat_grammar_is_op(parser, OP2('*', '*'))) {
        struct chat_node *right;
        uint32_t line = parser->at++->line;
        e = parse_unary(parser, true, &right);
        if (!e) e = add_arith(parser, CHAT_POW, line, right, out);
    }
    return e;
}

static enum err parse_product(struct chat_parser *parser, struct chat_node **out) {
    enum err e = parse_pow(parser, out);
    while (!e) {
        enum chat_arith op = chat_grammar_is_op(parser, OP1('*'))        ? CHAT_MUL
                             : chat_grammar_is_op(parser, OP1('/'))      ? CHAT_DIV
                             : chat_grammar_is_op(parser, OP2('/', '/')) ? CHAT_FLOORDIV
                             : chat_grammar_is_op(parser, OP1('%'))      ? CHAT_MOD
                                                                         : CHAT_ADD;
        if (op == CHAT_ADD) break;
        struct chat_node *right;
        uint32_t line = parser->at++->line;
        e = parse_pow(parser, &right);
        if (!e) e = add_arith(parser, op, line, right, out);
    }
    return e;
}

static enum err parse_concat(struct chat_parser *parser, struct chat_node **out) {
    enum err e = parse_product(parser, out);
    if (e || !chat_grammar_is_op(parser, OP1('~'))) return e;
    struct chat_node *concat;
    e = chat_grammar_node(parser, CHAT_EXPR_CONCAT, parser->at->line, &concat);
    if (e) return e;
    concat->a = *out;
    struct chat_node **tail = &concat->a->next;
    while (!e && chat_grammar_skip_op(parser, OP1('~'))) {
        e = parse_product(parser, tail);
        if (!e) tail = &(*tail)->next;
    }
    *out = concat;
    return e;
}

static enum err parse_sum(struct chat_parser *parser, struct chat_node **out) {
    enum err e = parse_concat(parser, out);
    while (!e && (chat_grammar_is_op(parser, OP1('+')) || chat_grammar_is_op(parser, OP1('-')))) {
        enum chat_arith op = chat_grammar_is_op(parser, OP1('+')) ? CHAT_ADD : CHAT_SUB;
        struct chat_node *right;
        uint32_t line = parser->at++->line;
        e = parse_concat(parser, &right);
        if (!e) e = add_arith(parser, op, line, right, out);
    }
    return e;
}

static int compare_op(struct chat_parser *parser) {
    static const struct {
        uint32_t op;
        int compare;
    } ops[] = {
        {OP2('=', '='), CHAT_EQ}, {OP2('!', '='), CHAT_NE}, {OP1('<'), CHAT_LT},
        {OP2('<', '='), CHAT_LE}, {OP1('>'), CHAT_GT},      {OP2('>', '='), CHAT_GE},
    };
    for (size_t i = 0; i < ARRAY_COUNT(ops); i++)
        if (chat_grammar_skip_op(parser, ops[i].op)) return ops[i].compare;
    if (chat_grammar_skip_name(parser, "in")) return CHAT_IN;
    if (chat_grammar_is_name(parser->at, "not") && chat_grammar_is_name(parser->at + 1, "in")) {
        parser->at += 2;
        return CHAT_NOT_IN;
    }
    return -1;
}

static enum err parse_compare(struct chat_parser *parser, struct chat_node **out) {
    enum err e = parse_sum(parser, out);
    struct chat_node *step = NULL, **tail = NULL;
    while (!e) {
        uint32_t line = parser->at->line;
        int op = compare_op(parser);
        if (op < 0) break;
        if (!step) {
            e = chat_grammar_node(parser, CHAT_STEP_COMPARE, line, &step);
            if (e) return e;
            tail = &step->a;
        }
        e = chat_grammar_node(parser, CHAT_OPERAND, line, tail);
        if (e) return e;
        (*tail)->op = (uint8_t) op;
        e = parse_sum(parser, &(*tail)->a);
        tail = &(*tail)->next;
    }
    return e || !step ? e : add_step(parser, out, step);
}

static enum err parse_not(struct chat_parser *parser, struct chat_node **out) {
    if (!chat_grammar_is_name(parser->at, "not")) return parse_compare(parser, out);
    enum err e = chat_grammar_enter(parser);
    if (!e) e = chat_grammar_node(parser, CHAT_EXPR_NOT, parser->at->line, out);
    if (e) return e;
    parser->at++;
    e = parse_not(parser, &(*out)->a);
    parser->depth--;
    return e;
}

static enum err parse_logic(struct chat_parser *parser, const char *word, enum chat_node_kind kind,
                            enum err (*operand)(struct chat_parser *, struct chat_node **),
                            struct chat_node **out) {
    enum err e = operand(parser, out);
    if (e || !chat_grammar_is_name(parser->at, word)) return e;
    struct chat_node *logic;
    e = chat_grammar_node(parser, kind, parser->at->line, &logic);
    if (e) return e;
    logic->a = *out;
    struct chat_node **tail = &logic->a->next;
    while (!e && chat_grammar_skip_name(parser, word)) {
        e = operand(parser, tail);
        if (!e) tail = &(*tail)->next;
    }
    *out = logic;
    return e;
}

static enum err parse_and(struct chat_parser *parser, struct chat_node **out) {
    return parse_logic(parser, "and", CHAT_EXPR_AND, parse_not, out);
}

static enum err parse_or(struct chat_parser *parser, struct chat_node **out) {
    return parse_logic(parser, "or", CHAT_EXPR_OR, parse_and, out);
}

enum err chat_grammar_expression(struct chat_parser *parser, struct chat_node **out) {
    enum err e = chat_grammar_enter(parser);
    if (e) return e;
    e = parse_or(parser, out);
    uint32_t nested = 0;
    while (!e && chat_grammar_skip_name(parser, "if")) {
        struct chat_node *cond;
        e = chat_grammar_node(parser, CHAT_EXPR_COND, parser->at->line, &cond);
        if (e) break;
        cond->b = *out;
        *out = cond;
        e = parse_or(parser, &cond->a);
        if (!e && chat_grammar_skip_name(parser, "else"))
            e = chat_grammar_expression(parser, &cond->c);
        else if (!e && ++nested > CHAT_GRAMMAR_CONDITIONS_MAX)
            e = chat_grammar_fail(parser, cond->line, "too many if without else");
    }
    parser->depth--;
    return e;
}

static bool is_tuple_end(const struct chat_parser *parser, enum chat_tuple how) {
    return parser->at->kind == CHAT_TOKEN_VARIABLE_END ||
           parser->at->kind == CHAT_TOKEN_BLOCK_END || chat_grammar_is_op(parser, OP1(')')) ||
           (how == CHAT_TUPLE_TARGET && chat_grammar_is_name(parser->at, "in")) ||
           (how == CHAT_TUPLE_ITERABLE && chat_grammar_is_name(parser->at, "recursive"));
}

static enum err tuple_item(struct chat_parser *parser, enum chat_tuple how,
                           struct chat_node **out) {
    switch (how) {
    case CHAT_TUPLE_TARGET:
    case CHAT_TUPLE_SET_TARGET: {
        enum err e = chat_grammar_enter(parser);
        if (e) return e;
        e = parse_primary(parser, how == CHAT_TUPLE_SET_TARGET, out);
        parser->depth--;
        return e;
    }
    case CHAT_TUPLE_ITERABLE:
    case CHAT_TUPLE_TEST: return parse_or(parser, out);
    default: return chat_grammar_expression(parser, out);
    }
}

enum err chat_grammar_tuple(struct chat_parser *parser, enum chat_tuple how,
                            struct chat_node **out) {
    struct chat_node *items = NULL, **tail = &items;
    uint32_t line = parser->at->line;
    bool is_tuple = false;
    while (!is_tuple_end(parser, how)) {
        enum err e = tuple_item(parser, how, tail);
        if (e) return e;
        tail = &(*tail)->next;
        if (!chat_grammar_skip_op(parser, OP1(','))) break;
        is_tuple = true;
    }
    if (!is_tuple && items) {
        *out = items;
        return ERR_OK;
    }
    if (!is_tuple && how != CHAT_TUPLE_BRACKETS) return chat_grammar_unexpected(parser);
    enum err e = chat_grammar_node(parser, CHAT_EXPR_TUPLE, line, out);
    if (!e) (*out)->a = items;
    return e;
}
