/* mem - see mem.h. */
#include "base/mem.h"

#include <stdio.h>
#include <string.h>
#include <sys/mman.h>

#include "base/alloc.h"
#include "base/num.h"

#define PAGE_BYTES 4096u
#define HUGE_PAGE_BYTES (2u << 20)
#ifndef MADV_POPULATE_WRITE
#define MADV_POPULATE_READ 22
#define MADV_POPULATE_WRITE 23
#endif

struct piece {
    void *base;
    uint64_t bytes;
    uint64_t mapped_bytes; /* and a guard page behind them */
};

struct mem {
    struct mem_plan plan;
    uint64_t taken[MEM_LINES_MAX]; /* by line */
    struct mem *account;           /* whose budget is drawn on; itself, or another's */
    uint64_t budget_bytes, used_bytes;
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
    struct mem *mem = alloc_zero(1, sizeof *mem);
    if (!mem) return err_set(text, ERR_MEMORY, "no memory for the arena's book");
    mem->plan = *plan;
    mem->account = mem;
    mem->budget_bytes = budget_bytes;
    *out = mem;
    return ERR_OK;
}

void mem_join(struct mem *mem, struct mem *other) {
    CHECK(!mem->taken_bytes && !mem->is_sealed);
    mem->account = other->account;
}

void mem_destroy(struct mem *mem) {
    if (!mem) return;
    for (uint32_t i = 0; i < mem->piece_count; i++)
        munmap(mem->pieces[i].base, mem->pieces[i].mapped_bytes + PAGE_BYTES);
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

struct mem_size mem_size(uint64_t bytes) {
    struct mem_size size;
    if (bytes >= 1u << 30)
        snprintf(size.text, sizeof size.text, "%.2f GiB", (double) bytes / (1u << 30));
    else if (bytes >= 10u << 20)
        snprintf(size.text, sizeof size.text, "%.1f MiB", (double) bytes / (1u << 20));
    else snprintf(size.text, sizeof size.text, "%llu bytes", (unsigned long long) bytes);
    return size;
}

enum err mem_claim(struct mem *mem, const char *reason, uint64_t bytes, struct err_text *text) {
    CHECK(!mem->is_sealed);
    struct mem_line *line = line_find(&mem->plan, reason);
    if (!line)
        return err_set(text, ERR_NOT_FOUND, "the plan has no buffer '%s' (%llu bytes wanted)",
                       reason, (unsigned long long) bytes);
    uint64_t *taken = &mem->taken[line - mem->plan.lines];
    struct mem *account = mem->account;
    if (bytes > line->bytes - *taken)
        return err_set(text, ERR_NO_ROOM, "%s: %llu bytes wanted, %llu of the planned %llu left",
                       reason, (unsigned long long) bytes,
                       (unsigned long long) (line->bytes - *taken),
                       (unsigned long long) line->bytes);
    if (bytes > account->budget_bytes - account->used_bytes)
        return err_set(text, ERR_NO_ROOM, "%s needs %s and %s of the budget of %s are free", reason,
                       mem_size(bytes).text,
                       mem_size(account->budget_bytes - account->used_bytes).text,
                       mem_size(account->budget_bytes).text);
    *taken += bytes;
    mem->taken_bytes += bytes;
    account->used_bytes += bytes;
    return ERR_OK;
}

static enum err map(struct mem *mem, const struct mem_line *line, uint64_t bytes,
                    struct err_text *text, void **out) {
    if (piece_room(mem))
        return err_set(text, ERR_MEMORY, "%s: no memory for the book", line->reason);
    uint64_t mapped = num_round_up(bytes ? bytes : 1, PAGE_BYTES);
    void *base = mmap(NULL, mapped + PAGE_BYTES, PROT_READ | PROT_WRITE,
                      MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (base == MAP_FAILED)
        return err_set(text, ERR_MEMORY, "%s: the system has no %llu bytes", line->reason,
                       (unsigned long long) bytes);
    if (mapped >= 2 * HUGE_PAGE_BYTES) madvise(base, mapped, MADV_HUGEPAGE);
    (void) mprotect((uint8_t *) base + mapped, PAGE_BYTES, PROT_NONE); /* best effort */
    mem->pieces[mem->piece_count++] = (struct piece){base, bytes, mapped};
    *out = base;
    return ERR_OK;
}

static enum err find_inside(struct mem *mem, const char *reason, struct err_text *text,
                            struct mem_line **out) {
    CHECK(!mem->is_sealed);
    *out = line_find(&mem->plan, reason);
    if (*out && !(*out)->is_outside) return ERR_OK;
    return err_set(text, ERR_NOT_FOUND, "the plan has no buffer '%s'", reason);
}

enum err mem_take(struct mem *mem, const char *reason, uint64_t bytes, struct err_text *text,
                  void **out) {
    struct mem_line *line;
    enum err e = find_inside(mem, reason, text, &line);
    if (!e) e = mem_claim(mem, reason, bytes, text);
    return e ? e : map(mem, line, bytes, text, out);
}

enum err mem_map(struct mem *mem, const char *reason, struct err_text *text, void **out) {
    struct mem_line *line;
    enum err e = find_inside(mem, reason, text, &line);
    return e ? e : map(mem, line, line->bytes, text, out);
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

uint64_t mem_free_bytes(const struct mem *mem) {
    return mem->account->budget_bytes - mem->account->used_bytes;
}

void mem_prefault_range(void *base, uint64_t bytes) {
    uintptr_t first = (uintptr_t) base / PAGE_BYTES * PAGE_BYTES;
    uint64_t span = num_round_up((uintptr_t) base + bytes - first, PAGE_BYTES);
    if (madvise((void *) first, span, MADV_POPULATE_WRITE) == 0) return;
    volatile uint8_t *at = base; /* before Linux 5.14 */
    for (uint64_t i = 0; i < bytes; i += PAGE_BYTES) at[i] = at[i];
}

void mem_prefault_file(const void *base, uint64_t bytes) {
    uintptr_t first = (uintptr_t) base / PAGE_BYTES * PAGE_BYTES;
    if (madvise((void *) first, (uintptr_t) base + bytes - first, MADV_POPULATE_READ) == 0) return;
    for (uint64_t i = 0; i < bytes; i += PAGE_BYTES) (void) *((const volatile uint8_t *) base + i);
}

void mem_check(const struct mem *mem) {
    for (uint32_t i = 0; i < mem->piece_count; i++) {
        const struct piece *piece = &mem->pieces[i];
        for (uint64_t at = piece->bytes; at < piece->mapped_bytes; at++)
            CHECK(((const uint8_t *) piece->base)[at] == 0);
    }
}

void mem_prefault(struct mem *mem) {
    for (uint32_t i = 0; i < mem->piece_count; i++)
        mem_prefault_range(mem->pieces[i].base, mem->pieces[i].mapped_bytes);
}
