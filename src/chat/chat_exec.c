/* chat_exec - see chat_exec.h. */
#include "chat/chat_exec.h"

#include <string.h>

#include "chat/chat_iter.h"
#include "chat/chat_text.h"

/* How a body ended. */
enum flow { FLOW_NEXT, FLOW_BREAK, FLOW_CONTINUE };

static enum err exec_body(struct chat_run *run, struct chat_frame *frame,
                          const struct chat_node *node, enum flow *flow);

static void enter(struct chat_run *run, struct chat_frame *frame, const struct chat_scope *scope) {
    for (uint32_t i = 0; i < scope->count; i++) {
        const struct chat_load *load = &scope->loads[i];
        struct chat_value value = {0};
        if (load->action == CHAT_LOAD_RESOLVE) {
            value = run->context[load->name];
        } else if (load->action == CHAT_LOAD_ALIAS) {
            const struct chat_frame *from = frame;
            for (uint16_t hop = 0; hop < load->from_hops; hop++) from = from->up;
            value = from->slots[load->from_slot];
        }
        frame->slots[load->slot] = value;
    }
}

static struct chat_frame *frame_of(struct chat_frame *frame, const struct chat_node *name) {
    for (uint16_t i = 0; i < name->hops; i++) frame = frame->up;
    return frame;
}

static enum err assign(struct chat_run *run, struct chat_frame *frame,
                       const struct chat_node *target, const struct chat_value *value);

static enum err unpack(struct chat_run *run, struct chat_frame *frame,
                       const struct chat_node *target, const struct chat_value *value) {
    struct chat_value list;
    uint32_t count = 0, at = 0;
    for (const struct chat_node *item = target->a; item; item = item->next) count++;
    enum err e = chat_iter_list(run, value, CHAT_TUPLE, &list);
    if (e) return e;
    if (list.count != count)
        return chat_run_fail(run, ERR_FORMAT, "cannot unpack %u values into %u names", list.count,
                             count);
    for (const struct chat_node *item = target->a; !e && item; item = item->next)
        e = assign(run, frame, item, &list.items[at++]);
    return e;
}

static enum err assign(struct chat_run *run, struct chat_frame *frame,
                       const struct chat_node *target, const struct chat_value *value) {
    if (target->kind == CHAT_EXPR_TUPLE) return unpack(run, frame, target, value);
    if (target->slot == CHAT_NODE_NO_SLOT)
        return chat_run_fail(run, ERR_FORMAT, "cannot assign to this");
    struct chat_value *slot = &frame_of(frame, target)->slots[target->slot];
    if (target->kind == CHAT_EXPR_NAME) {
        *slot = *value;
        if (target->is_toplevel) run->context[target->name] = *value;
        return ERR_OK;
    }
    if (slot->kind != CHAT_SPACE)
        return chat_run_fail(run, ERR_FORMAT, "cannot assign attribute on non-namespace object");
    return chat_value_dict_set(run, &slot->space->dict, &target->value, value);
}

/* Loops */

struct filter_state {
    const struct chat_node *node;
    struct chat_frame *outer;
    struct chat_frame *frame;
};

/* The items of a loop that pass its test, which sees them under the loop's own names. */
static enum err next_passing(struct chat_run *run, struct chat_iter *iter, struct chat_value *out) {
    struct filter_state *state = iter->state;
    const struct chat_node *node = state->node;
    enum err e = ERR_OK;
    if (!state->frame) {
        state->frame = chat_eval_frame(run, node->function, state->outer);
        if (!state->frame) return run->failed;
        enter(run, state->frame, node->test_scope);
    }
    for (;;) {
        struct chat_value verdict;
        e = chat_iter_next(run, iter->inner, out);
        if (e || out->kind == CHAT_MISSING) return e;
        e = assign(run, state->frame, node->f, out);
        if (!e) e = chat_eval(run, state->frame, node->e, &verdict);
        if (e || chat_value_is_true(&verdict)) break;
    }
    /* The loop gets what the names hold: an item that was unpacked is a tuple. */
    if (!e && node->f->kind == CHAT_EXPR_TUPLE) e = chat_iter_list(run, out, CHAT_TUPLE, out);
    return e;
}

