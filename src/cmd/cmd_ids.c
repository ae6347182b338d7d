/* cmd_ids - see cmd_ids.h. */
#include "cmd/cmd_ids.h"

#include <errno.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"

enum err cmd_ids_parse(const char *flag, const char *list, uint32_t vocab_size,
                       struct err_text *text, uint32_t **ids, uint32_t *count) {
    /* At most one id for every two bytes ("1,"), and one more. */
    uint32_t *found = alloc_array(strlen(list) / 2 + 1, sizeof *found);
    if (!found) return err_set(text, ERR_MEMORY, "--%s: out of memory", flag);
    uint32_t found_count = 0;
    bool wants_id = false; /* a comma stands before */
    for (const char *at = list; *at || wants_id;) {
        if (*at == ' ' || *at == '[' || *at == ']' || *at == '\n') {
            at++;
            continue;
        }
        if (*at == ',' && found_count && !wants_id) {
            wants_id = true;
            at++;
            continue;
        }
        char *end;
        errno = 0;
        unsigned long long id = strtoull(at, &end, 10);
        if (end == at || *at == '-' || *at == '+' || errno || id >= vocab_size) {
            alloc_free(found);
            return err_set(text, ERR_USAGE, "--%s: '%.20s' does not begin with a token id below %u",
                           flag, at, vocab_size);
        }
        found[found_count++] = (uint32_t) id;
        wants_id = false;
        at = end;
    }
    *ids = found;
    *count = found_count;
    return ERR_OK;
}
