/* safetensors: a good header is read; holes, overlaps, bounds, sizes and odd JSON are refused by
 * one line each. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <jansson.h>

#include "base/alloc.h"
#include "model/file_maker.h"
#include "model/safetensors.h"

static void expect(const char *header, size_t data_bytes, enum err wanted, const char *sentence) {
    struct buf file;
    struct safetensors table;
    struct err_text text = {""};
    buf_init(&file, 0);
    put_safetensors(&file, header, data_bytes);
    uint8_t *copy = malloc(file.bytes);
    memcpy(copy, file.data, file.bytes);
    enum err e = safetensors_parse(copy, file.bytes, "m.safetensors", &text, &table);
    if (e != wanted) fail_msg("%s: %s, \"%s\"", header, err_name(e), text.text);
    if (sentence) assert_string_equal(text.text, sentence);
    if (!e) safetensors_release(&table);
    free(copy);
    buf_release(&file);
}

#define GOOD                                                                                       \
    "{\"__metadata__\":{\"format\":\"pt\"},\"b\":{\"dtype\":\"BF16\",\"shape\":[2,3],"             \
    "\"data_offsets\":[8,20]},\"a\":{\"dtype\":\"I64\",\"shape\":[],\"data_offsets\":[0,8]},"      \
    "\"empty\":{\"dtype\":\"F32\",\"shape\":[0,5],\"data_offsets\":[8,8]}}   "

static void good(void **state) {
    struct buf file;
    struct safetensors table;
    struct err_text text = {""};
    buf_init(&file, 0);
    put_safetensors(&file, GOOD, 20);
    if (safetensors_parse(file.data, file.bytes, "f", &text, &table)) fail_msg("%s", text.text);
    assert_int_equal(table.tensor_count, 3);
    const struct safetensors_tensor *tensor = safetensors_find(&table, "b");
    assert_true(tensor && tensor->has_type && tensor->type == TENSOR_BF16);
    assert_int_equal(tensor->dimension_count, 2);
    assert_int_equal(tensor->dimensions[1], 3);
    assert_int_equal(tensor->bytes, 12);
    assert_ptr_equal(tensor->data, file.data + file.bytes - 12);
    assert_false(safetensors_find(&table, "a")->has_type);
    assert_null(safetensors_find(&table, "c"));
    safetensors_release(&table);
    buf_release(&file);
}

#define ONE(dtype, shape, offsets)                                                                 \
    "{\"w\":{\"dtype\":" dtype ",\"shape\":" shape ",\"data_offsets\":" offsets "}}"
#define TWO(first, second)                                                                         \
    "{\"v\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":" first "},"                         \
    "\"w\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":" second "}}"

static void wrong(void **state) {
    expect(ONE("\"F32\"", "[2]", "[0,8]"), 8, ERR_OK, NULL);
    expect(ONE("\"F32\"", "[2]", "[0,8]"), 7, ERR_FORMAT,
           "m.safetensors: tensor w is outside the file: it ends at byte 8, the file holds 7 (is "
           "the download complete?)");
    expect(ONE("\"F32\"", "[3]", "[0,8]"), 8, ERR_FORMAT,
           "m.safetensors: tensor w has 8 bytes: expected 3 weights of F32");
    expect(ONE("\"F33\"", "[2]", "[0,8]"), 8, ERR_UNSUPPORTED,
           "m.safetensors: tensor w has unknown dtype F33: supported are F32, F16 and BF16");
    expect(ONE("\"F32\"", "[-2]", "[0,8]"), 8, ERR_FORMAT, NULL);
    expect(ONE("\"F32\"", "[2.0]", "[0,8]"), 8, ERR_FORMAT, NULL);
    expect(ONE("\"F32\"", "2", "[0,8]"), 8, ERR_FORMAT, NULL);
    expect(ONE("\"F32\"", "[1,1,1,1,1,1,1,1,2]", "[0,8]"), 8, ERR_FORMAT, NULL);
    expect(ONE("\"F32\"", "[9223372036854775807,9]", "[0,8]"), 8, ERR_FORMAT, NULL);
    expect(ONE("\"F32\"", "[4611686018427387904,4]", "[0,0]"), 0, ERR_FORMAT, NULL);
    expect(ONE("\"F32\"", "[2]", "[8,0]"), 8, ERR_FORMAT,
           "m.safetensors: tensor w: expected data_offsets of [begin, end], begin <= end");
    expect(ONE("\"F32\"", "[2]", "[0]"), 8, ERR_FORMAT, NULL);
    expect(ONE("\"F32\"", "[2]", "[-8,0]"), 8, ERR_FORMAT, NULL);
    expect(ONE("7", "[2]", "[0,8]"), 8, ERR_FORMAT,
           "m.safetensors: tensor w: expected a string as dtype");
    expect("{\"w\":5}", 0, ERR_FORMAT, "m.safetensors: tensor w: expected an object");
    expect("{\"__metadata__\":5}", 0, ERR_FORMAT,
           "m.safetensors: __metadata__: expected an object");
    expect(TWO("[0,8]", "[8,16]"), 16, ERR_OK, NULL);
    expect(TWO("[0,8]", "[4,12]"), 12, ERR_FORMAT,
           "m.safetensors: tensor w begins at byte 4, overlapping the one before: expected byte 8");
    expect(TWO("[0,8]", "[12,20]"), 20, ERR_FORMAT,
           "m.safetensors: tensor w begins at byte 12, behind a hole: expected byte 8");
    expect(TWO("[0,8]", "[8,16]"), 17, ERR_FORMAT,
           "m.safetensors: 1 bytes behind the last tensor: expected none");
    expect("{\"w\":{},\"w\":{}}", 0, ERR_FORMAT, NULL);
    expect("{\"w\":", 0, ERR_FORMAT, NULL);
    expect("[1,2]", 0, ERR_FORMAT, NULL);
    expect("{}", 0, ERR_OK, NULL);
}

static void lengths(void **state) {
    static const uint64_t claims[] = {0, 1, 3, 100, 100000001, UINT64_MAX, UINT64_MAX - 7};
    for (size_t i = 0; i < sizeof claims / sizeof *claims; i++) {
        struct safetensors table;
        struct err_text text = {""};
        uint8_t bytes[10];
        memcpy(bytes, &claims[i], 8);
        memcpy(bytes + 8, "{}", 2);
        assert_int_equal(safetensors_parse(bytes, 10, "f", &text, &table), ERR_FORMAT);
        assert_int_equal(safetensors_parse(bytes, i, "f", &text, &table), ERR_FORMAT);
    }
}

static void memory_runs_out(void **state) {
    json_set_alloc_funcs(alloc_bytes, alloc_free);
    struct buf file;
    buf_init(&file, 0);
    put_safetensors(&file, GOOD, 20);
    for (uint64_t n = 1;; n++) {
        struct safetensors table;
        struct err_text text = {""};
        alloc_fail_at(n, 0);
        enum err e = safetensors_parse(file.data, file.bytes, "f", &text, &table);
        alloc_fail_at(0, 0);
        if (!e) {
            safetensors_release(&table);
            assert_true(n > 20);
            break;
        }
        /* Inside a string jansson takes it for a bad token. */
        assert_true(e == ERR_MEMORY || e == ERR_FORMAT);
    }
    buf_release(&file);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(good),
        cmocka_unit_test(wrong),
        cmocka_unit_test(lengths),
        cmocka_unit_test(memory_runs_out),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
