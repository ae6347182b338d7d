/* chat_scope - see chat_scope.h. */
#include "chat/chat_scope.h"

#include <string.h>

#include "chat/chat_filter.h"
#include "chat/chat_method.h"

struct symbol {
    uint32_t name;
    uint32_t slot;
    uint8_t action;
    bool is_stored;
    struct chat_function *from; /* of an alias */
    uint32_t from_slot;
};

/* Slots by name: shared by the copies that the branches of an if work on. */
struct slots {
    uint32_t *pairs; /* name, slot */
    uint32_t count;
    uint32_t room;
};

struct symbols {
    const struct symbols *parent;
    struct chat_function *function;
    struct slots *slots;
    struct symbol *at;
    uint32_t count;
    uint32_t room;
};

struct scoping {
    struct chat_template *chat_template;
    struct arena scratch;
    struct err_text *text;
    enum err failed;
    uint32_t for_depth;
    uint32_t names[4]; /* of the words below */
};

enum word { WORD_LOOP, WORD_CALLER, WORD_KWARGS, WORD_VARARGS };

/* Where a statement stands. */
struct place {
    struct symbols *symbols;
    struct chat_function *function;
    bool is_soft;     /* inside an if: unknown filters fail only when they run */
    bool is_toplevel; /* assignments reach the context */
    bool is_in_loop;  /* break and continue have a target */
};

static void out_of_memory(struct scoping *scoping) {
    if (!scoping->failed) scoping->failed = err_set(scoping->text, ERR_MEMORY, "out of memory");
}

static void fail(struct scoping *scoping, enum err e, uint32_t line, const char *what,
                 const struct chat_value *name) {
    if (scoping->failed) return;
    int bytes = !name ? 0 : name->count > 60 ? 60 : (int) name->count;
    scoping->failed = err_set(scoping->text, e, "template line %u: %s%.*s%s", line, what, bytes,
                              name ? name->text : "", name ? "'" : "");
}

/* Doubles an array of the scratch arena. */
static void *grow(struct scoping *scoping, const void *old, uint32_t count, uint32_t *room,
                  size_t size) {
    uint32_t wanted = *room ? *room * 2 : 8;
    void *at = arena_take(&scoping->scratch, wanted * size);
    if (!at) {
        out_of_memory(scoping);
        return NULL;
    }
    if (count) memcpy(at, old, count * size);
    *room = wanted;
    return at;
}

static struct symbols *inner(struct scoping *scoping, const struct symbols *parent,
                             struct chat_function *function) {
    struct symbols *symbols = arena_take_zero(&scoping->scratch, 1, sizeof *symbols);
    struct slots *slots = arena_take_zero(&scoping->scratch, 1, sizeof *slots);
    if (!symbols || !slots) {
        out_of_memory(scoping);
        return NULL;
    }
    symbols->parent = parent;
    symbols->function = function;
    symbols->slots = slots;
    return symbols;
}

static uint32_t slot_of(struct scoping *scoping, struct symbols *symbols, uint32_t name) {
    struct slots *slots = symbols->slots;
    for (uint32_t i = 0; i < slots->count; i++)
        if (slots->pairs[i * 2] == name) return slots->pairs[i * 2 + 1];
    if (slots->count == slots->room) {
        uint32_t *pairs = grow(scoping, slots->pairs, slots->count, &slots->room, 8);
        if (!pairs) return 0;
        slots->pairs = pairs;
    }
    uint32_t slot = symbols->function->slot_count++;
    slots->pairs[slots->count * 2] = name;
    slots->pairs[slots->count * 2 + 1] = slot;
    slots->count++;
    return slot;
}

static struct symbol *own(const struct symbols *symbols, uint32_t name) {
    for (uint32_t i = 0; i < symbols->count; i++)
        if (symbols->at[i].name == name) return &symbols->at[i];
    return NULL;
}

static const struct symbol *find(const struct symbols *symbols, uint32_t name,
                                 struct chat_function **function) {
    for (; symbols; symbols = symbols->parent) {
        const struct symbol *symbol = own(symbols, name);
        if (!symbol) continue;
        *function = symbols->function;
        return symbol;
    }
    return NULL;
}

