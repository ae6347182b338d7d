/* chat_parser - see chat_parser.h.  Statements; expressions are in chat_grammar.c. */
#include <string.h>

#include "chat/chat_grammar.h"

#define OP1 CHAT_TOKEN_OP1

/* The words that may end a body. */
enum end_word {
    END_FOR = 1,
    END_ELSE = 2,
    END_ELIF = 4,
    END_IF = 8,
    END_SET = 16,
    END_MACRO = 32,
    END_CALL = 64,
    END_FILTER = 128,
    END_WITH = 256,
    END_GENERATION = 512,
};

static const struct {
    const char *name;
    unsigned word;
} end_words[] = {
    {"endfor", END_FOR},   {"else", END_ELSE},
    {"elif", END_ELIF},    {"endif", END_IF},
    {"endset", END_SET},   {"endmacro", END_MACRO},
    {"endcall", END_CALL}, {"endfilter", END_FILTER},
    {"endwith", END_WITH}, {"endgeneration", END_GENERATION},
};

static enum err parse_body(struct chat_parser *parser, unsigned ends, struct chat_node **out,
                           unsigned *end);

static enum err expect_block_end(struct chat_parser *parser) {
    if (parser->at->kind != CHAT_TOKEN_BLOCK_END) return chat_grammar_unexpected(parser);
    parser->at++;
    return ERR_OK;
}

static enum err expect_name(struct chat_parser *parser, const char *name) {
    return chat_grammar_skip_name(parser, name) ? ERR_OK : chat_grammar_unexpected(parser);
}

/* `:`? %} body {% end, whose word is consumed. */
static enum err parse_statements(struct chat_parser *parser, unsigned ends, struct chat_node **out,
                                 unsigned *end) {
    chat_grammar_skip_op(parser, OP1(':'));
    enum err e = expect_block_end(parser);
    return e ? e : parse_body(parser, ends, out, end);
}

static bool is_target(const struct chat_node *node) {
    if (node->kind == CHAT_EXPR_NAME || node->kind == CHAT_EXPR_SPACE) return true;
    if (node->kind != CHAT_EXPR_TUPLE) return false;
    for (const struct chat_node *item = node->a; item; item = item->next)
        if (!is_target(item)) return false;
    return true;
}

static enum err parse_target(struct chat_parser *parser, enum chat_tuple how,
                             struct chat_node **out) {
    uint32_t line = parser->at->line;
    enum err e = chat_grammar_tuple(parser, how, out);
    if (!e && !is_target(*out)) e = chat_grammar_fail(parser, line, "cannot assign to this");
    return e;
}

static enum err parse_target_name(struct chat_parser *parser, struct chat_node **out) {
    const struct chat_token *token = parser->at;
    if (token->kind != CHAT_TOKEN_NAME) return chat_grammar_unexpected(parser);
    static const char *const constants[] = {"true", "false", "none", "True", "False", "None"};
    for (size_t i = 0; i < ARRAY_COUNT(constants); i++)
        if (chat_grammar_is_name(token, constants[i]))
            return chat_grammar_fail(parser, token->line, "cannot assign to '%s'", constants[i]);
    enum err e = chat_grammar_node(parser, CHAT_EXPR_NAME, token->line, out);
    if (!e) e = chat_node_name(parser->chat_template, token->text, token->bytes, &(*out)->name);
    if (!e) (*out)->value = chat_value_text(token->text, token->bytes);
    if (!e) parser->at++;
    if (e == ERR_LIMIT)
        return err_set(parser->text, e, "template line %u: more than %u names", token->line,
                       CHAT_NODE_NAMES_MAX);
    return e;
}

