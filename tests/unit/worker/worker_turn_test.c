/* worker_turn: as many turns as were asked for, a turn given back is free again, and so is one
 * whose holder was killed. */
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "worker/worker_turn.h"

static char path[] = "/proc/self/exe"; /* of a disk, or of none: any will do */

static void turns_are_counted(void **unused) {
    struct worker_turn turns[3], one_more;
    for (int i = 0; i < 3; i++) {
        assert_true(worker_turn_try(path, 3, &turns[i]));
        if (turns[i].fd < 0) skip(); /* no such sockets here */
    }
    assert_false(worker_turn_try(path, 3, &one_more));
    assert_int_equal(one_more.fd, -1);
    worker_turn_give(&turns[1]);
    worker_turn_give(&turns[1]);
    assert_true(worker_turn_try(path, 3, &one_more));
    assert_true(one_more.fd >= 0);
    worker_turn_give(&one_more);
    worker_turn_give(&turns[0]);
    worker_turn_give(&turns[2]);
    assert_true(worker_turn_try(path, 0, &one_more)); /* any number: nothing is held */
    assert_int_equal(one_more.fd, -1);
    assert_true(worker_turn_try("/nowhere/at/all", 1, &one_more));
    assert_int_equal(one_more.fd, -1);
}

static void a_killed_holder_leaves_nothing(void **unused) {
    int ready[2];
    assert_int_equal(pipe(ready), 0);
    pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0) {
        struct worker_turn turn;
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        char held = worker_turn_try(path, 1, &turn) && turn.fd >= 0;
        if (write(ready[1], &held, 1) != 1) _exit(1);
        for (;;) pause();
    }
    char held = 0;
    assert_int_equal(read(ready[0], &held, 1), 1);
    struct worker_turn turn;
    if (held) assert_false(worker_turn_try(path, 1, &turn));
    kill(child, SIGKILL);
    assert_int_equal(waitpid(child, NULL, 0), child);
    assert_true(worker_turn_try(path, 1, &turn));
    worker_turn_give(&turn);
    close(ready[0]);
    close(ready[1]);
}

static void dummy_weights_need_none(void **unused) {
    struct model_open_options open = {
        .is_dummy = true, .dummy_type = TENSOR_BF16, .shape = "tiny-llama-test"};
    struct model *model;
    struct err_text text;
    assert_int_equal(model_open("test", &open, &text, &model), ERR_OK);
    assert_null(model_weights_path(model, 0));
    assert_int_equal(worker_turn_choose(model), 0);
    model_close(model);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(turns_are_counted),
        cmocka_unit_test(a_killed_holder_leaves_nothing),
        cmocka_unit_test(dummy_weights_need_none),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
