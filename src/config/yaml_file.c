/* yaml_file - see yaml_file.h.
 *
 * Two passes: the first reads events and only counts (depth, nodes), so that the second, which
 * builds the document, meets nothing without a bound. */
#include "config/yaml_file.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <yaml.h>

#include "base/alloc.h"

#define MERGE_DEPTH_MAX 8

struct map {
    uint32_t first, count; /* in pairs */
    bool is_ready;
};

struct lines {
    const uint8_t *text; /* borrowed */
    size_t bytes;
    uint32_t *starts; /* owned: of each line */
    uint32_t count;
};

struct yaml_file {
    yaml_document_t document;
    bool has_document;
    uint32_t node_count;
    struct map *maps;             /* by node - 1 */
    struct yaml_file_pair *pairs; /* of all mappings, merges expanded */
    uint32_t pair_count, pair_room;
    uint32_t merge_steps;          /* keys looked at for merges: an alias bomb ends here */
    struct problem_list *problems; /* borrowed while reading */
    struct lines here, original;   /* starts NULL: the text is the original */
    bool has_duplicates, is_too_large, has_bad_key, is_out_of_memory;
};

static struct problem_mark mark_of(yaml_mark_t mark) {
    return (struct problem_mark){.line = (uint32_t) mark.line + 1,
                                 .column = (uint32_t) mark.column + 1};
}

static void refuse(struct problem_list *problems, const char *code, struct problem_mark mark,
                   const char *fix, const char *message) {
    problem_add(problems, PROBLEM_ERROR, code, "", "", mark, fix, "%s", message);
}

/* --- what is wrong with a text that does not parse ---------------------------------------- */

struct line {
    const char *text;
    size_t bytes;
};

/* The n-th line, from 1. */
static struct line line_at(const uint8_t *yaml, size_t bytes, uint32_t number) {
    size_t start = 0;
    for (uint32_t n = 1; n < number; n++) {
        const uint8_t *end = memchr(yaml + start, '\n', bytes - start);
        if (!end) return (struct line){0};
        start = (size_t) (end - yaml) + 1;
    }
    const uint8_t *end = start < bytes ? memchr(yaml + start, '\n', bytes - start) : NULL;
    return (struct line){(const char *) yaml + start,
                         (end ? (size_t) (end - yaml) : bytes) - start};
}

/* Column of a tab in the indentation, 0: none. */
static uint32_t tab_column(struct line line) {
    for (size_t i = 0; i < line.bytes && (line.text[i] == ' ' || line.text[i] == '\t'); i++)
        if (line.text[i] == '\t') return (uint32_t) i + 1;
    return 0;
}

/* Column behind the ':' of `  key:value`, 0: the line is not like that. */
static uint32_t missing_space_column(struct line line) {
    size_t i = 0;
    while (i < line.bytes && (line.text[i] == ' ' || line.text[i] == '-')) i++;
    size_t start = i;
    while (i < line.bytes && (line.text[i] == '-' || line.text[i] == '_' ||
                              (line.text[i] >= '0' && line.text[i] <= '9') ||
                              ((line.text[i] | 32) >= 'a' && (line.text[i] | 32) <= 'z')))
        i++;
    if (i == start || i + 1 >= line.bytes || line.text[i] != ':') return 0;
    char next = line.text[i + 1];
    return next == ' ' || next == '\r' || next == '/' || next == ':' ? 0 : (uint32_t) i + 2;
}

static bool is_blank(struct line line) {
    size_t i = 0;
    while (i < line.bytes && strchr(" \t\r", line.text[i])) i++;
    return i == line.bytes || line.text[i] == '#';
}

static uint32_t indent_of(struct line line) {
    uint32_t indent = 0;
    while (indent < line.bytes && line.text[indent] == ' ') indent++;
    return indent;
}

/* `key: something`, comments apart. */
static bool has_value(struct line line) {
    const char *colon = memchr(line.text, ':', line.bytes);
    size_t at = colon ? (size_t) (colon - line.text) + 1 : line.bytes;
    while (at < line.bytes && strchr(" \t\r", line.text[at])) at++;
    return at < line.bytes && line.text[at] != '#';
}

/* The nearest line above that says something; 0: none. */
static uint32_t line_above(const uint8_t *yaml, size_t bytes, uint32_t number) {
    while (--number)
        if (!is_blank(line_at(yaml, bytes, number))) return number;
    return 0;
}

