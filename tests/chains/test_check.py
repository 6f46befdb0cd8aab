"""One case for each kind of mistake in a chain: where it is, what is said, what to do."""

# ruff: noqa: E501 - a case is one line, to be read beside its neighbours

import time

import pytest

from chains.check import missing_environment, warnings
from chains.errors import ChainInvalid
from chains.loading import load_source
from chains.settings import Settings

HEAD = """chain: c
inputs: {ticket: {type: string}, order: {type: integer, required: false}}
models: {writer: {provider: starter}, mini: {provider: local, model: x}}
collections: {book: {embedder: mini}}
defaults: {model: writer}
steps:
"""
FIRST = len(HEAD.splitlines()) + 1


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "prompts").mkdir()
    (tmp_path / "prompts/good.md").write_text("{{ inputs.ticket }}")
    (tmp_path / "prompts/typo.md").write_text("Hello\n\n  {{ inputs.tikcet }}\n")
    (tmp_path / "prompts/broken.md").write_text("Hello {{ inputs.ticket\n")
    (tmp_path / "prompts/latin.md").write_bytes(b"gr\xfc\xdfe")
    (tmp_path / "prompts/key.md").write_text("use\nsk-abcdefghijklmnopqrstuvwx")
    (tmp_path / "data.jsonl").write_text('{"a": 1}\n')
    (tmp_path / "book.md").write_text("text")
    (tmp_path / "work.py").write_text("from json import *\n")
    (tmp_path / "tool.py").write_text("def measure(x):\n    return x\n\ndef _own(): pass\n")
    (tmp_path / "bad.py").write_text("def broken(:\n")
    (tmp_path / "schema.json").write_text(
        '{"type": "object", "properties": {"a": {"type": "string"}}, "required": ["a"], "additionalProperties": false}'
    )
    (tmp_path / "notschema.json").write_text("{")
    return tmp_path


def problems_of(source, folder):
    try:
        load_source(source.encode(), folder / "c.yaml")
    except ChainInvalid as error:
        return [str(problem).removeprefix(f"{folder}/") for problem in error.problems]
    return []


T = "  t: {prompt: x, output: {intent: {enum: [a, b]}, order: {type: string, required: false}}}\n"
P = "  p: {retrieve: book, query: '{{ inputs.ticket }}'}\n"

