/* Goal: a router that hears some of the events and asks for dumps when it misses one holds, in the
 * end, exactly what the index holds; parts stay within 256 KiB and their picture is of one moment
 * though the index goes on changing; asks are bounded and repeated ones answered once. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/alloc.h"
#include "bus/msg.h"
#include "worker/worker_kv.h"

#define BLOCK_SIZE 4u
#define HASHES_MAX 40000u
#define ROUTERS 3u

static uint64_t random_state;
static uint32_t below(uint32_t n) {
    random_state += 0x9e3779b97f4a7c15u;
    uint64_t z = random_state;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return (uint32_t) ((z >> 33) % n);
}

/* --- routers ---------------------------------------------------------------------------------- */

struct belief {
    struct msg_kv_block *blocks; /* HASHES_MAX */
    uint32_t count;
};

struct router {
    uint64_t instance, last; /* event applied last */
    uint64_t ask_number;
    bool is_asking;
    uint32_t parts_had;
    struct belief belief, dump;
    struct { /* held back while it asks */
        uint64_t first;
        struct msg_kv_block blocks[64];
        uint32_t count;
    } held[4096];
    uint32_t held_count;
};

static struct router routers[ROUTERS];
static uint32_t lost_per_mille, router_count;
static uint64_t dump_bytes_seen, part_count_seen, messages_seen;

static void belief_apply(struct belief *belief, const struct msg_kv_block *block) {
    if (block->kind == MSG_KV_CLEARED) belief->count = 0;
    uint32_t at = 0;
    while (at < belief->count && belief->blocks[at].hash != block->hash) at++;
    if (block->kind == MSG_KV_STORED) {
        assert_true(at < HASHES_MAX);
        belief->blocks[at] = *block;
        if (at == belief->count) belief->count++;
    } else if (block->kind == MSG_KV_REMOVED && at < belief->count) {
        belief->blocks[at] = belief->blocks[--belief->count];
    }
}

static void router_events(struct router *router, const struct msg_kv_event *event) {
    if (router->is_asking || event->first_number > router->last + 1) {
        router->is_asking = true;
        assert_true(router->held_count < ARRAY_COUNT(router->held) && event->block_count <= 64);
        router->held[router->held_count].first = event->first_number;
        router->held[router->held_count].count = event->block_count;
        memcpy(router->held[router->held_count++].blocks, event->blocks,
               event->block_count * sizeof *event->blocks);
        return;
    }
    for (uint32_t i = 0; i < event->block_count; i++) {
        if (event->first_number + i != router->last + 1) continue;
        belief_apply(&router->belief, &event->blocks[i]);
        router->last++;
    }
}

static void router_dump(struct router *router, const struct msg_kv_dump *dump) {
    if (!router->is_asking || dump->number != router->ask_number) return;
    if (dump->part != router->parts_had) return; /* one before was lost: it asks again */
    if (dump->part == 0) router->dump.count = 0;
    for (uint32_t i = 0; i < dump->block_count; i++) {
        assert_true(router->dump.count < HASHES_MAX);
        router->dump.blocks[router->dump.count++] = dump->blocks[i];
    }
    if (++router->parts_had < dump->part_count) return;
    struct belief old = router->belief;
    router->belief = router->dump;
    router->dump = old;
    router->last = dump->event_number;
    router->is_asking = false;
    uint32_t held_count = router->held_count;
    router->held_count = 0;
    for (uint32_t i = 0; i < held_count; i++) {
        struct msg_kv_event event = {router->held[i].first, router->held[i].blocks,
                                     router->held[i].count};
        router_events(router, &event); /* a new gap among them: it asks anew */
    }
}

