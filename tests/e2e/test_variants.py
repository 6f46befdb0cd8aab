"""Variants of a chain run beside it: what they change is asked, everything else is paid once."""

from __future__ import annotations

import json
from typing import Any

import pytest

pytestmark = pytest.mark.e2e

CHAIN = """chain: vary
inputs: {{ticket: {{type: string}}}}
models:
  m: {{provider: openai, model: one, base_url: "{url}"}}
  n: {{provider: openai, model: two, base_url: "{url}"}}
defaults: {{model: m}}
steps:
  triage:
    prompt: prompts/triage.md
    output: {{intent: {{enum: [refund, delivery, question]}}}}
  reply: {{prompt: "Answer {{{{ triage.intent }}}}"}}
  summary: {{prompt: "Sum up {{{{ inputs.ticket }}}}"}}
  score: {{evaluate: {{prediction: "{{{{ triage.intent }}}}", reference: "{{{{ row.intent }}}}"}}}}
outputs: {{reply: "{{{{ reply.text }}}}"}}
variants:
  wrong: {{steps: {{triage: {{prompt: prompts/other.md}}}}}}
  other_model: {{description: Another model., steps: {{summary: {{model: n, temperature: 0.5}}}}}}
"""


@pytest.fixture
def vary(make_desk: Any) -> Any:
    desk = make_desk()
    (desk.folder / "prompts").mkdir()
    (desk.folder / "prompts" / "triage.md").write_text("Sort: {{ inputs.ticket }}")
    (desk.folder / "prompts" / "other.md").write_text("It is a question, a question: {{ inputs.ticket }}")
    (desk.folder / "vary.yaml").write_text(CHAIN.format(url=desk.server.url))
    return desk


def test_variants_are_compared_and_what_they_do_not_change_is_paid_once(vary: Any) -> None:
    data = str(vary.tickets(6))
    asked = ["run", "vary.yaml", "--data", data, "--direct", "--variants"]
    done = vary.headrace(*asked, "wrong,other_model", "--json")
    assert done.code == 0, done.err
    found = done.json()
    assert found["base"]["status"] == "ok" and list(found["variants"]) == ["wrong", "other_model"]
    wrong, other = found["variants"].values()
    assert wrong["steps"] == ["reply", "score", "triage"] and other["steps"] == ["summary"]
    # As it is 6 x 3; `wrong` asks triage and reply again, `other_model` the summary.
    assert vary.sent() == 18 + 12 + 6
    assert (wrong["after"]["calls"], wrong["before"]["calls"], other["after"]["calls"]) == (12, 12, 6)
    [accuracy] = [line for line in wrong["metrics"] if line["metric"] == "accuracy"]
    assert accuracy["after"] <= accuracy["before"] and accuracy["paired"]["difference"] <= 0
    assert other["rows_that_differ"] == 6
    models = {json.loads(line["raw"])["model"] for line in vary.server.ledger()}
    assert models == {"one", "two"}
    assert len(vary.headrace("runs", "--json").json()) == 3
    table = vary.headrace(*asked, "wrong").out
    assert "wrong: run " in table and "as it is" in table and "score.accuracy" in table


def test_a_variant_that_is_none_is_refused_before_anything_is_sent(vary: Any) -> None:
    asked = ["run", "vary.yaml", "-i", "ticket=x", "--direct", "--variants"]
    unknown = vary.headrace(*asked, "wron")
    assert unknown.code == 2 and "no variant 'wron'. Did you mean 'wrong'?" in unknown.err
    chain = (vary.folder / "vary.yaml").read_text()
    for broken, words in (
        ("{summary: {temperature: hot}}", "'temperature'"),
        ("{summary: {prompt: '{{ nobody.text }}'}}", "there is no step 'nobody'"),
        ("{summary: {model: m}}", "changes nothing"),
    ):
        (vary.folder / "vary.yaml").write_text(f"{chain}  broken: {{steps: {broken}}}\n")
        for command in (["check", "vary.yaml"], [*asked, "wrong,broken"]):
            refused = vary.headrace(*command)
            assert refused.code == 2 and "variant 'broken': " in refused.err and words in refused.err, (
                refused.err
            )
    assert vary.sent() == 0
