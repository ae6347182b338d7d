/* The CPU body against the reference on the demo model: logits of one prompt within 1e-3 under
 * f32a with f32 KV, and the greedy continuation (transformers 5.23, torch 2.15, F32, weights
 * dequantized from the same file).  Needs the demo model: GRAMME_MODEL or build/models. */
#include "backend/cpu_rig.h"

static const uint32_t prompt[] = {504, 3575, 282, 4649, 314};
static const struct {
    uint32_t id;
    float logit;
} top8[] = {{7042, 17.3713f}, {260, 14.8886f},  {4528, 13.2450f}, {2250, 13.0095f},
            {1315, 12.9515f}, {5145, 12.9049f}, {216, 12.7133f},  {441, 12.6979f}};
static const uint32_t continuation[] = {7042, 30, 198, 198, 504, 2988, 314, 42,  216, 34, 32, 33,
                                        40,   29, 32,  33,  29,  34,   34,  216, 33,  34, 42, 33};

static void demo_matches_reference(void **state) {
    const char *path = rig_demo_path();
    if (!path) {
        print_message("skipped: set GRAMME_MODEL to the demo model's path\n");
        skip();
    }
    struct model *model = NULL;
    struct err_text text = {""};
    struct model_open_options open_options = {0};
    if (model_open(path, &open_options, &text, &model)) fail_msg("%s", text.text);
    struct backend_options options = rig_options();
    options.numerics = NUMERICS_F32A;
    options.kv_dtype = KV_DTYPE_F32;
    options.thread_count = 2;
    struct rig rig;
    rig_open(&rig, model, NULL, &options, 256);
    static struct rig_sequence sequence;
    sampling_init(&sequence.sampling);
    rig_sequence(&rig, &sequence, 0, prompt, ARRAY_COUNT(prompt), 1, 1);
    struct rig_sequence *sequences[] = {&sequence};
    struct batch_row row = rig_row(&rig, &sequence, 512);
    rig_step(&rig, &row, sequences, 1);
    for (uint32_t i = 0; i < ARRAY_COUNT(top8); i++) {
        float logit = rig_cpu(&rig)->logits[top8[i].id];
        if (!(fabsf(logit - top8[i].logit) < 1e-3f))
            fail_msg("logit of %u: %.5f, the reference has %.4f", top8[i].id, (double) logit,
                     (double) top8[i].logit);
    }
    for (uint32_t i = 1; i < ARRAY_COUNT(continuation); i++) {
        row = rig_row(&rig, &sequence, 512);
        rig_step(&rig, &row, sequences, 1);
    }
    for (uint32_t i = 0; i < ARRAY_COUNT(continuation); i++)
        assert_int_equal(sequence.ids[ARRAY_COUNT(prompt) + i], continuation[i]);
    rig_close(&rig);
    model_close(model);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(demo_matches_reference)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
