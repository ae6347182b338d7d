/* plan_auto - values the plan chooses: "auto" for tensor-parallel-size, max-model-len and
 * gpu-memory-utilization, and what else would fit beside what is written.
 *
 * Each candidate is planned for real (graph_plan_change: the plan that boot follows), so an answer
 * is exact: it fits, and the next value up does not.  The rules, in this order:
 *   gpu-memory-utilization  what is free of the component's devices, at most 0.95; on the machine's
 *                           own CPU the share that the CPU's own rule takes.
 *   tensor-parallel-size    resources.gpu where that is written; else the smallest degree that
 *                           holds one request of max-model-len with the bits of one rank; else
 *                           the smallest of the others (the reason says so); where none does, the
 *                           one that holds the longest; of two workers one degree divides the
 *                           other.
 *   max-model-len           the longest that fits, at most the model's.
 * The same graph, devices and free bytes give the same values.  Static.  One owner. */
#ifndef GRAMME_PLAN_PLAN_AUTO_H
#define GRAMME_PLAN_PLAN_AUTO_H

#include "plan/graph_plan.h"

#define PLAN_AUTO_CHOICES_MAX (GRAPH_PLAN_COMPONENTS_MAX * 3)

struct plan_auto_choice {
    enum graph_section_id section;
    enum option_id id;
    char value[24];         /* "" none could be chosen: the default stands */
    struct err_text reason; /* "smallest that holds ..." */
};

struct plan_auto {
    struct plan_auto_choice choices[PLAN_AUTO_CHOICES_MAX];
    uint32_t count;
};

/* A worker of the graph has an option that is auto, and nothing is chosen for it yet. */
bool plan_auto_is_wanted(const struct graph *graph);
/* Chooses all of them (options_choose): afterwards the graph reads as if they had been written.
 * ERR_MEMORY only. */
MUST_USE enum err plan_auto_choose(struct graph *graph, const struct graph_plan_target *target,
                                   struct err_text *text, struct plan_auto *out);
/* "VllmWorker.tensor-parallel-size: auto is 4: smallest that holds 32768 tokens" */
void plan_auto_print(const struct plan_auto_choice *choice, struct buf *out);
/* The same as notes of the list. */
void plan_auto_add_problems(const struct plan_auto *chosen, const struct graph *graph,
                            struct problem_list *problems);

/* --- what would fit ----------------------------------------------------------------------- */

#define PLAN_AUTO_SHARES 10

struct plan_auto_fit {
    uint32_t tensor_parallel_min; /* 0: no degree of one node */
    uint32_t model_len_max;       /* 0: none */
    uint32_t batched_tokens_max;  /* 0: none, not even max-num-seqs */
    /* At utilization plan_auto_share(i); 0: no room.  holds: one request of max-model-len. */
    uint64_t kv_tokens[PLAN_AUTO_SHARES];
    bool holds[PLAN_AUTO_SHARES];
    bool has_shares; /* the component has a device to take a share of */
};

double plan_auto_share(uint32_t index); /* 0.50, 0.55 ... 0.95 */
/* Each value with all others as they are.  The component has a plan.  ERR_MEMORY only. */
MUST_USE enum err plan_auto_fit(const struct graph_plan_component *component,
                                struct plan_auto_fit *out);
/* {"tensor_parallel_min":4,...}: one JSON object. */
void plan_auto_print_fit_json(const struct plan_auto_fit *fit, struct buf *out);

#endif
