"""Conversations, the families of templates/, and snippets that pin single rules."""
import copy
import json
import os
import struct

HERE = os.path.dirname(os.path.abspath(__file__))

TOOLS = [
    {"type": "function", "function": {
        "name": "get_weather", "description": "Reads the weather & \"more\" of a <city>",
        "parameters": {"type": "object", "required": ["city"], "properties": {
            "city": {"type": "string", "description": "Its name"},
            "days": {"type": "integer", "default": 3},
            "unit": {"type": "string", "enum": ["C", "F"], "default": "C"},
            "tags": {"type": "array", "items": {"type": "string"}},
            "deep": {"type": "object", "properties": {"x": {"type": ["number", "null"]}}}}}}},
    {"type": "function", "function": {
        "name": "t\u00e4gliche_zahl", "description": "Gives a number",
        "parameters": {"type": "object", "properties": {}}}},
]
DOCUMENTS = [{"title": "On ice", "text": "Ice is water that waits.\nIt is cold."},
             {"text": "Untitled \u00fcber text"}]


def call(name, arguments, identity="abcde1234"):
    return {"id": identity, "type": "function", "function": {"name": name, "arguments": arguments}}


def user(content):
    return {"role": "user", "content": content}


def assistant(content, **more):
    return dict({"role": "assistant", "content": content}, **more)


def system(content):
    return {"role": "system", "content": content}


CHATS = {
    "one": [user("Hello there!")],
    "system": [system("You are terse."), user("  Who are you?\n")],
    "turns": [user("Hi"), assistant("Hello!"), user("Bye"), assistant("So long."), user("")],
    "system-turns": [system("Be kind.\n"), user("a"), assistant(" b "), user("c\n\nd")],
    "unicode": [user("\u4f60\u597d \U0001f600 na\u00efve \u00df \u2028 <|im_end|>\n[INST] </s>"),
                assistant("\u0130\u03a3 'quoted' \"double\" \\ back"), user("\u00e9")],
    "thinking": [user("2+2?"), assistant("<think>\nadd them\n</think>\n\n4"), user("3+3? /no_think"),
                 assistant("6", reasoning_content="plain"), user("ok <tool_response>")],
    "parts": [user([{"type": "text", "text": " look "}, {"type": "image"},
                    {"type": "text", "text": "again"}]), assistant("seen"), user("good")],
    "call": [user("Weather?"),
             assistant(None, tool_calls=[call("get_weather", {"city": "Z\u00fcrich", "days": 2})]),
             {"role": "tool", "content": "{\"t\": 21.5}", "tool_call_id": "abcde1234",
              "name": "get_weather"}, assistant("21.5 degrees"), user("Thanks")],
    "calls": [system("Use tools."), user("Both?"),
              assistant("Let me see.", tool_calls=[
                  call("get_weather", {"city": "Bern", "tags": ["a", "b"], "deep": {"x": 1.0}}),
                  call("t\u00e4gliche_zahl", {}, "bbbbb5678")], thinking="two of them"),
              {"role": "tool", "content": "rain", "tool_call_id": "abcde1234"},
              {"role": "tool", "content": "7", "tool_call_id": "bbbbb5678"}],
    "none": [user("x"), assistant(None), user("y")],
    "empty-system": [system(""), user("x")],
    "developer": [{"role": "developer", "content": "d"}, user("x")],
    "assistant-first": [assistant("a"), user("b")],
    "string-arguments": [user("q"), assistant("", tool_calls=[call("f", "{\"a\": 1}")]),
                         {"role": "tool", "content": "r", "tool_call_id": "abcde1234"}],
}
EXTRAS = {
    "plain": {},
    "nulls": {"tools": None, "documents": None},
    "tools": {"tools": TOOLS},
    "no-generation": {"add_generation_prompt": False, "enable_thinking": False},
    "documents": {"documents": DOCUMENTS, "tools": None, "controls": {"citations": True},
                  "thinking_budget": 1300, "reasoning_effort": "high", "date_string": "1 May 2025",
                  "tools_in_user_message": False},
}


