/* device_gpu: what the driver's library says of cards, holders and paths arrives; a machine without
 * the library, or with one too old, has no cards and says why. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>

#include <cmocka.h>

#include "device/device_gpu.h"

static void test_cards(void **state) {
    (void) state;
    static struct device_gpus gpus;
    device_gpu_look(FAKE_NVML, &gpus);
    assert_string_equal(gpus.trouble, "");
    assert_string_equal(gpus.driver, "1.2.3");
    assert_int_equal(gpus.cuda_version, 12040);
    assert_int_equal(gpus.card_count, 2); /* the lost one is left out */
    assert_string_equal(gpus.cards[1].name, "Card 1");
    assert_string_equal(gpus.cards[1].uuid, "GPU-1");
    assert_int_equal(gpus.cards[0].free_bytes, 100);
    assert_int_equal(gpus.cards[0].total_bytes, 1000);
    assert_int_equal(gpus.cards[0].capability_major, 9);
    assert_false(gpus.cards[0].is_mig);
    assert_true(gpus.cards[1].is_mig);
    assert_int_equal(gpus.cards[0].holder_count, 2);
    assert_int_equal(gpus.cards[0].holders[0].pid, 77);
    assert_int_equal(gpus.cards[0].holders[0].bytes, 900);
    assert_int_equal(gpus.cards[0].holders[1].bytes, 0); /* not told */
    assert_int_equal(gpus.cards[1].holder_count, 0);
    assert_int_equal(gpus.paths[0][1], DEVICE_GPU_PATH_NVLINK);
    assert_int_equal(gpus.paths[1][0], DEVICE_GPU_PATH_PCIE);
}

static void test_no_library(void **state) {
    (void) state;
    static struct device_gpus gpus;
    device_gpu_look("/nonexistent/lib.so", &gpus);
    assert_int_equal(gpus.card_count, 0);
    assert_string_equal(gpus.trouble, "no NVIDIA driver library (libnvidia-ml.so.1)");
    device_gpu_look("libm.so.6", &gpus);
    assert_int_equal(gpus.card_count, 0);
    assert_string_equal(gpus.trouble, "the NVIDIA driver library lacks nvmlInit_v2: the driver is "
                                      "too old");
}

/* Room for the driver's library is planned where there is a driver. */
static void test_library_bytes(void **state) {
    (void) state;
    char root[] = "/tmp/gramme_gpu_XXXXXX", path[128];
    static const char *const names[] = {"/driver/nvidia/version", "/driver/nvidia", "/driver", ""};
    assert_non_null(mkdtemp(root));
    assert_int_equal(device_gpu_library_bytes(root), 0);
    for (size_t i = ARRAY_COUNT(names) - 1; i-- > 1;) {
        snprintf(path, sizeof path, "%s%s", root, names[i]);
        assert_int_equal(mkdir(path, 0700), 0);
    }
    snprintf(path, sizeof path, "%s%s", root, names[0]);
    FILE *file = fopen(path, "w");
    assert_non_null(file);
    fclose(file);
    assert_true(device_gpu_library_bytes(root) > 0);
    for (size_t i = 0; i < ARRAY_COUNT(names); i++) {
        snprintf(path, sizeof path, "%s%s", root, names[i]);
        assert_int_equal(remove(path), 0);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_cards),
        cmocka_unit_test(test_no_library),
        cmocka_unit_test(test_library_bytes),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
