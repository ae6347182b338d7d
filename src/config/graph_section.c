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

static void refuse_unknown(struct section_reader *reader, uint32_t key, enum graph_section_id id) {
    const struct yaml_file *yaml = reader->all->yaml;
    const char *name = yaml_file_text(yaml, key);
    const char *near = graph_schema_suggest_key(id, name);
    char message[200], fix[120];
    snprintf(message, sizeof message, "unknown key%s%s%s", near ? ", did you mean " : "",
             near ? near : "", near ? "?" : "");
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
        case GRAPH_KEY_SERVICE_ARGS: read_service_args(reader, pair.value); break;
        case GRAPH_KEY_COMMON_CONFIGS: read_common_configs(reader, pair.value); break;
        case GRAPH_KEY_UNKNOWN: refuse_unknown(reader, pair.key, reader->id); break;
        }
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

static void refuse_common_name(struct section_reader *reader, uint32_t item) {
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
            refuse_common_name(reader, item);
            return;
        }
        pair = (struct yaml_file_pair){0, 0};
    }
    struct graph_schema_key key = graph_schema_key(reader->id, name);
    if (key.kind != GRAPH_KEY_OPTION) return; /* unknown ones are told with Common itself */
    struct place *place = &reader->places[key.id];
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
    add_problem(reader, PROBLEM_ERROR, "wrong-type", "ServiceArgs.workers", mark, NULL, message);
}

static void set_gpus(struct section_reader *reader, const char *text, struct problem_mark mark) {
    reader->section->gpu_mark = mark;
    if (parse_count(text, GPUS_MAX, &reader->section->gpu_count)) return;
    char message[160];
    snprintf(message, sizeof message, "'%.60s' is not a whole number of GPUs, 0 to %d", text,
             GPUS_MAX);
    add_problem(reader, PROBLEM_ERROR, "wrong-type", "ServiceArgs.resources.gpu", mark, NULL,
                message);
}

