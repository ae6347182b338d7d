/* graph_section - one section of a graph file becomes its options, replicas, GPUs and variables.
 *
 * For each option the winning place is found first (the section's own key, else Common's, and
 * --Section.key before both), then only that value is read, so a value that is overridden cannot
 * be wrong. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "config/graph_impl.h"

#define REPLICAS_MAX 4096
#define GPUS_MAX 1024
#define ENVS_MAX 256
#define JSON_BYTES_MAX 65536
#define WHERE "value" /* options_set begins its sentence so; it is cut off again */

/* Where the value of one option stands. */
struct place {
    uint32_t key, value;  /* nodes; 0: not in the file */
    const char *override; /* text of --Section.key=; NULL: none */
    bool is_common, is_negated;
};

struct section_reader {
    struct graph_reader *all;
    enum graph_section_id id;
    struct graph_section *section;
    const char *name;
    bool has_service_args, has_common_configs;
    struct place places[OPT_COUNT];
};

static struct problem *add_problem(struct section_reader *reader, enum problem_severity severity,
                                   const char *code, const char *key, struct problem_mark mark,
                                   const char *fix, const char *message) {
    return problem_add(reader->all->problems, severity, code, reader->name, key, mark, fix, "%s",
                       message);
}

static struct problem_mark place_mark(const struct section_reader *reader,
                                      const struct place *place) {
    if (place->override) return (struct problem_mark){.is_flag = true};
    struct problem_mark mark = yaml_file_mark(reader->all->yaml, place->value);
    mark.is_common = place->is_common;
    mark.is_negated = place->is_negated;
    mark.is_empty = yaml_file_kind(reader->all->yaml, place->value) == YAML_FILE_SCALAR &&
                    yaml_file_is_plain(reader->all->yaml, place->value) &&
                    !*yaml_file_text(reader->all->yaml, place->value);
    return mark;
}

static const char *kind_word(const struct yaml_file *yaml, uint32_t node) {
    switch (yaml_file_kind(yaml, node)) {
    case YAML_FILE_LIST: return "a list";
    case YAML_FILE_MAP: return "a mapping";
    default: return "a single value";
    }
}

/* --- the keys of a mapping ---------------------------------------------------------------- */

static void add_ignored(struct graph_reader *all, const char *name, struct problem_mark mark) {
    size_t bytes = strlen(name);
    const char *held = all->ignored.bytes ? buf_string(&all->ignored) : NULL;
    for (const char *at = held; at && (at = strstr(at, name)); at += bytes)
        if ((at == held || at[-1] == ' ') && (at[bytes] == ',' || !at[bytes])) return;
    if (!all->ignored_mark.line || (mark.line && mark.line < all->ignored_mark.line))
        all->ignored_mark = mark;
    buf_add_format(&all->ignored, "%s%s", all->ignored.bytes ? ", " : "", name);
}

static const char *place_name(enum graph_schema_place place) {
    switch (place) {
    case GRAPH_PLACE_WORKERS: return "ServiceArgs.workers";
    case GRAPH_PLACE_RESOURCES: return "ServiceArgs.resources";
    case GRAPH_PLACE_GPU: return "ServiceArgs.resources.gpu";
    case GRAPH_PLACE_ENVS: return "ServiceArgs.envs";
    case GRAPH_PLACE_NONE: break;
    }
    return NULL;
}

static void say_unknown(const char *name, const char *near, char out[200]) {
    if (graph_schema_is_flag(name))
        snprintf(out, 200, "unknown key here: --%.60s is for the whole command line", name);
    else
        snprintf(out, 200, "unknown key%s%s%s", near ? ", did you mean " : "", near ? near : "",
                 near ? "?" : "");
}

static void refuse_unknown(struct section_reader *reader, uint32_t key, enum graph_section_id id) {
    const struct yaml_file *yaml = reader->all->yaml;
    const char *name = yaml_file_text(yaml, key);
    const char *near = graph_schema_suggest_key(id, name);
    char message[200], fix[120];
    const char *place = place_name(graph_schema_place(name));
    if (place) {
        snprintf(message, sizeof message, "unknown key here: it is %s", place);
        snprintf(fix, sizeof fix, "write it as %s", place);
        add_problem(reader, PROBLEM_ERROR, "unknown-key", name, yaml_file_mark(yaml, key), fix,
                    message);
        return;
    }
    say_unknown(name, near, message);
    snprintf(fix, sizeof fix, near ? "write %s" : "remove it", near);
    struct problem *problem = add_problem(reader, PROBLEM_ERROR, "unknown-key", name,
                                          yaml_file_mark(yaml, key), fix, message);
    if (near) problem_set_edit(problem, PROBLEM_EDIT_KEY, 0, "%s", near);
}

static void note_misplaced(struct section_reader *reader, uint32_t key) {
    const struct yaml_file *yaml = reader->all->yaml;
    add_problem(reader, PROBLEM_NOTE, "misplaced-key", yaml_file_text(yaml, key),
                yaml_file_mark(yaml, key), NULL, "has no effect in this section");
}

