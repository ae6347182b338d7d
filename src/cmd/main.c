/* main - the only main(): finds the subcommand and calls it. */
#include <stdio.h>
#include <string.h>

int main(int argc, char **argv) {
    if (argc == 2 && strcmp(argv[1], "version") == 0) {
        puts("gramme " GRAMME_VERSION);
        return 0;
    }
    fputs("usage: gramme COMMAND ...\n", stderr);
    return 2;
}