# Each case: the lines below `steps:`, and the start and further words of exactly one problem.
STEP_CASES = {
    "unknown output": (P + '  a: {prompt: "See {{ p.docs }}"}', "8:23", "step 'a' reads 'p.docs', but step 'p' has outputs ['hits', 'scores']. Did you mean 'p.hits'?"),
    "misspelt field": (T + '  a: {prompt: "{{ t.intnt }}"}', "8:19", "step 'a' reads 't.intnt', but step 't' has outputs ['text', 'output', 'finish_reason', 'intent', 'order']. Did you mean 't.intent'?"),
    "misspelt field under default": (T + '  a: {prompt: "{{ t.intnt | default(1) }}"}', "8:19", "Did you mean 't.intent'?"),
    "misspelt deep field": (T + '  a: {prompt: "{{ t.output.intnt }}"}', "8:19", "'t.output' has ['intent', 'order']. Did you mean 't.output.intent'?"),
    "unknown step": (T + '  a: {prompt: "{{ tt.intent }}"}', "8:19", "step 'a' reads 'tt.intent', but there is no step 'tt'. Did you mean 't.intent'?"),
    "input without its prefix": ('  a: {prompt: "{{ ticket }}"}', "7:19", "there is no step 'ticket'. Did you mean 'inputs.ticket'?"),
    "unknown input": ('  a: {prompt: "{{ inputs.tickt }}"}', "7:19", "the chain has no input 'tickt'. Did you mean 'inputs.ticket'?"),
    "typo in a prompt file": ("  a: {prompt: prompts/typo.md}", "prompts/typo.md:3:6", "step 'a' reads 'inputs.tikcet', but the chain has no input 'tikcet'. Did you mean 'inputs.ticket'?"),
    "unclosed prompt file": ("  a: {prompt: prompts/broken.md}", "prompts/broken.md:1:", "step 'a': the template cannot be read: unexpected end of template"),
    "prompt file not UTF-8": ("  a: {prompt: prompts/latin.md}", "prompts/latin.md:1:3", "the byte 0xfc is not UTF-8"),
    "literal block": ('  a:\n    prompt: |\n      Hello\n      {{ inputs.x }}', "10:10", "no input 'x'"),
    "label in a prompt": ('  a: {prompt: "{{ row.intent }}"}', "7:19", "only evaluate, prepare and finetune see 'row': a prompt must not see its own answer. Make 'intent' an input and read 'inputs.intent'."),
    "label that is an input": ('  a: {prompt: "{{ row.ticket }}"}', "7:19", "Did you mean 'inputs.ticket'?"),
    "label in a condition": ("  a: {prompt: x, when: row.intent == 'a'}", "7:24", "a prompt must not see its own answer"),
    "label in a query": ("  a: {retrieve: book, query: '{{ row.x }}'}", "7:34", "must not see its own answer"),
    "label in args": ("  a: {python: 'tool.py:measure', args: {x: ['{{ row.x }}']}}", "7:49", "must not see its own answer"),
    "secret in a prompt": ('  a: {prompt: "{{ env.KEY }}"}', "7:19", "secrets are for 'models' and 'collections' only"),
    "model as a value": ('  a: {prompt: "{{ writer.name }}"}', "7:19", "Templates read steps and inputs, not models or collections."),
    "repeat without steps": ('  r: {repeat: {until: "true", max: 2}}', "7:3", "step 'r': the key 'steps' is missing"),
    "repeat without an end": ("  r: {repeat: {until: x is defined}, steps: {a: {prompt: x}}}", "7:7", "step 'r': the key 'max' is missing"),
    "end that is no word": ("  r: {repeat: {until: 'true', max: 2, on_exhausted: best}, steps: {a: {prompt: x}}}", "7:53", "on_exhausted"),
    "wrong step inside": ("  r: {repeat: {until: 'true', max: 2}, steps: {a: {prompt: x, modl: m}}}", "7:63", "step 'r.a': unknown key 'modl'. Did you mean 'model'?"),
    "step inside that runs once": ("  r: {repeat: {until: 'true', max: 2}, steps: {a: {prepare: data.jsonl, text: x}}}", "7:48", "step 'r.a': prepare runs once for the run, and a step in 'r' does not. Write it beside step 'r'."),
    "approve inside": ("  r: {repeat: {until: 'true', max: 2}, steps: {a: {approve: Send?}}}", "7:48", "step 'r.a': a row waits for a person as a whole, and cannot within 'r'. Write it beside step 'r'."),
    "once inside": ("  r: {repeat: {until: 'true', max: 2}, steps: {a: {prompt: x, once: true}}}", "7:69", "step 'r.a': 'once' is over all rows"),
    "pool inside": ("  r: {repeat: {until: 'true', max: 2}, steps: {a: {prompt: x, pool: gpu}}}", "7:63", "step 'r.a': steps inside 'r' run where it runs. Write 'pool' at step 'r'."),
    "name inside like one outside": (T + "  r: {repeat: {until: 'true', max: 2}, steps: {t: {prompt: x}}}", "8:48", "step 'r.t' is called like a step around it"),
    "name inside that a repeat has": ("  r: {repeat: {until: 'true', max: 2}, steps: {turns: {prompt: x}}}", "7:48", "'turns' is a reserved name"),
    "after something outside": (T + "  r: {repeat: {until: 'true', max: 2}, steps: {a: {prompt: x, after: [t]}}}", "8:71", "step 'r.a': 'after' names the step 't', which is not beside it. "),
    "cycle inside": ("  r: {repeat: {until: 'true', max: 2}, steps: {a: {prompt: '{{ b.text }}'}, b: {prompt: '{{ a.text }}'}}}", "7:64", "the steps need each other: a -> b -> a"),
    "cycle through the inside": ("  r: {repeat: {until: 'true', max: 2}, steps: {a: {prompt: '{{ b.text }}'}}}\n  b: {prompt: '{{ r.a.text }}'}", "7:64", "the steps need each other: r -> b -> r"),
    "step inside that reads its repeat": ("  r: {repeat: {until: 'true', max: 2}, steps: {a: {prompt: '{{ r.a.text }}'}}}", "7:64", "step 'r.a' reads 'r.a.text', which it is a part of. Read the last turn as 'loop.previous'."),
    "loop of a repeat": ("  r: {repeat: {until: 'true', max: 2}, steps: {a: {prompt: '{{ loop.index }}'}}}", "7:64", "but the 'loop' of a repeat has ['previous', 'turn']. The others exist inside {% for %} only."),
    "step of the last turn": ("  r: {repeat: {until: 'true', max: 2}, steps: {a: {prompt: '{{ loop.previous.b.text }}'}}}", "7:64", "but a turn of 'r' has ['a']"),
    "output of the last turn": ("  r: {repeat: {until: 'true', max: 2}, steps: {a: {prompt: '{{ loop.previous.a.txt }}'}}}", "7:64", "Did you mean 'loop.previous.a.text'?"),
    "step that a turn has not": ("  r: {repeat: {until: 'true', max: 2}, steps: {a: {prompt: x}}}\n" + '  b: {prompt: "{{ r[0].b }}"}', "8:19", "step 'r[0]' has outputs ['a']"),
    "output that a turn has not": ("  r: {repeat: {until: 'true', max: 2}, steps: {a: {prompt: x}}}\n" + '  b: {prompt: "{{ r.a.txt }}"}', "8:19", "step 'r.a' has outputs ['text', 'output', 'finish_reason']. Did you mean 'r.a.text'?"),
    "until that reads nothing": ("  r: {repeat: {until: b.text, max: 2}, steps: {a: {prompt: x}}}", "7:23", "step 'r' reads 'b.text', but there is no step 'b'"),
    "map that is no list": ('  a: {prompt: x, map: "{{ inputs.ticket }}s"}', "7:23", "step 'a': 'map' must be a list. Write map:"),
    "as without a map": ("  a: {prompt: x, as: word}", "7:6", "'as' is for a step with 'map'"),
    "map of a once step": ("  a: {prompt: x, once: true, map: [1]}", "7:6", "a step with 'once' has one run over all rows, and 'map' one for each item"),
    "map of documents": ("  a: {embed: book.md, into: book, map: [1]}", "7:6", "'map' is for a step that runs for each row, and 'into' fills a collection once"),
    "map of a kind that runs once": ("  a: {prepare: data.jsonl, text: x, map: [1]}", "7:37", "unknown key 'map'"),
    "item called like a step": (T + "  a: {prompt: x, map: [1], as: t}", "8:32", "step 'a': 't' is the name of a step. Choose another name."),
    "item called like inputs": ("  a: {prompt: x, map: [1], as: inputs}", "7:32", "'inputs' is a reserved name"),
    "item in the list": ("  a: {prompt: x, map: ['{{ item }}']}", "7:28", "step 'a' reads 'item', but 'map' is asked once for the row, before there is an item"),
    "item in when": ("  a: {prompt: x, map: [1], when: item > 1}", "7:34", "'when' is asked once for the row, before there is an item. Leave items out of the list"),
    "item without a map": ('  a: {prompt: "{{ item.x }}"}', "7:19", "there is no step 'item'. An item exists in a step with 'map'"),
    "item under another name": ('  a: {prompt: "{{ item }}", map: [1], as: word}', "7:19", "under the name that its 'as' gives it"),
    "key of a list over items": (P + "  m: {prompt: x, map: [1]}\n" + '  a: {prompt: "{{ m.text }}"}', "9:19", "step 'a' reads 'm.text', but 'm' is a list: it runs for each item of its 'map'. Write m | map(attribute='text') | list."),
    "misspelt key of an item": ("  m: {prompt: x, map: [1]}\n" + '  a: {prompt: "{{ m[0].txt }}"}', "8:19", "step 'm[0]' has outputs ['text', 'output', 'finish_reason']. Did you mean 'm[0].text'?"),
    "loop outside": ('  a: {prompt: "{{ loop.index }}"}', "7:19", "'loop' exists inside {% for %} and inside a repeat only."),
    "braces in a bare expression": ('  a: {prompt: x, when: "{{ inputs.ticket }}"}', "7:", "step 'a': the expression cannot be read"),
    "broken expression": ("  a: {prompt: x, when: inputs.ticket ==}", "7:", "the expression cannot be read"),
    "call in a template": ('  a: {prompt: "{{ inputs.ticket.upper() }}"}', "7:38", "calls are not part of templates"),
    "private name": ('  a: {prompt: "{{ inputs.__class__ }}"}', "7:25", "'__class__' is private"),
    "unknown filter": ('  a: {prompt: "{{ inputs.ticket | uper }}"}', "7:35", "there is no filter 'uper'. Did you mean 'upper'?"),
    "unknown test": ('  a: {prompt: "{{ inputs.ticket is defind }}"}', "7:33", "there is no test 'defind'. Did you mean 'defined'?"),
    "include": ("  a: {prompt: \"{% include 'x' %}\"}", "7:19", "'include' is not part of templates"),
    "scalar read of a list over rows": (T + "  a: {python: 'tool.py:measure', once: true, args: {x: '{{ t.intent }}'}}", "8:60", "here 't' is a list over the rows: step 'a' runs once. Write t | map(attribute='intent') | list."),
    "self loop": ('  a: {prompt: "{{ a.text }}"}', "7:19", "step 'a' needs itself"),
    "cycle": ('  a: {prompt: "{{ b.text }}"}\n  b: {prompt: x, after: [a]}', "7:19", "the steps need each other: a -> b -> a. Take one of these references away."),
    "unknown after": ("  a: {prompt: x, after: [bb]}\n  b: {prompt: x}", "7:26", "step 'a': 'after' names the step 'bb', which the chain does not have. Did you mean 'b'?"),
    "unknown model": ("  a: {prompt: x, model: writr}", "7:25", "step 'a' names the model 'writr', which the chain does not have. Did you mean 'writer'?"),
    "unknown collection": ("  a: {retrieve: bok, query: x}", "7:17", "names the collection 'bok', which the chain does not have. Did you mean 'book'?"),
    "unknown target collection": ("  a: {embed: book.md, into: bok}", "7:29", "Did you mean 'book'?"),
    "reserved name": ("  inputs: {prompt: x}", "7:3", "'inputs' is a reserved name and cannot be a step"),
    "reserved section name": ("  models: {prompt: x}", "7:3", "'models' is a reserved name"),
    "missing prompt file": ("  a: {prompt: prompts/god.md}", "7:15", "there is no file 'prompts/god.md' in the chain's folder. Did you mean 'good.md'?"),
    "path out of the folder": ("  a: {prompt: ../x.md}", "7:15", "'../x.md' leads out of the chain's folder"),
    "absolute path": ("  a: {prompt: /etc/x.md}", "7:15", "leads out of the chain's folder"),
    "folder as a file": ("  a: {prepare: prompts}", "7:16", "'prompts' is a folder, not a file"),
    "missing data": ("  a: {prepare: dta.jsonl}", "7:16", "step 'a': there is no file 'dta.jsonl' in the chain's folder. Did you mean 'data.jsonl'?"),
    "missing training data": ("  a: {finetune: lora, base: writer, data: {train: none.jsonl}}", "7:51", "there is no file 'none.jsonl'"),
    "glob without a match": ("  a: {embed: pages/*.md, into: book}", "7:14", "'pages/*.md' matches no file"),
    "glob out of the folder": ("  a: {embed: ../*.md, into: book}", "7:14", "leads out of the chain's folder"),
    "template as documents": ("  a: {embed: '{{ inputs.ticket }}', into: book}", "7:14", "takes files by path or glob, not a template"),
    "embedder given twice": ("  a: {embed: book.md, into: book, model: mini}", "7:35", "with 'into' the collection's embedder is used"),
    "once kind per row": ("  a: {prepare: data.jsonl, once: false}", "7:34", "prepare always runs once per run"),
    "missing python file": ("  a: {python: 'tol.py:measure'}", "7:15", "there is no file 'tol.py' in the chain's folder. Did you mean 'tool.py'?"),
    "missing function": ("  a: {python: 'tool.py:mesure'}", "7:15", "'tool.py' has no function 'mesure'. Did you mean 'measure'?"),
    "python that cannot be read": ("  a: {python: 'bad.py:broken'}", "7:15", "'bad.py' is no Python that can be read (line 1)"),
    "python without a function": ("  a: {python: tool.py}", "7:15", "'tool.py' names no function. Write file.py:function or package.module:function."),
    "missing schema": ("  a: {prompt: x, output: none.json}", "7:26", "there is no file 'none.json'"),
    "schema that is no JSON": ("  a: {prompt: x, output: notschema.json}", "7:26", "step 'a': "),
    "wrong short form": ("  a: {prompt: x, output: {n: {type: intger}}}", "7:30", "step 'a': 'intger' is no type. Did you mean 'integer'?"),
    "reask without output": ("  a: {prompt: x, reask: 2}", "7:18", "'reask' needs 'output'"),
    "approve with an unknown step": ("  a: {approve: Send?, show: [draf.text]}", "7:30", "step 'a' reads 'draf.text', but there is no step 'draf'"),
    "wrong field of an approve": ("  a: {approve: Send?, fields: {n: intger}}", "7:35", "step 'a': 'intger' is no type. Did you mean 'integer'?"),
    "field that every answer has": ("  a: {approve: Send?, fields: {by: string}}", "7:32", "a field cannot be called 'by', which every answer has"),
    "on_timeout without timeout": ("  a: {approve: Send?, on_timeout: skip}", "7:23", "'on_timeout' needs 'timeout'"),
    "unknown output of an approve": ("  a: {approve: Send?, fields: {note: string}}\n  b: {prompt: '{{ a.nte }}'}", "8:19", "but step 'a' has outputs ['approved', 'by', 'at', 'note']. Did you mean 'a.note'?"),
    "vote without samples": ("  a: {prompt: x, vote: all}", "7:18", "step 'a': 'vote' needs several 'samples'"),
    "quorum of one sample": ("  a: {prompt: x, samples: 1, quorum: 1}", "7:30", "step 'a': 'quorum' needs several 'samples'"),
    "quorum of more than all": ("  a: {prompt: x, samples: 3, quorum: 4}", "7:38", "step 'a': 'quorum' asks for 4 of 3 samples"),
    "too many samples": ("  a: {prompt: x, samples: 101}", "7:27", "'samples' is 101: it should be less than or equal to 100"),
    "unknown vote": ("  a: {prompt: x, samples: 3, vote: most}", "7:36", "'vote' cannot be 'most'. Choose one of majority, first, all."),
    "field of all samples": ("  s: {prompt: x, samples: 3, vote: all}\n  a: {prompt: '{{ s.text }}'}", "8:19", "step 'a' reads 's.text', but 's' is a list: its 'vote' is 'all'. Write s | map(attribute='text') | list, or s[0].text."),
    "like names no prompt": (P + "  a: {prepare: data.jsonl, like: p, completion: '{{ row.a }}'}", "8:34", "'like' names step 'p', which is of kind 'retrieve'. Name a prompt step."),
    "like reads other steps": (P + '  q: {prompt: "{{ p.hits }}"}\n' + "  a: {prepare: data.jsonl, like: q, completion: '{{ row.a }}'}", "9:34", "the prompt of step 'q' reads 'p', and an example has the inputs only"),
    "row in a path": ("  a: {prepare: '{{ row.file }}'}", "7:20", "this text is read once for the run, where there is no row"),
    "gate of another step": (T + "  a: {evaluate: {prediction: '{{ t.intent }}', reference: '{{ row.intent }}'}, gate: f1_macro.low > 0}", "8:86", "the gate of step 'a' reads 'f1_macro.low', but it can read the step's own results only: ['accuracy', 'rows', 'missing']"),
    "gate on a whole metric": (T + "  a: {evaluate: {prediction: '{{ t.intent }}', reference: '{{ row.intent }}'}, gate: accuracy > 0}", "8:86", "Write 'accuracy.low'."),
    "gate on an unknown part": (T + "  a: {evaluate: {prediction: '{{ t.intent }}', reference: '{{ row.intent }}'}, gate: accuracy.lo > 0}", "8:86", "'accuracy' has ['value', 'low', 'high', 'n']. Did you mean 'low'?"),
    "broken gate": (T + "  a: {evaluate: {prediction: '{{ t.intent }}', reference: '{{ row.intent }}'}, gate: accuracy >}", "8:", "the expression cannot be read"),
    "malformed store model": ("  a: {finetune: lora, base: 'models:Mine@new', data: {train: data.jsonl}}", "7:29", "names no model of the store"),
    "teacher that is not there": ("  a: {finetune: distill, teacher: writr, data: {train: data.jsonl}}", "7:35", "step 'a' names the model 'writr', which the chain does not have. Did you mean 'writer'?"),
    "distill without a teacher": ("  a: {finetune: distill, data: {train: data.jsonl}}", "7:", "finetune: distill needs 'teacher'"),
    "student made twice": ("  a: {finetune: distill, teacher: writer, base: mini, architecture: {hidden_size: 64}, data: {train: data.jsonl}}", "7:", "a student is made from 'base' or from 'architecture', not from both"),
    "temperature of answers": ("  a: {finetune: distill, teacher: writer, temperature: 2, data: {train: data.jsonl}}", "7:", "'temperature' does not go with 'level: sequence'"),
    "budget of logits": ("  a: {finetune: distill, teacher: mini, level: logits, budget: {calls: 3}, data: {train: data.jsonl}}", "7:", "'budget' does not go with 'level: logits'"),
    "teacher of another method": ("  a: {finetune: lora, base: mini, teacher: writer, data: {train: data.jsonl}}", "7:", "'teacher' is for distill, not for lora"),
    "hosted base that is no model": ("  a: {finetune: openai, base: gpt-x, data: {train: data.jsonl}}", "7:31", "step 'a' names the model 'gpt-x', which the chain does not have"),
    "hosted base on this machine": ("  a: {finetune: openai, base: mini, data: {train: data.jsonl}}", "7:31", "'finetune: openai' tunes at an endpoint, and 'mini' is of provider 'local'. Name a model of provider openai, or take lora."),
    "key for training here": ("  a: {finetune: openai, base: writer, learning_rate: 0.1, data: {train: data.jsonl}}", "7:", "'learning_rate' is for training on this machine, not for openai"),
    "key for hosted jobs": ("  a: {finetune: lora, base: mini, suffix: x, data: {train: data.jsonl}}", "7:", "'suffix' is for openai, not for lora"),
    "general set of a hosted job": ("  a: {finetune: openai, base: writer, data: {train: data.jsonl, general: data.jsonl}}", "7:", "'data.general' is for training on this machine, not for openai"),
    "written-out key in a text": ('  a: {prompt: "use sk-abcdefghijklmnopqrstuvwx"}', "7:15", "this looks like a secret key"),
    "written-out key in a file": ("  a: {prompt: prompts/key.md}", "prompts/key.md:2:1", "this looks like a secret key"),
    "judge with an unknown model": (T + "  a: {evaluate: {prediction: '{{ t.intent }}', reference: '{{ row.intent }}'}, judges: {j: {rubric: x, model: writr}}}", "8:", "step 'a' names the model 'writr', which the chain does not have. Did you mean 'writer'?"),
    "judge without its text": (T + "  a: {evaluate: {prediction: '{{ t.intent }}', reference: '{{ row.intent }}'}, judges: {j: {ask: pairwise}}}", "8:", "a judge that asks for 'pairwise' needs 'against'"),
    "judge called like a metric": (T + "  a: {evaluate: {prediction: '{{ t.intent }}', reference: '{{ row.intent }}'}, metrics: [accuracy], judges: {accuracy: {rubric: x}}}", "8:", "a judge cannot be called 'accuracy'"),
    "check of two kinds": (T + "  a: {evaluate: {prediction: '{{ t.intent }}', reference: '{{ row.intent }}'}, checks: [{contains: x, equals: y}]}", "8:", 'a check is exactly one of contains, equals, regex, is_json, rubric, python'),
    "check with a broken regex": (T + "  a: {evaluate: {prediction: '{{ t.intent }}', reference: '{{ row.intent }}'}, checks: [{regex: '('}]}", "8:", "the regex '(' cannot be read"),
    "timed step that runs once": (T + "  a: {evaluate: {prediction: '{{ t.intent }}', reference: '{{ row.intent }}'}, metrics: [latency], timed: [i]}\n  i: {prepare: data.jsonl}", "8:", "'timed' names step 'i', which runs once"),
    "similarity without an embedder": (T + "  a: {evaluate: {prediction: '{{ t.intent }}', reference: '{{ row.intent }}'}, metrics: [similarity]}", "8:", "'similarity' needs 'embedder'"),
    "perplexity without a model": (T + "  a: {evaluate: {prediction: '{{ row.text }}'}, metrics: [perplexity]}", "8:", "'perplexity' needs 'language_model'"),
    "perplexity of an unknown model": (T + "  a: {evaluate: {prediction: '{{ row.text }}'}, metrics: [perplexity], language_model: writr}", "8:", "step 'a' names the model 'writr', which the chain does not have. Did you mean 'writer'?"),
    "metric without a reference": (T + "  a: {evaluate: {prediction: '{{ t.intent }}'}, metrics: [accuracy]}", "8:", "accuracy need 'reference' under 'evaluate'"),
    "tokens without a model": (T + '  a: {prepare: data.jsonl, clean: {max_tokens: 5}}', "8:", "'max_tokens' needs 'tokens'"),
    "method of another task": ("  a: {finetune: prefix, task: classification, base: x, data: {train: data.jsonl}}", "7:", "finetune: prefix is not for task classification, which takes adapter, full, ia3, linear_probe, lora, transfer"),
    "probe of a causal model": ("  a: {finetune: linear_probe, base: x, data: {train: data.jsonl}}", "7:", "finetune: linear_probe is not for task causal"),
    "key of another task": ("  a: {finetune: full, task: embedding, base: x, C: 2.0, data: {train: data.jsonl}}", "7:", "'C' is for task classification, not for embedding"),
    "packing of a classifier": ("  a: {finetune: full, task: classification, base: x, packing: true, data: {train: data.jsonl}}", "7:", "'packing' is for task causal, not for classification"),
    "steps of a probe": ("  a: {finetune: linear_probe, task: classification, base: x, max_steps: 9, data: {train: data.jsonl}}", "7:", "'max_steps' is not for linear_probe, which is fitted at once"),
    "general data of a classifier": ("  a: {finetune: full, task: classification, base: x, data: {train: data.jsonl, general: data.jsonl}}", "7:", "a classifier's labels are new to its base, so it takes no 'data.general'"),
    "unknown task": ("  a: {finetune: full, task: classify, base: x, data: {train: data.jsonl}}", "7:", "'task' cannot be 'classify'. Did you mean 'classification'?"),
    "no kind": ("  a: {model: writer}", "7:3", "step 'a' has no kind. Write one of these as its key: embed, retrieve, prompt, python, repeat, chain, approve, prepare, finetune, evaluate."),
    "two kinds": ("  a: {prompt: x, embed: y}", "7:18", "step 'a' is written with 'prompt' and 'embed'. A step has one kind: make two steps."),
    "step that is no mapping": ("  a: hello", "7:6", "step 'a' must be a mapping, not the text 'hello'"),
    "unknown key": ("  a: {prompt: x, outptu: {}}", "7:18", "step 'a': unknown key 'outptu'. Did you mean 'output'?"),
    "unknown nested key": ("  a: {prompt: x, retry: {atempts: 2}}", "7:26", "unknown key 'atempts'. Did you mean 'attempts'?"),
    "missing key": ("  a: {retrieve: book}", "7:3", "step 'a': the key 'query' is missing"),
    "wrong choice": ("  a: {finetune: lorra, base: x, data: {train: data.jsonl}}", "7:17", "'finetune' cannot be 'lorra'. Did you mean 'lora'?"),
    "wrong type": ("  a: {prompt: x, reask: '2', output: {a: string}}", "7:25", "'reask' must be an integer, not the text '2'. Write the number without quotes."),
    "yes for true": ("  a: {prompt: x, once: yes}", "7:24", "'once' must be true or false, not the text 'yes'. Write true or false; yes, no, on and off are text."),
    "out of range": ("  a: {retrieve: book, query: x, top_k: 0}", "7:40", "'top_k' is 0: it should be greater than or equal to 1"),
    "wrong duration": ("  a: {prompt: x, timeout: 60q}", "7:27", "'60q' is not a duration"),
    "wrong role": ("  a: {prompt: [{sytem: x}]}", "7:17", "'sytem' is none of system, user, assistant. Did you mean 'system'?"),
    "two roles": ("  a: {prompt: [{system: x, user: y}]}", "7:15", "each message is one `role: text`"),
    "number for a prompt": ("  a: {prompt: 5}", "7:15", "'prompt' must be text or a list, not the number 5"),
    "rule of a model": ("  a: {embed: x}", "7:6", "an embed step needs 'into' (a collection) or 'model' (an embedder)"),
    "step name": ("  Bad-Name: {prompt: x}", "7:3", "'Bad-Name' is no name. Use lower-case letters"),
}  # fmt: skip