static void place_own(struct section_reader *reader, struct yaml_file_pair pair,
                      struct graph_schema_key key) {
    const struct yaml_file *yaml = reader->all->yaml;
    struct place *place = &reader->places[key.id];
    if (place->key && !place->is_common) {
        char message[200];
        snprintf(message, sizeof message, "the same as %s in line %u",
                 yaml_file_text(yaml, place->key), yaml_file_mark(yaml, place->key).line);
        add_problem(reader, PROBLEM_ERROR, "duplicate-key", yaml_file_text(yaml, pair.key),
                    yaml_file_mark(yaml, pair.key), "keep one of them", message);
        return;
    }
    *place = (struct place){.key = pair.key, .value = pair.value, .is_negated = key.is_negated};
}

static void read_service_args(struct section_reader *reader, uint32_t node);
static void read_common_configs(struct section_reader *reader, uint32_t node);
static void read_misplaced(struct section_reader *reader, enum graph_schema_place place,
                           uint32_t key, uint32_t node);

/* A misspelt key is read as the one that was meant, where that one does not stand there too: its
 * lack is the same mistake. */
static void adopt_own(struct section_reader *reader, struct yaml_file_pair pair) {
    const char *name = yaml_file_text(reader->all->yaml, pair.key);
    enum graph_schema_place service = graph_schema_place(name);
    if (service != GRAPH_PLACE_NONE) {
        read_misplaced(reader, service, pair.key, pair.value);
        return;
    }
    const char *near = graph_schema_suggest_key(reader->id, name);
    if (!near) return;
    struct graph_schema_key key = graph_schema_key(reader->id, near);
    if (key.kind == GRAPH_KEY_SERVICE_ARGS && !reader->has_service_args)
        read_service_args(reader, pair.value);
    else if (key.kind == GRAPH_KEY_COMMON_CONFIGS && !reader->has_common_configs)
        read_common_configs(reader, pair.value);
    else if (key.kind == GRAPH_KEY_OPTION &&
             (!reader->places[key.id].key || reader->places[key.id].is_common))
        place_own(reader, pair, key);
}

static void read_own_keys(struct section_reader *reader, uint32_t node) {
    const struct yaml_file *yaml = reader->all->yaml;
    uint32_t count = yaml_file_map_count(yaml, node);
    for (uint32_t i = 0; i < count; i++) {
        struct yaml_file_pair pair = yaml_file_map_pair(yaml, node, i);
        const char *name = yaml_file_text(yaml, pair.key);
        struct graph_schema_key key = graph_schema_key(reader->id, name);
        switch (key.kind) {
        case GRAPH_KEY_OPTION: place_own(reader, pair, key); break;
        case GRAPH_KEY_MISPLACED: note_misplaced(reader, pair.key); break;
        case GRAPH_KEY_SILENT:
            add_ignored(reader->all, name, yaml_file_mark(yaml, pair.key));
            break;
        case GRAPH_KEY_SERVICE_ARGS:
            reader->has_service_args = true;
            read_service_args(reader, pair.value);
            break;
        case GRAPH_KEY_COMMON_CONFIGS:
            reader->has_common_configs = true;
            read_common_configs(reader, pair.value);
            break;
        case GRAPH_KEY_UNKNOWN: refuse_unknown(reader, pair.key, reader->id); break;
        }
    }
    for (uint32_t i = 0; i < count; i++) {
        struct yaml_file_pair pair = yaml_file_map_pair(yaml, node, i);
        const char *name = yaml_file_text(yaml, pair.key);
        if (graph_schema_key(reader->id, name).kind == GRAPH_KEY_UNKNOWN) adopt_own(reader, pair);
    }
}

/* --- Common ------------------------------------------------------------------------------- */

/* The pair of Common that `name` means: the very key, else one of the same option. */
static bool find_common(const struct section_reader *reader, const char *name,
                        struct yaml_file_pair *out) {
    const struct graph_reader *all = reader->all;
    uint32_t count = all->common_node ? yaml_file_map_count(all->yaml, all->common_node) : 0;
    for (uint32_t i = 0; i < count; i++) {
        *out = yaml_file_map_pair(all->yaml, all->common_node, i);
        if (graph_schema_equal(yaml_file_text(all->yaml, out->key), name)) return true;
    }
    /* Told at Common: read as it was meant. */
    for (uint32_t i = 0; i < count; i++) {
        *out = yaml_file_map_pair(all->yaml, all->common_node, i);
        const char *key = yaml_file_text(all->yaml, out->key);
        if (graph_schema_key(GRAPH_SECTION_COUNT, key).kind != GRAPH_KEY_UNKNOWN) continue;
        const char *near = graph_schema_suggest_key(GRAPH_SECTION_COUNT, key);
        if (near && graph_schema_equal(near, name)) return true;
    }
    return false;
}

static const struct graph_override *find_override(const struct graph_reader *all, int section,
                                                  enum option_id id) {
    const struct graph_override *found = NULL;
    for (uint32_t i = 0; i < all->source->override_count; i++) {
        struct graph_override *override = &all->overrides[i];
        if (override->section != section) continue;
        struct graph_schema_key key =
            graph_schema_key((enum graph_section_id) section, override->path);
        if (key.kind != GRAPH_KEY_OPTION || key.id != id) continue;
        override->is_used = true;
        found = override;
    }
    return found;
}

