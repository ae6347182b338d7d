/* A YAML text from anywhere: it costs clear lines, or gives a graph; what --fix makes of it is read
 * again. */
#include <stddef.h>
#include <stdint.h>

#include "base/check.h"
#include "config/graph.h"
#include "config/yaml_fix.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes);

static enum err read_graph(const uint8_t *data, size_t bytes, struct problem_list *problems) {
    struct graph graph;
    struct graph_source source = {.name = "fuzz", .yaml = data, .bytes = bytes};
    enum graph_kind kind = bytes ? (enum graph_kind)(data[bytes - 1] & 3) : GRAPH_AGG;
    enum err e = graph_read(kind, &source, problems, &graph);
    CHECK(e == ERR_OK || e == ERR_USAGE);
    CHECK((e == ERR_USAGE) == (problem_count(problems, PROBLEM_ERROR) > 0));
    graph_release(&graph);
    return e;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes) {
    struct problem_list problems = {0};
    struct buf out;
    (void) read_graph(data, bytes, &problems);
    buf_init(&out, 4u << 20);
    for (uint32_t i = 0; i < problems.count; i++) CHECK(problems.items[i].message[0]);
    if (yaml_fix_apply(data, bytes, &problems, &out)) {
        struct problem_list after = {0};
        (void) read_graph(out.data, out.bytes, &after);
        problem_release(&after);
    }
    struct buf text;
    buf_init(&text, 0);
    problem_sort(&problems);
    problem_print(&problems, "fuzz", true, &text);
    buf_release(&text);
    buf_release(&out);
    problem_release(&problems);
    return 0;
}
