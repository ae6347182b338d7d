/* dispatch_impl - the bodies behind dispatch.h: dispatch.c keeps the works, dispatch_worker.c the
 * workers and the choice among them, dispatch_kv.c what their KV events tell the router. */
#ifndef GRAMME_API_DISPATCH_IMPL_H
#define GRAMME_API_DISPATCH_IMPL_H

#include "api/dispatch.h"
#include "base/arena.h"
#include "kv/kv_index.h"

#define DISPATCH_SILENCE_TICK_US 100000u /* specified: protocol.md 3 */
#define DISPATCH_BUCKETS 4096u           /* of the attempt table; a power of two */
#define DISPATCH_DEAD_ROOM 4096u         /* reaped instances kept; a power of two */

/* A dump under way: asked for again each half second until every part is there; what happens
 * meanwhile is held back. */
struct dispatch_kv {
    bool is_asking;
    uint64_t number; /* of the ask */
    uint64_t asked_us;
    uint64_t event_number;           /* that the parts so far repeat */
    uint32_t part_count, part_taken; /* 0 parts: none has come */
    uint8_t *parts;                  /* a byte a part, owned: it is here */
    struct kv_event *held;           /* owned */
    uint32_t held_count, held_room;
    uint64_t load_number; /* of the LOAD before: being behind it is a loss */
};

struct dispatch_site {
    uint64_t instance;
    struct msg_hello hello;
    struct msg_load load; /* senders left out */
    bool has_hello, has_load;
    bool is_foreign;  /* refused: another tokenizer, block size, version or numerics */
    bool is_draining; /* told by LOAD or a REFUSE */
    bool is_leaving;  /* said BYE, or its inbox is closed */
    bool is_reaped;   /* told by the ROSTER at hand */
    bool is_suspect;
    bool is_routed;       /* the router knows it */
    bool sends_no_events; /* computes prompts, and its event number stays 0 */
    uint32_t silent_ticks;
    uint32_t still_ticks; /* with work waiting and the step counter where it was */
    uint32_t good_loads;
    uint32_t work_count;
    struct dispatch_work *works; /* bound to it */
    uint32_t empty_syncs;
    struct dispatch_kv kv;
};

struct dispatch {
    struct dispatch_options options;
    struct dispatch_handler handler;
    struct metrics *metrics; /* borrowed */
    struct bus *bus;         /* borrowed */
    struct bus_port *port;
    struct router *router;
    struct router_choice choice; /* the last one */
    uint64_t tokenizer_digest;
    struct dispatch_site **workers; /* owned */
    uint64_t *instances;            /* of them, in one place */
    uint32_t worker_count, worker_room;
    uint32_t len_min; /* the shortest model_len_max of those that the router knows */
    uint64_t dead[DISPATCH_DEAD_ROOM]; /* by instance, open addressing; 0: free */
    uint32_t dead_count;
    struct dispatch_work *works; /* every held one */
    uint32_t homeless_count;
    struct dispatch_work *buckets[DISPATCH_BUCKETS];
    uint64_t attempt_last;
    uint64_t sync_number, ask_number;
    uint64_t synced_us, asked_us, silence_us, repaired_us;
    uint64_t tick; /* of silence: those without a bus connection are not counted */
    uint64_t lossy_count;
    bool was_cut_off; /* the bus had no connection at the last tick of silence */
    bool has_gap;
    struct kv_event *events; /* scratch, owned */
    uint32_t event_room;
    struct buf out;     /* a message under construction */
    struct arena arena; /* a message being read */
};

/* --- dispatch.c --- */
enum err dispatch_send(struct dispatch *dispatch, uint64_t instance); /* dispatch->out */
void dispatch_ask_who(struct dispatch *dispatch, uint64_t now_us);
void dispatch_drop_message(struct dispatch *dispatch);
/* A worker is there: whoever waits for one is placed. */
void dispatch_place_homeless(struct dispatch *dispatch, uint64_t now_us);
/* Its works go on elsewhere; a death counts against each. */
void dispatch_lose_works(struct dispatch *dispatch, struct dispatch_site *worker, bool is_death,
                         uint64_t now_us);
/* Those that another worker can take. */
void dispatch_move_works(struct dispatch *dispatch, struct dispatch_site *worker, uint64_t now_us);

/* --- dispatch_worker.c --- */
struct dispatch_site *dispatch_worker_find(const struct dispatch *dispatch, uint64_t instance);
/* NULL: none that is open, fits the work and is not `avoided`. */
struct dispatch_site *dispatch_worker_choose(struct dispatch *dispatch, struct dispatch_work *work,
                                             uint64_t avoided, uint64_t now_us);
/* Somebody may take work, now or when it is no longer suspect. */
bool dispatch_worker_is_any(const struct dispatch *dispatch);
/* Somebody is open, only none that computes as the work's tokens were computed. */
bool dispatch_worker_is_unlike(const struct dispatch *dispatch, const struct dispatch_work *work);
void dispatch_worker_request(const struct dispatch *dispatch, struct dispatch_work *work,
                             struct router_request *out);
/* Flags have changed: tells the router. */
void dispatch_worker_refresh(struct dispatch *dispatch, struct dispatch_site *worker);
void dispatch_worker_on_hello(struct dispatch *dispatch, const struct bus_message *message,
                              uint64_t now_us);
void dispatch_worker_on_load(struct dispatch *dispatch, const struct bus_message *message,
                             uint64_t now_us);
void dispatch_worker_on_bye(struct dispatch *dispatch, uint64_t from);
/* It said that its device is gone: dead, for ever. */
void dispatch_worker_on_lost(struct dispatch *dispatch, uint64_t from, uint64_t now_us);
void dispatch_worker_on_roster(struct dispatch *dispatch, const struct bus_message *message,
                               uint64_t now_us);
bool dispatch_worker_is_dead(const struct dispatch *dispatch, uint64_t instance);
/* Gone: forgotten, its works go on elsewhere. */
void dispatch_worker_bury(struct dispatch *dispatch, struct dispatch_site *worker, bool is_death,
                          uint64_t now_us);
void dispatch_worker_tick(struct dispatch *dispatch, uint64_t now_us);
/* The silence so far was ours. */
void dispatch_worker_forgive(struct dispatch *dispatch);
void dispatch_worker_release(struct dispatch *dispatch); /* all of them */

/* --- dispatch_kv.c --- */
void dispatch_kv_ask(struct dispatch *dispatch, struct dispatch_site *worker, uint64_t now_us);
void dispatch_kv_on_event(struct dispatch *dispatch, const struct bus_message *message,
                          uint64_t now_us);
void dispatch_kv_on_dump(struct dispatch *dispatch, const struct bus_message *message,
                         uint64_t now_us);
void dispatch_kv_on_load(struct dispatch *dispatch, struct dispatch_site *worker, uint64_t now_us);
void dispatch_kv_tick(struct dispatch *dispatch, struct dispatch_site *worker, uint64_t now_us);
void dispatch_kv_release(struct dispatch_kv *kv);

#endif