/* "mapping values are not allowed": the line above lacks its ':' or stands further left, or the
 * line has two. */
static bool explain_mapping(const uint8_t *yaml, size_t bytes, uint32_t number,
                            struct problem_list *problems) {
    uint32_t above_number = number > 1 ? line_above(yaml, bytes, number) : 0;
    if (!above_number) return false;
    struct line line = line_at(yaml, bytes, number), above = line_at(yaml, bytes, above_number);
    uint32_t indent = indent_of(line), above_indent = indent_of(above);
    struct problem_mark mark = {.line = above_number, .column = above_indent + 1};
    bool is_item = above_indent < above.bytes && above.text[above_indent] == '-';
    if (!memchr(above.text, ':', above.bytes) && !is_item) {
        refuse(problems, "yaml-syntax", mark, "write 'key: value'",
               "not YAML: a ':' is missing in this line");
        return true;
    }
    if (indent <= above_indent || is_item || !has_value(above)) return false;
    mark = (struct problem_mark){.line = number, .column = indent + 1};
    char fix[80], message[120];
    snprintf(fix, sizeof fix, "indent it by %u spaces as the line above", above_indent);
    snprintf(message, sizeof message,
             "not YAML: indented by %u spaces, and line %u above it, which has a value, by %u",
             indent, above_number, above_indent);
    refuse(problems, "yaml-syntax", mark, fix, message);
    return true;
}

/* Looks at the lines where such errors come from for what people get wrong most. */
static bool explain(const uint8_t *yaml, size_t bytes, const uint32_t *lines, size_t line_count,
                    struct problem_list *problems) {
    for (size_t i = 0; i < line_count; i++) {
        if (!lines[i]) continue;
        struct line line = line_at(yaml, bytes, lines[i]);
        struct problem_mark mark = {.line = lines[i], .column = tab_column(line)};
        if (mark.column) {
            problem_set_edit(
                problem_add(problems, PROBLEM_ERROR, "yaml-tab", "", "", mark, "indent with spaces",
                            "the line is indented with a tab, and YAML allows only spaces"),
                PROBLEM_EDIT_TABS, 0, "  ");
            return true;
        }
    }
    for (size_t i = 0; i < line_count; i++) {
        if (!lines[i]) continue;
        struct line line = line_at(yaml, bytes, lines[i]);
        struct problem_mark mark = {.line = lines[i], .column = missing_space_column(line)};
        if (mark.column) {
            struct problem *found =
                problem_add(problems, PROBLEM_ERROR, "yaml-syntax", "", "", mark,
                            "put a space behind the ':'", "a space is missing after ':'");
            problem_set_edit(found, PROBLEM_EDIT_SPACE, 0, " ");
            return true;
        }
    }
    return false;
}

/* Line and column of a byte. */
static struct problem_mark mark_of_byte(const uint8_t *yaml, size_t bytes, size_t offset) {
    struct problem_mark mark = {.line = 1, .column = 1};
    for (size_t i = 0; i < offset && i < bytes; i++) {
        if (yaml[i] == '\n') {
            mark.line++;
            mark.column = 1;
        } else if ((yaml[i] & 0xc0) != 0x80) {
            mark.column++;
        }
    }
    return mark;
}

