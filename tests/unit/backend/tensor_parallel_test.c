/* Goal: the legal degrees are those of numerics.md 3, the refusal names them, and the shares of
 * all ranks cover heads, MLP columns and vocabulary once, at the segments' edges. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "backend/tensor_parallel.h"

static struct model_spec spec_of(uint32_t heads, uint32_t kv_heads, uint32_t ffn, uint32_t vocab) {
    return (struct model_spec){.head_count = heads,
                               .kv_head_count = kv_heads,
                               .ffn_size = ffn,
                               .vocab_size = vocab,
                               .segment_count = model_spec_segments(heads, kv_heads)};
}

static const struct {
    uint32_t heads, kv_heads, ffn;
    const char *legal, *exact;
} models[] = {
    {9, 3, 1536, "1, 3, 9", "1, 3"},                   /* smollm2-135m */
    {14, 2, 4864, "1, 2, 14", "1, 2"},                 /* qwen2-0.5b */
    {15, 5, 2560, "1, 5, 15", "1, 5"},                 /* smollm2-360m */
    {32, 8, 8192, "1, 2, 4, 8, 16, 32", "1, 2, 4, 8"}, /* llama-3.2-1b */
    {40, 8, 27648, "1, 2, 4, 8, 40", "1, 2, 4, 8"},    /* qwen2.5-32b */
    {24, 8, 8192, "1, 2, 4, 8, 24", "1, 2, 4, 8"},     /* llama-3.2-3b */
    {128, 8, 53248, "1, 2, 4, 8, 16, 32, 64", "1, 2, 4, 8"},
    {4, 1, 192, "1, 2, 4", "1, 2, 4"},
    {6, 2, 160, "1, 2, 6", "1, 2"},
};

static void legal_degrees(void **state) {
    for (size_t i = 0; i < sizeof models / sizeof *models; i++) {
        struct model_spec spec = spec_of(models[i].heads, models[i].kv_heads, models[i].ffn, 100);
        char legal[256] = "", exact[256] = "";
        for (uint32_t n = 0; n <= 200; n++) {
            if (tensor_parallel_is_legal(&spec, n))
                snprintf(legal + strlen(legal), sizeof legal - strlen(legal), "%s%u",
                         legal[0] ? ", " : "", n);
            else assert_false(tensor_parallel_is_exact(&spec, n));
            if (n && tensor_parallel_is_exact(&spec, n))
                snprintf(exact + strlen(exact), sizeof exact - strlen(exact), "%s%u",
                         exact[0] ? ", " : "", n);
        }
        assert_string_equal(legal, models[i].legal);
        assert_string_equal(exact, models[i].exact);
        struct err_text text;
        assert_int_equal(tensor_parallel_check(&spec, 1, &text), ERR_OK);
        assert_int_equal(tensor_parallel_check(&spec, 7, &text), ERR_USAGE);
        assert_non_null(strstr(text.text, "tensor-parallel-size is 7"));
        assert_non_null(strstr(text.text, models[i].legal));
    }
    /* A spec of no heads (the sim needs none) runs on one rank. */
    struct model_spec none = {.vocab_size = 10, .segment_count = 1};
    assert_true(tensor_parallel_is_legal(&none, 1));
    assert_false(tensor_parallel_is_legal(&none, 2));
}

static void shares(void **state) {
    const uint32_t vocabularies[] = {1, 15, 16, 17, 300, 49152, 151936};
    for (size_t i = 0; i < sizeof models / sizeof *models; i++)
        for (uint32_t v = 0; v < 7; v++) {
            struct model_spec spec =
                spec_of(models[i].heads, models[i].kv_heads, models[i].ffn, vocabularies[v]);
            for (uint32_t n = 1; n <= TENSOR_PARALLEL_MAX; n++) {
                if (!tensor_parallel_is_legal(&spec, n)) continue;
                uint32_t heads = 0, ffn = 0, ids = 0, last_kv = 0;
                uint32_t segments = tensor_parallel_segments(&spec, n);
                assert_int_equal(segments % n, 0);
                if (tensor_parallel_is_exact(&spec, n))
                    assert_int_equal(segments, spec.segment_count);
                for (uint32_t r = 0; r < n; r++) {
                    struct tensor_parallel_share q = tensor_parallel_query_heads(&spec, n, r);
                    struct tensor_parallel_share kv = tensor_parallel_kv_heads(&spec, n, r);
                    struct tensor_parallel_share f = tensor_parallel_ffn(&spec, n, r);
                    struct tensor_parallel_share w = tensor_parallel_vocabulary(&spec, n, r, 16);
                    assert_int_equal(q.first, heads);
                    assert_int_equal(f.first, ffn);
                    assert_int_equal(w.first, ids);
                    heads = q.end, ffn = f.end, ids = w.end;
                    assert_true(q.end > q.first && kv.end > kv.first);
                    assert_true(f.end >= f.first && w.end >= w.first);
                    assert_int_equal(w.first == vocabularies[v] ? 0 : w.first % 16, 0);
                    /* Each rank's query heads use its own KV heads, and all of those. */
                    uint32_t group = spec.head_count / spec.kv_head_count;
                    assert_int_equal(q.first / group, kv.first);
                    assert_int_equal((q.end - 1) / group, kv.end - 1);
                    assert_true(kv.first == last_kv || kv.first + 1 == last_kv);
                    last_kv = kv.end;
                    /* A rank ends where segments end. */
                    uint32_t each = segments / n;
                    assert_int_equal(f.end,
                                     tensor_parallel_ffn_cut(&spec, segments, (r + 1) * each));
                    assert_int_equal(f.first % 32, 0);
                    assert_int_equal((r + 1) * each * spec.head_count % segments, 0);
                }
                assert_int_equal(heads, spec.head_count);
                assert_int_equal(last_kv, spec.kv_head_count);
                assert_int_equal(ffn, spec.ffn_size);
                assert_int_equal(ids, spec.vocab_size);
            }
        }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(legal_degrees),
        cmocka_unit_test(shares),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