@pytest.mark.parametrize("case", STEP_CASES)
def test_mistakes_in_steps_have_their_place_and_their_cure(case, folder):
    lines, place, words = STEP_CASES[case]
    found = problems_of(HEAD + lines + "\n", folder)
    start = place if place.startswith("prompts/") else f"c.yaml:{place}"
    assert len(found) == 1, found
    assert found[0].startswith(start) and words in found[0], found[0]
    if not start.endswith(":"):
        assert found[0].startswith(f"{start}: "), found[0]


STEP = "steps: {a: {prompt: x, model: w}}\n"
W = "chain: c\nmodels: {w: {provider: starter}}\n"
WHOLE_CASES = {
    "empty mapping": ("{}", "1:1", "the key 'chain' is missing"),
    "a list": ("- a\n", "1:1", "a chain file is a mapping of keys. Begin with 'chain: NAME'."),
    "a text": ("hello\n", "1:1", "a chain file is a mapping of keys"),
    "no steps": ("chain: c\n", "1:1", "the key 'steps' is missing"),
    "empty steps": ("chain: c\nsteps: {}\n", "2:8", "'steps'"),
    "later section": (W + STEP + "deployments: {a: 2}\n", "4:1", "unknown key 'deployments'"),
    "later kind": (W + "steps: {a: {prompt: x, model: w}, b: {summon: Send?}}\n", "3:39", "step 'b' has the unknown key 'summon'"),
    "provider": ("chain: c\nmodels: {w: {provider: opnai, model: x}}\n" + STEP, "2:24", "model 'w': 'provider' cannot be 'opnai'. Did you mean 'openai'?"),
    "model without a name": ("chain: c\nmodels: {w: {provider: openai}}\n" + STEP, "2:13", "needs the key 'model'"),
    "input type": (W + "inputs: {q: {type: strng}}\n" + STEP, "3:20", "input 'q': 'type' cannot be 'strng'. Did you mean 'string'?"),
    "input without a mapping": (W + "inputs: {q: string}\n" + STEP, "3:13", "'q' must be a mapping, not the text 'string'"),
    "default of a wrong type": (W + "inputs: {q: {type: integer, default: many}}\n" + STEP, "3:38", "the default of input 'q' must be of type integer, not 'many'"),
    "default not allowed": (W + "inputs: {q: {enum: [a, b], default: c}}\n" + STEP, "3:37", "must be one of 'a', 'b', not 'c'"),
    "embedder": (W + "collections: {b: {embedder: ww}}\n" + STEP, "3:29", "collection 'b' names the model 'ww', which the chain does not have"),
    "default model": (W + "defaults: {model: v}\nsteps: {a: {prompt: x}}\n", "3:19", "'defaults' names the model 'v'"),
    "no model": (W + "steps: {a: {prompt: x}}\n", "3:9", "step 'a' has no model: neither 'model' nor 'defaults.model' is set. Known here: w."),
    "key written out": ("chain: c\nmodels: {w: {provider: openai, model: x, api_key: hunter2hunter2}}\n" + STEP, "2:51", "model 'w': 'api_key' is written out"),
    "key of a wrong type": ("chain: c\nmodels: {w: {provider: openai, model: x, api_key: [sk-abcdefghijklmnopqrstu]}}\n" + STEP, "2:51", "'api_key' must be text, not this value"),
    "input in a model": ("chain: c\nmodels: {w: {provider: openai, model: x, api_key: '{{ inputs.k }}'}}\n" + STEP, "2:55", "models can read env and secret only"),
    "input in a header": ("chain: c\nmodels: {w: {provider: openai, model: x, headers: {X-A: '{{ inputs.k }}'}}}\n" + STEP, "2:61", "models can read env and secret only"),
    "secret in a header": ("chain: c\nmodels: {w: {provider: openai, model: x, headers: {X-Api-Key: hunter2hunter2}}}\n" + STEP, "2:63", "model 'w': the header 'X-Api-Key' is written out"),
    "name of a header": ("chain: c\nmodels: {w: {provider: openai, model: x, headers: {X A: b}}}\n" + STEP, "2:51", "'X A' is no name of a header"),
    "header of the call": ("chain: c\nmodels: {w: {provider: openai, model: x, headers: {Host: b}}}\n" + STEP, "2:51", "the header 'Host' is set by the call itself"),
    "header of a wrong type": ("chain: c\nmodels: {w: {provider: openai, model: x, headers: {X-Key: [hunter2hunter2]}}}\n" + STEP, "2:59", "'X-Key' must be text, not this value"),
    "headers of a local model": ("chain: c\nmodels: {w: {provider: starter, headers: {X-A: b}}}\n" + STEP, "2:13", "'headers' is for provider 'openai', not for 'starter'"),
    "empty budget": (W + STEP + "budget: {}\n", "4:9", "a budget needs at least one of 'usd', 'tokens' and 'calls'"),
    "cache of a python step": (W + "steps: {a: {python: 'f.py:g', cache: always}}\n", "3:31", "unknown key 'cache'"),
    "secret without a name": ("chain: c\nmodels: {w: {provider: openai, model: x, api_key: '{{ env }}'}}\n" + STEP, "2:55", "Write {{ env.NAME }}."),
    "password in an address": ("chain: c\nmodels: {w: {provider: openai, model: x, base_url: 'https://me:hunter2@h/v1'}}\n" + STEP, "2:52", "the address holds a password"),
    "no address": ("chain: c\nmodels: {w: {provider: openai, model: x, base_url: 'localhost:80'}}\n" + STEP, "2:52", "is no http or https address"),
    "logits of an endpoint": ("chain: c\nmodels: {w: {provider: openai, model: x}}\nsteps: {a: {finetune: distill, teacher: w, level: logits, data: {train: data.jsonl}}}\n", "3:41", "'level: logits' needs a teacher's weights, and 'w' is behind an endpoint. Say 'level: sequence'"),
    "store model": ("chain: c\nmodels: {w: {provider: local, model: 'models:x@newest'}}\n" + STEP, "2:38", "Write models:NAME, models:NAME@latest or models:NAME@3."),
    "output reads nothing": (W + STEP + "outputs: {o: {deep: ['{{ aa.text }}']}}\n", "4:26", "output 'o' reads 'aa.text', but there is no step 'aa'. Did you mean 'a.text'?"),
    "output reads a label": (W + STEP + "outputs: {o: '{{ row.x }}'}\n", "4:18", "only evaluate, prepare and finetune see 'row'"),
    "output name": (W + STEP + "outputs: {O: x}\n", "4:11", "'O' is no name"),
    "schedule without a rule": (W + STEP + "schedule: {s: {timezone: UTC}}\n", "4:15", "a schedule has one of 'cron', 'interval' and 'rrule', and this one has none"),
    "schedule of two rules": (W + STEP + "schedule: {s: {cron: '0 7 * * *', interval: 5s}}\n", "4:15", "not 'cron' and 'interval'"),
    "variant of no step": (W + STEP + "variants: {v: {steps: {aa: {prompt: y}}}}\n", "4:24", "variant 'v': the chain has no step 'aa'. Did you mean 'a'?"),
    "variant of no field": (W + STEP + "variants: {v: {steps: {a: {promt: y}}}}\n", "4:28", "variant 'v': step 'a' has no field 'promt'. Did you mean 'prompt'?"),
    "variant without steps": (W + STEP + "variants: {v: {steps: {}}}\n", "4:23", "'steps'"),
    "missing prompt file of a variant": (W + STEP + "variants: {v: {steps: {a: {prompt: prompts/none.md}}}}\n", "4:36", "there is no file 'prompts/none.md'"),
    "cron": (W + STEP + "schedule: {s: {cron: '0 25 * * *'}}\n", "4:22", "schedule 's': '0 25 * * *' is no cron rule"),
    "cron of six fields": (W + STEP + "schedule: {s: {cron: '0 7 * * * *'}}\n", "4:22", "it has not five fields"),
    "rrule": (W + STEP + "schedule: {s: {rrule: 'FREQ=OFTEN'}}\n", "4:23", "'FREQ=OFTEN' is no recurrence rule"),
    "interval": (W + STEP + "schedule: {s: {interval: 10ms}}\n", "4:26", "'interval' is at least 1s"),
    "time zone": (W + STEP + "schedule: {s: {interval: 1h, timezone: Berlin}}\n", "4:40", "'Berlin' is no time zone"),
    "schedule of an unknown key": (W + STEP + "schedule: {s: {intervall: 1h}}\n", "4:16", "schedule 's': unknown key 'intervall'. Did you mean 'interval'?"),
    "schedule without a mapping": (W + STEP + "schedule: {s: daily}\n", "4:15", "'s' must be a mapping, not the text 'daily'"),
    "schedule of an unknown input": (W + "inputs: {q: {}}\n" + STEP + "schedule: {s: {interval: 1h, inputs: {q: a, r: b}}}\n", "5:45", "schedule 's': the chain has no input 'r'"),
    "schedule of a wrong input": (W + "inputs: {q: {enum: [a]}}\n" + STEP + "schedule: {s: {interval: 1h, inputs: {q: b}}}\n", "5:42", "schedule 's': input 'q' must be one of 'a', not 'b'"),
    "schedule without an input": (W + "inputs: {q: {}}\n" + STEP + "schedule: {s: {interval: 1h}}\n", "5:12", "schedule 's' gives no value for 'q'. Give it under 'inputs', or name a data set with 'data'."),
    "schedule of data outside": (W + STEP + "schedule: {s: {interval: 1h, data: ../x.jsonl}}\n", "4:36", "schedule 's': "),
    "chain name": ("chain: My Chain\nmodels: {w: {provider: starter}}\n" + STEP, "1:8", "'My Chain' is no name"),
}  # fmt: skip


