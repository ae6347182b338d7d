"""Random templates from a seed: expressions of every kind, and statements around them."""
import random

VARIABLES = {
    "messages": [
        {"role": "system", "content": "You are  helpful.\n"},
        {"role": "user", "content": "Hëllo <|im_end|> \"wörld\" 'x' \u4f60\u597d \U0001f600", "n": 3},
        {"role": "assistant", "content": None, "tool_calls": [
            {"id": "a1", "type": "function",
             "function": {"name": "get_weather", "arguments": {"city": "Bern", "days": 2}}}]},
        {"role": "tool", "content": "{\"t\": 1.50}", "tool_call_id": "a1"},
        {"role": "user", "content": [{"type": "text", "text": "part one"},
                                     {"type": "image"}, {"type": "text", "text": ""}]},
    ],
    "tools": [{"type": "function", "function": {
        "name": "get_weather", "description": "Reads the \u00fcber <weather> & more",
        "parameters": {"type": "object", "required": ["city"],
                       "properties": {"city": {"type": "string"},
                                      "days": {"type": "integer", "default": 3}}}}}],
    "add_generation_prompt": True,
    "bos_token": "<s>",
    "eos_token": "</s>",
    "empty": "",
    "zero": 0,
    "one": 1,
    "big": 123456789012,
    "neg": -7,
    "half": 0.5,
    "large": 1e22,
    "tiny": 1.25e-7,
    "nothing": None,
    "yes": True,
    "no": False,
    "names": ["b", "a", "C", "A", "", "\u00df\u00c9", "a b\tc"],
    "numbers": [3, 1, 2, 1, 0, -5],
    "floats": [1.5, 2.0, -0.25],
    "mixed": [1, "1", 1.0, True, None, [1], {"a": 1}],
    "nested": [[1, 2], [3, [4, 5]], []],
    "pairs": [["x", 1], ["y", 2]],
    "d": {"b": 1, "a": [1, 2], "items": "own", "C": {"k": "v"}, "_p": 9},
    "people": [{"name": "Zoe", "age": 30, "tags": ["x"]}, {"name": "adam", "age": 25},
               {"name": "Bob", "age": 30, "tags": []}],
    "text": "  The quick, brown\tfox: jumps over\n the lazy dog;  x=1, y=2  ",
    "path": "a/b//c",
    "uni": "stra\u00dfe \u0130stanbul \u03a3\u039f\u03a6\u039f\u03a3 \ufb01n \u01c6 e\u0301 \u2028end",
}

NAMES = list(VARIABLES) + ["missing", "undefined_thing"]
# No names of methods: a bound method prints its address.
KEYS = ["role", "content", "name", "age", "b", "a", "C", "k", "missing", "function", "tags", "_p",
        "type", "tool_calls", "text"]
STRINGS = ["", "a", " ", ",", "x", "role", "user", "Hello World", "b\\n", "é", "%s", "%d|%5.2f",
           "{} {}", "{0}-{1}", "{:>5}", "{a}", "<b>", "o", "  pad ", "The", "1", "3.7", "0x1f",
           "%Y-%m-%d", "\\u00e9\\x41", "a.b", "tags.0", "name"]
INTS = ["0", "1", "2", "3", "5", "10", "-1", "-2", "7", "100", "255", "1_000", "0x10"]
FLOATS = ["0.5", "1.0", "2.5", "-1.5", "1e3", "1e16", "1e-5", "3.14159", "123456.789", "0.1"]
FILTERS = [
    ("upper", 0, 0), ("lower", 0, 0), ("trim", 0, 1), ("length", 0, 0), ("count", 0, 0),
    ("string", 0, 0), ("list", 0, 0), ("first", 0, 0), ("last", 0, 0), ("join", 0, 2),
    ("default", 0, 2), ("d", 0, 2), ("items", 0, 0), ("tojson", 0, 0), ("title", 0, 0),
    ("capitalize", 0, 0), ("replace", 2, 3), ("sort", 0, 2), ("unique", 0, 1), ("reverse", 0, 0),
    ("int", 0, 2), ("float", 0, 1), ("abs", 0, 0), ("round", 0, 2), ("sum", 0, 2), ("min", 0, 1),
    ("max", 0, 1), ("dictsort", 0, 3), ("indent", 0, 3), ("safe", 0, 0), ("escape", 0, 0),
    ("e", 0, 0), ("batch", 1, 2), ("slice", 1, 2), ("center", 0, 1), ("wordcount", 0, 0),
    ("truncate", 0, 4), ("format", 0, 3), ("attr", 1, 1), ("groupby", 1, 2),
    ("filesizeformat", 0, 1), ("urlencode", 0, 0), ("forceescape", 0, 0),
]
TESTS = [("defined", 0), ("undefined", 0), ("none", 0), ("string", 0), ("mapping", 0),
         ("iterable", 0), ("sequence", 0), ("number", 0), ("boolean", 0), ("true", 0),
         ("false", 0), ("integer", 0), ("float", 0), ("callable", 0), ("odd", 0), ("even", 0),
         ("lower", 0), ("upper", 0), ("divisibleby", 1), ("equalto", 1), ("eq", 1), ("ne", 1),
         ("in", 1), ("gt", 1), ("lt", 1), ("ge", 1), ("le", 1), ("filter", 0), ("test", 0),
         ("escaped", 0)]
