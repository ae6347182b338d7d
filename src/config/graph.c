/* graph - see graph.h.  The schema is in graph_schema.c, one section in graph_section.c. */
#include "config/graph.h"

#include <stdio.h>
#include <string.h>

#include "base/alloc.h"
#include "config/graph_impl.h"
#include "config/yaml_fix.h"

/* --- graphs ------------------------------------------------------------------------------- */

static const char *const kind_names[] = {"agg", "agg_router", "disagg", "disagg_router"};

const char *graph_kind_name(enum graph_kind kind) {
    return (unsigned) kind < ARRAY_COUNT(kind_names) ? kind_names[kind] : "?";
}

bool graph_kind_of(const char *name, enum graph_kind *out) {
    char word[64];
    if (strncmp(name, "graphs.", 7) == 0) name += 7;
    size_t bytes = strcspn(name, ":");
    if (name[bytes] && strcmp(name + bytes, ":Frontend") != 0) return false;
    if (bytes >= sizeof word) return false;
    snprintf(word, sizeof word, "%.*s", (int) bytes, name);
    for (unsigned i = 0; i < ARRAY_COUNT(kind_names); i++) {
        if (!graph_schema_equal(word, kind_names[i])) continue;
        *out = (enum graph_kind) i;
        return true;
    }
    return false;
}

bool graph_has_router(enum graph_kind kind) {
    return kind == GRAPH_AGG_ROUTER || kind == GRAPH_DISAGG_ROUTER;
}

bool graph_is_disagg(enum graph_kind kind) {
    return kind == GRAPH_DISAGG || kind == GRAPH_DISAGG_ROUTER;
}

static bool is_section_used(enum graph_kind kind, enum graph_section_id id) {
    switch (id) {
    case GRAPH_ROUTER: return graph_has_router(kind);
    case GRAPH_PREFILL_WORKER: return graph_is_disagg(kind);
    case GRAPH_PLANNER: return false;
    default: return true;
    }
}

struct problem_mark graph_mark(const struct graph *graph, enum graph_section_id section,
                               enum option_id id) {
    const struct problem_mark *marks = graph->sections[section].marks;
    return marks ? marks[id] : (struct problem_mark){0};
}

/* --- overrides ---------------------------------------------------------------------------- */

bool graph_is_override(const char *argument) {
    if (strncmp(argument, "--", 2) != 0 || argument[2] < 'A' || argument[2] > 'Z') return false;
    const char *dot = strchr(argument, '.'), *equals = strchr(argument, '=');
    return dot && (!equals || dot < equals);
}

static void read_override(struct graph_reader *reader, const char *argument,
                          struct graph_override *out) {
    struct problem_mark mark = {.is_flag = true};
    const char *name = argument + (strncmp(argument, "--", 2) == 0 ? 2 : 0);
    const char *dot = strchr(name, '.'), *equals = strchr(name, '=');
    size_t path_bytes = dot ? (equals ? (size_t) (equals - dot) - 1 : strlen(dot + 1)) : 0;
    out->section = -1;
    if (!dot || (equals && equals < dot) || !path_bytes || path_bytes >= sizeof out->path) {
        problem_add(reader->problems, PROBLEM_ERROR, "unknown-section", "", "", mark,
                    "write --Section.key=value", "'%.100s' is no override", argument);
        return;
    }
    char section[64];
    snprintf(section, sizeof section, "%.*s", (int) (dot - name < 63 ? dot - name : 63), name);
    snprintf(out->path, sizeof out->path, "%.*s", (int) path_bytes, dot + 1);
    out->value = equals ? equals + 1 : "true";
    enum graph_section_id id;
    switch (graph_schema_top(section, &id)) {
    case GRAPH_TOP_SECTION: out->section = (int) id; break;
    case GRAPH_TOP_COMMON: out->section = GRAPH_SECTION_COUNT; break;
    case GRAPH_TOP_ACCEPTED: break;
    case GRAPH_TOP_UNKNOWN: {
        const char *near = graph_schema_suggest_top(section);
        problem_add(reader->problems, PROBLEM_ERROR, "unknown-section", section, "", mark, NULL,
                    "unknown section%s%s%s", near ? ", did you mean " : "", near ? near : "",
                    near ? "?" : "");
    }
    }
}

/* --- the file's top ------------------------------------------------------------------------ */

