/* Goal: a template's bounds hold, its errors name their line, what the user wrote is marked to the
 * byte, and no failed allocation leaks or crashes.  What templates mean is compared with jinja2
 * in tests/golden. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/alloc.h"
#include "chat/chat_template.h"

static const char variables_text[] =
    "{\"messages\":[{\"role\":\"user\",\"content\":\" ab<x> \"},"
    "{\"role\":\"assistant\",\"content\":\"\xc3\xa9\\\"\\n\"}],"
    "\"n\":3,\"free\":\"plain\",\"big\":\"0123456789012345678901234567890123456789\"}";

static json_t *variables(void) {
    json_error_t error;
    json_t *json = json_loads(variables_text, 0, &error);
    assert_non_null(json);
    return json;
}

static enum err render_with(const char *source, const struct chat_limits *limits,
                            struct err_text *text, struct chat_prompt *out) {
    struct chat_template *chat_template;
    json_t *json = variables();
    enum err e = chat_template_create(source, strlen(source), text, &chat_template);
    if (!e) {
        e = chat_template_render(chat_template, json, NULL, limits, 0, text, out);
        chat_template_destroy(chat_template);
    }
    json_decref(json);
    return e;
}

/* The output with [ and ] around what is the user's. */
static void assert_marked(const char *source, const char *expected) {
    struct err_text text = {""};
    struct chat_prompt prompt;
    char shown[1024];
    size_t at = 0, range = 0;
    if (render_with(source, NULL, &text, &prompt)) fail_msg("%s: %s", source, text.text);
    for (size_t i = 0; i <= prompt.text.bytes; i++) {
        if (range < prompt.range_count && prompt.user_ranges[range].end == i) {
            shown[at++] = ']';
            range++;
        }
        if (range < prompt.range_count && prompt.user_ranges[range].first == i) shown[at++] = '[';
        if (i < prompt.text.bytes) shown[at++] = (char) prompt.text.data[i];
    }
    shown[at] = '\0';
    assert_int_equal(range, prompt.range_count);
    assert_string_equal(shown, expected);
    chat_template_release_prompt(&prompt);
}

static void test_marks(void **state) {
    assert_marked("{{ messages[0].content }}", "[ ab<x> ]");
    assert_marked("x{{ messages[0].content.strip() }}y", "x[ab<x>]y");
    assert_marked("{{ 'a' + messages[0].role + 'b' }}", "a[user]b");
    assert_marked("{{ messages[0].role + messages[0].role }}", "[useruser]");
    assert_marked("{{ messages[0].role }}{{ messages[1].role }}", "[userassistant]");
    assert_marked("{{ ('<' ~ messages[0].role ~ '>')[1:3] }}", "[us]");
    assert_marked("{{ ('<' ~ messages[0].role ~ '>')[::-1] }}", ">[resu]<");
    assert_marked("{{ ('a' ~ messages[0].role)|upper }}", "A[USER]");
    assert_marked("{{ messages[0].role|replace('s', '-') }}", "[u]-[er]");
    assert_marked("{{ 'u-u'|replace('u', messages[0].role) }}", "[user]-[user]");
    assert_marked("{{ messages|map(attribute='role')|join(', ') }}", "[user], [assistant]");
    assert_marked("{{ messages[1].content|tojson }}", "\"[\xc3\xa9\\\"\\n]\"");
    assert_marked("{{ {'k': messages[0].role}|tojson }}", "{\"k\": \"[user]\"}");
    assert_marked("{{ [messages[0].role] }}", "['[user]']");
    assert_marked("{{ '%s|%s' % (messages[0].role, 'x') }}", "[user]|x");
    assert_marked("{{ '{}-{}'.format(1, messages[0].role) }}", "1-[user]");
    assert_marked("{% set t %}a{{ messages[0].role }}{% endset %}{{ t }}{{ t }}", "a[user]a[user]");
    assert_marked("{% macro m(x) %}({{ x }}){% endmacro %}{{ m(messages[0].role) }}", "([user])");
    assert_marked("{{ messages[0].content.split('b')[1] }}", "[<x> ]");
    assert_marked("{{ messages[0].content|e }}", "[ ab&lt;x&gt; ]");
    assert_marked("{{ messages[0].role * 2 }}", "[useruser]");
    assert_marked("{{ (messages[0].role ~ 'x') * 2 }}", "[user]x[user]x");
    assert_marked("{% for c in 'a' ~ messages[0].role %}{{ c }}.{% endfor %}",
                  "a.[u].[s].[e].[r].");
    assert_marked("{{ messages[0].role|center(8) }}|", "  [user]  |");
    assert_marked("{{ free }}{{ n }}", "plain3");
    assert_marked("{{ messages[0].role|length }}", "4");
    assert_marked("{{ ('\xc3\xa4' ~ messages[0].role ~ '\xc3\xb6').title() }}",
                  "\xc3\x84[user]\xc3\xb6");
}

