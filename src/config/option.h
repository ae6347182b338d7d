/* option - the one table of options: flag, GRAMME_* variable, type, range, default, help.
 *
 * Every bound and default of the program stands here.  A struct options holds each option's value
 * with its source; the sources in order of precedence are flag, environment, file, model, default
 * (behaviour.md 3).  Hyphens and underscores are equal everywhere.  Owned by one thread; strings
 * given to it are copied. */
#ifndef GRAMME_CONFIG_OPTION_H
#define GRAMME_CONFIG_OPTION_H

#include <stdbool.h>
#include <stdint.h>

#include "base/buf.h"
#include "base/err.h"

enum option_type {
    OPTION_BOOL,     /* true false yes no on off 1 0; a bare flag is true, --no-FLAG false */
    OPTION_COUNT,    /* 512, 16k (1,024) */
    OPTION_BYTES,    /* 64MiB, 1.5GiB, 4096 */
    OPTION_DURATION, /* 300s, 250ms, 5m; a bare number counts in the option's unit */
    OPTION_NUMBER,   /* 0.8 */
    OPTION_TEXT,
    OPTION_LIST, /* repeatable text */
    OPTION_WORD, /* one of a fixed set */
};

/* The subcommands that take an option. */
enum option_command {
    OPTION_RUN = 1,
    OPTION_CHAT = 2,
    OPTION_SERVE = 4,
    OPTION_PLAN = 8,
    OPTION_BENCH = 16,
    OPTION_TOKENIZE = 32,
    OPTION_RENDER = 64,
    OPTION_CHECK = 128,
    OPTION_TOP = 256,
    OPTION_FRONTEND = 512, /* gramme frontend; the sections Frontend, Processor, Router */
    OPTION_WORKER = 1024,  /* gramme worker and prefill; the sections of both */
    OPTION_DOCTOR = 4096,
};

/* What becomes of an option.  Those of the vLLM beneath the classic system that are not honoured
 * stand in the table too, so that every legal file is read and nothing is dropped in silence. */
enum option_standing {
    OPTION_HONOURED,
    OPTION_IGNORED, /* accepted, without effect here: the caller tells, one line for all */
    OPTION_REFUSED, /* any value but `fallback` is an error that says what instead */
};

/* OPTION(ID, name, type, commands, group, unit, default, min, max, words, help) and
 * CLASSIC(ID, name, type, standing, harmless value, help) live in option_table.h; the order is
 * the order of the help. */
enum option_id {
#define OPTION(id, name, type, commands, group, unit, fallback, min, max, words, help) OPT_##id,
#define CLASSIC(id, name, type, standing, harmless, help) OPT_##id,
#include "config/option_table.h"
#undef OPTION
#undef CLASSIC
    OPT_COUNT,
};

enum option_source { SOURCE_DEFAULT, SOURCE_MODEL, SOURCE_FILE, SOURCE_ENVIRONMENT, SOURCE_FLAG };

struct option {
    const char *name; /* as a flag, without the dashes */
    enum option_type type;
    enum option_standing standing;
    unsigned commands;
    const char *group;    /* heading in the help */
    const char *unit;     /* "" none */
    const char *fallback; /* the default as text; NULL: not set.  OPTION_REFUSED: the one value that
                             is accepted */
    double min, max;
    const char *words; /* OPTION_WORD: "auto|f32|f16" */
    const char *help;
};

struct options;

const struct option *option_get(enum option_id id);
/* "auto" is one of its values: the plan chooses (plan/plan_auto.h). */
bool option_takes_auto(enum option_id id);
/* By name, hyphen or underscore; -1 when there is none. */
int option_find(const char *name, size_t bytes);
/* The nearest name within a third of its letters, for "did you mean"; NULL when none is near. */
const char *option_suggest(const char *name, unsigned command);
/* As option_suggest over `count` names. */
const char *option_suggest_among(const char *name, const char *const *names, uint32_t count);
/* "false", "off", "1", "yes" ... as a BOOL option reads them. */
MUST_USE bool options_parse_bool(const char *text, bool *out);

MUST_USE enum err options_create(unsigned command, struct options **out);
void options_destroy(struct options *options);

/* Reads `value` as the option's type and checks its range; kept unless a stronger source set it.
 * A list grows by values of one source.  The error names `where` ("--port", "GRAMME_PORT"), the
 * value, the range. */
MUST_USE enum err options_set(struct options *options, enum option_id id, const char *value,
                              enum option_source source, const char *where, struct err_text *text);
/* Forgets a value; the default stands again. */
MUST_USE enum err options_clear(struct options *options, enum option_id id);
/* Copies an option that is set in `from`, with its source; a weaker source changes nothing. */
MUST_USE enum err options_copy(struct options *options, const struct options *from,
                               enum option_id id);
/* The value chosen for an option that is "auto"; its source stays. */
MUST_USE enum err options_choose(struct options *options, enum option_id id, const char *value,
                                 struct err_text *text);
/* GRAMME_* variables; an unknown one is an error with "did you mean". */
MUST_USE enum err options_read_environment(struct options *options, char *const *environment,
                                           struct err_text *text);
/* --name value, --name=value, --no-name, -m MODEL, -p PORT, -t THREADS, -f FILE, -o OUT; what is
 * no flag, and all after "--", goes to positional (borrowed pointers; at most positional_max). */
MUST_USE enum err options_read_arguments(struct options *options, int count, char *const *arguments,
                                         const char **positional, uint32_t positional_max,
                                         uint32_t *positional_count, struct err_text *text);

unsigned options_command(const struct options *options); /* enum option_command */
/* By anything but the default.  "auto" counts only once a value is chosen for it: before, whoever
 * reads the option meets the default, as if nothing had been written. */
bool options_is_set(const struct options *options, enum option_id id);
/* "auto", and nothing is chosen yet. */
bool options_is_auto(const struct options *options, enum option_id id);
enum option_source options_source(const struct options *options, enum option_id id);
bool options_bool(const struct options *options, enum option_id id);
uint64_t options_count(const struct options *options, enum option_id id); /* counts and bytes */
uint32_t options_ms(const struct options *options, enum option_id id);    /* durations */
double options_number(const struct options *options, enum option_id id);
const char *options_text(const struct options *options, enum option_id id); /* NULL: not set */
uint32_t options_list_count(const struct options *options, enum option_id id);
const char *options_list_item(const struct options *options, enum option_id id, uint32_t index);
/* The value as it was written, of any type (a list has several); NULL: none of that index, or the
 * table's default. */
const char *options_value(const struct options *options, enum option_id id, uint32_t index);

/* "enforce-eager, swap-space": the options set that have no effect here; their number. */
uint32_t options_print_ignored(const struct options *options, struct buf *out);
/* One line an option: name, value, source. */
void options_print(const struct options *options, struct buf *out);
/* The options of a command by group, with default and unit. */
void options_print_help(unsigned command, struct buf *out);

#endif