static void read_top_pair(struct graph_reader *reader, struct yaml_file_pair pair) {
    const char *name = yaml_file_text(reader->yaml, pair.key);
    struct problem_mark mark = yaml_file_mark(reader->yaml, pair.key);
    enum graph_section_id id;
    switch (graph_schema_top(name, &id)) {
    case GRAPH_TOP_SECTION:
        reader->section_nodes[id] = pair.value;
        reader->graph->sections[id].is_present = true;
        reader->graph->sections[id].mark = mark;
        if (!reader->graph->sections[id].is_used)
            problem_add(reader->problems, PROBLEM_NOTE, "unused-section", name, "", mark, NULL,
                        "the graph %s does not use this section",
                        graph_kind_name(reader->graph->kind));
        break;
    case GRAPH_TOP_COMMON:
        if (yaml_file_kind(reader->yaml, pair.value) == YAML_FILE_MAP)
            reader->common_node = pair.value;
        else if (!yaml_file_is_null(reader->yaml, pair.value)) {
            reader->is_common_broken = true;
            problem_add(reader->problems, PROBLEM_ERROR, "wrong-type", name, "", mark,
                        "write 'key: value', one a line", "a mapping of keys is wanted");
        }
        break;
    case GRAPH_TOP_ACCEPTED:
        problem_add(reader->problems, PROBLEM_NOTE, "unused-section", name, "", mark, NULL,
                    "the graph %s does not use this section", graph_kind_name(reader->graph->kind));
        break;
    case GRAPH_TOP_UNKNOWN: {
        const char *near = graph_schema_suggest_top(name);
        char fix[80];
        snprintf(fix, sizeof fix, "write %s", near ? near : "");
        struct problem *problem =
            problem_add(reader->problems, PROBLEM_ERROR, "unknown-section", name, "", mark,
                        near ? fix : "remove it", "unknown section%s%s%s",
                        near ? ", did you mean " : "", near ? near : "", near ? "?" : "");
        if (near) problem_set_edit(problem, PROBLEM_EDIT_KEY, 0, "%s", near);
    }
    }
}

/* A misspelt section is read as the one that was meant, so that its lack is not told as well. */
static void adopt_top_pair(struct graph_reader *reader, struct yaml_file_pair pair) {
    const char *name = yaml_file_text(reader->yaml, pair.key), *near;
    enum graph_section_id id;
    if (graph_schema_top(name, &id) != GRAPH_TOP_UNKNOWN) return;
    near = graph_schema_suggest_top(name);
    if (!near) return;
    if (graph_schema_top(near, &id) == GRAPH_TOP_COMMON) {
        if (!reader->common_node && yaml_file_kind(reader->yaml, pair.value) == YAML_FILE_MAP)
            reader->common_node = pair.value;
        return;
    }
    struct graph_section *section = &reader->graph->sections[id];
    if (section->is_present) return;
    section->is_present = true;
    section->mark = yaml_file_mark(reader->yaml, pair.key);
    reader->section_nodes[id] = pair.value;
}

/* The reader of YAML knows no sections: a key written twice gets the one it stands in. */
static void name_duplicates(struct graph_reader *reader) {
    const uint32_t root = 1;
    for (uint32_t i = 0; i < reader->problems->count; i++) {
        struct problem *problem = &reader->problems->items[i];
        uint32_t best = 0;
        bool is_section = false;
        if (strcmp(problem->code, "duplicate-key") != 0 || problem->component[0]) continue;
        for (uint32_t k = 0; k < yaml_file_map_count(reader->yaml, root); k++) {
            struct yaml_file_pair pair = yaml_file_map_pair(reader->yaml, root, k);
            struct problem_mark mark = yaml_file_mark(reader->yaml, pair.key);
            if (mark.line > problem->mark.line || mark.line < best) continue;
            best = mark.line;
            snprintf(problem->component, sizeof problem->component, "%s",
                     yaml_file_text(reader->yaml, pair.key));
            is_section = problem->mark.column <= mark.column;
        }
        /* At the left margin it is a section itself that stands twice. */
        if (!is_section) continue;
        snprintf(problem->component, sizeof problem->component, "%.31s", problem->key);
        problem->key[0] = '\0';
    }
}

static void read_top(struct graph_reader *reader) {
    const uint32_t root = 1;
    if (yaml_file_kind(reader->yaml, root) != YAML_FILE_MAP) {
        bool is_scalar = yaml_file_kind(reader->yaml, root) == YAML_FILE_SCALAR;
        problem_add(reader->problems, PROBLEM_ERROR, "wrong-type", "", "",
                    yaml_file_mark(reader->yaml, root),
                    is_scalar ? "put a space behind each ':'" : NULL,
                    "sections are wanted (VllmWorker: ...), this is %s",
                    is_scalar ? "a single value" : "a list");
        return;
    }
    for (uint32_t i = 0; i < yaml_file_map_count(reader->yaml, root); i++)
        read_top_pair(reader, yaml_file_map_pair(reader->yaml, root, i));
    for (uint32_t i = 0; i < yaml_file_map_count(reader->yaml, root); i++)
        adopt_top_pair(reader, yaml_file_map_pair(reader->yaml, root, i));
    name_duplicates(reader);
}

