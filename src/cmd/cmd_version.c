/* cmd_version - gramme version. */
#include <stdio.h>

#include "cmd/cmd.h"

int cmd_version(int argc, char **argv) {
    (void) argc;
    (void) argv;
    puts("gramme " GRAMME_VERSION);
    return CMD_DONE;
}
