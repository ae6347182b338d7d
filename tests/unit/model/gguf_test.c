/* gguf: a good file is read; every way of being wrong costs one line that names file, tensor or
 * key, expected and found. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "base/alloc.h"
#include "model/file_maker.h"
#include "model/gguf.h"

static struct buf file;

static int file_init(void **state) {
    buf_init(&file, 0);
    return 0;
}
static int file_release(void **state) {
    buf_release(&file);
    return 0;
}

/* Parses a copy that ends at the last byte, so that a sanitizer sees one byte too many. */
static void expect(enum err wanted, const char *sentence) {
    struct gguf gguf = {0};
    struct err_text text = {""};
    uint8_t *copy = malloc(file.bytes);
    memcpy(copy, file.data, file.bytes);
    assert_int_equal(gguf_parse(copy, file.bytes, "m.gguf", &text, &gguf), wanted);
    if (sentence) assert_string_equal(text.text, sentence);
    if (!wanted) gguf_release(&gguf);
    free(copy);
}

static void good(void **state) {
    put_head(&file, 3, 2, 5);
    put_key_u32(&file, "b.number", 7);
    put_key_text(&file, "a.text", "hello");
    put_text(&file, "c.list");
    put_u32(&file, GGUF_ARRAY);
    put_u32(&file, GGUF_STRING);
    put_u64(&file, 2);
    put_text(&file, "x");
    put_text(&file, "yz");
    put_text(&file, "d.same");
    put_u32(&file, GGUF_ARRAY);
    put_u32(&file, GGUF_I32);
    put_u64(&file, 3);
    for (int i = 0; i < 3; i++) put_u32(&file, 9);
    put_key_f32(&file, "e.real", 0.5f);
    put_tensor(&file, "z", 2, 32, 2, 8, 64); /* Q8_0 */
    put_tensor(&file, "y", 1, 16, 1, 1, 0);  /* F16 */
    put_padding(&file, 32);
    size_t start = file.bytes;
    for (int i = 0; i < 64 + 68; i++) buf_add_byte(&file, (uint8_t) i);
    struct gguf gguf;
    struct err_text text = {""};
    if (gguf_parse(file.data, file.bytes, "m.gguf", &text, &gguf)) fail_msg("%s", text.text);
    uint32_t number;
    assert_true(gguf_get_u32(&gguf, "b.number", &number));
    assert_int_equal(number, 7);
    assert_true(gguf_get_u32(&gguf, "d.same", &number));
    assert_int_equal(number, 9);
    assert_false(gguf_get_u32(&gguf, "e.real", &number));
    assert_false(gguf_get_u32(&gguf, "a.text", &number));
    assert_false(gguf_get_u32(&gguf, "b", &number));
    float real;
    assert_true(gguf_get_f32(&gguf, "e.real", &real));
    assert_true(real == 0.5f);
    const struct gguf_key *list = gguf_find(&gguf, "c.list");
    uint64_t at = 0;
    const char *string;
    size_t bytes;
    gguf_array_string(list, &at, &string, &bytes);
    gguf_array_string(list, &at, &string, &bytes);
    assert_int_equal(bytes, 2);
    assert_memory_equal(string, "yz", 2);
    const struct gguf_tensor *tensor = gguf_find_tensor(&gguf, "z");
    assert_non_null(tensor);
    assert_int_equal(tensor->type, TENSOR_Q8_0);
    assert_int_equal(tensor->bytes, 68);
    assert_ptr_equal(tensor->data, file.data + start + 64);
    assert_null(gguf_find_tensor(&gguf, "zz"));
    gguf_release(&gguf);
}

/* Every prefix of a good file is refused, and none reads past its end. */
static void cut_anywhere(void **state) {
    put_tiny_llama(&file, (struct tiny){0});
    size_t whole = file.bytes;
    expect(ERR_OK, NULL);
    for (size_t bytes = 0; bytes < whole; bytes += bytes < 1200 ? 1 : 997) {
        file.bytes = bytes;
        expect(ERR_FORMAT, NULL);
    }
    file.bytes = whole;
}

static void heads(void **state) {
    buf_add_string(&file, "GGML1234");
    expect(ERR_FORMAT, "m.gguf: not a GGUF file: expected the bytes GGUF first");
    buf_clear(&file);
    put_head(&file, 2, 0, 0);
    expect(ERR_UNSUPPORTED, "m.gguf: GGUF version 2: expected 3");
    buf_clear(&file);
    put_head(&file, 3u << 24, 0, 0);
    expect(ERR_UNSUPPORTED, "m.gguf: a big-endian GGUF file: expected little-endian");
    buf_clear(&file);
    put_head(&file, 3, UINT64_MAX, 1); /* nothing is allocated by a claim */
    expect(ERR_FORMAT, NULL);
    buf_clear(&file);
    put_head(&file, 3, 0, 0);
    expect(ERR_OK, NULL);
}

static void one_tensor(uint32_t dimensions, uint64_t first, uint64_t second, uint32_t type,
                       uint64_t offset, size_t data_bytes) {
    buf_clear(&file);
    put_head(&file, 3, 1, 0);
    put_tensor(&file, "w", dimensions, first, second, type, offset);
    put_padding(&file, 32);
    for (size_t i = 0; i < data_bytes; i++) buf_add_byte(&file, 0);
}

