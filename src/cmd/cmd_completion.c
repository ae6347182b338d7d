/* cmd_completion - prints a completion script for bash, made from the option table. */
#include <stdio.h>

#include "cmd/cmd.h"

#define GRAPHS "agg agg_router disagg disagg_router"

static const struct {
    const char *name;
    unsigned command;
    const char *words; /* what may follow it; "": a file */
} commands[] = {
    {"run", OPTION_RUN, ""},           {"chat", OPTION_CHAT, ""},
    {"serve", OPTION_SERVE, GRAPHS},   {"frontend", OPTION_FRONTEND, GRAPHS},
    {"worker", OPTION_WORKER, GRAPHS}, {"prefill", OPTION_WORKER, GRAPHS},
    {"top", OPTION_TOP, ""},           {"plan", OPTION_PLAN, GRAPHS},
    {"check", OPTION_CHECK, GRAPHS},   {"bench", OPTION_BENCH, "engine load router serve xfer"},
    {"tokenize", OPTION_TOKENIZE, ""}, {"render", OPTION_RENDER, ""},
    {"doctor", OPTION_DOCTOR, ""},
};

static void print_commands(void) {
    for (size_t i = 0; i < ARRAY_COUNT(commands); i++) printf("%s ", commands[i].name);
}

int cmd_completion(int argc, char **argv) {
    (void) argc;
    (void) argv;
    fputs("# bash completion for gramme\n"
          "_gramme() {\n"
          "    local word=${COMP_WORDS[COMP_CWORD]} before=${COMP_WORDS[COMP_CWORD-1]} flags= "
          "words=\n"
          "    if [ \"$COMP_CWORD\" -eq 1 ]; then\n"
          "        COMPREPLY=($(compgen -W \"",
          stdout);
    print_commands();
    puts("help version completion\" -- \"$word\"))\n"
         "        return\n"
         "    fi\n"
         "    case ${COMP_WORDS[1]} in");
    for (size_t i = 0; i < ARRAY_COUNT(commands); i++) {
        printf("    %s) words=\"%s\" flags=\"", commands[i].name, commands[i].words);
        for (int id = 0; id < OPT_COUNT; id++) {
            const struct option *option = option_get((enum option_id) id);
            /* What has no effect here is accepted and not offered. */
            if (option->commands & commands[i].command && option->standing == OPTION_HONOURED)
                printf("--%s ", option->name);
        }
        puts("\" ;;");
    }
    fputs("    help) words=\"", stdout);
    print_commands();
    puts("help version completion\" ;;\n"
         "    esac\n"
         "    case $before in\n"
         "    -m|--model|--input|--template|--api-key-file|-f|--file|-o|--output|--bus-*-file)\n"
         "        COMPREPLY=($(compgen -f -- \"$word\")); return ;;\n"
         "    esac\n"
         "    if [[ $word == -* ]]; then COMPREPLY=($(compgen -W \"$flags\" -- \"$word\"))\n"
         "    elif [ \"$COMP_CWORD\" -eq 2 ] && [ -n \"$words\" ]; then\n"
         "        COMPREPLY=($(compgen -W \"$words\" -- \"$word\"))\n"
         "    else COMPREPLY=($(compgen -f -- \"$word\")); fi\n"
         "}\n"
         "complete -F _gramme gramme");
    return CMD_DONE;
}
