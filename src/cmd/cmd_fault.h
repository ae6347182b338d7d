/* cmd_fault - a bus error tells its cause before it ends the process.
 *
 * Weights are mapped: who cuts their file short while it is read takes pages away that were there
 * when it was opened, and the kernel answers the next look at them with SIGBUS.  /dev/shm that is
 * full does the same to what workers share.  The process still ends by the signal; its last line
 * says of which file it was. */
#ifndef GRAMME_CMD_CMD_FAULT_H
#define GRAMME_CMD_CMD_FAULT_H

#include "model/model.h"

/* Once, in main. */
void cmd_fault_install(void);
/* The model's mapped files are known from now on; their names are kept. */
void cmd_fault_know(const struct model *model);

#endif
