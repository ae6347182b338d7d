/* plan_suggest - how to split the devices between prefill and decode for a given load.
 *
 * Enumerates degrees and numbers of workers over the devices of a plan, aggregated and split; each
 * degree is planned for real (graph_plan_change), so a layout that is named fits.  What each would
 * do comes from plan_predict: a prediction.  Steady state: requests come at random, every prompt
 * and every answer has the given length, no prefix is shared.  Static; pure but for the plans. */
#ifndef GRAMME_PLAN_PLAN_SUGGEST_H
#define GRAMME_PLAN_PLAN_SUGGEST_H

#include "plan/graph_plan.h"
#include "plan/plan_predict.h"

struct plan_suggest_load {
    uint32_t input_tokens, output_tokens;
    uint32_t concurrency;    /* requests under way; 0: 80 % of what the layout can do */
    double ttft_s, itl_s;    /* at most; 0: as it comes */
    double read_gb_per_s;    /* of the machine, where the catalogue does not know the device; */
    double tflops;           /* 0: assumed by its threads */
    double product_gb_per_s; /* weights through the products of one row; 0: not measured */
    uint32_t thread_count;   /* of this machine's CPU */
};

struct plan_suggest_workers {
    uint32_t count, ranks;
};

struct plan_suggest_layout {
    bool is_disagg;
    struct plan_suggest_workers prefill; /* disagg only */
    struct plan_suggest_workers decode;  /* agg: all */
    uint32_t device_count;
    bool meets; /* the targets of the load */
    double ttft_s, itl_s, requests_per_s, output_tokens_per_s;
    double sequences;  /* of one decode worker at once */
    const char *limit; /* what stops it: "prefill", "KV room", "max-num-seqs", "memory rate" */
};

#define PLAN_SUGGEST_LAYOUTS 5

struct plan_suggest {
    struct plan_suggest_load load;
    struct plan_suggest_layout written;                       /* the graph as it is */
    bool has_written;                                         /* it fits, and its rates are known */
    struct plan_suggest_layout layouts[PLAN_SUGGEST_LAYOUTS]; /* best first */
    uint32_t count;
    bool is_disagg;               /* the graph is */
    double read_gb_per_s, tflops; /* not of the catalogue; 0: they are */
    bool is_mixed;                /* cards of several kinds */
    bool is_assumed;              /* they were neither measured nor given */
    struct err_text why;          /* why there is none; "" */
};

/* ERR_MEMORY only. */
MUST_USE enum err plan_suggest_make(const struct graph *graph, const struct graph_plan *plan,
                                    const struct graph_plan_target *target,
                                    const struct plan_suggest_load *load, struct plan_suggest *out);
/* A table of 80 columns and the lines to write; explained: the assumptions too. */
void plan_suggest_print(const struct plan_suggest *suggest, bool is_explained, struct buf *out);
/* One JSON object. */
void plan_suggest_print_json(const struct plan_suggest *suggest, struct buf *out);

#endif
