/* cmd_plan - gramme plan [GRAPH] (-f FILE | -m MODEL) [--devices ...]: the bytes its workers
 * will use, before one is loaded.
 *
 * Exit 0 fits, 1 does not, 2 usage. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <unistd.h>

#include "base/alloc.h"
#include "cmd/cmd.h"
#include "cmd/cmd_model.h"
#include "cmd/cmd_rates.h"
#include "cmd/cmd_target.h"
#include "plan/plan_auto.h"
#include "plan/plan_suggest.h"

/* What else would fit this machine, each value with all others as they are; false: nobody knows. */
static bool find_fit(const struct worker_boot_options *boot_options, struct worker_boot *boot,
                     const struct model_spec *spec, struct plan_auto_fit *out) {
    struct graph_plan_component component = {.tensor_parallel = boot_options->backend.rank_count,
                                             .model.spec = *spec,
                                             .layer_count = spec->layer_count,
                                             .options = boot_options->backend,
                                             .budget = boot_options->budget,
                                             .is_cpu = true,
                                             .is_sim = boot_options->ops == &sim_backend_ops,
                                             .plan = &boot->plan};
    return plan_auto_fit(&component, out) == ERR_OK;
}

static void print_plan(const struct options *options,
                       const struct worker_boot_options *boot_options, struct worker_boot *boot,
                       const struct model_spec *spec) {
    struct buf out;
    struct plan_auto_fit fit;
    bool has_fit = find_fit(boot_options, boot, spec, &fit);
    buf_init(&out, 0);
    if (options_bool(options, OPT_JSON)) {
        plan_print_json(&boot->plan, spec, has_fit ? &fit : NULL, &out);
    } else {
        plan_print(&boot->plan, spec, options_bool(options, OPT_EXPLAIN), &out);
        if (has_fit)
            buf_add_format(&out, "would fit: max-model-len %u, max-num-batched-tokens %u\n",
                           fit.model_len_max, fit.batched_tokens_max);
    }
    if (out.data) fwrite(out.data, 1, out.bytes, stdout);
    buf_release(&out);
}

/* --- a graph, or a model on named devices -------------------------------------------------- */

static bool has_colour(void) {
    const char *term = getenv("TERM"), *none = getenv("NO_COLOR");
    return isatty(STDOUT_FILENO) && !(none && *none) && !(term && strcmp(term, "dumb") == 0);
}

/* Some of it is left to the plan, or asked of it: then it is a graph, be it of one worker. */
static bool wants_more(const struct options *flags) {
    return options_is_set(flags, OPT_INPUT_LEN) ||
           options_is_auto(flags, OPT_TENSOR_PARALLEL_SIZE) ||
           options_is_auto(flags, OPT_MAX_MODEL_LEN) ||
           options_is_auto(flags, OPT_GPU_MEMORY_UTILIZATION);
}

/* What goes through plan_graph, all of it released by release_job. */
struct job {
    struct cmd_target target;
    struct graph graph;
    struct graph_plan plan;
    struct plan_auto chosen;
    struct plan_suggest suggest;
    struct problem_list problems;
    struct buf file, out;
    bool is_read, is_suggested;
};

static void release_job(struct job *job) {
    graph_plan_release(&job->plan);
    if (job->is_read) graph_release(&job->graph);
    problem_release(&job->problems);
    cmd_target_release(&job->target);
    buf_release(&job->file);
    buf_release(&job->out);
}

static enum err read_graph(const struct cmd_graph_line *line, struct err_text *text,
                           struct job *job) {
    enum graph_kind kind;
    struct graph_source source = {
        .overrides = line->overrides, .override_count = line->override_count, .flags = line->flags};
    enum err e = cmd_target_kind(line, text, &kind);
    if (!e) e = cmd_target_file(line->flags, text, &job->file, &source.name);
    if (!e) e = cmd_target_find(line->flags, text, &job->target);
    if (e) return e;
    source.yaml = job->file.data;
    source.bytes = job->file.bytes;
    e = graph_read(kind, &source, &job->problems, &job->graph);
    job->is_read = e != ERR_MEMORY;
    problem_sort(&job->problems);
    if (!problem_count(&job->problems, PROBLEM_ERROR)) return e;
    problem_print(&job->problems, source.name, isatty(STDERR_FILENO), &job->out);
    if (job->out.data) fwrite(job->out.data, 1, job->out.bytes, stderr);
    return err_set(text, ERR_USAGE, "%s cannot be planned as it is", source.name);
}

/* "30,0.08", or "measure". */
static enum err read_rates(const struct options *flags, const struct graph_plan *plan,
                           struct err_text *text, struct plan_suggest_load *load) {
    const char *rates = options_text(flags, OPT_DEVICE_RATES);
    char rest;
    if (!rates) return ERR_OK;
    if (strcmp(rates, "measure") == 0) {
        const struct graph_plan_component *component = &plan->components[0];
        struct cmd_rates measured;
        enum err e = cmd_rates_measure(load->thread_count, &component->model.spec,
                                       component->options.numerics, text, &measured);
        if (e) return e;
        load->read_gb_per_s = measured.read_gb_per_s;
        load->tflops = measured.tflops;
        load->product_gb_per_s = measured.product_gb_per_s;
        return ERR_OK;
    }
    if (sscanf(rates, "%lf,%lf%c", &load->read_gb_per_s, &load->tflops, &rest) == 2 &&
        load->read_gb_per_s > 0 && load->tflops > 0)
        return ERR_OK;
    return err_set(text, ERR_USAGE,
                   "--device-rates: '%.60s' is neither 'measure' nor GB/s,TFLOP/s such as 30,0.08",
                   rates);
}

