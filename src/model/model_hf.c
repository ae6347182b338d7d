/* model_hf - see model_hf.h.
 *
 * The index decides which safetensors files are read; without one it is model.safetensors.  What
 * else lies in the directory does not matter. */
#include "model/model_hf.h"

#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/alloc.h"
#include "base/buf.h"
#include "model/hf_config.h"
#include "model/json_file.h"
#include "model/model_index.h"
#include "model/model_resolve.h"
#include "model/safetensors.h"

#define TEMPLATE_BYTES_MAX ((size_t) 4 << 20) /* the largest published one has 30 KB */
#define SHARDS_MAX 4096
#define INDEX_NAME "model.safetensors.index.json"

static enum err join(char out[MODEL_PATH_BYTES], const char *directory, const char *name,
                     struct err_text *text) {
    if (model_resolve_join(out, directory, name)) return ERR_OK;
    return err_set(text, ERR_LIMIT, "%.200s...: the path is too long", directory);
}

/* *out is NULL when the file is not there. */
static enum err load_optional(const char *directory, const char *name, struct err_text *text,
                              json_t **out) {
    char path[MODEL_PATH_BYTES];
    *out = NULL;
    enum err e = join(path, directory, name, text);
    if (!e) e = json_file_load(path, text, out);
    return e == ERR_NOT_FOUND ? ERR_OK : e;
}

enum err model_hf_spec(const char *path, struct err_text *text, struct model_spec *spec) {
    char config_path[MODEL_PATH_BYTES];
    size_t bytes = strlen(path);
    bool is_file = bytes > 5 && strcmp(path + bytes - 5, ".json") == 0;
    json_t *config = NULL, *generation = NULL;
    enum err e = ERR_OK;
    if (!is_file) e = join(config_path, path, "config.json", text);
    if (e) return e;
    e = json_file_load(is_file ? path : config_path, text, &config);
    if (e == ERR_NOT_FOUND)
        return err_set(text, e, "%s: no config.json and no GGUF in it: not a model's folder", path);
    if (e) return e;
    e = hf_config_read(config, is_file ? path : config_path, text, spec);
    if (!e && !is_file) e = load_optional(path, "generation_config.json", text, &generation);
    if (!e && generation) e = hf_config_read_eos(generation, "generation_config.json", text, spec);
    json_decref(config);
    json_decref(generation);
    return e;
}

/* --- weights ------------------------------------------------------------------------------ */

/* The files while the index is made; model keeps the mappings, the tables go. */
struct shards {
    struct model *model;
    const char *directory;
    struct err_text *text;
    json_t *map;  /* tensor -> file, of the index; NULL without one */
    char **names; /* by file */
    struct safetensors *tables;
    uint32_t count;
};

static uint32_t find_shard(const struct shards *shards, const char *name) {
    uint32_t i = 0;
    while (i < shards->count && strcmp(shards->names[i], name) != 0) i++;
    return i;
}

static enum err add_shard(struct shards *shards, const char *name) {
    shards->names[shards->count] = alloc_string(name, strlen(name));
    if (!shards->names[shards->count]) return err_set(shards->text, ERR_MEMORY, "no memory");
    shards->count++;
    return ERR_OK;
}

/* The set of files that the index names. */
static enum err list_shards(struct shards *shards, const json_t *index) {
    shards->map = json_object_get(index, "weight_map");
    if (!json_is_object(shards->map))
        return err_set(shards->text, ERR_FORMAT, "%s/" INDEX_NAME ": expected an object weight_map",
                       shards->directory);
    const char *tensor;
    json_t *value;
    json_object_foreach(shards->map, tensor, value) {
        const char *name = json_string_value(value);
        if (!name || !*name || strchr(name, '/') || name[0] == '.')
            return err_set(shards->text, ERR_FORMAT,
                           "%s/" INDEX_NAME
                           ": tensor %.200s: expected the name of a file beside it",
                           shards->directory, tensor);
        if (find_shard(shards, name) < shards->count) continue;
        if (shards->count == SHARDS_MAX)
            return err_set(shards->text, ERR_LIMIT, "%s/" INDEX_NAME ": more than %d files",
                           shards->directory, SHARDS_MAX);
        enum err e = add_shard(shards, name);
        if (e) return e;
    }
    return ERR_OK;
}

