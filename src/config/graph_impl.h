/* graph_impl - what the files of graph share: the schema and the reader of one section. */
#ifndef GRAMME_CONFIG_GRAPH_IMPL_H
#define GRAMME_CONFIG_GRAPH_IMPL_H

#include "config/graph.h"
#include "config/yaml_file.h"

/* --- the schema (graph_schema.c) ---------------------------------------------------------- */

enum graph_schema_top {
    GRAPH_TOP_SECTION,
    GRAPH_TOP_COMMON,
    GRAPH_TOP_ACCEPTED, /* Planner's other names, Mock*, Sample*: a note */
    GRAPH_TOP_UNKNOWN,
};
enum graph_schema_top graph_schema_top(const char *name, enum graph_section_id *section);
const char *graph_schema_suggest_top(const char *name); /* NULL: nothing near */

enum graph_schema_kind {
    GRAPH_KEY_OPTION,
    GRAPH_KEY_MISPLACED, /* an option that means nothing in this section */
    GRAPH_KEY_SILENT,    /* accepted without effect, but no option of the files: seed */
    GRAPH_KEY_SERVICE_ARGS,
    GRAPH_KEY_COMMON_CONFIGS,
    GRAPH_KEY_UNKNOWN,
};
struct graph_schema_key {
    enum graph_schema_kind kind;
    enum option_id id;
    bool is_negated; /* no-enable-prefix-caching: true */
};
/* section GRAPH_SECTION_COUNT: Common. */
struct graph_schema_key graph_schema_key(enum graph_section_id section, const char *key);
/* What stands under ServiceArgs, and is found elsewhere. */
enum graph_schema_place {
    GRAPH_PLACE_NONE,
    GRAPH_PLACE_WORKERS,
    GRAPH_PLACE_RESOURCES,
    GRAPH_PLACE_GPU,
    GRAPH_PLACE_ENVS,
};
enum graph_schema_place graph_schema_place(const char *key);
const char *graph_schema_suggest_key(enum graph_section_id section, const char *key);
/* An option of the command line that means nothing in a file. */
bool graph_schema_is_flag(const char *key);
/* The JSON of kv-transfer-config: ERR_USAGE with what is wrong and, in fix, what to write. */
MUST_USE enum err graph_schema_check_connector(const char *json, struct err_text *text,
                                               struct err_text *fix);
/* Hyphens and underscores are equal. */
bool graph_schema_equal(const char *a, const char *b);

/* --- the reader --------------------------------------------------------------------------- */

/* --Section.a.b=value, split. */
struct graph_override {
    int section; /* graph_section_id; GRAPH_SECTION_COUNT: Common */
    char path[96];
    const char *value;
    bool is_used;
};

struct graph_reader {
    const struct graph_source *source;
    struct problem_list *problems;
    struct graph *graph;
    struct yaml_file *yaml;                      /* NULL: no file */
    bool is_common_broken;                       /* Common is no mapping */
    uint32_t section_nodes[GRAPH_SECTION_COUNT]; /* values; 0: not written */
    uint32_t common_node;                        /* 0: none */
    struct graph_override *overrides;            /* owned */
    struct buf ignored;                          /* names without effect, comma-separated */
    struct problem_mark ignored_mark;
    bool is_out_of_memory;
};

/* Fills graph->sections[id] from file, Common, flags and overrides (graph_section.c). */
void graph_section_read(struct graph_reader *reader, enum graph_section_id id);
/* Keys of Common that nothing knows. */
void graph_section_check_common(struct graph_reader *reader);

#endif
