/* mem - see mem.h. */
#include "base/mem.h"

#include <stdio.h>
#include <string.h>
#include <sys/mman.h>

#include "base/alloc.h"
#include "base/num.h"

#define HUGE_PAGE_BYTES (2u << 20)

struct piece {
    void *base;
    uint64_t mapped_bytes;
};

struct mem {
    struct mem_plan plan;
    uint64_t taken[MEM_LINES_MAX]; /* by line */
    struct piece *pieces;
    uint32_t piece_count;
    uint32_t piece_room;
    uint64_t taken_bytes;
    bool is_sealed;
};

static struct mem_line *line_find(struct mem_plan *plan, const char *reason) {
    for (uint32_t i = 0; i < plan->line_count; i++)
        if (strcmp(plan->lines[i].reason, reason) == 0) return &plan->lines[i];
    return NULL;
}

void mem_plan_add(struct mem_plan *plan, enum mem_kind kind, uint64_t bytes, const char *reason) {
    struct mem_line *line = line_find(plan, reason);
    if (!line) {
        CHECK(plan->line_count < MEM_LINES_MAX);
        CHECK(strlen(reason) < MEM_REASON_BYTES);
        line = &plan->lines[plan->line_count++];
        *line = (struct mem_line){.kind = kind};
        memcpy(line->reason, reason, strlen(reason));
    }
    CHECK(line->kind == kind);
    CHECK(num_add(line->bytes, bytes, &line->bytes));
}

uint64_t mem_plan_total(const struct mem_plan *plan) {
    uint64_t total = 0;
    for (uint32_t i = 0; i < plan->line_count; i++)
        CHECK(num_add(total, plan->lines[i].bytes, &total));
    return total;
}

uint64_t mem_plan_kind_total(const struct mem_plan *plan, enum mem_kind kind) {
    uint64_t total = 0;
    for (uint32_t i = 0; i < plan->line_count; i++)
        if (plan->lines[i].kind == kind) total += plan->lines[i].bytes;
    return total;
}

enum err mem_create(const struct mem_plan *plan, uint64_t budget_bytes, struct err_text *text,
                    struct mem **out) {
    uint64_t total = 0;
    for (uint32_t i = 0; i < plan->line_count; i++) {
        const struct mem_line *line = &plan->lines[i];
        if (line->bytes > budget_bytes - total)
            return err_set(
                text, ERR_NO_ROOM, "%s needs %.3f GiB, %.3f GiB of the budget of %.3f GiB are left",
                line->reason, (double) line->bytes / (1u << 30),
                (double) (budget_bytes - total) / (1u << 30), (double) budget_bytes / (1u << 30));
        total += line->bytes;
    }
    struct mem *mem = alloc_zero(1, sizeof *mem);
    if (!mem) return err_set(text, ERR_MEMORY, "no memory for the arena's book");
    mem->plan = *plan;
    *out = mem;
    return ERR_OK;
}

void mem_destroy(struct mem *mem) {
    if (!mem) return;
    for (uint32_t i = 0; i < mem->piece_count; i++)
        munmap(mem->pieces[i].base, mem->pieces[i].mapped_bytes);
    alloc_free(mem->pieces);
    alloc_free(mem);
}

static enum err piece_room(struct mem *mem) {
    if (mem->piece_count < mem->piece_room) return ERR_OK;
    uint32_t room = mem->piece_room ? mem->piece_room * 2 : 64;
    struct piece *pieces = alloc_resize(mem->pieces, room * sizeof *pieces);
    if (!pieces) return ERR_MEMORY;
    mem->pieces = pieces;
    mem->piece_room = room;
    return ERR_OK;
}

enum err mem_take(struct mem *mem, const char *reason, uint64_t bytes, struct err_text *text,
                  void **out) {
    CHECK(!mem->is_sealed);
    struct mem_line *line = line_find(&mem->plan, reason);
    if (!line || line->is_outside)
        return err_set(text, ERR_NOT_FOUND, "the plan has no buffer '%s' (%llu bytes wanted)",
                       reason, (unsigned long long) bytes);
    uint64_t *taken = &mem->taken[line - mem->plan.lines];
    if (bytes > line->bytes - *taken)
        return err_set(text, ERR_NO_ROOM, "%s: %llu bytes wanted, %llu of the planned %llu left",
                       reason, (unsigned long long) bytes,
                       (unsigned long long) (line->bytes - *taken),
                       (unsigned long long) line->bytes);
    if (piece_room(mem)) return err_set(text, ERR_MEMORY, "%s: no memory for the book", reason);
    uint64_t mapped = num_round_up(bytes ? bytes : 1, 4096);
    void *base = mmap(NULL, mapped, PROT_READ | PROT_WRITE,
                      MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (base == MAP_FAILED)
        return err_set(text, ERR_MEMORY, "%s: the system has no %llu bytes", reason,
                       (unsigned long long) bytes);
    if (mapped >= 2 * HUGE_PAGE_BYTES) madvise(base, mapped, MADV_HUGEPAGE);
    mem->pieces[mem->piece_count++] = (struct piece){base, mapped};
    *taken += bytes;
    mem->taken_bytes += bytes;
    *out = base;
    return ERR_OK;
}

enum err mem_seal(struct mem *mem, struct err_text *text) {
    for (uint32_t i = 0; i < mem->plan.line_count; i++) {
        const struct mem_line *line = &mem->plan.lines[i];
        if (!line->is_outside && mem->taken[i] != line->bytes)
            return err_set(text, ERR_NO_ROOM, "%s: planned %llu bytes, boot took %llu",
                           line->reason, (unsigned long long) line->bytes,
                           (unsigned long long) mem->taken[i]);
    }
    mem->is_sealed = true;
    return ERR_OK;
}

uint64_t mem_taken_bytes(const struct mem *mem) { return mem->taken_bytes; }

void mem_prefault(struct mem *mem) {
    for (uint32_t i = 0; i < mem->piece_count; i++) {
        volatile uint8_t *base = mem->pieces[i].base;
        for (uint64_t at = 0; at < mem->pieces[i].mapped_bytes; at += 4096) base[at] = base[at];
    }
}
