/* yaml_fix - see yaml_fix.h.
 *
 * Edits are sorted by place and applied from the end, so the marks before them stay true. */
#include "config/yaml_fix.h"

#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"

struct edit {
    size_t from, to; /* bytes replaced */
    char *text;      /* owned */
};

/* --- places --------------------------------------------------------------------------------- */

struct text {
    const char *data;
    size_t bytes;
};

static size_t line_start(struct text text, uint32_t line) {
    size_t at = 0;
    for (uint32_t n = 1; n < line && at < text.bytes; n++) {
        const char *end = memchr(text.data + at, '\n', text.bytes - at);
        if (!end) return text.bytes;
        at = (size_t) (end - text.data) + 1;
    }
    return at;
}

static size_t line_end(struct text text, size_t at) {
    const char *end = at < text.bytes ? memchr(text.data + at, '\n', text.bytes - at) : NULL;
    return end ? (size_t) (end - text.data) : text.bytes;
}

/* The byte of a mark: columns count characters. */
static size_t place(struct text text, struct problem_mark mark) {
    size_t at = line_start(text, mark.line);
    if (!at && text.bytes >= 3 && memcmp(text.data, "\xef\xbb\xbf", 3) == 0) at = 3;
    for (uint32_t column = 1; column < mark.column && at < text.bytes && text.data[at] != '\n';
         column++) {
        at++;
        while (at < text.bytes && ((unsigned char) text.data[at] & 0xc0) == 0x80) at++;
    }
    return at;
}

/* Within { } or [ ] opened on this line before `at`. */
static bool is_flow(struct text text, size_t at) {
    size_t start = at;
    while (start && text.data[start - 1] != '\n') start--;
    int depth = 0;
    for (char quote = 0; start < at; start++) {
        char c = text.data[start];
        if (quote) quote = c == quote ? 0 : quote;
        else if (c == '\'' || c == '"') quote = c;
        else depth += (c == '{' || c == '[') - (c == '}' || c == ']');
    }
    return depth > 0;
}

/* The end of the scalar at `at`, on its line. */
static size_t scalar_end(struct text text, size_t at) {
    size_t end = line_end(text, at);
    char quote = at < end ? text.data[at] : 0;
    if (quote == '\'' || quote == '"') {
        for (size_t i = at + 1; i < end; i++) {
            if (quote == '"' && text.data[i] == '\\') i++;
            else if (text.data[i] == quote && quote == '\'' && i + 1 < end &&
                     text.data[i + 1] == '\'')
                i++;
            else if (text.data[i] == quote) return i + 1;
        }
        return at; /* goes on in the next line: left alone */
    }
    if (quote == '{' || quote == '[' || quote == '|' || quote == '>' || quote == '*') return at;
    bool in_flow = is_flow(text, at);
    size_t i = at;
    for (; i < end; i++) {
        char c = text.data[i];
        if (c == '#' && i > at && text.data[i - 1] == ' ') break;
        if (c == ':' && (i + 1 == end || text.data[i + 1] == ' ' || text.data[i + 1] == '\r'))
            break;
        if (in_flow && (c == ',' || c == '}' || c == ']')) break;
    }
    while (i > at && (text.data[i - 1] == ' ' || text.data[i - 1] == '\r')) i--;
    return i;
}

/* The end of a value at `at`: also of a list or mapping in brackets, where its line closes it. */
static size_t value_end(struct text text, size_t at) {
    size_t end = line_end(text, at);
    if (at >= end || (text.data[at] != '{' && text.data[at] != '[')) return scalar_end(text, at);
    int depth = 0;
    char quote = 0;
    for (size_t i = at; i < end; i++) {
        char c = text.data[i];
        if (quote) quote = c == quote ? 0 : quote;
        else if (c == '\'' || c == '"') quote = c;
        else depth += (c == '{' || c == '[') - (c == '}' || c == ']');
        if (!depth && !quote) return i + 1;
    }
    return at;
}