static void refuse_syntax(const yaml_parser_t *parser, const uint8_t *yaml, size_t bytes,
                          struct problem_list *problems) {
    if (parser->error == YAML_READER_ERROR) {
        char message[160];
        snprintf(message, sizeof message, "this is not text: %s at byte %zu",
                 parser->problem ? parser->problem : "a byte that no YAML holds",
                 parser->problem_offset);
        bool is_letter = parser->problem && strstr(parser->problem, "UTF-8");
        refuse(problems, "yaml-binary", mark_of_byte(yaml, bytes, parser->problem_offset),
               is_letter ? "save the file as UTF-8" : NULL, message);
        return;
    }
    uint32_t problem_line = (uint32_t) parser->problem_mark.line + 1;
    uint32_t context_line = parser->context ? (uint32_t) parser->context_mark.line + 1 : 0;
    const uint32_t lines[] = {problem_line, context_line, problem_line - 1};
    if (explain(yaml, bytes, lines, ARRAY_COUNT(lines), problems)) return;
    if (parser->problem && context_line && strstr(parser->problem, "could not find expected ':'")) {
        refuse(problems, "yaml-syntax", mark_of(parser->context_mark), "write 'key: value'",
               "not YAML: a ':' is missing in this line");
        return;
    }
    const char *problem = parser->problem ? parser->problem : "";
    const char *context = parser->context ? parser->context : "";
    bool is_mapping = strstr(problem, "mapping values are not allowed") != NULL;
    if (is_mapping && explain_mapping(yaml, bytes, problem_line, problems)) return;
    if (strstr(context, "quoted scalar") || strstr(context, "flow sequence") ||
        strstr(context, "flow mapping")) {
        bool is_quote = strstr(context, "quoted scalar") != NULL;
        const char *what = is_quote ? "quote" : strstr(context, "flow sequence") ? "'['" : "'{'";
        char line[160];
        snprintf(line, sizeof line, "not YAML: this %s is not closed (noticed in line %u)", what,
                 problem_line);
        if (!is_quote || strstr(problem, "end of stream") || strstr(problem, "indicator")) {
            refuse(problems, "yaml-syntax", mark_of(parser->context_mark),
                   is_quote                           ? "close it in the same line"
                   : strstr(context, "flow sequence") ? "write a ']', and a ',' between values"
                                                      : "write a '}', and a ',' between values",
                   line);
            return;
        }
    }
    char message[240];
    snprintf(message, sizeof message, "not YAML: %s%s%s",
             parser->problem ? parser->problem : "it cannot be read", parser->context ? " " : "",
             parser->context ? parser->context : "");
    const char *hint = NULL;
    if (is_mapping) hint = "one 'key: value' a line; quote a value that holds ': '";
    else if (strstr(problem, "did not find expected key"))
        hint = "the keys of one section stand in one column";
    else if (strstr(problem, "undefined alias")) hint = "quote a value that begins with '*'";
    else if (strstr(problem, "cannot start any token"))
        hint = "quote a value that begins with '@', '`', '%' or a tab";
    else if (strstr(problem, "unknown escape character"))
        hint = "in double quotes a '\\' is written '\\\\'; use single quotes";
    refuse(problems, "yaml-syntax", mark_of(parser->problem_mark), hint, message);
}

/* --- first pass: bounds ------------------------------------------------------------------- */

static enum err parser_error(const yaml_parser_t *parser, const uint8_t *yaml, size_t bytes,
                             struct problem_list *problems) {
    if (parser->error == YAML_MEMORY_ERROR) return ERR_MEMORY;
    refuse_syntax(parser, yaml, bytes, problems);
    return ERR_USAGE;
}

/* The event's part in depth and counts; false when a bound is passed (told). */
static bool count_event(const yaml_event_t *event, uint32_t *depth, uint32_t *nodes,
                        uint32_t *documents, struct problem_list *problems) {
    struct problem_mark mark = mark_of(event->start_mark);
    switch (event->type) {
    case YAML_DOCUMENT_START_EVENT:
        if (++*documents == 1) return true;
        refuse(problems, "yaml-documents", mark, "keep one document: remove the '---'",
               "a second document begins here");
        return false;
    case YAML_SEQUENCE_START_EVENT:
    case YAML_MAPPING_START_EVENT:
        ++*nodes;
        if (++*depth > YAML_FILE_DEPTH_MAX) {
            refuse(problems, "yaml-deep", mark, NULL, "nested deeper than 32 levels");
            return false;
        }
        break;
    case YAML_SEQUENCE_END_EVENT:
    case YAML_MAPPING_END_EVENT: --*depth; return true;
    case YAML_SCALAR_EVENT:
    case YAML_ALIAS_EVENT: ++*nodes; break;
    default: return true;
    }
    if (*nodes <= YAML_FILE_NODES_MAX) return true;
    refuse(problems, "yaml-large", mark, NULL, "more than 65536 values");
    return false;
}

static enum err check_bounds(const uint8_t *yaml, size_t bytes, struct problem_list *problems) {
    yaml_parser_t parser;
    if (!yaml_parser_initialize(&parser)) return ERR_MEMORY;
    yaml_parser_set_input_string(&parser, yaml, bytes);
    uint32_t depth = 0, nodes = 0, documents = 0;
    enum err e = ERR_OK;
    for (bool is_over = false; !is_over && !e;) {
        yaml_event_t event;
        if (!yaml_parser_parse(&parser, &event)) {
            e = parser_error(&parser, yaml, bytes, problems);
            break;
        }
        is_over = event.type == YAML_STREAM_END_EVENT;
        if (!count_event(&event, &depth, &nodes, &documents, problems)) e = ERR_USAGE;
        yaml_event_delete(&event);
    }
    yaml_parser_delete(&parser);
    return e;
}

