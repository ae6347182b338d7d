/* Goal: what a graph asks of the machine that it is meant for is told with code, place and words -
 * a port that is taken, an address of another machine, cards that others hold, a model that is not
 * there or not whole - and nothing of it where the graph is planned for elsewhere. */
#include <arpa/inet.h>
#include <netinet/in.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cmocka.h>

#include "plan/check.h"
#include "plan/plan_rig.h"

static void run(struct rig *rig, const char *yaml, const char *devices, bool is_elsewhere,
                const struct device_gpus *gpus) {
    read_rig(rig, GRAPH_AGG, yaml, devices);
    for (uint32_t i = 0; gpus && i < rig->devices.count; i++) /* the catalogue's, as if here */
        rig->devices.items[i].is_elsewhere = false;
    const struct check_target target = {
        .plan = &rig->target, .is_elsewhere = is_elsewhere, .gpus = gpus};
    assert_int_equal(check_graph(&rig->graph, &target, &rig->problems), ERR_OK);
    problem_sort(&rig->problems);
}

/* "error model-not-found VllmWorker model 2:10" is told, or with NULL nothing of that code. */
static void expect(const struct rig *rig, const char *code, const char *line, const char *words) {
    for (uint32_t i = 0; i < rig->problems.count; i++) {
        const struct problem *problem = &rig->problems.items[i];
        if (strcmp(problem->code, code) != 0) continue;
        static const char *const severities[] = {
            [PROBLEM_ERROR] = "error", [PROBLEM_WARNING] = "warning", [PROBLEM_NOTE] = "note"};
        char shown[300];
        snprintf(shown, sizeof shown, "%s %s %s %u:%u", severities[problem->severity],
                 problem->component, problem->key, problem->mark.line, problem->mark.column);
        if (!line || strcmp(shown, line) != 0 || !strstr(problem->message, words))
            fail_msg("%s: %s: %s", code, shown, problem->message);
        return;
    }
    if (line) fail_msg("%s is not told", code);
}

#define MODEL "VllmWorker:\n  model: SmolLM2-135M\n  load-format: dummy\n"

static void test_a_port(void **state) {
    (void) state;
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t bytes = sizeof address;
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    assert_true(fd >= 0);
    assert_int_equal(bind(fd, (const struct sockaddr *) &address, sizeof address), 0);
    assert_int_equal(listen(fd, 1), 0);
    assert_int_equal(getsockname(fd, (struct sockaddr *) &address, &bytes), 0);
    char yaml[200];
    struct rig rig;
    snprintf(yaml, sizeof yaml, MODEL "Frontend:\n  port: %u\n", ntohs(address.sin_port));
    run(&rig, yaml, NULL, false, NULL);
    expect(&rig, "port-taken", "warning Frontend port 5:9", "is taken now");
    stop(&rig);
    run(&rig, yaml, NULL, true, NULL); /* another machine's ports are not known here */
    expect(&rig, "port-taken", NULL, NULL);
    stop(&rig);
    close(fd);
    run(&rig, MODEL "Frontend:\n  host: 192.0.2.1\n  port: 0\n", NULL, false, NULL);
    expect(&rig, "no-such-address", "error Frontend host 5:9", "192.0.2.1 is no address of this");
    stop(&rig);
    run(&rig, MODEL "Frontend:\n  host: 127.0.0.1\n  port: 0\n", NULL, false, NULL);
    expect(&rig, "no-such-address", NULL, NULL);
    expect(&rig, "port-taken", NULL, NULL);
    stop(&rig);
}

static void test_cards_that_others_hold(void **state) {
    (void) state;
    static struct device_gpus gpus = {.card_count = 2};
    for (uint32_t i = 0; i < 2; i++)
        gpus.cards[i] = (struct device_gpu){.total_bytes = 40ull << 30, .free_bytes = 39ull << 30};
    gpus.cards[1].free_bytes = 10ull << 30;
    gpus.cards[1].holder_count = 1;
    gpus.cards[1].holders[0] =
        (struct device_gpu_holder){.pid = 77, .name = "train", .bytes = 29ull << 30};
    static const char yaml[] = MODEL "Frontend:\n  port: 0\n";
    struct rig rig;
    run(&rig, yaml, "2xA100-40GB", false, &gpus);
    expect(&rig, "device-taken", "warning   1:1",
           "30.0 of 40.0 GiB are taken by train pid 77 with");
    assert_int_equal(problem_count(&rig.problems, PROBLEM_WARNING),
                     1); /* the other has its driver */
    stop(&rig);
    run(&rig, yaml, "2xA100-40GB", true, &gpus);
    expect(&rig, "device-taken", NULL, NULL);
    stop(&rig);
}

static void test_a_model_that_is_not_whole(void **state) {
    (void) state;
    char folder[] = "/tmp/check_machine_XXXXXX", path[64], yaml[200];
    assert_non_null(mkdtemp(folder));
    struct rig rig;
    snprintf(yaml, sizeof yaml, "VllmWorker:\n  model: %s/absent\n", folder);
    run(&rig, yaml, NULL, false, NULL);
    expect(&rig, "model-not-found", "error VllmWorker model 2:10", "no such file or folder");
    stop(&rig);
    run(&rig, yaml, "1xL4", true, NULL);
    expect(&rig, "model-not-found", NULL, NULL);
    expect(&rig, "model-elsewhere", "note VllmWorker model 2:10", "is not on this machine");
    stop(&rig);
    snprintf(path, sizeof path, "%s/config.json", folder);
    FILE *file = fopen(path, "w");
    assert_non_null(file);
    fprintf(file, "{\"architectures\":[\"LlamaForCausalLM\"],\"model_type\":\"llama\",");
    fprintf(file, "\"hidden_size\":64,\"intermediate_size\":192,\"num_attention_heads\":4,"
                  "\"num_key_value_heads\":2,\"num_hidden_layers\":2,\"vocab_size\":256,"
                  "\"max_position_embeddings\":512,\"rms_norm_eps\":1e-5}");
    assert_int_equal(fclose(file), 0);
    snprintf(yaml, sizeof yaml, "VllmWorker:\n  model: %s\n", folder);
    run(&rig, yaml, NULL, false, NULL);
    expect(&rig, "model-unreadable", "error VllmWorker model 2:10",
           "tokenizer.json is missing too");
    stop(&rig);
    assert_int_equal(unlink(path), 0);
    assert_int_equal(rmdir(folder), 0);
}

/* --shape says what a path is; that no file of it was looked at is told. */
static void test_a_shape_alone(void **state) {
    (void) state;
    struct rig rig;
    struct err_text text;
    struct options *flags;
    read_rig(&rig, GRAPH_AGG, "VllmWorker:\n  model: /nope/ours\n", "1xL4");
    assert_int_equal(options_create(OPTION_CHECK, &flags), ERR_OK);
    assert_int_equal(
        options_set(flags, OPT_SHAPE, "/nope/ours=Llama-3.1-8B", SOURCE_FLAG, "shape", &text),
        ERR_OK);
    rig.target.flags = flags;
    const struct check_target target = {.plan = &rig.target, .is_elsewhere = true};
    assert_int_equal(check_graph(&rig.graph, &target, &rig.problems), ERR_OK);
    expect(&rig, "model-elsewhere", "note VllmWorker model 2:10", "its files were not looked at");
    assert_int_equal(problem_count(&rig.problems, PROBLEM_ERROR), 0);
    stop(&rig);
    options_destroy(flags);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_a_port),
        cmocka_unit_test(test_cards_that_others_hold),
        cmocka_unit_test(test_a_model_that_is_not_whole),
        cmocka_unit_test(test_a_shape_alone),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
