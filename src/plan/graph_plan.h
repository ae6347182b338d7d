/* graph_plan - the plan of every worker of a graph, on the devices it will get.
 *
 * For each component that loads the model: its shape, its devices (place.h), and one plan of a
 * replica on its smallest device; replicas are equal.  Static: looks at model files only.  One
 * owner. */
#ifndef GRAMME_PLAN_GRAPH_PLAN_H
#define GRAMME_PLAN_GRAPH_PLAN_H

#include "config/graph.h"
#include "plan/place.h"
#include "plan/plan.h"
#include "plan/plan_model.h"

#define GRAPH_PLAN_COMPONENTS_MAX 2
#define GRAPH_PLAN_UTILIZATION 0.9 /* where devices are given and none is written, as vLLM's */

struct graph_plan_target {
    const struct device_list *devices; /* NULL or empty: shares of this machine's CPU */
    uint64_t cpu_total_bytes, cpu_available_bytes;
    uint32_t thread_count;
    const struct options *flags; /* --shape; NULL: none */
    /* As check would have it, so that one mistake is not told twice: an unwritten TP is
     * resources.gpu. */
    bool is_mended;
};

/* One process holds frontend and worker: agg with one of each and no bus for others. */
bool graph_plan_is_one_process(const struct graph *graph, const struct options *flags);

struct graph_plan_component {
    enum graph_section_id section;
    uint32_t replica_count;
    uint32_t tensor_parallel;
    uint32_t pipeline;      /* stages; the plan is that of the first */
    uint32_t devices_asked; /* a replica: resources.gpu, or TP x stages where none is written */
    uint32_t node_devices;  /* of the largest node; 0: none were given */

    struct plan_model model;
    bool is_model_borrowed; /* its own is unknown: planned with the other worker's */
    uint32_t layer_count;   /* of the whole model; 0: none is known */
    struct backend_options options;
    struct plan_budget budget;
    bool is_cpu, is_sim;
    uint64_t device_bytes;       /* of its smallest device */
    const char *device_name;     /* of the smallest */
    bool is_mixed;               /* others that it got have another name */
    const struct device *device; /* the smallest; borrowed from the target; NULL: the own CPU */
    struct plan *plan;           /* owned; NULL: the model is unknown, or cannot be cut so: `why` */
    struct err_text why;         /* why there is no plan */
    struct err_text verdict, advice; /* when it does not fit */
};

struct graph_plan {
    struct graph_plan_component components[GRAPH_PLAN_COMPONENTS_MAX];
    uint32_t component_count;
    struct place place;
    bool has_place;
    /* Workers of each component that the idle devices would take besides. */
    uint32_t more_workers[GRAPH_PLAN_COMPONENTS_MAX];
    struct err_text place_text; /* why not */
    uint32_t device_count;
    bool fits; /* every component has a plan that fits, and all are placed */
};

/* ERR_OK also when it does not fit.  The graph is borrowed for the call only. */
MUST_USE enum err graph_plan_make(const struct graph *graph, const struct graph_plan_target *target,
                                  struct err_text *text, struct graph_plan *out);
void graph_plan_release(struct graph_plan *plan);
/* Once more, after options of the graph have changed: the models found stay, their files are not
 * looked at again.  ERR_MEMORY: *plan has been released. */
MUST_USE enum err graph_plan_again(const struct graph *graph,
                                   const struct graph_plan_target *target, struct err_text *text,
                                   struct graph_plan *plan);

/* The component with other settings (0: as it is): does it fit, and with how many KV tokens. */
MUST_USE bool graph_plan_try(const struct graph_plan_component *component, uint32_t tensor_parallel,
                             double utilization, uint32_t model_len, uint64_t *kv_tokens);
/* What else could be set; 0: as it is.  A model_len given may not shrink. */
struct graph_plan_change {
    uint32_t tensor_parallel, model_len, batched_tokens;
    double utilization;
};
/* plan_make with that change, free memory as it was found: the plan that boot would follow.
 * ERR_USAGE: it cannot be cut so. */
MUST_USE enum err graph_plan_change(const struct graph_plan_component *component,
                                    const struct graph_plan_change *change, struct plan *out);
/* Its degree is legal, and its answers are not bit for bit those of one rank (numerics.md 3). */
bool graph_plan_is_inexact(const struct graph_plan_component *component);
/* Bytes of weights on the rank with most of them. */
uint64_t graph_plan_weights(const struct graph_plan_component *component);

/* What does not fit, as problems of the list. */
void graph_plan_add_problems(const struct graph_plan *plan, const struct graph *graph,
                             struct problem_list *problems);

struct buf;
struct plan_suggest;
struct graph_plan_style {
    bool is_explained; /* every buffer of every rank */
    bool has_colour;
};
/* The verdict, a row and a bar a component, what else would fit: 80 columns, 24 lines where there
 * are two components. */
void graph_plan_print(const struct graph_plan *plan, const struct graph_plan_style *style,
                      struct buf *out);
/* design.md 9's object, and beside it what else would fit; problems: what else was found; suggest:
 * what is predicted (NULL: nothing was asked). */
void graph_plan_print_json(const struct graph_plan *plan, const struct problem_list *problems,
                           const struct plan_suggest *suggest, struct buf *out);

#endif
