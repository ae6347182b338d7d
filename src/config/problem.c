/* problem - see problem.h. */
#include "config/problem.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"

#define MESSAGE_BYTES_MAX 2048

const char *problem_severity_name(enum problem_severity severity) {
    static const char *const names[] = {"error", "warning", "note"};
    return (unsigned) severity < ARRAY_COUNT(names) ? names[severity] : "?";
}

/* The same cause, told a second time: a value of Common that another section took as well. */
static bool is_repeated(const struct problem_list *list, const char *code, const char *key,
                        struct problem_mark mark) {
    if (!mark.is_common) return false;
    for (uint32_t i = 0; i < list->count; i++) {
        const struct problem *other = &list->items[i];
        if (other->mark.is_common && other->mark.line == mark.line &&
            other->mark.column == mark.column && strcmp(other->code, code) == 0 &&
            strcmp(other->key, key) == 0)
            return true;
    }
    return false;
}

static bool has_room(struct problem_list *list) {
    if (list->count < list->room) return true;
    if (list->count >= PROBLEMS_MAX) return false;
    uint32_t room = list->room ? list->room * 2 : 16;
    struct problem *items = alloc_resize(list->items, room * sizeof *items);
    if (!items) return false;
    list->items = items;
    list->room = room;
    return true;
}

struct problem *problem_add(struct problem_list *list, enum problem_severity severity,
                            const char *code, const char *component, const char *key,
                            struct problem_mark mark, const char *fix, const char *format, ...) {
    if (is_repeated(list, code, key, mark)) return NULL;
    char message[MESSAGE_BYTES_MAX];
    va_list args;
    va_start(args, format);
    vsnprintf(message, sizeof message, format, args);
    va_end(args);
    /* What came from the file goes to terminals and JSON: no control characters. */
    for (char *at = message; *at; at++)
        if ((unsigned char) *at < ' ' || *at == 127) *at = ' ';
    if (!has_room(list)) {
        list->is_cut = true;
        return NULL;
    }
    struct problem problem = {.severity = severity, .mark = mark};
    snprintf(problem.code, sizeof problem.code, "%s", code);
    snprintf(problem.component, sizeof problem.component, "%s", component);
    snprintf(problem.key, sizeof problem.key, "%s", key);
    problem.message = alloc_string(message, strlen(message));
    problem.fix = fix ? alloc_string(fix, strlen(fix)) : NULL;
    if (!problem.message || (fix && !problem.fix)) {
        alloc_free(problem.message);
        alloc_free(problem.fix);
        list->is_cut = true;
        return NULL;
    }
    list->items[list->count] = problem;
    return &list->items[list->count++];
}

void problem_set_edit(struct problem *problem, enum problem_edit edit, uint32_t line,
                      const char *format, ...) {
    if (!problem || problem->mark.is_flag || (edit != PROBLEM_EDIT_INSERT && !problem->mark.line) ||
        (edit == PROBLEM_EDIT_INSERT && !line))
        return;
    char text[1024];
    va_list args;
    va_start(args, format);
    int bytes = vsnprintf(text, sizeof text, format, args);
    va_end(args);
    if (bytes < 0 || (size_t) bytes >= sizeof text) return;
    alloc_free(problem->edit_text);
    problem->edit_text = alloc_string(text, strlen(text));
    problem->edit = problem->edit_text ? edit : PROBLEM_EDIT_NONE;
    problem->edit_line = line;
}

uint32_t problem_count(const struct problem_list *list, enum problem_severity severity) {
    uint32_t count = 0;
    for (uint32_t i = 0; i < list->count; i++) count += list->items[i].severity == severity;
    return count;
}

const struct problem *problem_find(const struct problem_list *list, const char *code,
                                   const char *component) {
    for (uint32_t i = 0; i < list->count; i++)
        if (strcmp(list->items[i].code, code) == 0 &&
            (!component || strcmp(list->items[i].component, component) == 0))
            return &list->items[i];
    return NULL;
}

bool problem_move(struct problem_list *from, struct problem_list *to) {
    bool has_all = !from->is_cut;
    uint32_t moved = 0;
    for (; moved < from->count && has_room(to); moved++)
        to->items[to->count++] = from->items[moved];
    has_all &= moved == from->count;
    to->is_cut |= !has_all;
    if (moved < from->count) /* an empty list has no items at all */
        memmove(from->items, from->items + moved, (from->count - moved) * sizeof *from->items);
    from->count -= moved;
    problem_release(from);
    return has_all;
}