/* --- second pass: the tree ---------------------------------------------------------------- */

static const yaml_node_t *node_get(const struct yaml_file *file, uint32_t node) {
    CHECK(node >= 1 && node <= file->node_count);
    return &file->document.nodes.start[node - 1];
}

static bool pair_add(struct yaml_file *file, struct yaml_file_pair pair) {
    if (file->pair_count == file->pair_room) {
        uint32_t room = file->pair_room ? file->pair_room * 2 : 64;
        struct yaml_file_pair *pairs = alloc_resize(file->pairs, room * sizeof *pairs);
        if (!pairs) {
            file->is_out_of_memory = true;
            return false;
        }
        file->pairs = pairs;
        file->pair_room = room;
    }
    file->pairs[file->pair_count++] = pair;
    return true;
}

static bool is_merge(const yaml_node_t *key) {
    return key->type == YAML_SCALAR_NODE && key->data.scalar.style == YAML_PLAIN_SCALAR_STYLE &&
           strcmp((const char *) key->data.scalar.value, "<<") == 0;
}

struct key_ref {
    const char *text;
    uint32_t pair;
};

static int compare_keys(const void *left, const void *right) {
    const struct key_ref *a = left, *b = right;
    int order = strcmp(a->text, b->text);
    if (order) return order;
    return a->pair < b->pair ? -1 : a->pair > b->pair;
}

/* Two scalars of one text: either may go. */
static bool are_same(const struct yaml_file *file, uint32_t a, uint32_t b) {
    return yaml_file_kind(file, a) == YAML_FILE_SCALAR &&
           yaml_file_kind(file, b) == YAML_FILE_SCALAR &&
           strcmp(yaml_file_text(file, a), yaml_file_text(file, b)) == 0;
}

/* Of pairs [first, pair_count) keeps the first of equal keys; tells of later ones below own_end
 * (those above came by merge and simply give way). */
static void drop_duplicates(struct yaml_file *file, uint32_t first, uint32_t own_end) {
    uint32_t count = file->pair_count - first;
    if (count < 2) return;
    struct key_ref *refs = alloc_array(count, sizeof *refs);
    if (!refs) {
        file->is_out_of_memory = true;
        return;
    }
    for (uint32_t i = 0; i < count; i++)
        refs[i] = (struct key_ref){yaml_file_text(file, file->pairs[first + i].key), first + i};
    qsort(refs, count, sizeof *refs, compare_keys);
    uint32_t kept = 0;
    for (uint32_t i = 1; i < count; i++) {
        if (strcmp(refs[i].text, refs[kept].text) != 0) {
            kept = i;
            continue;
        }
        uint32_t pair = refs[i].pair;
        if (pair < own_end) {
            file->has_duplicates = true;
            struct problem *problem =
                problem_add(file->problems, PROBLEM_ERROR, "duplicate-key", "", refs[i].text,
                            yaml_file_mark(file, file->pairs[pair].key), "keep one of them",
                            "written twice, first in line %u",
                            yaml_file_mark(file, file->pairs[refs[kept].pair].key).line);
            if (are_same(file, file->pairs[pair].value, file->pairs[refs[kept].pair].value))
                problem_set_edit(problem, PROBLEM_EDIT_REMOVE, 0, "-");
        }
        file->pairs[pair].key = 0;
    }
    alloc_free(refs);
    uint32_t to = first;
    for (uint32_t i = first; i < file->pair_count; i++)
        if (file->pairs[i].key) file->pairs[to++] = file->pairs[i];
    file->pair_count = to;
}

/* The pairs of a mapping that `<<` names, after those that are there.  Its own merges are
 * followed to MERGE_DEPTH_MAX. */
static void add_merges(struct yaml_file *file, uint32_t value, int depth);