static struct symbol *define(struct scoping *scoping, struct symbols *symbols, uint32_t name,
                             enum chat_load_action action) {
    struct symbol *symbol = own(symbols, name);
    if (!symbol) {
        if (symbols->count == symbols->room) {
            struct symbol *at =
                grow(scoping, symbols->at, symbols->count, &symbols->room, sizeof *at);
            if (!at) return NULL;
            symbols->at = at;
        }
        symbol = &symbols->at[symbols->count++];
        *symbol = (struct symbol){.name = name, .slot = slot_of(scoping, symbols, name)};
    }
    symbol->action = (uint8_t) action;
    return symbol;
}

static void set_outer(struct scoping *scoping, struct symbols *symbols, struct symbol *symbol,
                      enum chat_load_action otherwise) {
    struct chat_function *function;
    const struct symbol *outer =
        symbols->parent ? find(symbols->parent, symbol->name, &function) : NULL;
    symbol->action = (uint8_t) (outer ? CHAT_LOAD_ALIAS : otherwise);
    if (!outer) return;
    symbol->from = function;
    symbol->from_slot = outer->slot;
}

static void symbol_load(struct scoping *scoping, struct symbols *symbols, uint32_t name) {
    struct chat_function *function;
    if (!find(symbols, name, &function)) define(scoping, symbols, name, CHAT_LOAD_RESOLVE);
}

static void symbol_store(struct scoping *scoping, struct symbols *symbols, uint32_t name) {
    struct symbol *symbol = own(symbols, name);
    if (!symbol) {
        symbol = define(scoping, symbols, name, CHAT_LOAD_UNDEFINED);
        if (symbol) set_outer(scoping, symbols, symbol, CHAT_LOAD_UNDEFINED);
    }
    if (symbol) symbol->is_stored = true;
}

static uint32_t symbol_parameter(struct scoping *scoping, struct symbols *symbols, uint32_t name) {
    struct symbol *symbol = define(scoping, symbols, name, CHAT_LOAD_PARAMETER);
    if (!symbol) return 0;
    symbol->is_stored = true;
    return symbol->slot;
}

/* First pass: which names a scope loads and stores, in order. */

static void note_expression(struct scoping *scoping, struct symbols *symbols,
                            const struct chat_node *node) {
    for (; node && !scoping->failed; node = node->next) {
        if (node->kind == CHAT_EXPR_NAME || node->kind == CHAT_EXPR_SPACE)
            symbol_load(scoping, symbols, node->name);
        note_expression(scoping, symbols, node->a);
        note_expression(scoping, symbols, node->b);
        if (node->kind != CHAT_EXPR_CHAIN) note_expression(scoping, symbols, node->c);
    }
}

static void note_target(struct scoping *scoping, struct symbols *symbols,
                        const struct chat_node *target, bool is_parameter) {
    if (target->kind == CHAT_EXPR_SPACE) symbol_load(scoping, symbols, target->name);
    else if (target->kind == CHAT_EXPR_NAME && is_parameter)
        symbol_parameter(scoping, symbols, target->name);
    else if (target->kind == CHAT_EXPR_NAME) symbol_store(scoping, symbols, target->name);
    else
        for (const struct chat_node *item = target->a; item; item = item->next)
            note_target(scoping, symbols, item, is_parameter);
}

static void note_body(struct scoping *scoping, struct symbols *symbols,
                      const struct chat_node *node);

static struct symbols branch_copy(struct scoping *scoping, const struct symbols *symbols) {
    struct symbols copy = *symbols;
    copy.room = symbols->count + 4;
    copy.at = arena_take(&scoping->scratch, copy.room * sizeof *copy.at);
    if (!copy.at) {
        out_of_memory(scoping);
        copy.room = copy.count = 0;
    } else if (copy.count) {
        memcpy(copy.at, symbols->at, copy.count * sizeof *copy.at);
    }
    return copy;
}

/* After an if: what some branch stored may come from outside. */
static void branch_merge(struct scoping *scoping, struct symbols *symbols,
                         const struct symbols *branches) {
    uint32_t before = symbols->count;
    bool *was_stored = arena_take_zero(&scoping->scratch, before + 1u, sizeof *was_stored);
    if (!was_stored) {
        out_of_memory(scoping);
        return;
    }
    for (uint32_t i = 0; i < before; i++) was_stored[i] = symbols->at[i].is_stored;
    for (uint32_t b = 0; b < 3; b++)
        for (uint32_t i = 0; i < branches[b].count && !scoping->failed; i++) {
            const struct symbol *from = &branches[b].at[i];
            struct symbol *symbol =
                define(scoping, symbols, from->name, (enum chat_load_action) from->action);
            if (!symbol) return;
            bool is_stored = symbol->is_stored || from->is_stored;
            *symbol = *from;
            symbol->is_stored = is_stored;
        }
    for (uint32_t i = 0; i < symbols->count && !scoping->failed; i++)
        if (symbols->at[i].is_stored && !(i < before && was_stored[i]))
            set_outer(scoping, symbols, &symbols->at[i], CHAT_LOAD_RESOLVE);
}