static uint32_t indent_of(struct text text, size_t start) {
    uint32_t indent = 0;
    while (start + indent < text.bytes && text.data[start + indent] == ' ') indent++;
    return indent;
}

static bool is_blank(struct text text, size_t start) {
    size_t at = start + indent_of(text, start);
    return at >= text.bytes || text.data[at] == '\n' || text.data[at] == '\r' ||
           text.data[at] == '#';
}

/* --- edits ---------------------------------------------------------------------------------- */

struct edits {
    struct edit *items;
    uint32_t count, room;
};

#define TAB_LINES_MAX 4096u

static void add(struct edits *edits, size_t from, size_t to, const struct buf *text) {
    const char *data = text->bytes ? (const char *) text->data : "";
    for (uint32_t i = 0; i < edits->count; i++) {
        const struct edit *other = &edits->items[i];
        if (from < other->to && other->from < to) return; /* one at a time */
        if (from == other->from && strlen(other->text) == text->bytes &&
            memcmp(other->text, data, text->bytes) == 0)
            return;
    }
    char *copy = alloc_string(data, text->bytes);
    if (copy && edits->count == edits->room) alloc_free(copy);
    else if (copy) edits->items[edits->count++] = (struct edit){from, to, copy};
}

/* Behind the ':' of `name` in a line, and the spaces there; 0: it is not there. */
static size_t behind_name(struct text text, size_t start, size_t end, const char *name) {
    size_t bytes = strlen(name), at = start;
    for (; bytes && at + bytes < end; at++) {
        char next = text.data[at + bytes];
        if (memcmp(text.data + at, name, bytes) == 0 &&
            (next == ':' || next == '"' || next == '\'' || next == ' '))
            break;
    }
    if (!bytes || at + bytes >= end) at = start; /* misspelt: the line's first key */
    const char *colon = at < end ? memchr(text.data + at, ':', end - at) : NULL;
    if (!colon) return 0;
    at = (size_t) (colon - text.data) + 1;
    while (at < end && text.data[at] == ' ') at++;
    return at;
}

/* Behind the '{' at `at`. */
static void insert_in_flow(struct text text, size_t at, const char *what, struct buf *line,
                           struct edits *edits) {
    size_t next = ++at;
    while (next < text.bytes && strchr(" \r\n", text.data[next])) next++;
    bool is_empty = next < text.bytes && text.data[next] == '}';
    bool is_last = at < text.bytes && (text.data[at] == '\n' || text.data[at] == '\r');
    buf_add_format(line, "%s%s", what, is_empty ? "" : is_last ? "," : ", ");
    add(edits, at, at, line);
}

static void edit_insert(struct text text, const struct problem *problem, struct buf *line,
                        struct edits *edits) {
    size_t start = line_start(text, problem->edit_line), end = line_end(text, start);
    size_t at = behind_name(text, start, end, problem->component);
    if (!at) return;
    while (at < end && (text.data[at] == '&' || text.data[at] == '!')) { /* anchor, tag */
        while (at < end && text.data[at] != ' ' && text.data[at] != '\r') at++;
        while (at < end && text.data[at] == ' ') at++;
    }
    if (at < end && text.data[at] == '{') { /* Section: {a: 1} */
        insert_in_flow(text, at, problem->edit_text, line, edits);
        return;
    }
    /* An alias, a value: no mapping that could be added to. */
    if (at < end && text.data[at] != '#' && text.data[at] != '\r') return;
    uint32_t indent = indent_of(text, start) + 2;
    for (size_t next = end + 1; next < text.bytes; next = line_end(text, next) + 1) {
        if (is_blank(text, next)) continue;
        uint32_t found = indent_of(text, next);
        if (found <= indent_of(text, start)) break;
        indent = found;
        if (text.data[next + found] == '{') {
            insert_in_flow(text, next + found, problem->edit_text, line, edits);
            return;
        }
        break;
    }
    const char *stop = end > start && text.data[end - 1] == '\r' ? "\r\n" : "\n";
    bool is_last = end == text.bytes; /* no line end behind the section's name */
    if (is_last) buf_add_string(line, stop);
    buf_add_format(line, "%*s%s%s", (int) indent, "", problem->edit_text, stop);
    at = is_last ? end : end + 1;
    add(edits, at, at, line);
}

