/* chat_node - the parsed template: a tree that never changes once made.
 *
 * Left-leaning operators (a.b | f + c ...) are one CHAIN node with a list of steps, so that only
 * brackets and blocks nest; the parser bounds that nesting, and every walk may recurse.  Names
 * are resolved to slots (chat_scope).  Owned by the template's arena; read by any thread. */
#ifndef GRAMME_CHAT_CHAT_NODE_H
#define GRAMME_CHAT_CHAT_NODE_H

#include "base/arena.h"
#include "chat/chat_value.h"

#define CHAT_NODE_DEPTH_MAX 128u              /* nesting of brackets and blocks */
#define CHAT_NODE_NAMES_MAX 4096u             /* different names in a template */
#define CHAT_NODE_SOURCE_BYTES_MAX (1u << 20) /* the longest known template has 20 KB */
#define CHAT_NODE_NO_SLOT UINT32_MAX

enum chat_node_kind {
    /* expressions */
    CHAT_EXPR_CONST,  /* value */
    CHAT_EXPR_NAME,   /* name, hops, slot */
    CHAT_EXPR_SPACE,  /* a target a.b: name, hops, slot; value: "b" */
    CHAT_EXPR_LIST,   /* a: items */
    CHAT_EXPR_TUPLE,  /* a: items */
    CHAT_EXPR_DICT,   /* a: key, value, key, value ... */
    CHAT_EXPR_COND,   /* a ? b : c; c may be NULL */
    CHAT_EXPR_AND,    /* a: operands */
    CHAT_EXPR_OR,     /* a: operands */
    CHAT_EXPR_NOT,    /* a */
    CHAT_EXPR_CONCAT, /* a: operands of ~ */
    CHAT_EXPR_CHAIN,  /* a: base (NULL: what a block captured), b: first step, c: last step */
    /* steps of a chain */
    CHAT_STEP_ARITH,   /* op: enum chat_arith; a: right operand */
    CHAT_STEP_MINUS,   /* unary */
    CHAT_STEP_PLUS,    /* unary */
    CHAT_STEP_COMPARE, /* a: list of CHAT_OPERAND */
    CHAT_STEP_ATTR,    /* value: name; method: its number as a method */
    CHAT_STEP_ITEM,    /* a */
    CHAT_STEP_SLICE,   /* a : b : c, each may be NULL */
    CHAT_STEP_CALL,    /* a: arguments */
    CHAT_STEP_FILTER,  /* value: name; a: arguments; slot: number of the filter */
    CHAT_STEP_TEST,    /* value: name; a: arguments; slot: number of the test */
    CHAT_OPERAND,      /* op: enum chat_compare; a */
    /* arguments of a call */
    CHAT_ARG,           /* a */
    CHAT_ARG_NAMED,     /* value: name; a */
    CHAT_ARG_STAR,      /* a */
    CHAT_ARG_STAR_STAR, /* a */
    /* statements */
    CHAT_STMT_TEXT,       /* value */
    CHAT_STMT_OUTPUT,     /* a */
    CHAT_STMT_IF,         /* a: test, b: body, c: list of IF (elif), d: else */
    CHAT_STMT_FOR,        /* a: target, b: iterable, c: body, d: else, e: test, f: its target */
    CHAT_STMT_SET,        /* a: target, b: expression */
    CHAT_STMT_SET_BLOCK,  /* a: target, b: chain of filters or NULL, c: body */
    CHAT_STMT_MACRO,      /* value: name; a: parameters (their a: default), b: target, c: body */
    CHAT_STMT_CALL,       /* a: parameters, b: call, c: body */
    CHAT_STMT_FILTER,     /* b: chain of filters, c: body */
    CHAT_STMT_WITH,       /* a: targets, b: values, c: body */
    CHAT_STMT_GENERATION, /* c: body */
    CHAT_STMT_BREAK,
    CHAT_STMT_CONTINUE,
};

enum chat_compare {
    CHAT_EQ,
    CHAT_NE,
    CHAT_LT,
    CHAT_LE,
    CHAT_GT,
    CHAT_GE,
    CHAT_IN,
    CHAT_NOT_IN,
};

/* What a block does with its variables when it is entered. */
enum chat_load_action {
    CHAT_LOAD_PARAMETER, /* its own code sets it */
    CHAT_LOAD_RESOLVE,   /* the context's value at this moment */
    CHAT_LOAD_ALIAS,     /* the outer block's value at this moment */
    CHAT_LOAD_UNDEFINED,
};

struct chat_load {
    uint8_t action;
    uint16_t from_hops;
    uint32_t slot;
    uint32_t name;
    uint32_t from_slot;
};

struct chat_scope {
    uint32_t count;
    struct chat_load loads[];
};

/* The root, a macro, a call block or the filter of a loop: what has a frame of its own. */
struct chat_function {
    uint32_t slot_count;
    uint32_t depth;
    uint32_t parameter_count;
    uint32_t caller_slot;
    uint32_t kwargs_slot;
    uint32_t varargs_slot;
    bool has_caller_parameter;
};

struct chat_node {
    uint8_t kind;
    uint8_t op;
    bool is_toplevel; /* a name whose assignment the context sees */
    uint16_t hops;    /* frames up */
    uint16_t method;
    uint32_t slot;
    uint32_t name;
    uint32_t line;
    struct chat_node *next;
    struct chat_node *a, *b, *c, *d, *e, *f;
    struct chat_scope *scope;      /* of the body */
    struct chat_scope *else_scope; /* of a loop's else */
    struct chat_scope *test_scope; /* of a loop's test */
    struct chat_function *function;
    struct chat_value value;
};

struct chat_name {
    const char *text;
    uint32_t bytes;
    bool is_global; /* looked up in the context somewhere */
};

struct chat_template {
    struct arena arena;
    struct chat_node *body;
    struct chat_scope *scope;
    struct chat_function function;
    struct chat_name *names;
    uint32_t name_count;
    uint32_t name_room;
    uint32_t *name_index; /* only while parsing */
    uint32_t name_index_mask;
};

/* The number of a name, made when new; ERR_LIMIT past CHAT_NODE_NAMES_MAX. */
MUST_USE enum err chat_node_name(struct chat_template *chat_template, const char *text,
                                 uint32_t bytes, uint32_t *out);

#endif
