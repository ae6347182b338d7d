/* cmd_completion - prints a completion script for bash, made from the option table. */
#include <stdio.h>

#include "cmd/cmd.h"

int cmd_completion(int argc, char **argv) {
    (void) argc;
    (void) argv;
    static const struct {
        const char *name;
        unsigned command;
    } commands[] = {
        {"run", OPTION_RUN},           {"chat", OPTION_CHAT},         {"serve", OPTION_SERVE},
        {"frontend", OPTION_FRONTEND}, {"worker", OPTION_WORKER},     {"prefill", OPTION_WORKER},
        {"top", OPTION_TOP},           {"plan", OPTION_PLAN},         {"check", OPTION_CHECK},
        {"bench", OPTION_BENCH},       {"tokenize", OPTION_TOKENIZE}, {"render", OPTION_RENDER},
        {"doctor", OPTION_DOCTOR}};
    puts("# bash completion for gramme\n"
         "_gramme() {\n"
         "    local word=${COMP_WORDS[COMP_CWORD]} before=${COMP_WORDS[COMP_CWORD-1]} flags=\n"
         "    if [ \"$COMP_CWORD\" -eq 1 ]; then\n"
         "        COMPREPLY=($(compgen -W \"run chat serve frontend worker prefill top plan bench "
         "tokenize render doctor help "
         "version\" "
         "-- \"$word\"))\n"
         "        return\n"
         "    fi\n"
         "    case ${COMP_WORDS[1]} in");
    for (size_t i = 0; i < ARRAY_COUNT(commands); i++) {
        printf("    %s) flags=\"", commands[i].name);
        for (int id = 0; id < OPT_COUNT; id++)
            if (option_get((enum option_id) id)->commands & commands[i].command)
                printf("--%s ", option_get((enum option_id) id)->name);
        puts("\" ;;");
    }
    puts("    esac\n"
         "    case $before in\n"
         "    "
         "-m|--model|--input|--template|--api-key-file|-f|--file|--bus-token-file|--bus-ca-file|--"
         "bus-cert-file|--bus-key-file) COMPREPLY=($(compgen -f -- \"$word\")); "
         "return ;;\n"
         "    esac\n"
         "    if [[ $word == -* ]]; then COMPREPLY=($(compgen -W \"$flags\" -- \"$word\"))\n"
         "    else COMPREPLY=($(compgen -f -- \"$word\")); fi\n"
         "}\n"
         "complete -F _gramme gramme");
    return CMD_DONE;
}