static enum err open_loop(struct chat_run *run, struct chat_frame *frame,
                          const struct chat_node *node, struct chat_value *source,
                          struct chat_iter **out) {
    enum err e = chat_eval(run, frame, node->b, source);
    run->line = node->line;
    if (!e) e = chat_iter_create(run, source, out);
    if (e || !node->e) return e;
    struct filter_state *state = chat_run_take(run, 1, sizeof *state);
    if (!state) return run->failed;
    *state = (struct filter_state){.node = node, .outer = frame};
    struct chat_iter *inner = *out;
    e = chat_iter_generate(run, next_passing, source, state, source);
    if (e) return e;
    *out = source->iter;
    (*out)->inner = inner;
    return ERR_OK;
}

static enum err exec_for(struct chat_run *run, struct chat_frame *frame,
                         const struct chat_node *node, enum flow *flow) {
    struct chat_loop *loop = NULL;
    struct chat_iter *iter;
    struct chat_value source, item;
    enum err e = open_loop(run, frame, node, &source, &iter);
    if (e) return e;
    if (node->slot != CHAT_NODE_NO_SLOT) {
        loop = chat_run_take(run, 1, sizeof *loop);
        if (!loop) return run->failed;
        *loop = (struct chat_loop){.iter = iter, .source = source, .index0 = -1, .length = -1};
    }
    bool is_empty = true;
    enum flow inner = FLOW_NEXT;
    while (inner != FLOW_BREAK) {
        e = loop ? chat_iter_loop_next(run, loop, &item) : chat_iter_next(run, iter, &item);
        if (e || item.kind == CHAT_MISSING) break;
        e = assign(run, frame, node->a, &item);
        if (e) break;
        if (loop) frame->slots[node->slot] = (struct chat_value){.kind = CHAT_LOOP, .loop = loop};
        enter(run, frame, node->scope);
        e = exec_body(run, frame, node->c, &inner);
        if (e) break;
        if (inner == FLOW_NEXT) is_empty = false; /* else also runs when no pass was completed */
    }
    if (e || !is_empty || !node->d) return e;
    enter(run, frame, node->else_scope);
    return exec_body(run, frame, node->d, flow);
}

/* Blocks that capture */

static enum err capture_body(struct chat_run *run, struct chat_frame *frame,
                             const struct chat_node *node, enum flow *flow,
                             struct chat_value *out) {
    struct chat_capture capture = chat_run_capture(run);
    enter(run, frame, node->scope);
    enum err e = exec_body(run, frame, node->c, flow);
    if (e) return e;
    if (*flow != FLOW_NEXT) {
        chat_run_capture_drop(run, capture);
        return ERR_OK;
    }
    return chat_run_capture_end(run, capture, out);
}

/* What a filter or call block writes must be a text: the reference joins it as it is. */
static enum err out_text_only(struct chat_run *run, const struct chat_value *value) {
    if (value->kind == CHAT_TEXT) return chat_run_out_text(run, value);
    return chat_run_fail(run, ERR_FORMAT, "the block's result is a '%s', not a string",
                         chat_value_kind_name(value));
}

static enum err exec_set_block(struct chat_run *run, struct chat_frame *frame,
                               const struct chat_node *node, enum flow *flow) {
    struct chat_value text = CHAT_LITERAL("");
    enum err e = capture_body(run, frame, node, flow, &text);
    if (!e && *flow == FLOW_NEXT && node->b) e = chat_eval_steps(run, frame, node->b->b, &text);
    run->line = node->line;
    return e || *flow != FLOW_NEXT ? e : assign(run, frame, node->a, &text);
}

static enum err exec_filter(struct chat_run *run, struct chat_frame *frame,
                            const struct chat_node *node, enum flow *flow) {
    struct chat_value text = CHAT_LITERAL("");
    enum err e = capture_body(run, frame, node, flow, &text);
    if (e || *flow != FLOW_NEXT) return e;
    e = chat_eval_steps(run, frame, node->b->b, &text);
    return e ? e : out_text_only(run, &text);
}

static enum err exec_with(struct chat_run *run, struct chat_frame *frame,
                          const struct chat_node *node, enum flow *flow) {
    const struct chat_node *target = node->a;
    enum err e = ERR_OK;
    enter(run, frame, node->scope);
    for (const struct chat_node *value = node->b; !e && value; value = value->next) {
        struct chat_value result;
        e = chat_eval(run, frame, value, &result);
        if (!e) e = assign(run, frame, target, &result);
        target = target->next;
    }
    return e ? e : exec_body(run, frame, node->c, flow);
}

/* Macros */

