/* Goal: the text is what a Prometheus scraper of vLLM expects: names, cumulative buckets, sums. */
#include "api_fixture.h"

#include "api/metrics.h"

static void test_text(void **state) {
    struct metrics *metrics = NULL;
    assert_int_equal(metrics_create("a\"b\\c", 8192, &metrics), ERR_OK);
    metrics_set(metrics, METRIC_REQUESTS_RUNNING, 3);
    metrics_add(metrics, METRIC_GENERATION_TOKENS, 41);
    metrics_add(metrics, METRIC_GENERATION_TOKENS, 1);
    metrics_observe(metrics, METRIC_TTFT, .001, 1); /* a bound belongs to its bucket */
    metrics_observe(metrics, METRIC_TTFT, .03, 2);
    metrics_observe(metrics, METRIC_TTFT, 1e9, 1);
    metrics_observe(metrics, METRIC_REQUEST_PROMPT_TOKENS, 8192, 1);
    metrics_set_cache(metrics, 16, 512);
    metrics_leave_out(metrics, METRIC_REQUESTS_WAITING);
    metrics_leave_out(metrics, METRIC_ITERATION_TOKENS);
    struct buf out;
    buf_init(&out, 0);
    metrics_render(metrics, &out);
    const char *text = buf_string(&out);
    static const char *const lines[] = {
        "# TYPE vllm:num_requests_running gauge\n"
        "vllm:num_requests_running{model_name=\"a\\\"b\\\\c\",engine=\"0\"} 3\n",
        "vllm:generation_tokens_total{model_name=\"a\\\"b\\\\c\",engine=\"0\"} 42\n",
        "# TYPE vllm:time_to_first_token_seconds histogram\n"
        "vllm:time_to_first_token_seconds_bucket{le=\"0.001\",",
        "vllm:time_to_first_token_seconds_bucket{le=\"0.02\",model_name=\"a\\\"b\\\\c\","
        "engine=\"0\"} 1\n",
        "vllm:time_to_first_token_seconds_bucket{le=\"0.04\",model_name=\"a\\\"b\\\\c\","
        "engine=\"0\"} 3\n",
        "vllm:time_to_first_token_seconds_bucket{le=\"2560.0\",model_name=\"a\\\"b\\\\c\","
        "engine=\"0\"} 3\n",
        "vllm:time_to_first_token_seconds_bucket{le=\"+Inf\",model_name=\"a\\\"b\\\\c\","
        "engine=\"0\"} 4\n",
        "vllm:time_to_first_token_seconds_count{model_name=\"a\\\"b\\\\c\",engine=\"0\"} 4\n",
        "vllm:request_prompt_tokens_bucket{le=\"5000.0\",model_name=\"a\\\"b\\\\c\","
        "engine=\"0\"} 0\n",
        "vllm:request_success_total{finished_reason=\"stop\",model_name=",
        "vllm:request_success_total{finished_reason=\"length\",model_name=",
        "vllm:cache_config_info{block_size=\"16\",num_gpu_blocks=\"512\",engine=\"0\"} 1\n",
        "process_cpu_seconds_total ",
        "process_resident_memory_bytes ",
    };
    for (size_t i = 0; i < ARRAY_COUNT(lines); i++)
        if (!strstr(text, lines[i])) fail_msg("no line %s", lines[i]);
    assert_null(strstr(text, "vllm:num_requests_waiting"));
    assert_null(strstr(text, "vllm:iteration_tokens_total"));
    assert_null(strstr(text, "le=\"10000.0\",model_name=\"a\\\"b\\\\c\",engine=\"0\"} 1"));
    /* every line is a comment or name{labels} number; a family is named once */
    char *copy = strdup(text);
    for (char *rest = copy, *end; (end = strchr(rest, '\n')); rest = end + 1) {
        *end = '\0';
        if (rest[0] != '#') {
            char *space = strrchr(rest, ' ');
            assert_non_null(space);
            char *after = NULL;
            strtod(space + 1, &after);
            assert_true(after && *after == '\0' && after != space + 1);
        } else if (strncmp(rest, "# TYPE ", 7) == 0) {
            char *again = strstr(end + 1, rest);
            assert_null(again);
        }
    }
    free(copy);
    buf_release(&out);
    metrics_destroy(metrics);
}

static void test_memory(void **state) {
    for (uint64_t n = 1;; n++) {
        struct metrics *metrics = NULL;
        alloc_fail_at(n, 0);
        enum err e = metrics_create("model", 100, &metrics);
        bool was_reached = alloc_count() >= n;
        alloc_fail_at(0, 0);
        assert_int_equal(e != ERR_OK, was_reached);
        metrics_destroy(metrics);
        if (!was_reached) break;
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_text),
        cmocka_unit_test(test_memory),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
