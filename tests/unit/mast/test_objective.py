"""The objective against loops and against an independent VICReg, in float64, forward and gradients."""

import math

import pytest
import torch
from torch.utils.checkpoint import checkpoint

from mast.objective import (
    Weights,
    certainty_weights,
    closedness,
    contrast,
    covariance,
    hinge_weights,
    masked,
    prediction,
    pressure,
    relative,
    sensitivity,
    subspace_masks,
    variance_per_dimension,
    vicreg,
)

B, D, K = 12, 7, 4


def _independent_vicreg(x, y):
    """VICReg as the paper's equations 1 to 6 read, with numbers in loops."""
    n, d = x.shape
    invariance = sum((x[i, j] - y[i, j]) ** 2 for i in range(n) for j in range(d)) / (n * d)
    total = 25.0 * invariance
    for z in (x, y):
        mean = [sum(z[i, j] for i in range(n)) / n for j in range(d)]
        cov = [
            [sum((z[i, a] - mean[a]) * (z[i, b] - mean[b]) for i in range(n)) / (n - 1) for b in range(d)]
            for a in range(d)
        ]
        hinge = sum(torch.relu(1 - torch.sqrt(cov[j][j] + 1e-4)) for j in range(d)) / d
        off = sum(cov[a][b] ** 2 for a in range(d) for b in range(d) if a != b) / d
        total = total + 25.0 * hinge / 2 + 1.0 * off
    return total


def _data(seed=0, requires_grad=True):
    g = torch.Generator().manual_seed(seed)
    z1 = (0.5 * torch.randn(B, D, generator=g, dtype=torch.float64)).requires_grad_(requires_grad)
    z2 = (0.5 * torch.randn(B, D, generator=g, dtype=torch.float64)).requires_grad_(requires_grad)
    logits = torch.randn(K, D, generator=g, dtype=torch.float64).requires_grad_(requires_grad)
    single = torch.arange(B) % 2 == 0
    differs = torch.ones(B, K, dtype=torch.bool)
    differs[single] = torch.nn.functional.one_hot(torch.arange(B) % K, K).bool()[single]
    v1 = torch.rand(B, D, generator=g, dtype=torch.float64).requires_grad_(requires_grad)
    v2 = torch.rand(B, D, generator=g, dtype=torch.float64).requires_grad_(requires_grad)
    return z1, z2, differs, single, logits, (v1, v2)


def test_vicreg_equals_an_independent_implementation():
    z1, z2, *_ = _data()
    ours = torch.autograd.grad(vicreg(z1, z2, Weights()).total, (z1, z2))
    theirs = torch.autograd.grad(_independent_vicreg(z1, z2), (z1, z2))
    torch.testing.assert_close(
        vicreg(z1, z2, Weights()).total, _independent_vicreg(z1, z2), atol=0, rtol=1e-12
    )
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, atol=1e-12, rtol=1e-10)


def test_open_masks_without_uncertainty_are_vicreg():
    z1, z2, differs, single, logits, _ = _data()
    loss = masked(z1, z2, differs, single, torch.zeros_like(logits), Weights())
    torch.testing.assert_close(loss.total, vicreg(z1, z2, Weights()).total, atol=0, rtol=1e-14)
    for a, b in zip(
        torch.autograd.grad(loss.total, (z1, z2)),
        torch.autograd.grad(vicreg(z1, z2, Weights()).total, (z1, z2)),
        strict=True,
    ):
        torch.testing.assert_close(a, b, atol=1e-15, rtol=1e-12)


def _naive_masked(z1, z2, differs, single, masks, weights, variances):
    """The masked objective, equation by equation, in loops."""
    d = z1.shape[1]
    v = [[max(float(variances[0][i, j] + variances[1][i, j]), 0.05) for j in range(d)] for i in range(B)]
    inverse_mean = [sum(1 / v[i][j] for i in range(B)) / B for j in range(d)]
    invariance, uncertainty = 0.0, 0.0
    share = [0.0] * d
    for i in range(B):
        keep = [math.prod(float(masks[k, j]) for k in range(K) if differs[i, k]) for j in range(d)]
        top = 0.0
        for j in range(d):
            squared = float(z1[i, j] - z2[i, j]) ** 2
            certainty = min(max(1 / v[i][j] / inverse_mean[j], weights.clip[0]), weights.clip[1])
            top += keep[j] * certainty * squared
            uncertainty += (squared / v[i][j] + math.log(v[i][j])) / (B * d)
            share[j] += keep[j] / sum(keep) / B
        invariance += top / (sum(keep) if single[i] else max(sum(keep), d / 4)) / B
    hinge, cov = 0.0, 0.0
    for z in (z1, z2):
        for j, value in enumerate(variance_per_dimension(z).tolist()):
            hinge += value * (0.5 / d + 0.5 * share[j]) / 2
        cov += float(covariance(z))
    opened = sum(1 - float(masks[k, j]) for k in range(K) for j in range(d)) / (K * d)
    both = sum(
        (1 - float(masks[a, j])) * (1 - float(masks[b, j]))
        for a in range(K)
        for b in range(K)
        for j in range(d)
        if a != b
    ) / (K * (K - 1) * d)
    held = weights.open * opened + weights.overlap * both
    return 25 * invariance + 25 * hinge + cov + held + uncertainty