static void add_merged(struct yaml_file *file, uint32_t node, int depth) {
    const yaml_node_t *from = node_get(file, node);
    if (from->type != YAML_MAPPING_NODE || depth > MERGE_DEPTH_MAX) {
        file->has_bad_key = true;
        refuse(file->problems, "yaml-merge", mark_of(from->start_mark), NULL,
               depth > MERGE_DEPTH_MAX ? "merged deeper than 8 levels"
                                       : "'<<' wants an alias of a mapping");
        return;
    }
    for (yaml_node_pair_t *pair = from->data.mapping.pairs.start;
         pair < from->data.mapping.pairs.top && !file->has_bad_key; pair++) {
        const yaml_node_t *key = node_get(file, (uint32_t) pair->key);
        if (key->type != YAML_SCALAR_NODE) continue; /* told when that mapping is read */
        if (file->is_too_large || file->is_out_of_memory) return;
        if (++file->merge_steps >= YAML_FILE_NODES_MAX) {
            file->is_too_large = true;
            return;
        }
        if (is_merge(key)) add_merges(file, (uint32_t) pair->value, depth + 1);
        else if (!pair_add(file,
                           (struct yaml_file_pair){(uint32_t) pair->key, (uint32_t) pair->value}))
            return;
    }
}

/* The value of a `<<`: one mapping or a list of them. */
static void add_merges(struct yaml_file *file, uint32_t value, int depth) {
    const yaml_node_t *from = node_get(file, value);
    if (from->type != YAML_SEQUENCE_NODE) {
        add_merged(file, value, depth);
        return;
    }
    for (yaml_node_item_t *item = from->data.sequence.items.start;
         item < from->data.sequence.items.top && !file->has_bad_key && !file->is_too_large; item++)
        add_merged(file, (uint32_t) *item, depth);
}

static void read_map(struct yaml_file *file, uint32_t node) {
    const yaml_node_t *map = node_get(file, node);
    uint32_t first = file->pair_count;
    const yaml_node_pair_t *start = map->data.mapping.pairs.start,
                           *top = map->data.mapping.pairs.top;
    for (const yaml_node_pair_t *pair = start; pair < top; pair++) {
        const yaml_node_t *key = node_get(file, (uint32_t) pair->key);
        if (key->type != YAML_SCALAR_NODE) {
            file->has_bad_key = true;
            refuse(file->problems, "yaml-key", mark_of(key->start_mark), NULL,
                   "a key is a list or a mapping here, and only text can be one");
            return;
        }
        if (is_merge(key)) continue;
        if (!pair_add(file, (struct yaml_file_pair){(uint32_t) pair->key, (uint32_t) pair->value}))
            return;
    }
    uint32_t own_end = file->pair_count;
    for (const yaml_node_pair_t *pair = start; pair < top; pair++) {
        if (!is_merge(node_get(file, (uint32_t) pair->key))) continue;
        add_merges(file, (uint32_t) pair->value, 1);
    }
    drop_duplicates(file, first, own_end);
    file->maps[node - 1] =
        (struct map){.first = first, .count = file->pair_count - first, .is_ready = true};
}

static enum err read_maps(struct yaml_file *file) {
    file->maps = alloc_zero(file->node_count, sizeof *file->maps);
    if (!file->maps) return ERR_MEMORY;
    for (uint32_t node = 1; node <= file->node_count; node++) {
        if (node_get(file, node)->type != YAML_MAPPING_NODE) continue;
        read_map(file, node);
        if (file->is_out_of_memory) return ERR_MEMORY;
        if (file->has_bad_key) return ERR_USAGE;
        if (!file->is_too_large) continue;
        refuse(file->problems, "yaml-large", yaml_file_mark(file, node), NULL,
               "more than 65536 keys once the merges are expanded");
        return ERR_USAGE;
    }
    return ERR_OK;
}

static enum err load(struct yaml_file *file, const uint8_t *yaml, size_t bytes,
                     struct problem_list *problems) {
    yaml_parser_t parser;
    if (!yaml_parser_initialize(&parser)) return ERR_MEMORY;
    yaml_parser_set_input_string(&parser, yaml, bytes);
    enum err e = ERR_OK;
    if (yaml_parser_load(&parser, &file->document)) file->has_document = true;
    else e = parser_error(&parser, yaml, bytes, problems);
    yaml_parser_delete(&parser);
    if (e) return e;
    const yaml_node_t *root = yaml_document_get_root_node(&file->document);
    bool is_null = root && root->type == YAML_SCALAR_NODE &&
                   root->data.scalar.style == YAML_PLAIN_SCALAR_STYLE &&
                   (!root->data.scalar.length ||
                    strcasecmp((const char *) root->data.scalar.value, "null") == 0 ||
                    strcmp((const char *) root->data.scalar.value, "~") == 0);
    if (!root || is_null) {
        refuse(problems, "yaml-empty", (struct problem_mark){.line = 1, .column = 1}, NULL,
               "the file is empty: it holds no section");
        return ERR_USAGE;
    }
    file->node_count = (uint32_t) (file->document.nodes.top - file->document.nodes.start);
    return ERR_OK;
}