static void test_user_keys(void **state) {
    static const char *const keys[] = {"free", NULL};
    static const char source[] = "{{ free }}{{ messages[0].role }}";
    struct err_text text;
    struct chat_template *chat_template;
    struct chat_prompt prompt;
    json_t *json = variables();
    assert_int_equal(chat_template_create(source, sizeof source - 1, &text, &chat_template), 0);
    assert_int_equal(chat_template_render(chat_template, json, keys, NULL, 0, &text, &prompt), 0);
    assert_int_equal(prompt.range_count, 1);
    assert_int_equal(prompt.user_ranges[0].first, 0);
    assert_int_equal(prompt.user_ranges[0].end, 5);
    assert_true(chat_template_uses(chat_template, "free"));
    assert_true(chat_template_uses(chat_template, "messages"));
    assert_false(chat_template_uses(chat_template, "role"));
    assert_false(chat_template_uses(chat_template, "tools"));
    chat_template_release_prompt(&prompt);
    chat_template_destroy(chat_template);
    json_decref(json);
}

static void assert_fails(const char *source, const struct chat_limits *limits, enum err expected,
                         const char *message) {
    struct err_text text = {""};
    struct chat_prompt prompt;
    enum err e = render_with(source, limits, &text, &prompt);
    if (!e) chat_template_release_prompt(&prompt);
    if (e != expected) fail_msg("%s: %s (%s)", source, err_name(e), text.text);
    if (strncmp(text.text, message, strlen(message)) != 0)
        fail_msg("%s: '%s' does not start with '%s'", source, text.text, message);
}

static void test_errors(void **state) {
    assert_fails("a\n{{ x.y }}", NULL, ERR_FORMAT, "template line 2: 'x' is undefined");
    assert_fails("\n\n{{ 1 + 'a' }}", NULL, ERR_FORMAT, "template line 3: '+' is not supported");
    assert_fails("{% if true %}\n{{ messages[0].nothing.x }}{% endif %}", NULL, ERR_FORMAT,
                 "template line 2: 'dict object' has no attribute 'nothing'");
    assert_fails("{{ raise_exception('two words') }}", NULL, ERR_USAGE, "two words");
    assert_fails("{% for x in [1] %}\n\n{% endif %}", NULL, ERR_FORMAT, "template line 3: ");
    assert_fails("a\nb\n{% if x %}", NULL, ERR_FORMAT, "template line 3: a block is not closed");
    assert_fails("\n{{ 'a }}", NULL, ERR_FORMAT, "template line 2: ");
    assert_fails("\n{{ 1|nosuch }}", NULL, ERR_FORMAT, "template line 2: no filter named 'nosuch'");
    assert_fails("{% include 'x' %}", NULL, ERR_UNSUPPORTED, "template line 1: the tag 'include'");
    assert_fails("{{ [].append(1) }}", NULL, ERR_FORMAT,
                 "template line 1: access to attribute 'append' is unsafe");
    assert_fails("{{ 9223372036854775807 + 1 }}", NULL, ERR_UNSUPPORTED, "template line 1: ");
    assert_fails("{{ 99999999999999999999 }}", NULL, ERR_UNSUPPORTED, "template line 1: ");
    assert_fails("\xff", NULL, ERR_FORMAT, "template line 1: invalid UTF-8");
    assert_fails("\n{{ '\xed\xa0\x80' }}", NULL, ERR_FORMAT, "template line 2: invalid UTF-8");
    assert_fails("{{ '\\ud800' }}", NULL, ERR_UNSUPPORTED, "template line 1: ");
}

