/* tensor_type: sizes, names, and blocks whose values are worked out by hand.  That every bit of
 * random blocks is right is tests/golden's part. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "model/tensor_type.h"

static void sizes_and_names(void **state) {
    assert_int_equal(tensor_type_bytes(TENSOR_F32, 7), 28);
    assert_int_equal(tensor_type_bytes(TENSOR_BF16, 7), 14);
    assert_int_equal(tensor_type_bytes(TENSOR_Q4_1, 576), 18 * 20);
    assert_int_equal(tensor_type_bytes(TENSOR_Q6_K, 512), 420);
    for (int type = 0; type < TENSOR_TYPE_COUNT; type++) {
        enum tensor_type found;
        assert_true(tensor_type_parse(tensor_type_name((enum tensor_type) type), &found));
        assert_int_equal(found, type);
        uint32_t block = tensor_type_block((enum tensor_type) type);
        assert_int_equal(tensor_type_is_quantized((enum tensor_type) type), block > 1);
    }
    enum tensor_type type = TENSOR_F32;
    assert_true(tensor_type_parse("Q4_k", &type));
    assert_int_equal(type, TENSOR_Q4_K);
    assert_false(tensor_type_parse("q4_", &type));
    assert_false(tensor_type_parse("q4_11", &type));
    assert_false(tensor_type_parse("", &type));
}

static void halves(void **state) {
    static const struct {
        uint16_t half;
        float value;
    } cases[] = {{0x0000, 0.0f},     {0x3c00, 1.0f},      {0xc000, -2.0f},
                 {0x7bff, 65504.0f}, {0x0001, 0x1p-24f},  {0x03ff, 1023 * 0x1p-24f},
                 {0x0400, 0x1p-14f}, {0x8001, -0x1p-24f}, {0x7c00, INFINITY},
                 {0xfc00, -INFINITY}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        float value;
        tensor_type_row_to_f32(TENSOR_F16, &cases[i].half, 1, &value);
        assert_memory_equal(&value, &cases[i].value, sizeof value);
    }
    uint16_t nan = 0x7e00, brain = 0xc040;
    float value;
    tensor_type_row_to_f32(TENSOR_F16, &nan, 1, &value);
    assert_true(isnan(value));
    tensor_type_row_to_f32(TENSOR_BF16, &brain, 1, &value);
    assert_true(value == -3.0f);
}

static void small_blocks(void **state) {
    float out[32];
    uint8_t q8[34] = {0x00, 0x38}; /* d = 0.5 */
    q8[2] = 0x81;
    q8[33] = 5;
    tensor_type_row_to_f32(TENSOR_Q8_0, q8, 32, out);
    assert_true(out[0] == -63.5f && out[1] == 0.0f && out[31] == 2.5f);

    uint8_t q4[20] = {0x00, 0x40, 0x00, 0xbc}; /* d = 2, min = -1 */
    q4[4] = 0xf3;
    tensor_type_row_to_f32(TENSOR_Q4_1, q4, 32, out);
    assert_true(out[0] == 5.0f && out[16] == 29.0f && out[1] == -1.0f);

    uint8_t q4_0[18] = {0x00, 0x3c, 0x1f};
    tensor_type_row_to_f32(TENSOR_Q4_0, q4_0, 32, out);
    assert_true(out[0] == 7.0f && out[16] == -7.0f && out[1] == -8.0f);

    uint8_t q5[22] = {0x00, 0x3c, 0x01, 0, 0x01, 0, 0x21};
    tensor_type_row_to_f32(TENSOR_Q5_0, q5, 32, out);
    assert_true(out[0] == 1.0f && out[16] == 2.0f && out[1] == -16.0f);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(sizes_and_names),
        cmocka_unit_test(halves),
        cmocka_unit_test(small_blocks),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
