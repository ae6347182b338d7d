/* device_process - see device_process.h. */
#include "device/device_process.h"

#include <errno.h>
#include <fcntl.h>
#include <link.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/num.h"

#define LINE_BYTES_MAX 4352 /* a path is at most 4,096; the rest of a longer line is dropped */
#define CHUNK_BYTES 8192
#define PATH_BYTES 1024

/* --- one mapping after the other ------------------------------------------------------------- */

struct mapping {
    bool is_range;
    uint64_t resident, pss, private, shared;
};

struct reader {
    const struct device_process_range *ranges;
    uint32_t range_count;
    struct mapping mapping; /* under way */
    uint32_t mapping_count;
    struct device_process sum;
};

static void end_mapping(struct reader *reader) {
    const struct mapping *m = &reader->mapping;
    struct device_process *sum = &reader->sum;
    sum->resident_bytes += m->resident;
    sum->pss_bytes += m->pss;
    if (m->is_range) {
        sum->weights_bytes += m->pss;
        if (m->resident > m->pss) sum->lent_bytes += m->resident - m->pss;
    } else {
        sum->private_bytes += m->private;
        sum->shared_bytes += m->shared;
    }
    reader->mapping = (struct mapping){0};
}

/* "7f12a000-7f12b000 r--p 00000000 fe:00 1234 /path"; false: no such line. */
static bool begin_mapping(struct reader *reader, const char *line) {
    char *end;
    uint64_t first = strtoull(line, &end, 16);
    if (end == line || *end != '-') return false;
    const char *at = end + 1;
    uint64_t last = strtoull(at, &end, 16);
    if (end == at || *end != ' ') return false;
    end_mapping(reader);
    reader->mapping_count++;
    for (uint32_t i = 0; i < reader->range_count; i++) {
        uint64_t base = (uintptr_t) reader->ranges[i].base;
        /* The kernel's mapping is whole pages: it may reach past the file's last byte. */
        if (first < base + reader->ranges[i].bytes && last > base) reader->mapping.is_range = true;
    }
    return true;
}

static void read_line(struct reader *reader, const char *line) {
    static const struct {
        const char *key;
        size_t offset;
    } of_mapping[] = {{"Rss:", offsetof(struct mapping, resident)},
                      {"Pss:", offsetof(struct mapping, pss)},
                      {"Private_Clean:", offsetof(struct mapping, private)},
                      {"Private_Dirty:", offsetof(struct mapping, private)},
                      {"Private_Hugetlb:", offsetof(struct mapping, private)},
                      {"Shared_Clean:", offsetof(struct mapping, shared)},
                      {"Shared_Dirty:", offsetof(struct mapping, shared)},
                      {"Shared_Hugetlb:", offsetof(struct mapping, shared)}};
    if (line[0] < 'A' || line[0] > 'Z') {
        (void) begin_mapping(reader, line);
        return;
    }
    const char *colon = strchr(line, ':');
    if (!colon) return;
    uint64_t bytes = strtoull(colon + 1, NULL, 10) * 1024; /* all that is read here is in kB */
    size_t key_bytes = (size_t) (colon - line) + 1;
    for (size_t i = 0; i < ARRAY_COUNT(of_mapping); i++)
        if (strlen(of_mapping[i].key) == key_bytes &&
            memcmp(line, of_mapping[i].key, key_bytes) == 0)
            *(uint64_t *) (void *) ((char *) &reader->mapping + of_mapping[i].offset) += bytes;
    if (strncmp(line, "Anonymous:", 10) == 0) reader->sum.anonymous_bytes += bytes;
    if (strncmp(line, "Swap:", 5) == 0) reader->sum.swapped_bytes += bytes;
}

static int open_file(const struct device_roots *roots, const char *name) {
    char path[PATH_BYTES];
    int bytes = snprintf(path, sizeof path, "%s/self/%s",
                         roots && roots->proc ? roots->proc : "/proc", name);
    if (bytes < 0 || bytes >= PATH_BYTES) return -1;
    return open(path, O_RDONLY | O_CLOEXEC);
}

enum err device_process_look(const struct device_roots *roots,
                             const struct device_process_range *ranges, uint32_t range_count,
                             struct device_process *out) {
    struct reader reader = {.ranges = ranges, .range_count = range_count};
    char chunk[CHUNK_BYTES], line[LINE_BYTES_MAX];
    size_t line_bytes = 0;
    int fd = open_file(roots, "smaps");
    if (fd < 0) return errno == ENOENT ? ERR_NOT_FOUND : ERR_IO;
    enum err e = ERR_OK;
    for (;;) {
        ssize_t got = read(fd, chunk, sizeof chunk);
        if (got < 0 && errno == EINTR) continue;
        if (got < 0) e = ERR_IO;
        if (got <= 0) break;
        for (ssize_t i = 0; i < got; i++) {
            if (chunk[i] != '\n') {
                if (line_bytes < sizeof line - 1) line[line_bytes++] = chunk[i];
                continue;
            }
            line[line_bytes] = '\0';
            line_bytes = 0;
            read_line(&reader, line);
        }
    }
    close(fd);
    if (e) return e;
    end_mapping(&reader);
    if (!reader.mapping_count) return ERR_FORMAT;
    reader.sum.used_bytes =
        reader.sum.private_bytes + reader.sum.shared_bytes + reader.sum.weights_bytes;
    *out = reader.sum;
    return ERR_OK;
}

uint64_t device_process_resident(const struct device_roots *roots) {
    char text[128];
    int fd = open_file(roots, "statm");
    if (fd < 0) return 0;
    ssize_t got = read(fd, text, sizeof text - 1);
    close(fd);
    if (got <= 0) return 0;
    text[got] = '\0';
    const char *space = strchr(text, ' ');
    return space ? strtoull(space, NULL, 10) * (uint64_t) sysconf(_SC_PAGESIZE) : 0;
}

/* --- the program itself ----------------------------------------------------------------------- */

static int add_object(struct dl_phdr_info *object, size_t bytes, void *ctx) {
    uint64_t *sum = ctx, page = (uint64_t) sysconf(_SC_PAGESIZE);
    (void) bytes;
    for (int i = 0; i < object->dlpi_phnum; i++) {
        const ElfW(Phdr) *part = &object->dlpi_phdr[i];
        if (part->p_type != PT_LOAD) continue;
        uint64_t first = part->p_vaddr / page * page;
        *sum += num_round_up(part->p_vaddr + part->p_memsz, page) - first;
    }
    return 0;
}

uint64_t device_process_library_bytes(void) {
    uint64_t sum = 0;
    dl_iterate_phdr(add_object, &sum);
    return sum;
}