def test_masked_equals_loops():
    z1, z2, differs, single, logits, variances = _data(requires_grad=False)
    weights = Weights(open=0.7, overlap=0.3)
    log_masks = torch.nn.functional.logsigmoid(logits)
    loss = masked(z1, z2, differs, single, log_masks, weights, variances).plus(pressure(log_masks, weights))
    want = _naive_masked(z1, z2, differs, single, torch.sigmoid(logits), weights, variances)
    assert float(loss.total) == pytest.approx(want, rel=1e-12)


def test_gradients_are_those_of_finite_differences():
    """Where nothing is detached: all pairs single, no uncertainty, the hinge spread evenly."""
    z1, z2, differs, _, logits, _ = _data()
    weights = Weights(hinge_by_mask=0.0)
    everything = torch.ones(B, dtype=torch.bool)

    def loss(a, b, m):
        return masked(a, b, differs, everything, torch.nn.functional.logsigmoid(m), weights).total

    assert torch.autograd.gradcheck(loss, (z1, z2, logits))


def test_only_single_pairs_teach_the_masks():
    _z1, _z2, differs, single, logits, _ = _data()
    log_masks = torch.nn.functional.logsigmoid(logits)
    keep = subspace_masks(differs, single, log_masks)
    (gradient,) = torch.autograd.grad(keep[~single].sum(), logits, retain_graph=True)
    assert (gradient == 0).all()
    (gradient,) = torch.autograd.grad(keep[single].sum(), logits)
    taught = differs[single].any(0)
    assert (gradient[taught] != 0).all()


def test_uncertainty_teaches_only_the_variance_head_and_leaves_the_scale():
    z1, z2, differs, single, logits, variances = _data()
    loss = masked(z1, z2, differs, single, logits, Weights(), variances)
    (gradient,) = torch.autograd.grad(
        loss.parts["invariance"], variances[0], allow_unused=True, retain_graph=True
    )
    assert gradient is None
    assert torch.autograd.grad(loss.parts["uncertainty"], z1, allow_unused=True, retain_graph=True) == (None,)
    weights = certainty_weights(torch.rand(500, D) + 0.2, (0.1, 10.0))
    torch.testing.assert_close(weights.mean(0), torch.ones(D), atol=1e-5, rtol=0)


def test_the_likelihood_is_smallest_at_the_squared_difference():
    squared = torch.tensor([[0.3, 2.0]], dtype=torch.float64)
    v = squared.clone().requires_grad_()
    from mast.objective import likelihood

    (gradient,) = torch.autograd.grad(likelihood(squared, v), v)
    torch.testing.assert_close(gradient, torch.zeros_like(v), atol=1e-15, rtol=0)


def test_the_pull_ends_at_the_wanted_mass():
    logits = torch.tensor([[2.0, -2.0], [3.0, 3.0]], dtype=torch.float64, requires_grad=True)
    log_masks = torch.nn.functional.logsigmoid(logits)
    (gradient,) = torch.autograd.grad(pressure(log_masks, Weights(mass=0.6)).total, logits)
    assert (gradient[0] < 0).all()  # its mean is 0.5
    assert (gradient[1] == 0).all()


def test_overlap_is_nothing_for_masks_that_close_on_different_dimensions():
    apart = torch.log(torch.tensor([[1.0, 0.1, 1.0], [1.0, 1.0, 0.1]]))
    same = torch.log(torch.tensor([[1.0, 0.1, 1.0], [1.0, 0.1, 1.0]]))
    weights = Weights(overlap=1.0)
    assert float(pressure(apart, weights).parts["overlap"]) == 0
    assert float(pressure(same, weights).parts["overlap"]) == pytest.approx(0.81 / 3)
    assert "overlap" not in pressure(same, Weights()).parts


