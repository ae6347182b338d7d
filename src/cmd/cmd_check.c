/* cmd_check - gramme check [GRAPH] -f FILE|-: what is wrong with a graph file, before it is served.
 *
 * Exit 0 no errors (with --strict: no warnings either), 1 errors, 2 usage. */
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "cmd/cmd.h"
#include "cmd/cmd_target.h"
#include "config/yaml_fix.h"
#include "plan/check.h"
#include "plan/plan_auto.h"

static bool has_colour(void) {
    const char *term = getenv("TERM"), *none = getenv("NO_COLOR");
    return isatty(STDOUT_FILENO) && !(none && *none) && !(term && strcmp(term, "dumb") == 0);
}

static void print(const struct problem_list *problems, const char *name, bool is_json) {
    struct buf out;
    buf_init(&out, 0);
    if (is_json) problem_print_json(problems, &out);
    else problem_print(problems, name, has_colour(), &out);
    if (out.data) fwrite(out.data, 1, out.bytes, stdout);
    buf_release(&out);
}

/* The problems of a text as this command line has it. */
static enum err find_problems(const struct cmd_graph_line *line, enum graph_kind kind,
                              const struct cmd_target *target, const char *name,
                              const struct buf *file, struct problem_list *problems) {
    struct graph graph;
    struct graph_source source = {.name = name,
                                  .yaml = file->data,
                                  .bytes = file->bytes,
                                  .overrides = line->overrides,
                                  .override_count = line->override_count,
                                  .flags = line->flags};
    enum err e = graph_read(kind, &source, problems, &graph);
    if (e == ERR_MEMORY) return e;
    /* What cannot be read cannot be compared either. */
    bool is_read = !graph.has_file || graph.sections[GRAPH_VLLM_WORKER].is_present;
    struct check_target check = {
        .plan = &target->plan, .is_elsewhere = target->is_elsewhere, .gpus = target->gpus};
    struct plan_auto chosen = {0};
    struct err_text text;
    e = is_read ? plan_auto_choose(&graph, &target->plan, &text, &chosen) : ERR_OK;
    plan_auto_add_problems(&chosen, &graph, problems);
    if (is_read && !e) e = check_graph(&graph, &check, problems);
    graph_release(&graph);
    problem_sort(problems);
    return e == ERR_MEMORY ? e : ERR_OK;
}

static bool is_syntax(const struct problem_list *problems) {
    for (uint32_t i = 0; i < problems->count; i++)
        if (strncmp(problems->items[i].code, "yaml-", 5) == 0) return true;
    return false;
}

/* --- --fix -------------------------------------------------------------------------------- */

#define PASSES_MAX 8   /* one mistake may hide another: syntax, then names, then numbers */
#define SINGLES_MAX 64 /* edits tried one by one in a pass */

struct mender {
    const struct cmd_graph_line *line;
    enum graph_kind kind;
    const struct cmd_target *target;
    const char *name;
    struct buf *file;              /* the text as mended so far */
    struct problem_list *problems; /* of it */
};

/* Takes the text with the edits of `edits`; *is_taken false: nothing to do, or it got worse (no
 * YAML any more). */
static enum err try_edits(struct mender *mender, const struct problem_list *edits, bool *is_taken) {
    struct buf next;
    struct problem_list after = {0};
    *is_taken = false;
    buf_init(&next, CMD_TARGET_FILE_BYTES_MAX);
    bool has_changed = yaml_fix_apply(mender->file->data, mender->file->bytes, edits, &next) > 0 &&
                       !next.failed && next.bytes;
    enum err e = has_changed ? find_problems(mender->line, mender->kind, mender->target,
                                             mender->name, &next, &after)
                             : ERR_OK;
    bool is_broken =
        problem_count(&after, PROBLEM_ERROR) && !is_syntax(mender->problems) && is_syntax(&after);
    if (e || !has_changed || is_broken) {
        problem_release(&after);
        buf_release(&next);
        return e;
    }
    problem_release(mender->problems);
    *mender->problems = after;
    buf_release(mender->file);
    *mender->file = next;
    *is_taken = true;
    return ERR_OK;
}