/* Gives the key of Common that was meant; NULL: none is near. */
static const char *refuse_common_name(struct section_reader *reader, uint32_t item) {
    const struct graph_reader *all = reader->all;
    const char *name = yaml_file_text(all->yaml, item);
    const char *names[64];
    uint32_t count = 0;
    uint32_t all_count = all->common_node ? yaml_file_map_count(all->yaml, all->common_node) : 0;
    for (uint32_t i = 0; i < all_count && count < ARRAY_COUNT(names); i++)
        names[count++] =
            yaml_file_text(all->yaml, yaml_file_map_pair(all->yaml, all->common_node, i).key);
    const char *near = option_suggest_among(name, names, count);
    char message[240], fix[160];
    snprintf(message, sizeof message, "Common has no key '%.80s'%s%s%s", name,
             near ? ", did you mean " : "", near ? near : "", near ? "?" : "");
    if (near) snprintf(fix, sizeof fix, "write %s", near);
    else snprintf(fix, sizeof fix, "write '%.80s' in Common, or remove it here", name);
    struct problem *problem = add_problem(reader, PROBLEM_ERROR, "common-missing", "common-configs",
                                          yaml_file_mark(all->yaml, item), fix, message);
    if (near) problem_set_edit(problem, PROBLEM_EDIT_KEY, 0, "%s", near);
    return near;
}

static void take_common(struct section_reader *reader, uint32_t item) {
    const struct yaml_file *yaml = reader->all->yaml;
    if (yaml_file_kind(yaml, item) != YAML_FILE_SCALAR) {
        add_problem(reader, PROBLEM_ERROR, "wrong-type", "common-configs",
                    yaml_file_mark(yaml, item), "write a list of names: [model, block-size]",
                    "the names of keys of Common are wanted");
        return;
    }
    struct yaml_file_pair pair;
    const char *name = yaml_file_text(yaml, item);
    if (!find_common(reader, name, &pair)) {
        struct graph_schema_key key = graph_schema_key(reader->id, name);
        if (key.kind != GRAPH_KEY_OPTION ||
            !find_override(reader->all, GRAPH_SECTION_COUNT, key.id)) {
            if (reader->all->is_common_broken) return; /* told */
            name = refuse_common_name(reader, item);
            if (!name || !find_common(reader, name, &pair)) return;
        } else {
            pair = (struct yaml_file_pair){0, 0};
        }
    }
    struct graph_schema_key key = graph_schema_key(reader->id, name);
    if (key.kind != GRAPH_KEY_OPTION) return; /* unknown ones are told with Common itself */
    struct place *place = &reader->places[key.id];
    /* Common's own key may be misspelt: it was found by what it means. */
    const struct graph_override *override = find_override(reader->all, GRAPH_SECTION_COUNT, key.id);
    if (place->key) return; /* the section's own key stood before this one */
    *place = (struct place){.key = pair.key,
                            .value = pair.value,
                            .is_common = true,
                            .is_negated = key.is_negated,
                            .override = override ? override->value : NULL};
}

static void read_common_configs(struct section_reader *reader, uint32_t node) {
    const struct yaml_file *yaml = reader->all->yaml;
    if (yaml_file_is_null(yaml, node)) return;
    if (yaml_file_kind(yaml, node) != YAML_FILE_LIST) {
        struct problem *problem = add_problem(
            reader, PROBLEM_ERROR, "wrong-type", "common-configs", yaml_file_mark(yaml, node),
            "write a list of names: [model, block-size]", "a list is wanted");
        if (yaml_file_kind(yaml, node) == YAML_FILE_SCALAR)
            problem_set_edit(problem, PROBLEM_EDIT_VALUE, 0, "[%s]", yaml_file_text(yaml, node));
        return;
    }
    for (uint32_t i = 0; i < yaml_file_list_count(yaml, node); i++)
        take_common(reader, yaml_file_list_item(yaml, node, i));
}

void graph_section_check_common(struct graph_reader *all) {
    if (!all->common_node) return;
    struct section_reader reader = {.all = all, .name = "Common"};
    for (uint32_t i = 0; i < yaml_file_map_count(all->yaml, all->common_node); i++) {
        struct yaml_file_pair pair = yaml_file_map_pair(all->yaml, all->common_node, i);
        const char *name = yaml_file_text(all->yaml, pair.key);
        struct graph_schema_key key = graph_schema_key(GRAPH_SECTION_COUNT, name);
        if (key.kind == GRAPH_KEY_UNKNOWN) refuse_unknown(&reader, pair.key, GRAPH_SECTION_COUNT);
    }
}

/* --- ServiceArgs -------------------------------------------------------------------------- */

static bool parse_count(const char *text, uint32_t max, uint32_t *out) {
    char *end;
    errno = 0;
    unsigned long value = strtoul(text, &end, 10);
    if (errno || end == text || *end || *text == '-' || *text == '+' || value > max) return false;
    *out = (uint32_t) value;
    return true;
}

