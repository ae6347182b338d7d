/* mem - the memory of one device, taken buffer by buffer as the plan said.
 *
 * The plan is a list of lines (reason, bytes).  Boot asks for each buffer by its reason with the
 * size computed where it is used; a difference from the plan, or a buffer that the plan does not
 * name, is an error that names both.  Each take is also held against the device's budget, so a plan
 * that does not fit, booted all the same (--force), ends at the very buffer that passes it.
 * mem_seal ends boot: a take after it is a CHECK.  One owner, the thread that boots the worker.
 * Host memory is mmapped, page-aligned and untouched, so nothing is resident before its first use;
 * behind each buffer lies a page that cannot be touched. */
#ifndef GRAMME_BASE_MEM_H
#define GRAMME_BASE_MEM_H

#include <stdbool.h>
#include <stdint.h>

#include "base/err.h"

/* Which column of the plan a line counts in (design.md 9). */
enum mem_kind {
    MEM_WEIGHTS,     /* also embeddings, head, norms, biases */
    MEM_ACTIVATIONS, /* also logits tile, seats, sampling */
    MEM_WORKSPACE,   /* GEMM, communication, staging, graphs, block 0 */
    MEM_CONTEXT,     /* device context, modules, the process line */
    MEM_KV,
};

#define MEM_REASON_BYTES 48

struct mem_line {
    char reason[MEM_REASON_BYTES];
    enum mem_kind kind;
    uint64_t bytes;
    bool is_estimated; /* an upper bound; boot measures it */
    bool is_outside; /* claimed, but memory of this arena's is none of it (process, context, mapped
                          files) */
};

#define MEM_LINES_MAX 128

/* A list under construction; line_count never passes MEM_LINES_MAX (CHECK). */
struct mem_plan {
    struct mem_line lines[MEM_LINES_MAX];
    uint32_t line_count;
};

/* Lines of one reason add up. */
void mem_plan_add(struct mem_plan *plan, enum mem_kind kind, uint64_t bytes, const char *reason);
uint64_t mem_plan_total(const struct mem_plan *plan);
uint64_t mem_plan_kind_total(const struct mem_plan *plan, enum mem_kind kind);

struct mem;

/* Copies the plan.  budget_bytes: what its device gives (UINT64_MAX: no bound); it is looked at by
 * each take, not here. */
MUST_USE enum err mem_create(const struct mem_plan *plan, uint64_t budget_bytes,
                             struct err_text *text, struct mem **out);
/* From now on `mem` draws on the budget of `other`: both are on one device.  Before any take; other
 * lives longer. */
void mem_join(struct mem *mem, struct mem *other);
/* Gives every buffer back. */
void mem_destroy(struct mem *mem);

/* A zeroed, 4096-aligned buffer.  A line may be taken in several pieces (several takes of one
 * reason); together they must come to the planned bytes by mem_seal.  ERR_NO_ROOM past the plan
 * of that reason or past the budget (the sentence tells wanted and free bytes), ERR_NOT_FOUND for a
 * reason without a line, ERR_MEMORY when the host refuses. */
MUST_USE enum err mem_take(struct mem *mem, const char *reason, uint64_t bytes,
                           struct err_text *text, void **out);
/* The same in two steps, for a buffer that is filled stage by stage: mem_map gives the address
 * space of all the line's planned bytes, mem_claim counts the next of them before they are written
 * to.  Lines outside the arena are claimed only. */
MUST_USE enum err mem_map(struct mem *mem, const char *reason, struct err_text *text, void **out);
MUST_USE enum err mem_claim(struct mem *mem, const char *reason, uint64_t bytes,
                            struct err_text *text);
/* ERR_NO_ROOM when a line was taken short: plan and boot must agree to the byte.  A line outside
 * the arena is an upper bound. */
MUST_USE enum err mem_seal(struct mem *mem, struct err_text *text);
/* Claimed so far, lines outside the arena included: the planned total once it is sealed. */
uint64_t mem_taken_bytes(const struct mem *mem);
/* What the budget has left. */
uint64_t mem_free_bytes(const struct mem *mem);
/* CHECK: nobody wrote behind the end of a buffer. */
void mem_check(const struct mem *mem);
/* Makes every page of every buffer resident (--prefault). */
void mem_prefault(struct mem *mem);
/* The same for any memory of one's own: whole pages of [base, base + bytes), content kept. */
void mem_prefault_range(void *base, uint64_t bytes);
/* The same for a mapped file: read in, not written. */
void mem_prefault_file(const void *base, uint64_t bytes);

/* "61.03 GiB", "352.1 MiB", "16384 bytes" */
struct mem_size {
    char text[32];
};
struct mem_size mem_size(uint64_t bytes);

#endif