def _differences(seed=0):
    """12 differences that isolate the first three of four augmentations; two rows isolate none."""
    g = torch.Generator().manual_seed(seed)
    difference = torch.randn(B, D, generator=g, dtype=torch.float64).requires_grad_()
    isolated = torch.nn.functional.one_hot(torch.arange(B) % 3, K).bool()
    isolated[3] = isolated[7] = False
    logits = torch.randn(K, D, generator=g, dtype=torch.float64).requires_grad_()
    return difference, isolated, logits


def _naive_sensitivity(difference, isolated, closed, target):
    """Equations (9) and (10) in loops: hinge, decorrelation."""
    hinges, together = [], []
    for k in range(K):
        rows = [i for i in range(B) if isolated[i, k]]
        total = sum(float(closed[k, j]) for j in range(D))
        if not rows or total == 0:
            continue
        moment = [
            [sum(float(difference[i, a] * difference[i, b]) for i in rows) / len(rows) for b in range(D)]
            for a in range(D)
        ]
        hinge = sum(float(closed[k, j]) * max(0, target - math.sqrt(moment[j][j] + 1e-4)) for j in range(D))
        off = sum(
            float(closed[k, a] * closed[k, b]) * moment[a][b] ** 2
            for a in range(D)
            for b in range(D)
            if a != b
        )
        hinges.append(hinge / total)
        together.append(off / total)
    return sum(hinges) / len(hinges), sum(together) / len(together)


@pytest.mark.parametrize("nothing_closed", [False, True])
def test_sensitivity_equals_loops(nothing_closed):
    difference, isolated, logits = _differences()
    if nothing_closed:
        with torch.no_grad():
            logits[1] = 3.0
    difference, closed = difference.detach(), closedness(torch.nn.functional.logsigmoid(logits)).detach()
    loss = sensitivity(difference, isolated, closed, Weights(sensitivity=5.0, target=1.2, decorrelation=0.5))
    hinge, together = _naive_sensitivity(difference, isolated, closed, 1.2)
    assert hinge > 0
    assert together > 0
    assert float(loss.parts["sensitivity"]) == pytest.approx(hinge, rel=1e-12)
    assert float(loss.parts["decorrelation"]) == pytest.approx(together, rel=1e-12)
    assert float(loss.total) == pytest.approx(5 * hinge + 0.5 * together, rel=1e-12)


def test_sensitivity_gradients_are_those_of_finite_differences():
    difference, isolated, logits = _differences()
    weights = Weights(sensitivity=5.0, decorrelation=0.5)

    def loss(d, m):
        return sensitivity(d, isolated, closedness(torch.nn.functional.logsigmoid(m)), weights).total

    assert torch.autograd.gradcheck(loss, (0.3 * difference.detach().requires_grad_(), logits))


def test_a_term_of_weight_zero_is_not_there():
    difference, isolated, logits = _differences()
    loss = sensitivity(difference, isolated, closedness(logits), Weights())
    assert loss.parts == {}
    assert float(loss.total.detach()) == 0


def test_without_isolated_pairs_nothing_is_asked():
    difference, isolated, logits = _differences()
    weights = Weights(sensitivity=5.0, decorrelation=1.0)
    closed = closedness(torch.nn.functional.logsigmoid(logits))
    for rows, given in ((slice(0, 0), isolated), (slice(None), torch.zeros_like(isolated))):
        loss = sensitivity(difference[rows], given[rows], closed, weights)
        assert float(loss.total.detach()) == 0
        (gradient,) = torch.autograd.grad(loss.total, difference, retain_graph=True)
        assert (gradient == 0).all()


def test_the_hinge_moves_closed_dimensions_of_its_own_augmentation_only():
    """Half closed is open; where the root mean square is above one nothing is asked any more."""
    logits = torch.full((2, 4), 4.0, dtype=torch.float64)
    logits[0, 0] = logits[0, 1] = logits[1, 2] = -4.0
    logits[0, 3] = 0.0
    difference = torch.full((4, 4), 0.2, dtype=torch.float64)
    difference[:2, 1] = 2.0
    difference.requires_grad_()
    isolated = torch.tensor([[True, False], [True, False], [False, True], [False, True]])
    closed = closedness(torch.nn.functional.logsigmoid(logits))
    loss = sensitivity(difference, isolated, closed, Weights(sensitivity=1.0))
    (gradient,) = torch.autograd.grad(loss.total, difference)
    moved = torch.zeros(4, 4, dtype=torch.bool)
    moved[:2, 0] = moved[2:, 2] = True
    assert ((gradient < 0) == moved).all()
    assert (gradient[~moved] == 0).all()