static void note_if(struct scoping *scoping, struct symbols *symbols,
                    const struct chat_node *node) {
    note_expression(scoping, symbols, node->a);
    struct symbols branches[3] = {branch_copy(scoping, symbols), branch_copy(scoping, symbols),
                                  branch_copy(scoping, symbols)};
    if (scoping->failed) return;
    note_body(scoping, &branches[0], node->b);
    for (const struct chat_node *other = node->c; other; other = other->next)
        note_if(scoping, &branches[1], other);
    note_body(scoping, &branches[2], node->d);
    branch_merge(scoping, symbols, branches);
}

static void note_body(struct scoping *scoping, struct symbols *symbols,
                      const struct chat_node *node) {
    for (; node && !scoping->failed; node = node->next) {
        switch (node->kind) {
        case CHAT_STMT_OUTPUT: note_expression(scoping, symbols, node->a); break;
        case CHAT_STMT_IF: note_if(scoping, symbols, node); break;
        case CHAT_STMT_FOR:
        case CHAT_STMT_CALL:
        case CHAT_STMT_FILTER:
        case CHAT_STMT_WITH: note_expression(scoping, symbols, node->b); break;
        case CHAT_STMT_SET: note_expression(scoping, symbols, node->b); /* fall through */
        case CHAT_STMT_SET_BLOCK: note_target(scoping, symbols, node->a, false); break;
        case CHAT_STMT_MACRO: symbol_store(scoping, symbols, node->b->name); break;
        default: break;
        }
    }
}

/* Whether a body loads a word that it did not set before: bits of the words left in `words`. */

static void seek_expression(const struct scoping *scoping, const struct chat_node *node,
                            unsigned *words, unsigned *found) {
    for (; node; node = node->next) {
        for (unsigned i = 0; node->kind == CHAT_EXPR_NAME && i < 4; i++)
            if (scoping->names[i] == node->name) *found |= *words & 1u << i;
        seek_expression(scoping, node->a, words, found);
        seek_expression(scoping, node->b, words, found);
        if (node->kind != CHAT_EXPR_CHAIN) seek_expression(scoping, node->c, words, found);
    }
}

static void seek_target(const struct scoping *scoping, const struct chat_node *target,
                        unsigned *words) {
    for (unsigned i = 0; target->kind == CHAT_EXPR_NAME && i < 4; i++)
        if (scoping->names[i] == target->name) *words &= ~(1u << i);
    if (target->kind != CHAT_EXPR_TUPLE) return;
    for (const struct chat_node *item = target->a; item; item = item->next)
        seek_target(scoping, item, words);
}

static void seek_body(const struct scoping *scoping, const struct chat_node *node, unsigned *words,
                      unsigned *found) {
    for (; node; node = node->next) {
        bool has_parameters = node->kind == CHAT_STMT_MACRO || node->kind == CHAT_STMT_CALL;
        if (node->kind == CHAT_STMT_CALL) seek_expression(scoping, node->b, words, found);
        for (const struct chat_node *p = has_parameters || node->kind == CHAT_STMT_WITH ? node->a
                                                                                        : NULL;
             p; p = p->next)
            seek_target(scoping, p, words);
        for (const struct chat_node *p = has_parameters ? node->a : NULL; p; p = p->next)
            seek_expression(scoping, p->a, words, found);
        switch (node->kind) {
        case CHAT_STMT_OUTPUT: seek_expression(scoping, node->a, words, found); break;
        case CHAT_STMT_IF:
            seek_expression(scoping, node->a, words, found);
            seek_body(scoping, node->b, words, found);
            seek_body(scoping, node->c, words, found);
            seek_body(scoping, node->d, words, found);
            break;
        case CHAT_STMT_FOR:
        case CHAT_STMT_SET:
        case CHAT_STMT_SET_BLOCK:
            seek_target(scoping, node->a, words);
            seek_expression(scoping, node->b, words, found);
            seek_body(scoping, node->c, words, found);
            seek_body(scoping, node->d, words, found);
            seek_expression(scoping, node->e, words, found);
            break;
        case CHAT_STMT_WITH:
            seek_expression(scoping, node->b, words, found);
            seek_body(scoping, node->c, words, found);
            break;
        case CHAT_STMT_FILTER:
            seek_body(scoping, node->c, words, found);
            seek_expression(scoping, node->b, words, found);
            break;
        case CHAT_STMT_MACRO:
        case CHAT_STMT_CALL:
        case CHAT_STMT_GENERATION: seek_body(scoping, node->c, words, found); break;
        default: break;
        }
    }
}