/* Where all edits together break the text, those that do not are taken alone. */
static enum err try_singles(struct mender *mender, bool *is_taken) {
    *is_taken = false;
    for (uint32_t i = 0, tries = 0; i < mender->problems->count && tries < SINGLES_MAX; i++) {
        struct problem_list one = {.items = &mender->problems->items[i], .count = 1};
        bool is_one_taken = false;
        if (one.items->edit == PROBLEM_EDIT_NONE) continue;
        tries++;
        enum err e = try_edits(mender, &one, &is_one_taken);
        if (e) return e;
        *is_taken |= is_one_taken;
        if (is_one_taken) i = UINT32_MAX; /* another list: from its start */
    }
    return ERR_OK;
}

/* Mends the file until nothing changes. */
static enum err mend(struct mender *mender) {
    bool is_taken = true;
    enum err e = ERR_OK;
    for (int pass = 0; !e && is_taken && pass < PASSES_MAX; pass++) {
        e = try_edits(mender, mender->problems, &is_taken);
        if (!e && !is_taken) e = try_singles(mender, &is_taken);
    }
    return e;
}

/* The text in a new file beside `path`, with the mode and owner that `old` has (NULL: none there
 * yet). */
static enum err write_beside(char *beside, const struct stat *old, const struct buf *text) {
    int fd = mkostemp(beside, O_CLOEXEC);
    if (fd < 0) return ERR_IO;
    mode_t mask = umask(0);
    umask(mask);
    bool is_done = fchmod(fd, old ? old->st_mode & 07777 : 0666 & ~mask) == 0;
    struct stat now;
    if (is_done && old && fstat(fd, &now) == 0 &&
        (now.st_uid != old->st_uid || now.st_gid != old->st_gid))
        is_done = fchown(fd, old->st_uid, old->st_gid) == 0 &&
                  fchmod(fd, old->st_mode & 07777) == 0; /* chown drops bits */
    for (size_t at = 0; is_done && at < text->bytes;) {
        ssize_t put = write(fd, text->data + at, text->bytes - at);
        if (put < 0 && errno == EINTR) continue;
        is_done = put > 0;
        at += is_done ? (size_t) put : 0;
    }
    is_done = is_done && fsync(fd) == 0;
    int error = errno;
    is_done = close(fd) == 0 && is_done;
    if (is_done) return ERR_OK;
    unlink(beside);
    errno = error;
    return ERR_IO;
}

/* All or nothing: a full disk leaves what was there.  A link stays one, its target is written. */
static enum err write_file(const char *path, const struct buf *text, struct err_text *error) {
    struct stat old;
    char real[PATH_MAX], beside[PATH_MAX + 16];
    bool is_there = stat(path, &old) == 0;
    if (is_there && !S_ISREG(old.st_mode)) { /* a pipe, a terminal: nothing to keep */
        FILE *file = fopen(path, "wbe");
        if (!file) return err_set(error, ERR_IO, "%s: %m", path);
        bool is_written = fwrite(text->data, 1, text->bytes, file) == text->bytes;
        is_written = fclose(file) == 0 && is_written;
        return is_written ? ERR_OK : err_set(error, ERR_IO, "%s: %m", path);
    }
    if (!is_there) snprintf(real, sizeof real, "%s", path);
    else if (access(path, W_OK) || !realpath(path, real))
        return err_set(error, ERR_IO, "%s: %m; it is as it was", path);
    snprintf(beside, sizeof beside, "%s.XXXXXX", real);
    enum err e = write_beside(beside, is_there ? &old : NULL, text);
    if (!e && rename(beside, real)) {
        e = ERR_IO;
        unlink(beside);
    }
    if (!e) return ERR_OK;
    return err_set(error, ERR_IO, "%s: %m%s", path, is_there ? "; it is as it was" : "");
}

