/* device_card - see device_card.h.
 *
 * Sources.  total: 39.39 GiB of the A100-40GB is that of the story in docs; the others are what
 * "CUDA out of memory ... total capacity of" says of such cards in public reports (2023 to 2026),
 * the least where drivers differ, which they do by tens of MiB; it is less than the label, for ECC
 * and the driver take their part.  Measured here by cudaMemGetInfo, driver 580.159.04: the H200
 * (143155.94 MiB) and the H100 SXM (81079.00 MiB).  A plan for another card is an estimate until
 * doctor has seen it.  Bandwidth, rates of products (dense: half of what is printed "with
 * sparsity"; sums in 32 bits) and link: the makers' data sheets; NVLink one direction, else the
 * PCIe slot; of the B200 those of the HGX board (180 GB, 7.7 TB/s). */
#include "device/device_card.h"

#include <stddef.h>
#include <string.h>
#include <strings.h>

#include "base/check.h"

#define GIB(n) ((uint64_t) ((n) *1073741824.0))

/* clang-format off */
static const struct device_card cards[] = {
    /* name           total            GB/s   bf16    fp8   int8   peer  a node */
    {"A100-40GB",      GIB(39.39),      1555,   312,     0,   624,   300, 8},
    {"A100-80GB",      GIB(79.14),      2039,   312,     0,   624,   300, 8},
    {"A100-PCIE-40GB", GIB(39.39),      1555,   312,     0,   624,    32, 8}, /* no NVLink but between pairs */
    {"A100-PCIE-80GB", GIB(79.14),      1935,   312,     0,   624,    32, 8}, /* as above */
    {"A800-80GB",      GIB(79.14),      2039,   312,     0,   624,   200, 8},
    {"H100-80GB",      GIB(79.17),      3350,   989,  1979,  1979,   450, 8}, /* SXM */
    {"H100-PCIE",      GIB(79.10),      2000,   756,  1513,  1513,    64, 8},
    {"H100-NVL",       GIB(93.00),      3938,   835,  1671,  1671,   300, 8},
    {"H800-80GB",      GIB(79.10),      3350,   989,  1979,  1979,   200, 8},
    {"H200",           GIB(139.80),     4800,   989,  1979,  1979,   450, 8},
    {"H20",            GIB(95.00),      4000,   148,   296,   296,   450, 8},
    {"B200",           GIB(178.34),     7700,  2250,  4500,  4500,   900, 8},
    {"GB200",          GIB(184.31),     8000,  2500,  5000,  5000,   900, 4},
    {"L4",             GIB(21.95),       300,   121,   242,   242,    32, 8},
    {"L40S",           GIB(44.39),       864,   362,   733,   733,    32, 8},
    {"A10",            GIB(21.98),       600,   125,     0,   250,    32, 8},
    {"A10G",           GIB(21.98),       600,    70,     0,   140,    32, 8}, /* of one cloud: half the tensor cores' rate */
    {"A30",            GIB(23.49),       933,   165,     0,   330,    32, 8},
    {"RTX3090",        GIB(23.67),       936,    71,     0,   284,    32, 8},
    {"RTX4090",        GIB(23.52),      1008,   165,   330,   660,    32, 8}, /* no peer access: through the host */
    {"RTX5090",        GIB(31.35),      1792,   209,   419,   838,    64, 8}, /* as above */
    {"V100-16GB",      GIB(15.77),       900,   125,     0,     0,   150, 8}, /* fp16 */
    {"V100-32GB",      GIB(31.73),       900,   125,     0,     0,   150, 8}, /* fp16 */
    {"T4",             GIB(14.56),       320,    65,     0,   130,    16, 8}, /* fp16 */
};

static const struct {
    const char *alias, *name;
} aliases[] = {
    {"A100-SXM4-40GB", "A100-40GB"}, {"A100-SXM4-80GB", "A100-80GB"}, 
    {"A800", "A800-80GB"}, {"H100", "H100-80GB"},
    {"H100-SXM", "H100-80GB"}, {"H100-SXM5", "H100-80GB"}, {"H100-SXM5-80GB", "H100-80GB"},
    {"H100-SXM-80GB", "H100-80GB"}, {"H100-PCIE-80GB", "H100-PCIE"}, {"H100-NVL-94GB", "H100-NVL"},
    {"H800", "H800-80GB"}, {"H200-141GB", "H200"}, {"H200-SXM", "H200"}, {"H20-96GB", "H20"},
    {"B200-180GB", "B200"}, {"B200-192GB", "B200"}, {"L4-24GB", "L4"}, {"L40S-48GB", "L40S"},
    {"A10-24GB", "A10"}, {"A10G-24GB", "A10G"}, {"A30-24GB", "A30"}, {"3090", "RTX3090"},
    {"RTX-3090", "RTX3090"}, {"4090", "RTX4090"}, {"RTX-4090", "RTX4090"}, {"5090", "RTX5090"},
    {"RTX-5090", "RTX5090"}, {"V100", "V100-16GB"}, {"V100-SXM2-16GB", "V100-16GB"},
    {"V100-SXM2-32GB", "V100-32GB"}, {"T4-16GB", "T4"},
};
/* clang-format on */

const struct device_card *device_card_find(const char *name) {
    for (size_t i = 0; i < ARRAY_COUNT(aliases); i++)
        if (strcasecmp(aliases[i].alias, name) == 0) name = aliases[i].name;
    for (size_t i = 0; i < ARRAY_COUNT(cards); i++)
        if (strcasecmp(cards[i].name, name) == 0) return &cards[i];
    return NULL;
}

const struct device_card *device_card_get(uint32_t index) {
    return index < ARRAY_COUNT(cards) ? &cards[index] : NULL;
}

#define NAME_BYTES_MAX 32

/* Edits between two short names, case apart. */
static unsigned distance(const char *a, const char *b) {
    unsigned row[NAME_BYTES_MAX + 1];
    size_t a_bytes = strlen(a), b_bytes = strlen(b);
    if (a_bytes > NAME_BYTES_MAX || b_bytes > NAME_BYTES_MAX) return 99;
    for (unsigned j = 0; j <= b_bytes; j++) row[j] = j;
    for (size_t i = 0; i < a_bytes; i++) {
        unsigned diagonal = row[0];
        row[0] = (unsigned) i + 1;
        for (size_t j = 0; j < b_bytes; j++) {
            unsigned best = diagonal + ((a[i] | 32) != (b[j] | 32));
            if (row[j] + 1 < best) best = row[j] + 1;
            if (row[j + 1] + 1 < best) best = row[j + 1] + 1;
            diagonal = row[j + 1];
            row[j + 1] = best;
        }
    }
    return row[b_bytes];
}

const char *device_card_suggest(const char *name) {
    const char *best = NULL;
    unsigned best_distance = 5;
    size_t bytes = strlen(name);
    for (size_t i = 0; bytes && i < ARRAY_COUNT(cards); i++) {
        unsigned d = distance(name, cards[i].name);
        if (bytes >= 3 && strncasecmp(name, cards[i].name, bytes) == 0) d = 1;
        if (d >= best_distance) continue;
        best_distance = d;
        best = cards[i].name;
    }
    return best;
}