static void edit_remove(struct text text, const struct problem *problem, struct buf *line,
                        struct edits *edits) {
    size_t at = place(text, problem->mark);
    if (is_flow(text, at)) return;
    size_t start = line_start(text, problem->mark.line), end = line_end(text, at);
    size_t next = end < text.bytes ? end + 1 : end;
    /* What is indented deeper belongs to it: not a single line, so left alone. */
    if (next < text.bytes && !is_blank(text, next) &&
        indent_of(text, next) > indent_of(text, start))
        return;
    add(edits, start, next, line);
}

/* env:          envs:
 *   A: b    ->    - name: A
 *                   value: b      */
static void edit_envs(struct text text, const struct problem *problem, struct buf *line,
                      struct edits *edits) {
    size_t at = place(text, problem->mark), start = line_start(text, problem->mark.line);
    size_t end = scalar_end(text, at), stop = line_end(text, at);
    size_t rest = end + 1;
    while (rest < stop && text.data[rest] == ' ') rest++;
    if (is_flow(text, at) || end >= stop || text.data[end] != ':' ||
        (rest < stop && text.data[rest] != '#'))
        return;
    buf_add_format(line, "%s", problem->edit_text);
    buf_add(line, text.data + end, stop - end);
    size_t next = stop;
    while (next < text.bytes) {
        size_t from = next + 1;
        if (from >= text.bytes) break;
        if (!is_blank(text, from) && indent_of(text, from) <= indent_of(text, start)) break;
        size_t to = line_end(text, from);
        if (is_blank(text, from)) {
            buf_add_byte(line, '\n');
            buf_add(line, text.data + from, to - from);
            next = to;
            continue;
        }
        uint32_t indent = indent_of(text, from);
        size_t key = from + indent, key_end = scalar_end(text, key);
        if (text.data[key] == '-') { /* a list already: only the name is wrong */
            buf_clear(line);
            buf_add_string(line, problem->edit_text);
            add(edits, at, end, line);
            return;
        }
        if (key_end >= to || text.data[key_end] != ':') return;
        buf_add_format(line, "\n%*s- name: ", (int) indent, "");
        buf_add(line, text.data + key, key_end - key);
        buf_add_format(line, "\n%*svalue:", (int) indent + 2, "");
        buf_add(line, text.data + key_end + 1, to - key_end - 1);
        next = to;
    }
    add(edits, at, next, line);
}

/* The tabs in the indentation at `start`. */
static void replace_tabs(struct text text, size_t start, const char *with, struct buf *line,
                         struct edits *edits) {
    size_t at = start;
    bool has_tab = false;
    buf_clear(line);
    for (; at < text.bytes && (text.data[at] == ' ' || text.data[at] == '\t'); at++) {
        has_tab |= text.data[at] == '\t';
        buf_add_string(line, text.data[at] == '\t' ? with : " ");
    }
    if (has_tab) add(edits, start, at, line);
}

static void edit_tabs(struct text text, const struct problem *problem, struct buf *line,
                      struct edits *edits) {
    size_t told = line_start(text, problem->mark.line);
    for (size_t at = 0; at < text.bytes && edits->count < edits->room; at = line_end(text, at) + 1)
        if (at == told || text.data[at] == '\t')
            replace_tabs(text, at, problem->edit_text, line, edits);
}