static void set_replicas(struct section_reader *reader, const char *text,
                         struct problem_mark mark) {
    reader->section->replica_mark = mark;
    if (parse_count(text, REPLICAS_MAX, &reader->section->replica_count) &&
        reader->section->replica_count)
        return;
    reader->section->replica_count = 1;
    char message[160];
    snprintf(message, sizeof message, "'%.60s' is not a number of workers, 1 to %d", text,
             REPLICAS_MAX);
    add_problem(reader, PROBLEM_ERROR, "wrong-type", "ServiceArgs.workers", mark,
                "write how many of this section shall run: workers: 1", message);
}

static void set_gpus(struct section_reader *reader, const char *text, struct problem_mark mark) {
    if (parse_count(text, GPUS_MAX, &reader->section->gpu_count)) {
        reader->section->gpu_mark = mark;
        return;
    }
    char message[160];
    snprintf(message, sizeof message, "'%.60s' is not a whole number of GPUs, 0 to %d", text,
             GPUS_MAX);
    add_problem(reader, PROBLEM_ERROR, "wrong-type", "ServiceArgs.resources.gpu", mark,
                "write as many as tensor-parallel-size", message);
}

/* A mapping is wanted: false when it is something else (told, but for null). */
static bool is_map(struct section_reader *reader, const char *key, uint32_t node) {
    const struct yaml_file *yaml = reader->all->yaml;
    if (yaml_file_kind(yaml, node) == YAML_FILE_MAP) return true;
    if (yaml_file_is_null(yaml, node)) return false;
    char message[120];
    snprintf(message, sizeof message, "a mapping of keys is wanted, this is %s",
             kind_word(yaml, node));
    add_problem(reader, PROBLEM_ERROR, "wrong-type", key, yaml_file_mark(yaml, node),
                "write 'key: value', one a line", message);
    return false;
}

/* A scalar is wanted; NULL when it is something else (told). */
static const char *scalar(struct section_reader *reader, const char *key, uint32_t node) {
    const struct yaml_file *yaml = reader->all->yaml;
    if (yaml_file_kind(yaml, node) == YAML_FILE_SCALAR && !yaml_file_is_null(yaml, node))
        return yaml_file_text(yaml, node);
    char message[120];
    snprintf(message, sizeof message, "a single value is wanted, this is %s",
             yaml_file_is_null(yaml, node) ? "nothing" : kind_word(yaml, node));
    add_problem(reader, PROBLEM_ERROR, "wrong-type", key, yaml_file_mark(yaml, node), NULL,
                message);
    return NULL;
}

/* Gives the name that was meant, or NULL. */
static const char *refuse_service_key(struct section_reader *reader, const char *prefix,
                                      uint32_t key, const char *const *names, uint32_t count) {
    const struct yaml_file *yaml = reader->all->yaml;
    const char *name = yaml_file_text(yaml, key);
    const char *near = NULL;
    bool is_count = graph_schema_place(name) == GRAPH_PLACE_WORKERS;
    bool is_gpu = graph_schema_place(name) == GRAPH_PLACE_GPU;
    for (uint32_t i = 0; i < count; i++)
        if ((is_count && strcmp(names[i], "workers") == 0) ||
            (is_gpu && strcmp(names[i], "gpu") == 0))
            near = names[i];
    if (!near) near = option_suggest_among(name, names, count);
    char path[96], message[200], fix[120];
    snprintf(path, sizeof path, "%s.%.40s", prefix, name);
    const char *place = NULL; /* where else it belongs */
    struct graph_schema_key own = graph_schema_key(reader->id, name);
    char section[96];
    if (is_gpu && !near) place = "ServiceArgs.resources.gpu";
    else if (!near && own.kind == GRAPH_KEY_OPTION) {
        snprintf(section, sizeof section, "%s.%.40s", reader->name, option_get(own.id)->name);
        place = section;
    }
    if (place) {
        snprintf(message, sizeof message, "unknown key here: it is %s", place);
        snprintf(fix, sizeof fix, "write it as %s", place);
        add_problem(reader, PROBLEM_ERROR, "unknown-key", path, yaml_file_mark(yaml, key), fix,
                    message);
        return NULL;
    }
    snprintf(message, sizeof message, "unknown key%s%s%s", near ? ", did you mean " : "",
             near ? near : "", near ? "?" : "");
    snprintf(fix, sizeof fix, near ? "write %s" : "remove it", near);
    struct problem *problem = add_problem(reader, PROBLEM_ERROR, "unknown-key", path,
                                          yaml_file_mark(yaml, key), fix, message);
    if (near && strcmp(name, "env") == 0 && strcmp(near, "envs") == 0)
        problem_set_edit(problem, PROBLEM_EDIT_ENVS, 0, "%s", near);
    else if (near) problem_set_edit(problem, PROBLEM_EDIT_KEY, 0, "%s", near);
    return near;
}