static unsigned seek(const struct scoping *scoping, const struct chat_node *body, unsigned words) {
    unsigned found = 0;
    seek_body(scoping, body, &words, &found);
    return found;
}

/* Second pass: slots into the tree. */

static void bind_name(struct scoping *scoping, const struct place *place, struct chat_node *node) {
    struct chat_function *function;
    const struct symbol *symbol = find(place->symbols, node->name, &function);
    node->slot = CHAT_NODE_NO_SLOT;
    if (!symbol) return;
    node->slot = symbol->slot;
    node->hops = (uint16_t) (place->function->depth - function->depth);
}

static void bind_call(struct scoping *scoping, const struct place *place, bool is_soft,
                      struct chat_node *node) {
    bool is_filter = node->kind == CHAT_STEP_FILTER;
    const char *name = node->value.text;
    uint32_t bytes = node->value.count;
    node->slot = is_filter ? chat_filter_find(name, bytes) : chat_filter_find_test(name, bytes);
    if (node->slot == CHAT_NODE_NO_SLOT && !is_soft)
        fail(scoping, ERR_FORMAT, node->line, is_filter ? "no filter named '" : "no test named '",
             &node->value);
}

static void bind_expression(struct scoping *scoping, const struct place *place, bool is_soft,
                            struct chat_node *node) {
    for (; node && !scoping->failed; node = node->next) {
        bool soft = is_soft || node->kind == CHAT_EXPR_COND;
        switch (node->kind) {
        case CHAT_EXPR_NAME:
            bind_name(scoping, place, node);
            scoping->chat_template->names[node->name].is_global = true;
            break;
        case CHAT_STEP_ATTR:
            node->method = chat_method_find(node->value.text, node->value.count);
            break;
        case CHAT_STEP_FILTER:
        case CHAT_STEP_TEST: bind_call(scoping, place, is_soft, node); break;
        default: break;
        }
        bind_expression(scoping, place, soft, node->a);
        bind_expression(scoping, place, soft, node->b);
        if (node->kind != CHAT_EXPR_CHAIN) bind_expression(scoping, place, soft, node->c);
    }
}

static void bind_value(struct scoping *scoping, const struct place *place, struct chat_node *node) {
    bind_expression(scoping, place, place->is_soft, node);
}

static void bind_target(struct scoping *scoping, const struct place *place,
                        struct chat_node *target) {
    if (target->kind == CHAT_EXPR_TUPLE) {
        for (struct chat_node *item = target->a; item; item = item->next)
            bind_target(scoping, place, item);
        return;
    }
    if (target->kind == CHAT_EXPR_NAME && scoping->for_depth &&
        target->name == scoping->names[WORD_LOOP])
        fail(scoping, ERR_FORMAT, target->line, "cannot assign to the loop variable", NULL);
    target->is_toplevel = place->is_toplevel && target->kind == CHAT_EXPR_NAME;
    bind_name(scoping, place, target);
}

/* What entering the scope must do. */
static struct chat_scope *loads_of(struct scoping *scoping, const struct symbols *symbols) {
    struct chat_scope *scope = arena_take(
        &scoping->chat_template->arena, sizeof *scope + symbols->count * sizeof(struct chat_load));
    if (!scope) {
        out_of_memory(scoping);
        return NULL;
    }
    scope->count = 0;
    for (uint32_t i = 0; i < symbols->count; i++) {
        const struct symbol *symbol = &symbols->at[i];
        if (symbol->action == CHAT_LOAD_PARAMETER) continue;
        struct chat_load *load = &scope->loads[scope->count++];
        *load = (struct chat_load){
            .action = symbol->action, .slot = symbol->slot, .name = symbol->name};
        if (symbol->action != CHAT_LOAD_ALIAS) continue;
        load->from_hops = (uint16_t) (symbols->function->depth - symbol->from->depth);
        load->from_slot = symbol->from_slot;
    }
    return scope;
}