static enum err make_macro(struct chat_run *run, struct chat_frame *frame,
                           const struct chat_node *node, struct chat_value *out) {
    struct chat_macro *macro = chat_run_take(run, 1, sizeof *macro);
    if (!macro) return run->failed;
    *macro = (struct chat_macro){.node = node, .closure = frame};
    *out = (struct chat_value){.kind = CHAT_MACRO, .macro = macro};
    return ERR_OK;
}

static bool is_named(const struct chat_run *run, const struct chat_named *named, uint32_t name) {
    const struct chat_name *wanted = &run->names[name];
    return named->name.count == wanted->bytes &&
           memcmp(named->name.text, wanted->text, wanted->bytes) == 0;
}

/* The keyword arguments that no parameter took. */
static enum err rest_named(struct chat_run *run, const struct chat_node *node,
                           const struct chat_args *args, uint64_t taken, struct chat_frame *frame) {
    const struct chat_function *function = node->function;
    struct chat_dict *dict = chat_run_take(run, 1, sizeof *dict);
    if (!dict) return run->failed;
    *dict = (struct chat_dict){0};
    enum err e = ERR_OK;
    for (uint32_t i = 0; !e && i < args->named_count; i++) {
        if (taken & 1ull << i) continue;
        if (function->kwargs_slot == CHAT_NODE_NO_SLOT)
            return chat_run_fail(run, ERR_FORMAT, "the macro takes no argument '%.*s'",
                                 (int) (args->named[i].name.count & 63), args->named[i].name.text);
        e = chat_value_dict_set(run, dict, &args->named[i].name, &args->named[i].value);
    }
    if (!e && function->kwargs_slot != CHAT_NODE_NO_SLOT)
        frame->slots[function->kwargs_slot] = (struct chat_value){.kind = CHAT_DICT, .dict = dict};
    return e;
}

/* Parameters by position and name, then caller, kwargs, varargs. */
static enum err bind_parameters(struct chat_run *run, const struct chat_node *node,
                                const struct chat_args *args, struct chat_frame *frame) {
    static const char no_caller[] = "no caller defined";
    const struct chat_function *function = node->function;
    uint32_t position = 0;
    uint64_t taken = 0;
    if (args->named_count > 64)
        return chat_run_fail(run, ERR_LIMIT, "more than 64 keyword arguments");
    for (const struct chat_node *p = node->a; p; p = p->next, position++) {
        if (position < args->count) {
            frame->slots[p->slot] = args->values[position];
            continue;
        }
        for (uint32_t i = 0; i < args->named_count; i++) {
            if (!is_named(run, &args->named[i], p->name)) continue;
            frame->slots[p->slot] = args->named[i].value;
            taken |= 1ull << i;
        }
    }
    if (function->caller_slot != CHAT_NODE_NO_SLOT) {
        struct chat_value *slot = &frame->slots[function->caller_slot];
        *slot = chat_value_undefined(CHAT_UNDEFINED_HINT, no_caller, sizeof no_caller - 1);
        for (uint32_t i = 0; i < args->named_count; i++) {
            if (!chat_text_is(&args->named[i].name, "caller")) continue;
            taken |= 1ull << i;
            if (args->named[i].value.kind != CHAT_NONE) *slot = args->named[i].value;
        }
    }
    enum err e = rest_named(run, node, args, taken, frame);
    if (e) return e;
    uint32_t extra = args->count > position ? args->count - position : 0;
    if (function->varargs_slot == CHAT_NODE_NO_SLOT) {
        if (extra)
            return chat_run_fail(run, ERR_FORMAT, "the macro takes not more than %u arguments",
                                 position);
        return ERR_OK;
    }
    struct chat_value *items = chat_run_take(run, extra, sizeof *items);
    if (!items) return run->failed;
    if (extra) memcpy(items, args->values + position, extra * sizeof *items);
    frame->slots[function->varargs_slot] = chat_value_items(CHAT_TUPLE, items, extra);
    return ERR_OK;
}

enum err chat_exec_macro(struct chat_run *run, const struct chat_macro *macro,
                         const struct chat_args *args, struct chat_value *out) {
    const struct chat_node *node = macro->node;
    enum flow flow = FLOW_NEXT;
    if (run->depth >= run->depth_max)
        return chat_run_fail(run, ERR_LIMIT, "macros are nested too deeply");
    struct chat_frame *frame = chat_eval_frame(run, node->function, macro->closure);
    if (!frame) return run->failed;
    run->depth++;
    enum err e = bind_parameters(run, node, args, frame);
    struct chat_capture capture = chat_run_capture(run);
    enter(run, frame, node->scope);
    for (const struct chat_node *p = node->a; !e && p; p = p->next) {
        struct chat_value *slot = &frame->slots[p->slot];
        if (slot->kind != CHAT_MISSING) continue;
        struct chat_value value =
            chat_value_undefined(CHAT_UNDEFINED_NAME, p->value.text, p->value.count);
        if (p->a) e = chat_eval(run, frame, p->a, &value);
        *slot = value;
    }
    if (!e) e = exec_body(run, frame, node->c, &flow);
    if (!e) e = chat_run_capture_end(run, capture, out);
    run->depth--;
    return e;
}