static void test_limits(void **state) {
    const struct chat_limits steps = {.steps_max = 1000};
    const struct chat_limits depth = {.depth_max = 16};
    const struct chat_limits output = {.output_bytes_max = 100};
    const struct chat_limits memory = {.memory_bytes_max = 20000};
    struct chat_prompt prompt;
    struct err_text text;
    assert_fails("{% for x in range(1000) %}{{ x }}{% endfor %}", &steps, ERR_LIMIT, "template");
    assert_fails("{% for x in range(100000) %}{% for y in range(100000) %}{% endfor %}{% endfor %}",
                 NULL, ERR_LIMIT, "template line 1: the template takes too many steps");
    assert_fails("{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}", &depth, ERR_LIMIT, "template");
    assert_fails("{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}", NULL, ERR_LIMIT, "template");
    assert_fails("{{ big }}{{ big }}{{ big }}", &output, ERR_LIMIT, "template line 1: the output");
    assert_fails("{{ 'x' * 1000000000 }}", NULL, ERR_LIMIT, "template");
    assert_fails("{% set ns = namespace(s=big) %}{% for i in range(20) %}"
                 "{% set ns.s = ns.s + ns.s %}{% endfor %}",
                 &memory, ERR_LIMIT, "template line 1: the template needs more than 20000");
    assert_fails("{% set ns = namespace(v=[]) %}{% for i in range(1000) %}"
                 "{% set ns.v = [ns.v] %}{% endfor %}{{ ns.v }}",
                 NULL, ERR_LIMIT, "template");
    assert_fails("{% set ns = namespace(v=[]) %}{% for i in range(1000) %}"
                 "{% set ns.v = ns.v|map('string') %}{% endfor %}{{ ns.v|list }}",
                 NULL, ERR_LIMIT, "template");
    /* Exactly at the bound it still works. */
    const struct chat_limits fits = {.output_bytes_max = 120};
    assert_int_equal(render_with("{{ big }}{{ big }}{{ big }}", &fits, &text, &prompt), ERR_OK);
    assert_int_equal(prompt.text.bytes, 120);
    chat_template_release_prompt(&prompt);
}

static void test_nesting(void **state) {
    enum { MANY = 40000, FITS = 50 };
    char *source = malloc(MANY * 32 + 32);
    assert_non_null(source);
    for (int count = FITS; count <= MANY; count += MANY - FITS) {
        struct err_text text = {""};
        struct chat_prompt prompt;
        char *at = source;
        for (int i = 0; i < count; i++) at = stpcpy(at, "{% if n %}");
        at = stpcpy(at, "x");
        for (int i = 0; i < count; i++) at = stpcpy(at, "{% endif %}");
        enum err e = render_with(source, NULL, &text, &prompt);
        assert_int_equal(e, count == FITS ? ERR_OK : ERR_LIMIT);
        if (!e) chat_template_release_prompt(&prompt);
    }
    free(source);
}