/* A mapping is wanted: false when it is something else (told, but for null). */
static bool is_map(struct section_reader *reader, const char *key, uint32_t node) {
    const struct yaml_file *yaml = reader->all->yaml;
    if (yaml_file_kind(yaml, node) == YAML_FILE_MAP) return true;
    if (yaml_file_is_null(yaml, node)) return false;
    char message[120];
    snprintf(message, sizeof message, "a mapping of keys is wanted, this is %s",
             kind_word(yaml, node));
    add_problem(reader, PROBLEM_ERROR, "wrong-type", key, yaml_file_mark(yaml, node), NULL,
                message);
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

static void refuse_service_key(struct section_reader *reader, const char *prefix, uint32_t key,
                               const char *const *names, uint32_t count) {
    const struct yaml_file *yaml = reader->all->yaml;
    const char *name = yaml_file_text(yaml, key);
    const char *near = option_suggest_among(name, names, count);
    char path[96], message[200], fix[80];
    snprintf(path, sizeof path, "%s.%.40s", prefix, name);
    snprintf(message, sizeof message, "unknown key%s%s%s", near ? ", did you mean " : "",
             near ? near : "", near ? "?" : "");
    snprintf(fix, sizeof fix, near ? "write %s" : "remove it", near);
    struct problem *problem = add_problem(reader, PROBLEM_ERROR, "unknown-key", path,
                                          yaml_file_mark(yaml, key), fix, message);
    if (near && strcmp(name, "env") == 0 && strcmp(near, "envs") == 0)
        problem_set_edit(problem, PROBLEM_EDIT_ENVS, 0, "%s", near);
    else if (near) problem_set_edit(problem, PROBLEM_EDIT_KEY, 0, "%s", near);
}

static void read_resources(struct section_reader *reader, uint32_t node) {
    static const char *const names[] = {"gpu", "cpu", "memory", "gpu_type", "custom"};
    const struct yaml_file *yaml = reader->all->yaml;
    if (!is_map(reader, "ServiceArgs.resources", node)) return;
    for (uint32_t i = 0; i < yaml_file_map_count(yaml, node); i++) {
        struct yaml_file_pair pair = yaml_file_map_pair(yaml, node, i);
        const char *name = yaml_file_text(yaml, pair.key);
        bool is_known = false;
        for (size_t k = 0; k < ARRAY_COUNT(names); k++) is_known |= strcmp(name, names[k]) == 0;
        if (!is_known) {
            refuse_service_key(reader, "ServiceArgs.resources", pair.key, names, 3);
            continue;
        }
        if (strcmp(name, "gpu") != 0) continue; /* for Kubernetes; nothing of ours reads them */
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
        else refuse_service_key(reader, "ServiceArgs.envs", pair.key, names, ARRAY_COUNT(names));
    }
    if (name && *name && !strchr(name, '=') && value) add_env(reader, name, value);
    else if (!name || !*name || strchr(name, '='))
        add_problem(reader, PROBLEM_ERROR, "wrong-type", "ServiceArgs.envs",
                    yaml_file_mark(yaml, node), "write - {name: NAME, value: VALUE}",
                    "an entry needs a name (without '=') and a value");
}

static void read_envs(struct section_reader *reader, uint32_t node) {
    const struct yaml_file *yaml = reader->all->yaml;
    if (yaml_file_is_null(yaml, node)) return;
    reader->section->env_mark = yaml_file_mark(yaml, node);
    if (yaml_file_kind(yaml, node) != YAML_FILE_LIST) {
        add_problem(reader, PROBLEM_ERROR, "wrong-type", "ServiceArgs.envs",
                    yaml_file_mark(yaml, node), "write - {name: NAME, value: VALUE}",
                    "a list of {name, value} is wanted");
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
    for (uint32_t i = 0; i < yaml_file_map_count(yaml, node); i++) {
        struct yaml_file_pair pair = yaml_file_map_pair(yaml, node, i);
        const char *name = yaml_file_text(yaml, pair.key);
        if (strcmp(name, "workers") == 0) {
            const char *text = scalar(reader, "ServiceArgs.workers", pair.value);
            if (text) set_replicas(reader, text, yaml_file_mark(yaml, pair.value));
        } else if (strcmp(name, "resources") == 0) {
            read_resources(reader, pair.value);
        } else if (strcmp(name, "envs") == 0) {
            read_envs(reader, pair.value);
        } else {
            bool is_known = false;
            for (size_t k = 3; k < ARRAY_COUNT(names); k++) is_known |= strcmp(name, names[k]) == 0;
            if (!is_known) refuse_service_key(reader, "ServiceArgs", pair.key, names, 3);
        }
    }
}

/* --- values ------------------------------------------------------------------------------- */

/* The sentence of options_set without its beginning, and what to write instead. */
static void refuse_value(struct section_reader *reader, enum option_id id, const char *key,
                         const char *text, struct problem_mark mark, enum err e,
                         const struct err_text *why) {
    const char *message = why->text;
    size_t prefix = strlen(WHERE ": ");
    if (strncmp(message, WHERE ": ", prefix) == 0) message += prefix;
    char fix[96] = "", edit[64] = "";
    double number = strtod(text, NULL);
    if (id == OPT_GPU_MEMORY_UTILIZATION && number > 1 && number <= 100) {
        snprintf(edit, sizeof edit, "%.15g", number < 10 ? number / 10 : number / 100);
        snprintf(fix, sizeof fix, "write a share: %.60s: %s", key, edit);
    } else if (id == OPT_DTYPE) {
        snprintf(edit, sizeof edit, "auto");
        snprintf(fix, sizeof fix, "weights tell their own format; write dtype: auto");
    }
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
    if (place->is_negated && options_parse_bool(text, &value)) text = value ? "false" : "true";
    enum err e =
        options_set(options, id, text, place->override ? SOURCE_FLAG : SOURCE_FILE, WHERE, &why);
    if (e == ERR_MEMORY) reader->all->is_out_of_memory = true;
    else if (e) refuse_value(reader, id, key, text, mark, e, &why);
    else reader->section->marks[id] = mark;
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
        add_problem(reader, PROBLEM_WARNING, "no-value", key, mark, "write a value, or remove it",
                    "has no value: the default is taken");
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
        add_problem(reader, PROBLEM_ERROR, "wrong-type", key, mark, NULL, message);
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
        if (key.kind != GRAPH_KEY_OPTION && id != OPT_API_KEY) continue;
        if (id == OPT_API_KEY && reader->id != GRAPH_FRONTEND) continue;
        if (!options_is_set(flags, id) || (key.id != id && !is_frontend_model && id != OPT_API_KEY))
            continue;
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
            char message[160];
            snprintf(message, sizeof message, "unknown key%s%s%s", near ? ", did you mean " : "",
                     near ? near : "", near ? "?" : "");
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
    if (node && is_map(reader, "", node)) read_own_keys(reader, node);
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
