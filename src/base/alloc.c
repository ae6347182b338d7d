/* alloc - see alloc.h. */
#include "base/alloc.h"

#include <stdatomic.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

static _Atomic uint64_t asked_count;
static _Atomic uint64_t fail_at;
static _Atomic bool fail_forever;

static bool must_fail(void) {
    uint64_t at = atomic_load_explicit(&fail_at, memory_order_relaxed);
    uint64_t n = atomic_fetch_add_explicit(&asked_count, 1, memory_order_relaxed) + 1;
    if (__builtin_expect(at == 0, 1)) return false;
    return n == at || (n > at && atomic_load_explicit(&fail_forever, memory_order_relaxed));
}

void alloc_fail_at(uint64_t n, int forever) {
    atomic_store(&asked_count, 0);
    atomic_store(&fail_forever, forever != 0);
    atomic_store(&fail_at, n);
}

uint64_t alloc_count(void) { return atomic_load(&asked_count); }

void *alloc_bytes(size_t bytes) { return must_fail() ? NULL : malloc(bytes ? bytes : 1); }

void *alloc_zero(size_t count, size_t size) {
    return must_fail() ? NULL : calloc(count ? count : 1, size ? size : 1);
}

void *alloc_array(size_t count, size_t size) {
    size_t bytes;
    if (__builtin_mul_overflow(count, size, &bytes)) return NULL;
    return alloc_bytes(bytes);
}

void *alloc_resize(void *block, size_t bytes) {
    return must_fail() ? NULL : realloc(block, bytes ? bytes : 1);
}

char *alloc_string(const char *text, size_t bytes) {
    if (bytes == SIZE_MAX) return NULL;
    char *copy = alloc_bytes(bytes + 1);
    if (!copy) return NULL;
    memcpy(copy, text, bytes);
    copy[bytes] = '\0';
    return copy;
}

void alloc_free(void *block) { free(block); }
