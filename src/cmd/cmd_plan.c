/* cmd_plan - gramme plan -m MODEL: the bytes a worker will use, before one is loaded.
 *
 * Exit 0 fits, 1 does not, 2 usage. */
#include <stdio.h>

#include "cmd/cmd.h"
#include "cmd/cmd_model.h"

static void print_plan(const struct options *options, const struct worker_boot *boot,
                       const struct model_spec *spec) {
    struct buf out;
    buf_init(&out, 0);
    if (options_bool(options, OPT_JSON)) plan_print_json(&boot->plan, spec, &out);
    else plan_print(&boot->plan, spec, options_bool(options, OPT_EXPLAIN), &out);
    if (out.data) fwrite(out.data, 1, out.bytes, stdout);
    buf_release(&out);
}

int cmd_plan(int argc, char **argv) {
    struct options *options = NULL;
    const char *positional[CMD_POSITIONAL_MAX];
    uint32_t positional_count = 0;
    int status = cmd_options(OPTION_PLAN, argc, argv, &options, positional, &positional_count);
    if (status) return status;
    if (options_bool(options, OPT_PRINT_CONFIG)) {
        cmd_print_config(options);
        options_destroy(options);
        return CMD_DONE;
    }
    struct err_text text = {0};
    struct model *model = NULL;
    struct worker_boot_options boot_options;
    struct worker_boot boot = {0};
    bool fits = false;
    enum err e = cmd_model_open(options, positional_count ? positional[0] : NULL, &text, &model);
    if (!e) e = cmd_model_boot_options(options, model_get_spec(model), &text, &boot_options);
    if (!e) boot_options.backend.model = model;
    if (!e) e = worker_boot_plan(&boot_options, model_get_spec(model), &text, &boot);
    if (!e) {
        print_plan(options, &boot, model_get_spec(model));
        fits = boot.plan.fits;
        worker_boot_close(&boot);
    }
    model_close(model);
    options_destroy(options);
    if (e) return cmd_fail(e, &text);
    return fits ? CMD_DONE : CMD_FAILED;
}
