/* A graph file against devices: the checker ends, with sentences.  The models are shapes of the
 * catalogue, so no file is opened whatever the text names. */
#include <stddef.h>
#include <stdint.h>

#include "base/check.h"
#include "plan/check.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes) {
    static const char *const overrides[] = {
        "--VllmWorker.model=qwen3-32b", "--VllmWorker.load-format=dummy",
        "--PrefillWorker.model=qwen3-32b", "--PrefillWorker.load-format=dummy"};
    static const char *const devices[] = {"16xA100-40GB", "2x(8xH100)", "4xcpu:1GiB", "L4"};
    struct problem_list problems = {0};
    struct graph graph;
    struct device_list list;
    struct err_text text;
    unsigned pick = bytes ? data[bytes - 1] : 0;
    struct graph_source source = {.name = "fuzz",
                                  .yaml = data,
                                  .bytes = bytes,
                                  .overrides = overrides,
                                  .override_count = ARRAY_COUNT(overrides)};
    CHECK(device_list_parse(devices[pick >> 2 & 3], NULL, &text, &list) == ERR_OK);
    enum err e = graph_read((enum graph_kind)(pick & 3), &source, &problems, &graph);
    CHECK(e == ERR_OK || e == ERR_USAGE);
    struct graph_plan_target plan = {.devices = &list, .thread_count = 1};
    struct check_target target = {.plan = &plan, .is_elsewhere = true};
    CHECK(check_graph(&graph, &target, &problems) == ERR_OK);
    for (uint32_t i = 0; i < problems.count; i++) CHECK(problems.items[i].message[0]);
    problem_release(&problems);
    graph_release(&graph);
    device_list_release(&list);
    return 0;
}