enum err yaml_file_read(const uint8_t *yaml, size_t bytes, struct problem_list *problems,
                        struct yaml_file **out) {
    if (bytes > YAML_FILE_BYTES_MAX) {
        refuse(problems, "yaml-large", (struct problem_mark){.line = 1, .column = 1}, NULL,
               "larger than 1 MiB: this is no configuration");
        return ERR_USAGE;
    }
    enum err e = check_bounds(yaml, bytes, problems);
    if (e) return e;
    struct yaml_file *file = alloc_zero(1, sizeof *file);
    if (!file) return ERR_MEMORY;
    file->problems = problems;
    e = load(file, yaml, bytes, problems);
    if (!e) e = read_maps(file);
    file->problems = NULL;
    if (e) {
        yaml_file_destroy(file);
        return e;
    }
    *out = file;
    return file->has_duplicates ? ERR_USAGE : ERR_OK;
}

void yaml_file_destroy(struct yaml_file *file) {
    if (!file) return;
    if (file->has_document) yaml_document_delete(&file->document);
    alloc_free(file->maps);
    alloc_free(file->pairs);
    alloc_free(file->here.starts);
    alloc_free(file->original.starts);
    alloc_free(file);
}

/* --- the tree ----------------------------------------------------------------------------- */

enum yaml_file_kind yaml_file_kind(const struct yaml_file *file, uint32_t node) {
    switch (node_get(file, node)->type) {
    case YAML_SEQUENCE_NODE: return YAML_FILE_LIST;
    case YAML_MAPPING_NODE: return YAML_FILE_MAP;
    default: return YAML_FILE_SCALAR;
    }
}

const char *yaml_file_text(const struct yaml_file *file, uint32_t node) {
    const yaml_node_t *at = node_get(file, node);
    CHECK(at->type == YAML_SCALAR_NODE);
    return (const char *) at->data.scalar.value;
}

bool yaml_file_is_plain(const struct yaml_file *file, uint32_t node) {
    const yaml_node_t *at = node_get(file, node);
    return at->type == YAML_SCALAR_NODE && at->data.scalar.style == YAML_PLAIN_SCALAR_STYLE;
}

bool yaml_file_is_null(const struct yaml_file *file, uint32_t node) {
    if (!yaml_file_is_plain(file, node)) return false;
    const char *text = yaml_file_text(file, node);
    return !*text || strcmp(text, "~") == 0 || strcasecmp(text, "null") == 0;
}

static enum err find_lines(const uint8_t *text, size_t bytes, struct lines *out) {
    uint32_t count = 1;
    for (size_t i = 0; i < bytes; i++) count += text[i] == '\n';
    *out = (struct lines){text, bytes, alloc_array(count, sizeof *out->starts), 0};
    if (!out->starts) return ERR_MEMORY;
    out->starts[out->count++] = 0;
    for (size_t i = 0; i < bytes; i++)
        if (text[i] == '\n') out->starts[out->count++] = (uint32_t) i + 1;
    return ERR_OK;
}

enum err yaml_file_set_original(struct yaml_file *file, const uint8_t *yaml, size_t bytes,
                                const uint8_t *original, size_t original_bytes) {
    enum err e = find_lines(yaml, bytes, &file->here);
    return e ? e : find_lines(original, original_bytes, &file->original);
}

/* The column of the original: a space that is there no more is passed over, and so is a tab for
 * which there are spaces now. */
static uint32_t original_column(const struct yaml_file *file, struct problem_mark mark) {
    if (mark.line > file->here.count || mark.line > file->original.count) return mark.column;
    size_t at = file->here.starts[mark.line - 1], was = file->original.starts[mark.line - 1];
    uint32_t column = 1;
    for (uint32_t passed = 1;
         passed < mark.column && at < file->here.bytes && was < file->original.bytes;) {
        uint8_t now = file->here.text[at], before = file->original.text[was];
        if (now == before) at++, was++;
        else if (now == ' ') at++;
        else was++;
        bool is_letter_over = at >= file->here.bytes || (file->here.text[at] & 0xc0) != 0x80;
        passed += (now == before || now == ' ') && is_letter_over;
        column += (now == before || now != ' ') && is_letter_over;
    }
    return column;
}