/* All missing files in one line, as an interrupted download leaves them. */
static enum err name_missing(const struct shards *shards) {
    struct buf missing;
    buf_init(&missing, 600);
    uint32_t count = 0;
    for (uint32_t i = 0; i < shards->count; i++) {
        char path[MODEL_PATH_BYTES];
        if (model_resolve_join(path, shards->directory, shards->names[i]) &&
            access(path, R_OK) == 0)
            continue;
        buf_add_format(&missing, "%s%s", count ? ", " : "", shards->names[i]);
        count++;
    }
    enum err e = ERR_OK;
    if (count) {
        e = err_set(shards->text, ERR_NOT_FOUND, "%s: %u of %u weight files are missing: %.*s",
                    shards->directory, count, shards->count, (int) missing.bytes,
                    (const char *) missing.data);
    }
    buf_release(&missing);
    return e;
}

static enum err no_weights(const struct shards *shards) {
    static const struct {
        const char *file, *what;
    } others[] = {
        {"pytorch_model.bin.index.json", "PyTorch .bin files"},
        {"pytorch_model.bin", "a PyTorch .bin file"},
        {"consolidated.safetensors", "Mistral's own consolidated.safetensors"},
        {"consolidated.00.pth", "Meta's own .pth files"},
        {"tf_model.h5", "TensorFlow weights"},
    };
    char path[MODEL_PATH_BYTES];
    for (uint32_t i = 0; i < ARRAY_COUNT(others); i++)
        if (model_resolve_join(path, shards->directory, others[i].file) && access(path, F_OK) == 0)
            return err_set(
                shards->text, ERR_UNSUPPORTED,
                "%s: holds %s: supported is model.safetensors, or its parts with " INDEX_NAME,
                shards->directory, others[i].what);
    return err_set(shards->text, ERR_NOT_FOUND,
                   "%s: no weights: looked for model.safetensors and " INDEX_NAME,
                   shards->directory);
}

static enum err map_shards(struct shards *shards) {
    struct model *model = shards->model;
    model->files = alloc_zero(shards->count, sizeof *model->files);
    shards->tables = alloc_zero(shards->count, sizeof *shards->tables);
    if (!model->files || !shards->tables)
        return err_set(shards->text, ERR_MEMORY, "no memory for %u files", shards->count);
    for (uint32_t i = 0; i < shards->count; i++) {
        char path[MODEL_PATH_BYTES];
        enum err e = join(path, shards->directory, shards->names[i], shards->text);
        if (!e) e = model_file_open(path, shards->text, &model->files[i]);
        if (e) return e;
        model->file_count = i + 1;
        e = safetensors_parse(model->files[i].bytes, model->files[i].size, path, shards->text,
                              &shards->tables[i]);
        if (e) return e;
    }
    return ERR_OK;
}

/* The file that has, or should have, a tensor. */
static const struct safetensors_tensor *find_tensor(const struct shards *shards, const char *name,
                                                    uint32_t *shard) {
    *shard = 0;
    if (shards->map) {
        const char *file = json_string_value(json_object_get(shards->map, name));
        if (!file) return NULL;
        *shard = find_shard(shards, file);
    }
    return safetensors_find(&shards->tables[*shard], name);
}

/* A missing weight has a reason when its packed form is there. */
static enum err name_absent(const struct shards *shards, const char *name, uint32_t shard,
                            uint32_t rows, uint32_t columns) {
    char packed[MODEL_TENSOR_NAME_BYTES + 16];
    uint32_t other;
    size_t bytes = strlen(name);
    if (bytes > 7 && strcmp(name + bytes - 7, ".weight") == 0) {
        snprintf(packed, sizeof packed, "%.*s.qweight", (int) (bytes - 7), name);
        if (find_tensor(shards, packed, &other))
            return err_set(
                shards->text, ERR_UNSUPPORTED,
                "%s: tensor %s: AWQ and GPTQ weights are not supported; the nearest is a "
                "GGUF in Q4_K_M",
                shards->model->files[other].path, packed);
    }
    return err_set(shards->text, ERR_FORMAT, "%s: tensor %s is missing: expected (%u, %u)",
                   shards->model->files[shard].path, name, rows, columns);
}