/* --- what the sections say together ------------------------------------------------------ */

static void add_missing_section(struct graph_reader *reader, enum graph_section_id id) {
    problem_add(reader->problems, PROBLEM_ERROR, "missing-section", graph_section_name(id), "",
                (struct problem_mark){.line = 1, .column = 1},
                id == GRAPH_PREFILL_WORKER ? "add the section, or serve agg" : "add the section",
                "the graph %s needs this section, and the file has none",
                graph_kind_name(reader->graph->kind));
}

static void check_sections(struct graph_reader *reader) {
    struct graph *graph = reader->graph;
    bool is_read = reader->yaml && yaml_file_kind(reader->yaml, 1) == YAML_FILE_MAP;
    for (int i = GRAPH_VLLM_WORKER; i <= GRAPH_PREFILL_WORKER; i++) {
        enum graph_section_id id = (enum graph_section_id) i;
        struct graph_section *section = &graph->sections[id];
        if (!section->is_used) continue;
        if (is_read && !section->is_present) {
            add_missing_section(reader, id);
            continue;
        }
        if (graph->has_file && !is_read) continue;
        bool is_told = section->is_broken || graph_mark(graph, id, OPT_MODEL).line;
        if (!options_text(section->options, OPT_MODEL) && !is_told)
            problem_add(reader->problems, PROBLEM_ERROR, "model-missing", graph_section_name(id),
                        "model", section->mark, "write model: PATH, or name it in common-configs",
                        "no model is given");
    }
}

static void note_ignored(struct graph_reader *reader) {
    if (!reader->ignored.bytes || !buf_string(&reader->ignored)) return;
    problem_add(reader->problems, PROBLEM_NOTE, "no-effect", "", "", reader->ignored_mark, NULL,
                "without effect here: %s", buf_string(&reader->ignored));
}

/* Takes an option from another section where the Frontend has none. */
static void fill_frontend(struct graph_reader *reader, enum graph_section_id from,
                          enum option_id id) {
    struct graph_section *frontend = &reader->graph->sections[GRAPH_FRONTEND];
    const struct graph_section *other = &reader->graph->sections[from];
    if (options_is_set(frontend->options, id) || !options_is_set(other->options, id)) return;
    if (options_copy(frontend->options, other->options, id)) reader->is_out_of_memory = true;
    frontend->marks[id] = other->marks[id];
}

/* Frontend, Processor and Router are one process here. */
static void join_frontend(struct graph_reader *reader) {
    for (int i = 0; i < OPT_COUNT; i++) {
        enum option_id id = (enum option_id) i;
        if (!(option_get(id)->commands & OPTION_FRONTEND)) continue;
        fill_frontend(reader, GRAPH_PROCESSOR, id);
        fill_frontend(reader, GRAPH_ROUTER, id);
    }
    static const enum option_id of_worker[] = {
        OPT_MODEL,       OPT_ROUTER,     OPT_MAX_MODEL_LEN, OPT_BLOCK_SIZE, OPT_SERVED_MODEL_NAME,
        OPT_LOAD_FORMAT, OPT_DUMMY_TYPE, OPT_DUMMY_SEED,    OPT_ENGINE,     OPT_GENERATION_CONFIG};
    for (size_t i = 0; i < ARRAY_COUNT(of_worker); i++)
        fill_frontend(reader, GRAPH_VLLM_WORKER, of_worker[i]);
}

static void set_default(struct graph_reader *reader, enum graph_section_id section,
                        enum option_id id, const char *value) {
    struct options *options = reader->graph->sections[section].options;
    struct err_text text;
    if (options_is_set(options, id)) return;
    if (options_set(options, id, value, SOURCE_DEFAULT, option_get(id)->name, &text))
        reader->is_out_of_memory = true;
}

static void set_defaults(struct graph_reader *reader) {
    struct graph *graph = reader->graph;
    set_default(reader, GRAPH_FRONTEND, OPT_ROUTER,
                graph_has_router(graph->kind) ? "kv" : "least-loaded");
    if (!graph->has_file && graph_is_disagg(graph->kind)) {
        set_default(reader, GRAPH_VLLM_WORKER, OPT_REMOTE_PREFILL, "true");
        set_default(reader, GRAPH_VLLM_WORKER, OPT_CONDITIONAL_DISAGG, "true");
    }
    const char *endpoint = options_text(graph->sections[GRAPH_FRONTEND].options, OPT_ENDPOINT);
    if (endpoint && strchr(endpoint, '.'))
        snprintf(graph->name_space, sizeof graph->name_space, "%.*s",
                 (int) (strcspn(endpoint, ".") < 63 ? strcspn(endpoint, ".") : 63), endpoint);
}