/* A copy of a target of a loop: its test runs in a frame of its own. */
static enum err copy_target(struct chat_parser *parser, const struct chat_node *from,
                            struct chat_node **out) {
    enum err e = chat_grammar_node(parser, from->kind, from->line, out);
    if (e) return e;
    **out = *from;
    (*out)->next = NULL;
    struct chat_node **tail = &(*out)->a;
    *tail = NULL;
    for (const struct chat_node *item = from->a; !e && item; item = item->next) {
        e = copy_target(parser, item, tail);
        if (!e) tail = &(*tail)->next;
    }
    return e;
}

static enum err parse_for(struct chat_parser *parser, struct chat_node *node) {
    unsigned end = 0;
    enum err e = parse_target(parser, CHAT_TUPLE_TARGET, &node->a);
    if (!e) e = expect_name(parser, "in");
    if (!e) e = chat_grammar_tuple(parser, CHAT_TUPLE_ITERABLE, &node->b);
    if (!e && chat_grammar_skip_name(parser, "if")) {
        e = chat_grammar_expression(parser, &node->e);
        if (!e) e = copy_target(parser, node->a, &node->f);
    }
    if (!e && chat_grammar_is_name(parser->at, "recursive"))
        return err_set(parser->text, ERR_UNSUPPORTED,
                       "template line %u: recursive loops are not supported", node->line);
    if (!e) e = parse_statements(parser, END_FOR | END_ELSE, &node->c, &end);
    if (!e && end == END_ELSE) e = parse_statements(parser, END_FOR, &node->d, &end);
    return e;
}

static enum err parse_if(struct chat_parser *parser, struct chat_node *node) {
    struct chat_node *branch = node, **tail = &node->c;
    for (;;) {
        unsigned end = 0;
        enum err e = chat_grammar_tuple(parser, CHAT_TUPLE_TEST, &branch->a);
        if (!e) e = parse_statements(parser, END_ELIF | END_ELSE | END_IF, &branch->b, &end);
        if (!e && end == END_ELSE) e = parse_statements(parser, END_IF, &node->d, &end);
        if (e || end != END_ELIF) return e;
        e = chat_grammar_node(parser, CHAT_STMT_IF, parser->at->line, tail);
        if (e) return e;
        branch = *tail;
        tail = &branch->next;
    }
}

static enum err parse_set(struct chat_parser *parser, struct chat_node *node) {
    unsigned end = 0;
    enum err e = parse_target(parser, CHAT_TUPLE_SET_TARGET, &node->a);
    if (e) return e;
    if (chat_grammar_skip_op(parser, OP1('=')))
        return chat_grammar_tuple(parser, CHAT_TUPLE_OUTPUT, &node->b);
    node->kind = CHAT_STMT_SET_BLOCK;
    while (!e && chat_grammar_skip_op(parser, OP1('|'))) e = chat_grammar_filter(parser, &node->b);
    return e ? e : parse_statements(parser, END_SET, &node->c, &end);
}

static enum err parse_signature(struct chat_parser *parser, struct chat_node *node) {
    enum err e = chat_grammar_expect_op(parser, OP1('('));
    struct chat_node **tail = &node->a;
    bool has_default = false;
    uint32_t count = 0;
    while (!e && !chat_grammar_is_op(parser, OP1(')'))) {
        if (node->a) e = chat_grammar_expect_op(parser, OP1(','));
        if (!e) e = parse_target_name(parser, tail);
        if (e) return e;
        if (++count > CHAT_GRAMMAR_ARGUMENTS_MAX)
            return chat_grammar_fail(parser, node->line, "more than %u parameters",
                                     CHAT_GRAMMAR_ARGUMENTS_MAX);
        for (struct chat_node *other = node->a; other != *tail; other = other->next)
            if (other->name == (*tail)->name)
                return chat_grammar_fail(parser, node->line, "a parameter is named twice");
        if (chat_grammar_skip_op(parser, OP1('='))) {
            e = chat_grammar_expression(parser, &(*tail)->a);
            has_default = true;
        } else if (has_default) {
            return chat_grammar_fail(parser, node->line,
                                     "a parameter without default follows one with a default");
        }
        tail = e ? tail : &(*tail)->next;
    }
    return e ? e : chat_grammar_expect_op(parser, OP1(')'));
}