static enum err place_tensor(struct shards *shards, enum tensor_role role, uint32_t layer,
                             uint32_t *found) {
    struct model *model = shards->model;
    uint32_t rows, columns, shard;
    if (!model_index_shape(&model->spec, role, &rows, &columns)) return ERR_OK;
    char name[MODEL_TENSOR_NAME_BYTES];
    model_index_name_hf(role, layer, name);
    const struct safetensors_tensor *tensor = find_tensor(shards, name, &shard);
    if (!tensor) return name_absent(shards, name, shard, rows, columns);
    const char *file = model->files[shard].path;
    bool is_vector = model_index_is_vector(role);
    const uint64_t *size = tensor->dimensions;
    if (is_vector ? tensor->dimension_count != 1 || size[0] != columns
                  : tensor->dimension_count != 2 || size[0] != rows || size[1] != columns) {
        struct buf shape;
        buf_init(&shape, 200);
        for (uint32_t i = 0; i < tensor->dimension_count; i++)
            buf_add_format(&shape, "%s%llu", i ? ", " : "", (unsigned long long) size[i]);
        enum err e =
            is_vector
                ? err_set(shards->text, ERR_FORMAT, "%s: tensor %s has shape (%.*s): expected (%u)",
                          file, name, (int) shape.bytes, (char *) shape.data, columns)
                : err_set(shards->text, ERR_FORMAT,
                          "%s: tensor %s has shape (%.*s): expected (%u, %u)", file, name,
                          (int) shape.bytes, (char *) shape.data, rows, columns);
        buf_release(&shape);
        return e;
    }
    if (!tensor->has_type)
        return err_set(
            shards->text, ERR_UNSUPPORTED,
            "%s: tensor %s has dtype %s: supported are F32, F16 and BF16; the nearest is "
            "a GGUF in Q8_0",
            file, name, tensor->dtype);
    model->places[(size_t) layer * ROLE_COUNT + role] = (struct model_place){
        .tensor = {tensor->type, rows, columns, tensor_type_bytes(tensor->type, columns)},
        .data = tensor->data,
    };
    ++*found;
    return ERR_OK;
}

/* Tensors that transformers itself leaves aside. */
static bool is_ignorable(const struct model_spec *spec, const char *name) {
    size_t bytes = strlen(name);
    if (bytes > 19 && strcmp(name + bytes - 19, "rotary_emb.inv_freq") == 0) return true;
    return spec->is_tied && strcmp(name, "lm_head.weight") == 0;
}

/* A tensor nobody asked for would be a computation that is left out. */
static enum err check_strangers(const struct shards *shards, uint32_t found) {
    const struct model *model = shards->model;
    uint64_t in_files = 0;
    for (uint32_t s = 0; s < shards->count; s++)
        for (uint32_t i = 0; i < shards->tables[s].tensor_count; i++)
            in_files += !is_ignorable(&model->spec, shards->tables[s].tensors[i].name);
    if (in_files == found) return ERR_OK;
    for (uint32_t s = 0; s < shards->count; s++)
        for (uint32_t i = 0; i < shards->tables[s].tensor_count; i++) {
            const struct safetensors_tensor *tensor = &shards->tables[s].tensors[i];
            bool is_known = is_ignorable(&model->spec, tensor->name);
            uint64_t places = (uint64_t) model->spec.layer_count * ROLE_COUNT;
            for (uint64_t place = 0; place < places && !is_known; place++)
                is_known = tensor->bytes && model->places[place].data == tensor->data;
            if (!is_known)
                return err_set(shards->text, ERR_UNSUPPORTED,
                               "%s: tensor %.200s is no part of this family as supported here",
                               model->files[s].path, tensor->name);
        }
    return err_set(shards->text, ERR_FORMAT, "%s: a tensor stands in two files: expected once",
                   shards->directory);
}

static enum err place_all(struct shards *shards) {
    uint32_t found = 0;
    for (uint32_t layer = 0; layer < shards->model->spec.layer_count; layer++)
        for (int role = 0; role < ROLE_COUNT; role++) {
            if (layer && !role_has_layers((enum tensor_role) role)) continue;
            enum err e = place_tensor(shards, (enum tensor_role) role, layer, &found);
            if (e) return e;
        }
    return check_strangers(shards, found);
}

enum err model_hf_places(struct model *model, const char *directory, struct err_text *text) {
    struct shards shards = {.model = model, .directory = directory, .text = text};
    json_t *index = NULL;
    char path[MODEL_PATH_BYTES];
    enum err e = load_optional(directory, INDEX_NAME, text, &index);
    if (e) goto out;
    size_t room = index ? json_object_size(json_object_get(index, "weight_map")) : 1;
    if (room > SHARDS_MAX) room = SHARDS_MAX;
    shards.names = alloc_zero(room, sizeof *shards.names);
    if (!shards.names) {
        e = err_set(text, ERR_MEMORY, "no memory for the list of weight files");
        goto out;
    }
    if (index) {
        e = list_shards(&shards, index);
        if (!e && !shards.count) e = no_weights(&shards);
    } else {
        e = join(path, directory, "model.safetensors", text);
        if (!e && access(path, F_OK) != 0) e = no_weights(&shards);
        if (!e) e = add_shard(&shards, "model.safetensors");
    }
    if (!e) e = name_missing(&shards);
    if (!e) e = map_shards(&shards);
    if (!e) e = place_all(&shards);
out:
    for (uint32_t i = 0; i < shards.count; i++) {
        alloc_free(shards.names[i]);
        if (shards.tables) safetensors_release(&shards.tables[i]);
    }
    alloc_free(shards.names);
    alloc_free(shards.tables);
    json_decref(index);
    return e;
}

