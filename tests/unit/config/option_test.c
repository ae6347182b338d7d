/* Goal: every way a value can come in is read right, refused with its name, or beaten by a
 * stronger source; the table itself is sound. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "base/alloc.h"
#include "config/option.h"

static struct options *fresh(void) {
    struct options *options = NULL;
    assert_int_equal(options_create(OPTION_SERVE, &options), ERR_OK);
    return options;
}

static enum err read_arguments(struct options *options, struct err_text *text, const char *a,
                               const char *b) {
    char *arguments[] = {(char *) (uintptr_t) a, (char *) (uintptr_t) b};
    const char *positional[4];
    uint32_t count = 0;
    return options_read_arguments(options, b ? 2 : 1, arguments, positional, 4, &count, text);
}

static void test_forms_of_a_flag(void **state) {
    (void) state;
    static const struct {
        const char *a, *b;
        enum option_id id;
        double value;
    } rows[] = {
        {"--port", "9000", OPT_PORT, 9000},
        {"--port=9001", NULL, OPT_PORT, 9001},
        {"-p", "9002", OPT_PORT, 9002},
        {"--max_num_seqs=8", NULL, OPT_MAX_NUM_SEQS, 8},
        {"--max-model-len", "16k", OPT_MAX_MODEL_LEN, 16384},
        {"--kv-cache-memory-bytes", "1.5GiB", OPT_KV_CACHE_MEMORY_BYTES, 1.5 * (1 << 30)},
        {"--queue-timeout=250ms", NULL, OPT_QUEUE_TIMEOUT, 250},
        {"--queue-timeout=2", NULL, OPT_QUEUE_TIMEOUT, 2000},
        {"--queue-timeout", "5m", OPT_QUEUE_TIMEOUT, 300000},
        {"--no-enable-prefix-caching", NULL, OPT_ENABLE_PREFIX_CACHING, 0},
        {"--enable-prefix-caching=off", NULL, OPT_ENABLE_PREFIX_CACHING, 0},
        {"--prefault", NULL, OPT_PREFAULT, 1},
        {"--gpu-memory-utilization", "0.8", OPT_GPU_MEMORY_UTILIZATION, 0.8},
    };
    for (size_t i = 0; i < ARRAY_COUNT(rows); i++) {
        struct options *options = fresh();
        struct err_text text = {0};
        enum err e = read_arguments(options, &text, rows[i].a, rows[i].b);
        if (e) print_message("%s: %s\n", rows[i].a, text.text);
        assert_int_equal(e, ERR_OK);
        assert_true(options_number(options, rows[i].id) == rows[i].value);
        assert_int_equal(options_source(options, rows[i].id), SOURCE_FLAG);
        options_destroy(options);
    }
}

static void test_refusals_say_why(void **state) {
    (void) state;
    static const struct {
        const char *a, *b, *says;
    } rows[] = {
        {"--prot", "1", "did you mean --port?"},
        {"--port", "70000", "out of range"},
        {"--port", "eighty", "not a whole number"},
        {"--port", "8000.5", "not a whole number"},
        {"--port", NULL, "needs a value"},
        {"--gpu-memory-utilization", "80", "out of range"},
        {"--kv-cache-dtype", "int3", "none of auto|"},
        {"--prefault=maybe", NULL, "true or false"},
        {"--queue-timeout", "5 parsecs", "a time such as"},
        {"--jsonl", NULL, "not an option of this command"},
        {"--frobnicate", NULL, "unknown option"},
    };
    for (size_t i = 0; i < ARRAY_COUNT(rows); i++) {
        struct options *options = fresh();
        struct err_text text = {0};
        assert_int_equal(read_arguments(options, &text, rows[i].a, rows[i].b), ERR_USAGE);
        if (!strstr(text.text, rows[i].says))
            print_message("'%s' lacks '%s'\n", text.text, rows[i].says);
        assert_non_null(strstr(text.text, rows[i].says));
        options_destroy(options);
    }
}

static void test_sources_rank(void **state) {
    (void) state;
    struct options *options = fresh();
    struct err_text text = {0};
    char *environment[] = {(char *) (uintptr_t) "GRAMME_PORT=1111",
                           (char *) (uintptr_t) "PATH=/bin",
                           (char *) (uintptr_t) "GRAMME_API_KEY=one", NULL};
    assert_int_equal(options_read_environment(options, environment, &text), ERR_OK);
    assert_int_equal(options_count(options, OPT_PORT), 1111);
    assert_int_equal(read_arguments(options, &text, "--port=2222", "--api-key=two"), ERR_OK);
    assert_int_equal(options_count(options, OPT_PORT), 2222);
    assert_int_equal(options_set(options, OPT_PORT, "3333", SOURCE_FILE, "f.yaml:3:4", &text),
                     ERR_OK);
    assert_int_equal(options_count(options, OPT_PORT), 2222); /* a flag beats a file */
    assert_int_equal(options_list_count(options, OPT_API_KEY), 1);
    assert_string_equal(options_list_item(options, OPT_API_KEY, 0), "two");
    char *wrong[] = {(char *) (uintptr_t) "GRAMME_PROT=1", NULL};
    assert_int_equal(options_read_environment(options, wrong, &text), ERR_USAGE);
    assert_non_null(strstr(text.text, "did you mean GRAMME_PORT?"));
    struct buf shown;
    buf_init(&shown, 0);
    options_print(options, &shown);
    assert_null(strstr(buf_string(&shown), "two")); /* keys are not printed */
    buf_release(&shown);
    options_destroy(options);
}

