/* xfer_look - see xfer_look.h. */
#include "xfer/xfer_look.h"

#include <string.h>
#include <time.h>

#include "base/alloc.h"
#include "base/clock.h"

#define BLOCK_BYTES (256u << 10)
#define TIMEOUT_MS 1000u
#define WAIT_US 4000000u

struct side {
    struct kv_layout layout;
    uint8_t *block;
    struct xfer *xfer;
};

static enum err open_side(struct side *side, enum xfer_look_lane lane, const char *listen,
                          uint64_t instance, struct err_text *text) {
    side->block = alloc_zero(1, BLOCK_BYTES);
    if (!side->block) return err_set(text, ERR_MEMORY, "no memory");
    side->layout = (struct kv_layout){
        /* Block 0 is never touched. */
        .base = (uint8_t *) ((uintptr_t) side->block - BLOCK_BYTES),
        .block_count = 2,
        .layer_count = 1,
        .head_count = 1,
        .head_total = 1,
        .block_stride = BLOCK_BYTES,
        .layer_stride = BLOCK_BYTES,
        .value_stride = BLOCK_BYTES / 2,
        .head_stride = BLOCK_BYTES / 2,
        .head_bytes = BLOCK_BYTES / 2,
        .block_bytes = BLOCK_BYTES,
    };
    struct xfer_options options = {
        .instance = instance,
        .layouts = &side->layout,
        .rank_count = 1,
        .block_size = 16,
        .listen = listen,
        .transports = lane == XFER_LOOK_SHM ? "shm" : "tcp",
        .transfer_timeout_ms = TIMEOUT_MS,
    };
    return lane == XFER_LOOK_LOCAL ? xfer_local_create(&options, text, &side->xfer)
                                   : xfer_ucx_create(&options, text, &side->xfer);
}

/* The next event of this kind.  ERR_TIMEOUT, or what came instead. */
static enum err await(struct side *side, enum xfer_event_kind kind, struct err_text *text) {
    uint64_t until_us = clock_now_us() + WAIT_US;
    struct xfer_event event;
    while (!xfer_take(side->xfer, &event)) {
        if (clock_now_us() > until_us)
            return err_set(text, ERR_TIMEOUT, "a test block does not arrive");
        nanosleep(&(struct timespec){0, 200000}, NULL);
    }
    if (event.kind == kind) return ERR_OK;
    return err_set(text, ERR_PEER_GONE, "a test block does not get through: %s",
                   event.reason ? event.reason : "the other end gave it up");
}

static enum err move_block(struct side *from, struct side *to, struct err_text *text) {
    for (uint32_t i = 0; i < BLOCK_BYTES; i++) from->block[i] = (uint8_t) (i * 2654435761u >> 24);
    struct xfer_id id = {.instance = 2, .attempt = 1, .key = {1, 2}};
    uint32_t block = 1;
    enum err e = xfer_expect(to->xfer, &id, 1, 0, &block, 1);
    if (!e) e = xfer_send(from->xfer, xfer_address(to->xfer), &id, 1, 0, 1);
    if (e) return err_set(text, e, "a test block cannot be sent: %s", err_name(e));
    e = await(from, XFER_SENT, text);
    if (!e) e = await(to, XFER_RECEIVED, text);
    if (!e && memcmp(from->block, to->block, BLOCK_BYTES) != 0)
        e = err_set(text, ERR_FORMAT, "a test block came with other bytes");
    return e;
}

void xfer_look(const char *listen, struct xfer_look out[XFER_LOOK_LANES]) {
    static const char *const names[XFER_LOOK_LANES] = {"local", "shm", "tcp"};
    for (enum xfer_look_lane lane = 0; lane < XFER_LOOK_LANES; lane++) {
        struct xfer_look *look = &out[lane];
        *look = (struct xfer_look){.name = names[lane]};
        struct side from = {0}, to = {0};
        look->error = open_side(&from, lane, listen, 1, &look->text);
        if (!look->error) look->error = open_side(&to, lane, listen, 2, &look->text);
        if (!look->error) look->error = move_block(&from, &to, &look->text);
        /* Before the memory: a transfer may still be under way. */
        xfer_destroy(from.xfer);
        xfer_destroy(to.xfer);
        alloc_free(from.block);
        alloc_free(to.block);
    }
}
