/* device_card - the catalogue of real cards: what can be planned for without having it.  Pure
 * data; the sources stand in the table. */
#ifndef GRAMME_DEVICE_DEVICE_CARD_H
#define GRAMME_DEVICE_DEVICE_CARD_H

#include <stdint.h>

struct device_card {
    const char *name;         /* "A100-40GB" */
    uint64_t total_bytes;     /* usable: what cudaMemGetInfo calls total */
    double read_gb_per_s;     /* memory bandwidth, nominal, 1e9 bytes */
    double bf16_tflops;       /* dense, nominal; fp16 where the card has no bf16 */
    double fp8_tflops;        /* dense, nominal; 0: the card has no such products */
    double int8_tops;         /* as fp8 */
    double peer_gb_per_s;     /* to a card of the same node, one direction, nominal */
    uint32_t cards_of_a_node; /* as usually built */
};

/* By name or alias in any case ("h100" is H100-80GB); NULL when unknown. */
const struct device_card *device_card_find(const char *name);
/* The nearest name, for "did you mean"; NULL when none is near. */
const char *device_card_suggest(const char *name);
/* The index-th, NULL past the last. */
const struct device_card *device_card_get(uint32_t index);

#endif