def conversations():
    for name, messages in CHATS.items():
        for extra, more in EXTRAS.items():
            variables = {"messages": messages, "add_generation_prompt": True,
                         "bos_token": "<s>", "eos_token": "</s>"}
            variables.update(more)
            yield f"{name}/{extra}", variables


def reference_chats():
    """What transformers itself rendered with the demo model's template."""
    with open(os.path.join(HERE, "smollm2_135m.json"), encoding="utf-8") as stream:
        prompts = json.load(stream)["prompts"]
    return [(p["name"], p["messages"], p["rendered"]) for p in prompts if "messages" in p]


def matrix():
    folder = os.path.join(HERE, "templates")
    cases = []
    for file in sorted(os.listdir(folder)):
        with open(os.path.join(folder, file), encoding="utf-8", newline="") as stream:
            source = stream.read()
        cases += [(f"{file}/{name}", source, variables) for name, variables in conversations()]
    return cases


# Marks: letters of contents move into a private area, where nothing else comes from.

NEVER_USER = "\uff5c"  # only the templates write it


def shift_text(text):
    return "".join(chr(0xE000 + ord(c)) if c.isascii() and c.isalpha() else c for c in text)


def is_shifted(character):
    return 0xE000 <= ord(character) < 0xE080


def shift(variables):
    variables = copy.deepcopy(variables)
    for message in variables["messages"]:
        content = message.get("content")
        if isinstance(content, str):
            message["content"] = shift_text(content)
        elif content:
            for part in content:
                if "text" in part:
                    part["text"] = shift_text(part["text"])
        for tool_call in message.get("tool_calls", []):
            arguments = tool_call["function"]["arguments"]
            if isinstance(arguments, dict) and "city" in arguments:
                arguments["city"] = shift_text(arguments["city"])
    for document in variables.get("documents") or []:
        document["text"] = shift_text(document["text"])
    return variables


def gguf_string(path, wanted):
    """The value of a string key of a GGUF file."""
    sizes = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}
    with open(path, "rb") as file:
        def number(form):
            return struct.unpack("<" + form, file.read(struct.calcsize(form)))[0]

        def text():
            return file.read(number("Q"))

        def skip(kind):
            if kind == 8:
                file.seek(number("Q"), 1)
            elif kind == 9:
                inner, count = number("I"), number("Q")
                if inner in sizes:
                    file.seek(sizes[inner] * count, 1)
                else:
                    for _ in range(count):
                        skip(inner)
            else:
                file.seek(sizes[kind], 1)

        if file.read(4) != b"GGUF":
            raise ValueError(f"{path} is no GGUF file")
        number("I"), number("Q")
        for _ in range(number("Q")):
            key, kind = text().decode(), number("I")
            if key == wanted and kind == 8:
                return text().decode()
            skip(kind)
    raise KeyError(wanted)


