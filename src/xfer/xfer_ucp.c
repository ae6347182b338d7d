/* xfer_ucp - see xfer_ucp.h. */
#include "xfer/xfer_ucp.h"

#include <dlfcn.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include <ucs/debug/log_def.h>

#include "base/log.h"

#define LIBRARY "libucp.so.0"

static pthread_mutex_t load_lock = PTHREAD_MUTEX_INITIALIZER;
static struct xfer_ucp loaded;
static bool is_loaded;

/* What UCX has to say is for whoever looks for a fault: its errors are ours as status codes. */
static ucs_log_func_rc_t on_log(const char *file, unsigned line, const char *function,
                                ucs_log_level_t level, const ucs_log_component_config_t *config,
                                const char *message, va_list ap) {
    if (level > UCS_LOG_LEVEL_WARN) return UCS_LOG_FUNC_RC_STOP;
    char text[512];
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wformat-nonliteral"
    vsnprintf(text, sizeof text, message, ap);
#pragma GCC diagnostic pop
    log_debug("ucx: %s", text);
    return UCS_LOG_FUNC_RC_STOP;
}

/* A sanitizer's or a debugger's handlers, and ours, must not give way to UCX's. */
static const int kept_signals[] = {SIGILL, SIGSEGV, SIGBUS, SIGFPE, SIGHUP, SIGUSR1, SIGUSR2};

static void *open_library(void) {
    struct sigaction before[ARRAY_COUNT(kept_signals)];
    for (size_t i = 0; i < ARRAY_COUNT(kept_signals); i++)
        sigaction(kept_signals[i], NULL, &before[i]);
    void *library = dlopen(LIBRARY, RTLD_NOW | RTLD_LOCAL);
    for (size_t i = 0; i < ARRAY_COUNT(kept_signals); i++)
        sigaction(kept_signals[i], &before[i], NULL);
    return library;
}

static void set_globals(void *library) {
    void (*push_handler)(ucs_log_func_t) = NULL;
    ucs_status_t (*set_value)(const char *, const char *) = NULL;
    void *symbol = dlsym(library, "ucs_log_push_handler");
    memcpy(&push_handler, &symbol, sizeof symbol);
    if (push_handler) push_handler(on_log);
    symbol = dlsym(library, "ucs_global_opts_set_value");
    memcpy(&set_value, &symbol, sizeof symbol);
    if (set_value) set_value("WARN_UNUSED_ENV_VARS", "n");
}

static enum err load(struct err_text *text) {
    void *library = open_library();
    if (!library)
        return err_set(text, ERR_UNSUPPORTED,
                       "transfer between processes needs the UCX library: %s (Debian: apt install "
                       "libucx0)",
                       dlerror());
    struct xfer_ucp ucp;
    const struct {
        void *place;
        const char *name;
    } needed[] = {
        {&ucp.init_version, "ucp_init_version"},
        {&ucp.cleanup, "ucp_cleanup"},
        {&ucp.config_read, "ucp_config_read"},
        {&ucp.config_modify, "ucp_config_modify"},
        {&ucp.config_release, "ucp_config_release"},
        {&ucp.get_version, "ucp_get_version"},
        {&ucp.worker_create, "ucp_worker_create"},
        {&ucp.worker_destroy, "ucp_worker_destroy"},
        {&ucp.worker_get_address, "ucp_worker_get_address"},
        {&ucp.worker_release_address, "ucp_worker_release_address"},
        {&ucp.worker_progress, "ucp_worker_progress"},
        {&ucp.worker_get_efd, "ucp_worker_get_efd"},
        {&ucp.worker_arm, "ucp_worker_arm"},
        {&ucp.worker_set_am_recv_handler, "ucp_worker_set_am_recv_handler"},
        {&ucp.ep_create, "ucp_ep_create"},
        {&ucp.ep_close_nbx, "ucp_ep_close_nbx"},
        {&ucp.am_send_nbx, "ucp_am_send_nbx"},
        {&ucp.am_recv_data_nbx, "ucp_am_recv_data_nbx"},
        {&ucp.am_data_release, "ucp_am_data_release"},
        {&ucp.request_check_status, "ucp_request_check_status"},
        {&ucp.request_free, "ucp_request_free"},
        {&ucp.status_string, "ucs_status_string"},
    };
    for (size_t i = 0; i < ARRAY_COUNT(needed); i++) {
        void *symbol = dlsym(library, needed[i].name);
        memcpy(needed[i].place, &symbol, sizeof symbol);
        if (symbol) continue;
        dlclose(library);
        return err_set(text, ERR_UNSUPPORTED, "the UCX library is too old: it lacks %s",
                       needed[i].name);
    }
    set_globals(library);
    loaded = ucp;
    is_loaded = true;
    return ERR_OK;
}

enum err xfer_ucp_load(struct err_text *text, const struct xfer_ucp **out) {
    pthread_mutex_lock(&load_lock);
    enum err e = is_loaded ? ERR_OK : load(text);
    pthread_mutex_unlock(&load_lock);
    if (!e) *out = &loaded;
    return e;
}
