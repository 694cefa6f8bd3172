"""What chooses eight bits: the pure choice, what devices lack, and what the state of a stream says of it."""

import copy
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from sdstream.diffusion.eight_bit import layers, trial
from sdstream.diffusion.eight_bit.copies import eight_bit_layers as layers_in_force
from sdstream.diffusion.eight_bit.copies import note_of
from sdstream.diffusion.eight_bit.layers import place_eight_bit
from sdstream.diffusion.eight_bit.products import Terms, Way
from sdstream.diffusion.eight_bit.switch import use_eight_bit
from sdstream.diffusion.eight_bit.trial import LEAST_GAIN, MOST_ERROR, Choice, Sample, can_win, choose, lacking
from sdstream.diffusion.loading.models import Model
from sdstream.diffusion.networks import EagerNetworks
from sdstream.diffusion.placing import place
from sdstream.diffusion.trials.stopwatch import CudaStopwatch
from sdstream.diffusion.trials.store import Origin, Subject, TrialStore
from sdstream.errors import ConfigurationError
from sdstream.settings import load_settings
from sdstream.worker.server_end.configuration import WORKER_SETTINGS
from tests.diffusion.fleet import Fleet, params_of, ran

Load = Callable[..., Model]
CPU = torch.device("cpu")
WAYS: tuple[Way, ...] = ("rows", "units")
needs_a_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")


@pytest.fixture
def _wanted() -> Iterator[None]:
    use_eight_bit("linear")
    yield
    use_eight_bit("off")


def sample(tokens: int, gain: float, error: float = 0.03) -> Sample:
    return Sample(tokens, gain, 1.0, error)


@pytest.mark.parametrize(
    ("samples", "least"),
    [
        ([sample(64, 1.5), sample(256, 1.5)], 64),
        ([sample(64, 0.5), sample(256, 1.5), sample(1024, 1.2)], 256),
        ([sample(64, 1.5), sample(256, LEAST_GAIN - 0.01), sample(1024, 1.2)], 1024),
        ([sample(64, 1.5), sample(256, LEAST_GAIN)], 64),
        ([sample(64, 1.5), sample(256, 1.0)], None),
        ([sample(64, 1.5, MOST_ERROR * 1.01), sample(256, 1.5)], None),
        ([sample(64, 1.5), sample(256, 1.5, float("nan"))], None),
        ([Sample(64, problem="RuntimeError: not built")], None),
    ],
)
def test_eight_bits_are_chosen_from_the_size_on_where_they_win_at_every_larger_one(
    samples: list[Sample], least: int | None
) -> None:
    choice = choose("rows", samples)
    assert (None if choice.terms is None else choice.terms.least_tokens) == least
    assert bool(choice.reason) == (least is None)


class Watch:
    """Says that eight bits take a third of the time."""

    def time(self, calls: Sequence[Callable[[], Any]]) -> list[tuple[float, ...]]:
        for call in calls:
            call()
        return [(3.0, 9.0, 3.0), (1.0, 1.0, 8.0)]


def test_a_look_says_how_far_the_answer_is_and_what_both_take() -> None:
    seen = trial.look(CPU, torch.float16, 48, 64, "units", Watch())
    assert [each.tokens for each in seen] == list(trial.TRIED_TOKENS)
    assert all(0.02 < each.error < MOST_ERROR and each.half == 3 * each.eight_bit == 3.0 for each in seen)
    assert choose("units", seen).terms == Terms("units", 64)


class Broken:
    """What torch says of a card that a product was not built for."""

    def time(self, calls: Sequence[Callable[[], Any]]) -> list[tuple[float, ...]]:
        raise RuntimeError("Rowwise scaling is not currently supported on your device\nand more")


def test_a_product_that_is_not_built_is_no_choice() -> None:
    seen = trial.look(CPU, torch.float16, 48, 64, "units", Broken())
    reason = "RuntimeError: Rowwise scaling is not currently supported on your device"
    assert choose("units", seen) == Choice(None, reason)


def test_weights_that_torch_cannot_multiply_or_that_are_small_are_not_tried() -> None:
    assert can_win(320, 1280)
    assert not any(can_win(*shape) for shape in ((320, 1276), (4, 320), (320, 64)))