def test_prediction_equals_loops_and_is_least_at_the_answer():
    g = torch.Generator().manual_seed(1)
    difference = torch.randn(B, D, generator=g, dtype=torch.float64)
    change = torch.randn(B, 3, generator=g, dtype=torch.float64)
    readout = torch.randn(3, D, generator=g, dtype=torch.float64).requires_grad_()
    loss = prediction(difference, change, readout, Weights(prediction=2.0))
    want = sum(
        (sum(float(readout.detach()[q, j] * difference[i, j]) for j in range(D)) - float(change[i, q])) ** 2
        for i in range(B)
        for q in range(3)
    ) / (3 * B)
    assert float(loss.total) == pytest.approx(2 * want, rel=1e-12)
    best = torch.linalg.lstsq(difference, change).solution.T.requires_grad_()
    (gradient,) = torch.autograd.grad(
        prediction(difference, change, best, Weights()).parts["prediction"], best
    )
    torch.testing.assert_close(gradient, torch.zeros_like(gradient), atol=1e-12, rtol=0)
    assert torch.autograd.gradcheck(
        lambda d, w: prediction(d, change, w, Weights(prediction=1.0)).total,
        (difference.requires_grad_(), readout),
    )


def _triples(seed=0):
    """Two views of 6 images and third views of four of them, which isolate augmentations 0, 1, 0 and none."""
    g = torch.Generator().manual_seed(seed)
    z1, z2, third = (torch.randn(n, D, generator=g, dtype=torch.float64) for n in (6, 6, 4))
    rows = torch.tensor([0, 2, 3, 5])
    isolated = torch.zeros(4, K, dtype=torch.bool)
    isolated[0, 0] = isolated[1, 1] = isolated[2, 0] = True
    closed = torch.rand(K, D, generator=g, dtype=torch.float64)
    closed[0, : D // 2] = 0
    return [z.requires_grad_() for z in (z1, z2, third)], rows, isolated, closed


def _naive_contrast(z1, z2, third, rows, isolated, closed, temperature):
    """Equation (12) in loops."""

    def cosine(c, a, b):
        product, left, right = (
            sum(float(c[j] * x[j] * y[j]) for j in range(D)) for x, y in ((a, b), (a, a), (b, b))
        )
        return product / math.sqrt((left + 1e-8) * (right + 1e-8))

    means = []
    for k in range(K):
        losses = []
        for p, row in enumerate(rows.tolist()):
            if isolated[p, k] and closed[k].sum() > 0:
                near = math.exp(cosine(closed[k], z1[row], z2[row]) / temperature)
                far = math.exp(cosine(closed[k], z1[row], third[p]) / temperature)
                images = sum(math.exp(cosine(closed[k], z1[row], z) / temperature) for z in z2)
                losses.append(-math.log(near / (images + far)))
        if losses:
            means.append(sum(losses) / len(losses))
    return sum(means) / len(means)


@pytest.mark.parametrize("nothing_closed", [False, True])
def test_contrast_equals_loops(nothing_closed):
    views, rows, isolated, closed = _triples()
    if nothing_closed:
        closed[1] = 0
    views = [z.detach() for z in views]
    loss = contrast(*views, rows, isolated, closed, Weights(contrast=3.0, temperature=0.3))
    want = _naive_contrast(*views, rows, isolated, closed, 0.3)
    assert want > 0.1
    assert float(loss.parts["contrast"]) == pytest.approx(want, rel=1e-12)
    assert float(loss.total) == pytest.approx(3 * want, rel=1e-12)


def test_contrast_gradients_are_those_of_finite_differences():
    views, rows, isolated, closed = _triples()

    def loss(a, b, c, d):
        return contrast(a, b, c, rows, isolated, d, Weights(contrast=1.0)).total

    assert torch.autograd.gradcheck(loss, (*views, (closed + 0.1).requires_grad_()))


def test_contrast_moves_closed_dimensions_and_parts_what_differs():
    """A step down brings the positive nearer and the third view further away, where the block is and nowhere else."""
    views, rows, isolated, _ = _triples()
    closed = torch.zeros(K, D, dtype=torch.float64)
    closed[0, :3] = 1
    weights = Weights(contrast=1.0)
    before = contrast(*views, rows, isolated, closed, weights).total
    gradients = torch.autograd.grad(before, views)
    for gradient in gradients:
        assert (gradient[:, 3:] == 0).all()
    assert (gradients[2][[0, 2], :3] != 0).all()
    assert (gradients[2][[1, 3]] == 0).all()  # they isolate another augmentation, or none
    z1, z2, third = (z.detach()[:, :3] for z in views)
    toward, away = (torch.nn.functional.cosine_similarity(z1[rows], z, dim=1) for z in (z2[rows], third))
    step_2, step_3 = (z - 1e-3 * g[:, :3] for z, g in zip((z2, third), gradients[1:], strict=True))
    now = [torch.nn.functional.cosine_similarity(z1[rows], z, dim=1) for z in (step_2[rows], step_3)]
    assert (now[1] < away)[[0, 2]].all()
    assert (now[0] - toward)[[0, 2]].sum() > 0


def test_without_triples_nothing_is_contrasted():
    views, rows, isolated, closed = _triples()
    for count, given in ((0, isolated[:0]), (4, torch.zeros_like(isolated))):
        loss = contrast(*views[:2], views[2][:count], rows[:count], given, closed, Weights(contrast=1.0))
        assert float(loss.total.detach()) == 0
        assert all((g == 0).all() for g in torch.autograd.grad(loss.total, views))


def test_relative_differences_have_no_scale():
    g = torch.Generator().manual_seed(0)
    h1, h2 = (torch.randn(B, D, generator=g, dtype=torch.float64) for _ in range(2))
    scale = torch.linspace(10, 30, D, dtype=torch.float64)
    plain = relative(h1 - h2, h1, h2, epsilon=0.0)
    torch.testing.assert_close(relative(scale * (h1 - h2), scale * h1, scale * h2, epsilon=0.0), plain)
    column = [float(value) for value in torch.cat([h1, h2])[:, 2]]
    mean = sum(column) / len(column)
    deviation = math.sqrt(sum((value - mean) ** 2 for value in column) / (len(column) - 1) + 1e-4)
    ours = relative(h1 - h2, h1, h2)
    assert float(ours[4, 2]) == pytest.approx(float(h1[4, 2] - h2[4, 2]) / deviation, rel=1e-12)
    assert torch.autograd.gradcheck(
        lambda a, b: relative(a - b, a, b), (h1.requires_grad_(), h2.requires_grad_())
    )


def test_hinge_weights_sum_to_one():
    keep = torch.rand(B, D, dtype=torch.float64)
    for share in (0.0, 0.5, 1.0):
        assert float(hinge_weights(keep, share).sum()) == pytest.approx(1.0)


@pytest.mark.parametrize("uncertain", [False, True])
def test_memory_beyond_vicregs(monkeypatch, uncertain):
    """Kept for the gradient: VICReg's tensors, the masks and hinge weights, and two (B, D) for uncertainty."""
    rows, dims, count = 64, 48, 5
    g = torch.Generator().manual_seed(0)
    z1, z2 = (torch.randn(rows, dims, generator=g, requires_grad=True) * 1 for _ in range(2))
    variances = tuple(torch.rand(rows, dims, generator=g, requires_grad=True) * 1 for _ in range(2))
    logits = torch.randn(count, dims, generator=g, requires_grad=True)
    differs = torch.rand(rows, count, generator=g) < 0.5
    single = differs.sum(1) == 1

    def kept(compute):
        storages = {}

        def keep(value):
            if isinstance(value, torch.Tensor) and value.is_floating_point():
                storages[value.untyped_storage().data_ptr()] = value.untyped_storage().nbytes() // 4
            return value

        def held(function, *arguments, **options):
            for argument in arguments:  # torch's checkpoint keeps what it is given
                for value in argument if isinstance(argument, tuple) else (argument,):
                    keep(value)
            return checkpoint(function, *arguments, **options)

        monkeypatch.setattr("mast.objective.checkpoint", held)
        with torch.autograd.graph.saved_tensors_hooks(keep, lambda value: value):
            loss = compute()
        assert loss.total.requires_grad
        return sum(storages.values())

    base = kept(lambda: vicreg(z1, z2, Weights()))
    log_masks = torch.nn.functional.logsigmoid(logits)
    ours = kept(
        lambda: masked(z1, z2, differs, single, log_masks, Weights(), variances if uncertain else None)
    )
    stated = (count + 1) * dims + (2 * rows * dims if uncertain else 0)
    scalars = 16
    assert base > 2 * rows * dims
    assert ours <= base + stated + scalars


@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e3])
def test_finite_in_bfloat16_ranges(scale):
    z1, z2, differs, single, logits, variances = _data()
    half = [scale * t.detach().bfloat16().float() for t in (z1, z2)]
    log_masks = torch.nn.functional.logsigmoid(20 * logits.detach().float())
    loss = masked(*half, differs, single, log_masks, Weights(), tuple(v.detach().float() for v in variances))
    assert torch.isfinite(loss.total)