static void test_every_allocation_may_fail(void **state) {
    (void) state;
    bool was_ok = false;
    for (uint64_t n = 1; !was_ok && n < 1000; n++) {
        alloc_fail_at(n, 0);
        struct options *options = NULL;
        struct err_text text = {0};
        enum err e = options_create(OPTION_SERVE, &options);
        if (!e) {
            e = read_arguments(options, &text, "--api-key=one", "--host=::1");
            was_ok = e == ERR_OK;
            options_destroy(options);
        }
        assert_true(e == ERR_OK || e == ERR_MEMORY);
    }
    alloc_fail_at(0, 0);
    assert_true(was_ok);
}

/* "auto" is the default to whoever reads it, until a value is chosen. */
static void test_auto(void **state) {
    (void) state;
    static const enum option_id ids[] = {OPT_TENSOR_PARALLEL_SIZE, OPT_MAX_MODEL_LEN,
                                         OPT_GPU_MEMORY_UTILIZATION};
    static const char *const flags[] = {"--tensor-parallel-size=auto", "--max-model-len=AUTO",
                                        "--gpu-memory-utilization=auto"};
    static const char *const values[] = {"4", "32768", "0.85"};
    for (size_t i = 0; i < ARRAY_COUNT(ids); i++) {
        struct options *options = fresh(), *copy = fresh();
        struct err_text text = {0};
        assert_int_equal(read_arguments(options, &text, flags[i], NULL), ERR_OK);
        assert_true(options_is_auto(options, ids[i]));
        assert_false(options_is_set(options, ids[i]));
        assert_true(options_number(options, ids[i]) == (i == 0 ? 1 : 0));
        assert_int_equal(options_copy(copy, options, ids[i]), ERR_OK);
        assert_true(options_is_auto(copy, ids[i]));
        assert_int_equal(options_choose(options, ids[i], "1e300", &text), ERR_USAGE);
        assert_int_equal(options_choose(options, ids[i], values[i], &text), ERR_OK);
        assert_false(options_is_auto(options, ids[i]));
        assert_true(options_is_set(options, ids[i]));
        assert_string_equal(options_value(options, ids[i], 0), values[i]);
        assert_int_equal(options_source(options, ids[i]), SOURCE_FLAG);
        struct buf out;
        buf_init(&out, 0);
        options_print(options, &out);
        assert_non_null(strstr(buf_string(&out), "flag (auto)"));
        buf_release(&out);
        options_destroy(options);
        options_destroy(copy);
    }
    struct options *options = fresh();
    struct err_text text = {0};
    assert_int_equal(read_arguments(options, &text, "--block-size=auto", NULL), ERR_USAGE);
    options_destroy(options);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_forms_of_a_flag),           cmocka_unit_test(test_auto),
        cmocka_unit_test(test_refusals_say_why),          cmocka_unit_test(test_sources_rank),
        cmocka_unit_test(test_every_allocation_may_fail),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