struct problem_mark yaml_file_mark(const struct yaml_file *file, uint32_t node) {
    struct problem_mark mark = mark_of(node_get(file, node)->start_mark);
    if (file->original.starts) mark.column = original_column(file, mark);
    return mark;
}

uint32_t yaml_file_list_count(const struct yaml_file *file, uint32_t node) {
    const yaml_node_t *at = node_get(file, node);
    CHECK(at->type == YAML_SEQUENCE_NODE);
    return (uint32_t) (at->data.sequence.items.top - at->data.sequence.items.start);
}

uint32_t yaml_file_list_item(const struct yaml_file *file, uint32_t node, uint32_t index) {
    CHECK(index < yaml_file_list_count(file, node));
    return (uint32_t) node_get(file, node)->data.sequence.items.start[index];
}

uint32_t yaml_file_map_count(const struct yaml_file *file, uint32_t node) {
    CHECK(file->maps[node - 1].is_ready);
    return file->maps[node - 1].count;
}

struct yaml_file_pair yaml_file_map_pair(const struct yaml_file *file, uint32_t node,
                                         uint32_t index) {
    CHECK(index < yaml_file_map_count(file, node));
    return file->pairs[file->maps[node - 1].first + index];
}

/* --- JSON ------------------------------------------------------------------------------------ */

#define JSON_DEPTH_MAX 8

static bool is_json_number(const char *text) {
    char *end;
    if (!*text || !strchr("-0123456789", *text)) return false;
    if (text[*text == '-'] == '0' && text[1 + (*text == '-')] && text[1 + (*text == '-')] != '.')
        return false;
    (void) strtod(text, &end);
    return !*end && !strpbrk(text, "xXnNiI") && text[strlen(text) - 1] != '.';
}

static void scalar_to_json(const struct yaml_file *file, uint32_t node, struct buf *out) {
    const char *text = yaml_file_text(file, node);
    bool is_plain = yaml_file_is_plain(file, node);
    if (yaml_file_is_null(file, node)) buf_add_string(out, "null");
    else if (is_plain && (strcasecmp(text, "true") == 0 || strcasecmp(text, "yes") == 0 ||
                          strcasecmp(text, "on") == 0))
        buf_add_string(out, "true");
    else if (is_plain && (strcasecmp(text, "false") == 0 || strcasecmp(text, "no") == 0 ||
                          strcasecmp(text, "off") == 0))
        buf_add_string(out, "false");
    else if (is_plain && is_json_number(text)) buf_add_string(out, text);
    else {
        buf_add_byte(out, '"');
        buf_add_json_escaped(out, text, strlen(text));
        buf_add_byte(out, '"');
    }
}

static bool to_json(const struct yaml_file *file, uint32_t node, int depth, struct buf *out) {
    if (depth > JSON_DEPTH_MAX || out->failed) return false;
    switch (yaml_file_kind(file, node)) {
    case YAML_FILE_SCALAR: scalar_to_json(file, node, out); return !out->failed;
    case YAML_FILE_LIST:
        buf_add_byte(out, '[');
        for (uint32_t i = 0; i < yaml_file_list_count(file, node); i++) {
            if (i) buf_add_byte(out, ',');
            if (!to_json(file, yaml_file_list_item(file, node, i), depth + 1, out)) return false;
        }
        buf_add_byte(out, ']');
        break;
    case YAML_FILE_MAP:
        buf_add_byte(out, '{');
        for (uint32_t i = 0; i < yaml_file_map_count(file, node); i++) {
            struct yaml_file_pair pair = yaml_file_map_pair(file, node, i);
            const char *key = yaml_file_text(file, pair.key);
            buf_add_string(out, i ? ",\"" : "\"");
            buf_add_json_escaped(out, key, strlen(key));
            buf_add_string(out, "\":");
            if (!to_json(file, pair.value, depth + 1, out)) return false;
        }
        buf_add_byte(out, '}');
        break;
    }
    return !out->failed;
}

bool yaml_file_to_json(const struct yaml_file *file, uint32_t node, struct buf *out) {
    return to_json(file, node, 0, out);
}
