"""Pictures are SVG that holds what was measured and nothing that could run.

Run with: pytest tests/tasks/test_evaluate_pictures.py
"""

from xml.etree import ElementTree

from tasks.metrics.calibration import calibration
from tasks.metrics.classes import confusion
from tasks.scoring.pictures import MOST_LABELS, confusion_svg, reliability_svg

SVG = "{http://www.w3.org/2000/svg}"
HOSTILE = "</text><script>x</script>\x00\x1b"


def texts(picture):
    return [item.text for item in ElementTree.fromstring(picture).iter(f"{SVG}text")]


def tags(picture):
    return {item.tag.removeprefix(SVG) for item in ElementTree.fromstring(picture).iter()}


def test_a_confusion_shows_each_count_at_its_place():
    picture = confusion_svg(
        confusion([("refund", "refund")] * 7 + [("refund", "delivery")] * 2 + [("x", None)])
    )
    found = texts(picture)
    assert {"refund", "delivery", "x", "no answer", "7", "2", "1"} <= set(found)
    assert tags(picture) == {"svg", "rect", "text"}


def test_labels_are_text_whatever_they_hold_and_only_the_commonest_are_drawn():
    picture = confusion_svg(confusion([(HOSTILE, "a"), ("a", HOSTILE)]))
    assert "script" not in tags(picture)
    many = confusion_svg(confusion([(f"label {number:03}", "label 000") for number in range(90)]))
    assert len([text for text in texts(many) if text.startswith("label")]) == 2 * MOST_LABELS


def test_a_reliability_diagram_has_a_point_for_each_bin_with_rows():
    bins = calibration([(0.95, True)] * 12 + [(0.25, False)] * 5)["bins"]
    picture = reliability_svg(bins)
    points = list(ElementTree.fromstring(picture).iter(f"{SVG}circle"))
    assert len(points) == 2 and {"12", "5", "confidence"} <= set(texts(picture))
