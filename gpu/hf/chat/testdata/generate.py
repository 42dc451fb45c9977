# Renders templates with Jinja2, set up as transformers sets it up, for
# chat_test.go: python3 generate.py > cases.json (needs Debian's python3-jinja2).
import json
from datetime import datetime
from jinja2.sandbox import ImmutableSandboxedEnvironment

VARS = json.loads(r'''{"messages": [{"role": "user", "content": "<Hi> & 'you'"}, {"role": "assistant", "content": "é\n"}],
	"tools": [{"type": "function", "function": {"name": "f", "parameters": {"z": 1, "a": [true, null, 1.5, {}], "s": "\u2028\"\\\u0001"}}}],
	"add_generation_prompt": true, "bos_token": "<s>", "n": 7, "words": ["b", "A", "c"]}''')


def raise_exception(message):
    raise ValueError(message)


def tojson(x, ensure_ascii=False, indent=None, separators=None, sort_keys=False):
    return json.dumps(x, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


env = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"])
env.filters["tojson"] = tojson
env.globals["raise_exception"] = raise_exception
env.globals["strftime_now"] = lambda f: datetime(2026, 7, 4, 15, 6, 7).strftime(f)

TEMPLATES = r'''
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
'''

cases = []
for line in TEMPLATES.strip("\n").split("\n"):
    template = line.replace("\\n", "\n") if not ("'" in line or '"' in line) or line.startswith("{%- for message") else line
    try:
        cases.append({"template": template, "want": env.from_string(template).render(**VARS)})
    except Exception as e:
        cases.append({"template": template, "fails": True, "why": type(e).__name__})
print(json.dumps(cases, indent=1, ensure_ascii=False))
