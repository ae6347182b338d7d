/* model_parts - what a struct model is made of; for the files of this room only.
 *
 * places[] has a slot for each (layer, role); model-wide roles stand in layer 0.  A model whose
 * weights are made from a seed has places without data. */
#ifndef GRAMME_MODEL_MODEL_PARTS_H
#define GRAMME_MODEL_MODEL_PARTS_H

#include "model/gguf_set.h"
#include "model/model.h"

struct model_place {
    struct model_tensor tensor; /* rows 0: the model has no such tensor */
    const uint8_t *data;        /* NULL: made from the seed */
    bool is_interleaved;        /* rows of a head stand in rope's interleaved order */
};

enum model_special { SPECIAL_BOS, SPECIAL_EOS, SPECIAL_UNK, SPECIAL_PAD, SPECIAL_COUNT };

struct model {
    struct model_spec spec;
    struct model_place *places; /* layer_count x ROLE_COUNT */
    struct gguf_set gguf;       /* of a GGUF model */
    struct model_file *files;   /* of a Hugging Face directory: its safetensors files */
    uint32_t file_count;
    char *directory; /* the Hugging Face directory, or NULL */
    bool is_dummy;
    uint64_t dummy_seed;
    uint64_t digest;
    uint64_t weight_bytes;
    char *chat_template;
    char *specials[SPECIAL_COUNT];
    struct model_generation generation;
};

static inline bool role_has_layers(enum tensor_role role) {
    return role != ROLE_EMBEDDING && role != ROLE_FINAL_NORM && role != ROLE_HEAD;
}

#endif
