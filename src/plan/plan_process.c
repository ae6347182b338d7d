/* plan_process - see plan_process.h. */
#include "plan/plan_process.h"

#include "base/team.h"

#define MIB ((uint64_t) 1 << 20)

/* Measured on x86-64 (glibc 2.36, demo model and a vocabulary of 151,936), rounded up. */
#define LIBRARY_BYTES (24 * MIB)   /* mapped pages of program and libraries, where nobody counted */
#define STEP_STACK_BYTES (2 * MIB) /* the step thread's, explicit (worker.c) */
#define SERVICE_BYTES (1 * MIB)    /* what eight service threads touch of their stacks */
#define HEAP_BYTES (8 * MIB)       /* two arenas' slack, options, files' indexes, engine, bus */
#define FRONTEND_HEAP_BYTES (8 * MIB) /* connections, queue, template */
#define VOCAB_ENTRY_BYTES 512 /* strings, merges, hash tables and word caches of a tokenizer */
#define TOKEN_BYTES 16        /* an id, its logprob and text, on its way */

uint64_t plan_process_bytes(const struct plan_process *process, const struct model_spec *spec,
                            const struct backend_options *options) {
    uint64_t bytes = process->library_bytes ? process->library_bytes : LIBRARY_BYTES;
    bytes += STEP_STACK_BYTES + SERVICE_BYTES + HEAP_BYTES;
    bytes += (uint64_t) (options->thread_count ? options->thread_count - 1 : 0) * TEAM_STACK_BYTES;
    bytes += (uint64_t) options->batched_tokens_max * TOKEN_BYTES;
    bytes += (uint64_t) options->seat_count * TOKEN_BYTES * 1024;
    if (process->has_frontend)
        bytes += FRONTEND_HEAP_BYTES + (uint64_t) spec->vocab_size * VOCAB_ENTRY_BYTES;
    if (process->has_transfer) bytes += PLAN_PROCESS_TRANSFER_BYTES;
    return bytes;
}