@pytest.mark.parametrize("case", WHOLE_CASES)
def test_mistakes_around_the_steps_have_their_place_and_their_cure(case, folder):
    source, place, words = WHOLE_CASES[case]
    found = [
        problem
        for problem in problems_of(source, folder)
        if problem.startswith(f"c.yaml:{place}: ") and words in problem
    ]
    assert len(found) == 1, problems_of(source, folder)
    assert not any("hunter2" in problem or "sk-abc" in problem for problem in problems_of(source, folder))


GOOD_CASES = {
    "repeat": T + "  r: {repeat: {until: 'a.text == t.intent', max: 3, on_exhausted: 'best(b | length)'}, steps: {a: {prompt: '{{ loop.previous.a.text if loop.previous else loop.turn }}'}, b: {python: 'tool.py:measure', map: ['{{ a.text }}'], args: {x: '{{ item }} {{ t.order }}'}}}}\n  c: {prompt: '{{ r.a.text }} {{ r[0].a.text }} {{ r.b[0].anything }} {{ r.turns | length }} {{ r.reached }}'}",
    "map": T + P + "  m: {prompt: '{{ hit.text }} {{ t.intent }}', map: '{{ p.hits }}', as: hit}\n  n: {prompt: '{{ m[0].text }} {{ m | length }} {{ m | map(attribute=\"text\") | join }}'}",
    "map written out": "  m: {python: 'tool.py:measure', args: {x: '{{ item }}'}, map: [1, {a: '{{ inputs.ticket }}'}], max_concurrency: 2, on_error: skip}",
    "guarded skip": T + "  a: {prompt: \"{{ t.intent | default('-') }}{% if t is defined %}{{ t.order }}{% endif %}\"}",
    "lists over rows": T + "  a: {python: 'tool.py:measure', once: true, args: {x: \"{{ t | map(attribute='intent') | list }}\", y: '{{ t[0].intent }}'}}",
    "labels where they belong": T + "  e: {evaluate: {prediction: '{{ t.intent }}', reference: '{{ row.intent }}'}, gate: accuracy.low >= 0.5 and rows > 3}\n  d: {prepare: data.jsonl, text: '{{ row.a }}'}",
    "python gives anything": "  w: {python: 'tool.py:measure', args: {x: 1}}\n  a: {prompt: '{{ w.whatever.deep[0] }}'}",
    "star import hides names": "  w: {python: 'work.py:loads'}",
    "class as output": "  a: {prompt: x, output: 'tool.py:measure'}\n  b: {prompt: '{{ a.anything }}'}",
    "schema file": "  a: {prompt: x, output: schema.json}\n  b: {prompt: '{{ a.a }}'}",
    "inline text with an ending": "  a: {prompt: Read the file notes.md}",
    "vectors per row": "  v: {embed: '{{ inputs.ticket }}', model: mini}\n  a: {prompt: '{{ v.dimension }}'}",
    "student from nothing": "  f: {finetune: distill, teacher: writer, data: {train: data.jsonl}, budget: {calls: 3}, gate: unanswered < 3}",
    "gate of finetune": "  f: {finetune: lora, base: writer, data: {train: data.jsonl}, gate: validation_loss < 2}",
    "loops and sets": T + P + '  a: {prompt: "{% set n = 2 %}{% for h in p.hits[:n] %}{{ loop.index }} {{ h.text }}{% endfor %}"}',
    "approve": T + "  a: {approve: 'Send to {{ inputs.ticket }}?', show: [t, t.intent], fields: {note: string, stars: {type: integer, required: false}}, timeout: 2d, on_timeout: reject}\n  b: {prompt: '{{ a.note }} {{ a.by }}', when: a.approved}",
    "votes": "  s: {prompt: x, samples: 3, quorum: 2}\n  l: {prompt: x, samples: 3, vote: all}\n  a: {prompt: '{{ s.agreement }} {{ l[0].text }} {% for x in l %}{{ x.text }}{% endfor %}'}",
    "evaluate reads a metric": T + "  e: {evaluate: {prediction: '{{ t.intent }}', reference: '{{ row.intent }}'}}\n  a: {prompt: '{{ e.accuracy.low }}'}",
}  # fmt: skip


