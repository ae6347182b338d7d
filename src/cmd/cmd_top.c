/* cmd_top - gramme top: a live table of a graph, from its frontend's /gramme/status.
 *
 * On a terminal it is drawn anew each second until q or Ctrl-C; otherwise it is printed once. */
#include <curses.h>
#include <locale.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/clock.h"
#include "cmd/cmd.h"
#include "cmd/status_client.h"
#include "cmd/top_view.h"

#define REFRESH_MS 1000
#define URL_DEFAULT "http://127.0.0.1:8000"

static enum err look(struct status_client *client, struct err_text *text, struct top_view *out) {
    json_t *root = NULL;
    enum err e = status_client_get(client, text, &root);
    if (e) return e;
    e = top_view_read(root, out);
    json_decref(root);
    return e ? err_set(text, e, "the answer is not that of a gramme frontend") : ERR_OK;
}

static uint64_t wall_s(void) { return clock_wall_ns() / 1000000000u; }

static enum err print_once(struct status_client *client, const char *url, struct err_text *text) {
    struct top_view first = {0}, second = {0};
    enum err e = look(client, text, &first);
    if (!e) {
        usleep(REFRESH_MS * 1000); /* rates need two looks */
        e = look(client, text, &second);
    }
    struct buf out;
    buf_init(&out, 0);
    if (!e) top_view_print(&first, &second, url, wall_s(), 0, &out);
    if (!e && out.data) fwrite(out.data, 1, out.bytes, stdout);
    buf_release(&out);
    top_view_release(&first);
    top_view_release(&second);
    return e;
}

/* Lines as they are, cut at the screen's edge; the table's head stands out. */
static void draw(const char *lines, const char *trouble) {
    erase();
    int row = 0;
    for (const char *at = lines; *at && row < LINES - 1; row++) {
        size_t bytes = strcspn(at, "\n");
        bool is_head = strncmp(at, "COMPONENT", 9) == 0 || strncmp(at, "CARD ", 5) == 0;
        if (is_head) attron(A_REVERSE);
        mvaddnstr(row, 0, at, bytes < (size_t) COLS ? (int) bytes : COLS);
        if (is_head) attroff(A_REVERSE);
        at += bytes;
        if (*at) at++;
    }
    attron(A_DIM);
    mvaddnstr(LINES - 1, 0, trouble[0] ? trouble : "q: quit", COLS);
    attroff(A_DIM);
    refresh();
}

/* false: the user has had enough. */
static bool wait_for_key(void) {
    timeout(REFRESH_MS);
    int key = getch();
    return key != 'q' && key != 'Q' && key != 3 && key != 4;
}

static void show(struct status_client *client, const char *url) {
    struct top_view before = {0}, now = {0};
    bool has_before = false, has_now = false;
    struct buf out;
    buf_init(&out, 0);
    do {
        struct err_text text = {0};
        struct top_view next = {0};
        if (!look(client, &text, &next)) {
            top_view_release(&before);
            before = now;
            has_before = has_now;
            now = next;
            has_now = true;
        }
        buf_clear(&out);
        if (has_now)
            top_view_print(has_before ? &before : NULL, &now, url, wall_s(), (uint32_t) COLS, &out);
        else buf_add_format(&out, "gramme top  %s\n", url);
        const char *lines = buf_string(&out);
        draw(lines ? lines : "", text.text);
    } while (wait_for_key());
    buf_release(&out);
    top_view_release(&before);
    top_view_release(&now);
}

int cmd_top(int argc, char **argv) {
    struct options *options = NULL;
    const char *positional[CMD_POSITIONAL_MAX];
    uint32_t positional_count = 0;
    int status = cmd_options(OPTION_TOP, argc, argv, &options, positional, &positional_count);
    if (status) return status;
    const char *url = options_text(options, OPT_URL);
    if (!url && positional_count == 1) url = positional[0];
    if (!url) url = URL_DEFAULT;
    const char *key = options_list_count(options, OPT_API_KEY)
                          ? options_list_item(options, OPT_API_KEY, 0)
                          : NULL;
    struct err_text text = {0};
    struct status_client *client = NULL;
    enum err e = status_client_open(url, "/gramme/status", key, &text, &client);
    const char *terminal = getenv("TERM");
    bool is_live =
        isatty(STDOUT_FILENO) && isatty(STDIN_FILENO) && terminal && strcmp(terminal, "dumb") != 0;
    SCREEN *screen = NULL;
    if (!e && is_live) {
        setlocale(LC_CTYPE, "");
        screen = newterm(NULL, stdout, stdin); /* unlike initscr it does not exit */
    }
    if (!e && screen) {
        raw(); /* Ctrl-C is a key: the screen is given back first */
        noecho();
        curs_set(0);
        show(client, url);
        endwin();
        delscreen(screen);
    } else if (!e) {
        e = print_once(client, url, &text);
    }
    status_client_close(client);
    options_destroy(options);
    return e ? cmd_fail(e, &text) : CMD_DONE;
}
