/* Goal: the memory of a worker's device is told in six figures a worker, drift only beyond the
 * plan. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "api/worker_metrics.h"

static void expect(struct buf *out, const char *line) {
    if (!strstr(buf_string(out), line)) fail_msg("not there: %s", line);
}

static void test_devices(void **state) {
    (void) state;
    const struct msg_load within = {.device_used_bytes = 600, .device_other_bytes = 150};
    const struct msg_load beyond = {.device_used_bytes = 750};
    const struct worker_metrics_row rows[] = {{"VllmWorker.0", &within, 1000, 800, 700},
                                              {"VllmWorker.1", &beyond, 1000, 800, 700}};
    struct buf out;
    buf_init(&out, 0);
    worker_metrics_render(rows, 2, false, &out);
    expect(&out, "# TYPE gramme_device_total_bytes gauge\n");
    expect(&out, "\ngramme_device_total_bytes{worker=\"VllmWorker.0\"} 1000\n");
    expect(&out, "\ngramme_device_budget_bytes{worker=\"VllmWorker.0\"} 800\n");
    expect(&out, "\ngramme_device_planned_bytes{worker=\"VllmWorker.0\"} 700\n");
    expect(&out, "\ngramme_device_used_bytes{worker=\"VllmWorker.0\"} 600\n");
    expect(&out, "\ngramme_device_other_bytes{worker=\"VllmWorker.0\"} 150\n");
    expect(&out, "\ngramme_device_drift_bytes{worker=\"VllmWorker.0\"} 0\n");
    expect(&out, "\ngramme_device_drift_bytes{worker=\"VllmWorker.1\"} 50\n");
    buf_release(&out);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_devices)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