@pytest.mark.parametrize("case", GOOD_CASES)
def test_what_is_right_is_accepted(case, folder):
    assert problems_of(HEAD + GOOD_CASES[case] + "\n", folder) == []


MODULES = """  w: {python: 'os:getcwd'}
  a: {prompt: x, output: 'shop.answers:Answer'}
"""


def test_a_module_that_the_machine_does_not_allow_is_a_problem_before_anything_runs(folder, monkeypatch):
    found = problems_of(HEAD + MODULES, folder)
    assert len(found) == 2
    assert found[0].startswith(f"c.yaml:{FIRST}:15: step 'w': this machine does not let a chain import 'os'")
    assert "'shop.answers'" in found[1] and "HEADRACE_ALLOWED_MODULES" in found[1]
    monkeypatch.setenv("HEADRACE_ALLOWED_MODULES", "os, shop")
    assert problems_of(HEAD + MODULES, folder) == []
    monkeypatch.setenv("HEADRACE_ALLOWED_MODULES", "o, shop.answer")
    assert len(problems_of(HEAD + MODULES, folder)) == 2


def test_settings_that_are_given_decide_and_not_the_environment(folder, monkeypatch):
    monkeypatch.setenv("HEADRACE_ALLOWED_MODULES", "os, shop")
    source = (HEAD + MODULES).encode()
    with pytest.raises(ChainInvalid, match="'os'"):
        load_source(source, folder / "c.yaml", settings=Settings())
    load_source(source, folder / "c.yaml", settings=Settings(allowed_modules=("os", "shop.answers")))


