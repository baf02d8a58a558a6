"""`playhead watch` and `publish` while their gateway is restarted, killed, hangs, or stays away."""

import signal

from tests.journeys.playhead import Site, note_line, texts
from tests.servers import wait_until


def test_a_watch_goes_on_after_a_restart_of_the_gateway(mortal: Site) -> None:
    with mortal.start("watch", "note") as watch:
        watch.wait_for_note("watching note")
        mortal.publish("before")
        watch.wait_for(1)

        assert mortal.gateway.terminate() == 0
        watch.wait_for_note("Server is shutting down gracefully")
        mortal.gateway.start()
        mortal.publish("meanwhile")
        watch.wait_for(2)
        mortal.publish("after")
        watch.wait_for(3)
        assert texts(watch) == ["before", "meanwhile", "after"]
        watch.wait_for_note("connected again, going on after 1")


def test_a_watch_that_waits_for_the_first_event_of_all_does_not_miss_it_in_a_crash(
    mortal: Site, site: Site
) -> None:
    """Symptom: without an event there was no cursor, and a new connection began with the present."""
    site.tenant = mortal.tenant
    with mortal.start("watch", "note") as watch:
        watch.wait_for_note("watching note")
        mortal.gateway.kill()
        site.publish("meanwhile")
        mortal.gateway.start()
        watch.wait_for(1)
        assert texts(watch) == ["meanwhile"]


def test_a_gateway_that_hangs_is_noticed(mortal: Site) -> None:
    mortal.publish("before")
    with mortal.start("watch", "note", "--from-id", "1", "--silence", "1") as watch:
        watch.wait_for(1)
        assert mortal.gateway.process is not None
        mortal.gateway.process.send_signal(signal.SIGSTOP)
        watch.wait_for_note("it was silent for too long")
        mortal.gateway.process.send_signal(signal.SIGCONT)
        watch.wait_for_note("connected again, going on after 1")
        mortal.publish("after")
        watch.wait_for(2)


def test_publishing_goes_on_when_the_gateway_is_back_and_stores_nothing_twice(
    mortal: Site,
) -> None:
    with mortal.start("publish", "-") as publish, mortal.start("watch", "note") as watch:
        watch.wait_for_note("watching note")
        publish.type(note_line("a") + note_line("b"))
        watch.wait_for(2)
        mortal.gateway.kill()
        publish.type(note_line("c") + note_line("d"))
        publish.wait_for_note("trying again in")
        mortal.gateway.start()
        assert publish.wait() == 0, publish.notes
        assert publish.lines == ["published 4, refused 0"]
        watch.wait_for(4)
        assert texts(watch) == ["a", "b", "c", "d"]


def test_publishing_gives_up_in_the_end_and_says_how_far_it_came(mortal: Site) -> None:
    with mortal.start("publish", "-", "--patience", "0.1") as publish:
        publish.type(note_line("a") + "\n" + note_line("b"))
        wait_until(lambda: texts(mortal.run("replay", "note")[1]) == ["a", "b"], "they are stored")
        mortal.gateway.kill()
        publish.type(note_line("c"))
        assert publish.wait() == 1
        assert publish.notes[-1].endswith("gave up after 0.1 s; all lines up to 3 were published")