static void read_resources(struct section_reader *reader, uint32_t node) {
    bool has_gpu = false;
    static const char *const names[] = {"gpu", "cpu", "memory", "gpu_type", "custom"};
    const struct yaml_file *yaml = reader->all->yaml;
    if (!is_map(reader, "ServiceArgs.resources", node)) return;
    for (uint32_t i = 0; i < yaml_file_map_count(yaml, node); i++) {
        struct yaml_file_pair pair = yaml_file_map_pair(yaml, node, i);
        const char *name = yaml_file_text(yaml, pair.key);
        bool is_known = false;
        for (size_t k = 0; k < ARRAY_COUNT(names); k++) is_known |= strcmp(name, names[k]) == 0;
        if (!is_known) {
            const char *near =
                refuse_service_key(reader, "ServiceArgs.resources", pair.key, names, 3);
            if (!near || strcmp(near, "gpu") != 0 || has_gpu) continue;
            name = near;
        }
        if (strcmp(name, "gpu") != 0) continue; /* for Kubernetes; nothing of ours reads them */
        has_gpu = true;
        const char *text = scalar(reader, "ServiceArgs.resources.gpu", pair.value);
        if (text) set_gpus(reader, text, yaml_file_mark(yaml, pair.value));
    }
}

static void add_env(struct section_reader *reader, const char *name, const char *value) {
    struct graph_section *section = reader->section;
    if (section->env_count == ENVS_MAX) return;
    if (!section->envs) section->envs = alloc_zero(ENVS_MAX, sizeof *section->envs);
    struct graph_env env = {0};
    if (section->envs) env.name = alloc_string(name, strlen(name));
    if (env.name) env.value = alloc_string(value, strlen(value));
    if (!env.value) {
        alloc_free(env.name);
        reader->all->is_out_of_memory = true;
        return;
    }
    section->envs[section->env_count++] = env;
}

/* One {name, value}. */
static void read_env(struct section_reader *reader, uint32_t node) {
    static const char *const names[] = {"name", "value"};
    const struct yaml_file *yaml = reader->all->yaml;
    const char *name = NULL, *value = NULL;
    if (!is_map(reader, "ServiceArgs.envs", node)) return;
    for (uint32_t i = 0; i < yaml_file_map_count(yaml, node); i++) {
        struct yaml_file_pair pair = yaml_file_map_pair(yaml, node, i);
        const char *key = yaml_file_text(yaml, pair.key);
        bool is_null = yaml_file_is_null(yaml, pair.value);
        if (strcmp(key, "name") == 0) name = scalar(reader, "ServiceArgs.envs", pair.value);
        else if (strcmp(key, "value") == 0)
            value = is_null ? "" : scalar(reader, "ServiceArgs.envs", pair.value);
        else
            (void) refuse_service_key(reader, "ServiceArgs.envs", pair.key, names,
                                      ARRAY_COUNT(names));
    }
    if (name && *name && !strchr(name, '=') && value) add_env(reader, name, value);
    else if (!name || !*name || strchr(name, '='))
        add_problem(reader, PROBLEM_ERROR, "wrong-type", "ServiceArgs.envs",
                    yaml_file_mark(yaml, node), "write - {name: NAME, value: VALUE}",
                    "an entry needs a name (without '=') and a value");
}

static void read_envs(struct section_reader *reader, uint32_t key, uint32_t node) {
    const struct yaml_file *yaml = reader->all->yaml;
    if (yaml_file_is_null(yaml, node)) return;
    reader->section->env_mark = yaml_file_mark(yaml, node);
    if (yaml_file_kind(yaml, node) != YAML_FILE_LIST) {
        struct problem *problem = add_problem(
            reader, PROBLEM_ERROR, "wrong-type", "ServiceArgs.envs", yaml_file_mark(yaml, key),
            "write - {name: NAME, value: VALUE}", "a list of {name, value} is wanted");
        if (yaml_file_kind(yaml, node) == YAML_FILE_MAP)
            problem_set_edit(problem, PROBLEM_EDIT_ENVS, 0, "envs");
        return;
    }
    if (yaml_file_list_count(yaml, node) > ENVS_MAX)
        add_problem(reader, PROBLEM_ERROR, "wrong-type", "ServiceArgs.envs",
                    yaml_file_mark(yaml, node), NULL, "more than 256 variables");
    for (uint32_t i = 0; i < yaml_file_list_count(yaml, node); i++)
        read_env(reader, yaml_file_list_item(yaml, node, i));
}