static void tensors(void **state) {
    one_tensor(2, 32, 4, 11, 0, 4096);
    expect(ERR_UNSUPPORTED, "m.gguf: tensor w has type Q3_K, which is not supported; the nearest "
                            "supported one is Q4_K");
    one_tensor(2, 32, 4, 99, 0, 4096);
    expect(ERR_UNSUPPORTED, "m.gguf: tensor w has unknown type 99; supported are F32, F16, BF16, "
                            "Q8_0, Q4_0, Q4_1, Q5_0, Q5_1, Q4_K, Q5_K, Q6_K");
    one_tensor(2, 32, 4, 0, 0, 511);
    expect(ERR_FORMAT, "m.gguf: tensor w is outside the file: expected 512 bytes at offset 0, the "
                       "file holds 511 (is the download complete?)");
    one_tensor(2, 32, 4, 0, 512, 512);
    expect(ERR_FORMAT,
           "m.gguf: tensor w is outside the file: expected 512 bytes at offset 512, the "
           "file holds 512 (is the download complete?)");
    one_tensor(2, 32, 4, 0, 16, 4096);
    expect(ERR_FORMAT, "m.gguf: tensor w has offset 16: expected a multiple of 32");
    one_tensor(2, 48, 4, 2, 0, 4096);
    expect(ERR_FORMAT,
           "m.gguf: tensor w has rows of 48 weights: expected a multiple of 32 for q4_0");
    one_tensor(2, 0, 4, 0, 0, 4096);
    expect(ERR_FORMAT, NULL);
    one_tensor(2, (uint64_t) 1 << 40, (uint64_t) 1 << 40, 0, 0, 4096);
    expect(ERR_FORMAT, NULL);
    one_tensor(2, (uint64_t) 1 << 61, 1, 0, 0, 4096);
    expect(ERR_FORMAT, NULL);
    one_tensor(2, 32, 4, 0, UINT64_MAX - 31, 4096);
    expect(ERR_FORMAT, NULL);
    buf_clear(&file);
    put_head(&file, 3, 1, 0);
    put_text(&file, "w");
    put_u32(&file, 5);
    for (int i = 0; i < 64; i++) put_u64(&file, 1);
    expect(ERR_FORMAT, "m.gguf: tensor w has 5 dimensions: expected 1 to 4");
}

static size_t two_tensors(const char *second, uint64_t offset) {
    buf_clear(&file);
    put_head(&file, 3, 2, 0);
    put_tensor(&file, "a", 1, 32, 1, 0, 0);
    put_tensor(&file, second, 1, 32, 1, 0, offset);
    put_padding(&file, 32);
    size_t start = file.bytes;
    for (int i = 0; i < 256; i++) buf_add_byte(&file, 0);
    return start;
}

static void pairs(void **state) {
    size_t start = two_tensors("b", 96);
    char sentence[128];
    snprintf(sentence, sizeof sentence,
             "m.gguf: tensor b begins at byte %zu inside tensor a: expected byte %zu or later",
             start + 96, start + 128);
    expect(ERR_FORMAT, sentence);
    two_tensors("a", 128);
    expect(ERR_FORMAT, "m.gguf: tensor a stands twice: expected once");
    buf_clear(&file);
    put_head(&file, 3, 0, 2);
    put_key_u32(&file, "k", 1);
    put_key_u32(&file, "k", 1);
    expect(ERR_FORMAT, "m.gguf: key k stands twice: expected once");
}

static void keys(void **state) {
    put_head(&file, 3, 0, 1);
    put_text(&file, "k");
    put_u32(&file, 13);
    put_u64(&file, 0);
    expect(ERR_FORMAT, "m.gguf: key k has value type 13: expected 0 to 12");
    buf_clear(&file);
    put_head(&file, 3, 0, 1);
    put_text(&file, "k");
    put_u32(&file, GGUF_ARRAY);
    put_u32(&file, GGUF_ARRAY);
    put_u64(&file, 1);
    expect(ERR_UNSUPPORTED, NULL);
    buf_clear(&file);
    put_head(&file, 3, 0, 1);
    put_text(&file, "k");
    put_u32(&file, GGUF_ARRAY);
    put_u32(&file, GGUF_U64);
    put_u64(&file, (uint64_t) 1 << 61); /* times 8 overflows */
    expect(ERR_FORMAT, NULL);
    buf_clear(&file);
    put_head(&file, 3, 0, 1);
    put_text(&file, "a\nb");
    put_u32(&file, GGUF_U64);
    put_u64(&file, 0);
    expect(ERR_FORMAT, "m.gguf: a name in a key holds byte 0x0a: expected printable text");
    buf_clear(&file);
    put_head(&file, 3, 0, 1);
    put_key_u32(&file, "general.alignment", 48);
    expect(ERR_FORMAT,
           "m.gguf: general.alignment is wrong: expected a power of two from 8 to 1048576");
}

static void memory_runs_out(void **state) {
    put_tiny_llama(&file, (struct tiny){0});
    for (uint64_t n = 1;; n++) {
        struct gguf gguf;
        struct err_text text = {""};
        alloc_fail_at(n, 0);
        enum err e = gguf_parse(file.data, file.bytes, "m.gguf", &text, &gguf);
        alloc_fail_at(0, 0);
        if (!e) {
            gguf_release(&gguf);
            assert_true(n > 1);
            break;
        }
        assert_int_equal(e, ERR_MEMORY);
    }
}

#define WITH_FILE(test) cmocka_unit_test_setup_teardown(test, file_init, file_release)

int main(void) {
    const struct CMUnitTest tests[] = {
        WITH_FILE(good),  WITH_FILE(cut_anywhere), WITH_FILE(heads),           WITH_FILE(tensors),
        WITH_FILE(pairs), WITH_FILE(keys),         WITH_FILE(memory_runs_out),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