static int compare(const void *left, const void *right) {
    const struct problem *a = left, *b = right;
    if (a->severity != b->severity) return a->severity < b->severity ? -1 : 1;
    if (a->mark.line != b->mark.line) return a->mark.line < b->mark.line ? -1 : 1;
    if (a->mark.column != b->mark.column) return a->mark.column < b->mark.column ? -1 : 1;
    int order = strcmp(a->component, b->component);
    return order ? order : strcmp(a->key, b->key);
}

void problem_sort(struct problem_list *list) {
    if (list->count) qsort(list->items, list->count, sizeof *list->items, compare);
}

/* --- printing ---------------------------------------------------------------------------- */

static void add_place(const struct problem *problem, const char *file, struct buf *out) {
    if (problem->mark.is_flag) buf_add_string(out, "command line: ");
    else if (problem->mark.line)
        buf_add_format(out, "%s:%u:%u: ", file, problem->mark.line, problem->mark.column);
    else buf_add_format(out, "%s: ", file);
}

static void add_subject(const struct problem *problem, struct buf *out) {
    if (!problem->component[0] && !problem->key[0]) return;
    buf_add_format(out, "%s%s%s%s: ", problem->component,
                   problem->component[0] && problem->key[0] ? "." : "", problem->key,
                   problem->mark.is_common && strcmp(problem->component, "Common") != 0
                       ? " (from Common)"
                       : "");
}

void problem_print_line(const struct problem *problem, const char *file, struct buf *out) {
    add_place(problem, file, out);
    buf_add_format(out, "%s: ", problem_severity_name(problem->severity));
    add_subject(problem, out);
    buf_add_string(out, problem->message);
}

static void add_total(const struct problem_list *list, struct buf *out) {
    uint32_t errors = problem_count(list, PROBLEM_ERROR);
    uint32_t warnings = problem_count(list, PROBLEM_WARNING);
    buf_add_format(out, "%u error%s, %u warning%s\n", errors, errors == 1 ? "" : "s", warnings,
                   warnings == 1 ? "" : "s");
}

void problem_print(const struct problem_list *list, const char *file, bool has_colour,
                   struct buf *out) {
    static const char *const colours[] = {"\033[1;31m", "\033[1;33m", "\033[1;36m"};
    for (uint32_t i = 0; i < list->count; i++) {
        const struct problem *problem = &list->items[i];
        if (has_colour) {
            buf_add_string(out, "\033[1m");
            add_place(problem, file, out);
            buf_add_format(out, "%s%s:\033[0m ", colours[problem->severity],
                           problem_severity_name(problem->severity));
            add_subject(problem, out);
            buf_add_format(out, "%s\n", problem->message);
        } else {
            problem_print_line(problem, file, out);
            buf_add_byte(out, '\n');
        }
        if (problem->fix)
            buf_add_format(out, "    %sfix:%s %s\n", has_colour ? "\033[1;32m" : "",
                           has_colour ? "\033[0m" : "", problem->fix);
    }
    if (list->is_cut) buf_add_string(out, "more problems than are listed here\n");
    add_total(list, out);
}

static void add_json_text(struct buf *out, const char *name, const char *text) {
    buf_add_format(out, "\"%s\":\"", name);
    buf_add_json_escaped(out, text, strlen(text));
    buf_add_byte(out, '"');
}

void problem_print_json_items(const struct problem_list *list, struct buf *out) {
    buf_add_byte(out, '[');
    for (uint32_t i = 0; i < list->count; i++) {
        const struct problem *problem = &list->items[i];
        buf_add_string(out, i ? ",{" : "{");
        add_json_text(out, "severity", problem_severity_name(problem->severity));
        buf_add_byte(out, ',');
        add_json_text(out, "code", problem->code);
        buf_add_byte(out, ',');
        add_json_text(out, "component", problem->component);
        buf_add_byte(out, ',');
        add_json_text(out, "key", problem->key);
        buf_add_format(out, ",\"line\":%u,\"column\":%u,", problem->mark.line,
                       problem->mark.column);
        add_json_text(out, "message", problem->message);
        if (problem->fix) {
            buf_add_byte(out, ',');
            add_json_text(out, "fix", problem->fix);
        } else {
            buf_add_string(out, ",\"fix\":null");
        }
        buf_add_byte(out, '}');
    }
    buf_add_byte(out, ']');
}

void problem_print_json(const struct problem_list *list, struct buf *out) {
    buf_add_format(
        out, "{\"ok\":%s,\"problems\":", problem_count(list, PROBLEM_ERROR) ? "false" : "true");
    problem_print_json_items(list, out);
    buf_add_string(out, "}\n");
}

void problem_release(struct problem_list *list) {
    for (uint32_t i = 0; i < list->count; i++) {
        alloc_free(list->items[i].message);
        alloc_free(list->items[i].fix);
        alloc_free(list->items[i].edit_text);
    }
    alloc_free(list->items);
    *list = (struct problem_list){0};
}