static void read_service_args(struct section_reader *reader, uint32_t node) {
    static const char *const names[] = {"workers", "resources", "envs",        "image", "traffic",
                                        "name",    "labels",    "annotations", "http",  "dynamo"};
    const struct yaml_file *yaml = reader->all->yaml;
    if (!is_map(reader, "ServiceArgs", node)) return;
    uint32_t count = yaml_file_map_count(yaml, node);
    bool has[3] = {false};
    for (uint32_t i = 0; i < count; i++)
        for (size_t k = 0; k < ARRAY_COUNT(has); k++)
            has[k] |=
                strcmp(yaml_file_text(yaml, yaml_file_map_pair(yaml, node, i).key), names[k]) == 0;
    for (uint32_t i = 0; i < count; i++) {
        struct yaml_file_pair pair = yaml_file_map_pair(yaml, node, i);
        const char *name = yaml_file_text(yaml, pair.key);
        bool is_known = false;
        for (size_t k = 0; k < ARRAY_COUNT(names); k++) is_known |= strcmp(name, names[k]) == 0;
        if (!is_known) {
            if (graph_schema_place(name) == GRAPH_PLACE_GPU && !has[1])
                read_misplaced(reader, GRAPH_PLACE_GPU, pair.key, pair.value);
            const char *near = refuse_service_key(reader, "ServiceArgs", pair.key, names, 3);
            bool is_there = !near;
            for (size_t k = 0; near && k < ARRAY_COUNT(has); k++)
                is_there |= has[k] && strcmp(near, names[k]) == 0;
            /* `env:` as a mapping is told once. */
            if (is_there ||
                (strcmp(near, "envs") == 0 && yaml_file_kind(yaml, pair.value) != YAML_FILE_LIST))
                continue;
            name = near;
        }
        if (strcmp(name, "workers") == 0)
            read_misplaced(reader, GRAPH_PLACE_WORKERS, pair.key, pair.value);
        else if (strcmp(name, "resources") == 0) read_resources(reader, pair.value);
        else if (strcmp(name, "envs") == 0) read_envs(reader, pair.key, pair.value);
    }
}

/* One thing of ServiceArgs, wherever it stands. */
static void read_misplaced(struct section_reader *reader, enum graph_schema_place place,
                           uint32_t key, uint32_t node) {
    const struct yaml_file *yaml = reader->all->yaml;
    const char *text = NULL;
    switch (place) {
    case GRAPH_PLACE_NONE: break;
    case GRAPH_PLACE_WORKERS:
        text = scalar(reader, "ServiceArgs.workers", node);
        if (text) set_replicas(reader, text, yaml_file_mark(yaml, node));
        break;
    case GRAPH_PLACE_RESOURCES: read_resources(reader, node); break;
    case GRAPH_PLACE_GPU:
        text = scalar(reader, "ServiceArgs.resources.gpu", node);
        if (text) set_gpus(reader, text, yaml_file_mark(yaml, node));
        break;
    case GRAPH_PLACE_ENVS: read_envs(reader, key, node); break;
    }
}

/* --- values ------------------------------------------------------------------------------- */

/* "0,8" and "16,384" as numbers are written; false: something else. */
static bool plain_number(const char *text, char *out, size_t room) {
    size_t comma = strspn(text, "0123456789");
    size_t rest = text[comma] == ',' ? strspn(text + comma + 1, "0123456789") : 0;
    if (!comma || !rest || text[comma + 1 + rest] || comma + rest + 2 > room) return false;
    bool is_share = comma == 1 && *text == '0';
    if (!is_share && rest != 3) return false;
    snprintf(out, room, "%.*s%s%s", (int) comma, text, is_share ? "." : "", text + comma + 1);
    return true;
}

/* The word of a WORD option that `text` misspells; false and "": none. */
static bool word_near(enum option_id id, const char *text, char *out, size_t room) {
    char words[256];
    const char *names[32];
    uint32_t count = 0;
    const struct option *option = option_get(id);
    if (option->type != OPTION_WORD || !option->words) return false;
    snprintf(words, sizeof words, "%s", option->words);
    for (char *at = words; at && *at && count < ARRAY_COUNT(names);) {
        names[count++] = at;
        at = strchr(at, '|');
        if (at) *at++ = '\0';
    }
    const char *near = option_suggest_among(text, names, count);
    snprintf(out, room, "%s", near ? near : "");
    return near != NULL;
}

/* 16_384 is a number in YAML 1.1, which the classic system reads. */
static bool drop_underscores(const char *text, char *out, size_t room) {
    size_t bytes = strspn(text, "0123456789_.");
    if (text[bytes] || !strchr(text, '_') || *text == '_' || bytes >= room) return false;
    size_t to = 0;
    for (const char *at = text; *at; at++)
        if (*at != '_') out[to++] = *at;
    out[to] = '\0';
    return to > 0;
}