def test_another_kind_of_eight_bits_is_refused_by_name() -> None:
    with pytest.raises(ConfigurationError, match="SDSTREAM_EIGHT_BIT: must be 'off', 'linear' or 'all', not 'most'"):
        load_settings(environment={"SDSTREAM_EIGHT_BIT": "most"})
    for kind in ("linear", "all"):
        assert load_settings(environment={"SDSTREAM_EIGHT_BIT": kind}).eight_bit == kind
    assert "eight_bit" in WORKER_SETTINGS, "the worker is told"


@pytest.mark.usefixtures("_wanted")
@pytest.mark.filterwarnings("ignore:products in eight bits:RuntimeWarning")
def test_a_device_without_units_for_it_runs_in_half_precision_and_says_why(
    tiny_directory: Callable[..., Path], tmp_path: Path
) -> None:
    # A copy: the model that another test ran last is still loaded, and was placed without the wish.
    with Fleet(Path(shutil.copytree(tiny_directory("sd-turbo"), tmp_path / "model"))) as fleet:
        stream = fleet.open(params_of())
        assert ran(fleet, stream, 0) == 1
        report = stream.reports[-1]
    assert report.acceleration == "torch"
    assert "products in eight bits were asked for and are not in force: cpu has no units for float8" in report.detail


@pytest.mark.parametrize(("capability", "lacks"), [((8, 6), True), ((8, 9), False), ((9, 0), False), ((12, 0), False)])
def test_cards_before_ada_lack_it(monkeypatch: pytest.MonkeyPatch, capability: tuple[int, int], lacks: bool) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "a card")
    reason = lacking(torch.device("cuda"))
    assert reason == ("a card has compute capability 8.6, and float8 needs 8.9" if lacks else "")


def test_a_card_where_nothing_wins_runs_in_half_precision_and_says_so(
    tiny_model: Load, monkeypatch: pytest.MonkeyPatch
) -> None:
    unet: Any = copy.deepcopy(tiny_model("sd-turbo").unet)
    monkeypatch.setattr(layers, "lacking", lambda device: "")
    monkeypatch.setattr(layers, "kernel_problem", lambda device: "")
    with pytest.warns(RuntimeWarning, match="none of its layers wins"):
        place_eight_bit(unet, CPU)
    assert "none of its layers wins" in EagerNetworks(unet, tiny_model("sd-turbo").vae).notes[0]
    assert layers_in_force(unet) == 0


@pytest.mark.gpu
@needs_a_gpu
@pytest.mark.filterwarnings("ignore:layers")
def test_a_card_that_has_the_units_multiplies_right_in_one_way_at_least() -> None:
    device = torch.device("cuda")
    if lacking(device):
        pytest.skip(lacking(device))
    watch = CudaStopwatch(device)
    seen = {way: trial.look(device, torch.float16, 1280, 1280, way, watch) for way in WAYS}
    right = [way for way, samples in seen.items() if all(not s.problem and s.error <= MOST_ERROR for s in samples)]
    assert right, seen


@pytest.mark.gpu
@needs_a_gpu
@pytest.mark.usefixtures("_wanted")
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_placed_networks_in_eight_bits_answer_nearly_as_plain_ones_on_a_gpu(tiny_model: Load) -> None:
    device = torch.device("cuda")
    unet: Any = place(copy.deepcopy(tiny_model("sd-turbo").unet).half(), device)
    note = note_of(unet)
    assert bool(note) != bool(layers_in_force(unet)), "one of both, never neither"


def test_what_was_measured_is_remembered_and_must_work_in_the_next_process(tmp_path: Path) -> None:
    origin, subject = Origin("card", ()), Subject("eight_bit", "float16 320 x 320")
    won = Choice(Terms("units", 256))

    def store() -> TrialStore:
        return TrialStore(tmp_path / "card.json", origin)

    def not_built() -> Choice:
        return Choice(None, "rows: not built", is_measured=False)

    assert trial.settled(store(), subject, not_built, lambda terms: True).terms is None
    assert trial.settled(store(), subject, lambda: won, lambda terms: True) == won, "it was tried again"
    assert trial.settled(store(), subject, not_built, lambda terms: True) == won
    assert trial.settled(store(), subject, not_built, lambda terms: False).terms is None
