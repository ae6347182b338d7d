/* device_process: sums of a written smaps, with and without ranges; odd and missing files; and this
 * very process, whose touched pages must be counted to the page. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "device/device_process.h"

static char root[64];

static void put(const char *name, const char *content) {
    char path[160];
    snprintf(path, sizeof path, "%s/self", root);
    mkdir(path, 0700);
    snprintf(path, sizeof path, "%s/self/%s", root, name);
    FILE *file = fopen(path, "w");
    assert_non_null(file);
    fputs(content, file);
    fclose(file);
}

static int tree_make(void **state) {
    snprintf(root, sizeof root, "/tmp/device_process_XXXXXX");
    return mkdtemp(root) ? 0 : -1;
}

static int tree_remove(void **state) {
    char command[128];
    snprintf(command, sizeof command, "rm -rf '%s'", root);
    return system(command);
}

static void test_sums(void **state) {
    put("smaps", "10000-20000 r--p 00000000 fe:00 7    /models/Rss: Pss: a.gguf\n"
                 "Size:                 64 kB\nRss:                  64 kB\n"
                 "Pss:                  16 kB\nPss_Dirty:             3 kB\n"
                 "Shared_Clean:         64 kB\nShared_Dirty:          0 kB\n"
                 "Private_Clean:         0 kB\nPrivate_Dirty:         0 kB\n"
                 "Anonymous:             0 kB\nVmFlags: rd mr mw me sd\n"
                 "7f0000000000-7f0000100000 rw-p 00000000 00:00 0 \n"
                 "Rss:                1024 kB\nPss:                1000 kB\n"
                 "Shared_Clean:          8 kB\nShared_Dirty:         16 kB\n"
                 "Private_Clean:       400 kB\nPrivate_Dirty:       600 kB\n"
                 "Anonymous:          1000 kB\nSwap:                  4 kB\n"
                 "SwapPss:               4 kB\n");
    const struct device_roots roots = {.proc = root};
    struct device_process got;
    assert_int_equal(device_process_look(&roots, NULL, 0, &got), ERR_OK);
    assert_int_equal(got.private_bytes, 1000 << 10);
    assert_int_equal(got.shared_bytes, 88 << 10);
    assert_int_equal(got.weights_bytes, 0);
    assert_int_equal(got.lent_bytes, 0);
    assert_int_equal(got.used_bytes, 1088 << 10);
    assert_int_equal(got.pss_bytes, 1016 << 10);
    assert_int_equal(got.resident_bytes, 1088 << 10);
    assert_int_equal(got.anonymous_bytes, 1000 << 10);
    assert_int_equal(got.swapped_bytes, 4 << 10);
    const struct device_process_range weights = {(void *) 0x18000, 100};
    assert_int_equal(device_process_look(&roots, &weights, 1, &got), ERR_OK);
    assert_int_equal(got.shared_bytes, 24 << 10);
    assert_int_equal(got.weights_bytes, 16 << 10);
    assert_int_equal(got.lent_bytes, 48 << 10);
    assert_int_equal(got.used_bytes, (1024 + 16) << 10);
    const struct device_process_range beside = {(void *) 0x20000, 100};
    assert_int_equal(device_process_look(&roots, &beside, 1, &got), ERR_OK);
    assert_int_equal(got.weights_bytes, 0);
    put("statm", "900 12 3 1 0 5 0\n");
    assert_int_equal(device_process_resident(&roots), 12 * sysconf(_SC_PAGESIZE));
}

static void test_odd_files(void **state) {
    struct device_process got;
    const struct device_roots nowhere = {.proc = "/nowhere"}, roots = {.proc = root};
    assert_int_equal(device_process_look(&nowhere, NULL, 0, &got), ERR_NOT_FOUND);
    assert_int_equal(device_process_resident(&nowhere), 0);
    static const char *const odd[] = {"", "\n\n\n", "Rss: 1 kB\nno colon\n", "10000 20000\n"};
    for (size_t i = 0; i < ARRAY_COUNT(odd); i++) {
        put("smaps", odd[i]);
        assert_int_equal(device_process_look(&roots, NULL, 0, &got), ERR_FORMAT);
    }
    char *wide = malloc(100000); /* a line longer than any path */
    memset(wide, 'x', 100000);
    memcpy(wide, "10000-20000 ", 12);
    memcpy(wide + 99900, "\nRss: 12 kB\n", 13);
    put("smaps", wide);
    free(wide);
    assert_int_equal(device_process_look(&roots, NULL, 0, &got), ERR_OK);
    assert_int_equal(got.resident_bytes, 12 << 10);
}

/* Touched pages are counted, untouched ones are not, a mapped file's are by its range. */
static void test_this_process(void **state) {
    const size_t bytes = 8u << 20, half = bytes / 2;
    struct device_process before, after;
    if (device_process_look(NULL, NULL, 0, &before) == ERR_NOT_FOUND) skip();
    uint8_t *memory = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    assert_true(memory != MAP_FAILED);
    madvise(memory, bytes, MADV_NOHUGEPAGE);
    memset(memory, 1, half);
    assert_int_equal(device_process_look(NULL, NULL, 0, &after), ERR_OK);
    int64_t grown = (int64_t) (after.private_bytes - before.private_bytes) - (int64_t) half;
    assert_in_range(grown + (256 << 10), 0, 512 << 10); /* stack, heap, sanitizer's own */
    assert_true(after.used_bytes >= after.private_bytes);
    assert_true(device_process_resident(NULL) > half);
    munmap(memory, bytes);

    char path[128];
    snprintf(path, sizeof path, "%s/file", root);
    FILE *file = fopen(path, "w+");
    assert_non_null(file);
    assert_int_equal(ftruncate(fileno(file), 1 << 20), 0);
    const uint8_t *mapped = mmap(NULL, 1 << 20, PROT_READ, MAP_PRIVATE, fileno(file), 0);
    assert_true(mapped != MAP_FAILED);
    uint32_t sum = 0;
    for (uint32_t i = 0; i < 1 << 20; i += 4096) sum += mapped[i];
    assert_int_equal(sum, 0);
    const struct device_process_range range = {mapped, 1 << 20};
    assert_int_equal(device_process_look(NULL, &range, 1, &after), ERR_OK);
    assert_int_equal(after.weights_bytes, 1 << 20);
    munmap((void *) mapped, 1 << 20);
    fclose(file);
}

/* The program's own pages bound what can be resident of it. */
static void test_libraries(void **state) {
    uint64_t bytes = device_process_library_bytes();
    assert_true(bytes > 100 << 10);
    assert_true(bytes % (uint64_t) sysconf(_SC_PAGESIZE) == 0);
    assert_int_equal(bytes, device_process_library_bytes());
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_sums),
        cmocka_unit_test(test_odd_files),
        cmocka_unit_test(test_this_process),
        cmocka_unit_test(test_libraries),
    };
    return cmocka_run_group_tests(tests, tree_make, tree_remove);
}
