from __future__ import annotations

import time

from cupel_service.queue.takeover import Contact


def contact_for(seconds: float, gap_s: float = 60.0) -> Contact:
    """A contact that was made, and made again that much later."""
    contact = Contact(gap_s)
    contact.made(time.monotonic())
    time.sleep(seconds)
    contact.made(time.monotonic())
    return contact


def test_contact_lasts_from_its_first_answer_to_its_last() -> None:
    assert contact_for(0.05).lasted_s() >= 0.05


def test_before_the_first_answer_there_is_no_contact() -> None:
    assert Contact(60.0).is_lost()
    assert Contact(60.0).lasted_s() == 0


def test_an_outage_ends_it_and_it_begins_anew() -> None:
    contact = contact_for(0.05)
    contact.lost()
    assert contact.is_lost()
    assert contact.lasted_s() == 0
    contact.made(time.monotonic())
    assert not contact.is_lost()
    assert contact.lasted_s() < 0.05


def test_a_process_that_slept_has_no_contact_though_nothing_failed() -> None:
    contact = contact_for(0.2, gap_s=0.05)
    assert contact.lasted_s() < 0.05


def test_an_answer_that_took_too_long_is_as_bad_as_none() -> None:
    contact = contact_for(0.1)
    contact.made(asked_at=time.monotonic() - 100)
    assert contact.lasted_s() == 0
