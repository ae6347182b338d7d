/* card_metrics - the node's cards as its watch saw them, in Prometheus' text format: total, used,
 * and what others hold, a card.  By the process that watches the node and answers /metrics; nothing
 * where there is no card. */
#ifndef GRAMME_API_CARD_METRICS_H
#define GRAMME_API_CARD_METRICS_H

#include "base/buf.h"
#include "device/device_watch.h"

void card_metrics_render(const struct device_watch_sample *sample, struct buf *out);

#endif
