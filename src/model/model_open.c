/* model_open - from a path or a name to an open model. */
#include <stdio.h>
#include <string.h>

#include "base/alloc.h"
#include "model/model_catalog.h"
#include "model/model_dummy.h"
#include "model/model_gguf.h"
#include "model/model_index.h"
#include "model/model_parts.h"

static void stem_of(const char *path, char out[MODEL_NAME_BYTES]) {
    const char *base = strrchr(path, '/');
    base = base ? base + 1 : path;
    size_t bytes = strlen(base);
    if (bytes > 5 && strcmp(base + bytes - 5, ".gguf") == 0) bytes -= 5;
    snprintf(out, MODEL_NAME_BYTES, "%.*s", (int) bytes, base);
}

static enum err open_gguf(const char *path, struct err_text *text, struct model *model) {
    enum err e = gguf_set_open(path, text, &model->gguf);
    if (!e) e = model_gguf_spec(&model->gguf, text, &model->spec);
    if (e) return e;
    stem_of(path, model->spec.name);
    e = model_index_create(model, text);
    if (!e) e = model_gguf_places(model, text);
    if (!e) e = model_gguf_texts(&model->gguf, text, &model->chat_template, model->specials);
    return e;
}

/* The shape alone, from `shape` or else from what `path_or_name` is; weights from the seed. */
static enum err open_dummy(const char *path_or_name, const struct model_open_options *options,
                           struct err_text *text, struct model *model) {
    const char *shape = options->shape ? options->shape : path_or_name;
    enum err e = ERR_OK;
    if (!model_catalog_find(shape, &model->spec))
        return err_set(text, ERR_NOT_FOUND, "%s: no known shape", shape);
    model->is_dummy = true;
    model->dummy_seed = options->dummy_seed;
    e = model_index_create(model, text);
    if (!e) e = model_dummy_places(model, options->dummy_type, text);
    return e;
}

enum err model_open(const char *path_or_name, const struct model_open_options *options,
                    struct err_text *text, struct model **out) {
    struct model *model = alloc_zero(1, sizeof *model);
    if (!model) return err_set(text, ERR_MEMORY, "no memory for a model");
    enum err e = options->is_dummy ? open_dummy(path_or_name, options, text, model)
                                   : open_gguf(path_or_name, text, model);
    if (e) {
        model_close(model);
        return e;
    }
    model_index_finish(model);
    *out = model;
    return ERR_OK;
}
