/* plan_model - what a component's model is: from its files, from --shape, or from the catalogue by
 * name, with the format of its weights.  Looks at files, at no device. */
#ifndef GRAMME_PLAN_PLAN_MODEL_H
#define GRAMME_PLAN_PLAN_MODEL_H

#include <stdbool.h>

#include "base/err.h"
#include "config/option.h"
#include "model/model.h"
#include "plan/cuda_estimate.h"

enum plan_model_source {
    PLAN_MODEL_FILES,   /* read */
    PLAN_MODEL_SHAPE,   /* --shape, or --load-format dummy */
    PLAN_MODEL_CATALOG, /* not on this machine; known by its name */
    PLAN_MODEL_UNKNOWN, /* neither here nor known */
    PLAN_MODEL_UNBUILT, /* here, of a weight format that is not built: the shape is read; `why` */
    PLAN_MODEL_BROKEN,  /* here, and cannot be read: `why` */
};

struct plan_model {
    enum plan_model_source source;
    const char *name;    /* as written; borrowed from the options; NULL: none */
    struct model *model; /* owned; NULL for CATALOG, UNKNOWN and BROKEN */
    struct model_spec spec;
    struct cuda_estimate_format format;
    bool is_told;        /* SHAPE: by --shape, not by load-format */
    bool is_unbuilt;     /* BROKEN: sound, but of a kind that is not built here */
    struct err_text why; /* why the files were not read; "" when they were */
};

/* `options`: of the component (model, load-format, quantization); `flags`: of the command line
 * (--shape), NULL: none. */
void plan_model_find(const struct options *options, const struct options *flags,
                     struct plan_model *out);
void plan_model_release(struct plan_model *model);
/* What a name or a `quantization:` says of the weights; false: nothing that is known.  Gives the
 * format's own name ("fp8"). */
bool plan_model_format_of(const char *word, double *weight_bits, const char **format);

#endif
