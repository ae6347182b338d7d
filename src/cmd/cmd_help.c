/* cmd_help - gramme help [COMMAND], gramme version. */
#include <stdio.h>
#include <string.h>

#include "cmd/cmd.h"

static const char screen[] =
    "gramme serves large language models behind the OpenAI API, on a CPU or on many GPUs.\n"
    "\n"
    "  gramme run -m MODEL \"prompt\"        one answer in this terminal\n"
    "  gramme chat [-m MODEL | --url URL]  talk to a model, here or on a server\n"
    "  gramme serve [GRAPH] -m MODEL       the OpenAI API on http://127.0.0.1:8000\n"
    "  gramme frontend|worker|prefill      one process of a graph, on any node (--join)\n"
    "  gramme top [--url URL]              what a server does now, live\n"
    "  gramme plan -m MODEL [--explain]    the memory it will use, before a byte is loaded;\n"
    "                                      --input-len N: how fast, and how to split the cards\n"
    "  gramme check GRAPH -f FILE          what is wrong with a graph file, and how to mend it\n"
    "  gramme bench engine|load|router|serve|xfer   measure\n"
    "  gramme tokenize -m MODEL            text on stdin to token ids\n"
    "  gramme render -m MODEL --input F    messages to the prompt's bytes\n"
    "  gramme doctor                       this machine: what to mend before serving\n"
    "  gramme help COMMAND                 the options of a command\n"
    "  gramme completion                   a completion script for bash\n"
    "  gramme version\n"
    "\n"
    "MODEL is a Hugging Face directory, a GGUF file, org/name in the Hugging Face cache, or a\n"
    "known shape with --load-format dummy.  GRAPH: agg (default), agg_router, disagg, "
    "disagg_router.\n"
    "Every option is also a variable GRAMME_NAME.\n";

static const struct {
    const char *name;
    unsigned command;
    const char *usage;
} topics[] = {
    {"run", OPTION_RUN, "gramme run -m MODEL [OPTIONS] [PROMPT]   (no PROMPT or '-': stdin)"},
    {"chat", OPTION_CHAT, "gramme chat [-m MODEL | --url URL] [OPTIONS]"},
    {"serve", OPTION_SERVE,
     "gramme serve [GRAPH] (-m MODEL | -f FILE) [OPTIONS] [--Section.key=value ...]"},
    {"frontend", OPTION_FRONTEND, "gramme frontend [GRAPH] --join URL (-m MODEL | -f FILE)"},
    {"worker", OPTION_WORKER, "gramme worker [GRAPH] --join URL (-m MODEL | -f FILE)"},
    {"prefill", OPTION_WORKER, "gramme prefill [GRAPH] --join URL (-m MODEL | -f FILE)"},
    {"top", OPTION_TOP, "gramme top [--url URL]   (default http://127.0.0.1:8000; q quits)"},
    {"plan", OPTION_PLAN,
     "gramme plan [GRAPH] (-f FILE | -m MODEL) [--devices 16xA100-40GB] [OPTIONS]"},
    {"check", OPTION_CHECK, "gramme check [GRAPH] -f FILE|- [--devices 16xA100-40GB] [OPTIONS]"},
    {"bench", OPTION_BENCH,
     "gramme bench engine|load -m MODEL [OPTIONS] | gramme bench router|serve|xfer --help"},
    {"tokenize", OPTION_TOKENIZE, "gramme tokenize -m MODEL [OPTIONS] < TEXT"},
    {"doctor", OPTION_DOCTOR, "gramme doctor [--json]"},
    {"render", OPTION_RENDER, "gramme render (-m MODEL | --template F) --input FILE"},
    {"completion", 0,
     "gramme completion   (bash: source <(gramme completion), or put it into\n"
     "       ~/.local/share/bash-completion/completions/gramme)"},
    {"version", 0, "gramme version   (the version alone, on one line)"},
    {"help", 0, "gramme help [COMMAND]"},
};

int cmd_help(int argc, char **argv) {
    if (argc == 0) {
        fputs(screen, stdout);
        return CMD_DONE;
    }
    for (size_t i = 0; i < ARRAY_COUNT(topics); i++) {
        if (strcmp(topics[i].name, argv[0]) != 0) continue;
        struct buf out;
        buf_init(&out, 0);
        options_print_help(topics[i].command, &out);
        printf("usage: %s\n%s", topics[i].usage, buf_string(&out) ? buf_string(&out) : "");
        buf_release(&out);
        return CMD_DONE;
    }
    fprintf(stderr, "gramme: no help on '%s'; see 'gramme help'\n", argv[0]);
    return CMD_USAGE;
}