/* --- texts -------------------------------------------------------------------------------- */

static enum err copy_string(const json_t *value, struct err_text *text, char **out) {
    *out = alloc_string(json_string_value(value), json_string_length(value));
    return *out ? ERR_OK : err_set(text, ERR_MEMORY, "no memory for a tokenizer's texts");
}

/* A string, or a list of named ones, of which "default" or else the first counts. */
static const json_t *pick_template(const json_t *value) {
    if (!json_is_array(value)) return value;
    const json_t *picked = NULL;
    for (size_t i = 0; i < json_array_size(value); i++) {
        const json_t *entry = json_array_get(value, i);
        const char *name = json_string_value(json_object_get(entry, "name"));
        if (!picked || (name && strcmp(name, "default") == 0))
            picked = json_object_get(entry, "template");
    }
    return picked;
}

static enum err read_template(const char *directory, const json_t *config, struct err_text *text,
                              char **out) {
    char path[MODEL_PATH_BYTES];
    size_t bytes;
    json_t *processor = NULL;
    enum err e = join(path, directory, "chat_template.jinja", text);
    if (!e) e = model_file_read(path, TEMPLATE_BYTES_MAX, text, out, &bytes);
    if (e != ERR_NOT_FOUND) return e;
    const json_t *value = pick_template(json_file_get(config, "chat_template"));
    if (json_is_string(value)) return copy_string(value, text, out);
    e = load_optional(directory, "chat_template.json", text, &processor);
    if (!e && processor) {
        value = pick_template(json_file_get(processor, "chat_template"));
        if (json_is_string(value)) e = copy_string(value, text, out);
    }
    json_decref(processor);
    return e;
}

/* A token is written as its text or as an object with its content. */
static const json_t *token_text(const json_t *object, const char *name) {
    const json_t *value = json_file_get(object, name);
    if (json_is_object(value)) value = json_object_get(value, "content");
    return json_is_string(value) ? value : NULL;
}

enum err model_hf_texts(const char *directory, struct err_text *text, char **chat_template,
                        char *specials[SPECIAL_COUNT]) {
    static const char *const names[SPECIAL_COUNT] = {"bos_token", "eos_token", "unk_token",
                                                     "pad_token"};
    json_t *config = NULL, *map = NULL;
    enum err e = load_optional(directory, "tokenizer_config.json", text, &config);
    if (!e) e = load_optional(directory, "special_tokens_map.json", text, &map);
    if (!e) e = read_template(directory, config, text, chat_template);
    for (int i = 0; i < SPECIAL_COUNT && !e; i++) {
        const json_t *value = token_text(config, names[i]);
        if (!value) value = token_text(map, names[i]);
        if (value) e = copy_string(value, text, &specials[i]);
    }
    json_decref(config);
    json_decref(map);
    return e;
}

enum err model_hf_generation(const char *directory, struct err_text *text,
                             struct model_generation *out) {
    static const char file[] = "generation_config.json";
    json_t *config = NULL;
    enum err e = load_optional(directory, file, text, &config);
    if (e || !config) return e;
    float top_k = 0;
    struct {
        const char *key;
        float *value;
        bool *has;
    } numbers[] = {
        {"temperature", &out->temperature, &out->has_temperature},
        {"top_p", &out->top_p, &out->has_top_p},
        {"min_p", &out->min_p, &out->has_min_p},
        {"repetition_penalty", &out->repetition_penalty, &out->has_repetition_penalty},
        {"top_k", &top_k, &out->has_top_k},
    };
    for (uint32_t i = 0; i < ARRAY_COUNT(numbers) && !e; i++) {
        e = json_file_f32(config, numbers[i].key, file, text, numbers[i].value);
        *numbers[i].has = !e && json_file_get(config, numbers[i].key);
    }
    if (!e && !(top_k >= -1 && top_k <= 1e9f))
        e = err_set(text, ERR_FORMAT, "%s: key top_k is %g: expected -1 or more", file,
                    (double) top_k);
    if (!e) {
        out->top_k = (int32_t) top_k;
        e = json_file_u32(config, "max_new_tokens", file, text, &out->max_new_tokens);
        out->has_max_new_tokens = !e && json_file_get(config, "max_new_tokens");
    }
    if (!e) e = json_file_bool(config, "do_sample", file, text, &out->do_sample);
    json_decref(config);
    return e;
}
