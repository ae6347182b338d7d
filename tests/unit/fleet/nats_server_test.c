/* The private nats-server's pieces: the program is found or named, the configuration quotes its
 * strings, listen addresses are read, a free port is free, its chatter is kept back. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/alloc.h"
#include "fleet/nats_server.h"

static void test_find(void **state) {
    (void) state;
    char folder[] = "/tmp/gramme-nats-XXXXXX", file[64], path[128], out[512];
    struct err_text text;
    assert_non_null(mkdtemp(folder));
    snprintf(file, sizeof file, "%s/nats-server", folder);
    FILE *made = fopen(file, "w");
    assert_non_null(made);
    fclose(made);
    chmod(file, 0700);
    snprintf(path, sizeof path, "::/nowhere:%s", folder);
    assert_int_equal(nats_server_find(path, &text, out), ERR_OK);
    assert_string_equal(out, file);
    unlink(file);
    rmdir(folder);
    if (nats_server_find(NULL, &text, out)) assert_non_null(strstr(text.text, "apt-get install"));
}

static void test_config(void **state) {
    (void) state;
    struct nats_server_options options = {.host = "127.0.0.1",
                                          .port = 4222,
                                          .token = "a\"b\\c",
                                          .ca_file = "",
                                          .cert_file = "",
                                          .key_file = ""};
    struct err_text text;
    int fd = -1;
    assert_int_equal(nats_server_write_config(&options, &text, &fd), ERR_OK);
    char config[4096] = {0};
    assert_true(pread(fd, config, sizeof config - 1, 0) > 0);
    close(fd);
    assert_non_null(strstr(config, "token: \"a\\\"b\\\\c\""));
    assert_non_null(strstr(config, "port: 4222"));
    assert_non_null(strstr(config, "max_payload: 8388608"));
    assert_null(strstr(config, "tls"));
    for (uint64_t n = 1;; n++) {
        alloc_fail_at(n, 0);
        enum err e = nats_server_write_config(&options, &text, &fd);
        uint64_t asked = alloc_count();
        alloc_fail_at(0, 0);
        if (asked < n) {
            assert_int_equal(e, ERR_OK);
            close(fd);
            break;
        }
        assert_int_equal(e, ERR_MEMORY);
    }
}

static void test_listen(void **state) {
    (void) state;
    char host[128];
    uint16_t port;
    struct err_text text;
    assert_int_equal(nats_server_parse_listen("10.0.0.1:4222", &text, host, &port), ERR_OK);
    assert_string_equal(host, "10.0.0.1");
    assert_int_equal(port, 4222);
    assert_int_equal(nats_server_parse_listen("[::1]:1", &text, host, &port), ERR_OK);
    assert_string_equal(host, "::1");
    static const char *const wrong[] = {
        "",           ":4222",          "10.0.0.1",    "10.0.0.1:", "node:1",
        "10.0.0.1:0", "10.0.0.1:65536", "10.0.0.1:4x", "[]:4222",   "10.0.0.1 :1"};
    for (size_t i = 0; i < ARRAY_COUNT(wrong); i++)
        assert_int_equal(nats_server_parse_listen(wrong[i], &text, host, &port), ERR_USAGE);
}

static void test_port(void **state) {
    (void) state;
    struct err_text text;
    uint16_t port = 0;
    assert_int_equal(nats_server_pick_port("127.0.0.1", &text, &port), ERR_OK);
    assert_true(port >= 1024 && port < 32768);
    assert_false(nats_server_is_up("127.0.0.1", port));
    assert_int_equal(nats_server_check_port("127.0.0.1", port, &text), ERR_OK);
    assert_int_equal(nats_server_check_port("203.0.113.7", port, &text), ERR_IO);
    assert_non_null(strstr(text.text, "203.0.113.7"));
    assert_int_equal(nats_server_pick_port("203.0.113.7", &text, &port), ERR_IO); /* not ours */
}

static void test_lines(void **state) {
    (void) state;
    assert_false(nats_server_is_line_shown("[12] [INF] Server is ready"));
    assert_false(nats_server_is_line_shown("[12] [WRN] Plaintext passwords detected, use nkeys"));
    assert_true(nats_server_is_line_shown("[12] [ERR] something"));
    assert_true(nats_server_is_line_shown("nats-server: cannot read"));
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_find), cmocka_unit_test(test_config),
                                       cmocka_unit_test(test_listen), cmocka_unit_test(test_port),
                                       cmocka_unit_test(test_lines)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