static void hear(void *ctx, enum bus_subject subject, uint64_t to, const void *data, size_t bytes) {
    struct arena arena;
    arena_init(&arena, 0);
    messages_seen++;
    for (uint32_t i = 0; i < router_count; i++) {
        if (below(1000) < lost_per_mille) continue;
        if (subject == BUS_KV) {
            struct msg_kv_event event;
            enum err e = msg_decode_kv_event(data, bytes, &arena, &event);
            assert_true(e == ERR_OK || e == ERR_MEMORY);
            if (e) continue;
            assert_true(event.block_count > 0);
            router_events(&routers[i], &event);
            continue;
        }
        assert_int_equal(subject, BUS_INBOX);
        if (routers[i].instance != to) continue;
        struct msg_kv_dump dump;
        enum err e = msg_decode_kv_dump(data, bytes, &arena, &dump);
        assert_true(e == ERR_OK || e == ERR_MEMORY);
        if (e) continue;
        assert_true(bytes <= MSG_KV_DUMP_BYTES_MAX);
        dump_bytes_seen += bytes;
        part_count_seen = dump.part_count;
        router_dump(&routers[i], &dump);
    }
    arena_release(&arena);
}

static void router_ask(struct router *router, struct worker_kv *kv) {
    struct buf out;
    buf_init(&out, 0);
    router->parts_had = 0;
    msg_encode_kv_dump_ask(&(struct msg_kv_dump_ask){++router->ask_number}, &out);
    struct bus_message message = {BUS_INBOX, router->instance, out.data, out.bytes};
    assert_true(worker_kv_take_ask(kv, &message));
    buf_release(&out);
}

static void routers_init(uint32_t count, uint32_t lost) {
    router_count = count;
    lost_per_mille = lost;
    for (uint32_t i = 0; i < count; i++) {
        memset(&routers[i], 0, sizeof routers[i]);
        routers[i].instance = 100 + i;
        routers[i].belief.blocks = calloc(HASHES_MAX, sizeof(struct msg_kv_block));
        routers[i].dump.blocks = calloc(HASHES_MAX, sizeof(struct msg_kv_block));
    }
}

static void routers_release(void) {
    for (uint32_t i = 0; i < router_count; i++) {
        free(routers[i].belief.blocks);
        free(routers[i].dump.blocks);
    }
}

static int by_hash(const void *a, const void *b) {
    uint64_t x = ((const struct msg_kv_block *) a)->hash;
    uint64_t y = ((const struct msg_kv_block *) b)->hash;
    return x < y ? -1 : x > y;
}

/* The belief is the index, block for block, parents too. */
static void check_belief(const struct router *router, const struct kv_index *index) {
    static struct msg_kv_block truth[HASHES_MAX];
    struct kv_event event;
    uint32_t cursor = 0, count = 0;
    while (kv_index_dump(index, &cursor, &event))
        truth[count++] =
            (struct msg_kv_block){MSG_KV_STORED, event.hash, event.parent_hash, event.local_hash};
    qsort(truth, count, sizeof *truth, by_hash);
    qsort(router->belief.blocks, router->belief.count, sizeof *truth, by_hash);
    assert_int_equal(router->belief.count, count);
    for (uint32_t i = 0; i < count; i++) {
        assert_true(router->belief.blocks[i].hash == truth[i].hash);
        assert_true(router->belief.blocks[i].parent_hash == truth[i].parent_hash);
        assert_true(router->belief.blocks[i].local_hash == truth[i].local_hash);
    }
}

/* --- an index that changes -------------------------------------------------------------------- */

/* A block without a parent; twins and removals as they come. */
static void change(struct kv_index *index, uint32_t block_count) {
    uint32_t block = 1 + below(block_count);
    if (below(400) == 0) {
        kv_index_clear(index);
    } else if (kv_index_has(index, block)) {
        kv_index_remove(index, block);
    } else {
        uint32_t tokens[BLOCK_SIZE] = {below(3 * block_count / 2), 1, 2, 3};
        (void) kv_index_insert(index, block, (struct kv_link){0, 0}, tokens);
    }
}

