/* bench_load - see bench_load.h.
 *
 * Two passes over the same files: read() from end to end in large pieces, which is what the disk
 * (or the page cache) gives; then all that `gramme run` does before its first step.  With --cold
 * the page cache is asked to forget the files before each pass; a file that another process has
 * mapped stays there. */
#include "cmd/bench_load.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/alloc.h"
#include "base/clock.h"
#include "base/mem.h"
#include "cmd/bench_stamp.h"
#include "cmd/cmd.h"
#include "cmd/cmd_model.h"

#define FILES_MAX 1024u
#define PIECE_BYTES ((size_t) 4 << 20)

struct files {
    char *paths[FILES_MAX]; /* owned */
    uint32_t count;
};

static enum err list_files(const struct options *options, struct err_text *text,
                           struct files *out) {
    struct model *model = NULL;
    enum err e = cmd_model_open(options, NULL, text, &model);
    const char *path;
    while (!e && out->count < FILES_MAX && (path = model_weights_path(model, out->count))) {
        char *copy = alloc_string(path, strlen(path));
        if (!copy) e = err_set(text, ERR_MEMORY, "out of memory");
        else out->paths[out->count++] = copy;
    }
    model_close(model);
    if (!e && !out->count)
        e = err_set(text, ERR_USAGE, "dummy weights are made, not loaded: give a model with files");
    return e;
}

static enum err open_file(const char *path, struct err_text *text, int *out) {
    *out = open(path, O_RDONLY | O_CLOEXEC);
    return *out >= 0 ? ERR_OK : err_set(text, ERR_IO, "%s: cannot open: %m", path);
}

static enum err forget(const struct files *files, struct err_text *text) {
    enum err e = ERR_OK;
    for (uint32_t i = 0; !e && i < files->count; i++) {
        int fd;
        e = open_file(files->paths[i], text, &fd);
        if (e) break;
        (void) fdatasync(fd); /* dirty pages stay */
        (void) posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED);
        close(fd);
    }
    return e;
}

static enum err read_all(const struct files *files, struct err_text *text, uint64_t *bytes,
                         double *seconds) {
    uint8_t *piece = alloc_bytes(PIECE_BYTES);
    if (!piece) return err_set(text, ERR_MEMORY, "out of memory");
    enum err e = ERR_OK;
    uint64_t started_ns = clock_now_ns();
    *bytes = 0;
    for (uint32_t i = 0; !e && i < files->count; i++) {
        int fd;
        e = open_file(files->paths[i], text, &fd);
        if (e) break;
        for (;;) {
            ssize_t got = read(fd, piece, PIECE_BYTES);
            if (got < 0 && errno == EINTR) continue;
            if (got < 0) e = err_set(text, ERR_IO, "%s: cannot read: %m", files->paths[i]);
            if (got <= 0) break;
            *bytes += (uint64_t) got;
        }
        close(fd);
    }
    *seconds = (double) (clock_now_ns() - started_ns) / 1e9;
    alloc_free(piece);
    return e;
}

static enum err make_ready(const struct options *options, struct err_text *text,
                           struct worker_boot_stats *stats, double *seconds) {
    struct model *model = NULL;
    struct tokenizer *tokenizer = NULL;
    struct worker_boot_options boot_options;
    struct worker_boot boot = {0};
    uint64_t started_ns = clock_now_ns();
    enum err e = cmd_model_open(options, NULL, text, &model);
    if (!e) e = model_open_tokenizer(model, text, &tokenizer);
    if (!e) e = cmd_model_boot_options(options, model_get_spec(model), text, &boot_options);
    if (!e) e = worker_boot_open(&boot_options, model, cmd_model_progress, NULL, text, &boot);
    *seconds = (double) (clock_now_ns() - started_ns) / 1e9;
    *stats = boot.stats;
    worker_boot_close(&boot);
    tokenizer_close(tokenizer);
    model_close(model);
    return e;
}

static void print(const struct options *options, bool is_cold, uint64_t bytes, double read_s,
                  const struct worker_boot_stats *stats, double ready_s) {
    double gb = (double) bytes / 1e9, load_s = (double) stats->load_ns / 1e9;
    double read_rate = gb / read_s, load_rate = (double) stats->loaded_bytes / 1e9 / load_s;
    if (options_bool(options, OPT_JSON)) {
        printf("{\"model\":\"%s\",\"cold\":%s,\"file_bytes\":%llu,\"read_s\":%.4f,"
               "\"read_gb_per_s\":%.3f,\"loaded_bytes\":%llu,\"load_s\":%.4f,"
               "\"load_gb_per_s\":%.3f,\"ready_s\":%.4f,\"load_of_read\":%.3f",
               options_text(options, OPT_MODEL), is_cold ? "true" : "false",
               (unsigned long long) bytes, read_s, read_rate,
               (unsigned long long) stats->loaded_bytes, load_s, load_rate, ready_s,
               load_rate / read_rate);
        bench_stamp_end_line();
        return;
    }
    printf("files    %9s read in %7.3f s  %6.2f GB/s  (%s page cache)\n", mem_size(bytes).text,
           read_s, read_rate, is_cold ? "cold" : "warm");
    printf("weights  %9s loaded in %5.3f s  %6.2f GB/s  %.0f %% of the read rate\n",
           mem_size(stats->loaded_bytes).text, load_s, load_rate, 100 * load_rate / read_rate);
    printf("ready    after %.3f s\n", ready_s);
}

int bench_load_run(int argc, char **argv) {
    struct options *options = NULL;
    const char *positional[CMD_POSITIONAL_MAX];
    uint32_t positional_count = 0;
    int status = cmd_options(OPTION_BENCH, argc, argv, &options, positional, &positional_count);
    if (status) return status;
    struct err_text text = {0};
    struct files files = {.count = 0};
    struct worker_boot_stats stats = {0};
    bool is_cold = options_bool(options, OPT_COLD);
    uint64_t bytes = 0;
    double read_s = 0, ready_s = 0;
    enum err e = positional_count
                     ? err_set(&text, ERR_USAGE, "one argument too many: '%s'", positional[0])
                     : list_files(options, &text, &files);
    if (!e && is_cold) e = forget(&files, &text);
    if (!e) e = read_all(&files, &text, &bytes, &read_s);
    if (!e && is_cold) e = forget(&files, &text);
    if (!e) e = make_ready(options, &text, &stats, &ready_s);
    if (!e) print(options, is_cold, bytes, read_s, &stats, ready_s);
    for (uint32_t i = 0; i < files.count; i++) alloc_free(files.paths[i]);
    options_destroy(options);
    return e ? cmd_fail(e, &text) : CMD_DONE;
}