static enum err predict(const struct cmd_graph_line *line, struct err_text *text, struct job *job) {
    const struct options *flags = line->flags;
    if (!options_is_set(flags, OPT_INPUT_LEN)) return ERR_OK;
    struct plan_suggest_load load = {
        .input_tokens = (uint32_t) options_count(flags, OPT_INPUT_LEN),
        .output_tokens = (uint32_t) options_count(flags, OPT_OUTPUT_LEN),
        .thread_count = job->target.plan.thread_count,
    };
    if (options_is_set(flags, OPT_CONCURRENCY))
        load.concurrency = (uint32_t) options_count(flags, OPT_CONCURRENCY);
    if (options_is_set(flags, OPT_TTFT)) load.ttft_s = options_number(flags, OPT_TTFT) / 1000;
    if (options_is_set(flags, OPT_ITL)) load.itl_s = options_number(flags, OPT_ITL) / 1000;
    enum err e = read_rates(flags, &job->plan, text, &load);
    if (e) return e;
    job->is_suggested = true;
    e = plan_suggest_make(&job->graph, &job->plan, &job->target.plan, &load, &job->suggest);
    return e ? err_set(text, e, "out of memory") : ERR_OK;
}

static void print_job(const struct options *flags, struct job *job) {
    const struct graph_plan_style style = {.is_explained = options_bool(flags, OPT_EXPLAIN),
                                           .has_colour = has_colour()};
    if (options_bool(flags, OPT_JSON)) {
        graph_plan_print_json(&job->plan, &job->problems, job->is_suggested ? &job->suggest : NULL,
                              &job->out);
    } else {
        graph_plan_print(&job->plan, &style, &job->out);
        for (uint32_t i = 0; i < job->chosen.count; i++) {
            plan_auto_print(&job->chosen.choices[i], &job->out);
            buf_add_byte(&job->out, '\n');
        }
        if (job->is_suggested) plan_suggest_print(&job->suggest, style.is_explained, &job->out);
    }
    if (job->out.data) fwrite(job->out.data, 1, job->out.bytes, stdout);
}

static enum err plan_graph(const struct cmd_graph_line *line, struct err_text *text, bool *fits) {
    struct job *job = alloc_zero(1, sizeof *job);
    if (!job) return err_set(text, ERR_MEMORY, "out of memory");
    buf_init(&job->file, 0);
    buf_init(&job->out, 0);
    enum err e = read_graph(line, text, job);
    if (!e) e = plan_auto_choose(&job->graph, &job->target.plan, text, &job->chosen);
    if (!e && options_bool(line->flags, OPT_PRINT_CONFIG)) {
        cmd_graph_print(&job->graph);
        *fits = true;
    } else if (!e) {
        e = graph_plan_make(&job->graph, &job->target.plan, text, &job->plan);
        if (!e) e = predict(line, text, job);
        if (!e) {
            plan_auto_add_problems(&job->chosen, &job->graph, &job->problems);
            graph_plan_add_problems(&job->plan, &job->graph, &job->problems);
            problem_sort(&job->problems);
            print_job(line->flags, job);
            *fits = job->plan.fits;
        }
    }
    release_job(job);
    alloc_free(job);
    return e;
}

/* One worker of a model on this machine, from its files. */
static enum err plan_model(const struct cmd_graph_line *line, struct err_text *text, bool *fits) {
    const struct options *options = line->flags;
    struct model *model = NULL;
    struct worker_boot_options boot_options;
    struct worker_boot boot = {0};
    enum err e =
        cmd_model_open(options, line->positional_count ? line->positional[0] : NULL, text, &model);
    if (!e) e = cmd_model_boot_options(options, model_get_spec(model), text, &boot_options);
    /* A shape that stands for files elsewhere: what they would have mapped counts, too. */
    bool is_made = strcasecmp(options_text(options, OPT_LOAD_FORMAT), "dummy") == 0;
    if (!e && (is_made || model_weights_path(model, 0))) boot_options.backend.model = model;
    if (!e) e = worker_boot_plan(&boot_options, model_get_spec(model), text, &boot);
    if (!e) {
        print_plan(options, &boot_options, &boot, model_get_spec(model));
        *fits = boot.plan.fits;
        worker_boot_close(&boot);
    }
    model_close(model);
    return e;
}

int cmd_plan(int argc, char **argv) {
    struct cmd_graph_line line;
    int status = cmd_graph_read_line(OPTION_PLAN, argc, argv, &line);
    if (status) return status;
    struct err_text text = {0};
    bool fits = false;
    enum err e = ERR_OK;
    bool is_graph = cmd_target_is_graph(&line) || wants_more(line.flags);
    if (options_bool(line.flags, OPT_PRINT_CONFIG) && !is_graph) {
        cmd_print_config(line.flags);
        fits = true;
    } else if (is_graph) {
        e = plan_graph(&line, &text, &fits);
    } else {
        e = plan_model(&line, &text, &fits);
    }
    cmd_graph_release_line(&line);
    if (e) return cmd_fail(e, &text);
    return fits ? CMD_DONE : CMD_FAILED;
}
