/* graph - a graph file (the classic YAML), read: which components run, how many, with what.
 *
 * Every key of the classic schema (facts of Dynamo 0.1-0.3) is honoured, accepted with a note, or
 * refused; a component's options are an `options` of its own, filled from the file, Common,
 * --Section.key=value, flags and GRAMME_ variables in the precedence of behaviour.md 3.  Static:
 * looks at no model and no device.  Problems go to the list, all in one run; reading goes on. */
#ifndef GRAMME_CONFIG_GRAPH_H
#define GRAMME_CONFIG_GRAPH_H

#include <stdbool.h>
#include <stdint.h>

#include "base/err.h"
#include "config/option.h"
#include "config/problem.h"

enum graph_kind {
    GRAPH_AGG,
    GRAPH_AGG_ROUTER,
    GRAPH_DISAGG,
    GRAPH_DISAGG_ROUTER,
    GRAPH_KIND_COUNT
};

enum graph_section_id {
    GRAPH_FRONTEND,
    GRAPH_PROCESSOR,
    GRAPH_ROUTER,
    GRAPH_VLLM_WORKER,
    GRAPH_PREFILL_WORKER,
    GRAPH_PLANNER, /* accepted with a note */
    GRAPH_SECTION_COUNT
};

struct graph_env {
    char *name, *value; /* owned */
};

struct graph_section {
    bool is_present;          /* written in the file */
    bool is_used;             /* this graph runs it */
    struct problem_mark mark; /* of the section's name */
    struct options *options;  /* owned; resolved; never NULL.  Frontend: all that its process needs,
                                 also what Processor and Router say */
    struct problem_mark *marks; /* owned; by option: graph_mark */
    bool is_broken;             /* what stands there is no mapping (told) */
    uint32_t replica_count;     /* ServiceArgs.workers; 1 */
    uint32_t gpu_count;         /* ServiceArgs.resources.gpu, a replica; 0: not written */
    struct problem_mark gpu_mark, replica_mark;
    struct graph_env *envs; /* ServiceArgs.envs: owned */
    uint32_t env_count;
    struct problem_mark env_mark; /* of the list */
};

struct graph {
    enum graph_kind kind;
    struct graph_section sections[GRAPH_SECTION_COUNT];
    char name_space[64]; /* first part of a written endpoint; "" none */
    bool has_file;
};

struct graph_source {
    const char *name; /* for messages: the path, "stdin" */
    const uint8_t *yaml;
    size_t bytes; /* 0: no file (serve -m MODEL): sections have defaults */
    /* --Section.key=value, in order; Section may be Common.  --Section.key alone is true. */
    const char *const *overrides;
    uint32_t override_count;
    const struct options *flags; /* plain flags of the command line: apply to every component that
                                    has the option; NULL: none */
};

/* "--VllmWorker.max-num-seqs=8": to be taken out of argv before options_read_arguments. */
bool graph_is_override(const char *argument);
/* "agg", "disagg_router", "graphs.disagg_router:Frontend"; false: no graph's name. */
MUST_USE bool graph_kind_of(const char *name, enum graph_kind *out);
const char *graph_kind_name(enum graph_kind kind);
const char *graph_section_name(enum graph_section_id id); /* "VllmWorker" */
bool graph_has_router(enum graph_kind kind);
bool graph_is_disagg(enum graph_kind kind);

/* ERR_USAGE: the list has errors (the graph is still filled as far as it could be read, and has to
 * be released); ERR_MEMORY: nothing is left to release. */
MUST_USE enum err graph_read(enum graph_kind kind, const struct graph_source *source,
                             struct problem_list *problems, struct graph *out);
void graph_release(struct graph *graph);
/* Where an option's value was written; also a value that was refused, or is lacking (is_empty):
 * options_is_set tells. */
struct problem_mark graph_mark(const struct graph *graph, enum graph_section_id section,
                               enum option_id id);

#endif
