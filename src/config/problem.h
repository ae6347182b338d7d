/* problem - what is wrong with a configuration, said so that it can be mended.
 *
 * A list of problems in the order found; problem_sort puts the worst first, in the order of the
 * file.  Printed as `FILE:LINE:COL: error: Section.key: message` with the fix on the next line, or
 * as JSON (design.md 9).  A value of Common that several sections take is reported once.  Texts
 * are copied.  One owner. */
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
    bool is_flag;          /* --Section.key=value or a plain flag: no line */
    bool is_common;        /* written in Common */
    bool is_negated;       /* by a key of the form no-KEY */
    bool is_empty;         /* a key without a value: the mark is where one would stand */
};

/* How the file would be mended, for check --fix (yaml_fix.h). */
enum problem_edit {
    PROBLEM_EDIT_NONE,   /* needs a decision */
    PROBLEM_EDIT_VALUE,  /* write edit_text for the value at the mark */
    PROBLEM_EDIT_KEY,    /* write edit_text for the word at the mark */
    PROBLEM_EDIT_INSERT, /* add edit_text ("key: value") to the section in edit_line */
    PROBLEM_EDIT_REMOVE, /* drop the key whose name or value stands at the mark */
    PROBLEM_EDIT_SPACE,  /* a space is missing at the mark */
    PROBLEM_EDIT_TABS,   /* edit_text for each tab of the line's indentation, and of the lines that
                            begin with one */
    PROBLEM_EDIT_ENVS,   /* the mapping under the key at the mark becomes a list of name, value */
};

struct problem {
    enum problem_severity severity;
    char code[40];      /* "unknown-key", "tp-missing", ...: stable, for scripts */
    char component[32]; /* "PrefillWorker"; "" the whole file */
    char key[64];       /* "" none */
    struct problem_mark mark;
    char *message; /* owned: the numbers and the reason */
    char *fix;     /* owned: what to write instead; NULL: none */
    enum problem_edit edit;
    uint32_t edit_line; /* INSERT: of the section's name */
    char *edit_text;    /* owned; NULL: none */
};

struct problem_list {
    struct problem *items; /* owned */
    uint32_t count, room;
    bool is_cut; /* more than PROBLEMS_MAX, or no memory */
};
#define PROBLEMS_MAX 1000u

/* fix may be NULL.  The message is printf's.  Returns the problem (valid until the next), or NULL
 * when it was not added: told before, or no room. */
struct problem *problem_add(struct problem_list *list, enum problem_severity severity,
                            const char *code, const char *component, const char *key,
                            struct problem_mark mark, const char *fix, const char *format, ...)
    __attribute__((format(printf, 8, 9)));
/* Says how the file is mended; problem NULL and places that are no file's change nothing. */
void problem_set_edit(struct problem *problem, enum problem_edit edit, uint32_t line,
                      const char *format, ...) __attribute__((format(printf, 4, 5)));
uint32_t problem_count(const struct problem_list *list, enum problem_severity severity);
const char *problem_severity_name(enum problem_severity severity);
/* The problem with this code and component (NULL: any), or NULL. */
const struct problem *problem_find(const struct problem_list *list, const char *code,
                                   const char *component);
/* Appends all of `from`, which is empty then; false when some found no room. */
MUST_USE bool problem_move(struct problem_list *from, struct problem_list *to);
void problem_sort(struct problem_list *list);
/* One problem, without colour and without the fix: for a log or an err_text. */
void problem_print_line(const struct problem *problem, const char *file, struct buf *out);
/* All of them, then one line that counts errors and warnings. */
void problem_print(const struct problem_list *list, const char *file, bool has_colour,
                   struct buf *out);
/* {"ok":...,"problems":[...]} and a line end. */
void problem_print_json(const struct problem_list *list, struct buf *out);
/* Only the array: for objects that hold one (plan). */
void problem_print_json_items(const struct problem_list *list, struct buf *out);
void problem_release(struct problem_list *list);

#endif