static enum err parse_macro(struct chat_parser *parser, struct chat_node *node) {
    unsigned end = 0;
    enum err e = parse_target_name(parser, &node->b);
    if (!e) node->value = node->b->value;
    if (!e) e = parse_signature(parser, node);
    return e ? e : parse_statements(parser, END_MACRO, &node->c, &end);
}

static enum err parse_call(struct chat_parser *parser, struct chat_node *node) {
    unsigned end = 0;
    enum err e = chat_grammar_is_op(parser, OP1('(')) ? parse_signature(parser, node) : ERR_OK;
    if (!e) e = chat_grammar_expression(parser, &node->b);
    if (e) return e;
    if (node->b->kind != CHAT_EXPR_CHAIN || node->b->c->kind != CHAT_STEP_CALL)
        return chat_grammar_fail(parser, node->line, "expected a call");
    return parse_statements(parser, END_CALL, &node->c, &end);
}

static enum err parse_with(struct chat_parser *parser, struct chat_node *node) {
    unsigned end = 0;
    struct chat_node **target = &node->a, **value = &node->b;
    enum err e = ERR_OK;
    while (!e && parser->at->kind != CHAT_TOKEN_BLOCK_END) {
        if (node->a) e = chat_grammar_expect_op(parser, OP1(','));
        /* A tuple would swallow the comma between two assignments. */
        if (!e) e = parse_target_name(parser, target);
        if (!e) e = chat_grammar_expect_op(parser, OP1('='));
        if (!e) e = chat_grammar_expression(parser, value);
        if (e) break;
        target = &(*target)->next;
        value = &(*value)->next;
    }
    return e ? e : parse_statements(parser, END_WITH, &node->c, &end);
}

static enum err parse_print(struct chat_parser *parser, struct chat_node *node) {
    struct chat_node *last = node;
    enum err e = ERR_OK;
    bool is_first = true;
    node->kind = CHAT_STMT_TEXT;
    node->value = chat_value_text("", 0);
    while (!e && parser->at->kind != CHAT_TOKEN_BLOCK_END) {
        if (!is_first) e = chat_grammar_expect_op(parser, OP1(','));
        is_first = false;
        struct chat_node *output;
        if (!e) e = chat_grammar_node(parser, CHAT_STMT_OUTPUT, node->line, &output);
        if (!e) e = chat_grammar_expression(parser, &output->a);
        if (e) break;
        last->next = output;
        last = output;
    }
    return e;
}

