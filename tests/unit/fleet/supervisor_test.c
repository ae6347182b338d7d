/* The supervisor over small shell programs in place of gramme: what crashes is started again, what
 * fails for good is not, when nothing can serve it ends with status 1, a drain goes frontends first
 * and ends what does not go by itself; nothing is left running.  No bus is there: none is needed. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>
#include <uv.h>

#include "base/log.h"
#include "fleet/supervisor.h"

struct bench {
    char folder[64], program[96];
    uv_loop_t loop;
    uv_timer_t deadline;
    struct terminal *terminal;
    struct options *options;
    struct supervisor *supervisor;
    int status;
    int out[2];
};

/* $1: worker or frontend; $2: its name.  Reports go to fd 4. */
static void write_program(struct bench *bench, const char *script) {
    snprintf(bench->folder, sizeof bench->folder, "/tmp/gramme-fleet-XXXXXX");
    assert_non_null(mkdtemp(bench->folder));
    snprintf(bench->program, sizeof bench->program, "%s/program", bench->folder);
    FILE *file = fopen(bench->program, "w");
    assert_non_null(file);
    fprintf(file, "#!/bin/sh\ncd %s\necho $$ >> pids\necho $1 >> started\n%s\n", bench->folder,
            script);
    fclose(file);
    chmod(bench->program, 0700);
}

static void close_handle(uv_handle_t *handle, void *ctx) {
    (void) ctx;
    if (!uv_is_closing(handle)) uv_close(handle, NULL);
}

static void on_over(void *ctx, int status) {
    struct bench *bench = ctx;
    bench->status = status;
    supervisor_close(bench->supervisor);
    uv_walk(&bench->loop, close_handle, NULL);
}

static void on_deadline(uv_timer_t *timer) {
    (void) timer;
    fail_msg("the supervisor did not end");
}

static void begin(struct bench *bench, const char *script) {
    *bench = (struct bench){.status = -1};
    write_program(bench, script);
    assert_int_equal(pipe(bench->out), 0);
    assert_int_equal(terminal_create(bench->out[1], &bench->terminal), ERR_OK);
    assert_int_equal(options_create(OPTION_SERVE, &bench->options), ERR_OK);
    uv_loop_init(&bench->loop);
    uv_timer_init(&bench->loop, &bench->deadline);
    uv_timer_start(&bench->deadline, on_deadline, 60000, 0);
    static char *environment[] = {NULL};
    struct supervisor_options options = {.loop = &bench->loop,
                                         .terminal = bench->terminal,
                                         .program = bench->program,
                                         .environment = environment,
                                         .bus = {.url = "nats://127.0.0.1:1",
                                                 .name_space = "test",
                                                 .ring_messages_max = 16,
                                                 .ring_bytes_max = 65536},
                                         .restart_limit = 2,
                                         .drain_ms = 100,
                                         .grace_ms = 500,
                                         .on_over = on_over,
                                         .ctx = bench};
    struct supervisor_component components[] = {
        {.role = UNIT_WORKER, .name = "VllmWorker.0", .options = bench->options},
        {.role = UNIT_FRONTEND, .name = "Frontend.0", .options = bench->options},
    };
    struct err_text text;
    assert_int_equal(supervisor_create(&options, components, 2, &text, &bench->supervisor), ERR_OK);
}

static bool has_line(const struct bench *bench, const char *file, const char *wanted,
                     uint32_t count) {
    char path[128], line[128];
    snprintf(path, sizeof path, "%s/%s", bench->folder, file);
    FILE *in = fopen(path, "r");
    if (!in) return count == 0;
    uint32_t seen = 0;
    while (fgets(line, sizeof line, in)) seen += strncmp(line, wanted, strlen(wanted)) == 0;
    fclose(in);
    return seen == count;
}

static void end(struct bench *bench) {
    char path[128], line[64];
    terminal_destroy(bench->terminal, 60000);
    supervisor_destroy(bench->supervisor);
    options_destroy(bench->options);
    assert_int_equal(uv_loop_close(&bench->loop), 0);
    snprintf(path, sizeof path, "%s/pids", bench->folder);
    FILE *in = fopen(path, "r");
    assert_non_null(in);
    while (fgets(line, sizeof line, in)) /* all are gone and reaped */
        assert_true(kill((pid_t) strtol(line, NULL, 10), 0) == -1 && errno == ESRCH);
    fclose(in);
    assert_int_equal(waitpid(-1, NULL, WNOHANG), -1);
    static const char *const files[] = {"pids", "started", "ended", "program"};
    for (size_t i = 0; i < ARRAY_COUNT(files); i++) {
        snprintf(path, sizeof path, "%s/%s", bench->folder, files[i]);
        unlink(path);
    }
    assert_int_equal(rmdir(bench->folder), 0);
    close(bench->out[0]);
    close(bench->out[1]);
}

static void test_fails_for_good(void **state) {
    (void) state;
    struct bench bench;
    begin(&bench, "if [ $1 = worker ]; then echo 'F 1 no such model' >&4; exit 1; fi\n"
                  "trap 'exit 0' TERM; while :; do sleep 0.01; done");
    uv_run(&bench.loop, UV_RUN_DEFAULT);
    assert_int_equal(bench.status, 1);
    assert_true(has_line(&bench, "started", "worker", 1));
    end(&bench);
}

static void test_limit(void **state) {
    (void) state;
    struct bench bench;
    begin(&bench, "[ $1 = worker ] && exit 1\n"
                  "trap 'exit 0' TERM; while :; do sleep 0.01; done");
    uv_run(&bench.loop, UV_RUN_DEFAULT);
    assert_int_equal(bench.status, 1);
    assert_true(has_line(&bench, "started", "worker", 3)); /* once, and twice again */
    assert_true(has_line(&bench, "started", "frontend", 1));
    end(&bench);
}

static void drain_soon(uv_timer_t *timer) {
    struct bench *bench = timer->data;
    /* when both are there */
    if (has_line(bench, "started", "worker", 1) && has_line(bench, "started", "frontend", 1)) {
        uv_timer_stop(timer);
        supervisor_drain(bench->supervisor);
        assert_true(supervisor_is_draining(bench->supervisor));
    }
}

static void drain(const char *script) {
    struct bench bench;
    begin(&bench, script);
    uv_timer_t timer;
    uv_timer_init(&bench.loop, &timer);
    timer.data = &bench;
    uv_timer_start(&timer, drain_soon, 20, 20);
    uv_run(&bench.loop, UV_RUN_DEFAULT);
    assert_int_equal(bench.status, 0);
    char path[128], first[64] = "", second[64] = "";
    snprintf(path, sizeof path, "%s/ended", bench.folder);
    FILE *in = fopen(path, "r");
    if (in) {
        assert_non_null(fgets(first, sizeof first, in));
        assert_non_null(fgets(second, sizeof second, in));
        assert_string_equal(first, "frontend\n");
        assert_string_equal(second, "worker\n");
        fclose(in);
    }
    end(&bench);
}

static void test_drain_order(void **state) {
    (void) state;
    drain("role=$1; trap 'sleep 0.05; echo $role >> ended; exit 0' TERM\n"
          "echo 'R here' >&4; while :; do sleep 0.01; done");
}

static void test_drain_of_stopped(void **state) {
    (void) state;
    drain("trap '' TERM; kill -STOP $$; while :; do sleep 0.01; done");
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_fails_for_good), cmocka_unit_test(test_limit),
        cmocka_unit_test(test_drain_order), cmocka_unit_test(test_drain_of_stopped)};
    log_configure(LOG_ERROR, LOG_HUMAN, NULL);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