SNIPPETS = r"""
{% set x = 1 %}{% for i in [1, 2] %}{% set x = x + i %}{{ x }}{% endfor %}{{ x }}
{% for i in [1] %}{% if true %}{% set y = 5 %}{% endif %}{{ y }}{% endfor %}{{ y is defined }}
{% if false %}{% set x = 1 %}{% endif %}{{ x }}|{{ messages is defined }}
{% macro f() %}{{ later }}{% endmacro %}{% set later = 7 %}{{ f() }}{% set later = 8 %}{{ f() }}
{% macro f(a, b=a) %}{{ a }}{{ b }}{% endmacro %}{{ f(1) }}{{ f(1, 2) }}{{ f() }}{{ f(b=3) }}
{% macro f(a) %}{{ kwargs }}{{ varargs }}{% endmacro %}{{ f(1, 2, c=3) }}
{% macro f() %}{{ caller() }}{% endmacro %}{% call f() %}in{% endcall %}{{ f() }}
{% macro f(x) %}{% if x > 0 %}{{ x }}{{ f(x - 1) }}{% endif %}{% endmacro %}{{ f(5) }}
{% set g = messages|selectattr('role', 'eq', 'user') %}{{ g|list|length }}{{ g|list|length }}
{% set ns = namespace(n=0) %}{% for i in range(4) if i != ns.n %}{% set ns.n = i %}{{ i }}{% endfor %}
{% for i in range(3) %}{{ loop.last }}{% else %}none{% endfor %}{% for i in [] %}x{% else %}none{% endfor %}
{% for i in range(9) %}{% if i == 2 %}{% continue %}{% endif %}{% if i == 5 %}{% break %}{% endif %}{{ i }}{% endfor %}
{% for i in range(2) %}{% break %}{% else %}else{% endfor %}
{% for i in range(2) %}{% for j in range(2) %}{{ loop.index }}{% endfor %}{{ loop.index }}{% endfor %}
{% for x in [1, 2, 3] %}{{ loop.previtem }}<{{ x }}>{{ loop.nextitem }};{% endfor %}
{% for x in [1, 1, 2] %}{{ loop.changed(x) }}{% endfor %}{% for loop_ in [1] %}{{ loop_ }}{% endfor %}
{% for loop in [1] %}{% endfor %}
{% for x in [1] %}{% set loop = 2 %}{{ loop }}{% endfor %}
{% set a, b = 1, 2 %}{{ a }}{{ b }}{% set a, b = b, a %}{{ a }}{{ b }}{% set (c, d) = 'xy' %}{{ c }}
{% set a, b = [1] %}
{% set ns = namespace() %}{% set ns.a, ns.b = 1, 2 %}{{ ns.a + ns.b }}{{ ns.c is defined }}{{ ns }}
{% set d = {} %}{% set d.x = 1 %}
{% set t %}a{{ 1 }}{% endset %}{{ t }}{% set t | upper %}abc{% endset %}{{ t }}
{{ undefined_thing.x }}
{{ undefined_thing }}{{ undefined_thing is undefined }}{{ undefined_thing == other_thing }}
{{ messages[0].nothing }}{{ messages[0].nothing.x }}
{{ none.x }}{{ none['x'] }}{{ 5 .x }}{{ (5).real }}
{{ [1, 2].append(3) }}
{{ {'a': 1}.update({'b': 2}) }}{{ 1 }}
{{ messages[0].pop('role') }}
{{ {'a': 1}.pop is defined }}{{ [].append }}{{ ''.__class__ }}
{{ 'a' + 1 }}
{{ 'a' ~ 1 ~ none ~ 1.0 ~ true ~ undefined_thing }}
{{ 1 < 2 < 3 }}{{ 1 < 3 < 2 }}{{ 1 == 1.0 }}{{ true == 1 }}{{ 'a' < 'b' }}{{ [1, 2] < [1, 3] }}
{{ 1 in [1.0] }}{{ 'b' in 'abc' }}{{ 'x' in {'x': 1} }}{{ 1 not in (2,) }}{{ 1 in undefined_thing }}
{{ 1 in 'a' }}
{{ none < 1 }}
{{ 9223372036854775807 }}{{ -9223372036854775807 - 1 }}{{ 0x1F }}{{ 0b101 }}{{ 0o17 }}{{ 1_000 }}
{{ 1e15 }} {{ 1e16 }} {{ 123456789.123 }} {{ 1e-4 }} {{ 1e-5 }} {{ 5e-324 }} {{ 1.7976931348623157e308 }}
{{ 0.1 }} {{ 100.0 }} {{ 1/3 }} {{ 2/3 }} {{ 1e22 }} {{ 1e23 }} {{ -0.0 }} {{ 3.0 * 2 }} {{ 7 // 2.0 }}
{{ 1 / 0 }}
{{ 'abc'[-1] }}{{ 'abc'[5] }}{{ 'abc'[::-1] }}{{ 'abcdef'[1:5:2] }}{{ [1, 2, 3][-2:] }}{{ (1, 2, 3)[::-2] }}
{{ 'äöü'[1] }}{{ 'äöü'[::-1] }}{{ 'äöü'|length }}{{ '日本語'[:2] }}{{ 'é' * 3 }}
{{ "a\nb\t\\ \x41\u00e9\U0001F600 \q \101" }}{{ 'it''s' "joined" }}
{{ ['a', "b'c", 'd"e', 'f\'g"h', '\n', '\x00', 'é', '\u200b', '\ud7ff'] }}
{{ {'a': [1, {'b': none}], 2: (true,), none: 1.5} }}{{ {}.items() }}{{ {'a': 1}.keys() }}{{ range(3) }}
{{ {'b': 1, 'a': 2}|tojson }}{{ {'b': 1, 'a': 2}|tojson(sort_keys=true) }}{{ [1, 'é<>&']|tojson }}
{{ [1, 'é😀\x7f\x01']|tojson(ensure_ascii=true) }}{{ {1: 2, none: 3, true: 4, 1.5: 5}|tojson }}
{{ [[], {}, [1], {'a': []}]|tojson(indent=2) }}{{ [1]|tojson(indent='--') }}{{ (1, 2)|tojson(separators=('; ', '=')) }}
{{ undefined_thing|tojson }}
{{ [1.0, 1e100, 0.1]|tojson }}{{ (1e400)|tojson }}
{{ ' a b '.strip() }}|{{ 'xxaxx'.strip('x') }}|{{ 'abcba'.lstrip('ab') }}|{{ 'a,b,c'.split(',', 1) }}|{{ 'a b  c'.split(none, 1) }}|{{ 'abc'.split('') }}
{{ ' a  b '.split() }}{{ 'a,b,'.split(',') }}{{ ''.split(',') }}{{ ''.split() }}{{ 'a.b.c'.rsplit('.', 1) }}
{{ 'abc'.startswith(('x', 'a')) }}{{ 'abc'.endswith('bc') }}{{ 'abc'.startswith('b', 1) }}{{ 'banana'.replace('a', 'o', 2) }}
{{ 'hello world'.title() }}{{ "they're".title() }}{{ "they're bill's"|title }}{{ 'hELLO'|capitalize }}{{ 'ß'.upper() }}
{{ 'abc'.center(9, '*') }}{{ 'abc'|center(8) }}{{ '7'.zfill(3) }}{{ '-7'.zfill(4) }}{{ 'a\tb'.expandtabs(4) }}
{{ 'a-b-c'.partition('-') }}{{ 'a-b-c'.rpartition('-') }}{{ 'a'.partition('-') }}{{ 'abc'.find('c') }}{{ 'abc'.index('x') }}
{{ 'aXbX'.count('X') }}{{ '12'.isdigit() }}{{ 'ab1'.isalnum() }}{{ 'Ab'.swapcase() }}{{ 'a\nb\r\nc'.splitlines() }}
{{ '{}-{}'.format(1, 'a') }}{{ '{0}{1}{0}'.format('a', 'b') }}{{ '{x:>5}|{y!r}'.format(x=1, y='z') }}{{ '{:,}|{:.2f}|{:05d}|{:x}|{:%}'.format(1234567, 3.14159, 42, 255, 0.5) }}
{{ '%s %r %d %05.1f %% %x %-5s| %+d' % ('a', 'b', 3.9, 2.25, 255, 'l', 4) }}{{ '%(a)s' % {'a': 1} }}{{ 'x' % [] }}
{{ '%s' % (1, 2) }}
{{ '%d' % 'x' }}
{{ 'abc'|first }}{{ []|first }}{{ [1, 2]|last }}{{ 'abc'|reverse }}{{ [1, 2]|reverse|list }}{{ {'a': 1}|first }}
{{ [3, 1, 2]|sort }}{{ ['b', 'A', 'a']|sort }}{{ ['b', 'A', 'a']|sort(case_sensitive=true) }}{{ [1, 'a']|sort }}
{{ {'b': 1, 'A': 2}|dictsort }}{{ {'b': 1, 'a': 2}|dictsort(by='value') }}{{ {'a': 1}|dictsort(by='x') }}
{{ [1, 2, 3]|sum }}{{ []|sum }}{{ [[1], [2]]|sum(start=[]) }}{{ [1, 5, 3]|max }}{{ ['b', 'A']|min }}{{ []|min }}
{{ 42.55|round }}{{ 42.55|round(1, 'floor') }}{{ 42.45|round(1, 'ceil') }}{{ 5|round }}{{ 2.5|round }}{{ 1234|round(-2) }}
{{ '42'|int }}{{ '4.7'|int }}{{ 'x'|int(9) }}{{ '0x1f'|int(0, 16) }}{{ 3.9|int }}{{ none|int }}{{ '3.5'|float }}{{ 'x'|float }}
{{ 'a\nb\n\nc'|indent }}|{{ 'a\nb'|indent(2, true) }}|{{ 'a\n\nb'|indent('> ', blank=true) }}
{{ 'a long sentence here'|truncate(10) }}{{ 'short'|truncate(3, true, '', 0) }}{{ 'a b c'|wordcount }}
{{ ['a', 'b']|join }}{{ [1, none, 'x']|join('-') }}{{ messages|join(',', attribute='role') }}{{ 'abc'|join('.') }}
{{ [1, 1, 2, 'a', 'A']|unique|list }}{{ [1, 2, 3, 4, 5]|batch(2, 'x')|list }}{{ [1, 2, 3, 4, 5]|slice(2)|list }}
{{ [{'a': 1}, {'a': 2}, {'b': 3}]|map(attribute='a')|list }}{{ [{'a': {'b': 1}}]|map(attribute='a.b')|list }}{{ [[1, 2]]|map(attribute=1)|list }}
{{ ['a', 'b']|map('upper')|join }}{{ [1, 2]|map('string')|list }}{{ ['1']|map('int', default=3)|list }}{{ [1, 2, 3]|select('odd')|list }}
{{ [1, 2, 3]|reject('divisibleby', 2)|list }}{{ [0, 1, '', 'a']|select|list }}{{ [1]|map('nofilter')|list }}
{{ undefined_thing|default('d') }}{{ ''|default('d') }}{{ ''|default('d', true) }}{{ none|d('x') }}{{ undefined_thing|d }}
{{ '<b>'|e }}{{ '<b>'|safe }}{{ ('<b>'|safe) + '<i>' }}{{ '<b>'|escape|escape }}{{ '<'|forceescape }}{{ '<i>' + '<b>'|safe }}
{{ 1 if true }}{{ 1 if false }}{{ (1 if false) is undefined }}{{ 1 if false else 2 if false else 3 }}
{{ not true }}{{ not not 1 }}{{ true and 'a' }}{{ '' or 'b' }}{{ 0 and x.y }}{{ none or [] or 'z' }}
{{ 2 is even }}{{ 3 is odd }}{{ 4 is divisibleby 2 }}{{ 4 is divisibleby(3) }}{{ 'a' is in ['a'] }}{{ 1 is sameas 1 }}{{ none is none }}
{{ 1 is number }}{{ true is number }}{{ true is integer }}{{ 1.0 is float }}{{ 'a' is sequence }}{{ {} is mapping }}{{ 1 is iterable }}
{{ [] is sequence }}{{ {} is sequence }}{{ undefined_thing is sequence }}{{ undefined_thing is iterable }}{{ undefined_thing is callable }}
{{ 'a' is lower }}{{ 'A' is upper }}{{ 'int' is filter }}{{ 'odd' is test }}{{ range is callable }}{{ messages is not string }}
{{ 1 is nosuch }}
{% if false %}{{ 1 is nosuch }}{{ 1|nosuch }}{% endif %}fine
{% if true %}{{ 1|nosuch }}{% endif %}
{{ 1|nosuch if false else 'fine' }}
{{ -2 ** 2 }}{{ 2 ** 3 ** 2 }}{{ -2|abs }}{{ 1 + 2|string }}{{ (1 + 2)|string }}{{ 1 - 1 - 1 }}{{ 2 * 3 % 4 }}{{ 'a' 'b'|upper }}
{{ [1, 2, 3,] }}{{ (1,) }}{{ () }}{{ (1) }}{{ {'a': 1,} }}{{ 1, 2 }}{{ range(5)[1:3]|list }}{{ range(10)[::3]|list }}
{{ dict(a=1, b=2) }}{{ dict([('x', 1)]) }}{{ dict({'a': 1}, b=2) }}{{ namespace(a=1).a }}{{ range(0) }}{{ range(3, 0, -1)|list }}
{{ range(100001)|length }}
{{ raise_exception('plain words') }}
{{ raise_exception(1) }}
{% if messages|length > 100 %}{{ raise_exception('no') }}{% endif %}ok
{{ strftime_now('%Y-%m-%d %H:%M:%S %b %B %a %A %j %% %y %I %p') }}
{{ (1).foo }}{{ 'a'.foo }}{{ [].foo }}{{ {}.foo }}{{ {'foo': 1}.foo }}{{ {'items': 1}['items'] }}{{ {'get': 2}.get is callable }}
{{ [1, 2]['x'] }}{{ [1, 2][none] }}{{ {}[[]] }}{{ {1: 'one'}[1.0] }}{{ {(1, 2): 't'}[(1, 2)] }}
{{ {[]: 1} }}
{{ f(x=1, x=2) }}
{{ a b }}
{{ 'unclosed }}
{% if %}{% endif %}
{% for x in %}{% endfor %}
{% endif %}
{% if true %}
{% nonsense %}
{{ (1, 2 }}
{{ ] }}
{# open
{% raw %} open
{% set x %}{% endfor %}
{% set true = 1 %}
{% set 1 = 1 %}
{% break %}
{% for x in [1] %}{% set t %}{% break %}{% endset %}{% endfor %}ok
{% macro m() %}{% break %}{% endmacro %}
{% macro m(a, a) %}{% endmacro %}
{% macro m(a=1, b) %}{% endmacro %}
{% call m %}{% endcall %}
{{ loop.index }}
{% for x in 5 %}{% endfor %}
{% for a, b in [1] %}{% endfor %}
{% for a, b in [(1, 2, 3)] %}{% endfor %}
{% for k in {'a': 1, 'b': 2} %}{{ k }}{% endfor %}{% for k, v in {'a': 1}.items() %}{{ k }}{{ v }}{% endfor %}{% for c in 'ab' %}{{ c }}.{% endfor %}
{{ messages.0.role }}{{ messages[0]['role'][0] }}{{ messages|map(attribute='role')|first }}
{% generation %}{% set zz = 1 %}{{ zz }}{% endgeneration %}{{ zz is defined }}
{% print 1, 2 %}{% print 'x' %}
{% with %}{% set q = 1 %}{{ q }}{% endwith %}{{ q is defined }}{% with a = 1, b = 2 %}{{ a + b }}{% endwith %}
{% filter indent(2) %}a
b{% endfilter %}
{% for x in [1, 2] -%}   {{ x }}   {%- endfor %}|
  {% if true %}  a  {% endif %}  b
  {%+ if true %}  a  {%+ endif %}  b
{{ 1 }}   {%- if true -%}   x   {%- endif +%}
""".strip("\n").split("\n")