/* --- reading ------------------------------------------------------------------------------ */

/* A slip of the keyboard (a tab, a space that lacks) is told and read over, so that the rest of the
 * file is told in the same run. */
#define SLIPS_MAX 32

static enum err read_yaml(struct graph_reader *reader, struct buf *mended) {
    const struct graph_source *source = reader->source;
    struct buf text, next;
    buf_init(&text, 0);
    buf_init(&next, 0);
    enum err e = ERR_OK;
    for (int slip = 0; slip <= SLIPS_MAX; slip++) {
        struct problem_list found = {0};
        const uint8_t *yaml = slip ? text.data : source->yaml;
        size_t bytes = slip ? text.bytes : source->bytes;
        e = yaml_file_read(yaml, bytes, &found, &reader->yaml);
        bool is_over = reader->yaml || e == ERR_MEMORY;
        if (!is_over) is_over = yaml_fix_apply(yaml, bytes, &found, &next) == 0;
        if (!problem_move(&found, reader->problems)) e = ERR_MEMORY;
        if (!is_over && next.failed) e = ERR_MEMORY;
        if (is_over || e == ERR_MEMORY) break;
        buf_release(&text);
        text = next;
        buf_init(&next, 0);
    }
    buf_release(&next);
    *mended = text;
    bool is_mended = reader->yaml && text.bytes && e != ERR_MEMORY;
    if (is_mended &&
        yaml_file_set_original(reader->yaml, text.data, text.bytes, source->yaml, source->bytes))
        e = ERR_MEMORY;
    return e;
}

static enum err create_sections(struct graph *graph) {
    for (int i = 0; i < GRAPH_SECTION_COUNT; i++) {
        struct graph_section *section = &graph->sections[i];
        section->is_used = is_section_used(graph->kind, (enum graph_section_id) i);
        section->replica_count = 1;
        section->marks = alloc_zero(OPT_COUNT, sizeof *section->marks);
        bool is_worker = i == GRAPH_VLLM_WORKER || i == GRAPH_PREFILL_WORKER;
        if (!section->marks ||
            options_create(is_worker ? OPTION_WORKER : OPTION_FRONTEND, &section->options))
            return ERR_MEMORY;
    }
    return ERR_OK;
}

static void read_all(struct graph_reader *reader) {
    for (uint32_t i = 0; i < reader->source->override_count; i++)
        read_override(reader, reader->source->overrides[i], &reader->overrides[i]);
    if (reader->yaml) read_top(reader);
    graph_section_check_common(reader);
    for (int i = 0; i < GRAPH_SECTION_COUNT; i++)
        if (reader->graph->sections[i].is_used)
            graph_section_read(reader, (enum graph_section_id) i);
    check_sections(reader);
    note_ignored(reader);
    join_frontend(reader);
    set_defaults(reader);
}

enum err graph_read(enum graph_kind kind, const struct graph_source *source,
                    struct problem_list *problems, struct graph *out) {
    struct graph graph = {.kind = kind, .has_file = source->bytes > 0};
    struct graph_reader reader = {.source = source, .problems = problems, .graph = &graph};
    struct buf mended; /* what was read, where slips were read over */
    buf_init(&mended, 0);
    buf_init(&reader.ignored, 8192);
    reader.overrides = alloc_zero(source->override_count, sizeof *reader.overrides);
    enum err e = reader.overrides ? create_sections(&graph) : ERR_MEMORY;
    if (!e && graph.has_file) e = read_yaml(&reader, &mended);
    if (e == ERR_USAGE && !reader.yaml) goto out; /* not YAML: nothing else can be said */
    if (e == ERR_MEMORY) goto out;
    read_all(&reader);
    e = problem_count(problems, PROBLEM_ERROR) ? ERR_USAGE : ERR_OK;
    if (reader.is_out_of_memory || problems->is_cut) e = ERR_MEMORY;
    if (problems->count >= PROBLEMS_MAX) e = ERR_USAGE;
out:
    yaml_file_destroy(reader.yaml);
    buf_release(&mended);
    alloc_free(reader.overrides);
    buf_release(&reader.ignored);
    if (e == ERR_MEMORY) graph_release(&graph);
    else *out = graph;
    return e;
}

void graph_release(struct graph *graph) {
    for (int i = 0; i < GRAPH_SECTION_COUNT; i++) {
        struct graph_section *section = &graph->sections[i];
        options_destroy(section->options);
        alloc_free(section->marks);
        for (uint32_t k = 0; k < section->env_count; k++) {
            alloc_free(section->envs[k].name);
            alloc_free(section->envs[k].value);
        }
        alloc_free(section->envs);
    }
    *graph = (struct graph){0};
}