static enum err exec_call(struct chat_run *run, struct chat_frame *frame,
                          const struct chat_node *node) {
    struct chat_value caller, callee, result;
    struct chat_args args;
    const struct chat_node *chain = node->b, *last = chain->c;
    enum err e = make_macro(run, frame, node, &caller);
    if (!e) e = chat_eval(run, frame, chain->a, &callee);
    /* All steps but the call itself, which gets one more argument. */
    for (const struct chat_node *step = chain->b; !e && step != last; step = step->next) {
        struct chat_node only = *step;
        only.next = NULL;
        e = chat_eval_steps(run, frame, &only, &callee);
    }
    if (!e) e = chat_eval_args(run, frame, last->a, &caller, &args);
    run->line = node->line;
    if (!e) e = chat_eval_call(run, &callee, &args, &result);
    return e ? e : out_text_only(run, &result);
}

/* Statements */

static enum err exec_if(struct chat_run *run, struct chat_frame *frame,
                        const struct chat_node *node, enum flow *flow) {
    for (const struct chat_node *branch = node; branch;
         branch = branch == node ? node->c : branch->next) {
        struct chat_value test;
        enum err e = chat_eval(run, frame, branch->a, &test);
        if (e) return e;
        if (chat_value_is_true(&test)) return exec_body(run, frame, branch->b, flow);
    }
    return exec_body(run, frame, node->d, flow);
}

static enum err exec_statement(struct chat_run *run, struct chat_frame *frame,
                               const struct chat_node *node, enum flow *flow) {
    struct chat_value value;
    enum err e;
    switch (node->kind) {
    case CHAT_STMT_TEXT: return chat_run_out(run, node->value.text, node->value.count, false);
    case CHAT_STMT_OUTPUT:
        e = chat_eval(run, frame, node->a, &value);
        return e ? e : chat_text_out(run, &value);
    case CHAT_STMT_IF: return exec_if(run, frame, node, flow);
    case CHAT_STMT_FOR: return exec_for(run, frame, node, flow);
    case CHAT_STMT_SET:
        e = chat_eval(run, frame, node->b, &value);
        run->line = node->line;
        return e ? e : assign(run, frame, node->a, &value);
    case CHAT_STMT_SET_BLOCK: return exec_set_block(run, frame, node, flow);
    case CHAT_STMT_MACRO:
        e = make_macro(run, frame, node, &value);
        return e ? e : assign(run, frame, node->b, &value);
    case CHAT_STMT_CALL: return exec_call(run, frame, node);
    case CHAT_STMT_FILTER: return exec_filter(run, frame, node, flow);
    case CHAT_STMT_WITH: return exec_with(run, frame, node, flow);
    case CHAT_STMT_GENERATION:
        enter(run, frame, node->scope);
        return exec_body(run, frame, node->c, flow);
    case CHAT_STMT_BREAK: *flow = FLOW_BREAK; return ERR_OK;
    default: *flow = FLOW_CONTINUE; return ERR_OK;
    }
}

static enum err exec_body(struct chat_run *run, struct chat_frame *frame,
                          const struct chat_node *node, enum flow *flow) {
    *flow = FLOW_NEXT;
    if (!node) return ERR_OK;
    if (run->depth >= run->depth_max)
        return chat_run_fail(run, ERR_LIMIT, "blocks are nested too deeply");
    run->depth++;
    enum err e = ERR_OK;
    for (; !e && node && *flow == FLOW_NEXT; node = node->next) {
        e = chat_run_spend(run, 1);
        if (e) return e;
        run->line = node->line;
        e = exec_statement(run, frame, node, flow);
    }
    run->depth--;
    return e;
}

enum err chat_exec_template(struct chat_run *run, const struct chat_template *chat_template) {
    enum flow flow;
    struct chat_frame *frame = chat_eval_frame(run, &chat_template->function, NULL);
    if (!frame) return run->failed;
    enter(run, frame, chat_template->scope);
    return exec_body(run, frame, chat_template->body, &flow);
}
