/* problem - what is wrong with a configuration, said so that it can be mended.
 *
 * A list of problems in the order found; problem_list_sort puts the worst first.  Printed as
 * `FILE:LINE:COL: error: Section.key: message` with the fix behind it, or as JSON (design.md 9).
 * Texts are copied.  One owner. */
#ifndef GRAMME_CONFIG_PROBLEM_H
#define GRAMME_CONFIG_PROBLEM_H

#include <stdbool.h>
#include <stdint.h>

#include "base/buf.h"
#include "base/err.h"

enum problem_severity { PROBLEM_ERROR, PROBLEM_WARNING, PROBLEM_NOTE };

/* Where a value was written; line 0: not in the file. */
struct problem_mark {
    uint32_t line, column; /* from 1 */
    bool is_flag;          /* --Section.key=value: column is of no use */
};

struct problem {
    enum problem_severity severity;
    char code[40];      /* "unknown-key", "tp-missing", ...: stable, for scripts */
    char component[32]; /* "PrefillWorker"; "" the whole file */
    char key[64];       /* "" none */
    struct problem_mark mark;
    char *message; /* owned: the numbers and the reason */
    char *fix;     /* owned: what to write instead; NULL: none */
};

struct problem_list {
    struct problem *items; /* owned */
    uint32_t count, room;
    bool is_cut; /* more than PROBLEMS_MAX, or no memory */
};
#define PROBLEMS_MAX 1000u

/* fix may be NULL.  The message is printf's. */
void problem_add(struct problem_list *list, enum problem_severity severity, const char *code,
                 const char *component, const char *key, struct problem_mark mark, const char *fix,
                 const char *format, ...) __attribute__((format(printf, 8, 9)));
uint32_t problem_count(const struct problem_list *list, enum problem_severity severity);
void problem_sort(struct problem_list *list);
void problem_print(const struct problem_list *list, const char *file, bool has_colour,
                   struct buf *out);
void problem_print_json(const struct problem_list *list, struct buf *out);
void problem_release(struct problem_list *list);

#endif
