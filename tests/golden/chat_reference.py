"""The reference for chat templates: jinja2 set up as transformers sets it up."""
import datetime
import json

import jinja2
import jinja2.ext
import jinja2.nodes
import jinja2.sandbox


class Refusal(jinja2.exceptions.TemplateError):
    """What raise_exception raises."""


class Generation(jinja2.ext.Extension):
    """{% generation %} only marks a region for training: what is inside is written as it is."""

    tags = {"generation"}

    def parse(self, parser):
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        call = self.call_method("_pass_through")
        return jinja2.nodes.CallBlock(call, [], [], body).set_lineno(line)

    def _pass_through(self, caller):
        return caller()


def environment(now):
    """now: the datetime that strftime_now sees."""

    def raise_exception(message):
        raise Refusal(message)

    def tojson(value, ensure_ascii=False, indent=None, separators=None, sort_keys=False):
        return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators,
                          sort_keys=sort_keys)

    def strftime_now(format):
        return now.strftime(format)

    env = jinja2.sandbox.ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True,
        extensions=[Generation, jinja2.ext.loopcontrols])
    env.filters["tojson"] = tojson
    env.globals["raise_exception"] = raise_exception
    env.globals["strftime_now"] = strftime_now
    return env


def render(env, source, variables):
    """("text", rendered) or ("refused", message) or ("error", reason)."""
    try:
        if env.globals.get("_last", (None,))[0] != source:  # the cases of one template follow
            env.globals["_last"] = (source, env.from_string(source))
        return "text", env.globals["_last"][1].render(**variables)
    except Refusal as error:
        return "refused", str(error.message)
    except (Exception, SyntaxError) as error:  # pylint: disable=broad-except
        return "error", f"{type(error).__name__}: {error}"


NOW = datetime.datetime(2024, 7, 26, 15, 4, 5)