static void make_edit(struct text text, const struct problem *problem, struct edits *edits) {
    struct buf line;
    buf_init(&line, 65536);
    size_t at = place(text, problem->mark), end;
    switch (problem->edit) {
    case PROBLEM_EDIT_NONE: break;
    case PROBLEM_EDIT_VALUE:
    case PROBLEM_EDIT_KEY:
        end = problem->edit == PROBLEM_EDIT_VALUE ? value_end(text, at) : scalar_end(text, at);
        if (problem->mark.is_empty && at && text.data[at - 1] == ':') buf_add_byte(&line, ' ');
        buf_add_string(&line, problem->edit_text);
        if (end > at || problem->mark.is_empty) add(edits, at, end, &line);
        break;
    case PROBLEM_EDIT_TABS: edit_tabs(text, problem, &line, edits); break;
    case PROBLEM_EDIT_SPACE:
        buf_add_byte(&line, ' ');
        add(edits, at, at, &line);
        break;
    case PROBLEM_EDIT_INSERT: edit_insert(text, problem, &line, edits); break;
    case PROBLEM_EDIT_REMOVE: edit_remove(text, problem, &line, edits); break;
    case PROBLEM_EDIT_ENVS: edit_envs(text, problem, &line, edits); break;
    }
    buf_release(&line);
}

static int compare(const void *left, const void *right) {
    const struct edit *a = left, *b = right;
    if (a->from != b->from) return a->from < b->from ? -1 : 1;
    return a->to < b->to ? -1 : a->to > b->to;
}

uint32_t yaml_fix_apply(const uint8_t *yaml, size_t bytes, const struct problem_list *problems,
                        struct buf *out) {
    struct text text = {bytes ? (const char *) yaml : "", bytes};
    struct edits edits = {.room = problems->count + 1};
    for (uint32_t i = 0; i < problems->count; i++)
        if (problems->items[i].edit == PROBLEM_EDIT_TABS) edits.room += TAB_LINES_MAX;
    if (edits.room > 4 * TAB_LINES_MAX) edits.room = 4 * TAB_LINES_MAX;
    edits.items = alloc_zero(edits.room, sizeof *edits.items);
    for (uint32_t i = 0; edits.items && i < problems->count; i++)
        if (problems->items[i].edit) make_edit(text, &problems->items[i], &edits);
    if (edits.count) qsort(edits.items, edits.count, sizeof *edits.items, compare);
    size_t at = 0;
    for (uint32_t i = 0; i < edits.count; i++) {
        const struct edit *edit = &edits.items[i];
        buf_add(out, text.data + at, edit->from - at);
        buf_add_string(out, edit->text);
        at = edit->to;
        alloc_free(edit->text);
    }
    buf_add(out, text.data + at, bytes - at);
    alloc_free(edits.items);
    return edits.count;
}

/* --- the difference ------------------------------------------------------------------------ */

#define CONTEXT_LINES 3
#define CHANGED_LINES_MAX 4096u /* of the part that differs; beyond it is shown as one change */

struct lines {
    struct text *items;
    uint32_t count;
};

static struct lines split(const uint8_t *data, size_t bytes) {
    struct text text = {(const char *) data, bytes};
    uint32_t count = 0;
    for (size_t at = 0; at < bytes; at = line_end(text, at) + 1) count++;
    struct lines lines = {.items = alloc_zero(count + 1, sizeof *lines.items)};
    for (size_t at = 0; lines.items && at < bytes; at = line_end(text, at) + 1)
        lines.items[lines.count++] = (struct text){text.data + at, line_end(text, at) - at};
    return lines;
}

static bool are_equal(struct text a, struct text b) {
    return a.bytes == b.bytes && memcmp(a.data, b.data, a.bytes) == 0;
}

/* One line of the script: ' ' both, '-' before, '+' after. */
struct step {
    char kind;
    uint32_t before, after; /* lines, from 0 */
};