def test_a_python_file_without_its_ending_is_named(folder):
    (found,) = problems_of(HEAD + "  w: {python: 'lib/tool:measure'}\n", folder)
    assert "'lib/tool' is neither a file nor a module. Write it with its ending" in found


def test_checking_never_runs_the_chains_python(folder):
    (folder / "tool.py").write_text("raise SystemExit('imported')\ndef measure(): pass\n")
    assert problems_of(HEAD + "  w: {python: 'tool.py:measure'}\n", folder) == []


def test_a_wrong_step_makes_no_further_problems_where_it_is_read(folder):
    found = problems_of(
        HEAD + "  t: {prompt: x, reask: no}\n  a: {prompt: '{{ t.intent }}', after: [t]}\n", folder
    )
    assert len(found) == 1 and "'reask'" in found[0]


def test_a_value_that_yaml_could_not_give_makes_no_further_problems(folder):
    found = problems_of(HEAD + "  a: {prompt: {{ inputs.ticket }}}\n  b: {prompt: *x}\n", folder)
    assert [problem.split(": ")[0] for problem in found] == ["c.yaml:7:16", "c.yaml:8:15"]


def load(source, folder):
    return load_source(source.encode(), folder / "c.yaml")


def test_perplexity_by_an_endpoint_is_named(folder):
    step = "  a: {evaluate: {prediction: '{{ row.text }}'}, metrics: [perplexity], language_model: writer}\n"
    [found] = problems_of(HEAD.replace("provider: starter", "provider: openai, model: m") + step, folder)
    assert found.startswith("c.yaml:7:")
    assert "'language_model' is 'writer', which is behind an endpoint" in found