static enum err parse_statement(struct chat_parser *parser, struct chat_node **out) {
    static const struct {
        const char *name;
        uint8_t kind;
        enum err (*parse)(struct chat_parser *, struct chat_node *);
    } statements[] = {
        {"for", CHAT_STMT_FOR, parse_for},        {"if", CHAT_STMT_IF, parse_if},
        {"set", CHAT_STMT_SET, parse_set},        {"macro", CHAT_STMT_MACRO, parse_macro},
        {"call", CHAT_STMT_CALL, parse_call},     {"with", CHAT_STMT_WITH, parse_with},
        {"print", CHAT_STMT_OUTPUT, parse_print},
    };
    static const char *const unsupported[] = {"block",  "extends", "include",
                                              "import", "from",    "autoescape"};
    const struct chat_token *token = parser->at;
    unsigned end = 0;
    if (token->kind != CHAT_TOKEN_NAME)
        return chat_grammar_fail(parser, token->line, "a tag has no name");
    for (size_t i = 0; i < ARRAY_COUNT(unsupported); i++)
        if (chat_grammar_is_name(token, unsupported[i]))
            return err_set(parser->text, ERR_UNSUPPORTED,
                           "template line %u: the tag '%s' is not supported", token->line,
                           unsupported[i]);
    parser->at++;
    enum err e = chat_grammar_node(parser, CHAT_STMT_BREAK, token->line, out);
    if (e) return e;
    for (size_t i = 0; i < ARRAY_COUNT(statements); i++) {
        if (!chat_grammar_is_name(token, statements[i].name)) continue;
        (*out)->kind = statements[i].kind;
        return statements[i].parse(parser, *out);
    }
    if (chat_grammar_is_name(token, "break")) return ERR_OK;
    if (chat_grammar_is_name(token, "continue")) {
        (*out)->kind = CHAT_STMT_CONTINUE;
        return ERR_OK;
    }
    if (chat_grammar_is_name(token, "filter")) {
        (*out)->kind = CHAT_STMT_FILTER;
        e = chat_grammar_filter(parser, &(*out)->b);
        while (!e && chat_grammar_skip_op(parser, OP1('|')))
            e = chat_grammar_filter(parser, &(*out)->b);
        return e ? e : parse_statements(parser, END_FILTER, &(*out)->c, &end);
    }
    if (chat_grammar_is_name(token, "generation")) {
        (*out)->kind = CHAT_STMT_GENERATION;
        return parse_statements(parser, END_GENERATION, &(*out)->c, &end);
    }
    return chat_grammar_fail(parser, token->line, "unknown tag '%.*s'",
                             (int) (token->bytes > 60 ? 60 : token->bytes), token->text);
}

/* The word of an end tag, when it ends this body. */
static unsigned end_of(const struct chat_parser *parser, unsigned ends) {
    for (size_t i = 0; i < ARRAY_COUNT(end_words); i++)
        if ((ends & end_words[i].word) && chat_grammar_is_name(parser->at, end_words[i].name))
            return end_words[i].word;
    return 0;
}

/* One piece of a body; *end is set when it was the body's end. */
static enum err parse_piece(struct chat_parser *parser, unsigned ends, struct chat_node **out,
                            unsigned *end) {
    const struct chat_token *token = parser->at++;
    enum err e;
    switch (token->kind) {
    case CHAT_TOKEN_DATA:
        e = chat_grammar_node(parser, CHAT_STMT_TEXT, token->line, out);
        if (!e) (*out)->value = chat_value_text(token->text, token->bytes);
        return e;
    case CHAT_TOKEN_VARIABLE_BEGIN:
        e = chat_grammar_node(parser, CHAT_STMT_OUTPUT, token->line, out);
        if (!e) e = chat_grammar_tuple(parser, CHAT_TUPLE_OUTPUT, &(*out)->a);
        if (!e && parser->at->kind != CHAT_TOKEN_VARIABLE_END)
            return chat_grammar_unexpected(parser);
        parser->at += !e;
        return e;
    case CHAT_TOKEN_BLOCK_BEGIN:
        *end = end_of(parser, ends);
        if (*end) {
            parser->at++;
            return ERR_OK;
        }
        e = parse_statement(parser, out);
        return e ? e : expect_block_end(parser);
    default: parser->at--; return chat_grammar_unexpected(parser);
    }
}

static enum err parse_body(struct chat_parser *parser, unsigned ends, struct chat_node **out,
                           unsigned *end) {
    uint32_t line = parser->at->line;
    enum err e = chat_grammar_enter(parser);
    *end = 0;
    while (!e && !*end) {
        if (parser->at->kind == CHAT_TOKEN_END) {
            if (ends) e = chat_grammar_fail(parser, line, "a block is not closed");
            break;
        }
        e = parse_piece(parser, ends, out, end);
        while (!e && *out) out = &(*out)->next;
    }
    parser->depth--;
    return e;
}

enum err chat_parser_read(struct chat_template *chat_template, const struct chat_token *tokens,
                          struct err_text *text) {
    struct chat_parser parser = {.chat_template = chat_template, .at = tokens, .text = text};
    unsigned end = 0;
    return parse_body(&parser, 0, &chat_template->body, &end);
}
