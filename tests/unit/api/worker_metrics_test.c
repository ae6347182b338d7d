/* Goal: the memory of a worker's device is told in six figures a worker, and that of the node's
 * cards in three a card, the transfer's pairs by lane; names are labels whatever they hold; without cards not a word of them. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "api/card_metrics.h"
#include "api/worker_metrics.h"

static void expect(struct buf *out, const char *line) {
    if (!strstr(buf_string(out), line)) fail_msg("not there: %s", line);
}

static void test_devices(void **state) {
    (void) state;
    const struct msg_load within = {.device_used_bytes = 600, .device_other_bytes = 150};
    const struct msg_load beyond = {.device_used_bytes = 650, .device_drift_bytes = 50};
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

static void test_pairs(void **state) {
    (void) state;
    const struct msg_load load = {.pairs_shm = 3, .pairs_tcp = 5, .pairs_lost = 7};
    const struct worker_metrics_row row = {"VllmWorker.0", &load, 1000, 800, 700};
    struct buf out;
    buf_init(&out, 0);
    worker_metrics_render(&row, 1, false, &out);
    expect(&out, "# TYPE gramme_transfer_pairs_shm gauge\n");
    expect(&out, "\ngramme_transfer_pairs_shm{worker=\"VllmWorker.0\",engine=\"0\"} 3\n");
    expect(&out, "# TYPE gramme_transfer_pairs_tcp gauge\n");
    expect(&out, "\ngramme_transfer_pairs_tcp{worker=\"VllmWorker.0\",engine=\"0\"} 5\n");
    expect(&out, "# TYPE gramme_transfer_pairs_lost_total counter\n");
    expect(&out, "\ngramme_transfer_pairs_lost_total{worker=\"VllmWorker.0\",engine=\"0\"} 7\n");
    buf_release(&out);
}

static void test_cards(void **state) {
    (void) state;
    static struct device_watch_sample sample = {.card_count = 2,
                                                .cards = {{.name = "NVIDIA \"H100\" \\\n",
                                                           .total_bytes = 80,
                                                           .used_bytes = 30,
                                                           .other_bytes = 20},
                                                          {.name = "b", .total_bytes = 80}}};
    struct buf out;
    buf_init(&out, 0);
    card_metrics_render(&sample, &out);
    expect(&out, "# TYPE gramme_card_total_bytes gauge\ngramme_card_total_bytes{node=\"");
    expect(&out, "\",card=\"0\",name=\"NVIDIA \\\"H100\\\" \\\\?\"} 30\n");
    expect(&out, "\",card=\"0\",name=\"NVIDIA \\\"H100\\\" \\\\?\"} 20\n");
    expect(&out, "\",card=\"1\",name=\"b\"} 80\n");
    buf_clear(&out);
    sample.card_count = 0;
    card_metrics_render(&sample, &out);
    assert_int_equal(out.bytes, 0);
    buf_release(&out);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_devices), cmocka_unit_test(test_pairs),
                                       cmocka_unit_test(test_cards)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