def test_unused_parts_are_remarks_apart_from_problems(folder):
    read = load(HEAD + "  a: {prompt: '{{ inputs.ticket }}'}\n", folder)
    assert [problem.message for problem in warnings(read)] == [
        "input 'order' is used by no step", "model 'mini' is used by no step", "collection 'book' is used by no step",
    ]  # fmt: skip
    assert [problem.location.line for problem in warnings(read)] == [2, 3, 4]


ENV = """chain: c
models:
  a: {provider: openai, model: x, api_key: "{{ env.A_KEY }}", base_url: "{{ env.A_URL | default('http://h/v1') }}"}
  b: {provider: openai, model: x}
  c: {provider: openai, model: x, api_key: "{{ secret.team }}"}
  d: {provider: openai, model: x, base_url: "http://127.0.0.1:8000/v1"}
  unused: {provider: openai, model: x, api_key: "{{ env.UNUSED }}"}
  e: {provider: openai, model: x, api_key: "{{ env.A_KEY }}", headers: {X-T: "{{ env.TOKEN }}"}}
  f: {provider: openai, model: x, api_version: "1", base_url: "https://h/d"}
collections:
  book: {embedder: e, url: "http://{{ env.HOST }}:6333"}
steps:
"""


def test_missing_variables_are_named_for_the_models_in_use(folder):
    steps = "".join(f"  {name}_step: {{prompt: x, model: {name}}}\n" for name in "abcdf")
    chain = load(ENV + steps + "  find: {retrieve: book, query: x}\n", folder).chain
    wanted = ["AZURE_OPENAI_API_KEY", "A_KEY", "HOST", "OPENAI_API_KEY", "TOKEN"]
    assert missing_environment(chain, {}) == wanted
    assert missing_environment(chain, dict.fromkeys(wanted, "k") | {"OPENAI_API_KEY": ""}) == [
        "OPENAI_API_KEY"
    ]
    assert missing_environment(load(ENV + "  x: {prompt: x, model: d}\n", folder).chain, {}) == []