/* The sentence of options_set without its beginning, and what to write instead. */
static void refuse_value(struct section_reader *reader, enum option_id id, const char *key,
                         const char *text, struct problem_mark mark, enum err e,
                         const struct err_text *why) {
    const char *message = why->text;
    size_t prefix = strlen(WHERE ": ");
    if (strncmp(message, WHERE ": ", prefix) == 0) message += prefix;
    char fix[96] = "", edit[64] = "";
    double number = strtod(text, NULL);
    uint32_t gpus = reader->section->gpu_count;
    bool is_number = plain_number(text, edit, sizeof edit);
    if (id == OPT_GPU_MEMORY_UTILIZATION && number > 1 && number <= 100) {
        snprintf(edit, sizeof edit, "%.15g", number < 10 ? number / 10 : number / 100);
        snprintf(fix, sizeof fix, "write a share: %.60s: %s", key, edit);
    } else if (id == OPT_DTYPE) {
        snprintf(edit, sizeof edit, "auto");
        snprintf(fix, sizeof fix, "weights tell their own format; write dtype: auto");
    } else if (id == OPT_TENSOR_PARALLEL_SIZE && gpus) {
        snprintf(edit, sizeof edit, "%u", gpus);
        snprintf(fix, sizeof fix, "write %.40s: %s, as many as gpu", key, edit);
    } else if (id == OPT_REMOTE_PREFILL && graph_is_disagg(reader->all->graph->kind)) {
        snprintf(edit, sizeof edit, "true");
        snprintf(fix, sizeof fix, "write %.40s: true", key);
    } else if (id == OPT_BLOCK_SIZE && !is_number) {
        edit[0] = '\0';
        snprintf(fix, sizeof fix, "write 16, 32, 64 or 128");
    } else if (is_number && option_get(id)->type != OPTION_TEXT) {
        snprintf(fix, sizeof fix, "write %.40s: %s", key, edit);
    } else {
        if (word_near(id, text, edit, sizeof edit))
            snprintf(fix, sizeof fix, "write %.40s: %s", key, edit);
    }
    const struct option *option = option_get(id);
    if (!fix[0] && e == ERR_UNSUPPORTED) /* the table says what instead, or that there is nothing */
        snprintf(fix, sizeof fix, "remove %.40s", key);
    else if (!fix[0] && option->max > option->min)
        snprintf(fix, sizeof fix, "write a number from %.15g to %.15g", option->min, option->max);
    else if (!fix[0] && option->words)
        snprintf(fix, sizeof fix, "write one of %.60s", option->words);
    else if (!fix[0] && option->type == OPTION_BOOL)
        snprintf(fix, sizeof fix, "write true or false");
    const char *code = e == ERR_UNSUPPORTED ? "not-supported" : "bad-value";
    struct problem *problem =
        add_problem(reader, PROBLEM_ERROR, code, key, mark, fix[0] ? fix : NULL, message);
    if (edit[0]) problem_set_edit(problem, PROBLEM_EDIT_VALUE, 0, "%s", edit);
}

static void set_text(struct section_reader *reader, enum option_id id, const struct place *place,
                     const char *key, const char *text, struct problem_mark mark) {
    struct err_text why = {0};
    struct options *options = reader->section->options;
    bool value;
    char digits[64];
    enum option_type type = option_get(id)->type;
    bool is_number = type == OPTION_COUNT || type == OPTION_NUMBER || type == OPTION_BYTES;
    if (is_number && drop_underscores(text, digits, sizeof digits)) text = digits;
    if (place->is_negated && options_parse_bool(text, &value)) text = value ? "false" : "true";
    enum err e =
        options_set(options, id, text, place->override ? SOURCE_FLAG : SOURCE_FILE, WHERE, &why);
    if (e == ERR_MEMORY) reader->all->is_out_of_memory = true;
    else if (e) refuse_value(reader, id, key, text, mark, e, &why);
    reader->section->marks[id] = mark;
    struct err_text fix = {0};
    if (!e && id == OPT_KV_TRANSFER_CONFIG &&
        (e = graph_schema_check_connector(text, &why, &fix)) != ERR_OK)
        problem_set_edit(
            add_problem(reader, PROBLEM_ERROR, "kv-transfer-config", key, mark, fix.text, why.text),
            PROBLEM_EDIT_VALUE, 0, "'{\"kv_connector\":\"DynamoNixlConnector\"}'");
    if (!e && option_get(id)->standing == OPTION_IGNORED)
        add_ignored(reader->all, option_get(id)->name, mark);
}

static void set_json(struct section_reader *reader, enum option_id id, const struct place *place,
                     const char *key, struct problem_mark mark) {
    struct buf json;
    buf_init(&json, JSON_BYTES_MAX);
    if (yaml_file_to_json(reader->all->yaml, place->value, &json) && buf_string(&json))
        set_text(reader, id, place, key, buf_string(&json), mark);
    else
        add_problem(reader, PROBLEM_ERROR, "wrong-type", key, mark, NULL,
                    "nested too deeply, or too long");
    buf_release(&json);
}

static void set_list(struct section_reader *reader, enum option_id id, const struct place *place,
                     const char *key) {
    const struct yaml_file *yaml = reader->all->yaml;
    for (uint32_t i = 0; i < yaml_file_list_count(yaml, place->value); i++) {
        uint32_t item = yaml_file_list_item(yaml, place->value, i);
        const char *text = scalar(reader, key, item);
        if (text) set_text(reader, id, place, key, text, place_mark(reader, place));
    }
}

