/* place - see place.h. */
#include "plan/place.h"

#include <string.h>

#include "base/alloc.h"
#include "base/check.h"

struct placer {
    const struct place_request *requests;
    const struct device_list *list;
    struct place *place;
    uint32_t *owner;      /* by device: group + 1; 0: free */
    uint32_t *node_first; /* by node: its first device (those of a node follow one another); one
                             more at the end */
    uint32_t *node_free;  /* by node: devices not owned */
    struct err_text *text;
};

static void own(struct placer *placer, uint32_t device, uint32_t group) {
    placer->node_free[placer->list->items[device].node] -= !placer->owner[device];
    placer->owner[device] = group + 1;
}

/* The node that is left with the least after taking `wanted`; node_count: none has so many. */
static uint32_t choose_node(const struct placer *placer, uint32_t wanted) {
    uint32_t best = placer->list->node_count, best_free = UINT32_MAX;
    for (uint32_t node = 0; node < placer->list->node_count; node++) {
        uint32_t count = placer->node_free[node];
        if (count < wanted || count >= best_free) continue;
        best = node;
        best_free = count;
    }
    return best;
}

/* The free device of a node with the most free bytes. */
static uint32_t choose_device(const struct placer *placer, uint32_t node) {
    uint32_t best = UINT32_MAX;
    for (uint32_t i = placer->node_first[node]; i < placer->node_first[node + 1]; i++) {
        const struct device *device = &placer->list->items[i];
        if (placer->owner[i]) continue;
        if (best == UINT32_MAX || device->free_bytes > placer->list->items[best].free_bytes)
            best = i;
    }
    CHECK(best != UINT32_MAX);
    return best;
}

static void sort(uint32_t *numbers, uint32_t count) {
    for (uint32_t i = 1; i < count; i++)
        for (uint32_t k = i; k && numbers[k] < numbers[k - 1]; k--) {
            uint32_t swap = numbers[k];
            numbers[k] = numbers[k - 1];
            numbers[k - 1] = swap;
        }
}

static enum err place_chosen(struct placer *placer, uint32_t index) {
    struct place_group *group = &placer->place->groups[index];
    uint32_t *devices = placer->place->devices + group->first;
    group->node = choose_node(placer, group->count);
    if (group->node == placer->list->node_count) return ERR_NO_ROOM;
    for (uint32_t i = 0; i < group->count; i++) {
        devices[i] = choose_device(placer, group->node);
        own(placer, devices[i], index);
    }
    sort(devices, group->count);
    return ERR_OK;
}

static enum err place_listed(struct placer *placer, uint32_t index) {
    struct place_group *group = &placer->place->groups[index];
    const struct place_request *request = &placer->requests[group->request];
    for (uint32_t i = 0; i < group->count; i++) {
        uint64_t at = (uint64_t) group->replica * request->device_count + i;
        uint32_t device = request->devices[at % request->devices_count];
        if (device >= placer->list->count)
            return err_set(placer->text, ERR_NO_ROOM, "%s is given device %u, and there are %u",
                           request->name, device, placer->list->count);
        if (i == 0) group->node = placer->list->items[device].node;
        if (placer->owner[device] && placer->place->shared == UINT32_MAX) {
            placer->place->shared = device;
            placer->place->shared_a = placer->owner[device] - 1;
            placer->place->shared_b = index;
        }
        own(placer, device, index);
        placer->place->devices[group->first + i] = device;
    }
    return ERR_OK;
}

static enum err refuse(struct placer *placer, uint32_t index) {
    const struct place_group *group = &placer->place->groups[index];
    const char *name = placer->requests[group->request].name;
    uint32_t total = placer->place->device_count, there = placer->list->count;
    if (total > there)
        return err_set(placer->text, ERR_NO_ROOM,
                       "the graph asks for %u devices and there are %u: no room for %s %u of %u",
                       total, there, name, group->replica + 1,
                       placer->requests[group->request].replica_count);
    return err_set(placer->text, ERR_NO_ROOM,
                   "%s %u wants %u devices of one node, and no node has so many left", name,
                   group->replica + 1, group->count);
}

static enum err create_groups(struct placer *placer, uint32_t request_count) {
    struct place *place = placer->place;
    for (uint32_t i = 0; i < request_count; i++) {
        const struct place_request *request = &placer->requests[i];
        place->group_count += request->replica_count;
        place->device_count += request->replica_count * request->device_count;
    }
    place->groups = alloc_zero(place->group_count, sizeof *place->groups);
    place->devices = alloc_zero(place->device_count, sizeof *place->devices);
    const struct device_list *list = placer->list;
    placer->owner = alloc_zero(list->count, sizeof *placer->owner);
    placer->node_first = alloc_zero(list->node_count + 1, sizeof *placer->node_first);
    placer->node_free = alloc_zero(list->node_count, sizeof *placer->node_free);
    if (!place->groups || !place->devices || !placer->owner || !placer->node_first ||
        !placer->node_free)
        return err_set(placer->text, ERR_MEMORY, "out of memory");
    for (uint32_t i = 0; i < list->count; i++) {
        placer->node_free[list->items[i].node]++;
        placer->node_first[list->items[i].node + 1] = i + 1;
    }
    uint32_t at = 0, first = 0;
    for (uint32_t i = 0; i < request_count; i++)
        for (uint32_t replica = 0; replica < placer->requests[i].replica_count; replica++) {
            place->groups[at++] = (struct place_group){.request = i,
                                                       .replica = replica,
                                                       .first = first,
                                                       .count = placer->requests[i].device_count};
            first += placer->requests[i].device_count;
        }
    return ERR_OK;
}

static enum err place_all(struct placer *placer) {
    struct place *place = placer->place;
    for (uint32_t i = 0; i < place->group_count; i++)
        if (placer->requests[place->groups[i].request].devices_count) {
            enum err e = place_listed(placer, i);
            if (e) return e;
        }
    uint32_t widest = 0;
    for (uint32_t i = 0; i < place->group_count; i++)
        if (place->groups[i].count > widest) widest = place->groups[i].count;
    for (uint32_t width = widest; width; width--)
        for (uint32_t i = 0; i < place->group_count; i++) {
            const struct place_group *group = &place->groups[i];
            if (group->count != width || placer->requests[group->request].devices_count) continue;
            if (place_chosen(placer, i)) return refuse(placer, i);
        }
    return ERR_OK;
}

enum err place_make(const struct place_request *requests, uint32_t request_count,
                    const struct device_list *devices, struct err_text *text, struct place *out) {
    struct place place = {.shared = UINT32_MAX};
    struct placer placer = {.requests = requests, .list = devices, .place = &place, .text = text};
    CHECK(request_count <= PLACE_COMPONENTS_MAX);
    enum err e = create_groups(&placer, request_count);
    if (!e) e = place_all(&placer);
    for (uint32_t i = 0; placer.owner && i < devices->count; i++)
        place.idle_count += !placer.owner[i];
    alloc_free(placer.owner);
    alloc_free(placer.node_first);
    alloc_free(placer.node_free);
    if (e) {
        place_release(&place);
        return e;
    }
    *out = place;
    return ERR_OK;
}

void place_release(struct place *place) {
    alloc_free(place->groups);
    alloc_free(place->devices);
    *place = (struct place){0};
}
