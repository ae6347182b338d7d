/* model_resolve: paths first, then the Hugging Face cache; else one line with the places looked at
 * and the command. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "base/alloc.h"
#include "model/file_maker.h"
#include "model/model_resolve.h"

static struct model_source good(const char *name) {
    struct model_source source;
    struct err_text text = {""};
    if (model_resolve(name, &text, &source)) fail_msg("%s", text.text);
    return source;
}

static void refuse(const char *name, enum err wanted, const char *sentence) {
    struct model_source source;
    struct err_text text = {""};
    enum err e = model_resolve(name, &text, &source);
    assert_string_equal(text.text, sentence);
    assert_int_equal(e, wanted);
}

/* The folder's path in front. */
static const char *sentence(const char *name, const char *rest) {
    static char whole[1024];
    snprintf(whole, sizeof whole, "%s%s", in_folder(name), rest);
    return whole;
}

static void paths(void **state) {
    model_resolve_configure(NULL, NULL, NULL, NULL);
    put_text_file("My.Model-Q4_1.gguf", "GGUF....");
    struct model_source source = good(in_folder("My.Model-Q4_1.gguf"));
    assert_int_equal(source.kind, MODEL_SOURCE_GGUF);
    assert_string_equal(source.name, "My.Model-Q4_1");
    put_text_file("blob", "GGUF...."); /* by its magic, whatever its name */
    assert_int_equal(good(in_folder("blob")).kind, MODEL_SOURCE_GGUF);
    put_text_file("hf/config.json", "{}");
    source = good(in_folder("hf"));
    assert_int_equal(source.kind, MODEL_SOURCE_FOLDER);
    assert_string_equal(source.name, "hf");
    source = good(in_folder("hf/"));
    assert_string_equal(source.name, "hf");
    assert_int_equal(chdir(in_folder("hf")), 0);
    assert_string_equal(good(".").name, "hf");
    assert_int_equal(chdir("/"), 0);
}

static void folders_of_ggufs(void **state) {
    put_text_file("g/a-00001-of-00002.gguf", "GGUF....");
    put_text_file("g/a-00002-of-00002.gguf", "GGUF....");
    put_text_file("g/mmproj-a.gguf", "GGUF....");
    put_text_file("g/readme", "");
    struct model_source source = good(in_folder("g"));
    assert_int_equal(source.kind, MODEL_SOURCE_GGUF);
    assert_string_equal(source.path, in_folder("g/a-00001-of-00002.gguf"));
    assert_string_equal(source.name, "a");
    put_text_file("g/config.json", "{}"); /* no safetensors: the GGUF is the model */
    assert_int_equal(good(in_folder("g")).kind, MODEL_SOURCE_GGUF);
    put_text_file("g/model.safetensors", "");
    assert_int_equal(good(in_folder("g")).kind, MODEL_SOURCE_FOLDER);
    put_text_file("two/a.gguf", "GGUF....");
    put_text_file("two/b.gguf", "GGUF....");
    struct model_source out;
    struct err_text text = {""};
    assert_int_equal(model_resolve(in_folder("two"), &text, &out), ERR_USAGE);
    assert_non_null(strstr(text.text, ": holds 2 GGUF models: name one of them: "));
    assert_non_null(strstr(text.text, "a.gguf"));
    assert_non_null(strstr(text.text, "b.gguf"));
}

static void wrong_files(void **state) {
    put_text_file("x.gguf", "GGML");
    refuse(in_folder("x.gguf"), ERR_FORMAT,
           sentence("x.gguf", ": not a GGUF file: expected the bytes GGUF first"));
    put_text_file("model.safetensors", "");
    refuse(in_folder("model.safetensors"), ERR_USAGE,
           sentence("model.safetensors", ": one file of a Hugging Face model: name its folder"));
    put_text_file("m.bin", "");
    refuse(in_folder("m.bin"), ERR_UNSUPPORTED,
           sentence("m.bin", ": PyTorch files are not read: supported are safetensors and GGUF; "
                             "the nearest is the same model as safetensors"));
    refuse("", ERR_USAGE, "no model is named: expected a path or org/name");
}

#define REPO "hub/models--org--name-1.5/"

static void put_cached(void) {
    put_text_file(REPO "refs/main", "0123abcd\n");
    put_text_file(REPO "refs/pr/1", "ffff");
    put_text_file(REPO "blobs/x", "{}");
    put_text_file(REPO "snapshots/0123abcd/readme", "");
    assert_int_equal(symlink("../../blobs/x", in_folder(REPO "snapshots/0123abcd/config.json")), 0);
    put_text_file(REPO "snapshots/ffff/m.gguf", "GGUF....");
}