static void read_value(struct section_reader *reader, enum option_id id) {
    const struct place *place = &reader->places[id];
    const struct yaml_file *yaml = reader->all->yaml;
    const struct option *option = option_get(id);
    const char *key = place->key ? yaml_file_text(yaml, place->key) : option->name;
    struct problem_mark mark = place_mark(reader, place);
    if (place->override) {
        if (option->type == OPTION_LIST && options_clear(reader->section->options, id))
            reader->all->is_out_of_memory = true;
        set_text(reader, id, place, key, place->override, mark);
        return;
    }
    bool is_text = option->type == OPTION_TEXT;
    enum yaml_file_kind kind = yaml_file_kind(yaml, place->value);
    if (yaml_file_is_null(yaml, place->value)) {
        /* What cannot be left out is told as missing, where it is missed. */
        bool is_missed = (id == OPT_TENSOR_PARALLEL_SIZE && reader->section->gpu_count > 1) ||
                         (id == OPT_REMOTE_PREFILL && graph_is_disagg(reader->all->graph->kind));
        reader->section->marks[id] = mark;
        if (id == OPT_MODEL)
            add_problem(reader, PROBLEM_ERROR, "model-missing", key, mark, "write model: PATH",
                        "has no value, and every worker needs a model");
        else if (!is_missed)
            add_problem(reader, PROBLEM_WARNING, "no-value", key, mark,
                        "write a value, or remove it", "has no value: the default is taken");
    } else if (kind == YAML_FILE_SCALAR) {
        set_text(reader, id, place, key, yaml_file_text(yaml, place->value), mark);
    } else if (kind == YAML_FILE_LIST && option->type == OPTION_LIST) {
        set_list(reader, id, place, key);
    } else if (is_text && id != OPT_MODEL) {
        set_json(reader, id, place, key, mark);
    } else {
        char message[120];
        snprintf(message, sizeof message, "a single value is wanted, this is %s",
                 kind_word(yaml, place->value));
        add_problem(reader, PROBLEM_ERROR, "wrong-type", key, mark, "write one value", message);
        reader->section->marks[id] = mark;
    }
}

/* --- the section -------------------------------------------------------------------------- */

/* Plain flags and variables, where the section has the option. */
static void copy_flags(struct section_reader *reader) {
    const struct options *flags = reader->all->source->flags;
    if (!flags) return;
    for (int i = 0; i < OPT_COUNT; i++) {
        enum option_id id = (enum option_id) i;
        struct graph_schema_key key = graph_schema_key(reader->id, option_get(id)->name);
        bool is_frontend_model = reader->id == GRAPH_FRONTEND && id == OPT_MODEL;
        /* No keys of a file, and yet a section's own. */
        bool is_flag_only = id == OPT_API_KEY || id == OPT_FORCE;
        if (key.kind != GRAPH_KEY_OPTION && !is_flag_only) continue;
        if (id == OPT_API_KEY && reader->id != GRAPH_FRONTEND) continue;
        if (id == OPT_FORCE && reader->id != GRAPH_VLLM_WORKER &&
            reader->id != GRAPH_PREFILL_WORKER)
            continue;
        bool is_given = options_is_set(flags, id) || options_is_auto(flags, id);
        if (!is_given || (key.id != id && !is_frontend_model && !is_flag_only)) continue;
        enum option_source source = options_source(reader->section->options, id);
        if (options_copy(reader->section->options, flags, id)) reader->all->is_out_of_memory = true;
        if (source < options_source(flags, id) || source == SOURCE_DEFAULT)
            reader->section->marks[id] = (struct problem_mark){.is_flag = true};
    }
}

static void apply_overrides(struct section_reader *reader) {
    struct graph_reader *all = reader->all;
    for (uint32_t i = 0; i < all->source->override_count; i++) {
        struct graph_override *override = &all->overrides[i];
        if (override->section != (int) reader->id) continue;
        override->is_used = true;
        struct problem_mark mark = {.is_flag = true};
        if (graph_schema_equal(override->path, "ServiceArgs.workers")) {
            set_replicas(reader, override->value, mark);
        } else if (graph_schema_equal(override->path, "ServiceArgs.resources.gpu")) {
            set_gpus(reader, override->value, mark);
        } else {
            struct graph_schema_key key = graph_schema_key(reader->id, override->path);
            if (key.kind == GRAPH_KEY_OPTION) {
                reader->places[key.id] =
                    (struct place){.override = override->value, .is_negated = key.is_negated};
                continue;
            }
            const char *near = graph_schema_suggest_key(reader->id, override->path);
            char message[200];
            say_unknown(override->path, near, message);
            if (key.kind == GRAPH_KEY_UNKNOWN)
                add_problem(reader, PROBLEM_ERROR, "unknown-key", override->path, mark, NULL,
                            message);
        }
    }
}

void graph_section_read(struct graph_reader *all, enum graph_section_id id) {
    struct graph_section *section = &all->graph->sections[id];
    struct section_reader *reader = alloc_zero(1, sizeof *reader);
    if (!reader) {
        all->is_out_of_memory = true;
        return;
    }
    reader->all = all;
    reader->id = id;
    reader->section = section;
    reader->name = graph_section_name(id);
    uint32_t node = all->section_nodes[id];
    bool is_null = node && yaml_file_is_null(all->yaml, node);
    if (node && is_map(reader, "", node)) read_own_keys(reader, node);
    else section->is_broken = node && !is_null;
    /* Own keys may stand behind common-configs: what they said wins, whatever the order. */
    apply_overrides(reader);
    for (int i = 0; i < OPT_COUNT; i++)
        if (reader->places[i].value && !reader->places[i].override)
            read_value(reader, (enum option_id) i);
    copy_flags(reader);
    for (int i = 0; i < OPT_COUNT; i++)
        if (reader->places[i].override) read_value(reader, (enum option_id) i);
    alloc_free(reader);
}
