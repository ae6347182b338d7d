/* cmd - see cmd.h: what the subcommands share. */
#include "cmd/cmd.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/log.h"
#include "cmd/cmd_model.h"

extern char **environ;

int cmd_fail(enum err e, const struct err_text *text) {
    fprintf(stderr, "gramme: %s\n", text && text->text[0] ? text->text : err_name(e));
    return e == ERR_USAGE ? CMD_USAGE : CMD_FAILED;
}

void cmd_configure_log(const struct options *options, const char *who) {
    static const char *const levels[] = {"error", "warn", "info", "debug"};
    enum log_level level = LOG_INFO;
    for (size_t i = 0; i < ARRAY_COUNT(levels); i++)
        if (strcasecmp(options_text(options, OPT_LOG_LEVEL), levels[i]) == 0)
            level = (enum log_level) i;
    bool is_json = strcasecmp(options_text(options, OPT_LOG_FORMAT), "json") == 0;
    log_configure(level, is_json ? LOG_JSON : LOG_HUMAN, is_json ? who : NULL);
}

/* Flags of vLLM that change nothing here: one line for all of them. */
static void note_ignored(const struct options *options) {
    struct buf names;
    buf_init(&names, 0);
    if (options_print_ignored(options, &names) && buf_string(&names))
        log_info("without effect here: %s", buf_string(&names));
    buf_release(&names);
}

int cmd_options(unsigned command, int argc, char **argv, struct options **out,
                const char **positional, uint32_t *positional_count) {
    struct err_text text = {0};
    struct options *options = NULL;
    enum err e = options_create(command, &options);
    if (!e) e = options_read_environment(options, environ, &text);
    if (!e)
        e = options_read_arguments(options, argc, argv, positional, CMD_POSITIONAL_MAX,
                                   positional_count, &text);
    if (e) {
        options_destroy(options);
        return cmd_fail(e, &text);
    }
    cmd_configure_log(options, NULL);
    note_ignored(options);
    *out = options;
    return CMD_DONE;
}

void cmd_print_config(struct options *options) {
    struct err_text text = {0};
    if (options_text(options, OPT_MODEL) && cmd_model_fill_options(options, &text))
        fprintf(stderr, "gramme: nothing is taken from the model's files: %s\n", text.text);
    struct buf out;
    buf_init(&out, 0);
    options_print(options, &out);
    if (out.data) fwrite(out.data, 1, out.bytes, stdout);
    buf_release(&out);
}

enum err cmd_read_all(const char *path, size_t limit, struct err_text *text, struct buf *out) {
    bool is_stdin = strcmp(path, "-") == 0;
    int fd = is_stdin ? STDIN_FILENO : open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0) return err_set(text, ERR_NOT_FOUND, "%s: %s", path, strerror(errno));
    enum err e = ERR_OK;
    for (;;) {
        uint8_t *at = buf_reserve(out, 65536);
        if (!at) {
            e = err_set(text, ERR_MEMORY, "%s: out of memory", path);
            break;
        }
        ssize_t got = read(fd, at, 65536);
        if (got < 0 && errno == EINTR) continue;
        if (got < 0) e = err_set(text, ERR_IO, "%s: %s", path, strerror(errno));
        if (got <= 0) break;
        out->bytes += (size_t) got;
        if (out->bytes > limit) {
            e = err_set(text, ERR_LIMIT, "%s: longer than %zu bytes", is_stdin ? "stdin" : path,
                        limit);
            break;
        }
    }
    if (!is_stdin) close(fd);
    return e;
}