METHODS = [
    ("upper", 0, 0), ("lower", 0, 0), ("strip", 0, 1), ("lstrip", 0, 1), ("rstrip", 0, 1),
    ("split", 0, 2), ("rsplit", 0, 2), ("splitlines", 0, 1), ("join", 1, 1), ("replace", 2, 3),
    ("startswith", 1, 3), ("endswith", 1, 3), ("find", 1, 3), ("rfind", 1, 3), ("index", 1, 2),
    ("count", 1, 3), ("title", 0, 0), ("capitalize", 0, 0), ("swapcase", 0, 0), ("isdigit", 0, 0),
    ("isalpha", 0, 0), ("isalnum", 0, 0), ("isspace", 0, 0), ("isupper", 0, 0), ("islower", 0, 0),
    ("istitle", 0, 0), ("isnumeric", 0, 0), ("isdecimal", 0, 0), ("isidentifier", 0, 0),
    ("isascii", 0, 0), ("isprintable", 0, 0), ("center", 1, 2), ("ljust", 1, 2), ("rjust", 1, 2),
    ("zfill", 1, 1), ("expandtabs", 0, 1), ("partition", 1, 1), ("rpartition", 1, 1),
    ("removeprefix", 1, 1), ("removesuffix", 1, 1), ("format", 0, 3), ("get", 1, 2),
    ("items", 0, 0), ("keys", 0, 0), ("values", 0, 0), ("copy", 0, 0), ("append", 1, 1),
    ("pop", 0, 1), ("update", 1, 1), ("format_map", 1, 1), ("nosuch", 0, 1), ("__class__", 0, 0),
]
ARITH = ["+", "+", "+", "-", "*", "/", "//", "%", "~", "~"]  # ** of big numbers never ends
COMPARE = ["==", "!=", "<", "<=", ">", ">=", "in", "not in"]


