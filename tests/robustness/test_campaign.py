"""The judge itself: every bad outcome is seen."""

import time

import pytest

from tests.robustness import campaign as judge
from tests.robustness.campaign import Campaign


def refuse(error: Exception):
    raise error


def test_outcomes(monkeypatch):
    monkeypatch.setattr(judge, "SECONDS", 1)
    cases = Campaign("all")
    cases.run("a right result", lambda: 2, check=lambda result: result == 2)
    cases.run("another result", lambda: 3, check=lambda result: result == 2)
    cases.run("no refusal", lambda: 3, must_refuse=True)
    cases.run("a refusal", lambda: refuse(ValueError("size must be positive, got 0.")), names=["size"])
    cases.run("a refusal of what is right", lambda: refuse(ValueError("size must be positive")), must_be_right=True)
    cases.run("of something else", lambda: refuse(ValueError("this is not what it is")), names=["size"])
    cases.run("a library's own words", lambda: refuse(TypeError("'int' object is not subscriptable in this")))
    cases.run("no words", lambda: refuse(ValueError("")))
    cases.run("a crash", lambda: refuse(IndexError("list index out of range")))
    cases.run("a sleeper", lambda: time.sleep(5))
    assert cases.counts == {"right": 1, "wrong": 3, "refused": 1, "puzzling": 3, "crashed": 1, "hangs": 1}
    assert len(cases.bad) == 8


def test_a_campaign_fails_with_its_bad_cases():
    with pytest.raises(AssertionError, match="crashed: a crash -> IndexError"):
        with judge.campaign("bad", least=1) as cases:
            cases.run("a crash", lambda: refuse(IndexError("list index out of range")))
    with pytest.raises(AssertionError):
        with judge.campaign("too few", least=2) as cases:
            cases.run("one", lambda: 1)