static struct chat_function *function_new(struct scoping *scoping,
                                          const struct chat_function *outer) {
    struct chat_function *function =
        arena_take_zero(&scoping->chat_template->arena, 1, sizeof *function);
    if (!function) {
        out_of_memory(scoping);
        return NULL;
    }
    function->depth = outer->depth + 1;
    function->caller_slot = function->kwargs_slot = function->varargs_slot = CHAT_NODE_NO_SLOT;
    return function;
}

static void bind_body(struct scoping *scoping, const struct place *place, struct chat_node *node);

/* A block whose body is a scope of the same function. */
static void bind_block(struct scoping *scoping, const struct place *place, struct chat_node *node) {
    struct symbols *symbols = inner(scoping, place->symbols, place->function);
    if (!symbols) return;
    bool is_with = node->kind == CHAT_STMT_WITH;
    for (struct chat_node *target = is_with ? node->a : NULL; target; target = target->next)
        note_target(scoping, symbols, target, true);
    note_body(scoping, symbols, node->c);
    if (!is_with) note_expression(scoping, symbols, node->b);
    struct place body = {symbols, place->function, false, false, place->is_in_loop};
    if (node->kind == CHAT_STMT_GENERATION) body.is_in_loop = false;
    if (is_with) bind_value(scoping, place, node->b);
    else bind_value(scoping, &body, node->b);
    for (struct chat_node *target = is_with ? node->a : NULL; target; target = target->next)
        bind_name(scoping, &body, target);
    bind_body(scoping, &body, node->c);
    if (node->kind == CHAT_STMT_SET_BLOCK) bind_target(scoping, place, node->a);
    node->scope = loads_of(scoping, symbols);
}

static void bind_for_test(struct scoping *scoping, const struct place *place,
                          struct chat_node *node) {
    node->function = function_new(scoping, place->function);
    if (!node->function) return;
    struct symbols *symbols = inner(scoping, place->symbols, node->function);
    if (!symbols) return;
    note_target(scoping, symbols, node->f, true);
    note_expression(scoping, symbols, node->e);
    struct place test = {symbols, node->function, false, false, false};
    bind_target(scoping, &test, node->f);
    bind_value(scoping, &test, node->e);
    node->test_scope = loads_of(scoping, symbols);
}

static void bind_for(struct scoping *scoping, const struct place *place, struct chat_node *node) {
    struct symbols *symbols = inner(scoping, place->symbols, place->function);
    struct symbols *others = inner(scoping, place->symbols, place->function);
    if (!symbols || !others) return;
    bind_value(scoping, place, node->b);
    scoping->for_depth++;
    node->slot = CHAT_NODE_NO_SLOT;
    if (seek(scoping, node->c, 1u << WORD_LOOP))
        node->slot = symbol_parameter(scoping, symbols, scoping->names[WORD_LOOP]);
    note_target(scoping, symbols, node->a, true);
    note_body(scoping, symbols, node->c);
    note_body(scoping, others, node->d);
    if (node->e) bind_for_test(scoping, place, node);
    struct place body = {symbols, place->function, false, false, true};
    struct place other = {others, place->function, false, false, place->is_in_loop};
    bind_target(scoping, &body, node->a);
    bind_body(scoping, &body, node->c);
    bind_body(scoping, &other, node->d);
    node->scope = loads_of(scoping, symbols);
    node->else_scope = loads_of(scoping, others);
    scoping->for_depth--;
}

/* The caller of a call block can be a parameter only when it has a default. */
static bool has_bad_caller(const struct scoping *scoping, const struct chat_node *node,
                           struct chat_function *function) {
    for (const struct chat_node *p = node->a; p; p = p->next) {
        if (p->name != scoping->names[WORD_CALLER]) continue;
        function->has_caller_parameter = true;
        if (!p->a) return true;
    }
    return false;
}