/* The script by the longest common subsequence of the middle; NULL without memory. */
static struct step *make_script(struct lines before, struct lines after, uint32_t *count) {
    uint32_t head = 0, tail = 0, n = before.count, m = after.count;
    while (head < n && head < m && are_equal(before.items[head], after.items[head])) head++;
    while (tail < n - head && tail < m - head &&
           are_equal(before.items[n - 1 - tail], after.items[m - 1 - tail]))
        tail++;
    uint32_t rows = n - head - tail, columns = m - head - tail;
    bool is_cut = rows > CHANGED_LINES_MAX || columns > CHANGED_LINES_MAX;
    size_t width = (size_t) columns + 1;
    struct step *script = alloc_zero((size_t) n + m + 1, sizeof *script);
    uint16_t *table = alloc_zero(is_cut ? 1 : (rows + 1) * width, sizeof *table);
    if (!script || !table) {
        alloc_free(script);
        alloc_free(table);
        return NULL;
    }
    for (uint32_t i = rows; !is_cut && i-- > 0;)
        for (uint32_t j = columns; j-- > 0;) {
            uint16_t down = table[(i + 1) * width + j], right = table[i * width + j + 1];
            bool is_same = are_equal(before.items[head + i], after.items[head + j]);
            table[i * width + j] = is_same        ? (uint16_t) (table[(i + 1) * width + j + 1] + 1)
                                   : down > right ? down
                                                  : right;
        }
    uint32_t at = 0, i = 0, j = 0;
    for (uint32_t k = 0; k < head; k++) script[at++] = (struct step){' ', k, k};
    while (i < rows || j < columns) {
        bool is_same = !is_cut && i < rows && j < columns &&
                       are_equal(before.items[head + i], after.items[head + j]);
        bool drops = i < rows && (j == columns || is_cut ||
                                  table[(i + 1) * width + j] >= table[i * width + j + 1]);
        if (is_same) script[at++] = (struct step){' ', head + i++, head + j++};
        else if (drops) script[at] = (struct step){'-', head + i++, head + j}, at++;
        else script[at] = (struct step){'+', head + i, head + j++}, at++;
    }
    for (uint32_t k = 0; k < tail; k++)
        script[at++] = (struct step){' ', n - tail + k, m - tail + k};
    alloc_free(table);
    *count = at;
    return script;
}

static void print_hunk(const struct step *script, uint32_t from, uint32_t to, struct lines before,
                       struct lines after, struct buf *out) {
    uint32_t old_lines = 0, new_lines = 0;
    for (uint32_t i = from; i < to; i++) {
        old_lines += script[i].kind != '+';
        new_lines += script[i].kind != '-';
    }
    buf_add_format(out, "@@ -%u,%u +%u,%u @@\n", script[from].before + 1, old_lines,
                   script[from].after + 1, new_lines);
    for (uint32_t i = from; i < to; i++) {
        struct text line =
            script[i].kind == '+' ? after.items[script[i].after] : before.items[script[i].before];
        buf_add_byte(out, (uint8_t) script[i].kind);
        buf_add(out, line.data, line.bytes);
        buf_add_byte(out, '\n');
    }
}

void yaml_fix_diff(const char *name, const uint8_t *before_data, size_t before_bytes,
                   const uint8_t *after_data, size_t after_bytes, struct buf *out) {
    if (before_bytes == after_bytes && memcmp(before_data, after_data, after_bytes) == 0) return;
    struct lines before = split(before_data, before_bytes), after = split(after_data, after_bytes);
    uint32_t count = 0;
    struct step *script = before.items && after.items ? make_script(before, after, &count) : NULL;
    buf_add_format(out, "--- %s\n+++ %s (mended)\n", name, name);
    for (uint32_t i = 0; script && i < count;) {
        if (script[i].kind == ' ') {
            i++;
            continue;
        }
        uint32_t from = i > CONTEXT_LINES ? i - CONTEXT_LINES : 0, last = i;
        for (uint32_t k = i; k < count && k <= last + 2 * CONTEXT_LINES; k++)
            if (script[k].kind != ' ') last = k;
        uint32_t to = last + 1 + CONTEXT_LINES < count ? last + 1 + CONTEXT_LINES : count;
        print_hunk(script, from, to, before, after, out);
        i = to;
    }
    alloc_free(script);
    alloc_free(before.items);
    alloc_free(after.items);
}
