"""Every similarity against its float64 twin, and against itself when the work is cut differently."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch import Tensor

from concept_monitor_cli.errors import InputError
from concept_monitor_cli.functional import _blocks, similarity
from concept_monitor_cli.functional.similarity import ConceptActivations, pmi, reorder
from concept_monitor_cli.functional.topk import top_images
from tests.functional import twins

NAMES = ["cos", "cos_cubed", "rank_reorder", "wpmi", "soft_wpmi"]
COMPILED = ["rank_reorder", "wpmi", "soft_wpmi"]
TOLERANCE = 1e-4
CPU = torch.device("cpu")


def embeddings(n: int, m: int, d: int = 24, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Unit vectors in a cone, as CLIP's: image-text cosines of about 0.1 to 0.5."""
    g = torch.Generator().manual_seed(seed)
    images = torch.randn(n, d, generator=g) + 0.6
    texts = torch.randn(m, d, generator=g) + 0.6
    return torch.nn.functional.normalize(images, dim=1), torch.nn.functional.normalize(texts, dim=1)


def activations(n: int, c: int, kind: str, seed: int = 1) -> Tensor:
    g = torch.Generator().manual_seed(seed)
    Q = torch.randn(n, c, generator=g)
    if kind == "ties":  # ReLU zeros and rounded values
        return (Q.relu() * 2).round() / 2
    if kind == "dead":
        Q[:, ::3] = 0.0
        Q[:, 1::6] = -2.5
    if kind == "negative":
        Q = -Q.abs() - 1
    if kind == "large":
        Q = Q * 1000 + 5000
    return Q


CASES = {
    "plain": (150, 40, 12, "plain"),
    "ties": (150, 40, 12, "ties"),
    "dead units": (150, 40, 12, "dead"),
    "all negative": (120, 30, 6, "negative"),
    "large activations": (120, 30, 6, "large"),
    "fewer images than K": (17, 30, 6, "ties"),
    "one image": (1, 8, 3, "plain"),
    "one unit": (130, 30, 1, "plain"),
    "one concept": (130, 1, 7, "plain"),
    "one unit and one concept": (130, 1, 1, "ties"),
}


