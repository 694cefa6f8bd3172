"""The page's choices about whole pictures, run in Node: when the next is sent, how coarse it is, which way it goes."""

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.skipif(shutil.which("node") is None, reason="Node.js is not installed")

ASSETS = Path(__file__).parents[2] / "sdstream/api/playground/assets"
LINE = """
// A source of 30 pictures a second for `seconds`, and a line that answers in order: `answer(sentAt, last)` is when.
function run(pacing, seconds, answer, from = 0) {
  const sent = [];
  const answers = [];
  for (let now = from; now < from + 1000 * seconds; now += 1) {
    while (answers.length && answers[0] <= now) pacing.answered(answers.shift());
    if ((now - from) % 33 === 0) pacing.offer(now);
    if ((now - from) % 33 || !pacing.may(now)) continue;
    pacing.sent(now, 1000);
    sent.push(now);
    answers.push(answer(now, answers.at(-1) ?? 0));
  }
  return sent;
}
"""


def in_node(module: str, names: str, script: str) -> Any:
    """What `script` returns, with `names` of the page's module."""
    program = (
        f'import {{ {names} }} from "{(ASSETS / module).as_uri()}";{LINE}\nconst result = (() => {{ {script} }})();'
    )
    done = subprocess.run(
        ["node", "--input-type=module", "--eval", f"{program}\nconsole.log(JSON.stringify(result ?? null));"],
        capture_output=True,
        text=True,
        check=False,
        timeout=100,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def pacing(script: str) -> Any:
    return in_node("pacing.js", "Pacing, QUALITIES", f"const pacing = new Pacing(); {script}")


def ways(script: str) -> Any:
    return in_node("ways.js", "Network, Way, causeOf, describeWays", f"const network = new Network(); {script}")


def test_one_picture_goes_out_before_the_first_answer() -> None:
    assert pacing("pacing.sent(0, 1); return [pacing.may(1), (pacing.answered(20), pacing.may(21))];") == [False, True]


def test_an_even_line_is_sent_ahead_of_its_answers() -> None:
    sent = pacing("return run(pacing, 4, (at) => at + 120);")
    assert len(sent) > 100  # of 121


def test_no_more_than_eight_are_unanswered() -> None:
    script = """run(pacing, 4, (at) => at + 900); let now = 4000; while (pacing.silence(now)) pacing.answered(now);
        let count = 0; while (pacing.may(now) && count < 50) { pacing.sent(now, 1); count += 1; }
        return count;"""
    assert pacing(script) == 8


def test_a_line_whose_answers_are_late_gets_nothing_more() -> None:
    late = "pacing.sent(0, 1); pacing.answered(40); pacing.sent(100, 1); return [pacing.may(289), pacing.may(290)];"
    assert pacing(late) == [True, False]


def test_a_narrow_line_is_not_filled() -> None:
    # Five pictures a second get through, one after the other.
    waits = pacing(
        """const waits = [];
        run(pacing, 20, (at, last) => { const done = Math.max(at, last) + 200; waits.push(done - at); return done; });
        return waits;"""
    )
    assert max(waits) < 600
    assert len(waits) > 90


def test_answers_of_long_ago_do_not_count() -> None:
    # The line was fast once; by what it is now, a picture of 300 ms is on time.
    assert pacing(
        """pacing.sent(0, 1); pacing.answered(5);
        for (const at of [11000, 12000]) { pacing.sent(at, 1); pacing.answered(at + 300); }
        pacing.sent(13000, 1); return [pacing.may(13400), pacing.may(13500)];"""
    ) == [True, False]


def test_quality_falls_where_much_is_held_back() -> None:
    script = """const seen = []; const narrow = (at, last) => Math.max(at, last) + 200;
        for (let second = 0; second < 6; second += 1) {
          run(pacing, 1, narrow, 1000 * second); seen.push(pacing.quality); }
        return [seen, QUALITIES];"""
    seen, qualities = pacing(script)
    assert seen == sorted(seen, reverse=True)
    assert (seen[0], seen[-1]) == (qualities[0], qualities[-1])


def test_quality_comes_back_after_five_quiet_seconds() -> None:
    script = """const levels = []; const line = (second) => (at, last) => second ? at + 5 : Math.max(at, last) + 200;
        for (let second = 0; second < 9; second += 1) {
          run(pacing, 1, line(second), 1000 * second); while (pacing.silence(1e6)) pacing.answered(1000 * second + 999);
          levels.push(pacing.quality); }
        return levels;"""
    assert pacing(script) == [0.85, *[0.7] * 5, *[0.85] * 3]


def test_a_slow_encoder_is_not_the_lines_fault() -> None:
    # Every third picture only is sent, though all might have been.
    script = """for (let now = 0; now < 5000; now += 33) { pacing.offer(now);
          if ((now / 33) % 3 === 0) { pacing.sent(now, 1); pacing.answered(now + 10); } }
        return pacing.quality;"""
    assert pacing(script) == 0.85


def test_the_rate_is_of_the_last_second() -> None:
    rate = pacing("run(pacing, 3, (at) => at + 20); return pacing.rate;")
    assert rate == pytest.approx(30.3 * 8000, rel=0.05)


def test_an_answer_to_nothing_is_ignored() -> None:
    assert pacing("pacing.answered(5); pacing.sent(10, 1); return pacing.may(11);") is False


@pytest.mark.parametrize(
    ("error", "kind", "why"),
    [
        ('{ code: "WEBRTC/OFF" }', "pictures", "off"),
        ('{ code: "WEBRTC/TURN_UNAVAILABLE" }', "pictures", "blocked"),
        ('{ cause: "blocked" }', "pictures", "blocked"),
        ('{ cause: "lost" }', "webrtc", ""),
        ('{ code: "STREAMS/CAPACITY", status: 429 }', "webrtc", ""),
        ("{ status: 0 }", "webrtc", ""),
    ],
)
def test_pictures_take_over_where_webrtc_is_to_blame(error: str, kind: str, why: str) -> None:
    told = ways(f"const way = new Way(network); return [way.failed(causeOf({error})), way.kind, way.why];")
    assert told == [kind == "pictures", kind, why]


@pytest.mark.parametrize(("choice", "kind"), [("webrtc", "webrtc"), ("websocket", "pictures")])
def test_a_choice_is_kept_to(choice: str, kind: str) -> None:
    script = f"""network.choice = "{choice}"; const way = new Way(network);
        const turned = ["blocked", "off", "unopened", "unopened", "unopened", "lost"].map((cause) => way.failed(cause));
        return [turned.some(Boolean), way.kind, way.patience];"""
    assert ways(script) == [False, kind, None]


def test_a_network_that_was_blocked_is_given_less_time_until_webrtc_connects() -> None:
    script = """const patience = () => new Way(network).patience; const seen = [patience()];
        new Way(network).failed("blocked"); seen.push(patience());
        new Way(network).connected(); seen.push(patience()); return seen;"""
    first, then, again = ways(script)
    assert first == again > then > 0


def test_webrtc_has_another_chance_where_no_websocket_opens() -> None:
    script = """const way = new Way(network); way.failed("blocked");
        const seen = [1, 2, 3].map(() => (way.failed("unopened"), way.kind)); return seen;"""
    assert ways(script) == ["pictures", "pictures", "webrtc"]


def test_all_is_given_up_once_each_way_had_its_chances() -> None:
    script = """const way = new Way(network); const seen = [];
        for (const cause of ["blocked", "unopened", "unopened", "unopened", "blocked"]) {
          way.failed(cause); seen.push(way.hopeless); }
        way.connected(); return [...seen, way.hopeless];"""
    assert ways(script) == [False, False, False, False, True, False]


def test_a_websocket_that_worked_is_tried_for_ever() -> None:
    script = """const way = new Way(network); way.failed("off"); way.connected();
        for (let count = 0; count < 20; count += 1) way.failed("unopened"); return way.kind;"""
    assert ways(script) == "pictures"


@pytest.mark.parametrize(
    ("sends", "shows", "words"),
    [
        ("null", "null", ""),
        ('{ kind: "webrtc" }', '{ kind: "webrtc" }', ""),
        ('{ kind: "pictures", why: "blocked" }', "null", "No WebRTC gets through here, so pictures travel"),
        (
            '{ kind: "pictures", why: "off" }',
            '{ kind: "pictures", why: "off" }',
            "This server takes no WebRTC, so pictures",
        ),
        (
            '{ kind: "pictures", why: "chosen" }',
            '{ kind: "pictures", why: "chosen" }',
            "As chosen, pictures travel over",
        ),
        ('{ kind: "pictures", why: "blocked" }', '{ kind: "webrtc" }', "No WebRTC gets out of here, so your picture"),
        ('{ kind: "webrtc" }', '{ kind: "pictures", why: "blocked" }', "No WebRTC gets in here, so the output travels"),
    ],
)
def test_the_way_is_told_in_one_sentence(sends: str, shows: str, words: str) -> None:
    told = ways(f"return describeWays({sends}, {shows});")
    assert told.startswith(words)
    assert told.count(".") == bool(words)