static void bind_function(struct scoping *scoping, const struct place *place,
                          struct chat_node *node) {
    struct chat_function *function = node->function = function_new(scoping, place->function);
    if (!function) return;
    struct symbols *symbols = inner(scoping, place->symbols, function);
    if (!symbols) return;
    unsigned words = 1u << WORD_CALLER | 1u << WORD_KWARGS | 1u << WORD_VARARGS;
    for (struct chat_node *p = node->a; p; p = p->next) {
        symbol_parameter(scoping, symbols, p->name);
        function->parameter_count++;
    }
    for (struct chat_node *p = node->a; p; p = p->next) note_expression(scoping, symbols, p->a);
    note_body(scoping, symbols, node->c);
    unsigned found = seek(scoping, node->c, words);
    bool is_bad = has_bad_caller(scoping, node, function);
    if ((found & 1u << WORD_CALLER) && is_bad)
        fail(scoping, ERR_FORMAT, node->line, "the parameter caller needs a default", NULL);
    for (struct chat_node *p = node->a; p; p = p->next)
        for (unsigned i = 0; i < 4; i++)
            if (p->name == scoping->names[i]) found &= ~(1u << i);
    if (found & 1u << WORD_CALLER)
        function->caller_slot = symbol_parameter(scoping, symbols, scoping->names[WORD_CALLER]);
    if (found & 1u << WORD_KWARGS)
        function->kwargs_slot = symbol_parameter(scoping, symbols, scoping->names[WORD_KWARGS]);
    if (found & 1u << WORD_VARARGS)
        function->varargs_slot = symbol_parameter(scoping, symbols, scoping->names[WORD_VARARGS]);
    struct place body = {symbols, function, false, false, false};
    for (struct chat_node *p = node->a; p; p = p->next) {
        bind_name(scoping, &body, p);
        bind_value(scoping, &body, p->a);
    }
    bind_body(scoping, &body, node->c);
    node->scope = loads_of(scoping, symbols);
}

static void bind_if(struct scoping *scoping, const struct place *place, struct chat_node *node) {
    struct place soft = *place;
    soft.is_soft = true;
    for (struct chat_node *branch = node; branch;
         branch = branch == node ? node->c : branch->next) {
        bind_value(scoping, &soft, branch->a);
        bind_body(scoping, &soft, branch->b);
    }
    bind_body(scoping, &soft, node->d);
}

static void bind_body(struct scoping *scoping, const struct place *place, struct chat_node *node) {
    for (; node && !scoping->failed; node = node->next) {
        switch (node->kind) {
        case CHAT_STMT_OUTPUT: bind_value(scoping, place, node->a); break;
        case CHAT_STMT_IF: bind_if(scoping, place, node); break;
        case CHAT_STMT_FOR: bind_for(scoping, place, node); break;
        case CHAT_STMT_SET:
            bind_value(scoping, place, node->b);
            bind_target(scoping, place, node->a);
            break;
        case CHAT_STMT_SET_BLOCK:
        case CHAT_STMT_FILTER:
        case CHAT_STMT_WITH:
        case CHAT_STMT_GENERATION: bind_block(scoping, place, node); break;
        case CHAT_STMT_MACRO:
            bind_function(scoping, place, node);
            node->b->is_toplevel = place->is_toplevel;
            bind_name(scoping, place, node->b);
            break;
        case CHAT_STMT_CALL:
            bind_value(scoping, place, node->b);
            bind_function(scoping, place, node);
            break;
        case CHAT_STMT_BREAK:
        case CHAT_STMT_CONTINUE:
            if (!place->is_in_loop)
                fail(scoping, ERR_FORMAT, node->line, "break and continue need a loop", NULL);
            break;
        default: break;
        }
    }
}

enum err chat_scope_resolve(struct chat_template *chat_template, struct err_text *text) {
    static const char *const words[] = {"loop", "caller", "kwargs", "varargs"};
    struct scoping scoping = {.chat_template = chat_template, .text = text};
    arena_init(&scoping.scratch, 0);
    for (unsigned i = 0; i < 4 && !scoping.failed; i++) {
        scoping.failed =
            chat_node_name(chat_template, words[i], (uint32_t) strlen(words[i]), &scoping.names[i]);
        if (scoping.failed) err_set(text, scoping.failed, "%s", err_name(scoping.failed));
    }
    struct symbols *symbols =
        scoping.failed ? NULL : inner(&scoping, NULL, &chat_template->function);
    if (symbols) {
        struct place place = {symbols, &chat_template->function, false, true, false};
        note_body(&scoping, symbols, chat_template->body);
        bind_body(&scoping, &place, chat_template->body);
        if (!scoping.failed) chat_template->scope = loads_of(&scoping, symbols);
    }
    arena_release(&scoping.scratch);
    return scoping.failed;
}