@pytest.mark.parametrize(
    "case",
    [
        case
        for case, (_, _, words) in STEP_CASES.items()
        if " reads '" in words and "the prompt of" not in words
    ],
)
def test_the_place_of_a_wrong_reference_is_its_first_letter(case, folder):
    source = HEAD + STEP_CASES[case][0] + "\n"
    [problem] = problems_of(source, folder)
    file, line, column = problem.split(": ")[0].split(":")
    text = source if file == "c.yaml" else (folder / file).read_text()
    name = problem.split(" reads '")[1].split("'")[0]
    assert text.splitlines()[int(line) - 1][int(column) - 1 :].startswith(name)


def test_thousands_of_mistakes_are_found_in_seconds(folder):
    steps = "".join(f"  step_{index}: {{prompt: '{{{{ stop_{index}_x.text }}}}'}}\n" for index in range(2000))
    start = time.process_time()
    assert len(problems_of(HEAD + steps, folder)) == 2000
    assert time.process_time() - start < 30


def test_a_long_cycle_is_named_by_its_ends(folder):
    steps = "".join(
        f"  s{index}: {{prompt: '{{{{ s{(index + 1) % 500}.text }}}}'}}\n" for index in range(500)
    )
    [problem] = problems_of(HEAD + steps, folder)
    assert "s0 -> s1 -> s2" in problem and problem.count("->") == 12 and "s499 -> s0" in problem