@pytest.fixture(params=[False, True], ids=["torch", "compiled"])
def compiled(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    """Both ways of making a sum over many terms, whatever their number."""
    monkeypatch.setattr(_blocks, "WORTH_COMPILING", 0 if request.param else 1 << 62)
    return bool(request.param)


@pytest.mark.parametrize("form", ["matrix", "transposed matrix", "embeddings", "kept"])
@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize(
    ("name", "compiled"),
    [(name, way) for name in NAMES for way in ([False, True] if name in COMPILED else [False])],
    indirect=["compiled"],
)
def test_agrees_with_its_literal_twin(name: str, case: str, form: str, compiled: bool) -> None:
    n, m, c, kind = CASES[case]
    images, texts = embeddings(n, m)
    Q = activations(n, c, kind)
    P = images @ texts.T
    expected = torch.from_numpy(getattr(twins, name)(P.double().numpy(), Q.double().numpy()))
    given: Tensor | ConceptActivations = P.T.contiguous().T if form == "transposed matrix" else P
    if form in ("embeddings", "kept"):
        keep = 4 * P.numel() if form == "kept" else 0
        given = ConceptActivations.from_embeddings(images, texts, keep=keep)

    scores = getattr(similarity, name)(given, Q)

    assert scores.dtype == torch.float32
    assert scores.shape == (c, m)
    assert scores.isfinite().all()
    assert (scores - expected).abs().max() <= TOLERANCE


@pytest.mark.parametrize("a", [40.0, -40.0])
@pytest.mark.parametrize("name", ["wpmi", "soft_wpmi"])
def test_constants_can_be_changed(name: str, a: float, compiled: bool) -> None:
    images, texts = embeddings(80, 20)
    P, Q = images @ texts.T, activations(80, 5, "plain")
    expected = getattr(twins, name)(P.double().numpy(), Q.double().numpy(), top_k=13, a=a, lam=0.3)
    scores = getattr(similarity, name)(P, Q, top_k=13, a=a, lam=0.3)
    assert (scores - torch.from_numpy(expected)).abs().max() <= TOLERANCE


@pytest.mark.parametrize("a", [100.0, 1000.0])
@pytest.mark.parametrize("name", ["wpmi", "soft_wpmi"])
def test_where_the_softmax_is_a_spike(name: str, a: float, compiled: bool) -> None:
    """A hundred factors of up to 500 and down to 1e-7 do not fit float32: the products are cut."""
    images, texts = embeddings(200, 30)
    P, Q = images @ texts.T, activations(200, 5, "plain")
    expected = torch.from_numpy(getattr(twins, name)(P.double().numpy(), Q.double().numpy(), a=a))
    scores = getattr(similarity, name)(P, Q, a=a)
    # At a = 1000 the exponent itself, of about 500, has lost four digits.
    assert (scores - expected).abs().max() <= TOLERANCE * a / 10


def test_products_stay_within_float32() -> None:
    factors = pmi._Factors([0.5] * 9 + [1e-6] * 9, [2.0] * 9 + [1e6] * 9, smallest=1e-6, largest=1.0)
    groups = factors.groups()
    assert [r for group in groups for r in group] == list(range(18))
    for group in groups:
        for s in (factors.smallest, 0.02, factors.largest):
            product = math.prod(factors.rest[r] + factors.ratio[r] * s for r in group)
            assert 1.2e-38 < product < 3.4e38
    assert 2 <= len(groups) < 6
    assert pmi._Factors([0.98] * 100, [0.02] * 100, smallest=0.3, largest=2.0).groups() == [range(100)]


def test_certain_membership_does_not_underflow(compiled: bool) -> None:
    # With p_r = 1 a factor can be as small as min_prob.
    images, texts = embeddings(200, 30)
    P, Q = images @ texts.T, activations(200, 5, "plain")
    ones = similarity.soft_wpmi(P, Q, p_start=1.0, p_end=1.0, a=60.0, lam=0.6)
    same = similarity.wpmi(P, Q, top_k=100, a=60.0, lam=0.6)
    assert ones.isfinite().all()
    torch.testing.assert_close(ones, same, atol=1e-3, rtol=0)


def test_rank_reorder_breaks_ties_of_the_concept_by_image(compiled: bool) -> None:
    g = torch.Generator().manual_seed(0)
    P = torch.randint(0, 3, (200, 15), generator=g) / 10  # columns full of ties, some top means near zero
    P[:, 3] = 0.2  # constant column
    P[:, 4] = -0.1  # negative mean
    Q = activations(200, 6, "ties")
    expected = twins.rank_reorder(P.double().numpy(), Q.double().numpy(), top_fraction=0.2)
    scores = similarity.rank_reorder(P, Q, top_fraction=0.2)
    assert scores.isfinite().all()
    torch.testing.assert_close(scores.double(), torch.from_numpy(expected), atol=TOLERANCE, rtol=1e-5)


def test_rank_reorder_with_64_bit_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    assert reorder._key_type(20 + 11) == torch.int32
    assert reorder._key_type(20 + 16) == torch.int64  # 2^20 images, 5 % of them
    images, texts = embeddings(300, 20)
    P, Q = images @ texts.T, activations(300, 6, "plain")
    narrow = similarity.rank_reorder(P, Q)
    monkeypatch.setattr(reorder, "_key_type", lambda bits: torch.int64)
    torch.testing.assert_close(similarity.rank_reorder(P, Q), narrow, atol=0, rtol=0)


def test_rank_reorder_prefers_the_concept_in_the_unit_s_order() -> None:
    images, texts = embeddings(400, 25)
    P = images @ texts.T
    Q = P[:, [3, 11, 20]] ** 3
    assert similarity.rank_reorder(P, Q).argmax(1).tolist() == [3, 11, 20]


@pytest.mark.parametrize("form", ["matrix", "embeddings"])
@pytest.mark.parametrize(
    ("name", "compiled"),
    [(name, way) for name in NAMES for way in ([False, True] if name in COMPILED else [False])],
    indirect=["compiled"],
)
def test_the_cut_into_blocks_changes_nothing(
    name: str, compiled: bool, form: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    images, texts = embeddings(200, 150, 32)
    Q = activations(200, 25, "ties")

    def score() -> Tensor:
        given = images @ texts.T if form == "matrix" else ConceptActivations.from_embeddings(images, texts)
        result: Tensor = getattr(similarity, name)(given, Q)
        return result

    whole = score()
    threads = torch.get_num_threads()
    try:
        for budget, grain in ((1 << 16, 997), (1 << 13, 64), (1 << 30, 1 << 30)):
            monkeypatch.setattr(_blocks, "CPU_BLOCK_BYTES", budget)
            monkeypatch.setattr(_blocks, "CPU_GRAIN", grain)
            torch.set_num_threads(1 if grain == 64 else threads)
            other = score()
            # A matrix product may round differently with its shape; 100 factors carry that into the fifth
            # digit.
            torch.testing.assert_close(other, whole, atol=5e-5, rtol=2e-6)
            assert torch.equal(other.argmax(1), whole.argmax(1))
    finally:
        torch.set_num_threads(threads)


@pytest.mark.parametrize("name", ["wpmi", "soft_wpmi"])
def test_the_prior_is_the_layer_s(name: str) -> None:
    """A unit's score depends on its layer; half a layer scored with the layer's prior gives the same rows."""
    images, texts = embeddings(200, 40)
    P, Q = images @ texts.T, activations(200, 30, "plain")
    lam = 1.0 if name == "soft_wpmi" else 0.6
    evidence: Callable[..., similarity.Evidence] = getattr(similarity, f"{name}_evidence")
    top, _ = top_images(Q, 28)
    whole = evidence(P, top)
    half = evidence(P, top[:, :15])
    expected = whole.scores(lam)
    torch.testing.assert_close(half.scores(lam, whole.log_prior()), expected[:15], atol=1e-5, rtol=1e-6)
    assert (half.scores(lam) - expected[:15]).abs().max() > 1e-2


def test_the_order_of_saturated_scores_is_that_of_exact_arithmetic() -> None:
    # Ten units of which each alone stands for many concepts: in float32 their scores all come to log 10.
    generator = torch.Generator().manual_seed(0)
    values = torch.randn(10, 300, generator=generator, dtype=torch.float64) * 30
    evidence = similarity.Evidence(values.float(), 0.0)
    scores = evidence.scores(1.0)
    level = (scores > scores.amax(1, keepdim=True) - 1e-4).sum(1)
    assert int(level.min()) > 5
    from fractions import Fraction
    from math import exp

    given = evidence.values.double()
    for unit in range(10):
        # log C - log(1 + r) falls with r = sum_{l != k} exp(E_l - E_k), exactly.
        ratios = [
            sum((Fraction(exp(x)) for x in (given[:, m] - given[unit, m]).tolist()), Fraction(-1))
            for m in range(300)
        ]
        expected = sorted(range(300), key=ratios.__getitem__)[:20]
        assert evidence.order(1.0)[unit].argsort(descending=True)[:20].tolist() == expected
    assert torch.equal(evidence.order(0.6), evidence.scores(0.6))


@pytest.mark.parametrize("name", ["wpmi", "soft_wpmi", "rank_reorder"])
def test_from_top_images_equals_from_activations(name: str) -> None:
    images, texts = embeddings(200, 40)
    P, Q = ConceptActivations.from_embeddings(images, texts), activations(200, 30, "ties")
    k = {"wpmi": 28, "soft_wpmi": 100, "rank_reorder": 10}[name]
    top, values = top_images(Q, k)
    expected = getattr(similarity, name)(P, Q)
    if name == "rank_reorder":
        assert torch.equal(similarity.rank_reorder_from_top(P, top, values), expected)
    else:
        evidence: Callable[..., similarity.Evidence] = getattr(similarity, f"{name}_evidence")
        assert torch.equal(evidence(P, top).scores(1.0 if name == "soft_wpmi" else 0.6), expected)


@pytest.mark.parametrize("name", NAMES)
def test_order_of_units_and_half_precision_inputs(name: str) -> None:
    images, texts = embeddings(150, 40)
    P, Q = images @ texts.T, activations(150, 12, "ties")
    function = getattr(similarity, name)
    scores = function(P, Q)
    order = torch.randperm(12, generator=torch.Generator().manual_seed(3))
    torch.testing.assert_close(function(P, Q[:, order]), scores[order], atol=1e-5, rtol=1e-5)
    # The values are exact in fp16, so nothing may change; float64 and integers are taken as well.
    torch.testing.assert_close(function(P, Q.half()), scores, atol=1e-6, rtol=1e-6)
    torch.testing.assert_close(function(P, Q.double()), scores, atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("a", [2.0, 1000.0])
@pytest.mark.parametrize("name", ["wpmi_evidence", "soft_wpmi_evidence"])
def test_an_image_without_numbers_is_lost_to_its_units_alone(name: str, a: float, compiled: bool) -> None:
    images, texts = embeddings(150, 20)
    P = images @ texts.T
    top = torch.stack([torch.arange(100), torch.arange(50, 150), torch.arange(149, 49, -1)], dim=1)
    expected = getattr(similarity, name)(P, top, a=a).values
    P[4, 7] = torch.nan  # an image of the first unit
    values = getattr(similarity, name)(P, top, a=a).values
    assert values[0].isnan().all()  # the softmax of that image has no value for any concept
    torch.testing.assert_close(values[1:], expected[1:], atol=1e-3, rtol=1e-5)


@pytest.mark.parametrize("a", [10.0, 1000.0])
@pytest.mark.parametrize("form", ["matrix", "embeddings"])
@pytest.mark.parametrize("name", ["wpmi_evidence", "soft_wpmi_evidence"])
def test_threads_and_history_change_no_bit(name: str, form: str, a: float, compiled: bool) -> None:
    images, texts = embeddings(900, 1301)
    top, _ = top_images(activations(900, 25, "plain"), 100)
    few = top[:, :2]

    def given() -> ConceptActivations:
        if form == "matrix":
            return ConceptActivations.from_matrix(images @ texts.T)
        return ConceptActivations.from_embeddings(images, texts)

    evidence = getattr(similarity, name)
    found = []
    threads = torch.get_num_threads()
    try:
        for number in (1, 2, 3, 8):
            torch.set_num_threads(number)
            found.append(evidence(given(), top, a=a).values)
    finally:
        torch.set_num_threads(threads)
    P = given()
    evidence(P, few, a=a)  # a part of the normalisers is known
    found.append(evidence(P, top, a=a).values)
    # Alone, torch multiplies on its own threads where ours would have one each.
    for other in found[2:] if form == "embeddings" else found[1:]:
        assert torch.equal(other, found[1 if form == "embeddings" else 0])


@pytest.mark.parametrize("name", ["wpmi", "soft_wpmi"])
def test_nan_activations_count_as_the_lowest(name: str) -> None:
    images, texts = embeddings(300, 20)
    P, Q = images @ texts.T, activations(300, 4, "plain")
    Q[5, 0] = torch.nan
    low = Q.clone()
    low[5, 0] = -1e9
    function = getattr(similarity, name)
    assert torch.equal(function(P, Q), function(P, low))


@pytest.mark.parametrize("name", NAMES)
def test_inputs_are_left_alone_and_gradients_ignored(name: str) -> None:
    images, texts = embeddings(60, 20)
    P = (images @ texts.T).requires_grad_()
    Q = activations(60, 4, "plain").requires_grad_()
    before = P.detach().clone(), Q.detach().clone()
    scores = getattr(similarity, name)(P, Q)
    assert not scores.requires_grad
    assert torch.equal(P.detach(), before[0])
    assert torch.equal(Q.detach(), before[1])


def test_a_planted_layer_gets_its_labels() -> None:
    """Every image shows one of 30 concepts, every unit fires on the images of one of them, with noise."""
    g = torch.Generator().manual_seed(5)
    _, texts = embeddings(1, 30, 48)
    shown = torch.randint(0, 30, (2000,), generator=g)
    images = texts[shown] + 0.12 * torch.randn(2000, 48, generator=g)
    P = ConceptActivations.from_embeddings(torch.nn.functional.normalize(images, dim=1), texts)
    wired = torch.randint(0, 30, (64,), generator=g)
    Q = ((shown[:, None] == wired) * 2.0 + 0.4 * torch.randn(2000, 64, generator=g)).relu()
    for name in NAMES:
        labels = getattr(similarity, name)(P, Q).argmax(1)
        share = (labels == wired).float().mean()
        # The weakest two are known to be weak (CLIP-Dissect, table 3); the default has to find nearly all.
        assert share >= (0.9 if name not in ("cos", "rank_reorder") else 0.5), name


@pytest.mark.parametrize("a", [10.0, -10.0])
@pytest.mark.parametrize("form", ["matrix", "embeddings"])
def test_the_softmax_s_normaliser_and_range(
    form: str, a: float, compiled: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_blocks, "CPU_GRAIN", 64)  # several tiles
    images, texts = embeddings(70, 1100)
    softmax = twins.softmax_rows(a, (images @ texts.T).double().numpy())
    expected = torch.logsumexp(a * (images @ texts.T).double(), 1)
    P = ConceptActivations.from_embeddings(images, texts)
    if form == "matrix":
        P = ConceptActivations.from_matrix(images @ texts.T)
    some = torch.tensor([3, 4, 60])
    torch.testing.assert_close(P.log_normaliser(a, some).double(), expected[some], atol=1e-5, rtol=0)
    torch.testing.assert_close(P.log_normaliser(a).double(), expected, atol=1e-5, rtol=0)
    chosen = P.select(some)
    for selected in (chosen.select(torch.tensor([1, 2])), P.select(some[1:])):
        torch.testing.assert_close(selected.log_normaliser(a).double(), expected[some[1:]], atol=1e-5, rtol=0)
    low, high = P.softmax_range(a, some)
    assert low == pytest.approx(softmax[some].min(), rel=1e-4)
    assert high == pytest.approx(softmax[some].max(), rel=1e-4)
    assert P.softmax_range(a) == pytest.approx((softmax.min(), softmax.max()), rel=1e-4)


def test_the_normaliser_is_kept_and_can_be_given(monkeypatch: pytest.MonkeyPatch) -> None:
    images, texts = embeddings(70, 30)
    P = ConceptActivations.from_embeddings(images, texts)
    values = P.log_normaliser(10.0)
    # The softmax is over all 30 concepts, though only three are asked for.
    some = ConceptActivations.from_embeddings(images, texts[:3], log_normalisers={10.0: values})
    assert torch.equal(some.log_normaliser(10.0), values)
    shares = torch.softmax(10.0 * images @ texts.T, 1)[:, :3]
    assert some.softmax_range(10.0) == pytest.approx((shares.min().item(), shares.max().item()), rel=1e-4)
    monkeypatch.setattr(ConceptActivations, "_row_sums", None)  # nothing is computed again
    assert torch.equal(P.log_normaliser(10.0), values)
    assert torch.equal(P.log_normaliser(10.0, torch.tensor([5, 7])), values[[5, 7]])


@pytest.mark.parametrize("name", NAMES)
def test_images_that_do_not_match_are_an_error(name: str) -> None:
    images, texts = embeddings(60, 20)
    with pytest.raises(InputError, match="60 images"):
        getattr(similarity, name)(images @ texts.T, activations(59, 4, "plain"))


def test_embeddings_of_two_encoders_are_an_error() -> None:
    with pytest.raises(InputError, match="same encoder"):
        ConceptActivations.from_embeddings(torch.ones(3, 4), torch.ones(2, 5))
    with pytest.raises(InputError, match="no images or no concepts"):
        ConceptActivations.from_embeddings(torch.ones(3, 4), torch.ones(0, 4))
    with pytest.raises(InputError, match="top images"):
        similarity.soft_wpmi_evidence(torch.rand(4, 3), torch.tensor([[0], [4]]))


@pytest.mark.gpu
@pytest.mark.parametrize("name", NAMES)
def test_same_scores_on_a_gpu(name: str) -> None:
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    images, texts = embeddings(900, 300, 64)
    Q = activations(900, 40, "ties")
    function = getattr(similarity, name)
    here = function(ConceptActivations.from_embeddings(images, texts), Q)
    there = function(ConceptActivations.from_embeddings(images.cuda(), texts.cuda()), Q.cuda())
    assert there.is_cuda
    torch.testing.assert_close(there.cpu(), here, atol=TOLERANCE, rtol=1e-5)


def test_powers_of_two_of_the_compiled_loops() -> None:
    import numpy as np

    from concept_monitor_cli.functional import _kernels

    x = np.linspace(-126, 126.4, 200_001).astype(np.float32)
    found = np.array([_kernels._exp2(value) for value in x[::40]])
    np.testing.assert_allclose(found, np.exp2(x[::40].astype(np.float64)), rtol=1.2e-7)
    assert _kernels._exp2(np.float32(-1e30)) == np.float32(2.0**-126)
    assert np.isnan(_kernels._exp2(np.float32(np.nan)))
    # The coefficients, computed again.
    nodes = np.cos((np.arange(7) + 0.5) / 7 * np.pi) / 2
    fitted = np.polynomial.polynomial.polyfit(nodes, np.exp2(nodes), 6)
    given = [getattr(_kernels, f"_C{i}") for i in range(7)]
    np.testing.assert_allclose(given, fitted, rtol=1e-7)


MODULES = (
    "_blocks similarity.pmi similarity.cosine similarity.reorder similarity.reorder_chance "
    "similarity.activations topk calibration embedding"
)


@pytest.mark.parametrize("module", MODULES.split())
def test_examples_in_the_docstrings_run(module: str) -> None:
    import doctest
    import importlib

    found = importlib.import_module(f"concept_monitor_cli.functional.{module}")
    result = doctest.testmod(found)
    assert result.attempted > 0
    assert result.failed == 0


def test_threads_of_torch_are_left_as_they_were() -> None:
    """Worker threads run torch on one thread each; the caller's setting, and what later threads get, stay."""
    before = torch.get_num_threads()
    inside: list[int] = []
    try:
        torch.set_num_threads(3)
        _blocks.run_blocks(lambda part: inside.append(torch.get_num_threads()), _blocks.spans(6, 1), CPU)
        with ThreadPoolExecutor(1) as later:
            assert later.submit(torch.get_num_threads).result() == 3
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(before)
    assert inside == [1] * 6


def test_workers_are_kept_and_outlive_an_error() -> None:
    before = torch.get_num_threads()
    seen: set[int] = set()

    def note(part: slice) -> None:
        seen.add(threading.get_ident())
        if part.start == 1:
            raise ValueError("block 1")

    try:
        torch.set_num_threads(3)
        for _ in range(4):
            with pytest.raises(ValueError, match="block 1"):
                _blocks.run_blocks(note, _blocks.spans(6, 1), CPU)
            _blocks.run_blocks(lambda part: seen.add(threading.get_ident()), _blocks.spans(2, 1), CPU)
    finally:
        torch.set_num_threads(before)
    assert 1 <= len(seen) <= 3
    assert threading.get_ident() not in seen


def test_an_error_in_a_block_is_raised() -> None:
    def fail(part: slice) -> None:
        if part.start == 2:
            raise ValueError("block 2")

    before = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        with pytest.raises(ValueError, match="block 2"):
            _blocks.run_blocks(fail, _blocks.spans(6, 1), CPU)
    finally:
        torch.set_num_threads(before)