LINES = [
    "a\n{% if true %}\nb\n{% endif %}\nc\n", "  {% if true %}\n  b\n  {% endif %}\n",
    "{% for x in [1,2] %}\n  {{ x }}\n{% endfor %}\n\n", "a {# c #}\nb\n  {# d #}\ne",
    "{{ 1 }}\n{{ 2 }}\n", "a\r\nb\rc\n{% if 1 %}\r\nd\r\n{% endif %}", "\n\n", "", "x\n\n",
    "{% raw %}\n {{ a }}\n  {% endraw %}\n b", "  {% raw -%}  x  {%- endraw %}  ",
    "a\n   {%- if true %}\n b", "a {%- if true -%}\n\n b {%- endif -%}\n c",
    "{% set x %}\n  a\n{% endset %}\n[{{ x }}]", "\ta\n\t{% if 1 %}b{% endif %}", "\u00a0{% if 1 %}b{% endif %}",
    "x\n  \n  {% if 1 %}y{% endif %}", "{{ 'a\nb' }}", "{{ 'a\r\nb' }}", "{%\nif true\n%}x{%\nendif\n%}",
    "{{\n1\n+\n2\n}}", "{{ {'a': {'b': 1}} }}{{ {'a': '}}'} }}", "{{ '%}' }}{% set a = '%}' %}{{ a }}",
    "{ { 1 } } {{'{{'}} {{'}}'}} #} %} }}", "{{ 1 -}}\n  \n{{- 2 }}", "{#- a -#}\n x {#+ b +#}\n y",
]


def snippets():
    variables = {"messages": CHATS["calls"], "bos_token": "<s>", "eos_token": "</s>"}
    return [(f"{n}", s, variables) for n, s in enumerate(SNIPPETS + LINES)]