static void run_seed(uint64_t seed, uint32_t event_room) {
    struct kv_index *index;
    struct worker_kv *kv;
    struct worker_kv_counts counts;
    random_state = seed;
    assert_int_equal(kv_index_create(40, BLOCK_SIZE, event_room, &index), ERR_OK);
    assert_int_equal(worker_kv_create(index, hear, NULL, &kv), ERR_OK);
    routers_init(ROUTERS, seed % 2 ? 0 : 150);
    uint64_t now_us = 1;
    for (uint32_t step = 0; step < 300; step++) {
        uint32_t change_count = below(30);
        for (uint32_t i = 0; i < change_count; i++) change(index, 40);
        for (uint32_t i = 0; i < ROUTERS; i++)
            if (routers[i].is_asking && below(3) == 0) router_ask(&routers[i], kv);
        worker_kv_flush(kv, now_us);
        assert_true(worker_kv_event_last(kv) == kv_index_event_last(index));
        for (uint32_t i = 0; i < ROUTERS; i++)
            if (!routers[i].is_asking && routers[i].last == worker_kv_event_last(kv))
                check_belief(&routers[i], index);
        now_us += below(40000);
    }
    lost_per_mille = 0;
    for (uint32_t i = 0; i < ROUTERS; i++) { /* as LOAD shows: it is behind */
        routers[i].is_asking = true;
        router_ask(&routers[i], kv);
    }
    for (uint32_t i = 0; i < 10; i++) worker_kv_flush(kv, now_us += WORKER_KV_DUMP_GAP_US);
    for (uint32_t i = 0; i < ROUTERS; i++) {
        if (routers[i].is_asking || routers[i].last != kv_index_event_last(index))
            fail_msg("seed %u: router %u still asks", (unsigned) seed, i);
        check_belief(&routers[i], index);
    }
    worker_kv_get_counts(kv, &counts);
    assert_true(counts.events > 100 && counts.dumps > 0);
    if (event_room < 20) assert_true(counts.skipped > 0);
    else assert_int_equal(counts.skipped, 0);
    routers_release();
    worker_kv_destroy(kv);
    kv_index_destroy(index);
}

static void test_beliefs(void **state) {
    for (uint64_t seed = 1; seed <= 40; seed++) run_seed(seed, seed % 4 == 3 ? 8 : 4096);
}

/* A large index: several parts, of one moment, while it is changed under them. */
static void test_parts(void **state) {
    const uint32_t block_count = 120000;
    struct kv_index *index;
    struct worker_kv *kv;
    struct worker_kv_counts counts;
    random_state = 5;
    assert_int_equal(kv_index_create(block_count, BLOCK_SIZE, 64, &index), ERR_OK);
    assert_int_equal(worker_kv_create(index, hear, NULL, &kv), ERR_OK);
    routers_init(0, 0); /* nobody hears the beginning */
    struct kv_link link = {0, 0};
    for (uint32_t block = 1; block <= 30000; block++) {
        uint32_t tokens[BLOCK_SIZE] = {block, 7, 7, 7};
        link =
            kv_index_insert(index, block, block % 100 == 1 ? (struct kv_link){0, 0} : link, tokens);
    }
    worker_kv_flush(kv, 1);
    worker_kv_get_counts(kv, &counts);
    assert_int_equal(counts.events, 64);
    assert_int_equal(counts.skipped, 30000 - 64);
    routers_init(2, 0);
    routers[0].is_asking = routers[1].is_asking = true;
    router_ask(&routers[0], kv);
    router_ask(&routers[0], kv); /* again: its newest number is answered, once */
    router_ask(&routers[1], kv);
    uint32_t flushes = 0;
    for (uint64_t now_us = 2; routers[0].is_asking || routers[1].is_asking; now_us++) {
        worker_kv_flush(kv, now_us);
        assert_true(++flushes < 100);
        change(index, 200);
    }
    worker_kv_flush(kv, 1000);
    assert_int_equal(part_count_seen, 3);
    worker_kv_get_counts(kv, &counts);
    assert_int_equal(counts.asks, 3);
    assert_int_equal(counts.dumps, 1);
    assert_int_equal(counts.parts, 6);
    for (uint32_t i = 0; i < 2; i++) {
        assert_true(routers[i].last == kv_index_event_last(index));
        check_belief(&routers[i], index);
    }
    routers_release();
    worker_kv_destroy(kv);
    kv_index_destroy(index);
}