/* The file mended, its difference shown; written only where asked. */
static enum err fix(const struct cmd_graph_line *line, enum graph_kind kind,
                    const struct cmd_target *target, const char *name, const struct buf *file,
                    struct err_text *text, struct problem_list *problems) {
    const char *path = options_text(line->flags, OPT_FILE);
    const char *output = options_text(line->flags, OPT_OUTPUT);
    struct buf mended, diff;
    buf_init(&mended, 0);
    buf_init(&diff, 0);
    buf_add(&mended, file->data, file->bytes);
    struct mender mender = {line, kind, target, name, &mended, problems};
    bool is_wide = file->bytes >= 2 && (memcmp(file->data, "\xff\xfe", 2) == 0 ||
                                        memcmp(file->data, "\xfe\xff", 2) == 0);
    enum err e = mended.failed ? ERR_MEMORY : ERR_OK;
    if (!e && is_wide)
        e = err_set(text, ERR_UNSUPPORTED, "%s is UTF-16: save it as UTF-8 to have it mended",
                    name);
    if (!e) e = mend(&mender);
    if (!e) yaml_fix_diff(name, file->data, file->bytes, mended.data, mended.bytes, &diff);
    if (!e && !options_bool(line->flags, OPT_JSON) && diff.data)
        fwrite(diff.data, 1, diff.bytes, stdout);
    if (!e && output) e = write_file(output, &mended, text);
    if (!e && options_bool(line->flags, OPT_IN_PLACE) && diff.bytes)
        e = write_file(path, &mended, text);
    buf_release(&mended);
    buf_release(&diff);
    return e;
}

static enum err check_flags(const struct options *flags, struct err_text *text) {
    const char *path = options_text(flags, OPT_FILE);
    bool is_fix = options_bool(flags, OPT_FIX), is_in_place = options_bool(flags, OPT_IN_PLACE);
    if (!path) return err_set(text, ERR_USAGE, "no file: gramme check GRAPH -f FILE");
    if (!is_fix && (is_in_place || options_text(flags, OPT_OUTPUT)))
        return err_set(text, ERR_USAGE, "-o and --in-place go with --fix");
    if (is_in_place && options_text(flags, OPT_OUTPUT))
        return err_set(text, ERR_USAGE, "-o or --in-place, not both");
    if (is_in_place && strcmp(path, "-") == 0)
        return err_set(text, ERR_USAGE, "stdin cannot be overwritten: give -o FILE");
    return ERR_OK;
}

static enum err run(const struct cmd_graph_line *line, struct err_text *text, int *status) {
    struct cmd_target target = {0};
    struct problem_list problems = {0};
    struct buf file;
    enum graph_kind kind;
    const char *name = "";
    buf_init(&file, 0);
    enum err e = check_flags(line->flags, text);
    if (!e) e = cmd_target_kind(line, text, &kind);
    if (!e) e = cmd_target_file(line->flags, text, &file, &name);
    if (!e) e = cmd_target_find(line->flags, text, &target);
    if (!e && !file.bytes) buf_add_byte(&file, '\n'); /* an empty file is no absent one */
    if (!e) e = find_problems(line, kind, &target, name, &file, &problems);
    if (!e && options_bool(line->flags, OPT_FIX))
        e = fix(line, kind, &target, name, &file, text, &problems);
    if (!e) {
        print(&problems, name, options_bool(line->flags, OPT_JSON));
        uint32_t count = problem_count(&problems, PROBLEM_ERROR);
        if (options_bool(line->flags, OPT_STRICT))
            count += problem_count(&problems, PROBLEM_WARNING);
        *status = count ? CMD_FAILED : CMD_DONE;
    }
    problem_release(&problems);
    cmd_target_release(&target);
    buf_release(&file);
    return e;
}

int cmd_check(int argc, char **argv) {
    struct cmd_graph_line line;
    int status = cmd_graph_read_line(OPTION_CHECK, argc, argv, &line);
    if (status) return status;
    struct err_text text = {0};
    enum err e = run(&line, &text, &status);
    cmd_graph_release_line(&line);
    return e ? cmd_fail(e == ERR_NOT_FOUND ? ERR_USAGE : e, &text) : status;
}
