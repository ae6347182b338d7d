/* check_impl - what the files of check share. */
#ifndef GRAMME_PLAN_CHECK_IMPL_H
#define GRAMME_PLAN_CHECK_IMPL_H

#include "plan/check.h"

struct checker {
    const struct graph *graph;
    const struct check_target *target;
    struct problem_list *problems;
    struct graph_plan plan; /* with TP as check would have it */
};

/* The mark of a written option, else of its section. */
struct problem_mark check_mark(const struct checker *checker, enum graph_section_id section,
                               enum option_id id);
bool check_is_written(const struct checker *checker, enum graph_section_id section,
                      enum option_id id);

/* Its value was no value (told by the reader): what follows from its default is not told again. */
bool check_is_refused(const struct checker *checker, enum graph_section_id section,
                      enum option_id id);

/* The file is mended by writing this option so: its value where the section itself has one, else a
 * new line of the section (a value of Common is others' too).  problem may be NULL. */
void check_mend(const struct checker *checker, struct problem *problem,
                enum graph_section_id section, enum option_id id, const char *value);

/* Components among themselves (check_peers.c): 7, 8, 9. */
void check_peers(struct checker *checker);
/* What is said of weights against the checkpoint (check_format.c): 12. */
void check_formats(struct checker *checker);
/* What a model's folder lacks beside its weights (check_files.c): 20. */
void check_files(struct checker *checker);
/* Whether the model's folder has a tokenizer; true for a GGUF, and where there is no folder. */
bool check_files_has_words(const char *model);
/* This machine, when the graph is meant for it (check_machine.c): 4, 13. */
void check_machine(struct checker *checker);
/* Components and their devices (check_devices.c): 3, 4, 5, 6, 10, 19, 20. */
void check_devices(struct checker *checker);

#endif