static void cache(void **state) {
    put_cached();
    model_resolve_configure(in_folder("hub"), "/nowhere", NULL, "/home");
    struct model_source source = good("org/name-1.5");
    assert_int_equal(source.kind, MODEL_SOURCE_FOLDER);
    assert_string_equal(source.name, "org/name-1.5");
    assert_string_equal(source.path, in_folder(REPO "snapshots/0123abcd"));
    assert_true(source.is_cached);
    assert_string_equal(good("org/name-1.5@0123abcd").path, source.path);
    source = good("org/name-1.5@pr/1");
    assert_int_equal(source.kind, MODEL_SOURCE_GGUF);
    assert_string_equal(source.name, "org/name-1.5");
    /* The snapshot's path is as good as its name. */
    source = good(in_folder(REPO "snapshots/0123abcd"));
    assert_string_equal(source.name, "org/name-1.5");
    assert_false(source.is_cached);
    char whole[1024];
    snprintf(whole, sizeof whole,
             "org/other: no such file or folder here, and %s/models--org--other is not in the "
             "Hugging Face cache; get it with: hf download org/other",
             in_folder("hub"));
    refuse("org/other", ERR_NOT_FOUND, whole);
    snprintf(whole, sizeof whole,
             "org/name-1.5@v2: the Hugging Face cache has no snapshot of the revision v2 in "
             "%s/models--org--name-1.5; get it with: hf download org/name-1.5 --revision v2",
             in_folder("hub"));
    refuse("org/name-1.5@v2", ERR_NOT_FOUND, whole);
    refuse("x.gguf", ERR_NOT_FOUND, "x.gguf: no such file or folder");
    refuse("/dev/null", ERR_USAGE, "/dev/null: neither a file nor a folder");
}

static void places(void **state) {
    put_cached();
    put_text_file("cache/huggingface/hub/models--a--b/refs/main", "c");
    put_text_file("cache/huggingface/hub/models--a--b/snapshots/c/config.json", "{}");
    model_resolve_configure(NULL, folder, in_folder("cache"), NULL);
    assert_string_equal(good("org/name-1.5").name, "org/name-1.5"); /* HF_HOME/hub */
    model_resolve_configure("", NULL, in_folder("cache"), NULL);
    assert_string_equal(good("a/b").name, "a/b");
    rename(in_folder("cache"), in_folder(".cache"));
    model_resolve_configure(NULL, NULL, NULL, folder);
    assert_string_equal(good("a/b").name, "a/b");
    model_resolve_configure(NULL, NULL, NULL, NULL);
    refuse("a/b", ERR_NOT_FOUND,
           "a/b: no such file or folder here, and (no HOME, HF_HOME or HF_HUB_CACHE)/models--a--b "
           "is not in the Hugging Face cache; get it with: hf download a/b");
}

static void names_that_are_none(void **state) {
    model_resolve_configure(folder, NULL, NULL, NULL);
    static const char *const names[] = {"/no/such/thing", "a/b/c", "../x", "a/../b", "a b",
                                        "org/",           "a;b",   "@x",   "a/b@/x", "a/b@x y"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        char whole[128];
        snprintf(whole, sizeof whole, "%s: no such file or folder", names[i]);
        refuse(names[i], ERR_NOT_FOUND, whole);
    }
    /* What a ref says is not a way out of the cache. */
    put_text_file("models--a--b/refs/main", "../../../etc");
    put_text_file("models--a--b/snapshots/x", "");
    struct model_source out;
    struct err_text text = {""};
    assert_int_equal(model_resolve("a/b", &text, &out), ERR_NOT_FOUND);
    char *long_name = malloc(6000);
    memset(long_name, 'x', 5999);
    long_name[5999] = '\0';
    assert_int_equal(model_resolve(long_name, &text, &out), ERR_NOT_FOUND);
    free(long_name);
}

#define IN_FOLDER(test) cmocka_unit_test_setup_teardown(test, folder_make, folder_remove)

int main(void) {
    const struct CMUnitTest tests[] = {
        IN_FOLDER(paths), IN_FOLDER(folders_of_ggufs), IN_FOLDER(wrong_files),
        IN_FOLDER(cache), IN_FOLDER(places),           IN_FOLDER(names_that_are_none),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
