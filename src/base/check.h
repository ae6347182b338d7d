/* check - programming errors: CHECK is on in release, DCHECK only in debug builds.
 *
 * An operating error (a bad file, a full disk, a peer that left) is never a CHECK: it is an
 * enum err.  DCHECK stands in loops that run once a layer or a token. */
#ifndef GRAMME_BASE_CHECK_H
#define GRAMME_BASE_CHECK_H

#define MUST_USE __attribute__((warn_unused_result))
#define PRINTF_LIKE(format_at, args_at) __attribute__((format(printf, format_at, args_at)))
#define ARRAY_COUNT(array) (sizeof(array) / sizeof((array)[0]))

/* Prints where and what, then aborts. */
__attribute__((noreturn)) void check_failed(const char *file, int line, const char *what);

#define CHECK(condition)                                                                           \
    do {                                                                                           \
        if (__builtin_expect(!(condition), 0)) check_failed(__FILE__, __LINE__, #condition);       \
    } while (0)

#ifdef NDEBUG
#define DCHECK(condition)                                                                          \
    do {                                                                                           \
        (void) sizeof(condition);                                                                  \
    } while (0)
#else
#define DCHECK(condition) CHECK(condition)
#endif

/* Whether AddressSanitizer is in this build: for what would take minutes under it. */
#if defined(__SANITIZE_ADDRESS__)
#define CHECK_IS_SANITIZED 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define CHECK_IS_SANITIZED 1
#endif
#endif
#ifndef CHECK_IS_SANITIZED
#define CHECK_IS_SANITIZED 0
#endif

#endif
