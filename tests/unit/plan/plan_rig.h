/* plan_rig - a graph from YAML text on a list of devices, and what the plan makes of it: what the
 * tests of plan_auto and plan_suggest start from.  Include after cmocka. */
#ifndef GRAMME_TESTS_PLAN_RIG_H
#define GRAMME_TESTS_PLAN_RIG_H

#include <string.h>

#include "plan/graph_plan.h"
#include "plan/plan_auto.h"
#include "plan/plan_suggest.h"

struct rig {
    struct graph graph;
    struct device_list devices; /* none where the list is NULL */
    struct graph_plan_target target;
    struct graph_plan plan;
    struct problem_list problems;
    struct plan_auto chosen;
    struct plan_suggest suggest;
};

static inline void read_rig(struct rig *rig, enum graph_kind kind, const char *yaml,
                            const char *devices) {
    struct err_text text = {0};
    memset(rig, 0, sizeof *rig);
    struct graph_source source = {
        .name = "rig", .yaml = (const uint8_t *) yaml, .bytes = strlen(yaml)};
    enum err e = graph_read(kind, &source, &rig->problems, &rig->graph);
    if (e) fail_msg("%s", rig->problems.items[0].message);
    if (devices) assert_int_equal(device_list_parse(devices, NULL, &text, &rig->devices), ERR_OK);
    rig->target = (struct graph_plan_target){.devices = &rig->devices,
                                             .cpu_total_bytes = 24ull << 30,
                                             .cpu_available_bytes = 20ull << 30,
                                             .thread_count = 2};
}

static inline void stop(struct rig *rig) {
    graph_plan_release(&rig->plan);
    graph_release(&rig->graph);
    device_list_release(&rig->devices);
    problem_release(&rig->problems);
}

#endif
