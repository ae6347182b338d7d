/* model_open - from a path or a name to an open model.
 *
 * A dummy model takes its shape from `shape` (a catalogue name, a config.json, a folder, a GGUF)
 * or else from what `path_or_name` is, and its texts from `path_or_name` where that is here. */
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/alloc.h"
#include "model/model_catalog.h"
#include "model/model_dummy.h"
#include "model/model_gguf.h"
#include "model/model_hf.h"
#include "model/model_index.h"
#include "model/model_parts.h"
#include "model/model_resolve.h"
#include "model/model_stand_in.h"

static void set_name(struct model *model, const char *name) {
    snprintf(model->spec.name, sizeof model->spec.name, "%s", name);
}

/* What stands beside the weights. */
static enum err open_texts(const struct model_source *source, struct err_text *text,
                           struct model *model) {
    if (source->kind == MODEL_SOURCE_GGUF)
        return model_gguf_texts(&model->gguf, text, &model->chat_template, model->specials);
    model->directory = alloc_string(source->path, strlen(source->path));
    if (!model->directory) return err_set(text, ERR_MEMORY, "no memory for a path");
    enum err e = model_hf_texts(source->path, text, &model->chat_template, model->specials);
    return e ? e : model_hf_generation(source->path, text, &model->generation);
}

/* Also opens the GGUF, whose keys are the spec. */
static enum err open_spec(const struct model_source *source, struct err_text *text,
                          struct model *model) {
    if (source->kind == MODEL_SOURCE_FOLDER) return model_hf_spec(source->path, text, &model->spec);
    enum err e = gguf_set_open(source->path, text, &model->gguf);
    return e ? e : model_gguf_spec(&model->gguf, text, &model->spec);
}

static enum err open_source(const struct model_source *source, struct err_text *text,
                            struct model *model) {
    enum err e = open_spec(source, text, model);
    if (e) return e;
    set_name(model, source->name);
    e = model_index_create(model, text);
    if (!e)
        e = source->kind == MODEL_SOURCE_GGUF ? model_gguf_places(model, text)
                                              : model_hf_places(model, source->path, text);
    return e ? e : open_texts(source, text, model);
}

static enum err open_stored(const char *path_or_name, struct err_text *text, struct model *model) {
    struct model_source source;
    enum err e = model_resolve(path_or_name, text, &source);
    if (e) return e;
    e = open_source(&source, text, model);
    if (e == ERR_NOT_FOUND && source.is_cached) { /* a snapshot that was not fetched whole */
        struct err_text why = *text;
        err_set(text, e, "%s; complete it with: hf download %s", why.text, source.name);
    }
    return e;
}

/* --- dummy -------------------------------------------------------------------------------- */

static bool is_json_file(const char *path) {
    size_t bytes = strlen(path);
    return bytes > 5 && strcmp(path + bytes - 5, ".json") == 0 && access(path, F_OK) == 0;
}

/* A shape by its own name: what is here first, then the catalogue. */
static enum err read_shape(const char *shape, struct err_text *text, struct model_spec *spec) {
    struct model_source source;
    if (is_json_file(shape)) return model_hf_spec(shape, text, spec);
    enum err e = model_resolve(shape, text, &source);
    if (e == ERR_NOT_FOUND && model_catalog_find(shape, spec)) return ERR_OK;
    if (e == ERR_NOT_FOUND)
        return err_set(text, e,
                       "%s: no such file or folder, and no shape of that name in the catalogue: "
                       "name a config.json, or a model as published",
                       shape);
    if (e) return e;
    if (source.kind == MODEL_SOURCE_FOLDER) return model_hf_spec(source.path, text, spec);
    struct gguf_set set;
    e = gguf_set_open(source.path, text, &set);
    if (e) return e;
    e = model_gguf_spec(&set, text, spec);
    gguf_set_close(&set);
    return e;
}

static enum err open_dummy(const char *path_or_name, const struct model_open_options *options,
                           struct err_text *text, struct model *model) {
    struct model_source source;
    struct model_spec shape;
    enum err e = read_shape(options->shape ? options->shape : path_or_name, text, &shape);
    if (e) return e;
    bool is_here = model_resolve(path_or_name, NULL, &source) == ERR_OK;
    if (is_here && (source.kind == MODEL_SOURCE_GGUF || options->shape)) {
        /* Its keys and end tokens; a folder of tokenizer files alone has no config.json. */
        e = open_spec(&source, text, model);
        if (e && source.kind == MODEL_SOURCE_GGUF) return e;
        if (!e && options->shape) {
            shape.eos_count = model->spec.eos_count;
            memcpy(shape.eos_ids, model->spec.eos_ids, sizeof shape.eos_ids);
        }
    }
    if (is_here) snprintf(shape.name, sizeof shape.name, "%s", source.name);
    else if (path_or_name[0] && path_or_name[0] != '/')
        snprintf(shape.name, sizeof shape.name, "%s", path_or_name);
    else if (path_or_name[0]) /* a path of elsewhere: never shown whole (behaviour.md 2) */
        snprintf(shape.name, sizeof shape.name, "%s", strrchr(path_or_name, '/') + 1);
    model->spec = shape;
    model->is_dummy = true;
    model->dummy_seed = options->dummy_seed;
    e = model_index_create(model, text);
    if (!e) e = model_dummy_places(model, options->dummy_type, text);
    if (e || is_here) return e ? e : open_texts(&source, text, model);
    model->chat_template = alloc_string(model_stand_in_template, strlen(model_stand_in_template));
    return model->chat_template ? ERR_OK : err_set(text, ERR_MEMORY, "no memory for a template");
}

enum err model_open(const char *path_or_name, const struct model_open_options *options,
                    struct err_text *text, struct model **out) {
    struct model *model = alloc_zero(1, sizeof *model);
    if (!model) return err_set(text, ERR_MEMORY, "no memory for a model");
    enum err e = options->is_dummy ? open_dummy(path_or_name, options, text, model)
                                   : open_stored(path_or_name, text, model);
    if (e) {
        model_close(model);
        return e;
    }
    model_index_finish(model);
    *out = model;
    return ERR_OK;
}