static void test_brackets(void **state) {
    static const char *const pairs[][2] = {{"(", ")"},  {"[", "]"},  {"not ", ""},        {"-", ""},
                                           {"x[", "]"}, {"f(", ")"}, {"1 if 1 else ", ""}};
    enum { MANY = 50000 };
    for (size_t p = 0; p < sizeof pairs / sizeof *pairs; p++) {
        char *source = malloc(MANY * 16 + 32), *at = source;
        assert_non_null(source);
        at = stpcpy(at, "{{ ");
        for (int i = 0; i < MANY; i++) at = stpcpy(at, pairs[p][0]);
        at = stpcpy(at, "1");
        for (int i = 0; i < MANY; i++) at = stpcpy(at, pairs[p][1]);
        stpcpy(at, " }}");
        assert_fails(source, NULL, ERR_LIMIT, "template line 1: ");
        free(source);
    }
}

/* What leans left does not nest: long chains are fine. */
static void test_long_chains(void **state) {
    static const char *const links[] = {" + 1", "|string|int", " ~ 'x'", " or 1", " == 1", ".real"};
    for (size_t p = 0; p < sizeof links / sizeof *links; p++) {
        char *source = malloc(2000 * 16 + 32), *at = source;
        struct err_text text = {""};
        struct chat_prompt prompt;
        assert_non_null(source);
        at = stpcpy(at, "{{ n");
        for (int i = 0; i < 2000; i++) at = stpcpy(at, links[p]);
        stpcpy(at, " }}");
        if (render_with(source, NULL, &text, &prompt)) fail_msg("%s: %s", links[p], text.text);
        chat_template_release_prompt(&prompt);
        free(source);
    }
}

/* Every construct once, with each allocation failing in turn. */
static void test_no_memory(void **state) {
    static const char source[] =
        "{% macro m(a, b=2) %}{{ a }}{{ kwargs }}{{ varargs }}{{ caller() }}{% endmacro %}"
        "{% set ns = namespace(s='') %}"
        "{% for x in messages if x.role %}{% set ns.s = ns.s + x.content|upper %}"
        "{{ loop.last }}{{ loop.nextitem }}{% else %}-{% endfor %}"
        "{% call(z) m(ns.s, q=1) %}c{% endcall %}"
        "{% set t %}{{ messages|tojson(indent=2, sort_keys=true) }}{% endset %}{{ t[::2] }}"
        "{{ messages|map(attribute='role')|sort|unique|join(',') }}{{ '%s' % n }}"
        "{{ '{:>5}'.format(n) }}{{ {'a': [1, (2,)]} }}{{ messages[0].content.split() }}"
        "{% filter trim %} {{ range(3)|batch(2)|list }} {% endfilter %}{{ strftime_now('%Y') }}"
        "{{ {'a':1,'b':2,'c':3,'d':4,'e':5,'f':6,'g':7,'h':8,'i':9,'j':10}.j }}";
    json_t *json = variables();
    uint64_t failures = 0;
    for (uint64_t n = 1;; n++) {
        struct err_text text = {""};
        struct chat_template *chat_template = NULL;
        struct chat_prompt prompt = {0};
        alloc_fail_at(n, n % 2);
        enum err e = chat_template_create(source, sizeof source - 1, &text, &chat_template);
        if (!e) e = chat_template_render(chat_template, json, NULL, NULL, 0, &text, &prompt);
        uint64_t asked = alloc_count();
        alloc_fail_at(0, 0);
        chat_template_destroy(chat_template);
        if (!e) {
            chat_template_release_prompt(&prompt);
            if (asked < n) break;
            fail_msg("allocation %llu failed unnoticed", (unsigned long long) n);
        }
        if (e != ERR_MEMORY) fail_msg("%s: %s", err_name(e), text.text);
        failures++;
    }
    assert_true(failures > 10);
    json_decref(json);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_marks),       cmocka_unit_test(test_user_keys),
        cmocka_unit_test(test_errors),      cmocka_unit_test(test_limits),
        cmocka_unit_test(test_nesting),     cmocka_unit_test(test_brackets),
        cmocka_unit_test(test_long_chains), cmocka_unit_test(test_no_memory),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
