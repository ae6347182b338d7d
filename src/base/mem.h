/* mem - the memory of one device, taken buffer by buffer as the plan said.
 *
 * The plan is a list of lines (reason, bytes).  Boot asks for each buffer by its reason with the
 * size computed where it is used; a difference from the plan, or a buffer that the plan does not
 * name, is an error that names both.  mem_seal ends boot: a take after it is a CHECK.  One owner,
 * the thread that boots the worker.  Host memory is mmapped, page-aligned and untouched, so
 * nothing is resident before its first use. */
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
    bool is_outside;   /* counted, but not taken through mem_take (process, context) */
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

/* Copies the plan.  ERR_NO_ROOM, naming the line at which it happens, when the plan's total
 * passes budget_bytes (UINT64_MAX: no budget). */
MUST_USE enum err mem_create(const struct mem_plan *plan, uint64_t budget_bytes,
                             struct err_text *text, struct mem **out);
/* Gives every buffer back. */
void mem_destroy(struct mem *mem);

/* A zeroed, 4096-aligned buffer.  A line may be taken in several pieces (several takes of one
 * reason); together they must come to the planned bytes by mem_seal.  ERR_NO_ROOM past the plan
 * of that reason, ERR_NOT_FOUND for a reason without a line, ERR_MEMORY when the host refuses. */
MUST_USE enum err mem_take(struct mem *mem, const char *reason, uint64_t bytes,
                           struct err_text *text, void **out);
/* ERR_NO_ROOM when a line was taken short: plan and boot must agree to the byte. */
MUST_USE enum err mem_seal(struct mem *mem, struct err_text *text);
uint64_t mem_taken_bytes(const struct mem *mem);
/* Touches every page of every buffer (--prefault). */
void mem_prefault(struct mem *mem);

#endif