class Maker:
    def __init__(self, seed):
        self.r = random.Random(seed)
        self.locals = []

    def pick(self, choices):
        return self.r.choice(choices)

    def string(self):
        quote = self.pick(["'", '"'])
        return quote + self.pick(STRINGS) + quote

    def name(self):
        if self.locals and self.r.random() < 0.5:
            return self.pick(self.locals)
        return self.pick(NAMES)

    def leaf(self):
        k = self.r.random()
        if k < 0.5:
            return self.name()
        if k < 0.7:
            return self.string()
        if k < 0.85:
            return self.pick(INTS)
        if k < 0.9:
            return self.pick(FLOATS)
        return self.pick(["true", "false", "none", "True", "None", "[]", "{}", "()"])

    def args(self, low, high, depth, named=()):
        out = [self.expr(depth - 1) for _ in range(self.r.randint(low, high))]
        if named and self.r.random() < 0.3:
            out.append(f"{self.pick(named)}={self.expr(depth - 1)}")
        return "(" + ", ".join(out) + ")"

    def filter(self, value, depth):
        k = self.r.random()
        if k < 0.12:
            attribute = self.pick(["'name'", "'age'", "'role'", "0", "'tags'", "'function.name'",
                                   "'tags.0'"])
            tail = self.pick(["|list", "|join(',')", "|first", ""])
            default = self.pick(["", ", default='dd'"])
            return f"{value}|map(attribute={attribute}{default}){tail}"
        if k < 0.2:
            name = self.pick(["upper", "length", "string", "tojson", "trim", "int", "nosuch"])
            return f"{value}|map('{name}')|list"
        if k < 0.34:
            kind = self.pick(["selectattr", "rejectattr"])
            test = self.pick(["", ", 'defined'", ", 'equalto', 'user'", ", '==', 30",
                              ", 'string'", ", 'none'", ", 'in', ['Zoe', 'Bob']"])
            tail = self.pick(["|list", "|map(attribute='name')|list", "|list|length", "|first",
                              "|list|first"])
            return f"{value}|{kind}('{self.pick(KEYS)}'{test}){tail}"
        if k < 0.42:
            test = self.pick(["", "'odd'", "'string'", "'gt', 1", "'none'", "'mapping'"])
            return f"{value}|{self.pick(['select', 'reject'])}({test})|list"
        if k < 0.5:
            style = self.pick(["indent=2", "indent=0", "indent=none", "separators=(',', ':')",
                               "ensure_ascii=true", "sort_keys=true", "indent='\\t'",
                               "indent=4, sort_keys=true", "2", "false, 3"])
            return f"{value}|tojson({style})"
        if k < 0.56:
            how = self.pick(["attribute='age'", "attribute='name'", "attribute='age,name'",
                             "reverse=true, attribute='name'", "case_sensitive=true", "true"])
            return f"{value}|sort({how})"
        name, low, high = self.pick(FILTERS)
        if name in ("batch", "slice", "unique", "items", "reverse"):
            # A printed generator shows its address; loops test them as they are.
            return f"{value}|{name}{self.args(low, high, depth)}|list"
        if high == 0 or (low == 0 and self.r.random() < 0.5):
            return f"{value}|{name}"
        return f"{value}|{name}{self.args(low, high, depth)}"

    def test(self, value, depth):
        name, count = self.pick(TESTS)
        negated = self.pick(["", "", "not "])
        argument = ""
        if count:
            argument = f"({self.expr(depth - 1)})" if self.r.random() < 0.7 else f" {self.leaf()}"
        return f"{value} is {negated}{name}{argument}"

    def slice(self, depth):
        def part():
            return self.pick(["", "", "1", "-1", "2", "0", "-3", "100", self.expr(depth - 1)])
        step = self.pick(["", "", ":", ":-1", ":2", ":-2"])
        return f"[{part()}:{part()}{step}]"

    def postfix(self, value, depth):
        k = self.r.random()
        if k < 0.25:
            return f"{value}.{self.pick(KEYS)}"
        if k < 0.4:
            return f"{value}[{self.string() if self.r.random() < 0.5 else self.pick(INTS)}]"
        if k < 0.5:
            return f"{value}['{self.pick(KEYS)}']"
        if k < 0.65:  # of a constant, jinja2 folds a bad slice to nothing instead of failing
            return self.pick(NAMES) + self.slice(depth)
        name, low, high = self.pick(METHODS)
        return f"{value}.{name}{self.args(low, high, depth)}"

    def literal(self, depth):
        items = [self.expr(depth - 1) for _ in range(self.r.randint(0, 4))]
        k = self.r.random()
        if k < 0.4:
            return "[" + ", ".join(items) + "]"
        if k < 0.6:
            return "(" + ", ".join(items) + ("," if items else "") + ")"
        if k < 0.9:
            keys = [self.string() if self.r.random() < 0.8 else self.leaf() for _ in items]
            return "{" + ", ".join(f"{a}: {b}" for a, b in zip(keys, items)) + "}"
        return self.pick(["range(3)", "range(1, 10, 3)", "range(5, 0, -1)", "dict(a=1, b='x')",
                          "namespace(a=1)", "range(one, big % 7)", "dict(pairs, z=3)",
                          "strftime_now('%d %b %Y')", "dict(pairs)"])

    def expr(self, depth):
        if depth <= 0:
            return self.leaf()
        k = self.r.random()
        if k < 0.15:
            return self.leaf()
        if k < 0.33:
            # In brackets: a.b behind a filter would be a filter's dotted name.
            return self.postfix(f"({self.expr(depth - 1)})", depth)
        if k < 0.53:
            return self.filter(self.operand(depth), depth)
        if k < 0.65:
            return f"({self.expr(depth - 1)} {self.pick(ARITH)} {self.expr(depth - 1)})"
        if k < 0.66:
            return f"{self.pick(['2', '10', '0.5', 'zero', 'neg', 'half'])} ** " + \
                self.pick(["0", "1", "2", "3", "-1", "half", "neg", "zero", "one"])
        if k < 0.7:
            return f"{self.expr(depth - 1)} {self.pick(ARITH)} {self.expr(depth - 1)}"
        if k < 0.77:
            return f"({self.expr(depth - 1)} {self.pick(COMPARE)} {self.expr(depth - 1)})"
        if k < 0.83:
            return self.test(self.operand(depth), depth)
        if k < 0.88:
            op = self.pick(["and", "or"])
            return f"({self.expr(depth - 1)} {op} {self.expr(depth - 1)})"
        if k < 0.9:
            return f"not {self.operand(depth)}"
        if k < 0.92:
            return f"{self.pick(['-', '+'])}{self.operand(depth)}"
        if k < 0.95:
            tail = "" if self.r.random() < 0.3 else f" else {self.expr(depth - 1)}"
            return f"({self.expr(depth - 1)} if {self.expr(depth - 1)}{tail})"
        return self.literal(depth)

    def operand(self, depth):
        inner = self.expr(depth - 1)
        return inner if self.r.random() < 0.4 else f"({inner})"

    # Statements

    def space(self):
        return self.pick(["", "", "", "\n", " ", "  \n", "\n  ", "text", " t \n\t"])

    def tag(self, text):
        left = self.pick(["{%", "{%", "{%-", "{%+", "{%-"])
        right = self.pick(["%}", "%}", "-%}", "+%}", "-%}"])
        return f"{self.space()}{left} {text} {right}{self.space()}"

    def output(self):
        left, right = self.pick(["{{", "{{-"]), self.pick(["}}", "-}}"])
        return f"{self.space()}{left} {self.safe_expr()} {right}{self.space()}"

    def safe_expr(self):
        """Mostly expressions that do not raise, so that more of a template is reached."""
        k = self.r.random()
        if k < 0.55:
            return self.name()
        if k < 0.75:
            return f"{self.name()}|{self.pick(['string', 'tojson', 'default(0)', 'd(1, true)'])}"
        if k < 0.9:
            return self.pick(["loop.index", "loop.last", "loop.first", "ns.v", "ns.v|string",
                              "loop.previtem", "loop.nextitem", "loop.length", "loop.revindex",
                              "loop.cycle('x', 'y')", "loop.changed(v)", "loop.index0",
                              "loop.depth", "m('q')", "m(1, b=2)"])
        return self.expr(1)

    def body(self, depth, in_loop):
        return "".join(self.statement(depth, in_loop) for _ in range(self.r.randint(1, 3)))

    def target(self):
        name = self.pick(["v", "w", "u", "k"])
        self.locals.append(name)
        return name

    def for_loop(self, depth):
        iterable = self.pick(["numbers", "names", "messages", "d", "d.items()", "pairs", "range(3)",
                              "people", "missing", "text[:4]", "nested", "numbers|reverse",
                              "people|map(attribute='name')", "d|items", "[]", "'abc'",
                              self.expr(1)])
        target = self.target()
        if self.r.random() < 0.25:
            target += ", " + self.target()
        condition = f" if {self.expr(1)}" if self.r.random() < 0.25 else ""
        text = self.tag(f"for {target} in {iterable}{condition}") + self.body(depth - 1, True)
        if self.r.random() < 0.3:
            text += self.tag("else") + self.body(depth - 1, False)
        return text + self.tag("endfor")

    def statement(self, depth, in_loop):
        k = self.r.random()
        if depth <= 0 or k < 0.3:
            return self.output()
        if k < 0.42:
            return self.for_loop(depth)
        if k < 0.57:
            text = self.tag(f"if {self.expr(1)}") + self.body(depth - 1, in_loop)
            for _ in range(self.pick([0, 0, 1, 2])):
                text += self.tag(f"elif {self.expr(1)}") + self.body(depth - 1, in_loop)
            if self.r.random() < 0.5:
                text += self.tag("else") + self.body(depth - 1, in_loop)
            return text + self.tag("endif")
        if k < 0.68:
            return self.tag(f"set {self.target()} = {self.expr(1)}")
        if k < 0.72:
            return self.tag("set ns = namespace(v=0)") + self.tag(f"set ns.v = {self.safe_expr()}")
        if k < 0.75:
            return self.tag(f"set {self.target()}") + self.body(depth - 1, False) + \
                self.tag("endset")
        if k < 0.8:
            name = "m"
            body = self.body(depth - 1, False)
            return self.tag(f"macro {name}(a, b={self.leaf()})") + "{{ a }}{{ b }}" + body + \
                self.tag("endmacro") + self.pick(["{{ m(1) }}", "{{ m(v, b=w) }}", "{{ m() }}"])
        if k < 0.84:
            return self.tag(f"filter {self.pick(['upper', 'trim', 'indent', 'length'])}") + \
                self.body(depth - 1, False) + self.tag("endfilter")
        if k < 0.87:
            return self.tag(f"with {self.target()} = {self.expr(1)}") + \
                self.body(depth - 1, in_loop) + self.tag("endwith")
        if k < 0.9 and in_loop:
            return self.tag(f"if {self.expr(1)}") + \
                self.tag(self.pick(["break", "continue"])) + self.tag("endif")
        if k < 0.93:
            return self.pick(["{# c #}", "{#- c -#}\n", "  {# c\n #}  \n", "{#+ c +#}\n"])
        if k < 0.96:
            return self.tag("raw") + self.pick(["{{ x }} {% y %}", "  {{", "\n"]) + \
                self.tag("endraw")
        if k < 0.98:
            return self.tag("generation") + self.body(depth - 1, False) + \
                self.tag("endgeneration")
        return "{% macro outer() %}[{{ caller(3) }}]{% endmacro %}" + \
            self.tag("call(z) outer()") + "{{ z }}" + self.body(depth - 1, False) + \
            self.tag("endcall")


def expression(seed):
    maker = Maker(seed)
    return "{{ " + maker.expr(3) + " }}"


def template(seed):
    maker = Maker(seed)
    return "".join(maker.statement(3, False) for _ in range(maker.r.randint(1, 5)))
