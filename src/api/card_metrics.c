/* card_metrics - see card_metrics.h. */
#include "api/card_metrics.h"

#include <unistd.h>

/* A label's value: quotes and backslashes escaped, anything that is no text a question mark. */
static void add_label(struct buf *out, const char *name, const char *value) {
    buf_add_format(out, "%s=\"", name);
    for (; *value; value++) {
        if (*value == '"' || *value == '\\') buf_add_byte(out, '\\');
        buf_add_byte(out, (unsigned char) *value < ' ' ? '?' : (uint8_t) *value);
    }
    buf_add_byte(out, '"');
}

static void add_card(struct buf *out, const char *figure, const char *node, uint32_t index,
                     const char *name, uint64_t bytes) {
    buf_add_format(out, "gramme_card_%s_bytes{", figure);
    add_label(out, "node", node);
    buf_add_format(out, ",card=\"%u\",", index);
    add_label(out, "name", name);
    buf_add_format(out, "} %llu\n", (unsigned long long) bytes);
}

void card_metrics_render(const struct device_watch_sample *sample, struct buf *out) {
    static const struct {
        const char *name, *help;
        size_t offset;
    } figures[] = {
        {"total", "Memory of the card.", offsetof(struct device_watch_card, total_bytes)},
        {"used", "What is taken of it.", offsetof(struct device_watch_card, used_bytes)},
        {"other", "What processes hold of it that are not ours.",
         offsetof(struct device_watch_card, other_bytes)},
    };
    char node[64] = "";
    if (!sample->card_count) return;
    gethostname(node, sizeof node - 1);
    for (size_t i = 0; i < ARRAY_COUNT(figures); i++) {
        const char *figure = figures[i].name;
        buf_add_format(out, "# HELP gramme_card_%s_bytes %s\n# TYPE gramme_card_%s_bytes gauge\n",
                       figure, figures[i].help, figure);
        for (uint32_t k = 0; k < sample->card_count; k++) {
            const char *card = (const char *) &sample->cards[k];
            add_card(out, figure, node, k, sample->cards[k].name,
                     *(const uint64_t *) (const void *) (card + figures[i].offset));
        }
    }
}
