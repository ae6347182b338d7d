/* main - the only main(): finds the subcommand and calls it. */
#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "cmd/cmd.h"
#include "cmd/cmd_fault.h"
#include "cmd/cmd_memory.h"
#include "model/model_resolve.h"

static const struct {
    const char *name;
    int (*run)(int argc, char **argv);
} commands[] = {
    {"run", cmd_run},           {"chat", cmd_chat},
    {"serve", cmd_serve},       {"frontend", cmd_frontend},
    {"worker", cmd_worker},     {"prefill", cmd_prefill},
    {"plan", cmd_plan},         {"check", cmd_check},
    {"bench", cmd_bench},       {"top", cmd_top},
    {"tokenize", cmd_tokenize}, {"render", cmd_render},
    {"doctor", cmd_doctor},     {"help", cmd_help},
    {"version", cmd_version},   {"completion", cmd_completion},
};

/* A word that is no command: say which one was meant. */
static int unknown_command(const char *word) {
    struct stat status;
    size_t bytes = strlen(word);
    if (stat(word, &status) == 0 || (bytes > 5 && strcmp(word + bytes - 5, ".gguf") == 0) ||
        (strchr(word, '/') && word[0] != '-')) {
        fprintf(stderr, "gramme: '%s' looks like a model; try: gramme run -m %s \"prompt\"\n", word,
                word);
        return CMD_USAGE;
    }
    for (size_t i = 0; i < ARRAY_COUNT(commands); i++)
        if (strncmp(commands[i].name, word, 2) == 0) {
            fprintf(stderr, "gramme: unknown command '%s'; did you mean '%s'?\n", word,
                    commands[i].name);
            return CMD_USAGE;
        }
    fprintf(stderr, "gramme: unknown command '%s'; see 'gramme help'\n", word);
    return CMD_USAGE;
}

/* What was printed must have arrived, but for a reader who has left (`| head`). */
static int finish(int status) {
    if (!fflush(stdout) && !ferror(stdout)) return status;
    int why = errno;
    struct pollfd look = {.fd = STDOUT_FILENO, .events = POLLOUT};
    if (poll(&look, 1, 0) == 1 && look.revents & (POLLERR | POLLHUP)) return status;
    fprintf(stderr, "gramme: cannot write to standard output: %s\n", strerror(why));
    return status == CMD_DONE ? CMD_FAILED : status;
}

static void on_end(int number) { _exit(128 + number); }

/* The first process of a container gets no default actions, and every orphan.  Subcommands that
 * drain, or that have children of their own, set their own handlers over these. */
static void be_first_process(void) {
    signal(SIGTERM, on_end);
    signal(SIGINT, on_end);
    signal(SIGCHLD, SIG_IGN); /* orphans are reaped by the kernel */
}

int main(int argc, char **argv) {
    /* A reader that leaves is an error of write(), not a death (behaviour.md 4). */
    signal(SIGPIPE, SIG_IGN);
    cmd_memory_configure();
    cmd_fault_install();
    if (getpid() == 1) be_first_process();
    model_resolve_configure(getenv("HF_HUB_CACHE"), getenv("HF_HOME"), getenv("XDG_CACHE_HOME"),
                            getenv("HOME"));
    if (argc < 2) {
        cmd_help(0, NULL);
        return CMD_USAGE;
    }
    const char *word = argv[1];
    if (strcmp(word, "--help") == 0 || strcmp(word, "-h") == 0) word = "help";
    if (strcmp(word, "--version") == 0 || strcmp(word, "-V") == 0) word = "version";
    for (size_t i = 0; i < ARRAY_COUNT(commands); i++) {
        if (strcmp(commands[i].name, word) != 0) continue;
        if (argc > 2 && (strcmp(argv[2], "--help") == 0 || strcmp(argv[2], "-h") == 0))
            return finish(cmd_help(1, argv + 1));
        return finish(commands[i].run(argc - 2, argv + 2));
    }
    return unknown_command(word);
}
