# Renders templates with Jinja2, set up as transformers sets it up, for
# chat_test.go: python3 generate.py > cases.json (needs Debian's python3-jinja2).
import json
from datetime import datetime
from jinja2 import nodes
from jinja2.ext import Extension
from jinja2.sandbox import ImmutableSandboxedEnvironment

VARS = json.loads(r'''{"messages": [{"role": "user", "content": "<Hi> & 'you'"}, {"role": "assistant", "content": "é\n"}],
	"tools": [{"type": "function", "function": {"name": "f", "parameters": {"z": 1, "a": [true, null, 1.5, {}], "s": "\u2028\"\\\u0001"}}}],
	"add_generation_prompt": true, "bos_token": "<s>", "n": 7, "words": ["b", "A", "c"], "big": 12345678901234567890}''')


def raise_exception(message):
    raise ValueError(message)


def tojson(x, ensure_ascii=False, indent=None, separators=None, sort_keys=False):
    return json.dumps(x, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


class Generation(Extension):
    tags = {"generation"}

    def parse(self, parser):
        line = next(parser.stream).lineno
        body = parser.parse_statements(["name:endgeneration"], drop_needle=True)
        return nodes.CallBlock(self.call_method("text"), [], [], body).set_lineno(line)

    def text(self, caller):
        return caller()


env = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols", Generation])
env.filters["tojson"] = tojson
env.globals["raise_exception"] = raise_exception
env.globals["strftime_now"] = lambda f: datetime(2026, 7, 4, 15, 6, 7, 123456).strftime(f)

TEMPLATES = r'''
{{ 'The quick brown fox jumped over the lazy dog-house, well-known to state-of-the-art---no? yes--well a--b x-y -- ab-cd' | wordwrap(10) }}|{{ 'a-b-c-d ef-gh-ij 12-34-56 x1-y2 e-mail é-à ab--cd' | wordwrap(4) }}|{{ 'a' | wordwrap }}|{{ '' | wordwrap }}|{{ '   ' | wordwrap(2) }}|{{ '  lead  and   trail   ' | wordwrap(6) }}
{{ 'a\n\nb c d\r\ne f' | wordwrap(3) }}|{{ 'a b c\u2028d e' | wordwrap(3, wrapstring='<br>') }}|{{ 'abcdefghijkl mno' | wordwrap(5, false) }}|{{ 'abcdefghijkl-mno-p' | wordwrap(5, true, '/', false) }}|{{ 'ab-cdefghijkl' | wordwrap(5) }}|{{ '---abcdef' | wordwrap(2) }}|{{ '日本語のとても長い文 です' | wordwrap(3) }}|{{ 'a\tb\vc d' | wordwrap(2) }}
{{ ('word ' * 60) | wordwrap }}|{{ 'x y' | wordwrap(width=1) }}|{{ 'ab cd' | wordwrap(9223372036854775807) }}|{{ 'e\u0301-x e\u0301e-xx \u00b2a-bc' | wordwrap(2) }}|{{ 'a "quoted-word," or-not! self--, --self a---b "x"--y' | wordwrap(6) }}
{{ '_-.-²a é-!-aa1- a-b-cd' | wordwrap(4, false) }}
{{ 'ab' | wordwrap(0) }}
{{ 5 | wordwrap }}
{{ 'ab' | wordwrap(2, true, 5) }}
{{ 'inf' | float | tojson }} {{ '-inf' | float | tojson }} {{ 'nan' | float | tojson }} {{ [1e400, {'a': -1e400}] | tojson }} {{ 'inf' | float }} {{ 'nan' | float }} {{ {1e400: 1} | tojson }}
{{ '1e999' | float }} {{ '-1e999' | float | tojson }} {{ '0x10' | float }} {{ '0x1p4' | float(3) }} {{ 'Infinity' | float }} {{ '1e-999' | float }} {{ 'inf' | int(5) }}
{{ 'a b/c?d=é&"~' | urlencode }}|{{ {'k k': 'v/v', 'n': 1} | urlencode }}|{{ [('a', 'b c'), ('d', none)] | urlencode }}|{{ 17 | urlencode }}|{{ '' | urlencode }}
{{ '<p>a <b>b</b>\n c</p> &lt;x&gt; <!-- <i> --> d' | striptags }}|{{ 'a < b' | striptags }}|{{ '<<b>x>' | striptags }}|{{ '<!<!-- -->-- x -->y' | striptags }}|{{ 5 | striptags }}
{{ 0 | filesizeformat }} {{ 1 | filesizeformat }} {{ 999 | filesizeformat }} {{ 1000 | filesizeformat }} {{ 1500 | filesizeformat }} {{ 1048576 | filesizeformat(true) }} {{ 1e6 | filesizeformat }} {{ 1e30 | filesizeformat }} {{ '2048' | filesizeformat(binary=true) }} {{ 1e9 | filesizeformat }} {{ -5 | filesizeformat }}
{{ {'a': 1, 'b': none, 'c': '<"x">', 'd': u} | xmlattr }}|{{ {'a': 1} | xmlattr(false) }}|{{ {} | xmlattr }}|
{{ {'a b': 1} | xmlattr }}
plain text
{{ 1 }}{{ 1.5 }}{{ 1e3 }}{{ 1e20 }}{{ 0.00001 }}{{ true }}{{ none }}{{ 'a' }}{{ "b\n\t\x41\u00e9" }}
{{ undefined_name }}|{{ messages[9] }}|{{ messages[0].nothing }}|{{ messages[0]['role'] }}
{{ undefined_name.field }}
{{ undefined_name + 'a' }}
{{ [1, 'a', none, true, 1.5, [2], {'k': 'v', 'l': "it's"}] }}
{{ {'a': 1, 'a': 2, 1: 'x', true: 'y'} }}
{{ (1, 2)[1] }}{{ (1) }}{{ [1, 2,] }}
{{ 7 // 2 }} {{ -7 // 2 }} {{ 7 % 3 }} {{ -7 % 3 }} {{ 7 % -3 }} {{ 7 / 2 }} {{ 4 / 2 }} {{ 2 ** 10 }} {{ 2 ** -1 }} {{ -2 ** 2 }} {{ 7.5 // 2 }} {{ -7.5 % 2 }}
{{ 1 + 2 * 3 - 4 }} {{ (1 + 2) * 3 }} {{ 'a' ~ 1 ~ none ~ true ~ 2.0 }} {{ 'ab' * 3 }} {{ 'a' + 'b' }} {{ [1] + [2] }}
{{ 1 < 2 < 3 }} {{ 1 == 1.0 }} {{ true == 1 }} {{ 'a' < 'b' }} {{ 1 != 2 }} {{ 2 >= 2 }} {{ 'a' == 1 }} {{ none == none }}
{{ 'a' < 1 }}
{{ 1 in [1, 2] }} {{ 'a' in 'cat' }} {{ 'x' not in {'x': 1} }} {{ not 1 in [1] }} {{ 'role' in messages[0] }}
{{ true and 'x' }} {{ 0 or 'y' }} {{ not '' }} {{ not not 1 }} {{ none and 1 }} {{ [] or {} or 'z' }}
{{ 'yes' if n > 5 else 'no' }} {{ 'yes' if n > 50 }} {{ 1 if 0 else 2 if 0 else 3 }}
{{ 'abc'[0] }}{{ 'abc'[-1] }}{{ 'abc'[1:] }}{{ 'abc'[::-1] }}{{ 'abcdef'[1:5:2] }}{{ 'abc'[:-1] }}{{ 'abc'[5:] }}{{ 'éa'[0] }}
{{ [1,2,3][-2:] }}{{ [1,2,3][::-1] }}{{ [1,2,3][10:0:-1] }}{{ [1,2,3][:2] }}{{ [1,2,3][-10:10] }}{{ [1,2,3][2::-2] }}
{{ messages[::-1][0].role }}
{{ -n|abs }} {{ n|string + 'x' }} {{ 'a' ~ 'b'|upper }} {{ 1 + 2|string|length }}
{{ n is defined }} {{ x is defined }} {{ x is undefined }} {{ x is not defined }} {{ none is none }} {{ n is not none }} {{ 'a' is string }} {{ 1 is string }}
{{ 1 is number }} {{ true is number }} {{ 1.5 is number }} {{ 1 is integer }} {{ true is integer }} {{ 1.0 is float }} {{ true is boolean }} {{ 1 is boolean }}
{{ [] is iterable }} {{ 'a' is iterable }} {{ 1 is iterable }} {{ {} is mapping }} {{ [] is mapping }} {{ [] is sequence }} {{ 'a' is sequence }} {{ {} is sequence }} {{ 1 is sequence }}
{{ 3 is odd }} {{ 3 is even }} {{ 9 is divisibleby 3 }} {{ 9 is divisibleby(2) }} {{ 1 is eq 1 }} {{ 1 is ne 2 }} {{ 1 is in [1] }} {{ 2 is gt 1 }} {{ 2 is lt 1 }} {{ true is true }} {{ 1 is true }} {{ false is false }} {{ 'a' is lower }} {{ 'A' is upper }} {{ 1 is equalto 1 }}
{{ 1 + 1 is number }}
{{ not n is string }} {{ n is number and n > 3 }} {{ n is string or n is number }}
{{ raise_exception is callable }} {{ n is callable }}
{% for m in messages %}{{ m.role }}{% if not loop.last %}, {% endif %}{% endfor %}
{% for m in messages %}{{ loop.index }}{{ loop.index0 }}{{ loop.revindex }}{{ loop.revindex0 }}{{ loop.first }}{{ loop.last }}{{ loop.length }};{% endfor %}
{% for x in words %}{{ loop.previtem }}<{{ x }}>{{ loop.nextitem }} {{ loop.cycle('odd', 'even') }};{% endfor %}
{% for x in [] %}a{% else %}empty{% endfor %}{% for x in nothing %}a{% else %}none{% endfor %}
{% for x in range(6) if x % 2 %}{{ x }}{{ loop.length }}{% endfor %}
{% for k, v in {'a': 1, 'b': 2}.items() %}{{ k }}={{ v }};{% endfor %}{% for k in {'a': 1} %}{{ k }}{% endfor %}
{% for k, v in messages[0]|dictsort %}{{ k }}{% endfor %}{% for k, v in messages[0]|items %}{{ k }}{% endfor %}
{% for c in 'héy' %}{{ c }}-{% endfor %}
{% for x in 5 %}{% endfor %}
{% for a, b in [[1, 2], [3, 4]] %}{{ a + b }} {% endfor %}{% for a, b in [[1]] %}{% endfor %}
{% for x in range(10) %}{% if x == 2 %}{% continue %}{% endif %}{% if x == 5 %}{% break %}{% endif %}{{ x }}{% endfor %}
{% for x in range(2) %}{% for y in range(2) %}{{ x }}{{ y }}{{ loop.index }} {% endfor %}{{ loop.index }}{% endfor %}
{{ range(3)|list }} {{ range(1, 4)|list }} {{ range(5, 0, -2)|list }} {{ range(0)|list }}
{% set x = 1 %}{% for i in [1,2] %}{% set x = x + i %}{{ x }}{% endfor %}{{ x }}
{% set ns = namespace(x=1, l=[]) %}{% for i in [1,2] %}{% set ns.x = ns.x + i %}{% endfor %}{{ ns.x }}
{% set ns = namespace(found=false) %}{% if true %}{% set ns.found = true %}{% set y = 3 %}{% endif %}{{ ns.found }}{{ y }}
{% set x %}block {{ n }}{% endset %}[{{ x }}]{% set x | upper | trim %} a {% endset %}[{{ x }}]
{% set a, b = 1, 2 %}{{ a }}{{ b }}{% set t = 1, 2 %}{{ t[1] }}
{% if n == 1 %}a{% elif n == 7 %}b{% else %}c{% endif %}{% if '' %}x{% elif [] %}y{% else %}z{% endif %}
{% macro greet(who, greeting='Hi', end) %}{{ greeting }} {{ who }}{{ end }}{% endmacro %}{{ greet('you') }}{{ greet('me', greeting='Yo') }}{{ greet('x', 'y', '!') }}
{% macro m(x) %}{% if x > 0 %}{{ x }}{{ m(x - 1) }}{% endif %}{% endmacro %}{{ m(3) }}
{% macro m() %}{{ n }}{% endmacro %}{{ m() | length }}{{ m(1) }}
{% filter upper %}abc {{ n }}{% endfilter %}
{% raw %}{{ not }} {% this %}{% endraw %}|{%- raw -%}  x  {%- endraw -%}  y
{# comment #}a{#- b -#}  c {# {{ x }} #}
a {{- ' b ' -}} c
a {%- if true -%} b {%- endif -%} c
  {% if true %}\n  x\n  {% endif %}\ny
line\n{% if true %}\nin\n{% endif %}\nout\n
{% if true %}  \n x{% endif %}
  {{ n }}\n  {{ n }}
a\n  {%+ if true %}x{% endif %}\n{% if true +%}\ny{% endif %}
\n\n{% set x = 1 %}\n\n{{ x }}\n\n
{{ '{{' }}{{ "%}" }}{{ '}}' }}{ {% if true %}{}{% endif %}{ {
{{ {'a': {'b': 1}} }}{{ {'a': {'b': 1}}['a']['b'] }}
{{ tools | tojson }}
{{ tools | tojson(indent=2) }}
{{ tools[0].function.parameters | tojson(indent=4) }}{{ [] | tojson(indent=2) }}{{ {} | tojson }}
{{ 1.0 | tojson }}{{ 1e20 | tojson }}{{ none | tojson }}{{ {'a': true, 1: 2} | tojson }}{{ 'é\u2028' | tojson }}
{{ '  a b '.strip() }}|{{ 'xxaxx'.strip('x') }}|{{ '\n\na'.lstrip('\n') }}|{{ 'a\n\n'.rstrip('\n') }}|{{ 'abcab'.strip('ab') }}
{{ 'a,b,c'.split(',') }} {{ ' a  b '.split() }} {{ 'a,b,c'.split(',', 1) }} {{ 'a,b,c'.rsplit(',', 1) }} {{ 'abc'.split('x') }} {{ ''.split(',') }}
{{ 'a</think>b'.split('</think>')[-1] }} {{ 'abc'.startswith('ab') }} {{ 'abc'.endswith('bc') }} {{ 'abc'.startswith(('x', 'a')) }}
{{ 'Hello World'.upper() }} {{ 'Hello'.lower() }} {{ 'hello world-wide'.title() }} {{ 'hELLO'.capitalize() }} {{ "it's".title() }}
{{ 'a-b-c'.replace('-', '+') }} {{ 'a-b-c'.replace('-', '+', 1) }} {{ 'abc'.find('c') }} {{ 'abc'.find('x') }} {{ 'abcabc'.rfind('b') }} {{ 'aXbX'.count('X') }}
{{ '12'.isdigit() }} {{ 'a1'.isalnum() }} {{ 'ab'.isalpha() }} {{ ' '.isspace() }} {{ ''.isdigit() }} {{ 'AB'.isupper() }} {{ 'ab'.islower() }}
{{ 'a\nb\n'.splitlines() }} {{ ','.join(['a', 'b']) }} {{ 'abc'.removeprefix('a') }} {{ 'abc'.removesuffix('c') }}
{{ ','.join([1]) }}
{{ messages[0].get('role') }} {{ messages[0].get('x') }} {{ messages[0].get('x', 'd') }} {{ messages[0].keys() | list }} {{ messages[0].values() | list | length }}
{{ {'items': 1}.items() | list }} {{ {'a': 1}.a }} {{ {'items': 1}['items'] }}
{{ ' a ' | trim }}|{{ 'xax' | trim('x') }}|{{ 'a' | upper }}{{ 'A' | lower }} {{ 'a b' | title }} {{ 'ab c' | capitalize }}
{{ 'abc' | length }} {{ [1, 2] | length }} {{ {} | length }} {{ messages | count }} {{ 'é' | length }} {{ x | length }}
{{ 5 | length }}
{{ x | default('d') }} {{ none | default('d') }} {{ '' | default('d', true) }} {{ x | d('e') }} {{ x.y | default('f') }}
{{ messages[0].nothing | default('d') }}
{{ [1, 2] | join }} {{ ['a', 1, none] | join(', ') }} {{ messages | join('; ', attribute='role') }} {{ 'abc' | join('-') }}
{{ [1, 2] | first }} {{ [1, 2] | last }} {{ [] | first }} {{ 'abc' | first }}
{{ '42' | int }} {{ 'x' | int }} {{ '4.9' | int }} {{ 4.9 | int }} {{ 'x' | int(7) }} {{ '1.5' | float }} {{ 'y' | float }} {{ 3 | float }} {{ true | int }}
{{ -3 | abs }} {{ (-3) | abs }} {{ 2.5 | round }} {{ 3.14159 | round(2) }} {{ 2.1 | round(0, 'ceil') }} {{ 2.9 | round(method='floor') }} {{ 3.5 | round | int }}
{{ words | sort }} {{ words | sort(reverse=true) }} {{ words | sort(case_sensitive=true) }} {{ messages | sort(attribute='role') | map(attribute='role') | list }}
{{ messages | map(attribute='role') | list }} {{ words | map('upper') | list }} {{ words | map('replace', 'b', 'x') | join }} {{ messages | map(attribute='x', default='-') | join }}
{{ [1, 2, 3] | select('odd') | list }} {{ [1, 0, 2] | select | list }} {{ [1, 2, 3] | reject('odd') | list }} {{ [1, 2, 3] | select('gt', 1) | list }}
{{ messages | selectattr('role', 'equalto', 'user') | list | length }} {{ messages | rejectattr('role', '==', 'user') | map(attribute='role') | join }} {{ messages | selectattr('x') | list }} {{ messages | selectattr('x', 'undefined') | list | length }} {{ messages | selectattr('role', 'in', ['user']) | list | length }}
{{ words | reverse | list }} {{ 'abc' | reverse }} {{ [1, 1, 2] | unique | list }} {{ [3, 1] | min }} {{ [3, 1] | max }} {{ [1, 2] | sum }} {{ [{'a': 2}] | sum(attribute='a') }} {{ [1, 2] | sum(start=10) }}
{{ 'a\nb\n\nc' | indent }}|{{ 'a\nb' | indent(2, true) }}|{{ 'a\n\nb' | indent(2, blank=true) }}
{{ '<a>' | e }} {{ '<a>' | escape }} {{ '<a>' | safe }} {{ '<a>' }} {{ [1] | string }} {{ {'a': 1}.items() | list }}
{{ dict(a=1, b='c') }} {{ dict({'x': 1}) }}
{{ strftime_now('%d %b %Y') }} {{ strftime_now('%Y-%m-%d %H:%M:%S %B %A') }}
{{ raise_exception('no') }}
{{ 'a %s %d' % ('x', 3) }} {{ '%s' % 'y' }}
{{ "a" "b" 'c' }}
{{ messages.0.role }}{{ messages[0]["content"] }}
{{ 1_000 }}{{ 10 }}{{ 1.50 }}
{{ none.x }}|{{ none.x is defined }}
{{ n.x }}|{{ 'a'.nothing is defined }}
{{ (messages | first).role }}{{ messages | first | attr }}
{% do words %}
{{ words is not string and words is iterable }}
{{ [[1, 2], [3]] | map('length') | list }}
{{ 'x' if messages and messages[0].role == 'user' and add_generation_prompt else 'y' }}
{%- for message in messages %}\n    {%- if message.role == 'user' %}\n{{ '[INST] ' + message.content + ' [/INST]' }}\n    {%- elif message.role == 'assistant' %}\n{{ ' ' + message.content.strip() + '</s>' }}\n    {%- endif %}\n{%- endfor %}\n
{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}{{ '<|im_start|>system\nYou are a helpful assistant<|im_end|>\n' }}{% endif %}{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n'}}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}
{% if not add_generation_prompt is defined %}{% set add_generation_prompt = false %}{% endif %}{% for message in messages %}{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('Conversation roles must alternate') }}{% endif %}{% endfor %}{{ bos_token }}
{% set loop_messages = messages %}{% for message in loop_messages %}{% set content = '<|start_header_id|>' + message['role'] + '<|end_header_id|>\n\n'+ message['content'] | trim + '<|eot_id|>' %}{% if loop.index0 == 0 %}{% set content = bos_token + content %}{% endif %}{{ content }}{% endfor %}
{{ '\x1c\x1f a\x85\u00a0\u3000\u200b'.strip() | length }}|{{ '\x1fa\x1f' | trim }}|{{ 'a\x1cb c'.split() }}|{{ 'a\x85b\x0bc\x0cd\x1ce\r\nf\rg\u2028h\n\ni'.splitlines() }}|{{ '\x1c'.isspace() }}
a\r\nb\rc{{ 'x' }}\r
{% raw %}\nx\n{% endraw %}\ny
{% raw -%}\nx\n  {%- endraw %}\ny
  {% raw %} x\n  {% endraw %}\n  y
a\n \x0b {% if true %}b{% endif %}
a\n \u00a0{% if true %}b{% endif %}\u3000{%- if true -%}\u2003c{% endif %}
{{ '\101\12\0\7' | length }}{{ '\101' }}{{ '\8' }}{{ "\'\"\q\\" }}
{{ 0x1F }} {{ 0b101 }} {{ 0o17 }} {{ 1_0.5_0 }} {{ 1e-3 }} {{ 1E5 }} {{ 00 }}
{{ 007 }}
{{ range(*[1, 4]) | list }}{{ dict(**{'a': 1}) }}{% macro m(a, b=2, c=3) %}{{ a }}{{ b }}{{ c }};{% endmacro %}{{ m(*[1, 2]) }}{{ m(1, *[5], c=9) }}{{ m(**{'a': 4, 'c': 6}) }}{{ m(1, *[2], **{'c': 0}) }}
{% macro m(a) %}{{ a }}{% endmacro %}{{ m(1, b=2) }}
{% macro m(a) %}{{ a }}{% endmacro %}{{ m(1, 2) }}
{% macro m(a) %}{{ a }}{{ varargs }}{{ kwargs }}{% endmacro %}{{ m(1, 2, 3, x=4) }}
{% macro m(a) %}[{{ caller() }}]{{ a }}{% endmacro %}{% call m(1) %}in {{ n }}{% endcall %}
{% macro m(a) %}[{{ caller('x', 2) }}]{% endmacro %}{% call(u, v=3, w=4) m(1) %}{{ u }}{{ v }}{{ w }}{% endcall %}
{% macro m(a) %}{{ a }}{% endmacro %}{% call m(1) %}x{% endcall %}
{% macro m() %}{% if caller is defined %}c{{ caller() }}{% else %}n{% endif %}{% endmacro %}{{ m() }}{% call m() %}y{% endcall %}
{% macro m(x, y=x) %}{{ x }}{{ y }}{% endmacro %}{{ m(1) }}
{{ none | selectattr('a') | list }}{{ none | map(attribute='x') | join }}{{ 0 | select | list }}{{ '' | reject | list }}{{ missing | map('upper') | list }}{{ none | rejectattr('x') | list }}
{{ 'yes' if [] | select else 'no' }}{{ 'yes' if [1] | map('string') else 'no' }}{{ 'yes' if [] | unique else 'no' }}{{ 'yes' if ([] | list) else 'no' }}{{ 'yes' if {} | items else 'no' }}{{ 'yes' if [] | reverse else 'no' }}
{{ [1] | map('string') | length }}
{{ ([1, 2] | map('string'))[0] }}|{{ ([1, 2] | select)[0] is defined }}
{% set x = [1, 2] | map('string') %}{% for a in x %}{{ a }}{% endfor %}|{% for a in x %}{{ a }}{% endfor %}
{{ 12345678901234567890 }} {{ big }} {{ big | tojson }} {{ [big, -big] }} {{ big + 1 }} {{ big == big }} {{ big > 5 }} {{ big | string | length }} {{ big is number }} {{ big is integer }}
{{ 9223372036854775807 + 1 }} {{ 2 ** 64 }} {{ 3 ** 40 // 7 }} {{ -9223372036854775807 - 5 }} {{ 99999999999 * 99999999999 }} {{ (2 ** 70) % 1000 }}
{{ big | int }} {{ '12345678901234567890' | int }} {{ big / 2 }} {{ big | float }} {{ 1e300 | int | string | length }}
{{ {'b': 'é', 'a': [1, 2]} | tojson(ensure_ascii=true) }} {{ 'é🙂\x7f' | tojson(true) }} {{ {'b': 1, 'a': {'d': 1, 'c': 2}} | tojson(sort_keys=true) }} {{ {'a': [1, 2]} | tojson(separators=(',', ':')) }} {{ {'a': [1]} | tojson(indent=1, separators=(' ;', ' = ')) }} {{ [1] | tojson(false, 2) }} {{ [1] | tojson(indent=none) }} {{ [1, [2]] | tojson(indent=0) }} {{ [1] | tojson(indent='--') }}
{{ missing | tojson }}
{{ {1: 2, none: 3, true: 4, 1.5: 5} | tojson }}
{{ strftime_now('%e|%-m|%j|%F|%T|%R|%D|%y|%I:%M %p|%%|%h|%n|%t|%Z|%z|%f|%c|%x|%X') }}
{{ n is divisibleby 7 }}{{ 'a' is in {'a': 1} }}{{ 'a' is in ['a'] }}{{ 'a' is in 'abc' }}{{ n is eq(7) }}{{ n is eq 7 }}{{ n is > 3 }}
{{ n is sameas n }}{{ none is sameas none }}{{ [] is sameas [] }}{{ 1 is sameas true }}{{ 1 is sameas 1.0 }}
{{ 'upper' is filter }}{{ 'nope' is filter }}{{ 'odd' is test }}
{{ 'a' is lower }}{{ 'A1' is upper }}{{ '1' is lower }}{{ 5 is odd }}{{ 5 is even }}{{ range is callable }}{{ 'abc'.upper is callable }}{{ 1.5 is odd }}
{{ {'a': 1} is mapping }}{{ {'a': 1} is sequence }}{{ {'a': 1} is iterable }}{{ (1,) is sequence }}{{ range(3) is sequence }}{{ none is sequence }}{{ namespace() is mapping }}{{ missing is iterable }}{{ missing is sequence }}
{{ '{} {}'.format(1, 'a') }} {{ '{0}{1}{0}'.format('x', 'y') }} {{ '{a} {{}}'.format(a=3) }} {{ '{:>5}|{:<4}|{:^5}|{:05d}|{:.2f}|{:,}|{:x}'.format('a', 'b', 'c', 42, 3.14159, 1234567, 255) }}
{{ '%s and %r, %05d %5.2f %x %%' % ('a', 'b', 42, 3.14159, 255) }} {{ '%(a)s' % {'a': 1} }} {{ '%-5s|%5s|' % ('a', 'b') }} {{ '%i %c %e' % (3, 'x', 12345.678) }}
{{ '%s %s' | format('a', 1) }} {{ '%(x)s' | format(x=2) }} {{ '%.1f' | format(2.25) }}
{{ 'abc'.partition('b') }} {{ 'abcbd'.rpartition('b') }} {{ '5'.zfill(3) }} {{ '-5'.zfill(4) }} {{ 'a'.ljust(3, '.') }}{{ 'a'.rjust(3) }}{{ 'a'.center(4, '*') }} {{ 'aB'.swapcase() }} {{ 'ẞ'.casefold() }} {{ 'abc'.index('c') }} {{ 'abca'.rindex('a') }} {{ 'abc'.isascii() }} {{ 'Ab Cd'.istitle() }} {{ '٣'.isdecimal() }} {{ '²'.isdigit() }}{{ '½'.isnumeric() }}
{{ 'abc'.index('z') }}
{{ 'abcabc'.find('b', 2) }} {{ 'abcabc'.count('b', 2) }} {{ 'abc'.startswith('b', 1) }} {{ 'abc'.endswith('b', 0, 2) }} {{ 'abcabc'.rfind('b', 0, 3) }} {{ ''.find('') }} {{ 'ab'.count('') }} {{ 'ab'.replace('', '-') }}
{{ ' a b  c '.split(none, 1) }} {{ ' a b  c '.rsplit(none, 1) }} {{ ' a b '.split(maxsplit=1) }} {{ 'a,b'.split(sep=',') }} {{ 'ab'.split('') }}
{{ 'a\nb'.splitlines(true) }} {{ ''.splitlines() }} {{ '\n'.splitlines() }}
{{ 'ß'.upper() }} {{ 'ŉ'.title() }} {{ 'İ'.lower() | length }} {{ 'ὈΔΥΣΣΕΎΣ'.lower() }} {{ 'ǆ'.capitalize() }} {{ 'ﬁx' | upper }} {{ "they're bill's FRIENDS" | title }} {{ "they're bill's" .title() }} {{ 'a-b_c d(e' | title }} {{ 'ÀB' | capitalize }} {{ 'x1y'.title() }}
{{ messages[0].setdefault('role', 'z') }}
{{ dict([('a', 1), ['b', 2]]) }}{{ dict(z=1, a=2) }}{{ {'a': 1} == {'a': 1.0} }}{{ {'a': 1} | dictsort }}{{ {'b': 1, 'A': 2} | dictsort(true) }}{{ {'b': 1, 'a': 2} | dictsort(by='value') }}{{ {'b': 1, 'a': 2} | dictsort(reverse=true) }}
{{ {'a': 1, 'b': 2} | list }}{{ {'a': 1, 'b': 2} | length }}{{ {'a': 1} | first }}{{ {'a': 1, 'b': 2} | join(',') }}{{ {'b': 1, 'a': 2} | sort }}{{ {'a': 1}['b'] is defined }}{{ {'a': none}.a is none }}{{ {'a': {'b': 2}}.a.b }}{{ {'get': 5}.get('get') }}{{ {'get': 5}['get'] }}
{{ [3, 1, 2] | sort }}{{ ['b', 'A', 'a', 'B'] | sort }}{{ [1, 'a'] | sort }}
{{ [[2, 'x'], [1, 'y']] | sort }}{{ [[1, 2], [1, 1]] | max }}{{ [1, 2] < [1, 3] }}{{ (1, 2) < (2,) }}{{ [1] == (1,) }}{{ (1, 2) + (3,) }}{{ [0] * 3 }}{{ 2 * [1, 2] }}{{ (0,) * 2 }}
{{ [1, 2] + (3,) }}
{{ [{'a': 1, 'b': 2}, {'a': 1, 'b': 3}, {'a': 2, 'b': 4}] | groupby('a') }}{% for k, g in [{'a': 'x', 'b': 2}, {'a': 'X', 'b': 3}] | groupby('a') %}{{ k }}:{{ g | map(attribute='b') | list }}{% endfor %}{{ [{'a': 2}, {}] | groupby('a', default=0) }}
{{ range(7) | batch(3) | list }}{{ range(7) | batch(3, 'x') | list }}{{ range(7) | slice(3) | list }}{{ range(7) | slice(3, 'x') | list }}
{{ 'foo bar baz qux' | truncate(9) }}|{{ 'foo bar baz qux' | truncate(9, true) }}|{{ 'foo bar baz qux' | truncate(11) }}|{{ 'foo bar baz qux' | truncate(9, false, '...', 0) }}|{{ 'a b  c' | wordcount }}|{{ 'ab' | center(6) }}
{{ '<a>' | forceescape }}|{{ messages[0] | attr('role') is defined }}
{{ [1, 2, 3] | sum }}
{{ [[1], [2]] | sum(start=[]) }} {{ [1.5, 2] | sum }}
{{ 42.5 | int }} {{ '0x1A' | int(0, 16) }} {{ '0b11' | int(base=2) }} {{ ' 42 ' | int }} {{ '1_000' | int }} {{ 'inf' | float }} {{ '1e3' | int }} {{ none | int }} {{ [] | int(5) }} {{ 'nan' | int }} {{ '٣' | int }}
{{ 2.675 | round(2) }} {{ 1234.5 | round(-2) }} {{ 5 | round }} {{ 0.5 | round }} {{ 1.5 | round }} {{ -0.5 | round }} {{ 3 | round(1) }} {{ 2.345 | round(2, 'floor') }} {{ 1e16 }} {{ 123456789012345680.0 }} {{ 0.1 + 0.2 }} {{ 1e22 }} {{ 1e-7 }} {{ 100.0 }} {{ 1.0e15 }} {{ -0.0 }} {{ 3.0 * 2 }}
{{ 'a' ~ 1.0 ~ none ~ [1] ~ {'a': 'b'} ~ missing }}|{{ 1 ~ 2 + 3 }}
{{ 2 + 3 ~ 4 }}
{{ [1, 2, 3, 4][1:3] }}{{ [1, 2, 3, 4][::2] }}{{ [1, 2, 3][:-1] }}{{ 'abc'[1:][0] }}{{ [1, 2][5:] }}{{ (1, 2, 3)[1:] }}{{ [1, 2, 3][none:none] }}{{ 'a,b'.split(',')[-1:] }}{{ range(5)[1:3] | list }}{{ range(5)[2] }}
{{ messages[1:] | length }}{{ messages[-1]['role'] }}{{ messages[0:1][0]['role'] }}{{ (messages | last)['role'] }}{{ messages[5:] }}
{{ loop is defined }}{% for x in [1, 2, 3] %}{{ loop.changed(x > 1) }}{{ loop.cycle('a', 'b') }}{{ loop.depth }}{{ loop.depth0 }}{% if not loop.last %}{{ loop.nextitem }}{% endif %}{{ loop.previtem is defined }}{% endfor %}
{% for x in [1, [2, [3]]] recursive %}{% if x is iterable %}[{{ loop(x) }}]{{ loop.depth }}{% else %}{{ x }}{% endif %}{% endfor %}
{% for x in [1, 2] %}{% for y in [1, 2] %}{{ loop.depth }}{{ loop.index }}{{ x }}{% endfor %}{{ loop.depth }}{% endfor %}
{% for x in [1, 2, 3] if x != 2 %}{{ loop.index }}/{{ loop.length }}{{ 'L' if loop.last }}{% else %}e{% endfor %}{% for x in [1] %}{% else %}e{% endfor %}{{ x }}
{% for a, (b, c) in ([1, [2, 3]],) %}{{ a }}{{ b }}{{ c }}{% endfor %}{% for (a, b) in [[1, 2]] %}{{ a }}{{ b }}{% endfor %}
{% for x in [1, 2] %}{% set y = x %}{{ y }}{% endfor %}{{ y is defined }}{% set z = 1 %}{% for x in [1, 2] %}{{ z }}{% set z = z + 1 %}{% endfor %}{{ z }}
{% with %}{% set q = 1 %}{{ q }}{% endwith %}{{ q is defined }}{% with a = 1, b = 2 %}{{ a }}{{ b }}{% endwith %}{{ a is defined }}
{% set a %}x{% set inner = 1 %}{% endset %}{{ a }}{{ inner is defined }}{% if true %}{% set k = 5 %}{% endif %}{{ k }}{% filter upper %}a{% set w = 1 %}{% endfilter %}{{ w is defined }}
{% set (a, b) = (1, 2) %}{{ a }}{{ b }}{% set a, b = b, a %}{{ a }}{{ b }}{% set a, (b, c) = 1, (2, 3) %}{{ c }}{% set x = y = 1 %}
{% set ns = namespace({'a': 1}, b=2) %}{{ ns.a }}{{ ns.b }}{% set ns.c = 3 %}{{ ns.c }}{{ ns['a'] }}{{ ns.zz is defined }}{% set ns.a, ns.b = 5, 6 %}{{ ns.a }}{{ ns.b }}{% set ns.t %}blk{% endset %}{{ ns.t }}
{% macro f() %}{{ later }}{% endmacro %}{% set later = 'L' %}{{ f() }}{% macro g(x) %}{% set later = x %}{{ later }}{% endmacro %}{{ g(1) }}{{ later }}
{% for x in [1] %}{% macro h() %}{{ x }}{{ loop is defined }}{% endmacro %}{{ h() }}{% endfor %}{{ h is defined }}
{% if true %}{% macro k() %}k{% endmacro %}{% endif %}{{ k() }}
{{ joiner is defined }}{% set j = joiner('; ') %}{{ j() }}a{{ j() }}b{% set c = cycler('x', 'y') %}{{ c.next() }}{{ c.next() }}{{ c.next() }}{{ c.current }}
{{ 'x' if missing is defined and missing.y else 'z' }}{{ missing.y if missing else 'w' }}{{ (missing or {}).get('a', 'b') }}{{ missing == missing2 }}{{ missing == none }}{{ missing in [1] }}{{ 'a' in missing }}{{ not missing }}{{ missing ~ 'a' }}{{ missing | upper }}|{{ missing | list }}{{ missing | length }}{{ missing | string }}{{ missing | first is defined }}{{ missing | join(',') }}{{ missing | trim }}{{ missing | replace('a', 'b') }}
{{ missing < 1 }}
{{ missing - 1 }}
{{ missing[0] }}
{{ missing() }}
{{ messages.foo.bar }}
{{ 'abc'.foo() }}
{{ none + 1 }}
{{ 'a' * 2.0 }}
{{ [1] | join(missing) }}{{ [1, 2] | join(1) }}{{ [missing, none, 1.0, true] | join('-') }}
{{ 1 if true }}{{ 1 if false }}{{ (1 if false) is defined }}{{ (1 if false) | default('d') }}{{ 'a' if n == 7 and words else 'b' if n else 'c' }}
{{ -n }}{{ +n }}{{ - n ** 2 }}{{ 2 ** 3 ** 2 }}{{ -2 ** 2 }}{{ not n == 7 }}{{ not n in [7] }}{{ n not in [7] or true }}{{ 1 < 2 == true }}{{ 1 == 1 in [true] }}{{ 5 % 3 * 2 }}{{ 7 // 2 * 2 }}{{ 2 * 7 // 2 }}{{ 'a' 'b' ~ 'c' 'd' }}
{{ n|string|length + 1 }}{{ (n|string + 'x')|length }}{{ n + 1|abs }}{{ -n|abs }}{{ n is number and n > 1 }}{{ not n is none }}{{ 'a' in words|map('lower')|list }}{{ words|length > 2 and words|first == 'b' }}
{{ {'a': 1, 'b': [1, {'c': 2}]}['b'][1].c }}{{ {'a-b': 1}['a-b'] }}{{ [{'x': 1}][0].x }}{{ {1: 'i'}[1] }}{{ {'1': 's'}[1] is defined }}{{ {true: 't'}[1] }}{{ {1.0: 'f'}[1] }}
{{ "a" }}{{ '' 'b' }}{{ "\u00e9\U0001F600\x41" }}{{ '\t' | length }}{{ "{{ x }}" }}{{ '{% x %}' }}{{ '#}' }}
{#- a -#}  b  {#+ c +#}  d {# {{ '#}' }} x
a{# c #}\nb\n  {# c #}\nc  {#- d #}\n\n e
  {%- if true %} a {%- else %} b {%- endif -%}  c\n{%+ if true %}d{%+ endif %}\n  {%+ set x = 1 %}\ne
{{- 'a' -}}  \n {{- 'b' }}\n{{ 'c' -}}\n\nd {{+ n }}
{{ 'a' }}\n\n{% set x = 1 %}\n{% if x %}\n\n  b\n{% endif %}\n\n
{%if n%}a{%endif%}{%-if n-%}b{%-endif-%}{{n}}{{-n-}}{%for x in[1,2]%}{{x}}{%endfor%}
{% if n == 7 %}a{% elif missing.x.y %}b{% endif %}{% if 0 %}{% elif '' %}{% else %}c{% endif %}
{% for m in messages %}{% if m.role == 'user' %}{{ m.content }}{% continue %}{% endif %}{% for c in m.content %}{% if c == '\n' %}{% break %}{% endif %}{{ c }}{% endfor %}!{% endfor %}
{% set x = messages[0] | items | list %}{{ x }}{{ messages[0].items() | list }}{{ messages[0] | dictsort | map('first') | list }}{% for k, v in messages[0] | items %}{{ k }}{{ v }}{% endfor %}
{{ words | map('upper') | join(', ') }}{{ words | select('equalto', 'A') | list }}{{ words | reject('in', ['A']) | list }}{{ [0, 1, none, '', 'a'] | select | list }}{{ [1, 2, 3] | map('multiply', 2) | list }}
{{ [{'n': {'v': 1}}, {'n': {'v': 2}}] | map(attribute='n.v') | list }}{{ [[1, 2], [3, 4]] | map(attribute=1) | list }}{{ [[1, 2], [3, 4]] | map(attribute='0') | list }}{{ [{'a': 1}, {}] | map(attribute='a', default='-') | list }}{{ [{'a': 1}, {'a': 2}] | selectattr('a', '>', 1) | list }}{{ [{'a': {'b': 1}}, {'a': {}}] | selectattr('a.b', 'defined') | list | length }}{{ words | map('replace', 'b', 'z') | list }}{{ words | map('default', 'x') | list }}
{{ 'x' | indent }}{{ 'a\nb\n' | indent(2) }}|{{ 'a\n\nb' | indent('> ', true, true) }}|{{ 'a\r\nb' | indent(1) }}|{{ '' | indent(2, true) }}|{{ 'a\n' | indent(first=true) }}|
{{ '&<>"\'' | e }}{{ ('<' | e) ~ '>' }}{{ 1 | e }}{{ none | e }}{{ '<' | e | upper }}
{{ 'abc' | list }}{{ 'abc' | last }}{{ 'cab' | sort }}{{ 'aab' | unique | join }}{{ 'abc' | max }}{{ [] | max is defined }}{{ [] | last is defined }}{{ range(3) | last }}{{ {'a': 1, 'b': 2} | last }}{{ words | min }}{{ [1, 3, 2] | max }}{{ [{'a': 1}, {'a': 3}] | max(attribute='a') }}{{ ['b', 'B'] | unique | list }}{{ ['b', 'B'] | unique(true) | list }}{{ ['b', 'A'] | min }}
{{ true }}{{ True }}{{ none }}{{ None }}{{ false and 1 }}{{ [true, none, 1.0, 'a\'b', "a\"b", 'a\'b"c', '\n\t\\', 'é\x00\x7f\u200b\U000e0001'] }}
{{ [1, 2,] }}{{ {'a': 1,} }}{{ (1,) }}{{ () }}{{ [] }}{{ {} }}{{ ((1, 2), [3]) }}{{ 1, 2 }}{{ (1, 2) | list }}
{{ n.real }}|{{ n.foo is defined }}|{{ (1).foo }}|{{ 'a'.b.c is defined }}
{{ caller is defined }}{{ super is defined }}{{ range(0) | list }}{{ range(10, 0, -3) | list }}{{ range(2, 5) | length }}{{ range(3) | sum }}{{ 2 in range(3) }}{{ range(3) | reverse | list }}
{{ namespace is callable }}{{ dict is callable }}
{{ 'a' | default('b') | upper }}{{ '' | default('b', boolean=true) }}{{ missing | default }}{{ missing.x | default('y') }}
{{ none | default('b') }}{{ none | default('b', true) }}{{ false | d('x') }}{{ 0 | default(1, true) }}
{% set content = 'a' %}{%- if content is string and content.startswith('a') -%}{{- content[1:].lstrip('\n') if content|length > 3 else content -}}{%- endif -%}
{%- macro render(p, d=0) -%}{%- if p is mapping -%}{%- for k, v in p.items() -%}{{- k ~ ':' -}}{{- render(v, d + 1) -}}{{- ',' if not loop.last -}}{%- endfor -%}{%- elif p is iterable and p is not string -%}[{%- for v in p -%}{{- render(v, d + 1) -}}{%- endfor -%}]{%- else -%}{{- p -}}@{{- d -}}{%- endif -%}{%- endmacro -%}{{- render(tools[0].function) -}}
{% generation %}a{{ n }}{% set gg = 1 %}{% endgeneration %}{{ gg is defined }}{% generation %}{% for x in [1, 2] %}{{ x }}{% if x == 1 %}{% continue %}{% endif %}{% endfor %}{% endgeneration %}
{% for x in [1, 2] %}{% generation %}{{ loop.index }}{{ x }}{% endgeneration %}{% endfor %}
{% block a %}x{{ n }}{% endblock %}
{% do n %}
{% endfor %}
{% if n %}
{{ n
{% for in x %}{% endfor %}
{{ n | nofilter }}
{{ n is notest }}
{{ n.}}
{{ (n }}
{{ n) }}
{{ [1, 2 }}
{{ 1 2 }}
{{ 'a }}
{% set 1 = 2 %}
{% macro %}{% endmacro %}
{% if n %}{% endfor %}
{{ }}
{%  %}
{% else %}
{{ n ? 1 : 2 }}
{{ n && 1 }}
{{ a = 1 }}
{{ f(a=1, 2) }}
{{ 'ß x ǆ' | title }}{{ true | round }}{{ true | abs }}{{ 5 is lower }}{{ none is lower }}{{ ['a'] is lower }}
{{ raise_exception('x' ~ n) }}
'''


def texts(line):
    """The line with what stands for line ends and spaces put in; also as it is, where it has strings with escapes."""
    ends = line
    for c in "rn":
        ends = ends.replace("\\" + c, {"r": "\r", "n": "\n"}[c])
    for c in ("\u00a0", "\u3000", "\u2003"):
        ends = ends.replace("\\u%04x" % ord(c), c)
    ends = ends.replace("\\x0b", "\x0b")
    if not ("'" in line or '"' in line) or line.startswith("{%- for message"):
        return [ends]
    return [line] if "\\n" not in line else [line, ends]


cases = []
for line in TEMPLATES.strip("\n").split("\n"):
    for template in texts(line):
        try:
            cases.append({"template": template, "want": env.from_string(template).render(**VARS)})
        except Exception as e:
            cases.append({"template": template, "fails": True, "why": type(e).__name__})
print(json.dumps(cases, indent=1, ensure_ascii=False))