static void test_bounds(void **state) {
    struct kv_index *index;
    struct worker_kv *kv;
    struct worker_kv_counts counts;
    assert_int_equal(kv_index_create(8, BLOCK_SIZE, 8, &index), ERR_OK);
    assert_int_equal(worker_kv_create(index, hear, NULL, &kv), ERR_OK);
    routers_init(1, 0);
    for (uint32_t i = 0; i < 2 * WORKER_KV_ASKS_MAX; i++) {
        static struct router stranger; /* too large for a stack */
        stranger.instance = 1000 + i;
        router_ask(&stranger, kv);
    }
    worker_kv_get_counts(kv, &counts);
    assert_int_equal(counts.dropped_asks, WORKER_KV_ASKS_MAX);
    /* An empty index is one empty part; the next picture waits for its time. */
    messages_seen = 0;
    for (uint32_t i = 0; i < 3; i++) worker_kv_flush(kv, 10);
    assert_int_equal(messages_seen, WORKER_KV_ASKS_MAX);
    routers[0].is_asking = true;
    router_ask(&routers[0], kv);
    worker_kv_flush(kv, 10 + WORKER_KV_DUMP_GAP_US - 1);
    assert_true(routers[0].is_asking);
    worker_kv_flush(kv, 10 + WORKER_KV_DUMP_GAP_US);
    assert_false(routers[0].is_asking);
    assert_int_equal(routers[0].belief.count, 0);
    struct bus_message broken = {BUS_INBOX, 5, (const uint8_t *) "abc", 3};
    assert_false(worker_kv_take_ask(kv, &broken));
    routers_release();
    worker_kv_destroy(kv);
    kv_index_destroy(index);
}

/* Without memory a dump or an event is lost, as on the bus, and asked for again. */
static void test_no_memory(void **state) {
    for (uint64_t n = 1;; n++) {
        struct kv_index *index;
        struct worker_kv *kv = NULL;
        assert_int_equal(kv_index_create(8, BLOCK_SIZE, 8, &index), ERR_OK);
        routers_init(1, 0);
        uint32_t tokens[BLOCK_SIZE] = {1, 2, 3, 4};
        struct buf ask;
        buf_init(&ask, 0);
        msg_encode_kv_dump_ask(&(struct msg_kv_dump_ask){++routers[0].ask_number}, &ask);
        alloc_fail_at(n, 0);
        enum err e = worker_kv_create(index, hear, NULL, &kv);
        if (!e) {
            (void) kv_index_insert(index, 1, (struct kv_link){0, 0}, tokens);
            worker_kv_flush(kv, 1);
            routers[0].is_asking = true;
            struct bus_message message = {BUS_INBOX, routers[0].instance, ask.data, ask.bytes};
            assert_true(worker_kv_take_ask(kv, &message));
            worker_kv_flush(kv, 2);
        } else {
            assert_int_equal(e, ERR_MEMORY);
        }
        bool was_hit = alloc_count() >= n;
        alloc_fail_at(0, 0);
        buf_release(&ask);
        if (!e) {
            router_ask(&routers[0], kv);
            routers[0].is_asking = true;
            worker_kv_flush(kv, 2 + WORKER_KV_DUMP_GAP_US);
            assert_false(routers[0].is_asking);
            check_belief(&routers[0], index);
        }
        routers_release();
        worker_kv_destroy(kv);
        kv_index_destroy(index);
        if (!was_hit) break;
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_beliefs),
        cmocka_unit_test(test_parts),
        cmocka_unit_test(test_bounds),
        cmocka_unit_test(test_no_memory),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
