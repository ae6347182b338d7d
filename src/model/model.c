/* model - see model.h: what is asked of an open model.  model_open.c opens it. */
#include "model/model.h"

#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/alloc.h"
#include "model/model_dummy.h"
#include "model/model_index.h"
#include "model/model_parts.h"

void model_close(struct model *model) {
    if (!model) return;
    alloc_free(model->places);
    gguf_set_close(&model->gguf);
    for (uint32_t i = 0; i < model->file_count; i++) model_file_close(&model->files[i]);
    alloc_free(model->files);
    alloc_free(model->directory);
    alloc_free(model->chat_template);
    for (int i = 0; i < SPECIAL_COUNT; i++) alloc_free(model->specials[i]);
    alloc_free(model);
}

const struct model_spec *model_get_spec(const struct model *model) { return &model->spec; }
uint64_t model_digest(const struct model *model) { return model->digest; }
uint64_t model_weight_bytes(const struct model *model) { return model->weight_bytes; }
const char *model_chat_template(const struct model *model) { return model->chat_template; }

const struct model_generation *model_generation_defaults(const struct model *model) {
    return &model->generation;
}

const char *model_special_token(const struct model *model, const char *name) {
    static const char *const special_names[SPECIAL_COUNT] = {"bos_token", "eos_token", "unk_token",
                                                             "pad_token"};
    for (int i = 0; i < SPECIAL_COUNT; i++)
        if (strcmp(special_names[i], name) == 0) return model->specials[i];
    return NULL;
}

/* NULL when there is none. */
static const struct model_place *place_of(const struct model *model, enum tensor_role role,
                                          uint32_t layer) {
    CHECK((unsigned) role < ROLE_COUNT);
    if (role == ROLE_HEAD && model->spec.is_tied) role = ROLE_EMBEDDING;
    if (!role_has_layers(role)) layer = 0;
    CHECK(layer < model->spec.layer_count);
    const struct model_place *place = &model->places[(size_t) layer * ROLE_COUNT + role];
    return place->tensor.rows ? place : NULL;
}

bool model_tensor_get(const struct model *model, enum tensor_role role, uint32_t layer,
                      struct model_tensor *out) {
    const struct model_place *place = place_of(model, role, layer);
    if (!place) return false;
    *out = place->tensor;
    return true;
}

void model_tensor_name(const struct model *model, enum tensor_role role, uint32_t layer,
                       char out[MODEL_TENSOR_NAME_BYTES]) {
    if (model->gguf.part_count) model_index_name_gguf(role, layer, out);
    else model_index_name_hf(role, layer, out);
}

/* Half-split row i of a head is the i-th even row of its interleaved form, then the odd ones. */
static uint32_t interleaved_row(uint32_t row, uint32_t head_dim) {
    uint32_t head = row / head_dim, in_head = row % head_dim, half = head_dim / 2;
    return head * head_dim + in_head % half * 2 + in_head / half;
}

/* A bias is one row, so its elements have to be moved. */
static const void *half_split_bias(const struct model_place *place, uint32_t head_dim,
                                   uint8_t *scratch) {
    size_t element = (size_t) tensor_type_bytes(place->tensor.type, 1);
    for (uint32_t i = 0; i < place->tensor.columns; i++)
        memcpy(scratch + i * element, place->data + interleaved_row(i, head_dim) * element,
               element);
    return scratch;
}

const void *model_tensor_row(const struct model *model, enum tensor_role role, uint32_t layer,
                             uint32_t row, void *scratch) {
    const struct model_place *place = place_of(model, role, layer);
    CHECK(place && row < place->tensor.rows);
    if (!place->data) {
        if (role == ROLE_HEAD && model->spec.is_tied) role = ROLE_EMBEDDING;
        model_dummy_row(&model->spec, model->dummy_seed, role, layer, row, &place->tensor, scratch);
        return scratch;
    }
    if (place->is_interleaved) {
        if (place->tensor.rows == 1) return half_split_bias(place, model->spec.head_dim, scratch);
        row = interleaved_row(row, model->spec.head_dim);
    }
    return place->data + row * place->tensor.row_bytes;
}

static void drop_file(const struct model_file *file) {
    if (file->bytes) madvise((void *) (uintptr_t) file->bytes, file->size, MADV_DONTNEED);
}

void model_drop_pages(const struct model *model) {
    for (uint32_t i = 0; i < model->gguf.part_count; i++) drop_file(&model->gguf.parts[i].file);
    for (uint32_t i = 0; i < model->file_count; i++) drop_file(&model->files[i]);
}

void model_tensor_drop_rows(const struct model *model, enum tensor_role role, uint32_t layer,
                            uint32_t row_first, uint32_t row_count) {
    const struct model_place *place = place_of(model, role, layer);
    if (!place || !place->data) return;
    CHECK(row_first <= place->tensor.rows && row_count <= place->tensor.rows - row_first);
    uintptr_t page = (uintptr_t) sysconf(_SC_PAGESIZE), at = (uintptr_t) place->data;
    uintptr_t first = (at + row_first * place->tensor.row_bytes + page - 1) / page * page;
    uintptr_t end = (at + (row_first + (uint64_t) row_count) * place->tensor.row_bytes);
    end = end / page * page;
    if (first < end) madvise((void *) first, end - first, MADV_DONTNEED);
}

void model_tensor_drop(const struct model *model, enum tensor_role role, uint32_t layer) {
    const struct model_place *place = place_of(model, role, layer);
    if (place) model_tensor_drop_rows(model, role, layer, 0, place->tensor.rows);
}

bool model_tensor_mapping(const struct model *model, enum tensor_role role, uint32_t layer,
                          const void **base, uint64_t *bytes) {
    const struct model_place *place = place_of(model, role, layer);
    if (!place || !place->data) return false;
    *base = place->data;
    *bytes = place->tensor.rows * place->tensor.row_bytes;
    return true;
}

void model_tensor_will_need(const struct model *model, enum tensor_role role, uint32_t layer) {
    const void *base;
    uint64_t bytes;
    if (!model_tensor_mapping(model, role, layer, &base, &bytes)) return;
    uintptr_t page = (uintptr_t) sysconf(_SC_PAGESIZE), first = (uintptr_t) base / page * page;
    madvise((void *) first, (uintptr_t) base + bytes - first, MADV_WILLNEED);
}

const char *model_weights_path(const struct model *model, uint32_t index) {
    if (index < model->gguf.part_count) return model->gguf.parts[index].file.path;
    index -= model->gguf.part_count;
    return index < model->file_count ? model->files[index].path : NULL;
}

uint32_t model_mappings(const struct model *model, uint32_t room, struct model_mapping *out) {
    uint32_t count = 0;
    for (uint32_t i = 0; i < model->gguf.part_count && count < room; i++)
        out[count++] =
            (struct model_mapping){model->gguf.parts[i].file.bytes, model->gguf.parts[i].file.size};
    for (uint32_t i = 0; i < model->file_count && count < room; i++)
        out[count++] = (struct model_mapping){model->files[i].bytes, model->files[i].size};
    return count;
}
